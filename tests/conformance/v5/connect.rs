//! 3.1: CONNECT.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_first_packet_is_connect, "MQTT5-3.1.0-1"),
        case!(a_second_connect_is_a_protocol_error, "MQTT5-3.1.0-2"),
        case!(another_protocol_name_is_not_served, "MQTT5-3.1.2-1"),
        case!(another_version_is_refused, "MQTT5-3.1.2-2", "MQTT5-3.2.2-6", "MQTT5-3.2.2-7"),
        case!(the_reserved_flag_is_malformed, "MQTT5-3.1.2-3"),
        case!(will_flags_and_fields_agree, "MQTT5-3.1.2-9", "MQTT5-3.1.2-11", "MQTT5-3.1.2-12", "MQTT5-3.1.2-13"),
        case!(
            credentials_and_their_flags_agree,
            "MQTT5-3.1.2-16",
            "MQTT5-3.1.2-17",
            "MQTT5-3.1.2-18",
            "MQTT5-3.1.2-19",
            "MQTT5-3.1.3-1",
            "MQTT5-3.1.3-12"
        ),
        case!(the_client_identifier_is_there_and_a_string, "MQTT5-3.1.3-3", "MQTT5-3.1.3-4", "MQTT5-3.1.3-11"),
        case!(client_identifiers_of_23_letters_and_digits_are_served, "MQTT5-3.1.3-5"),
        case!(a_client_identifier_that_is_too_long_is_refused, "MQTT5-3.1.3-8"),
        case!(what_is_wrong_with_connect_is_said, "MQTT5-3.1.4-1", "MQTT5-3.2.2-8", "MQTT5-3.14.0-1"),
        case!(nothing_after_a_refused_connect_is_done, "MQTT5-3.1.4-6"),
        case!(packets_behind_connect_are_done_after_connack, "MQTT5-3.2.0-1", "MQTT5-3.2.0-2", "MQTT5-3.1.4-5"),
        case!(an_authentication_method_that_is_not_offered_is_refused, "MQTT5-4.12.0-1", "MQTT5-3.1.4-2"),
        case!(authentication_data_without_a_method_is_a_protocol_error),
    ]
}

/// A CONNECT of these bytes after the length.
fn body(target: &Target, body: &[u8]) -> Raw {
    let mut client = Raw::connect(target.port, V5);
    client.send(&packet::frame(0x10, body.to_vec()));
    client
}

fn the_first_packet_is_connect(target: &Target) {
    for packet in [publish("the_first_packet", b"").packet(), packet::PINGREQ.to_vec(), packet::DISCONNECT.to_vec()] {
        let mut client = Raw::connect(target.port, V5);
        client.send(&packet);
        client.expect_closed();
    }
}

fn a_second_connect_is_a_protocol_error(target: &Target) {
    let me = "a_second_connect";
    let mut client = clean(target, me);
    client.send(&connect(me).packet());
    client.expect_disconnect(0x82);
}

fn another_protocol_name_is_not_served(target: &Target) {
    for name in ["MQTTX", "mqtt", "MQIsdq", ""] {
        let mut text = packet::string(name);
        text.extend(b"\x05\x02\0\0\0\0\x01a");
        body(target, &text).expect_closed();
    }
}

fn another_version_is_refused(target: &Target) {
    for level in [6, 7, 0x86, 0xFF] {
        let mut client = body(target, &[b"\0\x04MQTT".to_vec(), vec![level], b"\x02\0\0\0\0\x01a".to_vec()].concat());
        client.expect_refused(0x84);
    }
}

fn the_reserved_flag_is_malformed(target: &Target) {
    body(target, b"\0\x04MQTT\x05\x03\0\0\0\0\x01a").expect_refused(0x81);
}

fn will_flags_and_fields_agree(target: &Target) {
    for (flags, rest) in [
        // Will QoS 1 or 2 or Will Retain without a will; Will QoS 3.
        (0x0A, &b""[..]),
        (0x12, b""),
        (0x22, b""),
        (0x1E, b"\0\0\x01w\0\x01p"),
        // A will without its properties, topic or payload; fields of a will without the flag.
        (0x06, b""),
        (0x06, b"\0"),
        (0x06, b"\0\0\x01w"),
        (0x02, b"\0\0\x01w\0\x01p"),
    ] {
        let start = [&b"\0\x04MQTT\x05"[..], &[flags], b"\0\0\0\0\x01a"].concat();
        body(target, &[&start[..], rest].concat()).expect_refused(0x81);
    }
    for qos in 0..3 {
        clean_with(target, &connect("will_flags_and_fields").will(Will::new("w", b"p").qos(qos)));
    }
}

fn clean_with(target: &Target, connect: &Connect) {
    open(target, connect).leave();
}

fn credentials_and_their_flags_agree(target: &Target) {
    let me = "credentials_and_their_flags";
    clean_with(target, &connect(me).user("u").password(b"\xff\0p"));
    clean_with(target, &connect(me).user(""));
    clean_with(target, &connect(me).password(b"p"));
    clean_with(target, &connect(me).will(Will::new("w", b"p")).user("u").password(b"p"));
    for (flags, rest) in [
        (0x82, &b""[..]),
        (0x42, b""),
        (0xC2, b"\0\x01u"),
        (0x02, b"\0\x01u"),
        (0x82, b"\0\x01u\0\x01p"),
        (0x42, b"\0\x01u\0\x01p"),
        // A user name that is not a string.
        (0x82, b"\0\x01\xff"),
    ] {
        let start = [&b"\0\x04MQTT\x05"[..], &[flags], b"\0\0\0\0\x01a"].concat();
        body(target, &[&start[..], rest].concat()).expect_refused(0x81);
    }
}

fn the_client_identifier_is_there_and_a_string(target: &Target) {
    body(target, b"\0\x04MQTT\x05\x02\0\0\0").expect_refused(0x81);
    body(target, b"\0\x04MQTT\x05\x02\0\0\0\0\x02a").expect_refused(0x81);
    body(target, b"\0\x04MQTT\x05\x02\0\0\0\0\x01\xff").expect_refused(0x81);
    body(target, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01\xff\0\x01p").expect_refused(0x81);
}

fn client_identifiers_of_23_letters_and_digits_are_served(target: &Target) {
    for id in ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
        let (client, _, properties) = Raw::open(target.port, &connect(id));
        assert!(!properties.iter().any(|p| matches!(p, Property::AssignedClientId(_))));
        client.leave();
    }
}

fn a_client_identifier_that_is_too_long_is_refused(target: &Target) {
    clean_with(target, &connect(&"x".repeat(256)));
    Raw::begin(target.port, &connect(&"x".repeat(257))).expect_refused(0x85);
}

fn what_is_wrong_with_connect_is_said(target: &Target) {
    let me = "what_is_wrong_with_connect";
    let twice = |property: Property| connect(me).with(property.clone()).with(property);
    for (wrong, code) in [
        (connect(me).with(Property::ReceiveMaximum(0)), 0x82),
        (connect(me).with(Property::MaximumPacketSize(0)), 0x82),
        (connect(me).with(Property::RequestProblemInformation(2)), 0x82),
        (connect(me).with(Property::RequestResponseInformation(2)), 0x82),
        (connect(me).with(Property::TopicAlias(1)), 0x82),
        (connect(me).with(Property::WillDelay(1)), 0x82),
        (twice(Property::SessionExpiry(1)), 0x82),
        (twice(Property::ReceiveMaximum(1)), 0x82),
        (twice(Property::AuthMethod("m".into())), 0x82),
        (connect(me).will(Will::new("a/#", b"")), 0x90),
        (connect(me).will(Will::new("", b"")), 0x90),
        (connect(me).will(Will::new("w", b"\xff").with(Property::PayloadFormat(1))), 0x99),
        (connect(me).will(Will::new("w", b"").with(Property::SessionExpiry(1))), 0x82),
    ] {
        // Refused in CONNACK: no DISCONNECT before a CONNACK of success.
        Raw::begin(target.port, &wrong).expect_refused(code);
    }
    // The rest of a CONNECT that says more than it has.
    body(target, b"\0\x04MQTT\x05\x02\0\0\0\0\x01a!").expect_refused(0x81);
    body(target, b"\0\x04MQTT\x05\x02\0\0\x05\x11\0\0").expect_refused(0x81);
}

fn nothing_after_a_refused_connect_is_done(target: &Target) {
    let me = "nothing_after_a_refused_connect";
    let mut watcher = clean(target, &format!("{me}-watcher"));
    watcher.subscribe(me, 0);
    let mut client = Raw::connect(target.port, V5);
    let refused = connect(me).with(Property::AuthMethod("nobody's".into())).packet();
    client.send(&[refused, publish(me, b"x").packet(), packet::PINGREQ.to_vec()].concat());
    client.expect_refused(0x8C);
    watcher.expect_nothing();
}

fn packets_behind_connect_are_done_after_connack(target: &Target) {
    let me = "packets_behind_connect";
    let mut client = Raw::connect(target.port, V5);
    let all = [connect(me).packet(), subscribe(1).filter(me, 0).packet(), publish(me, b"x").packet()].concat();
    client.send(&all);
    client.expect_connack(0);
    client.expect_suback(1, &[0]);
    client.expect_message(me, b"x");
    client.expect_nothing();
}

fn an_authentication_method_that_is_not_offered_is_refused(target: &Target) {
    let me = "an_authentication_method";
    let method = Property::AuthMethod("SCRAM-SHA-999".into());
    let data = Property::AuthData(b"x".to_vec());
    Raw::begin(target.port, &connect(me).with(method.clone())).expect_refused(0x8C);
    Raw::begin(target.port, &connect(me).with(method).with(data)).expect_refused(0x8C);
}

fn authentication_data_without_a_method_is_a_protocol_error(target: &Target) {
    let data = Property::AuthData(b"x".to_vec());
    Raw::begin(target.port, &connect("authentication_data").with(data)).expect_refused(0x82);
}
