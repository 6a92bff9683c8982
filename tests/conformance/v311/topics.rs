//! Topic names and filters (4.7).

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(wildcards_match_as_the_standards_examples_say, "MQTT-4.7.1-2", "MQTT-4.7.1-3"),
        case!(a_leading_wildcard_does_not_match_a_dollar, "MQTT-4.7.2-1"),
        case!(one_character_is_enough, "MQTT-4.7.3-1"),
        case!(nothing_is_normalised, "MQTT-4.7.3-4"),
        case!(the_brokers_own_topics_are_under_sys),
    ]
}

fn wildcards_match_as_the_standards_examples_say(target: &Target) {
    let me = "v311-wildcards_match_as_the_standards_examples_say";
    let mut publisher = clean(target, &format!("{me}-publisher"));
    for (n, (filter, yes, no)) in [
        (
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/score/wimbledon"][..],
            &["sport/tennis"][..],
        ),
        ("sport/#", &["sport", "sport/", "sport/a/b"], &["sports", "Sport"]),
        (
            "sport/tennis/+",
            &["sport/tennis/player1", "sport/tennis/"],
            &["sport/tennis", "sport/tennis/player1/ranking"],
        ),
        ("sport/+", &["sport/"], &["sport"]),
        ("+/tennis/#", &["a/tennis", "/tennis/b"], &["tennis/b", "a/b/tennis"]),
        ("sport/+/player1", &["sport//player1", "sport/x/player1"], &["sport/player1"]),
        ("/+", &["/finance", "/"], &["finance", "a/finance"]),
        ("+/+", &["/finance", "a/b"], &["finance", "/a/b"]),
    ]
    .into_iter()
    .enumerate()
    {
        // Below a topic of its own, so that no other test's messages come.
        let below = |topic: &str| format!("{me}/{n}/{topic}");
        let mut subscriber = clean(target, &format!("{me}-{n}"));
        subscriber.subscribe(&below(filter), 1);
        for topic in no.iter().chain(yes) {
            publisher.publish(&below(topic), 1, b"p");
        }
        for topic in yes {
            subscriber.take_message(&below(topic), b"p");
        }
        subscriber.expect_nothing();
    }
}

fn a_leading_wildcard_does_not_match_a_dollar(target: &Target) {
    let me = "v311-a_leading_wildcard_does_not_match_a_dollar";
    let topic = format!("$dollar/{me}");
    let (mut named, mut publisher) = pair(target, me, &topic, 1);
    let mut deeper = clean(target, &format!("{me}-deeper"));
    deeper.subscribe("$dollar/#", 1);
    let mut wild: Vec<Raw> = ["#", "+/#", &format!("+/{me}")]
        .iter()
        .enumerate()
        .map(|(n, filter)| {
            let mut raw = clean(target, &format!("{me}-{n}"));
            raw.subscribe(filter, 0);
            raw
        })
        .collect();
    publisher.publish(&topic, 1, b"p");
    named.take_message(&topic, b"p");
    deeper.take_message(&topic, b"p");
    for raw in &mut wild {
        // They see all that other tests publish; this is not among it.
        let seen = raw.receive_all();
        assert!(!seen.iter().any(|p| matches!(p, Packet::Publish(m) if m.topic.starts_with('$'))), "{seen:?}");
    }
}

fn one_character_is_enough(target: &Target) {
    let me = "v311-one_character_is_enough";
    let (mut subscriber, mut publisher) = pair(target, me, "/", 1);
    for topic in ["/", "Z"] {
        subscriber.subscribe(topic, 1);
        publisher.publish(topic, 1, b"p");
        subscriber.take_message(topic, b"p");
    }
}

fn nothing_is_normalised(target: &Target) {
    let me = "v311-nothing_is_normalised";
    let names = ["a", "A", "/a", "a/", "a//", " a", "\u{e9}", "e\u{301}", "\u{ffff}", "%61", ".", "..", "a/../a"];
    let mut publisher = clean(target, &format!("{me}-publisher"));
    let mut subscribers: Vec<(String, Raw)> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let topic = format!("{me}/{name}");
        let mut raw = clean(target, &format!("{me}-{n}"));
        raw.subscribe(&topic, 1);
        subscribers.push((topic, raw));
    }
    for (topic, _) in &subscribers {
        publisher.publish(topic, 1, topic.as_bytes());
    }
    for (topic, raw) in &mut subscribers {
        raw.take_message(topic, topic.as_bytes());
        raw.expect_nothing();
    }
}

fn the_brokers_own_topics_are_under_sys(target: &Target) {
    let me = "v311-the_brokers_own_topics_are_under_sys";
    let topic = format!("$SYS/{me}");
    let (mut subscriber, mut publisher) = pair(target, me, &topic, 1);
    publisher.publish(&topic, 1, b"forged");
    subscriber.expect_nothing();
}
