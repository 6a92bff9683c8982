//! Publications that number themselves: a repetition is a success and goes nowhere, over reconnects, lost sessions and
//! `kill -9`, for MQTT 3.1.1 and 5.

use forebay_tests::broker::Broker;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish, user};
use forebay_tests::sys::{Sys, figure};

use crate::{crash, drained, numbers, payload, tcp};

fn with_absent() -> Broker {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    crate::absent(&broker);
    broker
}

/// A session of its own for each connection: nothing but the number tells that a message is a repetition.
fn publisher(broker: &Broker, version: Version) -> Peer {
    Peer::open(&tcp(broker), &Connect::clean(version, "device")).0
}

fn once(seq: u16) -> String {
    format!("$once/pump-7/3.{seq}/q/t")
}

#[test]
fn a_repetition_goes_nowhere_over_reconnects_and_kills() {
    for version in [Version::V4, Version::V5] {
        let mut broker = with_absent();
        let mut peer = publisher(&broker, version);
        for seq in [1, 2, 3] {
            assert_eq!(peer.publish(seq, &once(seq), &payload(seq)).0, 0);
        }
        let (reason, properties) = peer.publish(9, &once(2), &payload(99));
        assert_eq!(reason, 0, "a repetition is a success");
        if version == Version::V5 {
            assert_eq!(properties.user, [("duplicate".to_owned(), "true".to_owned())]);
        }
        crash(&mut broker);
        let mut peer = publisher(&broker, version);
        for seq in [3, 1, 4, 4] {
            assert_eq!(peer.publish(seq, &once(seq), &payload(seq)).0, 0);
        }
        assert_eq!(numbers(&drained(&broker)), [1, 2, 3, 4], "{version:?}");
        Sys::open(&tcp(&broker)).until("three are counted", |f| figure(f, "counters/duplicates") == 3);
    }
}

#[test]
fn at_qos_2_and_with_properties_and_for_later() {
    let mut broker = with_absent();
    let mut peer = publisher(&broker, Version::V5);
    let mut named = user("origin", "pump-8");
    named.extend(user("epoch", "1"));
    named.extend(user("seq", "70"));
    for (id, duplicate) in [(1, false), (2, true)] {
        peer.send(&publish(Version::V5, 2, id, "q/t", &named, &payload(70)));
        let Came::Ack(Ack::Pubrec, _, 0, properties) = peer.answer() else { panic!("no PUBREC") };
        assert_eq!(!properties.user.is_empty(), duplicate);
    }
    for id in [3, 4] {
        assert_eq!(peer.publish(id, "$once/pump-8/1.71/$delayed/1/q/t", &payload(71)).0, 0);
    }
    crash(&mut broker);
    Sys::open(&tcp(&broker)).until("it was sent", |f| figure(f, "delayed/sent") == 1);
    let mut peer = publisher(&broker, Version::V5);
    assert_eq!(peer.publish(5, "$once/pump-8/1.71/$delayed/1/q/t", &payload(71)).0, 0);
    let (mut absent, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    let messages = absent.drain(std::time::Duration::from_millis(1500));
    let names: Vec<_> = messages.iter().map(|m| (m.payload[1], m.properties.user.clone())).collect();
    let name = |seq: &str| {
        [("origin", "pump-8"), ("epoch", "1"), ("seq", seq)].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()
    };
    assert_eq!(names, [(70, name("70")), (71, name("71"))], "whoever is next can tell repetitions as well");
}

#[test]
fn a_gap_is_said() {
    let broker = with_absent();
    let (mut watcher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "watcher"));
    assert_eq!(watcher.subscribe(&[("$SYS/broker/gap/+", 0)]), [0]);
    let mut peer = publisher(&broker, Version::V5);
    for seq in [1, 2, 100] {
        assert_eq!(peer.publish(seq, &once(seq), &payload(seq)).0, 0);
    }
    let gap = watcher.message();
    assert_eq!(gap.topic, "$SYS/broker/gap/pump-7");
    assert_eq!(String::from_utf8(gap.payload).unwrap(), r#"{"epoch":3,"first":3,"last":36}"#);
}

#[test]
fn names_that_are_none_are_refused() {
    let broker = with_absent();
    let mut peer = publisher(&broker, Version::V5);
    for topic in ["$once/p/1/q/t", "$once/p/1.x/q/t", "$once//1.1/q/t", "$once/p/1.1/$SYS/x"] {
        assert_eq!(peer.publish(1, topic, b"x").0, 0x90, "{topic}");
    }
    assert!(drained(&broker).is_empty());
}
