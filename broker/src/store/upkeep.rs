//! What an operator does with the store of a running broker: looks at the journal, folds it, gives room back.

use super::StoreError;

/// How the journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalState {
    /// Bytes of its file; 0 when there is none.
    pub bytes: u64,
    /// Bytes of records that the store's file does not contain, delivered ones included.
    pub pending_bytes: u64,
    /// The last record's number.
    pub last_record: u64,
    /// The last record that the store's file contains.
    pub folded_record: u64,
}

/// What a fold has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Numbers of records that the file did not contain before.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the store's file takes on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// It would hold readers up for too long.
    #[error(
        "the store holds {live} bytes of messages, and while the broker runs it is compacted up to {max}: wait until its queues have \
         drained, or stop the broker and use `forebay store compact`"
    )]
    TooMuch {
        /// Bytes that are in use.
        live: u64,
        /// The limit.
        max: u64,
    },
    /// A backup reads it.
    #[error("a backup is being made: try again when it is done")]
    Busy,
    /// As a commit's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store of a running broker, for operators. Each call may take as long as the disk does; commits go on.
pub trait Upkeep: Send + Sync {
    /// How the journal is.
    fn journal(&self) -> JournalState;

    /// Moves what is in the journal into the store's file.
    ///
    /// # Errors
    /// As a commit's: what is in the journal stays there.
    fn fold(&self) -> Result<Folded, UpkeepError>;

    /// Gives room that the file does not need any more back to the file system. Commits go to the journal meanwhile; who
    /// reads from the disk, and a commit for which the journal has no room, waits until it is done.
    ///
    /// # Errors
    /// [`UpkeepError`]; the store is as it was.
    fn compact(&self) -> Result<Compacted, UpkeepError>;
}
