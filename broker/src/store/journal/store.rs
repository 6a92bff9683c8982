//! The store that the broker uses: a commit is appended to the journal, and redb gets many of them at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};

use super::super::medium::{Folder, Medium};
use super::super::redb::{Commits, RedbStore, StoreOptions, room_for};
use super::super::upkeep::Upkeep;
use super::super::{Batch, Committed, Gauge, Known, Reader, Recovered, Store, StoreError};
use super::fold::{Core, View};
use super::pending::Pending;
use super::reader::JournaledReader;
use super::record::{self, Before};
use super::source::{self, Begin};
use super::{AppendError, Journal, Source, read_patiently};
use crate::message::Time;

/// A batch whose record would take more than this part of the journal goes to redb directly, with all that is pending: the
/// journal would write it twice.
const DIRECT_PART: u64 = 32;
/// It is folded when it is used so far, in percent …
const FOLD_PERCENT: u64 = 50;
/// … or when what waits for it takes so much memory.
const FOLD_BYTES: usize = 4 * 1024 * 1024;
/// What waits takes no more memory than this, delivered messages included: the commit that would make it more waits for the fold that
/// is under way, and takes all of it to redb. With a journal of 8 MiB its room is used up before.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Commits ask so often, by their clock, how much room the disk has.
const SPACE_CHECK_MS: u64 = 1000;

/// Where there was no room for a journal it is tried again to make one after so long, by the commits' clock; then after twice
/// as long each time, up to the second: what fails half-way has been written all the same.
const MAKE_AGAIN_MS: u64 = 10_000;
const MAKE_AGAIN_MS_MAX: u64 = 600_000;

/// How the folds are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folding {
    /// By a thread of their own: commits go on.
    Beside,
    /// Within the commit after which one is due: for tests, in which nothing happens by chance.
    Within,
}

/// A journal, and redb behind it.
pub struct JournaledStore {
    core: Arc<Core>,
    journal: Option<Box<dyn Journal>>,
    thread: Option<JoinHandle<()>>,
    folding: Folding,
    options: StoreOptions,
    /// The last number given to a record, whatever became of it.
    last: u64,
    /// The last record that is durable.
    durable: u64,
    /// Records of more bytes go to redb directly.
    direct_bytes: usize,
    /// Of the last failure: nothing of that commit will be found.
    left_nothing: bool,
    /// When the disk was asked last for its room.
    looked_at: Option<Time>,
    /// Without a journal: when it is tried again to make one, and how much later the time after that.
    next_make: Time,
    make_pause_ms: u64,
    /// It was said that the journal cannot be written.
    said: bool,
}

impl JournaledStore {
    /// Opens the store of a folder with its journal; see [`RedbStore::open`].
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open(dir: &Path, options: &StoreOptions, wall_ms: u64) -> Result<(Self, Recovered), StoreError> {
        Self::open_knowing(dir, options, wall_ms, Known::default())
    }

    /// The same, for a broker that begins anew: what it knew is put back where a damaged file does not have it.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_knowing(
        dir: &Path,
        options: &StoreOptions,
        wall_ms: u64,
        known: Known,
    ) -> Result<(Self, Recovered), StoreError> {
        let (redb, recovered) = RedbStore::open_knowing(Folder::open(dir)?, options, wall_ms, known)?;
        Ok(Self::over(redb, recovered, options, wall_ms, Folding::Beside))
    }

    /// The same on any medium.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_on(
        medium: impl Medium,
        options: &StoreOptions,
        wall_ms: u64,
        folding: Folding,
    ) -> Result<(Self, Recovered), StoreError> {
        let (redb, recovered) = RedbStore::open_on(medium, options, wall_ms)?;
        Ok(Self::over(redb, recovered, options, wall_ms, folding))
    }

    /// Over a store that is open, with the journal beside it.
    fn over(
        mut redb: RedbStore,
        mut recovered: Recovered,
        options: &StoreOptions,
        wall_ms: u64,
        folding: Folding,
    ) -> (Self, Recovered) {
        let mark = redb.mark();
        let mut source = match read_patiently(redb.medium(), &mark) {
            Ok(source) => source,
            Err(error) => {
                let nothing = redb.hold_for_journal(&error, wall_ms);
                return (Self::assemble(redb, Begin::without_reading(&mark), options, folding), nothing);
            }
        };
        source.apply_to(&mut recovered);
        let begin = source::prepare(&mut redb, source, options.journal_bytes, wall_ms);
        (Self::assemble(redb, begin, options, folding), recovered)
    }

    /// A store over any journal, which holds records of its own: for journals that are no file.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_over(
        medium: impl Medium,
        mut journal: Box<dyn Journal>,
        id: u64,
        options: &StoreOptions,
        folding: Folding,
    ) -> Result<(Self, Recovered), StoreError> {
        let (redb, mut recovered) = RedbStore::open_on(medium, options, 0)?;
        let mark = redb.mark();
        let mut source = Source { last: mark.folded, folded: mark.folded, ..Source::default() };
        let failed = |error: std::io::Error| StoreError::Io { path: redb.medium().name(), source: error.into() };
        source::replay(&mut *journal, &mark, &mut source).map_err(failed)?;
        source.apply_to(&mut recovered);
        let Source { pending, last, folded, .. } = source;
        let begin = Begin { journal: Some(journal), missing: None, pending, id, last, folded };
        Ok((Self::assemble(redb, begin, options, folding), recovered))
    }

    fn assemble(mut redb: RedbStore, begin: Begin, options: &StoreOptions, folding: Folding) -> Self {
        let Begin { journal, missing, pending, id, last, folded } = begin;
        redb.look(Time(0));
        redb.set_uncertain();
        let has_journal = journal.is_some() || missing.is_some();
        if journal.is_some() {
            redb.set_commits(Commits::Folded);
        }
        let core = Arc::new(Core {
            place: redb.place(),
            reader: redb.reader(),
            gauge: redb.gauge(),
            folded: AtomicU64::new(folded.max(redb.mark().folded)),
            last: AtomicU64::new(last),
            journal_bytes: AtomicU64::new(journal.as_ref().map_or(0, |journal| journal.size())),
            name: redb.medium().name(),
            store: Mutex::new(redb),
            view: RwLock::new(View { frozen: None, fresh: pending }),
            id,
            failing: Mutex::default(),
            outdated: AtomicBool::new(false),
            missing: Mutex::new(missing),
            made: Mutex::default(),
            asked: Mutex::default(),
            wake: Condvar::new(),
        });
        let thread = (folding == Folding::Beside && has_journal).then(|| {
            let core = Arc::clone(&core);
            std::thread::Builder::new().name("fold".to_owned()).spawn(move || core.run())
        });
        let thread = thread.and_then(|spawned| {
            spawned.inspect_err(|error| tracing::error!("no thread folds the journal: {error}")).ok()
        });
        let folding = if thread.is_some() { Folding::Beside } else { Folding::Within };
        Self {
            core,
            direct_bytes: journal.as_deref().map_or(0, direct_bytes),
            journal,
            thread,
            folding,
            options: *options,
            last,
            durable: last,
            left_nothing: true,
            looked_at: None,
            next_make: Time(0),
            make_pause_ms: MAKE_AGAIN_MS,
            said: false,
        }
    }

    /// How full it is.
    #[must_use]
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.core.gauge)
    }

    /// Moves all that is in the journal into redb.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn fold(&mut self) -> Result<(), StoreError> {
        self.core.fold()?;
        // What had come while one was frozen.
        if !self.core.view.read().fresh.is_empty() {
            self.core.fold()?;
        }
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        let folded = self.core.folded.load(Ordering::Acquire);
        if let Some(journal) = &mut self.journal {
            journal.forget(folded);
        }
    }

    /// Why messages are not taken, although the journal has room.
    fn refusal(&self, bytes: usize) -> Option<StoreError> {
        let (options, gauge) = (&self.options, &self.core.gauge);
        let waiting = (self.core.view.read().bytes() + bytes) as u64;
        let (live, room) = (gauge.live_bytes(), gauge.room_bytes());
        let reserve = options.reserve();
        let over = live.saturating_add(waiting) > options.max_bytes;
        let wanted = reserve.saturating_add(room_for(waiting));
        let (in_file, of_file) = (gauge.file_room(), options.file_needs(waiting));
        if !over && in_file >= of_file && room >= wanted {
            return None;
        }
        gauge.set_low();
        let (free, needed) = match (over, in_file < of_file) {
            (true, _) => (options.max_bytes.saturating_sub(live), waiting),
            (false, true) => (in_file, of_file),
            (false, false) => (room, wanted),
        };
        Some(StoreError::Full { path: self.core.name.clone(), free, needed })
    }

    /// Asks now and then how much room the disk has.
    fn look_at_space(&mut self, now: Time) {
        if self.looked_at.is_some_and(|at| now >= at && now.since(at) < SPACE_CHECK_MS) {
            return;
        }
        self.looked_at = Some(now);
        if self.folding == Folding::Beside {
            self.core.ask(|asked| asked.look = Some(now));
        } else {
            self.core.store.lock().look(now);
        }
    }

    /// Without a journal: takes one that has been made meanwhile, or asks now and then that one be made.
    fn find_journal(&mut self, now: Time) {
        if self.journal.is_some() || self.core.missing.lock().is_none() && self.core.made.lock().is_none() {
            return;
        }
        if now >= self.next_make && !self.core.gauge.low() {
            self.next_make = Time(now.0.saturating_add(self.make_pause_ms));
            self.make_pause_ms = (self.make_pause_ms * 2).min(MAKE_AGAIN_MS_MAX);
            match self.folding {
                Folding::Beside => self.core.ask(|asked| asked.make = true),
                Folding::Within => self.core.make_journal(),
            }
        }
        if let Some(journal) = self.core.made.lock().take() {
            tracing::info!("a journal has been made: commits go there from now on");
            self.direct_bytes = direct_bytes(&journal);
            self.core.journal_bytes.store(journal.size(), Ordering::Relaxed);
            self.core.store.lock().set_commits(Commits::Folded);
            self.journal = Some(Box::new(journal));
        }
    }

    /// Writes the batch, and all that is pending, to redb.
    fn commit_directly(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.last += 1;
        let mut store = self.core.store.lock();
        let frozen = self.core.freeze();
        let mark = (self.core.id, self.last);
        self.core.expect_room(&mut store, frozen.as_deref())?;
        let result = match frozen {
            None => store.fold(batch, mark, true),
            Some(frozen) => store.fold(&frozen.batch_with(batch), mark, grows(batch)),
        };
        self.core.note(&store, result.as_ref().err());
        let committed = match result {
            Ok(committed) => committed,
            Err(error) => {
                self.left_nothing &= store.left_nothing();
                return Err(error);
            }
        };
        // Under the store's lock: nobody may fold once more what redb has.
        *self.core.view.write() = View::default();
        self.core.folded.store(self.last, Ordering::Release);
        self.core.gauge.set_pending(0);
        drop(store);
        self.durable = self.last;
        self.forget();
        if committed.more && self.folding == Folding::Beside {
            self.core.ask(|asked| asked.fold = true);
            return Ok(Committed { more: false, ..committed });
        }
        Ok(committed)
    }

    /// A commit of nothing: redb goes on deleting, or is tried again.
    fn tidy(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        if self.folding == Folding::Within || self.core.failing.lock().is_some() {
            return self.commit_directly(batch);
        }
        self.core.ask(|asked| asked.fold = true);
        Ok(Committed::default())
    }

    /// Appends the record, when there is room for it; an error leaves it to redb.
    fn append(&mut self, body: &[u8]) -> Result<(), AppendError> {
        let Some(journal) = &mut self.journal else { return Err(AppendError::Full) };
        self.last += 1;
        let done = journal.append(self.last, body).and_then(|()| journal.settle());
        self.core.gauge.set_journal_written(journal.written_bytes());
        done?;
        self.durable = self.last;
        self.core.last.store(self.last, Ordering::Relaxed);
        Ok(())
    }

    /// Folds when it is time to.
    fn fold_if_due(&mut self) {
        let Some(journal) = &self.journal else { return };
        let due = journal.used_percent() >= FOLD_PERCENT || self.core.view.read().bytes() >= FOLD_BYTES;
        if !due {
            return;
        }
        match self.folding {
            Folding::Beside => self.core.ask(|asked| asked.fold = true),
            Folding::Within => {
                if let Err(error) = self.fold() {
                    tracing::debug!("{error}; what is in the journal stays there");
                }
            }
        }
    }

    fn said_once(&mut self, error: &AppendError) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::error!("{error}; commits go to the store's file directly until it can be");
        }
    }
}

/// Records of more bytes go to redb directly.
fn direct_bytes(journal: &dyn Journal) -> usize {
    usize::try_from(journal.size() / DIRECT_PART).unwrap_or(usize::MAX)
}

/// Whether it makes the store larger.
fn grows(batch: &Batch) -> bool {
    batch.sessions.iter().any(|delta| !delta.enqueued.is_empty())
        || batch.retained.iter().any(|change| change.message.is_some())
        || batch.keyed.iter().any(|change| change.value.is_some())
}

/// It only asks that what nobody needs be deleted.
fn is_nothing(batch: &Batch) -> bool {
    batch.sessions.is_empty() && batch.retained.is_empty() && batch.keyed.is_empty() && batch.ended_ledger.is_none()
}

impl Store for JournaledStore {
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        self.left_nothing = true;
        if is_nothing(batch) {
            return self.tidy(batch);
        }
        let held = self.core.outdated.load(Ordering::Relaxed) || self.core.gauge.trouble().is_some();
        if !held {
            self.find_journal(batch.clock.time);
        }
        if self.journal.is_none() || held {
            return self.commit_directly(batch);
        }
        let grows = grows(batch);
        if self.core.failing.lock().is_some() {
            // What is in redb after a commit that failed is known only after one that did not.
            match self.commit_directly(batch) {
                Err(error) if grows => return Err(error),
                Err(error) => tracing::debug!("{error}; the journal still takes what does not grow"),
                committed => return committed,
            }
        }
        self.look_at_space(batch.clock.time);
        let folded = self.core.folded.load(Ordering::Acquire);
        let before = Before { folded, previous: self.durable };
        let Some((body, message_bytes)) = record::encode(before, batch, self.direct_bytes) else {
            return self.commit_directly(batch);
        };
        if grows && let Some(refusal) = self.refusal(body.len()) {
            return Err(refusal);
        }
        self.forget();
        let waiting = self.core.view.read().bytes() + Pending::bytes_of(batch, body.len());
        if waiting > WAITING_BYTES_MAX || !self.journal.as_ref().is_some_and(|journal| journal.has_room(body.len())) {
            return self.commit_directly(batch);
        }
        match self.append(&body) {
            Ok(()) => {
                self.said = false;
                let waiting = {
                    let mut view = self.core.view.write();
                    view.fresh.merge(self.last, batch, body.len());
                    view.bytes()
                };
                self.core.gauge.set_pending(waiting as u64);
                self.fold_if_due();
                Ok(Committed { rows: 1, bytes: body.len() as u64, message_bytes, ..Committed::default() })
            }
            Err(error) => {
                self.said_once(&error);
                self.left_nothing = match error {
                    AppendError::Failed { left_nothing, .. } => left_nothing,
                    AppendError::Full => true,
                };
                self.commit_directly(batch)
            }
        }
    }

    fn left_nothing(&self) -> bool {
        self.left_nothing
    }

    fn outdated(&self) -> bool {
        self.core.outdated.load(Ordering::Relaxed)
    }

    fn refresh(&mut self, now: Time) {
        {
            let mut store = self.core.store.lock();
            store.refresh(now);
            self.core.outdated.store(store.outdated(), Ordering::Relaxed);
        }
        // What was delivered makes room once redb knows of it.
        let waits = self.core.view.read().bytes() > 0;
        match self.folding {
            Folding::Beside if waits => self.core.ask(|asked| asked.fold = true),
            Folding::Within if waits => drop(self.fold()),
            Folding::Beside | Folding::Within => {}
        }
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(JournaledReader(Arc::clone(&self.core)))
    }

    fn upkeep(&self) -> Option<Arc<dyn Upkeep>> {
        Some(Arc::clone(&self.core) as Arc<dyn Upkeep>)
    }
}

impl Drop for JournaledStore {
    /// What is in the journal is folded: the next start has nothing to read, and other tools neither.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.core.ask(|asked| asked.stop = true);
            let _ = thread.join();
        }
        if self.folding == Folding::Within || self.outdated() {
            return;
        }
        if let Err(error) = self.fold() {
            tracing::warn!("{error}; what is in the journal is read from there at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::{Message, Parts};
    use crate::store::{ClockMark, QueueEntry, QueueState, SessionDelta, SessionNo};

    /// Entries of a few bytes: they take little of the journal and much memory.
    fn small(first: u64, count: u64) -> Batch {
        let parts = Parts {
            topic: "t",
            properties: b"",
            payload: b"",
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        let entry = |seq| QueueEntry {
            seq,
            qos: 1,
            retain: false,
            shared: None,
            subscription_ids: [].into_iter().collect(),
            message: Arc::new(Message::new(&parts, None)),
        };
        let delta = SessionDelta {
            no: SessionNo(1),
            enqueued: (first..first + count).map(entry).collect(),
            state: Some(QueueState { next_seq: first + count, ..QueueState::default() }),
            ..SessionDelta::default()
        };
        Batch { sessions: vec![delta], clock: ClockMark { time: Time(1), wall_ms: 1 }, ..Batch::default() }
    }

    #[test]
    fn what_waits_for_a_fold_that_never_ends_is_bounded() {
        const COUNT: u64 = 1000;
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { min_free_bytes: 0, ..StoreOptions::default() };
        let folder = Folder::open(dir.path()).unwrap();
        let (mut store, _) = JournaledStore::open_on(folder, &options, 0, Folding::Within).unwrap();
        // Nobody does what it asks for.
        store.folding = Folding::Beside;
        let mut most = 0;
        for first in (0..200).map(|n| n * COUNT) {
            store.commit(&small(first, COUNT)).unwrap();
            most = most.max(store.core.view.read().bytes());
            assert!(most <= WAITING_BYTES_MAX, "{most} bytes wait");
        }
        assert!(most > WAITING_BYTES_MAX / 2, "{most} bytes at most: there was room for more");
        let page = store.reader().page(SessionNo(1), 0, usize::MAX, usize::MAX).unwrap();
        assert_eq!(page.len() as u64, 200 * COUNT);
        store.folding = Folding::Within;
    }
}
