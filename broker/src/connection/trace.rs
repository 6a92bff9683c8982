//! Each packet as a line of the log, at level `trace`.

use std::sync::Arc;

use forebay_wire::frame::{self, Frame};

use crate::broker::Slot;
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
pub(super) fn received(session: &Session, frame: &Frame) {
    if tracing::enabled!(tracing::Level::TRACE) {
        say("received", session.client_id(), frame);
    }
}

/// Whole packets that the socket is about to be given.
#[inline]
pub(super) fn sent(slot: &Arc<Slot>, packets: &Encoded) {
    if tracing::enabled!(tracing::Level::TRACE) {
        each_sent(slot, packets);
    }
}

#[cold]
fn each_sent(slot: &Arc<Slot>, packets: &Encoded) {
    let mut bytes = &*packets.bytes;
    let client = slot.look(|session| session.client_id().clone());
    while let Ok(Some(frame)) = frame::peek(bytes, u32::MAX) {
        say("sent", &client, &frame);
        bytes = bytes.get(frame.total()..).unwrap_or_default();
    }
    if !packets.payload().is_empty() {
        tracing::trace!(client = &*client, bytes = bytes.len() + packets.payload().len(), "sent PUBLISH");
    }
}

#[cold]
fn say(direction: &str, client: &str, frame: &Frame) {
    let name = NAMES.get(usize::from(frame.packet_type())).copied().unwrap_or_default();
    tracing::trace!(client, bytes = frame.total(), "{direction} {name}");
}
