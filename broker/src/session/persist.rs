//! What the session tells the store. Nothing is written twice, and nothing that was acknowledged in time is written.

use super::outbound::Outbound;
use super::{Cx, Session, Urgency};
use crate::message::Time;
use crate::store::{QueueEntry, QueueState, RecoveredSession, SessionDelta, SessionRecord, StoredSubscription};

/// Bookkeeping of a session that the store knows.
#[derive(Default)]
pub(crate) struct Persist {
    /// The record must be written.
    pub(crate) record: bool,
    /// The state must be written.
    pub(crate) changed: bool,
    pub(crate) subscribed: Vec<StoredSubscription>,
    pub(crate) unsubscribed: Vec<String>,
    /// The number of the delta that is being filled.
    pub(crate) open: u32,
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
    pub mark: u32,
    /// Places below are in this or an earlier delta.
    pub upto: u64,
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
        session.persist = Some(Box::new(Persist {
            open: 1,
            stored: true,
            record: record.disconnected_at.is_none(),
            ..Persist::default()
        }));
        session.inbound.ids.extend(found.state.inbound.iter().copied());
        session.outbound.recover(&found.state, record.disconnected_at.is_none());
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

    /// Whether the record waits to be written.
    #[must_use]
    pub fn mark_open(&mut self) -> Option<u32> {
        self.persist.as_ref().map(|p| p.open)
    }

    /// Whether everything up to delta `mark` is committed.
    #[must_use]
    pub fn mark_committed(&self, mark: u32) -> bool {
        self.inbound.committed_mark >= mark
    }

    /// The record must be on disk before something is answered: collected with the next commit.
    pub fn hurry(&mut self) {
        if self.persist.is_some() {
            self.want(Urgency::Now);
        }
    }

    /// Collects what must be written. Messages for a connected client that were accepted after `cutoff` are left for
    /// the next commit when nothing but their own ack waits: the client may make the write needless.
    /// Returns the delta, if there is one, and whether something was left.
    pub fn collect(&mut self, cutoff: Time) -> (Option<Collected>, bool) {
        let Some(persist) = &mut self.persist else { return (None, false) };
        if self.ended {
            let told = std::mem::replace(&mut persist.ended_told, true);
            let delta = SessionDelta { no: self.no, ended: true, ..SessionDelta::default() };
            let mark = persist.open;
            persist.open += 1;
            let wanted = persist.stored && !told;
            return (wanted.then_some(Collected { delta, mark, upto: self.outbound.flow.next_seq }), false);
        }
        let durable = self.kept;
        let hurry = self.connected.then_some(cutoff);
        let (enqueued, left) = if durable { self.outbound.collect(hurry) } else { (Vec::new(), false) };
        if enqueued.is_empty()
            && !persist.record
            && !persist.changed
            && persist.subscribed.is_empty()
            && persist.unsubscribed.is_empty()
        {
            return (None, left);
        }
        let unsent_qos0 = u64::from(self.out.qos0);
        let state = durable.then(|| self.outbound.state(&self.inbound.ids, unsent_qos0));
        let mut delta = SessionDelta {
            no: self.no,
            ended: false,
            record: None,
            subscribed: std::mem::take(&mut persist.subscribed),
            unsubscribed: std::mem::take(&mut persist.unsubscribed),
            enqueued,
            state,
        };
        if std::mem::take(&mut persist.record) {
            delta.record = Some(SessionRecord {
                client_id: self.client_id.to_string(),
                protocol: self.version.level(),
                expiry_s: self.expiry_s,
                disconnected_at: self.disconnected_at,
                will: self.will.as_deref().cloned(),
            });
        }
        persist.changed = false;
        persist.stored = true;
        let mark = persist.open;
        persist.open += 1;
        (Some(Collected { delta, mark, upto: self.outbound.flow.collected }), left)
    }

    /// The commit that held the delta is done: acks and PUBRELs that waited for it may leave.
    pub fn committed(&mut self, collected: &Collected, cx: Cx<'_>) {
        if self.ended {
            return;
        }
        self.inbound.committed_mark = self.inbound.committed_mark.max(collected.mark);
        self.outbound.committed(collected.upto);
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
        self.outbound.flow.collected = self.outbound.flow.committed;
        self.want(Urgency::Now);
    }
}

impl Outbound {
    /// Entries that the store has not been given. With a cutoff, a young tail in memory is left.
    fn collect(&mut self, cutoff: Option<Time>) -> (Vec<QueueEntry>, bool) {
        let (from, moved_to) = (self.flow.collected, self.flow.moved_to);
        let pending = self.flow.pending.back().is_some_and(|e| e.item.seq >= from);
        let young = |item: &QueueEntry| {
            let may_wait = !pending && item.message.qos < 2 && item.seq >= moved_to;
            cutoff.is_some_and(|c| may_wait && item.message.accepted_at > c)
        };
        let flights = self.flow.inflight.iter().filter(|f| f.live()).filter_map(|f| f.item.as_ref());
        let flights = flights.skip_while(|i| i.seq < from);
        let queued =
            self.flow.queue.iter().map(|e| &e.item).skip(self.flow.queue.partition_point(|e| e.item.seq < from));
        let waiting =
            self.flow.pending.iter().map(|e| &e.item).skip(self.flow.pending.partition_point(|e| e.item.seq < from));
        let mut entries = Vec::new();
        let mut left = false;
        // What was published at QoS 2 is committed together with its publisher's identifier, whatever its QoS here; so
        // everything up to the last of it is collected.
        let all: Vec<&QueueEntry> = flights.chain(queued).chain(waiting).collect();
        let last_old = all.iter().rposition(|item| !young(item));
        for (at, item) in all.into_iter().enumerate() {
            if last_old.is_some_and(|last| at <= last) {
                entries.push(item.clone());
            } else {
                left = true;
            }
        }
        if let Some(last) = entries.last() {
            self.flow.collected = last.seq + 1;
        } else if !left && from < self.flow.next_seq {
            self.flow.collected = self.flow.next_seq;
        }
        (entries, left)
    }

    /// The state as of now: it speaks of places below `collected` only as the store knows them.
    fn state(&self, ids: &hashbrown::HashSet<u16, foldhash::fast::FixedState>, unsent_qos0: u64) -> QueueState {
        let mut done = Vec::new();
        let live = || {
            self.flow
                .inflight
                .iter()
                .filter(|f| f.live())
                .map(|f| f.seq)
                .chain(self.flow.queue.iter().map(|e| e.item.seq))
        };
        let end = self.flow.collected;
        let first_disk = self.on_disk().then_some(self.flow.disk_from);
        let first_pending = self.flow.pending.front().map(|e| e.item.seq);
        let floor = live().next().or(first_disk).or(first_pending).unwrap_or(end).min(end);
        let mut next = floor;
        let mut gap = |next: &mut u64, at: u64, after: u64| {
            let at = at.min(end);
            if at > *next {
                done.push((*next, at));
            }
            *next = after.max(*next);
        };
        for seq in live().take_while(|seq| *seq < end) {
            gap(&mut next, seq, seq + 1);
        }
        if let Some(from) = first_disk {
            gap(&mut next, from, from);
            for (start, stop) in &self.flow.holes {
                if *stop > next {
                    // What lies before the hole is on disk and not done.
                    next = (*start).max(next);
                    gap(&mut next, *stop, *stop);
                }
            }
            next = next.max(self.flow.disk_to);
        }
        for entry in self.flow.pending.iter().take_while(|e| e.item.seq < end) {
            gap(&mut next, entry.item.seq, entry.item.seq + 1);
        }
        gap(&mut next, end, end);
        let (uncollected, uncollected_bytes) = self.uncollected();
        let uncollected = uncollected + unsent_qos0;
        // Those of an earlier run that are not in flight again yet are still owed their PUBREL.
        let again = self.flow.inflight.iter().filter(|f| f.live() && f.received()).map(|f| f.seq);
        let released = again.chain(self.flow.released_before.iter().copied()).collect();
        let mut ledger = self.ledger;
        // What the store is not told of is not accepted as far as the store knows.
        ledger.accepted -= uncollected;
        QueueState {
            next_seq: end,
            floor,
            done,
            sent: self.flow.inflight.back().map_or(floor, |f| f.seq + 1).max(self.flow.sent_before).min(end),
            released,
            inbound: ids.iter().copied().collect(),
            queued: self.queued - uncollected,
            queued_bytes: self.queued_bytes.saturating_sub(uncollected_bytes),
            ledger,
        }
    }

    /// Messages in the queue that are in no delta yet: young ones, and QoS 0 in the socket's buffer.
    fn uncollected(&self) -> (u64, u64) {
        let flights: u64 =
            self.flow.inflight.iter().filter(|f| f.live() && f.seq >= self.flow.collected).count() as u64;
        let young = |list: &std::collections::VecDeque<super::outbound::Entry>| {
            let at = list.partition_point(|e| e.item.seq < self.flow.collected);
            let bytes: u64 = list.iter().skip(at).map(|e| e.item.message.size() as u64).sum();
            ((list.len() - at) as u64, bytes)
        };
        let (queue, queue_bytes) = young(&self.flow.queue);
        let (pending, pending_bytes) = young(&self.flow.pending);
        let flight_bytes: u64 = self
            .flow
            .inflight
            .iter()
            .filter(|f| f.live() && f.seq >= self.flow.collected)
            .filter_map(|f| f.item.as_ref())
            .map(|i| i.message.size() as u64)
            .sum();
        (flights + queue + pending, flight_bytes + queue_bytes + pending_bytes)
    }
}
