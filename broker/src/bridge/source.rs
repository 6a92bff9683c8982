//! Where a bridge's messages come from: a durable queue whose messages are taken as values.

use std::task::{Context, Poll};

use super::drain::Backlog;
use crate::message::{Message, Time};
use crate::store::{DropReason, QueueEntry};

/// A message that was taken and is to be confirmed, refused or given back.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its place: ascending, never another message's, the same after a restart.
    pub place: u64,
    /// It may have been taken before.
    pub repeated: bool,
    /// The message, and on which terms it came.
    pub entry: QueueEntry,
}

/// A queue. Nothing leaves it but what is confirmed or refused.
pub trait Source: Send {
    /// Takes messages in order, up to so many and so many bytes, though one at least.
    fn take(&mut self, messages_max: usize, bytes_max: usize) -> Vec<Taken>;

    /// The message at this place has arrived.
    fn confirm(&mut self, place: u64);

    /// The message at this place will never arrive.
    fn refuse(&mut self, place: u64, reason: DropReason);

    /// Whether the time of a message that was taken is over: its own, or what the queue allows.
    fn is_too_old(&self, message: &Message, now: Time) -> bool;

    /// The time of the message at this place is over.
    fn expire(&mut self, place: u64);

    /// Whatever is not confirmed is taken again.
    fn give_back(&mut self);

    /// What waits in it.
    fn backlog(&self) -> Backlog;

    /// Ready when [`Source::take`] has something to give.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
