//! Schedules: retained messages with a cron line, by which the broker publishes; over a `kill -9`, for MQTT 3.1.1 and 5.

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, publish, user};
use forebay_tests::sys::{Sys, figure};

use crate::{crash, publisher, tcp};

/// A retained message at QoS 1; its reason code.
fn retained(peer: &mut Peer, version: Version, topic: &str, properties: &[u8], payload: &[u8]) -> u8 {
    let mut packet = publish(version, 1, 9, topic, properties, payload);
    packet[0] |= 1;
    peer.send(&packet);
    match peer.answer() {
        Came::Ack(_, 9, reason, _) => reason,
        other => panic!("instead of an ack: {other:?}"),
    }
}

fn each_second(more: &str) -> String {
    format!(r#"{{"cron":"* * * * * *","topic":"q/tick"{more}}}"#)
}

#[test]
fn they_publish_once_for_each_due_time_over_a_kill_until_they_are_cancelled() {
    for version in [Version::V4, Version::V5] {
        let mut broker = Broker::with_config("sys_interval = \"1s\"\n");
        crate::absent(&broker);
        let mut peer = publisher(&broker, version);
        let description = each_second(r#","payload":"x""#);
        assert_eq!(retained(&mut peer, version, "$schedule/tick", &user("unit", "s"), description.as_bytes()), 0);
        let published = |broker: &Broker, least: u64| {
            let enough = |f: &_| figure(f, "counters/schedule_published") >= least;
            Sys::open(&tcp(broker)).until("some were published", enough);
        };
        // The last of them may not be on the disk yet: it is published again then.
        published(&broker, 3);
        crash(&mut broker);
        published(&broker, 2);
        // Whoever wants to know which there are subscribes; an empty retained message ends one.
        let (mut operator, _) = Peer::open(&tcp(&broker), &Connect::clean(version, "operator"));
        assert_eq!(operator.subscribe(&[("$schedule/#", 0)]), [0]);
        let listed = operator.message();
        assert_eq!((listed.topic.as_str(), listed.payload.as_slice()), ("$schedule/tick", description.as_bytes()));
        let mut peer = publisher(&broker, version);
        assert_eq!(retained(&mut peer, version, "$schedule/tick", &[], b""), 0);
        let (mut absent, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
        let came = absent.drain(std::time::Duration::from_millis(2500));
        let due: Vec<u64> = came.iter().map(|message| number(&message.properties.user, "due")).collect();
        assert!(due.len() >= 4 && due.iter().all(|at| at % 1000 == 0), "{due:?}");
        assert!(due.is_sorted_by(|before, after| before < after), "twice, or late: {due:?}");
        for message in &came {
            assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("q/tick", &b"x"[..]));
            let named = message.properties.user.iter().find(|(key, _)| key == "schedule");
            assert_eq!(named.map(|(_, name)| name.as_str()), Some("tick"));
            let own = message.properties.user.iter().any(|(key, value)| key == "unit" && value == "s");
            assert_eq!(own, version == Version::V5, "its own properties travel on");
        }
        assert!(absent.drain(std::time::Duration::from_millis(1500)).is_empty(), "it was cancelled");
    }
}

fn number(properties: &[(String, String)], name: &str) -> u64 {
    properties.iter().find(|(key, _)| key == name).map_or(0, |(_, value)| value.parse().unwrap())
}

#[test]
fn the_payload_may_be_that_of_a_retained_message() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    let mut peer = publisher(&broker, Version::V5);
    let description = each_second(r#","payload_from":"config/valve","qos":0,"retain":true"#);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/v", &[], description.as_bytes()), 0);
    Sys::open(&tcp(&broker)).until("one was missed", |f| figure(f, "counters/schedule_missed") >= 1);
    assert_eq!(retained(&mut peer, Version::V5, "config/valve", &[], b"17"), 0);
    assert_eq!(peer.subscribe(&[("q/tick", 0)]), [0]);
    assert_eq!(peer.message().payload, b"17");
}

#[test]
fn what_is_no_schedule_is_refused_and_so_is_one_too_many() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n[limits]\nmax_schedules = 1\n");
    let mut peer = publisher(&broker, Version::V5);
    for payload in ["soon", r#"{"cron":"61 * * * *","topic":"a"}"#, r#"{"cron":"* * * * *","topic":"$SYS/a"}"#] {
        assert_eq!(retained(&mut peer, Version::V5, "$schedule/s", &[], payload.as_bytes()), 0x99, "{payload}");
    }
    let good = br#"{"cron":"0 0 1 1 *","topic":"a"}"#;
    assert_eq!(peer.publish(1, "$schedule/s", good).0, 0x83, "it is not retained");
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/", &[], good), 0x99);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/s", &[], good), 0);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/t", &[], good), 0x97);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/s", &[], good), 0);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/s", &[], b""), 0);
    assert_eq!(retained(&mut peer, Version::V5, "$schedule/t", &[], good), 0);
}
