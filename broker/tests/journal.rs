//! The store with its journal as the broker uses it: folding goes on beside commits and reads. `FOREBAY_SEEDS=n` runs more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod medium;
mod model;
#[path = "medium/reading.rs"]
mod reading;
mod remote;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay::message::Time;
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::medium::{Backend, Folder};
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::space::Space;
use forebay::store::upkeep::UpkeepError;
use forebay::store::{
    Batch, ClockMark, Known, Ledger, QueueEntry, QueueState, Recovered, RecoveredSession, SessionDelta, SessionNo,
    SessionRecord, Store, StoreError, StoredSubscription, tool,
};
use medium::{Change, Changed};
use model::{Model, Seed};
use reading::Reading;
use redb::StorageBackend;
use remote::Log;

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

/// Any journal will do: one that completes late, and one whose failures leave the outcome open. redb takes what it does not.
#[test]
fn a_journal_that_is_late_or_unsure_loses_nothing() {
    const SIZE: u64 = 256 * 1024;
    for number in 0..seeds() {
        let mut seed = Seed(number);
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(SIZE);
        let mut model = Model { small: true, with_keyed: true, ..Model::default() };
        for round in 0..4 {
            let medium = Folder::open(dir.path()).unwrap();
            let remote = Box::new(log.connect(seed.next()));
            let (mut store, recovered) =
                JournaledStore::open_over(medium, remote, Log::ID, &options(SIZE), Folding::Within).unwrap();
            same(&model, &store, &recovered, &mut seed, &format!("seed {number}, round {round}"));
            for _ in 0..80 {
                log.set_unsure(seed.one_in(3));
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
    assert!(one.path().join("forebay-damaged-19700101-000002.journal").exists());
    let (_, recovered) = JournaledStore::open(one.path(), &options(1 << 20), 3000).unwrap();
    assert_eq!(recovered.lost, [""; 0], "it is said once");
}

/// The journal's first block, whatever has become of it, decides over nothing that comes behind it: from the first commit on.
#[test]
fn the_first_block_of_a_journal_decides_over_no_record() {
    type Inflict = fn(&mut Vec<u8>);
    let wipe = |bytes: &mut Vec<u8>| bytes[..4096].fill(0);
    let flip = |bytes: &mut Vec<u8>| bytes[17] ^= 4;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 300 * 4096);
    let damages: [(&str, Inflict); 3] =
        [("it is zeros", wipe), ("a bit of its version is another", flip), ("the file is cut", cut)];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        for folded in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let open = |wall_ms| {
                let folder = Folder::open(dir.path()).unwrap();
                JournaledStore::open_on(folder, &options(2 << 20), wall_ms, Folding::Within).unwrap()
            };
            let (mut store, _) = open(0);
            let mut model = Model { small: true, with_keyed: true, ..Model::default() };
            let mut seed = Seed(number as u64);
            for step in 0..20 {
                store.commit(&model.step(&mut seed)).unwrap();
                if folded && step == 8 {
                    store.fold().unwrap();
                }
            }
            // As a killed broker leaves it.
            std::mem::forget(store);
            let journal = dir.path().join("forebay.journal");
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(dir.path().join("forebay.redb"), copy.path().join("forebay.redb")).unwrap();
            let mut bytes = std::fs::read(&journal).unwrap();
            damage(&mut bytes);
            std::fs::write(copy.path().join("forebay.journal"), bytes).unwrap();
            let open = |wall_ms| {
                let folder = Folder::open(copy.path()).unwrap();
                JournaledStore::open_on(folder, &options(2 << 20), wall_ms, Folding::Within).unwrap()
            };
            let (store, mut recovered) = open(1000);
            let when = format!("{what}, folded {folded}");
            assert_eq!(recovered.lost.len(), 1, "{when}: {:?}", recovered.lost);
            recovered.lost.clear();
            same(&model, &store, &recovered, &mut seed, &when);
            assert!(copy.path().join("forebay-damaged-19700101-000001.journal").exists(), "{when}");
            drop(store);
            let (store, recovered) = open(2000);
            same(&model, &store, &recovered, &mut seed, &when);
            assert_eq!(recovered.lost, [""; 0], "{when}: it is said once");
        }
    }
}

/// The journal cannot be opened, or asked for its length, or read: the next so many times.
struct Unopened {
    left: Arc<AtomicU64>,
    error: i32,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Open,
    Len,
    Read,
}

#[derive(Debug)]
struct Failing(Backend, Way, i32);

impl redb::StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        if matches!(self.1, Way::Len) { Err(io::Error::from_raw_os_error(self.2)) } else { self.0.len() }
    }

    fn read(&self, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(self.2))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

impl Change for Unopened {
    fn journal(&self, opened: io::Result<Option<Backend>>) -> io::Result<Option<Backend>> {
        let less = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return opened;
        }
        match self.way {
            Way::Open => Err(io::Error::from_raw_os_error(self.error)),
            way @ (Way::Len | Way::Read) => Ok(opened?.map(|file| Backend::new(Failing(file, way, self.error)))),
        }
    }
}

/// A journal that cannot be opened or read now has lost nothing: it is tried again; then the store waits for it, and is whole
/// when it can be. Nobody sets it aside.
#[cfg(unix)]
#[test]
fn a_journal_that_cannot_be_opened_for_now_is_waited_for() {
    const EIO: i32 = 5;
    const EACCES: i32 = 13;
    const ENODEV: i32 = 19;
    const EMFILE: i32 = 24;
    let cases = [(Way::Open, EMFILE), (Way::Open, EACCES), (Way::Open, EIO), (Way::Len, EIO), (Way::Read, ENODEV)];
    let mut seed = Seed(3);
    for (number, (way, error)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let left = Arc::new(AtomicU64::new(0));
        let open = || {
            let change = Unopened { left: Arc::clone(&left), error, way };
            let medium = Changed(Folder::open(dir.path()).unwrap(), change);
            JournaledStore::open_on(medium, &options(1 << 20), 0, Folding::Within).unwrap()
        };
        let (mut store, _) = open();
        let mut model = Model { small: true, with_keyed: true, ..Model::default() };
        for _ in 0..10 {
            store.commit(&model.step(&mut seed)).unwrap();
        }
        drop(store);
        if error != EACCES {
            left.store(2, Ordering::Relaxed);
            let (store, recovered) = open();
            same(&model, &store, &recovered, &mut seed, &format!("{way:?}, {error}: for a moment"));
            drop(store);
        }
        let before = std::fs::read(dir.path().join("forebay.journal")).unwrap();
        left.store(u64::MAX, Ordering::Relaxed);
        let (mut store, recovered) = open();
        assert!(recovered.lost[0].contains("the journal of the store"), "{way:?}, {error}: {:?}", recovered.lost);
        assert!(
            recovered.sessions.is_empty() && recovered.retained.is_empty(),
            "what may not hold any more is not served"
        );
        assert!(store.commit(&model.clone().step(&mut seed)).is_err(), "{way:?}, {error}");
        assert!(store.gauge().trouble().is_some());
        left.store(0, Ordering::Relaxed);
        // The time between two tries is the store's own; one case shows that it makes them.
        while number == 0 && !store.outdated() {
            store.refresh(Time(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(store);
        assert_eq!(std::fs::read(dir.path().join("forebay.journal")).unwrap(), before, "{way:?}, {error}");
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("damaged")), "{way:?}, {error}");
        let (store, recovered) = open();
        assert_eq!(recovered.lost, [""; 0], "{way:?}, {error}: later");
        same(&model, &store, &recovered, &mut seed, &format!("{way:?}, {error}: later"));
    }
}

/// A store's file that is gone, with the note of how far it had come: what the journal holds still is of sessions before, so no
/// number is given again, and nothing that they had comes back under one.
#[test]
fn a_file_that_is_gone_leaves_no_number_to_be_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let folder = Folder::open(dir.path()).unwrap();
        JournaledStore::open_on(folder, &options(1 << 20), 0, Folding::Within).unwrap()
    };
    let clock = ClockMark { time: Time(1), wall_ms: 1 };
    let commit = |store: &mut JournaledStore, no: u64, enqueued: Vec<QueueEntry>| {
        let queued_bytes = enqueued.iter().map(|entry| entry.message.size() as u64).sum();
        let queued = enqueued.len() as u64;
        let ledger = Ledger { accepted: queued, ..Ledger::default() };
        let state = Some(QueueState { next_seq: queued, queued, queued_bytes, ledger, ..QueueState::default() });
        let record = Some(SessionRecord {
            client_id: format!("client {no}"),
            protocol: 5,
            expiry_s: 60,
            disconnected_at: None,
            will: None,
        });
        let delta = SessionDelta { no: SessionNo(no), record, enqueued, state, ..SessionDelta::default() };
        store.commit(&Batch { sessions: vec![delta], clock, ..Batch::default() }).unwrap();
    };
    let (mut store, _) = open();
    for no in 1..=3 {
        commit(&mut store, no, vec![model::entry(0, &model::message("t", b"of another"))]);
    }
    store.fold().unwrap();
    let ended = SessionDelta { no: SessionNo(1), ended: true, ..SessionDelta::default() };
    store.commit(&Batch { sessions: vec![ended], clock, ..Batch::default() }).unwrap();
    drop(store);
    for file in ["forebay.redb", "forebay.lock"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    for round in 0..3 {
        let (mut store, recovered) = open();
        assert!(recovered.last_session >= 3, "{}", recovered.last_session);
        let found = recovered.sessions.iter().map(|session| session.no.0).collect::<Vec<_>>();
        assert_eq!(found, (4..4 + round).collect::<Vec<_>>(), "round {round}");
        let no = recovered.last_session + 1;
        commit(&mut store, no, Vec::new());
        let page = store.reader().page(SessionNo(no), 0, 10, 1000).unwrap();
        assert_eq!(page.len(), 0, "round {round}");
    }
}

/// It could not read the file when it began, so its first session has the number of a session in it; and then it begins anew with
/// what can be had of that file.
#[test]
fn a_broker_that_could_not_read_its_file_mixes_no_sessions_up() {
    let dir = tempfile::tempdir().unwrap();
    let record = |client_id: &str| SessionRecord {
        client_id: client_id.to_owned(),
        protocol: 5,
        expiry_s: 60,
        disconnected_at: None,
        will: None,
    };
    let (mut store, _) = JournaledStore::open(dir.path(), &options(0), 0).unwrap();
    let delta = SessionDelta { no: SessionNo(1), record: Some(record("before")), ..SessionDelta::default() };
    store.commit(&Batch { sessions: vec![delta], ..Batch::default() }).unwrap();
    drop(store);
    let path = dir.path().join("forebay.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let subscription = StoredSubscription {
        filter: "a".to_owned(),
        qos: 1,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
        retained_behind: None,
    };
    let session = RecoveredSession {
        no: SessionNo(1),
        record: Some(record("since")),
        subscriptions: vec![subscription],
        ..RecoveredSession::default()
    };
    let known = Known { sessions: vec![session], retained: Vec::new() };
    let (store, recovered) = JournaledStore::open_knowing(dir.path(), &options(0), 0, known).unwrap();
    let whose = |session: &RecoveredSession| (session.no.0, session.record.clone().unwrap().client_id);
    let found: Vec<_> = recovered.sessions.iter().map(whose).collect();
    assert_eq!(found, [(1, "before".to_owned()), (2, "since".to_owned())]);
    assert!(recovered.sessions[0].subscriptions.is_empty());
    assert_eq!((recovered.sessions[1].subscriptions.len(), recovered.last_session), (1, 2));
    drop(store);
    assert_eq!(tool::verify(dir.path()).unwrap().wrong, [""; 0]);
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
    let aside = dir.path().join("forebay-damaged-19700101-000000.journal");
    assert!(!aside.exists());
    let (store, recovered) = open();
    assert_eq!(recovered.lost.len(), 1, "{:?}", recovered.lost);
    assert!(recovered.lost[0].contains("of the journal are missing"), "{:?}", recovered.lost);
    assert!(aside.exists(), "its blocks are not written again");
    let last = model.sessions.keys().next_back().unwrap();
    let found = recovered.sessions.iter().find(|session| session.no == SessionNo(*last)).unwrap();
    assert_eq!(found.state.next_seq, model.sessions[last].state.next_seq, "what came last is known");
    // It ends as a crash does: what was in the journal that was set aside is in redb.
    std::mem::forget(store);
    let copy = tempfile::tempdir().unwrap();
    for name in ["forebay.redb", "forebay.journal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let (_, again) = JournaledStore::open(copy.path(), &options(1 << 20), 0).unwrap();
    assert_eq!(again.lost, [""; 0], "it is said once");
    let states = |found: &Recovered| -> Vec<_> {
        found.sessions.iter().map(|session| (session.no, session.state.next_seq)).collect()
    };
    assert_eq!(states(&again), states(&recovered));
}

/// The content of one record is read wrong, once.
struct MisreadOnce(Arc<AtomicBool>);

impl Change for MisreadOnce {
    fn journal(&self, opened: io::Result<Option<Backend>>) -> io::Result<Option<Backend>> {
        let done = Arc::clone(&self.0);
        let misread = move |file: &Backend, offset: u64, out: &mut [u8]| {
            file.read(offset, out)?;
            // Behind the head of a record.
            if offset % 4096 == 20 && !out.is_empty() && !done.swap(true, Ordering::Relaxed) {
                out[0] ^= 1;
            }
            Ok(())
        };
        Ok(opened?.map(|file| Backend::new(Reading(file, misread))))
    }
}

#[test]
fn a_record_that_is_read_wrong_once_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model { small: true, ..Model::default() };
    let (mut store, _) = JournaledStore::open(dir.path(), &options(1 << 20), 0).unwrap();
    let mut seed = Seed(5);
    for _ in 0..10 {
        store.commit(&model.step(&mut seed)).unwrap();
    }
    // It ends as a crash does.
    std::mem::forget(store);
    let copy = tempfile::tempdir().unwrap();
    for name in ["forebay.redb", "forebay.journal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let misread = Arc::new(AtomicBool::new(false));
    let medium = Changed(Folder::open(copy.path()).unwrap(), MisreadOnce(Arc::clone(&misread)));
    let (_store, recovered) = JournaledStore::open_on(medium, &options(1 << 20), 0, Folding::Within).unwrap();
    assert!(misread.load(Ordering::Relaxed));
    assert_eq!(recovered.lost, Vec::<String>::new());
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
