//! Where a packet begins and ends, and what its first byte may be.

use crate::types::Version;
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

    /// What the protocol's version asks of the header: the flags [MQTT-2.2.2-2], [MQTT5-2.1.3-1], and in MQTT 5 the
    /// shortest length [MQTT5-1.5.5-1].
    ///
    /// # Errors
    /// The header is not valid in this version.
    #[inline]
    pub fn check(&self, version: Version) -> Result<(), WireError> {
        self.check_flags(version)?;
        if version.is_v5() && self.header_len > 2 && self.remaining_len >> (7 * (self.header_len - 2)) == 0 {
            return Err(WireError::malformed("MQTT5-1.5.5-1", "the remaining length takes more bytes than it needs"));
        }
        Ok(())
    }

    #[inline]
    fn check_flags(&self, version: Version) -> Result<(), WireError> {
        let flags = self.first_byte & 0x0f;
        match self.packet_type() {
            PUBLISH if flags & 0x06 != 0x06 => Ok(()),
            PUBLISH => Err(WireError::malformed("MQTT5-3.3.1-4", "QoS 3")),
            // MQTT 3.1 repeats these with DUP.
            PUBREL | SUBSCRIBE | UNSUBSCRIBE if version == Version::V31 && flags == 0x0a => Ok(()),
            PUBREL | SUBSCRIBE | UNSUBSCRIBE if flags == 0x02 => Ok(()),
            PUBREL | SUBSCRIBE | UNSUBSCRIBE => Err(RESERVED_FLAGS),
            _ if flags == 0 => Ok(()),
            _ => Err(RESERVED_FLAGS),
        }
    }
}

const RESERVED_FLAGS: WireError = WireError::malformed("MQTT5-2.1.3-1", "reserved flags are set");

/// The packet that the bytes begin with; `None` when its fixed header is not complete. Its body may still be missing, and
/// its header is still to be checked against the version, see [`Frame::check`].
///
/// # Errors
/// A reserved type, a length that is not one, a packet larger than allowed (0x95).
#[inline]
pub fn peek(bytes: &[u8], max_packet_size: u32) -> Result<Option<Frame>, WireError> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    if first >> 4 == 0 {
        return Err(WireError::malformed("MQTT5-2.1.2", "packet type 0 is reserved"));
    }
    let (remaining, len) = match varint::decode(rest) {
        Decoded::Value(value, len) | Decoded::Overlong(value, len) => (value, len),
        Decoded::Incomplete => return Ok(None),
        Decoded::Invalid => return Err(WireError::malformed("MQTT5-1.5.5-1", "the remaining length is not valid")),
    };
    let frame = Frame { first_byte: *first, header_len: 1 + len, remaining_len: remaining as usize };
    if frame.total() > max_packet_size as usize {
        return Err(WireError::new(ReasonCode::PacketTooLarge, "MQTT5-3.2.2-15", "the packet is larger than allowed"));
    }
    Ok(Some(frame))
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

    fn checked(bytes: &[u8], version: Version) -> Result<(), ReasonCode> {
        let frame = peek(bytes, 1000).map_err(|error| error.reason)?.unwrap();
        frame.check(version).map_err(|error| error.reason)
    }

    #[test]
    fn refuses_reserved_types_and_flags() {
        for version in [Version::V31, Version::V311, Version::V5] {
            for first in [0x00, 0x36, 0x11, 0x60, 0x80, 0xa0, 0xc1, 0xe1, 0x41] {
                assert_eq!(checked(&[first, 0], version), Err(ReasonCode::MalformedPacket), "{first:#x}");
            }
            for first in [0x10, 0x30, 0x3d, 0x62, 0x82, 0xa2, 0xc0, 0xe0, 0xf0] {
                assert_eq!(checked(&[first, 0], version), Ok(()), "{first:#x}");
            }
        }
    }

    #[test]
    fn only_mqtt_3_1_repeats_with_dup_what_is_not_a_publish() {
        for first in [0x6a, 0x8a, 0xaa] {
            assert_eq!(checked(&[first, 0], Version::V31), Ok(()));
            assert!(checked(&[first, 0], Version::V311).is_err() && checked(&[first, 0], Version::V5).is_err());
        }
    }

    #[test]
    fn only_mqtt_5_asks_for_the_shortest_length() {
        for bytes in [&[0x30, 0x80, 0x00][..], &[0x30, 0xff, 0x00], &[0x30, 0x80, 0x81, 0x00]] {
            assert_eq!(checked(bytes, Version::V311), Ok(()));
            assert_eq!(checked(bytes, Version::V5), Err(ReasonCode::MalformedPacket));
        }
        assert_eq!(checked(&[0x30, 0x80, 0x01], Version::V5), Ok(()));
    }

    #[test]
    fn counts_the_whole_packet_against_the_limit() {
        assert!(peek(&[0x30, 98], 100).is_ok());
        assert_eq!(peek(&[0x30, 99], 100).unwrap_err().reason, ReasonCode::PacketTooLarge);
    }
}
