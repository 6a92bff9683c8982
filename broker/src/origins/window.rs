//! Which sequence numbers of one origin have come: the last 1,024 exactly.

/// Sequence numbers that are remembered behind the highest.
pub const SPAN: u64 = 1024;
/// A number that is missing when one so much higher comes has not been overtaken: it is a gap. More than any client has in
/// flight towards us by default.
pub const REORDER: u64 = 64;
/// Bytes of an encoded window.
pub(super) const WINDOW_BYTES: usize = 16 + WORDS * 8;

const WORDS: usize = 16;

/// Missing numbers, first and last.
pub type Gap = (u64, u64);
/// So many missing numbers in a row are no gap: half of what a broker's queue leaves out when it starts.
const JUMP: u64 = 1 << 19;

/// The numbers of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The epoch: a device that forgets where it was takes a higher one.
    pub epoch: u64,
    /// The highest number that has come.
    pub highest: u64,
    /// Where counting began, as far as is known: what is below is no gap.
    first: u64,
    /// Bit `n % SPAN`: the number `n` of those within the span has come.
    bits: [u64; WORDS],
}

impl Window {
    /// Begins with this number.
    #[must_use]
    pub fn new(epoch: u64, seq: u64) -> Self {
        let mut window = Self { epoch, highest: seq, first: seq, bits: [0; WORDS] };
        window.put(seq, true);
        window
    }

    fn slot(seq: u64) -> (usize, u64) {
        let at = seq % SPAN;
        (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
    }

    fn put(&mut self, seq: u64, come: bool) {
        let (word, bit) = Self::slot(seq);
        if let Some(word) = self.bits.get_mut(word) {
            *word = if come { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the number has come. Below the span nobody knows: then it has not.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        let (word, bit) = Self::slot(seq);
        seq <= self.highest && self.highest - seq < SPAN && self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The number has come. The answer is what is missing for good, if anything is.
    pub fn take(&mut self, seq: u64) -> Option<Gap> {
        if seq <= self.highest {
            if self.highest - seq < SPAN {
                self.put(seq, true);
            }
            return None;
        }
        let before = self.highest;
        // Judged now: what was too near to the highest before, and is not any more.
        let from = (before + 1).saturating_sub(REORDER).max(self.first);
        let missing = |window: &Self, n: u64| n > before || !window.has(n);
        let to = seq.saturating_sub(REORDER - 1);
        let gap = self.span_of_missing(from, to, before, missing);
        // The places of numbers that are too old now are theirs.
        for between in (before + 1..seq).rev().take(usize::try_from(SPAN).unwrap_or(usize::MAX)) {
            self.put(between, false);
        }
        self.highest = seq;
        self.put(seq, true);
        gap
    }

    /// The first and the last number in `from..to` that is missing; what lies above `before` is, all of it.
    fn span_of_missing(&self, from: u64, to: u64, before: u64, missing: impl Fn(&Self, u64) -> bool) -> Option<Gap> {
        let first = (from..to.min(before.saturating_add(2))).find(|n| missing(self, *n))?;
        let last = if to > before + 1 { to - 1 } else { (first..to).rev().find(|n| missing(self, *n))? };
        // An origin that moves on by so much has lost nothing: a broker that starts leaves out what it may have given before.
        (last - first < JUMP).then_some((first, last))
    }

    /// The number is taken back: its message was refused after all.
    pub fn forget(&mut self, seq: u64) {
        if seq <= self.highest && self.highest - seq < SPAN {
            self.put(seq, false);
        }
    }

    /// As it is stored: epoch, highest, bits; little-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.highest.to_le_bytes());
        for word in self.bits {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// `None`: these bytes are no window.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != WINDOW_BYTES {
            return None;
        }
        let mut words = bytes.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let (epoch, highest) = (words.next()?, words.next()?);
        let mut bits = [0; WORDS];
        for (to, from) in bits.iter_mut().zip(words) {
            *to = from;
        }
        Some(Self { epoch, highest, first: highest.saturating_sub(REORDER), bits })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_a_set_of_the_last_numbers() {
        let mut state = 7u64;
        let mut below = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for _ in 0..200 {
            let start = below(2000);
            let (mut window, mut model) = (Window::new(1, start), BTreeSet::from([start]));
            for _ in 0..300 {
                let highest = *model.last().unwrap();
                let seq = match below(10) {
                    0 => highest + below(3000),
                    1..4 => highest.saturating_sub(below(1500)),
                    _ => highest + 1,
                };
                if below(20) == 0 && model.len() > 1 && seq < highest {
                    window.forget(seq);
                    model.remove(&seq);
                } else {
                    window.take(seq);
                    if highest.saturating_sub(seq) < SPAN {
                        model.insert(seq);
                    }
                }
                let highest = window.highest;
                for seq in highest.saturating_sub(SPAN - 1)..=highest + 2 {
                    assert_eq!(window.has(seq), model.contains(&seq), "{seq} of {highest}");
                }
                assert!(!window.has(highest.saturating_sub(SPAN)) || highest < SPAN);
                let mut bytes = Vec::new();
                window.encode(&mut bytes);
                let read = Window::decode(&bytes).unwrap();
                assert_eq!((read.highest, read.bits), (window.highest, window.bits));
            }
        }
    }

    #[test]
    fn a_gap_is_said_once_and_not_before_it_is_one() {
        let mut window = Window::new(1, 0);
        assert!((1..=200).all(|seq| window.take(seq).is_none()), "nothing is missing");
        // 201 is overtaken, and comes; 210 never does.
        assert_eq!(window.take(202), None);
        assert_eq!(window.take(201), None);
        let mut gaps: Vec<Gap> = (203..=400).filter(|seq| *seq != 210).filter_map(|seq| window.take(seq)).collect();
        assert_eq!(gaps, [(210, 210)]);
        gaps.extend(window.take(1000));
        gaps.extend(window.take(1001));
        assert_eq!(gaps, [(210, 210), (401, 936), (937, 937)]);
        let rest: Vec<Gap> = (1002..1200).filter_map(|seq| window.take(seq)).collect();
        assert_eq!(rest, (938..1000).map(|n| (n, n)).collect::<Vec<_>>());
        // Far ahead at once: as far as that only who begins anew somewhere else.
        assert_eq!(window.take(1 << 19), Some((1200, (1 << 19) - REORDER)));
        assert_eq!(window.take(2 << 20), None);
        assert_eq!(window.take(u64::MAX), None);
    }
}
