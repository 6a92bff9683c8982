//! 3.3.1.3 and 3.8.3.1: retained messages.

use super::*;
use forebay_tests::packet::build::{RETAIN_AS_PUBLISHED, RETAIN_IF_NEW, RETAIN_NEVER};

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_newest_of_a_topic_is_kept, "MQTT5-3.3.1-5"),
        case!(an_empty_payload_removes_it, "MQTT5-3.3.1-6", "MQTT5-3.3.1-7"),
        case!(a_message_without_the_flag_changes_nothing, "MQTT5-3.3.1-8"),
        case!(retain_handling_0_always_sends_them, "MQTT5-3.3.1-9", "MQTT5-3.8.4-4"),
        case!(retain_handling_1_sends_them_to_a_new_subscription, "MQTT5-3.3.1-10"),
        case!(retain_handling_2_never_sends_them, "MQTT5-3.3.1-11"),
        case!(retain_as_published_0_clears_the_flag, "MQTT5-3.3.1-12"),
        case!(retain_as_published_1_keeps_the_flag, "MQTT5-3.3.1-13"),
        case!(a_shared_subscription_gets_none),
        case!(the_lower_qos_counts_for_them_as_well, "MQTT5-3.8.4-8"),
    ]
}

fn keep(client: &mut Raw, topic: &str, qos: u8, payload: &[u8]) {
    client.publish_packet(qos, 500, &publish(topic, payload).qos(qos, 500).retain().packet());
}

fn the_newest_of_a_topic_is_kept(target: &Target) {
    let me = "the_newest_of_a_topic";
    let mut client = clean(target, me);
    for (qos, payload) in [(0, b"old"), (1, b"mid"), (2, b"new")] {
        keep(&mut client, me, qos, payload);
        client.subscribe(me, 2);
        let message = client.take_message(me, payload);
        assert!(message.retain && message.qos == qos);
        client.send(&subscribe(1).filter(me, 0).undo());
        client.expect_unsuback(1, &[0]);
    }
    keep(&mut client, me, 1, b"");
}

fn an_empty_payload_removes_it(target: &Target) {
    let me = "an_empty_payload";
    let (mut subscriber, mut client) = pair(target, me, me, RETAIN_AS_PUBLISHED);
    keep(&mut client, me, 1, b"x");
    keep(&mut client, me, 1, b"");
    // It is a message like any other to those who are there.
    assert!(subscriber.expect_message(me, b"x").retain);
    assert!(subscriber.expect_message(me, b"").retain);
    client.subscribe(me, 0);
    client.expect_nothing();
}

fn a_message_without_the_flag_changes_nothing(target: &Target) {
    let me = "a_message_without_the_flag";
    let mut client = clean(target, me);
    keep(&mut client, me, 1, b"kept");
    client.publish(me, 1, b"passing");
    client.publish(me, 1, b"");
    client.subscribe(me, 1);
    client.take_message(me, b"kept");
    client.expect_nothing();
    let other = "a_message_without_the_flag/other";
    client.publish(other, 1, b"passing");
    client.subscribe(other, 1);
    client.expect_nothing();
    keep(&mut client, me, 0, b"");
}

fn retain_handling_0_always_sends_them(target: &Target) {
    let me = "retain_handling_0";
    let mut client = clean(target, me);
    keep(&mut client, "retain_handling_0/a", 1, b"a");
    keep(&mut client, "retain_handling_0/b/c", 1, b"bc");
    for filter in ["retain_handling_0/#", "retain_handling_0/#", "retain_handling_0/+/c"] {
        client.subscribe(filter, 0);
        let mut found: Vec<Vec<u8>> = Vec::new();
        for packet in client.receive_all() {
            let Packet::Publish(message) = packet else { panic!("{packet:?}") };
            assert!(message.retain);
            found.push(message.payload);
        }
        found.sort();
        let all: &[&[u8]] = if filter.ends_with('#') { &[b"a", b"bc"] } else { &[b"bc"] };
        assert_eq!(found, all);
    }
    let mut cleaner = clean(target, "retain_handling_0-cleaner");
    keep(&mut cleaner, "retain_handling_0/a", 1, b"");
    keep(&mut cleaner, "retain_handling_0/b/c", 1, b"");
}

fn retain_handling_1_sends_them_to_a_new_subscription(target: &Target) {
    let me = "retain_handling_1";
    let mut client = open(target, &lasting(me));
    keep(&mut client, me, 1, b"x");
    client.subscribe(me, 1 | RETAIN_IF_NEW);
    client.take_message(me, b"x");
    client.subscribe(me, 2 | RETAIN_IF_NEW);
    client.expect_nothing();
    client.leave();
    let mut client = open(target, &lasting(me));
    client.subscribe(me, 1 | RETAIN_IF_NEW);
    client.expect_nothing();
    client.send(&subscribe(1).filter(me, 0).undo());
    client.expect_unsuback(1, &[0]);
    client.subscribe(me, 1 | RETAIN_IF_NEW);
    client.take_message(me, b"x");
    keep(&mut clean(target, "retain_handling_1-cleaner"), me, 1, b"");
}

fn retain_handling_2_never_sends_them(target: &Target) {
    let me = "retain_handling_2";
    let mut client = clean(target, me);
    keep(&mut client, me, 1, b"x");
    client.subscribe(me, 1 | RETAIN_NEVER);
    client.expect_nothing();
    client.send(&subscribe(9).filter(me, RETAIN_NEVER | RETAIN_IF_NEW).packet());
    client.expect_disconnect(0x82);
    keep(&mut clean(target, "retain_handling_2-cleaner"), me, 1, b"");
}

fn retain_as_published_0_clears_the_flag(target: &Target) {
    let me = "retain_as_published_0";
    let (mut subscriber, mut client) = pair(target, me, me, 2);
    for qos in 0..3 {
        keep(&mut client, me, qos, b"x");
        assert!(!subscriber.take_message(me, b"x").retain, "QoS {qos}");
    }
    keep(&mut client, me, 1, b"");
}

fn retain_as_published_1_keeps_the_flag(target: &Target) {
    let me = "retain_as_published_1";
    let (mut subscriber, mut client) = pair(target, me, me, 2 | RETAIN_AS_PUBLISHED);
    for qos in 0..3 {
        keep(&mut client, me, qos, b"x");
        assert!(subscriber.take_message(me, b"x").retain, "QoS {qos}");
        client.publish(me, qos, b"y");
        assert!(!subscriber.take_message(me, b"y").retain, "QoS {qos}");
    }
    keep(&mut client, me, 1, b"");
}

fn a_shared_subscription_gets_none(target: &Target) {
    let me = "a_shared_subscription_gets";
    let mut client = clean(target, me);
    keep(&mut client, me, 1, b"x");
    client.subscribe("$share/g/a_shared_subscription_gets", 1);
    client.expect_nothing();
    keep(&mut clean(target, "a_shared_subscription_gets-cleaner"), me, 1, b"");
}

fn the_lower_qos_counts_for_them_as_well(target: &Target) {
    let me = "the_lower_qos_counts";
    let mut client = clean(target, me);
    for sent in 0..3 {
        keep(&mut client, me, sent, b"x");
        for asked in 0..3 {
            client.subscribe(me, asked);
            assert_eq!(client.take_message(me, b"x").qos, sent.min(asked));
        }
        client.send(&subscribe(1).filter(me, 0).undo());
        client.expect_unsuback(1, &[0]);
    }
    keep(&mut client, me, 1, b"");
}
