//! Checks that numbered messages arrive complete, in order and, at QoS 2, once.

use std::collections::{BTreeMap, BTreeSet};

/// What one subscriber has seen of each topic, whose messages are numbered 0, 1, 2, …
#[derive(Debug, Default)]
pub struct Seen {
    topics: BTreeMap<String, Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// The lowest number that has not come.
    next: u64,
    /// What was skipped on the way to `next`.
    missing: BTreeSet<u64>,
    faults: Vec<String>,
    repeated: u64,
}

impl Seen {
    /// Notes a message; `once` says that a second arrival is a fault (QoS 2).
    pub fn note(&mut self, topic: &str, number: u64, once: bool) {
        let series = self.topics.entry(topic.to_owned()).or_default();
        if number > series.next {
            series.missing.extend(series.next..number);
        }
        if number >= series.next {
            series.next = number + 1;
        } else if series.missing.remove(&number) {
            series.faults.push(format!("{topic}: {number} came after {}", series.next - 1));
        } else if once {
            series.faults.push(format!("{topic}: {number} came twice at QoS 2"));
        } else {
            series.repeated += 1;
        }
    }

    /// Whether the number, or a later one, has come on this topic.
    pub fn has_reached(&self, topic: &str, number: u64) -> bool {
        self.topics.get(topic).is_some_and(|series| series.next > number)
    }

    /// How many came twice where they may (QoS 1).
    pub fn repeated(&self) -> u64 {
        self.topics.values().map(|s| s.repeated).sum()
    }

    /// How many different numbers came, on all topics.
    pub fn count(&self) -> u64 {
        self.topics.values().map(|s| s.next - s.missing.len() as u64).sum()
    }

    /// What came out of order, or twice at QoS 2: all that can be wrong where some may be lost.
    pub fn disorder(&self) -> Vec<String> {
        self.topics.values().flat_map(|series| series.faults.iter().cloned()).collect()
    }

    /// All that is wrong, given how many were published and acknowledged on each topic.
    pub fn faults(&self, published: &BTreeMap<String, u64>) -> Vec<String> {
        let mut faults = Vec::new();
        for (topic, count) in published {
            let Some(series) = self.topics.get(topic) else {
                faults.push(format!("{topic}: none of {count} came"));
                continue;
            };
            faults.extend(series.faults.iter().cloned());
            if !series.missing.is_empty() || series.next < *count {
                let first: Vec<_> = series.missing.iter().take(5).collect();
                let lost = series.missing.len() as u64 + count.saturating_sub(series.next);
                faults.push(format!("{topic}: {lost} of {count} lost, such as {first:?}; seen up to {}", series.next));
            }
            if series.next > *count {
                faults.push(format!("{topic}: {} came, {count} were published", series.next));
            }
        }
        faults.extend(self.topics.keys().filter(|t| !published.contains_key(*t)).map(|t| format!("{t}: from nowhere")));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(numbers: &[u64], once: bool, published: u64) -> Vec<String> {
        let mut seen = Seen::default();
        numbers.iter().for_each(|n| seen.note("t", *n, once));
        seen.faults(&BTreeMap::from([("t".to_owned(), published)]))
    }

    #[test]
    fn a_complete_series_has_no_fault() {
        assert!(faults(&[0, 1, 2, 3], true, 4).is_empty());
        assert!(faults(&[0, 1, 2, 1, 2, 3], false, 4).is_empty());
    }

    #[test]
    fn what_is_lost_is_no_disorder() {
        let mut seen = Seen::default();
        [0, 3, 7].iter().for_each(|n| seen.note("t", *n, true));
        assert!(seen.disorder().is_empty());
        assert_eq!(seen.count(), 3);
        seen.note("t", 5, true);
        assert!(seen.disorder()[0].contains("came after"));
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        assert!(faults(&[0, 1, 1, 2], true, 3)[0].contains("twice"));
        assert!(faults(&[0, 2, 1], false, 3)[0].contains("came after"));
        assert!(faults(&[0, 2], false, 3)[0].contains("1 of 3 lost"));
        assert!(faults(&[0, 1], false, 3)[0].contains("1 of 3 lost"));
        assert!(faults(&[0, 1], false, 1)[0].contains("were published"));
        assert!(faults(&[], false, 1)[0].contains("none of 1"));
    }
}
