//! A file that is read and never changed: what is written stays in memory. redb can so repair a store that was not closed, for
//! whoever only wants to look.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use ::redb::{BackendError, StorageBackend};
use parking_lot::Mutex;

use crate::store::medium::Backend;

const PAGE: u64 = 4096;

/// The file, and over it what was written.
#[derive(Debug)]
pub(in crate::store) struct Untouched {
    file: Backend,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    len: u64,
    /// How much of the file is below: less than it has once it was cut.
    file_len: u64,
    /// Pages that were written to, by number.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Untouched {
    pub(in crate::store) fn new(file: Backend) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, over: Mutex::new(Over { len, file_len: len, pages: BTreeMap::new() }) })
    }

    fn page(&self, over: &Over, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = over.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; size(PAGE)];
        let there = size(over.file_len.saturating_sub(number * PAGE).min(PAGE));
        if let Some(there) = page.get_mut(..there)
            && !there.is_empty()
        {
            self.file.read(number * PAGE, there)?;
        }
        Ok(page)
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Calls `f` with each page that the range touches: its number, where in it the part begins, and where in the range.
fn parts(offset: u64, len: usize, mut f: impl FnMut(u64, usize, usize, usize) -> io::Result<()>) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let here = offset + at as u64;
        let within = size(here % PAGE);
        let part = (size(PAGE) - within).min(len - at);
        f(here / PAGE, within, at, part)?;
        at += part;
    }
    Ok(())
}

fn copy(from: &[u8], from_at: usize, to: &mut [u8], to_at: usize, len: usize) {
    if let (Some(from), Some(to)) = (from.get(from_at..from_at + len), to.get_mut(to_at..to_at + len)) {
        to.copy_from_slice(from);
    }
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over.lock();
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > over.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        parts(offset, out.len(), |number, within, at, len| {
            copy(&self.page(&over, number)?, within, out, at, len);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over.lock();
        over.len = len;
        // What is cut off reads as zeros when the file grows again.
        over.file_len = over.file_len.min(len);
        over.pages.retain(|number, _| number * PAGE < len);
        if let Some(page) = over.pages.get_mut(&(len / PAGE)) {
            page.iter_mut().skip(size(len % PAGE)).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over.lock();
        parts(offset, data.len(), |number, within, at, len| {
            let mut page = self.page(&over, number)?;
            copy(data, at, &mut page, within, len);
            over.pages.insert(number, page);
            Ok(())
        })
    }

    // The folder's lock keeps others out.
    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Err(BackendError::Unsupported)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use ::redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn reads_as_the_file_with_what_was_written_and_leaves_it_alone() {
        let file = InMemoryBackend::new();
        file.set_len(10_000).unwrap();
        file.write(0, &[1; 10_000]).unwrap();
        let over = Untouched::new(Backend::new(file)).unwrap();
        let mut wanted = vec![1; 10_000];
        let mut read = vec![0; 10_000];
        over.write(4000, &[2; 5000]).unwrap();
        wanted[4000..9000].fill(2);
        over.read(0, &mut read).unwrap();
        assert_eq!(read, wanted);
        over.set_len(5000).unwrap();
        assert!(over.read(4999, &mut [0; 2]).is_err());
        over.set_len(10_000).unwrap();
        wanted[5000..].fill(0);
        over.read(0, &mut read).unwrap();
        assert_eq!(read, wanted);
        over.file.read(0, &mut read).unwrap();
        assert_eq!(read, [1; 10_000]);
    }
}
