//! At which pace a backlog leaves, so that it is gone at a time of the day: `drain_by`.
//!
//! There is a backlog from when the oldest message has waited for minutes until it is of a few seconds. Its deadline is the first such time
//! of the day after that message came. From then on, and without a wall clock, there is no plan: it leaves as quickly as it can. The
//! pace is made anew each second from what waits, so that whatever happened meanwhile (an upstream that was away, a clock that
//! was set) is made up for.

use super::calendar::{Calendar, DAY_MS};

/// There is a backlog when the oldest message has waited for so long: what a short trouble leaves behind goes at once, or all that is live
/// would wait behind it until the deadline.
const BEGIN_MS: u64 = 300_000;
/// There is none any more when the oldest is younger.
const END_MS: u64 = 10_000;
/// How often the pace is made anew.
pub const LOOK_MS: u64 = 1_000;
/// Over which time the messages that come in are counted.
const ARRIVALS_MS: u64 = 60_000;
/// Parts of a message: a pace may be one message an hour.
const ONE: u128 = 1_000_000_000;

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages in the queue.
    pub messages: u64,
    /// How long the oldest has waited, if that is known.
    pub oldest_ms: Option<u64>,
    /// Grows by one with each message that comes.
    pub next_place: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Drain {
    by_ms: u64,
    calendar: Calendar,
    looked_ms: Option<u64>,
    next_place: u64,
    /// What comes in, in parts of a message a millisecond: of late, and of the last second.
    arrivals: u128,
    plan: Option<Plan>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// When the backlog is to be gone, by the wall clock.
    deadline_ms: u64,
    /// Parts of a message a millisecond; `None`: the deadline has passed.
    pace: Option<u128>,
    /// What may be sent, in parts of a message; below zero where more was sent.
    level: i128,
    at_ms: u64,
}

impl Drain {
    /// `by_ms`: milliseconds since midnight.
    #[must_use]
    pub fn new(by_ms: u64, calendar: Calendar) -> Self {
        Self { by_ms, calendar, looked_ms: None, next_place: 0, arrivals: 0, plan: None }
    }

    /// Whether the pace is to be made anew.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.looked_ms.is_none_or(|at| now_ms.saturating_sub(at) >= LOOK_MS)
    }

    /// Makes it anew. `wall_ms`: `None` where the wall clock cannot be right.
    pub fn look(&mut self, now_ms: u64, wall_ms: Option<u64>, backlog: Backlog) {
        let comes = self.arriving(now_ms, backlog.next_place);
        let enough_ms = if self.plan.is_some() { END_MS } else { BEGIN_MS };
        let is_live = backlog.oldest_ms.is_some_and(|age_ms| age_ms < enough_ms);
        let Some(wall_ms) = wall_ms.filter(|_| !is_live && backlog.messages > 0) else {
            self.plan = None;
            return;
        };
        // What lies on disk since before the start says how old it is when it is read.
        let came_ms = wall_ms.saturating_sub(backlog.oldest_ms.unwrap_or(0));
        let of_oldest = self.calendar.next(self.by_ms, came_ms);
        // One that is farther away than any can be was made before the clock was set back.
        let begun = self.plan.map(|plan| plan.deadline_ms).filter(|at| at.saturating_sub(wall_ms) <= DAY_MS);
        let deadline_ms = begun.map_or(of_oldest, |begun| begun.min(of_oldest));
        let left_ms = u128::from(deadline_ms.saturating_sub(wall_ms));
        let pace = (u128::from(backlog.messages) * ONE).checked_div(left_ms).map(|pace| pace + comes);
        let plan = self.plan.get_or_insert(Plan { deadline_ms, pace, level: 0, at_ms: now_ms });
        plan.refill(now_ms);
        (plan.deadline_ms, plan.pace) = (deadline_ms, pace);
    }

    /// What comes in: the higher one of the last second's rate and that of a longer time, so that the pace is not below it.
    fn arriving(&mut self, now_ms: u64, next_place: u64) -> u128 {
        let came = next_place.saturating_sub(std::mem::replace(&mut self.next_place, next_place));
        let Some(before) = self.looked_ms.replace(now_ms) else { return 0 };
        let passed = u128::from(now_ms.saturating_sub(before)).max(1);
        let of_late = u128::from(came) * ONE / passed;
        let (weight, all) = (passed.min(u128::from(ARRIVALS_MS)), u128::from(ARRIVALS_MS));
        self.arrivals = (self.arrivals * (all - weight) + of_late * weight) / all;
        self.arrivals.max(of_late)
    }

    /// Milliseconds until the next message may leave; zero for now. Ask again when the pace was made anew.
    pub fn wait_ms(&mut self, now_ms: u64) -> u64 {
        let Some(plan) = &mut self.plan else { return 0 };
        plan.refill(now_ms);
        let Some(pace) = plan.pace else { return 0 };
        let short = u128::try_from(ONE as i128 - plan.level).unwrap_or(0);
        let wait = short.div_ceil(pace.max(1));
        u64::try_from(wait).unwrap_or(u64::MAX).min(LOOK_MS)
    }

    /// A message has left.
    pub fn sent(&mut self) {
        if let Some(plan) = &mut self.plan {
            plan.level -= ONE as i128;
        }
    }

    /// Messages an hour, and when the backlog is to be gone, where there is a plan.
    #[must_use]
    pub fn plan(&self) -> Option<(u64, u64)> {
        let plan = self.plan?;
        let per_hour = plan.pace? * u128::from(3_600 * 1_000_u64) / ONE;
        Some((u64::try_from(per_hour).unwrap_or(u64::MAX), plan.deadline_ms))
    }
}

impl Plan {
    /// What one second brings is kept, and one message at least.
    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let pace = self.pace.unwrap_or(0);
        let most = i128::try_from(pace * 1_000).unwrap_or(i128::MAX).max(ONE as i128);
        let brings = i128::try_from(pace * u128::from(passed)).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(brings).min(most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// 2027-01-15T00:00:00Z
    const MIDNIGHT: u64 = 1_800_000_000_000 - 8 * HOUR;
    const HOUR: u64 = 3_600_000;
    const SIX: u64 = 6 * HOUR;

    /// A queue in virtual time.
    struct Queue {
        drain: Drain,
        now_ms: u64,
        /// The wall clock less `now_ms`, if it can be right.
        ahead_ms: Option<u64>,
        /// When each message came.
        waiting: VecDeque<u64>,
        came: u64,
        left: u64,
    }

    impl Queue {
        fn with(backlog: u64, wall_ms: Option<u64>) -> Self {
            let now_ms = 3 * HOUR;
            let waiting = (0..backlog).map(|n| 2 * HOUR + n * HOUR / (backlog + 1)).collect();
            let ahead_ms = wall_ms.map(|wall_ms| wall_ms - now_ms);
            let drain = Drain::new(SIX, Calendar::default());
            Self { drain, now_ms, ahead_ms, waiting, came: backlog, left: 0 }
        }

        fn wall_ms(&self) -> Option<u64> {
            self.ahead_ms.map(|ahead_ms| ahead_ms + self.now_ms)
        }

        /// One second, in which so many come; how many leave of those that can.
        fn second(&mut self, comes: u64, can: u64) -> u64 {
            let until = self.now_ms + 1_000;
            self.waiting.extend((0..comes).map(|_| self.now_ms));
            self.came += comes;
            let mut left = 0;
            while self.now_ms < until {
                if self.drain.is_due(self.now_ms) {
                    let oldest_ms = self.waiting.front().map(|at| self.now_ms - at);
                    let messages = self.waiting.len() as u64;
                    self.drain.look(
                        self.now_ms,
                        self.wall_ms(),
                        Backlog { messages, oldest_ms, next_place: self.came },
                    );
                }
                let wait = if self.waiting.is_empty() || left == can { 1_000 } else { self.drain.wait_ms(self.now_ms) };
                if wait == 0 {
                    self.waiting.pop_front();
                    self.drain.sent();
                    left += 1;
                }
                self.now_ms = (self.now_ms + wait).min(until);
            }
            self.left += left;
            left
        }

        fn seconds(&mut self, seconds: u64, comes: u64) -> u64 {
            (0..seconds).map(|_| self.second(comes, u64::MAX)).sum()
        }
    }

    #[test]
    fn a_backlog_is_gone_at_its_time_and_not_long_before() {
        for comes in [0, 2] {
            let mut queue = Queue::with(36_000, Some(MIDNIGHT + 2 * HOUR));
            // Four hours: 2.5 a second, and what comes in beside it.
            for hour in 1..4 {
                let left = queue.seconds(3_600, comes);
                let expected = 9_000 + comes * 3_600;
                assert!(left.abs_diff(expected) * 20 <= expected, "{left} in hour {hour}, {comes} a second");
            }
            let (per_hour, deadline) = queue.drain.plan().unwrap();
            assert!(per_hour.abs_diff(9_000 + comes * 3_600) < 900, "{per_hour}");
            assert_eq!(deadline, MIDNIGHT + SIX);
            queue.seconds(3_600 - 60, comes);
            assert!(queue.waiting.len() > 50, "{} wait a minute before", queue.waiting.len());
            queue.seconds(61, comes);
            assert!(queue.waiting.len() < 10, "{} wait", queue.waiting.len());
        }
    }

    #[test]
    fn never_slower_than_what_comes_in() {
        let mut queue = Queue::with(1_000, Some(MIDNIGHT + SIX + 2 * HOUR));
        // Most of a day is left; then a burst, and a calm.
        queue.seconds(120, 1);
        for comes in [10, 300, 0, 40] {
            let before = queue.waiting.len();
            for _ in 0..300 {
                queue.second(comes, u64::MAX);
            }
            assert!(queue.waiting.len() <= before + 2 * comes as usize, "{before} became {}", queue.waiting.len());
        }
    }

    #[test]
    fn what_is_live_goes_at_once_and_so_does_what_is_late() {
        let mut live = Queue::with(0, Some(MIDNIGHT));
        assert_eq!(live.second(500, u64::MAX), 500);
        assert_eq!(live.drain.plan(), None);
        // An upstream that was away for four minutes.
        let mut short = Queue::with(0, Some(MIDNIGHT));
        assert_eq!((0..240).map(|_| short.second(2, 0)).sum::<u64>(), 0);
        assert_eq!(short.second(0, u64::MAX), 480);
        // It came before six, and it is after six.
        let mut late = Queue::with(500, Some(MIDNIGHT + SIX + 1_000));
        assert_eq!(late.second(0, u64::MAX), 500);
    }

    #[test]
    fn an_upstream_that_was_away_is_made_up_for() {
        let mut queue = Queue::with(7_200, Some(MIDNIGHT + 2 * HOUR));
        for _ in 0..2 * 3_600 {
            queue.second(0, 0);
        }
        let left = queue.seconds(600, 0);
        assert!(left.abs_diff(600) <= 30, "{left}: one a second now, without a burst");
        // It is away at the deadline: from then on there is no plan, and none for the next day.
        for _ in 0..2 * 3_600 {
            queue.second(0, 0);
        }
        assert_eq!(queue.second(0, u64::MAX), 6_600);
    }

    #[test]
    fn a_clock_that_is_wrong_or_set_does_no_harm() {
        let mut unset = Queue::with(500, None);
        assert_eq!(unset.second(0, u64::MAX), 500, "nobody knows when six is");
        let mut queue = Queue::with(36_000, Some(MIDNIGHT + 2 * HOUR));
        queue.seconds(10, 0);
        let set = |queue: &mut Queue, wall_ms: u64| queue.ahead_ms = Some(wall_ms - queue.now_ms);
        // A year back: it is two o'clock again.
        set(&mut queue, MIDNIGHT - 365 * DAY_MS + 2 * HOUR);
        queue.seconds(10, 0);
        assert_eq!(queue.drain.plan().unwrap().1, MIDNIGHT - 365 * DAY_MS + SIX);
        let left = queue.seconds(3_600, 0);
        assert!(left.abs_diff(9_000) < 450, "{left}");
        // A year ahead: the deadline has passed.
        set(&mut queue, MIDNIGHT + 365 * DAY_MS);
        queue.seconds(2, 0);
        assert!(queue.waiting.is_empty());
    }

    #[test]
    fn a_few_messages_are_spread_over_hours() {
        let mut queue = Queue::with(4, Some(MIDNIGHT + 2 * HOUR));
        let left: Vec<u64> = (0..4).map(|_| queue.seconds(3_600, 0)).collect();
        assert_eq!(left.iter().sum::<u64>(), 4);
        assert!(left[0] <= 2 && left[3] >= 1, "{left:?}");
    }
}
