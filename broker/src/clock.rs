//! The broker's clock: monotonic milliseconds since the broker was first started, carried over restarts.
//!
//! A board without a battery clock starts in 1970 or at its last shutdown, and jumps when NTP answers. So the wall clock is
//! only asked two things: how long the broker was down, at start, if what it says is possible (not before the last
//! commit); and, if it was not, once more when it first steps past that commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::message::Time;
use crate::store::ClockMark;

/// See the module.
pub struct Clock {
    uptime: Uptime,
    /// Added to the time since `started`.
    base_ms: AtomicU64,
    /// The wall clock at the last commit before this start, while the time that the broker was down is not known.
    unknown_since_wall_ms: AtomicU64,
    /// The wall clock less the time since the start, as the last mark has it.
    marked_offset_ms: AtomicU64,
}

/// The wall clock has stepped when it moves by more than this against the monotonic one.
const STEP_MS: u64 = 1_000;

/// No wall clock that is right has shown less to this program: 2026-11-01. To be raised at a release.
const EARLIEST_MS: u64 = 1_793_491_200_000;

/// A wall clock that says that the broker was down for longer than this (a year) is wrong.
const DOWN_MAX_MS: u64 = 366 * 24 * 3_600_000;

/// After so long a wall clock that is still behind the last commit's is taken to be right, and that one to have been wrong:
/// what sets a clock has set it by then.
const SET_BY_MS: u64 = 24 * 3_600_000;

/// What is counted of the time that the broker was down, as the wall clock has it.
fn credit(down_ms: u64) -> u64 {
    if down_ms <= DOWN_MAX_MS {
        return down_ms;
    }
    tracing::warn!(
        down_s = down_ms / 1000,
        "the wall clock is not believed: the time that the broker was down is not counted"
    );
    0
}

/// Whether a wall clock that is right can have shown these milliseconds since 1970 to this program.
#[must_use]
pub(crate) fn may_be_right(wall_ms: u64) -> bool {
    wall_ms >= EARLIEST_MS
}

enum Uptime {
    Since(Instant),
    ByHand(AtomicU64),
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Clock {
    /// Goes on from the last commit's mark.
    #[must_use]
    pub fn new(mark: Option<ClockMark>) -> Self {
        Self::at(mark, wall_ms())
    }

    fn at(mark: Option<ClockMark>, wall: u64) -> Self {
        let (base, unknown) = match mark {
            // Not zero: zero is "at the beginning of time" for whoever subtracts.
            None => (1000, 0),
            // How long it was down is not to be known from a clock that was wrong then.
            Some(mark) if mark.wall_ms < EARLIEST_MS => (mark.time.0, 0),
            Some(mark) if wall >= mark.wall_ms => (mark.time.0.saturating_add(credit(wall - mark.wall_ms)), 0),
            // It was years ahead then, and is right now: one that is behind by so much would be so for ever.
            Some(mark) if wall >= EARLIEST_MS && mark.wall_ms - wall > DOWN_MAX_MS => (mark.time.0, 0),
            Some(mark) => (mark.time.0, mark.wall_ms),
        };
        Self {
            uptime: Uptime::Since(Instant::now()),
            base_ms: AtomicU64::new(base),
            unknown_since_wall_ms: AtomicU64::new(unknown),
            marked_offset_ms: AtomicU64::new(wall),
        }
    }

    /// A clock that stands still but for [`Clock::advance`]; the time that the broker was down is nothing.
    #[must_use]
    pub fn by_hand(mark: Option<ClockMark>) -> Self {
        let wall = mark.map_or(EARLIEST_MS, |mark| mark.wall_ms);
        Self { uptime: Uptime::ByHand(AtomicU64::new(0)), ..Self::at(mark, wall) }
    }

    /// Moves a clock of [`Clock::by_hand`]; the real one goes by itself.
    pub fn advance(&self, ms: u64) {
        if let Uptime::ByHand(now) = &self.uptime {
            now.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(self.base_ms.load(Ordering::Relaxed).saturating_add(self.uptime_ms()))
    }

    /// The wall clock: milliseconds since 1970, right or wrong. For a clock by hand, that of its mark and what it was moved.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        match &self.uptime {
            Uptime::Since(_) => wall_ms(),
            Uptime::ByHand(ms) => {
                self.marked_offset_ms.load(Ordering::Relaxed).saturating_add(ms.load(Ordering::Relaxed))
            }
        }
    }

    /// Whether the wall clock shows a time that can be: not one before this program was made.
    #[must_use]
    pub fn may_be_right(&self) -> bool {
        may_be_right(self.wall_ms())
    }

    /// Milliseconds since this start.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        match &self.uptime {
            Uptime::Since(started) => u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            Uptime::ByHand(ms) => ms.load(Ordering::Relaxed),
        }
    }

    /// The clock and the wall clock, for the store.
    #[must_use]
    pub fn mark(&self) -> ClockMark {
        let (wall_ms, unknown) = (self.wall_ms(), self.unknown_since_wall_ms.load(Ordering::Relaxed));
        self.marked_offset_ms.store(wall_ms.wrapping_sub(self.uptime_ms()), Ordering::Relaxed);
        // A wall clock that is known to be wrong must not replace the mark that it is behind of. The time since this start has been
        // counted: the next start must not take it for time that the broker was down.
        let at_least = if unknown == 0 { 0 } else { unknown.saturating_add(self.uptime_ms()) };
        ClockMark { time: self.now(), wall_ms: wall_ms.max(at_least) }
    }

    /// To be called now and then: credits the time that the broker was down when the wall clock has come right at last.
    /// True when the wall clock has stepped since the last mark: without a new one the next start would take the step
    /// for time that the broker was down.
    #[must_use]
    pub fn watch(&self) -> bool {
        let wall = wall_ms();
        self.watch_at(wall);
        self.stepped_at(wall)
    }

    fn stepped_at(&self, wall: u64) -> bool {
        let expected = self.marked_offset_ms.load(Ordering::Relaxed).wrapping_add(self.uptime_ms());
        wall.abs_diff(expected) > STEP_MS
    }

    fn watch_at(&self, wall: u64) {
        let since = self.unknown_since_wall_ms.load(Ordering::Relaxed);
        if since == 0 {
            return;
        }
        if wall <= since.saturating_add(self.uptime_ms()) {
            if wall >= EARLIEST_MS && self.uptime_ms() > SET_BY_MS {
                tracing::warn!(
                    "the wall clock was ahead when the broker ran last: the time that it was down is not counted"
                );
                self.unknown_since_wall_ms.store(0, Ordering::Relaxed);
            }
            return;
        }
        let down = (wall - since).saturating_sub(self.uptime_ms());
        self.base_ms.fetch_add(credit(down), Ordering::Relaxed);
        self.unknown_since_wall_ms.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: u64 = EARLIEST_MS + 1_000_000;
    const MARK: ClockMark = ClockMark { time: Time(50_000), wall_ms: WALL };

    #[test]
    fn time_that_the_broker_was_down_counts() {
        let clock = Clock::at(Some(MARK), WALL + 60_000);
        assert!((110_000..111_000).contains(&clock.now().0), "{:?}", clock.now());
    }

    #[test]
    fn a_wall_clock_in_1970_stops_time_until_it_comes_right() {
        let clock = Clock::at(Some(MARK), 5_000);
        assert!((50_000..51_000).contains(&clock.now().0));
        clock.watch_at(6_000);
        assert!((50_000..51_000).contains(&clock.now().0));
        clock.watch_at(WALL + 500_000);
        assert!((549_000..551_000).contains(&clock.now().0), "{:?}", clock.now());
        // Only once: a later step of the wall clock changes nothing.
        clock.watch_at(WALL + 99_000_000);
        assert!((549_000..551_000).contains(&clock.now().0));
    }

    #[test]
    fn a_wall_clock_that_was_right_may_step_as_it_likes() {
        let clock = Clock::at(Some(MARK), WALL + 500);
        clock.watch_at(999_999_999);
        clock.watch_at(3);
        assert!((50_000..52_000).contains(&clock.now().0));
    }

    #[test]
    fn a_step_wants_a_new_mark() {
        let clock = Clock::at(None, 60_000);
        assert!(!clock.stepped_at(60_500));
        assert!(clock.stepped_at(1_700_000_000_000));
        assert!(clock.stepped_at(5_000));
        let _ = clock.mark();
        assert!(!clock.stepped_at(wall_ms()));
    }

    #[test]
    fn a_wrong_wall_clock_does_not_replace_the_mark() {
        let clock = Clock::at(Some(ClockMark { time: Time(1), wall_ms: u64::MAX - 1 }), 5_000);
        assert!(clock.mark().wall_ms >= u64::MAX - 1);
    }

    #[test]
    fn time_that_a_run_in_1970_has_counted_is_not_counted_again() {
        let of_1970 = Clock { uptime: Uptime::ByHand(AtomicU64::new(0)), ..Clock::at(Some(MARK), 5_000) };
        of_1970.marked_offset_ms.store(5_000, Ordering::Relaxed);
        of_1970.advance(500_000);
        let mark = of_1970.mark();
        assert_eq!((mark.time.0, mark.wall_ms), (550_000, WALL + 500_000));
        // It was down for a minute, and starts with the right time.
        let next = Clock::at(Some(mark), WALL + 560_000);
        assert!((610_000..611_000).contains(&next.now().0), "{:?}", next.now());
    }

    #[test]
    fn a_wall_clock_that_was_wrong_or_jumps_too_far_gives_no_credit() {
        let since = |mark_wall: u64, wall: u64| {
            let mark = ClockMark { time: Time(50_000), wall_ms: mark_wall };
            Clock::at(Some(mark), wall).now().0 - 50_000
        };
        assert!(since(100_000, WALL) < 1_000, "it ran in 1970, and starts with the right time");
        assert!(since(EARLIEST_MS - 1, WALL) < 1_000);
        assert!(since(WALL, WALL + DOWN_MAX_MS + 1) < 1_000, "more than a year");
        assert!((DOWN_MAX_MS..DOWN_MAX_MS + 1_000).contains(&since(WALL, WALL + DOWN_MAX_MS)));
        // The same when it comes right later.
        let clock = Clock::at(Some(MARK), 5_000);
        clock.watch_at(WALL + 2 * DOWN_MAX_MS);
        assert!((50_000..51_000).contains(&clock.now().0));
    }

    #[test]
    fn a_wall_clock_that_was_ahead_is_forgotten() {
        // Years ahead: at once. The next time that the broker is down counts.
        let years = ClockMark { time: Time(50_000), wall_ms: WALL + 14 * DOWN_MAX_MS };
        let mark = Clock::at(Some(years), wall_ms().max(EARLIEST_MS)).mark();
        assert!(mark.wall_ms < years.wall_ms);
        let next = Clock::at(Some(mark), mark.wall_ms + 60_000);
        assert!((60_000..61_000).contains(&(next.now().0 - mark.time.0)), "{:?}", next.now());
        // A month ahead: it may be the clock of a board that is not set yet. After a day it is not.
        let ahead = WALL + DOWN_MAX_MS / 12;
        let month = Clock::at(Some(ClockMark { time: Time(50_000), wall_ms: ahead }), WALL);
        let clock = Clock { uptime: Uptime::ByHand(AtomicU64::new(0)), ..month };
        clock.watch_at(WALL);
        assert_eq!(clock.mark().wall_ms, ahead);
        clock.advance(SET_BY_MS + 1);
        clock.watch_at(WALL + SET_BY_MS + 1);
        assert_eq!(clock.unknown_since_wall_ms.load(Ordering::Relaxed), 0);
        assert_eq!(clock.now(), Time(50_000 + SET_BY_MS + 1));
        // One in 1970 says nothing about the mark, however long it goes.
        let early = Clock { uptime: Uptime::ByHand(AtomicU64::new(SET_BY_MS + 1)), ..Clock::at(Some(MARK), 5_000) };
        early.watch_at(6_000);
        assert_eq!(early.mark().wall_ms, WALL + SET_BY_MS + 1);
    }

    #[test]
    fn a_clock_that_walks_past_its_mark_gives_no_credit() {
        let clock = Clock { uptime: Uptime::ByHand(AtomicU64::new(0)), ..Clock::at(Some(MARK), WALL - 5_000) };
        clock.advance(10_000);
        clock.watch_at(WALL + 5_000);
        assert_eq!(clock.now(), Time(60_000), "the ten seconds that passed, and no more");
    }
}
