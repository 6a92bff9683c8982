//! UNSUBSCRIBE and UNSUBACK (3.10, 3.11).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(unsuback_answers_with_the_identifier, "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-2.3.1-7"),
        case!(no_message_is_added_afterwards, "MQTT-3.10.4-2"),
        case!(filters_are_compared_to_the_byte, "MQTT-3.10.4-1"),
        case!(many_filters_have_one_answer, "MQTT-3.10.4-6"),
        case!(what_is_in_flight_is_completed, "MQTT-3.10.4-3"),
    ]
}

fn unsuback_answers_with_the_identifier(target: &Target) {
    let me = "v311-unsuback_answers_with_the_identifier";
    let mut raw = clean(target, me);
    raw.subscribe(me, 0);
    // There, gone, and never there.
    for (id, filter) in [(1u16, me), (0x0a0b, me), (u16::MAX, "never")] {
        raw.send(&subscribe(id).filter(filter, 0).undo());
        let [high, low] = id.to_be_bytes();
        raw.expect(&[0xb0, 2, high, low]);
    }
}

fn no_message_is_added_afterwards(target: &Target) {
    let me = "v311-no_message_is_added_afterwards";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    publisher.publish(me, 1, b"before");
    subscriber.take_message(me, b"before");
    subscriber.send(&subscribe(5).filter(me, 0).undo());
    subscriber.expect_unsuback(5, &[]);
    for qos in 0..3 {
        publisher.publish(me, qos, b"after");
    }
    subscriber.expect_nothing();
}

fn filters_are_compared_to_the_byte(target: &Target) {
    let me = "v311-filters_are_compared_to_the_byte";
    let (mut subscriber, mut publisher) = pair(target, me, &format!("{me}/+"), 1);
    // Filters that match the same topics, or look the same, are others.
    for other in [format!("{me}/#"), format!("{me}/a"), format!("{me}/+/"), me.to_owned(), me.to_uppercase()] {
        subscriber.send(&subscribe(5).filter(&other, 0).undo());
        subscriber.expect_unsuback(5, &[]);
        publisher.publish(&format!("{me}/a"), 1, b"p");
        subscriber.take_message(&format!("{me}/a"), b"p");
    }
}

fn many_filters_have_one_answer(target: &Target) {
    let me = "v311-many_filters_have_one_answer";
    let (mut subscriber, mut publisher) = pair(target, me, &format!("{me}/a"), 1);
    subscriber.subscribe(&format!("{me}/b"), 1);
    subscriber.subscribe(&format!("{me}/c"), 1);
    let packet = ["a", "never", "b"].iter().fold(subscribe(6), |packet, f| packet.filter(&format!("{me}/{f}"), 0));
    subscriber.send(&packet.undo());
    subscriber.expect(&[0xb0, 2, 0, 6]);
    for topic in ["a", "b", "c"] {
        publisher.publish(&format!("{me}/{topic}"), 1, b"p");
    }
    subscriber.take_message(&format!("{me}/c"), b"p");
    subscriber.expect_nothing();
}

fn what_is_in_flight_is_completed(target: &Target) {
    let me = "v311-what_is_in_flight_is_completed";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in [1, 2] {
        publisher.publish(me, qos, &[qos]);
    }
    let sent: Vec<Message> = (0..2).map(|_| message(&mut client)).collect();
    client.send(&subscribe(5).filter(me, 0).undo());
    client.expect_unsuback(5, &[]);
    client.send(&packet::ack(Ack::Pubrec, sent[1].id));
    client.expect_ack(Ack::Pubrel, sent[1].id, 0);
    client.drop_connection();
    let (mut client, _) = open(target, &lasting(me));
    let again = client.take_message(me, &[1]);
    assert_eq!((again.id, again.dup), (sent[0].id, true));
    client.expect_ack(Ack::Pubrel, sent[1].id, 0);
    client.send(&packet::ack(Ack::Pubcomp, sent[1].id));
    client.expect_nothing();
}
