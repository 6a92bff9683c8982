//! Whether there is room for more: memory, sessions, wills, subscriptions. What exists goes on; what would add is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;

use super::{Broker, Slot, Staged};
use crate::memory::{self, Level};
use crate::observe::MemoryPart;
use crate::session::{Cx, Settings};

/// Between two times that free memory is given back: it takes the allocator's locks for a while.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(5);
/// The same when the last time was of little use.
const GIVE_BACK_SELDOM: Duration = Duration::from_secs(60);
/// So much must be free inside the allocator, and a fifth of what is used, for that to be worth it.
const GIVE_BACK_BYTES: usize = 4 << 20;
/// A part of a packet that may be kept when memory is short: most packets are smaller.
const PART_WHEN_FULL: usize = 16 * 1024;
/// Bytes in the queue of a client that keeps up.
const QUEUED_WHEN_FULL: u64 = 64 * 1024;

/// What the keeper remembers of the memory.
pub(crate) struct Watch {
    level: Level,
    next_give_back: Instant,
}

impl Default for Watch {
    fn default() -> Self {
        Self { level: Level::Roomy, next_give_back: Instant::now() }
    }
}

impl Watch {
    /// Gives memory back that the allocator keeps for itself, if there is much of it.
    fn give_back(&mut self, used: usize) {
        let now = Instant::now();
        let much = used + used / 5 + GIVE_BACK_BYTES;
        let kept = |resident: Option<usize>| resident.is_some_and(|resident| resident > much);
        if now < self.next_give_back || !kept(memory::resident()) {
            return;
        }
        memory::give_back();
        let helped = !kept(memory::resident());
        self.next_give_back = now + if helped { GIVE_BACK_EVERY } else { GIVE_BACK_SELDOM };
    }
}

/// What sessions obey while no memory is left, for small and for large messages.
pub(super) struct ShortOfMemory {
    small: Settings,
    large: Settings,
    /// Somebody was told so since the last look, and waits.
    was_told: AtomicBool,
    /// Unit tests count no memory.
    #[cfg(test)]
    is_pretended: AtomicBool,
}

impl ShortOfMemory {
    pub(super) fn new(settings: &Settings) -> Self {
        let with = |outbound_buffer| Settings { outbound_buffer, ..settings.clone() };
        let small = with(PART_WHEN_FULL.min(settings.outbound_buffer));
        Self {
            small,
            large: with(0),
            was_told: AtomicBool::new(false),
            #[cfg(test)]
            is_pretended: AtomicBool::new(false),
        }
    }

    fn tell(&self) {
        self.was_told.store(true, Ordering::Relaxed);
    }
}

impl Broker {
    /// How much of the memory that there may be is taken.
    #[must_use]
    pub fn memory_level(&self) -> Level {
        #[cfg(test)]
        if self.short_of_memory.is_pretended.load(Ordering::Relaxed) {
            return Level::Full;
        }
        Level::of(memory::used(), self.memory_limit)
    }

    /// For the snapshot.
    pub(crate) fn memory_part(&self) -> MemoryPart {
        let wills = self.will_bytes.load(Ordering::Relaxed) as u64;
        MemoryPart { used: memory::used() as u64, limit: self.memory_limit as u64, wills }
    }

    pub(crate) fn memory_full(&self) -> bool {
        let full = self.memory_level() == Level::Full;
        if full {
            self.short_of_memory.tell();
        }
        full
    }

    /// Whether there is room for a client; the reason if not.
    pub(crate) fn admits(&self, client_id: &str, will_bytes: usize) -> Result<(), (ReasonCode, &'static str)> {
        let live = self.live();
        let limits = &live.limits;
        let wills = self.will_bytes.load(Ordering::Relaxed);
        if will_bytes > 0 && wills + will_bytes > limits.max_will_bytes {
            return Err((ReasonCode::QuotaExceeded, "as many bytes of wills as there may be (limits.max_will_bytes)"));
        }
        // A client that comes back adds little.
        if !self.has_session(client_id) {
            if self.session_count() >= limits.max_sessions {
                return Err((ReasonCode::QuotaExceeded, "as many sessions as there may be (limits.max_sessions)"));
            }
            if self.memory_full() {
                return Err((ReasonCode::ServerBusy, "no memory is left for another client (limits.memory)"));
            }
        }
        Ok(())
    }

    /// The same, and the bytes of its will count from now on. For a client that has logged in: those who cannot must not take
    /// the others' room.
    pub(crate) fn admit(&self, client_id: &str, will_bytes: usize) -> Result<(), (ReasonCode, &'static str)> {
        self.admits(client_id, will_bytes)?;
        self.will_bytes.fetch_add(will_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether one more subscription finds room.
    pub(crate) fn room_for_filter(&self, filter: &str) -> bool {
        let (live, stats) = (self.live(), self.router.stats());
        let limits = &live.limits;
        let levels = 1 + filter.bytes().filter(|byte| *byte == b'/').count();
        stats.subscriptions < limits.max_subscriptions
            && stats.nodes + levels <= limits.max_filter_levels
            && !self.memory_full()
    }

    /// Whether so much of a packet that is not complete may be kept: it has begun, so it may pass the limit by a sixth.
    pub(crate) fn room_for_part(&self, bytes: usize) -> bool {
        bytes <= PART_WHEN_FULL || memory::used() <= self.memory_limit.saturating_add(self.memory_limit / 6)
    }

    /// The limits for handing these messages to one subscriber: with no memory left, buffers of sockets take a little of
    /// what is small and nothing of what is large, so that one publication is not encoded for a thousand slow readers.
    pub(super) fn within_memory<'a>(&'a self, run: &[Staged<'_>], cx: Cx<'a>) -> Cx<'a> {
        if !self.memory_full() {
            return cx;
        }
        let large = run.iter().any(|staged| staged.source.payload.len() > PART_WHEN_FULL);
        Cx { settings: if large { &self.short_of_memory.large } else { &self.short_of_memory.small }, ..cx }
    }

    /// The limits for encoding more of what a session has: with no memory left a little at a time, so that queues still
    /// drain, and none a twentieth over the limit, until sockets have taken what was encoded.
    pub(crate) fn may_encode(&self) -> Option<Cx<'_>> {
        let (cx, used) = (self.cx(), memory::used());
        let level = Level::of(used, self.memory_limit);
        if level == Level::Full {
            self.short_of_memory.tell();
        }
        match level {
            Level::Roomy | Level::High => Some(cx),
            Level::Full if used <= self.memory_limit.saturating_add(self.memory_limit / 20) => {
                Some(Cx { settings: &self.short_of_memory.small, ..cx })
            }
            Level::Full => None,
        }
    }

    /// Whether a message for this subscriber would stay in memory for a while.
    pub(super) fn would_stay(slot: &Arc<Slot>) -> bool {
        slot.look(|session| !session.connected() || session.fill().1 > QUEUED_WHEN_FULL)
    }

    /// Says when memory becomes short and when it is not any more, wakes who waits for it, and gives back what is free.
    /// A peak that came and went between two looks has left those behind who met it.
    pub(super) fn watch_memory(&self, watch: &mut Watch) {
        let used = memory::used();
        let (level, before) = (self.memory_level(), watch.level);
        watch.level = level;
        if level != before {
            let (used, limit) = (used >> 20, self.memory_limit >> 20);
            match level {
                Level::Roomy => tracing::warn!("memory is not short any more: {used} of {limit} MiB"),
                Level::High => tracing::warn!("memory becomes short: {used} of {limit} MiB (limits.memory)"),
                Level::Full => {
                    tracing::warn!("memory is short: {used} of {limit} MiB; what would add to it is refused")
                }
            }
        }
        if level != Level::Full && self.short_of_memory.was_told.swap(false, Ordering::Relaxed) {
            self.unpark();
            self.all_slots().iter().filter(|slot| slot.online()).for_each(|slot| slot.wake());
        }
        watch.give_back(used);
    }

    /// The writer may sleep when the store is found to be full beside it: it has to look from then on, until there is room. Where
    /// that is over between two looks, those who met it still wait.
    pub(super) fn watch_store(&self) {
        if self.store_failing() {
            self.writer.look_soon();
        } else if self.writer.has_refused.swap(false, Ordering::Relaxed) {
            self.unpark();
        }
    }

    /// Counts the wills anew: sessions that have ended, and wills that were published, are not subtracted one by one.
    pub(super) fn count_wills(&self) {
        let of = |slot: Arc<Slot>| slot.look(|session| session.will().map_or(0, |will| will.message.size()));
        self.will_bytes.store(self.all_slots().into_iter().map(of).sum(), Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Broker {
    pub(crate) fn pretend_memory_full(&self, full: bool) {
        self.short_of_memory.is_pretended.store(full, Ordering::Relaxed);
    }

    /// What the keeper does each second.
    pub(crate) fn look_at_memory(&self) {
        self.watch_memory(&mut Watch::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand;

    #[test]
    fn a_store_that_is_full_is_looked_at_and_who_met_that_is_woken() {
        let (broker, mut store) = by_hand::broker();
        let waiting = by_hand::queue_of(&broker, "t").slot().clone();
        by_hand::commit(&broker, &mut store);
        broker.watch_store();
        assert!(!broker.writer.is_due());
        broker.writer.failing.store(true, Ordering::Relaxed);
        broker.watch_store();
        assert!(broker.writer.is_due(), "nothing else has it look");
        broker.park(&waiting);
        waiting.looked();
        broker.writer.failing.store(false, Ordering::Relaxed);
        broker.watch_store();
        assert!(waiting.looked(), "it still waits");
    }

    #[test]
    fn who_met_a_peak_between_two_looks_is_woken() {
        let (broker, _store) = by_hand::broker();
        let waiting = by_hand::queue_of(&broker, "t").slot().clone();
        let mut watch = Watch::default();
        broker.watch_memory(&mut watch);
        broker.short_of_memory.tell();
        broker.park(&waiting);
        waiting.looked();
        broker.watch_memory(&mut watch);
        assert!(waiting.looked(), "it still waits");
    }
}
