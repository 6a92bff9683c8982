//! How late things are: an HDR histogram, and runs of equal values recorded at once.

use hdrhistogram::Histogram;
use serde::Serialize;

/// An hour: what is later than that is recorded as an hour.
const MAX_NS: u64 = 3_600_000_000_000;
/// Three digits are exact.
const DIGITS: u8 = 3;

/// Times in nanoseconds.
#[derive(Debug)]
pub struct Latency {
    histogram: Option<Histogram<u64>>,
    /// Messages of one batch have the same time.
    last_ns: u64,
    run: u64,
}

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that it accepts, as the test proves.
        Self { histogram: Histogram::new_with_bounds(1, MAX_NS, DIGITS).ok(), last_ns: 0, run: 0 }
    }
}

impl Latency {
    /// Takes one.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        if ns == self.last_ns {
            self.run += 1;
        } else {
            self.flush();
            (self.last_ns, self.run) = (ns, 1);
        }
    }

    fn flush(&mut self) {
        if let Some(histogram) = self.histogram.as_mut().filter(|_| self.run > 0) {
            histogram.saturating_record_n(self.last_ns.max(1), self.run);
        }
        self.run = 0;
    }

    /// Forgets what was recorded.
    pub fn reset(&mut self) {
        self.run = 0;
        if let Some(histogram) = &mut self.histogram {
            histogram.reset();
        }
    }

    /// What was recorded; `None` if nothing was.
    pub fn percentiles(&mut self) -> Option<Percentiles> {
        self.flush();
        let histogram = self.histogram.as_ref().filter(|histogram| !histogram.is_empty())?;
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
        Some(Percentiles {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            min_us: us(histogram.min()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: us(histogram.max()),
        })
    }
}

/// Of one kind of time, in microseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Percentiles {
    pub count: u64,
    pub mean_us: f64,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    #[serde(rename = "p99.9_us")]
    pub p99_9_us: f64,
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_equal_values_count_each() {
        let mut latency = Latency::default();
        assert!(latency.percentiles().is_none());
        for ns in (1..=1000).map(|n| n * 1000) {
            latency.record(ns);
            latency.record(ns);
        }
        latency.record(2 * MAX_NS);
        let found = latency.percentiles().unwrap();
        assert_eq!(found.count, 2001);
        assert!((found.p50_us - 501.0).abs() < 1.0 && (found.p99_us - 991.0).abs() < 1.5, "{found:?}");
        assert!((found.max_us / (MAX_NS as f64 / 1000.0) - 1.0).abs() < 0.002, "{found:?}");
        latency.reset();
        assert!(latency.percentiles().is_none());
    }
}
