//! Writes one batch into an open write transaction: the only code that changes rows.

use std::collections::{BTreeMap, BTreeSet};

use ::redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use hashbrown::HashMap;

use super::redb::Fault;
use super::rows::{self, Mark, QueueHead, QueueRow};
use super::{Batch, Committed, Message, QueueEntry, QueueState, RetainedChange, SessionDelta};

pub(super) const QUEUE: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("queue");
pub(super) const SHARED: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("shared");
pub(super) const REFS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("refs");
pub(super) const STATE: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("state");
pub(super) const SESSION: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("session");
pub(super) const SUBSCRIPTION: TableDefinition<'static, (u64, &str), &[u8]> = TableDefinition::new("subscription");
pub(super) const RETAINED: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("retained");
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
}

/// Applies the whole batch. `uncertain` says that the commit before failed, so that its rows may be there already.
pub(super) fn apply(txn: &WriteTransaction, batch: &Batch, mark: Mark, uncertain: bool) -> Result<Applied, Fault> {
    let mut writer = Writer {
        tables: Tables::open(txn)?,
        commit: mark.commit,
        added: 0,
        removed: 0,
        references: BTreeMap::new(),
        committed: Committed::default(),
    };
    let mut last_session = mark.last_session;
    let mut shared = SharedMessages::find(batch);
    for delta in &batch.sessions {
        last_session = last_session.max(delta.no.0);
        writer.session(delta, &mut shared, uncertain)?;
    }
    writer.shared_rows(&shared)?;
    writer.settle_references()?;
    let mut messages = !shared.is_empty() || batch.sessions.iter().any(|delta| !delta.enqueued.is_empty());
    for change in &batch.retained {
        messages |= change.message.is_some();
        writer.retained(change)?;
    }
    if let Some(ledger) = &batch.ended_ledger {
        writer.tables.meta.insert(rows::ENDED, rows::ended(ledger).as_slice())?;
        writer.committed.rows += 1;
    }
    let live_bytes = mark.live_bytes.saturating_add(writer.added).saturating_sub(writer.removed);
    let mark = Mark { clock: batch.clock, last_session, commit: mark.commit, live_bytes };
    writer.tables.meta.insert(rows::MARK, rows::mark(&mark).as_slice())?;
    writer.committed.rows += 1;
    let grew = messages && writer.added > writer.removed;
    Ok(Applied { committed: writer.committed, mark, grew, added: writer.added })
}

/// The messages that are in more than one queue of the batch, in the order in which they are first pointed to.
struct SharedMessages<'b> {
    /// By the message's address: how it is kept. Empty when the batch touches one queue.
    kept: HashMap<usize, Kept>,
    list: Vec<&'b Message>,
}

#[derive(Clone, Copy)]
enum Kept {
    Once,
    Shared,
    At(u64),
}

impl<'b> SharedMessages<'b> {
    fn find(batch: &'b Batch) -> Self {
        let mut kept = HashMap::new();
        let filled = |delta: &&SessionDelta| !delta.ended && !delta.enqueued.is_empty();
        if batch.sessions.iter().filter(filled).nth(1).is_some() {
            for entry in batch.sessions.iter().filter(filled).flat_map(|delta| &delta.enqueued) {
                kept.entry(address(&entry.message)).and_modify(|kept| *kept = Kept::Shared).or_insert(Kept::Once);
            }
        }
        Self { kept, list: Vec::new() }
    }

    /// Its index among the commit's shared messages, given when first asked for; `None` if it is in one queue only.
    fn index(&mut self, message: &'b Message) -> Option<u64> {
        let kept = self.kept.get_mut(&address(message))?;
        match *kept {
            Kept::Once => None,
            Kept::At(index) => Some(index),
            Kept::Shared => {
                let index = self.list.len() as u64;
                *kept = Kept::At(index);
                self.list.push(message);
                Some(index)
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

fn address(message: &Message) -> usize {
    std::ptr::from_ref(message).addr()
}

struct Writer<'t> {
    tables: Tables<'t>,
    commit: u64,
    added: u64,
    removed: u64,
    /// By commit: queue rows that point to it now, less those that no longer do.
    references: BTreeMap<u64, i64>,
    committed: Committed,
}

impl Writer<'_> {
    fn session<'b>(
        &mut self,
        delta: &'b SessionDelta,
        shared: &mut SharedMessages<'b>,
        uncertain: bool,
    ) -> Result<(), Fault> {
        let no = delta.no.0;
        if delta.ended {
            return self.end(no);
        }
        if let Some(record) = &delta.record {
            self.tables.session.insert(no, rows::session(no, record).as_slice())?;
            self.committed.rows += 1;
        }
        for filter in &delta.unsubscribed {
            self.tables.subscription.remove((no, filter.as_str()))?;
        }
        for subscription in &delta.subscribed {
            let row = rows::subscription(no, subscription);
            self.tables.subscription.insert((no, subscription.filter.as_str()), row.as_slice())?;
            self.committed.rows += 1;
        }
        if uncertain && let Some(first) = delta.enqueued.first() {
            self.remove_from(no, first.seq)?;
        }
        self.queue_rows(no, &delta.enqueued, shared)?;
        if let Some(state) = &delta.state {
            self.state(no, state)?;
        }
        Ok(())
    }

    /// Everything of a session goes.
    fn end(&mut self, no: u64) -> Result<(), Fault> {
        self.tables.session.remove(no)?;
        self.tables.state.remove(no)?;
        let mut filters = Vec::new();
        for row in self.tables.subscription.range((no, "")..(no.saturating_add(1), ""))? {
            filters.push(row?.0.value().1.to_owned());
        }
        for filter in filters {
            self.tables.subscription.remove((no, filter.as_str()))?;
        }
        let mut firsts = Vec::new();
        for row in self.tables.queue.range((no, 0)..=(no, u64::MAX))? {
            firsts.push(row?.0.value().1);
        }
        self.remove_rows(no, firsts)
    }

    /// Writes the entries in rows of about [`ROW_BYTES`].
    fn queue_rows<'b>(
        &mut self,
        no: u64,
        entries: &'b [QueueEntry],
        shared: &mut SharedMessages<'b>,
    ) -> Result<(), Fault> {
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
            self.committed.rows += 1;
            if let Some(commit) = head.shared {
                *self.references.entry(commit).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Writes the messages that several queues of this commit point to, each once.
    fn shared_rows(&mut self, shared: &SharedMessages<'_>) -> Result<(), Fault> {
        let mut left = shared.list.iter().peekable();
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
            self.committed.rows += 1;
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
                    self.tables.refs.insert(commit, rows::refs(commit, count).as_slice())?;
                    self.committed.rows += 1;
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

    fn remove_rows(&mut self, no: u64, firsts: impl IntoIterator<Item = u64>) -> Result<(), Fault> {
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

    fn state(&mut self, no: u64, state: &QueueState) -> Result<(), Fault> {
        let row = rows::state(no, state);
        let old = match self.tables.state.insert(no, row.as_slice())? {
            Some(old) => rows::read_state(no, old.value()).unwrap_or_default(),
            None => QueueState::default(),
        };
        self.committed.rows += 1;
        let mut finished = BTreeSet::new();
        if state.floor > old.floor {
            self.below_floor(no, state.floor, &mut finished)?;
        }
        for (start, end) in newly_done(&old, state) {
            self.within_done(no, (start, end), state, &mut finished)?;
        }
        self.remove_rows(no, finished)
    }

    /// Rows wholly below the floor: a prefix of the session's rows, so the scan ends at the first that stays.
    fn below_floor(&self, no: u64, floor: u64, finished: &mut BTreeSet<u64>) -> Result<(), Fault> {
        // A row that cannot be read ends, at the latest, where the next begins.
        let mut damaged = None;
        for row in self.tables.queue.range((no, 0)..=(no, floor))? {
            let (key, row) = row?;
            let key = key.value();
            finished.extend(damaged.take());
            match QueueRow::read(key, row.value()) {
                Err(_) => damaged = Some(key.1),
                Ok(row) if row.head.last < floor => finished.extend([key.1]),
                Ok(_) => break,
            }
        }
        Ok(())
    }

    /// Rows that a newly done range completes.
    fn within_done(
        &self,
        no: u64,
        (start, end): (u64, u64),
        state: &QueueState,
        finished: &mut BTreeSet<u64>,
    ) -> Result<(), Fault> {
        // The row that holds `start` may begin before it.
        let before = self.tables.queue.range((no, 0)..=(no, start))?.next_back().transpose()?;
        let from = before.map_or(start, |(key, _)| key.value().1);
        for row in self.tables.queue.range((no, from)..(no, end))? {
            let (key, row) = row?;
            let key = key.value();
            let Ok(row) = QueueRow::read(key, row.value()) else { continue };
            if state.done.iter().any(|(start, end)| *start <= key.1 && row.head.last < *end) {
                finished.insert(key.1);
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
                self.committed.rows += 1;
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

/// What is done now and was not before, above the new floor.
fn newly_done(old: &QueueState, new: &QueueState) -> Vec<(u64, u64)> {
    let mut fresh = Vec::new();
    let mut known = old.done.iter().copied().peekable();
    for (start, end) in new.done.iter().copied() {
        let mut at = start.max(old.floor);
        while at < end {
            while known.next_if(|(_, known_end)| *known_end <= at).is_some() {}
            match known.peek() {
                Some((known_start, known_end)) if *known_start <= at => at = *known_end,
                Some((known_start, _)) if *known_start < end => {
                    fresh.push((at, *known_start));
                    at = *known_start;
                }
                _ => {
                    fresh.push((at, end));
                    at = end;
                }
            }
        }
    }
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(floor: u64, done: &[(u64, u64)]) -> QueueState {
        QueueState { floor, done: done.to_vec(), ..QueueState::default() }
    }

    #[test]
    fn newly_done_is_the_difference() {
        let old = state(5, &[(10, 12), (20, 25)]);
        assert_eq!(newly_done(&old, &state(5, &[(10, 12), (20, 25)])), []);
        assert_eq!(newly_done(&old, &state(5, &[(8, 14), (20, 26)])), [(8, 10), (12, 14), (25, 26)]);
        assert_eq!(newly_done(&old, &state(30, &[(40, 41)])), [(40, 41)]);
        assert_eq!(newly_done(&old, &state(5, &[(9, 30)])), [(9, 10), (12, 20), (25, 30)]);
    }
}
