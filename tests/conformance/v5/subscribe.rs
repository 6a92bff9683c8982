//! 3.8 and 3.9: SUBSCRIBE and SUBACK; 3.3.4: who gets what.

use super::*;
use forebay_tests::packet::build::NO_LOCAL;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_filter_is_a_string, "MQTT5-3.8.3-1"),
        case!(without_a_filter_it_is_a_protocol_error, "MQTT5-3.8.3-2"),
        case!(no_local_spares_the_publisher, "MQTT5-3.8.3-3"),
        case!(no_local_holds_for_a_will_and_over_a_reconnect, "MQTT5-3.8.3-3"),
        case!(no_local_on_a_shared_subscription_is_a_protocol_error, "MQTT5-3.8.3-4"),
        case!(reserved_options_are_malformed, "MQTT5-3.8.3-5"),
        case!(qos_3_is_a_protocol_error),
        case!(every_subscribe_is_answered, "MQTT5-3.8.4-1", "MQTT5-3.8.4-2"),
        case!(the_same_filter_replaces_a_subscription, "MQTT5-3.8.4-3", "MQTT5-3.8.4-4"),
        case!(
            a_code_for_each_filter_in_order,
            "MQTT5-3.8.4-5",
            "MQTT5-3.8.4-6",
            "MQTT5-3.8.4-7",
            "MQTT5-3.9.3-1",
            "MQTT5-3.9.3-2"
        ),
        case!(the_lower_qos_counts, "MQTT5-3.8.4-8"),
        case!(only_what_matches_is_sent, "MQTT5-3.3.2-3", "MQTT5-4.5.0-1"),
        case!(overlapping_subscriptions_get_the_highest_qos, "MQTT5-3.3.4-2"),
        case!(the_identifiers_of_all_matches_are_sent, "MQTT5-3.3.4-3", "MQTT5-3.3.4-4"),
        case!(the_identifier_is_the_newest_and_may_go),
        case!(identifiers_are_kept_with_queued_messages, "MQTT5-3.3.4-3"),
        case!(an_identifier_of_0_is_a_protocol_error),
        case!(the_largest_identifier_is_taken, "MQTT5-3.3.4-3"),
    ]
}

fn refused(target: &Target, me: &str, packet: &[u8], reason: u8) {
    let mut client = clean(target, me);
    client.send(packet);
    client.expect_disconnect(reason);
}

fn a_filter_is_a_string(target: &Target) {
    for rest in [&b"\0\x01\xff\0"[..], b"\0\x09a\0", b"\0\x01", b"\0\x01a"] {
        let body = [&b"\0\x01\0"[..], rest].concat();
        refused(target, "a_filter_is_a_string", &packet::frame(0x82, body), 0x81);
    }
}

fn without_a_filter_it_is_a_protocol_error(target: &Target) {
    refused(target, "without_a_filter", &subscribe(1).packet(), 0x82);
    // Packet identifier 0 is no identifier.
    refused(target, "without_a_filter", &subscribe(0).filter("a", 0).packet(), 0x81);
}

fn no_local_spares_the_publisher(target: &Target) {
    let me = "no_local_spares";
    let (mut other, mut client) = pair(target, me, me, 2);
    client.subscribe(me, 2 | NO_LOCAL);
    for qos in 0..3 {
        client.publish(me, qos, b"own");
        other.take_message(me, b"own");
    }
    client.expect_nothing();
    other.publish(me, 1, b"another's");
    other.take_message(me, b"another's");
    client.take_message(me, b"another's");
    // A second subscription without it lets one's own pass, and is all that applies to them.
    let filter = subscribe(2).filter(me, 2 | NO_LOCAL).with(Property::SubscriptionId(7));
    client.send(&filter.packet());
    client.expect_suback(2, &[2]);
    client.subscribe("no_local_spares/#", 0);
    client.publish(me, 1, b"own");
    other.take_message(me, b"own");
    let own = client.take_message(me, b"own");
    assert_eq!((own.qos, own.properties.as_slice()), (0, &[][..]));
    client.expect_nothing();
    other.publish(me, 1, b"another's");
    other.take_message(me, b"another's");
    let message = client.take_message(me, b"another's");
    assert_eq!((message.qos, message.properties.as_slice()), (1, &[Property::SubscriptionId(7)][..]));
}

fn no_local_holds_for_a_will_and_over_a_reconnect(target: &Target) {
    let me = "no_local_holds";
    let (mut watcher, _) = pair(target, me, me, 0);
    let mut client = open(target, &lasting(me).will(Will::new(me, b"gone").qos(1)));
    client.subscribe(me, 1 | NO_LOCAL);
    client.publish(me, 1, b"own");
    watcher.expect_message(me, b"own");
    client.drop_connection();
    watcher.expect_message(me, b"gone");
    let mut client = open(target, &lasting(me));
    client.publish(me, 1, b"own again");
    watcher.expect_message(me, b"own again");
    watcher.publish(me, 1, b"another's");
    client.take_message(me, b"another's");
}

fn no_local_on_a_shared_subscription_is_a_protocol_error(target: &Target) {
    let packet = subscribe(1).filter("a", 0).filter("$share/g/a", 1 | NO_LOCAL).packet();
    refused(target, "no_local_on_a_shared", &packet, 0x82);
}

fn reserved_options_are_malformed(target: &Target) {
    for options in [0x40, 0x80, 0xC0, 0x41] {
        refused(target, "reserved_options", &subscribe(1).filter("a", options).packet(), 0x81);
    }
}

fn qos_3_is_a_protocol_error(target: &Target) {
    refused(target, "qos_3_is_a_protocol_error", &subscribe(1).filter("a", 3).packet(), 0x82);
}

fn every_subscribe_is_answered(target: &Target) {
    let me = "every_subscribe_is_answered";
    for packet in [connect(me), lasting(me)] {
        let mut client = open(target, &packet);
        client.send(&(1..=9).flat_map(|id| subscribe(id).filter(me, 1).packet()).collect::<Vec<_>>());
        (1..=9).for_each(|id| client.expect_suback(id, &[1]));
        client.leave();
    }
}

fn the_same_filter_replaces_a_subscription(target: &Target) {
    let me = "the_same_filter_replaces";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    publisher.publish(me, 2, b"at 2");
    assert_eq!(subscriber.take_message(me, b"at 2").qos, 2);
    subscriber.subscribe(me, 0);
    publisher.publish(me, 2, b"at 0");
    assert_eq!(subscriber.take_message(me, b"at 0").qos, 0);
    subscriber.expect_nothing();
    // Nothing is lost while it is replaced again and again.
    for n in 0..100_u8 {
        subscriber.send(&subscribe(3).filter(me, 1).packet());
        publisher.send(&publish(me, &[n]).qos(1, 9).packet());
        publisher.expect_ack(Ack::Puback, 9, 0);
    }
    let mut next = 0;
    for packet in subscriber.receive_all() {
        match packet {
            Packet::Publish(message) => {
                assert_eq!(message.payload, [next]);
                next += 1;
            }
            other => assert!(matches!(other, Packet::Suback(3, ..)), "{other:?}"),
        }
    }
    assert_eq!(next, 100);
}

fn a_code_for_each_filter_in_order(target: &Target) {
    let me = "a_code_for_each_filter";
    let mut client = clean(target, me);
    // More levels than the broker takes.
    let deep = vec!["+"; 129].join("/");
    let packet = subscribe(7)
        .filter("a_code_for_each_filter/1", 1)
        .filter(&deep, 2)
        .filter("a_code_for_each_filter/2", 2)
        .filter(&format!("$share/x/{deep}"), 0)
        .filter("a_code_for_each_filter/0", 0);
    client.send(&packet.packet());
    client.expect_suback(7, &[1, 0x8F, 2, 0x8F, 0]);
    // Each as if it had come alone.
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for qos in 0..3 {
        let topic = format!("{me}/{qos}");
        publisher.publish(&topic, 2, b"x");
        assert_eq!(client.take_message(&topic, b"x").qos, qos);
    }
}

fn the_lower_qos_counts(target: &Target) {
    let me = "the_lower_qos_counts_for";
    for asked in 0..3 {
        let (mut subscriber, mut publisher) = pair(target, me, me, asked);
        for sent in 0..3 {
            publisher.publish(me, sent, &[sent]);
            assert_eq!(subscriber.take_message(me, &[sent]).qos, sent.min(asked), "sent {sent}, asked {asked}");
        }
        subscriber.expect_nothing();
        subscriber.leave();
        publisher.leave();
    }
}

fn only_what_matches_is_sent(target: &Target) {
    let me = "only_what_matches";
    let topics = ["a", "a/b", "a/b/c", "a/c", "", "/a"].map(|rest| format!("{me}/{rest}"));
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (filter, found) in [
        ("a", &[0][..]),
        ("+", &[0, 4]),
        ("a/+", &[1, 3]),
        ("a/#", &[0, 1, 2, 3]),
        ("+/b/#", &[1, 2]),
        ("+/+", &[1, 3, 5]),
        ("", &[4]),
        ("/+", &[5]),
        ("b", &[]),
    ] {
        let mut there = clean(target, me);
        there.subscribe(&format!("{me}/{filter}"), 1);
        let mut away = open(target, &lasting(&format!("{me}-away")));
        away.subscribe(&format!("{me}/{filter}"), 1);
        away.leave();
        topics.iter().for_each(|topic| publisher.publish(topic, 1, topic.as_bytes()));
        let mut away = open(target, &lasting(&format!("{me}-away")));
        for n in found {
            there.take_message(&topics[*n], topics[*n].as_bytes());
            away.take_message(&topics[*n], topics[*n].as_bytes());
        }
        there.expect_nothing();
        away.expect_nothing();
        there.leave();
        away.leave();
        open(target, &connect(&format!("{me}-away"))).leave();
    }
}

fn overlapping_subscriptions_get_the_highest_qos(target: &Target) {
    let me = "overlapping_subscriptions";
    let (mut subscriber, mut publisher) = pair(target, me, "overlapping_subscriptions/#", 0);
    subscriber.subscribe("overlapping_subscriptions/+", 2);
    subscriber.subscribe("overlapping_subscriptions/a", 1);
    for qos in 0..3 {
        publisher.publish("overlapping_subscriptions/a", qos, b"x");
        let all = [subscriber.take_message("overlapping_subscriptions/a", b"x").qos];
        assert_eq!(all, [qos], "one copy, at the highest QoS");
        subscriber.expect_nothing();
    }
}

fn identifiers(message: &Message) -> Vec<u32> {
    let found =
        message.properties.iter().filter_map(|p| if let Property::SubscriptionId(n) = p { Some(*n) } else { None });
    let mut found: Vec<u32> = found.collect();
    found.sort_unstable();
    found
}

fn with_identifier(client: &mut Raw, filter: &str, options: u8, identifier: u32) {
    client.send(&subscribe(8).filter(filter, options).with(Property::SubscriptionId(identifier)).packet());
    client.expect_suback(8, &[options & 3]);
}

fn the_identifiers_of_all_matches_are_sent(target: &Target) {
    let me = "the_identifiers_of_all";
    let (mut subscriber, mut publisher) = pair(target, me, "the_identifiers_of_all/a/b", 2);
    with_identifier(&mut subscriber, "the_identifiers_of_all/#", 1, 7);
    with_identifier(&mut subscriber, "the_identifiers_of_all/+/b", 0, 300);
    with_identifier(&mut subscriber, "the_identifiers_of_all/other", 0, 9);
    for qos in 0..3 {
        publisher.publish("the_identifiers_of_all/a/b", qos, b"x");
        let message = subscriber.take_message("the_identifiers_of_all/a/b", b"x");
        assert_eq!((identifiers(&message), message.qos), (vec![7, 300], qos));
        publisher.publish("the_identifiers_of_all/c", qos, b"x");
        assert_eq!(identifiers(&subscriber.take_message("the_identifiers_of_all/c", b"x")), [7]);
    }
    // Retained messages have the identifier of the subscription that brings them.
    let kept = "the_identifiers_of_all/other";
    let mut other = clean(target, &format!("{me}-other"));
    publisher.publish_packet(1, 1, &publish(kept, b"kept").qos(1, 1).retain().packet());
    with_identifier(&mut other, kept, 1, 11);
    // SUBACK came first; retained messages may come before it as well, but not in this session.
    assert_eq!(identifiers(&other.take_message(kept, b"kept")), [11]);
    publisher.publish_packet(1, 1, &publish(kept, b"").qos(1, 1).retain().packet());
}

fn the_identifier_is_the_newest_and_may_go(target: &Target) {
    let me = "the_identifier_is_the_newest";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    for (identifier, found) in [(Some(1), &[1][..]), (Some(2), &[2]), (None, &[]), (Some(3), &[3])] {
        match identifier {
            Some(identifier) => with_identifier(&mut subscriber, me, 0, identifier),
            None => subscriber.subscribe(me, 0),
        }
        publisher.publish(me, 0, b"x");
        assert_eq!(identifiers(&subscriber.expect_message(me, b"x")), found);
    }
}

fn identifiers_are_kept_with_queued_messages(target: &Target) {
    let me = "identifiers_are_kept";
    let mut subscriber = open(target, &lasting(me));
    with_identifier(&mut subscriber, me, 1, 5);
    with_identifier(&mut subscriber, "identifiers_are_kept/#", 1, 6);
    subscriber.leave();
    clean(target, &format!("{me}-publisher")).publish(me, 1, b"x");
    let mut subscriber = open(target, &lasting(me));
    assert_eq!(identifiers(&subscriber.take_message(me, b"x")), [5, 6]);
}

fn an_identifier_of_0_is_a_protocol_error(target: &Target) {
    let packet = subscribe(1).filter("a", 0).with(Property::SubscriptionId(0)).packet();
    refused(target, "an_identifier_of_0", &packet, 0x82);
}

fn the_largest_identifier_is_taken(target: &Target) {
    let me = "the_largest_identifier";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    with_identifier(&mut subscriber, me, 0, 268_435_455);
    publisher.publish(me, 0, b"x");
    assert_eq!(identifiers(&subscriber.expect_message(me, b"x")), [268_435_455]);
}
