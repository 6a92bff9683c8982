//! What came through shared subscriptions and may have been sent at QoS 2 is for nobody else [MQTT5-4.8.2-5], after a crash
//! too. How far a queue was sent is as old as the last commit then; so a commit promises places before they are sent: as
//! many ahead as may be in flight, so that it comes with the commits that QoS 2 needs anyway. A queue that nothing of the
//! kind comes to promises nothing.

use super::places::{Presence, Queue};
use crate::store::{QueueEntry, QueueState};

/// How far the promises of a queue have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promise {
    /// A commit has promised the places below.
    committed: u64,
    /// Places below may have been sent before the broker started.
    before: u64,
    /// There has been something to promise.
    wanted: bool,
}

impl Promise {
    pub(super) fn recover(state: &QueueState) -> Self {
        Self { committed: state.promised, before: state.promised, wanted: false }
    }

    /// A message has come.
    pub(super) fn note(&mut self, item: &QueueEntry) {
        self.wanted |= is_for_one(item);
    }

    /// Whether the message may have been sent before the broker started, so that it is for nobody else.
    pub(super) fn was_sent(self, item: &QueueEntry) -> bool {
        is_for_one(item) && item.seq < self.before
    }
}

/// Whether it is for nobody else once it has been sent.
fn is_for_one(item: &QueueEntry) -> bool {
    item.qos == 2 && item.shared.is_some()
}

impl Queue {
    /// Whether a commit must promise the place of the message that is next before it is sent.
    pub(crate) fn wants_promise(&mut self) -> bool {
        let committed = self.places.promise.committed;
        let wants = self.first().is_some_and(|entry| is_for_one(&entry.item) && entry.item.seq >= committed);
        if wants {
            self.places.promise.wanted = true;
        }
        wants
    }

    /// What the state promises, after [`Queue::collect`]: places below. `window`: how many messages may be in flight.
    pub(crate) fn promised(&self, presence: Presence, window: u16) -> u64 {
        let places = &*self.places;
        if !places.promise.wanted {
            return places.promise.before;
        }
        let ahead = match presence {
            Presence::There => u64::from(window.max(1)),
            // All that was sent lies before what waits.
            Presence::Away => 0,
        };
        places.promise.before.max((self.oldest_waiting() + ahead).min(places.collected))
    }

    /// The commit of this promise is done.
    pub(crate) fn has_promised(&mut self, promised: u64) {
        if self.places.is_made() {
            self.places.promise.committed = promised;
        }
    }
}
