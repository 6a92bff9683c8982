//! The store on a real folder: what is committed comes back, in order, once; rows are freed; limits hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod model;

use forebay::message::Time;
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::{Batch, ClockMark, QueueState, Reader, SessionDelta, SessionNo, Store, StoreError};
use model::{Model, Seed, entry, line, message, read_all};

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
fn random_batches_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = Seed(7);
    let mut model = Model::default();
    for _ in 0..6 {
        let (mut store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
        assert_eq!(model.differs(&recovered, store.reader().as_ref(), &mut seed), None);
        for _ in 0..15 {
            let batch = model.step(&mut seed);
            store.commit(&batch).unwrap();
        }
    }
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
fn pages_are_in_order_across_rows_and_hold_to_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    for row in 0..20 {
        store.commit(&batch(vec![enqueue(1, row * 1000, row * 1000 + 1000, 90), enqueue(2, row, row + 1, 9)])).unwrap();
    }
    let reader = store.reader();
    let page = reader.page(SessionNo(1), 2500, 1200, usize::MAX).unwrap();
    assert_eq!(page.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (2500..3700).collect::<Vec<_>>());
    let page = reader.page(SessionNo(1), 2500, usize::MAX, 95 * 10).unwrap();
    assert_eq!(page.len(), 10);
    assert_eq!(reader.page(SessionNo(1), 0, 0, 0).unwrap().len(), 1, "at least one if there is one");
    assert!(reader.page(SessionNo(1), 20_000, 10, 10).unwrap().is_empty());
    assert_eq!(seqs(reader.as_ref(), 2), (0..20).collect::<Vec<_>>());
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
        batch.sessions[0].state.as_mut().unwrap().done = done.to_vec();
        batch
    };
    store.commit(&done(&[(12, 18), (33, 34)])).unwrap();
    assert_eq!(seqs(store.reader().as_ref(), 1).len(), 50);
    store.commit(&done(&[(9, 21), (30, 40)])).unwrap();
    let left: Vec<u64> = (0..10).chain(20..30).chain(40..50).collect();
    assert_eq!(seqs(store.reader().as_ref(), 1), left);
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
    let newer = (2u64 | (u64::from(!2u32) << 32)).to_le_bytes();
    {
        let database = redb::Database::open(&file).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", newer.as_slice()).unwrap();
        txn.commit().unwrap();
    }
    let Err(error) = RedbStore::open(dir.path(), &options(), 0) else { panic!("opened") };
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
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
