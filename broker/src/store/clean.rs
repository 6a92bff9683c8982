//! Deletes what nobody needs any more: rows whose entries are all done, and all rows of sessions that have ended. A
//! commit deletes a bounded number of rows, whatever a queue looks like; what remains is for the commits after it.
//!
//! What is done above a session's floor is kept as bits, a row of table `done` for each [`CHUNK`] places: to mark a place
//! touches one small row, however many others are done. Rows of queues are looked at later, from a backlog. The backlog is
//! in memory only, and nothing depends on it: it says where to look, and what is there decides.

use std::collections::{BTreeMap, VecDeque};

use ::redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};
use hashbrown::HashSet;

use super::Recovered;
use super::apply::{QUEUE, Writer};
use super::redb::Fault;
use super::rows::{self, Bits, CHUNK, QueueRow};

pub(super) const DONE: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("done");
pub(super) const ENDING: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("ending");

/// Rows that one commit deletes, or looks at in vain.
const ROWS_MAX: u64 = 4096;
/// Bytes of rows that one commit reads for that.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A wider range of done places is marked only where rows are.
const NARROW: u64 = 4 * CHUNK;

/// Where there may be something to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    /// Below this session's floor.
    Below(u64),
    /// In the rows that hold places of this session's chunk.
    Chunk(u64, u64),
    /// All of this session: it has ended.
    Ended(u64),
}

/// Tasks that commits have left to those after them.
#[derive(Default)]
pub(super) struct Backlog {
    tasks: VecDeque<Task>,
    known: HashSet<Task>,
}

/// What one commit makes of the backlog; holds once the commit has succeeded.
#[derive(Default)]
pub(super) struct Cleaned {
    /// So many were taken from its front …
    taken: usize,
    /// … and these are to be done yet.
    left: Vec<Task>,
}

impl Backlog {
    /// What a start has to go on with.
    pub(super) fn find(database: &Database, recovered: &Recovered) -> Result<Self, Fault> {
        let mut backlog = Self::default();
        let txn = database.begin_read()?;
        match txn.open_table(ENDING) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(backlog),
            table => {
                for row in table?.iter()? {
                    backlog.add(Task::Ended(row?.0.value()));
                }
            }
        }
        for row in txn.open_table(DONE)?.iter()? {
            let (no, chunk) = row?.0.value();
            backlog.add(Task::Chunk(no, chunk));
        }
        let queue = txn.open_table(QUEUE)?;
        for session in &recovered.sessions {
            let (no, floor) = (session.no.0, session.state.floor);
            if queue.range((no, 0)..(no, floor))?.next().is_some() {
                backlog.add(Task::Below(no));
            }
        }
        Ok(backlog)
    }

    fn add(&mut self, task: Task) {
        if self.known.insert(task) {
            self.tasks.push_back(task);
        }
    }

    /// The commit has succeeded.
    pub(super) fn settle(&mut self, cleaned: Cleaned) {
        for task in self.tasks.drain(..cleaned.taken.min(self.tasks.len())) {
            self.known.remove(&task);
        }
        for task in cleaned.left {
            self.add(task);
        }
    }
}

/// What is left of the work that one commit may do for this.
struct Budget {
    rows: u64,
    bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { rows: ROWS_MAX, bytes: BYTES_MAX }
    }
}

impl Budget {
    fn spent(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }

    fn spend(&mut self, bytes: usize) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// The cleaning of one commit.
#[derive(Default)]
pub(super) struct Cleaning {
    budget: Budget,
    chunks: Chunks,
    /// What the commit itself has found.
    tasks: VecDeque<Task>,
    /// Rows of queues that this commit has looked at already.
    seen: HashSet<(u64, u64)>,
}

impl Cleaning {
    pub(super) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    /// What it has found is left to a later start.
    pub(super) fn put_off(&mut self) {
        self.tasks.clear();
    }
}

/// Rows of table `done` as the commit changes them.
#[derive(Default)]
struct Chunks(BTreeMap<(u64, u64), Chunk>);

struct Chunk {
    bits: Bits,
    changed: bool,
}

type DoneTable<'t> = Table<'t, (u64, u64), &'static [u8]>;

impl Chunks {
    fn get(&mut self, table: &DoneTable<'_>, key: (u64, u64)) -> Result<&mut Chunk, Fault> {
        use std::collections::btree_map::Entry::{Occupied, Vacant};
        Ok(match self.0.entry(key) {
            Occupied(known) => known.into_mut(),
            Vacant(new) => {
                let row = table.get(key)?;
                // A damaged one says nothing: what it said is repeated, at worst, after the next start.
                let bits = row.and_then(|row| rows::read_done(key, row.value()).ok());
                new.insert(Chunk { bits: bits.unwrap_or([0; (CHUNK / 8) as usize]), changed: false })
            }
        })
    }

    /// Marks `start..end`, or takes the marks away; returns the chunks in which that changed something.
    fn mark(
        &mut self,
        table: &DoneTable<'_>,
        no: u64,
        (start, end): (u64, u64),
        done: bool,
    ) -> Result<Vec<u64>, Fault> {
        let mut changed = Vec::new();
        let mut at = start;
        while at < end {
            let first = at - at % CHUNK;
            let stop = end.min(first.saturating_add(CHUNK));
            let chunk = self.get(table, (no, first))?;
            let before = chunk.bits;
            for place in at..stop {
                set(&mut chunk.bits, place - first, done);
            }
            if chunk.bits != before {
                chunk.changed = true;
                changed.push(first);
            }
            at = stop;
        }
        Ok(changed)
    }

    fn has(&mut self, table: &DoneTable<'_>, no: u64, seq: u64) -> Result<bool, Fault> {
        let first = seq - seq % CHUNK;
        Ok(is_set(&self.get(table, (no, first))?.bits, seq - first))
    }

    /// How many of `start..=last` are marked, as far as it takes to tell whether there are `wanted`.
    fn count(&mut self, table: &DoneTable<'_>, no: u64, (start, last): (u64, u64), wanted: u64) -> Result<u64, Fault> {
        let mut count = 0;
        let mut first = start - start % CHUNK;
        while first <= last && count < wanted {
            let bits = self.get(table, (no, first))?.bits;
            let (from, to) = (start.saturating_sub(first), (last - first).min(CHUNK - 1));
            count += (from..=to).filter(|place| is_set(&bits, *place)).count() as u64;
            let Some(next) = first.checked_add(CHUNK) else { break };
            first = next;
        }
        Ok(count)
    }

    fn flush(&self, table: &mut DoneTable<'_>) -> Result<(u64, u64), Fault> {
        let (mut written, mut bytes) = (0, 0);
        for (key, chunk) in self.0.iter().filter(|(_, chunk)| chunk.changed) {
            if chunk.bits.iter().all(|byte| *byte == 0) {
                table.remove(key)?;
            } else {
                let row = rows::done(*key, &chunk.bits);
                table.insert(key, row.as_slice())?;
                (written, bytes) = (written + 1, bytes + row.len() as u64);
            }
        }
        Ok((written, bytes))
    }
}

fn at(place: u64) -> (usize, u8) {
    (usize::try_from(place / 8).unwrap_or(usize::MAX), 1 << (place % 8))
}

fn set(bits: &mut Bits, place: u64, done: bool) {
    let (byte, bit) = at(place);
    if let Some(byte) = bits.get_mut(byte) {
        *byte = if done { *byte | bit } else { *byte & !bit };
    }
}

fn is_set(bits: &Bits, place: u64) -> bool {
    let (byte, bit) = at(place);
    bits.get(byte).is_some_and(|byte| byte & bit != 0)
}

/// The marked places of a chunk as ranges.
pub(super) fn ranges(first: u64, bits: &Bits) -> Vec<(u64, u64)> {
    let mut ranges = Vec::<(u64, u64)>::new();
    for place in (0..CHUNK).filter(|place| is_set(bits, *place)).map(|place| first.saturating_add(place)) {
        match ranges.last_mut() {
            Some((_, end)) if *end == place => *end = place.saturating_add(1),
            _ => ranges.push((place, place.saturating_add(1))),
        }
    }
    ranges
}

impl Writer<'_> {
    /// These places are done from now on.
    pub(super) fn mark_done(&mut self, no: u64, (start, end): (u64, u64)) -> Result<(), Fault> {
        let mut parts = vec![(start, end)];
        if end.saturating_sub(start) > NARROW {
            // Most of them may never have been in the store.
            parts.clear();
            let before = self.tables.queue.range((no, 0)..=(no, start))?.next_back().transpose()?;
            let from = before.map_or(start, |(key, _)| key.value().1);
            for row in self.tables.queue.range((no, from)..(no, end))? {
                let (key, row) = row?;
                let key = key.value();
                if let Ok(row) = QueueRow::read(key, row.value()) {
                    parts.push((key.1.max(start), row.head.last.saturating_add(1).min(end)));
                }
            }
        }
        for part in parts {
            for first in self.cleaning.chunks.mark(&self.tables.done, no, part, true)? {
                self.cleaning.add(Task::Chunk(no, first));
            }
        }
        Ok(())
    }

    /// Takes marks from `next` on away: a commit that failed may have left them, and places that it used are used again.
    pub(super) fn unmark_from(&mut self, no: u64, next: u64) -> Result<(), Fault> {
        let mut chunks = Vec::new();
        for row in self.tables.done.range((no, next - next % CHUNK)..=(no, u64::MAX))? {
            chunks.push(row?.0.value().1);
        }
        for first in chunks {
            let range = (first.max(next), first.saturating_add(CHUNK));
            self.cleaning.chunks.mark(&self.tables.done, no, range, false)?;
        }
        Ok(())
    }

    /// Does what the backlog says and what the commit has found, as far as the budget goes.
    pub(super) fn clean(&mut self, backlog: &Backlog) -> Result<Cleaned, Fault> {
        let mut cleaned = Cleaned::default();
        for task in &backlog.tasks {
            if self.cleaning.budget.spent() {
                break;
            }
            cleaned.taken += 1;
            if !self.work(*task)? {
                cleaned.left.push(*task);
            }
        }
        while let Some(task) = self.cleaning.tasks.pop_front() {
            if self.cleaning.budget.spent() || !self.work(task)? {
                cleaned.left.push(task);
            }
        }
        let (rows, bytes) = self.cleaning.chunks.flush(&mut self.tables.done)?;
        self.committed.rows += rows;
        self.committed.bytes += bytes;
        self.committed.cleaned = ROWS_MAX - self.cleaning.budget.rows;
        self.committed.more = !cleaned.left.is_empty() || cleaned.taken < backlog.tasks.len();
        Ok(cleaned)
    }

    /// False: the budget ended before it did.
    fn work(&mut self, task: Task) -> Result<bool, Fault> {
        match task {
            Task::Below(no) => self.below_floor(no),
            Task::Chunk(no, first) => self.chunk(no, first),
            Task::Ended(no) => self.ended(no),
        }
    }

    fn floor(&self, no: u64) -> Result<Option<u64>, Fault> {
        let row = self.tables.state.get(no)?;
        Ok(row.and_then(|row| rows::read_state(no, row.value()).ok()).map(|state| state.floor))
    }

    /// Rows wholly below the floor: a prefix of the session's rows, so the scan ends at the first that stays.
    fn below_floor(&mut self, no: u64) -> Result<bool, Fault> {
        let Some(floor) = self.floor(no)? else { return Ok(true) };
        let mut finished = Vec::new();
        let mut over = true;
        // A row that cannot be read ends, at the latest, where the next begins.
        let mut damaged = None;
        for row in self.tables.queue.range((no, 0)..=(no, floor))? {
            if self.cleaning.budget.spent() {
                over = false;
                break;
            }
            let (key, row) = row?;
            let key = key.value();
            self.cleaning.budget.spend(row.value().len());
            finished.extend(damaged.take());
            match QueueRow::read(key, row.value()) {
                Err(_) => damaged = Some(key.1),
                Ok(row) if row.head.last < floor => finished.push(key.1),
                Ok(_) => break,
            }
        }
        self.remove_rows(no, finished)?;
        Ok(over && self.remove_chunks(no, floor - floor % CHUNK)?)
    }

    /// Marks of places below; false: the budget ended.
    fn remove_chunks(&mut self, no: u64, below: u64) -> Result<bool, Fault> {
        let mut chunks = Vec::new();
        let mut over = true;
        for row in self.tables.done.range((no, 0)..(no, below))? {
            if self.cleaning.budget.spent() {
                over = false;
                break;
            }
            self.cleaning.budget.spend(0);
            chunks.push(row?.0.value());
        }
        for key in chunks {
            self.tables.done.remove(key)?;
            self.cleaning.chunks.0.remove(&key);
        }
        // What this commit has marked is not in the table yet.
        self.cleaning.chunks.0.retain(|(of, first), _| *of != no || *first >= below);
        Ok(over)
    }

    /// Rows that hold places of the chunk, and of which every entry is done. The marks go with the last of them.
    fn chunk(&mut self, no: u64, first: u64) -> Result<bool, Fault> {
        let Some(floor) = self.floor(no)? else { return Ok(true) };
        let before = self.tables.queue.range((no, 0)..=(no, first))?.next_back().transpose()?;
        let from = before.map_or(first, |(key, _)| key.value().1);
        let end = first.saturating_add(CHUNK);
        let mut finished = Vec::new();
        let (mut over, mut needed) = (true, false);
        for row in self.tables.queue.range((no, from)..(no, end))? {
            if self.cleaning.budget.spent() {
                over = false;
                break;
            }
            let (key, row) = row?;
            let key = key.value();
            if !self.cleaning.seen.insert(key) {
                needed = true;
                continue;
            }
            self.cleaning.budget.spend(row.value().len());
            let Ok(row) = QueueRow::read(key, row.value()) else {
                needed = true;
                continue;
            };
            if row.head.last < first {
                continue;
            }
            let last = row.head.last;
            if is_finished(&mut self.cleaning.chunks, &self.tables.done, key, floor, row)? {
                finished.push(key.1);
                // Marks that were for this row only go, too.
                let others = (key.1 - key.1 % CHUNK..=last).step_by(CHUNK as usize).filter(|other| *other != first);
                self.cleaning.tasks.extend(others.map(|other| Task::Chunk(no, other)));
            } else {
                needed = true;
            }
        }
        self.remove_rows(no, finished)?;
        if over && !needed {
            self.cleaning.chunks.mark(&self.tables.done, no, (first, end), false)?;
        }
        Ok(over)
    }

    /// Everything of a session that has ended.
    pub(super) fn ended(&mut self, no: u64) -> Result<bool, Fault> {
        let mut firsts = Vec::new();
        let mut over = true;
        for row in self.tables.queue.range((no, 0)..=(no, u64::MAX))? {
            if self.cleaning.budget.spent() {
                over = false;
                break;
            }
            let (key, row) = row?;
            self.cleaning.budget.spend(row.value().len());
            firsts.push(key.value().1);
        }
        self.remove_rows(no, firsts)?;
        if !over || !self.remove_chunks(no, u64::MAX)? {
            return self.ended_in_part(no);
        }
        let mut filters = Vec::new();
        for row in self.tables.subscription.range((no, "")..(no.saturating_add(1), ""))? {
            if self.cleaning.budget.spent() {
                break;
            }
            self.cleaning.budget.spend(0);
            filters.push(row?.0.value().1.to_owned());
        }
        for filter in filters {
            self.tables.subscription.remove((no, filter.as_str()))?;
        }
        if self.tables.subscription.range((no, "")..(no.saturating_add(1), ""))?.next().is_some() {
            return self.ended_in_part(no);
        }
        self.tables.ending.remove(no)?;
        Ok(true)
    }

    /// A start must know that what remains is nobody's.
    fn ended_in_part(&mut self, no: u64) -> Result<bool, Fault> {
        self.tables.ending.insert(no, rows::ending(no).as_slice())?;
        Ok(false)
    }
}

fn is_finished(
    chunks: &mut Chunks,
    done: &DoneTable<'_>,
    (no, first): (u64, u64),
    floor: u64,
    mut row: QueueRow<'_>,
) -> Result<bool, Fault> {
    let from = first.max(floor);
    if row.head.last >= from {
        // Most rows that are looked at stay; that is seen without their entries.
        let below = floor.saturating_sub(first);
        let wanted = row.head.count.saturating_sub(below);
        if chunks.count(done, no, (from, row.head.last), wanted)? < wanted {
            return Ok(false);
        }
    }
    loop {
        match row.next() {
            Ok(Some(entry)) if entry.seq < floor || chunks.has(done, no, entry.seq)? => {}
            Ok(None) => return Ok(true),
            Ok(Some(_)) | Err(_) => return Ok(false),
        }
    }
}
