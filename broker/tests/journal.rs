//! The store with its journal as the broker uses it: folding goes on beside commits and reads. `FOREBAY_SEEDS=n` runs more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod medium;
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay::message::Time;
use forebay::store::journal::file::{FileJournal, head};
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::journal::{AppendError, Journal, Replay};
use forebay::store::medium::{Backend, Folder};
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::shared_memory::SharedMemory;
use forebay::store::space::Space;
use forebay::store::upkeep::UpkeepError;
use forebay::store::{Batch, ClockMark, QueueState, Recovered, SessionDelta, SessionNo, Store, StoreError, tool};
use medium::{Change, Changed};
use model::{Model, Seed};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

fn options(journal_bytes: u64) -> StoreOptions {
    StoreOptions { min_free_bytes: 0, journal_bytes, ..StoreOptions::default() }
}

fn seeds() -> u64 {
    std::env::var("FOREBAY_SEEDS").map_or(40, |seeds| seeds.parse().unwrap())
}

fn same(model: &Model, store: &dyn Store, recovered: &Recovered, seed: &mut Seed, when: &str) {
    if let Some(differs) = model.differs(recovered, store.reader().as_ref(), &mut Seed(seed.next())) {
        panic!("{when}: {differs}");
    }
}

/// Readers see each commit at once, whole and in order, wherever it lies at the moment; so does the next start.
#[test]
fn folding_beside_commits_changes_nothing_that_is_read() {
    for number in 0..seeds() / 4 {
        let mut seed = Seed(number);
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model { small: number % 3 > 0, with_keyed: true, ..Model::default() };
        for round in 0..4 {
            let size = [64, 128, 0, 1024][seed.below(4) as usize] * 1024;
            let (mut store, recovered) = JournaledStore::open(dir.path(), &options(size), 0).unwrap();
            same(&model, &store, &recovered, &mut seed, &format!("seed {number}, round {round}"));
            let reader = store.reader();
            for step in 0..60 {
                store.commit(&model.step(&mut seed)).unwrap();
                if seed.one_in(8) {
                    store.commit(&Batch { clock: model.clock, ..Batch::default() }).unwrap();
                }
                for (no, session) in &model.sessions {
                    let state = session.state.clone();
                    let found = model::read_all(reader.as_ref(), *no, &state, &mut seed).unwrap();
                    let known: Vec<String> = session.queue.values().map(model::line).collect();
                    // Places that are done may be read: a session skips those.
                    let found: Vec<String> = found.into_iter().filter(|line| known.contains(line)).collect();
                    assert_eq!(found, known, "seed {number}, round {round}, step {step}, session {no}");
                }
            }
            if seed.one_in(2) {
                // It ends without a fold, as a crash does.
                std::mem::forget(store);
                let copy = tempfile::tempdir().unwrap();
                for name in ["forebay.redb", "forebay.journal"] {
                    if dir.path().join(name).exists() {
                        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
                    }
                }
                let verdict = tool::verify(copy.path()).unwrap();
                assert_eq!(verdict.wrong, [""; 0], "seed {number}, round {round}");
                let (store, recovered) = JournaledStore::open(copy.path(), &options(size), 0).unwrap();
                same(&model, &store, &recovered, &mut seed, &format!("seed {number}, round {round}, a copy"));
                break;
            }
        }
    }
}

/// A log that is somewhere else: appends are durable only when they are waited for, and an append may fail although its
/// record is there.
struct Remote {
    file: FileJournal,
    under_way: Vec<(u64, Vec<u8>)>,
    seed: Seed,
    ambiguous: Arc<AtomicBool>,
}

impl Remote {
    fn fails(&mut self) -> bool {
        self.ambiguous.load(Ordering::Relaxed) && self.seed.one_in(4)
    }
}

impl Journal for Remote {
    fn append(&mut self, number: u64, record: &[u8]) -> Result<(), AppendError> {
        if !self.has_room(record.len()) {
            return Err(AppendError::Full);
        }
        self.under_way.push((number, record.to_vec()));
        Ok(())
    }

    fn settle(&mut self) -> Result<(), AppendError> {
        for (number, record) in std::mem::take(&mut self.under_way) {
            let fails = self.fails();
            if !fails || self.seed.one_in(2) {
                self.file.append(number, &record)?;
            }
            if fails {
                let source = std::io::Error::other("no answer came");
                return Err(AppendError::Failed { source, left_nothing: false });
            }
        }
        Ok(())
    }

    fn after(&mut self, number: u64) -> std::io::Result<Replay> {
        self.file.after(number)
    }

    fn forget(&mut self, number: u64) {
        self.file.forget(number);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.file.has_room(bytes)
    }

    fn size(&self) -> u64 {
        self.file.size()
    }

    fn used_percent(&self) -> u64 {
        self.file.used_percent()
    }

    fn written_bytes(&self) -> u64 {
        self.file.written_bytes()
    }
}

/// Any journal will do: one that completes late, and one whose failures leave the outcome open. redb takes what it does not.
#[test]
fn a_journal_that_is_late_or_unsure_loses_nothing() {
    const SIZE: u64 = 256 * 1024;
    for number in 0..seeds() {
        let mut seed = Seed(number);
        let dir = tempfile::tempdir().unwrap();
        let memory = SharedMemory(Arc::new(InMemoryBackend::new()));
        memory.set_len(SIZE).unwrap();
        memory.write(0, &head(9, SIZE)).unwrap();
        let mut model = Model { small: true, with_keyed: true, ..Model::default() };
        let ambiguous = Arc::new(AtomicBool::new(false));
        for round in 0..4 {
            let file = FileJournal::open(Backend::new(memory.clone())).unwrap();
            let (seed_of, ambiguous) = (Seed(seed.next()), Arc::clone(&ambiguous));
            let remote = Remote { file, under_way: Vec::new(), seed: seed_of, ambiguous: Arc::clone(&ambiguous) };
            let medium = Folder::open(dir.path()).unwrap();
            let (mut store, recovered) =
                JournaledStore::open_over(medium, Box::new(remote), 9, &options(SIZE), Folding::Within).unwrap();
            same(&model, &store, &recovered, &mut seed, &format!("seed {number}, round {round}"));
            for _ in 0..80 {
                ambiguous.store(seed.one_in(3), Ordering::Relaxed);
                store.commit(&model.step(&mut seed)).unwrap();
            }
        }
    }
}

/// The journal of another store is not taken, and not destroyed; a damaged one is set aside.
#[test]
fn a_strange_journal_is_set_aside() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (number, dir) in [&one, &other].into_iter().enumerate() {
        let (mut store, _) = JournaledStore::open(dir.path(), &options(1 << 20), 0).unwrap();
        let mut model = Model { small: true, ..Model::default() };
        store.commit(&model.step(&mut Seed(number as u64))).unwrap();
    }
    let journal = |dir: &tempfile::TempDir| dir.path().join("forebay.journal");
    std::fs::copy(journal(&other), journal(&one)).unwrap();
    let (store, recovered) = JournaledStore::open(one.path(), &options(1 << 20), 1000).unwrap();
    assert!(recovered.lost[0].contains("of another store"), "{:?}", recovered.lost);
    assert!(!recovered.sessions.is_empty());
    drop(store);
    assert!(one.path().join("forebay-damaged-19700101-000001.journal").exists());
    let mut bytes = std::fs::read(journal(&one)).unwrap();
    bytes[3] ^= 1;
    std::fs::write(journal(&one), bytes).unwrap();
    let verdict = tool::verify(one.path()).unwrap();
    assert!(verdict.wrong[0].contains("first block is damaged"), "{:?}", verdict.wrong);
    let error = tool::export(one.path(), &mut Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains("first block is damaged"),
        "an export does not leave it out in silence: {error}"
    );
    let (store, recovered) = JournaledStore::open(one.path(), &options(1 << 20), 2000).unwrap();
    assert!(recovered.lost[0].contains("first block is damaged"), "{:?}", recovered.lost);
    drop(store);
    let (_, recovered) = JournaledStore::open(one.path(), &options(1 << 20), 3000).unwrap();
    assert_eq!(recovered.lost, [""; 0], "it is said once");
}

/// Damage between two records is said; what came behind it is taken.
#[test]
fn damage_within_it_is_said_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let folder = Folder::open(dir.path()).unwrap();
        JournaledStore::open_on(folder, &options(1 << 20), 0, Folding::Within).unwrap()
    };
    let (mut store, _) = open();
    let mut model = Model { small: true, ..Model::default() };
    let mut seed = Seed(5);
    for _ in 0..10 {
        store.commit(&model.step(&mut seed)).unwrap();
    }
    drop(store);
    let path = dir.path().join("forebay.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    // The fourth block holds the fourth record, or a part of an earlier one: each takes a block or more.
    bytes[4 * 4096 + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (store, recovered) = open();
    assert_eq!(recovered.lost.len(), 1, "{:?}", recovered.lost);
    assert!(recovered.lost[0].contains("of the journal are missing"), "{:?}", recovered.lost);
    let last = model.sessions.keys().next_back().unwrap();
    let found = recovered.sessions.iter().find(|session| session.no == SessionNo(*last)).unwrap();
    assert_eq!(found.state.next_seq, model.sessions[last].state.next_seq, "what came last is known");
    drop(store);
}

/// Without a journal, what one held before is in the store's file, and the file is gone.
#[test]
fn it_can_be_turned_off_and_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model { small: true, ..Model::default() };
    let mut seed = Seed(5);
    for size in [1u64 << 20, 0, 1 << 18, 1 << 19, 0] {
        let folder = Folder::open(dir.path()).unwrap();
        let (mut store, recovered) = JournaledStore::open_on(folder, &options(size), 0, Folding::Within).unwrap();
        same(&model, &store, &recovered, &mut seed, &format!("{size} bytes"));
        let there = std::fs::metadata(dir.path().join("forebay.journal")).map_or(0, |meta| meta.len());
        assert_eq!(there, size);
        for _ in 0..5 {
            store.commit(&model.step(&mut seed)).unwrap();
        }
    }
    let (store, recovered) = RedbStore::open(dir.path(), &options(0), 0).unwrap();
    same(&model, &store, &recovered, &mut seed, "at the end");
}

/// What the file system cannot give the journal, the store's file takes.
#[test]
fn without_a_place_for_it_commits_go_to_the_store() -> Result<(), StoreError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("forebay.partial")).unwrap();
    let mut model = Model { small: true, ..Model::default() };
    let mut seed = Seed(5);
    let (mut store, _) = JournaledStore::open(dir.path(), &options(1 << 20), 0)?;
    for _ in 0..5 {
        store.commit(&model.step(&mut seed))?;
    }
    drop(store);
    assert!(!dir.path().join("forebay.journal").exists());
    let (store, recovered) = RedbStore::open(dir.path(), &options(0), 0)?;
    same(&model, &store, &recovered, &mut seed, "at the end");
    Ok(())
}

/// The disk has only so much room.
struct Room(Arc<AtomicU64>);

impl Change for Room {
    fn space(&self, space: Space) -> Space {
        Space { free: self.0.load(Ordering::Relaxed), ..space }
    }
}

/// A journal that could not be made at the start is made while the broker runs, once there is room for it beside what the
/// store needs; what was committed before and after is there at the next start, which reads the journal.
#[test]
fn a_journal_is_made_when_there_is_room() {
    const SIZE: u64 = 256 * 1024;
    for folding in [Folding::Within, Folding::Beside] {
        let dir = tempfile::tempdir().unwrap();
        let (journal, in_the_way) = (dir.path().join("forebay.journal"), dir.path().join("forebay.partial"));
        std::fs::create_dir(&in_the_way).unwrap();
        let room = Arc::new(AtomicU64::new(u64::MAX));
        let mut model = Model { small: true, ..Model::default() };
        let mut seed = Seed(5);
        let medium = Changed(Folder::open(dir.path()).unwrap(), Room(Arc::clone(&room)));
        let (mut store, _) = JournaledStore::open_on(medium, &options(SIZE), 0, folding).unwrap();
        let mut commit = |store: &mut JournaledStore, minutes: u64| {
            // Each commit of the model is 17 ms after the one before.
            model.commits += minutes * 60_000 / 17;
            store.commit(&model.step(&mut seed)).unwrap();
        };
        for _ in 0..5 {
            commit(&mut store, 20);
        }
        assert!(!journal.exists());
        // A byte less than the journal, the 1 MiB that is left for what deletes, and a quarter of that. Before the way is free: the
        // thread that folds may be about to try.
        room.store(SIZE + (1 << 20) + (1 << 18) - 1, Ordering::Relaxed);
        std::fs::remove_dir(&in_the_way).unwrap();
        for _ in 0..5 {
            commit(&mut store, 20);
        }
        assert!(!journal.exists(), "nothing would be left for what deletes");
        room.store(u64::MAX, Ordering::Relaxed);
        while store.gauge().journal_written() == 0 {
            commit(&mut store, 20);
            std::thread::yield_now();
        }
        assert_eq!(std::fs::metadata(&journal).unwrap().len(), SIZE);
        commit(&mut store, 1);
        std::mem::forget(store);
        let copy = tempfile::tempdir().unwrap();
        for name in ["forebay.redb", "forebay.journal"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        let (store, recovered) = JournaledStore::open(copy.path(), &options(SIZE), 0).unwrap();
        assert_eq!(recovered.lost, [""; 0]);
        same(&model, &store, &recovered, &mut seed, &format!("{folding:?}"));
    }
}

/// A file that holds much is left alone while a broker runs, as its readers would wait; one that holds little becomes small,
/// and readers and commits beside it see nothing of it.
#[test]
fn what_holds_little_is_compacted_beside_commits() {
    const LARGE: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = JournaledStore::open(dir.path(), &options(1 << 20), 0).unwrap();
    let upkeep = store.upkeep().unwrap();
    let large = model::message("large", &vec![7; LARGE]);
    let fill = |count: u64| {
        let state = QueueState { next_seq: count, ..QueueState::default() };
        let enqueued = (0..count).map(|seq| model::entry(seq, &large)).collect();
        SessionDelta { no: SessionNo(1), enqueued, state: Some(state), ..SessionDelta::default() }
    };
    let clock = ClockMark { time: Time(1), wall_ms: 1 };
    store.commit(&Batch { sessions: vec![fill(70)], clock, ..Batch::default() }).unwrap();
    assert!(matches!(upkeep.compact(), Err(UpkeepError::TooMuch { live, max }) if live > max));
    let done = SessionDelta { no: SessionNo(1), ended: true, ..SessionDelta::default() };
    store.commit(&Batch { sessions: vec![done], clock, ..Batch::default() }).unwrap();
    while store.gauge().live_bytes() > LARGE as u64 {
        upkeep.fold().unwrap();
    }
    let ended = Arc::new(AtomicBool::new(false));
    let compacting = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            let done: Vec<_> = (0..3).map(|_| upkeep.compact().unwrap()).collect();
            ended.store(true, Ordering::Relaxed);
            done
        }
    });
    let mut model = Model { small: true, ..Model::default() };
    model.last_session = 1;
    let mut seed = Seed(3);
    let reader = store.reader();
    let mut commits = 0;
    while !ended.load(Ordering::Relaxed) || commits < 20 {
        store.commit(&model.step(&mut seed)).unwrap();
        commits += 1;
        for (no, session) in &model.sessions {
            let found = model::read_all(reader.as_ref(), *no, &session.state.clone(), &mut seed).unwrap();
            let known: Vec<String> = session.queue.values().map(model::line).collect();
            let found: Vec<String> = found.into_iter().filter(|line| known.contains(line)).collect();
            assert_eq!(found, known, "commit {commits}, session {no}");
        }
    }
    let first = compacting.join().unwrap()[0];
    assert!(first.before > 32 << 20 && first.after < 8 << 20, "{first:?}");
    drop((store, reader));
    let verdict = tool::verify(dir.path()).unwrap();
    assert_eq!(verdict.wrong, [""; 0]);
}
