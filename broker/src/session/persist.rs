//! What the session tells the store. Nothing is written twice, and nothing that was acknowledged in time is written.

use std::collections::BTreeSet;

use super::{Cx, Session, Urgency};
use crate::message::Time;
use crate::queue::Presence;
use crate::store::{QueueState, RecoveredSession, SessionDelta, SessionRecord, StoredSubscription};

/// Bookkeeping of a session that the store knows.
#[derive(Default)]
pub(crate) struct Persist {
    /// The record must be written.
    pub(crate) record: bool,
    /// The state must be written.
    pub(crate) changed: bool,
    pub(crate) subscribed: Vec<StoredSubscription>,
    pub(crate) unsubscribed: Vec<String>,
    /// Filters of subscriptions that have been given retained messages, or are to be given them.
    pub(crate) retained_moved: BTreeSet<Box<str>>,
    /// The number of the delta that is being filled.
    pub(crate) open: u64,
    /// The store has rows of this session.
    stored: bool,
    /// The queue may be in the store: only for sessions that outlive their connection.
    ended_told: bool,
}

/// What a session gave to one commit.
#[derive(Debug)]
pub struct Collected {
    /// What to write.
    pub delta: SessionDelta,
    /// Delta number, for [`Session::committed`].
    pub mark: u64,
    /// Places below are in this or an earlier delta.
    pub upto: u64,
    /// What its state promises, see [`QueueState::promised`].
    promised: u64,
}

impl Session {
    /// A session as the store found it. It is away, since `disconnected_at` or since the start.
    #[must_use]
    pub fn recover(found: &RecoveredSession, record: &SessionRecord, now: Time) -> Self {
        let mut session = Self::new(found.no, record.client_id.as_str());
        session.version = match record.protocol {
            5 => forebay_wire::types::Version::V5,
            3 => forebay_wire::types::Version::V31,
            _ => forebay_wire::types::Version::V311,
        };
        session.expiry_s = record.expiry_s;
        // One that was to end with its connection has what it kept before.
        session.kept = record.expiry_s > 0 || found.state.queued > 0;
        session.disconnected_at = Some(record.disconnected_at.unwrap_or(now));
        session.will = record.will.clone().map(Box::new);
        session.subscriptions.clone_from(&found.subscriptions);
        session.subscriptions.sort_by(|a, b| a.filter.cmp(&b.filter));
        session.wildcard_levels = session.subscriptions.iter().map(|s| crate::router::branching(&s.filter)).sum();
        session.recover_retained();
        session.persist = Some(Box::new(Persist {
            open: 1,
            stored: true,
            record: record.disconnected_at.is_none(),
            ..Persist::default()
        }));
        if record.disconnected_at.is_none() {
            // Or its time, and its will's delay, would begin anew with every start.
            session.want(Urgency::Lazy);
        }
        session.inbound.ids.extend(found.state.inbound.iter().copied());
        let presence = if record.disconnected_at.is_none() { Presence::There } else { Presence::Away };
        session.queue.recover(&found.state, presence);
        if !found.state.released.is_empty() {
            session.flights.released_before.clone_from(&found.state.released);
        }
        session
    }

    /// The record (or whether there is one) has changed. `was_durable`: before the change.
    pub(crate) fn record_changed(&mut self, was_durable: bool) {
        self.kept |= self.expiry_s > 0;
        if !self.kept && self.will.is_none() && !self.persist.as_ref().is_some_and(|p| p.stored) {
            self.persist = None;
            return;
        }
        let becomes_durable = self.kept && !was_durable;
        let subscriptions = if becomes_durable { self.subscriptions.clone() } else { Vec::new() };
        let persist = self.persist.get_or_insert_with(|| Box::new(Persist { open: 1, ..Persist::default() }));
        persist.record = true;
        if becomes_durable {
            persist.changed = true;
            persist.subscribed = subscriptions;
        }
        self.want(Urgency::Lazy);
    }

    fn record(&self) -> SessionRecord {
        SessionRecord {
            client_id: self.client_id.to_string(),
            protocol: self.version.level(),
            expiry_s: self.expiry_s,
            disconnected_at: self.disconnected_at,
            will: self.will.as_deref().cloned(),
        }
    }

    /// Whose it is, and what it is subscribed to; `None`: the store has nothing of it.
    #[must_use]
    pub fn known(&self) -> Option<RecoveredSession> {
        let is_kept = self.durable() && !self.ended && !self.leaving();
        is_kept.then(|| RecoveredSession {
            no: self.no,
            record: Some(self.record()),
            subscriptions: self.subscriptions.clone(),
            state: QueueState::default(),
        })
    }

    /// Whether everything up to delta `mark` is committed.
    #[must_use]
    pub fn mark_committed(&self, mark: u64) -> bool {
        self.inbound.committed_mark >= mark
    }

    /// Collects what must be written. Messages for a connected client that were accepted after `cutoff` are left for
    /// the next commit when nothing but their own ack waits: the client may make the write needless.
    /// Returns the delta, if there is one, and whether something was left.
    pub fn collect(&mut self, cutoff: Time) -> (Option<Collected>, bool) {
        let Some(persist) = &mut self.persist else { return (None, false) };
        // What has left the queue leaves the store when it is a dead letter, and not before.
        if self.queue.has_fallen() {
            return (None, true);
        }
        if self.ended {
            let told = std::mem::replace(&mut persist.ended_told, true);
            let delta = SessionDelta { no: self.no, ended: true, ..SessionDelta::default() };
            let mark = persist.open;
            persist.open += 1;
            let wanted = persist.stored && !told;
            return (wanted.then_some(Collected { delta, mark, upto: self.queue.next_place(), promised: 0 }), false);
        }
        let durable = self.kept;
        let of_subscriptions = !persist.subscribed.is_empty() || !persist.retained_moved.is_empty();
        // How far a cursor came is not written before what it has put into the queue.
        let hurry = (self.connected && !of_subscriptions).then_some(cutoff);
        let (enqueued, left) = if durable { self.queue.collect(hurry, &*self.flights) } else { (Vec::new(), false) };
        if enqueued.is_empty()
            && !persist.record
            && !persist.changed
            && !of_subscriptions
            && persist.unsubscribed.is_empty()
        {
            return (None, left);
        }
        let state = durable.then(|| QueueState {
            released: self.flights.released(),
            inbound: self.inbound.ids.iter().copied().collect(),
            promised: self.queue.promised(self.presence(), self.window),
            ..self.queue.state(&*self.flights)
        });
        let promised = state.as_ref().map_or(0, |state| state.promised);
        let done = state.as_ref().map_or_else(Vec::new, |state| self.queue.take_done(state));
        let subscribed = self.collect_subscriptions();
        let wants_record = self.persist.as_mut().is_some_and(|persist| std::mem::take(&mut persist.record));
        let record = wants_record.then(|| self.record());
        let Some(persist) = &mut self.persist else { return (None, left) };
        let delta = SessionDelta {
            no: self.no,
            ended: false,
            record,
            subscribed,
            unsubscribed: std::mem::take(&mut persist.unsubscribed),
            enqueued,
            done,
            state,
        };
        persist.changed = false;
        persist.stored = true;
        let mark = persist.open;
        persist.open += 1;
        (Some(Collected { delta, mark, upto: self.queue.collected_to(), promised }), left)
    }

    /// The commit that held the delta is done: acks and PUBRELs that waited for it may leave.
    pub fn committed(&mut self, collected: &Collected, cx: Cx<'_>) {
        if self.ended {
            return;
        }
        self.inbound.committed_mark = self.inbound.committed_mark.max(collected.mark);
        if self.flights.is_made() {
            self.flights.committed(collected.upto);
        }
        self.queue.committed(collected.upto);
        self.queue.has_promised(collected.promised);
        self.release_committed(collected.mark);
        self.release_acks();
        self.pump(cx);
    }

    /// The commit failed: the next delta will say it all again.
    pub fn not_committed(&mut self, collected: Collected) {
        let Some(persist) = &mut self.persist else { return };
        let delta = collected.delta;
        if delta.ended {
            persist.ended_told = false;
            self.want(Urgency::Now);
            return;
        }
        persist.record |= delta.record.is_some();
        persist.changed = true;
        let newer = std::mem::take(&mut persist.subscribed);
        persist.subscribed = delta.subscribed;
        persist.subscribed.retain(|s| !persist.unsubscribed.contains(&s.filter));
        persist.subscribed.extend(newer);
        let mut removed = delta.unsubscribed;
        removed.retain(|f| !persist.subscribed.iter().any(|s| &s.filter == f));
        removed.append(&mut persist.unsubscribed);
        persist.unsubscribed = removed;
        self.queue.not_committed(delta.done);
        self.want(Urgency::Now);
    }
}
