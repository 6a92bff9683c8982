//! Queues of clients that are away: every policy at every limit, over a `kill -9`, with the ledger read after each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::print_stderr, clippy::wildcard_enum_match_arm)]

mod age;
mod dead;
mod declared;
mod delayed;
mod kills;
mod million;
mod once;
mod parked;
mod policies;
mod priorities;
mod rules;
mod schedules;
mod shared;
mod streams;
mod withheld;

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{self, Connect, Peer};
use forebay_tests::sys::{Figures, Sys, assert_balanced, figure};

/// Bytes of one message as queues count them, its topic included.
const SIZE: usize = 1000;

/// A broker whose queues have this configuration.
fn broker(queue: &str) -> Broker {
    Broker::with_config(&format!("sys_interval = \"1s\"\n[queue]\n{queue}\n"))
}

fn tcp(broker: &Broker) -> Endpoint {
    Endpoint::tcp(broker.port())
}

/// Makes a session that is subscribed to `q/#` at QoS 1, and leaves.
fn absent(broker: &Broker) {
    let (mut subscriber, present) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert!(!present);
    assert_eq!(subscriber.subscribe(&[("q/#", 1)]), [1]);
    subscriber.leave();
}

fn publisher(broker: &Broker, version: Version) -> Peer {
    Peer::open(&tcp(broker), &Connect::kept(version, "publisher")).0
}

/// A message of SIZE bytes on a topic of 3, with a number.
fn payload(number: u16) -> Vec<u8> {
    let mut payload = vec![b'.'; SIZE - 3];
    payload[..2].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The absent one comes and takes what there is: topics and numbers.
fn drained(broker: &Broker) -> Vec<(String, u16)> {
    let (mut subscriber, present) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert!(present, "the session is there");
    let messages = subscriber.drain(Duration::from_secs(1));
    subscriber.leave();
    messages.into_iter().map(|m| (m.topic, u16::from_be_bytes([m.payload[0], m.payload[1]]))).collect()
}

fn numbers(messages: &[(String, u16)]) -> Vec<u16> {
    messages.iter().map(|(_, number)| *number).collect()
}

/// Waits until as many are queued, and checks the sum.
fn settled(broker: &Broker, queued: u64) -> Figures {
    let mut sys = Sys::open(&tcp(broker));
    let figures = sys.until(&format!("{queued} are queued"), |f| figure(f, "ledger/queued") == queued);
    assert_balanced(&figures);
    figures
}

/// All that was done until now is on disk: the ack of a retained message waits for a commit of everything.
fn committed(broker: &Broker) {
    let (mut peer, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "committed"));
    let mut retained = peer::publish(Version::V5, 1, 1, "committed", &[], b"x");
    retained[0] |= 1;
    peer.send(&retained);
    assert!(matches!(peer.answer(), peer::Came::Ack(_, 1, 0, _)));
    peer.leave();
}

/// Pulls the plug and starts it again.
fn crash(broker: &mut Broker) {
    broker.kill();
    broker.run();
}
