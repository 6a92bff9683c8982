//! Readers of a stream: each is lent all of it, in order, from its place on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::broker::Slot;
use crate::message::{Message, Parts};
use crate::properties::put_user;
use crate::streams::Until;

/// A message as it was read: offset, time, message.
pub(super) type Read = (u64, u64, Arc<Message>);

/// One reader.
pub(super) struct StreamReader {
    pub(super) slot: Arc<Slot>,
    pub(super) client_id: Arc<str>,
    pub(super) filter: Box<str>,
    pub(super) qos: u8,
    pub(super) subscription_id: u32,
    /// The next offset to be lent.
    pub(super) next: u64,
    /// What is older is not wanted.
    pub(super) since_ms: u64,
    /// Where it ends.
    pub(super) until: Option<Until>,
    /// Offsets that are lent and not acknowledged.
    pub(super) flights: BTreeSet<u64>,
    /// What was read from the store and is not lent.
    pub(super) page: VecDeque<Read>,
    pub(super) busy: bool,
    /// Messages that went before they were lent, and that the reader was not told of.
    pub(super) missed: u64,
}

impl StreamReader {
    /// Everything below has arrived.
    pub(super) fn place(&self) -> u64 {
        self.flights.first().copied().unwrap_or(self.next)
    }

    /// It wants this message no more, nor any behind it.
    pub(super) fn is_over(&self, (offset, time_ms, _): &Read) -> bool {
        self.until.is_some_and(|until| until.is_over(*offset, *time_ms))
    }

    /// What is lent has not arrived: it is read again.
    pub(super) fn begin_again(&mut self) {
        self.next = self.place();
        self.flights.clear();
        self.page.clear();
    }

    /// The next message, if it has been read. What is missing before it is counted.
    pub(super) fn front(&mut self) -> Option<&Read> {
        while let Some((offset, time, _)) = self.page.front() {
            let (offset, old) = (*offset, *time < self.since_ms);
            if offset >= self.next && !old {
                self.missed += offset - self.next;
                self.next = offset;
                return self.page.front();
            }
            self.page.pop_front();
            self.next = self.next.max(offset + u64::from(old));
        }
        None
    }
}

/// The message as a reader sees it: what its publisher said, and where it stands in the stream.
pub(super) fn with_place((offset, time, message): &Read, missed: u64) -> Arc<Message> {
    let mut properties = message.properties().to_vec();
    put_user(&mut properties, "offset", &offset.to_string());
    put_user(&mut properties, "ts", &time.to_string());
    if missed > 0 {
        put_user(&mut properties, "missed", &missed.to_string());
    }
    let parts = Parts {
        topic: message.topic(),
        properties: &properties,
        payload: message.payload(),
        qos: message.qos,
        retain: false,
        expires_at: None,
        accepted_at: message.accepted_at,
    };
    Arc::new(Message::new(&parts, None))
}
