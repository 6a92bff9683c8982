//! How full the store is, as anybody may ask at any time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// How full the store is, for whoever decides whether to accept a message. Cheap to read from any thread; as new as the
/// last commit.
#[derive(Debug, Default)]
pub struct Gauge {
    pub(super) low: AtomicBool,
    pub(super) live_bytes: AtomicU64,
    pub(super) room_bytes: AtomicU64,
    /// What waits in the journal for the file.
    pub(super) pending_bytes: AtomicU64,
    /// The complement of what the file may still take: not known yet is all of it.
    pub(super) file_taken: AtomicU64,
    folds: AtomicU64,
    pub(super) walks: AtomicU64,
    journal_written: AtomicU64,
    pub(super) file_written: AtomicU64,
    pub(super) damaged_rows: AtomicU64,
    troubled: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Gauge {
    /// Room is so short that commits are about to be refused, or the store cannot be written: accept no more durable
    /// messages.
    #[must_use]
    pub fn low(&self) -> bool {
        self.low.load(Ordering::Relaxed) || self.troubled.load(Ordering::Relaxed)
    }

    /// Why the store cannot be written, other than for want of room.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Bytes of records that are in the journal and not in the file yet, delivered ones included.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// How often the journal was folded into the file.
    #[must_use]
    pub fn folds(&self) -> u64 {
        self.folds.load(Ordering::Relaxed)
    }

    /// How often all of the file was read to open it: to check it, or to find which of its pages are in use.
    #[must_use]
    pub fn walks(&self) -> u64 {
        self.walks.load(Ordering::Relaxed)
    }

    /// Bytes given to the device for the journal.
    #[must_use]
    pub fn journal_written(&self) -> u64 {
        self.journal_written.load(Ordering::Relaxed)
    }

    /// Bytes given to the device for the file.
    #[must_use]
    pub fn file_written(&self) -> u64 {
        self.file_written.load(Ordering::Relaxed)
    }

    pub(super) fn folded(&self) {
        self.folds.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_journal_written(&self, bytes: u64) {
        self.journal_written.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_pending(&self, bytes: u64) {
        self.pending_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Room has run out; the next look at the disk says whether it still has.
    pub(super) fn set_low(&self) {
        self.low.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        if trouble.is_none() && !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut before = self.trouble.lock();
        self.troubled.store(trouble.is_some(), Ordering::Relaxed);
        *before = trouble;
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

    /// What the file may still take before it is larger than it may be.
    pub(super) fn file_room(&self) -> u64 {
        !self.file_taken.load(Ordering::Relaxed)
    }

    /// Rows that could not be read since the start.
    #[must_use]
    pub fn damaged_rows(&self) -> u64 {
        self.damaged_rows.load(Ordering::Relaxed)
    }
}
