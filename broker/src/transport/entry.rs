//! New connections of a listener: so many a second and no more.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many may come at once after a quiet time.
const BURST: Duration = Duration::from_secs(1);

/// Lets connections in one after another, at a rate.
#[derive(Debug)]
pub(crate) struct Turnstile {
    each: Duration,
    /// When the last of those that have been let in would have come, had they come evenly.
    due: Mutex<Option<Instant>>,
}

impl Turnstile {
    /// For so many a second, at least one.
    pub(crate) fn new(per_s: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_s.max(1), due: Mutex::new(None) }
    }

    /// Takes a turn; returns how long it is until then.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let mut due = self.due.lock();
        let next = due.map_or(now, |due| due.max(now)) + self.each;
        *due = Some(next);
        next.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_then_evenly() {
        let (turnstile, begun) = (Turnstile::new(10), Instant::now());
        assert!((0..10).all(|_| turnstile.wait(begun).is_zero()));
        for n in 1..=5 {
            assert_eq!(turnstile.wait(begun), Duration::from_millis(100) * n);
        }
        let later = begun + Duration::from_secs(60);
        assert!((0..10).all(|_| turnstile.wait(later).is_zero()));
        assert!(!turnstile.wait(later).is_zero());
    }
}
