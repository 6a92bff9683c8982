//! Rows that no tree leads to any more, found in their pages.
//!
//! A page keeps its rows after it has been replaced, until it is used again. So what is found may be what was deleted, or
//! what was there before it was changed. It is taken only where the trees have a gap, or where the trees are of an older
//! commit and it is newer; of two rows with one key the newer one counts, as far as that can be told from them.
//!
//! - Rows of queues and shared messages never change once they are written, and what of them is done is told by states and
//!   marks. So what is found of them is right.
//! - Subscriptions, retained and delayed messages that had been deleted may come back: that is said, and better than to lose
//!   those that had not been.
//! - What says whose a session is, and how far its queue has come, is never taken from an old page: an old list of packet
//!   identifiers would make new messages repetitions, an old time would end a session. Who the sessions are is in two tables;
//!   a state is made anew from the rows. Only when it is not known where the tables are is the newest of each taken: then
//!   what is in the trees is among what is found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use ::redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use super::apply::{KEYED, SESSION, STATE, Tables};
use super::leaves::{Pages, Width};
use super::owner::OWNER;
use super::redb::{FORMAT_VERSION, Fault};
use super::rows::{self, Kind, Mark};
use super::{Keyed, QueueState};

/// Rows are written in pieces of this many bytes, a transaction each.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// A key of any table. Keys of one table sort as in the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Id(u64),
    Pair(u64, u64),
    Filter(u64, String),
    Text(String),
    Keyed(u8, Vec<u8>),
}

/// What the trees do not tell: for each table the stretches of keys, after the one, before the other.
#[derive(Default)]
pub(super) struct Gaps(BTreeMap<u8, Vec<Gap>>);

type Gap = (Option<Key>, Option<Key>);

impl Gaps {
    pub(super) fn add(&mut self, kind: Kind, after: Option<Key>, before: Option<Key>) {
        self.0.entry(kind as u8).or_default().push((after, before));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn any(&self, kind: Kind) -> bool {
        self.0.contains_key(&(kind as u8))
    }

    fn hold_all(&self, kind: Kind) -> bool {
        self.0.get(&(kind as u8)).is_some_and(|gaps| gaps.contains(&(None, None)))
    }

    fn hold(&self, kind: Kind, key: &Key) -> bool {
        let inside = |(after, before): &Gap| {
            after.as_ref().is_none_or(|after| after < key) && before.as_ref().is_none_or(|before| key < before)
        };
        self.0.get(&(kind as u8)).is_some_and(|gaps| gaps.iter().any(inside))
    }
}

/// Which state of the store the trees are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trees {
    /// The last one.
    Newest,
    /// Perhaps an older one, or none.
    Older,
}

/// What the trees have, and what that makes of the rows that are found beside them.
struct Base<'a> {
    gaps: &'a Gaps,
    trees: Trees,
    mark: Mark,
    next_seq: BTreeMap<u64, u64>,
    /// The sessions that there are; `None`: that is not known.
    sessions: Option<BTreeSet<u64>>,
}

/// Which table a row is of, and its key; `None`: it is none of ours, or not what was written.
pub(super) fn identify(width: Width, key: &[u8], row: &[u8]) -> Option<(Kind, Key)> {
    let id = |at: usize| key.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let text = |at: usize| std::str::from_utf8(key.get(at..)?).ok();
    let is = |kind: Kind, of: &dyn Fn(Kind) -> bool| of(kind).then_some(kind);
    match width {
        Width::Fixed(8) => {
            let id = id(0)?;
            let of = |kind| rows::body(row, kind, &id).is_ok();
            let kind =
                [Kind::State, Kind::Session, Kind::Owner, Kind::Ending].into_iter().find_map(|kind| is(kind, &of))?;
            Some((kind, Key::Id(id)))
        }
        Width::Fixed(_) => {
            let pair = (id(0)?, id(8)?);
            let of = |kind| rows::body(row, kind, &pair).is_ok();
            let kind = [Kind::Queue, Kind::Shared, Kind::Done].into_iter().find_map(|kind| is(kind, &of))?;
            Some((kind, Key::Pair(pair.0, pair.1)))
        }
        Width::Any => {
            if let Some(text) = text(0) {
                let of = |kind| rows::body(row, kind, &text).is_ok();
                // The only row that has no checksum; it has a complement.
                if text == rows::FORMAT && rows::read_format(row).is_ok() {
                    return Some((Kind::Meta, Key::Text(text.to_owned())));
                }
                let kinds = [Kind::Retained, Kind::Meta, Kind::Ended];
                if let Some(kind) = kinds.into_iter().find_map(|kind| is(kind, &of)) {
                    return Some((kind, Key::Text(text.to_owned())));
                }
            }
            if let (Some(id), Some(filter)) = (id(0), text(8))
                && rows::body(row, Kind::Subscription, &(id, filter)).is_ok()
            {
                return Some((Kind::Subscription, Key::Filter(id, filter.to_owned())));
            }
            let (of, rest) = key.split_first()?;
            rows::body(row, Kind::Keyed, &(*of, rest)).ok()?;
            Some((Kind::Keyed, Key::Keyed(*of, rest.to_vec())))
        }
    }
}

/// Copies the trees of the newest catalogue of tables that can be found, for a file whose beginning is lost. What of them cannot
/// be read is noted in `gaps`.
pub(super) fn copy_trees(
    pages: &Pages<'_>,
    fresh: &Database,
    gaps: &mut Gaps,
    lost: &mut Vec<String>,
) -> Result<(), Fault> {
    let kinds = [
        (Kind::Session, "session", Width::Fixed(8)),
        (Kind::Owner, "owner", Width::Fixed(8)),
        (Kind::State, "state", Width::Fixed(8)),
        (Kind::Subscription, "subscription", Width::Any),
        (Kind::Retained, "retained", Width::Any),
        (Kind::Shared, "shared", Width::Fixed(16)),
        (Kind::Queue, "queue", Width::Fixed(16)),
        (Kind::Done, "done", Width::Fixed(16)),
        (Kind::Ending, "ending", Width::Fixed(8)),
        (Kind::Keyed, "keyed", Width::Any),
        (Kind::Meta, "meta", Width::Any),
    ];
    let mark_of = |roots: &Vec<(String, u64)>| {
        let mut mark = None;
        let meta = roots.iter().find(|(name, _)| name == "meta")?.1;
        pages.walk(meta, Width::Any, &mut |key, row| {
            if key == rows::MARK.as_bytes() {
                mark = rows::read_mark(row).ok();
            }
        });
        mark.map(|mark| mark.commit)
    };
    let newest = pages.catalogues().into_iter().filter_map(|roots| Some((mark_of(&roots)?, roots)));
    let Some((commit, roots)) = newest.max_by_key(|(commit, _)| *commit) else {
        lost.push(
            "where its tables are could not be read: rows are taken as they are found, deleted ones too".to_owned(),
        );
        for (kind, ..) in kinds {
            gaps.add(kind, None, None);
        }
        gaps.add(Kind::Ended, None, None);
        return Ok(());
    };
    lost.push(format!("its beginning could not be read; what is in it as of commit {commit} was found without it"));
    let mut writer = Writer::new(fresh, None);
    for (kind, name, width) in kinds {
        let Some((_, root)) = roots.iter().find(|(known, _)| known == name) else { continue };
        let mut failed = Ok(());
        let whole = pages.walk(*root, width, &mut |key, row| {
            let found = identify(width, key, row).filter(|_| failed.is_ok());
            if let Some((kind, key)) = found {
                failed = refuse_newer(&key, row).and_then(|()| writer.take(kind, key, row));
            }
        });
        failed?;
        if !whole {
            lost.push(format!("some of table {name} could not be read"));
            gaps.add(kind, None, None);
        }
    }
    writer.flush()
}

/// What a newer program has written is not for this one to recover.
fn refuse_newer(key: &Key, row: &[u8]) -> Result<(), Fault> {
    let is_format = matches!(key, Key::Text(name) if name == rows::FORMAT);
    match rows::read_format(row) {
        Ok(version) if is_format && version > FORMAT_VERSION => Err(Fault::Newer(version)),
        _ => Ok(()),
    }
}

/// Takes what is found outside of the trees, where they have gaps or it is newer.
pub(super) fn fill(
    pages: &Pages<'_>,
    fresh: &Database,
    gaps: &Gaps,
    trees: Trees,
    lost: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut writer = Writer::new(fresh, Some(Base::of(fresh, gaps, trees)?));
    let mut failed = Ok(());
    pages.scan(|width, key, row| {
        let Some((kind, key)) = identify(width, key, row) else { return false };
        if failed.is_ok() {
            failed = writer.take(kind, key, row);
        }
        true
    });
    failed?;
    writer.flush()?;
    if gaps.hold_all(Kind::Session) && gaps.hold_all(Kind::Owner) {
        forget_namesakes(fresh)?;
    }
    for (kind, count) in writer.taken {
        if count > 0 {
            lost.push(format!(
                "{count} rows of table {kind} were found outside of its tree; what had been deleted or changed shortly before may be back"
            ));
        }
    }
    Ok(())
}

/// A client has one session: of those found the last one, since all others have ended.
fn forget_namesakes(fresh: &Database) -> Result<(), Fault> {
    let txn = fresh.begin_write()?;
    {
        let (mut sessions, mut owners) = (txn.open_table(SESSION)?, txn.open_table(OWNER)?);
        let mut last = BTreeMap::<String, u64>::new();
        let mut all = BTreeSet::new();
        for (table, read) in [(&sessions, rows::read_session as fn(u64, &[u8]) -> _), (&owners, rows::read_owner)] {
            for row in table.iter()? {
                let (no, row) = row?;
                let no = no.value();
                let Ok(record) = read(no, row.value()) else { continue };
                all.insert(no);
                let last = last.entry(record.client_id).or_default();
                *last = no.max(*last);
            }
        }
        let last: BTreeSet<u64> = last.into_values().collect();
        for no in all.difference(&last) {
            sessions.remove(no)?;
            owners.remove(no)?;
        }
    }
    txn.commit()?;
    Ok(())
}

impl<'a> Base<'a> {
    fn of(fresh: &Database, gaps: &'a Gaps, trees: Trees) -> Result<Self, Fault> {
        let txn = fresh.begin_write()?;
        Tables::open(&txn)?;
        txn.open_table(OWNER)?;
        txn.commit()?;
        let mark = super::recover::read_mark(fresh)?;
        let txn = fresh.begin_read()?;
        let mut next_seq = BTreeMap::new();
        for row in txn.open_table(STATE)?.iter()? {
            let (no, row) = row?;
            let no = no.value();
            next_seq.extend(rows::read_state(no, row.value()).ok().map(|state| (no, state.next_seq)));
        }
        let mut sessions = BTreeSet::new();
        for table in [SESSION, OWNER] {
            for row in txn.open_table(table)?.iter()? {
                sessions.insert(row?.0.value());
            }
        }
        let is_known = !(gaps.any(Kind::Session) && gaps.any(Kind::Owner));
        Ok(Self { gaps, trees, mark, next_seq, sessions: is_known.then_some(sessions) })
    }

    fn knows(&self, no: u64) -> bool {
        let is_new = self.trees == Trees::Older && no > self.mark.last_session;
        is_new || self.sessions.as_ref().is_none_or(|sessions| sessions.contains(&no))
    }

    /// What stands under a key from now on, if that changes.
    fn decide(&self, kind: Kind, key: &Key, old: Option<&[u8]>, row: &[u8]) -> Option<Vec<u8>> {
        let is_wanted = match (kind, key) {
            (Kind::State, _) => self.trees == Trees::Older,
            (Kind::Session | Kind::Owner, _) => self.trees == Trees::Older || self.sessions.is_none(),
            (Kind::Queue | Kind::Done, Key::Pair(no, _)) | (Kind::Subscription, Key::Filter(no, _)) => self.knows(*no),
            _ => true,
        };
        let is_missing = || self.gaps.hold(kind, key) || self.trees == Trees::Older && self.lacks(kind, key, row);
        match old {
            _ if !is_wanted => None,
            Some(old) if old == row => None,
            Some(old) if self.trees == Trees::Older || self.gaps.hold(kind, key) => newer(kind, key, old, row),
            Some(_) => None,
            None => is_missing().then(|| row.to_vec()),
        }
    }

    /// Whether a row that the trees do not have was written after them.
    fn lacks(&self, kind: Kind, key: &Key, row: &[u8]) -> bool {
        match (kind, key) {
            (Kind::Queue, Key::Pair(no, first)) => match self.next_seq.get(no) {
                Some(next) => first >= next,
                None => *no > self.mark.last_session,
            },
            (Kind::Shared, Key::Pair(commit, _)) => *commit > self.mark.commit,
            (Kind::State | Kind::Session | Kind::Owner, Key::Id(no)) | (Kind::Subscription, Key::Filter(no, _)) => {
                *no > self.mark.last_session
            }
            (Kind::Retained, Key::Text(topic)) => {
                rows::read_retained(topic, row).is_ok_and(|message| message.accepted_at > self.mark.clock.time)
            }
            // What is done, or has ended, stays so.
            (Kind::Done | Kind::Ending, _) => true,
            (Kind::Keyed, Key::Keyed(of, key)) => rows::read_keyed((*of, key), row)
                .ok()
                .and_then(super::message_of)
                .is_some_and(|message| message.accepted_at > self.mark.clock.time),
            _ => false,
        }
    }
}

/// Writes rows into the fresh database, a piece in each transaction.
struct Writer<'a> {
    fresh: &'a Database,
    /// What is found is judged by it; `None`: all of it is taken.
    base: Option<Base<'a>>,
    rows: Vec<(Kind, Key, Vec<u8>)>,
    bytes: usize,
    taken: BTreeMap<&'static str, u64>,
}

impl<'a> Writer<'a> {
    fn new(fresh: &'a Database, base: Option<Base<'a>>) -> Self {
        Self { fresh, base, rows: Vec::new(), bytes: 0, taken: BTreeMap::new() }
    }

    fn take(&mut self, kind: Kind, key: Key, row: &[u8]) -> Result<(), Fault> {
        self.bytes += row.len() + 64;
        self.rows.push((kind, key, row.to_vec()));
        if self.bytes < PIECE_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.bytes = 0;
        let txn = self.fresh.begin_write()?;
        {
            let mut tables = Tables::open(&txn)?;
            for (kind, key, row) in std::mem::take(&mut self.rows) {
                if let ControlFlow::Break(name) = self.put(&txn, &mut tables, (kind, &key), &row)? {
                    *self.taken.entry(name).or_default() += 1;
                }
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Puts a row where it belongs, if it is wanted; then the name of its table.
    fn put(
        &self,
        txn: &WriteTransaction,
        tables: &mut Tables<'_>,
        (kind, key): (Kind, &Key),
        row: &[u8],
    ) -> Result<ControlFlow<&'static str>, Fault> {
        let decide = |old: Option<&[u8]>| match &self.base {
            Some(base) => base.decide(kind, key, old, row),
            None => Some(row.to_vec()),
        };
        let (name, put) = match (kind, key) {
            (Kind::State, Key::Id(no)) => ("state", put(&mut tables.state, *no, decide)?),
            (Kind::Session, Key::Id(no)) => ("session", put(&mut tables.session, *no, decide)?),
            (Kind::Ending, Key::Id(no)) => ("ending", put(&mut tables.ending, *no, decide)?),
            (Kind::Owner, Key::Id(no)) => ("owner", put(&mut txn.open_table(OWNER)?, *no, decide)?),
            (Kind::Queue, Key::Pair(no, first)) => ("queue", put(&mut tables.queue, (*no, *first), decide)?),
            (Kind::Shared, Key::Pair(commit, first)) => ("shared", put(&mut tables.shared, (*commit, *first), decide)?),
            (Kind::Done, Key::Pair(no, first)) => ("done", put(&mut tables.done, (*no, *first), decide)?),
            (Kind::Subscription, Key::Filter(no, filter)) => {
                ("subscription", put(&mut tables.subscription, (*no, filter.as_str()), decide)?)
            }
            (Kind::Retained, Key::Text(topic)) => ("retained", put(&mut tables.retained, topic.as_str(), decide)?),
            (Kind::Meta | Kind::Ended, Key::Text(name)) => ("meta", put(&mut tables.meta, name.as_str(), decide)?),
            (Kind::Keyed, Key::Keyed(of, key)) => {
                ("keyed", put(&mut txn.open_table(KEYED)?, (*of, key.as_slice()), decide)?)
            }
            _ => return Ok(ControlFlow::Continue(())),
        };
        Ok(if put { ControlFlow::Break(name) } else { ControlFlow::Continue(()) })
    }
}

fn put<K: ::redb::Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    decide: impl FnOnce(Option<&[u8]>) -> Option<Vec<u8>>,
) -> Result<bool, Fault> {
    let new = decide(table.get(&key)?.as_ref().map(|row| row.value()));
    if let Some(new) = &new {
        table.insert(&key, new.as_slice())?;
    }
    Ok(new.is_some())
}

/// Epoch and highest number of an origin.
fn window(value: &[u8]) -> Option<(u64, u64)> {
    let window = crate::origins::Window::decode(value.get(..144)?)?;
    Some((window.epoch, window.highest))
}

/// How far a queue's state has come: every figure of it only grows.
fn progress(state: &QueueState) -> (u64, u64, u64) {
    let ledger = &state.ledger;
    let out = ledger.delivered + ledger.expired + ledger.dropped.iter().sum::<u64>();
    (ledger.accepted.max(state.next_seq), out, state.sent)
}

/// What two rows with one key come to, if that is not the old one.
fn newer(kind: Kind, key: &Key, old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let is_newer = match (kind, key) {
        (Kind::State, Key::Id(no)) => {
            progress(&rows::read_state(*no, old).ok()?) < progress(&rows::read_state(*no, new).ok()?)
        }
        (Kind::Session, Key::Id(no)) => {
            rows::read_session(*no, old).ok()?.disconnected_at < rows::read_session(*no, new).ok()?.disconnected_at
        }
        (Kind::Retained, Key::Text(topic)) => {
            rows::read_retained(topic, old).ok()?.accepted_at < rows::read_retained(topic, new).ok()?.accepted_at
        }
        (Kind::Meta, _) => rows::read_mark(old).ok()?.commit < rows::read_mark(new).ok()?.commit,
        (Kind::Ended, _) => rows::read_ended(old).ok()?.accepted < rows::read_ended(new).ok()?.accepted,
        (Kind::Done, Key::Pair(no, first)) => {
            let key = (*no, *first);
            let before = rows::read_done(key, old).ok()?;
            let mut bits = before;
            for (bits, more) in bits.iter_mut().zip(rows::read_done(key, new).ok()?) {
                *bits |= more;
            }
            return (bits != before).then(|| rows::done(key, &bits));
        }
        (Kind::Keyed, Key::Keyed(of, key)) => {
            let value = |row| rows::read_keyed((*of, key), row).ok();
            let (old, new) = (value(old)?, value(new)?);
            // Totals are numbers with their highest byte first; windows of origins begin with two that have it last.
            if *of == Keyed::Origins as u8 { window(old)? < window(new)? } else { old < new }
        }
        _ => false,
    };
    is_newer.then(|| new.to_vec())
}
