//! 1.5: strings, integers, pairs; 2.1 and 2.2: headers, identifiers, property lengths.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(ill_formed_utf8_is_malformed, "MQTT5-1.5.4-1"),
        case!(u_0000_is_malformed, "MQTT5-1.5.4-2", "MQTT5-4.7.3-2"),
        case!(a_byte_order_mark_is_a_character, "MQTT5-1.5.4-3"),
        case!(integers_are_written_short_and_read_short, "MQTT5-1.5.5-1"),
        case!(both_strings_of_a_pair_are_checked, "MQTT5-1.5.7-1"),
        case!(
            reserved_flags_are_malformed,
            "MQTT5-2.1.3-1",
            "MQTT5-3.6.1-1",
            "MQTT5-3.8.1-1",
            "MQTT5-3.10.1-1",
            "MQTT5-3.14.1-1",
            "MQTT5-3.15.1-1"
        ),
        case!(packets_of_the_server_end_the_connection, "MQTT5-4.13.1-1"),
        case!(a_packet_without_properties_says_so, "MQTT5-2.2.2-1"),
        case!(acks_carry_the_identifier_of_what_they_acknowledge, "MQTT5-2.2.1-5", "MQTT5-2.2.1-6"),
        case!(identifiers_of_the_broker_are_unused_and_not_zero, "MQTT5-2.2.1-4", "MQTT5-4.3.2-1", "MQTT5-4.3.3-1"),
        case!(qos_0_has_no_identifier, "MQTT5-2.2.1-2", "MQTT5-4.3.1-1"),
    ]
}

/// The packet ends its sender's connection with this reason.
#[track_caller]
fn ends(target: &Target, me: &str, packet: &[u8], reason: u8) {
    let mut client = clean(target, me);
    client.send(packet);
    client.expect_disconnect(reason);
}

fn raw_publish(topic: &[u8], properties: &[u8]) -> Vec<u8> {
    packet::frame(0x30, [packet::binary(topic), vec![properties.len() as u8], properties.to_vec()].concat())
}

fn ill_formed_utf8_is_malformed(target: &Target) {
    let me = "ill_formed_utf8";
    // A lone continuation byte, an overlong slash, a surrogate, a cut sequence, beyond U+10FFFF.
    for text in [&b"a\x80"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"a\xe2\x82", b"\xf4\x90\x80\x80"] {
        ends(target, me, &raw_publish(text, &[]), 0x81);
        let content_type = [vec![0x03], packet::binary(text)].concat();
        ends(target, me, &raw_publish(b"t", &content_type), 0x81);
        let client_id = [b"\0\x04MQTT\x05\x02\0\0\0".to_vec(), packet::binary(text)].concat();
        let mut client = Raw::connect(target.port, V5);
        client.send(&packet::frame(0x10, client_id));
        client.expect_refused(0x81);
    }
}

fn u_0000_is_malformed(target: &Target) {
    let me = "u_0000_is_malformed";
    ends(target, me, &publish("a\0b", b"").packet(), 0x81);
    ends(target, me, &subscribe(1).filter("a\0b", 0).packet(), 0x81);
    ends(target, me, &subscribe(1).filter("a\0b", 0).undo(), 0x81);
    Raw::begin(target.port, &connect("u_0000\0")).expect_refused(0x81);
    Raw::begin(target.port, &connect(me).user("a\0b")).expect_refused(0x81);
    Raw::begin(target.port, &connect(me).will(Will::new("a\0b", b""))).expect_refused(0x81);
}

fn a_byte_order_mark_is_a_character(target: &Target) {
    let me = "a_byte_order_mark";
    let (mut subscriber, mut publisher) = pair(target, me, "a_byte_order_mark/\u{feff}x", 1);
    publisher.publish("a_byte_order_mark/x", 1, b"without");
    publisher.publish("a_byte_order_mark/\u{feff}x", 1, b"with");
    subscriber.take_message("a_byte_order_mark/\u{feff}x", b"with");
    subscriber.expect_nothing();
}

fn integers_are_written_short_and_read_short(target: &Target) {
    let me = "integers_are_written_short";
    let (mut subscriber, mut publisher) = pair(target, me, "integers", 0);
    // The longest for one byte, the shortest for two: 2 + 8 + 1 + payload.
    for (payload, header) in [(116, &[0x30, 0x7F][..]), (117, &[0x30, 0x80, 0x01])] {
        publisher.publish("integers", 0, &vec![b'x'; payload]);
        let bytes = subscriber.receive_bytes().unwrap();
        assert_eq!(&bytes[..header.len()], header);
        assert_eq!(bytes.len(), header.len() + 11 + payload);
    }
    // A length of more bytes than it needs, and one of five bytes.
    for text in ["30 84 00 00 01 74 00", "30 80 80 80 80 01", "30 06 00 01 74 80 00 61"] {
        ends(target, me, &forebay_tests::raw::hex(text), 0x81);
    }
}

fn both_strings_of_a_pair_are_checked(target: &Target) {
    let me = "both_strings_of_a_pair";
    for pair in
        [&b"\x26\0\x01\xff\0\x01v"[..], b"\x26\0\x01k\0\x01\xff", b"\x26\0\x01\0\0\x01v", b"\x26\0\x01k\0\x01\0"]
    {
        ends(target, me, &raw_publish(b"t", pair), 0x81);
    }
}

fn reserved_flags_are_malformed(target: &Target) {
    let me = "reserved_flags";
    // SUBSCRIBE, UNSUBSCRIBE and PUBREL want 0010, the others 0000. PINGREQ last.
    for (packet, right) in [
        (subscribe(1).filter("a", 0).packet(), 2),
        (subscribe(1).filter("a", 0).undo(), 2),
        (packet::ack(Ack::Pubrel, 1), 2),
        (packet::ack(Ack::Puback, 1), 0),
        (packet::ack(Ack::Pubrec, 1), 0),
        (packet::ack(Ack::Pubcomp, 1), 0),
        (packet::DISCONNECT.to_vec(), 0),
        (build::auth(0x19, &[]), 0),
        (packet::PINGREQ.to_vec(), 0),
    ] {
        for flags in (0..16).filter(|flags| *flags != right) {
            let mut wrong = packet.clone();
            wrong[0] = (wrong[0] & 0xF0) | flags;
            ends(target, me, &wrong, 0x81);
        }
    }
    for flags in 1..16 {
        let mut wrong = connect(me).packet();
        wrong[0] |= flags;
        let mut client = Raw::connect(target.port, V5);
        client.send(&wrong);
        client.expect_closed();
    }
}

fn packets_of_the_server_end_the_connection(target: &Target) {
    let me = "packets_of_the_server";
    for text in ["20 03 00 00 00", "90 04 00 01 00 00", "b0 04 00 01 00 00", "d0 00"] {
        ends(target, me, &forebay_tests::raw::hex(text), 0x82);
    }
    // Type 0 does not exist.
    ends(target, me, &[0, 0], 0x81);
}

fn a_packet_without_properties_says_so(target: &Target) {
    let me = "a_packet_without_properties";
    let mut client = clean(target, me);
    client.send(&subscribe(0x0102).filter(me, 0).packet());
    client.expect(&[0x90, 4, 1, 2, 0, 0]);
    client.send(&publish(me, b"x").packet());
    client.expect(&publish(me, b"x").packet());
    client.send(&subscribe(0x0103).filter(me, 0).undo());
    client.expect(&[0xB0, 4, 1, 3, 0, 0]);
}

fn acks_carry_the_identifier_of_what_they_acknowledge(target: &Target) {
    let me = "acks_carry_the_identifier";
    let mut client = clean(target, me);
    for id in [1, 0x0100, 0xFFFF] {
        client.send(&subscribe(id).filter(me, 2).packet());
        client.expect_suback(id, &[2]);
        client.publish_packet(1, id, &publish(me, b"1").qos(1, id).packet());
        client.take_message(me, b"1");
        client.publish_packet(2, id, &publish(me, b"2").qos(2, id).packet());
        client.take_message(me, b"2");
        client.send(&subscribe(id).filter(me, 2).undo());
        client.expect_unsuback(id, &[0]);
    }
}

fn identifiers_of_the_broker_are_unused_and_not_zero(target: &Target) {
    let me = "identifiers_of_the_broker";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    let mut used = std::collections::HashSet::new();
    // Nothing is acknowledged: all of them stay in use.
    for n in 0..200_u32 {
        publisher.publish(me, 1 + (n % 2) as u8, &n.to_be_bytes());
        let message = subscriber.expect_message(me, &n.to_be_bytes());
        assert!(message.id != 0 && used.insert(message.id), "{} again", message.id);
    }
}

fn qos_0_has_no_identifier(target: &Target) {
    let me = "qos_0_has_no_identifier";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    publisher.publish(me, 0, b"x");
    subscriber.expect(&packet::frame(0x30, [packet::string(me), b"\0x".to_vec()].concat()));
}
