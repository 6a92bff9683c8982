//! What leaves a queue without having arrived, and that somebody wants to keep: it becomes a dead letter.

use std::sync::Arc;

use super::places::{Entry, Queue};
use crate::message::Message;
use crate::store::DropReason;

/// Why a message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its receivers refused it, as often as they may.
    Refused,
    /// Members of a declared queue had it and did not confirm it, as often as they may.
    TooOften,
    /// It is larger than its receivers take.
    TooLarge,
    /// Its time is over.
    Expired,
    /// The queue was full, and its policy is to drop.
    Full,
    /// Its receiver may not have it any more.
    Revoked,
    /// Nobody has subscribed to its topic.
    Undeliverable,
    /// No member of the declared queue that is there may read it.
    NotAllowed,
    /// A rule of the configuration cannot be applied to it.
    Rule,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::TooOften,
        Self::TooLarge,
        Self::Expired,
        Self::Full,
        Self::Revoked,
        Self::Undeliverable,
        Self::NotAllowed,
        Self::Rule,
    ];
    /// What can become of the messages of a declared queue.
    pub const OF_QUEUES: [Self; 6] =
        [Self::Refused, Self::TooOften, Self::TooLarge, Self::Expired, Self::Full, Self::NotAllowed];
    /// What can become of the messages for a session.
    pub const OF_SESSIONS: [Self; 7] =
        [Self::Refused, Self::TooLarge, Self::Expired, Self::Full, Self::Revoked, Self::Undeliverable, Self::Rule];

    /// As it is called in the configuration and in dead letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TooOften => "too-often",
            Self::TooLarge => "too-large",
            Self::Expired => "expired",
            Self::Full => "full",
            Self::Revoked => "revoked",
            Self::Undeliverable => "undeliverable",
            Self::NotAllowed => "not-allowed",
            Self::Rule => "rule",
        }
    }

    /// Of a message that was dropped, or (`None`) has expired. What an operator, a newer message or the session's end has
    /// dropped is nobody's dead letter.
    fn of(dropped: Option<DropReason>) -> Option<Self> {
        match dropped {
            None => Some(Self::Expired),
            Some(DropReason::Oldest | DropReason::Newest) => Some(Self::Full),
            Some(DropReason::TooLarge) => Some(Self::TooLarge),
            Some(DropReason::Refused) => Some(Self::Refused),
            Some(DropReason::Revoked) => Some(Self::Revoked),
            Some(
                DropReason::Replaced
                | DropReason::SessionEnded
                | DropReason::Qos0
                | DropReason::Damaged
                | DropReason::Purged,
            ) => None,
        }
    }
}

/// Some of the reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u16);

impl Reasons {
    /// Whether it has this one.
    #[must_use]
    pub fn has(self, why: Why) -> bool {
        self.0 & (1 << why as u8) != 0
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Why> for Reasons {
    fn from_iter<T: IntoIterator<Item = Why>>(all: T) -> Self {
        Self(all.into_iter().fold(0, |bits, why| bits | 1 << why as u8))
    }
}

/// A message that has left its queue, and is to be a dead letter before the store hears of that.
#[derive(Debug)]
pub struct Fallen {
    /// The message. Its publisher's ack may wait for it still, see `awaited`.
    pub message: Arc<Message>,
    /// Why it has left.
    pub why: Why,
    /// It was sent to its receiver.
    pub sent: bool,
    /// `settle` is owed to the message when its dead letter is on disk: its publisher waits.
    pub awaited: bool,
}

impl Queue {
    /// What of its messages is kept when they are given up.
    pub(crate) fn keep_fallen(&mut self, reasons: Reasons) {
        self.keeps = reasons;
    }

    /// Whether messages that leave it for this reason are kept.
    pub(crate) fn keeps(&self, why: Why) -> bool {
        self.keeps.has(why)
    }

    /// Whether something has fallen and is not a dead letter yet.
    pub(crate) fn has_fallen(&self) -> bool {
        !self.places.fallen.is_empty()
    }

    /// Takes it.
    pub(crate) fn take_fallen(&mut self) -> Vec<Fallen> {
        if self.has_fallen() { std::mem::take(&mut self.places.fallen) } else { Vec::new() }
    }

    /// A message has left the queue: `dropped` says why, `None` that it has expired. It is kept where that is wanted.
    pub(crate) fn fall(&mut self, entry: Entry, dropped: Option<DropReason>, sent: bool) {
        let why = Why::of(dropped).filter(|why| entry.item.qos > 0 && self.keeps(*why));
        if let Some(why) = why {
            self.keep(entry.item.message.clone(), why, sent);
        }
        entry.settle();
    }

    /// A message is kept for the dead letters. Its publisher's ack, if it waits, waits for them.
    pub(crate) fn keep(&mut self, message: Arc<Message>, why: Why, sent: bool) {
        let awaited = !message.is_safe();
        if awaited {
            message.await_one();
        }
        self.places.fallen.push(Fallen { message, why, sent, awaited });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_a_set() {
        let some: Reasons = [Why::Expired, Why::Undeliverable].into_iter().collect();
        let has: Vec<Why> = Why::ALL.into_iter().filter(|why| some.has(*why)).collect();
        assert_eq!(has, [Why::Expired, Why::Undeliverable]);
        assert_eq!(
            some.and(Reasons::from_iter([Why::Full])),
            [Why::Full, Why::Undeliverable, Why::Expired].into_iter().collect()
        );
    }
}
