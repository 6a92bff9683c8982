//! What one packet and one client may hold.

use forebay_tests::broker::Broker;
use forebay_tests::packet::{PINGREQ, Version};
use forebay_tests::peer::{self, Came, Connect, Peer, publish, subscribe, user};

use std::time::Duration;

use forebay_tests::sys::figure;

use crate::{SYS, sys, tcp};

const BOTH: [Version; 2] = [Version::V4, Version::V5];

fn open(broker: &Broker, version: Version) -> Peer {
    Peer::open(&tcp(broker), &Connect::clean(version, "client")).0
}

/// The connection ends: in MQTT 5 with this reason, in 3.1.1 without a word. Another one works.
fn ended(broker: &Broker, mut peer: Peer, version: Version, reason: u8) {
    if version == Version::V5 {
        match peer.answer() {
            Came::Disconnect(came, _) => assert_eq!(came, reason, "{came:#x}"),
            other => panic!("instead of DISCONNECT: {other:?}"),
        }
    }
    assert_eq!(peer.answer(), Came::Closed);
    let (mut other, _) = Peer::open(&tcp(broker), &Connect::clean(version, "another"));
    other.send(&PINGREQ);
    assert_eq!(other.answer(), Came::Other(0xD0));
}

#[test]
fn packet_size() {
    let broker = Broker::with_config("[limits]\nmax_packet_size = \"1KiB\"\n");
    for version in BOTH {
        let (mut peer, came) = Peer::connect(&tcp(&broker), &Connect::clean(version, "client"));
        let Came::Connack(_, 0, properties) = came else { panic!("{came:?}") };
        assert_eq!(properties.number(0x27), (version == Version::V5).then_some(1024), "Maximum Packet Size is told");
        let around = publish(version, 1, 1, "t", &[], &[0; 200]).len() - 200;
        let fits = publish(version, 1, 1, "t", &[], &vec![0; 1024 - around]);
        assert_eq!(fits.len(), 1024);
        peer.send(&fits);
        assert!(matches!(peer.answer(), Came::Ack(_, 1, _, _)), "a packet of the very size");
        // Only its head: its length is known before its bytes come [MQTT5-3.2.2-15].
        peer.send(&publish(version, 1, 2, "t", &[], &vec![0; 1025 - around])[..7]);
        ended(&broker, peer, version, 0x95);
    }
}

#[test]
fn filters_in_one_packet() {
    let broker = Broker::with_config("[limits]\nmax_filters_per_packet = 3\n");
    for version in BOTH {
        let mut peer = open(&broker, version);
        assert_eq!(peer.subscribe(&[("a", 0), ("b", 0), ("c", 0)]), [0, 0, 0]);
        peer.send(&subscribe(version, 2, &[("a", 0), ("b", 0), ("c", 0), ("d", 0)]));
        ended(&broker, peer, version, 0x97);
        let mut peer = open(&broker, version);
        let mut body = vec![0, 1];
        body.extend(if version == Version::V5 { &[0][..] } else { &[] });
        ["a", "b", "c", "d"].iter().for_each(|filter| body.extend(peer::string(filter)));
        peer.send(&peer::frame(0xA2, &body));
        ended(&broker, peer, version, 0x97);
    }
}

#[test]
fn user_properties_in_one_packet() {
    let broker = Broker::with_config("[limits]\nmax_user_properties = 3\n");
    let three = user("k", "v").repeat(3);
    let mut peer = open(&broker, Version::V5);
    assert_eq!(peer.subscribe(&[("t", 1)]), [1]);
    peer.send(&publish(Version::V5, 0, 0, "t", &three, b"three"));
    assert_eq!(peer.message().properties.user.len(), 3);
    peer.send(&publish(Version::V5, 0, 0, "t", &user("k", "v").repeat(4), b"four"));
    ended(&broker, peer, Version::V5, 0x97);
    let (mut peer, came) =
        Peer::connect(&tcp(&broker), &Connect::clean(Version::V5, "client").with(&user("k", "v").repeat(4)));
    assert!(matches!(came, Came::Connack(false, 0x97, _)), "{came:?}");
    assert_eq!(peer.answer(), Came::Closed);
}

#[test]
fn subscriptions_of_one_client() {
    let broker = Broker::with_config("[limits]\nmax_subscriptions_per_client = 3\n");
    for (version, refused) in [(Version::V4, 0x80), (Version::V5, 0x97)] {
        let mut peer = open(&broker, version);
        assert_eq!(peer.subscribe(&[("a", 0), ("b", 0)]), [0, 0]);
        assert_eq!(peer.subscribe(&[("c", 0), ("d", 0)]), [0, refused]);
        assert_eq!(peer.subscribe(&[("a", 1)]), [1], "one that is there may be replaced");
        peer.send(&publish(version, 0, 0, "d", &[], b"to nobody"));
        peer.send(&publish(version, 0, 0, "c", &[], b"to one"));
        assert_eq!(peer.message().topic, "c");
    }
}

#[test]
fn topic_levels() {
    let broker = Broker::with_config("[limits]\nmax_topic_levels = 4\n");
    for (version, refused) in [(Version::V4, 0x80), (Version::V5, 0x8F)] {
        let mut peer = open(&broker, version);
        assert_eq!(peer.subscribe(&[("a/b/c/#", 0), ("a/b/c/d/#", 0), ("+/+/+/+/+", 0)]), [0, refused, refused]);
        peer.send(&publish(version, 0, 0, "a/b/c/d", &[], b"four"));
        assert_eq!(peer.message().payload, b"four");
        peer.send(&publish(version, 0, 0, "a/b/c/d/e", &[], b"five"));
        ended(&broker, peer, version, 0x90);
    }
}

#[test]
fn length_of_a_client_identifier() {
    let broker = Broker::with_config("[limits]\nmax_client_id_len = 30\n");
    for (version, refused) in [(Version::V4, 2), (Version::V5, 0x85)] {
        Peer::open(&tcp(&broker), &Connect::clean(version, &"c".repeat(30)));
        let (mut peer, came) = Peer::connect(&tcp(&broker), &Connect::clean(version, &"c".repeat(31)));
        assert!(matches!(came, Came::Connack(false, code, _) if code == refused), "{came:?}");
        assert_eq!(peer.answer(), Came::Closed);
    }
}

#[test]
fn unacknowledged_messages_of_one_client() {
    let broker = Broker::with_config("[limits]\nreceive_maximum = 5\n");
    let (mut peer, came) = Peer::connect(&tcp(&broker), &Connect::clean(Version::V5, "client"));
    let Came::Connack(_, 0, properties) = came else { panic!("{came:?}") };
    assert_eq!(properties.number(0x21), Some(5), "Receive Maximum is told");
    // In one write, so that they are read together; QoS 0 does not count.
    let mut many = publish(Version::V5, 0, 0, "t", &[], b"").repeat(20);
    (1..=5).for_each(|id| many.extend(publish(Version::V5, 1, id, "t", &[], b"")));
    peer.send(&many);
    (1..=5).for_each(|id| assert!(matches!(peer.answer(), Came::Ack(_, came, _, _) if came == id)));
    // Of QoS 2, as those stay until PUBREL [MQTT5-3.3.4-9].
    (1..=5).for_each(|id| peer.send(&publish(Version::V5, 2, id, "t", &[], b"")));
    (1..=5).for_each(|id| assert!(matches!(peer.answer(), Came::Ack(_, came, _, _) if came == id)));
    peer.send(&publish(Version::V5, 2, 6, "t", &[], b""));
    ended(&broker, peer, Version::V5, 0x93);
}

#[test]
fn a_packet_that_never_ends() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\npacket_timeout = \"1s\"\n"));
    let mut sys = sys(&broker);
    for version in BOTH {
        let mut peer = open(&broker, version);
        let whole = publish(version, 1, 1, "t", &[], &[0; 10_000]);
        let (mut sent, mut came) = (0, None);
        // A byte now and then, as if it were alive.
        while came.is_none() {
            peer.send(&whole[sent..=sent]);
            sent += 1;
            came = peer.within(Duration::from_millis(100));
        }
        match (version, came) {
            (Version::V5, Some(Came::Disconnect(0x8D, _))) | (Version::V4, Some(Came::Closed)) => {}
            (_, other) => panic!("{other:?}"),
        }
        // Whole packets keep a connection, however many come.
        let mut peer = open(&broker, version);
        for id in 1..20 {
            let whole = publish(version, 1, id, "t", &[], b"x");
            peer.send(&whole[..3]);
            assert_eq!(peer.within(Duration::from_millis(80)), None);
            peer.send(&whole[3..]);
            assert!(matches!(peer.answer(), Came::Ack(..)));
        }
    }
    sys.until("both are counted", |f| figure(f, "counters/packets_unfinished") == 2);
}

#[test]
fn what_the_filters_of_a_client_cost() {
    let broker = Broker::with_config("[limits]\nmax_wildcard_levels_per_client = 10\n");
    let mut peer = open(&broker, Version::V5);
    assert_eq!(peer.subscribe(&[("a/+/c/d", 0), ("+/b/c/d/e/#", 0), ("+/x", 0)]), [0, 0, 0x97]);
    // What is there may be asked for again; what has no `+` costs nothing; another client has its own.
    assert_eq!(peer.subscribe(&[("a/+/c/d", 1), ("a/b/c/#", 1), ("+", 1)]), [1, 1, 1]);
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(other.subscribe(&[("+/x", 0)]), [0]);
    peer.send(&[0xA2, 12, 0, 9, 0, 0, 7, b'a', b'/', b'+', b'/', b'c', b'/', b'd']);
    assert!(matches!(peer.answer(), Came::Other(0xB0)));
    assert_eq!(peer.subscribe(&[("+/x", 0)]), [0]);
}

/// A 3.1.1 client that asks for no keep alive cannot be told one: the system looks after it.
#[cfg(target_os = "linux")]
#[test]
fn the_system_probes_silent_connections() {
    for (limits, probed) in [("max_keep_alive = \"1h\"\n", true), ("max_keep_alive = \"0s\"\n", false)] {
        let broker = Broker::with_config(&format!("[limits]\n{limits}"));
        let _peer = open(&broker, Version::V4);
        let local = format!(":{:04X}", broker.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // State 01 is established, timer 02 keepalive.
        let here = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() > 5 && words[1].ends_with(&local) && words[3] == "01"
        };
        let line = table.lines().find(here).unwrap();
        assert_eq!(line.split_whitespace().nth(5).unwrap().starts_with("02:"), probed, "{line}");
    }
}
