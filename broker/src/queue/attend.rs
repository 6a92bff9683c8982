//! A queue's taker comes and goes, over a restart too.

use std::collections::VecDeque;

use super::QueueLimits;
use super::holes::Holes;
use super::places::{Presence, Queue, RESERVE, Taking};
use super::promise::Promise;
use crate::store::QueueState;

impl Queue {
    /// The taker is there.
    pub(crate) fn attend(&mut self) {
        if !self.places.is_made() {
            return;
        }
        self.places.paging = false;
        self.places.ahead = None;
        self.places.scan.stop();
    }

    /// The taker is away: what waits in memory and is committed is left to the disk, the rest becomes pending.
    pub(crate) fn spill(&mut self) {
        if !self.places.is_made() {
            return;
        }
        let places = &mut *self.places;
        places.paging = false;
        while let Some(entry) = places.next.pop_back() {
            if entry.item.seq < places.committed {
                places.next.push_back(entry);
                break;
            }
            places.pending.push_front(entry);
        }
        self.give_back_memory();
        self.places.next = VecDeque::new();
        self.places.next_bytes = 0;
    }

    /// What is next is committed: it is on disk from now on. What is missing between must not come back with a page.
    fn give_back_memory(&mut self) {
        let (Some(first), Some(last)) = (self.places.next.front(), self.places.next.back()) else { return };
        let (first, last) = (first.item.seq, last.item.seq);
        let on_disk = self.on_disk();
        let places = &mut *self.places;
        if !on_disk {
            places.holes.clear();
        }
        let mut next = first;
        for entry in &places.next {
            places.holes.add(next, entry.item.seq);
            next = entry.item.seq + 1;
        }
        if on_disk {
            places.holes.add(next, places.disk_from);
        } else {
            places.disk_to = last + 1;
        }
        places.disk_oldest = places.next.front().map(|entry| entry.item.message.accepted_at);
        places.disk_from = first;
    }

    /// From now on its messages are taken as values, and it has limits of its own. False: it was so before.
    pub(crate) fn take_as_values(&mut self, limits: QueueLimits) -> bool {
        self.own_limits = Some(limits.into());
        std::mem::replace(&mut self.taking, Taking::Value) != Taking::Value
    }

    /// Goes on [`RESERVE`] places further: what was handed out before a crash, and that the store never heard of, lies below.
    pub(crate) fn skip_reserve(&mut self) {
        // The store may not have heard yet that somebody was there again.
        self.places.maybe_sent_before = self.places.next_seq;
        self.places.next_seq += RESERVE;
    }

    /// What the store found. The queue stays on disk until its taker comes. `presence`: when the broker ended.
    pub(crate) fn recover(&mut self, state: &QueueState, presence: Presence) {
        let places = &mut *self.places;
        places.next_seq = state.next_seq;
        places.collected = state.next_seq;
        places.committed = state.next_seq;
        places.given = state.next_seq;
        places.disk_from = state.floor;
        places.disk_to = state.next_seq;
        places.holes = Holes::of(&state.done);
        places.sent_before = state.sent;
        places.promise = Promise::recover(state);
        if presence == Presence::There {
            // A QoS 2 message is not done with before a commit, so no more than a window of them can have been sent.
            places.maybe_sent_before = state.next_seq.min(state.sent + 65_535);
        }
        if state.queued == 0 {
            places.disk_from = places.disk_to;
            places.holes.clear();
        }
        self.queued = state.queued;
        self.queued_bytes = state.queued_bytes;
        self.ledger = state.ledger;
    }
}
