//! What one packet and one client may hold.

use forebay_tests::broker::Broker;
use forebay_tests::packet::{PINGREQ, Version};
use forebay_tests::peer::{self, Came, Connect, Peer, publish, subscribe, user};

use crate::tcp;

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
