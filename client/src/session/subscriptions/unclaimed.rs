//! QoS 1 and 2 messages that no subscription matches, for who subscribes later.

use std::collections::VecDeque;
use std::time::Instant;

use crate::message::Received;
use crate::options::Inbox;

/// QoS 1 and 2 messages that nobody has.
#[derive(Default)]
pub(super) struct Unclaimed {
    /// Until when each is kept; `None`: for ever.
    queue: VecDeque<(Option<Instant>, Received)>,
    bytes: usize,
}

impl Unclaimed {
    pub(super) fn push(&mut self, until: Option<Instant>, received: Received) {
        self.bytes += received.size();
        self.queue.push_back((until, received));
    }

    pub(super) fn take(&mut self) -> VecDeque<(Option<Instant>, Received)> {
        self.bytes = 0;
        std::mem::take(&mut self.queue)
    }

    pub(super) fn give_up(&mut self, limits: &Inbox, now: Instant) -> Option<Received> {
        let (until, _) = self.queue.front()?;
        let over = self.queue.len() > limits.max_unclaimed || self.bytes > limits.max_bytes;
        if !over && until.is_none_or(|until| now < until) {
            return None;
        }
        let (_, received) = self.queue.pop_front()?;
        self.bytes -= received.size();
        Some(received)
    }

    /// When the oldest has been kept for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queue.front().and_then(|(until, _)| *until)
    }
}
