//! Opens the store whatever state it is in: whole, with single rows that cannot be read, or damaged beyond what redb
//! repairs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use ::redb::{Database, ReadableDatabase, ReadableTable, StorageBackend};

use super::apply::{META, QUEUE, RETAINED, SESSION, STATE, SUBSCRIPTION, Tables, apply, mark_old_states};
use super::clean::{Backlog, DONE, ENDING, ranges};
use super::medium::Backend;
use super::rebuild::{rebuild, remark, restate};
use super::redb::{FORMAT_VERSION, Fault, Inner, contain, open_database, wants_check};
use super::rows::{self, Damage, Mark};
use super::salvage;
use super::unsynced::write_all_again;
use super::{
    Batch, ClockMark, DropReason, Recovered, RecoveredSession, SessionDelta, SessionNo, SessionRecord, known, owner,
};

/// Lines of [`Recovered::lost`] for single things; more are summed up in one.
const LOST_LINES_MAX: usize = 200;
/// What a file of redb begins with.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// A new file of redb is smaller than this.
const NEW_FILE_BYTES: u64 = 128 * 1024;

/// Opens the file of the medium, or a fresh one with what could be read of it.
pub(super) fn open(inner: &Inner, wall_ms: u64) -> Result<Opened, Fault> {
    let medium = inner.medium.as_ref();
    if let Some((name, old)) = medium.unrecovered()? {
        return replace(
            inner,
            old,
            format!("the recovery of {name}, which had been set aside, was cut off and is made again"),
        );
    }
    let had = medium.generation().unwrap_or_default();
    let existed = medium.exists();
    let backend = match medium.open() {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            let (name, old) = medium.set_aside(&stamp(wall_ms))?;
            return replace(inner, old, format!("the store is a folder; it was set aside as {name}"));
        }
        opened => opened?,
    };
    let mut lost = Vec::new();
    if had == 0 {
        clear_unfinished(&backend)?;
    } else if !existed {
        lost.push(format!(
            "the store's file is gone: its last commit was {had} or later, and all is lost; a new one was made"
        ));
    } else if is_blank(&backend)? {
        drop(backend);
        let (name, old) = medium.set_aside(&stamp(wall_ms))?;
        let why = "the store's file is empty, though its last commit was";
        return replace(inner, old, format!("{why} {had} or later: all is lost; it was set aside as {name}"));
    }
    open_checked(inner, wall_ms, lost)
}

fn open_checked(inner: &Inner, wall_ms: u64, lost: Vec<String>) -> Result<Opened, Fault> {
    let medium = inner.medium.as_ref();
    let had = medium.generation().filter(|_| lost.is_empty()).unwrap_or_default();
    let check = wants_check(medium);
    if medium.suspect() {
        write_all_again(&medium.open()?)?;
    }
    let tried = contain(|| {
        let database = open_database(inner, check)?;
        migrate(&database)?;
        let found = load(&database)?;
        if found.damaged.is_empty() {
            return repaired(inner, database, found, lost);
        }
        // What is called damaged was read twice, the second time by a database that has kept nothing of it in memory.
        drop(database);
        open_and_repair(inner, open_database(inner, false)?, lost)
    });
    let opened = match tried.map_err(|fault| inner.judged(fault)) {
        Err(fault) if fault.is_damage() => {
            let (name, old) = medium.set_aside(&stamp(wall_ms))?;
            replace(inner, old, format!("the store could not be read ({fault}); it was set aside as {name}"))?
        }
        tried => {
            let (database, mut recovered, mark) = tried?;
            if mark.commit < had {
                let why = "the store is older than it was: its last commit is";
                let then = "what came after it is lost, and what was delivered since may be delivered again";
                recovered.lost.insert(0, format!("{why} {}, and it had commit {had} or later; {then}", mark.commit));
            }
            (database, recovered, mark)
        }
    };
    if check && let Err(error) = medium.set_suspect(false) {
        tracing::error!("it cannot be noted beside the store that its file has been checked: {error}");
    }
    Ok(opened)
}

/// What a store is opened with.
pub(super) type Opened = (Database, Recovered, Mark);

/// Makes a fresh file with what can be read of the old one.
fn replace(inner: &Inner, old: Backend, why: String) -> Result<Opened, Fault> {
    let mut lost = vec![why];
    let old = Arc::new(old);
    let fresh = || open_database(inner, false);
    let opened = match contain(|| salvaged(inner, &old, lost.clone(), &fresh)) {
        // It always starts: with nothing, if it must be.
        Err(fault) if fault.is_damage() => {
            lost.push(format!("nothing of it could be recovered: {fault}"));
            inner.medium.unrecovered()?;
            contain(|| open_and_repair(inner, fresh()?, lost))?
        }
        opened => opened?,
    };
    inner.medium.recovered()?;
    Ok(opened)
}

/// What can be read of the old file, in a database that `fresh` opens: empty at first, and what is in it later.
pub(super) fn salvaged(
    inner: &Inner,
    old: &Arc<Backend>,
    mut lost: Vec<String>,
    fresh: &dyn Fn() -> Result<Database, Fault>,
) -> Result<Opened, Fault> {
    let database = fresh()?;
    match contain(|| salvage::copy(old, &database, &mut lost)) {
        // What of it has been copied is right, and better than nothing.
        Err(fault) if fault.is_damage() => lost.push(format!("it could not be read to its end: {fault}")),
        copied => copied?,
    }
    rebuild(&database, &mut lost)?;
    drop(database);
    open_and_repair(inner, fresh()?, lost)
}

/// Whether there is nothing in the file that redb, or anyone, has written: it was emptied, or never came to be.
fn is_blank(backend: &Backend) -> Result<bool, Fault> {
    let len = backend.len()?;
    if len > NEW_FILE_BYTES {
        return Ok(false);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    if let Err(error) = backend.read(0, &mut bytes) {
        let fault = Fault::from(error);
        // What has a sector that cannot be read is not blank: what can be had of it is for the recovery to find.
        return if fault.is_damage() { Ok(false) } else { Err(fault) };
    }
    let pages = bytes.get(4096..).unwrap_or_default();
    Ok(!bytes.starts_with(MAGIC) && pages.iter().all(|byte| *byte == 0))
}

/// A power cut while redb made the file leaves one without its whole magic number, which redb writes last, and with
/// nothing in it: it was never a store, so nothing is lost with it.
pub(super) fn clear_unfinished(backend: &Backend) -> Result<(), Fault> {
    if backend.len()? > 0 && is_blank(backend)? {
        backend.set_len(0)?;
        backend.sync_data()?;
    }
    Ok(())
}

/// Takes what is in the database, without what is damaged.
pub(super) fn open_and_repair(inner: &Inner, database: Database, lost: Vec<String>) -> Result<Opened, Fault> {
    migrate(&database)?;
    let found = load(&database)?;
    repaired(inner, database, found, lost)
}

fn repaired(inner: &Inner, database: Database, mut found: Found, mut lost: Vec<String>) -> Result<Opened, Fault> {
    let damaged = std::mem::take(&mut found.damaged);
    for row in &damaged {
        let line = damaged_line(row.table, &row.key, row.damage, Some(&row.bytes));
        if let Err(error) = inner.medium.damaged_row(&line) {
            lost.push(format!("a damaged row could not be kept beside the store: {error}"));
        }
        lost.push(format!("row {} of table {} is damaged ({}) and was removed", row.key, row.table, row.damage));
    }
    repair(&database, &mut found, &damaged, &mut lost)?;
    if !lost.is_empty() {
        known::put_back(&database, &mut found, &inner.known.lock(), &mut lost)?;
    }
    owner::recall(&database, &mut found, &mut lost)?;
    end_unknown(&database, &mut found, &mut lost)?;
    let mark = found.mark.unwrap_or_default();
    if lost.len() > LOST_LINES_MAX {
        let more = lost.split_off(LOST_LINES_MAX).len();
        lost.push(format!("and {more} more"));
    }
    let last_session = found.sessions.last_key_value().map_or(0, |(no, _)| *no);
    let recovered = Recovered {
        sessions: found.sessions.into_values().collect(),
        retained: found.retained,
        // Without one a commit was the store's own: it noted which journal is its.
        clock: Some(mark.clock).filter(|clock| mark.commit > 0 && *clock != ClockMark::default()),
        ended_ledger: found.ended,
        last_session: mark.last_session.max(last_session),
        lost,
    };
    Ok((database, recovered, mark))
}

/// A row that is not what was written.
pub(super) struct DamagedRow {
    pub(super) table: &'static str,
    pub(super) key: String,
    bytes: Vec<u8>,
    pub(super) damage: Damage,
    remove: Remove,
}

/// How to remove it.
enum Remove {
    Session(u64),
    State(u64),
    Subscription(u64, String),
    Retained(String),
    Meta(&'static str),
    Done(u64, u64),
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sessions: BTreeMap<u64, RecoveredSession>,
    /// Sessions whose state could be read.
    stated: BTreeSet<u64>,
    /// Sessions whose state must be made from their rows.
    pub(super) stateless: BTreeSet<u64>,
    /// Sessions of which it is not known any more what is done: their messages must be counted anew.
    uncounted: BTreeSet<u64>,
    /// Sessions that have ended, whose rows remain in part.
    ending: BTreeSet<u64>,
    /// Whose the sessions are.
    pub(super) owners: BTreeMap<u64, SessionRecord>,
    pub(super) retained: Vec<std::sync::Arc<crate::message::Message>>,
    pub(super) mark: Option<Mark>,
    pub(super) ended: super::Ledger,
    pub(super) format: Option<u32>,
    pub(super) damaged: Vec<DamagedRow>,
}

impl Found {
    pub(super) fn has_ended(&self, no: u64) -> bool {
        self.ending.contains(&no)
    }

    /// Whether the session with this number is another client's.
    pub(super) fn is_of_another(&self, no: u64, client_id: &str) -> bool {
        let record = self.sessions.get(&no).and_then(|session| session.record.as_ref());
        record.or_else(|| self.owners.get(&no)).is_some_and(|record| record.client_id != client_id)
    }

    /// A number that no session has had, as far as is known.
    pub(super) fn next_number(&self) -> u64 {
        let last = self.sessions.keys().chain(&self.ending).chain(self.owners.keys()).max();
        last.copied().unwrap_or_default().max(self.mark.map_or(0, |mark| mark.last_session)) + 1
    }

    pub(super) fn session(&mut self, no: u64) -> &mut RecoveredSession {
        self.sessions.entry(no).or_insert_with(|| RecoveredSession { no: SessionNo(no), ..RecoveredSession::default() })
    }

    fn damaged(&mut self, table: &'static str, key: String, bytes: &[u8], damage: Damage, remove: Remove) {
        self.damaged.push(DamagedRow { table, key, bytes: bytes.to_vec(), damage, remove });
    }
}

/// Reads everything but the queues.
pub(super) fn load(database: &Database) -> Result<Found, Fault> {
    let mut found = Found::default();
    let txn = database.begin_read()?;
    // A new file has no tables: `meta` is made by the first commit, like the others.
    if txn.list_tables()?.next().is_none() {
        return Ok(found);
    }
    load_meta(&txn, &mut found)?;
    load_ending(&txn, &mut found)?;
    load_sessions(&txn, &mut found)?;
    load_done(&txn, &mut found)?;
    owner::load(&txn, &mut found)?;
    for row in txn.open_table(RETAINED)?.iter()? {
        let (topic, row) = row?;
        let (topic, row) = (topic.value(), row.value());
        match rows::read_retained(topic, row) {
            Ok(message) => found.retained.push(message),
            Err(damage) => {
                found.damaged("retained", topic.to_owned(), row, damage, Remove::Retained(topic.to_owned()));
            }
        }
    }
    // Queues that no state knows of: its row is damaged, or lost.
    let queue = txn.open_table(QUEUE)?;
    let mut from = 0;
    while let Some(row) = queue.range((from, 0)..)?.next() {
        let no = row?.0.value().0;
        if !found.stated.contains(&no) && !found.ending.contains(&no) {
            found.session(no);
            found.stateless.insert(no);
        }
        let Some(next) = no.checked_add(1) else { break };
        from = next;
    }
    Ok(found)
}

fn load_meta(txn: &::redb::ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    let meta = txn.open_table(META)?;
    if let Some(row) = meta.get(rows::FORMAT)? {
        match rows::read_format(row.value()) {
            Ok(version) if version > FORMAT_VERSION => return Err(Fault::Newer(version)),
            Ok(version) => found.format = Some(version),
            Err(damage) => {
                found.damaged("meta", rows::FORMAT.to_owned(), row.value(), damage, Remove::Meta(rows::FORMAT));
            }
        }
    }
    if let Some(row) = meta.get(rows::MARK)? {
        match rows::read_mark(row.value()) {
            Ok(mark) => found.mark = Some(mark),
            Err(damage) => {
                found.damaged("meta", rows::MARK.to_owned(), row.value(), damage, Remove::Meta(rows::MARK));
            }
        }
    }
    if let Some(row) = meta.get(rows::ENDED)? {
        match rows::read_ended(row.value()) {
            Ok(ledger) => found.ended = ledger,
            Err(damage) => {
                found.damaged("meta", rows::ENDED.to_owned(), row.value(), damage, Remove::Meta(rows::ENDED));
            }
        }
    }
    Ok(())
}

fn load_sessions(txn: &::redb::ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    for row in txn.open_table(SESSION)?.iter()? {
        let (no, row) = row?;
        let (no, row) = (no.value(), row.value());
        match rows::read_session(no, row) {
            Ok(record) => found.session(no).record = Some(record),
            Err(damage) => found.damaged("session", no.to_string(), row, damage, Remove::Session(no)),
        }
        found.session(no);
    }
    for row in txn.open_table(STATE)?.iter()? {
        let (no, row) = row?;
        let (no, row) = (no.value(), row.value());
        match rows::read_state(no, row) {
            Ok(state) => {
                found.session(no).state = state;
                found.stated.insert(no);
            }
            Err(damage) => {
                found.session(no);
                found.stateless.insert(no);
                found.damaged("state", no.to_string(), row, damage, Remove::State(no));
            }
        }
    }
    for row in txn.open_table(SUBSCRIPTION)?.iter()? {
        let (key, row) = row?;
        let ((no, filter), row) = (key.value(), row.value());
        if found.ending.contains(&no) {
            continue;
        }
        match rows::read_subscription((no, filter), row) {
            Ok(subscription) => found.session(no).subscriptions.push(subscription),
            Err(damage) => {
                let remove = Remove::Subscription(no, filter.to_owned());
                found.damaged("subscription", format!("{no}/{filter}"), row, damage, remove);
            }
        }
    }
    Ok(())
}

fn load_ending(txn: &::redb::ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    match txn.open_table(ENDING) {
        Err(::redb::TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table?.iter()? {
                found.ending.insert(row?.0.value());
            }
        }
    }
    Ok(())
}

/// What is done of the queues, above their floors. Marks of sessions that are not there mean nothing.
fn load_done(txn: &::redb::ReadTransaction, found: &mut Found) -> Result<(), Fault> {
    let table = match txn.open_table(DONE) {
        Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    for row in table.iter()? {
        let (key, row) = row?;
        let ((no, first), row) = (key.value(), row.value());
        if found.ending.contains(&no) {
            continue;
        }
        match rows::read_done((no, first), row) {
            Ok(bits) => {
                let Some(session) = found.sessions.get_mut(&no) else { continue };
                let state = &mut session.state;
                // Without a state nobody knows yet where its queue begins and ends.
                let all = if found.stated.contains(&no) { (state.floor, state.next_seq) } else { (0, u64::MAX) };
                for (start, end) in ranges(first, &bits) {
                    let (start, end) = (start.max(all.0), end.min(all.1));
                    match state.done.last_mut() {
                        _ if start >= end => {}
                        Some((_, last)) if *last == start => *last = end,
                        _ => state.done.push((start, end)),
                    }
                }
            }
            Err(damage) => {
                if found.stated.contains(&no) {
                    found.uncounted.insert(no);
                }
                found.damaged("done", format!("{no}/{first}"), row, damage, Remove::Done(no, first));
            }
        }
    }
    Ok(())
}

/// The format that the store says it has.
pub(super) fn read_format(database: &Database) -> Result<Option<u32>, Fault> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        meta => meta?,
    };
    Ok(meta.get(rows::FORMAT)?.and_then(|row| rows::read_format(row.value()).ok()))
}

/// Makes a store of an older format one of today's; states of format 1 hold what is done. In one transaction: a cut leaves it
/// as it was.
pub(super) fn migrate(database: &Database) -> Result<(), Fault> {
    let format = read_format(database)?;
    if format.is_none_or(|format| format >= FORMAT_VERSION) {
        return Ok(());
    }
    let txn = database.begin_write()?;
    mark_old_states(&txn)?;
    txn.open_table(META)?.insert(rows::FORMAT, rows::format(FORMAT_VERSION).as_slice())?;
    txn.commit()?;
    Ok(())
}

/// Removes what is damaged and makes anew what can be made from the rest. Writes nothing when all is well.
fn repair(database: &Database, found: &mut Found, damaged: &[DamagedRow], lost: &mut Vec<String>) -> Result<(), Fault> {
    if damaged.is_empty()
        && found.stateless.is_empty()
        && found.uncounted.is_empty()
        && found.format.is_some()
        && found.mark.is_some()
    {
        return Ok(());
    }
    let mut states = Vec::new();
    for no in std::mem::take(&mut found.stateless) {
        let done = std::mem::take(&mut found.session(no).state.done);
        let state = restate(database, no, None, done, lost)?;
        found.session(no).state = state.clone();
        states.push((no, state));
    }
    for no in std::mem::take(&mut found.uncounted) {
        let known = found.session(no).state.clone();
        let done = known.done.clone();
        let state = restate(database, no, Some(&known), done, lost)?;
        found.session(no).state = state.clone();
        states.push((no, state));
    }
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        for row in damaged {
            match &row.remove {
                Remove::Session(no) => drop(tables.session.remove(no)?),
                Remove::State(no) => drop(tables.state.remove(no)?),
                Remove::Subscription(no, filter) => drop(tables.subscription.remove((*no, filter.as_str()))?),
                Remove::Retained(topic) => drop(tables.retained.remove(topic.as_str())?),
                Remove::Meta(key) => drop(tables.meta.remove(key)?),
                Remove::Done(no, first) => drop(tables.done.remove((*no, *first))?),
            }
        }
        for (no, state) in &states {
            tables.state.insert(no, rows::state(*no, state).as_slice())?;
        }
        tables.meta.insert(rows::FORMAT, rows::format(FORMAT_VERSION).as_slice())?;
        let mark = remark(&txn, &tables, found)?;
        tables.meta.insert(rows::MARK, rows::mark(&mark).as_slice())?;
        found.mark = Some(mark);
    }
    txn.commit()?;
    Ok(())
}

/// Ends sessions without a record: nobody knows whose they are, so nobody will ever come for them.
fn end_unknown(database: &Database, found: &mut Found, lost: &mut Vec<String>) -> Result<(), Fault> {
    let (known, unknown) =
        std::mem::take(&mut found.sessions).into_iter().partition::<BTreeMap<_, _>, _>(|(_, s)| s.record.is_some());
    found.sessions = known;
    if unknown.is_empty() {
        return Ok(());
    }
    let mut mark = found.mark.unwrap_or_default();
    let mut batch = Batch { clock: mark.clock, ..Batch::default() };
    for (no, RecoveredSession { state, subscriptions, .. }) in unknown {
        lost.push(format!(
            "session {no} has lost its record: its {} queued messages and {} subscriptions were for nobody and are gone",
            state.queued,
            subscriptions.len()
        ));
        let mut ledger = state.ledger;
        if let Some(dropped) = ledger.dropped.get_mut(DropReason::Damaged as usize) {
            *dropped = dropped.saturating_add(state.queued);
        }
        found.ended.add(&ledger);
        batch.sessions.push(SessionDelta { no: SessionNo(no), ended: true, ..SessionDelta::default() });
    }
    batch.ended_ledger = Some(found.ended);
    mark.commit += 1;
    let txn = database.begin_write()?;
    let applied = apply(&txn, &batch, mark, false, &Backlog::default())?;
    txn.commit()?;
    found.mark = Some(applied.mark);
    Ok(())
}

/// The mark of the database as it is on disk.
pub(super) fn read_mark(database: &Database) -> Result<Mark, Fault> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(Mark::default()),
        meta => meta?,
    };
    let row = meta.get(rows::MARK)?;
    Ok(row.map(|row| rows::read_mark(row.value())).transpose()?.unwrap_or_default())
}

/// A line of `damaged-rows.jsonl`.
pub(super) fn damaged_line(table: &str, key: &str, damage: Damage, bytes: Option<&[u8]>) -> String {
    let hex = bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    serde_json::json!({ "table": table, "key": key, "damage": damage.0, "row": hex }).to_string()
}

/// `YYYYMMDD-HHMMSS`, in UTC.
pub(super) fn stamp(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date of the Gregorian calendar: years are counted from March, so that the leap day is last;
    // an era is 400 years, 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (month, day) = (if march < 10 { march + 3 } else { march - 9 }, day - (153 * march + 2) / 5 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_782_399_000), "20000228-235959");
        assert_eq!(stamp(951_825_600_000), "20000229-120000");
        assert_eq!(stamp(1_795_512_345_678), "20261124-092545");
    }
}
