//! Reads everything in a store and says what is there and what is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use ::redb::{Database, ReadableDatabase, ReadableTable, TableError};

use super::export::{PAGE, is_queued};
use super::{Counts, Looked, ToolError, error, lock, open_untouched};
use crate::store::apply::{KEYED, QUEUE, REFS, RETAINED, SHARED, charge};
use crate::store::page::{page_of, starts};
use crate::store::recover::{Found, load};
use crate::store::redb::{FORMAT_VERSION, Fault, contain};
use crate::store::rows::{self, Kind, QueueRow};
use crate::store::{ClockMark, RecoveredSession};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The file's format.
    pub format: u32,
    /// What is in it.
    pub counts: Counts,
    /// The clock at the last commit.
    pub clock: ClockMark,
    /// What is wrong and where, one line each. Empty when the store is sound.
    pub wrong: Vec<String>,
}

/// Reads the whole store of the folder; changes nothing.
///
/// # Errors
/// There is no store, a broker holds it, or it cannot be read at all. Damage is no error here, but part of the verdict.
pub fn verify(dir: &Path) -> Result<Verdict, ToolError> {
    let inner = lock(dir)?;
    let mut verdict = Verdict::default();
    let read = contain(|| {
        let Looked { mut database, format, wrong } = open_untouched(&inner)?;
        verdict.format = format.unwrap_or(FORMAT_VERSION);
        verdict.wrong.extend(wrong);
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => verdict.wrong.push("redb's own check found damage that it can repair".to_owned()),
            Err(fault) => return Err(fault.into()),
        }
        look(&database, &mut verdict)
    });
    match read {
        Ok(commit) => {
            let had = inner.medium.generation().unwrap_or_default();
            if commit < had {
                verdict
                    .wrong
                    .push(format!("it is older than it was: its last commit is {commit}, and it had {had} or later"));
            }
            Ok(verdict)
        }
        Err(fault) if fault.is_damage() => {
            verdict.wrong.push(format!("it cannot be read: {fault}"));
            Ok(verdict)
        }
        Err(fault) => Err(error(&inner, fault)),
    }
}

/// Gives the number of the last commit.
fn look(database: &Database, verdict: &mut Verdict) -> Result<u64, Fault> {
    let found = load(database)?;
    let mark = found.mark.unwrap_or_default();
    verdict.clock = mark.clock;
    verdict.counts.retained = found.retained.len() as u64;
    for row in &found.damaged {
        verdict.wrong.push(format!("table {}, row {}: {}", row.table, row.key, row.damage));
    }
    for no in &found.stateless {
        verdict.wrong.push(format!("session {no}: its queue has no state"));
    }
    for session in found.sessions.values() {
        session_sound(database, session, verdict)?;
    }
    if let Some(no) = found.sessions.keys().last()
        && *no > mark.last_session
    {
        verdict.wrong.push(format!("session {no} is above {}, the last that was given", mark.last_session));
    }
    if found.format.is_some() {
        rows_sound(database, &found, verdict)?;
    }
    Ok(mark.commit)
}

/// All of one session: its queue can be read and is what its state says, and its ledger adds up.
fn session_sound(database: &Database, session: &RecoveredSession, verdict: &mut Verdict) -> Result<(), Fault> {
    let (no, state) = (session.no.0, &session.state);
    if session.record.is_none() {
        verdict.wrong.push(format!("session {no}: it has no record"));
    }
    let (mut queued, mut bytes, mut from) = (0u64, 0u64, 0);
    loop {
        let page = page_of(database, (no, from), PAGE)?;
        for ((no, first), damage) in page.damaged {
            verdict.wrong.push(format!("table queue, row {no}/{first}: {damage}"));
        }
        let Some(last) = page.entries.last().map(|entry| entry.seq) else { break };
        for entry in page.entries.iter().filter(|entry| is_queued(state, entry)) {
            queued += 1;
            bytes += entry.message.size() as u64;
        }
        if last >= state.next_seq {
            verdict.wrong.push(format!("session {no}: place {last} is not below {}, its next", state.next_seq));
        }
        let Some(next) = last.checked_add(1) else { break };
        from = next;
    }
    if (queued, bytes) != (state.queued, state.queued_bytes) {
        verdict.wrong.push(format!(
            "session {no}: {queued} queued messages of {bytes} bytes, its state says {} of {}",
            state.queued, state.queued_bytes
        ));
    }
    let ledger = &state.ledger;
    let dropped = ledger.dropped.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
    let sum = [state.queued, ledger.expired, dropped].iter().fold(ledger.delivered, |sum, n| sum.saturating_add(*n));
    if ledger.accepted != sum {
        verdict.wrong.push(format!(
            "session {no}: accepted {} is not delivered {} + queued {} + expired {} + dropped {dropped}",
            ledger.accepted, ledger.delivered, state.queued, ledger.expired
        ));
    }
    verdict.counts.sessions += 1;
    verdict.counts.subscriptions += session.subscriptions.len() as u64;
    verdict.counts.queued += queued;
    verdict.counts.queued_bytes += bytes;
    Ok(())
}

/// Shared messages, the counts of what points to them, and the size of it all.
fn rows_sound(database: &Database, found: &Found, verdict: &mut Verdict) -> Result<(), Fault> {
    let txn = database.begin_read()?;
    let mut live_bytes = 0;
    let mut pointing = BTreeMap::<u64, u64>::new();
    for row in txn.open_table(QUEUE)?.iter()? {
        let (key, row) = row?;
        live_bytes += charge(row.value().len());
        // A damaged one has been said.
        if let Ok(row) = QueueRow::read(key.value(), row.value())
            && let Some(commit) = row.head.shared
        {
            *pointing.entry(commit).or_default() += 1;
        }
    }
    for row in txn.open_table(RETAINED)?.iter()? {
        live_bytes += charge(row?.1.value().len());
    }
    match txn.open_table(KEYED) {
        // Made when it is first needed.
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.iter()? {
                let (key, row) = row?;
                let (key, row) = (key.value(), row.value());
                live_bytes += charge(row.len());
                match rows::read_keyed(key, row) {
                    Ok(_) => verdict.counts.keyed += 1,
                    Err(damage) => {
                        verdict.wrong.push(format!("table keyed, row {}/{}: {damage}", key.0, key.1.escape_ascii()));
                    }
                }
            }
        }
    }
    for row in txn.open_table(SHARED)?.iter()? {
        let (key, row) = row?;
        let ((commit, first), row) = (key.value(), row.value());
        live_bytes += charge(row.len());
        let read = rows::body(row, Kind::Shared, &(commit, first)).and_then(starts);
        if let Err(damage) = read {
            verdict.wrong.push(format!("table shared, row {commit}/{first}: {damage}"));
        } else if !pointing.contains_key(&commit) {
            verdict.wrong.push(format!("table shared, row {commit}/{first}: nothing points to it"));
        }
    }
    for row in txn.open_table(REFS)?.iter()? {
        let (commit, row) = row?;
        let commit = commit.value();
        let counted = pointing.remove(&commit).unwrap_or_default();
        match rows::read_refs(commit, row.value()) {
            Ok(count) if count == counted => {}
            Ok(count) => {
                verdict.wrong.push(format!("table refs, row {commit}: {count}, and {counted} rows point to it"))
            }
            Err(damage) => verdict.wrong.push(format!("table refs, row {commit}: {damage}")),
        }
    }
    for (commit, count) in pointing {
        verdict.wrong.push(format!("table refs has no row {commit}, and {count} rows point to it"));
    }
    let said = found.mark.unwrap_or_default().live_bytes;
    if found.mark.is_some() && said != live_bytes {
        verdict.wrong.push(format!("table meta, row mark: {said} bytes in rows, and it is {live_bytes}"));
    }
    Ok(())
}
