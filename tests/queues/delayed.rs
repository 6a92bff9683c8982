//! Delayed messages: safe before the ack, sent once and in order, over a `kill -9`, for MQTT 3.1.1 and 5.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer, publish, user};
use forebay_tests::sys::{Sys, figure};

use crate::{crash, drained, payload, publisher, tcp};

/// A time that is not reached while a test runs.
const LATER: &str = "$delayed/100000/q/later";

fn with_absent() -> Broker {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    crate::absent(&broker);
    broker
}

/// Waits until so many wait for their time and so many were sent.
fn until(broker: &Broker, waiting: u64, sent: u64) {
    let mut sys = Sys::open(&tcp(broker));
    sys.until(&format!("{waiting} wait and {sent} were sent"), |f| {
        figure(f, "delayed/messages") == waiting && figure(f, "delayed/sent") == sent
    });
}

#[test]
fn they_come_in_order_of_their_time_and_only_once_over_kills() {
    for version in [Version::V4, Version::V5] {
        let mut broker = with_absent();
        let mut peer = publisher(&broker, version);
        for (id, (seconds, number)) in [(4, 4), (2, 2), (3, 3), (2, 20), (0, 0)].into_iter().enumerate() {
            let (reason, _) =
                peer.publish(u16::try_from(id + 1).unwrap(), &format!("$delayed/{seconds}/q/t"), &payload(number));
            assert_eq!(reason, 0, "{version:?}");
        }
        assert_eq!(peer.publish(9, LATER, &payload(9)).0, 0);
        // Nothing may be forgotten, and what was sent before the second kill must not be sent again.
        crash(&mut broker);
        until(&broker, 1, 5);
        crash(&mut broker);
        until(&broker, 1, 5);
        let came: Vec<u16> = drained(&broker).into_iter().map(|(_, number)| number).collect();
        assert_eq!(came, [0, 2, 20, 3, 4], "{version:?}");
    }
}

#[test]
fn what_became_due_while_the_broker_was_down_comes_at_its_start() {
    let mut broker = with_absent();
    let mut peer = publisher(&broker, Version::V5);
    for (id, number) in [(1, 30), (2, 31)] {
        assert_eq!(peer.publish(id, "$delayed/@2020-01-01T00:00:00Z/q/past", &payload(number)).0, 0);
    }
    until(&broker, 0, 2);
    assert_eq!(peer.publish(3, "$delayed/1/q/soon", &payload(32)).0, 0);
    broker.kill();
    std::thread::sleep(Duration::from_millis(1100));
    broker.run();
    until(&broker, 0, 3);
    let came: Vec<u16> = drained(&broker).into_iter().map(|(_, number)| number).collect();
    assert_eq!(came, [30, 31, 32]);
}

#[test]
fn properties_say_when_as_well_and_the_others_travel_on() {
    let broker = with_absent();
    let mut peer = publisher(&broker, Version::V5);
    let mut properties = user("deliver-after", "1");
    properties.extend(user("shift", "night"));
    peer.send(&publish(Version::V5, 1, 7, "q/p", &properties, b"late"));
    peer.answer();
    until(&broker, 0, 1);
    let (mut absent, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    let message = absent.message();
    assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("q/p", &b"late"[..]));
    assert_eq!(message.properties.user, [("shift".to_owned(), "night".to_owned())]);
}

#[test]
fn a_time_that_is_none_is_refused() {
    let broker = with_absent();
    let mut peer = publisher(&broker, Version::V5);
    for topic in ["$delayed/soon/q/t", "$delayed/5", "$delayed/5/$SYS/x", "$delayed/@2020-13-01T00:00:00Z/q/t"] {
        assert_eq!(peer.publish(1, topic, b"x").0, 0x90, "{topic}");
    }
    // MQTT 3.1.1 has no word for it: acknowledged, dropped and counted.
    let mut old = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "old")).0;
    assert_eq!(old.publish(1, "$delayed/soon/q/t", b"x").0, 0);
    Sys::open(&tcp(&broker)).until("all are counted", |f| figure(f, "counters/publish_refused") == 5);
    assert!(drained(&broker).is_empty());
}

#[test]
fn a_million_is_refused_when_less_are_allowed() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n[limits]\nmax_delayed_messages = 3\n");
    let mut peer = publisher(&broker, Version::V5);
    for id in 1..=3 {
        assert_eq!(peer.publish(id, LATER, b"x").0, 0);
    }
    let (reason, properties) = peer.publish(4, LATER, b"x");
    assert_eq!(reason, 0x97);
    assert!(properties.retry_after_ms().is_some());
}
