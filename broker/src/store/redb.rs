//! The store over redb: one file, one writer, readers beside it.

// redb's errors are non-exhaustive: whatever is not told apart here is an error of the device.
#![allow(clippy::wildcard_enum_match_arm)]

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::redb::{Builder, Database, DatabaseError, Durability};
use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};

use super::apply::{Applied, apply};
use super::medium::{Folder, Medium};
use super::page::RedbReader;
use super::recover;
use super::rows::{Damage, Mark};
use super::unsynced::Unsynced;
use super::{Batch, Committed, Reader, Recovered, Store, StoreError};
use crate::message::Time;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// The clock must advance by this before the disk is asked again how much room there is …
const SPACE_CHECK_MS: u64 = 1000;
/// … or this much must have been written.
const SPACE_CHECK_BYTES: u64 = 4 * 1024 * 1024;
/// Smaller files are checked whole at every start; larger ones after a crash (redb does) or when they are suspect.
const CHECK_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Damaged rows that are remembered, so that each is said once.
const DAMAGED_ROWS_MAX: usize = 10_000;

/// Limits of the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// What redb may keep in memory of the file.
    pub cache_bytes: usize,
    /// Free room on the disk below which nothing that grows is written: what is left is for acknowledging and
    /// deleting, which need room too.
    pub min_free_bytes: u64,
    /// What rows may take in the file.
    pub max_bytes: u64,
}

/// The least that is left for deleting, whatever is configured: redb copies pages before it changes them, and a file that
/// cannot be made smaller because it cannot grow stays full for ever.
const LEAST_RESERVE: u64 = 1024 * 1024;

impl StoreOptions {
    fn reserve(&self) -> u64 {
        self.min_free_bytes.max(LEAST_RESERVE)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 8 * 1024 * 1024, min_free_bytes: 64 * 1024 * 1024, max_bytes: u64::MAX }
    }
}

/// How full the store is, for whoever decides whether to accept a message. Cheap to read from any thread; as new as the
/// last commit.
#[derive(Debug, Default)]
pub struct Gauge {
    low: AtomicBool,
    live_bytes: AtomicU64,
    room_bytes: AtomicU64,
    damaged_rows: AtomicU64,
}

impl Gauge {
    /// Room is so short that commits are about to be refused: accept no more durable messages.
    #[must_use]
    pub fn low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// What the rows of queues and retained messages take in the file.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Free on the disk, and free inside the file as far as that can be counted on.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.room_bytes.load(Ordering::Relaxed)
    }

    /// Rows that could not be read since the start.
    #[must_use]
    pub fn damaged_rows(&self) -> u64 {
        self.damaged_rows.load(Ordering::Relaxed)
    }
}

/// What went wrong below the store; [`Inner::error`] says it to the outside.
#[derive(Debug)]
pub(super) enum Fault {
    Redb(Box<::redb::Error>),
    Io(io::Error),
    Row(Damage),
    /// What redb says of a file that it was not built for.
    Panicked(String),
    Newer(u32),
    InUse,
    Full {
        free: u64,
        needed: u64,
    },
    /// It failed before and has not been reopened yet.
    Closed,
}

impl Fault {
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Redb(error) => match error.as_ref() {
                ::redb::Error::Io(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// The bytes of the file are wrong, and trying again will not help.
    pub(super) fn is_damage(&self) -> bool {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match self {
            Self::Row(_) | Self::Panicked(_) => true,
            Self::Redb(error) if !matches!(error.as_ref(), ::redb::Error::Io(_)) => matches!(
                error.as_ref(),
                ::redb::Error::Corrupted(_)
                    | ::redb::Error::LockPoisoned(_)
                    | ::redb::Error::UpgradeRequired(_)
                    | ::redb::Error::TableTypeMismatch { .. }
                    | ::redb::Error::TableIsMultimap(_)
                    | ::redb::Error::TableDoesNotExist(_)
                    | ::redb::Error::TypeDefinitionChanged { .. }
            ),
            _ => self.io().is_some_and(|error| matches!(error.kind(), InvalidData | UnexpectedEof)),
        }
    }

    fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        self.io().is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Redb(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Row(damage) => damage.fmt(f),
            Self::Panicked(what) => write!(f, "redb gave up on it: {what}"),
            Self::Newer(version) => write!(f, "format {version}"),
            Self::InUse => f.write_str("in use"),
            Self::Full { .. } => f.write_str("full"),
            Self::Closed => f.write_str("closed after an error"),
        }
    }
}

macro_rules! fault_from_redb {
    ($($error:ident),*) => {$(
        impl From<::redb::$error> for Fault {
            fn from(error: ::redb::$error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        }
    )*};
}

fault_from_redb!(StorageError, TableError, TransactionError, CommitError, CompactionError, SetDurabilityError);

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            error => Self::Redb(Box::new(error.into())),
        }
    }
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        Self::Row(damage)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Calls redb. A file that was changed by something other than redb can make it panic (its documentation says so of a
/// plain open); the panic ends here, as a fault. Whatever it may have left behind is thrown away: after a fault the
/// database is dropped and opened again, and no other state is touched within `f`.
pub(super) fn contain<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CONTAINED.set(outer);
    result.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = what.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Fault::Panicked(what.unwrap_or_else(|| "no reason given".to_owned())))
    })
}

thread_local! {
    /// A panic of this thread would end in [`contain`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics that end as a fault be said as one, not as a crash of the program. For the program's start: the hook
/// is the process's.
pub fn contain_quietly() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if CONTAINED.get() {
            tracing::debug!("{panic}");
        } else {
            before(panic);
        }
    }));
}

/// What the store and its readers share.
pub(super) struct Inner {
    pub(super) medium: Box<dyn Medium>,
    pub(super) options: StoreOptions,
    /// `None` after a failure, until the next commit opens the file again: redb refuses everything after an error of
    /// its file, for good.
    pub(super) database: RwLock<Option<Database>>,
    pub(super) unsynced: Arc<Unsynced>,
    pub(super) gauge: Arc<Gauge>,
    seen_damaged: Mutex<HashSet<(u64, u64)>>,
}

impl Inner {
    /// Nothing is open yet.
    pub(super) fn new(medium: impl Medium, options: &StoreOptions) -> Self {
        Self {
            medium: Box::new(medium),
            options: *options,
            database: RwLock::new(None),
            unsynced: Arc::default(),
            gauge: Arc::default(),
            seen_damaged: Mutex::default(),
        }
    }

    /// The fault as the outside sees it.
    pub(super) fn error(&self, fault: Fault) -> StoreError {
        let path = self.medium.name();
        let needed = self.options.min_free_bytes;
        match fault {
            Fault::Full { free, needed } => StoreError::Full { path, free, needed },
            fault if fault.is_no_room() => {
                let free = self.medium.space().map_or(0, |space| space.free);
                StoreError::Full { path, free, needed }
            }
            Fault::InUse => StoreError::InUse { path },
            Fault::Newer(found) => StoreError::Newer { path, found, known: FORMAT_VERSION },
            fault if fault.is_damage() => StoreError::Damaged { path, detail: fault.to_string() },
            Fault::Io(source) => StoreError::Io { path, source: source.into() },
            Fault::Redb(source) => StoreError::Io { path, source },
            fault => StoreError::Io { path, source: fault.to_string().into() },
        }
    }

    /// After a damaged row or a sync that failed nobody knows what the disk has: the next start will look.
    fn note_suspicion(&self, fault: &Fault) {
        if (fault.is_damage() || self.unsynced.failed())
            && let Err(error) = self.medium.set_suspect(true)
        {
            tracing::warn!(%error, "it could not be noted beside the store that its file must be checked");
        }
    }

    /// A queue row could not be read while the broker runs: it is noted once, and the file is checked at the next start.
    pub(super) fn saw_damaged_row(&self, key: (u64, u64), damage: Damage) {
        let mut seen = self.seen_damaged.lock();
        if seen.len() >= DAMAGED_ROWS_MAX || !seen.insert(key) {
            return;
        }
        self.gauge.damaged_rows.fetch_add(1, Ordering::Relaxed);
        tracing::error!(session = key.0, first = key.1, %damage, "a row of a queue cannot be read; its messages are lost");
        let line = recover::damaged_line("queue", &format!("{}/{}", key.0, key.1), damage, None);
        if let Err(error) = self.medium.damaged_row(&line).and_then(|()| self.medium.set_suspect(true)) {
            tracing::warn!(%error, "the damage could not be noted beside the store");
        }
    }
}

/// Opens redb on the medium. `check` reads the whole file and verifies every checksum in it.
pub(super) fn open_database(inner: &Inner, check: bool) -> Result<Database, Fault> {
    let backend = inner.medium.open()?;
    inner.unsynced.write_again(&backend)?;
    let backend = backend.watched_by(&inner.unsynced);
    let mut builder = Builder::new();
    builder.set_cache_size(inner.options.cache_bytes).set_check_integrity_on_open(check);
    Ok(builder.create_with_backend(backend)?)
}

/// Whether the file is to be checked whole when it is opened.
pub(super) fn wants_check(medium: &dyn Medium) -> bool {
    medium.suspect() || medium.space().is_ok_and(|space| (1..=CHECK_BYTES_MAX).contains(&space.file))
}

/// The store in a redb file.
pub struct RedbStore {
    inner: Arc<Inner>,
    /// As of the last commit that is known to have happened.
    mark: Mark,
    /// The number of the last commit that was reported as done.
    reported: u64,
    /// The highest commit number tried: a number is never used twice, even if it is not known whether it was used.
    tried: u64,
    /// The commit before failed: what it wrote may be there or not.
    uncertain: bool,
    space: SpaceCheck,
}

/// What is known of the room, and how old that is.
#[derive(Clone, Copy, Debug, Default)]
struct SpaceCheck {
    asked_at: Option<Time>,
    written: u64,
    free: u64,
    file: u64,
}

impl RedbStore {
    /// Opens the store of a folder, makes a new one if there is none, and recovers what can be recovered of a damaged
    /// one. `wall_ms` is the wall clock, for the name under which a damaged file is set aside.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`], and [`StoreError::Io`] when the folder cannot be used at all.
    /// Damage is not an error.
    pub fn open(dir: &Path, options: &StoreOptions, wall_ms: u64) -> Result<(Self, Recovered), StoreError> {
        Self::open_on(Folder::open(dir)?, options, wall_ms)
    }

    /// The same on any medium.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_on(medium: impl Medium, options: &StoreOptions, wall_ms: u64) -> Result<(Self, Recovered), StoreError> {
        let inner = Arc::new(Inner::new(medium, options));
        let opened = recover::open(&inner, wall_ms);
        let (database, recovered, mark) = opened.map_err(|fault| {
            inner.note_suspicion(&fault);
            inner.error(fault)
        })?;
        *inner.database.write() = Some(database);
        inner.gauge.live_bytes.store(mark.live_bytes, Ordering::Relaxed);
        let store = Self {
            inner,
            mark,
            reported: mark.commit,
            tried: mark.commit,
            uncertain: false,
            space: SpaceCheck::default(),
        };
        Ok((store, recovered))
    }

    /// How full it is.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.inner.gauge)
    }

    /// Opens the file again after a failure.
    fn reopen(&mut self) -> Result<(), Fault> {
        if self.inner.database.read().is_some() {
            return Ok(());
        }
        let (database, mark) = contain(|| {
            let database = open_database(&self.inner, self.inner.medium.suspect())?;
            let mark = recover::read_mark(&database)?;
            Ok((database, mark))
        })?;
        self.mark = mark;
        self.tried = self.tried.max(mark.commit);
        *self.inner.database.write() = Some(database);
        Ok(())
    }

    /// Throws the database away: after an error redb refuses everything.
    fn give_up(&mut self) {
        self.uncertain = true;
        self.space.asked_at = None;
        let database = self.inner.database.write().take();
        // Its drop talks to the file as well.
        let dropped = contain(|| {
            drop(database);
            Ok(())
        });
        if let Err(fault) = dropped {
            tracing::warn!(%fault, "the store's file could not be closed");
        }
    }

    fn try_commit(&self, batch: &Batch, number: u64) -> Result<Applied, Fault> {
        let database = self.inner.database.read();
        let database = database.as_ref().ok_or(Fault::Closed)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        let applied = apply(&txn, batch, Mark { commit: number, ..self.mark }, self.uncertain)?;
        if applied.grew
            && let Some((free, needed)) = self.refusal(&applied)
        {
            txn.abort()?;
            return Err(Fault::Full { free, needed });
        }
        txn.commit()?;
        Ok(applied)
    }

    /// Why the batch cannot be taken: bytes free, bytes needed. Asked of batches that grow the store only: what
    /// acknowledges and deletes may use the reserve, since it is what makes room.
    fn refusal(&self, applied: &Applied) -> Option<(u64, u64)> {
        let options = &self.inner.options;
        if applied.mark.live_bytes > options.max_bytes {
            return Some((options.max_bytes.saturating_sub(self.mark.live_bytes), applied.added));
        }
        let reserve = options.reserve();
        let needed = reserve.saturating_add(applied.added);
        let room = self.room();
        if room < needed || self.space.free < reserve / 4 {
            return Some((self.space.free, needed));
        }
        None
    }

    /// Free on the disk, and half of what the file has and no row needs: deleted rows leave their pages to the next
    /// ones, but redb copies pages before it changes them, so not all of that can be had.
    fn room(&self) -> u64 {
        let reusable = self.space.file.saturating_sub(self.mark.live_bytes) / 2;
        // What was written since the system was asked may have come from either.
        self.space.free.saturating_sub(self.space.written).saturating_add(reusable)
    }

    fn look_at_space(&mut self, now: Time) {
        let fresh = self.space.asked_at.is_some_and(|at| now >= at && now.since(at) < SPACE_CHECK_MS);
        if fresh && self.space.written < SPACE_CHECK_BYTES {
            return;
        }
        match self.inner.medium.space() {
            Ok(space) => {
                self.space = SpaceCheck { asked_at: Some(now), written: 0, free: space.free, file: space.file };
            }
            Err(error) => {
                tracing::warn!(%error, "the system does not say how much room there is");
                self.space = SpaceCheck { asked_at: Some(now), written: 0, free: u64::MAX, file: 0 };
            }
        }
    }

    fn update_gauge(&self) {
        let (options, gauge) = (&self.inner.options, &self.inner.gauge);
        let room = self.room();
        // An eighth before commits are refused, so that what is on its way still finds room.
        let reserve = options.reserve();
        let low = room < reserve.saturating_add(reserve / 8)
            || self.mark.live_bytes > options.max_bytes - options.max_bytes / 8;
        gauge.low.store(low, Ordering::Relaxed);
        gauge.live_bytes.store(self.mark.live_bytes, Ordering::Relaxed);
        gauge.room_bytes.store(room, Ordering::Relaxed);
    }
}

impl Store for RedbStore {
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.reopen().map_err(|fault| self.inner.error(fault))?;
        self.look_at_space(batch.clock.time);
        self.tried = self.tried.saturating_add(1);
        let result = contain(|| self.try_commit(batch, self.tried));
        match result {
            Ok(applied) => {
                self.mark = applied.mark;
                self.reported = applied.mark.commit;
                self.uncertain = false;
                self.space.written = self.space.written.saturating_add(applied.added);
                self.update_gauge();
                Ok(applied.committed)
            }
            Err(fault) => {
                if matches!(fault, Fault::Full { .. }) {
                    self.space.asked_at = None;
                    self.inner.gauge.low.store(true, Ordering::Relaxed);
                } else {
                    self.inner.note_suspicion(&fault);
                    self.give_up();
                    // For the readers: what lies on a full disk is what makes room when it is delivered.
                    if let Err(fault) = self.reopen() {
                        tracing::debug!("the store cannot be opened again yet: {fault}");
                    }
                }
                Err(self.inner.error(fault))
            }
        }
    }

    /// redb takes a commit that returned an error back, unless the error came after its last write: what was aborted here
    /// never reached the file, and what the device refused is looked for in the file when it is opened again. By then
    /// all that the file shows has been synced, so it stays as it is.
    fn left_nothing(&self) -> bool {
        self.inner.database.read().is_some() && self.mark.commit == self.reported
    }

    fn refresh(&mut self, now: Time) {
        self.look_at_space(now);
        self.update_gauge();
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(RedbReader { inner: Arc::clone(&self.inner) })
    }
}
