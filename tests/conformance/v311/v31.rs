//! MQTT 3.1 (`MQIsdp`, level 3) as it is met in the field.

use super::*;

const V31: Version = Version::V31;

pub fn cases() -> Vec<Case> {
    vec![
        case!(mqisdp_is_served),
        case!(a_session_is_resumed_without_a_word),
        case!(versions_meet_in_one_session),
        case!(a_will_works),
        case!(repetitions_carry_dup),
    ]
}

fn mqisdp_is_served(target: &Target) {
    let me = "v31-mqisdp_is_served";
    let mut raw = Raw::begin(target.port, &Connect::new(V31, me));
    raw.expect(&[0x20, 2, 0, 0]);
    raw.subscribe(me, 2);
    for qos in 0..3u8 {
        raw.publish(me, qos, &[qos]);
        assert_eq!(raw.take_message(me, &[qos]).qos, qos);
    }
    raw.send(&Subscribe::new(V31, 4).filter(me, 0).undo());
    raw.expect_unsuback(4, &[]);
    raw.expect_nothing();
    raw.leave();
}

/// The first byte of CONNACK is reserved in 3.1: there is no session present.
fn a_session_is_resumed_without_a_word(target: &Target) {
    let me = "v31-a_session_is_resumed_without_a_word";
    let lasting = Connect::new(V31, me).resume();
    let (mut client, ..) = Raw::open(target.port, &lasting);
    client.subscribe(me, 1);
    client.leave();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"kept");
    let mut client = Raw::begin(target.port, &lasting);
    client.expect(&[0x20, 2, 0, 0]);
    client.take_message(me, b"kept");
}

fn versions_meet_in_one_session(target: &Target) {
    let me = "v31-versions_meet_in_one_session";
    let (mut client, ..) = Raw::open(target.port, &Connect::new(V31, me).resume());
    client.subscribe(me, 1);
    client.leave();
    let (mut client, present) = open(target, &lasting(me));
    assert!(present);
    client.publish(me, 1, b"p");
    client.take_message(me, b"p");
}

fn a_will_works(target: &Target) {
    let me = "v31-a_will_works";
    let (mut subscriber, _publisher) = pair(target, me, me, 1);
    Raw::open(target.port, &Connect::new(V31, me).will(Will::new(me, b"gone").qos(1))).0.drop_connection();
    subscriber.take_message(me, b"gone");
}

/// PUBREL, SUBSCRIBE and UNSUBSCRIBE are repeated with DUP in 3.1.
fn repetitions_carry_dup(target: &Target) {
    let me = "v31-repetitions_carry_dup";
    let mut raw = Raw::clean(target.port, V31, me);
    let again = |mut packet: Vec<u8>| {
        packet[0] |= 8;
        packet
    };
    raw.send(&again(Subscribe::new(V31, 4).filter(me, 1).packet()));
    raw.expect_suback(4, &[1]);
    raw.send(&Publish::new(V31, &format!("{me}/x"), b"p").qos(2, 5).packet());
    raw.expect_ack(Ack::Pubrec, 5, 0);
    raw.send(&again(packet::ack(Ack::Pubrel, 5)));
    raw.expect_ack(Ack::Pubcomp, 5, 0);
    raw.send(&again(Subscribe::new(V31, 4).filter(me, 0).undo()));
    raw.expect_unsuback(4, &[]);
}
