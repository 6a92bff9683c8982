//! A wall clock that is wrong, or steps: message and session expiry go by the time that really passes. By libfaketime, which
//! moves the wall clock of the running broker and leaves the monotonic one alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use forebay_tests::absence::{self, panicking};
use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, number4, publish};
use forebay_tests::scratch::Scratch;
use libtest_mimic::{Arguments, Trial};

/// Seconds: what expires soon does so while the test waits, what expires late never does.
const SOON_S: u32 = 4;
const LATE_S: u32 = 10_000;

fn main() {
    let arguments = Arguments::from_args();
    let absent = absence::of_program("faketime");
    let cases: [(&str, fn()); 7] = [
        ("a_step_forward_expires_nothing", || step("+1000000")),
        ("a_step_back_keeps_nothing_alive", || step("-1000000")),
        ("restart_with_a_right_clock_counts_the_time_away", restart_with_a_right_clock),
        ("restart_in_1970_expires_nothing", restart_in_1970),
        ("restart_in_1970_and_the_clock_comes_right", restart_in_1970_and_ntp),
        ("a_first_start_in_1970_whose_clock_comes_right", first_start_in_1970),
        ("retained_messages_go_by_the_same_clock", retained),
    ];
    let trials: Vec<Trial> =
        cases.into_iter().map(|(name, run)| panicking("clock", name, absent.as_deref(), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The wall clock of a broker: what libfaketime reads it from.
struct Wall {
    _scratch: Scratch,
    file: PathBuf,
}

impl Wall {
    /// `offset` is in seconds, such as `+10` or `-5`; or an absolute time such as `@1970-01-01 00:00:10`.
    fn set(&self, offset: &str) {
        // In one step: it is read at any moment.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

/// A broker whose wall clock can be set, and that runs by it.
fn start(offset: &str) -> (Broker, Wall) {
    let scratch = Scratch::new("clock");
    let wall = Wall { file: scratch.path().join("wall"), _scratch: scratch };
    wall.set(offset);
    let mut broker = Broker::prepare(None);
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", wall.file.display());
    let library = format!("LD_PRELOAD={}", library());
    // NO_CACHE: the file is read at each call, so that a step is seen at once.
    let wrapper =
        ["env", &library, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"];
    broker.set_wrapper(&wrapper);
    broker.run();
    (broker, wall)
}

/// What `faketime` sets to have its library loaded, the one for programs with threads. The loader understands it.
fn library() -> String {
    let output =
        Command::new("faketime").args(["-m", "-f", "+0", "sh", "-c", "echo \"$LD_PRELOAD\""]).output().unwrap();
    let preload = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(preload.contains("libfaketimeMT"), "faketime sets LD_PRELOAD={preload}");
    preload
}

fn tcp(broker: &Broker) -> Endpoint {
    Endpoint::tcp(broker.port())
}

fn with_expiry(client: &str, expiry_s: u32) -> Connect {
    let mut connect = Connect::clean(Version::V5, client).with(&number4(0x11, expiry_s));
    connect.clean = false;
    connect
}

/// Three sessions that are away: one that soon ends, one that ends late, and one for messages, in whose queue there is
/// one that soon expires, one that does so late, and one that never does.
fn prepare(broker: &Broker) {
    for (client, expiry_s) in [("soon", SOON_S), ("late", LATE_S), ("messages", LATE_S)] {
        let (mut peer, _) = Peer::open(&tcp(broker), &with_expiry(client, expiry_s));
        assert_eq!(peer.subscribe(&[("q", 1)]), [1]);
        peer.leave();
    }
    let (mut publisher, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "publisher"));
    for (id, payload, expiry) in
        [(1, "soon", number4(0x02, SOON_S)), (2, "late", number4(0x02, LATE_S)), (3, "never", Vec::new())]
    {
        publisher.send(&publish(Version::V5, 1, id, "q", &expiry, payload.as_bytes()));
        assert!(matches!(publisher.answer(), Came::Ack(Ack::Puback, came, 0, _) if came == id));
    }
}

/// Until what expires soon has done so, by the clock of this process.
fn soon() {
    std::thread::sleep(Duration::from_secs(u64::from(SOON_S) + 1));
}

/// Takes the session of messages up: payloads, and the seconds that each has left.
fn messages(broker: &Broker) -> Vec<(String, Option<u64>)> {
    let (mut peer, present) = Peer::open(&tcp(broker), &with_expiry("messages", LATE_S));
    assert!(present, "the session for messages is there");
    let came = peer.drain(Duration::from_secs(1));
    peer.leave();
    came.into_iter().map(|m| (String::from_utf8(m.payload).unwrap(), m.properties.number(0x02))).collect()
}

/// What must be there when what expires soon has gone, and so many seconds have passed since it was published.
fn assert_late_ones(broker: &Broker, passed_s: std::ops::Range<u64>) {
    let came = messages(broker);
    let names: Vec<&str> = came.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["late", "never"]);
    let passed = u64::from(LATE_S) - came[0].1.expect("what remains is sent on");
    assert!(passed_s.contains(&passed), "{passed} s have passed, it is said, of {passed_s:?}");
    assert_eq!(came[1].1, None);
    assert!(!Peer::open(&tcp(broker), &with_expiry("soon", 0)).1, "the session that soon ended is gone");
    assert!(Peer::open(&tcp(broker), &with_expiry("late", 0)).1, "the session that ends late is there");
}

/// Nothing has expired: no time has passed of which the broker could know.
fn assert_all(broker: &Broker) {
    let names: Vec<String> = messages(broker).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["soon", "late", "never"]);
    assert!(Peer::open(&tcp(broker), &with_expiry("soon", SOON_S)).1, "the session that soon ends is there");
    assert!(Peer::open(&tcp(broker), &with_expiry("late", LATE_S)).1);
}

/// While it runs, a step changes nothing in either direction.
fn step(offset: &str) {
    let (broker, wall) = start("+0");
    prepare(&broker);
    wall.set(offset);
    // The keeper looks four times a second.
    std::thread::sleep(Duration::from_secs(1));
    assert!(Peer::open(&tcp(&broker), &with_expiry("soon", SOON_S)).1, "the step has ended a session");
    soon();
    assert_late_ones(&broker, 5..60);
}

fn restart_with_a_right_clock() {
    let (mut broker, wall) = start("+0");
    prepare(&broker);
    broker.kill();
    wall.set("+1000");
    broker.run();
    assert_late_ones(&broker, 1000..1060);
}

/// A board without a battery clock: after the restart it is 1970. Time stands still over the restart, then goes on.
fn restart_in_1970() {
    let (mut broker, wall) = start("+0");
    prepare(&broker);
    broker.kill();
    wall.set("@1970-01-01 00:01:00");
    broker.run();
    // Taken up, so that its time begins anew when it is left again.
    assert_all(&broker);
    soon();
    assert!(!Peer::open(&tcp(&broker), &with_expiry("soon", 0)).1, "time goes on in 1970 as well");
    assert!(Peer::open(&tcp(&broker), &with_expiry("late", 0)).1);
}

/// And then the network is there, and the clock right: what was away counts.
fn restart_in_1970_and_ntp() {
    let (mut broker, wall) = start("+0");
    prepare(&broker);
    broker.kill();
    wall.set("@1970-01-01 00:01:00");
    broker.run();
    std::thread::sleep(Duration::from_secs(1));
    wall.set("+1000");
    // It is noticed within a quarter of a second.
    std::thread::sleep(Duration::from_secs(1));
    assert_late_ones(&broker, 1000..1060);
    // Only once: a later step is nothing again.
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    publisher.send(&publish(Version::V5, 1, 1, "q", &number4(0x02, LATE_S), b"after"));
    publisher.answer();
    wall.set("+1000000");
    std::thread::sleep(Duration::from_secs(1));
    let came = messages(&broker);
    assert_eq!(came.len(), 1);
    assert!(came[0].1.is_some_and(|left| left > u64::from(LATE_S) - 60), "{came:?}");
}

/// The clock comes right while the broker runs and nothing else happens; the next start must not take the step for time
/// that the broker was away.
fn first_start_in_1970() {
    let (mut broker, wall) = start("@1970-01-01 00:01:00");
    prepare(&broker);
    wall.set("+0");
    std::thread::sleep(Duration::from_secs(1));
    broker.kill();
    broker.run();
    soon();
    assert_late_ones(&broker, 5..60);
}

fn retained() {
    let (broker, wall) = start("+0");
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    for (id, topic, expiry_s) in [(1, "state/soon", SOON_S), (2, "state/late", LATE_S)] {
        let mut bytes = publish(Version::V5, 1, id, topic, &number4(0x02, expiry_s), b"kept");
        bytes[0] |= 1;
        publisher.send(&bytes);
        assert!(matches!(publisher.answer(), Came::Ack(Ack::Puback, _, 0, _)));
    }
    wall.set("+1000000");
    std::thread::sleep(Duration::from_secs(1));
    let topics = |client: &str| {
        let (mut peer, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, client));
        peer.subscribe(&[("state/#", 0)]);
        let mut topics: Vec<String> = peer.drain(Duration::from_secs(1)).into_iter().map(|m| m.topic).collect();
        topics.sort();
        topics
    };
    assert_eq!(topics("one"), ["state/late", "state/soon"], "a step forward expires nothing");
    wall.set("-1000000");
    soon();
    assert_eq!(topics("two"), ["state/late"], "a step back keeps nothing alive");
}
