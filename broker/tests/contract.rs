//! What every store does, whatever it is: in memory, redb alone, a journal before it, a journal that is elsewhere and late or unsure.
//! `FOREBAY_SEEDS=n` runs more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod model;
mod remote;

use forebay::message::Time;
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::medium::Folder;
use forebay::store::memory::{Failure, MemoryStore};
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::{Batch, ClockMark, QueueState, Recovered, SessionDelta, SessionNo, SessionRecord, Store};
use model::{Model, Seed, entry, merge, message};
use remote::Log;

const JOURNAL: u64 = 256 * 1024;

/// What of a store outlives it.
enum Place {
    Memory(MemoryStore),
    Redb(tempfile::TempDir),
    Journal(tempfile::TempDir),
    Remote(tempfile::TempDir, Log),
}

impl Place {
    fn all() -> [Self; 4] {
        let dir = || tempfile::tempdir().unwrap();
        [
            Self::Memory(MemoryStore::default()),
            Self::Redb(dir()),
            Self::Journal(dir()),
            Self::Remote(dir(), Log::new(JOURNAL)),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redb(_) => "redb",
            Self::Journal(_) => "journal",
            Self::Remote(..) => "remote journal",
        }
    }

    fn open(&self, seed: &mut Seed) -> (Box<dyn Store>, Recovered) {
        let options = StoreOptions { min_free_bytes: 0, journal_bytes: JOURNAL, ..StoreOptions::default() };
        let within = Folding::Within;
        let (store, recovered) = match self {
            Self::Memory(store) => return (Box::new(store.clone()), store.crash()),
            Self::Redb(dir) => {
                let (store, recovered) = RedbStore::open(dir.path(), &options, 0).unwrap();
                return (Box::new(store), recovered);
            }
            Self::Journal(dir) => {
                let folder = Folder::open(dir.path()).unwrap();
                JournaledStore::open_on(folder, &options, 0, within).unwrap()
            }
            Self::Remote(dir, log) => {
                let (folder, remote) = (Folder::open(dir.path()).unwrap(), log.connect(seed.next()));
                JournaledStore::open_over(folder, Box::new(remote), Log::ID, &options, within).unwrap()
            }
        };
        (Box::new(store), recovered)
    }

    /// Commits may go wrong from now on, in the way that this one has.
    fn disturb(&self, seed: &mut Seed, on: bool) {
        match self {
            Self::Memory(store) => {
                let failures = [Failure::Lost, Failure::Unknown, Failure::None];
                store.fail(if on { failures[seed.below(3) as usize] } else { Failure::None });
            }
            Self::Remote(_, log) => log.set_unsure(on),
            Self::Redb(_) | Self::Journal(_) => {}
        }
    }
}

fn seeds() -> u64 {
    std::env::var("FOREBAY_SEEDS").map_or(3, |seeds| seeds.parse().unwrap())
}

/// A commit is there at once and after a restart; one that failed is given again with what came since.
#[test]
fn what_is_committed_comes_back() {
    for number in 0..seeds() {
        for place in Place::all() {
            let mut seed = Seed(number);
            let mut model = Model { small: number % 2 == 0, with_keyed: true, ..Model::default() };
            for round in 0..4 {
                let (mut store, recovered) = place.open(&mut seed);
                let differs = model.differs(&recovered, store.reader().as_ref(), &mut seed);
                assert_eq!(differs, None, "{}, seed {number}, round {round}", place.name());
                let mut failed: Option<Batch> = None;
                for _ in 0..20 {
                    let on = seed.one_in(3);
                    place.disturb(&mut seed, on);
                    let mut batch = model.step(&mut seed);
                    if let Some(failed) = failed.take() {
                        batch = merge(failed, batch, &model);
                    }
                    failed = store.commit(&batch).is_err().then_some(batch);
                }
                place.disturb(&mut seed, false);
                if let Some(failed) = failed {
                    store.commit(&failed).unwrap();
                }
            }
        }
    }
}

fn batch(sessions: Vec<SessionDelta>) -> Batch {
    Batch { sessions, clock: ClockMark { time: Time(1), wall_ms: 1 }, ..Batch::default() }
}

/// Entries `from..to` of one session, each with a message of its own.
fn enqueue(no: u64, from: u64, to: u64, payload: usize) -> SessionDelta {
    let enqueued = (from..to).map(|seq| entry(seq, &message("topic", &vec![seq as u8; payload]))).collect();
    let state = Some(QueueState { next_seq: to, ..QueueState::default() });
    let client_id = format!("client-{no}");
    let record = SessionRecord { client_id, protocol: 5, expiry_s: 60, disconnected_at: None, will: None };
    SessionDelta { no: SessionNo(no), record: Some(record), enqueued, state, ..SessionDelta::default() }
}

#[test]
fn pages_are_in_order_and_hold_to_their_limits() {
    for place in Place::all() {
        let (mut store, _) = place.open(&mut Seed(1));
        let reader = store.reader();
        for row in 0..40 {
            let other = enqueue(2, row, row + 1, 9);
            store.commit(&batch(vec![enqueue(1, row * 100, row * 100 + 100, 90), other])).unwrap();
            let seqs = |no, from, most, bytes| -> Vec<u64> {
                let page = reader.page(SessionNo(no), from, most, bytes).unwrap();
                page.iter().map(|entry| entry.seq).collect()
            };
            let last = row * 100 + 99;
            assert_eq!(seqs(1, last - 98, usize::MAX, usize::MAX).last(), Some(&last), "{}", place.name());
            assert_eq!(seqs(1, row * 50, 120, usize::MAX).len() as u64, (last + 1 - row * 50).min(120));
            assert_eq!(seqs(1, last - 49, usize::MAX, 95 * 10), (last - 49..last - 39).collect::<Vec<_>>());
            assert_eq!(seqs(1, 0, 0, 0), [0], "{}: at least one if there is one", place.name());
            assert!(seqs(1, last + 1, 10, 10).is_empty());
            assert_eq!(seqs(2, 0, usize::MAX, usize::MAX), (0..=row).collect::<Vec<_>>());
        }
    }
}

/// What is done goes when all of its commit is, and a session takes all of it along.
#[test]
fn what_is_done_and_who_has_ended_goes() {
    for place in Place::all() {
        let (mut store, _) = place.open(&mut Seed(1));
        for row in 0..5 {
            store.commit(&batch(vec![enqueue(1, row * 10, row * 10 + 10, 5), enqueue(2, row, row + 1, 5)])).unwrap();
        }
        let state = Some(QueueState { next_seq: 50, floor: 8, ..QueueState::default() });
        let done = vec![(9, 21), (30, 40)];
        let finished = SessionDelta { no: SessionNo(1), done, state, ..SessionDelta::default() };
        store.commit(&batch(vec![finished])).unwrap();
        let ended = SessionDelta { no: SessionNo(2), ended: true, ..SessionDelta::default() };
        store.commit(&batch(vec![ended])).unwrap();
        drop(store);
        let (mut store, recovered) = place.open(&mut Seed(1));
        while store.commit(&batch(Vec::new())).unwrap().more {}
        let [session] = recovered.sessions.as_slice() else { panic!("{}: {recovered:?}", place.name()) };
        let page = store.reader().page(SessionNo(1), 0, usize::MAX, usize::MAX).unwrap();
        let left: Vec<u64> = page.iter().map(|entry| entry.seq).filter(|seq| !session.state.is_done(*seq)).collect();
        assert_eq!(left, [vec![8], (21..30).collect(), (40..50).collect()].concat(), "{}", place.name());
        assert!(page.iter().all(|entry| !(30..40).contains(&entry.seq)), "{}: what is done is gone", place.name());
        assert!(store.reader().page(SessionNo(2), 0, 1, 1).unwrap().is_empty());
        assert_eq!(recovered.last_session, 2, "{}: a number is given once", place.name());
    }
}
