//! What is encoded for the socket. A large payload is not copied for each subscriber: all of them write it from the one
//! message that they share, so that a publication for thousands costs each of them a header.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::Message;

/// Payloads from this size on are shared.
pub const SHARED_PAYLOAD_BYTES: usize = 8 * 1024;

/// Whole packets: bytes, and behind them the payload that ends the last one, if it is shared.
#[derive(Default)]
pub struct Encoded {
    /// What is this subscriber's own.
    pub bytes: Vec<u8>,
    shared: Option<Arc<Message>>,
    /// Messages in it, but for those that were copied as whole frames.
    pub messages: u32,
}

impl Encoded {
    /// Bytes with nothing behind them.
    #[must_use]
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, shared: None, messages: 0 }
    }

    /// The payload that follows the bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.shared.as_deref().map_or(&[], Message::payload)
    }

    /// How many bytes it is together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.payload().len()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What lies in one piece behind the first `written` bytes; empty at the end.
    #[must_use]
    pub fn rest(&self, written: usize) -> &[u8] {
        match self.bytes.get(written..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => self.payload().get(written.saturating_sub(self.bytes.len())..).unwrap_or_default(),
        }
    }
}

/// Whether QoS 0 messages are dropped because the socket takes too little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Overflow {
    /// None since the socket took everything.
    #[default]
    No,
    /// The first one was dropped, and nobody has been told.
    New,
    /// It has been said.
    Said,
}

/// What waits for the socket.
#[derive(Default)]
pub(super) struct Out {
    /// The newest: packets are appended here.
    pub(super) buf: Vec<u8>,
    /// What is before it. `None`: nothing.
    before: Option<Box<Before>>,
    /// Messages of the queue at QoS 0 in the newest.
    pub(super) qos0: u32,
    /// Messages in the newest.
    messages: u32,
    pub(super) overflow: Overflow,
}

/// Pieces that end with a shared payload, each with the QoS 0 messages in it.
#[derive(Default)]
struct Before {
    pieces: VecDeque<(Encoded, u32)>,
    bytes: usize,
}

impl Out {
    /// Bytes that wait, those of shared payloads included.
    pub(super) fn len(&self) -> usize {
        self.buf.len() + self.before.as_ref().map_or(0, |before| before.bytes)
    }

    /// The packet that was written last is a QoS 0 message of the queue.
    pub(super) fn count_qos0(&mut self) {
        let last = self.before.as_mut().filter(|_| self.buf.is_empty()).and_then(|before| before.pieces.back_mut());
        *last.map_or(&mut self.qos0, |(_, qos0)| qos0) += 1;
    }

    /// A message is written at the end of the buffer.
    pub(super) fn count_message(&mut self) {
        self.messages += 1;
    }

    /// Messages that wait.
    pub(super) fn messages(&self) -> usize {
        let before = self.before.iter().flat_map(|before| &before.pieces).map(|(piece, _)| piece.messages).sum::<u32>();
        (self.messages + before) as usize
    }

    /// The packet at the end of the buffer goes on with this message's payload.
    pub(super) fn share(&mut self, message: Arc<Message>) {
        let messages = std::mem::take(&mut self.messages);
        let piece = Encoded { bytes: std::mem::take(&mut self.buf), shared: Some(message), messages };
        let before = self.before.get_or_insert_default();
        before.bytes += piece.len();
        before.pieces.push_back((piece, std::mem::take(&mut self.qos0)));
    }

    /// Takes the oldest piece, and says how many messages of the queue at QoS 0 are in it.
    pub(super) fn take(&mut self) -> (Encoded, u32) {
        let Some(before) = &mut self.before else {
            let messages = std::mem::take(&mut self.messages);
            let piece = Encoded { messages, ..Encoded::of(std::mem::take(&mut self.buf)) };
            return (piece, std::mem::take(&mut self.qos0));
        };
        let (piece, qos0) = before.pieces.pop_front().unwrap_or_default();
        before.bytes -= piece.len();
        if before.pieces.is_empty() {
            self.before = None;
        }
        (piece, qos0)
    }

    /// Gives everything up.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Parts, Time};

    fn message(payload: &[u8]) -> Arc<Message> {
        let parts = Parts {
            topic: "t",
            properties: &[],
            payload,
            qos: 0,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    }

    #[test]
    fn pieces_come_in_order_and_each_with_its_messages() {
        let (mut out, large) = (Out::default(), message(b"large"));
        out.buf.extend_from_slice(b"small head1 ");
        out.count_qos0();
        out.share(large.clone());
        out.count_qos0();
        out.buf.extend_from_slice(b"head2 ");
        out.share(large.clone());
        out.buf.extend_from_slice(b"last");
        out.count_qos0();
        assert_eq!(out.len(), b"small head1 largehead2 largelast".len());
        assert_eq!(Arc::strong_count(&large), 3, "nobody has a copy");
        let mut came = Vec::new();
        while out.len() > 0 {
            let (piece, qos0) = out.take();
            let mut bytes = Vec::new();
            while !piece.rest(bytes.len()).is_empty() {
                // One byte at a time, as a slow socket may take it.
                bytes.push(piece.rest(bytes.len())[0]);
            }
            assert_eq!(bytes.len(), piece.len());
            came.push((String::from_utf8(bytes).unwrap(), qos0));
        }
        let expected = [("small head1 large", 2), ("head2 large", 0), ("last", 1)];
        assert_eq!(came, expected.map(|(text, qos0)| (text.to_owned(), qos0)));
        assert_eq!(out.qos0, 0);
    }

    #[test]
    fn what_is_given_up_lets_go_of_what_it_shared() {
        let (mut out, large) = (Out::default(), message(b"large"));
        out.share(large.clone());
        out.buf.push(1);
        out.clear();
        assert_eq!((out.len(), Arc::strong_count(&large)), (0, 1));
    }
}
