//! The will (3.1.2.5 to 3.1.2.7, 3.14.4).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_lost_connection_publishes_the_will, "MQTT-3.1.2-8", "MQTT-3.1.2-9", "MQTT-3.1.2-14"),
        case!(a_broken_rule_publishes_the_will, "MQTT-3.1.2-8"),
        case!(disconnect_discards_the_will, "MQTT-3.14.4-3", "MQTT-3.1.2-10"),
        case!(a_will_is_published_once, "MQTT-3.1.2-10"),
        case!(without_a_will_nothing_is_published, "MQTT-3.1.2-12"),
        case!(will_retain_0_is_not_retained, "MQTT-3.1.2-16"),
        case!(will_retain_1_is_retained, "MQTT-3.1.2-17"),
        case!(an_empty_will_is_a_message),
    ]
}

fn a_lost_connection_publishes_the_will(target: &Target) {
    let me = "v311-a_lost_connection_publishes_the_will";
    let (mut subscriber, _publisher) = pair(target, me, me, 2);
    for qos in 0..3 {
        let (client, _) = open(target, &connect(&format!("{me}-{qos}")).will(Will::new(me, &[qos]).qos(qos)));
        subscriber.expect_nothing();
        client.drop_connection();
        assert_eq!(subscriber.take_message(me, &[qos]).qos, qos);
    }
}

fn a_broken_rule_publishes_the_will(target: &Target) {
    let me = "v311-a_broken_rule_publishes_the_will";
    let (mut subscriber, _publisher) = pair(target, me, me, 0);
    let (mut client, _) = open(target, &connect(me).will(Will::new(me, b"broken")));
    client.send(&[0xc1, 0]);
    client.expect_closed();
    subscriber.take_message(me, b"broken");
}

fn disconnect_discards_the_will(target: &Target) {
    let me = "v311-disconnect_discards_the_will";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    open(target, &connect(me).will(Will::new(me, b"never"))).0.leave();
    open(target, &lasting(me).will(Will::new(me, b"never"))).0.leave();
    // Its session, resumed, has it no more.
    open(target, &lasting(me)).0.drop_connection();
    clean(target, me).leave();
    publisher.publish(me, 1, b"next");
    subscriber.take_message(me, b"next");
}

fn a_will_is_published_once(target: &Target) {
    let me = "v311-a_will_is_published_once";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    open(target, &lasting(me).will(Will::new(me, b"once").qos(1))).0.drop_connection();
    subscriber.take_message(me, b"once");
    open(target, &lasting(me)).0.drop_connection();
    clean(target, me).leave();
    publisher.publish(me, 1, b"next");
    subscriber.take_message(me, b"next");
}

fn without_a_will_nothing_is_published(target: &Target) {
    let me = "v311-without_a_will_nothing_is_published";
    let mut subscriber = clean(target, &format!("{me}-subscriber"));
    subscriber.subscribe(&format!("{me}/#"), 0);
    clean(target, me).drop_connection();
    // The connection has ended when the next of this client is there.
    clean(target, me).leave();
    clean(target, me).publish(&format!("{me}/next"), 1, b"next");
    subscriber.take_message(&format!("{me}/next"), b"next");
}

fn will_retain_0_is_not_retained(target: &Target) {
    let me = "v311-will_retain_0_is_not_retained";
    let (mut subscriber, _publisher) = pair(target, me, me, 0);
    open(target, &connect(me).will(Will::new(me, b"gone"))).0.drop_connection();
    subscriber.take_message(me, b"gone");
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 0);
    late.expect_nothing();
}

fn will_retain_1_is_retained(target: &Target) {
    let me = "v311-will_retain_1_is_retained";
    let (mut subscriber, _publisher) = pair(target, me, me, 0);
    open(target, &connect(me).will(Will::new(me, b"kept").retain().qos(1))).0.drop_connection();
    assert!(!subscriber.take_message(me, b"kept").retain);
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe(me, 1);
    let kept = late.take_message(me, b"kept");
    assert_eq!((kept.retain, kept.qos), (true, 1));
}

fn an_empty_will_is_a_message(target: &Target) {
    let me = "v311-an_empty_will_is_a_message";
    let (mut subscriber, _publisher) = pair(target, me, me, 0);
    open(target, &connect(me).will(Will::new(me, b""))).0.drop_connection();
    subscriber.take_message(me, b"");
}
