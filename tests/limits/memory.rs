//! One bound on all memory, the limits of what takes it, and that it comes back.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version::{V4, V5};
use forebay_tests::packet::build;
use forebay_tests::peer::{self, Came, Connect, Peer, number2, publish};
use forebay_tests::raw::Raw;
use forebay_tests::sys::figure;

use crate::{SYS, sys, tcp};

const LIMIT: Duration = Duration::from_secs(60);

fn open(broker: &Broker, client: &str) -> Peer {
    Peer::open(&tcp(broker), &Connect::clean(V5, client)).0
}

/// Long topics behind aliases: refused past 64 KiB for a connection.
#[test]
fn topics_behind_aliases() {
    let broker = Broker::start();
    let mut peer = open(&broker, "client");
    let topic = |n: u16| format!("{n:05}/{}", "x".repeat(30_000));
    for n in 1..=2 {
        peer.send(&publish(V5, 0, 0, &topic(n), &number2(0x23, n), b""));
    }
    // The same alias again costs nothing more.
    peer.send(&publish(V5, 0, 0, &topic(3), &number2(0x23, 2), b""));
    assert_eq!(peer.publish(1, "fence", b"").0, 0x10);
    peer.send(&publish(V5, 0, 0, &topic(3), &number2(0x23, 3), b""));
    assert!(matches!(peer.answer(), Came::Disconnect(0x97, _)));
}

#[test]
fn sessions_and_wills() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\nmax_sessions = 4\nmax_will_bytes = \"2KiB\"\n"));
    let mut sys = sys(&broker);
    Peer::open(&tcp(&broker), &Connect::kept(V5, "one")).0.leave();
    Peer::open(&tcp(&broker), &Connect::kept(V4, "two")).0.leave();
    let will = |client: &str| {
        build::Connect::new(forebay_tests::packet::Version::V5, client).will(build::Will::new("w", &[0; 1500]))
    };
    let (willing, _, _) = Raw::open(broker.port(), &will("willing"));
    let (_, came) = Peer::connect(&tcp(&broker), &Connect::clean(V5, "one too many"));
    assert!(matches!(came, Came::Connack(false, 0x97, _)), "{came:?}");
    let (_, came) = Peer::connect(&tcp(&broker), &Connect::clean(V4, "one too many"));
    assert!(matches!(came, Came::Connack(false, 3, _)), "{came:?}");
    // Whoever has a session comes back, though not with a second large will.
    assert!(Peer::open(&tcp(&broker), &Connect::kept(V5, "one")).1);
    Raw::begin(broker.port(), &will("one")).expect_refused(0x97);
    sys.until("the will is counted", |f| figure(f, "wills/bytes") > 1500);
    willing.leave();
    sys.until("the will is gone", |f| figure(f, "wills/bytes") == 0);
    Raw::open(broker.port(), &will("one"));
}

#[test]
fn subscriptions_and_the_trees_of_filters_and_topics() {
    let limits = "max_subscriptions = 6\nmax_filter_levels = 12\nmax_retained_levels = 5\n";
    let broker = Broker::with_config(&format!("[limits]\n{limits}"));
    let (mut one, mut two) = (open(&broker, "one"), open(&broker, "two"));
    assert_eq!(one.subscribe(&[("a/b/c", 0), ("a/b/d", 0)]), [0, 0]);
    // Nine levels more, where seven are left.
    assert_eq!(two.subscribe(&[("1/2/3/4/5/6/7/8/9", 0), ("x", 0), ("y", 0), ("z", 0)]), [0x97, 0, 0, 0]);
    assert_eq!(two.subscribe(&[("u", 0), ("v", 0), ("x", 1)]), [0, 0x97, 1]);
    let retained = |id, topic: &str| {
        let mut packet = publish(V5, 1, id, topic, &[], b"r");
        packet[0] |= 1;
        packet
    };
    one.send(&retained(1, "r/s/t"));
    assert!(matches!(one.answer(), Came::Ack(_, 1, 0, _)));
    one.send(&retained(2, "p/q/o"));
    assert!(matches!(one.answer(), Came::Ack(_, 2, 0x97, _)));
    one.send(&retained(3, "r/s/u"));
    assert!(matches!(one.answer(), Came::Ack(_, 3, 0, _)));
}

/// Large messages for many readers that do not read: past the limit the publisher is refused, a reader that keeps up still
/// gets what is small, and when the slow ones are gone the memory comes back.
#[test]
fn slow_readers_stay_within_the_limit_and_their_memory_comes_back() {
    const MEMORY_MB: u64 = 64;
    // Readers of the same share a large message: what fills the memory is that there are many.
    const TOPICS: u16 = 10;
    let broker = Broker::with_config(&format!("{SYS}[limits]\nmemory = \"{MEMORY_MB}MiB\"\n"));
    let mut sys = sys(&broker);
    let mut quick = open(&broker, "quick");
    assert_eq!(quick.subscribe(&[("small", 1)]), [1]);
    let mut publisher = open(&broker, "publisher");
    let before_kb = broker.resident_kb();
    let slow: Vec<Peer> = (0..100)
        .map(|n| {
            let mut slow = open(&broker, &format!("slow{n}"));
            assert_eq!(slow.subscribe(&[(&format!("big{}", n % TOPICS), 1)]), [1]);
            slow
        })
        .collect();
    let mut peak_kb = 0;
    let mut refused = 0;
    for id in 1..=100 {
        match publisher.publish(id, &format!("big{}", id % TOPICS), &vec![b'x'; 1_000_000]).0 {
            0 => {}
            0x97 => refused += 1,
            other => panic!("{other:#x}"),
        }
        peak_kb = peak_kb.max(broker.resident_kb());
        assert_eq!(publisher.publish(1000, "small", b"x").0, 0, "what exists goes on");
        assert_eq!(quick.message().payload, b"x");
    }
    assert!(refused > 0, "the limit is met");
    assert!(peak_kb < (MEMORY_MB * 1024) * 3 / 2, "{peak_kb} kB");
    // What is small is written for each: the last that is taken is past the limit, and stays there.
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let code = publisher.publish(2000, "big0", &vec![b'x'; 7000]).0;
        in_a_row = if code == 0x97 { in_a_row + 1 } else { 0 };
    }
    sys.until_pressure("critical");
    // A newcomer is told to come later, whoever has a session is not.
    let (_, came) = Peer::connect(&tcp(&broker), &Connect::clean(V5, "newcomer"));
    assert!(matches!(came, Came::Connack(false, 0x89, _)), "{came:?}");
    assert_eq!(quick.subscribe(&[("other", 1)]), [0x97]);
    drop(slow);
    sys.until_pressure("normal");
    let begun = Instant::now();
    let back = |now_kb: u64| now_kb < before_kb + before_kb / 5 + 4096;
    while !back(broker.resident_kb()) {
        assert!(begun.elapsed() < LIMIT, "{before_kb} kB before, {} kB after", broker.resident_kb());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(publisher.publish(1001, "big0", b"x").0, 0x10);
    open(&broker, "newcomer");
}

/// Those who are not past their CONNECT are held to the limit too: 64 of 4 MiB each do not fit into 32.
#[test]
fn connects_that_do_not_end_stay_within_the_limit() {
    const MEMORY_MB: u64 = 32;
    let limits = format!("[limits]\nmemory = \"{MEMORY_MB}MiB\"\nmax_packet_size = \"8MiB\"\n");
    let broker = Broker::with_config(&limits);
    // A CONNECT of 6 MiB, of which the last third is missing.
    let mut part = vec![0x10, 0x80, 0x80, 0x80, 3];
    part.resize(4 << 20, 0);
    let mut sockets = Vec::new();
    let mut ended = 0;
    for _ in 0..64 {
        let mut socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
        // An error: it was closed while it was being sent.
        ended += usize::from(socket.write_all(&part).is_err());
        sockets.push(socket);
        assert!(broker.resident_kb() < MEMORY_MB * 1024 * 3 / 2, "{} kB", broker.resident_kb());
    }
    assert!(ended > 32, "{ended} of 64 were ended");
    drop(sockets);
    open(&broker, "newcomer");
}

/// 100,000 subscriptions come and go: so does their memory.
#[test]
fn the_memory_of_subscriptions_comes_back() {
    let broker = Broker::start();
    // The code that they need is in memory as well once it has run.
    for _ in 0..2 {
        open(&broker, "first").subscribe(&[("first", 0)]);
    }
    let before_kb = broker.resident_kb();
    let mut peak_kb = 0;
    for round in 0..10 {
        let mut client = open(&broker, &format!("client{round}"));
        for packet in 0..10 {
            let filters: Vec<String> = (0..1000).map(|n| format!("site/{round}/{packet}/{n}/state")).collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
            client.send(&peer::subscribe(V5, packet + 1, &filters));
            assert!(matches!(client.answer(), Came::Suback(..)));
        }
        peak_kb = peak_kb.max(broker.resident_kb());
        // It stays connected until all are there.
        std::mem::forget(client);
    }
    assert!(peak_kb > before_kb + 10_000, "{before_kb} kB before, {peak_kb} kB with them");
    for round in 0..10 {
        open(&broker, &format!("client{round}"));
    }
    let begun = Instant::now();
    while broker.resident_kb() > before_kb + before_kb / 5 + 4096 {
        assert!(begun.elapsed() < LIMIT, "{before_kb} kB before, {peak_kb} kB, {} kB after", broker.resident_kb());
        std::thread::sleep(Duration::from_millis(200));
    }
}
