//! A year of hourly temperatures of two cities from 200 devices over TLS at QoS 1 and 2, while subscribers come and go and the
//! broker is killed and restarted: every reading arrives, in order, once at QoS 2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::device::{Identity, Publisher, Subscriber};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::rng::Rng;

const DEVICES: usize = 200;
/// Threads; each serves its part of the devices in turn.
const THREADS: usize = 8;
const KILLS: usize = 5;
const RETRY: Duration = Duration::from_millis(10);
/// After so many reads of 20 ms in a row that bring nothing, when all is published, nothing more is going to come.
const IDLE_READS: u32 = 1500;

/// `time,temperature` of each hour, as the file has them.
fn readings(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    assert!(lines.len() > 8_700, "{}: {} readings", path.display(), lines.len());
    lines
}

/// The readings of each device: the hours of a city are dealt to its devices in turn.
fn deal() -> Vec<Vec<String>> {
    let mut devices = vec![Vec::new(); DEVICES];
    for (city, file) in ["seattle-temps.csv", "sf-temps.csv"].into_iter().enumerate() {
        for (hour, reading) in readings(file).into_iter().enumerate() {
            devices[city * DEVICES / 2 + hour % (DEVICES / 2)].push(reading);
        }
    }
    devices
}

fn qos(device: usize) -> u8 {
    1 + (device % 2) as u8
}

fn topic(device: usize) -> String {
    format!("weather/{device:03}/q{}", qos(device))
}

struct Plan {
    endpoint: Endpoint,
    devices: Vec<Vec<String>>,
    /// Readings that are acknowledged to the end.
    acknowledged: AtomicUsize,
}

fn identity(plan: &Plan, client: String, number: usize) -> Identity {
    let version = if number.is_multiple_of(3) { Version::V4 } else { Version::V5 };
    Identity { endpoint: plan.endpoint.clone(), version, client }
}

/// A part of the devices: each connects, sends a few readings, waits for their acks, and the next has its turn.
fn run_devices(plan: &Plan, part: usize) {
    let mut devices: Vec<(usize, usize, Publisher)> = (part..DEVICES)
        .step_by(THREADS)
        .map(|n| (n, 0, Publisher::new(identity(plan, format!("device-{n}"), n), &topic(n), qos(n))))
        .collect();
    while !devices.is_empty() {
        devices.retain_mut(|(number, next, device)| {
            if device.connect().is_err() {
                std::thread::sleep(RETRY);
                return true;
            }
            let before = device.acknowledged;
            let all = &plan.devices[*number];
            while *next < all.len() && device.in_flight() < 5 && device.is_connected() {
                device.publish(all[*next].clone().into_bytes());
                *next += 1;
            }
            while device.in_flight() > 0 && device.poll().is_ok() {}
            plan.acknowledged.fetch_add((device.acknowledged - before) as usize, Ordering::Relaxed);
            *next < all.len() || device.in_flight() > 0
        });
    }
}

/// What arrived, by topic; at QoS 1 without immediate repetitions of what came before.
fn run_subscriber(plan: &Plan, number: usize, mut rng: Rng) -> BTreeMap<String, Vec<String>> {
    let mut subscriber = Subscriber::new(identity(plan, format!("subscriber-{number}"), number), "weather/#", 2);
    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let total: usize = plan.devices.iter().map(Vec::len).sum();
    let mut count = 0;
    while count < total && !(subscriber.idle >= IDLE_READS && plan.acknowledged.load(Ordering::Relaxed) == total) {
        if subscriber.connect().is_err() {
            std::thread::sleep(RETRY);
            continue;
        }
        // A lost connection is made again above.
        if let Ok(Some(message)) = subscriber.poll() {
            let reading = String::from_utf8(message.payload).unwrap();
            let list = arrived.entry(message.topic).or_default();
            // QoS 1 may bring what came already; hours are never the same, so a repetition is known by its text.
            if message.qos == 2 || !list.contains(&reading) {
                count += 1;
                list.push(reading);
            }
        }
        if number > 0 && rng.below(3000) == 0 {
            subscriber.leave(rng.below(2) == 0);
            std::thread::sleep(Duration::from_millis(rng.below(1000)));
        }
    }
    arrived
}

fn first_difference(topic: &str, sent: &[String], came: &[String]) -> String {
    let same = sent.iter().zip(came).take_while(|(a, b)| a == b).count();
    let around = |list: &[String]| list.iter().skip(same.saturating_sub(2)).take(6).cloned().collect::<Vec<_>>();
    let (a, b) = (around(sent), around(came));
    format!("{topic}: {} sent, {} came; from {same}: sent {a:?}, came {b:?}", sent.len(), came.len())
}

#[test]
fn every_reading_arrives_in_order() {
    let seed = Rng::seed_from_environment();
    eprintln!("FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut broker = Broker::start();
    let endpoint = Endpoint::tls(broker.tls_port(), &broker.ca());
    let plan = Arc::new(Plan { endpoint, devices: deal(), acknowledged: AtomicUsize::new(0) });
    let subscribers: Vec<JoinHandle<BTreeMap<String, Vec<String>>>> = (0..3)
        .map(|number| {
            let (plan, rng) = (plan.clone(), Rng::new(rng.next_u64()));
            std::thread::spawn(move || run_subscriber(&plan, number, rng))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let devices: Vec<JoinHandle<()>> = (0..THREADS)
        .map(|part| {
            let plan = plan.clone();
            std::thread::spawn(move || run_devices(&plan, part))
        })
        .collect();
    let total: usize = plan.devices.iter().map(Vec::len).sum();
    for kill in 1..=KILLS {
        while plan.acknowledged.load(Ordering::Relaxed) < total * kill / (KILLS + 1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        broker.kill();
        broker.run();
    }
    devices.into_iter().for_each(|thread| thread.join().unwrap());
    let expected: BTreeMap<String, Vec<String>> =
        plan.devices.iter().enumerate().map(|(n, list)| (topic(n), list.clone())).collect();
    for (number, thread) in subscribers.into_iter().enumerate() {
        let arrived = thread.join().unwrap();
        let wrong: Vec<String> = expected
            .iter()
            .filter(|(topic, list)| arrived.get(*topic) != Some(list))
            .map(|(topic, list)| first_difference(topic, list, arrived.get(topic).map_or(&[], Vec::as_slice)))
            .collect();
        assert!(
            wrong.is_empty(),
            "FOREBAY_SEED={seed}, subscriber {number}: {} topics: {:#?}",
            wrong.len(),
            wrong.iter().take(5).collect::<Vec<_>>()
        );
    }
    eprintln!("{total} readings of {DEVICES} devices, {KILLS} kills, 3 subscribers");
}
