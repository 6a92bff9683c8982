//! How often something took how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets in microseconds, the last open: from a commit that nothing waits for to one that a worn SD
/// card holds up for seconds.
const ENDS_US: [u64; 15] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// Durations, counted in buckets. Any thread may add.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; ENDS_US.len() + 1],
    sum_us: AtomicU64,
}

super::schema::answer! {
    /// A histogram at one moment.
    Counted {
        /// Upper ends of the buckets in microseconds; one more bucket is open.
        ends_us: Vec<u64>,
        /// How many fell into each bucket.
        counts: Vec<u64>,
        /// The sum of all in microseconds.
        sum_us: u64,
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = ENDS_US.partition_point(|end| *end < us);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What it has now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        Counted {
            ends_us: ENDS_US.to_vec(),
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl Counted {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper end of the bucket that holds the given part (in percent) of all; the last end for the open bucket, 0
    /// when there are none.
    #[must_use]
    pub fn at_percent(&self, percent: u64) -> u64 {
        let total = self.total();
        let wanted = total.saturating_mul(percent).div_ceil(100);
        let mut seen = 0;
        for (count, end) in self.counts.iter().zip(&self.ends_us) {
            seen += count;
            if total > 0 && seen >= wanted {
                return *end;
            }
        }
        if total == 0 { 0 } else { self.ends_us.last().copied().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_bucket_whose_end_it_does_not_pass() {
        let histogram = Histogram::default();
        for us in [0, 50, 51, 100, 101, 5_000_000, 5_000_001, u64::MAX / 4] {
            histogram.add(Duration::from_micros(us));
        }
        let counted = histogram.counted();
        assert_eq!(counted.counts.len(), counted.ends_us.len() + 1);
        assert_eq!(counted.counts.get(..3), Some(&[2, 2, 1][..]));
        assert_eq!(counted.counts.get(14..), Some(&[1, 2][..]));
        assert_eq!(counted.total(), 8);
    }

    #[test]
    fn a_percentile_is_the_end_of_its_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counted().at_percent(99), 0);
        for _ in 0..99 {
            histogram.add(Duration::from_micros(80));
        }
        histogram.add(Duration::from_secs(60));
        let counted = histogram.counted();
        assert_eq!((counted.at_percent(50), counted.at_percent(99), counted.at_percent(100)), (100, 100, 5_000_000));
    }
}
