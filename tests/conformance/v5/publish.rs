//! 3.3: PUBLISH, its flags, topic, expiry and aliases.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(dup_is_not_forwarded, "MQTT5-3.3.1-3", "MQTT5-4.3.2-2", "MQTT5-4.3.3-2"),
        case!(dup_at_qos_0_is_malformed, "MQTT5-3.3.1-2"),
        case!(qos_3_is_malformed, "MQTT5-3.3.1-4"),
        case!(the_topic_is_a_string, "MQTT5-3.3.2-1"),
        case!(a_topic_with_a_wildcard_is_refused, "MQTT5-3.3.2-2", "MQTT5-4.7.0-1", "MQTT5-4.7.3-1"),
        case!(each_qos_has_its_answer, "MQTT5-3.3.4-1", "MQTT5-4.3.2-4", "MQTT5-4.3.3-8", "MQTT5-4.3.3-11"),
        case!(what_remains_of_the_expiry_is_sent_on, "MQTT5-3.3.2-6"),
        case!(an_expired_message_is_not_delivered, "MQTT5-3.3.2-5"),
        case!(a_message_that_expires_behind_a_full_window_is_not_delivered, "MQTT5-3.3.2-5"),
        case!(an_expired_retained_message_is_not_delivered, "MQTT5-3.3.2-5"),
        case!(every_alias_up_to_the_maximum_is_taken, "MQTT5-3.3.2-12"),
        case!(an_alias_out_of_range_ends_the_connection, "MQTT5-3.3.2-8"),
        case!(an_alias_is_the_connections_own, "MQTT5-3.3.2-7"),
        case!(an_alias_can_be_given_another_topic),
        case!(the_broker_uses_no_more_aliases_than_allowed, "MQTT5-3.1.2-26", "MQTT5-3.3.2-11", "MQTT5-3.3.2-8"),
        case!(without_a_maximum_the_broker_uses_no_alias, "MQTT5-3.1.2-27"),
        case!(a_subscription_identifier_from_a_client_is_a_protocol_error),
        case!(nobody_who_listens_is_said),
        case!(the_brokers_own_topics_are_refused),
    ]
}

fn dup_is_not_forwarded(target: &Target) {
    let me = "dup_is_not_forwarded";
    let (mut subscriber, mut publisher) = pair(target, me, me, 2);
    for (qos, id) in [(1, 10), (2, 20)] {
        publisher.publish_packet(qos, id, &publish(me, b"x").qos(qos, id).dup().packet());
        let message = subscriber.take_message(me, b"x");
        assert_eq!((message.dup, message.qos), (false, qos));
    }
}

fn dup_at_qos_0_is_malformed(target: &Target) {
    let me = "dup_at_qos_0";
    let mut client = clean(target, me);
    client.send(&publish(me, b"").dup().packet());
    client.expect_disconnect(0x81);
}

fn qos_3_is_malformed(target: &Target) {
    let me = "qos_3_is_malformed";
    let mut client = clean(target, me);
    client.send(&publish(me, b"").qos(3, 1).packet());
    client.expect_disconnect(0x81);
}

fn the_topic_is_a_string(target: &Target) {
    // Longer than the packet; the packet identifier missing behind it.
    for text in ["30 04 00 09 74 00", "32 03 00 01 74", "30 00", "30 01 00"] {
        let mut client = clean(target, "the_topic_is_a_string");
        client.send_hex(text);
        client.expect_disconnect(0x81);
    }
}

fn a_topic_with_a_wildcard_is_refused(target: &Target) {
    let me = "a_topic_with_a_wildcard";
    for (topic, reason) in [("#", 0x90), ("a/+/b", 0x90), ("a#", 0x90), ("+", 0x90), ("", 0x82)] {
        for qos in 0..3 {
            let mut client = clean(target, me);
            client.send(&publish(topic, b"").qos(qos, 1).packet());
            client.expect_disconnect(reason);
        }
    }
}

fn each_qos_has_its_answer(target: &Target) {
    let me = "each_qos_has_its_answer";
    let (mut subscriber, mut publisher) = pair(target, me, me, 0);
    publisher.send(&publish(me, b"0").packet());
    publisher.expect_nothing();
    publisher.send(&publish(me, b"1").qos(1, 7).packet());
    publisher.expect(&[0x40, 2, 0, 7]);
    publisher.send(&publish(me, b"2").qos(2, 8).packet());
    publisher.expect(&[0x50, 2, 0, 8]);
    publisher.send(&packet::ack(Ack::Pubrel, 8));
    publisher.expect(&[0x70, 2, 0, 8]);
    for payload in [b"0", b"1", b"2"] {
        subscriber.expect_message(me, payload);
    }
}

fn expiry(message: &Message) -> Option<u32> {
    message.properties.iter().find_map(|p| if let Property::MessageExpiry(s) = p { Some(*s) } else { None })
}

fn what_remains_of_the_expiry_is_sent_on(target: &Target) {
    let me = "what_remains_of_the_expiry";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    let timed = |payload| publish(me, payload).qos(1, 1).with(Property::MessageExpiry(1000)).packet();
    publisher.publish_packet(1, 1, &timed(b"at once"));
    assert!(matches!(expiry(&subscriber.take_message(me, b"at once")), Some(990..=1000)));
    subscriber.leave();
    publisher.publish_packet(1, 1, &timed(b"later"));
    publisher.publish(me, 1, b"without");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let mut subscriber = open(target, &lasting(me));
    let rest = expiry(&subscriber.take_message(me, b"later"));
    assert!(matches!(rest, Some(900..=998)), "{rest:?}");
    assert_eq!(expiry(&subscriber.take_message(me, b"without")), None);
}

fn an_expired_message_is_not_delivered(target: &Target) {
    let me = "an_expired_message";
    let mut subscriber = open(target, &lasting(me));
    subscriber.subscribe(me, 2);
    subscriber.leave();
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (qos, id) in [(1, 1), (2, 2)] {
        let timed = publish(me, b"late").qos(qos, id).with(Property::MessageExpiry(1));
        publisher.publish_packet(qos, id, &timed.packet());
    }
    publisher.publish(me, 1, b"lasting");
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let mut subscriber = open(target, &lasting(me));
    subscriber.take_message(me, b"lasting");
    subscriber.expect_nothing();
}

fn a_message_that_expires_behind_a_full_window_is_not_delivered(target: &Target) {
    let me = "a_message_that_expires";
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (n, session) in [connect(me), lasting(me)].into_iter().enumerate() {
        let topic = format!("{me}/{n}");
        let mut subscriber = open(target, &session.with(Property::ReceiveMaximum(1)));
        subscriber.subscribe(&topic, 1);
        publisher.publish(&topic, 1, b"first");
        let first = subscriber.expect_message(&topic, b"first");
        let timed = publish(&topic, b"late").qos(1, 1).with(Property::MessageExpiry(1));
        publisher.publish_packet(1, 1, &timed.packet());
        publisher.publish(&topic, 1, b"last");
        std::thread::sleep(std::time::Duration::from_millis(1200));
        subscriber.send(&packet::ack(Ack::Puback, first.id));
        subscriber.take_message(&topic, b"last");
        subscriber.leave();
    }
}

fn an_expired_retained_message_is_not_delivered(target: &Target) {
    let me = "an_expired_retained_message";
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (seconds, topic) in [(1, "an_expired_retained_message/short"), (1000, "an_expired_retained_message/long")] {
        let timed = publish(topic, b"x").qos(1, 1).retain().with(Property::MessageExpiry(seconds));
        publisher.publish_packet(1, 1, &timed.packet());
    }
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let mut late = clean(target, me);
    late.subscribe("an_expired_retained_message/+", 0);
    let rest = expiry(&late.expect_message("an_expired_retained_message/long", b"x"));
    assert!(matches!(rest, Some(900..=999)), "{rest:?}");
    late.expect_nothing();
    publisher.publish_packet(1, 1, &publish("an_expired_retained_message/long", b"").qos(1, 1).retain().packet());
}

fn alias_maximum(target: &Target) -> u16 {
    let (_client, _, properties) = Raw::open(target.port, &connect(""));
    let found = properties.iter().find_map(|p| if let Property::TopicAliasMaximum(n) = p { Some(*n) } else { None });
    found.expect("a Topic Alias Maximum")
}

fn every_alias_up_to_the_maximum_is_taken(target: &Target) {
    let me = "every_alias";
    let (mut subscriber, mut publisher) = pair(target, me, "every_alias/+", 2);
    let max = alias_maximum(target);
    for n in 1..=max {
        publisher.send(&publish(&format!("{me}/{n}"), b"named").with(Property::TopicAlias(n)).packet());
    }
    for n in (1..=max).rev() {
        let id = n + 1;
        publisher.publish_packet(1, id, &publish("", b"alias").qos(1, id).with(Property::TopicAlias(n)).packet());
    }
    for (n, payload) in (1..=max).map(|n| (n, b"named")).chain((1..=max).rev().map(|n| (n, b"alias"))) {
        let message = subscriber.take_message(&format!("{me}/{n}"), payload);
        assert_eq!(message.properties, [], "the alias is not sent on");
    }
}

fn an_alias_out_of_range_ends_the_connection(target: &Target) {
    let me = "an_alias_out_of_range";
    for (alias, reason) in [(0, 0x94), (alias_maximum(target) + 1, 0x94), (u16::MAX, 0x94)] {
        let mut client = clean(target, me);
        client.send(&publish(me, b"").with(Property::TopicAlias(alias)).packet());
        client.expect_disconnect(reason);
    }
    // One that stands for nothing.
    let mut client = clean(target, me);
    client.send(&publish("", b"").with(Property::TopicAlias(1)).packet());
    client.expect_disconnect(0x82);
}

fn an_alias_is_the_connections_own(target: &Target) {
    let me = "an_alias_is_the_connections";
    let mut client = open(target, &lasting(me));
    client.send(&publish(me, b"").with(Property::TopicAlias(1)).packet());
    client.expect_nothing();
    client.leave();
    let (mut client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    client.send(&publish("", b"").with(Property::TopicAlias(1)).packet());
    client.expect_disconnect(0x82);
}

fn an_alias_can_be_given_another_topic(target: &Target) {
    let me = "an_alias_can_be_given";
    let (mut subscriber, mut publisher) = pair(target, me, "an_alias_can_be_given/+", 0);
    let with_alias = |topic: &str| publish(topic, b"x").with(Property::TopicAlias(3)).packet();
    let [one, two] = ["an_alias_can_be_given/1", "an_alias_can_be_given/2"];
    publisher.send(&[with_alias(one), with_alias(""), with_alias(two), with_alias("")].concat());
    for topic in [one, one, two, two] {
        subscriber.expect_message(topic, b"x");
    }
}

/// Topic and alias of each message as they were sent, with five topics in turn, twice.
fn aliases_of_the_broker(target: &Target, me: &str, connect: &Connect) -> Vec<(String, Option<u16>)> {
    let mut subscriber = open(target, connect);
    subscriber.subscribe(&format!("{me}/+"), 1);
    let mut publisher = clean(target, &format!("{me}-publisher"));
    let mut seen = Vec::new();
    for n in 0..10 {
        publisher.publish(&format!("{me}/{}", n % 5), 1, b"x");
        let Packet::Publish(message) = subscriber.receive() else { panic!("not a PUBLISH") };
        subscriber.send(&packet::ack(Ack::Puback, message.id));
        let alias =
            message.properties.iter().find_map(|p| if let Property::TopicAlias(n) = p { Some(*n) } else { None });
        seen.push((message.topic, alias));
    }
    seen
}

fn the_broker_uses_no_more_aliases_than_allowed(target: &Target) {
    let me = "the_broker_uses_no_more";
    let seen = aliases_of_the_broker(target, me, &connect(me).with(Property::TopicAliasMaximum(3)));
    let mut topics: std::collections::HashMap<u16, String> = std::collections::HashMap::new();
    for (n, (topic, alias)) in seen.iter().enumerate() {
        assert!(alias.is_none_or(|alias| (1..=3).contains(&alias)), "{alias:?}");
        let name = match (topic.as_str(), alias) {
            ("", Some(alias)) => topics.get(alias).expect("an alias that was given a topic").clone(),
            (topic, Some(alias)) => {
                topics.insert(*alias, topic.to_owned());
                topic.to_owned()
            }
            (topic, None) => topic.to_owned(),
        };
        assert_eq!(name, format!("{me}/{}", n % 5));
    }
    assert_eq!(topics.len(), 3, "it uses what it may");
}

fn without_a_maximum_the_broker_uses_no_alias(target: &Target) {
    let me = "without_a_maximum";
    for asked in [connect(me), connect(me).with(Property::TopicAliasMaximum(0))] {
        let seen = aliases_of_the_broker(target, me, &asked);
        assert!(seen.iter().all(|(topic, alias)| !topic.is_empty() && alias.is_none()), "{seen:?}");
    }
}

fn a_subscription_identifier_from_a_client_is_a_protocol_error(target: &Target) {
    let me = "a_subscription_identifier_from";
    let mut client = clean(target, me);
    client.send(&publish(me, b"").with(Property::SubscriptionId(1)).packet());
    client.expect_disconnect(0x82);
}

fn nobody_who_listens_is_said(target: &Target) {
    let me = "nobody_who_listens";
    let mut client = clean(target, me);
    client.send(&publish(me, b"").qos(1, 1).packet());
    client.expect_ack(Ack::Puback, 1, 0x10);
    client.send(&publish(me, b"").qos(2, 2).packet());
    client.expect_ack(Ack::Pubrec, 2, 0x10);
    client.send(&packet::ack(Ack::Pubrel, 2));
    client.expect_ack(Ack::Pubcomp, 2, 0);
}

fn the_brokers_own_topics_are_refused(target: &Target) {
    let mut watcher = clean(target, "the_brokers_own_topics-watcher");
    watcher.subscribe("$SYS/the_brokers_own_topics", 0);
    let mut client = clean(target, "the_brokers_own_topics");
    client.send(&publish("$SYS/the_brokers_own_topics", b"").qos(1, 1).packet());
    client.expect_ack(Ack::Puback, 1, 0x87);
    client.send(&publish("$SYS/the_brokers_own_topics", b"").qos(2, 1).packet());
    client.expect_ack(Ack::Pubrec, 1, 0x87);
    client.publish("$SYS/the_brokers_own_topics", 0, b"");
    // Neither through a will.
    let will = Will::new("$SYS/the_brokers_own_topics", b"gone");
    // It is taken and discarded: others' bridges have one there.
    let mut willing = Raw::open(target.port, &connect("the_brokers_own_topics-will").will(will)).0;
    willing.send(&packet::ack(Ack::Puback, 0));
    willing.expect_disconnect(0x81);
    watcher.expect_nothing();
    // `$share` is no part of a topic.
    client.send(&publish("$share/g/the_brokers_own_topics", b"").qos(1, 3).packet());
    client.expect_ack(Ack::Puback, 3, 0x90);
}
