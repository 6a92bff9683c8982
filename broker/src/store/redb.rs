//! The store over redb: one file, one writer, readers beside it.

// redb's errors are non-exhaustive: whatever is not told apart here is an error of the device.
#![allow(clippy::wildcard_enum_match_arm)]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redb::{Builder, Database, DatabaseError, Durability};
use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};

use super::apply::{Applied, apply};
use super::clean::Backlog;
use super::generation;
use super::held::{Held, Tried};
use super::medium::{Folder, Medium};
use super::page::RedbReader;
use super::recover::{self, Opened};
use super::rows::{self, Damage, Mark};
use super::unsynced::Unsynced;
use super::upkeep::{Compacted, UpkeepError};
use super::{Batch, ClockMark, Committed, Gauge, Keyed, Known, Reader, Recovered, Store, StoreError};
use crate::contain::caught;
use crate::message::Time;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 5;
/// The clock must advance by this before the disk is asked again how much room there is …
const SPACE_CHECK_MS: u64 = 1000;
/// … or this much must have been written.
const SPACE_CHECK_BYTES: u64 = 4 * 1024 * 1024;
/// Smaller files are checked whole at every start; larger ones after a crash (redb does) or when they are suspect.
const CHECK_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// A start that the device fails is tried again after each of these.
pub(super) const OPEN_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// This part of what the file may take is kept free of new messages.
const FILE_RESERVE: u64 = 12;
/// While a broker runs its file is compacted when so much of it is in use or less: all of it may have to be moved, and readers wait.
const COMPACT_LIVE_MAX: u64 = 64 * 1024 * 1024;
/// Damaged rows that are remembered, so that each is said once.
const DAMAGED_ROWS_MAX: usize = 10_000;
/// Damaged rows of a copy that are said one by one.
const DAMAGED_LINES_MAX: usize = 100;

/// A start reads it in a moment, and a fold writes what an hour of a quiet site has brought.
pub const JOURNAL_BYTES: u64 = 8 * 1024 * 1024;

/// Limits of the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// What redb may keep in memory of the file.
    pub cache_bytes: usize,
    /// Free room on the disk below which nothing that grows is written: what is left is for acknowledging and
    /// deleting, which need room too.
    pub min_free_bytes: u64,
    /// What the file may take on the disk.
    pub max_bytes: u64,
    /// Size of the journal; 0 for none: each commit goes to the file.
    pub journal_bytes: u64,
}

/// The least that is left for deleting, whatever is configured: redb copies pages before it changes them, and a file that
/// cannot be made smaller because it cannot grow stays full for ever.
const LEAST_RESERVE: u64 = 1024 * 1024;

impl StoreOptions {
    /// What must be free of what the file may take, for so many bytes of rows: copies of pages, and a part for what deletes.
    pub(super) fn file_needs(&self, bytes: u64) -> u64 {
        bytes.saturating_add(bytes / 4).saturating_add(self.max_bytes / FILE_RESERVE)
    }

    pub(super) fn reserve(&self) -> u64 {
        self.min_free_bytes.max(LEAST_RESERVE)
    }
}

/// Room that a fold of so many bytes of messages may need: redb copies pages before it changes them, and its pages are powers
/// of two.
pub(super) fn room_for(bytes: u64) -> u64 {
    bytes.saturating_mul(2).saturating_add(PAGES)
}

/// What the inner pages of redb may take of it.
const PAGES: u64 = 256 * 1024;

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 8 * 1024 * 1024,
            min_free_bytes: 64 * 1024 * 1024,
            max_bytes: u64::MAX,
            journal_bytes: JOURNAL_BYTES,
        }
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

    /// The device failed, which says nothing of what it has.
    pub(super) fn is_of_device(&self) -> bool {
        !self.is_damage() && self.io().is_some()
    }

    /// An error of the device that may be over in a moment.
    fn may_pass(&self) -> bool {
        !self.is_damage() && !matches!(self, Self::InUse | Self::Newer(_)) && self.io().is_some_and(may_pass)
    }

    pub(super) fn is_no_table(&self) -> bool {
        matches!(self, Self::Redb(error) if matches!(error.as_ref(), ::redb::Error::TableDoesNotExist(_)))
    }

    fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        self.io().is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
    }
}

/// It may be over in a moment.
pub(super) fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    const LASTS: [Kind; 7] = [
        Kind::PermissionDenied,
        Kind::ReadOnlyFilesystem,
        Kind::NotFound,
        Kind::IsADirectory,
        Kind::NotADirectory,
        Kind::StorageFull,
        Kind::QuotaExceeded,
    ];
    error.raw_os_error().is_some() && !LASTS.contains(&error.kind())
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
    caught(f).unwrap_or_else(|panic| Err(Fault::Panicked(panic)))
}

/// What the store and its readers share.
pub(super) struct Inner {
    pub(super) medium: Box<dyn Medium>,
    pub(super) options: StoreOptions,
    /// `None` after a failure, until the next commit opens the file again: redb refuses everything after an error of
    /// its file, for good.
    pub(super) database: RwLock<Option<Database>>,
    pub(super) unsynced: Arc<Unsynced>,
    /// A part of the file that was opened last cannot be read.
    unreadable: Arc<AtomicBool>,
    pub(super) gauge: Arc<Gauge>,
    /// A reader has met what it could not read: the file is to be opened again, and checked.
    misread: AtomicBool,
    seen_damaged: Mutex<HashSet<(u64, u64)>>,
    /// Of the broker before, until the store is open.
    pub(super) known: Mutex<Known>,
}

impl Inner {
    /// Nothing is open yet.
    pub(super) fn new(medium: impl Medium, options: &StoreOptions) -> Self {
        Self {
            medium: Box::new(medium),
            options: *options,
            database: RwLock::new(None),
            unsynced: Arc::default(),
            unreadable: Arc::default(),
            gauge: Arc::default(),
            misread: AtomicBool::new(false),
            seen_damaged: Mutex::default(),
            known: Mutex::default(),
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

    /// redb may keep an error of its file to itself, and refuses everything from then on: that says not which error it was.
    pub(super) fn judged(&self, fault: Fault) -> Fault {
        let refused = matches!(&fault, Fault::Redb(error) if matches!(error.as_ref(), ::redb::Error::PreviousIo));
        if refused && self.unreadable.load(Ordering::Relaxed) {
            return Fault::Io(io::Error::new(io::ErrorKind::InvalidData, "a part of it cannot be read"));
        }
        fault
    }

    /// After a damaged row or a sync that failed nobody knows what the disk has: the next start will look.
    fn note_suspicion(&self, fault: &Fault) {
        if (fault.is_damage() || self.unsynced.failed())
            && let Err(error) = self.medium.set_suspect(true)
        {
            tracing::warn!(%error, "it could not be noted beside the store that its file must be checked");
        }
    }

    /// A reader could not read: nothing is lost by that, but nothing is acknowledged into this file until it has been
    /// opened again and checked.
    pub(super) fn reader_failed(&self, fault: &Fault) {
        // Nothing was read: somebody has met it before.
        if matches!(fault, Fault::Closed) {
            return;
        }
        self.note_suspicion(fault);
        self.misread.store(true, Ordering::Relaxed);
        self.gauge.set_trouble(Some(format!("the store {} cannot be read: {fault}", self.medium.name())));
    }

    /// A queue row could not be read while the broker runs: it is noted once, and the file is checked at the next start.
    pub(super) fn saw_damaged_row(&self, key: (u64, u64), damage: Damage) {
        let mut seen = self.seen_damaged.lock();
        if seen.len() >= DAMAGED_ROWS_MAX || !seen.insert(key) {
            return;
        }
        self.gauge.damaged_rows.fetch_add(1, Ordering::Relaxed);
        tracing::error!(session = key.0, first = key.1, %damage, "a row of a queue cannot be read; its messages are lost");
        self.note_damage("queue", &format!("{}/{}", key.0, key.1), damage);
    }

    /// As [`Inner::saw_damaged_row`], for a keyed row.
    pub(super) fn saw_damaged_keyed(&self, of: Keyed, key: &[u8], damage: Damage) {
        let mut seen = self.seen_damaged.lock();
        let name = (u64::MAX, u64::from(rows::key_sum(of as u8, key)));
        if seen.len() >= DAMAGED_ROWS_MAX || !seen.insert(name) {
            return;
        }
        self.gauge.damaged_rows.fetch_add(1, Ordering::Relaxed);
        tracing::error!(of = of.name(), %damage, "a keyed row cannot be read; what it held is lost");
        self.note_damage("keyed", &format!("{}/{}", of.name(), key.escape_ascii()), damage);
    }

    /// Rows that a copy of the store has as they are: the file is checked at the next start.
    pub(super) fn saw_damaged_copy(&self, damaged: &[String]) {
        for line in damaged.iter().take(DAMAGED_LINES_MAX) {
            tracing::error!("{line}; the copy has it as it is");
        }
        if !damaged.is_empty()
            && let Err(error) = self.medium.set_suspect(true)
        {
            tracing::warn!(%error, "the damage could not be noted beside the store");
        }
    }

    fn note_damage(&self, table: &str, key: &str, damage: Damage) {
        let line = recover::damaged_line(table, key, damage, None);
        if let Err(error) = self.medium.damaged_row(&line).and_then(|()| self.medium.set_suspect(true)) {
            tracing::warn!(%error, "the damage could not be noted beside the store");
        }
    }
}

/// Opens redb on the medium. `check` reads the whole file and verifies every checksum in it.
pub(super) fn open_database(inner: &Inner, check: bool) -> Result<Database, Fault> {
    let backend = inner.medium.open()?;
    inner.unsynced.write_again(&backend)?;
    inner.unreadable.store(false, Ordering::Relaxed);
    let backend = backend.watched_by(&inner.unsynced).noting(&inner.unreadable);
    let mut builder = Builder::new();
    let gauge = Arc::clone(&inner.gauge);
    builder
        .set_cache_size(inner.options.cache_bytes)
        .set_check_integrity_on_open(check)
        // It is called at the beginning, and again on the way.
        .set_repair_callback(move |walk| {
            if walk.progress() == 0.0 {
                gauge.walks.fetch_add(1, Ordering::Relaxed);
            }
        });
    Ok(builder.create_with_backend(backend)?)
}

/// Whether the file is to be checked whole when it is opened.
pub(super) fn wants_check(medium: &dyn Medium) -> bool {
    medium.suspect() || medium.space().is_ok_and(|space| is_small(space.file))
}

/// Whether a file of so many bytes is checked whole at every start; not where its size is not known.
fn is_small(file: u64) -> bool {
    (1..=CHECK_BYTES_MAX).contains(&file)
}

/// Which commits go to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// Each one of the broker's: an ack waits for it.
    Each,
    /// A journal has taken them, and they come many at once: nobody waits.
    Folded,
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
    /// What commits have left to delete.
    backlog: Backlog,
    space: SpaceCheck,
    /// It could not be opened to be written.
    held: Option<Held>,
    /// What can be had of the file is not what the broker has.
    outdated: bool,
    /// The last commit that is noted outside of the file, and how many later the next one is.
    noted: u64,
    note_after: u64,
    commits: Commits,
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
        Self::open_knowing(medium, options, wall_ms, Known::default())
    }

    /// The same, for a broker that begins anew: what it knew is put back where the file does not have it.
    pub(super) fn open_knowing(
        medium: impl Medium,
        options: &StoreOptions,
        wall_ms: u64,
        known: Known,
    ) -> Result<(Self, Recovered), StoreError> {
        let inner = Arc::new(Inner::new(medium, options));
        *inner.known.lock() = known;
        let (held, database, recovered, mark) = match open_patiently(&inner, wall_ms) {
            Ok((database, recovered, mark)) => (None, Some(database), recovered, mark),
            Err(fault @ (Fault::InUse | Fault::Newer(_))) => return Err(inner.error(fault)),
            Err(fault) => {
                let (held, database, recovered, mark) = Held::open(&inner, &fault, wall_ms);
                inner.gauge.set_trouble(Some(held.why.clone()));
                (Some(held), database, recovered, mark)
            }
        };
        let found = database.as_ref().map(|database| contain(|| Backlog::find(database, &recovered)));
        let backlog = found.transpose().unwrap_or_else(|fault| {
            tracing::warn!(%fault, "what is to be deleted of the store could not be found; it stays until the next start");
            None
        });
        *inner.database.write() = database;
        *inner.known.lock() = Known::default();
        inner.gauge.live_bytes.store(mark.live_bytes, Ordering::Relaxed);
        let mut store = Self {
            inner,
            mark,
            reported: mark.commit,
            tried: mark.commit,
            uncertain: false,
            backlog: backlog.unwrap_or_default(),
            space: SpaceCheck::default(),
            held,
            outdated: false,
            noted: 0,
            note_after: 0,
            commits: Commits::Each,
        };
        store.note_generation();
        Ok((store, recovered))
    }

    /// Notes outside of the file how far it has come; `note_after` commits after the last time.
    fn note_generation(&mut self) {
        let due = self.note_after == 0 || self.reported.saturating_sub(self.noted) >= self.note_after;
        if !due || self.held.is_some() || self.outdated {
            return;
        }
        // At the start, at the first commit, then now and then.
        self.note_after = if self.note_after == 0 { 1 } else { generation::COMMITS };
        self.noted = self.reported;
        if self.inner.medium.generation() == Some(self.noted) {
            return;
        }
        if let Err(error) = self.inner.medium.set_generation(self.noted) {
            tracing::warn!(%error, "it could not be noted beside the store how far it has come");
        }
    }

    /// How full it is.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.inner.gauge)
    }

    /// Opens the file, if it is not, or if nothing is to be done with it as it is.
    fn be_open(&mut self) -> Result<(), Fault> {
        if self.outdated {
            return Err(Fault::Closed);
        }
        if let Some(held) = &mut self.held {
            match held.try_again(&self.inner)? {
                Tried::Open(database, mark) => {
                    *self.inner.database.write() = Some(database);
                    (self.mark, self.reported) = (mark, mark.commit);
                    self.held = None;
                    tracing::info!("the store can be written now");
                }
                Tried::Outdated => self.outdated = true,
                Tried::Held => {}
            }
            return match &self.held {
                Some(held) => Err(Fault::Io(io::Error::other(held.why.clone()))),
                None => Ok(()),
            };
        }
        if self.inner.misread.swap(false, Ordering::Relaxed) {
            self.give_up();
        }
        let opened = self.reopen();
        if let Err(fault) = &opened
            && fault.is_damage()
        {
            let why = "what must be durable is refused until the broker has begun anew with what can be had of it";
            tracing::error!("the store {} is damaged: {fault}; {why}", self.inner.medium.name());
            self.inner.gauge.set_trouble(Some(format!("the store is damaged: {fault}")));
            self.inner.note_suspicion(fault);
            self.outdated = true;
        }
        opened
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
        })
        .map_err(|fault| self.inner.judged(fault))?;
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
        close(database);
    }

    fn try_commit(&self, batch: &Batch, mark: Mark, checks_room: bool) -> Result<Applied, Fault> {
        let database = self.inner.database.read();
        let database = database.as_ref().ok_or(Fault::Closed)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_quick_repair(self.lists_pages());
        let applied = apply(&txn, batch, mark, self.uncertain, &self.backlog)?;
        if checks_room
            && applied.grew
            && let Some((free, needed)) = self.refusal(&applied)
        {
            txn.abort()?;
            return Err(Fault::Full { free, needed });
        }
        txn.commit()?;
        Ok(applied)
    }

    /// Whether a commit says which pages are in use. Without that a start after a crash reads all of the file to find out. It
    /// costs a second sync, and 2 bits for each page of the file: little beside a fold, and much where an ack waits for each commit.
    /// A file that every start checks whole has no use for it.
    fn lists_pages(&self) -> bool {
        self.commits == Commits::Folded && !is_small(self.space.file)
    }

    /// Why the batch cannot be taken: bytes free, bytes needed. Asked of batches that grow the store only: what
    /// acknowledges and deletes may use the reserve, since it is what makes room.
    fn refusal(&self, applied: &Applied) -> Option<(u64, u64)> {
        let options = &self.inner.options;
        if applied.mark.live_bytes > options.max_bytes {
            return Some((options.max_bytes.saturating_sub(self.mark.live_bytes), applied.added));
        }
        // redb copies pages before it changes them: what deletes must find room in the file as well.
        let in_file = options.file_needs(applied.added);
        if self.room_in_file() < in_file {
            return Some((self.room_in_file(), in_file));
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

    /// What the file may still take of rows before it is larger than it may be: what it may grow, and a quarter of what no row
    /// needs of it: large rows need pages that lie together. Where they do not the file grows all the same, by up to a tenth: an
    /// eighth is left for that.
    fn room_in_file(&self) -> u64 {
        let max = self.inner.options.max_bytes;
        let max = max - max / 8;
        let file = self.space.file.saturating_add(self.space.written).min(max);
        (max - file).saturating_add(file.saturating_sub(self.mark.live_bytes) / 4)
    }

    fn look_at_space(&mut self, now: Time) {
        let in_doubt = self.room_in_file() < self.inner.options.max_bytes / 4 && self.space.written > 0;
        let fresh = !in_doubt && self.space.asked_at.is_some_and(|at| now >= at && now.since(at) < SPACE_CHECK_MS);
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
        let pending = gauge.pending_bytes.load(Ordering::Relaxed);
        // A journal takes nothing that it could not be folded with, however little that is.
        let folds = pending > 0 || self.commits == Commits::Folded;
        let needed = if folds { room_for(pending) } else { 0 };
        let low = room < reserve.saturating_add(reserve / 8).saturating_add(needed)
            || self.mark.live_bytes.saturating_add(pending) > options.max_bytes - options.max_bytes / 8
            || self.room_in_file() < options.file_needs(pending).saturating_add(options.max_bytes / FILE_RESERVE);
        gauge.low.store(low, Ordering::Relaxed);
        gauge.file_written.store(self.inner.unsynced.all_bytes(), Ordering::Relaxed);
        gauge.live_bytes.store(self.mark.live_bytes, Ordering::Relaxed);
        gauge.room_bytes.store(room, Ordering::Relaxed);
        gauge.file_taken.store(!self.room_in_file(), Ordering::Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        close(self.database.get_mut().take());
    }
}

/// Drops the database, which writes to the file: on one that was damaged while it was open redb may panic.
fn close(database: Option<Database>) {
    let closed = contain(|| {
        drop(database);
        Ok(())
    });
    if let Err(fault) = closed {
        tracing::warn!(%fault, "the store's file could not be closed");
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.note_after = 1;
        self.note_generation();
    }
}

/// Opens it, and again when the device fails for a moment only: a sync that failed is made again with all that it was for.
fn open_patiently(inner: &Inner, wall_ms: u64) -> Result<Opened, Fault> {
    for pause in OPEN_AGAIN {
        match recover::open(inner, wall_ms) {
            Err(fault) if fault.may_pass() => {
                inner.note_suspicion(&fault);
                tracing::error!("the store {} could not be opened: {fault}; it is tried again", inner.medium.name());
                std::thread::sleep(pause);
            }
            opened => return opened,
        }
    }
    recover::open(inner, wall_ms).inspect_err(|fault| inner.note_suspicion(fault))
}

impl RedbStore {
    /// Commits a batch that contains a journal up to and with a record; `journal` is its number and the record's.
    /// `checks_room`: not if it grows the store beyond its limits. What the journal holds was taken before.
    pub(super) fn fold(
        &mut self,
        batch: &Batch,
        journal: (u64, u64),
        checks_room: bool,
    ) -> Result<Committed, StoreError> {
        self.write(batch, journal, checks_room)
    }

    /// Whether a journal takes the broker's commits.
    pub(super) fn set_commits(&mut self, commits: Commits) {
        self.commits = commits;
    }

    /// As of the last commit.
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// The clock of the last commit.
    pub(super) fn clock(&self) -> ClockMark {
        self.mark.clock
    }

    pub(super) fn place(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    pub(super) fn medium(&self) -> &dyn Medium {
        self.inner.medium.as_ref()
    }

    /// The journal cannot be read for now, and what it holds may change all that the file has: nothing of the file is served, and
    /// nothing is written, until it can be.
    pub(super) fn hold_for_journal(&mut self, error: &io::Error, wall_ms: u64) -> Recovered {
        let database = self.inner.database.write().take();
        close(database);
        let (held, recovered) = Held::for_journal(&self.inner, error, wall_ms);
        self.inner.gauge.set_trouble(Some(held.why.clone()));
        self.held = Some(held);
        recovered
    }

    /// It could not be opened to be written.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// A commit that failed may be there all the same: the journal goes on from before it.
    pub(super) fn set_uncertain(&mut self) {
        self.uncertain = true;
    }

    /// Moves pages from the end of the file into room before them, and cuts it. The file is redb's alone meanwhile: readers wait,
    /// so only when little is in use.
    pub(super) fn compact(&mut self) -> Result<Compacted, UpkeepError> {
        let (live, max) = (self.mark.live_bytes, COMPACT_LIVE_MAX);
        if live > max {
            return Err(UpkeepError::TooMuch { live, max });
        }
        self.be_open().map_err(|fault| self.inner.error(fault))?;
        let size = || self.inner.medium.space().map_or(0, |space| space.file);
        let before = size();
        let done = {
            let mut database = self.inner.database.write();
            contain(|| Ok(database.as_mut().ok_or(Fault::Closed)?.compact()?))
        };
        match done {
            Ok(_) => {
                let after = size();
                self.look_again();
                Ok(Compacted { before, after })
            }
            Err(Fault::Redb(error)) if matches!(*error, ::redb::Error::TransactionInProgress) => Err(UpkeepError::Busy),
            Err(fault) => {
                self.broken_by(&fault);
                Err(self.inner.error(fault).into())
            }
        }
    }

    /// After a fault while the file was written.
    fn broken_by(&mut self, fault: &Fault) {
        self.inner.note_suspicion(fault);
        self.give_up();
        // For the readers: what lies on a full disk is what makes room when it is delivered.
        if let Err(fault) = self.be_open() {
            tracing::debug!("the store cannot be opened again yet: {fault}");
        }
    }

    /// Looks how much room there is.
    pub(super) fn look(&mut self, now: Time) {
        self.look_at_space(now);
        self.update_gauge();
    }

    /// The same, whatever time has passed.
    pub(super) fn look_again(&mut self) {
        self.space.asked_at = None;
        self.look(self.mark.clock.time);
    }

    fn write(&mut self, batch: &Batch, journal: (u64, u64), checks_room: bool) -> Result<Committed, StoreError> {
        self.be_open().map_err(|fault| self.inner.error(fault))?;
        self.look_at_space(batch.clock.time);
        self.tried = self.tried.saturating_add(1);
        let (journal, folded) = journal;
        let mark = Mark { commit: self.tried, journal, folded, ..self.mark };
        let result = contain(|| self.try_commit(batch, mark, checks_room));
        match result {
            Ok(applied) => {
                self.mark = applied.mark;
                self.reported = applied.mark.commit;
                self.uncertain = false;
                self.backlog.settle(applied.cleaned);
                self.space.written = self.space.written.saturating_add(applied.added);
                self.update_gauge();
                if !self.inner.misread.load(Ordering::Relaxed) {
                    self.inner.gauge.set_trouble(None);
                }
                self.note_generation();
                Ok(applied.committed)
            }
            Err(fault) => {
                if matches!(fault, Fault::Full { .. }) {
                    self.space.asked_at = None;
                    self.inner.gauge.low.store(true, Ordering::Relaxed);
                } else {
                    self.broken_by(&fault);
                }
                Err(self.inner.error(fault))
            }
        }
    }
}

impl Store for RedbStore {
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.write(batch, (self.mark.journal, self.mark.folded), true)
    }

    /// redb takes a commit that returned an error back, unless the error came after its last write: what was aborted here
    /// never reached the file, and what the device refused is looked for in the file when it is opened again. By then
    /// all that the file shows has been synced, so it stays as it is.
    fn left_nothing(&self) -> bool {
        self.inner.database.read().is_some() && self.mark.commit == self.reported
    }

    fn outdated(&self) -> bool {
        self.outdated
    }

    fn refresh(&mut self, now: Time) {
        match self.be_open() {
            Ok(()) => self.inner.gauge.set_trouble(None),
            Err(fault) => tracing::debug!("the store cannot be opened yet: {fault}"),
        }
        self.look_at_space(now);
        self.update_gauge();
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(RedbReader { inner: Arc::clone(&self.inner) })
    }
}
