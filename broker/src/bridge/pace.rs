//! How quickly a bridge sends: a token bucket for messages and one for bytes.

/// Both are optional; a bucket holds what one second brings, and one message of any size always fits a full one.
#[derive(Clone, Debug)]
pub struct Pace {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
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
        Self { messages: bucket(messages_per_s), bytes: bucket(bytes_per_s) }
    }

    /// Milliseconds until a message of this size may be sent; zero for now.
    pub fn wait_ms(&mut self, size: u64, now_ms: u64) -> u64 {
        let mut wait = 0;
        for (bucket, wanted) in [(&mut self.messages, 1), (&mut self.bytes, size)] {
            if let Some(bucket) = bucket {
                bucket.refill(now_ms);
                wait = wait.max(bucket.wait_ms(wanted));
            }
        }
        wait
    }

    /// A message of this size was sent.
    pub fn sent(&mut self, size: u64) {
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
