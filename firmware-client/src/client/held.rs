//! Messages that stay in the input until somebody asks for them: for adapters whose receiver is another task than the one
//! that serves the connection.

use super::{Client, Phase};
use crate::input::Input;
use forebay_wire::frame;

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Messages are not told of.
    on: bool,
    /// One waits.
    stalled: bool,
}

impl Held {
    pub(super) const fn new() -> Self {
        Self { on: false, stalled: false }
    }
}

impl Client<'_> {
    /// While it is on, [`poll_event`](Self::poll_event) stops before a message, and acknowledges none.
    pub(crate) fn hold_messages(&mut self, on: bool) {
        self.held.on = on;
    }

    /// Whether a message, or a piece of one, waits to be asked for. The server is not given up meanwhile: it is this
    /// device that does not listen.
    pub(crate) fn is_stalled(&self) -> bool {
        self.held.stalled
    }

    /// Wants a connection again, at the time it would have been made.
    pub(crate) fn want_connection(&mut self) {
        self.stopped = false;
    }

    /// Ends the connection, if it has not been ended yet.
    pub(crate) fn part(&mut self, now: u64) {
        if !self.stopped {
            self.disconnect(now);
        }
    }

    /// Whether an acknowledgement is to be sent.
    pub(crate) fn owes(&self) -> bool {
        self.inbound.any_due()
    }

    pub(super) fn release_unless_held(&mut self) {
        if !self.held.on {
            self.inbound.release();
        }
    }

    pub(super) fn holds_back(&mut self, input: &Input<'_>) -> bool {
        let pending = input.pending();
        let is_message = self.stream.is_idle() && pending.first().is_some_and(|first| first >> 4 == frame::PUBLISH);
        let piece = self.stream.has_more(!pending.is_empty());
        self.held.stalled = self.held.on && self.phase == Phase::Up && (is_message || piece);
        self.held.stalled
    }
}
