//! What matches what, written so plainly that it can be believed, and random input for it.

use std::collections::BTreeSet;

/// By the text of section 4.7, level by level.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    for (at, level) in filter.iter().enumerate() {
        if *level == "#" {
            return true;
        }
        match topic.get(at) {
            None => return false,
            Some(name) if *level != "+" && level != name => return false,
            Some(_) => {}
        }
        if at + 1 == topic.len() && at + 2 == filter.len() && filter[at + 1] == "#" {
            return true;
        }
    }
    filter.len() == topic.len()
}

/// The distinct beginnings of filters or topics, as lists of levels; a final `#` is none.
pub(super) fn beginnings<'a>(filters: impl Iterator<Item = &'a str>) -> usize {
    let mut all = BTreeSet::new();
    for filter in filters {
        let mut levels: Vec<&str> = filter.split('/').collect();
        levels.pop_if(|last| *last == "#");
        for depth in 1..=levels.len() {
            all.insert(levels[..depth].to_vec());
        }
    }
    all.len()
}

/// splitmix64: a seed makes a run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a few names, the odd ones among them, or in a `wide` world one of many.
    fn level(&mut self, wide: bool) -> String {
        const NAMES: [&str; 7] = ["a", "b", "aa", "", "$a", "é", " "];
        if wide && !self.one_in(4) {
            return format!("n{}", self.below(40));
        }
        NAMES[self.below(NAMES.len() as u64) as usize].to_owned()
    }

    pub(super) fn topic(&mut self, wide: bool) -> String {
        loop {
            let levels: Vec<String> = (0..=self.below(4)).map(|_| self.level(wide)).collect();
            let topic = levels.join("/");
            if !topic.is_empty() {
                return topic;
            }
        }
    }

    pub(super) fn filter(&mut self, wide: bool) -> String {
        loop {
            let count = self.below(5);
            let mut levels = Vec::new();
            for _ in 0..count {
                levels.push(if self.one_in(3) { "+".to_owned() } else { self.level(wide) });
            }
            if self.one_in(3) {
                levels.push("#".to_owned());
            }
            let filter = levels.join("/");
            if !filter.is_empty() {
                return filter;
            }
        }
    }
}

/// The tables of section 4.7 in both versions of the standard.
#[test]
fn naive_matcher_knows_the_standards_examples() {
    for (filter, topic, expected) in super::routes::EXAMPLES {
        assert_eq!(matches(filter, topic), *expected, "{filter} {topic}");
    }
}
