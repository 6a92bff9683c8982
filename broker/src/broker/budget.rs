//! What a connection may do before the others of its worker have their turn.
//!
//! It is counted in units, so that it is the same on every machine: one is about what it takes to copy a small message for
//! one subscriber, some tens of nanoseconds.

use std::cell::Cell;

use crate::session::SHARED_PAYLOAD_BYTES;

/// Units of one turn: a millisecond or two. Those who flood cost the others of their worker about that much a round, since
/// they share it.
pub(crate) const TURN: usize = 32 * 1024;
/// The most that a turn is shared by: much smaller ones would cost more than what is done in them.
const SHARED_BY: usize = 16;
/// Bytes that cost one unit where they are copied.
const COPIED_BYTES: usize = 512;
/// Bytes that cost one unit where they are read and understood.
const READ_BYTES: usize = 16;
/// What a message costs that is read, understood and looked up, though nobody is subscribed.
const MESSAGE: usize = 16;
/// What a subscriber costs that is locked and woken, and a message that is encoded or queued for it.
const SUBSCRIBER: usize = 4;
/// What a topic filter of a SUBSCRIBE or UNSUBSCRIBE costs.
const FILTER: usize = 64;

/// See the module. Spending more than there is left is allowed: it ends the turn.
#[derive(Debug)]
pub struct Budget {
    whole: usize,
    left: Cell<usize>,
    /// No more should be read: a subscriber has much to be written, or much has been read at once.
    pressed: Cell<bool>,
}

impl Budget {
    /// For one turn, where nobody else takes long ones.
    #[must_use]
    pub fn turn() -> Self {
        Self::shared_by(1)
    }

    /// For one of so many connections that each take as much as they are given.
    #[must_use]
    pub fn shared_by(connections: usize) -> Self {
        let whole = TURN / connections.clamp(1, SHARED_BY);
        Self { whole, left: Cell::new(whole), pressed: Cell::new(false) }
    }

    /// So many units are done.
    pub fn spend(&self, units: usize) {
        self.left.set(self.left.get().saturating_sub(units));
    }

    /// Bytes that were read from a socket.
    pub fn spend_on_reading(&self, bytes: usize) {
        self.spend(bytes / READ_BYTES);
    }

    /// Bytes that were written to a socket.
    pub fn spend_on_copying(&self, bytes: usize) {
        self.spend(bytes / COPIED_BYTES);
    }

    /// Topic filters that were subscribed or unsubscribed.
    pub fn spend_on_filters(&self, count: usize) {
        self.spend(count.saturating_mul(FILTER));
    }

    /// Units that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left.get()
    }

    /// Units that this turn has had.
    #[must_use]
    pub fn spent(&self) -> usize {
        self.whole - self.left.get()
    }

    /// Whether the turn is over.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    /// What is at hand is done, and nothing more is read in this turn.
    pub fn press(&self) {
        self.pressed.set(true);
    }

    /// Whether no more should be read in this turn.
    #[must_use]
    pub fn ends_reading(&self) -> bool {
        self.is_spent() || self.pressed.get()
    }

    /// How many messages for so many subscribers such a turn may begin with, from what one of them has cost.
    #[must_use]
    pub fn messages(&self, cost: usize) -> usize {
        (self.whole / cost.max(1)).max(1)
    }
}

/// Bytes of a payload that are copied for each subscriber: a large one they share.
#[must_use]
pub fn copied(payload: &[u8]) -> usize {
    if payload.len() < SHARED_PAYLOAD_BYTES { payload.len() } else { 0 }
}

/// What it costs to hand so many messages, of so many copied bytes together, to so many subscribers: each on its own, or as one
/// block of bytes that all of them are sent.
#[must_use]
pub fn cost(messages: usize, bytes: usize, subscribers: usize, as_one: bool) -> usize {
    let copies = bytes / COPIED_BYTES;
    let one = if as_one { SUBSCRIBER + copies } else { messages.saturating_mul(SUBSCRIBER) + copies };
    messages.saturating_mul(MESSAGE).saturating_add(one.saturating_mul(subscribers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_over_when_its_units_are_spent() {
        let budget = Budget::turn();
        budget.spend(TURN - 1);
        assert!(!budget.is_spent() && !budget.ends_reading());
        budget.spend_on_filters(usize::MAX);
        assert!(budget.is_spent() && budget.ends_reading());
    }

    #[test]
    fn a_pressed_turn_reads_no_more_but_ends_what_it_has() {
        let budget = Budget::turn();
        budget.press();
        assert!(budget.ends_reading() && !budget.is_spent());
    }

    #[test]
    fn what_goes_as_one_block_costs_less() {
        assert_eq!(cost(600, 64 * 1024, 1000, true), 600 * MESSAGE + 132 * 1000);
        assert_eq!(cost(600, 64 * 1024, 1000, false), 600 * MESSAGE + 2528 * 1000);
        assert_eq!(cost(1, 10, 0, false), MESSAGE);
        assert_eq!(Budget::turn().messages(0), TURN);
        assert_eq!(Budget::turn().messages(usize::MAX), 1);
    }

    #[test]
    fn those_who_flood_share_a_turn() {
        let four = Budget::shared_by(4);
        four.spend(TURN);
        assert_eq!((four.spent(), four.is_spent()), (TURN / 4, true));
        assert_eq!(Budget::shared_by(0).left(), TURN);
        assert_eq!(Budget::shared_by(usize::MAX).left(), TURN / SHARED_BY);
    }
}
