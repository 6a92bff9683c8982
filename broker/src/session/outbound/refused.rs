//! What a commit could not keep goes, as if it had never come.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashSet;

use super::{Entry, Outbound};
use crate::message::Message;
use crate::session::{Cx, Session};

/// Messages that a commit could not keep, and whose publishers have been told so. By address: whoever asks has them.
#[derive(Debug, Default)]
pub struct Refused(HashSet<usize>);

impl Refused {
    /// One more.
    pub fn add(&mut self, message: &Arc<Message>) {
        self.0.insert(Arc::as_ptr(message).addr());
    }

    /// Whether the message is one of them.
    #[must_use]
    pub fn holds(&self, message: &Arc<Message>) -> bool {
        self.0.contains(&Arc::as_ptr(message).addr())
    }
}

impl Session {
    /// After [`Session::not_committed`]: what was refused is not kept. What was sent before the commit stays until the
    /// client acknowledges it.
    pub fn take_back(&mut self, refused: &Refused, cx: Cx<'_>) {
        if self.ended || refused.0.is_empty() || !self.outbound.flow.is_made() {
            return;
        }
        let o = &mut self.outbound;
        for flight in o.flow.inflight.iter_mut().filter(|flight| flight.awaiting) {
            if let Some(item) = flight.item.as_ref().filter(|item| refused.holds(&item.message)) {
                item.message.settle();
                flight.awaiting = false;
            }
        }
        let committed = o.flow.committed;
        let goes = |entry: &Entry| entry.item.seq >= committed && refused.holds(&entry.item.message);
        let (queue, pending) = (std::mem::take(&mut o.flow.queue), std::mem::take(&mut o.flow.pending));
        o.flow.queue = o.without(queue, goes);
        o.flow.pending = o.without(pending, goes);
        o.flow.queue_bytes = o.flow.queue.iter().map(|entry| entry.item.message.size()).sum();
        self.pump(cx);
    }
}

impl Outbound {
    fn without(&mut self, list: VecDeque<Entry>, goes: impl Fn(&Entry) -> bool) -> VecDeque<Entry> {
        let (gone, kept): (VecDeque<Entry>, VecDeque<Entry>) = list.into_iter().partition(goes);
        for entry in gone {
            if entry.awaiting {
                entry.item.message.settle();
            }
            // Its publisher was told that it was not accepted.
            self.ledger.accepted -= 1;
            self.gone(entry.item.message.size());
        }
        kept
    }
}
