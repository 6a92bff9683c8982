//! How much a queue may hold, and what happens when that is reached.

use super::{KeyOf, Reasons};

/// What happens to a message for a queue that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The publisher is told (0x97), or its ack is withheld until there is room.
    Reject,
    /// The oldest message that is not in flight makes room.
    DropOldest,
    /// The new one is dropped.
    DropNewest,
    /// One message for each key ([`QueueLimits::keep_last_by`]): the newer replaces the older. When still full: as
    /// `DropOldest`.
    KeepLast,
}

/// The named limits of one queue. Sessions share those of the configuration; a bridge's queue has its own.
#[derive(Clone, Debug)]
pub struct QueueLimits {
    /// Messages that the queue may hold.
    pub max_messages: u64,
    /// Bytes that the queue may hold.
    pub max_bytes: u64,
    /// Bytes that the queue of a session without a store (expiry 0) may hold in memory.
    pub max_transient_bytes: u64,
    /// Milliseconds that a message may wait.
    pub max_age_ms: Option<u64>,
    /// What happens when it is full.
    pub policy: Policy,
    /// What a newer message must have in common with an older one to replace it (policy `keep-last`).
    pub keep_last_by: KeyOf,
    /// QoS 0 messages are queued (as QoS 0) while nobody is there to take them.
    pub queue_qos0: bool,
    /// Milliseconds that the queue of a session which outlives its connection may refuse (policy `reject`): from then on it
    /// drops its oldest messages, until half of it is empty. `None`: for ever.
    pub stall_ms: Option<u64>,
    /// Milliseconds that the queue of a session which ends with its connection may refuse: then it is disconnected.
    pub stall_transient_ms: Option<u64>,
    /// What becomes a dead letter when the queue gives it up.
    pub dead_letters: Reasons,
    /// Messages kept in memory; the rest is on disk only.
    pub memory_messages: usize,
    /// Bytes kept in memory.
    pub memory_bytes: usize,
}
