//! What must be on disk before something is sent. Without a durable outbox everything is safe at once.

use forebay_wire::types::PacketId;

use super::inbound::Mark;
use crate::codec::frame::Frame;

/// A change that a store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "there is nobody to read it"))]
pub(crate) enum Op {
    /// A message was accepted.
    Put { number: u64, frame: Frame, expires_unix_ms: Option<u64> },
    /// Its PUBREC has come: it is not to be sent again.
    Release { number: u64 },
    /// It is done with.
    Remove { number: u64 },
    /// A QoS 2 message of the server was given to the program: its packet identifier is remembered until PUBREL.
    Seen { id: PacketId, mark: Mark },
    /// PUBREL came.
    Forget { id: PacketId },
    /// The server has a new session: identifiers of the old one mean nothing.
    ForgetAll,
    /// The program's own mark, with the message that was accepted just before.
    Mark { mark: u64 },
}

#[cfg(feature = "durable")]
impl Op {
    /// Whether it waits for room on a disk that is full. A mark takes none, and stays with its message.
    pub(crate) fn takes_room(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Mark { .. })
    }
}

/// Number of an operation; what is sent waits until it is safe.
pub(crate) type OpNumber = u64;

/// What a commit has written.
#[cfg(feature = "durable")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    All,
    /// All but what takes room.
    Acks,
}

/// Operations in order.
#[derive(Default)]
pub(crate) struct Journal {
    on: bool,
    ops: Vec<Op>,
    next: OpNumber,
    /// Everything up to this one is on disk.
    safe: OpNumber,
    /// Everything but new messages and marks is: those may have to wait for room, and what is acknowledged must not.
    acks_safe: OpNumber,
}

impl Journal {
    /// For a durable outbox.
    #[cfg(feature = "durable")]
    pub(crate) fn durable() -> Self {
        Self { on: true, ..Self::default() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Notes an operation.
    pub(crate) fn log(&mut self, op: impl FnOnce() -> Op) -> OpNumber {
        if self.on {
            self.next += 1;
            self.ops.push(op());
        }
        self.next
    }

    /// The last operation so far.
    pub(crate) fn last(&self) -> OpNumber {
        self.next
    }

    /// Whether a message, or a mark, is on disk, with all that was before it.
    pub(crate) fn is_safe(&self, number: OpNumber) -> bool {
        number <= self.safe || !self.on
    }

    /// Whether what becomes of messages is: what PUBREL, PUBREC and PUBCOMP wait for.
    pub(crate) fn is_ack_safe(&self, number: OpNumber) -> bool {
        number <= self.acks_safe || !self.on
    }

    #[cfg(feature = "durable")]
    pub(crate) fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// What is to be committed, and the number to tell [`Journal::committed`] then.
    #[cfg(feature = "durable")]
    pub(crate) fn take(&mut self) -> (Vec<Op>, OpNumber) {
        (std::mem::take(&mut self.ops), self.next)
    }

    /// The number up to which acks did not have to wait before.
    #[cfg(feature = "durable")]
    pub(crate) fn committed(&mut self, number: OpNumber, what: Committed) -> OpNumber {
        let before = self.acks_safe;
        self.acks_safe = before.max(number);
        if what == Committed::All {
            self.safe = self.safe.max(number);
        }
        before
    }
}
