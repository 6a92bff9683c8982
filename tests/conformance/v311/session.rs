//! Sessions: clean session, resume, take-over (3.1.2.4, 3.2.2, 4.1, 4.4).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(
            a_session_is_stored_and_resumed,
            "MQTT-3.1.2-4",
            "MQTT-3.1.2-5",
            "MQTT-3.1.3-2",
            "MQTT-3.1.4-3",
            "MQTT-3.2.2-2",
            "MQTT-3.2.2-3",
            "MQTT-4.1.0-1",
            "MQTT-4.5.0-1"
        ),
        case!(clean_session_1_discards_the_session, "MQTT-3.1.2-6", "MQTT-3.2.2-1"),
        case!(a_clean_session_ends_with_its_connection, "MQTT-3.1.2-6", "MQTT-4.1.0-2"),
        case!(a_second_connection_ends_the_first, "MQTT-3.1.4-2"),
        case!(a_session_outlives_a_take_over, "MQTT-3.1.4-2"),
        case!(what_is_not_acknowledged_is_sent_again, "MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-2.3.1-4"),
        case!(a_pubrel_is_sent_again, "MQTT-4.4.0-1", "MQTT-4.3.3-1"),
        case!(an_inbound_identifier_outlives_the_connection, "MQTT-4.3.3-2"),
        case!(what_is_acknowledged_is_not_sent_again, "MQTT-4.4.0-1"),
    ]
}

fn a_session_is_stored_and_resumed(target: &Target) {
    let me = "v311-a_session_is_stored_and_resumed";
    let (mut client, present) = open(target, &lasting(me));
    assert!(!present);
    client.subscribe(me, 2);
    client.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"one");
    publisher.publish(me, 2, b"two");
    let (mut client, present) = open(target, &lasting(me));
    assert!(present);
    assert_eq!(client.take_message(me, b"one").qos, 1);
    assert_eq!(client.take_message(me, b"two").qos, 2);
    // The subscription is there as well.
    publisher.publish(me, 0, b"zero");
    client.take_message(me, b"zero");
}

fn clean_session_1_discards_the_session(target: &Target) {
    let me = "v311-clean_session_1_discards_the_session";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 1);
    client.leave();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"old");
    let (mut client, present) = open(target, &connect(me));
    assert!(!present);
    client.expect_nothing();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"new");
    client.expect_nothing();
    client.leave();
    let (mut client, present) = open(target, &lasting(me));
    assert!(!present);
    client.expect_nothing();
}

fn a_clean_session_ends_with_its_connection(target: &Target) {
    let me = "v311-a_clean_session_ends_with_its_connection";
    let mut publisher = clean(target, &format!("{me}-publisher"));
    let (mut client, _) = open(target, &connect(me));
    client.subscribe(me, 1);
    for n in 0..20u8 {
        publisher.publish(me, 1, &[n]);
        client.take_message(me, &[n]);
    }
    client.leave();
    publisher.publish(me, 1, b"late");
    let (mut client, present) = open(target, &lasting(me));
    assert!(!present);
    publisher.publish(me, 1, b"later");
    client.expect_nothing();
}

fn a_second_connection_ends_the_first(target: &Target) {
    let me = "v311-a_second_connection_ends_the_first";
    let (mut subscriber, mut publisher) = pair(target, me, &format!("{me}/will"), 0);
    let (mut first, _) = open(target, &connect(me).will(Will::new(&format!("{me}/will"), b"first")));
    first.subscribe(me, 0);
    let mut second = clean(target, me);
    first.expect_closed();
    subscriber.take_message(&format!("{me}/will"), b"first");
    second.subscribe(me, 0);
    publisher.publish(me, 0, b"for the second");
    second.take_message(me, b"for the second");
}

fn a_session_outlives_a_take_over(target: &Target) {
    let me = "v311-a_session_outlives_a_take_over";
    let (mut first, _) = open(target, &lasting(me));
    first.subscribe(me, 1);
    let (mut second, present) = open(target, &lasting(me));
    assert!(present);
    first.expect_closed();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"for the second");
    second.take_message(me, b"for the second");
}

fn what_is_not_acknowledged_is_sent_again(target: &Target) {
    let me = "v311-what_is_not_acknowledged_is_sent_again";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..6u8 {
        publisher.publish(me, 1 + n % 2, &[n]);
    }
    let sent: Vec<Message> = (0..6).map(|_| message(&mut client)).collect();
    assert!(sent.iter().all(|m| !m.dup));
    client.drop_connection();
    let (mut client, present) = open(target, &lasting(me));
    assert!(present);
    for before in sent {
        let again = client.take_message(me, &before.payload);
        assert_eq!((again.id, again.qos, again.dup), (before.id, before.qos, true));
    }
    client.expect_nothing();
}

fn a_pubrel_is_sent_again(target: &Target) {
    let me = "v311-a_pubrel_is_sent_again";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 2);
    clean(target, &format!("{me}-publisher")).publish(me, 2, b"once");
    let id = client.expect_message(me, b"once").id;
    client.send(&packet::ack(Ack::Pubrec, id));
    client.expect_ack(Ack::Pubrel, id, 0);
    client.drop_connection();
    for _ in 0..2 {
        let (mut client, _) = open(target, &lasting(me));
        // PUBREL, and never PUBLISH again.
        client.expect_ack(Ack::Pubrel, id, 0);
        client.expect_nothing();
        client.drop_connection();
    }
    let (mut client, _) = open(target, &lasting(me));
    client.expect_ack(Ack::Pubrel, id, 0);
    client.send(&packet::ack(Ack::Pubcomp, id));
    client.leave();
    let (mut client, _) = open(target, &lasting(me));
    client.expect_nothing();
}

fn an_inbound_identifier_outlives_the_connection(target: &Target) {
    let me = "v311-an_inbound_identifier_outlives_the_connection";
    let (mut subscriber, _publisher) = pair(target, me, me, 2);
    let (mut client, _) = open(target, &lasting(me));
    client.send(&publish(me, b"once").qos(2, 5).packet());
    client.expect_ack(Ack::Pubrec, 5, 0);
    client.drop_connection();
    let (mut client, _) = open(target, &lasting(me));
    client.send(&publish(me, b"once").qos(2, 5).dup().packet());
    client.expect_ack(Ack::Pubrec, 5, 0);
    client.send(&packet::ack(Ack::Pubrel, 5));
    client.expect_ack(Ack::Pubcomp, 5, 0);
    client.publish(me, 2, b"next");
    subscriber.take_message(me, b"once");
    subscriber.take_message(me, b"next");
}

fn what_is_acknowledged_is_not_sent_again(target: &Target) {
    let me = "v311-what_is_acknowledged_is_not_sent_again";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in [1, 2] {
        publisher.publish(me, qos, &[qos]);
        client.take_message(me, &[qos]);
    }
    client.leave();
    let (mut client, _) = open(target, &lasting(me));
    publisher.publish(me, 1, b"next");
    client.take_message(me, b"next");
}
