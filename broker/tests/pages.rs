//! Every page of a store whose content is known is zeroed in turn: no session is lost, what else is lost is said and
//! counted, and all pages together do not cost more than what is in the store, once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use forebay::message::Time;
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::{
    Batch, ClockMark, DropReason, Keyed, KeyedChange, Ledger, QueueState, Recovered, RetainedChange, SessionDelta,
    SessionNo, SessionRecord, Store, StoredSubscription, StoredWill, message_value,
};
use model::{Seed, entry, message, message_line, read_all};

const PAGE: usize = 4096;
const SESSIONS: u64 = 100;
const MESSAGES: u64 = 12;
const DONE: u64 = 3;
const TOPICS: u64 = 60;
const DELAYED: u64 = 40;

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, ..StoreOptions::default() }
}

fn client_id(no: u64) -> String {
    format!("a client with a long name {no:04}")
}

/// What is in it, as lines.
#[derive(Default)]
struct Content {
    sessions: BTreeMap<u64, String>,
    subscriptions: BTreeSet<(u64, String)>,
    queued: BTreeMap<u64, BTreeSet<String>>,
    retained: BTreeSet<String>,
    delayed: usize,
}

impl Content {
    fn of(recovered: &Recovered, store: &RedbStore) -> Self {
        let mut content = Self::default();
        for session in &recovered.sessions {
            let no = session.no.0;
            content.sessions.insert(no, session.record.as_ref().unwrap().client_id.clone());
            content.subscriptions.extend(session.subscriptions.iter().map(|kept| (no, kept.filter.clone())));
            let queued = read_all(store.reader().as_ref(), no, &session.state, &mut Seed(no)).unwrap();
            content.queued.insert(no, queued.into_iter().collect());
        }
        content.retained = recovered.retained.iter().map(|message| message_line(message)).collect();
        content.delayed = store.reader().keyed(Keyed::Delayed, &[], 1000, 1 << 20).unwrap().len();
        content
    }
}

fn state(next: u64, floor: u64, done: u64) -> QueueState {
    let queued = next - floor - done;
    QueueState {
        next_seq: next,
        floor,
        sent: floor,
        queued,
        queued_bytes: queued * 100,
        ledger: Ledger { accepted: next, delivered: floor + done, ..Ledger::default() },
        ..QueueState::default()
    }
}

/// Sessions with queues, some of whose messages are done, all with a message that they share; some that have ended; wills,
/// subscriptions, retained and delayed messages, replaced and deleted ones before them.
fn fill(dir: &Path) {
    let (mut store, _) = RedbStore::open(dir, &options(), 0).unwrap();
    let mut clock = 0;
    let mut commit = |sessions, retained, keyed| {
        clock += 1;
        let clock = ClockMark { time: Time(clock * 1000), wall_ms: 1_700_000_000_000 };
        store.commit(&Batch { sessions, retained, keyed, clock, ended_ledger: Some(Ledger::default()) }).unwrap();
    };
    let all = || 1..=SESSIONS + 5;
    for no in all() {
        let will = StoredWill { message: message("will", b"gone"), expiry_s: None, delay_s: 1 };
        let record = SessionRecord {
            client_id: client_id(no),
            protocol: 5,
            expiry_s: 86_400,
            disconnected_at: Some(Time(7)),
            will: no.is_multiple_of(9).then_some(will),
        };
        let subscription = StoredSubscription {
            filter: format!("a/filter/of/{no}/#"),
            qos: 1,
            no_local: false,
            retain_as_published: false,
            subscription_id: 0,
            retained_behind: None,
        };
        let enqueued =
            (0..MESSAGES - 1).map(|seq| entry(seq, &message("t", format!("{no:06} {seq:092}").as_bytes()))).collect();
        let delta = SessionDelta {
            no: SessionNo(no),
            record: Some(record),
            subscribed: vec![subscription],
            enqueued,
            state: Some(state(MESSAGES - 1, 0, 0)),
            ..SessionDelta::default()
        };
        commit(vec![delta], Vec::new(), Vec::new());
    }
    let shared = message("t", format!("{:099}", 7).as_bytes());
    let share = |no| SessionDelta {
        no: SessionNo(no),
        enqueued: vec![entry(MESSAGES - 1, &shared)],
        state: Some(state(MESSAGES, 0, 0)),
        ..SessionDelta::default()
    };
    commit(all().map(share).collect(), Vec::new(), Vec::new());
    for round in 0..2 {
        for topic in 0..TOPICS {
            let topic = format!("a/retained/topic/{topic:04}");
            let mut kept = message(&topic, &[b'r'; 150]);
            std::sync::Arc::get_mut(&mut kept).unwrap().accepted_at = Time(round * 500);
            commit(Vec::new(), vec![RetainedChange { topic, message: Some(kept) }], Vec::new());
        }
    }
    let delayed = |due: u64| {
        let key = [&[0][..], &due.to_be_bytes(), &due.to_be_bytes()].concat();
        KeyedChange { of: Keyed::Delayed, key, value: Some(message_value(&message("later", &[b'd'; 150]))) }
    };
    commit(Vec::new(), Vec::new(), (0..DELAYED).map(delayed).collect());
    let finish = |no| SessionDelta {
        no: SessionNo(no),
        done: vec![(5, 6)],
        state: Some(state(MESSAGES, DONE, 1)),
        ..SessionDelta::default()
    };
    commit(all().map(finish).collect(), Vec::new(), Vec::new());
    let end = |no| SessionDelta { no: SessionNo(no), ended: true, ..SessionDelta::default() };
    commit((SESSIONS + 1..=SESSIONS + 5).map(end).collect(), Vec::new(), Vec::new());
    for _ in 0..3 {
        commit(Vec::new(), Vec::new(), Vec::new());
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    messages: usize,
    subscriptions: usize,
    retained: usize,
    delayed: usize,
}

impl Losses {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.subscriptions += other.subscriptions;
        self.retained += other.retained;
        self.delayed += other.delayed;
    }

    /// Each at most so much as the other one.
    fn check(self, most: Self, what: &str) {
        let within = self.messages <= most.messages && self.subscriptions <= most.subscriptions;
        assert!(
            within && self.retained <= most.retained && self.delayed <= most.delayed,
            "{what}: {self:?} of {most:?}"
        );
    }
}

/// What a page can hold of each, from the least that one takes; and the message that all share is in one.
const IN_A_PAGE: Losses =
    Losses { messages: SESSIONS as usize, subscriptions: PAGE / 38, retained: PAGE / 180, delayed: PAGE / 180 };

/// Zeroes a page of the file, and opens it; what is missing then.
fn without(page: usize, whole: &[u8], wanted: &Content) -> Losses {
    let mut losses = Losses::default();
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = whole.to_vec();
    bytes[page * PAGE..][..PAGE].fill(0);
    std::fs::write(dir.path().join("forebay.redb"), &bytes).unwrap();
    let (store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    let found = Content::of(&recovered, &store);
    let said = recovered.lost.join("\n");
    assert_eq!(found.sessions, wanted.sessions, "page {page}: {said}");
    for session in &recovered.sessions {
        let no = session.no.0;
        let ledger = &session.state.ledger;
        let (wanted, found) = (&wanted.queued[&no], &found.queued[&no]);
        let missing: Vec<&String> = wanted.difference(found).collect();
        let stateless = said.contains(&format!("session {no} has lost its state"));
        // What is done is not told again, unless it is not known any more what is done.
        let again = found.difference(wanted).count() as u64;
        let unmarked = u64::from(said.contains("table done could not be read"));
        let most = if stateless { DONE + 1 } else { unmarked };
        assert!(again <= most, "page {page}: {again} of session {no} again: {said}");
        let counted = ledger.dropped[DropReason::Damaged as usize];
        assert!(counted == missing.len() as u64 || stateless, "page {page}: {missing:?} of {no}, {counted} counted");
        assert_eq!(session.state.queued, found.len() as u64, "page {page}");
        losses.messages += missing.len();
    }
    losses.subscriptions += wanted.subscriptions.difference(&found.subscriptions).count();
    losses.retained += wanted.retained.difference(&found.retained).count();
    losses.delayed += wanted.delayed.saturating_sub(found.delayed);
    losses.check(IN_A_PAGE, &format!("page {page}"));
    assert!(found.subscriptions.is_subset(&wanted.subscriptions), "page {page}: of sessions that have ended");
    losses
}

#[test]
fn no_page_decides_over_all_sessions() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let file = dir.path().join("forebay.redb");
    let whole = std::fs::read(&file).unwrap();
    let wanted = {
        let (store, recovered) = RedbStore::open(dir.path(), &options(), 0).unwrap();
        assert_eq!(recovered.lost, Vec::<String>::new());
        Content::of(&recovered, &store)
    };
    let queued: usize = wanted.queued.values().map(BTreeSet::len).sum();
    assert_eq!((wanted.sessions.len() as u64, queued as u64), (SESSIONS, SESSIONS * (MESSAGES - DONE - 1)));
    let mut losses = Losses::default();
    // The first one says where all others are: they are found without it.
    without(0, &whole, &wanted).check(Losses::default(), "page 0");
    for page in 1..whole.len() / PAGE {
        losses.add(without(page, &whole, &wanted));
    }
    eprintln!("{} pages: {losses:?}", whole.len() / PAGE);
    // The page of the message that all share costs all of its copies.
    let all = Losses {
        messages: queued + SESSIONS as usize,
        subscriptions: wanted.subscriptions.len(),
        retained: wanted.retained.len(),
        delayed: wanted.delayed,
    };
    losses.check(all, "all pages");
}
