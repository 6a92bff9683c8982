//! Reading fields from a bounded slice, with MQTT's rules for strings.

use crate::WireError;
use crate::varint::{self, Decoded};

/// Takes fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: WireError = WireError::malformed("MQTT5-2.1.4", "the packet ends within a field");

impl<'a> Reader<'a> {
    /// A reader of all the bytes.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all is read.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// There is none.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*first)
    }

    /// A two byte integer.
    ///
    /// # Errors
    /// There are fewer bytes.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*taken))
    }

    /// A four byte integer.
    ///
    /// # Errors
    /// There are fewer bytes.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<4>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    /// A variable byte integer.
    ///
    /// # Errors
    /// It is not one, or not complete.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, WireError> {
        match varint::decode(self.rest) {
            Decoded::Value(value, len) => {
                self.rest = self.rest.get(len..).unwrap_or_default();
                Ok(value)
            }
            Decoded::Incomplete => Err(SHORT),
            Decoded::Overlong(..) | Decoded::Invalid => {
                Err(WireError::malformed("MQTT5-1.5.5-1", "a variable byte integer is not valid"))
            }
        }
    }

    /// Binary data: two bytes of length and as many bytes.
    ///
    /// # Errors
    /// There are fewer bytes.
    #[inline]
    pub fn binary(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// A UTF-8 string without U+0000 [MQTT-1.5.3-1], [MQTT-1.5.3-2].
    ///
    /// # Errors
    /// It is not one.
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, WireError> {
        string(self.binary()?)
    }
}

/// Bytes as a string of MQTT.
///
/// # Errors
/// They are not UTF-8, or hold U+0000.
#[inline]
pub fn string(bytes: &[u8]) -> Result<&str, WireError> {
    // Where there is room for words there is room for the quick search.
    #[allow(clippy::manual_contains, reason = "the other one is small")]
    let holds_nul = if cfg!(feature = "words") { bytes.contains(&0) } else { bytes.iter().any(|byte| *byte == 0) };
    if holds_nul {
        return Err(WireError::malformed("MQTT5-1.5.4-2", "a string holds U+0000"));
    }
    core::str::from_utf8(bytes).map_err(|_| WireError::malformed("MQTT5-1.5.4-1", "a string is not UTF-8"))
}
