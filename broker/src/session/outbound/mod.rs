//! Towards the client. A message's place (`seq`) in the session is its identity: the packet identifier is made from it,
//! so it is the same after a crash without being stored.
//!
//! In order of place:
//!
//! ```text
//!   in flight      sent, not acknowledged       always in memory
//!   queue          next to be sent              in memory, bounded
//!   disk           committed, memory given back paged in when the queue runs low
//!   pending        accepted, commit under way   in memory until the commit
//! ```
//!
//! New messages join the queue while disk and pending are empty and the queue has room, else pending.

mod acks;
mod ahead;
mod deliver;
mod leave;
mod paging;
mod refused;
mod send;

use std::collections::VecDeque;
use std::sync::LazyLock;

use forebay_wire::types::PacketId;

pub(crate) use leave::Leaving;
pub use leave::{Fate, LeavingPage, Orphan};
pub use refused::Refused;

use super::Cx;
use super::lazy::{Blank, Lazy};
use super::scan::Scan;
use crate::message::Time;
use crate::store::{DropReason, Ledger, QueueEntry};

/// How many places may lie between the oldest message in flight and the next: packet identifiers must differ.
const SPAN_MAX: u64 = 65_000;

/// How much room a queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fill {
    /// Enough for whatever one read brings.
    Roomy = 0,
    /// For one more at least.
    Tight,
    /// None: it refuses.
    Full,
}

/// When the publisher's ack may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the commit, or after the acks that make it needless.
    Commit,
    /// At once; a commit follows within the interval.
    Interval,
    /// At once; written only when a queue must page to disk.
    Memory,
    /// It comes from another queue of the store, and leaves that one in the commit in which it enters this one.
    Moved,
}

/// A message on its way into a session. It is borrowed: only a session that must keep it asks for the shared one.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Topic name.
    pub topic: &'a [u8],
    /// Properties to forward, encoded.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// QoS of this delivery: the lower of the publisher's and the subscription's.
    pub qos: u8,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Through a shared subscription.
    pub shared: bool,
    /// Subscription identifiers.
    pub subscription_ids: &'a [u32],
    /// When it expires.
    pub expires_at: Option<Time>,
    /// When the publisher's ack may leave.
    pub durability: Durability,
}

impl<'a> Delivery<'a> {
    /// A message that is queued already.
    fn of(item: &'a QueueEntry) -> Self {
        Self {
            topic: item.message.topic_bytes(),
            properties: item.message.properties(),
            payload: item.message.payload(),
            qos: item.qos,
            retain: item.retain,
            shared: item.shared,
            subscription_ids: &item.subscription_ids,
            expires_at: item.message.expires_at,
            durability: Durability::Memory,
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The session has it, or it went out; nothing to wait for.
    Taken,
    /// The session has it; the publisher's ack waits for the shared message to be safe.
    Waiting,
    /// Dropped by a chosen policy, and counted.
    Dropped,
}

/// Bytes for the socket, and how many QoS 0 messages are in them.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) buf: Vec<u8>,
    pub(crate) qos0: u32,
}

impl Out {
    /// Gives the buffer up; returns the QoS 0 messages that go with it.
    pub(crate) fn clear(&mut self) -> u32 {
        self.buf = Vec::new();
        std::mem::take(&mut self.qos0)
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) item: QueueEntry,
    /// `settle` is owed to the message.
    pub(crate) awaiting: bool,
    /// May have been sent before: DUP.
    dup: bool,
    /// PUBREC has come before a restart: PUBREL instead of PUBLISH.
    released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// PUBLISH sent: PUBACK or PUBREC is owed to us.
    Sent,
    /// PUBREC has come; PUBREL waits for the commit of this delta number.
    Received(u32),
    /// PUBREL sent.
    Released,
    /// Over; the place waits for older ones.
    Done,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) seq: u64,
    state: State,
    pub(crate) awaiting: bool,
    qos: u8,
    size: u32,
    /// Kept for a session that may resume, or for another member of a shared subscription, until PUBREC says that it is
    /// not needed any more.
    pub(crate) item: Option<QueueEntry>,
}

impl InFlight {
    pub(crate) fn live(&self) -> bool {
        self.state != State::Done
    }

    pub(crate) fn received(&self) -> bool {
        matches!(self.state, State::Received(_) | State::Released)
    }
}

#[derive(Default)]
pub(crate) struct Outbound {
    pub(crate) queued: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) ledger: Ledger,
    pub(crate) window: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) flow: Lazy<Flow>,
}

/// Where the messages are. A client that is only ever sent QoS 0 has none of this.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) next_seq: u64,
    pub(crate) inflight: VecDeque<InFlight>,
    pub(crate) queue: VecDeque<Entry>,
    pub(crate) pending: VecDeque<Entry>,
    /// Committed places whose messages are on disk only: `disk_from..disk_to`, less the holes.
    pub(crate) disk_from: u64,
    pub(crate) disk_to: u64,
    pub(crate) holes: Vec<(u64, u64)>,
    queue_bytes: usize,
    /// Places below were given to the store; those below `committed` are committed.
    pub(crate) collected: u64,
    pub(crate) committed: u64,
    /// Places below may have been sent before the broker started, and whose PUBREC had come.
    pub(crate) sent_before: u64,
    /// Places below may have been sent after the last commit before a crash: nobody knows. They carry DUP.
    pub(crate) maybe_sent_before: u64,
    pub(crate) released_before: Vec<u64>,
    /// PUBLISHes in flight that count for the Receive Maximum.
    unacked: u16,
    /// In flight from this index on: to be sent again on the resumed connection.
    resend_from: Option<usize>,
    pub(crate) paging: bool,
    /// What of the queue's beginning on disk may go when room is needed.
    ahead: Option<Box<ahead::Ahead>>,
    /// keep-last: the newest place of each topic (by hash), for messages that may still be replaced.
    pub(crate) newest: Option<Box<Newest>>,
    /// Places below have moved here from another queue: they are in the next commit, however young they are.
    pub(crate) moved_to: u64,
    pub(crate) scan: Scan,
}

impl Blank for Flow {
    fn blank() -> &'static Self {
        static BLANK: LazyLock<Flow> = LazyLock::new(Flow::default);
        &BLANK
    }
}

/// By a topic's hash: the place of its newest message, and that message's size.
pub(crate) type Newest = hashbrown::HashMap<u64, (u64, u32), foldhash::fast::FixedState>;

/// A page that the session wants from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageWanted {
    /// First place.
    pub from: u64,
}

impl Outbound {
    fn packet_id(seq: u64) -> PacketId {
        let id = u16::try_from(seq % 65_535).unwrap_or(0).saturating_add(1);
        PacketId::new(id).unwrap_or(PacketId::MIN)
    }

    pub(crate) fn on_disk(&self) -> bool {
        self.flow.disk_from < self.flow.disk_to
    }

    fn find(&self, id: PacketId) -> Option<usize> {
        let front = self.flow.inflight.front()?;
        let want = u64::from(id.get() - 1);
        let guess = (want + 65_535 - front.seq % 65_535) % 65_535;
        let fits = |at: usize| self.flow.inflight.get(at).is_some_and(|f| f.seq % 65_535 == want && f.live());
        let guess = usize::try_from(guess).unwrap_or(usize::MAX);
        if fits(guess) {
            return Some(guess);
        }
        // Places are ascending, with gaps where messages expired or were replaced.
        let seq = front.seq + guess as u64;
        self.flow.inflight.binary_search_by(|f| f.seq.cmp(&seq)).ok().filter(|at| fits(*at))
    }

    fn bytes_max(&self, cx: Cx<'_>, durable: bool) -> u64 {
        if durable { cx.settings.max_bytes } else { cx.settings.max_transient_bytes }
    }

    fn full(&self, cx: Cx<'_>, durable: bool) -> bool {
        self.queued >= cx.settings.max_messages || self.queued_bytes >= self.bytes_max(cx, durable)
    }

    fn memory_full(&self, cx: Cx<'_>) -> bool {
        self.flow.queue.len() >= cx.settings.memory_messages || self.flow.queue_bytes >= cx.settings.memory_bytes
    }

    fn take(&mut self, size: usize) {
        self.ledger.accepted += 1;
        self.queued += 1;
        self.queued_bytes += size as u64;
    }

    pub(crate) fn gone(&mut self, size: usize) {
        self.queued = self.queued.saturating_sub(1);
        self.queued_bytes = self.queued_bytes.saturating_sub(size as u64);
    }

    pub(crate) fn dropped(&mut self, reason: DropReason, count: u64) {
        if let Some(counter) = self.ledger.dropped.get_mut(reason as usize) {
            *counter += count;
        }
    }

    /// QoS 0 messages that were encoded but never written.
    pub(crate) fn lost_qos0(&mut self, count: u32) {
        self.queued -= u64::from(count);
        self.dropped(DropReason::Qos0, u64::from(count));
    }

    fn discard(&mut self, entry: Entry, reason: Option<DropReason>) {
        if entry.awaiting {
            entry.item.message.settle();
        }
        self.gone(entry.item.message.size());
        match reason {
            Some(reason) => self.dropped(reason, 1),
            None => self.ledger.expired += 1,
        }
    }

    /// A new connection: everything in flight is to be sent again.
    pub(crate) fn resume(&mut self) {
        if !self.flow.is_made() {
            return;
        }
        while self.flow.inflight.front().is_some_and(|f| !f.live()) {
            self.flow.inflight.pop_front();
        }
        self.flow.resend_from = (!self.flow.inflight.is_empty()).then_some(0);
        self.flow.unacked = 0;
        self.flow.paging = false;
        self.flow.ahead = None;
        self.flow.scan.stop();
    }

    /// The client is away: what waits in memory and is committed is left to the disk, the rest becomes pending.
    pub(crate) fn spill(&mut self) {
        if !self.flow.is_made() {
            return;
        }
        self.flow.paging = false;
        self.flow.unacked = 0;
        self.flow.resend_from = None;
        while let Some(entry) = self.flow.queue.pop_back() {
            if entry.item.seq < self.flow.committed {
                self.flow.queue.push_back(entry);
                break;
            }
            self.flow.pending.push_front(entry);
        }
        self.give_back_queue();
        self.flow.queue = VecDeque::new();
        self.flow.queue_bytes = 0;
        if self.flow.inflight.is_empty() {
            self.flow.inflight = VecDeque::new();
        }
    }

    /// The queue's entries are all committed: they are on disk from now on. What is missing between them must not
    /// come back with a page.
    fn give_back_queue(&mut self) {
        let (Some(first), Some(last)) = (self.flow.queue.front(), self.flow.queue.back()) else { return };
        let (first, last) = (first.item.seq, last.item.seq);
        let mut holes = Vec::new();
        let mut next = first;
        for entry in &self.flow.queue {
            if entry.item.seq > next {
                holes.push((next, entry.item.seq));
            }
            next = entry.item.seq + 1;
        }
        if self.on_disk() {
            if self.flow.disk_from > next {
                holes.push((next, self.flow.disk_from));
            }
            holes.append(&mut self.flow.holes);
        } else {
            self.flow.disk_to = last + 1;
        }
        self.flow.holes = holes;
        self.flow.disk_from = first;
    }

    pub(crate) fn has_uncollected(&self) -> bool {
        self.flow.pending.back().is_some_and(|e| e.item.seq >= self.flow.collected)
            || self.flow.inflight.back().is_some_and(|f| f.live() && f.seq >= self.flow.collected)
    }

    /// The commit of everything below `upto` is done.
    pub(crate) fn committed(&mut self, upto: u64) {
        if !self.flow.is_made() {
            return;
        }
        self.flow.committed = self.flow.committed.max(upto);
        for flight in self.flow.inflight.iter_mut().filter(|f| f.awaiting && f.seq < upto) {
            flight.awaiting = false;
            if let Some(item) = &flight.item {
                item.message.settle();
            }
        }
        for entry in self.flow.queue.iter_mut().take_while(|e| e.item.seq < upto) {
            if std::mem::take(&mut entry.awaiting) {
                entry.item.message.settle();
            }
        }
        while self.flow.pending.front().is_some_and(|e| e.item.seq < upto) {
            let Some(entry) = self.flow.pending.pop_front() else { break };
            if entry.awaiting {
                entry.item.message.settle();
            }
            if !self.on_disk() {
                self.flow.disk_from = entry.item.seq;
                self.flow.holes.clear();
            } else if entry.item.seq > self.flow.disk_to {
                let hole = (self.flow.disk_to, entry.item.seq);
                self.flow.holes.push(hole);
            }
            self.flow.disk_to = entry.item.seq + 1;
        }
        if self.flow.pending.is_empty() && self.flow.pending.capacity() > 64 {
            self.flow.pending = VecDeque::new();
        }
    }

    /// Everything goes: the session has ended. Returns what came through shared subscriptions, but for what was sent at
    /// QoS 2.
    pub(crate) fn end(&mut self) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for flight in std::mem::take(&mut self.flow.inflight) {
            if let (true, Some(item)) = (flight.live(), flight.item) {
                leave::give_up(item, flight.awaiting, flight.qos == 2, &mut orphans);
            }
        }
        for entry in std::mem::take(&mut self.flow.queue).into_iter().chain(std::mem::take(&mut self.flow.pending)) {
            let sent_qos2 = entry.released || entry.dup && entry.item.qos == 2;
            leave::give_up(entry.item, entry.awaiting, sent_qos2, &mut orphans);
        }
        let rest = std::mem::take(&mut self.queued);
        self.queued_bytes = 0;
        self.flow.disk_to = self.flow.disk_from;
        self.dropped(DropReason::SessionEnded, rest);
        orphans
    }

    /// What the store found. The queue stays on disk until the client comes. `was_connected`: when the broker ended.
    pub(crate) fn recover(&mut self, state: &crate::store::QueueState, was_connected: bool) {
        self.flow.next_seq = state.next_seq;
        self.flow.collected = state.next_seq;
        self.flow.committed = state.next_seq;
        self.flow.disk_from = state.floor;
        self.flow.disk_to = state.next_seq;
        self.flow.holes.clone_from(&state.done);
        self.flow.sent_before = state.sent;
        if was_connected {
            // A QoS 2 message is not done with before a commit, so no more than a window of them can have been sent.
            self.flow.maybe_sent_before = state.next_seq.min(state.sent + 65_535);
        }
        self.flow.released_before.clone_from(&state.released);
        self.queued = state.queued;
        self.queued_bytes = state.queued_bytes;
        self.ledger = state.ledger;
        if self.queued == 0 {
            self.flow.disk_from = self.flow.disk_to;
            self.flow.holes.clear();
        }
    }

    pub(crate) fn is_hole(&self, seq: u64) -> bool {
        let at = self.flow.holes.partition_point(|(_, end)| *end <= seq);
        self.flow.holes.get(at).is_some_and(|(start, _)| *start <= seq)
    }

    fn unread(&mut self, item: QueueEntry) -> Entry {
        let dup = item.seq < self.flow.sent_before;
        let released = self.flow.released_before.contains(&item.seq);
        Entry { item, awaiting: false, dup, released }
    }

    /// Drops the oldest message that is not in flight. False: it is on disk, and has not been read yet.
    fn drop_oldest(&mut self, now: Time) -> bool {
        let entry = if let Some(entry) = self.flow.queue.pop_front() {
            self.flow.queue_bytes -= entry.item.message.size();
            Some(entry)
        } else if self.on_disk() {
            return self.drop_ahead(now);
        } else {
            self.flow.pending.pop_front()
        };
        let Some(entry) = entry else { return false };
        self.discard(entry, Some(DropReason::Oldest));
        true
    }

    /// keep-last: the message at this place goes, if it waits in memory.
    pub(crate) fn remove_waiting(&mut self, seq: u64) -> bool {
        let remove = |list: &mut VecDeque<Entry>| {
            list.binary_search_by(|e| e.item.seq.cmp(&seq)).ok().and_then(|at| list.remove(at))
        };
        let entry = if let Some(entry) = remove(&mut self.flow.queue) {
            self.flow.queue_bytes = self.flow.queue_bytes.saturating_sub(entry.item.message.size());
            Some(entry)
        } else {
            remove(&mut self.flow.pending)
        };
        let Some(entry) = entry else { return false };
        self.discard(entry, Some(DropReason::Replaced));
        true
    }

    /// The place of the oldest message that is not in flight.
    pub(crate) fn oldest_waiting(&self) -> u64 {
        let disk = self.on_disk().then_some(self.flow.disk_from);
        let oldest =
            self.flow.queue.front().map(|e| e.item.seq).or(disk).or(self.flow.pending.front().map(|e| e.item.seq));
        oldest.unwrap_or(self.flow.next_seq)
    }
}
