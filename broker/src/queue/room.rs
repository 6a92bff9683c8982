//! How much room a queue has, and what happens when it has none.

use super::places::{Kept, Queue, Rules};
use super::{Policy, QueueLimits, Turnover};
use crate::store::DropReason;

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

/// Room in the half of a queue that retained messages may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfRoom {
    /// For so many messages, which may be none.
    For(usize),
    /// There is room when what waits in memory is on disk.
    AfterCommit,
}

impl Queue {
    /// What this queue obeys.
    pub(crate) fn limits<'a>(&'a self, rules: Rules<'a>) -> &'a QueueLimits {
        self.own_limits.as_deref().unwrap_or(rules.limits)
    }

    /// What happens now when the queue is full.
    pub(crate) fn policy(&self, rules: Rules<'_>) -> Policy {
        match self.limits(rules).policy {
            Policy::Reject if self.sheds => Policy::DropOldest,
            policy @ (Policy::Reject | Policy::DropOldest | Policy::DropNewest | Policy::KeepLast) => policy,
        }
    }

    fn bytes_max(&self, rules: Rules<'_>, kept: Kept) -> u64 {
        let limits = self.limits(rules);
        if kept == Kept::Stored { limits.max_bytes } else { limits.max_transient_bytes }
    }

    fn full(&self, rules: Rules<'_>, kept: Kept) -> bool {
        self.queued >= self.limits(rules).max_messages || self.queued_bytes >= self.bytes_max(rules, kept)
    }

    pub(super) fn memory_full(&self, rules: Rules<'_>) -> bool {
        let limits = self.limits(rules);
        self.places.next.len() >= limits.memory_messages || self.places.next_bytes >= limits.memory_bytes
    }

    /// How much room there is (policy `reject`; the others always have some).
    pub(crate) fn room(&self, rules: Rules<'_>, kept: Kept) -> Fill {
        if self.policy(rules) != Policy::Reject {
            Fill::Roomy
        } else if self.full(rules, kept) {
            Fill::Full
        } else if self.queued + TIGHT_MESSAGES >= self.limits(rules).max_messages
            || self.queued_bytes + TIGHT_BYTES >= self.bytes_max(rules, kept)
        {
            Fill::Tight
        } else {
            Fill::Roomy
        }
    }

    /// Whether something is dropped for what comes next: it is full, and does not refuse.
    pub(crate) fn drops(&self, rules: Rules<'_>, kept: Kept) -> bool {
        self.policy(rules) != Policy::Reject && self.full(rules, kept)
    }

    /// Room in half of the queue: the other half is for what is published.
    pub(crate) fn half_room(&self, rules: Rules<'_>, kept: Kept) -> HalfRoom {
        let limits = self.limits(rules);
        let half = limits.max_messages / 2;
        if self.queued > 0 && (self.queued >= half || self.queued_bytes >= self.bytes_max(rules, kept) / 2) {
            return HalfRoom::For(0);
        }
        let here = if kept == Kept::Stored { self.places.pending.len() } else { self.places.next.len() };
        let in_memory = limits.memory_messages.saturating_sub(here);
        if kept == Kept::Stored && in_memory == 0 {
            return HalfRoom::AfterCommit;
        }
        if kept == Kept::InMemory && self.memory_full(rules) {
            return HalfRoom::For(0);
        }
        let room = usize::try_from(half.saturating_sub(self.queued)).unwrap_or(usize::MAX);
        HalfRoom::For(in_memory.min(room.max(1)))
    }

    /// Messages and bytes in the queue.
    pub(crate) fn fill(&self) -> (u64, u64) {
        (self.queued, self.queued_bytes)
    }

    /// Whether three quarters of what the queue may hold are taken.
    pub(crate) fn nearly_full(&self, rules: Rules<'_>) -> bool {
        let limits = self.limits(rules);
        let over = |part: u64, whole: u64| part >= whole - whole / 4;
        over(self.queued, limits.max_messages) || over(self.queued_bytes, limits.max_bytes)
    }

    /// How far the queue has come; what only passes is not counted.
    pub(crate) fn turnover(&self) -> Turnover {
        let queued = self.queued.saturating_sub(u64::from(self.passing));
        Turnover { queued, gone: self.places.next_seq.saturating_sub(queued) }
    }

    /// It has refused for as long as it may: its oldest messages go from now on, if it is in the store.
    pub(crate) fn shed(&mut self, kept: Kept) -> bool {
        self.sheds = kept == Kept::Stored;
        self.sheds
    }

    /// Whether its oldest messages go because it has refused for too long.
    pub(crate) fn sheds(&self) -> bool {
        self.sheds
    }

    /// True once, when a queue that sheds has drained by half: it refuses again when it is full.
    pub(crate) fn shed_enough(&mut self, rules: Rules<'_>) -> bool {
        let limits = self.limits(rules);
        let half = |limit: u64| limit.div_ceil(2);
        let drained = self.queued <= half(limits.max_messages) && self.queued_bytes <= half(limits.max_bytes);
        let over = self.sheds && drained;
        self.sheds &= !over;
        over
    }

    /// Makes room for a message, as the policy says. False: it was turned away.
    pub(crate) fn make_room(&mut self, rules: Rules<'_>, kept: Kept) -> bool {
        if !self.full(rules, kept) {
            return true;
        }
        match self.policy(rules) {
            // The publisher was asked to wait before; what comes all the same (a race) is not refused.
            Policy::Reject => true,
            Policy::DropNewest => {
                self.turn_away(DropReason::Newest);
                false
            }
            Policy::DropOldest | Policy::KeepLast => {
                while self.full(rules, kept) {
                    if !self.drop_oldest(rules) {
                        break;
                    }
                }
                true
            }
        }
    }

    /// Drops the oldest message that was not sent. False: it is on disk, and has not been read yet.
    fn drop_oldest(&mut self, rules: Rules<'_>) -> bool {
        let first = self.places.next.iter().position(|entry| !self.was_sent(&entry.item));
        let entry = if let Some(entry) = first.and_then(|at| self.places.next.remove(at)) {
            self.places.next_bytes = self.places.next_bytes.saturating_sub(entry.item.message.size());
            Some(entry)
        } else if self.on_disk() {
            return self.drop_ahead(rules.now);
        } else {
            self.places.pending.pop_front()
        };
        let Some(entry) = entry else { return false };
        self.discard(entry, Some(DropReason::Oldest));
        true
    }
}
