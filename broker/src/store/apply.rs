//! Writes one batch into an open write transaction: the only code that changes rows.

use std::collections::BTreeMap;

use ::redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::clean::{Backlog, Cleaned, Cleaning, DONE, ENDING, Task};
use super::redb::Fault;
use super::rows::{self, Mark, QueueHead, QueueRow};
use super::shared::SharedMessages;
use super::{Batch, Committed, KeyedChange, QueueEntry, QueueState, RetainedChange, SessionDelta};

pub(super) const QUEUE: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("queue");
pub(super) const SHARED: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("shared");
pub(super) const REFS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("refs");
pub(super) const STATE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("state");
pub(super) const SESSION: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("session");
pub(super) const SUBSCRIPTION: TableDefinition<'static, (u64, &str), &[u8]> = TableDefinition::new("subscription");
pub(super) const RETAINED: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("retained");
pub(super) const KEYED: TableDefinition<'static, (u8, &[u8]), &[u8]> = TableDefinition::new("keyed");
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// A row is closed when it has grown to this: what one read of a page brings in, and what one damaged row costs.
/// A row of this and a little more fills a page of 64 KiB.
pub(super) const ROW_BYTES: usize = 60 * 1024;

/// What a row takes in the file, estimated from its length: pages of 4 KiB hold small rows, a larger one has a page
/// of its own, whose size is a power of two. Must never change for a format: it is subtracted when the row goes.
pub(super) fn charge(len: usize) -> u64 {
    const PAGE: usize = 4096;
    let bytes = if len > PAGE / 2 { (len + 64).next_power_of_two().max(PAGE) } else { len + len / 2 + 48 };
    bytes as u64
}

/// All tables, open for writing.
pub(super) struct Tables<'t> {
    pub(super) queue: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) shared: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) refs: Table<'t, u64, &'static [u8]>,
    pub(super) state: Table<'t, u64, &'static [u8]>,
    pub(super) session: Table<'t, u64, &'static [u8]>,
    pub(super) subscription: Table<'t, (u64, &'static str), &'static [u8]>,
    pub(super) retained: Table<'t, &'static str, &'static [u8]>,
    pub(super) done: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) ending: Table<'t, u64, &'static [u8]>,
    pub(super) meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            queue: txn.open_table(QUEUE)?,
            shared: txn.open_table(SHARED)?,
            refs: txn.open_table(REFS)?,
            state: txn.open_table(STATE)?,
            session: txn.open_table(SESSION)?,
            subscription: txn.open_table(SUBSCRIPTION)?,
            retained: txn.open_table(RETAINED)?,
            done: txn.open_table(DONE)?,
            ending: txn.open_table(ENDING)?,
            meta: txn.open_table(META)?,
        })
    }
}

/// What applying a batch came to.
pub(super) struct Applied {
    pub(super) committed: Committed,
    pub(super) mark: Mark,
    /// Messages were written, and the rows now take more than before.
    pub(super) grew: bool,
    pub(super) added: u64,
    /// For the backlog, once the transaction is committed.
    pub(super) cleaned: Cleaned,
}

/// Applies the whole batch, and deletes some of what nobody needs. `uncertain` says that the commit before failed, so that
/// its rows may be there already.
pub(super) fn apply(
    txn: &WriteTransaction,
    batch: &Batch,
    mark: Mark,
    uncertain: bool,
    backlog: &Backlog,
) -> Result<Applied, Fault> {
    let mut writer = Writer::new(Tables::open(txn)?, mark.commit);
    let mut last_session = mark.last_session;
    let shared = SharedMessages::find(batch);
    for delta in &batch.sessions {
        last_session = last_session.max(delta.no.0);
        writer.session(delta, &shared, uncertain)?;
    }
    writer.owners(txn, batch)?;
    writer.shared_rows(&shared)?;
    let cleaned = writer.clean(backlog)?;
    writer.settle_references()?;
    let mut messages = !shared.list().is_empty() || batch.sessions.iter().any(|delta| !delta.enqueued.is_empty());
    for change in &batch.retained {
        messages |= change.message.is_some();
        writer.retained(change)?;
    }
    messages |= batch.keyed.iter().any(|change| change.value.is_some());
    writer.keyed(txn, &batch.keyed)?;
    if let Some(ledger) = &batch.ended_ledger {
        let row = rows::ended(ledger);
        writer.tables.meta.insert(rows::ENDED, row.as_slice())?;
        writer.wrote(row.len());
    }
    let live_bytes = mark.live_bytes.saturating_add(writer.added).saturating_sub(writer.removed);
    let mark = Mark { clock: batch.clock, last_session, live_bytes, ..mark };
    let row = rows::mark(&mark);
    writer.tables.meta.insert(rows::MARK, row.as_slice())?;
    writer.wrote(row.len());
    let grew = messages && writer.added > writer.removed;
    Ok(Applied { committed: writer.committed, mark, grew, added: writer.added, cleaned })
}

pub(super) struct Writer<'t> {
    pub(super) tables: Tables<'t>,
    commit: u64,
    added: u64,
    removed: u64,
    /// By commit: queue rows that point to it now, less those that no longer do.
    references: BTreeMap<u64, i64>,
    pub(super) cleaning: Cleaning,
    pub(super) committed: Committed,
}

impl<'t> Writer<'t> {
    fn new(tables: Tables<'t>, commit: u64) -> Self {
        Self {
            tables,
            commit,
            added: 0,
            removed: 0,
            references: BTreeMap::new(),
            cleaning: Cleaning::default(),
            committed: Committed::default(),
        }
    }
}

impl Writer<'_> {
    fn session(&mut self, delta: &SessionDelta, shared: &SharedMessages<'_>, uncertain: bool) -> Result<(), Fault> {
        let no = delta.no.0;
        if delta.ended {
            return self.end(no);
        }
        if let Some(record) = &delta.record {
            let row = rows::session(no, record);
            self.tables.session.insert(no, row.as_slice())?;
            self.wrote(row.len());
        }
        for filter in &delta.unsubscribed {
            self.tables.subscription.remove((no, filter.as_str()))?;
        }
        for subscription in &delta.subscribed {
            let row = rows::subscription(no, subscription);
            self.tables.subscription.insert((no, subscription.filter.as_str()), row.as_slice())?;
            self.wrote(row.len());
        }
        if uncertain {
            let first = delta.enqueued.first().map(|entry| entry.seq);
            if let Some(from) = first.or(delta.state.as_ref().map(|state| state.next_seq)) {
                self.remove_from(no, from)?;
            }
        }
        self.queue_rows(no, &delta.enqueued, shared)?;
        if let Some(state) = &delta.state {
            self.state(no, state, &delta.done, uncertain)?;
        }
        Ok(())
    }

    /// The session is gone; its other rows go as fast as they can.
    fn end(&mut self, no: u64) -> Result<(), Fault> {
        self.tables.session.remove(no)?;
        self.tables.state.remove(no)?;
        if !self.ended(no)? {
            self.cleaning.add(Task::Ended(no));
        }
        Ok(())
    }

    /// A row was inserted or replaced.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.committed.rows += 1;
        self.committed.bytes += bytes as u64;
    }

    /// Writes the entries in rows of about [`ROW_BYTES`].
    fn queue_rows(&mut self, no: u64, entries: &[QueueEntry], shared: &SharedMessages<'_>) -> Result<(), Fault> {
        let mut left = entries.iter().peekable();
        let mut encoded = Vec::new();
        while let Some(first) = left.peek().map(|entry| entry.seq) {
            encoded.clear();
            let mut head = QueueHead { last: first, count: 0, shared: None };
            while encoded.len() < ROW_BYTES
                && let Some(entry) = left.next()
            {
                let index = shared.index(&entry.message);
                if index.is_some() {
                    head.shared = Some(self.commit);
                } else {
                    self.committed.message_bytes += entry.message.size() as u64;
                }
                rows::put_entry(&mut encoded, head.last, entry, index);
                head.last = entry.seq;
                head.count += 1;
            }
            let row = rows::queue((no, first), &head, &encoded);
            self.tables.queue.insert((no, first), row.as_slice())?;
            self.added += charge(row.len());
            self.wrote(row.len());
            if let Some(commit) = head.shared {
                *self.references.entry(commit).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Writes the messages that several queues of this commit point to, each once.
    fn shared_rows(&mut self, shared: &SharedMessages<'_>) -> Result<(), Fault> {
        let mut left = shared.list().iter().peekable();
        let mut first = 0;
        while left.peek().is_some() {
            let mut row = rows::begin();
            let mut next = first;
            while row.len() < ROW_BYTES
                && let Some(message) = left.next()
            {
                rows::put_message(&mut row, message);
                self.committed.message_bytes += message.size() as u64;
                next += 1;
            }
            let row = rows::seal(row, rows::Kind::Shared, &(self.commit, first));
            self.tables.shared.insert((self.commit, first), row.as_slice())?;
            self.added += charge(row.len());
            self.wrote(row.len());
            first = next;
        }
        Ok(())
    }

    /// Brings the counts of references up to date; what nobody points to any more is deleted.
    fn settle_references(&mut self) -> Result<(), Fault> {
        for (commit, change) in std::mem::take(&mut self.references) {
            let before = match self.tables.refs.get(commit)? {
                None => 0,
                // How many still point to it is unknown: the messages stay until the store is compacted.
                Some(row) => match rows::read_refs(commit, row.value()) {
                    Ok(count) => count,
                    Err(_) => continue,
                },
            };
            match before.saturating_add_signed(change) {
                0 => self.remove_shared(commit)?,
                count => {
                    let row = rows::refs(commit, count);
                    self.tables.refs.insert(commit, row.as_slice())?;
                    self.wrote(row.len());
                }
            }
        }
        Ok(())
    }

    fn remove_shared(&mut self, commit: u64) -> Result<(), Fault> {
        self.tables.refs.remove(commit)?;
        let mut keys = Vec::new();
        for row in self.tables.shared.range((commit, 0)..=(commit, u64::MAX))? {
            keys.push(row?.0.value());
        }
        for key in keys {
            if let Some(row) = self.tables.shared.remove(key)? {
                self.removed += charge(row.value().len());
            }
        }
        Ok(())
    }

    pub(super) fn remove_rows(&mut self, no: u64, firsts: impl IntoIterator<Item = u64>) -> Result<(), Fault> {
        for first in firsts {
            let Some(row) = self.tables.queue.remove((no, first))? else { continue };
            self.removed += charge(row.value().len());
            if let Ok(row) = QueueRow::read((no, first), row.value())
                && let Some(commit) = row.head.shared
            {
                *self.references.entry(commit).or_default() -= 1;
            }
        }
        Ok(())
    }

    /// Removes rows that hold `from` or anything after it. Called when the commit before failed but may have reached
    /// the disk: such rows are its, and what of it is still wanted is in the batch again.
    fn remove_from(&mut self, no: u64, from: u64) -> Result<(), Fault> {
        let mut firsts = Vec::new();
        for row in self.tables.queue.range((no, 0)..=(no, u64::MAX))?.rev() {
            let (key, row) = row?;
            let key = key.value();
            let last = QueueRow::read(key, row.value()).map_or(key.1, |row| row.head.last);
            if last < from {
                break;
            }
            firsts.push(key.1);
        }
        self.remove_rows(no, firsts)
    }

    fn state(&mut self, no: u64, state: &QueueState, done: &[(u64, u64)], uncertain: bool) -> Result<(), Fault> {
        let row = rows::state(no, state);
        let old = match self.tables.state.insert(no, row.as_slice())? {
            Some(old) => rows::read_state(no, old.value()).unwrap_or_default(),
            None => QueueState::default(),
        };
        self.wrote(row.len());
        if uncertain {
            self.unmark_from(no, state.next_seq)?;
        }
        if state.floor > old.floor {
            self.cleaning.add(Task::Below(no));
        }
        for (start, end) in done {
            let range = ((*start).max(state.floor), (*end).min(state.next_seq));
            self.mark_done(no, range)?;
        }
        Ok(())
    }

    /// The table is opened only when something of it changes: most commits have none.
    fn keyed(&mut self, txn: &WriteTransaction, changes: &[KeyedChange]) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut table = txn.open_table(KEYED)?;
        for change in changes {
            let key = (change.of as u8, change.key.as_slice());
            let old = match &change.value {
                None => table.remove(key)?,
                Some(value) => {
                    let row = rows::keyed(key, value);
                    self.added += charge(row.len());
                    self.wrote(row.len());
                    self.committed.message_bytes += value.len() as u64;
                    table.insert(key, row.as_slice())?
                }
            };
            if let Some(old) = old {
                self.removed += charge(old.value().len());
            }
        }
        Ok(())
    }

    fn retained(&mut self, change: &RetainedChange) -> Result<(), Fault> {
        let topic = change.topic.as_str();
        let old = match &change.message {
            None => self.tables.retained.remove(topic)?,
            Some(message) => {
                let row = rows::retained(topic, message);
                self.added += charge(row.len());
                self.wrote(row.len());
                self.committed.message_bytes += message.size() as u64;
                self.tables.retained.insert(topic, row.as_slice())?
            }
        };
        if let Some(old) = old {
            self.removed += charge(old.value().len());
        }
        Ok(())
    }
}

/// Marks what states of format 1 say is done, where there are rows of it, and writes those states without it.
pub(super) fn mark_old_states(txn: &WriteTransaction) -> Result<(), Fault> {
    let mut writer = Writer::new(Tables::open(txn)?, 0);
    let mut old = Vec::new();
    for row in writer.tables.state.iter()? {
        let (no, row) = row?;
        let (no, row) = (no.value(), row.value());
        // One that cannot be read is the recovery's.
        if rows::is_old_state(row)
            && let Ok(state) = rows::read_state(no, row)
        {
            old.push((no, state));
        }
    }
    for (no, mut state) in old {
        let done = std::mem::take(&mut state.done);
        writer.state(no, &state, &done, false)?;
    }
    writer.cleaning.put_off();
    writer.clean(&Backlog::default())?;
    Ok(())
}
