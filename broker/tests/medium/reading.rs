//! A file that is read in another way.

use std::io;

use forebay::store::medium::Backend;
use redb::StorageBackend;

/// A file whose reads are something else: `1` makes them, of the file. Everything else is done as it is asked.
pub struct Reading<F>(pub Backend, pub F);

impl<F> std::fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").finish_non_exhaustive()
    }
}

impl<F: Fn(&Backend, u64, &mut [u8]) -> io::Result<()> + Send + Sync + 'static> StorageBackend for Reading<F> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        (self.1)(&self.0, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
