//! Which delayed messages there are: the soonest in memory, the rest on disk only. No clock, no store: calls carry the time,
//! and what must be written and read comes out as values.
//!
//! ```text
//!   accepted ──► fresh ──collect──► under way ──committed──► head (memory, the soonest) ──due──► removed
//!                                                  └───────► disk only, at or above `beyond` ──refill──► head
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::message::Message;

/// Messages of one line that are held in memory.
const HEAD_MESSAGES: usize = 1024;
/// Bytes of them.
const HEAD_BYTES: usize = 1024 * 1024;
/// What a message takes beside its bytes, about: its entry in the tree and its counters.
const ENTRY_BYTES: usize = 128;

/// Which clock a due time is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Line {
    /// The broker's own clock, which no step of the wall clock moves: for "in so many seconds".
    Own = 0,
    /// The wall clock, milliseconds since 1970: for a date.
    Wall = 1,
}

impl Line {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Wall];
}

/// A delayed message's key: messages of a line are sent in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose time `due_ms` is.
    pub line: Line,
    /// When it is due, in milliseconds.
    pub due_ms: u64,
    /// Counts arrivals: unique, and ascending with them.
    pub arrival: u64,
}

/// Bytes of an encoded key.
const KEY_BYTES: usize = 17;

impl Key {
    /// As it is stored: sorts as the key does.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        bytes.push(self.line as u8);
        bytes.extend_from_slice(&self.due_ms.to_be_bytes());
        bytes.extend_from_slice(&self.arrival.to_be_bytes());
        bytes
    }

    /// `None`: these bytes are no key.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (line, rest) = bytes.split_first()?;
        let (due, arrival) = rest.split_at_checked(8)?;
        Some(Self {
            line: Line::ALL.into_iter().find(|of| *of as u8 == *line)?,
            due_ms: u64::from_be_bytes(due.try_into().ok()?),
            arrival: u64::from_be_bytes(arrival.try_into().ok()?),
        })
    }

    /// The first key behind it.
    pub(crate) fn next(self) -> Self {
        Self { arrival: self.arrival.saturating_add(1), ..self }
    }
}

/// How many messages may wait for their time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages.
    pub max_messages: u64,
    /// Bytes of topics, properties and payloads.
    pub max_bytes: u64,
}

/// What all of them come to; kept in the store, so that nothing must be counted at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that wait for their time.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The last arrival.
    pub arrivals: u64,
    /// Messages that were sent when they were due, ever.
    pub sent: u64,
    /// Messages that expired before they were due, ever.
    pub expired: u64,
    /// Messages that an operator cancelled, ever.
    pub cancelled: u64,
}

impl Totals {
    fn each(&mut self) -> [&mut u64; 6] {
        [
            &mut self.messages,
            &mut self.bytes,
            &mut self.arrivals,
            &mut self.sent,
            &mut self.expired,
            &mut self.cancelled,
        ]
    }

    /// As they are stored: numbers of eight bytes, big-endian. More may be appended.
    #[must_use]
    pub fn encode(mut self) -> Vec<u8> {
        self.each().into_iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// What is missing is zero.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let mut totals = Self::default();
        for (to, from) in totals.each().into_iter().zip(bytes.chunks_exact(8)) {
            *to = from.try_into().map_or(0, u64::from_be_bytes);
        }
        totals
    }
}

/// Why a message leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was due and has been sent.
    Sent,
    /// It expired.
    Expired,
    /// An operator did not want it any more.
    Cancelled,
}

struct Waiting {
    message: Arc<Message>,
    /// The publisher's ack waits: `settle` is owed.
    awaited: bool,
}

struct Item {
    message: Arc<Message>,
    committed: bool,
}

#[derive(Default)]
struct LineState {
    head: BTreeMap<Key, Item>,
    head_bytes: usize,
    /// Keys at or above it may be on disk only.
    beyond: Option<Key>,
    refilling: bool,
    /// Committed while a page was read: it may be missing in it.
    meanwhile: BTreeMap<Key, Arc<Message>>,
    /// Removed by a commit while a page was read: it may still be in it.
    gone: BTreeSet<Key>,
}

/// What one commit takes with it.
#[derive(Debug, Default)]
pub struct Collected {
    /// Messages to be stored.
    pub set: Vec<(Key, Arc<Message>)>,
    /// Keys to be deleted.
    pub removed: Vec<Key>,
    /// The totals with them.
    pub totals: Totals,
}

impl Collected {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }
}

/// The delayed messages.
pub struct Index {
    limits: Limits,
    lines: [LineState; 2],
    /// Accepted and not yet committed; those of `fresh` are in no commit yet.
    uncommitted: BTreeMap<Key, Waiting>,
    fresh: Vec<Key>,
    removals: Vec<Key>,
    /// Removed, while the store may still have the row.
    removing: BTreeSet<Key>,
    totals: Totals,
}

impl Index {
    /// As the store has it; everything it holds is on disk.
    #[must_use]
    pub fn new(limits: Limits, totals: Totals) -> Self {
        let line = |line| LineState {
            beyond: (totals.messages > 0).then_some(Key { line, due_ms: 0, arrival: 0 }),
            ..LineState::default()
        };
        let lines = [line(Line::Own), line(Line::Wall)];
        let (uncommitted, removing) = (BTreeMap::new(), BTreeSet::new());
        Self { limits, lines, uncommitted, fresh: Vec::new(), removals: Vec::new(), removing, totals }
    }

    /// What there is.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a message of this size finds room.
    #[must_use]
    pub fn has_room(&self, size: usize) -> bool {
        self.totals.messages < self.limits.max_messages
            && self.totals.bytes.saturating_add(size as u64) <= self.limits.max_bytes
    }

    fn line(&mut self, line: Line) -> &mut LineState {
        let [own, wall] = &mut self.lines;
        match line {
            Line::Own => own,
            Line::Wall => wall,
        }
    }

    /// Takes a message. `awaited`: its publisher's ack waits, and the message counts as unsafe until the commit.
    pub fn insert(&mut self, line: Line, due_ms: u64, message: Arc<Message>, awaited: bool) -> Key {
        self.totals.arrivals += 1;
        self.totals.messages += 1;
        self.totals.bytes += message.size() as u64;
        let key = Key { line, due_ms, arrival: self.totals.arrivals };
        if awaited {
            message.await_one();
        }
        let of = self.line(line);
        if of.beyond.is_none_or(|beyond| key < beyond) {
            of.put(key, message.clone(), false);
            of.shrink();
        }
        self.uncommitted.insert(key, Waiting { message, awaited });
        self.fresh.push(key);
        key
    }

    /// Those that are due, in order, `most` at once, behind `after`, up to the first that is not committed. They stay until they
    /// are [`Index::remove`]d.
    #[must_use]
    pub fn due(&self, line: Line, now_ms: u64, after: Option<Key>, most: usize) -> Vec<(Key, Arc<Message>)> {
        let [own, wall] = &self.lines;
        let of = if line == Line::Own { own } else { wall };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = of.head.range((from, Bound::Unbounded));
        let due = rest.take_while(|(key, item)| key.due_ms <= now_ms && item.committed);
        due.take(most).map(|(key, item)| (*key, item.message.clone())).collect()
    }

    /// From where on the store has more that may be due, behind all that is in memory, and up to which key: the first that is not
    /// committed. `None`: there is no more, or something in memory is to be sent before.
    #[must_use]
    pub fn behind_head(&self, line: Line, now_ms: u64) -> Option<(Key, Option<Key>)> {
        let [own, wall] = &self.lines;
        let of = if line == Line::Own { own } else { wall };
        let from = of.beyond.filter(|beyond| beyond.due_ms <= now_ms)?;
        let of_line = Key { line, due_ms: 0, arrival: 0 }..;
        let end = self.uncommitted.range(of_line).next().map(|(key, _)| *key).filter(|key| key.line == line);
        end.is_none_or(|end| end > from).then_some((from, end))
    }

    /// A message leaves: one of [`Index::due`], or one that the store has. False: it is leaving already, or not committed.
    pub fn remove(&mut self, key: Key, size: usize, gone: Gone) -> bool {
        if self.uncommitted.contains_key(&key) || !self.removing.insert(key) {
            return false;
        }
        self.line(key.line).take(key);
        self.removals.push(key);
        self.totals.messages = self.totals.messages.saturating_sub(1);
        self.totals.bytes = self.totals.bytes.saturating_sub(size as u64);
        *match gone {
            Gone::Sent => &mut self.totals.sent,
            Gone::Expired => &mut self.totals.expired,
            Gone::Cancelled => &mut self.totals.cancelled,
        } += 1;
        true
    }

    /// A committed message is to be sent at another time; it counts as having arrived now. `None`: it has left already.
    pub fn reschedule(&mut self, key: Key, line: Line, due_ms: u64, message: Arc<Message>) -> Option<Key> {
        let Totals { cancelled, .. } = self.totals;
        if !self.remove(key, message.size(), Gone::Cancelled) {
            return None;
        }
        self.totals.cancelled = cancelled;
        Some(self.insert(line, due_ms, message, false))
    }

    /// Where the store is to be read, when a line's head runs low: a page from this key on, given to
    /// [`Index::refilled`].
    pub fn refill(&mut self, line: Line) -> Option<Key> {
        let of = self.line(line);
        let from = of.beyond.filter(|_| !of.refilling && of.head.len() < HEAD_MESSAGES / 4)?;
        of.refilling = true;
        Some(from)
    }

    /// How much a page may hold.
    #[must_use]
    pub fn page_limits() -> (usize, usize) {
        (HEAD_MESSAGES / 2, HEAD_BYTES / 2)
    }

    /// The page that [`Index::refill`] asked for: `None` when it could not be read, then it is asked for again.
    pub fn refilled(&mut self, line: Line, from: Key, page: Option<Vec<(Key, Arc<Message>)>>) {
        let of = self.line(line);
        of.refilling = false;
        let (meanwhile, gone) = (std::mem::take(&mut of.meanwhile), std::mem::take(&mut of.gone));
        let Some(page) = page else { return };
        // An empty page, or one of another line, is the end of this one.
        let beyond = page.last().map(|(key, _)| key.next()).filter(|_| page.iter().all(|(key, _)| key.line == line));
        let within = |key: &Key| key.line == line && *key >= from && beyond.is_none_or(|beyond| *key < beyond);
        let late: Vec<_> =
            self.uncommitted.iter().filter(|(key, _)| within(key)).map(|(k, w)| (*k, w.message.clone())).collect();
        // A row may be there before its commit is known to have happened.
        let page = page.into_iter().filter(|(key, _)| key.line == line && !self.uncommitted.contains_key(key));
        let committed = page.chain(meanwhile.into_iter().filter(|(key, _)| within(key)));
        let is_there = |key: &Key| !self.removing.contains(key) && !gone.contains(key);
        let committed: Vec<_> = committed.filter(|(key, _)| is_there(key)).collect();
        let of = self.line(line);
        of.beyond = beyond;
        for (key, message) in late {
            of.put(key, message, false);
        }
        for (key, message) in committed {
            of.put(key, message, true);
        }
        of.shrink();
    }

    /// What the next commit is to write.
    pub fn collect(&mut self) -> Collected {
        let set = std::mem::take(&mut self.fresh).into_iter();
        let set = set.filter_map(|key| Some((key, self.uncommitted.get(&key)?.message.clone()))).collect();
        Collected { set, removed: std::mem::take(&mut self.removals), totals: self.totals }
    }

    /// The commit is done.
    pub fn committed(&mut self, collected: Collected) {
        for (key, message) in collected.set {
            if self.uncommitted.remove(&key).is_some_and(|waiting| waiting.awaited) {
                message.settle();
            }
            let of = self.line(key.line);
            if let Some(item) = of.head.get_mut(&key) {
                item.committed = true;
            }
            if of.refilling {
                of.meanwhile.insert(key, message);
            }
        }
        for key in collected.removed {
            self.removing.remove(&key);
            let of = self.line(key.line);
            if of.refilling {
                of.gone.insert(key);
            }
        }
    }

    /// The commit failed. `refused` says which messages their publishers have back: they are not kept. Nobody knows what
    /// of the commit the store has, so those are deleted.
    pub fn not_committed(&mut self, collected: Collected, refused: impl Fn(&Arc<Message>) -> bool) {
        self.removals.extend(collected.removed);
        for (key, message) in collected.set {
            if !refused(&message) {
                self.fresh.push(key);
                continue;
            }
            if self.uncommitted.remove(&key).is_some_and(|waiting| waiting.awaited) {
                message.settle();
            }
            self.line(key.line).take(key);
            self.removals.push(key);
            self.removing.insert(key);
            self.totals.messages = self.totals.messages.saturating_sub(1);
            self.totals.bytes = self.totals.bytes.saturating_sub(message.size() as u64);
        }
    }

    /// Whether the key's message has been removed, though the store may still have it.
    #[must_use]
    pub fn is_removed(&self, key: &Key) -> bool {
        self.removing.contains(key)
    }

    /// Whether it is in memory, committed and not removed.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        let [own, wall] = &self.lines;
        let of = if key.line == Line::Own { own } else { wall };
        of.head.get(key).is_some_and(|item| item.committed)
    }

    /// Whether it is in no commit that is to come: neither is it new, nor is it leaving.
    #[must_use]
    pub fn is_settled(&self, key: &Key) -> bool {
        !self.uncommitted.contains_key(key) && !self.is_removed(key)
    }

    /// What must always hold; for tests.
    pub fn check(&self) {
        for (line, of) in Line::ALL.into_iter().zip(&self.lines) {
            assert!(of.head.keys().all(|key| key.line == line && of.beyond.is_none_or(|beyond| *key < beyond)));
            let bytes: usize = of.head.values().map(|item| item.message.size() + ENTRY_BYTES).sum();
            assert_eq!(of.head_bytes, bytes);
            assert!(of.head.len() <= HEAD_MESSAGES && (of.head.len() <= 1 || of.head_bytes <= HEAD_BYTES));
            for (key, item) in &of.head {
                assert_eq!(item.committed, !self.uncommitted.contains_key(key), "{key:?}");
                assert!(!self.removing.contains(key), "{key:?} was removed");
            }
            let missing = |key: &&Key| key.line == line && of.beyond.is_none_or(|beyond| **key < beyond);
            assert!(self.uncommitted.keys().filter(missing).all(|key| of.head.contains_key(key)));
        }
        assert!(self.fresh.iter().all(|key| self.uncommitted.contains_key(key)));
    }
}

impl LineState {
    fn put(&mut self, key: Key, message: Arc<Message>, committed: bool) {
        let bytes = message.size() + ENTRY_BYTES;
        if self.head.insert(key, Item { message, committed }).is_none() {
            self.head_bytes += bytes;
        }
    }

    fn take(&mut self, key: Key) {
        if let Some(item) = self.head.remove(&key) {
            self.head_bytes -= item.message.size() + ENTRY_BYTES;
        }
    }

    /// The latest are left to the disk, or to the commit that brings them there. One stays, however large.
    fn shrink(&mut self) {
        while self.head.len() > HEAD_MESSAGES || self.head.len() > 1 && self.head_bytes > HEAD_BYTES {
            let Some((key, item)) = self.head.pop_last() else { return };
            self.head_bytes -= item.message.size() + ENTRY_BYTES;
            self.beyond = Some(key);
        }
    }
}
