//! A message that the server will never take: it ends the connection when that comes, and the next, and the next.

use super::Client;
#[cfg(feature = "undeliverable")]
use super::Phase;
#[cfg(feature = "undeliverable")]
use crate::arena::{DUE, LIVE, State};
#[cfg(feature = "undeliverable")]
use crate::message::DropReason;
use forebay_wire::ReasonCode;

/// Connections without an answer after which one message at a time is sent.
#[cfg(feature = "undeliverable")]
const ALONE_AFTER: u8 = 2;
/// A message is not given up before so many connections have ended with it alone.
#[cfg(feature = "undeliverable")]
const ALONE_MIN: u8 = 2;

/// Without the feature nothing is known, and nobody is suspected.
#[cfg(not(feature = "undeliverable"))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect;

#[cfg(not(feature = "undeliverable"))]
impl Suspect {
    pub(super) const fn new() -> Self {
        Self
    }

    pub(super) const fn took_one(self) {}

    pub(super) const fn connected(self) {}

    pub(super) const fn is_careful(self) -> bool {
        false
    }
}

#[cfg(not(feature = "undeliverable"))]
impl Client<'_> {
    pub(super) const fn note_fruitless(&self) {}

    pub(super) const fn note_farewell(&self, _: ReasonCode) {}
}

/// What is known of the first message that waits for its acknowledgement.
#[cfg(feature = "undeliverable")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    ticket: u32,
    /// Connections in a row that have ended without an answer while it was the first.
    losses: u8,
    /// Those of them on which it was alone.
    alone: u8,
    /// So many messages are sent one at a time, and no request to subscribe beside them.
    careful: u8,
    /// The server has answered a message on this connection.
    fruitful: bool,
}

#[cfg(feature = "undeliverable")]
impl Suspect {
    pub(super) const fn new() -> Self {
        Self { ticket: 0, losses: 0, alone: 0, careful: 0, fruitful: false }
    }

    /// The server has answered a message.
    pub(super) fn took_one(&mut self) {
        self.fruitful = true;
        (self.losses, self.alone) = (0, 0);
        self.careful = self.careful.saturating_sub(1);
    }

    /// A connection begins.
    pub(super) fn connected(&mut self) {
        self.fruitful = false;
    }

    /// One message or request at a time is to be sent.
    pub(super) const fn is_careful(&self) -> bool {
        self.careful > 0
    }
}

/// Whether a server that ends the connection for this reason may do so because of one message, and at it each time. What is left
/// is about the server, the device, the connection or a request.
#[cfg(feature = "undeliverable")]
const fn may_be_about_a_message(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::TopicNameInvalid
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::PayloadFormatInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QoSNotSupported
    )
}

#[cfg(feature = "undeliverable")]
impl Client<'_> {
    /// The server says why it ends the connection. A message that it may not have, or cannot have, is none that it takes later.
    pub(super) fn note_farewell(&mut self, reason: ReasonCode) {
        if self.v5() && may_be_about_a_message(reason) {
            self.note_fruitless();
        }
    }

    /// The connection ends, and not since this side has ended it.
    pub(super) fn note_fruitless(&mut self) {
        if self.phase != Phase::Up || self.suspect.fruitful || self.options.losses_max == 0 {
            return;
        }
        let (mut at, mut first, mut oldest, mut count) = (0, None, u16::MAX, 0u8);
        let mut request = false;
        while let Some((here, head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            request |= matches!(head.state, State::SubSent | State::UnsubSent);
            if head.state != State::InFlight || head.qos() == 0 || head.has(DUE) {
                continue;
            }
            count = count.saturating_add(1);
            let age = head.id.wrapping_sub(self.next_id);
            if age <= oldest {
                (oldest, first) = (age, Some((here, head)));
            }
        }
        let Some((at, head)) = first else { return };
        let suspect = &mut self.suspect;
        if suspect.ticket != head.ticket {
            (suspect.ticket, suspect.losses, suspect.alone) = (head.ticket, 0, 0);
        }
        suspect.losses = suspect.losses.saturating_add(1);
        // A request to subscribe may be why as well.
        suspect.alone = suspect.alone.saturating_add(u8::from(count == 1 && !request));
        if suspect.losses >= ALONE_AFTER {
            suspect.careful = suspect.careful.max(count);
        }
        if suspect.losses >= self.options.losses_max && suspect.alone >= ALONE_MIN {
            suspect.careful = suspect.careful.saturating_sub(1);
            self.drop_record(at, &head, DropReason::Undeliverable);
        }
    }
}
