//! Retained messages that subscriptions have asked for and that the session has not been given yet. They come a few at a
//! time, as there is room; what is kept here is where that has come to. It outlives a connection as the session does.

use std::collections::BTreeSet;

use super::{Cx, Session, Urgency};
use crate::queue::HalfRoom;
use crate::router::Place;
use crate::store::StoredSubscription;

/// Messages that are looked for at once.
const AT_ONCE: usize = 32;

/// What one subscription has been given.
#[derive(Debug)]
pub struct RetainedCursor {
    /// Its topic filter.
    pub filter: Box<str>,
    /// Where it has come to.
    pub place: Place,
}

/// What is left. Filters are in it once, so it is bounded by the subscriptions, and the place of one only is kept.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    current: Option<RetainedCursor>,
    waiting: BTreeSet<Box<str>>,
}

impl Session {
    /// A subscription is to be given all retained messages that match. One that waits for them already waits once; one that
    /// has been given some is given all of them after that.
    pub fn want_retained(&mut self, filter: &str) {
        if self.is_subscribed(filter) {
            self.retained.get_or_insert_default().waiting.insert(filter.into());
        }
    }

    /// Whether there is any left to be given.
    #[must_use]
    pub fn wants_retained(&self) -> bool {
        self.retained.is_some()
    }

    /// The next to be given, and its subscription; it is to be brought back with [`Session::keep_cursor`] unless it is at its
    /// end.
    pub fn take_cursor(&mut self) -> Option<(RetainedCursor, StoredSubscription)> {
        let wanted = self.retained.as_mut()?;
        let next = || wanted.waiting.pop_first().map(|filter| RetainedCursor { filter, place: Place::default() });
        let Some(cursor) = wanted.current.take().or_else(next) else {
            self.retained = None;
            return None;
        };
        let at = self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(&cursor.filter)).ok()?;
        let subscription = self.subscriptions.get(at)?.clone();
        Some((cursor, subscription))
    }

    /// Goes on with this one.
    pub fn keep_cursor(&mut self, cursor: RetainedCursor) {
        self.retained.get_or_insert_default().current = Some(cursor);
    }

    /// The filter is not subscribed any more.
    pub(super) fn forget_retained(&mut self, filter: &str) {
        if let Some(wanted) = &mut self.retained {
            wanted.waiting.remove(filter);
            wanted.current.take_if(|cursor| *cursor.filter == *filter);
            if wanted.current.is_none() && wanted.waiting.is_empty() {
                self.retained = None;
            }
        }
    }

    /// How many retained messages it takes now, at the QoS of the subscription at most. They fill half of a queue or buffer
    /// at most: the other half is for what is published.
    pub fn room_for_retained(&mut self, qos: u8, cx: Cx<'_>) -> usize {
        if qos == 0 {
            return if self.takes_retained_qos0(cx) { AT_ONCE } else { 0 };
        }
        match self.queue.half_room(cx.rules(), self.queue_kept()) {
            HalfRoom::For(messages) => messages.min(AT_ONCE),
            HalfRoom::AfterCommit => {
                self.want(Urgency::Now);
                0
            }
        }
    }

    /// Whether a retained message is let into the socket's buffer at QoS 0.
    #[must_use]
    pub fn takes_retained_qos0(&self, cx: Cx<'_>) -> bool {
        self.takes_qos0(cx) && self.out.len() <= cx.settings.outbound_buffer / 2
    }

    /// Whether a QoS 0 message is let into the socket's buffer.
    #[must_use]
    pub fn takes_qos0(&self, cx: Cx<'_>) -> bool {
        self.connected && self.out.len() < cx.settings.outbound_buffer
    }
}
