//! What an operator does with a store that no broker holds: `forebay store verify`, `export`, `import`, `compact`.

mod export;
mod import;
mod lines;
mod untouched;
mod verify;

use std::fmt;
use std::io;
use std::path::Path;

use ::redb::{Builder, Database};

use super::apply::apply;
use super::clean::Backlog;
use super::medium::{Backend, FILE_NAME, Folder, RECOVERING_NAME};
use super::redb::{Fault, Inner, StoreOptions, contain, open_database};
use super::rows::Mark;
use super::{StoreError, journal, rebuild, recover};
pub(super) use untouched::Untouched;

pub use super::upkeep::Compacted;
pub use export::export;
pub use import::import;
pub use verify::{Verdict, verify};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The folder has no store.
    #[error("there is no store in {path}; name its folder with --data-dir, or its configuration with --config")]
    NoStore {
        /// The folder.
        path: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Only a broker's start may recover a store.
    #[error("{path} is damaged ({detail}); start the broker on it, which keeps what can be read, then try again")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// An import would mix two stores.
    #[error("{path} is not empty ({found}); import into another --data-dir, or move that file away")]
    NotEmpty {
        /// The file.
        path: String,
        /// What it holds.
        found: Counts,
    },
    /// A line of an import.
    #[error("line {number}: {detail}; nothing was imported")]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// What is exported cannot be written, or what is imported cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Messages in queues.
    pub queued: u64,
    /// Their bytes: topics, properties, payloads.
    pub queued_bytes: u64,
    /// Retained messages.
    pub retained: u64,
    /// Keyed rows: what belongs neither to a session nor to a retained topic.
    pub keyed: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, subscriptions, queued, queued_bytes, retained, keyed } = self;
        write!(
            f,
            "{sessions} sessions, {subscriptions} subscriptions, {queued} queued messages of {queued_bytes} bytes, \
             {retained} retained messages"
        )?;
        if *keyed > 0 { write!(f, ", {keyed} keyed rows") } else { Ok(()) }
    }
}

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, ..StoreOptions::default() }
}

/// Locks the folder of a store that is there.
fn lock(dir: &Path) -> Result<Inner, ToolError> {
    if !dir.join(FILE_NAME).exists() && !dir.join(RECOVERING_NAME).exists() {
        return Err(ToolError::NoStore { path: dir.display().to_string() });
    }
    let inner = Inner::new(Folder::open(dir)?, &options());
    if dir.join(RECOVERING_NAME).exists() {
        let detail = "its recovery was cut off".to_owned();
        return Err(ToolError::Damaged { path: inner.medium.name(), detail });
    }
    Ok(inner)
}

/// The fault as the tool says it.
fn error(inner: &Inner, fault: Fault) -> ToolError {
    if fault.is_damage() {
        return ToolError::Damaged { path: inner.medium.name(), detail: fault.to_string() };
    }
    inner.error(fault).into()
}

/// A store that is looked at.
struct Looked {
    /// With what the journal has over it.
    database: Database,
    /// The format of the file, whatever the journal has made of it in memory.
    format: Option<u32>,
    /// What is wrong with the journal.
    wrong: Vec<String>,
}

/// Opens the store to look at it, with what its journal has over it: its files stay as they are.
fn open_untouched(inner: &Inner) -> Result<Looked, Fault> {
    contain(|| {
        let backend = Backend::new(Untouched::new(inner.medium.open()?)?);
        recover::clear_unfinished(&backend)?;
        let database = Builder::new().set_cache_size(inner.options.cache_bytes).create_with_backend(backend)?;
        let format = recover::read_format(&database)?;
        let wrong = fold_journal(inner, &database)?;
        Ok(Looked { database, format, wrong })
    })
}

/// Brings what the journal has into the store.
fn fold_journal(inner: &Inner, database: &Database) -> Result<Vec<String>, Fault> {
    let mark = recover::read_mark(database)?;
    let (batch, last, wrong) = journal::pending_batch(inner.medium.as_ref(), &mark)?;
    if let Some(batch) = batch {
        // What is done of states of an older format must be known before a later state takes their place.
        recover::migrate(database)?;
        let mark = Mark { commit: mark.commit + 1, folded: last, ..mark };
        let txn = database.begin_write()?;
        apply(&txn, &batch, mark, false, &Backlog::default())?;
        txn.commit()?;
    }
    Ok(wrong)
}

/// Gives room that the file does not need any more back to the file system.
///
/// # Errors
/// There is no store, a broker holds it, it is damaged, or the device fails.
pub fn compact(dir: &Path) -> Result<Compacted, ToolError> {
    let inner = lock(dir)?;
    let size = || std::fs::metadata(dir.join(FILE_NAME)).map(|meta| meta.len());
    let before = size()?;
    contain(|| {
        let mut database = open_database(&inner, true)?;
        // A newer format is not ours to move about.
        let found = recover::load(&database)?;
        if let Some(row) = found.damaged.first() {
            return Err(row.damage.into());
        }
        let wrong = fold_journal(&inner, &database)?;
        if let Some(line) = wrong.into_iter().next() {
            return Err(Fault::Io(io::Error::other(line)));
        }
        let txn = database.begin_write()?;
        rebuild::recount(&mut super::apply::Tables::open(&txn)?)?;
        txn.commit()?;
        while database.compact()? {}
        Ok(())
    })
    .map_err(|fault| error(&inner, fault))?;
    Ok(Compacted { before, after: size()? })
}
