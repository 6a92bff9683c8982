//! Places of a queue as ranges `start..end`.

/// What of these ranges lies between the two places: ascending, disjoint, joined where they touch.
pub(super) fn between(mut ranges: Vec<(u64, u64)>, from: u64, to: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut joined = Vec::<(u64, u64)>::new();
    for (start, end) in ranges {
        let (start, end) = (start.max(from), end.min(to));
        match joined.last_mut() {
            _ if start >= end => {}
            Some((_, last)) if *last >= start => *last = end.max(*last),
            _ => joined.push((start, end)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_cut() {
        let ranges = vec![(9, 12), (0, 3), (2, 5), (5, 6), (20, 30), (7, 7)];
        assert_eq!(between(ranges.clone(), 0, u64::MAX), [(0, 6), (9, 12), (20, 30)]);
        assert_eq!(between(ranges.clone(), 4, 25), [(4, 6), (9, 12), (20, 25)]);
        assert_eq!(between(ranges, 12, 20), []);
    }
}
