//! A journal that is no file: a log somewhere else.
#![allow(dead_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::store::journal::file::{FileJournal, head};
use forebay::store::journal::{AppendError, Journal, Replay};
use forebay::store::medium::Backend;
use forebay::store::shared_memory::SharedMemory;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use crate::Seed;

/// What the log has; it outlives those who are connected to it.
#[derive(Clone)]
pub struct Log {
    records: SharedMemory,
    unsure: Arc<AtomicBool>,
}

impl Log {
    /// Of the journals that are connected to it.
    pub const ID: u64 = 9;

    pub fn new(size: u64) -> Self {
        let records = SharedMemory(Arc::new(InMemoryBackend::new()));
        records.set_len(size).unwrap();
        records.write(0, &head(Self::ID, size)).unwrap();
        Self { records, unsure: Arc::default() }
    }

    /// Whether appends fail now and then.
    pub fn set_unsure(&self, unsure: bool) {
        self.unsure.store(unsure, Ordering::Relaxed);
    }

    pub fn connect(&self, seed: u64) -> Remote {
        let file = FileJournal::open(Backend::new(self.records.clone()), 0).unwrap();
        Remote { file, under_way: Vec::new(), seed: Seed(seed), unsure: Arc::clone(&self.unsure) }
    }
}

/// Appends are durable only when they are waited for, and one may fail although its record is there.
pub struct Remote {
    file: FileJournal,
    under_way: Vec<(u64, Vec<u8>)>,
    seed: Seed,
    unsure: Arc<AtomicBool>,
}

impl Remote {
    fn fails(&mut self) -> bool {
        self.unsure.load(Ordering::Relaxed) && self.seed.one_in(4)
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
                return Err(AppendError::Failed { source: io::Error::other("no answer came"), left_nothing: false });
            }
        }
        Ok(())
    }

    fn after(&mut self, number: u64) -> io::Result<Replay> {
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
