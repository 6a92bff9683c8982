//! A store that cannot be opened to be written when the broker starts: the file system is read-only, the disk is full or
//! fails, the file is somebody else's, or its journal cannot be read. What can be read is served; commits fail until the cause has
//! gone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redb::backends::InMemoryBackend;
use ::redb::{Builder, Database, StorageBackend};

use super::Recovered;
use super::journal;
use super::medium::Backend;
use super::recover::{self, Opened, open_and_repair, salvaged};
use super::redb::{Fault, Inner, contain};
use super::rows::Mark;
use super::shared_memory::SharedMemory;
use super::tool::Untouched;

/// Between two tries to open it: so many times what the last one took, within these.
const PAUSE_TIMES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A damaged file up to this size is recovered into memory, to serve what was in it.
const IN_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why nothing is written, and what is served meanwhile.
pub(super) struct Held {
    pub(super) why: String,
    serves: Serves,
    wall_ms: u64,
    next_try: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// What the file holds, as of this commit.
    File(u64),
    /// A part of it, or nothing.
    Less,
    /// Nothing until the journal can be read: what the file holds may have been delivered, replaced or ended since.
    NothingBeforeJournal,
}

/// What became of a try to open it.
pub(super) enum Tried {
    /// It goes on with what the broker has.
    Open(Database, Mark),
    /// It can be opened, and it is not what the broker has.
    Outdated,
    /// Not yet.
    Held,
}

impl Held {
    /// What can be served of it. `None` for the database: nothing can be read.
    pub(super) fn open(inner: &Inner, fault: &Fault, wall_ms: u64) -> (Self, Option<Database>, Recovered, Mark) {
        let why = format!("the store {} cannot be written: {fault}", inner.medium.name());
        let (read, mut serves) = match contain(|| read_only(inner)) {
            Err(fault) if fault.is_damage() => (contain(|| in_memory(inner, &fault)), Serves::Less),
            read => (read, Serves::Less),
        };
        let said = format!("{why}; what must be durable is refused until it can be");
        let held = |serves| Self { why, serves, wall_ms, next_try: Instant::now() + PAUSE };
        match read {
            Ok((database, mut recovered, mark, whole)) => {
                if whole && recovered.lost.is_empty() {
                    serves = Serves::File(mark.commit);
                }
                recovered.lost.insert(0, said);
                (held(serves), Some(database), recovered, mark)
            }
            Err(fault) => {
                let lost = vec![said, format!("nothing of it can be read meanwhile: {fault}")];
                (held(serves), None, Recovered { lost, ..Recovered::default() }, Mark::default())
            }
        }
    }

    /// The journal cannot be read.
    pub(super) fn for_journal(inner: &Inner, error: &io::Error, wall_ms: u64) -> (Self, Recovered) {
        let why = format!("the journal of the store {} cannot be read: {error}", inner.medium.name());
        let said =
            format!("{why}; nothing of the store is served, and what must be durable is refused, until it can be");
        let serves = Serves::NothingBeforeJournal;
        let held = Self { why, serves, wall_ms, next_try: Instant::now() + PAUSE };
        (held, Recovered { lost: vec![said], ..Recovered::default() })
    }

    /// Opens it as a start does, if it is time to.
    pub(super) fn try_again(&mut self, inner: &Inner) -> Result<Tried, Fault> {
        if Instant::now() < self.next_try {
            return Ok(Tried::Held);
        }
        let begun = Instant::now();
        let opened = self.open_again(inner);
        self.next_try = Instant::now() + (begun.elapsed() * PAUSE_TIMES).clamp(PAUSE, PAUSE_MAX);
        let (database, recovered, mark) = opened?;
        if self.serves == Serves::File(mark.commit) && recovered.lost.is_empty() {
            return Ok(Tried::Open(database, mark));
        }
        for line in &recovered.lost {
            tracing::error!("{line}");
        }
        Ok(Tried::Outdated)
    }

    fn open_again(&self, inner: &Inner) -> Result<Opened, Fault> {
        if self.serves == Serves::NothingBeforeJournal {
            // Whose it is does not matter here.
            journal::read_pending(inner.medium.as_ref(), &Mark::default())?;
        }
        recover::open(inner, self.wall_ms)
    }
}

type Read = (Database, Recovered, Mark, bool);

/// The file as it is: what redb would change in it stays in memory.
fn read_only(inner: &Inner) -> Result<Read, Fault> {
    let backend = Backend::new(Untouched::new(inner.medium.open_to_read()?)?);
    recover::clear_unfinished(&backend)?;
    let database = Builder::new().set_cache_size(inner.options.cache_bytes).create_with_backend(backend)?;
    let (database, recovered, mark) = open_and_repair(inner, database, Vec::new())?;
    Ok((database, recovered, mark, true))
}

/// What can be had of a damaged file, in memory.
fn in_memory(inner: &Inner, damage: &Fault) -> Result<Read, Fault> {
    let old = inner.medium.open_to_read()?;
    if old.len()? > IN_MEMORY_BYTES_MAX {
        return Err(Fault::Panicked(format!("{damage}, and it is too large to be recovered into memory")));
    }
    let memory = Arc::new(InMemoryBackend::new());
    let fresh = || Ok(Builder::new().create_with_backend(SharedMemory(Arc::clone(&memory)))?);
    let lost = vec![format!("it is damaged ({damage}); what could be read of it is served from memory")];
    let (database, recovered, mark): Opened = salvaged(inner, &Arc::new(old), lost, &fresh)?;
    Ok((database, recovered, mark, false))
}
