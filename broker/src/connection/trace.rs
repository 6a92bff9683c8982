//! Each packet as a line of the log, at level `trace`; those of a client that is watched at level `info`.

use std::sync::Arc;

use forebay_wire::frame::{self, Frame};
use forebay_wire::read::Reader;

use crate::broker::Slot;
use crate::logging;
use crate::session::{Encoded, Session};

/// Names of the packets, by their type.
const NAMES: [&str; 16] = [
    "type 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

/// A packet that has been read.
#[inline]
pub(super) fn received(session: &Session, frame: &Frame, packet: &[u8]) {
    if tracing::enabled!(tracing::Level::TRACE) || logging::watches() {
        say("received", session.client_id(), frame, packet);
    }
}

/// Whole packets that the socket is about to be given.
#[inline]
pub(super) fn sent(slot: &Arc<Slot>, packets: &Encoded) {
    if tracing::enabled!(tracing::Level::TRACE) || logging::watches() {
        each_sent(slot, packets);
    }
}

#[cold]
fn each_sent(slot: &Arc<Slot>, packets: &Encoded) {
    let mut bytes = &*packets.bytes;
    let client = slot.look(|session| session.client_id().clone());
    // The payload of the last one may lie elsewhere.
    while let Ok(Some(frame)) = frame::peek(bytes, u32::MAX) {
        say("sent", &client, &frame, bytes);
        bytes = bytes.get(frame.total()..).unwrap_or_default();
    }
}

/// What of a packet is worth a look. Never what is published: that is nobody's business.
#[derive(Debug, Default, PartialEq, Eq)]
struct About<'a> {
    topic: Option<&'a str>,
    qos: Option<u8>,
    packet_id: Option<u16>,
}

impl<'a> About<'a> {
    fn of(frame: &Frame, packet: &'a [u8]) -> Self {
        let mut body = Reader::new(packet.get(frame.header_len..).unwrap_or_default());
        match frame.packet_type() {
            frame::PUBLISH => {
                let (qos, topic) = (frame.first_byte >> 1 & 3, body.string().ok());
                let packet_id = topic.filter(|_| qos > 0).and_then(|_| body.u16().ok());
                Self { topic, qos: Some(qos), packet_id }
            }
            // All of these begin with it.
            frame::PUBACK..=frame::UNSUBACK => Self { packet_id: body.u16().ok(), ..Self::default() },
            _ => Self::default(),
        }
    }
}

#[cold]
fn say(direction: &str, client: &str, frame: &Frame, packet: &[u8]) {
    let name = NAMES.get(usize::from(frame.packet_type())).copied().unwrap_or_default();
    let About { topic, qos, packet_id } = About::of(frame, packet);
    let bytes = frame.total();
    if logging::is_watched(client) {
        tracing::info!(client, bytes, topic, qos, packet_id, "{direction} {name}");
    } else {
        tracing::trace!(client, bytes, topic, qos, packet_id, "{direction} {name}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn about(packet: &[u8]) -> About<'_> {
        About::of(&frame::peek(packet, u32::MAX).unwrap().unwrap(), packet)
    }

    #[test]
    fn what_a_packet_is_about() {
        let of = |topic, qos, packet_id| About { topic, qos, packet_id };
        assert_eq!(about(b"\x30\x05\0\x03a/bx"[..7].as_ref()), of(Some("a/b"), Some(0), None));
        assert_eq!(about(b"\x34\x08\0\x03a/b\x01\x02x"), of(Some("a/b"), Some(2), Some(258)));
        assert_eq!(about(b"\x40\x02\0\x07"), of(None, None, Some(7)));
        assert_eq!(about(b"\x82\x06\0\x09\0\x01a\0"), of(None, None, Some(9)));
        assert_eq!(about(b"\xc0\0"), About::default());
        // Of the last packet of a batch only the beginning may be there.
        assert_eq!(about(b"\x32\xff\x7f\0\x01a\0\x05"), of(Some("a"), Some(1), Some(5)));
        assert_eq!(about(b"\x32\x0a\0\xff"), of(None, Some(1), None));
    }
}
