//! Reads queues while commits go on.

use std::path::Path;
use std::sync::Arc;

use ::redb::{Database, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, TableError};

use super::apply::{KEYED, QUEUE, SHARED};
use super::redb::{Fault, Inner, contain};
use super::rows::{self, Cursor, Damage, Place, QueueRow, RawMessage};
use super::salvage::Source;
use super::{BackupError, Copied, Keyed, KeyedRow, Message, QueueEntry, Reader, SessionNo, StoreError};

/// Reads pages from the database that the store has open at the moment.
pub(super) struct RedbReader {
    pub(super) inner: Arc<Inner>,
}

impl Reader for RedbReader {
    fn page(
        &self,
        session: SessionNo,
        from: u64,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let limit = Limit { messages: max_messages, bytes: max_bytes };
        let page = self.read(|database| page_of(database, (session.0, from), limit))?;
        let page = if page.damaged.is_empty() {
            page
        } else {
            self.read_again(|database| page_of(database, (session.0, from), limit))?
        };
        for (key, damage) in page.damaged {
            self.inner.saw_damaged_row(key, damage);
        }
        Ok(page.entries)
    }

    fn keyed(&self, of: Keyed, from: &[u8], max_rows: usize, max_bytes: usize) -> Result<Vec<KeyedRow>, StoreError> {
        let limit = Limit { messages: max_rows, bytes: max_bytes };
        let page = self.read(|database| keyed_of(database, (of as u8, from), limit))?;
        let page = if page.damaged.is_empty() {
            page
        } else {
            self.read_again(|database| keyed_of(database, (of as u8, from), limit))?
        };
        for (key, damage) in page.damaged {
            self.inner.saw_damaged_keyed(of, &key, damage);
        }
        Ok(page.rows)
    }

    fn backup(&self, to: &Path) -> Result<Copied, BackupError> {
        let store = |detail: String| BackupError::Store { path: to.to_owned(), detail };
        // The transaction outlives the lock: the writer may need it meanwhile.
        let txn = {
            let database = self.inner.database.read();
            let database = database.as_ref().ok_or_else(|| store(Fault::Closed.to_string()))?;
            contain(|| Ok(database.begin_read()?)).map_err(|fault| store(fault.to_string()))?
        };
        let copied = super::backup::backup(&txn, to)?;
        self.inner.saw_damaged_copy(&copied.damaged);
        Ok(copied)
    }
}

impl RedbReader {
    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, StoreError> {
        let database = self.inner.database.read();
        let done = match database.as_ref() {
            Some(database) => contain(|| read(database)),
            None => Err(Fault::Closed),
        };
        done.map_err(|fault| self.failed(fault))
    }

    /// What is called lost was read twice: the second time from the file, by a reader that has kept nothing of it in memory. Where
    /// that cannot read, nothing is lost yet.
    fn read_again<T>(&self, read: impl FnOnce(&ReadOnlyDatabase) -> Result<T, Fault>) -> Result<T, StoreError> {
        // No commit meanwhile: this reader has no part in redb's own arrangements.
        let _database = self.inner.database.write();
        let second = contain(|| {
            let source = Source::newest(&Arc::new(self.inner.medium.open_to_read()?))?;
            read(&source.database)
        });
        second.map_err(|fault| self.failed(fault))
    }

    fn failed(&self, fault: Fault) -> StoreError {
        self.inner.reader_failed(&fault);
        self.inner.error(fault)
    }
}

/// Keyed rows, and the keys of those that could not be read.
#[derive(Default)]
pub(super) struct KeyedPage {
    pub(super) rows: Vec<KeyedRow>,
    pub(super) damaged: Vec<(Vec<u8>, Damage)>,
}

/// Reads keyed rows of a database.
pub(super) fn keyed_of(
    database: &impl ReadableDatabase,
    (of, from): (u8, &[u8]),
    limit: Limit,
) -> Result<KeyedPage, Fault> {
    let (mut page, mut bytes) = (KeyedPage::default(), 0);
    let txn = database.begin_read()?;
    let table = match txn.open_table(KEYED) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(page),
        table => table?,
    };
    for row in table.range((of, from)..)? {
        let (key, row) = row?;
        let key = key.value();
        if key.0 != of || !page.rows.is_empty() && (page.rows.len() >= limit.messages || bytes >= limit.bytes) {
            break;
        }
        match rows::read_keyed(key, row.value()) {
            Ok(value) => {
                bytes += key.1.len() + value.len();
                page.rows.push((key.1.to_vec(), value.to_vec()));
            }
            Err(damage) => page.damaged.push((key.1.to_vec(), damage)),
        }
    }
    Ok(page)
}

/// When a page is full.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What was read, and the rows that could not be: the places in those are missing from the entries.
#[derive(Default)]
pub(super) struct Page {
    pub(super) entries: Vec<QueueEntry>,
    pub(super) damaged: Vec<((u64, u64), Damage)>,
    bytes: usize,
}

impl Page {
    fn full(&self, limit: Limit) -> bool {
        !self.entries.is_empty() && (self.entries.len() >= limit.messages.max(1) || self.bytes >= limit.bytes)
    }
}

/// Reads a page of a database.
pub(super) fn page_of(database: &impl ReadableDatabase, (no, from): (u64, u64), limit: Limit) -> Result<Page, Fault> {
    let txn = database.begin_read()?;
    let queue = match txn.open_table(QUEUE) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Page::default()),
        table => table?,
    };
    let shared = match txn.open_table(SHARED) {
        Err(TableError::TableDoesNotExist(_)) => None,
        table => Some(table?),
    };
    read_page(&queue, shared, (no, from), limit)
}

type Rows = ReadOnlyTable<(u64, u64), &'static [u8]>;

fn read_page(queue: &Rows, shared: Option<Rows>, (no, from): (u64, u64), limit: Limit) -> Result<Page, Fault> {
    let mut page = Page::default();
    let mut shared = SharedRows::new(shared);
    // The row that holds `from` may begin before it.
    let before = queue.range((no, 0)..=(no, from))?.next_back().transpose()?;
    let first = before.map_or(from, |(key, _)| key.value().1);
    for row in queue.range((no, first)..=(no, u64::MAX))? {
        let (key, row) = row?;
        let key = key.value();
        match read_row(&mut page, key, row.value(), &mut shared, from, limit) {
            Ok(()) => {}
            Err(Fault::Row(damage)) => page.damaged.push((key, damage)),
            Err(fault) => return Err(fault),
        }
        if page.full(limit) {
            break;
        }
    }
    Ok(page)
}

fn read_row(
    page: &mut Page,
    key: (u64, u64),
    row: &[u8],
    shared: &mut SharedRows,
    from: u64,
    limit: Limit,
) -> Result<(), Fault> {
    let mut row = QueueRow::read(key, row)?;
    if row.head.last < from {
        return Ok(());
    }
    while !page.full(limit)
        && let Some(entry) = row.next()?
    {
        if entry.seq < from {
            continue;
        }
        let message = match entry.place {
            Place::Here(message) => message.build()?,
            Place::Shared(index) => {
                let commit = row.head.shared.ok_or(Damage("points to no commit"))?;
                match shared.get(commit, index) {
                    Ok(message) => message,
                    // The entry is lost with its message; those after it need not be.
                    Err(Fault::Row(damage)) => {
                        page.damaged.push((key, damage));
                        continue;
                    }
                    Err(fault) => return Err(fault),
                }
            }
        };
        page.bytes += message.size();
        page.entries.push(entry.with(message));
    }
    Ok(())
}

/// The shared messages of a commit, a row at a time: entries point to them in ascending order as a rule.
pub(super) struct SharedRows {
    table: Option<Rows>,
    /// Which row is below: its commit and the index of its first message.
    at: Option<(u64, u64)>,
    row: Option<SharedRow>,
}

struct SharedRow {
    bytes: Vec<u8>,
    /// Where each message begins.
    starts: Vec<usize>,
}

impl SharedRows {
    pub(super) fn new(table: Option<Rows>) -> Self {
        Self { table, at: None, row: None }
    }

    pub(super) fn get(&mut self, commit: u64, index: u64) -> Result<Arc<Message>, Fault> {
        let missing = Damage("its shared message is missing");
        if !self.holds(commit, index) {
            self.load(commit, index)?;
        }
        let (Some((_, first)), Some(row)) = (self.at, &self.row) else { return Err(missing.into()) };
        let start = usize::try_from(index.saturating_sub(first)).ok().and_then(|at| row.starts.get(at));
        let bytes = start.and_then(|start| row.bytes.get(*start..)).ok_or(missing)?;
        Ok(RawMessage::read(&mut Cursor(bytes))?.build()?)
    }

    fn holds(&self, commit: u64, index: u64) -> bool {
        let (Some((at, first)), Some(row)) = (self.at, &self.row) else { return false };
        at == commit && index >= first && index - first < row.starts.len() as u64
    }

    fn load(&mut self, commit: u64, index: u64) -> Result<(), Fault> {
        (self.at, self.row) = (None, None);
        let Some(table) = &self.table else { return Err(Damage("its shared messages are missing").into()) };
        let Some(row) = table.range((commit, 0)..=(commit, index))?.next_back().transpose()? else {
            return Err(Damage("its shared messages are missing").into());
        };
        let key = row.0.value();
        let bytes = rows::body(row.1.value(), rows::Kind::Shared, &key)?.to_vec();
        let starts = starts(&bytes)?;
        (self.at, self.row) = (Some(key), Some(SharedRow { bytes, starts }));
        Ok(())
    }
}

pub(super) fn starts(bytes: &[u8]) -> Result<Vec<usize>, Damage> {
    let mut cursor = Cursor(bytes);
    let mut starts = Vec::new();
    while !cursor.0.is_empty() {
        starts.push(bytes.len() - cursor.0.len());
        RawMessage::read(&mut cursor)?;
    }
    Ok(starts)
}
