//! What a commit costs, as the store writes it and with a row for each message: `cargo bench -p forebay --bench store`.
//! FOREBAY_BENCH_DIR names a folder on the disk that is to be measured; the system's temporary folder otherwise.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use forebay::message::{Message, Parts, Time};
use forebay::store::journal::store::JournaledStore;
use forebay::store::redb::{JOURNAL_BYTES, RedbStore, StoreOptions};
use forebay::store::{Batch, ClockMark, QueueEntry, QueueState, SessionDelta, SessionNo, Store};
use redb::{Database, TableDefinition};

const ROWS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("rows");
/// Messages of one commit, and the queues that they are dealt to.
const SHAPES: [(u64, u64); 5] = [(3, 1), (10, 1), (100, 1), (1000, 1), (1000, 100)];
const TOPIC: &str = "bench/site/0001/temperature";
const PAYLOAD: [u8; 64] = [7; 64];

fn folder() -> tempfile::TempDir {
    let place = std::env::var_os("FOREBAY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(place).unwrap()
}

fn message() -> Arc<Message> {
    let parts = Parts {
        topic: TOPIC,
        properties: &[],
        payload: &PAYLOAD,
        qos: 1,
        retain: false,
        expires_at: None,
        accepted_at: Time(1),
    };
    Arc::new(Message::new(&parts, None))
}

/// One commit: each queue takes its part of the messages, and what it took in the commit before is done.
fn batch(commit: u64, messages: u64, queues: u64) -> Batch {
    let each = messages / queues;
    let sessions = (1..=queues).map(|no| {
        let entries = (commit * each..(commit + 1) * each).map(|seq| QueueEntry {
            seq,
            qos: 1,
            retain: false,
            shared: None,
            subscription_ids: [].into_iter().collect(),
            message: message(),
        });
        SessionDelta {
            no: SessionNo(no),
            enqueued: entries.collect(),
            state: Some(QueueState { next_seq: (commit + 1) * each, floor: commit * each, ..QueueState::default() }),
            ..SessionDelta::default()
        }
    });
    Batch { sessions: sessions.collect(), clock: ClockMark { time: Time(commit), wall_ms: 1 }, ..Batch::default() }
}

const OPTIONS: StoreOptions =
    StoreOptions { min_free_bytes: 0, cache_bytes: 8 << 20, max_bytes: u64::MAX, journal_bytes: JOURNAL_BYTES };

fn ours(commits: u64, messages: u64, queues: u64) -> Duration {
    let dir = folder();
    let (mut store, _) = RedbStore::open(dir.path(), &OPTIONS, 0).unwrap();
    time(&mut store, commits, messages, queues)
}

/// The same with the journal before it.
fn journaled(commits: u64, messages: u64, queues: u64) -> Duration {
    let dir = folder();
    let (mut store, _) = JournaledStore::open(dir.path(), &OPTIONS, 0).unwrap();
    time(&mut store, commits, messages, queues)
}

fn time(store: &mut dyn Store, commits: u64, messages: u64, queues: u64) -> Duration {
    let batches: Vec<Batch> = (0..commits).map(|commit| batch(commit, messages, queues)).collect();
    let started = Instant::now();
    for batch in &batches {
        store.commit(batch).unwrap();
    }
    started.elapsed()
}

/// The same with redb alone: a row for each message, removed one by one.
fn row_for_each(commits: u64, messages: u64, queues: u64) -> Duration {
    let dir = folder();
    let database = Database::create(dir.path().join("rows.redb")).unwrap();
    let (each, body) = (messages / queues, [TOPIC.as_bytes(), &PAYLOAD].concat());
    let started = Instant::now();
    for commit in 0..commits {
        let txn = database.begin_write().unwrap();
        {
            let mut rows = txn.open_table(ROWS).unwrap();
            for no in 1..=queues {
                for seq in commit * each..(commit + 1) * each {
                    rows.insert((no, seq), body.as_slice()).unwrap();
                    if let Some(done) = seq.checked_sub(each) {
                        rows.remove((no, done)).unwrap();
                    }
                }
            }
        }
        txn.commit().unwrap();
    }
    started.elapsed()
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for (messages, queues) in SHAPES {
        group.throughput(Throughput::Elements(messages));
        let name = format!("{messages} messages, {queues} queues");
        group.bench_function(BenchmarkId::new("row for each queue", &name), |b| {
            b.iter_custom(|commits| ours(commits, messages, queues));
        });
        group.bench_function(BenchmarkId::new("with the journal", &name), |b| {
            b.iter_custom(|commits| journaled(commits, messages, queues));
        });
        group.bench_function(BenchmarkId::new("row for each message", &name), |b| {
            b.iter_custom(|commits| row_for_each(commits, messages, queues));
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
