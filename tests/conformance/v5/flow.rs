//! 4.9 and 3.1.2.11: Receive Maximum and Maximum Packet Size, both ways.

use forebay_tests::broker::Broker;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_broker_keeps_to_the_receive_maximum, "MQTT5-3.3.4-9", "MQTT5-4.9.0-1", "MQTT5-4.9.0-2"),
        case!(other_packets_pass_a_used_up_quota, "MQTT5-3.3.4-10", "MQTT5-4.9.0-3"),
        case!(a_refusal_gives_the_quota_back, "MQTT5-4.9.0-2"),
        case!(the_receive_maximum_counts_after_a_resume, "MQTT5-3.3.4-9"),
        case!(as_many_publishes_as_the_broker_allows_are_taken),
        case!(more_publishes_than_the_broker_allows_end_the_connection),
        case!(no_packet_is_larger_than_the_client_takes, "MQTT5-3.1.2-24"),
        case!(what_is_too_large_counts_as_sent, "MQTT5-3.1.2-25"),
        case!(what_is_too_large_after_a_resume_counts_as_sent, "MQTT5-3.1.2-25"),
        case!(an_answer_that_is_too_large_ends_the_connection, "MQTT5-3.1.2-24"),
        case!(an_alias_that_was_never_sent_is_not_used),
        case!(a_packet_larger_than_the_broker_takes_ends_the_connection),
    ]
}

fn the_broker_keeps_to_the_receive_maximum(target: &Target) {
    let me = "the_broker_keeps_to";
    for (max, qos) in [(1, 1), (1, 2), (5, 1), (5, 2)] {
        let mut subscriber = open(target, &connect(me).with(Property::ReceiveMaximum(max)));
        subscriber.subscribe(me, 2);
        let mut publisher = clean(target, &format!("{me}-publisher"));
        for n in 0..20_u8 {
            publisher.publish(me, qos, &[n]);
        }
        let mut waiting = std::collections::VecDeque::new();
        for n in 0..20_u8 {
            if waiting.len() == usize::from(max) {
                subscriber.expect_nothing();
                finish(&mut subscriber, qos, waiting.pop_front().unwrap());
            }
            let message = subscriber.expect_message(me, &[n]);
            assert_eq!(message.qos, qos);
            waiting.push_back(message.id);
        }
        subscriber.leave();
    }
}

/// Acknowledges a message to the end. At QoS 2 the quota comes back with PUBCOMP, not with PUBREC.
fn finish(subscriber: &mut Raw, qos: u8, id: u16) {
    if qos == 1 {
        return subscriber.send(&packet::ack(Ack::Puback, id));
    }
    subscriber.send(&packet::ack(Ack::Pubrec, id));
    subscriber.expect_ack(Ack::Pubrel, id, 0);
    subscriber.expect_nothing();
    subscriber.send(&packet::ack(Ack::Pubcomp, id));
}

fn other_packets_pass_a_used_up_quota(target: &Target) {
    let me = "other_packets_pass";
    let mut subscriber = open(target, &connect(me).with(Property::ReceiveMaximum(1)));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, b"1");
    publisher.publish(me, 1, b"2");
    let message = subscriber.expect_message(me, b"1");
    subscriber.expect_nothing();
    subscriber.send(&subscribe(5).filter("other_packets_pass/0", 0).packet());
    subscriber.expect_suback(5, &[0]);
    // QoS 0 needs no quota, nor does what the client publishes itself.
    publisher.publish("other_packets_pass/0", 0, b"0");
    subscriber.expect_message("other_packets_pass/0", b"0");
    subscriber.send(&publish("other_packets_pass/1", b"").qos(1, 1).packet());
    subscriber.expect_ack(Ack::Puback, 1, 0x10);
    subscriber.send(&subscribe(6).filter("other_packets_pass/0", 0).undo());
    subscriber.expect_unsuback(6, &[0]);
    subscriber.send(&packet::ack(Ack::Puback, message.id));
    subscriber.expect_message(me, b"2");
}

fn a_refusal_gives_the_quota_back(target: &Target) {
    let me = "a_refusal_gives";
    let mut subscriber = open(target, &connect(me).with(Property::ReceiveMaximum(1)));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (qos, payload) in [(1, b"1"), (2, b"2"), (1, b"3")] {
        publisher.publish(me, qos, payload);
    }
    for (kind, payload) in [(Ack::Puback, b"1"), (Ack::Pubrec, b"2"), (Ack::Puback, b"3")] {
        let message = subscriber.expect_message(me, payload);
        subscriber.expect_nothing();
        subscriber.send(&build::ack(kind, message.id, 0x83, &[]));
    }
    subscriber.expect_nothing();
}

fn the_receive_maximum_counts_after_a_resume(target: &Target) {
    let me = "the_receive_maximum_counts";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for n in 0..6_u8 {
        publisher.publish(me, 1, &[n]);
        subscriber.expect_message(me, &[n]);
    }
    subscriber.drop_connection();
    let mut subscriber = open(target, &lasting(me).with(Property::ReceiveMaximum(2)));
    for n in (0..6_u8).step_by(2) {
        let ids = [subscriber.expect_message(me, &[n]).id, subscriber.expect_message(me, &[n + 1]).id];
        subscriber.expect_nothing();
        for id in ids {
            subscriber.send(&packet::ack(Ack::Puback, id));
        }
    }
    subscriber.expect_nothing();
}

const TWENTY: &str = "[limits]\nreceive_maximum = 20\n";

fn as_many_publishes_as_the_broker_allows_are_taken(_: &Target) {
    let me = "as_many_publishes";
    let own = Broker::with_config(TWENTY);
    let (mut subscriber, _, properties) = Raw::open(own.port(), &lasting(me));
    assert!(properties.contains(&Property::ReceiveMaximum(20)));
    subscriber.subscribe(me, 2);
    // Durable ones wait for their commit, the others do not.
    subscriber.leave();
    for publisher in [lasting("as_many-durable"), connect("as_many-passing")] {
        for topic in [me, "as_many_publishes/nobody"] {
            for qos in [1, 2] {
                let (mut client, ..) = Raw::open(own.port(), &publisher);
                let all = (1..=20).map(|id| publish(topic, b"x").qos(qos, id).packet()).collect::<Vec<_>>().concat();
                // Neither SUBSCRIBE nor QoS 0 takes a place.
                let others = publish(topic, b"0").packet().repeat(30);
                client.send(&[subscribe(50).filter("nothing", 0).packet(), others, all].concat());
                client.expect_suback(50, &[0]);
                for id in 1..=20 {
                    let Packet::Ack(kind, came, 0 | 0x10, _) = client.receive() else { panic!("{id} was not taken") };
                    assert_eq!((kind, came), (if qos == 1 { Ack::Puback } else { Ack::Pubrec }, id));
                }
                if qos == 2 {
                    client.send(&(1..=20).flat_map(|id| packet::ack(Ack::Pubrel, id)).collect::<Vec<_>>());
                    (1..=20).for_each(|id| drop(client.expect_ack(Ack::Pubcomp, id, 0)));
                }
                client.leave();
            }
        }
    }
}

fn more_publishes_than_the_broker_allows_end_the_connection(_: &Target) {
    let me = "more_publishes";
    let own = Broker::with_config(TWENTY);
    let mut client = Raw::clean(own.port(), V5, me);
    // Not released: the identifiers stay taken.
    for id in 1..=20 {
        client.send(&publish(me, b"x").qos(2, id).packet());
        client.expect_ack(Ack::Pubrec, id, 0x10);
    }
    client.send(&publish(me, b"x").qos(2, 20).dup().packet());
    client.expect_ack(Ack::Pubrec, 20, 0);
    client.send(&publish(me, b"x").packet());
    client.expect_nothing();
    client.send(&publish(me, b"x").qos(2, 21).packet());
    client.expect_disconnect(0x93);
}

/// A payload with which a PUBLISH to `topic` with a packet identifier and no properties has so many bytes in all.
fn payload_for(topic: &str, total: usize) -> Vec<u8> {
    vec![b'x'; total - 2 - 2 - topic.len() - 2 - 1]
}

fn no_packet_is_larger_than_the_client_takes(target: &Target) {
    let me = "no_packet_is_larger";
    let mut subscriber = open(target, &connect(me).with(Property::MaximumPacketSize(100)));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, &payload_for(me, 101));
    publisher.publish(me, 2, &payload_for(me, 101));
    publisher.publish(me, 0, &payload_for(me, 103));
    publisher.publish(me, 1, &payload_for(me, 100));
    let message = subscriber.receive_bytes().unwrap();
    assert_eq!(message.len(), 100);
    subscriber.expect_nothing();
}

fn what_is_too_large_counts_as_sent(target: &Target) {
    let me = "what_is_too_large_counts";
    let small = Property::MaximumPacketSize(100);
    let mut subscriber = open(target, &lasting(me).with(small.clone()).with(Property::ReceiveMaximum(1)));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in 1..3 {
        publisher.publish(me, qos, &[0; 200]);
        publisher.publish(me, qos, b"small");
    }
    // It takes no part of the quota, and is not there when the session is resumed.
    subscriber.take_message(me, b"small");
    subscriber.take_message(me, b"small");
    subscriber.expect_nothing();
    subscriber.leave();
    resumes_with_nothing(target, me);
}

fn what_is_too_large_after_a_resume_counts_as_sent(target: &Target) {
    let me = "what_is_too_large_after";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in 1..3 {
        publisher.publish(me, qos, &[0; 200]);
        subscriber.expect_message(me, &[0; 200]);
    }
    publisher.publish(me, 1, b"small");
    subscriber.expect_message(me, b"small");
    subscriber.drop_connection();
    // The two that it has not acknowledged do not fit any more.
    let small = lasting(me).with(Property::MaximumPacketSize(100)).with(Property::ReceiveMaximum(1));
    let mut subscriber = open(target, &small);
    subscriber.take_message(me, b"small");
    publisher.publish(me, 1, b"next");
    subscriber.take_message(me, b"next");
    subscriber.expect_nothing();
    subscriber.leave();
    resumes_with_nothing(target, me);
}

fn an_answer_that_is_too_large_ends_the_connection(target: &Target) {
    let me = "an_answer_that_is_too_large";
    let many = |n: usize| (0..n).fold(subscribe(1), |p, _| p.filter(me, 0));
    for too_many in [many(36).packet(), many(36).undo()] {
        let mut client = open(target, &connect(me).keep_alive(60).with(Property::MaximumPacketSize(40)));
        client.send(&many(35).packet());
        client.expect_suback(1, &[0; 35]);
        client.send(&too_many);
        client.expect_disconnect(0x95);
    }
}

fn an_alias_that_was_never_sent_is_not_used(target: &Target) {
    let me = "an_alias_that_was_never_sent";
    let packet = connect(me).with(Property::TopicAliasMaximum(5)).with(Property::MaximumPacketSize(100));
    let mut subscriber = open(target, &packet);
    subscriber.subscribe(me, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    publisher.publish(me, 1, &[0; 200]);
    publisher.publish(me, 1, b"small");
    subscriber.take_message(me, b"small");
    publisher.publish(me, 1, b"again");
    assert_eq!(subscriber.take_message("", b"again").properties, [Property::TopicAlias(1)]);
}

fn a_packet_larger_than_the_broker_takes_ends_the_connection(_: &Target) {
    let me = "a_packet_larger";
    let own = Broker::with_config("[limits]\nmax_packet_size = \"1KiB\"\n");
    let (mut client, _, properties) = Raw::open(own.port(), &connect(me));
    assert!(properties.contains(&Property::MaximumPacketSize(1024)));
    let of = |total: usize| publish("t", &vec![0; total - 1 - 2 - 2 - 1 - 2 - 1]).qos(1, 1).packet();
    assert_eq!(of(1024).len(), 1024);
    client.send(&of(1024));
    client.expect_ack(Ack::Puback, 1, 0x10);
    client.send(&of(1025));
    client.expect_disconnect(0x95);
}
