//! 10,000 mutated packets against the running broker: no panic, no growth, and two good clients notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::device::{Identity, Publisher, Subscriber};
use forebay_tests::link::Endpoint;
use forebay_tests::numbered::Seen;
use forebay_tests::packet::{self, Ack, Version};
use forebay_tests::rng::Rng;

const PACKETS: usize = 10_000;
/// Good messages that must have come through beside them: garbage goes on until they have.
const GOOD: u64 = 200;
/// Kilobytes of resident memory that 10,000 connections' worth of garbage may leave behind.
const GROWTH_KB: u64 = 16 * 1024;

/// Valid packets of every type that a client sends.
fn corpus(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![
        packet::subscribe(version, 7, "garbage/+/#", 2),
        packet::subscribe(version, 8, "$share/group/garbage/x", 1),
        packet::publish(version, false, 0, 0, "garbage/a", b"payload"),
        packet::publish(version, false, 1, 9, "garbage/b", b"payload"),
        packet::publish(version, false, 2, 10, "garbage/c", &[b'z'; 300]),
        packet::ack(Ack::Puback, 9),
        packet::ack(Ack::Pubrec, 9),
        packet::ack(Ack::Pubrel, 10),
        packet::ack(Ack::Pubcomp, 9),
        vec![0xc0, 0],
        packet::DISCONNECT.to_vec(),
    ];
    if version == Version::V5 {
        all.push(b"\xa2\x0a\0\x0b\0\0\x05g/+/#".to_vec());
        all.push(b"\x32\x1b\0\x01t\0\x05\x12\x23\0\x01\x26\0\x01k\0\x01v\x02\0\0\0\x09\x01\x01abc".to_vec());
        all.push(b"\xf0\x0a\x18\x08\x15\0\x01m\x16\0\x01d".to_vec());
        all.push(b"\xe0\x07\x04\x05\x11\0\0\0\x09".to_vec());
    } else {
        all.push(b"\xa2\x09\0\x0b\0\x05g/+/#".to_vec());
    }
    all
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(4) {
            0 => bytes[at] = rng.next_u64() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes.insert(at, rng.next_u64() as u8),
            _ => {
                bytes.remove(at);
            }
        }
        if bytes.is_empty() {
            bytes.push(0x10);
        }
    }
}

/// One connection: a CONNECT (mutated now and then), a few mutated packets, and what the broker has to say.
fn attack(port: u16, rng: &mut Rng) -> usize {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return 0 };
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let version = if rng.below(2) == 0 { Version::V4 } else { Version::V5 };
    let mut first = packet::connect(version, &format!("garbage-{}", rng.below(20)));
    if rng.below(4) == 0 {
        mutate(&mut first, rng);
    }
    let corpus = corpus(version);
    let mut bytes = first;
    let count = 1 + rng.below(5) as usize;
    for _ in 0..count {
        let mut packet = corpus[rng.below(corpus.len() as u64) as usize].clone();
        mutate(&mut packet, rng);
        bytes.extend_from_slice(&packet);
    }
    let _ = socket.write_all(&bytes);
    let _ = socket.read(&mut [0; 4096]);
    count
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn garbage_costs_its_sender_alone() {
    let seed = Rng::seed_from_environment();
    eprintln!("FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut broker = Broker::start();
    let port = broker.port();
    let good =
        |client: &str| Identity { endpoint: Endpoint::tcp(port), version: Version::V5, client: client.to_owned() };
    let done = Arc::new(AtomicBool::new(false));
    let good_ones = Arc::new(AtomicU64::new(0));
    let mut subscriber = Subscriber::new(good("good-subscriber"), "good", 1);
    subscriber.connect().unwrap();
    let mut publisher = Publisher::new(good("good-publisher"), "good", 1);
    let traffic = std::thread::spawn({
        let (done, good_ones) = (done.clone(), good_ones.clone());
        move || {
            publisher.connect().unwrap();
            let (mut seen, mut next) = (Seen::default(), 0u64);
            while !done.load(Ordering::Relaxed) || publisher.in_flight() > 0 || seen.count() < next {
                if !done.load(Ordering::Relaxed) && publisher.in_flight() < 5 {
                    publisher.publish(next.to_string().into_bytes());
                    next += 1;
                }
                publisher.poll().expect("a good publisher keeps its connection");
                if let Some(message) = subscriber.poll().expect("a good subscriber keeps its connection") {
                    seen.note("good", std::str::from_utf8(&message.payload).unwrap().parse().unwrap(), true);
                    good_ones.store(seen.count(), Ordering::Relaxed);
                }
            }
            (seen.faults(&[("good".to_owned(), next)].into()), next)
        }
    });
    let mut sent = 0;
    while sent < PACKETS / 10 {
        sent += attack(port, &mut rng);
    }
    let before = resident_kb(broker.pid().unwrap());
    while (sent < PACKETS || good_ones.load(Ordering::Relaxed) < GOOD) && !traffic.is_finished() {
        sent += attack(port, &mut rng);
    }
    let after = resident_kb(broker.pid().unwrap());
    done.store(true, Ordering::Relaxed);
    let (faults, next) = traffic.join().unwrap();
    assert!(faults.is_empty(), "FOREBAY_SEED={seed}: {faults:?}");
    assert!(next >= GOOD, "too little good traffic to prove anything: {next}");
    assert!(broker.is_running() && !broker.log().contains("panicked"), "FOREBAY_SEED={seed}: {}", broker.log());
    assert!(after < before + GROWTH_KB, "FOREBAY_SEED={seed}: from {before} to {after} KB");
    eprintln!("{sent} packets, {next} good messages, from {before} to {after} KB");
}
