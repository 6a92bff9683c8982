//! Moving what the journal holds into redb, beside commits and reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::super::redb::{Inner, RedbStore, room_for};
use super::super::upkeep::{Compacted, Folded, JournalState, Upkeep, UpkeepError};
use super::super::{Batch, Gauge, Reader, Store, StoreError};
use super::file::FileJournal;
use super::pending::Pending;
use super::source::Missing;
use crate::message::Time;

/// After a fold that failed.
const RETRY: Duration = Duration::from_millis(500);
/// Between two folds that only delete what nobody needs.
const CLEAN_PAUSE: Duration = Duration::from_millis(10);

/// What has come since the last fold, for readers.
#[derive(Default)]
pub(super) struct View {
    /// What is being folded, or could not be.
    pub(super) frozen: Option<Arc<Pending>>,
    pub(super) fresh: Pending,
}

impl View {
    /// Both, and nothing is fresh any more.
    pub(super) fn take_all(&mut self) -> Pending {
        let fresh = std::mem::take(&mut self.fresh);
        let Some(frozen) = self.frozen.take() else { return fresh };
        let mut all = Arc::unwrap_or_clone(frozen);
        all.append(fresh);
        all
    }

    pub(super) fn bytes(&self) -> usize {
        self.frozen.as_ref().map_or(0, |frozen| frozen.bytes) + self.fresh.bytes
    }
}

/// What the thread that folds is asked for.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) fold: bool,
    pub(super) look: Option<Time>,
    /// A journal, where there was none.
    pub(super) make: bool,
    pub(super) stop: bool,
}

/// What committing, folding and reading share. Locked in this order: `store`, `view`; the others alone.
pub(super) struct Core {
    /// Where the files are.
    pub(super) place: Arc<Inner>,
    pub(super) store: Mutex<RedbStore>,
    pub(super) view: RwLock<View>,
    pub(super) reader: Arc<dyn Reader>,
    pub(super) gauge: Arc<Gauge>,
    /// The store's, for messages.
    pub(super) name: String,
    /// The journal that redb is told of.
    pub(super) id: u64,
    /// The last record that redb contains.
    pub(super) folded: AtomicU64,
    /// The last number that was given to a record.
    pub(super) last: AtomicU64,
    /// What the journal's file takes; 0 without one.
    pub(super) journal_bytes: AtomicU64,
    /// The last fold failed: for want of room, or otherwise.
    pub(super) failing: Mutex<Option<StoreError>>,
    /// redb wants another broker; see [`Store::outdated`].
    pub(super) outdated: AtomicBool,
    /// There is no journal, and there should be.
    pub(super) missing: Mutex<Option<Missing>>,
    /// One that has been made, until the next commit takes it.
    pub(super) made: Mutex<Option<FileJournal>>,
    pub(super) asked: Mutex<Asked>,
    pub(super) wake: Condvar,
}

impl Core {
    /// Moves what has come into redb. True: something is left to be deleted there.
    pub(super) fn fold(&self) -> Result<bool, StoreError> {
        let mut store = self.store.lock();
        let frozen = self.freeze();
        self.expect_room(&mut store, frozen.as_deref())?;
        let (batch, last) = match &frozen {
            Some(frozen) => (frozen.batch(), frozen.last),
            None => (Batch { clock: store.clock(), ..Batch::default() }, self.folded.load(Ordering::Acquire)),
        };
        let result = store.fold(&batch, (self.id, last), false);
        self.note(&store, result.as_ref().err());
        let committed = result?;
        let waiting = {
            let mut view = self.view.write();
            view.frozen = None;
            view.bytes()
        };
        self.gauge.set_pending(waiting as u64);
        self.gauge.folded();
        self.folded.store(last, Ordering::Release);
        Ok(committed.more)
    }

    /// What has come is what is folded next; what comes from now on is fresh. To be called with the store locked.
    pub(super) fn freeze(&self) -> Option<Arc<Pending>> {
        let mut view = self.view.write();
        // After a fold that failed, what has been delivered since need not be folded any more.
        if !view.fresh.is_empty() {
            view.frozen = Some(Arc::new(view.take_all()));
        }
        view.frozen.clone()
    }

    /// After one that failed for want of room, redb is not asked again before there is some: each failure closes its file.
    pub(super) fn expect_room(&self, store: &mut RedbStore, pending: Option<&Pending>) -> Result<(), StoreError> {
        if !matches!(&*self.failing.lock(), Some(StoreError::Full { .. })) {
            return Ok(());
        }
        store.look_again();
        let needed = room_for(pending.map_or(0, Pending::message_bytes));
        let free = self.gauge.room_bytes();
        if free >= needed { Ok(()) } else { Err(StoreError::Full { path: self.name.clone(), free, needed }) }
    }

    pub(super) fn note(&self, store: &RedbStore, error: Option<&StoreError>) {
        self.outdated.store(store.outdated(), Ordering::Relaxed);
        *self.failing.lock() = error.map(StoreError::again);
    }

    /// Makes the journal that is missing, if there is room for it beside what the store needs to go on.
    pub(super) fn make_journal(&self) {
        // redb must know of this journal before it holds anything: a start takes no other store's.
        let known = self.store.lock().mark().journal == self.id;
        // Taken out: a commit that looks whether there is one must not wait while it is made.
        let Some(mut wanted) = self.missing.lock().take_if(|_| known) else { return };
        let medium = self.place.medium.as_ref();
        let reserve = self.place.options.reserve();
        let needed = wanted.bytes.saturating_add(reserve).saturating_add(reserve / 4);
        let made = match medium.space() {
            Ok(space) if space.free < needed => Err(format!("{} bytes are free, {needed} are needed", space.free)),
            Ok(_) | Err(_) => wanted.make(medium, self.id),
        };
        match made {
            Ok(journal) => *self.made.lock() = Some(journal),
            Err(why) => {
                tracing::debug!("there is still no journal: {why}");
                *self.missing.lock() = Some(wanted);
            }
        }
    }

    /// The thread that folds.
    pub(super) fn run(&self) {
        let mut pause = None;
        loop {
            let Asked { fold, look, make, stop } = {
                let mut asked = self.asked.lock();
                while !asked.fold && asked.look.is_none() && !asked.make && !asked.stop {
                    match pause {
                        Some(pause) if self.wake.wait_for(&mut asked, pause).timed_out() => asked.fold = true,
                        Some(_) => {}
                        None => self.wake.wait(&mut asked),
                    }
                }
                std::mem::take(&mut *asked)
            };
            if stop {
                return;
            }
            if let Some(now) = look {
                self.store.lock().look(now);
            }
            if make {
                self.make_journal();
            }
            if fold {
                pause = match self.fold() {
                    Ok(true) => Some(CLEAN_PAUSE),
                    Ok(false) => None,
                    Err(error) => {
                        if pause != Some(RETRY) {
                            tracing::error!("{error}; what is in the journal stays there until it can be moved");
                        }
                        Some(RETRY)
                    }
                };
            }
        }
    }

    /// Folds what is there at the moment: what is being folded already, and what has come since.
    pub(super) fn fold_all(&self) -> Result<(), StoreError> {
        for _ in 0..2 {
            self.fold()?;
        }
        Ok(())
    }

    pub(super) fn ask(&self, what: impl FnOnce(&mut Asked)) {
        what(&mut self.asked.lock());
        self.wake.notify_one();
    }
}

impl Upkeep for Core {
    fn journal(&self) -> JournalState {
        let folded_record = self.folded.load(Ordering::Acquire);
        JournalState {
            bytes: self.journal_bytes.load(Ordering::Relaxed),
            pending_bytes: self.gauge.pending_bytes(),
            last_record: self.last.load(Ordering::Relaxed).max(folded_record),
            folded_record,
        }
    }

    fn fold(&self) -> Result<Folded, UpkeepError> {
        let before = self.journal();
        self.fold_all()?;
        let records = self.journal().folded_record - before.folded_record;
        Ok(Folded { records, bytes: before.pending_bytes })
    }

    fn compact(&self) -> Result<Compacted, UpkeepError> {
        // The journal has all of its room for what comes meanwhile, and what has been delivered takes none in the file.
        self.fold_all()?;
        while self.fold()? {}
        self.store.lock().compact()
    }
}
