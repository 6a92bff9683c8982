//! Variable byte integers [MQTT5-1.5.5].

/// The largest value.
pub const MAX: u32 = 268_435_455;

/// What the bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A value, and how many bytes it took.
    Value(u32, usize),
    /// The same, in more bytes than the value needs: MQTT 5 forbids it [MQTT5-1.5.5-1], 3.1.1 does not.
    Overlong(u32, usize),
    /// The bytes end within it.
    Incomplete,
    /// More than four bytes.
    Invalid,
}

/// Decodes the integer that the bytes begin with.
#[inline]
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut value = 0u32;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let minimal = at == 0 || *byte != 0;
            return if minimal { Decoded::Value(value, at + 1) } else { Decoded::Overlong(value, at + 1) };
        }
    }
    if bytes.len() >= 4 { Decoded::Invalid } else { Decoded::Incomplete }
}

/// How many bytes a value takes.
#[inline]
#[must_use]
pub const fn size(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Encodes a value of at most [`MAX`]; the bytes, and how many of them count.
#[inline]
#[must_use]
pub const fn encode(value: u32) -> ([u8; 4], usize) {
    let len = size(value);
    let mut bytes = [
        (value & 0x7f) as u8 | 0x80,
        (value >> 7 & 0x7f) as u8 | 0x80,
        (value >> 14 & 0x7f) as u8 | 0x80,
        (value >> 21 & 0x7f) as u8,
    ];
    match len {
        1 => bytes[0] &= 0x7f,
        2 => bytes[1] &= 0x7f,
        3 => bytes[2] &= 0x7f,
        _ => {}
    }
    (bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_survives() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MAX] {
            let (bytes, len) = encode(value);
            assert_eq!(decode(&bytes[..len]), Decoded::Value(value, len));
            assert_eq!(decode(&bytes[..len - 1]), Decoded::Incomplete);
        }
    }

    #[test]
    fn five_bytes_are_invalid_and_needless_bytes_are_noticed() {
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x7f]), Decoded::Invalid);
        assert_eq!(decode(&[0x80, 0x00]), Decoded::Overlong(0, 2));
        assert_eq!(decode(&[0x85, 0x80, 0x00]), Decoded::Overlong(5, 3));
    }
}
