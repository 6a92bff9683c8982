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

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::alias::Alias;
use super::lazy::{Blank, Lazy};
use super::scan::{Scan, expires};
use super::{Cx, Policy, Session, Urgency};
use crate::codec::encode;
use crate::message::{Message, Time};
use crate::store::{DropReason, Ledger, QueueEntry};

/// How many places may lie between the oldest message in flight and the next: packet identifiers must differ.
const SPAN_MAX: u64 = 65_000;

/// More messages than one read can bring: with less room than this they are taken one by one.
const TIGHT_MESSAGES: u64 = 10_000;
/// More bytes than one read can bring.
const TIGHT_BYTES: u64 = 128 * 1024;

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
    /// Kept for a session that may resume, until PUBREC says that it is not needed any more.
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
    pub(crate) released_before: Vec<u64>,
    /// PUBLISHes in flight that count for the Receive Maximum.
    unacked: u16,
    /// In flight from this index on: to be sent again on the resumed connection.
    resend_from: Option<usize>,
    pub(crate) paging: bool,
    /// The oldest on disk was sent before a restart: it stays until the client comes, and what is behind it as well.
    head_stays: bool,
    /// keep-last: the newest place of each topic (by hash), for messages that may still be replaced.
    pub(crate) newest: Option<Box<Newest>>,
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
        self.flow.head_stays = false;
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

    /// Everything goes: the session has ended. Returns what came through shared subscriptions at QoS 1.
    pub(crate) fn end(&mut self) -> Vec<Arc<Message>> {
        let mut orphans = Vec::new();
        let mut settle = |item: QueueEntry, awaiting: bool, sent_qos2: bool| {
            if item.shared && !sent_qos2 {
                orphans.push(item.message.clone());
            }
            if awaiting {
                item.message.settle();
            }
        };
        for flight in std::mem::take(&mut self.flow.inflight) {
            if let (true, Some(item)) = (flight.live(), flight.item) {
                settle(item, flight.awaiting, flight.qos == 2);
            }
        }
        for entry in std::mem::take(&mut self.flow.queue).into_iter().chain(std::mem::take(&mut self.flow.pending)) {
            settle(entry.item, entry.awaiting, entry.released);
        }
        let rest = std::mem::take(&mut self.queued);
        self.queued_bytes = 0;
        self.flow.disk_to = self.flow.disk_from;
        self.dropped(DropReason::SessionEnded, rest);
        orphans
    }

    /// What the store found. The queue stays on disk until the client comes.
    pub(crate) fn recover(&mut self, state: &crate::store::QueueState) {
        self.flow.next_seq = state.next_seq;
        self.flow.collected = state.next_seq;
        self.flow.committed = state.next_seq;
        self.flow.disk_from = state.floor;
        self.flow.disk_to = state.next_seq;
        self.flow.holes.clone_from(&state.done);
        self.flow.sent_before = state.sent;
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

    /// Drops the oldest message that is not in flight and is in memory. False: the oldest is on disk.
    fn drop_oldest(&mut self) -> bool {
        let entry = if let Some(entry) = self.flow.queue.pop_front() {
            self.flow.queue_bytes -= entry.item.message.size();
            Some(entry)
        } else if self.on_disk() {
            None
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

impl Session {
    /// How much room there is (policy `reject`; the others always have some).
    #[must_use]
    pub fn room(&self, cx: Cx<'_>) -> Fill {
        if cx.settings.policy != Policy::Reject {
            return Fill::Roomy;
        }
        let o = &self.outbound;
        if o.full(cx, self.durable()) {
            Fill::Full
        } else if o.queued + TIGHT_MESSAGES >= cx.settings.max_messages
            || o.queued_bytes + TIGHT_BYTES >= o.bytes_max(cx, self.durable())
        {
            Fill::Tight
        } else {
            Fill::Roomy
        }
    }

    /// Messages and bytes in the queue.
    #[must_use]
    pub fn fill(&self) -> (u64, u64) {
        (self.outbound.queued, self.outbound.queued_bytes)
    }

    /// Takes a message for the client; `shared` gives the one that all queues share.
    pub fn deliver(&mut self, d: &Delivery<'_>, shared: &mut dyn FnMut() -> Arc<Message>, cx: Cx<'_>) -> Outcome {
        if self.ended {
            return Outcome::Dropped;
        }
        if d.qos == 0 && (self.connected || !cx.settings.queue_qos0) {
            return self.deliver_qos0(d, cx);
        }
        let size = d.topic.len() + d.properties.len() + d.payload.len();
        let durable = self.durable();
        if !self.connected && !durable {
            return Outcome::Dropped;
        }
        if self.outbound.full(cx, durable) && !self.make_room(cx) {
            return Outcome::Dropped;
        }
        let seq = self.outbound.flow.next_seq;
        self.outbound.flow.next_seq += 1;
        self.outbound.take(size);
        if cx.settings.policy == Policy::KeepLast {
            self.outbound.replace(d.topic, seq, size);
        }
        if !durable && self.idle_window(cx) && d.qos > 0 {
            self.send_now(d, seq, size, cx);
            return Outcome::Taken;
        }
        self.enqueue(d, seq, shared(), durable, cx)
    }

    /// Copies QoS 0 frames that are already as this client must see them. False: they must go one by one.
    pub fn deliver_frames(&mut self, frames: &[u8], count: u32, cx: Cx<'_>) -> bool {
        if !self.connected
            || self.aliases.is_some()
            || self.outbound.maximum_packet_size != u32::MAX
            || self.out.buf.len() + frames.len() > cx.settings.outbound_buffer
        {
            return false;
        }
        self.out.buf.extend_from_slice(frames);
        self.out.qos0 += count;
        self.outbound.ledger.accepted += u64::from(count);
        self.outbound.queued += u64::from(count);
        true
    }

    fn deliver_qos0(&mut self, d: &Delivery<'_>, cx: Cx<'_>) -> Outcome {
        self.outbound.ledger.accepted += 1;
        if !self.connected || self.out.buf.len() + d.payload.len() > cx.settings.outbound_buffer {
            self.outbound.dropped(DropReason::Qos0, 1);
            return Outcome::Dropped;
        }
        self.outbound.queued += 1;
        if self.write_publish(d, false, None, cx.now) {
            self.out.qos0 += 1;
        } else {
            self.outbound.queued -= 1;
            self.outbound.dropped(DropReason::TooLarge, 1);
        }
        Outcome::Taken
    }

    /// The queue is full: what the policy says. False: the new message was dropped.
    fn make_room(&mut self, cx: Cx<'_>) -> bool {
        match cx.settings.policy {
            // The publisher was asked to wait before; what comes all the same (a race) is not refused.
            Policy::Reject => true,
            Policy::DropNewest => {
                self.outbound.ledger.accepted += 1;
                self.outbound.dropped(DropReason::Newest, 1);
                false
            }
            Policy::DropOldest | Policy::KeepLast => {
                while self.outbound.full(cx, self.durable()) {
                    if !self.outbound.drop_oldest() {
                        break;
                    }
                }
                true
            }
        }
    }

    /// Whether a message may go straight to the socket's buffer.
    fn idle_window(&self, cx: Cx<'_>) -> bool {
        let o = &self.outbound;
        self.connected
            && o.flow.queue.is_empty()
            && !o.on_disk()
            && o.flow.pending.is_empty()
            && o.flow.resend_from.is_none()
            && self.window_open(cx)
    }

    fn window_open(&self, cx: Cx<'_>) -> bool {
        let o = &self.outbound;
        o.flow.unacked < o.window
            && self.out.buf.len() < cx.settings.outbound_buffer
            && o.flow.inflight.front().is_none_or(|f| o.flow.next_seq - f.seq < SPAN_MAX)
    }

    /// A session that cannot resume keeps nothing of a message that it has sent.
    fn send_now(&mut self, d: &Delivery<'_>, seq: u64, size: usize, cx: Cx<'_>) {
        if !self.write_publish(d, false, Some(Outbound::packet_id(seq)), cx.now) {
            self.outbound.gone(size);
            self.outbound.dropped(DropReason::TooLarge, 1);
            return;
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.fly(InFlight { seq, state: State::Sent, awaiting: false, qos: d.qos, size, item: None });
    }

    fn fly(&mut self, flight: InFlight) {
        self.outbound.flow.unacked += 1;
        self.outbound.flow.inflight.push_back(flight);
    }

    fn enqueue(&mut self, d: &Delivery<'_>, seq: u64, message: Arc<Message>, durable: bool, cx: Cx<'_>) -> Outcome {
        let expires = expires(&message, cx);
        let awaiting = durable && d.durability == Durability::Commit && d.qos > 0;
        if awaiting {
            message.await_one();
        }
        let item = QueueEntry {
            seq,
            qos: d.qos,
            retain: d.retain,
            shared: d.shared,
            subscription_ids: smallvec::SmallVec::from_slice(d.subscription_ids),
            message,
        };
        let entry = Entry { item, awaiting, dup: false, released: false };
        let o = &mut self.outbound;
        let in_memory = self.connected && !o.on_disk() && o.flow.pending.is_empty() && !o.memory_full(cx);
        if in_memory || !durable {
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        } else {
            o.flow.pending.push_back(entry);
        }
        if durable {
            o.flow.scan.note(expires);
            self.want(match d.durability {
                // QoS 2 is sent only once it is committed: nothing can make that write needless.
                Durability::Commit if d.qos == 2 || !in_memory => Urgency::Now,
                Durability::Commit => Urgency::Elidable,
                Durability::Interval => Urgency::Lazy,
                Durability::Memory if in_memory => Urgency::None,
                Durability::Memory => Urgency::Lazy,
            });
        }
        self.pump(cx);
        if awaiting { Outcome::Waiting } else { Outcome::Taken }
    }

    /// Moves messages from the queue to the socket's buffer as far as the client's window allows.
    pub fn pump(&mut self, cx: Cx<'_>) {
        if !self.connected || !self.outbound.flow.is_made() {
            return;
        }
        self.resend(cx);
        while self.outbound.flow.resend_from.is_none() && self.window_open(cx) {
            if self.outbound.flow.queue.is_empty() {
                self.refill(cx);
            }
            let durable = self.durable();
            let o = &mut self.outbound;
            let Some(entry) = o.flow.queue.pop_front() else { return };
            if durable && entry.item.qos == 2 && entry.item.seq >= o.flow.committed {
                o.flow.queue.push_front(entry);
                self.want(Urgency::Now);
                return;
            }
            o.flow.queue_bytes = o.flow.queue_bytes.saturating_sub(entry.item.message.size());
            self.send_entry(entry, durable, cx);
        }
    }

    /// The queue is empty and nothing lies on disk: pending messages are next.
    fn refill(&mut self, cx: Cx<'_>) {
        let o = &mut self.outbound;
        while !o.on_disk() && !o.memory_full(cx) {
            let Some(entry) = o.flow.pending.pop_front() else { return };
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        }
    }

    fn send_entry(&mut self, entry: Entry, durable: bool, cx: Cx<'_>) {
        if entry.released {
            let id = Outbound::packet_id(entry.item.seq);
            self.outbound.flow.released_before.retain(|seq| *seq != entry.item.seq);
            encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
            let size = u32::try_from(entry.item.message.size()).unwrap_or(u32::MAX);
            let flight =
                InFlight { seq: entry.item.seq, state: State::Released, awaiting: false, qos: 2, size, item: None };
            self.fly(flight);
            return;
        }
        if self.too_old(&entry, cx) {
            self.outbound.discard(entry, None);
            self.changed();
            return;
        }
        let item = &entry.item;
        let d = Delivery {
            topic: item.message.topic_bytes(),
            properties: item.message.properties(),
            payload: item.message.payload(),
            qos: item.qos,
            retain: item.retain,
            shared: item.shared,
            subscription_ids: &item.subscription_ids,
            expires_at: item.message.expires_at,
            durability: Durability::Memory,
        };
        let id = (item.qos > 0).then(|| Outbound::packet_id(item.seq));
        if !self.write_publish(&d, entry.dup, id, cx.now) {
            self.outbound.discard(entry, Some(DropReason::TooLarge));
            self.changed();
            return;
        }
        let size = u32::try_from(entry.item.message.size()).unwrap_or(u32::MAX);
        if id.is_none() {
            self.out.qos0 += 1;
            self.outbound.queued_bytes = self.outbound.queued_bytes.saturating_sub(u64::from(size));
            self.changed();
            return;
        }
        let (seq, qos, awaiting) = (entry.item.seq, entry.item.qos, entry.awaiting);
        let item = durable.then_some(entry.item);
        self.fly(InFlight { seq, state: State::Sent, awaiting, qos, size, item });
    }

    fn too_old(&self, entry: &Entry, cx: Cx<'_>) -> bool {
        let message = &entry.item.message;
        // A message that may have been sent must be sent again, expired or not, or its identifier is never released.
        !entry.dup && expires(message, cx) <= cx.now
    }

    /// After a resume: PUBLISH with DUP or PUBREL, with the identifiers of before and in order [MQTT-4.4.0-1], [MQTT-4.6.0-1].
    fn resend(&mut self, cx: Cx<'_>) {
        while let Some(at) = self.outbound.flow.resend_from {
            if !self.window_open_for_resend(cx) {
                return;
            }
            let flow = &mut *self.outbound.flow;
            let Some(flight) = flow.inflight.get(at) else {
                flow.resend_from = None;
                return;
            };
            flow.resend_from = Some(at + 1);
            let id = Outbound::packet_id(flight.seq);
            match flight.state {
                State::Done => continue,
                // PUBREL follows when the commit is done.
                State::Received(_) => {}
                State::Released => encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success),
                State::Sent => {
                    let Some(item) = flight.item.clone() else { continue };
                    let d = Delivery {
                        topic: item.message.topic_bytes(),
                        properties: item.message.properties(),
                        payload: item.message.payload(),
                        qos: item.qos,
                        retain: item.retain,
                        shared: item.shared,
                        subscription_ids: &item.subscription_ids,
                        expires_at: item.message.expires_at,
                        durability: Durability::Memory,
                    };
                    if !self.write_publish(&d, true, Some(id), cx.now) {
                        // The client takes smaller packets than before: over, as if it had been sent [MQTT5-3.1.2-25].
                        self.outbound.flow.unacked += 1;
                        self.finish(at, Some(DropReason::TooLarge));
                        continue;
                    }
                }
            }
            self.outbound.flow.unacked += 1;
        }
    }

    fn window_open_for_resend(&self, cx: Cx<'_>) -> bool {
        self.outbound.flow.unacked < self.outbound.window && self.out.buf.len() < cx.settings.outbound_buffer
    }

    /// Encodes a PUBLISH for this client. False: larger than it takes [MQTT5-3.1.2-24].
    fn write_publish(&mut self, d: &Delivery<'_>, dup: bool, id: Option<PacketId>, now: Time) -> bool {
        let alias = match &mut self.aliases {
            Some(aliases) => aliases.outgoing(d.topic),
            None => Alias::None,
        };
        let (topic, alias) = match alias {
            Alias::None => (d.topic, None),
            Alias::New(alias) => (d.topic, Some(alias)),
            Alias::Known(alias) => (&[][..], Some(alias)),
        };
        let expiry_s = d.expires_at.map(|at| u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX));
        let start = self.out.buf.len();
        encode::publish(
            &mut self.out.buf,
            self.version,
            dup,
            d.qos,
            d.retain,
            topic,
            id,
            alias,
            d.subscription_ids,
            expiry_s,
            d.properties,
            d.payload,
        );
        if self.out.buf.len() - start > self.outbound.maximum_packet_size as usize {
            self.out.buf.truncate(start);
            if let (Some(aliases), false, Some(_)) = (&mut self.aliases, topic.is_empty(), alias) {
                aliases.take_back(d.topic);
            }
            return false;
        }
        true
    }

    /// PUBACK. False: no such message is in flight; a peer's mistake that is counted, no more.
    pub fn receive_puback(&mut self, id: PacketId, reason: ReasonCode) -> bool {
        let Some(at) = self.outbound.find(id) else { return false };
        let ok = self.outbound.flow.inflight.get(at).is_some_and(|f| f.qos == 1 && f.state == State::Sent);
        if ok {
            self.finish(at, refusal(reason));
        }
        ok
    }

    /// PUBREC: PUBREL follows, for a durable session when this is committed.
    pub fn receive_pubrec(&mut self, id: PacketId, reason: ReasonCode) {
        let durable = self.durable();
        let Some((at, flight)) = self
            .outbound
            .find(id)
            .and_then(|at| Some((at, self.outbound.flow.inflight.get_mut(at)?)))
            .filter(|(_, f)| f.qos == 2)
        else {
            encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::PacketIdentifierNotFound);
            return;
        };
        match flight.state {
            State::Sent if !reason.is_success() => self.finish(at, refusal(reason)),
            State::Sent if durable => {
                let mark = self.persist.as_ref().map_or(0, |p| p.open);
                flight.state = State::Received(mark);
                self.changed();
                self.want(Urgency::Now);
            }
            State::Sent | State::Released => {
                flight.state = State::Released;
                flight.item = None;
                encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
            }
            State::Received(_) | State::Done => {}
        }
    }

    /// PUBCOMP. False: no such message.
    pub fn receive_pubcomp(&mut self, id: PacketId) -> bool {
        let Some(at) = self.outbound.find(id) else { return false };
        let ok = self.outbound.flow.inflight.get(at).is_some_and(|f| f.state == State::Released);
        if ok {
            self.finish(at, None);
        }
        ok
    }

    /// PUBRELs whose PUBREC is now committed leave, in order.
    pub(crate) fn release_committed(&mut self, mark: u32) {
        for flight in &mut self.outbound.flow.inflight {
            if let State::Received(at) = flight.state
                && at <= mark
            {
                flight.state = State::Released;
                flight.item = None;
                if self.connected {
                    let id = Outbound::packet_id(flight.seq);
                    encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
                }
            }
        }
    }

    /// The exchange is over: delivered, or dropped for this reason.
    fn finish(&mut self, at: usize, dropped: Option<DropReason>) {
        let o = &mut self.outbound;
        let Some(flight) = o.flow.inflight.get_mut(at) else { return };
        flight.state = State::Done;
        let (seq, size, item) = (flight.seq, flight.size, flight.item.take());
        if let Some(item) = item
            && flight.awaiting
        {
            item.message.settle();
        }
        flight.awaiting = false;
        // What a resume has not sent again yet is not counted yet.
        if o.flow.resend_from.is_none_or(|from| at < from) {
            o.flow.unacked = o.flow.unacked.saturating_sub(1);
        }
        o.gone(size as usize);
        match dropped {
            None => o.ledger.delivered += 1,
            Some(reason) => o.dropped(reason, 1),
        }
        while o.flow.inflight.front().is_some_and(|f| !f.live()) {
            o.flow.inflight.pop_front();
            if let Some(from) = o.flow.resend_from {
                o.flow.resend_from = Some(from.saturating_sub(1));
            }
        }
        if seq < o.flow.collected {
            self.changed();
        }
    }

    /// Something that was stored has changed; nobody waits for it.
    pub(crate) fn changed(&mut self) {
        if let Some(persist) = &mut self.persist {
            persist.changed = true;
            self.want(Urgency::Lazy);
        }
    }

    /// The page that should be read now, if any: asked once, then [`Session::page_in`] follows.
    pub fn wants_page(&mut self, cx: Cx<'_>) -> Option<PageWanted> {
        let o = &mut self.outbound;
        let over = !self.connected
            && !o.flow.head_stays
            && matches!(cx.settings.policy, Policy::DropOldest | Policy::KeepLast)
            && (o.queued > cx.settings.max_messages || o.queued_bytes > cx.settings.max_bytes);
        let low = self.connected && o.flow.queue.len() < cx.settings.memory_messages / 2 && !o.memory_full(cx);
        let scan = o.flow.scan.wants();
        if !o.on_disk() || o.flow.paging || !(low || over || scan.is_some()) {
            return None;
        }
        o.flow.paging = true;
        Some(PageWanted { from: scan.unwrap_or(o.flow.disk_from) })
    }

    /// The store's answer to [`Session::wants_page`]: entries from `from` on, or why they cannot be read.
    pub fn page_in(&mut self, from: u64, page: Result<Vec<QueueEntry>, ()>, cx: Cx<'_>) {
        let scan = self.outbound.flow.scan.wants();
        if !self.outbound.flow.paging || from != scan.unwrap_or(self.outbound.flow.disk_from) {
            return;
        }
        self.outbound.flow.paging = false;
        if scan.is_some() {
            return self.scan_page(page, cx);
        }
        let page = page.unwrap_or_default();
        if page.is_empty() {
            self.outbound.flow.disk_from = self.outbound.flow.disk_to;
        }
        for item in page {
            let o = &mut self.outbound;
            if item.seq < o.flow.disk_from || item.seq >= o.flow.disk_to {
                continue;
            }
            let hole = o.is_hole(item.seq);
            if !self.connected && !hole && !self.trims(&item, cx) {
                self.outbound.flow.head_stays = item.seq < self.outbound.flow.sent_before;
                break;
            }
            let o = &mut self.outbound;
            o.flow.disk_from = item.seq + 1;
            if hole {
                continue;
            }
            let entry = o.unread(item);
            if !self.connected {
                let expired = self.too_old(&entry, cx);
                self.outbound.discard(entry, (!expired).then_some(DropReason::Oldest));
                self.changed();
                continue;
            }
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        }
        let o = &mut self.outbound;
        let from = o.flow.disk_from;
        o.flow.holes.retain(|(_, end)| *end > from);
        if !o.on_disk() {
            o.flow.holes.clear();
            self.miss();
        }
        self.pump(cx);
    }

    /// The page could not be read now; it will be asked for again.
    pub fn page_failed(&mut self) {
        self.outbound.flow.paging = false;
    }

    /// Whether an entry at the head of an absent client's queue should go: expired, or the queue is over its limit.
    fn trims(&self, item: &QueueEntry, cx: Cx<'_>) -> bool {
        let over =
            self.outbound.queued > cx.settings.max_messages || self.outbound.queued_bytes > cx.settings.max_bytes;
        let old = expires(&item.message, cx) <= cx.now;
        item.seq >= self.outbound.flow.sent_before
            && (old || over && matches!(cx.settings.policy, Policy::DropOldest | Policy::KeepLast))
    }

    /// The whole queue is in memory. What should be in it and was not on disk, between what was or behind it, is counted as
    /// damaged.
    fn miss(&mut self) {
        let o = &mut self.outbound;
        let in_memory = o.flow.inflight.iter().filter(|f| f.live()).count() + o.flow.queue.len() + o.flow.pending.len();
        let lost = o.queued.saturating_sub(in_memory as u64 + u64::from(self.out.qos0));
        if lost == 0 {
            return;
        }
        o.queued -= lost;
        o.dropped(DropReason::Damaged, lost);
        o.queued_bytes = o.flow.inflight.iter().filter(|f| f.live()).map(|f| u64::from(f.size)).sum::<u64>()
            + o.flow.queue.iter().chain(&o.flow.pending).map(|e| e.item.message.size() as u64).sum::<u64>();
        self.changed();
    }
}

/// What a client's PUBACK or PUBREC makes of its message [MQTT5-4.4.0-2].
fn refusal(reason: ReasonCode) -> Option<DropReason> {
    (!reason.is_success()).then_some(DropReason::Refused)
}
