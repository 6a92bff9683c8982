//! Numbered messages through kills of either side: counted where they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_tests::absence::of_program;
use forebay_tests::broker::{Broker, Kind};
use forebay_tests::device::{Identity, Publisher, Subscriber};
use forebay_tests::link::Endpoint;
use forebay_tests::numbered::Seen;
use forebay_tests::packet::Version;
use forebay_tests::rng::Rng;

use crate::{Case, bridge, gateway};

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(5);
/// Messages of one device that are not acknowledged.
const WINDOW: usize = 20;
/// Messages of one device that a run with kills has at least, however slow the machine is.
const LEAST: u32 = 100;
/// A subscriber that has heard nothing for so many polls of 20 ms, with messages missing, has lost them.
const PATIENCE: u32 = 3_000;
/// The yardstick: messages a second, and how long the upstream is away.
pub(crate) const YARDSTICK: (u64, Duration) = (30, Duration::from_secs(5));

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("exactly_once_through_kills_of_both_sides", None, || killed(Kind::Forebay, "exactly-once", "5")),
        // Without properties the upstream cannot tell repetitions by their numbers: packet identifiers alone do it.
        ("exactly_once_by_3_1_1_through_kills_of_both_sides", None, || killed(Kind::Forebay, "exactly-once", "3.1.1")),
        ("exactly_once_to_mosquitto_through_kills_of_the_gateway", of_program("mosquitto"), || {
            killed(Kind::Mosquitto, "exactly-once", "5");
        }),
        ("exactly_once_by_3_1_1_to_mosquitto_through_kills_of_the_gateway", of_program("mosquitto"), || {
            killed(Kind::Mosquitto, "exactly-once", "3.1.1");
        }),
        ("at_least_once_through_kills_of_both_sides", None, || killed(Kind::Forebay, "at-least-once", "5")),
        ("yardstick_to_forebay", None, || yardstick(Kind::Forebay)),
        ("yardstick_to_mosquitto", of_program("mosquitto"), || yardstick(Kind::Mosquitto)),
    ]
}

fn identity(port: u16, client: &str) -> Identity {
    Identity { endpoint: Endpoint::tcp(port), version: Version::V5, client: client.to_owned() }
}

/// Publishes while `more` says so of the next number, then until all is acknowledged; returns topic and count.
pub(crate) fn publish(
    port: u16,
    topic: String,
    qos: u8,
    pause: Duration,
    more: impl Fn(u32) -> bool + Send + 'static,
) -> JoinHandle<(String, u64)> {
    std::thread::spawn(move || {
        let mut publisher = Publisher::new(identity(port, &topic.replace('/', "-")), &topic, qos);
        let (mut next, begun) = (0u32, Instant::now());
        while more(next) || publisher.in_flight() > 0 {
            if publisher.connect().is_err() {
                std::thread::sleep(RETRY);
                continue;
            }
            let due = |next: u32| begun.elapsed() >= pause * next;
            while more(next) && publisher.in_flight() < WINDOW && publisher.is_connected() && due(next) {
                publisher.publish(format!("{next}").into_bytes());
                next += 1;
            }
            let _ = publisher.poll();
        }
        (topic, u64::from(next))
    })
}

/// Until the flag falls.
fn while_set(more: &Arc<AtomicBool>) -> impl Fn(u32) -> bool + Send + 'static {
    let more = more.clone();
    move |_| more.load(Ordering::Relaxed)
}

/// One for each topic reads until every message that is expected there has come, or nothing comes any more. One reader of both would
/// not do: mosquitto 2.0 lets messages overtake each other that wait for one client at QoS 1 and 2.
struct Collectors {
    expected: Arc<std::sync::OnceLock<BTreeMap<String, u64>>>,
    of_topics: Vec<(String, JoinHandle<Seen>)>,
}

impl Collectors {
    fn start(port: u16, topics: &[&str], once: bool) -> Self {
        let expected = Arc::new(std::sync::OnceLock::new());
        let of_topic = |topic: &&str| ((*topic).to_owned(), collect(port, topic, expected.clone(), once));
        let of_topics = topics.iter().map(of_topic).collect();
        Self { expected, of_topics }
    }

    /// What is wrong with what came, how many messages came, and how many twice where they may.
    fn end(self, counts: &BTreeMap<String, u64>) -> (Vec<String>, u64, u64) {
        let topics: Vec<&String> = self.of_topics.iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics, counts.keys().collect::<Vec<_>>());
        self.expected.set(counts.clone()).unwrap();
        let (mut faults, mut came, mut repeated) = (Vec::new(), 0, 0);
        for (topic, collecting) in self.of_topics {
            let seen = collecting.join().unwrap();
            faults.extend(seen.faults(&BTreeMap::from([(topic.clone(), counts[&topic])])));
            came += seen.count();
            repeated += seen.repeated();
        }
        (faults, came, repeated)
    }
}

fn collect(
    port: u16,
    topic: &str,
    expected: Arc<std::sync::OnceLock<BTreeMap<String, u64>>>,
    once: bool,
) -> JoinHandle<Seen> {
    let ready = Arc::new(AtomicBool::new(false));
    let (told, topic) = (ready.clone(), topic.to_owned());
    let collecting = std::thread::spawn(move || {
        let mut subscriber = Subscriber::new(identity(port, &topic.replace('/', "-")), &topic, 2);
        let mut seen = Seen::default();
        loop {
            if subscriber.connect().is_err() {
                std::thread::sleep(RETRY);
                continue;
            }
            told.store(true, Ordering::Relaxed);
            if let Ok(Some(message)) = subscriber.poll() {
                let value = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                seen.note(&message.topic, value, once && message.qos == 2);
            }
            if let Some(expected) = expected.get() {
                let complete = seen.has_reached(&topic, expected[&topic] - 1);
                if complete && subscriber.idle > 50 || subscriber.idle > PATIENCE {
                    return seen;
                }
            }
        }
    });
    while !ready.load(Ordering::Relaxed) {
        std::thread::sleep(RETRY);
    }
    collecting
}

fn counts(publishers: Vec<JoinHandle<(String, u64)>>) -> BTreeMap<String, u64> {
    publishers.into_iter().map(|thread| thread.join().unwrap()).map(|(t, n)| (format!("up/{t}"), n)).collect()
}

/// `kill -9` of the gateway, of the upstream, and of both, under load. Mosquitto writes its state down when it ends: it is not
/// killed.
fn killed(kind: Kind, delivery: &str, version: &str) {
    let seed = Rng::seed_from_environment();
    let kills: u32 = std::env::var("FOREBAY_KILLS").map_or(12, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    println!("{kills} kills, FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut upstream = Broker::start_as(kind);
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up/{topic}'\nqos = 2";
    let how = format!("delivery = '{delivery}'\nversion = '{version}'");
    let mut broker = gateway(&bridge(upstream.port(), &how, rules));
    broker.run();
    let once = delivery == "exactly-once";
    let collectors = Collectors::start(upstream.port(), &["up/n/q1", "up/n/q2"], once);
    let more = Arc::new(AtomicBool::new(true));
    let pause = Duration::from_micros(1_500);
    let enough = |qos| {
        let more = while_set(&more);
        publish(broker.port(), format!("n/q{qos}"), qos, pause, move |next| more(next) || next <= LEAST)
    };
    let publishers: Vec<_> = [1, 2].map(enough).into();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(100 + rng.below(500)));
        let (gateway_too, upstream_too) = [(true, false), (false, true), (true, true)][rng.below(3) as usize];
        let (gateway_too, upstream_too) =
            if kind == Kind::Forebay { (gateway_too, upstream_too) } else { (true, false) };
        if gateway_too {
            broker.kill();
        }
        if upstream_too {
            upstream.kill();
        }
        std::thread::sleep(Duration::from_millis(rng.below(200)));
        if upstream_too {
            upstream.run();
        }
        if gateway_too {
            broker.run();
        }
    }
    more.store(false, Ordering::Relaxed);
    let counts = counts(publishers);
    let (faults, _, repeated) = collectors.end(&counts);
    println!("{delivery} to {kind:?} by {version}: {counts:?}, {repeated} came twice where they may");
    assert!(counts.values().all(|count| *count > u64::from(LEAST)), "{counts:?}");
    // A device that repeats a QoS 1 message after a kill of the gateway makes it another one; a QoS 2 message is one.
    assert_eq!(faults, Vec::<String>::new());
}

/// QoS 2, 30 messages a second, numbered, the upstream away for 5 s: what arrived is counted.
fn yardstick(kind: Kind) {
    let (rate, away) = YARDSTICK;
    let mut upstream = Broker::start_as(kind);
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up/{topic}'\nqos = 2";
    let mut broker = gateway(&bridge(upstream.port(), "delivery = 'exactly-once'", rules));
    broker.run();
    let collectors = Collectors::start(upstream.port(), &["up/n/q2"], true);
    let more = Arc::new(AtomicBool::new(true));
    let pause = Duration::from_secs(1) / u32::try_from(rate).unwrap();
    let publishers = vec![publish(broker.port(), "n/q2".to_owned(), 2, pause, while_set(&more))];
    std::thread::sleep(Duration::from_secs(2));
    match kind {
        Kind::Forebay => upstream.kill(),
        // It writes its state down when it ends: killed, it forgets what it has acknowledged.
        Kind::Mosquitto => drop(upstream.terminate()),
    }
    std::thread::sleep(away);
    upstream.run();
    std::thread::sleep(Duration::from_secs(2));
    more.store(false, Ordering::Relaxed);
    let counts = counts(publishers);
    let (faults, came, _) = collectors.end(&counts);
    println!("{kind:?}: {came} of {} arrived", counts.values().sum::<u64>());
    assert_eq!(faults, Vec::<String>::new());
}
