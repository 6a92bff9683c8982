//! PUBLISH: what reaches a subscriber, and how (3.3, 4.5, 4.6).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(qos_0_goes_without_an_identifier, "MQTT-2.3.1-5", "MQTT-4.3.1-1", "MQTT-3.3.1-2", "MQTT-3.3.2-1"),
        case!(dup_says_nothing_of_the_publishers, "MQTT-3.3.1-3"),
        case!(a_topic_name_is_sent_as_it_came, "MQTT-3.3.2-3"),
        case!(a_byte_order_mark_is_a_character, "MQTT-1.5.3-3"),
        case!(every_subscriber_gets_the_message, "MQTT-4.5.0-1"),
        case!(the_order_of_a_topic_is_kept, "MQTT-4.6.0-5", "MQTT-4.6.0-6"),
        case!(the_order_is_kept_over_a_resume, "MQTT-4.6.0-6"),
        case!(a_payload_may_be_empty_or_large),
    ]
}

fn qos_0_goes_without_an_identifier(target: &Target) {
    let me = "v311-qos_0_goes_without_an_identifier";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    let bytes = publish(me, b"p").packet();
    publisher.send(&bytes);
    // To the byte: QoS 0, DUP 0, the topic, and no identifier.
    subscriber.expect(&bytes);
}

fn dup_says_nothing_of_the_publishers(target: &Target) {
    let me = "v311-dup_says_nothing_of_the_publishers";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    for qos in [1, 2] {
        publisher.publish_packet(qos, 3, &publish(me, &[qos]).qos(qos, 3).dup().packet());
        assert!(!subscriber.take_message(me, &[qos]).dup);
    }
}

fn a_topic_name_is_sent_as_it_came(target: &Target) {
    let me = "v311-a_topic_name_is_sent_as_it_came";
    let (mut subscriber, mut publisher) = pair(target, me, &format!("{me}/+/#"), 0);
    for topic in [format!("{me}/a"), format!("{me}/a/b"), format!("{me}//"), format!("{me}/é/水")] {
        publisher.publish(&topic, 0, b"p");
        subscriber.take_message(&topic, b"p");
    }
}

fn a_byte_order_mark_is_a_character(target: &Target) {
    let me = "v311-a_byte_order_mark_is_a_character";
    let (mut with, mut publisher) = pair(target, me, &format!("{me}/\u{feff}x"), 0);
    let mut without = clean(target, &format!("{me}-without"));
    without.subscribe(&format!("{me}/x"), 0);
    publisher.publish(&format!("{me}/\u{feff}x"), 1, b"p");
    with.take_message(&format!("{me}/\u{feff}x"), b"p");
    without.expect_nothing();
}

fn every_subscriber_gets_the_message(target: &Target) {
    let me = "v311-every_subscriber_gets_the_message";
    let mut subscribers: Vec<Raw> = (0..5).map(|n| clean(target, &format!("{me}-{n}"))).collect();
    for (n, raw) in subscribers.iter_mut().enumerate() {
        raw.subscribe(me, n as u8 % 3);
    }
    let mut publisher = clean(target, me);
    publisher.subscribe(me, 0);
    publisher.publish(me, 2, b"to all");
    for (n, raw) in subscribers.iter_mut().enumerate() {
        assert_eq!(raw.take_message(me, b"to all").qos, n as u8 % 3);
    }
    // Its publisher as well: 3.1.1 has no No Local.
    publisher.take_message(me, b"to all");
}

fn the_order_of_a_topic_is_kept(target: &Target) {
    let me = "v311-the_order_of_a_topic_is_kept";
    for qos in 0..3u8 {
        let (mut subscriber, mut publisher) = pair(target, &format!("{me}-{qos}"), &format!("{me}/{qos}"), qos);
        let topic = format!("{me}/{qos}");
        let all: Vec<u8> = (1..=100u16).flat_map(|n| publish(&topic, &n.to_be_bytes()).qos(qos, n).packet()).collect();
        publisher.send(&all);
        for n in 1..=100u16 {
            subscriber.take_message(&topic, &n.to_be_bytes());
        }
    }
}

fn the_order_is_kept_over_a_resume(target: &Target) {
    let me = "v311-the_order_is_kept_over_a_resume";
    let (mut client, _) = open(target, &lasting(me));
    client.subscribe(me, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..60u8 {
        publisher.publish(me, 1, &[n]);
        if n == 20 {
            // Three are seen and not acknowledged.
            for seen in 0..3u8 {
                client.expect_message(me, &[seen]);
            }
            client.drop_connection();
            client = open(target, &lasting(me)).0;
        }
    }
    for n in 0..60u8 {
        client.take_message(me, &[n]);
    }
}

fn a_payload_may_be_empty_or_large(target: &Target) {
    let me = "v311-a_payload_may_be_empty_or_large";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    for payload in [Vec::new(), vec![0; 127], vec![1; 16_384], vec![2; 900_000]] {
        publisher.publish(me, 1, &payload);
        subscriber.take_message(me, &payload);
    }
}
