//! What has come from the transport and is not handled yet.

use crate::bytes;

/// The receive buffer, over memory of the caller. It belongs to whoever reads the transport, so that reading never
/// needs the client: read into [`space`](Self::space), say how much came with [`commit`](Self::commit), and give it to
/// [`Client::poll_event`](crate::Client::poll_event).
///
/// A PUBLISH that is larger than the buffer comes in pieces. One whose topic name and properties are larger is refused
/// ([`Event::MessageRefused`](crate::Event::MessageRefused)). Acknowledgements of messages, and DISCONNECT, are understood without
/// the properties that do not fit, such as `retry-after-ms`. Any other packet has to fit. 128 bytes and the longest topic are a good
/// minimum for MQTT 5.
#[derive(Debug)]
pub struct Input<'b> {
    memory: &'b mut [u8],
    start: usize,
    end: usize,
    /// Something has come since the client looked.
    fresh: bool,
}

impl<'b> Input<'b> {
    /// An empty buffer over `memory`.
    pub fn new(memory: &'b mut [u8]) -> Self {
        Self { memory, start: 0, end: 0, fresh: false }
    }

    /// Where the next bytes of the transport go. Empty only while there are packets for
    /// [`poll_event`](crate::Client::poll_event).
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            let len = self.end.wrapping_sub(self.start);
            bytes::shift(self.memory, self.start, 0, len);
            self.start = 0;
            self.end = len;
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `len` bytes of [`space`](Self::space) are filled.
    #[inline(never)]
    pub fn commit(&mut self, len: usize) {
        self.end = self.end.saturating_add(len).min(self.memory.len());
        self.fresh |= len > 0;
    }

    /// Copies bytes in, as many as fit; how many that was.
    pub fn fill(&mut self, from: &[u8]) -> usize {
        let len = bytes::copy(self.space(), from);
        self.commit(len);
        len
    }

    /// Forgets everything: for a new connection.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        self.fresh = false;
    }

    /// Whether something has come since this was asked before.
    pub(crate) fn take_fresh(&mut self) -> bool {
        core::mem::replace(&mut self.fresh, false)
    }

    /// Bytes that are not handled yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// The size of the memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Where the first byte that is not handled lies. Bytes stay where they are until the next [`space`](Self::space).
    pub(crate) fn position(&self) -> usize {
        self.start
    }

    /// Whether no more can come before something is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.start == 0 && self.end == self.memory.len()
    }

    /// At most `len` bytes are handled.
    pub(crate) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
    }

    /// Bytes that were handled and not moved yet.
    pub(crate) fn part(&self, at: usize, len: usize) -> &[u8] {
        self.memory.get(at..at.wrapping_add(len)).unwrap_or_default()
    }
}
