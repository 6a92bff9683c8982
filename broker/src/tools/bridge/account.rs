//! What came of the messages of a rehearsal, each known by its number.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Account {
    acknowledged: BTreeSet<u64>,
    /// How often each arrived.
    arrived: BTreeMap<u64, u32>,
    /// Arrivals after the first that were marked as possible repetitions, and those that were not.
    pub(super) marked: u64,
    pub(super) unmarked: u64,
    /// First arrivals behind a later number's.
    pub(super) out_of_order: u64,
}

/// The payload of a numbered message.
pub(super) fn payload(number: u64) -> String {
    number.to_string()
}

impl Account {
    /// The broker has acknowledged it to its publisher.
    pub(super) fn acknowledged(&mut self, number: u64) {
        self.acknowledged.insert(number);
    }

    /// It arrived at the stand-in.
    pub(super) fn arrives(&mut self, payload: &[u8], repeated: bool) {
        let Some(number) = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()) else { return };
        let last = self.arrived.last_key_value().map(|(last, _)| *last);
        let times = self.arrived.entry(number).or_default();
        *times += 1;
        match (*times, repeated) {
            (1, _) => self.out_of_order += u64::from(last.is_some_and(|last| last > number)),
            (_, true) => self.marked += 1,
            (_, false) => self.unmarked += 1,
        }
    }

    pub(super) fn published(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many numbers arrived; and how many were acknowledged and did not.
    pub(super) fn arrived_and_missing(&self) -> (usize, usize) {
        let missing = self.acknowledged.iter().filter(|number| !self.arrived.contains_key(number));
        (self.arrived.len(), missing.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_missing_doubled_and_out_of_order() {
        let mut account = Account::default();
        (0..6).for_each(|number| account.acknowledged(number));
        for (number, repeated) in [(0, false), (1, false), (3, false), (1, true), (2, true), (3, false)] {
            account.arrives(payload(number).as_bytes(), repeated);
        }
        assert_eq!((account.published(), account.arrived_and_missing()), (6, (4, 2)));
        assert_eq!((account.marked, account.unmarked, account.out_of_order), (1, 1, 1));
    }
}
