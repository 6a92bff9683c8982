//! Copies that cannot panic.

/// Copies as much as fits; how much that was.
#[inline(never)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) -> usize {
    let mut at = 0;
    while let (Some(to), Some(from)) = (to.get_mut(at), from.get(at)) {
        *to = *from;
        at = at.wrapping_add(1);
    }
    at
}

/// Whether both are the same.
#[inline(never)]
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one == other)
}

/// Moves `len` bytes within `bytes`, overlapping or not, as far as both places lie within it. By hand, since the memmove
/// that `copy_within` links is 1.6 KB and comes with a panic.
#[inline(never)]
pub(crate) fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize) {
    let mut done = 0;
    while done < len {
        let offset = if to <= from { done } else { len.wrapping_sub(1).wrapping_sub(done) };
        let byte = bytes.get(from.wrapping_add(offset)).copied();
        if let (Some(byte), Some(to)) = (byte, bytes.get_mut(to.wrapping_add(offset))) {
            *to = byte;
        }
        done = done.wrapping_add(1);
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
        shift(&mut bytes, 0, 1, 3);
        assert_eq!(bytes, [2, 2, 3, 4]);
        shift(&mut bytes, 0, 2, 3);
        assert_eq!(bytes, [2, 2, 2, 2]);
        shift(&mut bytes, usize::MAX - 1, 7, 9);
        assert_eq!(bytes, [2, 2, 2, 2]);
    }
}
