//! The flows of QoS 1 and 2, both ways (3.3.4, 4.3).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(each_qos_has_its_answer, "MQTT-3.3.4-1", "MQTT-2.3.1-6", "MQTT-4.3.2-2", "MQTT-4.3.3-2"),
        case!(after_puback_the_identifier_is_free, "MQTT-4.3.2-2"),
        case!(until_pubrel_a_repetition_is_no_second_message, "MQTT-4.3.3-2"),
        case!(after_pubcomp_the_identifier_is_free, "MQTT-4.3.3-2"),
        case!(acks_come_in_the_order_of_their_publishes),
        case!(the_broker_sends_qos_1_by_the_rules, "MQTT-4.3.2-1", "MQTT-2.3.1-1"),
        case!(the_broker_sends_qos_2_by_the_rules, "MQTT-4.3.3-1", "MQTT-2.3.1-6"),
        case!(a_repeated_pubrec_gets_a_pubrel, "MQTT-4.3.3-1"),
    ]
}

fn each_qos_has_its_answer(target: &Target) {
    let me = "v311-each_qos_has_its_answer";
    let mut raw = clean(target, me);
    raw.send(&publish(me, b"0").packet());
    raw.expect_nothing();
    raw.send(&publish(me, b"1").qos(1, 0x0102).packet());
    raw.expect(&[0x40, 2, 1, 2]);
    raw.send(&publish(me, b"2").qos(2, 0x0304).packet());
    raw.expect(&[0x50, 2, 3, 4]);
    raw.send(&[0x62, 2, 3, 4]);
    raw.expect(&[0x70, 2, 3, 4]);
    raw.send(&publish(me, b"max").qos(1, u16::MAX).packet());
    raw.expect(&[0x40, 2, 255, 255]);
}

fn after_puback_the_identifier_is_free(target: &Target) {
    let me = "v311-after_puback_the_identifier_is_free";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    for dup in [false, true, true] {
        let packet = publish(me, b"p").qos(1, 7);
        publisher.publish_packet(1, 7, &if dup { packet.dup() } else { packet }.packet());
        // A message of its own each time, whatever DUP says.
        subscriber.take_message(me, b"p");
    }
}

fn until_pubrel_a_repetition_is_no_second_message(target: &Target) {
    let me = "v311-until_pubrel_a_repetition_is_no_second_message";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    publisher.send(&publish(me, b"once").qos(2, 7).packet());
    publisher.expect_ack(Ack::Pubrec, 7, 0);
    for _ in 0..3 {
        publisher.send(&publish(me, b"once").qos(2, 7).dup().packet());
        publisher.expect_ack(Ack::Pubrec, 7, 0);
    }
    // Two in one write.
    publisher.send(&publish(me, b"once").qos(2, 7).packet().repeat(2));
    publisher.expect_ack(Ack::Pubrec, 7, 0);
    publisher.expect_ack(Ack::Pubrec, 7, 0);
    for _ in 0..2 {
        publisher.send(&packet::ack(Ack::Pubrel, 7));
        publisher.expect_ack(Ack::Pubcomp, 7, 0);
    }
    publisher.publish(me, 2, b"next");
    subscriber.take_message(me, b"once");
    subscriber.take_message(me, b"next");
}

fn after_pubcomp_the_identifier_is_free(target: &Target) {
    let me = "v311-after_pubcomp_the_identifier_is_free";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    for n in 0..3u8 {
        publisher.publish_packet(2, 7, &publish(me, &[n]).qos(2, 7).dup().packet());
        subscriber.take_message(me, &[n]);
    }
}

fn acks_come_in_the_order_of_their_publishes(target: &Target) {
    let me = "v311-acks_come_in_the_order_of_their_publishes";
    let (mut raw, _) = open(target, &lasting(me));
    let all: Vec<u8> = (1..=50u16).flat_map(|id| publish(me, b"p").qos(1 + (id % 2) as u8, id).packet()).collect();
    raw.send(&all);
    for id in 1..=50u16 {
        raw.expect_ack(if id % 2 == 0 { Ack::Puback } else { Ack::Pubrec }, id, 0);
    }
    clean(target, me).leave();
}

fn the_broker_sends_qos_1_by_the_rules(target: &Target) {
    let me = "v311-the_broker_sends_qos_1_by_the_rules";
    let (mut subscriber, mut publisher) = pair(target, me, me, 1);
    let mut ids = Vec::new();
    for n in 0..10u8 {
        publisher.publish(me, 1, &[n]);
        let message = subscriber.expect_message(me, &[n]);
        assert!(message.qos == 1 && !message.dup && message.id != 0);
        assert!(!ids.contains(&message.id), "an identifier that is in use");
        ids.push(message.id);
    }
    for id in ids {
        subscriber.send(&packet::ack(Ack::Puback, id));
    }
    // Nothing is repeated on a connection that lives.
    subscriber.expect_nothing();
}

fn the_broker_sends_qos_2_by_the_rules(target: &Target) {
    let me = "v311-the_broker_sends_qos_2_by_the_rules";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    let mut ids = Vec::new();
    for n in 0..5u8 {
        publisher.publish(me, 2, &[n]);
        let message = subscriber.expect_message(me, &[n]);
        assert!(message.qos == 2 && !message.dup && message.id != 0);
        assert!(!ids.contains(&message.id), "an identifier that is in use");
        ids.push(message.id);
    }
    for &id in &ids {
        subscriber.send(&packet::ack(Ack::Pubrec, id));
        subscriber.expect_ack(Ack::Pubrel, id, 0);
    }
    for &id in &ids {
        subscriber.send(&packet::ack(Ack::Pubcomp, id));
    }
    subscriber.expect_nothing();
}

fn a_repeated_pubrec_gets_a_pubrel(target: &Target) {
    let me = "v311-a_repeated_pubrec_gets_a_pubrel";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    publisher.publish(me, 2, b"p");
    let id = subscriber.expect_message(me, b"p").id;
    for _ in 0..3 {
        subscriber.send(&packet::ack(Ack::Pubrec, id));
        subscriber.expect_ack(Ack::Pubrel, id, 0);
    }
    subscriber.send(&packet::ack(Ack::Pubcomp, id));
    subscriber.expect_nothing();
}
