//! What a store should hold, simple enough to be believed, and batches made by seed to drive a store with.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay::message::{Message, Parts, Time};
use forebay::store::{
    Batch, ClockMark, GroupId, Keyed, KeyedChange, Ledger, QueueEntry, QueueState, Reader, Recovered, RecoveredSession,
    RetainedChange, SessionDelta, SessionNo, SessionRecord, Share, StoreError, StoredSubscription, StoredWill,
};

/// Numbers by seed (SplitMix64).
pub struct Seed(pub u64);

impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
    let parts = Parts {
        topic,
        properties: b"",
        payload,
        qos: 1,
        retain: false,
        expires_at: None,
        accepted_at: Time(payload.len() as u64),
    };
    Arc::new(Message::new(&parts, None))
}

pub fn entry(seq: u64, message: &Arc<Message>) -> QueueEntry {
    QueueEntry {
        seq,
        qos: 1,
        retain: false,
        shared: None,
        subscription_ids: [].into_iter().collect(),
        message: Arc::clone(message),
    }
}

/// One line that says all of an entry.
pub fn line(entry: &QueueEntry) -> String {
    let QueueEntry { seq, qos, retain, shared, subscription_ids, message } = entry;
    format!("{seq} {qos} {retain} {shared:?} {subscription_ids:?} {}", message_line(message))
}

/// One line that says all of a message.
pub fn message_line(m: &Message) -> String {
    let Message { qos, retain, expires_at, accepted_at, .. } = m;
    format!("{} {:?} {:?} {qos} {retain} {expires_at:?} {accepted_at:?}", m.topic(), m.properties(), m.payload())
}

/// A message with something in every field.
fn any_message(seed: &mut Seed, topic: &str, payload: &[u8]) -> Arc<Message> {
    let properties = vec![seed.next() as u8; seed.below(4) as usize];
    let parts = Parts {
        topic,
        properties: &properties,
        payload,
        qos: seed.below(3) as u8,
        retain: seed.one_in(4),
        expires_at: seed.one_in(3).then(|| Time(seed.below(1 << 40))),
        accepted_at: Time(seed.below(1 << 40)),
    };
    Arc::new(Message::new(&parts, None))
}

/// What a session should have.
#[derive(Clone, Default)]
pub struct Session {
    pub record: Option<SessionRecord>,
    pub subscriptions: BTreeMap<String, StoredSubscription>,
    pub state: QueueState,
    /// By place, what is queued and not done.
    pub queue: BTreeMap<u64, QueueEntry>,
    /// Done places at or above the floor.
    done: BTreeSet<u64>,
    /// What of them no batch has told yet.
    untold: BTreeSet<u64>,
}

impl Session {
    /// A place is delivered.
    pub fn finish(&mut self, seq: u64) {
        if let Some(entry) = self.queue.remove(&seq) {
            self.state.queued -= 1;
            self.state.queued_bytes -= entry.message.size() as u64;
            self.state.ledger.delivered += 1;
        }
        self.state.released.retain(|released| *released != seq);
        self.done.insert(seq);
        self.untold.insert(seq);
        while self.done.remove(&self.state.floor) {
            self.state.floor += 1;
        }
    }

    /// What is done since this was asked last, above the floor.
    fn told(&mut self) -> Vec<(u64, u64)> {
        let floor = self.state.floor;
        let mut told = Vec::<(u64, u64)>::new();
        for seq in std::mem::take(&mut self.untold).into_iter().filter(|seq| *seq >= floor) {
            match told.last_mut() {
                Some((_, end)) if *end == seq => *end += 1,
                _ => told.push((seq, seq + 1)),
            }
        }
        told
    }

    /// A message takes the next place.
    pub fn enqueue(&mut self, mut entry: QueueEntry) -> QueueEntry {
        entry.seq = self.state.next_seq;
        self.state.next_seq += 1;
        self.state.queued += 1;
        self.state.queued_bytes += entry.message.size() as u64;
        self.state.ledger.accepted += 1;
        self.queue.insert(entry.seq, entry.clone());
        entry
    }
}

/// What the store should hold.
#[derive(Clone, Default)]
pub struct Model {
    pub sessions: BTreeMap<u64, Session>,
    pub retained: BTreeMap<String, Arc<Message>>,
    pub keyed: BTreeMap<Vec<u8>, Vec<u8>>,
    pub ended: Ledger,
    pub last_session: u64,
    pub clock: ClockMark,
    pub commits: u64,
    /// Batches set and remove keyed rows as well.
    pub with_keyed: bool,
    /// Batches of a few messages only, for tests that make thousands of stores.
    pub small: bool,
}

impl Model {
    /// Changes the model at random and gives the batch that says so.
    pub fn step(&mut self, seed: &mut Seed) -> Batch {
        self.commits += 1;
        self.clock = ClockMark { time: Time(self.commits * 17), wall_ms: self.commits * 1000 };
        let mut deltas = BTreeMap::<u64, SessionDelta>::new();
        if self.sessions.len() < 2 || seed.one_in(12) {
            self.begin(seed, &mut deltas);
        }
        if self.sessions.len() > 3 && seed.one_in(20) {
            self.end(seed, &mut deltas);
        }
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        let most = match (self.small, seed.one_in(6)) {
            (false, true) => 400,
            (true, true) => 24,
            (false, false) => 12,
            (true, false) => 5,
        };
        for _ in 0..seed.below(most) {
            self.publish(seed, &numbers, &mut deltas);
        }
        for no in &numbers {
            if seed.one_in(2) {
                self.acknowledge(*no, seed, &mut deltas);
            }
            if seed.one_in(6) {
                self.subscribe(*no, seed, &mut deltas);
            }
        }
        let mut retained = Vec::new();
        if seed.one_in(3) {
            let topic = format!("retained/{}", seed.below(6));
            let payload = vec![seed.next() as u8; seed.below(6000) as usize];
            let kept = (!seed.one_in(3)).then(|| any_message(seed, &topic, &payload));
            match &kept {
                Some(message) => self.retained.insert(topic.clone(), Arc::clone(message)),
                None => self.retained.remove(&topic),
            };
            retained.push(RetainedChange { topic, message: kept });
        }
        let keyed = if self.with_keyed && seed.one_in(3) { self.set_keyed(seed) } else { Vec::new() };
        for (no, delta) in &mut deltas {
            delta.no = SessionNo(*no);
            if let Some(session) = self.sessions.get_mut(no) {
                delta.done = session.told();
                delta.state = Some(session.state.clone());
                // What was delivered before its commit is never written.
                delta.enqueued.retain(|entry| session.queue.contains_key(&entry.seq));
            }
        }
        let sessions = deltas.into_values().collect();
        Batch { sessions, retained, keyed, clock: self.clock, ended_ledger: Some(self.ended) }
    }

    /// Sets, replaces and removes rows, some of them twice in one batch.
    fn set_keyed(&mut self, seed: &mut Seed) -> Vec<KeyedChange> {
        let mut changes = Vec::new();
        for _ in 0..=seed.below(3) {
            let key = vec![seed.below(4) as u8; 1 + seed.below(3) as usize];
            let value = (!seed.one_in(3)).then(|| vec![seed.next() as u8; seed.below(3000) as usize]);
            match &value {
                Some(value) => self.keyed.insert(key.clone(), value.clone()),
                None => self.keyed.remove(&key),
            };
            changes.push(KeyedChange { of: Keyed::Delayed, key, value });
        }
        changes
    }

    /// Whether the keyed rows, read in pages of random sizes, are the model's.
    fn keyed_differ(&self, reader: &dyn Reader, pages: &mut Seed) -> bool {
        let (mut read, mut from) = (BTreeMap::new(), Vec::new());
        loop {
            let (rows, bytes) = (1 + pages.below(4) as usize, 1 + pages.below(4000) as usize);
            let Ok(page) = reader.keyed(Keyed::Delayed, &from, rows, bytes) else { return true };
            assert!(page.len() <= rows && page.is_sorted());
            let Some((last, _)) = page.last() else { return read != self.keyed };
            from = [last.as_slice(), &[0]].concat();
            read.extend(page);
        }
    }

    fn begin(&mut self, seed: &mut Seed, deltas: &mut BTreeMap<u64, SessionDelta>) {
        self.last_session += 1;
        let expiry_s = seed.one_in(2).then(|| seed.below(100) as u32);
        let will = StoredWill { message: any_message(seed, "will", b"gone"), expiry_s, delay_s: 5 };
        let record = SessionRecord {
            client_id: format!("client-{}", self.last_session),
            protocol: 3 + seed.below(3) as u8,
            expiry_s: seed.below(100) as u32,
            disconnected_at: seed.one_in(2).then(|| Time(seed.below(1 << 40))),
            will: seed.one_in(2).then_some(will),
        };
        self.sessions.insert(self.last_session, Session { record: Some(record.clone()), ..Session::default() });
        deltas.entry(self.last_session).or_default().record = Some(record);
    }

    fn end(&mut self, seed: &mut Seed, deltas: &mut BTreeMap<u64, SessionDelta>) {
        let which = seed.below(self.sessions.len() as u64) as usize;
        let no = *self.sessions.keys().nth(which).unwrap();
        let session = self.sessions.remove(&no).unwrap();
        self.ended.accepted += session.state.ledger.accepted;
        self.ended.delivered += session.state.ledger.delivered;
        self.ended.dropped[4] += session.state.queued;
        deltas.insert(no, SessionDelta { ended: true, ..SessionDelta::default() });
    }

    fn publish(&mut self, seed: &mut Seed, numbers: &[u64], deltas: &mut BTreeMap<u64, SessionDelta>) {
        let size = if seed.one_in(200) { 100_000 } else { seed.below(200) };
        let payload = vec![seed.next() as u8; size as usize];
        let published = any_message(seed, &format!("t/{}", self.commits), &payload);
        let all = seed.one_in(3);
        for no in numbers {
            if !all && !seed.one_in(numbers.len() as u64) {
                continue;
            }
            let mut entry = entry(0, &published);
            entry.qos = seed.below(3) as u8;
            entry.retain = seed.one_in(5);
            entry.subscription_ids = (0..seed.below(3)).map(|id| id as u32 * 1000).collect();
            let group = GroupId(size as u32 * 7919);
            let share = if size % 4 == 0 { Share::Unknown } else { Share::Group(group) };
            entry.shared = seed.one_in(5).then_some(share);
            let entry = self.sessions.get_mut(no).unwrap().enqueue(entry);
            deltas.entry(*no).or_default().enqueued.push(entry);
        }
    }

    fn acknowledge(&mut self, no: u64, seed: &mut Seed, deltas: &mut BTreeMap<u64, SessionDelta>) {
        let session = self.sessions.get_mut(&no).unwrap();
        let waiting: Vec<u64> = session.queue.keys().copied().collect();
        let mut finished = seed.below(waiting.len() as u64 + 1) as usize;
        if seed.one_in(4) {
            finished = waiting.len();
        }
        let out_of_order = seed.one_in(3);
        for seq in waiting {
            if finished == 0 {
                break;
            }
            if out_of_order && seed.one_in(2) {
                continue;
            }
            session.finish(seq);
            finished -= 1;
        }
        session.state.sent = session.state.sent.max(session.state.floor);
        let sent = session.queue.values().take(seed.below(10) as usize);
        session.state.sent = sent.map(|entry| entry.seq + 1).next_back().unwrap_or(0).max(session.state.sent);
        session.state.promised = session.state.sent + session.state.sent % 2;
        let (queue, sent) = (&session.queue, session.state.sent);
        let released = queue.range(..sent).filter(|(_, entry)| entry.qos == 2 && seed.one_in(3));
        session.state.released = released.map(|(seq, _)| *seq).collect();
        session.state.inbound = (0..seed.below(4)).map(|id| id as u16 * 100 + 1).collect();
        deltas.entry(no).or_default();
    }

    fn subscribe(&mut self, no: u64, seed: &mut Seed, deltas: &mut BTreeMap<u64, SessionDelta>) {
        let session = self.sessions.get_mut(&no).unwrap();
        let delta = deltas.entry(no).or_default();
        let filter = format!("f/{}/#", seed.below(4));
        if seed.one_in(3) {
            session.subscriptions.remove(&filter);
            delta.unsubscribed.push(filter);
        } else {
            let subscription = StoredSubscription {
                filter: filter.clone(),
                qos: seed.below(3) as u8,
                no_local: seed.one_in(2),
                retain_as_published: seed.one_in(2),
                subscription_id: seed.below(1000) as u32,
                retained_behind: seed.one_in(3).then(|| format!("r/{}", seed.below(9)).into()),
            };
            session.subscriptions.insert(filter, subscription.clone());
            delta.subscribed.push(subscription);
        }
    }

    /// Says how what was recovered, and what can be read, differs from the model; `None` if it does not.
    pub fn differs(&self, recovered: &Recovered, reader: &dyn Reader, pages: &mut Seed) -> Option<String> {
        if !recovered.lost.is_empty() {
            return Some(format!("lost: {:?}", recovered.lost));
        }
        let found: Vec<u64> = recovered.sessions.iter().map(|session| session.no.0).collect();
        let wanted: Vec<u64> = self.sessions.keys().copied().collect();
        if found != wanted {
            return Some(format!("sessions {found:?} for {wanted:?}"));
        }
        for found in &recovered.sessions {
            if let Some(differs) = self.session_differs(found, reader, pages) {
                return Some(format!("session {}: {differs}", found.no.0));
            }
        }
        let mut retained: Vec<_> = recovered.retained.iter().map(|message| message_line(message)).collect();
        retained.sort_unstable();
        let wanted: Vec<_> = self.retained.values().map(|message| message_line(message)).collect();
        if retained != wanted {
            return Some("retained messages differ".to_owned());
        }
        if self.keyed_differ(reader, pages) {
            return Some("keyed rows differ".to_owned());
        }
        if recovered.ended_ledger != self.ended || recovered.last_session != self.last_session {
            return Some(format!("ended {:?}, last session {}", recovered.ended_ledger, recovered.last_session));
        }
        let clock = (self.commits > 0).then_some(self.clock);
        (recovered.clock != clock).then(|| format!("clock {:?} for {clock:?}", recovered.clock))
    }

    /// The same of one session.
    pub fn session_differs(&self, found: &RecoveredSession, reader: &dyn Reader, pages: &mut Seed) -> Option<String> {
        let wanted = self.sessions.get(&found.no.0)?;
        if found.record != wanted.record {
            return Some(format!("record {:?} for {:?}", found.record, wanted.record));
        }
        // Of what is done the store need not know more than what it still has.
        if (QueueState { done: Vec::new(), ..found.state.clone() }) != wanted.state {
            return Some(format!("state {:?} for {:?}", found.state, wanted.state));
        }
        let subscriptions: Vec<_> = wanted.subscriptions.values().cloned().collect();
        if found.subscriptions != subscriptions {
            return Some(format!("subscriptions {:?}", found.subscriptions));
        }
        let read = read_all(reader, found.no.0, &found.state, pages);
        let wanted: Vec<String> = wanted.queue.values().map(line).collect();
        match read {
            Ok(read) => (read != wanted).then(|| format!("queue\n{read:#?}\nfor\n{wanted:#?}")),
            Err(error) => Some(format!("queue: {error}")),
        }
    }
}

/// What is asked of a store after a commit that failed: all that was in it, with what came since. Of the entries only
/// those that are still queued, as the writer would collect them.
pub fn merge(failed: Batch, since: Batch, model: &Model) -> Batch {
    let mut deltas: BTreeMap<u64, SessionDelta> = failed.sessions.into_iter().map(|d| (d.no.0, d)).collect();
    for new in since.sessions {
        let Some(delta) = deltas.get_mut(&new.no.0) else {
            deltas.insert(new.no.0, new);
            continue;
        };
        delta.ended |= new.ended;
        delta.record = new.record.or(delta.record.take());
        delta.state = new.state.or(delta.state.take());
        delta.done.extend(new.done);
        delta.done.sort_unstable();
        delta.subscribed.retain(|old| !new.unsubscribed.contains(&old.filter));
        delta.subscribed.extend(new.subscribed);
        delta.unsubscribed.extend(new.unsubscribed);
        delta.enqueued.extend(new.enqueued);
    }
    for (no, delta) in &mut deltas {
        let queue = model.sessions.get(no).map(|session| &session.queue);
        delta.enqueued.retain(|entry| queue.is_some_and(|queue| queue.contains_key(&entry.seq)));
    }
    let mut retained = failed.retained;
    retained.extend(since.retained);
    let mut keyed = failed.keyed;
    keyed.extend(since.keyed);
    Batch { sessions: deltas.into_values().collect(), retained, keyed, ..since }
}

/// A session's queue in pages of random sizes, without what is done.
pub fn read_all(reader: &dyn Reader, no: u64, state: &QueueState, pages: &mut Seed) -> Result<Vec<String>, StoreError> {
    let mut read = Vec::new();
    let mut from = state.floor;
    loop {
        let (messages, bytes) = (1 + pages.below(300) as usize, 1 + pages.below(100_000) as usize);
        let page = reader.page(SessionNo(no), from, messages, bytes)?;
        assert!(page.len() <= messages);
        let Some(last) = page.last() else { return Ok(read) };
        assert!(page.is_sorted_by_key(|entry| entry.seq) && page[0].seq >= from, "a page out of order");
        from = last.seq + 1;
        for entry in page {
            if !state.is_done(entry.seq) {
                read.push(line(&entry));
            }
        }
    }
}
