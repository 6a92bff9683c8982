//! Makes anew what can be made from the rows of queues: states, references, sizes.

use std::collections::BTreeMap;

use ::redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::apply::{KEYED, QUEUE, SHARED, Tables, charge};
use super::owner::OWNER;
use super::page::{Limit, SharedRows, page_of};
use super::recover::{Found, load, migrate};
use super::redb::Fault;
use super::rows::{self, Mark, Place, QueueHead, QueueRow};
use super::{DropReason, QueueState};

/// The mark of a store whose rows were changed, or that has none: a new one, or one whose mark is damaged.
pub(super) fn remark(txn: &WriteTransaction, tables: &Tables<'_>, found: &Found) -> Result<Mark, Fault> {
    let mut mark = Mark { live_bytes: 0, ..found.mark.unwrap_or_default() };
    for row in tables.queue.iter()? {
        mark.live_bytes += charge(row?.1.value().len());
    }
    for row in tables.shared.iter()? {
        let (key, row) = row?;
        mark.live_bytes += charge(row.value().len());
        mark.commit = mark.commit.max(key.value().0);
    }
    for row in tables.retained.iter()? {
        mark.live_bytes += charge(row?.1.value().len());
    }
    for row in txn.open_table(KEYED)?.iter()? {
        mark.live_bytes += charge(row?.1.value().len());
    }
    let in_rows = last_session(txn, tables)?;
    mark.last_session = mark.last_session.max(found.sessions.keys().last().copied().unwrap_or_default()).max(in_rows);
    Ok(mark)
}

/// The highest session number that any row has, those of sessions that have ended among them: a number that was given again
/// would be given their rows. What was found outside of the trees may be newer than the mark.
fn last_session(txn: &WriteTransaction, tables: &Tables<'_>) -> Result<u64, Fault> {
    let owners = txn.open_table(OWNER)?;
    let mut last = 0;
    for key in
        [tables.session.last()?, tables.state.last()?, tables.ending.last()?, owners.last()?].into_iter().flatten()
    {
        last = last.max(key.0.value());
    }
    for key in [tables.queue.last()?, tables.done.last()?].into_iter().flatten() {
        last = last.max(key.0.value().0);
    }
    Ok(last.max(tables.subscription.last()?.map_or(0, |row| row.0.value().0)))
}

/// Makes references, sizes and states agree with the rows that were saved from a damaged file.
pub(super) fn rebuild(database: &Database, lost: &mut Vec<String>) -> Result<(), Fault> {
    let txn = database.begin_write()?;
    Tables::open(&txn)?;
    txn.commit()?;
    migrate(database)?;
    let pruned = prune(database)?;
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        for (old, new) in &pruned {
            tables.queue.remove(old)?;
            if let Some((key, row)) = new {
                tables.queue.insert(key, row.as_slice())?;
            }
        }
        recount(&mut tables)?;
        let saved = tables.meta.get(rows::MARK)?.and_then(|row| rows::read_mark(row.value()).ok());
        if let Some(saved) = saved {
            let counted = remark(&txn, &tables, &Found::default())?;
            let commit = saved.commit.max(counted.commit);
            let last_session = saved.last_session.max(counted.last_session);
            let mark = Mark { live_bytes: counted.live_bytes, last_session, commit, ..saved };
            tables.meta.insert(rows::MARK, rows::mark(&mark).as_slice())?;
        } else {
            lost.push("the clock and the ledger of ended queues may be lost".to_owned());
        }
    }
    txn.commit()?;
    let states = load(database)?;
    let mut changed = Vec::new();
    for (no, session) in &states.sessions {
        let known = (!states.stateless.contains(no)).then_some(&session.state);
        let state = restate(database, *no, known, session.state.done.clone(), lost)?;
        if known != Some(&state) {
            changed.push((*no, state));
        }
    }
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        for (no, state) in &changed {
            tables.state.insert(no, rows::state(*no, state).as_slice())?;
        }
    }
    txn.commit()?;
    Ok(())
}

/// A row's key, and what it becomes; `None` when nothing of it is left.
type Pruned = ((u64, u64), Option<((u64, u64), Vec<u8>)>);

/// Rows that point to shared messages which are not there any more, without the entries that do.
fn prune(database: &Database) -> Result<Vec<Pruned>, Fault> {
    let txn = database.begin_read()?;
    let mut shared = SharedRows::new(Some(txn.open_table(SHARED)?));
    let mut pruned = Vec::new();
    for row in txn.open_table(QUEUE)?.iter()? {
        let (key, row) = row?;
        let (no, first) = key.value();
        // Its checksum is right: a row that cannot be read all the same is not for us to mend.
        let Ok(row) = QueueRow::read((no, first), row.value()) else { continue };
        let Some(commit) = row.head.shared else { continue };
        let count = row.head.count;
        let (kept, encoded) = match readable(row, commit, &mut shared) {
            Err(Fault::Row(_)) => continue,
            read => read?,
        };
        if kept.count == count {
            continue;
        }
        let first = kept.first;
        let head = QueueHead { last: kept.last, count: kept.count, shared: Some(commit) };
        let new = (kept.count > 0).then(|| ((no, first), rows::queue((no, first), &head, &encoded)));
        pruned.push((key.value(), new));
    }
    Ok(pruned)
}

#[derive(Default)]
struct Kept {
    first: u64,
    last: u64,
    count: u64,
}

/// The entries of a row whose messages are there, encoded.
fn readable(mut row: QueueRow<'_>, commit: u64, shared: &mut SharedRows) -> Result<(Kept, Vec<u8>), Fault> {
    let mut kept = Kept::default();
    let mut encoded = Vec::new();
    while let Some(entry) = row.next()? {
        let (message, index) = match entry.place {
            Place::Here(message) => (message.build()?, None),
            Place::Shared(index) => match shared.get(commit, index) {
                Ok(message) => (message, Some(index)),
                Err(Fault::Row(_)) => continue,
                Err(fault) => return Err(fault),
            },
        };
        let entry = entry.with(message);
        if kept.count == 0 {
            (kept.first, kept.last) = (entry.seq, entry.seq);
        }
        rows::put_entry(&mut encoded, kept.last, &entry, index);
        kept.last = entry.seq;
        kept.count += 1;
    }
    Ok((kept, encoded))
}

/// Makes the references agree with the queues' rows, and drops shared messages that nothing points to.
pub(super) fn recount(tables: &mut Tables<'_>) -> Result<(), Fault> {
    let mut references = BTreeMap::<u64, u64>::new();
    for row in tables.queue.iter()? {
        let (key, row) = row?;
        if let Ok(QueueRow { head, .. }) = QueueRow::read(key.value(), row.value())
            && let Some(commit) = head.shared
        {
            *references.entry(commit).or_default() += 1;
        }
    }
    tables.shared.retain(|key, _| references.contains_key(&key.0))?;
    tables.refs.retain(|commit, _| references.contains_key(&commit))?;
    for (commit, count) in references {
        tables.refs.insert(commit, rows::refs(commit, count).as_slice())?;
    }
    Ok(())
}

/// The state of a session as its rows have it, but for what is `done`: what the known state counts as queued and no row holds is dropped as
/// damaged. Without a known state every row is queued, and may have been sent.
pub(super) fn restate(
    database: &Database,
    no: u64,
    known: Option<&QueueState>,
    done: Vec<(u64, u64)>,
    lost: &mut Vec<String>,
) -> Result<QueueState, Fault> {
    let mut state = QueueState { done, ..known.cloned().unwrap_or_default() };
    let (mut queued, mut bytes, mut next, mut first) = (0u64, 0u64, 0, None);
    let mut present = Ranges::default();
    loop {
        let page = page_of(database, (no, next), Limit { messages: 4096, bytes: 1 << 20 })?;
        let Some(last) = page.entries.last() else { break };
        next = last.seq.saturating_add(1);
        for entry in &page.entries {
            first = first.or(Some(entry.seq));
            present.push(entry.seq);
            if !state.is_done(entry.seq) {
                queued += 1;
                bytes += entry.message.size() as u64;
            }
        }
        if next == u64::MAX {
            break;
        }
    }
    if known.is_none() {
        lost.push(format!("session {no} has lost its state: its {queued} stored messages may be sent again"));
        state.next_seq = next;
        state.sent = next;
        state.promised = next;
        state.floor = first.unwrap_or(next);
        state.ledger.accepted = queued;
    } else if queued > state.queued {
        // The state is older than the rows, as only damage can make it.
        state.ledger.accepted = state.ledger.accepted.saturating_add(queued - state.queued);
    } else if queued < state.queued {
        let missing = state.queued - queued;
        lost.push(format!("session {no} has lost {missing} of {} queued messages", state.queued));
        if let Some(dropped) = state.ledger.dropped.get_mut(DropReason::Damaged as usize) {
            *dropped = dropped.saturating_add(missing);
        }
    }
    // A place that is marked was used.
    state.next_seq = state.next_seq.max(next).max(state.done.last().map_or(0, |(_, end)| *end));
    if known.is_none() || queued < state.queued {
        let mut released = std::mem::take(&mut state.released);
        released.retain(|seq| !state.is_done(*seq) && present.has(*seq));
        state.released = released;
    }
    (state.queued, state.queued_bytes) = (queued, bytes);
    Ok(state)
}

/// Places, ascending, as ranges.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn push(&mut self, seq: u64) {
        match self.0.last_mut() {
            Some((_, end)) if *end == seq => *end = seq.saturating_add(1),
            _ => self.0.push((seq, seq.saturating_add(1))),
        }
    }

    fn has(&self, seq: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= seq);
        self.0.get(at).is_some_and(|(start, _)| *start <= seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found() {
        let mut present = Ranges::default();
        for seq in [3, 4, 7, 10] {
            present.push(seq);
        }
        assert_eq!(present.0, [(3, 5), (7, 8), (10, 11)]);
        let found: Vec<u64> = (0..15).filter(|seq| present.has(*seq)).collect();
        assert_eq!(found, [3, 4, 7, 10]);
    }
}
