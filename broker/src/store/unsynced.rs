//! What a failed sync may have lost. The system reports a write that did not reach the device once, and takes the data in
//! its cache for clean from then on: it is read back as if it were on the disk, the next sync succeeds, and the next
//! power cut shows the hole. So after a failed sync everything written since the last good one is written again,
//! from what the cache has, before anything relies on it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::redb::StorageBackend;
use parking_lot::Mutex;

use super::medium::Backend;

/// Bytes that are read and written again at once.
const PIECE_BYTES: u64 = 1024 * 1024;

/// What cannot be read alone: a page of the system's cache.
const SECTOR_BYTES: u64 = 4096;

/// Remembers what was written, over the closing and opening of the file.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// From, to: since the last sync that succeeded.
    written: Mutex<Vec<(u64, u64)>>,
    failed: AtomicBool,
    /// Bytes of all writes.
    bytes: AtomicU64,
}

impl Unsynced {
    /// A sync has failed, and what it was for has not been written again.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Bytes written since the start.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn writes(&self, offset: u64, len: usize) {
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.written.lock().push((offset, offset.saturating_add(len as u64)));
    }

    pub(super) fn syncs(&self, result: &io::Result<()>) {
        match result {
            // After a failure a good sync says nothing of what the failed one was for.
            Ok(()) if self.failed() => {}
            Ok(()) => self.clear(),
            Err(_) => self.failed.store(true, Ordering::Relaxed),
        }
    }

    /// Writes again what a failed sync may have lost, and syncs it.
    pub(super) fn write_again(&self, backend: &Backend) -> io::Result<()> {
        if !self.failed() {
            return Ok(());
        }
        let len = backend.len()?;
        for (from, to) in self.written.lock().iter() {
            write_again(backend, *from, (*to).min(len))?;
        }
        backend.sync_data()?;
        self.clear();
        Ok(())
    }

    fn clear(&self) {
        self.written.lock().clear();
        self.failed.store(false, Ordering::Relaxed);
    }
}

/// The whole file: after a start nobody knows what was written before a sync failed.
pub(super) fn write_all_again(backend: &Backend) -> io::Result<()> {
    write_again(backend, 0, backend.len()?)?;
    backend.sync_data()
}

/// What cannot be read cannot be written either; whoever checks the file will see it. A sector of it hides no other.
fn write_again(backend: &Backend, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let end = to.min(from.saturating_add(PIECE_BYTES));
        if !piece_again(backend, from, end)? {
            let mut at = from;
            while at < end {
                let next = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
                piece_again(backend, at, next)?;
                at = next;
            }
        }
        from = end;
    }
    Ok(())
}

/// False: it cannot be read.
fn piece_again(backend: &Backend, from: u64, to: u64) -> io::Result<bool> {
    let mut piece = vec![0; usize::try_from(to - from).unwrap_or_default()];
    if backend.read(from, &mut piece).is_err() {
        return Ok(false);
    }
    backend.write(from, &piece)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    /// Its second page cannot be read; where it was written to.
    #[derive(Clone, Debug, Default)]
    struct BadPage(Arc<Mutex<Vec<(u64, usize)>>>);

    impl StorageBackend for BadPage {
        fn len(&self) -> io::Result<u64> {
            Ok(5 * SECTOR_BYTES + 100)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let overlaps = offset < 2 * SECTOR_BYTES && offset + out.len() as u64 > SECTOR_BYTES;
            if overlaps { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
        }

        fn set_len(&self, _len: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.lock().push((offset, data.len()));
            Ok(())
        }
    }

    #[test]
    fn a_sector_that_cannot_be_read_leaves_no_other_unwritten() {
        let pages = BadPage::default();
        write_all_again(&Backend::new(pages.clone())).unwrap();
        let written = [(0, 4096), (8192, 4096), (12_288, 4096), (16_384, 4096), (20_480, 100)];
        assert_eq!(*pages.0.lock(), written);
    }
}
