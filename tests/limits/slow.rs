//! Subscribers that do not read: the broker's memory stays what it was.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::sys::{assert_balanced, dropped, figure};

use crate::{SYS, sys, tcp};

const SIZE: usize = 1000;

fn payload(number: u32) -> Vec<u8> {
    let mut payload = vec![b'x'; SIZE];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Publishes at QoS 1, 100 at a time; the answer is how many were taken and how many refused with 0x97.
fn publish_many(peer: &mut Peer, count: u32) -> (u32, u32) {
    let (mut taken, mut refused) = (0, 0);
    for first in (0..count).step_by(100) {
        let bytes: Vec<u8> = (first..first + 100)
            .flat_map(|n| publish(Version::V5, 1, (n % 65_000) as u16 + 1, "slow", &[], &payload(n)))
            .collect();
        peer.send(&bytes);
        for _ in 0..100 {
            match peer.answer() {
                Came::Ack(Ack::Puback, _, 0, _) => taken += 1,
                Came::Ack(Ack::Puback, _, 0x97, properties) => {
                    assert_eq!(properties.retry_after_ms(), Some(1000));
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (taken, refused)
}

#[test]
fn qos_0_to_a_slow_reader_is_dropped_and_counted() {
    const COUNT: u32 = 100_000;
    let broker = Broker::with_config(SYS);
    let mut sys = sys(&broker);
    let (mut slow, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "slow"));
    slow.subscribe(&[("slow", 0)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let before = broker.resident_kb();
    for first in (0..COUNT).step_by(100) {
        let bytes: Vec<u8> =
            (first..first + 100).flat_map(|n| publish(Version::V5, 0, 0, "slow", &[], &payload(n))).collect();
        publisher.send(&bytes);
    }
    publisher.publish(1, "the end", b"");
    let grown = broker.resident_kb().saturating_sub(before);
    assert!(grown < 8 * 1024, "100 MB to a client that does not read: {grown} KB more in memory");
    let figures = sys.until("drops are counted", |f| figure(f, "ledger/dropped/qos0") > 0);
    assert_balanced(&figures);
    assert_eq!(dropped(&figures), figure(&figures, "ledger/dropped/qos0"), "for this reason and no other");
    // What did come is whole and in order, and with the drops it is everything.
    let came: Vec<u32> = slow.drain(Duration::from_secs(1)).iter().map(|m| number(&m.payload)).collect();
    assert!(came.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    let figures = sys.figures();
    assert_eq!(came.len() as u64 + dropped(&figures), u64::from(COUNT));
}

#[test]
fn qos_1_to_a_slow_reader_is_queued_on_disk() {
    const COUNT: u32 = 40_000;
    let broker = Broker::with_config(SYS);
    let mut sys = sys(&broker);
    let (mut slow, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V4, "slow"));
    slow.subscribe(&[("slow", 1)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let before = broker.resident_kb();
    assert_eq!(publish_many(&mut publisher, COUNT), (COUNT, 0));
    let grown = broker.resident_kb().saturating_sub(before);
    assert!(grown < 24 * 1024, "40 MB to a client that does not read: {grown} KB more in memory");
    let figures = sys.until("all are queued", |f| figure(f, "ledger/queued") == u64::from(COUNT));
    assert_eq!(dropped(&figures), 0);
    assert_balanced(&figures);
    for n in 0..COUNT {
        assert_eq!(number(&slow.message().payload), n, "in order");
    }
}

#[test]
fn qos_1_to_a_slow_reader_whose_session_is_not_kept_is_refused_at_the_limit() {
    // 16 times memory_bytes: 1 MiB.
    let broker = Broker::with_config(&format!(
        "{SYS}[limits]\nmemory_bytes = \"64KiB\"\n[queue]\nstall_limit_transient = \"1h\"\n"
    ));
    let mut sys = sys(&broker);
    let (mut slow, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "slow"));
    slow.subscribe(&[("slow", 1)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let before = broker.resident_kb();
    let (taken, refused) = publish_many(&mut publisher, 20_000);
    let grown = broker.resident_kb().saturating_sub(before);
    assert!(grown < 12 * 1024, "20 MB to a client that does not read: {grown} KB more in memory");
    assert!((500..2_500).contains(&taken), "about 1 MiB is taken: {taken}");
    assert_eq!(taken + refused, 20_000);
    let figures = sys.figures();
    assert_eq!((dropped(&figures), figure(&figures, "counters/publish_refused")), (0, u64::from(refused)));
    assert_balanced(&figures);
    // It reads at last: what was taken comes, and there is room again.
    (0..taken).for_each(|_| drop(slow.message()));
    assert_eq!(publisher.publish(1, "slow", &payload(0)).0, 0);
}

/// The buffer takes a message whenever it was below its limit before it.
#[test]
fn a_large_qos_0_message_reaches_who_is_idle() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\noutbound_buffer = \"64KiB\"\n"));
    let (mut idle, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "idle"));
    idle.subscribe(&[("large", 0)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let payload = vec![b'x'; 1_000_000];
    for _ in 0..3 {
        publisher.send(&publish(Version::V5, 0, 0, "large", &[], &payload));
        assert_eq!(idle.message().payload, payload);
    }
}

#[test]
fn dropping_is_said_once_until_all_was_read() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\noutbound_buffer = \"64KiB\"\n"));
    let (mut slow, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "slow"));
    slow.subscribe(&[("slow", 0)]);
    let mut sys = sys(&broker);
    let said = || broker.log().matches("QoS 0 messages for it are dropped").count();
    let mut before = 0;
    for times in 1..=2 {
        let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
        let packet = publish(Version::V5, 0, 0, "slow", &[], &payload(1));
        while dropped(&sys.figures()) < before + 1000 {
            (0..2000).for_each(|_| publisher.send(&packet));
        }
        publisher.publish(1, "the end", b"");
        assert_eq!(said(), times);
        slow.drain(Duration::from_secs(2));
        // It is known to have read all when a message comes through.
        publisher.send(&packet);
        slow.message();
        before = dropped(&sys.figures());
    }
}

/// A packet that takes more than one turn to read alone is read once, in its parts, and not again and again.
#[test]
fn a_packet_larger_than_a_turn_comes_through() {
    let broker = Broker::with_config("[limits]\nmax_packet_size = \"16MiB\"\n");
    let (mut idle, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "idle"));
    idle.subscribe(&[("large", 1)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let payload = vec![b'x'; 10_000_000];
    assert_eq!(publisher.publish(1, "large", &payload).0, 0);
    assert_eq!(idle.message().payload.len(), payload.len());
}
