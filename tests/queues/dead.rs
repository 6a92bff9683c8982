//! Dead letters of sessions: what their queues give up is kept where a rule says so, over a `kill -9` after the ack.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, Publish, frame, number4, publish, user};
use forebay_tests::sys::{Sys, assert_balanced, figure};

use crate::{committed, crash, publisher, tcp};

fn with(queue: &str, rule: &str) -> Broker {
    Broker::with_config(&format!(
        "sys_interval = \"1s\"\n[queue]\n{queue}\n[[dead_letters]]\nname = \"kept\"\n{rule}\n"
    ))
}

fn absent(broker: &Broker, version: Version) {
    let (mut subscriber, _) = Peer::open(&tcp(broker), &Connect::kept(version, "absent"));
    assert_eq!(subscriber.subscribe(&[("q/#", 1)]), [1]);
    subscriber.leave();
}

/// The dead letters, in order; they are gone then.
fn dead(broker: &Broker) -> Vec<Publish> {
    let (mut reader, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("$dead/kept/#", 1)]), [1]);
    reader.drain(Duration::from_millis(500))
}

fn died(broker: &Broker, count: u64) {
    let figures = Sys::open(&tcp(broker)).until("they are dead", |f| figure(f, "counters/dead_letters") == count);
    assert_balanced(&figures);
    committed(broker);
}

fn said<'m>(message: &'m Publish, name: &str) -> Option<&'m str> {
    message.properties.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn assert_cause(message: &Publish, reason: &str, from: &str, count: &str) {
    let cause = (said(message, "dead-reason"), said(message, "dead-from"), said(message, "dead-count"));
    assert_eq!(cause, (Some(reason), Some(from), Some(count)), "{message:?}");
    assert!(said(message, "dead-first-at").is_some_and(|at| at.parse::<u64>().is_ok()));
}

/// Both versions, each policy that drops.
#[test]
fn what_a_full_queue_drops_is_kept() {
    for (policy, version, lost, stay) in
        [("drop-oldest", Version::V4, 0..5_u8, 5..15_u8), ("drop-newest", Version::V5, 10..15, 0..10)]
    {
        let mut broker = with(&format!("max_messages = 10\npolicy = \"{policy}\""), "");
        absent(&broker, version);
        let mut peer = publisher(&broker, version);
        for number in 0..15_u8 {
            assert_eq!(peer.publish(u16::from(number) + 1, "q/t", &[number]).0, 0);
        }
        died(&broker, 5);
        crash(&mut broker);
        let letters = dead(&broker);
        assert_eq!(letters.iter().map(|m| m.payload[0]).collect::<Vec<_>>(), lost.collect::<Vec<_>>(), "{policy}");
        assert!(letters.iter().all(|message| message.topic == "$dead/kept/q/t"));
        assert_cause(&letters[0], "full", "absent", "0");
        let (mut subscriber, present) = Peer::open(&tcp(&broker), &Connect::kept(version, "absent"));
        assert!(present);
        let rest: Vec<u8> = subscriber.drain(Duration::from_millis(500)).iter().map(|m| m.payload[0]).collect();
        assert_eq!(rest, stay.collect::<Vec<_>>(), "{policy}");
        assert!(dead(&broker).is_empty(), "what was taken stays away");
    }
}

/// Nobody comes for it, and there is room.
#[test]
fn what_expires_is_kept() {
    let mut broker = with("max_messages = 1000", "reasons = [\"expired\"]");
    absent(&broker, Version::V5);
    let mut peer = publisher(&broker, Version::V5);
    let properties = [number4(2, 1), user("shift", "night")].concat();
    peer.send(&publish(Version::V5, 1, 1, "q/t", &properties, b"late"));
    peer.answer();
    assert_eq!(peer.publish(2, "q/t", b"good").0, 0);
    died(&broker, 1);
    crash(&mut broker);
    let [letter] = &dead(&broker)[..] else { panic!("one has expired") };
    assert_eq!((letter.payload.as_slice(), said(letter, "shift")), (&b"late"[..], Some("night")));
    assert_cause(letter, "expired", "absent", "0");
}

#[test]
fn what_is_too_large_is_kept_before_its_publisher_is_told() {
    let mut broker = with("", "filter = \"q/#\"\nclients = \"sm*\"");
    let small = Connect::kept(Version::V5, "small").with(&number4(0x27, 100));
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &small);
    assert_eq!(subscriber.subscribe(&[("#", 2)]), [2]);
    let mut peer = publisher(&broker, Version::V5);
    assert_eq!(peer.publish(1, "q/t", &[7; 200]).0, 0);
    // It is for no rule.
    assert_eq!(peer.publish(2, "other", &[8; 200]).0, 0);
    crash(&mut broker);
    let letters = dead(&broker);
    assert_eq!(letters.iter().map(|m| m.payload[0]).collect::<Vec<_>>(), [7]);
    assert_cause(&letters[0], "too-large", "small", "0");
}

#[test]
fn what_a_subscriber_refuses_is_kept() {
    let mut broker = with("", "");
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "picky"));
    assert_eq!(subscriber.subscribe(&[("q/#", 1)]), [1]);
    let mut peer = publisher(&broker, Version::V5);
    assert_eq!(peer.publish(1, "q/t", b"no").0, 0);
    let Came::Publish(message) = subscriber.answer() else { panic!("a message") };
    let [high, low] = message.id.to_be_bytes();
    subscriber.send(&frame(0x40, &[high, low, 0x80, 0]));
    died(&broker, 1);
    crash(&mut broker);
    let [letter] = &dead(&broker)[..] else { panic!("one was refused") };
    assert_cause(letter, "refused", "picky", "1");
}

/// A retained message is not: it waits for who subscribes.
#[test]
fn what_nobody_has_subscribed_to_is_kept_before_its_publisher_is_told() {
    let mut broker = with("", "reasons = [\"undeliverable\"]\nfilter = \"q/#\"");
    for version in [Version::V4, Version::V5] {
        let mut peer = publisher(&broker, version);
        let nobody = if version == Version::V5 { 0x10 } else { 0 };
        assert_eq!(peer.publish(1, "q/t", b"one").0, nobody, "{version:?}");
        assert_eq!(peer.publish(2, "other", b"none").0, nobody);
        let mut retained = publish(version, 1, 3, "q/r", &[], b"stays");
        retained[0] |= 1;
        peer.send(&retained);
        peer.answer();
        peer.send(&publish(version, 0, 0, "q/t", &[], b"QoS 0"));
        crash(&mut broker);
        let [letter] = &dead(&broker)[..] else { panic!("{version:?}: one message is for nobody") };
        assert_eq!(letter.payload, b"one");
        assert_cause(letter, "undeliverable", "publisher", "0");
    }
}

#[test]
fn there_are_no_more_than_so_many() {
    let broker = with("", "reasons = [\"undeliverable\"]\nmax_messages = 3");
    let mut peer = publisher(&broker, Version::V5);
    for number in 0..8_u8 {
        assert_eq!(peer.publish(u16::from(number) + 1, "q/t", &[number]).0, 0x10);
    }
    died(&broker, 8);
    assert_eq!(dead(&broker).iter().map(|m| m.payload[0]).collect::<Vec<_>>(), [5, 6, 7]);
}
