//! When to connect again: decorrelated jitter, each wait drawn between the shortest and three times the one before.

/// Milliseconds.
const SHORTEST_MS: u64 = 250;
const LONGEST_MS: u64 = 60_000;
/// A connection that lasted this long was a good one: the next wait is short again.
const STABLE_MS: u64 = 20_000;

/// The waits of one bridge.
#[derive(Clone, Debug)]
pub struct Backoff {
    last_ms: u64,
    random: u64,
    connected_at: Option<u64>,
}

impl Backoff {
    /// `seed` makes the sequence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { last_ms: SHORTEST_MS, random: seed | 1, connected_at: None }
    }

    /// A connection was made.
    pub fn connected(&mut self, now_ms: u64) {
        self.connected_at = Some(now_ms);
    }

    /// What was waited for has happened: the next wait is short again.
    pub fn taken(&mut self) {
        self.last_ms = SHORTEST_MS;
    }

    /// How long to wait after a connection that failed or ended.
    pub fn wait_ms(&mut self, now_ms: u64) -> u64 {
        if self.connected_at.take().is_some_and(|at| now_ms.saturating_sub(at) >= STABLE_MS) {
            self.last_ms = SHORTEST_MS;
        }
        // xorshift64: jitter needs no more.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = self.last_ms.saturating_mul(3).saturating_sub(SHORTEST_MS).max(1);
        self.last_ms = (SHORTEST_MS + self.random % span).min(LONGEST_MS);
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_drawn_within_bounds_and_grow() {
        let mut backoff = Backoff::new(7);
        let waits: Vec<u64> = (0..200).map(|_| backoff.wait_ms(0)).collect();
        assert!(waits.iter().all(|wait| (SHORTEST_MS..=LONGEST_MS).contains(wait)));
        let distinct: std::collections::BTreeSet<_> = waits.iter().collect();
        assert!(distinct.len() > 50, "they are drawn");
        assert!(waits.iter().any(|wait| *wait > 10_000), "they grow");
        let other: Vec<u64> = (0..200).scan(Backoff::new(8), |backoff, _| Some(backoff.wait_ms(0))).collect();
        assert_ne!(waits, other, "two bridges do not come in step");
    }

    #[test]
    fn only_a_connection_that_lasted_makes_the_next_wait_short() {
        let mut backoff = Backoff::new(3);
        backoff.last_ms = 50_000;
        backoff.connected(0);
        backoff.wait_ms(STABLE_MS);
        assert!(backoff.last_ms < 3 * SHORTEST_MS);
        // One that ends at once, again and again, is no reason to hurry.
        let mut longest = 0;
        for _ in 0..100 {
            backoff.connected(0);
            longest = longest.max(backoff.wait_ms(STABLE_MS - 1));
        }
        assert!(longest > 3 * SHORTEST_MS);
    }
}
