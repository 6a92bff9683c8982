//! A message on its way into a session.

use crate::message::Time;
use crate::store::{QueueEntry, Share};

/// When the publisher's ack may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the commit, or after the acks that make it needless.
    Commit,
    /// At once; a commit follows within the interval.
    Interval,
    /// At once; written only when a queue must page to disk.
    Memory,
    /// It comes from another queue of the store, and leaves that one in the commit in which it enters this one.
    Moved,
    /// The same, and its publisher's ack waits for that commit.
    MovedAwaited,
}

/// A message on its way into a session. It is borrowed: only a session that must keep it asks for the shared one.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Topic name.
    pub topic: &'a [u8],
    /// Properties to forward, encoded.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// QoS of this delivery: the lower of the publisher's and the subscription's.
    pub qos: u8,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// The shared subscription that it comes through, if it does.
    pub shared: Option<Share>,
    /// Subscription identifiers.
    pub subscription_ids: &'a [u32],
    /// When it expires.
    pub expires_at: Option<Time>,
    /// When the publisher's ack may leave.
    pub durability: Durability,
}

impl<'a> Delivery<'a> {
    /// Bytes that a queue counts it for.
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    /// A message that is queued already.
    pub(super) fn of(item: &'a QueueEntry) -> Self {
        Self {
            topic: item.message.topic_bytes(),
            properties: item.message.properties(),
            payload: item.message.payload(),
            qos: item.qos,
            retain: item.retain,
            shared: item.shared,
            subscription_ids: &item.subscription_ids,
            expires_at: item.message.expires_at,
            durability: Durability::Memory,
        }
    }
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The session has it, or it went out; nothing to wait for.
    Taken,
    /// The session has it; the publisher's ack waits for the shared message to be safe.
    Waiting,
    /// Dropped by a chosen policy, and counted.
    Dropped,
    /// The session has ended, or is about to: it was never its message.
    Gone,
}
