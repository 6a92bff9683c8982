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

/// Number of an operation; what is sent waits until it is safe.
pub(crate) type OpNumber = u64;

/// Operations in order.
#[derive(Default)]
pub(crate) struct Journal {
    on: bool,
    ops: Vec<Op>,
    next: OpNumber,
    safe: OpNumber,
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

    pub(crate) fn is_safe(&self, number: OpNumber) -> bool {
        number <= self.safe || !self.on
    }

    #[cfg(feature = "durable")]
    pub(crate) fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    #[cfg(all(test, feature = "durable"))]
    pub(crate) fn safe_number(&self) -> OpNumber {
        self.safe
    }

    /// What is to be committed, and the number to tell [`Journal::committed`] then.
    #[cfg(feature = "durable")]
    pub(crate) fn take(&mut self) -> (Vec<Op>, OpNumber) {
        (std::mem::take(&mut self.ops), self.next)
    }

    #[cfg(feature = "durable")]
    pub(crate) fn committed(&mut self, number: OpNumber) {
        self.safe = self.safe.max(number);
    }
}
