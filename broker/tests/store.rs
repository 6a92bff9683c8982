//! The store on a real folder: rows are freed, limits hold, files that are gone or older are said. What every store does is in
//! contract.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod medium;
mod model;
#[path = "medium/reading.rs"]
mod reading;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::message::Time;
use forebay::store::medium::{Backend, Folder};
use forebay::store::redb::{FORMAT_VERSION, RedbStore, StoreOptions};
use forebay::store::space::Space;
use forebay::store::{
    Batch, ClockMark, QueueState, Reader, SessionDelta, SessionNo, SessionRecord, Store, StoreError, tool,
};
use medium::{Change, Changed, Opened};
use model::{Seed, entry, line, message, read_all};
use reading::Reading;
use redb::StorageBackend;

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, ..StoreOptions::default() }
}

fn clock(ms: u64) -> ClockMark {
    ClockMark { time: Time(ms), wall_ms: ms }
}

fn state(next_seq: u64, floor: u64) -> QueueState {
    QueueState { next_seq, floor, ..QueueState::default() }
}

/// Entries `from..to` of one session, each with a message of its own.
fn enqueue(no: u64, from: u64, to: u64, payload: usize) -> SessionDelta {
    let enqueued = (from..to).map(|seq| entry(seq, &message("topic", &vec![seq as u8; payload]))).collect();
    SessionDelta { no: SessionNo(no), enqueued, state: Some(state(to, 0)), ..SessionDelta::default() }
}

fn batch(sessions: Vec<SessionDelta>) -> Batch {
    Batch { sessions, clock: clock(1), ..Batch::default() }
}

fn finish(no: u64, next_seq: u64, floor: u64) -> Batch {
    let delta = SessionDelta { no: SessionNo(no), state: Some(state(next_seq, floor)), ..SessionDelta::default() };
    batch(vec![delta])
}

fn seqs(reader: &dyn Reader, no: u64) -> Vec<u64> {
    let page = reader.page(SessionNo(no), 0, usize::MAX, usize::MAX).unwrap();
    page.iter().map(|entry| entry.seq).collect()
}

#[test]
fn a_second_broker_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    assert!(matches!(RedbStore::open(dir.path(), &options(), 0), Err(StoreError::InUse { .. })));
    drop(store);
    assert!(RedbStore::open(dir.path(), &options(), 0).is_ok());
}

#[test]
fn shared_messages_go_when_the_last_queue_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    let shared: Vec<_> = (0..100).map(|i| message("shared", &vec![i; 1000])).collect();
    let delta = |no| SessionDelta {
        no: SessionNo(no),
        enqueued: shared.iter().enumerate().map(|(seq, message)| entry(seq as u64, message)).collect(),
        ..SessionDelta::default()
    };
    let written = store.commit(&batch(vec![delta(1), delta(2), delta(3)])).unwrap();
    assert_eq!(written.message_bytes, 100 * 1006, "each message is written once");
    let full = store.gauge().live_bytes();
    store.commit(&finish(1, 100, 100)).unwrap();
    store.commit(&batch(vec![SessionDelta { no: SessionNo(2), ended: true, ..SessionDelta::default() }])).unwrap();
    assert!(store.gauge().live_bytes() > full / 2, "the third queue still needs them");
    let page = store.reader().page(SessionNo(3), 40, 1, 1).unwrap();
    assert_eq!(page[0].message.payload(), vec![40; 1000]);
    store.commit(&finish(3, 100, 100)).unwrap();
    assert_eq!(store.gauge().live_bytes(), 0);
}

#[test]
fn rows_within_done_ranges_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    for row in 0..5 {
        store.commit(&batch(vec![enqueue(1, row * 10, row * 10 + 10, 5)])).unwrap();
    }
    let done = |done: &[(u64, u64)]| {
        let mut batch = finish(1, 50, 0);
        batch.sessions[0].done = done.to_vec();
        batch
    };
    store.commit(&done(&[(12, 18), (33, 34)])).unwrap();
    assert_eq!(seqs(store.reader().as_ref(), 1).len(), 50);
    store.commit(&done(&[(9, 12), (18, 21), (30, 33), (34, 40)])).unwrap();
    let left: Vec<u64> = (0..10).chain(20..30).chain(40..50).collect();
    assert_eq!(seqs(store.reader().as_ref(), 1), left);
}

/// A session that a start finds again.
fn begin(no: u64) -> Batch {
    let client_id = format!("client-{no}");
    let record = SessionRecord { client_id, protocol: 5, expiry_s: 60, disconnected_at: None, will: None };
    batch(vec![SessionDelta { no: SessionNo(no), record: Some(record), ..SessionDelta::default() }])
}

/// A queue of `messages` in rows of 500, of which every second message is done.
fn with_holes(store: &mut RedbStore, messages: u64) {
    for from in (0..messages).step_by(500) {
        store.commit(&batch(vec![enqueue(1, from, from + 500, 20)])).unwrap();
    }
    for from in (0..messages).step_by(20_000) {
        let to = (from + 20_000).min(messages);
        let mut batch = finish(1, messages, 0);
        batch.sessions[0].done = (from..to).skip(1).step_by(2).map(|seq| (seq, seq + 1)).collect();
        let mut more = store.commit(&batch).unwrap().more;
        while more {
            more = store.commit(&nothing()).unwrap().more;
        }
    }
}

fn nothing() -> Batch {
    batch(Vec::new())
}

/// Rows written, bytes of them, rows looked at: the most of any of some commits, each of which tells of one more place,
/// in the middle of the queue and at its end.
fn work_with_holes(messages: u64) -> (u64, u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    store.commit(&begin(1)).unwrap();
    with_holes(&mut store, messages);
    let mut most = (0, 0, 0);
    for place in [messages / 2, messages / 2 + 7, messages - 2] {
        let mut batch = finish(1, messages, 0);
        batch.sessions[0].done = vec![(place, place + 1)];
        let done = store.commit(&batch).unwrap();
        assert!(!done.more);
        most = (most.0.max(done.rows), most.1.max(done.bytes), most.2.max(done.cleaned));
    }
    drop(store);
    let (_, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    assert_eq!(recovered.sessions[0].state.done.len() as u64, messages / 2 - 2, "two pairs of holes were joined");
    most
}

#[test]
fn a_commit_costs_the_same_however_many_holes_a_queue_has() {
    let few = work_with_holes(4_000);
    let many = work_with_holes(40_000);
    // A place's number is a byte longer, in the state and the mark.
    assert!(many.0 == few.0 && many.1 <= few.1 + 8 && many.2 == few.2, "{many:?} with many holes, {few:?} with few");
    assert!(many.0 <= 4 && many.1 < 400 && many.2 <= 4, "{many:?}");
}

#[test]
fn what_a_long_queue_leaves_is_deleted_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    // A row for each message, as when they come slowly.
    for no in 1..=2 {
        store.commit(&begin(no)).unwrap();
        for from in (0..10_000).step_by(100) {
            let deltas = (from..from + 100).map(|seq| enqueue(no, seq, seq + 1, 5)).collect();
            store.commit(&batch(deltas)).unwrap();
        }
    }
    let live = store.gauge().live_bytes();
    let ended = SessionDelta { no: SessionNo(2), ended: true, ..SessionDelta::default() };
    let first = store.commit(&batch(vec![finish(1, 10_000, 9_999).sessions.remove(0), ended])).unwrap();
    assert!(first.more && first.cleaned < 5_000, "{first:?}");
    assert!(store.gauge().live_bytes() > live / 2);
    drop(store);
    // A broker that starts goes on with it.
    let (mut store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    assert!(recovered.lost.is_empty(), "{:?}", recovered.lost);
    assert_eq!(recovered.sessions.iter().map(|session| session.no.0).collect::<Vec<_>>(), [1]);
    let mut commits = 0;
    while store.commit(&nothing()).unwrap().more {
        commits += 1;
        assert!(commits < 10);
    }
    assert!(commits >= 2, "{commits}");
    assert_eq!(seqs(store.reader().as_ref(), 1), [9_999]);
    assert!(seqs(store.reader().as_ref(), 2).is_empty());
    store.commit(&finish(1, 10_000, 10_000)).unwrap();
    assert_eq!(store.gauge().live_bytes(), 0);
    drop(store);
    let verdict = forebay::store::tool::verify(dir.path()).unwrap();
    // The session has no record, and no ledger that adds up, in this test.
    assert!(verdict.wrong.iter().all(|line| line.starts_with("session 1:")), "{:?}", verdict.wrong);
}

#[test]
fn filling_and_draining_does_not_grow_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    let file = dir.path().join("forebay.redb");
    let mut sizes = Vec::new();
    for cycle in 0..12u64 {
        for commit in 0..20 {
            let from = cycle * 10_000 + commit * 500;
            store.commit(&batch(vec![SessionDelta { state: None, ..enqueue(1, from, from + 500, 200) }])).unwrap();
        }
        for commit in 1..=20 {
            store.commit(&finish(1, (cycle + 1) * 10_000, cycle * 10_000 + commit * 500)).unwrap();
        }
        assert_eq!(store.gauge().live_bytes(), 0);
        sizes.push(std::fs::metadata(&file).unwrap().len());
    }
    assert!(sizes[11] <= sizes[1], "{sizes:?}");
}

#[test]
fn a_full_store_refuses_what_grows_and_lets_it_drain() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_bytes: 2_000_000, ..options() };
    let (mut store, _) = RedbStore::open(dir.path(), &options, 0).unwrap();
    let mut next = 0;
    let refused = loop {
        match store.commit(&batch(vec![enqueue(1, next, next + 500, 200)])) {
            Ok(_) => next += 500,
            Err(error) => break error,
        }
        assert!(next < 20_000, "never full");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(next > 5000 && store.gauge().low());
    assert_eq!(seqs(store.reader().as_ref(), 1).len() as u64, next, "the refused batch left nothing");
    store.commit(&finish(1, next, next)).unwrap();
    assert!(!store.gauge().low());
    store.commit(&batch(vec![enqueue(1, next, next + 500, 200)])).unwrap();
    assert_eq!(read_all(store.reader().as_ref(), 1, &state(0, next), &mut Seed(1)).unwrap().len(), 500);
}

/// Whatever its messages are like, and however often it was full: the file does not grow past what it may.
#[cfg(unix)]
#[test]
fn a_full_store_is_not_larger_than_it_may_be() {
    use std::os::unix::fs::MetadataExt;
    const MAX: u64 = 8_000_000;
    for (size, messages) in [(40, 3_000), (900, 200), (2_200, 80), (20_000, 10), (70_000, 4)] {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { max_bytes: MAX, ..options() };
        let (mut store, _) = RedbStore::open(dir.path(), &options, 0).unwrap();
        let (mut next, mut floor, mut most, mut full) = (0, 0, 0, 0);
        while full < 6 {
            let refused = store.commit(&batch(vec![enqueue(1, next, next + messages, size)])).is_err();
            let file = std::fs::metadata(dir.path().join("forebay.redb")).unwrap().blocks() * 512;
            most = most.max(file);
            if !refused {
                next += messages;
                continue;
            }
            full += 1;
            assert!(store.gauge().low());
            assert!(next - floor > MAX / 6 / (size as u64 + 60), "{size}: full with {} messages", next - floor);
            // Two thirds are delivered.
            floor = next - (next - floor) / 3;
            store.commit(&finish(1, next, floor)).unwrap();
        }

        assert!(most <= MAX, "messages of {size} bytes: {most} bytes, where it may take {MAX}");
    }
}

#[test]
fn a_disk_below_its_reserve_refuses_what_grows() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { min_free_bytes: u64::MAX / 2, ..options() };
    let (mut store, _) = RedbStore::open(dir.path(), &options, 0).unwrap();
    let error = store.commit(&batch(vec![enqueue(1, 0, 1, 20)])).unwrap_err();
    assert!(matches!(error, StoreError::Full { needed, .. } if needed >= u64::MAX / 2), "{error}");
    store.commit(&finish(1, 1, 1)).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    use redb::ReadableDatabase;
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(dir.path(), &options(), 0).unwrap());
    let file = dir.path().join("forebay.redb");
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let number = FORMAT_VERSION + 1;
    let newer = (u64::from(number) | (u64::from(!number) << 32)).to_le_bytes();
    {
        let database = redb::Database::open(&file).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", newer.as_slice()).unwrap();
        txn.commit().unwrap();
    }
    let Err(error) = RedbStore::open(dir.path(), &options(), 0) else { panic!("opened") };
    assert!(matches!(error, StoreError::Newer { found, known: FORMAT_VERSION, .. } if found == number), "{error}");
    let database = redb::Database::open(&file).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(meta.get("format").unwrap().unwrap().value(), newer);
}

#[test]
fn messages_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    let delta = enqueue(1, 5, 9, 70_000);
    let wanted: Vec<_> = delta.enqueued.iter().map(line).collect();
    store.commit(&batch(vec![delta])).unwrap();
    let page = store.reader().page(SessionNo(1), 0, 100, 1_000_000).unwrap();
    assert_eq!(page.iter().map(line).collect::<Vec<_>>(), wanted);
}

fn recorded(delta: SessionDelta) -> SessionDelta {
    let record = SessionRecord {
        client_id: "device".to_owned(),
        protocol: 5,
        expiry_s: 100,
        disconnected_at: Some(Time(1)),
        will: None,
    };
    SessionDelta { record: Some(record), ..delta }
}

fn filled(dir: &std::path::Path, commits: u64) {
    let (mut store, _) = RedbStore::open(dir, &options(), 0).unwrap();
    for row in 0..commits {
        store.commit(&batch(vec![recorded(enqueue(1, row * 10, row * 10 + 10, 5))])).unwrap();
    }
}

fn lost(dir: &std::path::Path) -> String {
    RedbStore::open(dir, &options(), 0).unwrap().1.lost.join("\n")
}

fn set_aside(dir: &std::path::Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("forebay-damaged-")).count()
}

#[test]
fn a_file_that_has_come_to_nothing_is_not_taken_for_a_new_store() {
    let blank: [(&str, &[u8]); 3] = [("empty", b""), ("one byte", b"r"), ("zeros", &[0; 69_632])];
    for (what, bytes) in blank {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forebay.redb");
        filled(dir.path(), 3);
        std::fs::write(&file, bytes).unwrap();
        let wrong = forebay::store::tool::verify(dir.path()).unwrap().wrong.join("\n");
        assert!(wrong.contains("older than it was"), "{what}: {wrong}");
        let said = lost(dir.path());
        assert!(said.contains("all is lost") && said.contains("set aside"), "{what}: {said}");
        assert_eq!(set_aside(dir.path()), 1, "{what}");
        assert_eq!(lost(dir.path()), "", "{what}: it is said once");
        // One that never was a store is a new one.
        let new = tempfile::tempdir().unwrap();
        std::fs::write(new.path().join("forebay.redb"), bytes).unwrap();
        assert_eq!((lost(new.path()).as_str(), set_aside(new.path())), ("", 0), "{what}");
    }
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    std::fs::remove_file(dir.path().join("forebay.redb")).unwrap();
    let said = lost(dir.path());
    assert!(said.contains("gone"), "{said}");
    assert_eq!(lost(dir.path()), "");
}

#[test]
fn an_older_copy_is_said_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("forebay.redb");
    filled(dir.path(), 3);
    let copy = std::fs::read(&file).unwrap();
    assert_eq!(lost(dir.path()), "");
    filled(dir.path(), 1);
    assert_eq!(lost(dir.path()), "");
    std::fs::write(&file, copy).unwrap();
    let wrong = forebay::store::tool::verify(dir.path()).unwrap().wrong.join("\n");
    assert!(wrong.contains("older than it was"), "{wrong}");
    let (store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    assert!(recovered.lost.iter().any(|line| line.contains("older than it was")), "{:?}", recovered.lost);
    assert_eq!(seqs(store.reader().as_ref(), 1), (0..30).collect::<Vec<_>>());
    drop(store);
    assert_eq!((lost(dir.path()).as_str(), set_aside(dir.path())), ("", 0));
}

#[test]
fn folders_where_files_should_be_do_not_stop_it() {
    for name in ["forebay.redb", "forebay.lock", "forebay.check", "forebay.recovering"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("mine"), "mine").unwrap();
        let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
        store.commit(&batch(vec![recorded(enqueue(1, 0, 10, 5))])).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Err(error) = RedbStore::open(dir.path(), &options(), 0) else { panic!("{name}: two have it") };
        assert!(matches!(error, StoreError::InUse { .. }), "{name}: {error}");
        drop(store);
        let (store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
        assert_eq!(seqs(store.reader().as_ref(), 1).len(), 10, "{name}");
    }
}

#[test]
fn a_note_of_a_recovery_that_is_no_text_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    std::fs::write(dir.path().join("forebay.recovering"), [0xff, 0xfe, b'/', 0]).unwrap();
    let (store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    assert_eq!(seqs(store.reader().as_ref(), 1).len(), 10);
    assert!(!dir.path().join("forebay.recovering").exists());
    let kept = std::fs::read(dir.path().join("forebay.recovering-unreadable")).unwrap();
    assert_eq!(kept, [0xff, 0xfe, b'/', 0], "what it said is kept for whoever looks");
}

/// The file cannot be read while the switch is on.
struct Unreadable(Arc<AtomicBool>);

impl Change for Unreadable {
    fn file(&self, _: Opened, file: Backend) -> Backend {
        switched(file, &self.0)
    }
}

fn switched(file: Backend, off: &Arc<AtomicBool>) -> Backend {
    let off = Arc::clone(off);
    Backend::new(Reading(file, move |file: &Backend, offset, out: &mut [u8]| {
        if off.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { file.read(offset, out) }
    }))
}

fn misreading(file: Backend) -> Backend {
    Backend::new(Reading(file, |file: &Backend, offset, out: &mut [u8]| {
        file.read(offset, out)?;
        let payload = [7; 5];
        if let Some(at) = out.windows(5).position(|bytes| bytes == payload) {
            out[at] ^= 1;
        }
        Ok(())
    }))
}

/// Whether the file can be read again before the next commit or not: nothing is lost, and nothing is acknowledged into it
/// while it cannot be read.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_is_not_lost() {
    for comes_back in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 40);
        let switch = Arc::new(AtomicBool::new(false));
        let medium = Changed(Folder::open(dir.path()).unwrap(), Unreadable(Arc::clone(&switch)));
        let few = StoreOptions { cache_bytes: 0, ..options() };
        let (mut store, _) = RedbStore::open_on(medium, &few, 0).unwrap();
        let reader = store.reader();
        switch.store(true, Ordering::Relaxed);
        assert!(reader.page(SessionNo(1), 100, 400, 1 << 20).is_err());
        assert!(store.gauge().low(), "messages are accepted still");
        switch.store(!comes_back, Ordering::Relaxed);
        let committed = store.commit(&batch(vec![enqueue(1, 400, 410, 5)]));
        assert_eq!((committed.is_ok(), store.outdated()), (comes_back, !comes_back));
        switch.store(false, Ordering::Relaxed);
        if comes_back {
            assert!(!store.gauge().low());
            assert_eq!(seqs(reader.as_ref(), 1).len(), 410);
            continue;
        }
        assert!(store.commit(&Batch::default()).is_err(), "the broker has to begin anew");
        drop((store, reader));
        let (store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
        assert_eq!(recovered.lost, Vec::<String>::new());
        assert_eq!(seqs(store.reader().as_ref(), 1).len(), 400);
    }
}

/// A reader is given other bytes than the file has, as from a bus that errs; who looks a second time cannot read, while the switch
/// is on.
struct Misread(Arc<AtomicBool>);

impl Change for Misread {
    fn file(&self, opened: Opened, file: Backend) -> Backend {
        match opened {
            Opened::Store => misreading(file),
            Opened::Look => switched(file, &self.0),
            Opened::SetAside => file,
        }
    }

    fn space(&self, _: Space) -> Space {
        // It is opened as a large one is: without reading all of it first.
        Space::UNKNOWN
    }
}

/// Whoever says that a row is lost has read it twice and found it wrong: a second reading that fails is an error, and no verdict.
#[cfg(unix)]
#[test]
fn a_row_that_could_not_be_read_a_second_time_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 40);
    let switch = Arc::new(AtomicBool::new(true));
    let medium = Changed(Folder::open(dir.path()).unwrap(), Misread(Arc::clone(&switch)));
    let few = StoreOptions { cache_bytes: 0, ..options() };
    let (store, _) = RedbStore::open_on(medium, &few, 0).unwrap();
    let reader = store.reader();
    assert!(reader.page(SessionNo(1), 0, 400, 1 << 20).is_err());
    assert_eq!(store.gauge().damaged_rows(), 0);
    switch.store(false, Ordering::Relaxed);
    assert_eq!(seqs(reader.as_ref(), 1).len(), 400);
    assert_eq!(store.gauge().damaged_rows(), 0);
}

/// The record of a session is read wrong, as long as a file is open; whoever opens it again reads what is there.
#[derive(Default)]
struct MisreadAtFirst(Arc<AtomicBool>);

impl Change for MisreadAtFirst {
    fn file(&self, _: Opened, file: Backend) -> Backend {
        if self.0.load(Ordering::Relaxed) {
            return file;
        }
        let has = Arc::clone(&self.0);
        Backend::new(Reading(file, move |file: &Backend, offset, out: &mut [u8]| {
            file.read(offset, out)?;
            if let Some(at) = out.windows(6).position(|bytes| bytes == b"device") {
                out[at] ^= 1;
                has.store(true, Ordering::Relaxed);
            }
            Ok(())
        }))
    }

    fn space(&self, _: Space) -> Space {
        // It is opened as a large one is.
        Space::UNKNOWN
    }
}

#[test]
fn a_start_calls_nothing_lost_that_it_has_read_once() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 400);
    let path = dir.path().join("forebay.redb");
    assert!(std::fs::metadata(&path).unwrap().len() > 128 * 1024, "a small one is read before it is opened");
    let change = MisreadAtFirst::default();
    let misread = Arc::clone(&change.0);
    let (_store, recovered) =
        RedbStore::open_on(Changed(Folder::open(dir.path()).unwrap(), change), &options(), 0).unwrap();
    assert!(misread.load(Ordering::Relaxed));
    assert_eq!(recovered.lost, Vec::<String>::new());
    assert_eq!(recovered.sessions.len(), 1);
}

/// A copy has all rows as they are, and whoever asked for it is told of those that are damaged.
#[test]
fn a_backup_says_what_is_damaged_in_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let path = dir.path().join("forebay.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    // The payload of the message in place 7.
    while let Some(at) = bytes.windows(5).position(|bytes| bytes == [7; 5]) {
        bytes[at] = 8;
    }
    std::fs::write(&path, bytes).unwrap();
    let medium = Changed(Folder::open(dir.path()).unwrap(), Large);
    let (store, _) = RedbStore::open_on(medium, &options(), 0).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let copied = store.reader().backup(&copy.path().join("forebay.redb")).unwrap();
    assert_eq!(copied.damaged, ["row (1, 0) of table queue is damaged (checksum does not match)"]);
    assert!(dir.path().join("forebay.check").exists(), "the next start looks at the whole file");
    let (store, _) = RedbStore::open(copy.path(), &options(), 0).unwrap();
    assert_eq!(seqs(store.reader().as_ref(), 1), (10..30).collect::<Vec<_>>());
}

/// The file is opened as a large one is: without reading all of it first.
struct Large;

impl Change for Large {
    fn space(&self, _: Space) -> Space {
        Space::UNKNOWN
    }
}

/// A page of the file cannot be read, whenever it is tried; the file that is made in its place has no such page.
struct BadPage(u64, Arc<AtomicBool>);

impl Change for BadPage {
    fn file(&self, opened: Opened, file: Backend) -> Backend {
        self.1.fetch_or(opened == Opened::SetAside, Ordering::Relaxed);
        if opened != Opened::SetAside && self.1.load(Ordering::Relaxed) {
            return file;
        }
        let page = self.0;
        Backend::new(Reading(file, move |file: &Backend, offset, out: &mut [u8]| {
            if offset < (page + 1) * 4096 && offset + out.len() as u64 > page * 4096 {
                return Err(io::Error::from_raw_os_error(5));
            }
            file.read(offset, out)
        }))
    }
}

/// A small file is looked at whole before it is opened: a page of it that cannot be read does not keep the store from what the
/// others have.
#[cfg(unix)]
#[test]
fn a_small_file_with_a_page_that_cannot_be_read_is_recovered() {
    for (page, suspect) in [(0, false), (0, true), (1, false)] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        let path = dir.path().join("forebay.redb");
        tool::compact(dir.path()).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() <= 128 * 1024, "it is small");
        if suspect {
            std::fs::write(dir.path().join("forebay.check"), "").unwrap();
        }
        let medium = Changed(Folder::open(dir.path()).unwrap(), BadPage(page, Arc::default()));
        let (mut store, recovered) = RedbStore::open_on(medium, &options(), 0).unwrap();
        assert!(recovered.lost[0].contains("could not be read"), "page {page}: {:?}", recovered.lost);
        store.commit(&batch(vec![])).unwrap();
        assert_eq!(set_aside(dir.path()), 1, "page {page}");
        assert_eq!(seqs(store.reader().as_ref(), 1).len(), 100, "page {page}: {:?}", recovered.lost);
    }
}
