//! Queues that no connection takes from: durable sessions of the broker's own, whose messages are taken as values. A bridge
//! has one. What is in them survives a restart with its places.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Broker, Slot};
use crate::message::{Message, Time};
use crate::queue::QueueLimits;
use crate::session::{Cx, Durability, Session, Taken};
use crate::store::{DropReason, Ledger, StoredSubscription};

/// How their client identifiers begin; clients are refused such a one.
pub const TAKER_PREFIX: &str = "$bridge/";

/// What a queue is for, and what it may hold.
#[derive(Clone, Debug)]
pub struct TakerOptions {
    /// What goes into it. What was subscribed to before and is not among these is unsubscribed.
    pub filters: Vec<TakerFilter>,
    /// Its limits and its policy.
    pub limits: QueueLimits,
    /// Messages that may be taken and not confirmed, 1 at least.
    pub window: u16,
    /// A message may be taken when the store has it, and not before, whatever its QoS.
    pub committed_only: bool,
}

/// One subscription of such a queue. RETAIN is kept as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakerFilter {
    /// The topic filter; it must be valid.
    pub filter: String,
    /// Maximum QoS. A message that was published at QoS 2 and is to go on exactly once needs 2: it is then taken after its
    /// commit only.
    pub qos: u8,
    /// What is published in the name of this queue ([`Taker::slot`]) does not come into it.
    pub no_local: bool,
}

/// How such a queue is.
#[derive(Clone, Debug, Default)]
pub struct TakerFigures {
    /// Messages in it, those in flight among them.
    pub messages: u64,
    /// Their bytes: topics, properties, payloads.
    pub bytes: u64,
    /// Milliseconds since the oldest of them was accepted; `None`: there is none, or it lies on disk since before the start.
    pub oldest_ms: Option<u64>,
    /// Messages that are taken and not confirmed.
    pub in_flight: usize,
    /// The place that the next message will have.
    pub next_place: u64,
    /// What became of all that ever was in it.
    pub ledger: Ledger,
}

/// Takes messages out of one queue. One of a name is used at a time; while there is none, the queue fills on disk.
pub struct Taker {
    broker: Arc<Broker>,
    slot: Arc<Slot>,
}

impl Broker {
    /// Opens the queue of this name, or makes it. What was taken and not confirmed before is taken again.
    pub fn open_taker(self: &Arc<Self>, name: &str, options: &TakerOptions) -> Arc<Taker> {
        self.open_taker_as(format!("{TAKER_PREFIX}{name}"), options)
    }

    pub(super) fn open_taker_as(self: &Arc<Self>, client_id: String, options: &TakerOptions) -> Arc<Taker> {
        let cx = self.cx();
        let slot = {
            let mut sessions = self.sessions.lock();
            let made = || Slot::new(Session::new(self.session_no(), client_id.as_str()));
            sessions.entry(client_id.as_str().into()).or_insert_with(made).clone()
        };
        slot.with(self, |session| {
            session.open_for_taking(options.limits.clone(), options.window, cx);
            session.take_committed_only(options.committed_only);
            session.give_back(cx);
        });
        let before = slot.look(|session| session.subscriptions().to_vec());
        let wanted: Vec<StoredSubscription> = options.filters.iter().map(stored).collect();
        for gone in before.iter().filter(|known| wanted.iter().all(|filter| filter.filter != known.filter)) {
            self.unsubscribe(&slot, &gone.filter);
        }
        for filter in wanted.into_iter().filter(|filter| !before.contains(filter)) {
            self.subscribe(&slot, filter);
        }
        Arc::new(Taker { broker: self.clone(), slot })
    }

    /// All such queues by name, those among them that nobody has opened since the start.
    #[must_use]
    pub fn takers(&self) -> Vec<(String, TakerFigures)> {
        let now = self.clock.now();
        let name = |slot: &Slot| slot.look(|s| s.client_id().strip_prefix(TAKER_PREFIX).map(str::to_owned));
        self.all_slots().iter().filter_map(|slot| Some((name(slot)?, figures(slot, now)))).collect()
    }

    /// Queues of such names as nobody will open are filled no more: one that is empty ends, and what another has is kept. To be called
    /// before anybody can publish.
    pub fn leave_takers(self: &Arc<Self>, is_known: impl Fn(&str) -> bool) {
        for slot in self.all_slots() {
            let client_id = slot.client_id();
            let Some(name) = client_id.strip_prefix(TAKER_PREFIX).filter(|name| !is_known(name)) else { continue };
            let (messages, bytes) = slot.look(|session| session.fill());
            if messages == 0 {
                self.end_session(&slot);
                continue;
            }
            let filters = slot.look(|session| session.subscriptions().to_vec());
            for known in filters {
                self.unsubscribe(&slot, &known.filter);
            }
            tracing::warn!(
                queue = &**client_id,
                messages,
                bytes,
                "the configuration has no bridge \"{name}\": its messages are kept, it takes no more; name it again to send them, or \
                 drop them with `forebay ctl end '{client_id}'`"
            );
        }
    }

    /// Ends the queue of this name: what is in it is dropped and counted. False: there is none.
    pub fn remove_taker(self: &Arc<Self>, name: &str) -> bool {
        let Some(slot) = self.slot_of(&format!("{TAKER_PREFIX}{name}")) else { return false };
        self.end_session(&slot);
        true
    }
}

impl Taker {
    /// Takes messages in order: up to so many, and so many bytes, though one at least if there is one. They are in flight
    /// until they are confirmed, refused or given back; [`TakerOptions::window`] bounds how many.
    #[must_use]
    pub fn take(&self, messages_max: usize, bytes_max: usize) -> Vec<Taken> {
        let cx = self.broker.cx();
        self.slot.with(&self.broker, |session| session.take(messages_max, bytes_max, cx))
    }

    /// The messages taken at these places have arrived. Returns how many of the places were in flight.
    pub fn confirm(&self, places: &[u64]) -> usize {
        self.slot.with(&self.broker, |session| places.iter().filter(|place| session.confirm(**place)).count())
    }

    /// The message taken at this place leaves the queue, and `message` comes into `to`, which may be the same queue, in one commit.
    pub fn move_to(&self, place: u64, to: &Self, message: &Arc<Message>) {
        let _one_commit = self.broker.writer.gate();
        // First, so that a full queue has room for what comes back into it.
        self.confirm(&[place]);
        self.broker.put_into(&to.slot, message, Durability::Moved);
    }

    /// The message taken at this place will never arrive: it is dropped and counted. False: it is not in flight.
    pub fn refuse(&self, place: u64, reason: DropReason) -> bool {
        self.slot.with(&self.broker, |session| session.refuse_taken(place, reason))
    }

    /// Whether the time of a message that was taken is over by now: its own, or what the queue allows.
    #[must_use]
    pub fn is_too_old(&self, message: &Message, now: Time) -> bool {
        let cx = Cx { now, ..self.broker.cx() };
        self.slot.look(|session| session.outlived(message, cx))
    }

    /// The message taken at this place is too old: it is counted as expired. False: it is not in flight.
    pub fn expire(&self, place: u64) -> bool {
        self.slot.with(&self.broker, |session| session.expire_taken(place))
    }

    /// The connection to where they go is lost: whatever is not confirmed is taken again, in order and marked as repeated.
    /// Until the next [`Taker::take`] the queue waits on disk.
    pub fn give_back(&self) {
        let cx = self.broker.cx();
        self.slot.with(&self.broker, |session| session.give_back(cx));
    }

    /// Ready when [`Taker::take`] has something to give. The waker of the last call is woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.slot.serve_taker(cx.waker());
        match self.slot.with(&self.broker, |session| session.has_something_to_take()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// As [`Taker::poll_ready`]. Dropping it loses nothing.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + '_ {
        std::future::poll_fn(|cx| self.poll_ready(cx))
    }

    /// How the queue is.
    #[must_use]
    pub fn figures(&self) -> TakerFigures {
        figures(&self.slot, self.broker.clock.now())
    }

    /// Drops everything that is not in flight, counted as purged; returns how many messages that were.
    pub fn purge(&self) -> u64 {
        self.slot.with(&self.broker, Session::purge)
    }

    /// The queue's session: the origin of what is published in its name.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl std::fmt::Debug for Taker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taker")
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn stored(filter: &TakerFilter) -> StoredSubscription {
    StoredSubscription {
        filter: filter.filter.clone(),
        qos: filter.qos,
        no_local: filter.no_local,
        retain_as_published: true,
        subscription_id: 0,
        retained_behind: None,
    }
}

fn figures(slot: &Slot, now: Time) -> TakerFigures {
    slot.look(|session| {
        let (messages, bytes) = session.fill();
        TakerFigures {
            messages,
            bytes,
            oldest_ms: session.oldest_at().map(|at| now.since(at)),
            in_flight: session.in_flight(),
            next_place: session.next_place(),
            ledger: session.ledger().0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand::{broker, publish};
    use crate::queue::Policy;

    #[test]
    fn a_queue_that_nobody_opens_any_more_is_filled_no_more() {
        let (broker, _store) = broker();
        let filter = |filter: &str| TakerFilter { filter: filter.to_owned(), qos: 1, no_local: false };
        let limits = QueueLimits { policy: Policy::Reject, ..broker.cx().settings.queue.clone() };
        let options = |name: &str| TakerOptions {
            filters: vec![filter(name)],
            limits: limits.clone(),
            window: 1,
            committed_only: false,
        };
        for name in ["known", "gone", "empty"] {
            let _ = broker.open_taker(name, &options(name));
        }
        ["known", "gone"].into_iter().for_each(|topic| publish(&broker, topic));
        broker.leave_takers(|name| name == "known");
        ["known", "gone", "empty"].into_iter().for_each(|topic| publish(&broker, topic));
        let mut found: Vec<_> = broker.takers().into_iter().map(|(name, figures)| (name, figures.messages)).collect();
        found.sort();
        assert_eq!(found, [("gone".to_owned(), 1), ("known".to_owned(), 2)]);
    }
}
