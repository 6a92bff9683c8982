//! Makes anew what can be made from the rows of queues: states, references, sizes.

use std::collections::BTreeMap;

use ::redb::{Database, ReadableDatabase, ReadableTable};

use super::apply::{QUEUE, SHARED, Tables, charge};
use super::page::{Limit, SharedRows, page_of};
use super::recover::{Found, load};
use super::redb::Fault;
use super::rows::{self, Mark, Place, QueueHead, QueueRow};
use super::{DropReason, QueueState};

/// The mark of a store whose rows were changed, or that has none: a new one, or one whose mark is damaged.
pub(super) fn remark(tables: &Tables<'_>, found: &Found) -> Result<Mark, Fault> {
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
    mark.last_session = mark.last_session.max(found.sessions.keys().last().copied().unwrap_or_default());
    Ok(mark)
}

/// Makes references, sizes and states agree with the rows that were saved from a damaged file.
pub(super) fn rebuild(database: &Database, lost: &mut Vec<String>) -> Result<(), Fault> {
    let txn = database.begin_write()?;
    Tables::open(&txn)?;
    txn.commit()?;
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
            let live_bytes = remark(&tables, &Found::default())?.live_bytes;
            tables.meta.insert(rows::MARK, rows::mark(&Mark { live_bytes, ..saved }).as_slice())?;
        } else {
            lost.push("the clock and the ledger of ended queues may be lost".to_owned());
        }
    }
    txn.commit()?;
    let states = load(database)?;
    let mut changed = Vec::new();
    for (no, session) in &states.sessions {
        let known = (!states.stateless.contains(no)).then_some(&session.state);
        let state = restate(database, *no, known, lost)?;
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

/// The state of a session as its rows have it: what the known state counts as queued and no row holds is dropped as
/// damaged. Without a known state every row is queued, and may have been sent.
pub(super) fn restate(
    database: &Database,
    no: u64,
    known: Option<&QueueState>,
    lost: &mut Vec<String>,
) -> Result<QueueState, Fault> {
    let mut state = known.cloned().unwrap_or_default();
    let (mut queued, mut bytes, mut next, mut first) = (0u64, 0u64, 0, None);
    let mut present = Ranges::default();
    loop {
        let page = page_of(database, (no, next), Limit { messages: 4096, bytes: 1 << 20 })?;
        let Some(last) = page.entries.last() else { break };
        next = last.seq.saturating_add(1);
        for entry in &page.entries {
            first = first.or(Some(entry.seq));
            present.push(entry.seq);
            let done = state.done.iter().any(|(start, end)| (*start..*end).contains(&entry.seq));
            if entry.seq >= state.floor && !done {
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
    state.next_seq = state.next_seq.max(next);
    if known.is_none() || queued < state.queued {
        state.done = present.all_but(state.floor, state.next_seq, &state.done);
        state.released.retain(|seq| !state.done.iter().any(|(start, end)| (*start..*end).contains(seq)));
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

    /// `from..to` without these places, and with `done`: ascending, disjoint, joined where they touch.
    fn all_but(&self, from: u64, to: u64, done: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = done.to_vec();
        let mut at = from;
        for (start, end) in &self.0 {
            if *start > at {
                all.push((at, (*start).min(to)));
            }
            at = at.max(*end);
        }
        if at < to {
            all.push((at, to));
        }
        all.sort_unstable();
        let mut joined = Vec::<(u64, u64)>::new();
        for (start, end) in all {
            match joined.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => joined.push((start, end)),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_places_are_done() {
        let mut present = Ranges::default();
        for seq in [3, 4, 7, 10] {
            present.push(seq);
        }
        assert_eq!(present.all_but(3, 12, &[]), [(5, 7), (8, 10), (11, 12)]);
        assert_eq!(present.all_but(1, 11, &[(4, 6), (9, 11)]), [(1, 3), (4, 7), (8, 11)]);
        assert_eq!(Ranges::default().all_but(2, 5, &[]), [(2, 5)]);
    }
}
