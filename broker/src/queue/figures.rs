//! What can be seen of a queue from outside.

use super::holder::Holder;
use super::places::Queue;
use crate::message::Time;

/// A queue in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages sent and not acknowledged.
    pub in_flight: u64,
    /// Messages that may be in flight at once: the client's Receive Maximum, or less.
    pub window: u16,
    /// Messages that are in memory, those in flight included.
    pub in_memory: u64,
    /// When the oldest message was accepted; `None` when there is none, or when it is on disk and was not read yet.
    pub oldest: Option<Time>,
    /// Places whose messages are on disk only, the holes among them included: from, up to.
    pub on_disk: Option<(u64, u64)>,
}

impl Queue {
    /// In numbers. `window`: what its taker may hold at once.
    pub(crate) fn figures(&self, holder: &impl Holder, window: u16) -> QueueFigures {
        let in_flight = holder.held().count();
        QueueFigures {
            messages: self.queued,
            bytes: self.queued_bytes,
            in_flight: in_flight as u64,
            window,
            in_memory: (in_flight + self.places.next.len() + self.places.pending.len()) as u64,
            oldest: self.oldest_at(holder),
            on_disk: self.disk_range(),
        }
    }
}
