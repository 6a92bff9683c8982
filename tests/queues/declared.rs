//! Declared queues: kept without consumers, shared, in order for each key, given again or dead, over a `kill -9`.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, Publish, frame, publish, user};
use forebay_tests::sys::{Sys, figure};

use crate::{crash, publisher, settled, tcp};

fn with(queue: &str) -> Broker {
    Broker::with_config(&text(queue))
}

fn text(queue: &str) -> String {
    format!("sys_interval = \"1s\"\n[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"\n{queue}\n")
}

fn send(peer: &mut Peer, numbers: std::ops::Range<u16>) {
    for number in numbers {
        assert_eq!(peer.publish(number + 1, &format!("job/{}", number % 3), &number.to_be_bytes()).0, 0);
    }
}

fn consumer(broker: &Broker, version: Version, name: &str) -> Peer {
    let (mut peer, _) = Peer::open(&tcp(broker), &Connect::clean(version, name));
    assert_eq!(peer.subscribe(&[("$queue/jobs", 1)]), [1]);
    peer
}

fn number(message: &Publish) -> u16 {
    u16::from_be_bytes([message.payload[0], message.payload[1]])
}

/// A message that is not acknowledged.
fn held(peer: &mut Peer) -> Publish {
    match peer.answer() {
        Came::Publish(message) => message,
        other => panic!("instead of a message: {other:?}"),
    }
}

fn acknowledge(peer: &mut Peer, message: &Publish) {
    peer.send(&frame(0x40, &message.id.to_be_bytes()));
}

/// PUBACK with 0x97 and perhaps a time.
fn refuse(peer: &mut Peer, message: &Publish, after_ms: Option<u32>) {
    let properties = after_ms.map_or(Vec::new(), |ms| user("retry-after-ms", &ms.to_string()));
    let [high, low] = message.id.to_be_bytes();
    let mut body = vec![high, low, 0x97, u8::try_from(properties.len()).unwrap()];
    body.extend(properties);
    peer.send(&frame(0x40, &body));
}

#[test]
fn it_is_there_without_consumers_and_each_message_goes_to_one() {
    for version in [Version::V4, Version::V5] {
        let mut broker = with("");
        send(&mut publisher(&broker, version), 0..100);
        crash(&mut broker);
        settled(&broker, 100);
        let mut consumers: Vec<Peer> = ["a", "b", "c"].iter().map(|name| consumer(&broker, version, name)).collect();
        let mut numbers: Vec<u16> = consumers
            .iter_mut()
            .flat_map(|consumer| consumer.drain(Duration::from_millis(500)))
            .map(|message| number(&message))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "{version:?}");
        settled(&broker, 0);
        // What was acknowledged stays away.
        drop(consumers);
        assert_eq!(broker.terminate(), Some(0));
        broker.run();
        assert!(consumer(&broker, version, "d").drain(Duration::from_millis(500)).is_empty());
    }
}

#[test]
fn names_that_lead_to_a_queue_and_one_that_does_not() {
    let broker = with("");
    for filter in ["$queue/jobs", "$queue/jobs/job/#", "$q/job/#", "$share/jobs/job/#"] {
        send(&mut publisher(&broker, Version::V5), 0..1);
        let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "c"));
        // What a queue lends is acknowledged once.
        assert_eq!(peer.subscribe(&[(filter, 2)]), [1], "{filter}");
        assert_eq!(peer.message().topic, "job/0", "{filter}");
        peer.leave();
    }
    for (version, code) in [(Version::V5, 0x8f), (Version::V4, 0x80)] {
        let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(version, "c"));
        assert_eq!(peer.subscribe(&[("$queue/none", 1), ("$q/job/1", 1)]), [code, code]);
    }
}

#[test]
fn what_a_consumer_did_not_acknowledge_goes_to_another() {
    let broker = with("window = 10");
    send(&mut publisher(&broker, Version::V5), 0..20);
    let mut first = consumer(&broker, Version::V4, "first");
    let taken: Vec<u16> = (0..10).map(|_| number(&held(&mut first))).collect();
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
    assert_eq!(first.within(Duration::from_millis(300)), None, "the window is full");
    let mut second = consumer(&broker, Version::V5, "second");
    drop(first);
    let rest: Vec<u16> = (0..20).map(|_| number(&second.message())).collect();
    assert_eq!(rest, (0..20).collect::<Vec<_>>(), "in order");
    settled(&broker, 0);
}

#[test]
fn a_kept_session_is_a_consumer_when_it_is_there() {
    let mut broker = with("");
    let (mut kept, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "kept"));
    assert_eq!(kept.subscribe(&[("$queue/jobs", 1)]), [1]);
    send(&mut publisher(&broker, Version::V5), 0..1);
    assert_eq!(number(&kept.message()), 0);
    kept.leave();
    assert_eq!(broker.terminate(), Some(0));
    broker.run();
    send(&mut publisher(&broker, Version::V5), 1..3);
    let (mut kept, present) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "kept"));
    assert!(present);
    assert_eq!([number(&kept.message()), number(&kept.message())], [1, 2]);
}

/// What a consumer has acknowledged, by key.
#[derive(Default)]
struct Lines {
    of: BTreeMap<u16, Vec<u16>>,
    refused: Vec<u16>,
    since_kill: BTreeMap<u16, u16>,
    done: u16,
}

impl Lines {
    fn heard(&mut self, peer: &mut Peer, message: &Publish) {
        let number = number(message);
        let line = self.of.entry(number % 5).or_default();
        // What was held for too long, or acknowledged just before the kill, may come again, in order.
        let before = self.since_kill.insert(number % 5, number).filter(|_| !self.refused.contains(&number));
        assert!(before.is_none_or(|before| before <= number), "{number} comes behind {before:?}");
        let known = line.contains(&number);
        assert!(known || line.last().is_none_or(|last| *last < number), "{number} comes behind {:?}", line.last());
        if !known && number.is_multiple_of(7) && !self.refused.contains(&number) {
            self.refused.push(number);
            return refuse(peer, message, Some(1));
        }
        if !known {
            line.push(number);
            self.done += 1;
        }
        acknowledge(peer, message);
    }
}

/// Consumers come, go and are silent, and the broker is killed: each key's messages end in order, none is missing.
#[test]
fn keys_stay_in_order_over_everything() {
    let mut broker = with("order_by = \"property:line\"\nack_timeout = \"1s\"\nbackoff = \"1ms\"");
    let mut lines = Lines::default();
    for round in 0..3_u16 {
        let mut peer = publisher(&broker, Version::V5);
        for number in round * 60..(round + 1) * 60 {
            let properties = user("line", &(number % 5).to_string());
            peer.send(&publish(Version::V5, 1, number + 1, "job/line", &properties, &number.to_be_bytes()));
            peer.answer();
        }
        peer.leave();
        let mut silent = (round == 1).then(|| consumer(&broker, Version::V5, "silent"));
        let mut good = consumer(&broker, Version::V5, "good");
        while lines.done < (round + 1) * 60 {
            if round == 0 && lines.done % 10 == 3 {
                // It takes some with it.
                held(&mut consumer(&broker, Version::V4, "gone"));
            }
            silent.iter_mut().for_each(|silent| drop(silent.within(Duration::ZERO)));
            match good.within(Duration::from_secs(20)) {
                Some(Came::Publish(message)) => lines.heard(&mut good, &message),
                other => panic!("instead of message {}: {other:?}", lines.done),
            }
        }
        crash(&mut broker);
        lines.since_kill.clear();
    }
    for (key, line) in lines.of {
        let all: Vec<u16> = (0..180).filter(|number| number % 5 == key).collect();
        assert_eq!(line, all, "line {key}");
    }
}

/// Whatever its topics: a publisher's messages are lent one at a time, over a kill as well, and nobody can say that he is another.
#[test]
fn the_messages_of_a_publisher_are_in_order() {
    let mut broker = with("order_by = \"client\"");
    for name in ["p1", "p2"] {
        let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, name));
        for number in 0..3_u16 {
            let feigned = user("publisher", "nobody");
            peer.send(&publish(Version::V5, 1, number + 1, &format!("job/{name}/{number}"), &feigned, &[]));
            peer.answer();
        }
        peer.leave();
    }
    let (mut old, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "old"));
    assert_eq!(old.publish(1, "job/old/0", &[]).0, 0);
    assert_eq!(old.publish(2, "job/old/1", &[]).0, 0);
    for _ in 0..2 {
        let mut consumer = consumer(&broker, Version::V5, "c");
        let mut first: Vec<Publish> = (0..3).map(|_| held(&mut consumer)).collect();
        first.sort_by(|a, b| a.topic.cmp(&b.topic));
        let topics: Vec<&str> = first.iter().map(|message| &*message.topic).collect();
        assert_eq!(topics, ["job/old/0", "job/p1/0", "job/p2/0"]);
        assert_eq!(consumer.within(Duration::from_millis(200)), None, "one of each is out");
        assert_eq!(first[1].properties.user.last(), Some(&("publisher".to_owned(), "p1".to_owned())));
        crash(&mut broker);
    }
    let mut consumer = consumer(&broker, Version::V5, "c");
    let all = consumer.drain(Duration::from_millis(500));
    for name in ["old", "p1", "p2"] {
        let topics: Vec<&str> = all.iter().map(|m| &*m.topic).filter(|topic| topic.contains(name)).collect();
        assert!(topics.is_sorted() && topics.len() >= 2, "{topics:?}");
    }
}

#[test]
fn what_is_refused_comes_later_and_then_is_a_dead_letter() {
    let mut broker = with("max_deliveries = 2\nbackoff = \"100s\"\nbackoff_max = \"100s\"");
    let mut peer = publisher(&broker, Version::V5);
    peer.send(&publish(Version::V5, 1, 1, "job/a", &user("shift", "night"), b"bad"));
    peer.answer();
    assert_eq!(peer.publish(2, "job/b", b"good").0, 0);
    let mut consumer = consumer(&broker, Version::V5, "c");
    let bad = held(&mut consumer);
    let good = held(&mut consumer);
    refuse(&mut consumer, &bad, Some(1));
    acknowledge(&mut consumer, &good);
    let again = held(&mut consumer);
    assert_eq!((again.topic.as_str(), again.payload.as_slice()), ("job/a", &b"bad"[..]));
    refuse(&mut consumer, &again, None);
    Sys::open(&tcp(&broker)).until("it is dead", |f| figure(f, "counters/dead_letters") == 1);
    drop(consumer);
    crash(&mut broker);
    // In a queue of its own, until somebody takes it.
    settled(&broker, 1);
    let (mut reader, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("$dead/jobs/#", 1)]), [1]);
    let dead = reader.message();
    assert_eq!((dead.topic.as_str(), dead.payload.as_slice()), ("$dead/jobs/job/a", &b"bad"[..]));
    let said = |name: &str| dead.properties.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(said("shift"), Some("night"));
    assert_eq!(
        (said("dead-reason"), said("dead-from"), said("dead-count")),
        (Some("refused"), Some("jobs"), Some("2"))
    );
    assert!(said("dead-first-at").is_some());
    settled(&broker, 0);
}

#[test]
fn an_exclusive_queue_has_one_consumer_and_a_stand_by() {
    let broker = with("access = \"exclusive\"");
    let mut first = consumer(&broker, Version::V5, "first");
    let mut standby = consumer(&broker, Version::V4, "standby");
    send(&mut publisher(&broker, Version::V5), 0..10);
    let taken: Vec<Publish> = (0..10).map(|_| held(&mut first)).collect();
    acknowledge(&mut first, &taken[0]);
    assert_eq!(standby.within(Duration::from_millis(300)), None);
    settled(&broker, 9);
    drop(first);
    let rest: Vec<u16> = (0..9).map(|_| number(&standby.message())).collect();
    assert_eq!(rest, (1..10).collect::<Vec<_>>());
}

#[test]
fn what_is_held_for_too_long_goes_to_another() {
    let broker = with("ack_timeout = \"1s\"\nbackoff = \"1ms\"");
    let mut slow = consumer(&broker, Version::V5, "slow");
    send(&mut publisher(&broker, Version::V5), 0..1);
    let late = held(&mut slow);
    let mut other = consumer(&broker, Version::V5, "other");
    // By turns, so that it may come back to the one that is slow.
    let came = other.within(Duration::from_secs(30));
    assert!(matches!(&came, Some(Came::Publish(message)) if number(message) == 0), "{came:?}");
    acknowledge(&mut slow, &late);
    if let Some(Came::Publish(message)) = came {
        acknowledge(&mut other, &message);
    }
    settled(&broker, 0);
}

#[test]
fn the_last_of_each_key_is_kept() {
    let mut broker = with("keep_last_by = \"property:device\"");
    let mut peer = publisher(&broker, Version::V5);
    for number in 0..30_u16 {
        let device = user("device", &(number % 3).to_string());
        peer.send(&publish(Version::V5, 1, number + 1, "job/value", &device, &number.to_be_bytes()));
        peer.answer();
    }
    settled(&broker, 3);
    crash(&mut broker);
    let device = user("device", "0");
    let mut peer = publisher(&broker, Version::V5);
    peer.send(&publish(Version::V5, 1, 1, "job/value", &device, &99_u16.to_be_bytes()));
    peer.answer();
    settled(&broker, 3);
    let mut numbers: Vec<u16> =
        consumer(&broker, Version::V5, "c").drain(Duration::from_millis(500)).iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [28, 29, 99]);
}

#[test]
fn a_queue_that_is_declared_no_more_is_kept_and_takes_nothing() {
    let mut broker = with("");
    send(&mut publisher(&broker, Version::V5), 0..5);
    broker.kill();
    broker.configure("sys_interval = \"1s\"\n");
    broker.run();
    assert_eq!(publisher(&broker, Version::V5).publish(1, "job/0", b"xx").0, 0x10, "nobody takes it");
    settled(&broker, 5);
    // The log has a thread of its own.
    while !broker.log().contains("the configuration declares no queue or stream \"jobs\"") {
        std::thread::sleep(Duration::from_millis(20));
    }
    broker.kill();
    broker.configure(&text(""));
    broker.run();
    assert_eq!(consumer(&broker, Version::V5, "c").drain(Duration::from_millis(500)).len(), 5);
}

#[test]
fn a_full_queue_refuses_and_goes_on_when_there_is_room() {
    let broker = with("max_messages = 10");
    let mut peer = publisher(&broker, Version::V5);
    send(&mut peer, 0..10);
    assert_eq!(peer.publish(11, "job/0", b"xx").0, 0x97);
    let mut consumer = consumer(&broker, Version::V5, "c");
    for _ in 0..10 {
        consumer.message();
    }
    settled(&broker, 0);
    assert_eq!(peer.publish(12, "job/0", b"xx").0, 0);
}
