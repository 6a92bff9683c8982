//! A message that the server will never take: it ends the connection when that comes, and the next, and the next.
//!
//! MQTT 3.1.1 has no word for "too large", and servers end the connection for a topic that is not allowed as well. Without
//! this, such a message would hold up all behind it for ever. Which one it is, is found in two steps: after two connections
//! that the server has ended without acknowledging anything, one message at a time is sent; then the one that is alone on
//! the wire is the cause.

/// Fruitless connections after which one message at a time is sent.
const ALONE_AFTER: u32 = 2;
/// A message is not given up before so many connections have ended with it alone.
const ALONE_MIN: u32 = 2;

/// What is known of the first message that is not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    /// Its number.
    number: u64,
    /// Connections in a row that were fruitless while it was the first.
    fruitless: u32,
    /// Those of them on which it was alone.
    alone: u32,
    /// Messages up to this one are sent alone.
    careful_until: u64,
}

/// The messages of a connection that the server has ended and on which nothing was acknowledged: numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnWire {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Suspect {
    /// A connection was fruitless. Whether its first message is to be set aside, after so many of them.
    pub(super) fn fruitless(&mut self, on_wire: OnWire, limit: u32) -> Option<u32> {
        if self.number != on_wire.first {
            (self.number, self.fruitless, self.alone) = (on_wire.first, 0, 0);
        }
        self.fruitless += 1;
        self.alone += u32::from(on_wire.first == on_wire.last);
        if self.fruitless >= ALONE_AFTER {
            self.careful_until = self.careful_until.max(on_wire.last);
        }
        (self.fruitless >= limit && self.alone >= ALONE_MIN).then_some(self.fruitless)
    }

    /// Whether a message with this number is sent alone.
    pub(super) fn is_careful(&self, first: u64) -> bool {
        first <= self.careful_until
    }

    /// The server has acknowledged something: it takes what is sent to it.
    pub(super) fn acknowledged(&mut self) {
        (self.number, self.fruitless, self.alone) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_that_is_alone_is_the_cause() {
        let mut suspect = Suspect::default();
        let all = OnWire { first: 3, last: 9 };
        assert_eq!(suspect.fruitless(all, 3), None);
        assert!(!suspect.is_careful(3));
        assert_eq!(suspect.fruitless(all, 3), None);
        assert!(suspect.is_careful(3) && suspect.is_careful(9) && !suspect.is_careful(10));
        let alone = OnWire { first: 3, last: 3 };
        // The first in order need not be the one: it is not given up before it was alone twice.
        assert_eq!(suspect.fruitless(alone, 3), None);
        assert_eq!(suspect.fruitless(alone, 3), Some(4));
        // It is gone; those behind it that were on the wire with it are looked at one by one as well.
        assert!(suspect.is_careful(4));
        assert_eq!(suspect.fruitless(OnWire { first: 4, last: 4 }, 3), None);
    }

    #[test]
    fn an_acknowledgement_begins_anew() {
        let mut suspect = Suspect::default();
        let alone = OnWire { first: 1, last: 1 };
        for _ in 0..10 {
            assert_eq!(suspect.fruitless(alone, 3), None);
            assert_eq!(suspect.fruitless(alone, 3), None);
            suspect.acknowledged();
        }
    }
}
