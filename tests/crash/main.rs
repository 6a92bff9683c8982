//! `kill -9` at random moments under QoS 1 and 2 load, every message numbered: none acknowledged is lost, none of QoS 2 comes
//! twice, order is kept.
//!
//! FOREBAY_KILLS=n for another number of kills, FOREBAY_SEED=n to make a run again (the moments, not the threads).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout
)]
#![allow(clippy::wildcard_enum_match_arm)]

mod groups;
mod retained;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::device::{Identity, Publisher, Subscriber};
use forebay_tests::link::Endpoint;
use forebay_tests::numbered::Seen;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish as publish_packet};
use forebay_tests::rng::Rng;

/// Messages of one publisher that are not acknowledged.
const WINDOW: usize = 20;
/// After each message: what is proved is order and loss, not speed, and subscribers that were away must catch up.
const PAUSE: Duration = Duration::from_micros(300);
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(5);
/// A subscriber that has heard nothing for so many polls of 20 ms, with messages missing, has lost them.
const PATIENCE: u32 = 1500;

struct Plan {
    port: u16,
    /// Publishers go on.
    more: AtomicBool,
    /// Subscribers come and go.
    restless: AtomicBool,
}

fn identity(plan: &Plan, number: usize, name: &str) -> Identity {
    let version = if number.is_multiple_of(2) { Version::V4 } else { Version::V5 };
    Identity { endpoint: Endpoint::tcp(plan.port), version, client: format!("{name}-{number}") }
}

/// Publishes until told to stop, then until all is acknowledged; returns topic and count.
fn publish(plan: &Plan, number: usize) -> (String, u64, u64) {
    let qos = 1 + (number / 2 % 2) as u8;
    let topic = format!("crash/{number}/q{qos}");
    let mut publisher = Publisher::new(identity(plan, number, "publisher"), &topic, qos);
    let mut next = 0u64;
    while plan.more.load(Ordering::Relaxed) || publisher.in_flight() > 0 {
        if publisher.connect().is_err() {
            std::thread::sleep(RETRY);
            continue;
        }
        while plan.more.load(Ordering::Relaxed) && publisher.in_flight() < WINDOW && publisher.is_connected() {
            publisher.publish(format!("{next}").into_bytes());
            next += 1;
            std::thread::sleep(PAUSE);
        }
        let _ = publisher.poll();
    }
    (topic, next, publisher.repeated)
}

/// Reads until every message of `expected` has come.
fn subscribe(plan: &Plan, number: usize, mut rng: Rng, expected: &std::sync::OnceLock<BTreeMap<String, u64>>) -> Seen {
    let mut subscriber = Subscriber::new(identity(plan, number, "subscriber"), "crash/#", 2);
    let mut seen = Seen::default();
    loop {
        if subscriber.connect().is_err() {
            std::thread::sleep(RETRY);
            continue;
        }
        // A lost connection is made again above.
        if let Ok(Some(message)) = subscriber.poll() {
            let value = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            seen.note(&message.topic, value, message.qos == 2);
        }
        // The first stays, the others leave now and then: with and without a word, for a while.
        if number > 0 && plan.restless.load(Ordering::Relaxed) && rng.below(2000) < number as u64 {
            subscriber.leave(rng.below(2) == 0);
            std::thread::sleep(Duration::from_millis(rng.below(400)));
        }
        if let Some(expected) = expected.get() {
            let complete = expected.iter().all(|(topic, count)| seen.has_reached(topic, count - 1));
            if complete && subscriber.idle > 5 || subscriber.idle > PATIENCE {
                return seen;
            }
        }
    }
}

/// As it is by default: a kill finds nearly everything in the journal.
#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    kill(25, "8MiB");
}

/// It is folded several times a second, and most kills find a fold under way.
#[test]
fn nothing_is_lost_by_a_kill_in_a_fold() {
    kill(25, "64KiB");
}

#[test]
fn nothing_is_lost_by_a_kill_without_a_journal() {
    kill(15, "0B");
}

fn kill(kills: u64, journal: &str) {
    let seed = Rng::seed_from_environment();
    let kills = std::env::var("FOREBAY_KILLS").map_or(kills, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    eprintln!("{kills} kills, journal {journal}, FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut broker = Broker::with_config(&format!("[store]\njournal = \"{journal}\"\n"));
    let plan = Arc::new(Plan { port: broker.port(), more: AtomicBool::new(true), restless: AtomicBool::new(false) });
    let expected = Arc::new(std::sync::OnceLock::new());
    let subscribers: Vec<JoinHandle<Seen>> = (0..4)
        .map(|number| {
            let (plan, expected, rng) = (plan.clone(), expected.clone(), Rng::new(rng.next_u64()));
            std::thread::spawn(move || subscribe(&plan, number, rng, &expected))
        })
        .collect();
    // All subscriptions are made before the first message.
    std::thread::sleep(Duration::from_millis(500));
    plan.restless.store(true, Ordering::Relaxed);
    let publishers: Vec<JoinHandle<(String, u64, u64)>> = (0..4)
        .map(|number| {
            let plan = plan.clone();
            std::thread::spawn(move || publish(&plan, number))
        })
        .collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
        broker.kill();
        broker.run();
    }
    plan.more.store(false, Ordering::Relaxed);
    plan.restless.store(false, Ordering::Relaxed);
    let published: Vec<_> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    let repeated: u64 = published.iter().map(|p| p.2).sum();
    let counts: BTreeMap<String, u64> = published.into_iter().map(|(topic, count, _)| (topic, count)).collect();
    let total: u64 = counts.values().sum();
    expected.set(counts.clone()).unwrap();
    for (number, thread) in subscribers.into_iter().enumerate() {
        let seen = thread.join().unwrap();
        let faults = seen.faults(&counts);
        eprintln!("subscriber {number}: {} of {total}, {} repeated at QoS 1", seen.count(), seen.repeated());
        assert!(faults.is_empty(), "FOREBAY_SEED={seed}, subscriber {number}: {faults:#?}");
    }
    eprintln!("{total} messages, {repeated} sent again by publishers");
    assert!(total > 100 * kills, "too little load to prove anything: {total} messages");
}

/// What was sent before the kill and not acknowledged comes again with DUP and its identifier [MQTT-3.3.1-1], however little
/// time there was to write down that it was sent.
#[test]
fn what_was_sent_before_a_kill_comes_again_as_a_duplicate() {
    for version in [Version::V4, Version::V5] {
        let mut broker = Broker::start();
        let endpoint = Endpoint::tcp(broker.port());
        let (mut subscriber, _) = Peer::open(&endpoint, &Connect::kept(version, "subscriber"));
        assert_eq!(subscriber.subscribe(&[("t/#", 2)]), [2]);
        let (mut publisher, _) = Peer::open(&endpoint, &Connect::clean(version, "publisher"));
        publisher.send(&publish_packet(version, 2, 1, "t/2", &[], b"2"));
        assert!(matches!(publisher.answer(), Came::Ack(Ack::Pubrec, ..)));
        let sent = subscriber.message();
        assert_eq!((sent.dup, sent.qos), (false, 2));
        broker.kill();
        broker.run();
        let (mut subscriber, present) = Peer::open(&endpoint, &Connect::kept(version, "subscriber"));
        assert!(present);
        let again = subscriber.message();
        assert_eq!((again.dup, again.id, &again.payload), (true, sent.id, &sent.payload), "{version:?}");
    }
}
