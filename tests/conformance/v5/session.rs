//! 3.1.2.4, 3.1.4 and 4.1: sessions.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_clean_start_discards_the_session, "MQTT5-3.1.2-4", "MQTT5-3.2.2-2", "MQTT5-3.1.4-4"),
        case!(a_session_is_resumed, "MQTT5-3.1.2-5", "MQTT5-3.1.2-23", "MQTT5-3.2.2-3"),
        case!(the_client_identifier_names_the_session, "MQTT5-3.1.3-2"),
        case!(a_session_lasts_as_long_as_its_connection, "MQTT5-4.1.0-1"),
        case!(a_session_without_expiry_ends_with_its_connection, "MQTT5-4.1.0-2"),
        case!(a_session_ends_when_its_time_is_over, "MQTT5-4.1.0-2"),
        case!(a_second_connection_takes_the_session_over, "MQTT5-3.1.4-3"),
        case!(a_second_connection_with_a_clean_start_ends_the_session, "MQTT5-3.1.4-3", "MQTT5-3.1.2-4"),
        case!(a_message_in_flight_survives_a_take_over),
        case!(qos_0_is_not_kept_for_the_absent),
        case!(what_was_asked_for_at_the_last_connect_counts),
        case!(a_session_survives_a_restart, "MQTT5-3.1.2-23"),
    ]
}

fn a_clean_start_discards_the_session(target: &Target) {
    let me = "a_clean_start_discards";
    let mut client = open(target, &lasting(me));
    client.subscribe(me, 1);
    client.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"queued");
    let (mut client, present, _) = Raw::open(target.port, &connect(me).with(Property::SessionExpiry(3600)));
    assert!(!present);
    publisher.send(&publish(me, b"x").qos(1, 1).packet());
    publisher.expect_ack(Ack::Puback, 1, 0x10);
    client.expect_nothing();
}

fn a_session_is_resumed(target: &Target) {
    let me = "a_session_is_resumed";
    let (mut client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(!present);
    client.subscribe(me, 2);
    // A QoS 2 exchange of its own is half done.
    client.send(&publish("a_session_is_resumed/own", b"x").qos(2, 3).packet());
    client.expect_ack(Ack::Pubrec, 3, 0x10);
    client.drop_connection();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in 1..3 {
        publisher.publish(me, qos, &[qos]);
    }
    let (mut client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    client.expect_message(me, &[1]);
    client.expect_message(me, &[2]);
    client.send(&packet::ack(Ack::Pubrel, 3));
    client.expect_ack(Ack::Pubcomp, 3, 0);
    publisher.publish(me, 0, b"subscribed still");
    client.expect_message(me, b"subscribed still");
}

fn the_client_identifier_names_the_session(target: &Target) {
    let me = "the_client_identifier_names";
    for id in ["A", "a", "a ", "ä"] {
        let mut client = open(target, &lasting(&format!("{me}-{id}")));
        client.subscribe(&format!("{me}/{id}"), 1);
        client.leave();
    }
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for id in ["A", "a", "a ", "ä"] {
        publisher.publish(&format!("{me}/{id}"), 1, id.as_bytes());
    }
    for id in ["ä", "a", "A", "a "] {
        let (mut client, present, _) = Raw::open(target.port, &lasting(&format!("{me}-{id}")));
        assert!(present);
        client.take_message(&format!("{me}/{id}"), id.as_bytes());
        client.expect_nothing();
    }
}

fn a_session_lasts_as_long_as_its_connection(target: &Target) {
    let me = "a_session_lasts";
    let mut client = open(target, &connect(me).with(Property::SessionExpiry(5)));
    client.subscribe(me, 1);
    std::thread::sleep(std::time::Duration::from_secs(6));
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    client.take_message(me, b"x");
    client.drop_connection();
    assert!(Raw::open(target.port, &lasting(me)).1, "its time begins when the connection ends");
}

fn a_session_without_expiry_ends_with_its_connection(target: &Target) {
    let me = "a_session_without_expiry";
    for packet in [connect(me), connect(me).resume(), connect(me).with(Property::SessionExpiry(0))] {
        let (mut client, present, _) = Raw::open(target.port, &packet);
        assert!(!present);
        client.subscribe(me, 1);
        client.drop_connection();
        let mut publisher = clean(target, &format!("{me}-publisher"));
        // The broker learns of the end in its own time.
        loop {
            publisher.send(&publish(me, b"x").qos(1, 1).packet());
            match publisher.receive() {
                Packet::Ack(Ack::Puback, 1, 0x10, _) => break,
                Packet::Ack(Ack::Puback, 1, 0, _) => std::thread::sleep(std::time::Duration::from_millis(5)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(!Raw::open(target.port, &lasting(me)).1);
}

fn a_session_ends_when_its_time_is_over(target: &Target) {
    let me = "a_session_ends_when";
    let mut client = open(target, &connect(me).with(Property::SessionExpiry(2)));
    client.subscribe(me, 1);
    client.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"while it lasts");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let (mut client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(!present);
    client.expect_nothing();
    // The session without end is there after as long.
    let mut endless = open(target, &connect("a_session_ends_when-not").with(Property::SessionExpiry(u32::MAX)));
    endless.subscribe(me, 1);
    endless.leave();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(Raw::open(target.port, &lasting("a_session_ends_when-not")).1);
}

fn a_second_connection_takes_the_session_over(target: &Target) {
    let me = "a_second_connection_takes";
    let mut first = open(target, &lasting(me));
    first.subscribe(me, 1);
    let (mut second, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    first.expect_disconnect(0x8E);
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    second.take_message(me, b"x");
}

fn a_second_connection_with_a_clean_start_ends_the_session(target: &Target) {
    let me = "a_second_connection_with";
    for packet in [lasting(me), connect(me)] {
        let mut first = open(target, &packet);
        first.subscribe(me, 1);
        let (mut second, present, _) = Raw::open(target.port, &connect(me));
        assert!(!present);
        first.expect_disconnect(0x8E);
        let mut publisher = clean(target, &format!("{me}-publisher"));
        publisher.send(&publish(me, b"x").qos(1, 1).packet());
        publisher.expect_ack(Ack::Puback, 1, 0x10);
        second.expect_nothing();
        second.leave();
    }
}

fn a_message_in_flight_survives_a_take_over(target: &Target) {
    let me = "a_message_in_flight";
    let mut first = open(target, &lasting(me));
    first.subscribe(me, 1);
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    let message = first.expect_message(me, b"x");
    let mut second = open(target, &lasting(me));
    let repeated = second.take_message(me, b"x");
    assert!(repeated.dup && repeated.id == message.id);
    // What the first says now is nobody's word.
    first.expect_disconnect(0x8E);
    second.expect_nothing();
}

fn qos_0_is_not_kept_for_the_absent(target: &Target) {
    let me = "qos_0_is_not_kept";
    let mut client = open(target, &lasting(me));
    client.subscribe(me, 1);
    client.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 0, b"0");
    publisher.publish(me, 1, b"1");
    let mut client = open(target, &lasting(me));
    client.take_message(me, b"1");
    client.expect_nothing();
}

fn what_was_asked_for_at_the_last_connect_counts(target: &Target) {
    let me = "what_was_asked_for";
    open(target, &lasting(me)).leave();
    let (client, present, _) = Raw::open(target.port, &connect(me).resume());
    assert!(present);
    client.leave();
    assert!(!Raw::open(target.port, &lasting(me)).1, "the last connection asked for no expiry");
}

fn a_session_survives_a_restart(_: &Target) {
    let me = "a_session_survives";
    let mut own = forebay_tests::broker::Broker::start();
    let (mut client, ..) = Raw::open(own.port(), &lasting(me));
    client.subscribe(me, 2);
    let mut publisher = Raw::clean(own.port(), V5, "a_session_survives-publisher");
    publisher.publish(me, 1, b"1");
    publisher.publish(me, 2, b"2");
    let (one, two) = (client.expect_message(me, b"1"), client.expect_message(me, b"2"));
    client.send(&packet::ack(Ack::Pubrec, two.id));
    client.expect_ack(Ack::Pubrel, two.id, 0);
    client.send(&publish("a_session_survives/own", b"x").qos(2, 3).packet());
    client.expect_ack(Ack::Pubrec, 3, 0x10);
    own.kill();
    own.run();
    let (mut client, present, _) = Raw::open(own.port(), &lasting(me));
    assert!(present);
    let repeated = client.take_message(me, b"1");
    assert!(repeated.dup && repeated.id == one.id);
    client.expect_ack(Ack::Pubrel, two.id, 0);
    client.send(&packet::ack(Ack::Pubcomp, two.id));
    client.send(&packet::ack(Ack::Pubrel, 3));
    client.expect_ack(Ack::Pubcomp, 3, 0);
    client.expect_nothing();
}
