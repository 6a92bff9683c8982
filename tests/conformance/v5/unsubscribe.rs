//! 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_filter_is_a_string, "MQTT5-3.10.3-1"),
        case!(without_a_filter_it_is_a_protocol_error, "MQTT5-3.10.3-2"),
        case!(filters_are_compared_letter_by_letter, "MQTT5-3.10.4-1"),
        case!(nothing_new_comes_afterwards, "MQTT5-3.10.4-2"),
        case!(exchanges_that_have_begun_are_finished, "MQTT5-3.10.4-3"),
        case!(every_unsubscribe_is_answered, "MQTT5-3.10.4-4", "MQTT5-3.10.4-5"),
        case!(a_code_for_each_filter_in_order, "MQTT5-3.10.4-6", "MQTT5-3.11.3-1", "MQTT5-3.11.3-2"),
        case!(it_outlasts_the_connection),
    ]
}

fn undo(client: &mut Raw, filter: &str, code: u8) {
    client.send(&subscribe(4).filter(filter, 0).undo());
    client.expect_unsuback(4, &[code]);
}

fn a_filter_is_a_string(target: &Target) {
    for rest in [&b"\0\x01\xff"[..], b"\0\x09a", b"\0"] {
        let mut client = clean(target, "unsubscribe-a_filter_is");
        client.send(&packet::frame(0xA2, [&b"\0\x01\0"[..], rest].concat()));
        client.expect_disconnect(0x81);
    }
}

fn without_a_filter_it_is_a_protocol_error(target: &Target) {
    for (id, reason, filters) in [(1, 0x82, 0), (0, 0x81, 1)] {
        let mut client = clean(target, "unsubscribe-without_a_filter");
        let packet = (0..filters).fold(subscribe(id), |p, _| p.filter("a", 0));
        client.send(&packet.undo());
        client.expect_disconnect(reason);
    }
}

fn filters_are_compared_letter_by_letter(target: &Target) {
    let me = "filters_are_compared";
    let (mut subscriber, mut publisher) = pair(target, me, "filters_are_compared/+", 1);
    for other in
        ["filters_are_compared/#", "filters_are_compared/a", "Filters_are_compared/+", "filters_are_compared/+/"]
    {
        undo(&mut subscriber, other, 0x11);
    }
    publisher.publish("filters_are_compared/a", 1, b"still");
    subscriber.take_message("filters_are_compared/a", b"still");
    undo(&mut subscriber, "filters_are_compared/+", 0);
    publisher.publish("filters_are_compared/a", 1, b"no more");
    subscriber.expect_nothing();
}

fn nothing_new_comes_afterwards(target: &Target) {
    let me = "nothing_new_comes";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    subscriber.subscribe("nothing_new_comes/other", 0);
    undo(&mut subscriber, me, 0);
    for qos in 0..3 {
        publisher.publish(me, qos, b"x");
    }
    publisher.publish("nothing_new_comes/other", 0, b"other");
    subscriber.expect_message("nothing_new_comes/other", b"other");
    subscriber.expect_nothing();
}

fn exchanges_that_have_begun_are_finished(target: &Target) {
    let me = "exchanges_that_have_begun";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"1");
    publisher.publish(me, 2, b"2");
    let one = subscriber.expect_message(me, b"1");
    let two = subscriber.expect_message(me, b"2");
    undo(&mut subscriber, me, 0);
    subscriber.send(&packet::ack(Ack::Pubrec, two.id));
    subscriber.expect_ack(Ack::Pubrel, two.id, 0);
    subscriber.drop_connection();
    let mut subscriber = open(target, &lasting(me));
    assert!(subscriber.take_message(me, b"1").id == one.id);
    subscriber.expect_ack(Ack::Pubrel, two.id, 0);
    subscriber.send(&packet::ack(Ack::Pubcomp, two.id));
    subscriber.expect_nothing();
}

fn every_unsubscribe_is_answered(target: &Target) {
    let me = "every_unsubscribe_is_answered";
    for packet in [connect(me), lasting(me)] {
        let mut client = open(target, &packet);
        client.send(&[subscribe(0xFFFE).filter(me, 0).undo(), subscribe(2).filter(me, 0).undo()].concat());
        client.expect_unsuback(0xFFFE, &[0x11]);
        client.expect_unsuback(2, &[0x11]);
        client.leave();
    }
}

fn a_code_for_each_filter_in_order(target: &Target) {
    let me = "unsubscribe-a_code_for_each";
    let mut client = clean(target, me);
    client.subscribe("unsubscribe-a_code/1", 0);
    client.subscribe("unsubscribe-a_code/#", 0);
    let filters = ["unsubscribe-a_code/2", "unsubscribe-a_code/1", "unsubscribe-a_code/1", "unsubscribe-a_code/#"];
    client.send(&filters.iter().fold(subscribe(9), |p, filter| p.filter(filter, 0)).undo());
    client.expect_unsuback(9, &[0x11, 0, 0x11, 0]);
    let mut publisher = clean(target, "unsubscribe-a_code-publisher");
    publisher.publish("unsubscribe-a_code/1", 0, b"x");
    client.expect_nothing();
}

fn it_outlasts_the_connection(target: &Target) {
    let me = "it_outlasts_the_connection";
    let mut client = open(target, &lasting(me));
    client.subscribe(me, 1);
    undo(&mut client, me, 0);
    client.leave();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    let mut client = open(target, &lasting(me));
    client.subscribe(me, 1);
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"y");
    client.take_message(me, b"y");
}
