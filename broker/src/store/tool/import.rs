//! Makes a store of the lines of an export.

use std::collections::{BTreeSet, HashSet};
use std::io::BufRead;
use std::path::Path;

use ::redb::{Durability, WriteTransaction};

use super::lines::{EXPORT_VERSION, End, Line, QueuedLine, StoreLine};
use super::{Counts, Looked, ToolError, error, lock, open_untouched, options};
use crate::store::apply::apply;
use crate::store::clean::Backlog;
use crate::store::medium::Folder;
use crate::store::page::{Limit, keyed_of};
use crate::store::recover::{self, load};
use crate::store::redb::{Fault, Inner, contain};
use crate::store::rows::Mark;
use crate::store::{Batch, Keyed, Ledger, QueueState, RetainedChange, SessionDelta, SessionNo};

/// Bytes of lines that are given to the transaction at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// Writes what the lines say into the store of the folder, which must be empty or not there: all of it or nothing.
///
/// # Errors
/// A line is wrong, the store is not empty or in use, or the device fails.
pub fn import(dir: &Path, input: &mut dyn BufRead) -> Result<Counts, ToolError> {
    let inner = match lock(dir) {
        Err(ToolError::NoStore { .. }) => Inner::new(Folder::open(dir)?, &options()),
        locked => {
            let inner = locked?;
            must_be_empty(&inner)?;
            inner
        }
    };
    let opened = recover::open(&inner, 0).and_then(|(database, _, mark)| {
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        Ok((database, txn, mark))
    });
    let (_database, txn, mark) = opened.map_err(|fault| error(&inner, fault))?;
    let mut importer = Importer::new(&inner, &txn, mark);
    importer.everything(input)?;
    let counts = importer.counts;
    contain(|| Ok(txn.commit()?)).map_err(|fault| error(&inner, fault))?;
    // Its commits are counted anew, whatever was there before it.
    inner.medium.set_generation(0)?;
    Ok(counts)
}

fn parse(text: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(text).map_err(|why| {
        let said = why.to_string();
        // It counts the lines of what it was given, which is one.
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
        format!("{what}, at column {}", why.column())
    })
}

fn must_be_empty(inner: &Inner) -> Result<(), ToolError> {
    let one = Limit { messages: 1, bytes: 1 };
    let read = open_untouched(inner).and_then(|Looked { database, .. }| {
        let mut keyed = 0;
        for of in Keyed::ALL {
            keyed += keyed_of(&database, (of as u8, &[]), one)?.rows.len();
        }
        Ok((load(&database)?, keyed))
    });
    let (found, keyed) = read.map_err(|fault| error(inner, fault))?;
    if found.sessions.is_empty() && found.retained.is_empty() && found.damaged.is_empty() && keyed == 0 {
        return Ok(());
    }
    let counts = Counts {
        sessions: found.sessions.len() as u64,
        subscriptions: found.sessions.values().map(|session| session.subscriptions.len() as u64).sum(),
        queued: found.sessions.values().map(|session| session.state.queued).sum(),
        queued_bytes: found.sessions.values().map(|session| session.state.queued_bytes).sum(),
        retained: found.retained.len() as u64,
        keyed: keyed as u64,
    };
    Err(ToolError::NotEmpty { path: inner.medium.name(), found: counts })
}

struct Importer<'a> {
    inner: &'a Inner,
    txn: &'a WriteTransaction,
    mark: Mark,
    batch: Batch,
    bytes: usize,
    /// The session whose lines come.
    session: Option<Open>,
    seen: Seen,
    counts: Counts,
    number: u64,
    ended: bool,
}

/// What must not come twice.
#[derive(Default)]
struct Seen {
    clients: HashSet<String>,
    topics: HashSet<String>,
}

struct Open {
    delta: SessionDelta,
    filters: BTreeSet<String>,
    /// What its state says, and how much of it has come.
    state: Option<QueueState>,
    next: u64,
    queued: u64,
    bytes: u64,
}

impl Open {
    fn new(no: u64) -> Self {
        let delta = SessionDelta { no: SessionNo(no), ..SessionDelta::default() };
        Self { delta, filters: BTreeSet::new(), state: None, next: 0, queued: 0, bytes: 0 }
    }
}

impl<'a> Importer<'a> {
    fn new(inner: &'a Inner, txn: &'a WriteTransaction, mark: Mark) -> Self {
        Self {
            inner,
            txn,
            mark,
            batch: Batch::default(),
            bytes: 0,
            session: None,
            seen: Seen::default(),
            counts: Counts::default(),
            number: 0,
            ended: false,
        }
    }

    fn everything(&mut self, input: &mut dyn BufRead) -> Result<(), ToolError> {
        let mut text = Vec::new();
        loop {
            text.clear();
            self.number += 1;
            if input.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            self.bytes += text.len();
            let taken = parse(&text).and_then(|line| self.take(line));
            taken.map_err(|detail| ToolError::Line { number: self.number, detail })?;
            if self.bytes >= PIECE_BYTES {
                self.write()?;
            }
        }
        if !self.ended {
            let detail = "it ends here without an end line: it was cut off".to_owned();
            return Err(ToolError::Line { number: self.number, detail });
        }
        self.write()
    }

    /// Gives what was collected to the transaction.
    fn write(&mut self) -> Result<(), ToolError> {
        if let Some(open) = &mut self.session {
            let rest = SessionDelta { no: open.delta.no, ..SessionDelta::default() };
            self.batch.sessions.push(std::mem::replace(&mut open.delta, rest));
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.clock = self.mark.clock;
        self.mark.commit += 1;
        let applied = contain(|| apply(self.txn, &batch, self.mark, false, &Backlog::default()));
        self.mark = applied.map_err(|fault: Fault| error(self.inner, fault))?.mark;
        self.bytes = 0;
        Ok(())
    }

    fn take(&mut self, line: Line) -> Result<(), String> {
        let first = match self.number {
            1 => Some("export"),
            2 => Some("store"),
            _ => None,
        };
        let name = line.name();
        match first {
            Some(wanted) if wanted != name => return Err(format!("{name} where {wanted} must be")),
            None if matches!(name, "export" | "store") => return Err(format!("a second {name}")),
            _ => {}
        }
        if self.ended {
            return Err(format!("{name} after the end"));
        }
        match line {
            Line::Export(head) if head.version == EXPORT_VERSION => Ok(()),
            Line::Export(head) => {
                Err(format!("version {} of the lines, this program reads {EXPORT_VERSION}", head.version))
            }
            Line::Store(store) => self.store(&store),
            Line::Retained(line) => {
                if !self.seen.topics.insert(line.topic.clone()) {
                    return Err(format!("a second retained message of {}", line.topic));
                }
                let message = line.message()?;
                self.counts.retained += 1;
                self.batch.retained.push(RetainedChange { topic: line.topic, message: Some(message) });
                Ok(())
            }
            Line::Session(line) => {
                let record = line.record()?;
                if !self.seen.clients.insert(line.client_id) {
                    return Err(format!("a second session of client {}", record.client_id));
                }
                self.begin(line.no)?.delta.record = Some(record);
                Ok(())
            }
            Line::Subscription(line) => {
                let subscription = line.subscription()?;
                let open = self.of(line.session)?;
                if open.state.is_some() {
                    return Err("a subscription after its session's state".to_owned());
                }
                if !open.filters.insert(line.filter) {
                    return Err(format!("a second subscription of session {} to it", line.session));
                }
                open.delta.subscribed.push(subscription);
                self.counts.subscriptions += 1;
                Ok(())
            }
            Line::State(line) => {
                let state = line.state()?;
                let open = self.of(line.session)?;
                if open.state.is_some() {
                    return Err(format!("a second state of session {}", line.session));
                }
                open.next = state.floor;
                // What is done has no entry here: nothing of it is kept.
                open.delta.state = Some(state.clone());
                open.state = Some(state);
                Ok(())
            }
            Line::Queued(line) => self.queued(&line),
            Line::Keyed(line) => {
                self.batch.keyed.push(line.change()?);
                self.counts.keyed += 1;
                Ok(())
            }
            Line::End(end) => self.end(&end),
        }
    }

    fn store(&mut self, line: &StoreLine) -> Result<(), String> {
        let ended: Ledger = line.ended()?;
        self.mark.clock = line.clock();
        self.mark.last_session = self.mark.last_session.max(line.last_session);
        self.batch.ended_ledger = Some(ended);
        Ok(())
    }

    /// The lines of a session begin; those of the one before are over.
    fn begin(&mut self, no: u64) -> Result<&mut Open, String> {
        let before = self.session.as_ref().map_or(0, |open| open.delta.no.0);
        if no <= before {
            return Err(format!("session {no} after session {before}"));
        }
        if no > self.mark.last_session {
            return Err(format!("session {no} is above last_session, {}", self.mark.last_session));
        }
        self.close()?;
        self.counts.sessions += 1;
        Ok(self.session.insert(Open::new(no)))
    }

    fn of(&mut self, no: u64) -> Result<&mut Open, String> {
        if self.session.as_ref().is_none_or(|open| open.delta.no.0 != no) {
            // A session that has lost its record has its other lines.
            return self.begin(no);
        }
        self.session.as_mut().ok_or_else(String::new)
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(open) = self.session.take() else { return Ok(()) };
        let (no, state) = (open.delta.no.0, open.state.unwrap_or_default());
        if (open.queued, open.bytes) != (state.queued, state.queued_bytes) {
            return Err(format!(
                "session {no} has {} queued messages of {} bytes before this line, its state says {} of {}",
                open.queued, open.bytes, state.queued, state.queued_bytes
            ));
        }
        self.batch.sessions.push(open.delta);
        Ok(())
    }

    fn queued(&mut self, line: &QueuedLine) -> Result<(), String> {
        let entry = line.entry()?;
        let size = entry.message.size();
        let open = self.of(line.session)?;
        let Some(state) = &open.state else { return Err("queued before its session's state".to_owned()) };
        if entry.seq < open.next || entry.seq >= state.next_seq || !super::export::is_queued(state, &entry) {
            return Err(format!("place {} is out of order, done, or not between floor and next_seq", entry.seq));
        }
        open.next = entry.seq + 1;
        open.queued += 1;
        open.bytes += size as u64;
        open.delta.enqueued.push(entry);
        self.counts.queued += 1;
        self.counts.queued_bytes += size as u64;
        Ok(())
    }

    fn end(&mut self, end: &End) -> Result<(), String> {
        self.close()?;
        let Counts { sessions, subscriptions, queued, retained, keyed, .. } = self.counts;
        let come = End { sessions, subscriptions, queued, retained, keyed };
        if *end != come {
            return Err(format!("the end says {end:?}, and {come:?} came"));
        }
        self.ended = true;
        Ok(())
    }
}
