//! How quickly a bridge sends: a token bucket for messages and one for bytes, the plan for a backlog, the day's bytes.

use super::budget::Budget;
use super::drain::{Backlog, Drain};
use crate::message::Time;

/// All are optional; a bucket holds what one second brings, and one message of any size always fits a full one.
#[derive(Debug)]
pub struct Pace {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    drain: Option<Drain>,
    budget: Option<Budget>,
}

/// What the plan and the budget say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pacing {
    /// Messages an hour by which a backlog is gone in time, and when that is, by the wall clock in milliseconds.
    pub plan: Option<(u64, u64)>,
    /// Bytes a day, and how many of them are used.
    pub budget: Option<(u64, u64)>,
    /// The day's bytes are used up: when more may go.
    pub until: Option<String>,
}

#[derive(Clone, Debug)]
struct Bucket {
    per_s: u64,
    /// Thousandths: below zero after a message that was larger than what was there.
    level: i128,
    at_ms: u64,
}

impl Bucket {
    fn new(per_s: u64, now_ms: u64) -> Self {
        Self { per_s: per_s.max(1), level: i128::from(per_s.max(1)) * 1_000, at_ms: now_ms }
    }

    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let per_s = i128::from(self.per_s);
        self.level = (self.level + per_s * i128::from(passed)).min(per_s * 1_000);
    }

    /// Milliseconds until one more may go.
    fn wait_ms(&self, wanted: u64) -> u64 {
        let wanted = i128::from(wanted.min(self.per_s)) * 1_000;
        let short = (wanted - self.level).max(0);
        u64::try_from((short + i128::from(self.per_s) - 1) / i128::from(self.per_s)).unwrap_or(u64::MAX)
    }
}

impl Pace {
    /// `None`: no limit.
    #[must_use]
    pub fn new(messages_per_s: Option<u64>, bytes_per_s: Option<u64>, now_ms: u64) -> Self {
        let bucket = |per_s: Option<u64>| per_s.map(|per_s| Bucket::new(per_s, now_ms));
        Self { messages: bucket(messages_per_s), bytes: bucket(bytes_per_s), drain: None, budget: None }
    }

    /// With a plan for the backlog, a budget of bytes, or both.
    #[must_use]
    pub fn with(self, drain: Option<Drain>, budget: Option<Budget>) -> Self {
        Self { drain, budget, ..self }
    }

    /// Looks at the clocks, and at what waits if a plan is to be made. `wall_ms`: `None` where it cannot be right.
    pub fn look(&mut self, now_ms: u64, now: Time, wall_ms: Option<u64>, backlog: impl FnOnce() -> Backlog) {
        if let Some(drain) = self.drain.as_mut().filter(|drain| drain.is_due(now_ms)) {
            drain.look(now_ms, wall_ms, backlog());
        }
        if let Some(budget) = &mut self.budget {
            budget.look(now, wall_ms);
        }
    }

    /// Whether the day's bytes are enough for a message of this size.
    #[must_use]
    pub fn affords(&self, size: u64) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.allows(size))
    }

    /// What the plan and the budget say, if `is_spent` that the day's bytes are used up.
    #[must_use]
    pub fn pacing(&self, is_spent: bool) -> Pacing {
        let budget = self.budget.as_ref();
        Pacing {
            plan: self.drain.as_ref().and_then(Drain::plan),
            budget: budget.map(Budget::figures),
            until: budget.filter(|_| is_spent).map(Budget::until),
        }
    }

    /// Milliseconds until a message of this size may be sent; zero for now.
    pub fn wait_ms(&mut self, size: u64, now_ms: u64) -> u64 {
        let mut wait = match &self.budget {
            Some(budget) if !budget.allows(size) => budget.wait_ms(),
            _ => 0,
        };
        if let Some(drain) = &mut self.drain {
            wait = wait.max(drain.wait_ms(now_ms));
        }
        for (bucket, wanted) in [(&mut self.messages, 1), (&mut self.bytes, size)] {
            if let Some(bucket) = bucket {
                bucket.refill(now_ms);
                wait = wait.max(bucket.wait_ms(wanted));
            }
        }
        wait
    }

    /// A message of this size is about to be sent.
    pub fn reserve(&mut self, size: u64) {
        if let Some(budget) = &mut self.budget {
            budget.reserve(size);
        }
    }

    /// A message of this size was sent.
    pub fn sent(&mut self, size: u64) {
        if let Some(drain) = &mut self.drain {
            drain.sent();
        }
        if let Some(budget) = &mut self.budget {
            budget.sent(size);
        }
        for (bucket, used) in [(&mut self.messages, 1), (&mut self.bytes, size)] {
            if let Some(bucket) = bucket {
                bucket.level -= i128::from(used) * 1_000;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages of a size leave in so many seconds.
    fn leave(mut pace: Pace, size: u64, seconds: u64) -> u64 {
        let (mut now, mut count) = (0, 0);
        while now < seconds * 1_000 {
            match pace.wait_ms(size, now) {
                0 => {
                    pace.sent(size);
                    count += 1;
                }
                wait => now += wait,
            }
        }
        count
    }

    #[test]
    fn keeps_the_rate_within_five_percent() {
        for (messages, bytes, size, expected) in
            [(Some(100), None, 10, 10_000), (None, Some(10_000), 50, 20_000), (Some(7), Some(1_000_000), 50, 700)]
        {
            let count = leave(Pace::new(messages, bytes, 0), size, 100);
            assert!(count.abs_diff(expected) * 20 <= expected, "{count} for {expected}");
        }
    }

    #[test]
    fn a_message_larger_than_the_bucket_goes_and_is_paid_for() {
        let mut pace = Pace::new(None, Some(100), 0);
        assert_eq!(pace.wait_ms(1_000, 0), 0);
        pace.sent(1_000);
        assert_eq!(pace.wait_ms(1, 0), 9_010);
        assert_eq!(pace.wait_ms(1_000, 10_000), 0);
    }

    #[test]
    fn without_limits_nothing_waits() {
        let mut pace = Pace::new(None, None, 0);
        pace.sent(u64::MAX);
        assert_eq!(pace.wait_ms(u64::MAX, 0), 0);
    }
}
