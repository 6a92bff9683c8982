//! 3.12 and 3.13: PINGREQ and PINGRESP.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![case!(every_pingreq_is_answered, "MQTT5-3.12.4-1")]
}

fn every_pingreq_is_answered(target: &Target) {
    let mut client = Raw::clean(target.port, V5, "every_pingreq_is_answered");
    for _ in 0..3 {
        client.send_hex("c0 00");
        client.expect(&[0xD0, 0]);
    }
    client.send_hex("c0 00 c0 00");
    client.expect(&[0xD0, 0]);
    client.expect(&[0xD0, 0]);
}
