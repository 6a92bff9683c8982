//! What does not stay: what a commit could not keep, what is not allowed any more, what has expired in memory, what an
//! operator purges.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;

use super::holder::Holder;
use super::places::{Entry, Queue, Rules};
use super::scan::{Scan, expires};
use crate::message::Message;
use crate::store::DropReason;

/// Messages that a commit could not keep, and whose publishers have been told so. They are known by their addresses: who
/// asks about one holds it.
#[derive(Debug, Default)]
pub struct Refused(HashSet<usize>);

impl Refused {
    /// One more.
    pub fn add(&mut self, message: &Arc<Message>) {
        self.0.insert(Arc::as_ptr(message).addr());
    }

    /// Whether the message is one of them.
    #[must_use]
    pub fn holds(&self, message: &Arc<Message>) -> bool {
        self.0.contains(&Arc::as_ptr(message).addr())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Queue {
    /// What was refused with the commit that could not keep it is not kept. What was taken before the commit is the
    /// taker's, and so is what nobody waits for at QoS 1: a new subscription has been given it as the retained message of
    /// its topic, and would have none without it.
    pub(crate) fn take_back(&mut self, refused: &Refused) {
        let committed = self.places.committed;
        let goes = |entry: &Entry| {
            let routed = entry.awaiting || entry.item.qos == 0;
            routed && entry.item.seq >= committed && refused.holds(&entry.item.message)
        };
        self.remove_waiting_if(goes, |queue, entry| {
            if entry.awaiting {
                entry.item.message.settle();
            }
            queue.over(entry.item.seq);
            // Its publisher was told that it was not accepted.
            queue.ledger.accepted -= 1;
            queue.gone(entry.item.message.size());
        });
    }

    /// What has expired goes, as far as it waits in memory. False: nothing has.
    pub(crate) fn discard_expired(&mut self, rules: Rules<'_>) -> bool {
        let max_age_ms = self.limits(rules).max_age_ms;
        let places = &*self.places;
        // What may have been sent before a restart is no clock's, as when it is its turn.
        let sent = if self.by_value() { 0 } else { places.sent_before.max(places.maybe_sent_before) };
        let over = |entry: &Entry| {
            let item = &entry.item;
            (item.qos != 2 || item.seq >= sent) && expires(&item.message, max_age_ms) <= rules.now
        };
        if !places.next.iter().chain(&places.pending).any(over) {
            return false;
        }
        self.remove_waiting_if(over, |queue, entry| queue.discard(entry, None));
        true
    }

    /// What waits in memory and may not stay is dropped, and counted for this reason.
    pub(crate) fn keep_waiting(&mut self, stays: impl Fn(&Entry) -> bool, reason: DropReason) {
        self.remove_waiting_if(|entry| !stays(entry), |queue, entry| queue.discard(entry, Some(reason)));
    }

    fn remove_waiting_if(&mut self, goes: impl Fn(&Entry) -> bool, end: impl Fn(&mut Self, Entry)) {
        let places = &mut *self.places;
        let (next, pending) = (std::mem::take(&mut places.next), std::mem::take(&mut places.pending));
        let split = |list: VecDeque<Entry>| list.into_iter().partition::<VecDeque<Entry>, _>(&goes);
        let (gone, next) = split(next);
        let (gone_pending, pending) = split(pending);
        places.next_bytes = next.iter().map(|entry| entry.item.message.size()).sum();
        (places.next, places.pending) = (next, pending);
        for entry in gone.into_iter().chain(gone_pending) {
            end(self, entry);
        }
    }

    /// Drops what waits and was never taken, as an operator wants it; returns how many messages that were. `None`: nothing was
    /// done, since what a taker may have been sent before a restart, which is the taker's to end, lies on disk.
    pub(crate) fn purge(&mut self, holder: &impl Holder) -> Option<u64> {
        let before = self.queued;
        if !self.places.is_made() {
            return None;
        }
        let (by_value, sent_before) = (self.by_value(), self.places.sent_before);
        if !by_value && self.on_disk() && self.places.disk_from < sent_before {
            return None;
        }
        self.keep_waiting(|entry| !by_value && entry.item.seq < sent_before, DropReason::Purged);
        let places = &*self.places;
        let memory = || places.next.iter().chain(&places.pending).map(|entry| entry.item.message.size() as u64);
        let kept = (memory().count() + holder.held().count()) as u64 + u64::from(self.passing);
        let kept_bytes = memory().sum::<u64>() + holder.held().map(|held| u64::from(held.size)).sum::<u64>();
        let on_disk = self.queued.saturating_sub(kept);
        self.queued -= on_disk;
        self.queued_bytes = kept_bytes;
        self.dropped(DropReason::Purged, on_disk);
        let places = &mut *self.places;
        places.untold.add(places.disk_from, places.disk_to);
        places.disk_from = places.disk_to;
        places.holes.clear();
        places.paging = false;
        (places.ahead, places.newest) = (None, None);
        places.scan = Scan::default();
        Some(before - self.queued)
    }
}
