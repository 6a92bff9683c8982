//! 4.3, 4.4, 4.6: the exchanges of QoS 1 and 2, repetition, order.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_message_is_owed_until_puback, "MQTT5-4.3.2-3", "MQTT5-4.4.0-1", "MQTT5-3.3.1-1"),
        case!(a_message_is_owed_until_pubrec, "MQTT5-4.3.3-3", "MQTT5-4.4.0-1", "MQTT5-3.3.1-1"),
        case!(pubrel_is_owed_until_pubcomp, "MQTT5-4.3.3-4", "MQTT5-4.3.3-5", "MQTT5-4.3.3-6", "MQTT5-4.4.0-1"),
        case!(nothing_is_repeated_within_a_connection, "MQTT5-4.4.0-1"),
        case!(an_identifier_is_new_after_puback, "MQTT5-4.3.2-5"),
        case!(a_repeated_qos_2_publish_is_one_message, "MQTT5-4.3.3-10"),
        case!(an_identifier_is_new_after_pubcomp, "MQTT5-4.3.3-12"),
        case!(an_identifier_is_new_after_a_refusal, "MQTT5-4.3.3-9"),
        case!(a_refused_message_is_over, "MQTT5-4.4.0-2", "MQTT5-4.3.3-4"),
        case!(pubrel_of_an_unknown_identifier_is_answered, "MQTT5-4.3.3-11", "MQTT5-3.7.2-1"),
        case!(pubrec_of_an_unknown_identifier_is_answered, "MQTT5-3.6.2-1"),
        case!(an_ack_of_the_wrong_kind_is_a_protocol_error),
        case!(a_refusing_pubrec_of_an_unknown_identifier_is_not_answered),
        case!(pubrel_is_repeated_after_a_resumption),
        case!(an_exchange_that_has_begun_does_not_expire, "MQTT5-4.3.3-7", "MQTT5-4.3.3-13"),
        case!(acks_come_in_the_order_of_what_they_acknowledge),
        case!(messages_of_one_topic_come_in_order, "MQTT5-4.6.0-5", "MQTT5-4.6.0-6"),
        case!(repetitions_come_in_the_first_order, "MQTT5-4.6.0-5"),
        case!(reason_codes_of_acks_are_checked, "MQTT5-3.4.2-1", "MQTT5-3.5.2-1"),
    ]
}

/// A session with a subscription to `me` at QoS 2, which has one message, not answered.
fn with_one(target: &Target, me: &str, qos: u8) -> (Raw, Message) {
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, qos, b"x");
    publisher.leave();
    let message = subscriber.expect_message(me, b"x");
    assert!(!message.dup && message.qos == qos);
    (subscriber, message)
}

fn again(target: &Target, me: &str) -> Raw {
    let (client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    client
}

fn a_message_is_owed_until_puback(target: &Target) {
    let me = "a_message_is_owed_until_puback";
    let (subscriber, message) = with_one(target, me, 1);
    subscriber.drop_connection();
    let mut subscriber = again(target, me);
    let repeated = subscriber.expect_message(me, b"x");
    assert_eq!(repeated, Message { dup: true, ..message });
    subscriber.send(&packet::ack(Ack::Puback, repeated.id));
    subscriber.expect_nothing();
    subscriber.leave();
    resumes_with_nothing(target, me);
}

fn a_message_is_owed_until_pubrec(target: &Target) {
    let me = "a_message_is_owed_until_pubrec";
    let (subscriber, message) = with_one(target, me, 2);
    subscriber.drop_connection();
    let mut subscriber = again(target, me);
    assert_eq!(subscriber.expect_message(me, b"x"), Message { dup: true, ..message });
}

fn pubrel_is_owed_until_pubcomp(target: &Target) {
    let me = "pubrel_is_owed_until_pubcomp";
    let (mut subscriber, message) = with_one(target, me, 2);
    subscriber.send(&packet::ack(Ack::Pubrec, message.id));
    subscriber.expect_ack(Ack::Pubrel, message.id, 0);
    subscriber.drop_connection();
    // The PUBLISH is never sent again, the PUBREL is.
    let mut subscriber = again(target, me);
    subscriber.expect_ack(Ack::Pubrel, message.id, 0);
    subscriber.expect_nothing();
    subscriber.drop_connection();
    let mut subscriber = again(target, me);
    subscriber.expect_ack(Ack::Pubrel, message.id, 0);
    subscriber.send(&packet::ack(Ack::Pubcomp, message.id));
    subscriber.expect_nothing();
    subscriber.leave();
    resumes_with_nothing(target, me);
}

fn nothing_is_repeated_within_a_connection(target: &Target) {
    let me = "nothing_is_repeated";
    let (mut one, _) = with_one(target, me, 1);
    let (mut two, message) = with_one(target, "nothing_is_repeated-2", 2);
    two.send(&packet::ack(Ack::Pubrec, message.id));
    two.expect_ack(Ack::Pubrel, message.id, 0);
    std::thread::sleep(std::time::Duration::from_secs(3));
    one.expect_nothing();
    two.expect_nothing();
}

fn an_identifier_is_new_after_puback(target: &Target) {
    let me = "an_identifier_is_new_after_puback";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    for _ in 0..2 {
        publisher.publish_packet(1, 5, &publish(me, b"x").qos(1, 5).dup().packet());
        subscriber.expect_message(me, b"x");
    }
}

fn a_repeated_qos_2_publish_is_one_message(target: &Target) {
    let me = "a_repeated_qos_2_publish";
    let mut subscriber = clean(target, &format!("{me}-subscriber"));
    subscriber.subscribe(me, 2);
    let mut publisher = open(target, &lasting(me));
    let first = publish(me, b"x").qos(2, 5);
    publisher.send(&first.packet());
    publisher.expect_ack(Ack::Pubrec, 5, 0);
    publisher.send(&first.clone().dup().packet());
    publisher.expect_ack(Ack::Pubrec, 5, 0);
    // Both in one segment, and over a lost connection.
    publisher.send(&[publish(me, b"y").qos(2, 6).packet(), publish(me, b"y").qos(2, 6).dup().packet()].concat());
    publisher.expect_ack(Ack::Pubrec, 6, 0);
    publisher.expect_ack(Ack::Pubrec, 6, 0);
    publisher.drop_connection();
    let mut publisher = again(target, me);
    publisher.send(&first.dup().packet());
    publisher.expect_ack(Ack::Pubrec, 5, 0);
    for id in [5, 6] {
        publisher.send(&packet::ack(Ack::Pubrel, id));
        publisher.expect_ack(Ack::Pubcomp, id, 0);
    }
    subscriber.take_message(me, b"x");
    subscriber.take_message(me, b"y");
    subscriber.expect_nothing();
}

fn an_identifier_is_new_after_pubcomp(target: &Target) {
    let me = "an_identifier_is_new_after_pubcomp";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    for _ in 0..2 {
        publisher.publish_packet(2, 5, &publish(me, b"x").qos(2, 5).dup().packet());
        subscriber.expect_message(me, b"x");
    }
}

fn an_identifier_is_new_after_a_refusal(target: &Target) {
    let me = "an_identifier_is_new_after_a_refusal";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    publisher.send(&publish("$SYS/refused", b"").qos(2, 5).packet());
    publisher.expect_ack(Ack::Pubrec, 5, 0x87);
    publisher.publish_packet(2, 5, &publish(me, b"x").qos(2, 5).packet());
    subscriber.expect_message(me, b"x");
    publisher.send(&packet::ack(Ack::Pubrel, 5));
    publisher.expect_ack(Ack::Pubcomp, 5, 0x92);
}

fn a_refused_message_is_over(target: &Target) {
    let me = "a_refused_message_is_over";
    for (n, (qos, kind)) in [(1, Ack::Puback), (2, Ack::Pubrec)].into_iter().enumerate() {
        for (m, reason) in [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99].into_iter().enumerate() {
            let me = format!("{me}-{n}-{m}");
            let (mut subscriber, message) = with_one(target, &me, qos);
            subscriber.send(&build::ack(kind, message.id, reason, &[]));
            // No PUBREL follows, and nothing is repeated.
            subscriber.expect_nothing();
            subscriber.leave();
            resumes_with_nothing(target, &me);
        }
    }
}

fn pubrel_of_an_unknown_identifier_is_answered(target: &Target) {
    let mut client = clean(target, "pubrel_of_an_unknown");
    client.send(&packet::ack(Ack::Pubrel, 77));
    client.expect(&[0x70, 3, 0, 77, 0x92]);
    client.send(&build::ack(Ack::Pubrel, 78, 0x92, &[Property::ReasonString("gone".into())]));
    client.expect(&[0x70, 3, 0, 78, 0x92]);
}

fn pubrec_of_an_unknown_identifier_is_answered(target: &Target) {
    let mut client = clean(target, "pubrec_of_an_unknown");
    client.send(&packet::ack(Ack::Pubrec, 77));
    client.expect(&[0x62, 3, 0, 77, 0x92]);
}

fn an_ack_of_the_wrong_kind_is_a_protocol_error(target: &Target) {
    let me = "an_ack_of_the_wrong_kind";
    // PUBREC and PUBCOMP for QoS 1; PUBACK for QoS 2, and PUBCOMP before there was a PUBREL.
    for (qos, kind) in [(1, Ack::Pubrec), (1, Ack::Pubcomp), (2, Ack::Puback), (2, Ack::Pubcomp)] {
        let me = format!("{me}-{qos}-{kind:?}");
        let (mut subscriber, message) = with_one(target, &me, qos);
        subscriber.send(&packet::ack(kind, message.id));
        subscriber.expect_disconnect(0x82);
        // The message is still owed.
        let mut subscriber = again(target, &me);
        assert_eq!(subscriber.take_message(&me, b"x").id, message.id);
    }
    // One of nothing that is in flight is ignored.
    let (mut subscriber, message) = with_one(target, me, 2);
    subscriber.send(&packet::ack(Ack::Puback, message.id.wrapping_add(100)));
    subscriber.expect_nothing();
    subscriber.send(&packet::ack(Ack::Pubrec, message.id));
    subscriber.expect_ack(Ack::Pubrel, message.id, 0);
}

fn a_refusing_pubrec_of_an_unknown_identifier_is_not_answered(target: &Target) {
    let mut client = clean(target, "a_refusing_pubrec_of_an_unknown");
    client.send(&build::ack(Ack::Pubrec, 77, 0x97, &[]));
    client.expect_nothing();
}

fn pubrel_is_repeated_after_a_resumption(target: &Target) {
    let me = "pubrel_is_repeated_after";
    let mut client = open(target, &lasting(me));
    client.publish(me, 2, b"x");
    client.drop_connection();
    // Its PUBCOMP may have been lost: 0x92 would make some clients publish it once more.
    let mut client = again(target, me);
    client.send(&packet::ack(Ack::Pubrel, 64_000));
    client.expect_ack(Ack::Pubcomp, 64_000, 0);
}

fn an_exchange_that_has_begun_does_not_expire(target: &Target) {
    let me = "an_exchange_that_has_begun";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    let timed = |payload: &[u8], id| publish(me, payload).qos(2, id).with(Property::MessageExpiry(4)).packet();
    publisher.publish_packet(2, 5, &timed(b"x", 5));
    let message = subscriber.expect_message(me, b"x");
    // The publisher's own exchange is half done when its message expires.
    publisher.send(&timed(b"y", 6));
    publisher.expect_ack(Ack::Pubrec, 6, 0);
    std::thread::sleep(std::time::Duration::from_millis(4500));
    publisher.send(&packet::ack(Ack::Pubrel, 6));
    publisher.expect_ack(Ack::Pubcomp, 6, 0);
    subscriber.drop_connection();
    let mut subscriber = again(target, me);
    let repeated = subscriber.expect_message(me, b"x");
    assert!(repeated.dup && repeated.id == message.id);
    subscriber.send(&packet::ack(Ack::Pubrec, message.id));
    let next = subscriber.expect_message(me, b"y");
    assert!(next.dup, "it was sent before it expired");
    subscriber.expect_ack(Ack::Pubrel, message.id, 0);
}

fn acks_come_in_the_order_of_what_they_acknowledge(target: &Target) {
    let me = "acks_come_in_the_order";
    let mut absent = open(target, &lasting(&format!("{me}-absent")));
    absent.subscribe("acks_come_in_the_order/durable", 2);
    absent.leave();
    let mut publisher = clean(target, me);
    // Some wait for a commit, others for nothing.
    let topic = |n: u16| if n.is_multiple_of(3) { "acks_come_in_the_order/durable" } else { me };
    let packets = (1..=60).map(|n| publish(topic(n), b"x").qos(1 + (n % 2) as u8, n).packet());
    publisher.send(&packets.collect::<Vec<_>>().concat());
    for n in 1..=60 {
        let (kind, reason) = (if n % 2 == 0 { Ack::Puback } else { Ack::Pubrec }, if n % 3 == 0 { 0 } else { 0x10 });
        publisher.expect_ack(kind, n, reason);
    }
}

fn messages_of_one_topic_come_in_order(target: &Target) {
    let me = "messages_of_one_topic";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    // First the subscriber is there, then it is away, in turn; each QoS keeps an order of its own.
    for round in 0..4_u8 {
        let away = round % 2 == 1;
        if away {
            subscriber.leave();
            fifty_of_each(&mut publisher, me, round);
            subscriber = again(target, me);
        } else {
            fifty_of_each(&mut publisher, me, round);
        }
        let mut next = [0; 2];
        let mut released = 0;
        while next != [50; 2] || released < 50 {
            match subscriber.receive() {
                Packet::Ack(Ack::Pubrel, id, 0, _) => {
                    released += 1;
                    subscriber.send(&packet::ack(Ack::Pubcomp, id));
                }
                Packet::Publish(message) => {
                    let place = &mut next[usize::from(message.qos) - 1];
                    assert_eq!(message.payload, [round, message.qos, *place]);
                    *place += 1;
                    let kind = if message.qos == 1 { Ack::Puback } else { Ack::Pubrec };
                    subscriber.send(&packet::ack(kind, message.id));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Publishes 50 messages at QoS 1 and 50 at QoS 2, all at once, to the end of each exchange.
fn fifty_of_each(publisher: &mut Raw, topic: &str, round: u8) {
    for (qos, kind) in [(1, Ack::Puback), (2, Ack::Pubrec)] {
        let packets = (0..50_u8).map(|n| publish(topic, &[round, qos, n]).qos(qos, u16::from(n) + 1).packet());
        publisher.send(&packets.collect::<Vec<_>>().concat());
        for id in 1..=50 {
            publisher.expect_ack(kind, id, 0);
        }
        for id in (1..=50).filter(|_| qos == 2) {
            publisher.send(&packet::ack(Ack::Pubrel, id));
            publisher.expect_ack(Ack::Pubcomp, id, 0);
        }
    }
}

fn repetitions_come_in_the_first_order(target: &Target) {
    let me = "repetitions_come_in_the_first";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..20_u8 {
        publisher.publish(me, 1, &[n]);
    }
    let first: Vec<u16> = (0..20_u8).map(|n| subscriber.expect_message(me, &[n]).id).collect();
    // Acknowledged out of order, and not all.
    for n in [17, 3, 8] {
        subscriber.send(&packet::ack(Ack::Puback, first[n]));
    }
    subscriber.expect_nothing();
    subscriber.drop_connection();
    publisher.publish(me, 1, b"new");
    let mut subscriber = again(target, me);
    for n in (0..20_u8).filter(|n| ![17, 3, 8].contains(n)) {
        let message = subscriber.expect_message(me, &[n]);
        assert!(message.dup && message.id == first[usize::from(n)], "{n}: {message:?}");
    }
    // With DUP if the broker had not yet seen the end of the connection.
    subscriber.expect_message(me, b"new");
}

fn reason_codes_of_acks_are_checked(target: &Target) {
    let me = "reason_codes_of_acks";
    // Of PUBACK and PUBREC, of PUBREL and PUBCOMP; one that does not exist.
    for (kind, reason, end) in [
        (Ack::Puback, 0x92, 0x82),
        (Ack::Puback, 0x01, 0x82),
        (Ack::Pubrec, 0x8E, 0x82),
        (Ack::Pubrel, 0x97, 0x82),
        (Ack::Pubcomp, 0x10, 0x82),
        (Ack::Puback, 0x55, 0x81),
    ] {
        let mut client = clean(target, me);
        client.send(&build::ack(kind, 1, reason, &[]));
        client.expect_disconnect(end);
    }
}
