//! Packet identifiers under which the server may hold a QoS 2 message of an earlier run of the program.
//!
//! Without a file a program that ends forgets what the server answered with PUBREC and never saw PUBREL for. If the next
//! run used such an identifier, the server would take the new message for the old one, answer as if all were well, and
//! drop it. [MQTT5-3.2.2-4] has a client without state give up the session, and with it all messages that wait there; but
//! this is all of the state that can do harm, and it can be made good: PUBREL ends what is left under an identifier, and
//! says nothing wrong when there is nothing (PUBCOMP with 0x92 is "not an error during recovery"). So before an identifier
//! is used for QoS 2 the first time, it is released together with its neighbours.
//!
//! What is left there can also fill Receive Maximum: mosquitto counts it, and refuses every message (0x97). Then all identifiers are
//! released, a block after the other, until something is taken.

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};

use super::outbox::PUBLISH_IDS;
use crate::codec::{AckKind, write};

/// Connections that end after PUBREL before the server is taken for one that cannot be asked.
const ATTEMPTS: u32 = 2;

pub(super) struct Leftovers {
    /// A bit for each 64 packet identifiers: the server holds nothing under them.
    released: [u64; 16],
    /// The block that is asked about, and a bit for each identifier that the server has not answered.
    asked: Option<(u16, u64)>,
    /// Connections that ended while the server had answered nothing.
    attempts: u32,
    /// The server has refused a message for want of room, and has taken none since.
    no_room: bool,
}

const fn block(id: PacketId) -> u16 {
    id.get() / 64
}

impl Leftovers {
    pub(super) fn new() -> Self {
        Self { released: [0; 16], asked: None, attempts: 0, no_room: false }
    }

    /// Whether a new message of QoS 2 may have this identifier.
    pub(super) fn is_released(&self, id: PacketId) -> bool {
        let block = block(id);
        self.released.get(usize::from(block / 64)).is_some_and(|bits| bits >> (block % 64) & 1 == 1)
    }

    /// The server has refused a message for want of room, or has taken one.
    pub(super) fn set_no_room(&mut self, no_room: bool) {
        self.no_room = no_room;
    }

    /// While the server has no room: the first identifier of the next block that is not released.
    pub(super) fn next_to_release(&self) -> Option<PacketId> {
        let blocks = 0..=PUBLISH_IDS / 64;
        let mut firsts = blocks.filter(|_| self.no_room).filter_map(|block| PacketId::new((block * 64).max(1)));
        firsts.find(|id| !self.is_released(*id))
    }

    /// Whether the identifier waits for its PUBCOMP.
    pub(super) fn is_asked(&self, id: PacketId) -> bool {
        self.asked.is_some_and(|(asked, _)| asked == block(id))
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn share_a_block(one: PacketId, two: PacketId) -> bool {
        block(one) == block(two)
    }

    /// PUBREL for this identifier and its neighbours, none of which is in use.
    pub(super) fn ask(&mut self, id: PacketId, version: Version, out: &mut Vec<u8>) {
        let block = block(id);
        let mut bits = 0;
        for at in 0..64 {
            if let Some(id) = PacketId::new(block * 64 + at).filter(|id| id.get() <= PUBLISH_IDS) {
                write::ack(version, AckKind::Pubrel, id, ReasonCode::Success, out);
                bits |= 1 << at;
            }
        }
        self.asked = Some((block, bits));
    }

    /// PUBCOMP; false when it is not for this.
    pub(super) fn answered(&mut self, id: PacketId, reason: ReasonCode) -> bool {
        let Some((asked, bits)) = self.asked.as_mut().filter(|(asked, _)| *asked == block(id)) else { return false };
        *bits &= !(1 << (id.get() % 64));
        self.attempts = 0;
        if reason.is_success() {
            tracing::debug!(
                id = id.get(),
                "what an earlier run may have left under this packet identifier is released"
            );
        }
        if *bits == 0 {
            if let Some(released) = self.released.get_mut(usize::from(*asked / 64)) {
                *released |= 1 << (*asked % 64);
            }
            self.asked = None;
        }
        true
    }

    /// The connection is over; false when it is not worth to go on asking.
    pub(super) fn disconnected(&mut self) -> bool {
        if self.asked.take().is_some() {
            self.attempts += 1;
        }
        self.attempts < ATTEMPTS
    }
}
