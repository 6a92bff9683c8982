//! Batches that are in the journal and not in redb yet, as one: what the next fold writes, and what readers see over redb.
//! What was delivered meanwhile is in it no more, and of each state only the last.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::super::places::between;
use super::super::{
    Batch, ClockMark, Keyed, KeyedChange, Ledger, Message, QueueEntry, QueueState, Recovered, RecoveredSession,
    RetainedChange, SessionDelta, SessionNo, SessionRecord, StoredSubscription,
};

/// What an entry takes beside the bytes of its message: itself, the message and their allocations.
const ENTRY_BYTES: usize = 256;
/// Done ranges are put in order when there are so many more.
const RANGES: usize = 1024;

/// The merged batches.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Pending {
    sessions: BTreeMap<u64, Waiting>,
    retained: BTreeMap<String, Option<Arc<Message>>>,
    keyed: BTreeMap<(Keyed, Vec<u8>), Option<Vec<u8>>>,
    clock: ClockMark,
    ended_ledger: Option<Ledger>,
    /// The last record that is in it; 0 if there is none.
    pub(super) last: u64,
    /// About what it takes in memory, what has been delivered included.
    pub(super) bytes: usize,
}

/// One session's part.
#[derive(Clone, Debug, Default)]
struct Waiting {
    ended: bool,
    record: Option<SessionRecord>,
    /// By filter: subscribed so, or unsubscribed.
    filters: BTreeMap<String, Option<StoredSubscription>>,
    entries: VecDeque<QueueEntry>,
    done: Vec<(u64, u64)>,
    /// Nothing at or above this is in `done`.
    done_below: u64,
    /// How many ranges there were when they were put in order last.
    in_order: usize,
    state: Option<QueueState>,
}

impl Pending {
    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// About what a batch takes in memory whose record's content has so many bytes.
    pub(super) fn bytes_of(batch: &Batch, bytes: usize) -> usize {
        bytes + batch.sessions.iter().map(|delta| delta.enqueued.len() * ENTRY_BYTES).sum::<usize>()
    }

    /// Puts the batch of record `number`, whose content has so many bytes, over those before it.
    pub(super) fn merge(&mut self, number: u64, batch: &Batch, bytes: usize) {
        self.last = number;
        self.bytes += Self::bytes_of(batch, bytes);
        for delta in &batch.sessions {
            self.sessions.entry(delta.no.0).or_default().merge(delta);
        }
        for RetainedChange { topic, message } in &batch.retained {
            self.retained.insert(topic.clone(), message.clone());
        }
        for KeyedChange { of, key, value } in &batch.keyed {
            self.keyed.insert((*of, key.clone()), value.clone());
        }
        self.clock = batch.clock;
        self.ended_ledger = batch.ended_ledger.or(self.ended_ledger);
    }

    /// Puts what came later over it.
    pub(super) fn append(&mut self, later: Self) {
        if !later.is_empty() {
            let (last, bytes) = (later.last, later.bytes);
            self.merge(last, &later.into_batch(), bytes);
        }
    }

    /// All of it, and a batch that comes after it, as one batch.
    pub(super) fn batch_with(&self, later: &Batch) -> Batch {
        let mut all = self.clone();
        all.merge(self.last, later, 0);
        all.into_batch()
    }

    /// Bytes of the messages that are in it still.
    pub(super) fn message_bytes(&self) -> u64 {
        let queued = self.sessions.values().flat_map(|waiting| &waiting.entries).map(|entry| entry.message.size());
        let retained = self.retained.values().flatten().map(|message| message.size());
        let keyed = self.keyed.values().flatten().map(Vec::len);
        queued.chain(retained).chain(keyed).map(|bytes| bytes as u64).sum()
    }

    /// All of it as one batch.
    pub(super) fn batch(&self) -> Batch {
        self.clone().into_batch()
    }

    /// The same, without a copy.
    pub(super) fn into_batch(self) -> Batch {
        let keyed = self.keyed.into_iter().map(|((of, key), value)| KeyedChange { of, key, value });
        let retained = self.retained.into_iter().map(|(topic, message)| RetainedChange { topic, message });
        Batch {
            sessions: self.sessions.into_iter().map(|(no, waiting)| waiting.into_delta(no)).collect(),
            retained: retained.collect(),
            keyed: keyed.collect(),
            clock: self.clock,
            ended_ledger: self.ended_ledger,
        }
    }

    /// Entries of a session from place `from` on that are in it, at most so many.
    pub(super) fn entries(&self, session: SessionNo, from: u64, max: usize) -> Vec<QueueEntry> {
        let Some(waiting) = self.sessions.get(&session.0) else { return Vec::new() };
        let at = waiting.entries.partition_point(|entry| entry.seq < from);
        waiting.entries.range(at..).take(max).cloned().collect()
    }

    /// Keyed rows of a kind that were set, or removed, from a key on.
    pub(super) fn keyed(&self, of: Keyed, from: &[u8]) -> impl Iterator<Item = (&Vec<u8>, Option<&Vec<u8>>)> {
        let from = (Bound::Included((of, from.to_vec())), Bound::Unbounded);
        let rows = self.keyed.range(from).take_while(move |((this, _), _)| *this == of);
        rows.map(|((_, key), value)| (key, value.as_ref()))
    }

    /// What a start finds: what redb has, with this over it.
    pub(super) fn apply_to(&self, recovered: &mut Recovered) {
        if self.is_empty() {
            return;
        }
        let sessions = std::mem::take(&mut recovered.sessions);
        let mut sessions: BTreeMap<u64, RecoveredSession> = sessions.into_iter().map(|s| (s.no.0, s)).collect();
        for (no, waiting) in &self.sessions {
            recovered.last_session = recovered.last_session.max(*no);
            if waiting.ended {
                sessions.remove(no);
                continue;
            }
            let no_one = || RecoveredSession { no: SessionNo(*no), ..RecoveredSession::default() };
            waiting.apply_to(sessions.entry(*no).or_insert_with(no_one));
        }
        recovered.sessions = sessions.into_values().collect();
        let retained = std::mem::take(&mut recovered.retained);
        let mut retained: BTreeMap<String, Arc<Message>> =
            retained.into_iter().map(|message| (message.topic().to_owned(), message)).collect();
        for (topic, message) in &self.retained {
            match message {
                Some(message) => retained.insert(topic.clone(), Arc::clone(message)),
                None => retained.remove(topic),
            };
        }
        recovered.retained = retained.into_values().collect();
        recovered.clock = Some(self.clock);
        recovered.ended_ledger = self.ended_ledger.unwrap_or(recovered.ended_ledger);
    }
}

impl Waiting {
    fn merge(&mut self, delta: &SessionDelta) {
        if delta.ended {
            *self = Self { ended: true, ..Self::default() };
            return;
        }
        if let Some(record) = &delta.record {
            self.record = Some(record.clone());
        }
        for filter in &delta.unsubscribed {
            self.filters.insert(filter.clone(), None);
        }
        for subscription in &delta.subscribed {
            self.filters.insert(subscription.filter.clone(), Some(subscription.clone()));
        }
        // A commit that failed may be here all the same: the places that it used are used again.
        if let Some(first) = delta.enqueued.first() {
            self.cut(first.seq);
        }
        self.entries.extend(delta.enqueued.iter().cloned());
        for (start, end) in &delta.done {
            self.remove(*start, *end);
        }
        self.done.extend_from_slice(&delta.done);
        self.done_below = self.done_below.max(delta.done.last().map_or(0, |(_, end)| *end));
        if let Some(state) = &delta.state {
            self.cut(state.next_seq);
            self.remove(0, state.floor);
            self.state = Some(state.clone());
        }
        if self.done.len() > 2 * self.in_order + RANGES {
            self.done = self.told();
            self.in_order = self.done.len();
        }
    }

    fn cut(&mut self, from: u64) {
        let at = self.entries.partition_point(|entry| entry.seq < from);
        self.entries.truncate(at);
        if self.done_below > from {
            self.done_below = from;
            self.done = between(std::mem::take(&mut self.done), 0, from);
        }
    }

    fn remove(&mut self, start: u64, end: u64) {
        let from = self.entries.partition_point(|entry| entry.seq < start);
        let to = self.entries.partition_point(|entry| entry.seq < end);
        self.entries.drain(from..to);
    }

    /// What is done at and above the floor.
    fn told(&self) -> Vec<(u64, u64)> {
        between(self.done.clone(), self.state.as_ref().map_or(0, |state| state.floor), u64::MAX)
    }

    fn into_delta(self, no: u64) -> SessionDelta {
        let done = self.told();
        let gone = |(filter, kept): (&String, &Option<StoredSubscription>)| kept.is_none().then(|| filter.clone());
        SessionDelta {
            no: SessionNo(no),
            ended: self.ended,
            record: self.record,
            unsubscribed: self.filters.iter().filter_map(gone).collect(),
            subscribed: self.filters.into_values().flatten().collect(),
            enqueued: self.entries.into(),
            done,
            state: self.state,
        }
    }

    fn apply_to(&self, found: &mut RecoveredSession) {
        if let Some(record) = &self.record {
            found.record = Some(record.clone());
        }
        for (filter, kept) in &self.filters {
            let at = found.subscriptions.binary_search_by(|known| known.filter.cmp(filter));
            match (at, kept) {
                (Ok(at), Some(kept)) => {
                    if let Some(known) = found.subscriptions.get_mut(at) {
                        known.clone_from(kept);
                    }
                }
                (Err(at), Some(kept)) => found.subscriptions.insert(at, kept.clone()),
                (Ok(at), None) => drop(found.subscriptions.remove(at)),
                (Err(_), None) => {}
            }
        }
        if let Some(state) = &self.state {
            let mut done = std::mem::take(&mut found.state.done);
            done.extend_from_slice(&self.done);
            let done = between(done, state.floor, state.next_seq);
            found.state = QueueState { done, ..state.clone() };
        }
    }
}
