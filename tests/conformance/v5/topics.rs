//! 4.7: topic names and filters.

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_multi_level_wildcard_is_last_and_alone, "MQTT5-4.7.1-1"),
        case!(a_single_level_wildcard_takes_a_whole_level, "MQTT5-4.7.1-2"),
        case!(leading_wildcards_do_not_match_dollar_topics, "MQTT5-4.7.2-1"),
        case!(an_empty_filter_is_refused, "MQTT5-4.7.3-1"),
        case!(the_longest_topic_is_served, "MQTT5-4.7.3-3"),
        case!(topics_are_compared_byte_by_byte, "MQTT5-4.7.3-4"),
        case!(a_topic_of_too_many_levels_is_refused),
    ]
}

#[track_caller]
fn filter(target: &Target, me: &str, filter: &str, code: u8) {
    let mut client = clean(target, &format!("{me}-filter"));
    client.send(&subscribe(1).filter(filter, 0).packet());
    client.expect_suback(1, &[code]);
    client.leave();
}

/// A filter that is none costs the connection, in SUBSCRIBE and in UNSUBSCRIBE.
#[track_caller]
fn malformed(target: &Target, me: &str, filter: &str) {
    for packet in [subscribe(1).filter(filter, 0).packet(), subscribe(1).filter(filter, 0).undo()] {
        let mut client = clean(target, &format!("{me}-malformed"));
        client.send(&packet);
        client.expect_disconnect(0x81);
    }
}

fn a_multi_level_wildcard_is_last_and_alone(target: &Target) {
    let mut client = clean(target, "a_multi_level_wildcard");
    for (filter, code) in [("#", 0), ("a/#", 0), ("/#", 0), ("+/#", 0)] {
        client.send(&subscribe(1).filter(filter, 0).packet());
        // What matches comes from other tests.
        let suback = loop {
            match client.receive() {
                Packet::Publish(_) => {}
                other => break other,
            }
        };
        assert_eq!(suback, Packet::Suback(1, vec![code], Vec::new()), "{filter}");
    }
}

fn a_single_level_wildcard_takes_a_whole_level(target: &Target) {
    let me = "a_single_level_wildcard";
    for text in ["a/+", "a/+/b"] {
        filter(target, me, text, 0);
    }
    for text in ["a+", "+a", "a/b+/c", "a/++"] {
        malformed(target, me, text);
    }
    let (mut subscriber, mut publisher) = pair(target, me, "a_single_level_wildcard/+/c", 1);
    for (topic, matches) in [("/b/c", true), ("//c", true), ("/b/b/c", false), ("/c", false), ("/b/c/", false)] {
        let topic = format!("{me}{topic}");
        publisher.publish(&topic, 1, b"x");
        if matches {
            subscriber.take_message(&topic, b"x");
        }
        subscriber.expect_nothing();
    }
}

fn leading_wildcards_do_not_match_dollar_topics(target: &Target) {
    let me = "leading_wildcards";
    let (mut subscriber, mut publisher) = pair(target, me, "+/leading_wildcards", 1);
    subscriber.subscribe("+/leading_wildcards/#", 1);
    let mut exact = clean(target, &format!("{me}-exact"));
    exact.subscribe("$dollar/leading_wildcards", 1);
    publisher.publish("$dollar/leading_wildcards", 1, b"hidden");
    publisher.publish("dollar/leading_wildcards", 1, b"seen");
    exact.take_message("$dollar/leading_wildcards", b"hidden");
    subscriber.take_message("dollar/leading_wildcards", b"seen");
    subscriber.expect_nothing();
    // Retained messages as well.
    publisher.publish_packet(1, 1, &publish("$dollar/leading_wildcards", b"kept").qos(1, 1).retain().packet());
    let mut late = clean(target, &format!("{me}-late"));
    late.subscribe("+/leading_wildcards/#", 0);
    late.expect_nothing();
    late.subscribe("$dollar/leading_wildcards/#", 0);
    late.expect_message("$dollar/leading_wildcards", b"kept");
    publisher.publish_packet(1, 1, &publish("$dollar/leading_wildcards", b"").qos(1, 1).retain().packet());
}

fn an_empty_filter_is_refused(target: &Target) {
    let me = "an_empty_filter";
    malformed(target, me, "");
    filter(target, me, "/", 0);
    filter(target, me, " ", 0);
}

fn the_longest_topic_is_served(target: &Target) {
    let me = "the_longest_topic";
    let topic = format!("{me}/{}", "x".repeat(65_535 - me.len() - 1));
    let (mut subscriber, mut publisher) = pair(target, me, &topic, 1);
    publisher.publish(&topic, 1, b"x");
    subscriber.take_message(&topic, b"x");
}

fn topics_are_compared_byte_by_byte(target: &Target) {
    let me = "topics_are_compared";
    // Upper case, a blank, composed and decomposed letters, an empty level: all are different topics.
    let topics = ["ä", "a\u{308}", "A", "a", "a ", "a/", "/a", "\u{fffd}"].map(|rest| format!("{me}/{rest}"));
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for topic in &topics {
        let mut subscriber = clean(target, me);
        subscriber.subscribe(topic, 1);
        topics.iter().for_each(|other| publisher.publish(other, 1, other.as_bytes()));
        subscriber.take_message(topic, topic.as_bytes());
        subscriber.expect_nothing();
        subscriber.leave();
    }
}

fn a_topic_of_too_many_levels_is_refused(target: &Target) {
    let me = "a_topic_of_too_many_levels";
    let mut client = clean(target, me);
    client.publish(&vec!["x"; 128].join("/"), 1, b"");
    client.send(&publish(&vec!["x"; 129].join("/"), b"").qos(1, 1).packet());
    client.expect_disconnect(0x90);
    filter(target, me, &vec!["+"; 129].join("/"), 0x8F);
}
