//! A message at which the server ends the connection, and the next, and the next: without this it would hold up all behind it for
//! ever. After two connections on which nothing was settled, messages are sent one at a time, so that those before it get through
//! and the one that is alone on the wire is the cause. forebay-client does the same for MQTT.

/// Fruitless connections after which one message at a time is sent.
const ALONE_AFTER: u32 = 2;
/// A message is given up when the server has ended so many connections in a row with it as the first,
const ENDED_MIN: u32 = 5;
/// and so many of them with it alone,
const ALONE_MIN: u32 = 2;
/// and for so long: a server that has trouble of its own gets over it, or can be reached no more.
const LASTS_MS: u64 = 30_000;

/// What is known of the first message in flight.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    place: Option<u64>,
    /// Connections in a row on which nothing was settled while it was the first.
    fruitless: u32,
    /// Those of them that the server has ended, and when it did so first.
    ended: u32,
    since_ms: u64,
    /// Those of these on which it was alone.
    alone: u32,
    /// Messages below this place are sent alone.
    careful_until: u64,
}

/// How a fruitless connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The server has ended it.
    Ended,
    /// Nobody knows, or it was silent.
    Other,
}

impl Suspect {
    /// A connection was lost, and nothing settled on it. `first` and `last` were in flight. How many such there were, if the first is
    /// to be given up.
    pub(super) fn fruitless(&mut self, (first, last): (u64, u64), loss: Loss, now_ms: u64) -> Option<u32> {
        if self.place != Some(first) {
            *self = Self { place: Some(first), careful_until: self.careful_until, ..Self::default() };
        }
        self.fruitless += 1;
        if self.fruitless >= ALONE_AFTER {
            self.careful_until = self.careful_until.max(last + 1);
        }
        if loss == Loss::Ended {
            if self.ended == 0 {
                self.since_ms = now_ms;
            }
            self.ended += 1;
            self.alone += u32::from(first == last);
        }
        let is_enough = self.ended >= ENDED_MIN && self.alone >= ALONE_MIN;
        let lasts = now_ms.saturating_sub(self.since_ms) >= LASTS_MS;
        (loss == Loss::Ended && is_enough && lasts).then_some(self.ended)
    }

    /// Whether the message at this place is sent alone.
    pub(super) fn is_careful(&self, place: u64) -> bool {
        place < self.careful_until
    }

    /// The server has answered for a message.
    pub(super) fn answered(&mut self) {
        *self = Self { careful_until: self.careful_until, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_that_is_alone_is_the_cause() {
        let mut suspect = Suspect::default();
        for _ in 0..ALONE_AFTER {
            assert!(!suspect.is_careful(3));
            assert_eq!(suspect.fruitless((3, 9), Loss::Ended, 5), None);
        }
        assert!(suspect.is_careful(3) && suspect.is_careful(9) && !suspect.is_careful(10));
        let ends = [10, 5 + LASTS_MS - 1, 5 + LASTS_MS];
        assert_eq!(ends.map(|now_ms| suspect.fruitless((3, 3), Loss::Ended, now_ms)), [None, None, Some(5)]);
        assert_eq!(suspect.fruitless((4, 4), Loss::Ended, 2 * LASTS_MS), None, "those behind it begin anew, alone");
        assert!(suspect.is_careful(4));
    }

    #[test]
    fn a_server_that_is_silent_or_answers_something_or_is_soon_well_costs_no_message() {
        let mut suspect = Suspect::default();
        assert!((0..100).all(|n| suspect.fruitless((1, 1), Loss::Other, n * LASTS_MS).is_none()));
        for _ in 0..10 {
            assert!((1..ENDED_MIN).all(|n| suspect.fruitless((1, 1), Loss::Ended, u64::from(n) * LASTS_MS).is_none()));
            suspect.answered();
        }
        assert!((0..100).all(|n| suspect.fruitless((1, 1), Loss::Ended, n * LASTS_MS / 100).is_none()));
    }
}
