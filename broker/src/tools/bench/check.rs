//! What came of each message: every number of every publisher is looked for, exactly.

use std::collections::VecDeque;

/// Which numbers of one publisher have come. While nothing is missing it is one number; after that it takes one bit a message.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All below it have come.
    base: u64,
    /// Bits from the multiple of 64 at or below `base`; empty if none above `base` has come.
    words: VecDeque<u64>,
}

impl Seen {
    /// Takes a number; false if it has come before.
    #[inline]
    pub fn insert(&mut self, number: u64) -> bool {
        if number == self.base && self.words.is_empty() {
            self.base += 1;
            return true;
        }
        self.insert_out_of_line(number)
    }

    fn insert_out_of_line(&mut self, number: u64) -> bool {
        if number < self.base {
            return false;
        }
        let origin = self.base & !63;
        if self.words.is_empty() {
            self.words.push_back((1 << (self.base & 63)) - 1);
        }
        let (at, bit) = ((number - origin) as usize / 64, 1u64 << (number & 63));
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let Some(word) = self.words.get_mut(at).filter(|word| **word & bit == 0) else { return false };
        *word |= bit;
        if number == self.base {
            self.advance(origin);
        }
        true
    }

    fn advance(&mut self, mut origin: u64) {
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            origin += 64;
        }
        let ones = self.words.front().map_or(0, |word| word.trailing_ones());
        self.base = origin + u64::from(ones);
        if self.words.len() == 1 && self.words.front().is_some_and(|word| word >> ones == 0) {
            self.words.clear();
        }
    }
}

/// Who is to get what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Receiver n gets all of publisher n.
    Pairs,
    /// Every receiver gets all of every publisher.
    All,
    /// Each message goes to one of the receivers.
    Shared,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages of this run that came, repetitions among them.
    pub received: u64,
    /// Came again.
    pub duplicates: u64,
    /// Came for the first time after a later one of the same publisher.
    pub reordered: u64,
    /// Say that they are of this run and cannot be: never published, or not for this receiver.
    pub impossible: u64,
}

/// Looks at every message that is received.
#[derive(Debug)]
pub struct Checker {
    layout: Layout,
    publishers: usize,
    receivers: usize,
    seen: Vec<Seen>,
    /// For each receiver and publisher: one more than the highest number that has come.
    next: Vec<u64>,
    /// So far.
    pub counts: Counts,
}

impl Checker {
    /// Nothing has come.
    #[must_use]
    pub fn new(layout: Layout, publishers: usize, receivers: usize) -> Self {
        let (seen, next) = match layout {
            Layout::Pairs => (publishers, publishers),
            Layout::All => (publishers * receivers, publishers * receivers),
            Layout::Shared => (publishers, publishers * receivers),
        };
        let (seen, next) = (vec![Seen::default(); seen], vec![0; next]);
        Self { layout, publishers, receivers, seen, next, counts: Counts::default() }
    }

    /// How many receivers are to get each message.
    #[must_use]
    pub fn fan(&self) -> u64 {
        if self.layout == Layout::All { self.receivers as u64 } else { 1 }
    }

    /// A message of a publisher that has sent `sent`. The answer is by how many messages the receiver is further than before.
    #[inline]
    pub fn take(&mut self, receiver: usize, publisher: usize, number: u64, sent: u64) -> u64 {
        let mine = match self.layout {
            Layout::Pairs => (receiver == publisher).then_some((publisher, publisher)),
            Layout::All => Some((receiver * self.publishers + publisher, receiver * self.publishers + publisher)),
            Layout::Shared => Some((publisher, receiver * self.publishers + publisher)),
        };
        let found = mine
            .filter(|_| number < sent && publisher < self.publishers)
            .and_then(|(seen, next)| Some((self.seen.get_mut(seen)?, self.next.get_mut(next)?)));
        let Some((seen, next)) = found else {
            self.counts.impossible += 1;
            return 0;
        };
        self.counts.received += 1;
        if !seen.insert(number) {
            self.counts.duplicates += 1;
            return 0;
        }
        if number < *next {
            self.counts.reordered += 1;
            return u64::from(self.layout == Layout::Shared);
        }
        let further = number + 1 - *next;
        *next = number + 1;
        if self.layout == Layout::Shared { 1 } else { further }
    }

    /// How many different messages have come to those who were to get them.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.counts.received - self.counts.duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(layout: Layout, numbers: &[u64], sent: u64) -> (Counts, u64) {
        let mut checker = Checker::new(layout, 1, 1);
        for number in numbers {
            checker.take(0, 0, *number, sent);
        }
        (checker.counts, sent - checker.unique())
    }

    #[test]
    fn a_stream_without_fault_has_none() {
        let all: Vec<u64> = (0..1000).collect();
        assert_eq!(run(Layout::All, &all, 1000), (Counts { received: 1000, ..Counts::default() }, 0));
    }

    #[test]
    fn every_loss_is_found() {
        for gone in [&[0u64][..], &[999], &[1, 2, 3], &[63], &[64], &[0, 63, 64, 127, 128, 500, 999]] {
            let rest: Vec<u64> = (0..1000).filter(|n| !gone.contains(n)).collect();
            let (counts, lost) = run(Layout::Pairs, &rest, 1000);
            assert_eq!((lost, counts.duplicates, counts.reordered), (gone.len() as u64, 0, 0), "{gone:?}");
        }
    }

    #[test]
    fn every_repetition_is_found() {
        for again in [0, 1, 63, 64, 500, 999] {
            // At once, and at the end; after a loss as well.
            for skip in [None, Some(40)] {
                let mut numbers: Vec<u64> = (0..1000).filter(|n| Some(*n) != skip).collect();
                let at = numbers.iter().position(|n| *n == again).unwrap();
                numbers.insert(at, again);
                numbers.push(again);
                let (counts, lost) = run(Layout::All, &numbers, 1000);
                assert_eq!((lost, counts.duplicates, counts.reordered), (u64::from(skip.is_some()), 2, 0), "{again}");
            }
        }
    }

    #[test]
    fn disorder_is_neither_loss_nor_repetition() {
        for at in [0, 5, 62, 63, 64, 998] {
            let mut numbers: Vec<u64> = (0..1000).collect();
            numbers.swap(at, at + 1);
            let (counts, lost) = run(Layout::All, &numbers, 1000);
            assert_eq!((lost, counts.duplicates, counts.reordered), (0, 0, 1), "{at}");
        }
        let backwards: Vec<u64> = (0..1000).rev().collect();
        assert_eq!(
            run(Layout::All, &backwards, 1000),
            (Counts { received: 1000, reordered: 999, ..Counts::default() }, 0)
        );
    }

    #[test]
    fn what_cannot_be_is_not_counted_as_received() {
        let mut checker = Checker::new(Layout::Pairs, 2, 2);
        checker.take(0, 1, 0, 10);
        checker.take(0, 0, 10, 10);
        checker.take(0, 7, 0, 10);
        assert_eq!(checker.counts, Counts { impossible: 3, ..Counts::default() });
    }

    #[test]
    fn a_group_shares_and_its_members_keep_order() {
        let mut checker = Checker::new(Layout::Shared, 1, 2);
        // The second member is ahead of the first: that is no disorder. Then a repetition, and a disorder of its own.
        for (member, number) in [(1, 1), (0, 0), (1, 3), (0, 1), (1, 2)] {
            checker.take(member, 0, number, 5);
        }
        let expected = Counts { received: 5, duplicates: 1, reordered: 1, impossible: 0 };
        assert_eq!((checker.counts, checker.unique()), (expected, 4));
    }

    #[test]
    fn a_receiver_past_a_loss_is_further() {
        let mut checker = Checker::new(Layout::All, 1, 1);
        let further: Vec<u64> = [0, 3, 1, 1, 4].map(|number| checker.take(0, 0, number, 9)).to_vec();
        assert_eq!(further, [1, 3, 0, 0, 1]);
    }

    #[test]
    fn agrees_with_a_plain_set() {
        let mut state = 1u64;
        for _ in 0..200 {
            let (mut seen, mut plain) = (Seen::default(), std::collections::HashSet::new());
            for _ in 0..400 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = (state >> 33) % 300;
                assert_eq!(seen.insert(number), plain.insert(number), "{number}");
            }
        }
    }
}
