//! Retained messages (3.3.1.3).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_retained_message_and_its_qos_are_kept, "MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8"),
        case!(the_last_one_of_each_topic_is_sent, "MQTT-3.3.1-6"),
        case!(qos_0_discards_what_was_retained, "MQTT-3.3.1-7"),
        case!(an_established_subscription_sees_retain_0, "MQTT-3.3.1-9"),
        case!(an_empty_one_is_delivered_and_removes, "MQTT-3.3.1-10", "MQTT-3.3.1-11"),
        case!(retain_0_changes_nothing, "MQTT-3.3.1-12"),
        case!(a_retained_message_outlives_its_session, "MQTT-3.1.2-7"),
    ]
}

/// What a new subscription with QoS 2 gets, until nothing more comes.
#[track_caller]
fn retained(target: &Target, me: &str, filter: &str) -> Vec<Message> {
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(filter, 2);
    let mut all = Vec::new();
    loop {
        late.send(&packet::PINGREQ);
        match late.receive() {
            Packet::Pingresp => return all,
            Packet::Publish(message) => {
                match message.qos {
                    1 => late.send(&packet::ack(Ack::Puback, message.id)),
                    2 => late.send(&packet::ack(Ack::Pubrec, message.id)),
                    _ => {}
                }
                all.push(message);
            }
            Packet::Ack(..) => {}
            other => panic!("instead of a retained message: {other:?}"),
        }
        while !matches!(late.receive_answer(), Packet::Pingresp) {}
    }
}

fn a_retained_message_and_its_qos_are_kept(target: &Target) {
    let me = "v311-a_retained_message_and_its_qos_are_kept";
    let mut publisher = clean(target, me);
    for qos in 0..3u8 {
        publisher.publish_packet(qos, 3, &publish(me, &[qos]).qos(qos, 3).retain().packet());
        for granted in 0..3u8 {
            let mut late = clean(target, &format!("{me}-late"));
            late.subscribe(me, granted);
            let kept = late.take_message(me, &[qos]);
            assert_eq!((kept.retain, kept.qos, kept.dup), (true, qos.min(granted), false));
        }
    }
}

fn the_last_one_of_each_topic_is_sent(target: &Target) {
    let me = "v311-the_last_one_of_each_topic_is_sent";
    let mut publisher = clean(target, me);
    for (topic, payload) in [("a", b"1"), ("b", b"2"), ("a", b"3"), ("a/c", b"4")] {
        retain(&mut publisher, &format!("{me}/{topic}"), payload);
    }
    let mut all: Vec<(String, Vec<u8>)> =
        retained(target, me, &format!("{me}/#")).into_iter().map(|m| (m.topic, m.payload)).collect();
    all.sort();
    let wanted = [("a", b"3"), ("a/c", b"4"), ("b", b"2")].map(|(t, p)| (format!("{me}/{t}"), p.to_vec()));
    assert_eq!(all, wanted);
}

fn qos_0_discards_what_was_retained(target: &Target) {
    let me = "v311-qos_0_discards_what_was_retained";
    let mut publisher = clean(target, me);
    retain(&mut publisher, me, b"old");
    publisher.publish_packet(0, 0, &publish(me, b"new").retain().packet());
    let all = retained(target, me, me);
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].payload[..], all[0].qos), (&b"new"[..], 0));
}

fn an_established_subscription_sees_retain_0(target: &Target) {
    let me = "v311-an_established_subscription_sees_retain_0";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    retain(&mut publisher, me, b"p");
    assert!(!subscriber.take_message(me, b"p").retain);
}

fn an_empty_one_is_delivered_and_removes(target: &Target) {
    let me = "v311-an_empty_one_is_delivered_and_removes";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    retain(&mut publisher, me, b"p");
    retain(&mut publisher, me, b"");
    subscriber.take_message(me, b"p");
    assert!(!subscriber.take_message(me, b"").retain);
    assert_eq!(retained(target, me, me), []);
    // Where there was none, an empty one is not kept either.
    retain(&mut publisher, &format!("{me}/none"), b"");
    assert_eq!(retained(target, me, &format!("{me}/#")), []);
}

fn retain_0_changes_nothing(target: &Target) {
    let me = "v311-retain_0_changes_nothing";
    let mut publisher = clean(target, me);
    publisher.publish(me, 1, b"not kept");
    assert_eq!(retained(target, me, me), []);
    retain(&mut publisher, me, b"kept");
    publisher.publish(me, 1, b"not kept");
    publisher.publish(me, 1, b"");
    let all = retained(target, me, me);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].payload, b"kept");
}

fn a_retained_message_outlives_its_session(target: &Target) {
    let me = "v311-a_retained_message_outlives_its_session";
    let mut publisher = clean(target, me);
    retain(&mut publisher, me, b"kept");
    publisher.leave();
    clean(target, me).leave();
    assert_eq!(retained(target, me, me).len(), 1);
}
