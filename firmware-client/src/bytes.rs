//! Copies that cannot panic.

/// Copies as much as fits; how much that was.
#[inline(never)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) -> usize {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    to.len().min(from.len())
}

/// Moves `len` bytes within `bytes`, overlapping or not; nothing when they do not lie within it.
#[inline(never)]
pub(crate) fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    let (Some(end), Some(to_end)) = (from.checked_add(len), to.checked_add(len)) else { return };
    if end <= bytes.len() && to_end <= bytes.len() {
        bytes.copy_within(from..end, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_alone() {
        let mut bytes = [1, 2, 3, 4];
        assert_eq!(copy(&mut bytes, &[9; 2]), 2);
        assert_eq!(copy(&mut bytes, &[8; 9]), 4);
        let mut bytes = [1, 2, 3, 4];
        shift(&mut bytes, 1, 0, 3);
        assert_eq!(bytes, [2, 3, 4, 4]);
        shift(&mut bytes, 0, 2, 3);
        shift(&mut bytes, usize::MAX, 0, 2);
        assert_eq!(bytes, [2, 3, 4, 4]);
    }
}
