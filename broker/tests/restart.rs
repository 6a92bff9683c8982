//! What a start costs whose store was not closed: it must not grow with what is queued.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod medium;
mod model;
#[path = "medium/reading.rs"]
mod reading;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay::message::Time;
use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::medium::{Backend, Folder};
use forebay::store::redb::StoreOptions;
use forebay::store::space::Space;
use forebay::store::{
    Batch, ClockMark, Ledger, QueueState, Recovered, SessionDelta, SessionNo, SessionRecord, Store, tool,
};
use medium::{Change, Changed, Opened};
use model::{Seed, entry, line, message, read_all};
use reading::Reading;
use redb::StorageBackend;

const JOURNAL: u64 = 1024 * 1024;
/// Messages of a commit: few enough for the journal to take it.
const BATCH: u64 = 20;

fn options(journal_bytes: u64) -> StoreOptions {
    StoreOptions { min_free_bytes: 0, cache_bytes: 256 * 1024, journal_bytes, ..StoreOptions::default() }
}

/// A folder whose file is large, or small; what is read of it is counted.
#[derive(Clone, Default)]
struct Counted {
    small: bool,
    read: Arc<AtomicU64>,
}

impl Change for Counted {
    fn file(&self, _: Opened, file: Backend) -> Backend {
        let read = Arc::clone(&self.read);
        Backend::new(Reading(file, move |file: &Backend, offset, out: &mut [u8]| {
            read.fetch_add(out.len() as u64, Ordering::Relaxed);
            file.read(offset, out)
        }))
    }

    fn space(&self, space: Space) -> Space {
        let file = if self.small { space.file } else { u64::MAX / 4 };
        Space { free: u64::MAX / 4, file }
    }
}

fn open(dir: &Path, change: &Counted, journal: u64, folding: Folding) -> (JournaledStore, Recovered) {
    let medium = Changed(Folder::open(dir).unwrap(), change.clone());
    JournaledStore::open_on(medium, &options(journal), 0, folding).unwrap()
}

/// The line of a message's entry, as the model has it.
fn queued(seq: u64) -> forebay::store::QueueEntry {
    entry(seq, &message("a/topic", format!("{seq:01000}").as_bytes()))
}

/// Commits messages for one who is away, and ends as a crash does. The files are copied: this process has the others.
fn crash(change: &Counted, journal: u64, messages: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path(), change, journal, Folding::Within);
    for first in (0..messages).step_by(BATCH as usize) {
        let next = first + BATCH;
        let record = SessionRecord {
            client_id: "away".to_owned(),
            protocol: 5,
            expiry_s: u32::MAX,
            disconnected_at: Some(Time(1)),
            will: None,
        };
        let state = QueueState {
            next_seq: next,
            queued: next,
            queued_bytes: queued(0).message.size() as u64 * next,
            ledger: Ledger { accepted: next, ..Ledger::default() },
            ..QueueState::default()
        };
        let delta = SessionDelta {
            no: SessionNo(1),
            record: (first == 0).then_some(record),
            enqueued: (first..next).map(queued).collect(),
            state: Some(state),
            ..SessionDelta::default()
        };
        let clock = ClockMark { time: Time(next * 100), wall_ms: 1_700_000_000_000 };
        store.commit(&Batch { sessions: vec![delta], clock, ..Batch::default() }).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    for name in ["forebay.redb", "forebay.journal"] {
        if dir.path().join(name).exists() {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

/// What a start reads of the file, and how often it reads all of it.
fn start(dir: &Path, change: &Counted, journal: u64, messages: u64) -> (u64, u64) {
    change.read.store(0, Ordering::Relaxed);
    let (store, recovered) = open(dir, change, journal, Folding::Within);
    let read = change.read.load(Ordering::Relaxed);
    assert_eq!(recovered.lost, [""; 0]);
    let state = &recovered.sessions[0].state;
    let found = read_all(store.reader().as_ref(), 1, state, &mut Seed(1)).unwrap();
    assert!(found == (0..messages).map(|seq| line(&queued(seq))).collect::<Vec<_>>(), "{} found", found.len());
    let walks = store.gauge().walks();
    (read, walks)
}

#[test]
fn a_start_after_a_crash_does_not_read_what_is_queued() {
    let change = Counted::default();
    let [few, many] = [1_000, 8_000].map(|messages| {
        let dir = crash(&change, JOURNAL, messages);
        let file = std::fs::metadata(dir.path().join("forebay.redb")).unwrap().len();
        let (read, walks) = start(dir.path(), &change, JOURNAL, messages);
        assert_eq!(walks, 0, "{messages} messages: all of the file was read");
        assert_eq!(tool::verify(dir.path()).unwrap().wrong, [""; 0]);
        (file, read)
    });
    eprintln!("bytes of the file, and read of it: {few:?}, {many:?}");
    assert!(many.0 > few.0 * 5, "{many:?}, {few:?}");
    // With debug assertions redb reads the file at a start, to know better than the commit which pages are in use.
    if !cfg!(debug_assertions) {
        assert!(many.1 < few.1 + many.0 / 100, "{many:?}, {few:?}");
    }
}

/// What is not worth a second sync: a file that every start reads whole, and one that each commit goes to.
#[test]
fn a_file_is_read_whole_where_that_is_cheap_or_its_commits_would_not_be() {
    let small = Counted { small: true, ..Counted::default() };
    for (change, journal) in [(&small, JOURNAL), (&Counted::default(), 0)] {
        let dir = crash(change, journal, 1_000);
        assert_eq!(start(dir.path(), change, journal, 1_000).1, 1, "a journal of {journal} bytes");
    }
}
