//! Where a packet begins and ends, and what its first byte may be.

use crate::varint::{self, Decoded};
use crate::{ReasonCode, WireError};

/// CONNECT.
pub const CONNECT: u8 = 1;
/// CONNACK.
pub const CONNACK: u8 = 2;
/// PUBLISH.
pub const PUBLISH: u8 = 3;
/// PUBACK.
pub const PUBACK: u8 = 4;
/// PUBREC.
pub const PUBREC: u8 = 5;
/// PUBREL.
pub const PUBREL: u8 = 6;
/// PUBCOMP.
pub const PUBCOMP: u8 = 7;
/// SUBSCRIBE.
pub const SUBSCRIBE: u8 = 8;
/// SUBACK.
pub const SUBACK: u8 = 9;
/// UNSUBSCRIBE.
pub const UNSUBSCRIBE: u8 = 10;
/// UNSUBACK.
pub const UNSUBACK: u8 = 11;
/// PINGREQ.
pub const PINGREQ: u8 = 12;
/// PINGRESP.
pub const PINGRESP: u8 = 13;
/// DISCONNECT.
pub const DISCONNECT: u8 = 14;
/// AUTH, MQTT 5 only.
pub const AUTH: u8 = 15;

/// A packet's fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type and flags.
    pub first_byte: u8,
    /// Bytes of the fixed header.
    pub header_len: usize,
    /// Bytes after it.
    pub remaining_len: usize,
}

impl Frame {
    /// Bytes of the whole packet.
    #[inline]
    #[must_use]
    pub const fn total(&self) -> usize {
        self.header_len + self.remaining_len
    }

    /// Packet type, 1 to 15.
    #[inline]
    #[must_use]
    pub const fn packet_type(&self) -> u8 {
        self.first_byte >> 4
    }
}

/// The packet that the bytes begin with; `None` when its fixed header is not complete. Its body may still be missing.
///
/// # Errors
/// Reserved types and flags [MQTT-2.2.2-2], [MQTT5-2.1.3-1], a length that is not one, a packet larger than allowed (0x95).
#[inline]
pub fn peek(bytes: &[u8], max_packet_size: u32) -> Result<Option<Frame>, WireError> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    check_first(*first)?;
    let (remaining, len) = match varint::decode(rest) {
        Decoded::Value(value, len) => (value, len),
        Decoded::Incomplete => return Ok(None),
        Decoded::Invalid => return Err(WireError::malformed("MQTT5-1.5.5-1", "the remaining length is not valid")),
    };
    let frame = Frame { first_byte: *first, header_len: 1 + len, remaining_len: remaining as usize };
    if frame.total() > max_packet_size as usize {
        return Err(WireError::new(ReasonCode::PacketTooLarge, "MQTT5-3.2.2-15", "the packet is larger than allowed"));
    }
    Ok(Some(frame))
}

#[inline]
fn check_first(first: u8) -> Result<(), WireError> {
    let flags = first & 0x0f;
    let valid = match first >> 4 {
        0 => return Err(WireError::malformed("MQTT5-2.1.2", "packet type 0 is reserved")),
        PUBLISH => flags & 0x06 != 0x06,
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => flags == 0x02,
        _ => flags == 0,
    };
    if valid {
        Ok(())
    } else if first >> 4 == PUBLISH {
        Err(WireError::malformed("MQTT5-3.3.1-4", "QoS 3"))
    } else {
        Err(WireError::malformed("MQTT5-2.1.3-1", "reserved flags are set"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_of_a_packet() {
        let frame = peek(&[0x30, 0x80, 0x01], 1000).unwrap().unwrap();
        assert_eq!((frame.header_len, frame.remaining_len, frame.total()), (3, 128, 131));
        assert_eq!(peek(&[0x30], 1000), Ok(None));
        assert_eq!(peek(&[0x30, 0x80], 1000), Ok(None));
        assert_eq!(peek(&[], 1000), Ok(None));
    }

    #[test]
    fn refuses_reserved_types_and_flags() {
        for first in [0x00, 0x36, 0x11, 0x60, 0x80, 0xa0, 0xc1, 0xe1, 0x41] {
            assert_eq!(peek(&[first, 0], 1000).unwrap_err().reason, ReasonCode::MalformedPacket, "{first:#x}");
        }
        for first in [0x10, 0x30, 0x3d, 0x62, 0x82, 0xa2, 0xc0, 0xe0, 0xf0] {
            assert!(peek(&[first, 0], 1000).is_ok(), "{first:#x}");
        }
    }

    #[test]
    fn counts_the_whole_packet_against_the_limit() {
        assert!(peek(&[0x30, 98], 100).is_ok());
        assert_eq!(peek(&[0x30, 99], 100).unwrap_err().reason, ReasonCode::PacketTooLarge);
    }
}
