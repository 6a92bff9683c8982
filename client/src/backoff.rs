//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::options::Reconnect;

/// Decorrelated jitter: each wait is drawn between the shortest and three times the one before.
pub(crate) struct Backoff {
    limits: Reconnect,
    last: Duration,
    attempts: u32,
    connected_at: Option<Instant>,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(limits: Reconnect) -> Self {
        let random = RandomState::new().hash_one(0u8) | 1;
        Self { last: limits.min, limits, attempts: 0, connected_at: None, random }
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected_at = Some(now);
    }

    /// How long to wait after a connection that failed or ended; `None`: that was the last attempt.
    pub(crate) fn next(&mut self, now: Instant, slowest: bool) -> Option<Duration> {
        let stable = |at: Instant| now.saturating_duration_since(at) >= self.limits.stable_after;
        let was_connected = self.connected_at.is_some();
        if self.connected_at.take().is_some_and(stable) {
            self.last = self.limits.min;
        }
        self.attempts = if was_connected { 0 } else { self.attempts.saturating_add(1) };
        if self.limits.max_attempts.is_some_and(|max| self.attempts.max(1) > max) {
            return None;
        }
        let min = self.limits.min;
        self.last = self.drawn(min, self.last.saturating_mul(3)).min(self.limits.max);
        if slowest {
            self.last = self.limits.max;
        }
        Some(self.last)
    }

    /// How long to leave a server alone that asked for patience: that is a lower bound, or all would come back together.
    pub(crate) fn patience(&mut self, asked: Duration) -> Duration {
        asked + self.drawn(Duration::ZERO, asked / 4 + self.limits.min)
    }

    fn drawn(&mut self, from: Duration, to: Duration) -> Duration {
        // xorshift64: jitter needs no more.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = to.saturating_sub(from);
        from + span.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Reconnect {
        Reconnect { min: Duration::from_millis(100), max: Duration::from_secs(5), ..Reconnect::default() }
    }

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let mut backoff = Backoff::new(limits());
        let now = Instant::now();
        let waits: Vec<_> = (0..200).filter_map(|_| backoff.next(now, false)).collect();
        assert_eq!(waits.len(), 200);
        assert!(waits.iter().all(|wait| (limits().min..=limits().max).contains(wait)));
        assert!(waits.iter().max() > waits.first());
        let mut sorted = waits.clone();
        sorted.dedup();
        assert!(sorted.len() > 20, "they are drawn");
    }

    #[test]
    fn only_a_stable_connection_starts_anew() {
        let mut backoff = Backoff::new(limits());
        let start = Instant::now();
        for _ in 0..50 {
            backoff.next(start, false);
        }
        backoff.last = Duration::from_secs(5);
        backoff.connected(start);
        backoff.next(start + Duration::from_secs(1), false);
        let after_short = backoff.last;
        backoff.last = Duration::from_secs(5);
        backoff.connected(start);
        backoff.next(start + Duration::from_secs(60), false);
        assert!(backoff.last <= limits().min * 3, "{:?}", backoff.last);
        assert!(after_short >= limits().min);
    }

    #[test]
    fn obeys_the_server_and_gives_up_when_told() {
        let now = Instant::now();
        let mut backoff = Backoff::new(limits());
        let asked = Duration::from_secs(30);
        assert!((0..100).all(|_| (asked..asked * 2).contains(&backoff.patience(asked))));
        let mut backoff = Backoff::new(Reconnect { max_attempts: Some(2), ..limits() });
        assert!(backoff.next(now, false).is_some() && backoff.next(now, false).is_some());
        assert_eq!(backoff.next(now, false), None);
        assert_eq!(Backoff::new(Reconnect::never()).next(now, false), None);
    }
}
