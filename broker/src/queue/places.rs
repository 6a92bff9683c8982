//! A queue: messages that are kept for somebody, in order. A message's place (`seq`) is its identity: it is never
//! another message's, and the same after a crash.
//!
//! In order of place:
//!
//! ```text
//!   held           taken, not over yet          the taker's, see `Holder`
//!   next           to be taken next             in memory, bounded
//!   disk           committed, memory given back paged in when `next` runs low
//!   pending        accepted, commit under way   in memory until the commit
//! ```
//!
//! New messages join `next` while disk and pending are empty and it has room, else pending.
//!
//! A queue has no clock and no store, and knows no client: it is told the time and the limits, whether its messages are
//! stored, and what its taker holds; it says what is to be written and which page it wants.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use super::ahead::Ahead;
use super::holder::Holder;
use super::holes::{Holes, Untold};
use super::promise::Promise;
use super::scan::{Scan, expires};
use super::{Fallen, Policy, QueueLimits, Reasons};
use crate::lazy::{Blank, Lazy};
use crate::message::{Message, Time};
use crate::store::{DropReason, Ledger, QueueEntry};

/// Places that may be handed out as values before the store knows of them.
pub(crate) const RESERVE: u64 = 1 << 20;

/// What a call to a queue must know.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// The time.
    pub(crate) now: Time,
    /// The limits of all queues that have none of their own.
    pub(crate) limits: &'a QueueLimits,
}

/// What is between a queue and its taker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Taking {
    /// They exchange more than one word about a message of QoS 2, over a restart too: what may have been sent before one is the
    /// taker's to end, and no policy's or clock's.
    #[default]
    Exchange,
    /// The taker has a message, or has not.
    Value,
}

/// Where a queue is kept while its taker is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In the store: it outlives its taker's connection.
    Stored,
    /// In memory only.
    InMemory,
}

/// Whether a queue's taker is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is connected, or takes.
    There,
    /// Nobody takes.
    Away,
}

/// Where a message that joins waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// In memory, to be taken with no disk between.
    Next,
    /// Behind what lies on disk, or for its own commit.
    Pending,
}

/// A message that joins a queue.
pub(crate) struct Arrival {
    /// The message, at the place that [`Queue::admit`] gave it.
    pub(crate) item: QueueEntry,
    /// `settle` is owed to it when it is committed or over.
    pub(crate) awaiting: bool,
    /// It leaves another queue in the commit in which it enters this one.
    pub(crate) moved: bool,
}

/// How a message that was taken has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is where it was to go.
    Delivered,
    /// Its time was over.
    Expired,
    /// It will not arrive.
    Dropped(DropReason),
}

/// A message that waits in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) item: QueueEntry,
    /// `settle` is owed to the message.
    pub(crate) awaiting: bool,
}

impl Entry {
    /// It is where it was to go.
    pub(crate) fn settle(self) {
        if self.awaiting {
            self.item.message.settle();
        }
    }
}

/// One queue.
#[derive(Default)]
pub(crate) struct Queue {
    /// Messages in it: those held, those waiting, those passing.
    pub(super) queued: u64,
    pub(super) queued_bytes: u64,
    pub(super) ledger: Ledger,
    /// Messages that wait nowhere here (QoS 0), but count until the taker's socket has them.
    pub(super) passing: u32,
    /// Limits of its own, instead of those that all queues share.
    pub(super) own_limits: Option<Arc<QueueLimits>>,
    /// It has refused for too long: until it has drained by half it drops its oldest messages instead.
    pub(super) sheds: bool,
    pub(super) taking: Taking,
    /// What is kept of the messages that it gives up.
    pub(super) keeps: Reasons,
    pub(super) places: Lazy<Places>,
}

/// Where the messages are. A queue through which messages only pass has none of this.
#[derive(Default)]
pub(super) struct Places {
    pub(super) next_seq: u64,
    pub(super) next: VecDeque<Entry>,
    pub(super) pending: VecDeque<Entry>,
    /// Committed places whose messages are on disk only: `disk_from..disk_to`, less the holes.
    pub(super) disk_from: u64,
    pub(super) disk_to: u64,
    pub(super) holes: Holes,
    /// When the message at `disk_from`, or one before it, was accepted.
    pub(super) disk_oldest: Option<Time>,
    pub(super) next_bytes: usize,
    /// Places below were given to the store; those below `committed` are committed.
    pub(super) collected: u64,
    pub(super) committed: u64,
    /// Places below may be handed out as values.
    pub(super) reserved: u64,
    /// Places below were given to the store at some time, in a commit that failed maybe: it may have them.
    pub(super) given: u64,
    /// What of them is done since the last commit.
    pub(super) untold: Untold,
    /// Places below may have been taken before the broker started.
    pub(super) sent_before: u64,
    /// Places below may have been taken after the last commit before a crash: nobody knows.
    pub(super) maybe_sent_before: u64,
    pub(super) promise: Promise,
    /// A page has been asked for.
    pub(super) paging: bool,
    /// What of the queue's beginning on disk may go when room is needed.
    pub(super) ahead: Option<Box<Ahead>>,
    /// keep-last: the newest place of each key (by hash), for messages that may still be replaced.
    pub(super) newest: Option<Box<Newest>>,
    /// Places below have moved here from another queue: they are in the next commit, however young they are.
    pub(super) moved_to: u64,
    pub(super) scan: Scan,
    /// What has left the queue and is not a dead letter yet.
    pub(super) fallen: Vec<Fallen>,
}

impl Blank for Places {
    fn blank() -> &'static Self {
        static BLANK: LazyLock<Places> = LazyLock::new(Places::default);
        &BLANK
    }
}

/// A page that a queue wants from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWanted {
    /// First place.
    pub from: u64,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paged {
    /// Nobody wants it any more.
    NotAsked,
    /// Its messages are next.
    Unchanged,
    /// Something that the store knows has changed.
    Changed,
}

/// By a key's hash: the place of its newest message, and that message's size.
pub(super) type Newest = hashbrown::HashMap<u64, (u64, u32), foldhash::fast::FixedState>;

/// Joining, and being taken.
impl Queue {
    /// A message joins, and is counted: this is its place. [`Queue::make_room`] has let it in.
    pub(crate) fn admit(&mut self, topic: &[u8], properties: &[u8], size: usize, rules: Rules<'_>) -> u64 {
        let seq = self.places.next_seq;
        self.places.next_seq += 1;
        self.ledger.accepted += 1;
        self.queued += 1;
        self.queued_bytes += size as u64;
        let limits = self.limits(rules);
        if limits.policy == Policy::KeepLast {
            let key = limits.keep_last_by.hash_of(topic, properties);
            self.replace(key, seq, size);
        }
        seq
    }

    /// A message that was admitted waits from now on.
    pub(crate) fn put(&mut self, arrival: Arrival, kept: Kept, presence: Presence, rules: Rules<'_>) -> Line {
        let Arrival { item, awaiting, moved } = arrival;
        let expires = expires(&item.message, self.limits(rules).max_age_ms);
        let in_memory = presence == Presence::There
            && !self.on_disk()
            && self.places.pending.is_empty()
            && !self.memory_full(rules);
        let places = &mut *self.places;
        places.promise.note(&item);
        if moved {
            places.moved_to = item.seq + 1;
        }
        let entry = Entry { item, awaiting };
        if in_memory || kept == Kept::InMemory {
            places.next_bytes += entry.item.message.size();
            places.next.push_back(entry);
        } else {
            places.pending.push_back(entry);
        }
        if kept == Kept::Stored {
            places.scan.note(expires);
        }
        if in_memory { Line::Next } else { Line::Pending }
    }

    /// The message to be taken next, after [`Queue::refill`] and if it is in memory.
    pub(crate) fn first(&self) -> Option<&Entry> {
        self.places.next.front()
    }

    /// What [`Queue::first`] would give after [`Queue::refill`].
    pub(crate) fn peek(&self) -> Option<&Entry> {
        let pending = || self.places.pending.front().filter(|_| !self.on_disk());
        self.places.next.front().or_else(pending)
    }

    /// Takes what [`Queue::first`] gave: it is the taker's, and [`Queue::finish`] ends it.
    pub(crate) fn take_first(&mut self) -> Option<Entry> {
        let places = &mut *self.places;
        let entry = places.next.pop_front()?;
        places.next_bytes = places.next_bytes.saturating_sub(entry.item.message.size());
        Some(entry)
    }

    /// Before the next message is taken: when nothing is next and nothing lies on disk, pending messages are next.
    pub(crate) fn refill(&mut self, rules: Rules<'_>) {
        if !self.places.next.is_empty() {
            return;
        }
        while !self.on_disk() && !self.places.pending.is_empty() && !self.memory_full(rules) {
            let Some(entry) = self.places.pending.pop_front() else { return };
            self.places.next_bytes += entry.item.message.size();
            self.places.next.push_back(entry);
        }
    }

    /// A message that was taken is over. True: the store has it, and is to be told.
    pub(crate) fn finish(&mut self, seq: u64, size: usize, ending: Ending) -> bool {
        self.gone(size);
        match ending {
            Ending::Delivered => self.ledger.delivered += 1,
            Ending::Expired => self.ledger.expired += 1,
            Ending::Dropped(reason) => self.dropped(reason, 1),
        }
        self.over(seq);
        seq < self.places.collected
    }

    /// A message that was taken first, and is not sent: it is over, and nobody holds it.
    pub(crate) fn discard(&mut self, entry: Entry, reason: Option<DropReason>) {
        self.over(entry.item.seq);
        self.gone(entry.item.message.size());
        match reason {
            Some(reason) => self.dropped(reason, 1),
            None => self.ledger.expired += 1,
        }
        let sent = entry.item.seq < self.places.sent_before.max(self.places.maybe_sent_before);
        self.fall(entry, reason, sent);
    }

    /// Messages pass: they wait nowhere here.
    pub(crate) fn pass(&mut self, count: u32) {
        self.ledger.accepted += u64::from(count);
        self.queued += u64::from(count);
        self.passing += count;
    }

    /// A message that waited here has been taken, and passes from now on.
    pub(crate) fn pass_taken(&mut self, seq: u64, size: usize) {
        self.passing += 1;
        self.over(seq);
        self.queued_bytes = self.queued_bytes.saturating_sub(size as u64);
    }

    /// So many of those that were passing have passed.
    pub(crate) fn passed(&mut self, count: u32) {
        self.passing -= count;
        let count = u64::from(count);
        self.ledger.delivered += count;
        self.queued -= count;
    }

    /// What was passing is lost.
    pub(crate) fn lose_passing(&mut self) {
        let count = u64::from(std::mem::take(&mut self.passing));
        self.queued -= count;
        self.dropped(DropReason::Qos0, count);
    }

    /// A message does not come in, and is counted.
    pub(crate) fn turn_away(&mut self, reason: DropReason) {
        self.ledger.accepted += 1;
        self.dropped(reason, 1);
    }

    /// Everything goes, but for what the taker holds: that is counted here, and is the taker's to give up.
    /// `give_up` gets each message in memory, and whether it may have been sent to the taker, so that it is for nobody else.
    pub(crate) fn end(&mut self, mut give_up: impl FnMut(Entry, bool)) {
        if self.places.is_made() {
            let places = &mut *self.places;
            let promise = places.promise;
            for entry in places.next.drain(..).chain(places.pending.drain(..)) {
                let was_sent = promise.was_sent(&entry.item);
                give_up(entry, was_sent);
            }
            (places.next, places.pending) = (VecDeque::new(), VecDeque::new());
            places.next_bytes = 0;
            places.disk_to = places.disk_from;
        }
        let rest = std::mem::take(&mut self.queued);
        self.queued_bytes = 0;
        self.passing = 0;
        self.dropped(DropReason::SessionEnded, rest);
    }
}

/// What others of this module build on.
impl Queue {
    pub(crate) fn gone(&mut self, size: usize) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_bytes = self.queued_bytes.saturating_sub(size as u64);
    }

    pub(crate) fn dropped(&mut self, reason: DropReason, count: u64) {
        if let Some(counter) = self.ledger.dropped.get_mut(reason as usize) {
            *counter += count;
        }
    }

    /// A place is done: if the store may have it, it must be told.
    pub(super) fn over(&mut self, seq: u64) {
        if seq < self.places.given {
            self.places.untold.add(seq, seq + 1);
        }
    }

    pub(super) fn is_hole(&self, seq: u64) -> bool {
        self.places.holes.contains(seq)
    }

    /// A place that lies on disk is done.
    pub(super) fn make_hole(&mut self, seq: u64) {
        self.over(seq);
        self.places.holes.add(seq, seq + 1);
        // A page that is on its way is known by where it begins.
        while !self.places.paging
            && let places = &mut *self.places
            && let Some(end) = places.holes.take_at(places.disk_from)
        {
            places.disk_from = places.disk_from.max(end.min(places.disk_to));
        }
    }
}

/// Figures.
impl Queue {
    /// Whether it has, or had, messages that wait.
    pub(crate) fn is_made(&self) -> bool {
        self.places.is_made()
    }

    pub(crate) fn on_disk(&self) -> bool {
        self.places.disk_from < self.places.disk_to
    }

    /// Whether nothing waits.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.places.next.is_empty() && !self.on_disk() && self.places.pending.is_empty()
    }

    /// Whether something waits in memory to be taken next.
    pub(crate) fn has_next(&self) -> bool {
        !self.places.next.is_empty()
    }

    /// Its ledger, and how many messages it has.
    pub(crate) fn ledger(&self) -> (Ledger, u64) {
        (self.ledger, self.queued)
    }

    /// The place that the next message will have.
    pub(crate) fn next_place(&self) -> u64 {
        self.places.next_seq
    }

    /// The place of the oldest message that waits.
    pub(crate) fn oldest_waiting(&self) -> u64 {
        let places = &*self.places;
        let disk = self.on_disk().then_some(places.disk_from);
        let oldest = places.next.front().map(|e| e.item.seq).or(disk).or(places.pending.front().map(|e| e.item.seq));
        oldest.unwrap_or(places.next_seq)
    }

    /// When its oldest message was accepted; `None`: there is none, or it lies on disk and was not read yet.
    pub(crate) fn oldest_at(&self, holder: &impl Holder) -> Option<Time> {
        let places = &*self.places;
        let held = holder.held().find_map(|held| held.item);
        let at = |item: &QueueEntry| item.message.accepted_at;
        let disk = || if self.on_disk() { places.disk_oldest } else { None };
        let pending = || places.pending.front().filter(|_| !self.on_disk()).map(|entry| at(&entry.item));
        held.or(places.next.front().map(|entry| &entry.item)).map(at).or_else(disk).or_else(pending)
    }

    /// Messages are taken as values.
    pub(crate) fn by_value(&self) -> bool {
        self.taking == Taking::Value
    }

    /// Places below may have been taken before the broker started, as far as the store knew.
    pub(crate) fn sent_before(&self) -> u64 {
        self.places.sent_before
    }

    /// Places below may have been taken before a crash, though the store does not know of it.
    pub(crate) fn maybe_sent_before(&self) -> u64 {
        self.places.maybe_sent_before
    }

    /// Whether it may have been sent at QoS 2 before a restart. Its taker may hold it half-way: it is no policy's to drop, and
    /// no clock's.
    pub(crate) fn was_sent(&self, item: &QueueEntry) -> bool {
        item.qos == 2 && item.seq < self.places.sent_before.max(self.places.maybe_sent_before)
    }

    /// Whether its time is over, and it may end by that.
    pub(crate) fn too_old(&self, item: &QueueEntry, rules: Rules<'_>) -> bool {
        // A message that may have been sent must be sent again, expired or not, or its taker is never done with it.
        let bound = !self.by_value() && self.was_sent(item);
        !bound && self.outlived(&item.message, rules)
    }

    /// Whether its time is over: its own, or the queue's.
    pub(crate) fn outlived(&self, message: &Message, rules: Rules<'_>) -> bool {
        expires(message, self.limits(rules).max_age_ms) <= rules.now
    }

    /// The first messages that are in memory before those on disk.
    pub(crate) fn next_in_memory(&self) -> impl Iterator<Item = &QueueEntry> {
        self.places.next.iter().map(|entry| &entry.item)
    }

    /// Messages that are in memory behind those on disk.
    pub(crate) fn last_in_memory(&self) -> impl Iterator<Item = &QueueEntry> {
        self.places.pending.iter().map(|entry| &entry.item)
    }

    /// The places whose messages are on disk only, the holes among them included: from, up to.
    pub(crate) fn disk_range(&self) -> Option<(u64, u64)> {
        self.on_disk().then_some((self.places.disk_from, self.places.disk_to))
    }

    /// Whether a place on disk still holds a message that waits.
    pub(crate) fn waits_on_disk(&self, seq: u64) -> bool {
        (self.places.disk_from..self.places.disk_to).contains(&seq) && !self.is_hole(seq)
    }
}
