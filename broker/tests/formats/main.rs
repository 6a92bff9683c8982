//! A store of each format that was ever written is in this folder; this program reads it, and goes on with it.
//! `FOREBAY_WRITE_GOLDEN=DIR cargo test -p forebay --test formats write` makes the one of today's format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "../model/mod.rs"]
mod model;

use std::path::Path;

use forebay::message::Time;
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::medium::Folder;
use forebay::store::redb::{FORMAT_VERSION, StoreOptions};
use forebay::store::{
    Batch, ClockMark, GroupId, Keyed, KeyedChange, Ledger, QueueEntry, QueueState, Recovered, RetainedChange,
    SessionDelta, SessionNo, SessionRecord, Share, Store, StoredSubscription, StoredWill, message_of, message_value,
    tool,
};
use model::{Seed, entry, message, read_all};

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, journal_bytes: 1024 * 1024, ..StoreOptions::default() }
}

fn open(dir: &Path) -> (JournaledStore, Recovered) {
    JournaledStore::open_on(Folder::open(dir).unwrap(), &options(), 0, Folding::Within).unwrap()
}

fn clock(ms: u64) -> ClockMark {
    ClockMark { time: Time(ms), wall_ms: 1_700_000_000_000 + ms }
}

/// Session 1: a queue in three rows with places done in the first and the last, below and above its floor. Session 2: a
/// message that it shares with session 1, a will. A retained message, a delayed one, a queue that has ended. The first
/// commit is in the store's file, what came later in the journal.
fn write(dir: &Path) {
    let (mut store, _) = open(dir);
    let shared = message("shared", b"for both");
    let record = |client_id: &str, will| SessionRecord {
        client_id: client_id.to_owned(),
        protocol: 5,
        expiry_s: 3600,
        disconnected_at: Some(Time(7)),
        will,
    };
    let subscription = StoredSubscription {
        filter: "$share/g/a/+".to_owned(),
        qos: 2,
        no_local: false,
        retain_as_published: true,
        subscription_id: 9,
        retained_behind: Some("a/b".into()),
    };
    let will = StoredWill { message: message("will", b"gone"), expiry_s: Some(3), delay_s: 4 };
    let mut queue: Vec<_> = (0..10).map(|seq| entry(seq, &message("t", &[seq as u8; 50]))).collect();
    queue[4].shared = Some(Share::Group(GROUP));
    queue.push(entry(10, &shared));
    let first = SessionDelta {
        no: SessionNo(1),
        record: Some(record("first", None)),
        subscribed: vec![subscription],
        enqueued: queue.clone(),
        state: Some(state(&queue, 0, &[])),
        ..SessionDelta::default()
    };
    let other = [entry(0, &shared)];
    let second = SessionDelta {
        no: SessionNo(2),
        record: Some(record("sécond", Some(will))),
        enqueued: other.to_vec(),
        state: Some(QueueState { inbound: vec![5, 9], ..state(&other, 0, &[]) }),
        ..SessionDelta::default()
    };
    let retained = RetainedChange { topic: "r/1".to_owned(), message: Some(message("r/1", b"kept")) };
    let mut key = 99u64.to_be_bytes().to_vec();
    key.extend(1u64.to_be_bytes());
    let delayed = KeyedChange { of: Keyed::Delayed, key, value: Some(message_value(&message("later", b"due"))) };
    let batch = Batch {
        sessions: vec![first, second],
        retained: vec![retained],
        keyed: vec![delayed],
        clock: clock(1),
        ended_ledger: Some(Ledger { accepted: 3, delivered: 2, expired: 1, ..Ledger::default() }),
    };
    store.commit(&batch).unwrap();
    store.fold().unwrap();
    for row in 0..2 {
        let from = 11 + row * 1000;
        let enqueued: Vec<_> =
            (from..from + 1000).map(|seq| entry(seq, &message("t/more", &seq.to_be_bytes()))).collect();
        queue.extend(enqueued.clone());
        let state = Some(state(&queue, 0, &[]));
        let delta = SessionDelta { no: SessionNo(1), enqueued, state, ..SessionDelta::default() };
        store.commit(&Batch { sessions: vec![delta], clock: clock(2 + row), ..Batch::default() }).unwrap();
    }
    let state = Some(state(&queue, 2, &DONE));
    let delta = SessionDelta { no: SessionNo(1), done: DONE.to_vec(), state, ..SessionDelta::default() };
    store.commit(&Batch { sessions: vec![delta], clock: clock(9), ..Batch::default() }).unwrap();
}

/// What place 4 of session 1 came through, since format 5.
const GROUP: GroupId = GroupId(0x1234_5678);

/// What of session 1 is done, above its floor, which is 2.
const DONE: [(u64, u64); 4] = [(5, 7), (8, 9), (1500, 1501), (1600, 1700)];

fn state(queue: &[QueueEntry], floor: u64, done: &[(u64, u64)]) -> QueueState {
    let is_queued = |seq: u64| seq >= floor && !done.iter().any(|(from, to)| (*from..*to).contains(&seq));
    let queued: Vec<_> = queue.iter().filter(|entry| is_queued(entry.seq)).collect();
    let (accepted, left) = (queue.len() as u64, queued.len() as u64);
    QueueState {
        next_seq: accepted,
        floor,
        sent: 4,
        promised: 5,
        released: if floor > 0 { vec![3] } else { Vec::new() },
        queued: left,
        queued_bytes: queued.iter().map(|entry| entry.message.size() as u64).sum(),
        ledger: Ledger { accepted, delivered: accepted - left, ..Ledger::default() },
        ..QueueState::default()
    }
}

#[test]
fn write_golden() {
    let Ok(dir) = std::env::var("FOREBAY_WRITE_GOLDEN") else { return };
    write(Path::new(&dir));
}

/// Puts the files of a format into the folder.
fn lay(format: u32, dir: &Path) {
    for ending in ["redb", "journal"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/formats/{format}.{ending}"));
        if ending == "redb" || golden.exists() {
            std::fs::copy(golden, dir.join(format!("forebay.{ending}"))).unwrap();
        }
    }
}

/// What is in each of them.
fn check(format: u32) {
    let dir = tempfile::tempdir().unwrap();
    lay(format, dir.path());
    let verdict = tool::verify(dir.path()).unwrap();
    assert_eq!((verdict.format, verdict.wrong.as_slice()), (format, [].as_slice()));
    let mut exported = Vec::new();
    tool::export(dir.path(), &mut exported).unwrap();
    for _ in 0..2 {
        let (mut store, recovered) = open(dir.path());
        assert!(recovered.lost.is_empty(), "{:?}", recovered.lost);
        let [first, second] = recovered.sessions.as_slice() else { panic!("{} sessions", recovered.sessions.len()) };
        assert_eq!(first.state.done, DONE);
        let behind: Vec<_> = first.subscriptions.iter().map(|kept| kept.retained_behind.as_deref()).collect();
        assert_eq!(behind, [(format >= 4).then_some("a/b")]);
        assert_eq!(second.record.as_ref().unwrap().will.as_ref().unwrap().delay_s, 4);
        assert_eq!(second.state.inbound, [5, 9]);
        assert_eq!(recovered.retained[0].payload(), b"kept");
        assert_eq!(first.state.promised, if format >= 5 { 5 } else { 4 });
        let page = store.reader().page(SessionNo(1), 0, 10, 100_000).unwrap();
        let through: Vec<u64> = page.iter().filter(|entry| entry.shared.is_some()).map(|entry| entry.seq).collect();
        assert_eq!(through, if format >= 5 { vec![4] } else { Vec::new() });
        assert!(page.iter().filter_map(|entry| entry.shared).all(|share| share == Share::Group(GROUP)));
        let read = read_all(store.reader().as_ref(), 1, &first.state, &mut Seed(3)).unwrap();
        let left: Vec<u64> = (2..2011).filter(|seq| !DONE.iter().any(|(a, b)| (*a..*b).contains(seq))).collect();
        let read: Vec<u64> = read.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(read, left);
        let keyed = store.reader().keyed(Keyed::Delayed, &[], 10, 1000).unwrap();
        assert_eq!(message_of(&keyed[0].1).unwrap().payload(), b"due");
        assert_eq!(recovered.ended_ledger.accepted, 3);
        store.commit(&Batch { clock: clock(9), ..Batch::default() }).unwrap();
    }
    let verdict = tool::verify(dir.path()).unwrap();
    assert_eq!((verdict.format, verdict.wrong.as_slice()), (FORMAT_VERSION, [].as_slice()));
    let mut again = Vec::new();
    tool::export(dir.path(), &mut again).unwrap();
    assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(exported).unwrap());
    // A damaged one of it is recovered, and what is done stays done.
    let file = dir.path().join("forebay.redb");
    lay(format, dir.path());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (store, recovered) = open(dir.path());
    assert!(recovered.lost[0].contains("set aside"), "{:?}", recovered.lost);
    assert_eq!(recovered.sessions[0].state.done, DONE);
    drop(store);
    let verdict = tool::verify(dir.path()).unwrap();
    assert_eq!((verdict.format, verdict.wrong.as_slice()), (FORMAT_VERSION, [].as_slice()));
}

#[test]
fn every_format_is_read() {
    for format in 1..=FORMAT_VERSION {
        check(format);
    }
}
