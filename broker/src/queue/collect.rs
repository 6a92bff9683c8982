//! What a queue tells the store: each message once, and only what nobody has finished in time.

use std::collections::VecDeque;

use super::holder::Holder;
use super::places::{Entry, Queue, RESERVE};
use crate::message::Time;
use crate::store::{QueueEntry, QueueState};

impl Queue {
    /// Whether a message in memory was not given to the store, and its taker is not to be waited for.
    pub(crate) fn has_uncollected(&self) -> bool {
        self.places.pending.back().is_some_and(|e| e.item.seq >= self.places.collected)
    }

    /// Places below were given to the store.
    pub(crate) fn collected_to(&self) -> u64 {
        self.places.collected
    }

    /// Places below are committed.
    pub(crate) fn committed_to(&self) -> u64 {
        self.places.committed
    }

    /// Places below may be handed out as values: a restart goes on behind them.
    pub(crate) fn reserved_to(&self) -> u64 {
        self.places.reserved
    }

    /// Entries that the store has not been given, and whether some were left. With a cutoff, a young tail in memory is left.
    pub(crate) fn collect(&mut self, cutoff: Option<Time>, holder: &impl Holder) -> (Vec<QueueEntry>, bool) {
        let places = &*self.places;
        let (from, moved_to) = (places.collected, places.moved_to);
        let pending = self.has_uncollected();
        let young = |item: &QueueEntry| {
            let may_wait = !pending && item.message.qos < 2 && item.seq >= moved_to;
            cutoff.is_some_and(|c| may_wait && item.message.accepted_at > c)
        };
        let held = holder.held().filter_map(|held| held.item).skip_while(|item| item.seq < from);
        let waiting = |list| uncollected(list, from).map(|entry| &entry.item);
        // What was published at QoS 2 is committed together with its publisher's identifier, whatever its QoS here; so
        // everything up to the last of it is collected.
        let all: Vec<&QueueEntry> = held.chain(waiting(&places.next)).chain(waiting(&places.pending)).collect();
        let last_old = all.iter().rposition(|item| !young(item));
        let mut entries = Vec::new();
        let mut left = None;
        for (at, item) in all.into_iter().enumerate() {
            if last_old.is_some_and(|last| at <= last) {
                entries.push(item.clone());
            } else {
                left = left.or(Some(item.seq));
            }
        }
        let places = &mut *self.places;
        places.collected = match entries.last() {
            Some(last) => last.seq + 1,
            // Whatever lies before what is left is over.
            None => from.max(left.unwrap_or(places.next_seq)),
        };
        places.given = places.given.max(places.collected);
        (entries, left.is_some())
    }

    /// The state as of now: it speaks of places below `collected` only as the store knows them. What the taker keeps beside
    /// its messages is the taker's to add.
    pub(crate) fn state(&self, holder: &impl Holder) -> QueueState {
        let places = &*self.places;
        let mut in_memory = holder.held().map(|held| held.seq).chain(places.next.iter().map(|e| e.item.seq));
        let end = places.collected;
        let first_disk = self.on_disk().then_some(places.disk_from);
        let first_pending = places.pending.front().map(|e| e.item.seq);
        let floor = in_memory.next().or(first_disk).or(first_pending).unwrap_or(end).min(end);
        let (uncollected, uncollected_bytes) = self.uncollected(holder);
        let uncollected = uncollected + u64::from(self.passing);
        let mut ledger = self.ledger;
        // What the store is not told of is not accepted as far as the store knows.
        ledger.accepted -= uncollected;
        // After one more crash what may have been sent may have been sent still.
        let sent = holder.taken_to().unwrap_or(floor).max(places.sent_before).max(places.maybe_sent_before).min(end);
        QueueState {
            next_seq: end,
            floor,
            sent,
            queued: self.queued - uncollected,
            queued_bytes: self.queued_bytes.saturating_sub(uncollected_bytes),
            ledger,
            ..QueueState::default()
        }
    }

    /// Messages in the queue that are in no delta yet: young ones.
    fn uncollected(&self, holder: &impl Holder) -> (u64, u64) {
        let places = &*self.places;
        let from = places.collected;
        let held = holder.held().filter(|held| held.seq >= from);
        // What is held without its message was never to be stored: it has no bytes there.
        let held = held.map(|held| held.item.map_or(0, |item| item.message.size()));
        let waiting = uncollected(&places.next, from).chain(uncollected(&places.pending, from));
        let all = held.chain(waiting.map(|entry| entry.item.message.size()));
        all.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size as u64))
    }

    /// The places that a commit tells the store of, beside the state that it holds.
    pub(crate) fn take_done(&mut self, state: &QueueState) -> Vec<(u64, u64)> {
        self.places.untold.take(state.floor, state.next_seq)
    }

    /// The commit failed that was to tell the store of these: the next one will say it all again.
    pub(crate) fn not_committed(&mut self, done: Vec<(u64, u64)>) {
        let places = &mut *self.places;
        places.untold.give_back(done);
        places.collected = places.committed;
    }

    /// The commit of everything below `upto` is done. What the taker holds of it is the taker's to settle.
    pub(crate) fn committed(&mut self, upto: u64) {
        if !self.places.is_made() && !self.by_value() {
            return;
        }
        let places = &mut *self.places;
        places.committed = places.committed.max(upto);
        places.reserved = places.committed + RESERVE;
        for entry in places.next.iter_mut().take_while(|e| e.item.seq < upto) {
            if std::mem::take(&mut entry.awaiting) {
                entry.item.message.settle();
            }
        }
        while places.pending.front().is_some_and(|e| e.item.seq < upto) {
            let Some(entry) = places.pending.pop_front() else { break };
            if entry.awaiting {
                entry.item.message.settle();
            }
            if places.disk_from >= places.disk_to {
                places.disk_from = entry.item.seq;
                places.disk_oldest = Some(entry.item.message.accepted_at);
                places.holes.clear();
            } else if entry.item.seq > places.disk_to {
                places.holes.add(places.disk_to, entry.item.seq);
            }
            places.disk_to = entry.item.seq + 1;
        }
        if places.pending.is_empty() && places.pending.capacity() > 64 {
            places.pending = VecDeque::new();
        }
    }
}

/// What of a list the store was not given.
fn uncollected(list: &VecDeque<Entry>, from: u64) -> impl Iterator<Item = &Entry> {
    list.iter().skip(list.partition_point(|entry| entry.item.seq < from))
}
