//! What a listener has of its own: a mount point, and limits that others do not have.

use std::time::{Duration, Instant};

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::packet::build::{Connect, Publish, Subscribe, Will};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{Ack, Packet, Version};
use forebay_tests::raw::Raw;
use forebay_tests::sys::{dropped, figure};

use crate::{SYS, sys};

/// A broker with a listener like any, and a second one with these keys.
fn two_listeners(keys: &str) -> (Broker, u16) {
    let port = free_port();
    let broker = Broker::with_config(&format!(
        "{SYS}[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n[[listeners]]\nurl = \"mqtt://127.0.0.1:{port}\"\n{keys}\n"
    ));
    (broker, port)
}

const MOUNTED: &str = "mount_point = \"site/7/\"";

#[test]
fn a_mount_point_stands_before_what_is_published_and_is_taken_away_from_what_comes() {
    let (broker, port) = two_listeners(MOUNTED);
    for version in [Version::V4, Version::V5] {
        let mut plain = Raw::clean(broker.port(), version, "plain");
        let mut mounted = Raw::clean(port, version, "mounted");
        plain.subscribe("site/#", 2);
        mounted.subscribe("#", 2);
        for qos in 0..=2 {
            mounted.publish("up", qos, b"from below");
            plain.take_message("site/7/up", b"from below");
            mounted.take_message("up", b"from below");
            plain.publish("site/7/down", qos, b"from above");
            plain.take_message("site/7/down", b"from above");
            mounted.take_message("down", b"from above");
        }
        let large = vec![7; 20_000];
        plain.publish("site/7/large", 1, &large);
        mounted.take_message("large", &large);
        // The first is the parent of `site/7/#`, and would have an empty name.
        for outside in ["site/7", "site/70/x", "site/8/x", "x"] {
            plain.publish(outside, 1, b"");
        }
        mounted.expect_nothing();
        mounted.send(&Subscribe::new(version, 7).filter("#", 0).undo());
        mounted.expect_unsuback(7, if version == Version::V5 { &[0] } else { &[] });
        plain.publish("site/7/down", 1, b"");
        mounted.expect_nothing();
    }
}

#[test]
fn retained_messages_wills_groups_and_aliases_know_the_mount_point() {
    let (broker, port) = two_listeners(MOUNTED);
    let mut plain = Raw::clean(broker.port(), Version::V5, "plain");
    plain.send(&Publish::new(Version::V5, "site/7/kept", b"old").qos(1, 1).retain().packet());
    plain.expect_ack(Ack::Puback, 1, 0);
    let connect = Connect::new(Version::V5, "mounted").will(Will::new("gone", b"will"));
    let mut mounted = Raw::open(port, &connect.with(Property::TopicAliasMaximum(5))).0;
    mounted.subscribe("kept", 1);
    let kept = mounted.take_message("kept", b"old");
    assert!(kept.retain && kept.properties.contains(&Property::TopicAlias(1)), "{kept:?}");
    // The name stands behind the alias from now on.
    plain.publish("site/7/kept", 0, b"new");
    assert_eq!(mounted.take_message("", b"new").properties, [Property::TopicAlias(1)]);

    plain.subscribe("site/7/+", 1);
    plain.take_message("site/7/kept", b"old");
    for topic in ["short", ""] {
        let publish = Publish::new(Version::V5, topic, b"by alias").qos(1, 9).with(Property::TopicAlias(3));
        mounted.send(&publish.packet());
        mounted.expect_ack(Ack::Puback, 9, 0);
        plain.take_message("site/7/short", b"by alias");
    }

    let mut member = Raw::clean(port, Version::V5, "member");
    member.subscribe("$share/g/job/+", 1);
    plain.publish("site/7/job/1", 1, b"");
    member.take_message("job/1", b"");
    plain.publish("job/1", 1, b"");
    member.expect_nothing();

    mounted.drop_connection();
    plain.take_message("site/7/gone", b"will");
}

#[test]
fn nothing_of_the_brokers_own_is_there_below_a_mount_point() {
    let (broker, port) = two_listeners(MOUNTED);
    let mut plain = Raw::clean(broker.port(), Version::V5, "plain");
    plain.subscribe("#", 0);
    let mut mounted = Raw::clean(port, Version::V5, "mounted");
    let own = Subscribe::new(Version::V5, 1).filter("$SYS/#", 0).filter("$share/g/$SYS/#", 0).filter("a", 1);
    mounted.send(&own.packet());
    mounted.expect_suback(1, &[0x87, 0x87, 1]);
    for topic in ["$SYS/broker/uptime", "$delayed/1/a", "$CONTROL/dynamic-security/v1"] {
        mounted.send(&Publish::new(Version::V5, topic, b"").qos(1, 5).packet());
        mounted.expect_ack(Ack::Puback, 5, 0x87);
    }
    let mut old = Raw::clean(port, Version::V4, "old");
    old.send(&Subscribe::new(Version::V4, 1).filter("$SYS/#", 0).packet());
    old.expect_suback(1, &[0x80]);
    let will = Connect::new(Version::V5, "will").will(Will::new("$delayed/1/a", b""));
    Raw::begin(port, &will).expect_refused(0x87);
    plain.expect_nothing();
}

/// A session goes with its client: what lies outside of the mount point does not come along.
#[test]
fn a_session_from_another_listener_sees_nothing_outside() {
    let (broker, port) = two_listeners(MOUNTED);
    let kept = Connect::new(Version::V5, "mover").resume().with(Property::SessionExpiry(3600));
    let mut mover = Raw::open(broker.port(), &kept).0;
    mover.subscribe("site/#", 1);
    mover.subscribe("site/7/own", 1);
    mover.leave();
    let mut plain = Raw::clean(broker.port(), Version::V5, "plain");
    plain.publish("site/8/secret", 1, b"queued");
    plain.publish("site/7/own", 1, b"queued");
    let (mut mover, present, _) = Raw::open(port, &kept);
    assert!(present);
    mover.take_message("own", b"queued");
    plain.publish("site/8/secret", 1, b"live");
    plain.publish("site/7/own", 1, b"live");
    mover.take_message("own", b"live");
    mover.expect_nothing();
}

/// 200 messages of 1,000 bytes to a listener with this rate: all come, in order, and a ping is answered between them. How many
/// seconds they took.
fn seconds_with_rate_out(rate: &str) -> f64 {
    let (broker, port) = two_listeners(&format!("rate_out = {rate}"));
    let mut sys = sys(&broker);
    let mut slow = Raw::clean(port, Version::V5, "slow");
    slow.subscribe("t", 1);
    let mut publisher = Raw::clean(broker.port(), Version::V5, "publisher");
    let begun = Instant::now();
    for id in 0..200u16 {
        publisher.publish("t", 1, &[&id.to_be_bytes()[..], &[0; 998]].concat());
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "publishers do not wait for it");
    for id in 0..200u16 {
        if id == 100 {
            slow.send(&forebay_tests::packet::PINGREQ);
        }
        let message = match slow.receive() {
            Packet::Pingresp => slow.take_any(),
            Packet::Publish(message) => {
                slow.send(&forebay_tests::packet::ack(Ack::Puback, message.id));
                message
            }
            other => panic!("instead of message {id}: {other:?}"),
        };
        assert_eq!(message.payload[..2], id.to_be_bytes());
    }
    let took = begun.elapsed().as_secs_f64();
    let figures = sys.until("delays are counted", |f| figure(f, "counters/writes_delayed") > 0);
    assert_eq!(dropped(&figures), 0);
    took
}

#[test]
fn what_goes_out_has_a_rate_of_messages() {
    // The bucket holds 50, and 50 more may be written when it is empty.
    let took = seconds_with_rate_out("{ messages_per_s = 50 }");
    assert!(took >= f64::from(200 - 100 - 20) / 50.0, "200 messages at 50 a second took {took} s");
}

#[test]
fn what_goes_out_has_a_rate_of_bytes() {
    let took = seconds_with_rate_out("{ bytes_per_s = \"50kB\" }");
    assert!(took >= f64::from(200 - 100 - 20) / 50.0, "200 kB at 50 kB a second took {took} s");
}

#[test]
fn an_address_has_so_many_connections_on_a_listener() {
    let (broker, port) = two_listeners("max_connections_per_address = 2");
    let first = Raw::clean(port, Version::V5, "first");
    let _second = Raw::clean(port, Version::V5, "second");
    Raw::begin(port, &Connect::new(Version::V5, "third")).expect_refused(0x89);
    Raw::begin(port, &Connect::new(Version::V4, "third")).expect_refused(3);
    // It takes the place of its own connection, and elsewhere there are as many as anybody likes.
    let _second = Raw::clean(port, Version::V5, "second");
    let _elsewhere: Vec<Raw> =
        (0..5).map(|n| Raw::clean(broker.port(), Version::V5, &format!("elsewhere{n}"))).collect();
    first.leave();
    let begun = Instant::now();
    loop {
        let mut raw = Raw::begin(port, &Connect::new(Version::V5, "third"));
        if matches!(raw.receive(), Packet::Connack(_, 0, _)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "its place is never free");
    }
}

#[test]
fn keep_alive_packet_size_and_session_expiry_are_the_listeners() {
    let keys =
        "min_keep_alive = \"30s\"\nmax_keep_alive = \"1min\"\nmax_packet_size = \"1KiB\"\nmax_session_expiry = \"1h\"";
    let (broker, port) = two_listeners(keys);
    for (asked, told) in [(10, Some(30)), (30, None), (45, None), (60, None), (100, Some(60)), (0, Some(60))] {
        let connect = Connect::new(Version::V5, "client").keep_alive(asked);
        let (_raw, _, properties) = Raw::open(port, &connect);
        let set = properties.iter().find_map(|property| match property {
            Property::ServerKeepAlive(seconds) => Some(*seconds),
            _ => None,
        });
        assert_eq!(set, told, "{asked} s are asked for");
        assert!(properties.contains(&Property::MaximumPacketSize(1024)), "{properties:?}");
    }
    let asks = Connect::new(Version::V5, "client").with(Property::SessionExpiry(7200));
    let (mut raw, _, properties) = Raw::open(port, &asks);
    assert!(properties.contains(&Property::SessionExpiry(3600)), "{properties:?}");
    raw.send(&Publish::new(Version::V5, "t", &[0; 1100]).packet());
    raw.expect_disconnect(0x95);
    let (mut elsewhere, _, properties) = Raw::open(broker.port(), &asks.keep_alive(10));
    assert!(!properties.iter().any(|p| matches!(p, Property::SessionExpiry(_) | Property::ServerKeepAlive(_))));
    elsewhere.publish("t", 1, &[0; 1100]);
}

#[test]
fn a_listener_has_its_own_number_of_handshakes() {
    let limits = "[limits]\nfirst_byte_timeout = \"1h\"\nconnect_timeout = \"1h\"\n";
    let (broker, port) = two_listeners(&format!("max_handshakes = 3\n{limits}"));
    let mut sys = sys(&broker);
    let held = |port| (0..3).map(|_| Raw::connect(port, Version::V5)).collect::<Vec<_>>();
    let (_here, _elsewhere) = (held(port), held(broker.port()));
    Raw::clean(broker.port(), Version::V5, "elsewhere");
    assert_eq!(figure(&sys.figures(), "counters/handshakes_displaced"), 0);
    Raw::clean(port, Version::V5, "here");
    sys.until("one makes room", |f| figure(f, "counters/handshakes_displaced") == 1);
}
