//! Counters: what was accepted or restored has been acknowledged, written, dropped for a reason, or is in the outbox.

use crate::error::Dropped;

/// What this client has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that `publish` accepted.
    pub accepted: u64,
    /// Messages that an earlier run of the program left in the durable outbox.
    pub restored: u64,
    /// Files that had been the durable outbox and were gone, empty or damaged at the start: set aside beside it.
    pub unreadable_files: u64,
    /// Messages in the durable outbox that were damaged or could not be read at the start, and are lost.
    pub unreadable_messages: u64,
    /// PUBLISH packets of new messages that were given to the socket.
    pub sent: u64,
    /// PUBLISH packets that were repeated after a session was resumed.
    pub repeated: u64,
    /// QoS 1 and 2 messages that the server has acknowledged.
    pub acked: u64,
    /// QoS 0 messages that were written to the socket.
    pub written: u64,
    /// Times the server had no room and the message stayed in the outbox.
    pub refused_for_now: u64,
    /// Times the server refused a message that stayed in the outbox all the same ([`Options::when_refused`](crate::Options::when_refused)).
    pub put_off: u64,
    /// Dropped: expired while they waited.
    pub expired: u64,
    /// Dropped: to make room.
    pub evicted: u64,
    /// Dropped: replaced by a later one of the same topic.
    pub replaced: u64,
    /// Dropped: the server refused them, or does not take their like.
    pub refused: u64,
    /// Dropped: the server ended every connection when they came.
    pub set_aside: u64,
    /// Dropped: QoS 0 messages in the socket's buffer when the connection was lost.
    pub lost_unwritten: u64,
    /// Dropped: the client ended first.
    pub ended: u64,
    /// Messages that came.
    pub received: u64,
    /// Messages that came and were larger than the largest that is taken, skipped.
    pub too_large: u64,
    /// Messages that came and that no subscription matched, dropped.
    pub unclaimed: u64,
    /// Connections made.
    pub connections: u64,
    /// Messages in the outbox now, and those of QoS 0 that are not written to the socket yet. When the client has ended:
    /// those that the durable outbox keeps.
    pub outbox_messages: usize,
    /// Bytes in the outbox now.
    pub outbox_bytes: usize,
    /// QoS 1 and 2 messages of these that are in flight.
    pub in_flight: usize,
}

impl Stats {
    /// All that was dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.expired + self.evicted + self.replaced + self.refused + self.set_aside + self.lost_unwritten + self.ended
    }

    pub(crate) fn count(&mut self, why: &Dropped) {
        match why {
            Dropped::Expired => self.expired += 1,
            Dropped::Evicted => self.evicted += 1,
            Dropped::Replaced => self.replaced += 1,
            Dropped::Refused(_) | Dropped::NotTaken(_) => self.refused += 1,
            Dropped::SetAside { .. } => self.set_aside += 1,
            Dropped::ConnectionLost => self.lost_unwritten += 1,
            Dropped::Ended(_) => self.ended += 1,
        }
    }
}
