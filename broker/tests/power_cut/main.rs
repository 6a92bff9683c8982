//! The real store on a disk that loses its power at any moment: it then holds the last commit that was acknowledged, or the
//! one that was under way, whole, and nothing else. `FOREBAY_SEEDS=n` runs more seeds, `FOREBAY_SEED=s` one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod disk;
#[path = "../model/mod.rs"]
mod model;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use disk::{Disk, PAGE, Trouble, Which};
use forebay::message::Time;
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::{Batch, ClockMark, Recovered, SessionDelta, SessionNo, SessionRecord, Store, StoreError};
use model::{Model, Seed, merge, message_line, read_all};

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, cache_bytes: 1024 * 1024, ..StoreOptions::default() }
}

/// What a run has met, so that it can be seen that it met everything.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    cuts_in_commit: u64,
    /// After a commit was acknowledged, while the journal was folded.
    cuts_in_fold: u64,
    cuts_in_open: u64,
    /// The commit under way was there after the cut.
    made_it: u64,
    syncs_failed: u64,
    writes_failed: u64,
    reads_failed: u64,
    /// A commit failed, and the store knew that nothing of it was there.
    left_nothing: u64,
    /// The program ended with a commit or an open that had failed, and the system's cache was what the next one saw.
    restarts: u64,
}

impl Met {
    fn add(&mut self, other: Self) {
        self.cuts_in_commit += other.cuts_in_commit;
        self.cuts_in_fold += other.cuts_in_fold;
        self.cuts_in_open += other.cuts_in_open;
        self.made_it += other.made_it;
        self.syncs_failed += other.syncs_failed;
        self.writes_failed += other.writes_failed;
        self.reads_failed += other.reads_failed;
        self.restarts += other.restarts;
        self.left_nothing += other.left_nothing;
    }
}

struct Run {
    /// Size of the journal; 0: a commit goes to the store's file.
    journal: u64,
    seed: Seed,
    disk: Disk,
    /// The last commit that was acknowledged.
    safe: Model,
    /// The one that was under way, if one was.
    under_way: Option<Model>,
    met: Met,
}

impl Run {
    fn new(seed: u64) -> Self {
        let safe = Model { small: true, with_keyed: true, ..Model::default() };
        let disk = Disk::default();
        disk.set_sector([512, 4096][(seed / 4 % 2) as usize]);
        let journal = [0, 64, 256, 256][(seed % 4) as usize] * 1024;
        Self { journal, seed: Seed(seed), disk, safe, under_way: None, met: Met::default() }
    }

    /// Opens the store; the power may go meanwhile, and again, or the device may fail.
    fn open(&mut self) -> Box<dyn Store> {
        loop {
            self.disk.set_large(self.seed.one_in(3));
            let trouble = match self.seed.below(8) {
                0..3 => Some(Trouble::Cut),
                3 => Some(Trouble::SyncFails),
                4 => Some(Trouble::ReadFails),
                _ => None,
            };
            if let Some(trouble) = trouble {
                self.disk.expect(1 + self.seed.below(12), trouble, &mut self.seed);
            }
            if self.seed.one_in(10) {
                // Somebody has changed the setting.
                self.journal = [0, 64, 256][self.seed.below(3) as usize] * 1024;
            }
            let options = StoreOptions { journal_bytes: self.journal, ..options() };
            let opened = JournaledStore::open_on(self.disk.clone(), &options, 0, Folding::Within);
            let opened = opened.map(|(store, recovered)| (Box::new(store) as Box<dyn Store>, recovered));
            if !self.disk.is_off() {
                let came = self.disk.calm();
                self.met.reads_failed += u64::from(came && trouble == Some(Trouble::ReadFails));
                let (store, recovered) = match opened {
                    Err(error) if trouble == Some(Trouble::SyncFails) && came => {
                        assert!(matches!(error, StoreError::Io { .. }), "{error}");
                        self.met.restarts += 1;
                        continue;
                    }
                    opened => opened.unwrap(),
                };
                assert!(!self.disk.was_set_aside(), "set aside: {:?}", recovered.lost);
                self.compare(&*store, &recovered);
                return store;
            }
            self.met.cuts_in_open += 1;
            drop(opened);
            self.disk = self.disk.power_on(&mut self.seed);
        }
    }

    /// One of the two, and from now on that one.
    fn compare(&mut self, store: &dyn Store, recovered: &Recovered) {
        let reader = store.reader();
        let mut pages = Seed(self.seed.next());
        let mut differs = |model: &Model| model.differs(recovered, reader.as_ref(), &mut pages);
        let Some(from_safe) = differs(&self.safe) else {
            self.under_way = None;
            return;
        };
        let Some(under_way) = self.under_way.take() else { panic!("not what was acknowledged: {from_safe}") };
        if let Some(from_under_way) = differs(&under_way) {
            panic!("neither what was acknowledged: {from_safe}\nnor what was under way: {from_under_way}");
        }
        self.met.made_it += 1;
        self.safe = under_way;
    }

    /// Commits until the power goes.
    fn commit_until_cut(&mut self, store: &mut dyn Store) {
        let trouble = if self.seed.one_in(3) { Trouble::CutInSync } else { Trouble::Cut };
        self.disk.expect(1 + self.seed.below(40), trouble, &mut self.seed);
        for _ in 0..50 {
            let mut next = self.safe.clone();
            let batch = next.step(&mut self.seed);
            let committed = store.commit(&batch);
            if self.disk.is_off() {
                // An acknowledged commit is synced: the power can only have gone after it, when the journal was folded.
                match committed {
                    Ok(_) => {
                        assert!(self.journal > 0, "acknowledged without power");
                        self.safe = next;
                        self.met.cuts_in_fold += 1;
                    }
                    Err(_) => self.under_way = Some(next),
                }
                self.met.cuts_in_commit += 1;
                return;
            }
            committed.unwrap();
            self.safe = next;
        }
        panic!("the power never went");
    }

    /// Commits on a device that fails once; what failed is given again with what came since. False: the program ended
    /// before it was.
    fn commit_with_trouble(&mut self, store: &mut dyn Store) -> bool {
        let trouble = [Trouble::SyncFails, Trouble::NoRoom, Trouble::ReadFails][self.seed.below(3) as usize];
        self.disk.expect(1 + self.seed.below(12), trouble, &mut self.seed);
        let mut failed: Option<Batch> = None;
        let mut next = self.safe.clone();
        for _ in 0..1 + self.seed.below(4) {
            let mut batch = next.step(&mut self.seed);
            if let Some(failed) = failed.take() {
                batch = merge(failed, batch, &next);
            }
            match store.commit(&batch) {
                Ok(_) => self.safe = next.clone(),
                Err(error) => {
                    let fits = match trouble {
                        Trouble::NoRoom => matches!(error, StoreError::Full { .. }),
                        Trouble::SyncFails | Trouble::Cut | Trouble::CutInSync => {
                            matches!(error, StoreError::Io { .. })
                        }
                        // It is read again.
                        Trouble::ReadFails => false,
                    };
                    assert!(fits, "{trouble:?}: {error}");
                    failed = Some(batch);
                }
            }
        }
        let came = self.disk.calm();
        self.met.syncs_failed += u64::from(came && trouble == Trouble::SyncFails);
        self.met.writes_failed += u64::from(came && trouble == Trouble::NoRoom);
        self.met.reads_failed += u64::from(came && trouble == Trouble::ReadFails);
        let Some(failed) = failed else { return true };
        if self.seed.one_in(2) {
            self.met.restarts += 1;
            // What the store says that it does not have never comes back, over a power cut either.
            self.under_way = (!store.left_nothing()).then_some(next);
            self.met.left_nothing += u64::from(self.under_way.is_none());
            if self.seed.one_in(2) {
                self.disk = self.disk.power_on(&mut self.seed);
            }
            return false;
        }
        store.commit(&failed).expect("the device is well again");
        self.safe = next;
        true
    }

    fn play(&mut self) {
        for _ in 0..3 {
            let mut store = self.open();
            if self.seed.one_in(2) && !self.commit_with_trouble(&mut *store) {
                drop(store);
                store = self.open();
            }
            if self.seed.one_in(6) {
                // A stop without a cut.
                drop(store);
                continue;
            }
            self.commit_until_cut(&mut *store);
            drop(store);
            self.disk = self.disk.power_on(&mut self.seed);
        }
        drop(self.open());
    }
}

/// `None`: it failed, and said how to see it again.
fn run(seed: u64) -> Option<Met> {
    let mut run = Run::new(seed);
    let passed = catch_unwind(AssertUnwindSafe(|| run.play())).is_ok();
    if !passed {
        eprintln!("again: FOREBAY_SEED={seed} cargo test -p forebay --test power_cut");
    }
    passed.then_some(run.met)
}

/// All that a store has, but for what it says it lost.
fn contents(store: &RedbStore, recovered: &Recovered) -> String {
    let reader = store.reader();
    let mut all = format!("{:?} {:?} {}\n", recovered.clock, recovered.ended_ledger, recovered.last_session);
    for message in &recovered.retained {
        writeln!(all, "{}", message_line(message)).unwrap();
    }
    for session in &recovered.sessions {
        let queue = read_all(reader.as_ref(), session.no.0, &session.state, &mut Seed(1)).unwrap();
        writeln!(all, "{session:?}\n{queue:#?}").unwrap();
    }
    all
}

/// A store of some commits that was closed: its file.
fn closed(seed: &mut Seed) -> (Model, Vec<u8>) {
    let healthy = Disk::default();
    let mut model = Model { small: true, with_keyed: true, ..Model::default() };
    let (mut store, _) = RedbStore::open_on(healthy.clone(), &options(), 0).unwrap();
    for _ in 0..12 {
        store.commit(&model.step(seed)).unwrap();
    }
    drop(store);
    (model, healthy.bytes())
}

/// A damaged store is recovered, and the power goes meanwhile, and again.
fn recover_with_cuts(number: u64) -> u64 {
    let mut seed = Seed(number);
    let (_, mut bytes) = closed(&mut seed);
    // Without its beginning redb does not open it, and most of the rest can be read.
    bytes[0] ^= 1;
    for _ in 0..seed.below(3) {
        let page = 1 + seed.below(bytes.len() as u64 / 4096 - 1) as usize;
        bytes[page * 4096..][..4096].fill(0);
    }
    let (store, recovered) = RedbStore::open_on(Disk::of(bytes.clone()), &options(), 0).unwrap();
    let wanted = contents(&store, &recovered);
    let mut disk = Disk::of(bytes);
    let mut cuts = 0;
    loop {
        if cuts < 4 {
            disk.expect(1 + seed.below(60), Trouble::Cut, &mut seed);
        }
        let opened = RedbStore::open_on(disk.clone(), &options(), 0);
        if !disk.is_off() {
            disk.calm();
            let (store, recovered) = opened.unwrap();

            assert_eq!(contents(&store, &recovered), wanted);
            return cuts;
        }
        cuts += 1;
        drop(opened);
        disk = disk.power_on(&mut seed);
    }
}

#[test]
fn a_recovery_that_is_cut_off_loses_no_more_than_one_that_is_not() {
    if let Some(seed) = variable("FOREBAY_SEED") {
        recover_with_cuts(seed);
        return;
    }
    let mut cuts = 0;
    for seed in 0..variable("FOREBAY_SEEDS").unwrap_or(1000) / 5 {
        let run = catch_unwind(|| recover_with_cuts(seed));
        cuts += run
            .unwrap_or_else(|_| panic!("again: FOREBAY_SEED={seed} cargo test -p forebay --test power_cut recovery"));
    }
    eprintln!("{cuts} cuts while a damaged store was recovered");
    assert!(cuts > 0);
}

/// The record that begins at a page of a journal.
fn record_at(journal: &[u8], page: u64) -> Option<u64> {
    let bytes = &journal[(page * PAGE) as usize..];
    bytes.starts_with(b"FJR1").then(|| u64::from_le_bytes(bytes[4..12].try_into().unwrap()))
}

/// Each commit is a record of one page, about a session of its own. Pages of the journal cannot be read, whenever it is tried: what
/// is on the others comes, and what is on those is said.
fn journal_with_bad_pages(number: u64) {
    let mut seed = Seed(number);
    let disk = Disk::default();
    let options = StoreOptions { journal_bytes: 256 * 1024, ..options() };
    let open = |disk: &Disk| JournaledStore::open_on(disk.clone(), &options, 0, Folding::Within).unwrap();
    let (mut store, _) = open(&disk);
    let commits = 1 + seed.below(60);
    for no in 1..=commits {
        let record = SessionRecord {
            client_id: format!("client {no}"),
            protocol: 5,
            expiry_s: 60,
            disconnected_at: None,
            will: None,
        };
        let delta = SessionDelta { no: SessionNo(no), record: Some(record), ..SessionDelta::default() };
        let clock = ClockMark { time: Time(no), wall_ms: no };
        store.commit(&Batch { sessions: vec![delta], clock, ..Batch::default() }).unwrap();
    }
    let folded = store.upkeep().unwrap().journal().folded_record;
    let disk = disk.killed();
    drop(store);
    let journal = disk.journal_bytes();
    let mut missing = Vec::new();
    for _ in 0..1 + seed.below(3) {
        // The first page too, and mostly one that is in use.
        let all = seed.one_in(4);
        let page = seed.below(if all { journal.len() as u64 / PAGE } else { commits.min(63) + 1 });
        disk.spoil(Which::Journal, page);
        missing.extend(record_at(&journal, page).filter(|record| *record > folded));
    }
    let (_store, recovered) = open(&disk);
    let found: Vec<u64> = recovered.sessions.iter().map(|session| session.no.0).collect();
    let wanted: Vec<u64> = (1..=commits).filter(|no| !missing.contains(no)).collect();
    assert_eq!(found, wanted, "{:?}", recovered.lost);
    assert!(!recovered.lost.is_empty());
}

/// Pages of the store's file cannot be read, whenever it is tried: as much comes as when they were zeros.
fn store_with_bad_pages(number: u64) {
    let mut seed = Seed(number);
    let (model, mut bytes) = closed(&mut seed);
    let bad = Disk::of(bytes.clone());
    for _ in 0..1 + seed.below(2) {
        let page = seed.below(bytes.len() as u64 / PAGE);
        bytes[(page * PAGE) as usize..][..PAGE as usize].fill(0);
        bad.spoil(Which::Store, page);
    }
    let (store, recovered) = RedbStore::open_on(Disk::of(bytes), &options(), 0).unwrap();
    let wanted = contents(&store, &recovered);
    let (mut store, recovered) = RedbStore::open_on(bad, &options(), 0).unwrap();
    assert_eq!(contents(&store, &recovered), wanted, "{:?}", recovered.lost);
    store.commit(&Batch { clock: model.clock, ..Batch::default() }).unwrap();
}

#[test]
fn pages_that_stay_unreadable_hide_no_other() {
    if let Some(seed) = variable("FOREBAY_SEED") {
        journal_with_bad_pages(seed);
        store_with_bad_pages(seed);
        return;
    }
    // Each try of such a page takes its time.
    for seed in 0..variable("FOREBAY_SEEDS").unwrap_or(1000) / 50 {
        let run = catch_unwind(|| {
            journal_with_bad_pages(seed);
            store_with_bad_pages(seed);
        });
        run.unwrap_or_else(|_| panic!("again: FOREBAY_SEED={seed} cargo test -p forebay --test power_cut unreadable"));
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn a_power_cut_leaves_the_last_acknowledged_commit() {
    if let Some(seed) = variable("FOREBAY_SEED") {
        assert!(run(seed).is_some(), "seed {seed}");
        return;
    }
    let seeds = variable("FOREBAY_SEEDS").unwrap_or(1000);
    let mut met = Met::default();
    for seed in 0..seeds {
        met.add(run(seed).unwrap_or_else(|| panic!("seed {seed}")));
    }
    eprintln!("{seeds} seeds: {met:?}");
    // It proves nothing unless all of it happened.
    let Met { cuts_in_commit, cuts_in_open, made_it, syncs_failed, writes_failed, reads_failed, .. } = met;
    for count in [met.cuts_in_fold, met.left_nothing, met.restarts] {
        assert!(count > seeds / 50, "{met:?}");
    }
    for count in [cuts_in_commit, cuts_in_open, made_it, syncs_failed, writes_failed, reads_failed] {
        assert!(count > seeds / 20, "{met:?}");
    }
}
