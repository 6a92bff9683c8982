//! The store in memory: for the simulation, which makes it fail and crash when it likes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::places::between;
use super::{
    BackupError, Batch, Committed, Copied, Ledger, Message, QueueEntry, QueueState, Reader, Recovered,
    RecoveredSession, SessionDelta, SessionNo, SessionRecord, Store, StoreError, StoredSubscription,
};
use super::{ClockMark, Keyed, KeyedRow, RetainedChange};

/// How the next commits fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// They do not.
    #[default]
    None,
    /// There is no room: only what writes no message goes through.
    Full,
    /// The device fails before anything is written.
    Lost,
    /// The device fails after everything is written: the caller cannot tell.
    Unknown,
}

#[derive(Clone, Default)]
struct Kept {
    record: Option<SessionRecord>,
    subscriptions: BTreeMap<String, StoredSubscription>,
    /// By its first place, the last place of what one commit added. As on a disk, that goes when all of it is done, and not
    /// before: readers are given what is done in between.
    rows: BTreeMap<u64, u64>,
    queue: BTreeMap<u64, QueueEntry>,
    state: QueueState,
}

#[derive(Default)]
struct Contents {
    sessions: BTreeMap<u64, Kept>,
    retained: BTreeMap<String, Arc<Message>>,
    keyed: BTreeMap<(Keyed, Vec<u8>), Vec<u8>>,
    clock: Option<ClockMark>,
    ended: Ledger,
    last_session: u64,
    failure: Failure,
    uncertain: bool,
}

/// The same contract as [`super::redb::RedbStore`], in memory. Clones share their contents: one is the disk that
/// survives, the other the store that crashes.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Contents>>);

impl MemoryStore {
    /// How commits fail from now on.
    pub fn fail(&self, failure: Failure) {
        self.0.lock().failure = failure;
    }

    /// What a broker that starts now finds: everything up to the last successful commit, and nothing after it, since
    /// only commits write here. Failures end.
    #[must_use]
    pub fn crash(&self) -> Recovered {
        let mut contents = self.0.lock();
        contents.failure = Failure::None;
        contents.uncertain = false;
        let sessions = contents.sessions.iter().map(|(no, kept)| RecoveredSession {
            no: SessionNo(*no),
            record: kept.record.clone(),
            subscriptions: kept.subscriptions.values().cloned().collect(),
            state: kept.state.clone(),
        });
        Recovered {
            sessions: sessions.collect(),
            retained: contents.retained.values().cloned().collect(),
            clock: contents.clock,
            ended_ledger: contents.ended,
            last_session: contents.last_session,
            lost: Vec::new(),
        }
    }
}

impl Contents {
    fn session(&mut self, delta: &SessionDelta) -> Committed {
        let mut committed = Committed::default();
        self.last_session = self.last_session.max(delta.no.0);
        if delta.ended {
            self.sessions.remove(&delta.no.0);
            return committed;
        }
        let kept = self.sessions.entry(delta.no.0).or_default();
        if let Some(record) = &delta.record {
            kept.record = Some(record.clone());
        }
        for filter in &delta.unsubscribed {
            kept.subscriptions.remove(filter);
        }
        for subscription in &delta.subscribed {
            kept.subscriptions.insert(subscription.filter.clone(), subscription.clone());
        }
        if let (Some(first), Some(last)) = (delta.enqueued.first(), delta.enqueued.last()) {
            // A commit that failed may have been written: its rows go, and what of them is wanted is in this one.
            while let Some((row, last)) = kept.rows.last_key_value().map(|(row, last)| (*row, *last))
                && last >= first.seq
            {
                kept.rows.remove(&row);
                drop(kept.queue.split_off(&row));
            }
            kept.rows.insert(first.seq, last.seq);
        }
        for entry in &delta.enqueued {
            committed.rows += 1;
            committed.message_bytes += entry.message.size() as u64;
            kept.queue.insert(entry.seq, QueueEntry { message: copy(&entry.message), ..entry.clone() });
        }
        if let Some(state) = &delta.state {
            let mut done = std::mem::take(&mut kept.state.done);
            done.extend_from_slice(&delta.done);
            // What a commit told that failed may be above: those places are used again.
            kept.state = QueueState { done: between(done, state.floor, state.next_seq), ..state.clone() };
            let (state, queue) = (&kept.state, &mut kept.queue);
            kept.rows.retain(|first, last| {
                let lives = queue.range(*first..=*last).any(|(seq, _)| !state.is_done(*seq));
                if !lives {
                    queue.retain(|seq, _| !(*first..=*last).contains(seq));
                }
                lives
            });
        }
        committed
    }

    fn apply(&mut self, batch: &Batch) -> Committed {
        let mut committed = Committed::default();
        for delta in &batch.sessions {
            let one = self.session(delta);
            committed.rows += one.rows;
            committed.message_bytes += one.message_bytes;
        }
        for RetainedChange { topic, message } in &batch.retained {
            match message {
                Some(message) => self.retained.insert(topic.clone(), copy(message)),
                None => self.retained.remove(topic),
            };
        }
        for change in &batch.keyed {
            let key = (change.of, change.key.clone());
            match &change.value {
                Some(value) => self.keyed.insert(key, value.clone()),
                None => self.keyed.remove(&key),
            };
        }
        self.clock = Some(batch.clock);
        if let Some(ledger) = batch.ended_ledger {
            self.ended = ledger;
        }
        committed
    }
}

/// What comes back from a disk is another message, with no publisher that waits.
fn copy(message: &Message) -> Arc<Message> {
    let parts = crate::message::Parts {
        topic: message.topic(),
        properties: message.properties(),
        payload: message.payload(),
        qos: message.qos,
        retain: message.retain,
        expires_at: message.expires_at,
        accepted_at: message.accepted_at,
    };
    Arc::new(Message::new(&parts, None))
}

impl Store for MemoryStore {
    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let mut contents = self.0.lock();
        let failed = || StoreError::Io { path: "memory".to_owned(), source: "made to fail".into() };
        let grows = batch.sessions.iter().any(|delta| !delta.enqueued.is_empty())
            || batch.retained.iter().any(|change| change.message.is_some())
            || batch.keyed.iter().any(|change| change.value.is_some());
        match contents.failure {
            Failure::Lost => Err(failed()),
            Failure::Full if grows => Err(StoreError::Full { path: "memory".to_owned(), free: 0, needed: 1 }),
            Failure::Unknown => {
                contents.apply(batch);
                contents.uncertain = true;
                Err(failed())
            }
            Failure::None | Failure::Full => {
                contents.uncertain = false;
                Ok(contents.apply(batch))
            }
        }
    }

    fn left_nothing(&self) -> bool {
        !self.0.lock().uncertain
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }
}

impl Reader for MemoryStore {
    fn page(
        &self,
        session: SessionNo,
        from: u64,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let contents = self.0.lock();
        let Some(kept) = contents.sessions.get(&session.0) else { return Ok(Vec::new()) };
        let mut page = Vec::new();
        let mut bytes = 0;
        for (_, entry) in kept.queue.range(from..) {
            if !page.is_empty() && (page.len() >= max_messages || bytes >= max_bytes) {
                break;
            }
            bytes += entry.message.size();
            page.push(entry.clone());
        }
        Ok(page)
    }

    fn keyed(&self, of: Keyed, from: &[u8], max_rows: usize, max_bytes: usize) -> Result<Vec<KeyedRow>, StoreError> {
        let contents = self.0.lock();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for ((_, key), value) in
            contents.keyed.range((of, from.to_vec())..).take_while(|((of_this, _), _)| *of_this == of)
        {
            if !rows.is_empty() && (rows.len() >= max_rows || bytes >= max_bytes) {
                break;
            }
            bytes += key.len() + value.len();
            rows.push((key.clone(), value.clone()));
        }
        Ok(rows)
    }

    fn backup(&self, _: &Path) -> Result<Copied, BackupError> {
        Err(BackupError::InMemory)
    }
}
