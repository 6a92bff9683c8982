//! Streams: kept by age and size, read again from any place, over a `kill -9`; a kept session finds its place.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::bulk;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, Publish, frame, user};
use forebay_tests::sys::{Sys, figure};

use crate::{crash, publisher, tcp};

fn with(stream: &str) -> Broker {
    Broker::with_config(&format!("sys_interval = \"1s\"\n[[streams]]\nname = \"log\"\nfilter = \"s/#\"\n{stream}\n"))
}

fn send(peer: &mut Peer, numbers: std::ops::Range<u16>) {
    for number in numbers {
        assert_eq!(peer.publish(number + 1, &format!("s/{}", number % 3), &number.to_be_bytes()).0, 0);
    }
}

fn reader(broker: &Broker, connect: &Connect, filter: &str) -> Peer {
    let (mut peer, _) = Peer::open(&tcp(broker), connect);
    assert_eq!(peer.subscribe(&[(filter, 1)]), [1], "{filter}");
    peer
}

fn number(message: &Publish) -> u16 {
    u16::from_be_bytes([message.payload[0], message.payload[1]])
}

fn said<'m>(message: &'m Publish, name: &str) -> Option<&'m str> {
    message.properties.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn appended(broker: &Broker, count: u64) {
    Sys::open(&tcp(broker)).until("all are in the stream", |f| figure(f, "counters/stream_appended") == count);
}

#[test]
fn everybody_reads_all_of_it_from_where_they_say() {
    let mut broker = with("");
    send(&mut publisher(&broker, Version::V4), 0..50);
    appended(&broker, 50);
    crash(&mut broker);
    for (start, from) in [
        ("/@earliest", 0),
        ("/@20", 20),
        ("/@-5", 45),
        ("/@-10m", 0),
        ("/@2020-01-01T00:00:00Z", 0),
        ("/@99", 50),
        ("/@latest", 50),
        ("", 50),
    ] {
        for version in [Version::V4, Version::V5] {
            let mut peer = reader(&broker, &Connect::clean(version, "reader"), &format!("$stream/log{start}"));
            for expected in from..50 {
                let message = peer.message();
                assert_eq!(number(&message), expected, "{start}");
                if version == Version::V5 {
                    assert_eq!(said(&message, "offset"), Some(&*expected.to_string()));
                    assert!(said(&message, "ts").is_some_and(|ts| ts.parse::<u64>().is_ok()));
                    assert_eq!(said(&message, "missed"), None);
                }
            }
            assert_eq!(peer.within(Duration::from_millis(100)), None, "{start}");
            peer.leave();
        }
    }
    // What comes now is read by all who wait for it.
    let mut readers = ["a", "b"].map(|name| reader(&broker, &Connect::clean(Version::V5, name), "$stream/log"));
    send(&mut publisher(&broker, Version::V5), 50..60);
    for reader in &mut readers {
        assert_eq!((50..60).map(|_| number(&reader.message())).collect::<Vec<_>>(), (50..60).collect::<Vec<_>>());
    }
}

/// MQTT 5 says it in user properties, 3.1.1 in the filter.
#[test]
fn a_part_of_it_is_read_and_no_more() {
    let broker = with("");
    send(&mut publisher(&broker, Version::V4), 0..50);
    appended(&broker, 50);
    let part = |offset: &str, until: &str| -> Vec<u8> {
        [("stream-offset", offset), ("stream-until", until)]
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .flat_map(|(name, value)| user(name, value))
            .collect()
    };
    for (offset, until, numbers) in [
        ("earliest", "", 0..50),
        ("20", "30", 20..30),
        ("-5", "47", 45..47),
        ("2020-01-01T00:00:00+01:00", "", 0..50),
        ("earliest", "2020-01-01T00:00:00+01:00", 0..0),
        ("earliest", "2999-01-01T00:00:00Z", 0..50),
        ("", "60", 50..50),
    ] {
        let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
        assert_eq!(peer.subscribe_with(&[("$stream/log", 1)], &part(offset, until)), [1], "{offset} {until}");
        let came = peer.drain(Duration::from_millis(150));
        assert_eq!(came.iter().map(number).collect::<Vec<_>>(), numbers.collect::<Vec<_>>(), "{offset} {until}");
        peer.leave();
    }
    for version in [Version::V4, Version::V5] {
        let mut peer = reader(&broker, &Connect::clean(version, "reader"), "$stream/log/@20..30");
        let came = peer.drain(Duration::from_millis(150));
        assert_eq!(came.iter().map(number).collect::<Vec<_>>(), (20..30).collect::<Vec<_>>());
        // With another place it begins anew.
        assert_eq!(peer.subscribe(&[("$stream/log/@48", 1)]), [1]);
        let came = peer.drain(Duration::from_millis(150));
        assert_eq!(came.iter().map(number).collect::<Vec<_>>(), [48, 49]);
        peer.leave();
    }
    let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "c"));
    for wrong in [part("soon", ""), part("1", "latest"), part(&"0".repeat(100), "")] {
        assert_eq!(peer.subscribe_with(&[("$stream/log", 1)], &wrong), [0x8f]);
    }
    assert_eq!(peer.subscribe(&[("$stream/log/@1..", 1)]), [0x8f]);
}

/// Also what comes later, and over a restart; UNSUBSCRIBE needs no place.
#[test]
fn a_kept_session_stops_where_it_said() {
    let mut broker = with("");
    let kept = Connect::kept(Version::V5, "kept");
    let (mut peer, _) = Peer::open(&tcp(&broker), &kept);
    let until = [user("stream-offset", "earliest"), user("stream-until", "12")].concat();
    assert_eq!(peer.subscribe_with(&[("$stream/log", 1)], &until), [1]);
    peer.leave();
    send(&mut publisher(&broker, Version::V5), 0..10);
    appended(&broker, 10);
    crash(&mut broker);
    send(&mut publisher(&broker, Version::V5), 10..20);
    appended(&broker, 10);
    let (mut peer, present) = Peer::open(&tcp(&broker), &kept);
    assert!(present);
    let came = peer.drain(Duration::from_millis(300));
    assert_eq!(came.iter().map(number).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    peer.send(&frame(0xA2, &[&[0, 9, 0, 0, 11][..], b"$stream/log"].concat()));
    assert_eq!(peer.answer(), Came::Other(0xB0));
    assert_eq!(peer.subscribe(&[("$stream/log/@18", 1)]), [1]);
    assert_eq!([number(&peer.message()), number(&peer.message())], [18, 19]);
}

#[test]
fn a_stream_or_a_place_that_is_none_is_refused() {
    let broker = with("");
    let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "c"));
    assert_eq!(peer.subscribe(&[("$stream/none", 1), ("$stream/log/x", 1), ("$stream/log/@", 1)]), [0x8f; 3]);
}

#[test]
fn a_kept_session_goes_on_where_it_was() {
    let mut broker = with("");
    let kept = Connect::kept(Version::V5, "kept");
    send(&mut publisher(&broker, Version::V5), 0..20);
    appended(&broker, 20);
    let mut peer = reader(&broker, &kept, "$stream/log/@earliest");
    for expected in 0..10 {
        assert_eq!(number(&peer.message()), expected);
    }
    // Read, and not acknowledged: it is read again.
    assert!(matches!(peer.answer(), Came::Publish(message) if number(&message) == 10));
    drop(peer);
    for round in 0..2 {
        if round == 1 {
            assert_eq!(broker.terminate(), Some(0));
            broker.run();
        }
        let (mut peer, present) = Peer::open(&tcp(&broker), &kept);
        assert!(present);
        let from = 10 + round * 5;
        for expected in from..from + 5 {
            assert_eq!(number(&peer.message()), expected, "round {round}");
        }
        drop(peer);
    }
    // A kill may take back the last acknowledgements, and nothing else.
    send(&mut publisher(&broker, Version::V5), 20..30);
    appended(&broker, 10);
    crash(&mut broker);
    let (mut peer, _) = Peer::open(&tcp(&broker), &kept);
    let first = number(&peer.message());
    assert!(first <= 20, "{first}");
    for expected in first + 1..30 {
        assert_eq!(number(&peer.message()), expected);
    }
    // Who says it anew is not sent back.
    assert_eq!(peer.subscribe(&[("$stream/log/@earliest", 1)]), [1]);
    assert_eq!(peer.within(Duration::from_millis(300)), None);
}

#[test]
fn a_reader_that_is_behind_what_is_kept_is_told_how_many_it_missed() {
    let mut broker = with("max_messages = 32");
    let kept = Connect::kept(Version::V5, "kept");
    reader(&broker, &kept, "$stream/log/@earliest").leave();
    send(&mut publisher(&broker, Version::V5), 0..200);
    appended(&broker, 200);
    crash(&mut broker);
    let (mut peer, _) = Peer::open(&tcp(&broker), &kept);
    let first = peer.message();
    let missed: u16 = said(&first, "missed").unwrap().parse().unwrap();
    assert_eq!(number(&first), missed);
    assert!((168..=170).contains(&missed), "{missed}");
    let rest = peer.drain(Duration::from_millis(300));
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), (missed + 1..200).collect::<Vec<_>>());
    assert!(rest.iter().all(|message| said(message, "missed").is_none()));
}

#[test]
fn what_is_too_old_is_gone() {
    let broker = with("max_age = \"1s\"");
    send(&mut publisher(&broker, Version::V5), 0..5);
    appended(&broker, 5);
    let mut sys = Sys::open(&tcp(&broker));
    sys.until("the rows are gone", |f| figure(f, "store/live bytes") < 400);
    let mut peer = reader(&broker, &Connect::clean(Version::V5, "c"), "$stream/log/@earliest");
    assert_eq!(peer.within(Duration::from_millis(200)), None);
}

/// Its size is the disk's matter.
#[test]
fn a_long_stream_takes_little_memory() {
    const COUNT: u64 = 100_000;
    let mut broker = with("");
    let before = broker.resident_kb();
    bulk::publish(broker.port(), "s/bulk", 0..COUNT, 200);
    appended(&broker, COUNT);
    let grown = broker.resident_kb().saturating_sub(before);
    crash(&mut broker);
    let begun = std::time::Instant::now();
    let mut peer = reader(&broker, &Connect::clean(Version::V5, "c"), "$stream/log/@earliest");
    for expected in 0..COUNT {
        let message = peer.message();
        assert_eq!(said(&message, "offset"), Some(&*expected.to_string()));
    }
    println!("{COUNT} messages: {grown} KB in memory while they came, read in {:?}", begun.elapsed());
    assert!(grown < 64 * 1024, "{grown} KB more in memory");
}
