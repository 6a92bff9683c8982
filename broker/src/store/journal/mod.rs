//! The journal: what a commit costs is one append in sequence, and redb is told later, of many commits at once.
//!
//! A [`Journal`] keeps records under ascending numbers. [`store::JournaledStore`] puts each batch into a record, and now
//! and then *folds*: all batches since the last fold go into redb as one, and the records are forgotten. At the start the
//! records that redb does not contain are read back. docs/storage.md has the bytes.

pub mod device;
pub mod file;
mod fold;
mod pending;
mod reader;
mod record;
mod source;
pub mod store;

pub(super) use source::{Source, read_patiently, read_pending};

use super::Batch;
use super::medium::Medium;
use super::rows::Mark;

use std::io;

/// What the journal of a store with this mark holds that the store does not, as one batch, and the number of its last record;
/// and what is wrong with the journal.
///
/// # Errors
/// It cannot be read for now.
pub(super) fn pending_batch(medium: &dyn Medium, mark: &Mark) -> io::Result<(Option<Batch>, u64, Vec<String>)> {
    let source = read_pending(medium, mark)?;
    let batch = (!source.pending.is_empty()).then(|| source.pending.batch());
    Ok((batch, source.last, source.lost))
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// There is no room before records have been forgotten.
    #[error("the journal is full")]
    Full,
    /// The device, or whatever stands in its place, failed.
    #[error("the journal cannot be written: {source}")]
    Failed {
        /// The cause.
        source: io::Error,
        /// Nothing of the record will be found at a later start. Otherwise nobody knows, and the same holds for those
        /// appended behind it.
        left_nothing: bool,
    },
}

/// What a journal holds at the start.
#[derive(Debug, Default)]
pub struct Replay {
    /// Number and content, ascending.
    pub records: Vec<(u64, Vec<u8>)>,
    /// What is wrong with it, one line each; damage that was found on the way to later records.
    pub lost: Vec<String>,
}

/// Appends records durably, and gives them back after a crash: a file, or a replicated log.
pub trait Journal: Send {
    /// Begins to append a record under a number above all before it. It is durable once [`Journal::settle`] says so: several
    /// may be under way, and they complete in order.
    ///
    /// # Errors
    /// [`AppendError`]. The number is not used again; whether the record is there is open until the next start unless
    /// the error says so.
    fn append(&mut self, number: u64, record: &[u8]) -> Result<(), AppendError>;

    /// Waits until all that was appended is durable.
    ///
    /// # Errors
    /// As [`Journal::append`], for the first of them that is not, and all behind it.
    fn settle(&mut self) -> Result<(), AppendError>;

    /// The records above `number`, as far as they are there.
    ///
    /// # Errors
    /// Those of the device.
    fn after(&mut self, number: u64) -> io::Result<Replay>;

    /// Records up to and with `number` are not needed any more: their room may be used again.
    fn forget(&mut self, number: u64);

    /// Whether so many bytes can be appended now.
    fn has_room(&self, bytes: usize) -> bool;

    /// All that it may hold, in bytes.
    fn size(&self) -> u64;

    /// Which part of it is in use, in percent.
    fn used_percent(&self) -> u64;

    /// Bytes written to the device since it was opened.
    fn written_bytes(&self) -> u64;
}
