//! A queue whose messages are taken as values: no connection serves it, nothing is encoded. A bridge takes from one.
//!
//! A place is what an upstream may know a message by, so a place that was handed out never becomes another message's,
//! whatever a crash forgets. What is taken need not be committed yet, and what is confirmed before its commit is never
//! written; so after a restart the queue goes on a million places (`RESERVE`) after the last that the store knows of, and no place
//! is handed out that lies as far as that from the last commit.

use super::flights::{InFlight, Over, SPAN_MAX, State};
use super::{Cx, Session, Urgency};
use crate::message::{Message, Time};
use crate::queue::{Ending, Entry, Holder, QueueLimits};
use crate::store::{DropReason, NEVER_S, QueueEntry};

/// A message that was taken and is to be confirmed, refused or given back.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its place in the queue: never another message's, the same after a restart.
    pub place: u64,
    /// It may have been taken before.
    pub repeated: bool,
    /// The message, and on which terms it came.
    pub entry: QueueEntry,
}

/// What one call may take.
struct Batch {
    taken: Vec<Taken>,
    messages_max: usize,
    bytes_left: usize,
}

impl Batch {
    /// One message fits always: else a large one would stop the queue.
    fn fits(&self, size: usize) -> bool {
        self.taken.is_empty() && self.messages_max > 0
            || self.taken.len() < self.messages_max && size <= self.bytes_left
    }

    fn push(&mut self, item: QueueEntry, repeated: bool) {
        self.bytes_left = self.bytes_left.saturating_sub(item.message.size());
        self.taken.push(Taken { place: item.seq, repeated, entry: item });
    }
}

impl Session {
    /// From now on the messages are taken as values. `window`: how many may be taken and not confirmed.
    pub fn open_for_taking(&mut self, limits: QueueLimits, window: u16, cx: Cx<'_>) {
        self.window = window.max(1);
        if !self.queue.take_as_values(limits) {
            return;
        }
        self.queue.keep_fallen(self.queue.limits(cx.rules()).dead_letters);
        self.expiry_s = NEVER_S;
        // One that was stored before anything came to it has handed out places since as well.
        if self.persist.is_some() {
            self.queue.skip_reserve();
        }
        let was_durable = self.durable();
        self.record_changed(was_durable);
        // `keep-last` may be its policy, and is not the other sessions'.
        self.index(cx);
        // Nothing is handed out before this is committed.
        self.changed();
        self.want(Urgency::Now);
    }

    /// Whether a message waits for its commit before it is taken, whatever its QoS.
    pub fn take_committed_only(&mut self, committed_only: bool) {
        self.committed_only = committed_only;
    }

    /// Whether its messages are taken as values.
    #[must_use]
    pub fn by_value(&self) -> bool {
        self.queue.by_value()
    }

    fn attach(&mut self, cx: Cx<'_>) {
        let was_durable = self.durable();
        self.connected = true;
        self.disconnected_at = None;
        self.record_changed(was_durable);
        self.resume();
        self.pump(cx);
    }

    /// Takes messages in order: up to so many, and so many bytes, though one at least. What was given back comes first.
    /// They are in flight until they are confirmed, refused or given back.
    pub fn take(&mut self, messages_max: usize, bytes_max: usize, cx: Cx<'_>) -> Vec<Taken> {
        let mut batch = Batch { taken: Vec::new(), messages_max, bytes_left: bytes_max };
        if self.ended || !self.queue.by_value() {
            return batch.taken;
        }
        if !self.connected {
            self.attach(cx);
        }
        self.take_again(&mut batch, cx);
        while self.flights.resend_from.is_none() && self.window_free() && self.list_free() {
            self.queue.refill(cx.rules());
            let Some(first) = self.queue.first() else { break };
            let (seq, size) = (first.item.seq, first.item.message.size());
            if !self.may_be_taken(seq, first.item.qos) {
                self.changed();
                self.want(Urgency::Now);
                break;
            }
            let over = self.queue.too_old(&first.item, cx.rules());
            if !over && !batch.fits(size) {
                break;
            }
            let Some(entry) = self.queue.take_first() else { break };
            if over {
                self.queue.discard(entry, None);
                self.changed();
                continue;
            }
            self.take_one(entry, &mut batch);
        }
        batch.taken
    }

    /// What was given back, in order. What its time has run out for meanwhile is taken no more.
    fn take_again(&mut self, batch: &mut Batch, cx: Cx<'_>) {
        while let Some(at) = self.flights.resend_from {
            let Some(flight) = self.flights.get(at) else {
                self.flights.resend_from = None;
                return;
            };
            if let (true, Some(item)) = (flight.live(), flight.item.clone()) {
                if self.queue.too_old(&item, cx.rules()) {
                    // The next one has this index, or what is over before it.
                    self.expire_at(at);
                    continue;
                }
                if !self.window_free() || !batch.fits(item.message.size()) {
                    return;
                }
                batch.push(item, true);
                self.flights.unacked += 1;
            }
            self.flights.resend_from = Some(at + 1);
        }
    }

    fn expire_at(&mut self, at: usize) {
        let Some(Over { seq, size, entry }) = self.flights.end(at) else { return };
        if self.queue.finish(seq, size as usize, Ending::Expired) {
            self.changed();
        }
        if let Some(entry) = entry {
            self.queue.fall(entry, None, true);
        }
    }

    /// Whether the time of a message that was taken is over: its own, or the queue's.
    #[must_use]
    pub fn outlived(&self, message: &Message, cx: Cx<'_>) -> bool {
        self.queue.outlived(message, cx.rules())
    }

    fn take_one(&mut self, entry: Entry, batch: &mut Batch) {
        let Entry { item, awaiting } = entry;
        let repeated = item.seq < self.queue.sent_before().max(self.queue.maybe_sent_before());
        let size = u32::try_from(item.message.size()).unwrap_or(u32::MAX);
        let (seq, qos) = (item.seq, item.qos);
        self.flights.start(InFlight { seq, state: State::Sent, awaiting, qos, size, item: Some(item.clone()) });
        batch.push(item, repeated);
    }

    /// What is not confirmed will be taken again. Until the next [`Session::take`] nobody is there.
    pub fn give_back(&mut self, cx: Cx<'_>) {
        self.disconnect(self.epoch, cx);
    }

    /// The message that was taken at this place is where it was to go. False: it is not in flight.
    pub fn confirm(&mut self, place: u64) -> bool {
        self.end_taken(place, Ending::Delivered)
    }

    /// The message that was taken at this place will not arrive, and is counted as dropped. False: it is not in flight.
    pub fn refuse_taken(&mut self, place: u64, reason: DropReason) -> bool {
        self.end_taken(place, Ending::Dropped(reason))
    }

    /// The message that was taken at this place is too old, and is counted as expired. False: it is not in flight.
    pub fn expire_taken(&mut self, place: u64) -> bool {
        self.end_taken(place, Ending::Expired)
    }

    fn end_taken(&mut self, place: u64, ending: Ending) -> bool {
        let sent = |at: &usize| self.flights.get(*at).is_some_and(|flight| flight.state == State::Sent);
        let found = self.flights.find_place(place).filter(sent);
        let Some(at) = found.filter(|_| self.queue.by_value()) else { return false };
        self.finish(at, ending);
        true
    }

    /// Whether [`Session::take`] would give something now, or has to be asked before something can come from disk.
    #[must_use]
    pub fn has_something_to_take(&self) -> bool {
        if !self.connected {
            return !self.ended && self.queue.fill().0 > 0;
        }
        let again = self.flights.resend_from.is_some_and(|at| at < self.flights.len());
        let next = || self.queue.peek().is_some_and(|entry| self.may_be_taken(entry.item.seq, entry.item.qos));
        self.window_free() && (again || self.list_free() && next())
    }

    /// Whether there is something to take, or a page of it is being read from the disk.
    #[must_use]
    pub fn has_more_to_take(&self) -> bool {
        self.queue.awaits_page() || self.has_something_to_take()
    }

    /// Messages that are taken, or were sent, and are not over.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.held().count()
    }

    /// The place that the next message will have.
    #[must_use]
    pub fn next_place(&self) -> u64 {
        self.queue.next_place()
    }

    /// When the oldest message of the queue was accepted; `None`: there is none, or it lies on disk and was not read yet.
    #[must_use]
    pub fn oldest_at(&self) -> Option<Time> {
        self.queue.oldest_at(&*self.flights)
    }

    /// Drops what waits and was never in flight, as an operator wants it; returns how many messages that were.
    pub fn purge(&mut self) -> u64 {
        let Some(gone) = self.queue.purge(&*self.flights) else { return 0 };
        self.changed();
        gone
    }

    /// One that is never settled keeps those behind it, which are, in the list.
    fn list_free(&self) -> bool {
        (self.flights.len() as u64) < SPAN_MAX
    }

    fn window_free(&self) -> bool {
        self.flights.unacked < self.window
    }

    /// At QoS 2 not before its commit: a publisher that repeats it after a crash would make it another message. And no place
    /// that a restart might give to another message.
    fn may_be_taken(&self, seq: u64, qos: u8) -> bool {
        (qos < 2 && !self.committed_only || seq < self.queue.committed_to()) && seq < self.queue.reserved_to()
    }
}
