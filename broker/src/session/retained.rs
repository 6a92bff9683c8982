//! Retained messages that subscriptions have asked for and that the session has not been given yet. They come a few at a
//! time, as there is room; what is kept here is where that has come to. It outlives a connection as the session does, and a
//! restart: at QoS 1 and 2 the subscription's row says what it is to be given still, and a commit that holds messages which
//! the cursor has put into the queue holds how far it came with them.

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
    /// Messages have been given that the place on disk is not behind.
    moved: bool,
}

impl RetainedCursor {
    fn at(filter: Box<str>, place: Place) -> Self {
        Self { filter, place, moved: false }
    }

    /// The message of this topic has been given.
    pub fn move_behind(&mut self, topic: &str) {
        self.place.move_behind(topic);
        self.moved = true;
    }
}

/// What is left. Filters are in it once, so it is bounded by the subscriptions, and the place of one only is kept.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    current: Option<RetainedCursor>,
    waiting: BTreeSet<Box<str>>,
}

impl Wanted {
    /// Behind which topic a subscription is to be given messages still.
    fn rest_of(&self, filter: &str) -> Option<Box<str>> {
        if self.waiting.contains(filter) {
            return Some("".into());
        }
        let current = self.current.as_ref().filter(|cursor| *cursor.filter == *filter);
        current.map(|cursor| cursor.place.topic().into())
    }

    /// As the store found it.
    fn recover(&mut self, filter: &str, behind: &str) {
        if behind.is_empty() || self.current.is_some() {
            self.waiting.insert(filter.into());
        } else {
            self.current = Some(RetainedCursor::at(filter.into(), Place::behind(behind)));
        }
    }
}

impl Session {
    /// A subscription is to be given all retained messages that match. One that waits for them already waits once; one that
    /// has been given some is given all of them after that.
    pub fn want_retained(&mut self, filter: &str) {
        if self.is_subscribed(filter) {
            self.retained.get_or_insert_default().waiting.insert(filter.into());
            self.rest_changed(filter);
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
        let next = || wanted.waiting.pop_first().map(|filter| RetainedCursor::at(filter, Place::default()));
        let Some(cursor) = wanted.current.take().or_else(next) else {
            self.retained = None;
            return None;
        };
        let at = self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(&cursor.filter)).ok()?;
        let subscription = self.subscriptions.get(at)?.clone();
        Some((cursor, subscription))
    }

    /// Goes on with this one.
    pub fn keep_cursor(&mut self, mut cursor: RetainedCursor) {
        if std::mem::take(&mut cursor.moved) {
            self.rest_changed(&cursor.filter);
        }
        self.retained.get_or_insert_default().current = Some(cursor);
    }

    /// This one is at its end.
    pub fn end_cursor(&mut self, cursor: &RetainedCursor) {
        self.rest_changed(&cursor.filter);
    }

    /// What the subscription is to be given still is not what the store knows. At QoS 0 the store does not know: what a
    /// broker that was killed had sent must not come twice.
    fn rest_changed(&mut self, filter: &str) {
        let has_acks = |at: usize| self.subscriptions.get(at).is_some_and(|s| s.qos > 0);
        if self.durable()
            && self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(filter)).is_ok_and(has_acks)
            && let Some(persist) = &mut self.persist
        {
            persist.retained_moved.insert(filter.into());
            self.want(Urgency::Lazy);
        }
    }

    /// The subscriptions that a commit writes: those that were made, and those that have been given retained messages, each
    /// with what it is to be given still.
    pub(super) fn collect_subscriptions(&mut self) -> Vec<StoredSubscription> {
        let Some(persist) = &mut self.persist else { return Vec::new() };
        let mut all = std::mem::take(&mut persist.subscribed);
        let mut moved = std::mem::take(&mut persist.retained_moved);
        for subscription in &all {
            moved.remove(subscription.filter.as_str());
        }
        let find = |filter: &str| self.subscriptions.binary_search_by(|s| s.filter.as_str().cmp(filter)).ok();
        let known = |filter: Box<str>| find(&filter).and_then(|at| self.subscriptions.get(at)).cloned();
        all.extend(moved.into_iter().filter_map(known));
        for subscription in &mut all {
            let wanted = self.retained.as_ref().filter(|_| subscription.qos > 0);
            subscription.retained_behind = wanted.and_then(|wanted| wanted.rest_of(&subscription.filter));
        }
        all
    }

    /// After a restart: what the subscriptions are to be given still.
    pub(super) fn recover_retained(&mut self) {
        for subscription in &mut self.subscriptions {
            if let Some(behind) = subscription.retained_behind.take() {
                self.retained.get_or_insert_default().recover(&subscription.filter, &behind);
            }
        }
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
        self.connected && !self.out_is_full(cx)
    }
}
