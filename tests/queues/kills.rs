//! `kill -9` at random moments with all of it in use at once: a declared queue with priorities and keys, dead letters, delayed and
//! numbered messages, a schedule, a stream. What was acknowledged is where it was to go, and what says that it comes once does.
//!
//! FOREBAY_KILLS=n for another number of kills, FOREBAY_SEED=n to make a run again (the moments, not the threads).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, Publish, frame, publish, user};
use forebay_tests::rng::Rng;
use forebay_tests::sys::{Sys, assert_balanced, figure};

use crate::tcp;

const CONFIG: &str = r#"
sys_interval = "1s"
[limits]
memory_messages = 32
[[queues]]
name = "jobs"
filter = "job/#"
order_by = "client"
priority_levels = 2
[[queues]]
name = "last"
filter = "full/#"
max_messages = 20
policy = "drop-oldest"
dead_letters = ["full"]
[[dead_letters]]
name = "lost"
reasons = ["undeliverable"]
[[streams]]
name = "log"
filter = "log/#"
"#;

/// What a publisher sends: the topic of each number, and properties.
struct Kind {
    name: &'static str,
    version: Version,
    topic: fn(u32) -> String,
    properties: fn(u32) -> Vec<u8>,
}

fn none(_: u32) -> Vec<u8> {
    Vec::new()
}

fn urgent(number: u32) -> Vec<u8> {
    if number.is_multiple_of(5) { user("priority", "31") } else { Vec::new() }
}

const KINDS: [Kind; 6] = [
    Kind { name: "job", version: Version::V5, topic: |n| format!("job/{}", n % 3), properties: urgent },
    Kind { name: "full", version: Version::V4, topic: |_| "full/x".to_owned(), properties: none },
    Kind { name: "lost", version: Version::V4, topic: |_| "nobody/x".to_owned(), properties: none },
    Kind { name: "log", version: Version::V5, topic: |_| "log/x".to_owned(), properties: none },
    Kind { name: "late", version: Version::V4, topic: |_| "$delayed/1/absent/late".to_owned(), properties: none },
    Kind { name: "once", version: Version::V5, topic: |n| format!("$once/dev/1.{n}/absent/once"), properties: none },
];

/// What a publisher has been told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<u32>,
    /// Sent more than once: its ack was lost.
    repeated: BTreeSet<u32>,
}

/// One at a time, the same again until it is acknowledged.
fn run(kind: &Kind, endpoint: &Endpoint, more: &AtomicBool) -> Told {
    let mut told = Told::default();
    let (mut number, mut sent) = (0, false);
    'connections: while more.load(Ordering::Relaxed) || sent {
        let Ok(mut peer) = Peer::silent(endpoint, kind.version) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        peer.send(&Connect::kept(kind.version, kind.name).packet());
        if !matches!(peer.answer(), Came::Connack(_, 0, _)) {
            continue;
        }
        while more.load(Ordering::Relaxed) || sent {
            if std::mem::replace(&mut sent, true) {
                told.repeated.insert(number);
            }
            let (topic, properties) = ((kind.topic)(number), (kind.properties)(number));
            peer.send(&publish(kind.version, 1, 1, &topic, &properties, &number.to_be_bytes()));
            match peer.answer() {
                Came::Ack(Ack::Puback, 1, 0 | 0x10, _) => {}
                Came::Closed => continue 'connections,
                other => panic!("{}: instead of PUBACK: {other:?}", kind.name),
            }
            told.acknowledged.insert(number);
            (number, sent) = (number + 1, false);
        }
    }
    told
}

fn number(message: &Publish) -> u32 {
    u32::from_be_bytes(message.payload[..].try_into().unwrap())
}

fn read(broker: &Broker, filter: &str) -> Vec<Publish> {
    let (mut peer, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(peer.subscribe(&[(filter, 1)]), [1], "{filter}");
    peer.drain(Duration::from_secs(2))
}

/// How often each number came.
fn times(messages: &[Publish]) -> BTreeMap<u32, u32> {
    let mut times = BTreeMap::new();
    messages.iter().for_each(|message| *times.entry(number(message)).or_default() += 1);
    times
}

/// All that was acknowledged is there, and what was sent once is there once. Returns how many came.
fn check(name: &str, told: &Told, messages: &[Publish]) -> usize {
    let times = times(messages);
    let missing: Vec<&u32> = told.acknowledged.iter().filter(|number| !times.contains_key(number)).collect();
    assert!(missing.is_empty(), "{name}: acknowledged, and lost: {missing:?}");
    let twice = times.iter().find(|(number, times)| **times > 1 && !told.repeated.contains(number));
    assert_eq!(twice, None, "{name}: sent once, and there more often");
    messages.len()
}

fn subscribe_absent(broker: &Broker) {
    let (mut absent, _) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert_eq!(absent.subscribe(&[("absent/#", 2)]), [2]);
    let cron = br#"{"cron":"* * * * * *","topic":"absent/schedule"}"#;
    let mut schedule = publish(Version::V5, 1, 9, "$schedule/s", &[], cron);
    schedule[0] |= 1;
    absent.send(&schedule);
    assert!(matches!(absent.answer(), Came::Ack(Ack::Puback, 9, ..)));
    absent.leave();
}

fn cancel_schedule(broker: &Broker) {
    let (mut peer, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "operator"));
    let mut cancel = publish(Version::V5, 1, 9, "$schedule/s", &[], &[]);
    cancel[0] |= 1;
    peer.send(&cancel);
    peer.answer();
    peer.leave();
}

#[test]
fn nothing_is_lost_or_doubled_by_kills() {
    let seed = Rng::seed_from_environment();
    let kills = std::env::var("FOREBAY_KILLS").map_or(8, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    eprintln!("{kills} kills, FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut broker = Broker::with_config(CONFIG);
    subscribe_absent(&broker);
    let more = Arc::new(AtomicBool::new(true));
    let publishers: Vec<JoinHandle<Told>> = KINDS
        .iter()
        .map(|kind| {
            let (endpoint, more) = (tcp(&broker), more.clone());
            std::thread::spawn(move || run(kind, &endpoint, &more))
        })
        .collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
        broker.kill();
        broker.run();
    }
    more.store(false, Ordering::Relaxed);
    let told: Vec<Told> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    cancel_schedule(&broker);
    let mut sys = Sys::open(&tcp(&broker));
    assert_balanced(&sys.until("what is delayed has come", |f| figure(f, "delayed/messages") == 0));
    check_all(&broker, &told);
    assert_balanced(&sys.until("all has been taken", |f| figure(f, "ledger/queued") == 0));
}

fn check_all(broker: &Broker, told: &[Told]) {
    let [job, full, lost, log, late, once] = told else { panic!("six publishers") };
    let jobs = read(broker, "$queue/jobs");
    let mut counts = vec![check("jobs", job, &jobs)];
    // Nothing was taken before, so each level is in the order of its publisher, whatever the topics.
    for urgent in [true, false] {
        let level: Vec<u32> = jobs.iter().map(number).filter(|n| n.is_multiple_of(5) == urgent).collect();
        let once: Vec<u32> = level.into_iter().filter(|number| !job.repeated.contains(number)).collect();
        assert!(once.is_sorted(), "jobs of a level are in order");
    }
    let mut of_full = read(broker, "$queue/last");
    of_full.extend(read(broker, "$dead/last/#"));
    counts.push(check("last, with its dead letters", full, &of_full));
    counts.push(check("undeliverable", lost, &read(broker, "$dead/lost/#")));
    counts.push(check("stream", log, &read(broker, "$stream/log/@earliest")));
    let (mut absent, present) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert!(present);
    let all = absent.drain(Duration::from_secs(2));
    let of = |topic: &str| -> Vec<Publish> { all.iter().filter(|message| message.topic == topic).cloned().collect() };
    counts.push(check("delayed", late, &of("absent/late")));
    // Also when the publisher was not told, and sent it again.
    let nothing_twice = Told { acknowledged: once.acknowledged.clone(), repeated: BTreeSet::new() };
    counts.push(check("once", &nothing_twice, &of("absent/once")));
    let due =
        |message: &Publish| message.properties.user.iter().find(|(name, _)| name == "due").map(|(_, at)| at.clone());
    let scheduled: Vec<Option<String>> = of("absent/schedule").iter().map(due).collect();
    let different: BTreeSet<&Option<String>> = scheduled.iter().collect();
    assert_eq!(different.len(), scheduled.len(), "a due time comes once");
    counts.push(scheduled.len());
    eprintln!("jobs, full, undeliverable, stream, delayed, once, schedule: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "too little load to prove anything");
    absent.send(&frame(0xE0, &[]));
}
