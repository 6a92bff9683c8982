//! SUBSCRIBE and SUBACK (3.8, 3.9).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(suback_answers_with_the_identifier, "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-2.3.1-7"),
        case!(a_code_for_each_filter_in_order, "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2"),
        case!(the_same_filter_replaces_the_subscription, "MQTT-3.8.4-3"),
        case!(replacing_interrupts_nothing, "MQTT-3.8.4-3"),
        case!(the_lower_qos_counts, "MQTT-3.8.4-6"),
        case!(overlapping_subscriptions_respect_the_highest_qos, "MQTT-3.3.5-1"),
    ]
}

fn suback_answers_with_the_identifier(target: &Target) {
    let me = "v311-suback_answers_with_the_identifier";
    let mut raw = clean(target, me);
    for id in [1u16, 0x0a0b, u16::MAX] {
        raw.send(&subscribe(id).filter(me, 1).packet());
        let [high, low] = id.to_be_bytes();
        raw.expect(&[0x90, 3, high, low, 1]);
    }
}

fn a_code_for_each_filter_in_order(target: &Target) {
    let me = "v311-a_code_for_each_filter_in_order";
    let (mut raw, mut publisher) = (clean(target, me), clean(target, &format!("{me}-publisher")));
    retain(&mut publisher, &format!("{me}/2"), b"kept");
    // One has more levels than the broker takes.
    let deep = vec!["+"; 128].join("/");
    let filters = ["2", &deep, "0", "1", "0/+"].map(|level| format!("{me}/{level}"));
    let packet = filters.iter().zip([2, 1, 0, 1, 2]).fold(subscribe(9), |packet, (f, qos)| packet.filter(f, qos));
    raw.send(&packet.packet());
    raw.expect(&[0x90, 7, 0, 9, 2, 0x80, 0, 1, 2]);
    raw.take_message(&format!("{me}/2"), b"kept");
    // Each of them is a subscription.
    for (topic, qos) in [("0", 0), ("1", 1), ("0/x", 2), ("2", 2)] {
        let topic = format!("{me}/{topic}");
        publisher.publish(&topic, 2, b"p");
        assert_eq!(raw.take_message(&topic, b"p").qos, qos);
    }
}

fn the_same_filter_replaces_the_subscription(target: &Target) {
    let me = "v311-the_same_filter_replaces_the_subscription";
    let (mut raw, mut publisher) = (clean(target, me), clean(target, &format!("{me}-publisher")));
    retain(&mut publisher, me, b"kept");
    for qos in [0, 1, 0, 2] {
        raw.subscribe(me, qos);
        // Sent again each time, and as retained.
        assert!(raw.take_message(me, b"kept").retain);
        publisher.publish(me, 2, b"p");
        assert_eq!(raw.take_message(me, b"p").qos, qos);
        raw.expect_nothing();
    }
}

fn replacing_interrupts_nothing(target: &Target) {
    let me = "v311-replacing_interrupts_nothing";
    let (mut raw, mut publisher) = pair(target, me, me, 1);
    let all: Vec<u8> = (1..=200u16).flat_map(|n| publish(me, &n.to_be_bytes()).qos(1, n).packet()).collect();
    publisher.send(&all);
    for _ in 0..10 {
        raw.subscribe(me, 1);
    }
    for n in 1..=200u16 {
        raw.take_message(me, &n.to_be_bytes());
    }
}

fn the_lower_qos_counts(target: &Target) {
    let me = "v311-the_lower_qos_counts";
    for granted in 0..3u8 {
        let topic = format!("{me}/{granted}");
        let (mut subscriber, mut publisher) = pair(target, &format!("{me}-{granted}"), &topic, granted);
        for qos in 0..3u8 {
            publisher.publish(&topic, qos, &[qos]);
            assert_eq!(subscriber.take_message(&topic, &[qos]).qos, qos.min(granted));
        }
    }
}

fn overlapping_subscriptions_respect_the_highest_qos(target: &Target) {
    let me = "v311-overlapping_subscriptions_respect_the_highest_qos";
    let (mut subscriber, mut publisher) = pair(target, me, &format!("{me}/#"), 0);
    subscriber.subscribe(&format!("{me}/+"), 2);
    subscriber.subscribe(&format!("{me}/a"), 1);
    publisher.publish(&format!("{me}/a"), 2, b"p");
    assert_eq!(subscriber.take_message(&format!("{me}/a"), b"p").qos, 2);
    // One copy, which the standard leaves to the server.
    subscriber.expect_nothing();
}
