//! CONNECT, CONNACK, PINGREQ, DISCONNECT (3.1, 3.2, 3.12, 3.14).

use std::time::{Duration, Instant};

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_good_connect_is_accepted, "MQTT-3.1.4-4", "MQTT-3.2.0-1", "MQTT-3.2.2-1", "MQTT-7.0.0-2"),
        case!(short_client_identifiers_of_letters_and_digits_are_taken, "MQTT-3.1.3-5"),
        case!(an_empty_client_identifier_gets_one_of_its_own, "MQTT-3.1.3-6"),
        case!(a_user_name_and_a_password_are_read, "MQTT-3.1.2-19", "MQTT-3.1.2-21"),
        case!(nothing_is_said_where_no_return_code_fits, "MQTT-3.2.2-6", "MQTT-3.1.4-1"),
        case!(after_a_refusal_nothing_is_processed, "MQTT-3.1.4-5", "MQTT-3.2.2-5"),
        case!(a_violation_costs_the_connection, "MQTT-4.8.0-1", "MQTT-2.2.2-1"),
        case!(silence_ends_the_connection, "MQTT-3.1.2-24"),
        case!(a_ping_keeps_the_connection, "MQTT-3.12.4-1"),
        case!(disconnect_ends_the_connection),
        case!(packets_come_in_any_pieces, "MQTT-7.1.1-1"),
    ]
}

fn a_good_connect_is_accepted(target: &Target) {
    for clean in [true, false] {
        let me = format!("v311-a_good_connect_is_accepted-{clean}");
        let connect = if clean { connect(&me) } else { lasting(&me) };
        let mut raw = Raw::begin(target.port, &connect);
        raw.expect(&[0x20, 2, 0, 0]);
        raw.expect_nothing();
    }
}

fn short_client_identifiers_of_letters_and_digits_are_taken(target: &Target) {
    for me in ["7", "abcdefghijklmnopqrstuvw", "xyzABCDEFGHIJKLMNOPQRST", "UVWXYZ0123456789"] {
        clean(target, me).leave();
    }
}

fn an_empty_client_identifier_gets_one_of_its_own(target: &Target) {
    let me = "v311-an_empty_client_identifier_gets_one_of_its_own";
    let (mut one, mut two) = (clean(target, ""), clean(target, ""));
    for raw in [&mut one, &mut two] {
        raw.subscribe(me, 0);
    }
    // Both are there: neither has taken the other's session over.
    one.publish(me, 1, b"hello");
    for raw in [&mut one, &mut two] {
        raw.take_message(me, b"hello");
    }
}

fn a_user_name_and_a_password_are_read(target: &Target) {
    let me = "v311-a_user_name_and_a_password_are_read";
    for connect in
        [connect(me).user("u"), connect(me).user("").password(b""), connect(me).user("u").password(&[0, 255])]
    {
        open(target, &connect).0.leave();
    }
}

fn nothing_is_said_where_no_return_code_fits(target: &Target) {
    let mut wrong = connect("v311-nothing_is_said_where_no_return_code_fits").packet();
    // The reserved flag.
    wrong[9] |= 1;
    let mut raw = Raw::connect(target.port, V4);
    raw.send(&wrong);
    raw.expect_closed();
}

fn after_a_refusal_nothing_is_processed(target: &Target) {
    let me = "v311-after_a_refusal_nothing_is_processed";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    let mut refused = lasting("").packet();
    refused.extend(publish(me, b"refused").retain().packet());
    let mut raw = Raw::connect(target.port, V4);
    raw.send(&refused);
    raw.expect_refused(2);
    publisher.publish(me, 1, b"first");
    subscriber.take_message(me, b"first");
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 0);
    late.expect_nothing();
}

fn a_violation_costs_the_connection(target: &Target) {
    let me = "v311-a_violation_costs_the_connection";
    let mut other = clean(target, &format!("{me}-other"));
    let mut raw = clean(target, me);
    // A SUBSCRIBE with the flags of a PINGREQ.
    raw.send_hex("80 06 00 01 00 01 61 00");
    raw.expect_closed();
    other.expect_nothing();
}

fn silence_ends_the_connection(target: &Target) {
    let me = "v311-silence_ends_the_connection";
    let (mut subscriber, _publisher) = pair(target, me, me, 0);
    let begun = Instant::now();
    let (mut silent, _) = open(target, &connect(me).keep_alive(1).will(Will::new(me, b"silent")));
    silent.expect_closed();
    assert!(begun.elapsed() >= Duration::from_millis(1500), "after {:?}", begun.elapsed());
    // As if the network had failed.
    subscriber.take_message(me, b"silent");
}

fn a_ping_keeps_the_connection(target: &Target) {
    let (mut raw, _) = open(target, &connect("v311-a_ping_keeps_the_connection").keep_alive(1));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        raw.send(&packet::PINGREQ);
        raw.expect(&[0xd0, 0]);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn disconnect_ends_the_connection(target: &Target) {
    let mut raw = clean(target, "v311-disconnect_ends_the_connection");
    // What comes after DISCONNECT is not looked at.
    raw.send(&[packet::DISCONNECT, packet::PINGREQ].concat());
    raw.expect_closed();
}

fn packets_come_in_any_pieces(target: &Target) {
    let me = "v311-packets_come_in_any_pieces";
    let mut bytes = connect(me).packet();
    bytes.extend(subscribe(7).filter(me, 1).packet());
    bytes.extend(publish(me, &[b'x'; 200]).qos(1, 8).packet());
    let mut raw = Raw::connect(target.port, V4);
    for byte in bytes {
        raw.send(&[byte]);
    }
    raw.expect_connack(0);
    raw.expect_suback(7, &[1]);
    match raw.receive_answer() {
        Packet::Ack(Ack::Puback, 8, ..) => {}
        other => panic!("instead of PUBACK: {other:?}"),
    }
    raw.take_message(me, &[b'x'; 200]);
}
