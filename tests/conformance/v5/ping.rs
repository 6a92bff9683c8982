//! 3.12 and 3.13: PINGREQ and PINGRESP; 4.2: network connections.

use forebay_tests::device::Wire;
use forebay_tests::link::Endpoint;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![case!(every_pingreq_is_answered, "MQTT5-3.12.4-1"), case!(tcp_and_tls_are_served, "MQTT5-4.2.0-1")]
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

fn tcp_and_tls_are_served(target: &Target) {
    for endpoint in [Endpoint::tcp(target.port), Endpoint::tls(target.tls_port, &target.ca)] {
        let (mut wire, present) = Wire::open(&endpoint, V5, "tcp_and_tls").unwrap();
        wire.send(&packet::subscribe(V5, 1, "tcp_and_tls", 0)).unwrap();
        assert_eq!(wire.answer().unwrap(), Packet::Suback(1, vec![0], Vec::new()));
        // Larger than a TLS record, byte by byte in order.
        let payload: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        wire.send(&packet::publish(V5, false, 0, 0, "tcp_and_tls", &payload)).unwrap();
        assert!(matches!(wire.answer().unwrap(), Packet::Publish(message) if message.payload == payload));
        wire.send(&build::disconnect(0, &[Property::SessionExpiry(0)])).unwrap();
        assert!(!present && wire.answer().is_err());
    }
}
