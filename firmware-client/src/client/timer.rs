//! Time: what is due when.

use super::{Client, NEVER, Phase};
use crate::arena::{self, State};
use crate::logging::say;
use crate::message::DropReason;
use forebay_wire::ReasonCode;

/// A tick of message times is 64 milliseconds: 32 bits of them are eight years.
pub(super) const TICK_SHIFT: u32 = 6;

/// Milliseconds as whole ticks, rounded up.
pub(super) const fn ticks(ms: u32) -> u32 {
    (ms >> TICK_SHIFT).wrapping_add((ms & 63 != 0) as u32)
}

/// Whole seconds in so many ticks: the nearest, but not zero.
pub(super) const fn seconds(ticks: u32) -> u32 {
    // 64 / 1000 is 8 / 125; times to live have at most 2^26 ticks.
    let seconds = ticks.saturating_mul(8).saturating_add(62) / 125;
    if seconds == 0 { 1 } else { seconds }
}

/// Makes one time out of the caller's: it never goes back. When the caller's does, time goes on from where it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    given: u64,
    ahead: u64,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { given: 0, ahead: 0 }
    }

    fn set(&mut self, now: u64) {
        self.ahead = self.ahead.wrapping_add(self.given.saturating_sub(now));
        self.given = now;
    }

    pub(super) const fn now(&self) -> u64 {
        self.given.wrapping_add(self.ahead)
    }

    pub(super) const fn tick(&self) -> u32 {
        (self.now() >> TICK_SHIFT) as u32
    }

    /// The tick in which something expires that has so many left; it has come when none are, also right after a start.
    pub(super) const fn expiry(&self, left: u32) -> u32 {
        let tick = self.tick().wrapping_add(left);
        match (left, tick) {
            // 0 is never.
            (0, 0 | 1) => u32::MAX,
            (0, tick) => tick.wrapping_sub(1),
            (_, 0) => 1,
            (_, tick) => tick,
        }
    }

    /// An own time as the caller's.
    const fn told(&self, at: u64) -> u64 {
        at.saturating_sub(self.ahead)
    }

    /// The time of a tick that is not far away.
    fn time_of(&self, tick: u32) -> u64 {
        let ahead = tick.wrapping_sub(self.tick()) as i32;
        if ahead <= 0 { self.now() } else { ((self.now() >> TICK_SHIFT).wrapping_add(ahead as u64)) << TICK_SHIFT }
    }
}

/// Whether a tick has come.
pub(super) const fn is_past(tick: u32, now: u32) -> bool {
    now.wrapping_sub(tick) as i32 >= 0
}

impl Client<'_> {
    /// When to connect, in the caller's time: open a connection then, and call [`connected`](Self::connected), or
    /// [`disconnected`](Self::disconnected) when that fails. `None`: there is a connection, or none is wanted.
    #[must_use]
    pub fn connect_at(&self) -> Option<u64> {
        (self.phase == Phase::Down && !self.stopped).then(|| self.clock.told(self.connect_at))
    }

    /// When to call [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) again even if nothing
    /// comes, in the caller's time. `None`: not before something comes, or is published.
    #[must_use]
    pub fn next_timeout(&self) -> Option<u64> {
        let at = self.connection_due().min(self.next_expiry);
        (at != NEVER).then(|| self.clock.told(at.max(self.clock.now())))
    }

    fn connection_due(&self) -> u64 {
        match self.phase {
            Phase::Down | Phase::Done => NEVER,
            Phase::Connect | Phase::Leaving => self.clock.now(),
            Phase::ConnAck => self.answer_due(self.asked_at),
            Phase::Up => self.ping_due().min(self.dead_at()).min(self.transmit_due()),
        }
    }

    /// Never, when it was asked never.
    #[inline(never)]
    fn answer_due(&self, asked: u64) -> u64 {
        asked.saturating_add(u64::from(self.options.response_timeout_ms))
    }

    /// When a server that was asked and says nothing is given up.
    fn dead_at(&self) -> u64 {
        #[cfg(feature = "embedded-io-async")]
        if self.is_stalled() {
            return NEVER;
        }
        self.answer_due(self.ping_at.max(self.last_rx))
    }

    /// When PINGREQ is due: before the server misses this device, even if the answer to the last one is still behind a message
    /// that takes long to come. Without an open one also when the server has not been heard of for as long (while this device
    /// does nothing but send), and when it owes an answer.
    pub(super) fn ping_due(&self) -> u64 {
        let (mut missed, mut silent) = (NEVER, self.answer_due(self.asked_at));
        if self.peer.keep_alive_s > 0 {
            let keep_alive_ms = u64::from(u32::from(self.peer.keep_alive_s).wrapping_mul(1_000));
            // A quarter is for the way.
            missed = self.last_tx.saturating_add(keep_alive_ms.wrapping_sub(keep_alive_ms >> 2));
            silent = silent.min(self.last_rx.saturating_add(keep_alive_ms));
        }
        if self.ping_at == NEVER { missed.min(silent) } else { missed }
    }

    /// Every call of the caller comes here first.
    pub(super) fn set_time(&mut self, now: u64) {
        self.clock.set(now);
        if self.next_expiry <= self.clock.now() {
            self.expire();
        }
        let over = match self.phase {
            Phase::ConnAck => self.answer_due(self.asked_at),
            Phase::Up => self.dead_at(),
            Phase::Down | Phase::Connect | Phase::Leaving | Phase::Done => NEVER,
        };
        if over <= self.clock.now() {
            say!(warn, "the server does not answer");
            self.fault = Some(ReasonCode::KeepAliveTimeout);
            self.phase = Phase::Done;
        }
    }

    fn expire(&mut self) {
        let tick = self.clock.tick();
        self.next_expiry = NEVER;
        let mut at = 0;
        while let Some((here, head)) = self.arena.find(at, State::Queued.bit()) {
            at = here.wrapping_add(head.len);
            if head.expires == 0 {
                continue;
            }
            if is_past(head.expires, tick) {
                self.drop_record(here, &head, DropReason::Expired);
            } else {
                self.expires_at(head.expires);
            }
        }
    }

    /// A message expires then, in ticks; 0 is never.
    pub(super) fn expires_at(&mut self, tick: u32) {
        if tick != 0 {
            self.next_expiry = self.next_expiry.min(self.clock.time_of(tick));
        }
    }

    /// Messages may have become ones that expire.
    pub(super) fn look_for_expiry(&mut self) {
        self.next_expiry = 0;
    }

    /// A class is not sent for so long.
    pub(super) fn hold_for(&mut self, class: usize, ms: u32) {
        let until = self.clock.now().saturating_add(u64::from(ms));
        if let Some(hold) = self.hold.get_mut(class) {
            *hold = until.max(*hold);
        }
    }

    pub(super) fn remaining_s(&self, head: &arena::Head) -> Option<u32> {
        if head.expires == 0 {
            return None;
        }
        let left = head.expires.wrapping_sub(self.clock.tick());
        Some(if left as i32 > 0 { seconds(left) } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_where_it_was_when_the_callers_goes_back() {
        let mut clock = Clock::new();
        for (given, own) in [(100, 100), (250, 250), (50, 250), (60, 260), (0, 260), (1_000, 1_260)] {
            clock.set(given);
            assert_eq!(clock.now(), own);
        }
        assert_eq!(clock.told(1_300), 1_040);
    }

    #[test]
    fn ticks_are_rounded_up_and_seconds_to_the_nearest() {
        assert_eq!((ticks(0), ticks(1), ticks(64), ticks(65)), (0, 1, 1, 2));
        assert_eq!((seconds(1), seconds(ticks(60_000)), seconds(ticks(u32::MAX))), (1, 60, 4_294_967));
    }
}
