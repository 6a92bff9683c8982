//! Places of the queue that are done, as ranges `start..end`: disjoint, and joined where they touch.

use std::collections::BTreeMap;

/// A queue may have a million holes, and they come and go at both ends and in between: each costs a logarithm.
#[derive(Default)]
pub(crate) struct Holes(BTreeMap<u64, u64>);

impl Holes {
    /// These ranges: ascending, disjoint.
    pub(crate) fn of(ranges: &[(u64, u64)]) -> Self {
        Self(ranges.iter().copied().collect())
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, end)| seq < *end)
    }

    pub(crate) fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((before, reaches)) = self.0.range(..=start).next_back().map(|(s, e)| (*s, *e))
            && reaches >= start
        {
            (start, end) = (before, end.max(reaches));
        }
        while let Some((after, reaches)) = self.0.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            end = end.max(reaches);
            self.0.remove(&after);
        }
        self.0.insert(start, end);
    }

    /// Forgets ranges that end at `from` or before it.
    pub(crate) fn forget_below(&mut self, from: u64) {
        while self.0.first_key_value().is_some_and(|(_, end)| *end <= from) {
            self.0.pop_first();
        }
    }

    /// Takes the first range if it begins at `from` or before it; returns where it ends.
    pub(crate) fn take_at(&mut self, from: u64) -> Option<u64> {
        let first = self.0.first_entry().filter(|first| *first.key() <= from)?;
        Some(first.remove())
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What the store has not been told yet: places that it may have rows of, and that are done.
#[derive(Default)]
pub(crate) struct Untold(Vec<(u64, u64)>);

/// So many ranges are told in one commit; whoever can wait with making more does.
const UNTOLD_MAX: usize = 8192;

impl Untold {
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        match self.0.last_mut() {
            _ if start >= end => {}
            Some((_, last)) if *last == start => *last = end,
            _ => self.0.push((start, end)),
        }
    }

    /// Enough for one commit.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= UNTOLD_MAX
    }

    /// What lies between the two, ascending, disjoint. What lies below is not worth telling any more; what lies above
    /// stays.
    pub(crate) fn take(&mut self, floor: u64, end: u64) -> Vec<(u64, u64)> {
        let mut all = std::mem::take(&mut self.0);
        all.sort_unstable();
        let mut told = Vec::<(u64, u64)>::new();
        for (from, to) in all {
            self.add(from.max(end), to);
            let (from, to) = (from.max(floor), to.min(end));
            match told.last_mut() {
                _ if from >= to => {}
                Some((_, last)) if *last >= from => *last = to.max(*last),
                _ => told.push((from, to)),
            }
        }
        told
    }

    /// The commit failed that was to tell these.
    pub(crate) fn give_back(&mut self, told: Vec<(u64, u64)>) {
        self.0.extend(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain set of places.
    #[test]
    fn holes_are_joined_and_found() {
        let mut seed = 7u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let mut holes = Holes::default();
            let mut plain = std::collections::BTreeSet::new();
            for _ in 0..random(40) {
                let start = random(60);
                let end = start + random(5);
                holes.add(start, end);
                plain.extend(start..end);
                let found: Vec<u64> = (0..70).filter(|seq| holes.contains(*seq)).collect();
                assert!(plain.iter().copied().eq(found));
                assert!(holes.0.iter().zip(holes.0.iter().skip(1)).all(|(a, b)| a.1 < b.0), "{:?}", holes.0);
            }
            let from = random(60);
            holes.forget_below(from);
            assert!((from..70).all(|seq| holes.contains(seq) == plain.contains(&seq)));
            if let Some(end) = holes.take_at(from) {
                assert!((from..end).all(|seq| plain.contains(&seq)) && !plain.contains(&end));
            }
        }
    }

    #[test]
    fn what_is_told_lies_between_the_floor_and_the_end() {
        let mut untold = Untold::default();
        for (start, end) in [(9, 10), (2, 4), (4, 6), (20, 30), (9, 10), (10, 12)] {
            untold.add(start, end);
        }
        assert_eq!(untold.take(3, 25), [(3, 6), (9, 12), (20, 25)]);
        assert_eq!(untold.take(0, 100), [(25, 30)]);
        untold.give_back(vec![(25, 30), (1, 2)]);
        assert_eq!(untold.take(0, 100), [(1, 2), (25, 30)]);
        assert_eq!(untold.take(0, 100), []);
    }
}
