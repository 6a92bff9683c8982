//! The way up in virtual time, by seed: an upstream that confirms late, never, out of order, twice, after its connection
//! died, that refuses, stalls and has no room; and a gateway that is killed at any moment. Held against what was published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::*;
use crate::bridge::budget::Budget;
use crate::bridge::calendar::{Calendar, DAY_MS};
use crate::bridge::drain::{Backlog, Drain};
use crate::bridge::template::Template;
use crate::bridge::wrap::Wrapping;
use crate::store::QueueEntry;

const WINDOW: usize = 7;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What outlives a kill of the gateway: the queue, the module's outbox, and the upstream.
#[derive(Default)]
struct Disk {
    /// The queue: all that is neither confirmed nor refused.
    queue: BTreeMap<u64, Arc<Message>>,
    taken: BTreeSet<u64>,
    /// All that was ever taken: what is taken again must say so.
    ever: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    expired: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    /// The module's outbox, and up to where it has been filled.
    outbox: BTreeMap<u64, ()>,
    mark: Option<u64>,
    /// What arrived, in order.
    arrived: Vec<u64>,
    /// Places that the upstream has said something final of.
    told: BTreeSet<u64>,
    /// Something was taken, or looked for, since the last loss.
    attended: bool,
}

type Shared = Arc<Mutex<Disk>>;

struct Queue(Shared);

impl Source for Queue {
    fn take(&mut self, messages_max: usize, _: usize) -> Vec<Taken> {
        let mut disk = self.0.lock();
        disk.attended = true;
        let free: Vec<u64> =
            disk.queue.keys().filter(|place| !disk.taken.contains(place)).take(messages_max).copied().collect();
        let mut all = Vec::new();
        for place in free {
            disk.taken.insert(place);
            let repeated = !disk.ever.insert(place);
            let message = disk.queue[&place].clone();
            let entry = QueueEntry {
                seq: place,
                qos: 1,
                retain: false,
                shared: None,
                subscription_ids: smallvec::smallvec![],
                message,
            };
            all.push(Taken { place, repeated, entry });
        }
        assert!(disk.taken.len() <= WINDOW, "more in flight than the window");
        all
    }

    fn confirm(&mut self, place: u64) {
        let mut disk = self.0.lock();
        let safe = disk.arrived.contains(&place) || disk.outbox.contains_key(&place) || disk.mark >= Some(place);
        assert!(safe, "{place} left the queue and is nowhere");
        assert!(disk.taken.remove(&place) && disk.queue.remove(&place).is_some(), "{place} is confirmed twice");
    }

    fn refuse(&mut self, place: u64, _: DropReason) {
        let mut disk = self.0.lock();
        assert!(disk.taken.remove(&place) && disk.queue.remove(&place).is_some(), "{place} is refused twice");
        disk.refused.insert(place);
    }

    fn is_too_old(&self, message: &Message, now: Time) -> bool {
        message.expired(now)
    }

    fn expire(&mut self, place: u64) {
        let mut disk = self.0.lock();
        assert!(disk.taken.remove(&place) && disk.queue.remove(&place).is_some(), "{place} expires twice");
        disk.expired.insert(place);
    }

    fn give_back(&mut self) {
        let mut disk = self.0.lock();
        disk.taken.clear();
        disk.attended = false;
    }

    fn backlog(&self) -> Backlog {
        let disk = self.0.lock();
        let next_place = disk.queue.last_key_value().map_or(0, |(place, _)| place + 1);
        Backlog { messages: disk.queue.len() as u64, oldest_ms: Some(3_600_000), next_place }
    }

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
        let disk = self.0.lock();
        if disk.queue.len() > disk.taken.len() { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct Dead(Shared);

impl DeadLetters for Dead {
    fn put(&mut self, message: &Message, _: Why, _: &str, leave: &mut dyn FnMut()) {
        let place = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
        assert!(self.0.lock().dead.insert(place), "{place} is dead twice");
        leave();
    }
}

/// Messages whose number ends so are never taken.
fn is_refused(place: u64) -> bool {
    place % 23 == 5
}

struct Cluster {
    disk: Shared,
    rng: Rng,
    stores: bool,
    connected: bool,
    events: VecDeque<Event>,
    /// What was sent on this connection, or lies in the outbox, and is not answered.
    open: Vec<u64>,
    last: Option<u64>,
    /// Up to where the outbox had been filled when this connection was begun.
    mark: Option<u64>,
    /// What has been stored and not been said yet: the gateway may be killed before.
    stored: Vec<u64>,
    /// What was left of the expiry of the last.
    last_expiry_s: Option<u32>,
    /// The payload of the last.
    last_payload: Vec<u8>,
    /// It answers nothing until this turn.
    calm: bool,
}

impl Cluster {
    /// Something of its own accord.
    fn act(&mut self) {
        if self.calm || self.rng.below(3) == 0 {
            let stored = std::mem::take(&mut self.stored);
            self.events.extend(stored.into_iter().map(|place| Event::Settled(place, Outcome::Stored)));
        }
        if !self.connected {
            return;
        }
        let chance = if self.calm { 5 } else { self.rng.below(12) };
        match chance {
            0 => {
                self.connected = false;
                if self.stores {
                    self.events.push_back(Event::Offline("away".to_owned()));
                } else {
                    self.events.push_back(Event::Lost("gone".to_owned()));
                    // Some of what it had arrives all the same, and is confirmed when nobody waits for it.
                    for place in std::mem::take(&mut self.open) {
                        if self.rng.below(2) == 0 && !is_refused(place) {
                            self.arrives(place);
                            self.events.push_back(Event::Settled(place, Outcome::Delivered));
                        }
                    }
                }
            }
            1..=3 => {}
            _ => {
                for _ in 0..=self.rng.below(4) {
                    self.answer();
                }
            }
        }
    }

    fn answer(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.rng.below(self.open.len() as u64) as usize;
        let place = self.open.remove(at);
        let outcome = if is_refused(place) {
            Outcome::Refused("no".to_owned(), DropReason::Refused)
        } else if !self.stores && !self.calm && self.rng.below(10) == 0 {
            // What is behind it may be taken all the same. It comes again, before what was not sent yet.
            self.events.push_back(Event::Settled(place, Outcome::Retry("full".to_owned())));
            self.last = None;
            return;
        } else {
            self.arrives(place);
            Outcome::Delivered
        };
        self.disk.lock().outbox.remove(&place);
        self.disk.lock().told.insert(place);
        self.events.push_back(Event::Settled(place, outcome.clone()));
        if self.rng.below(5) == 0 {
            self.events.push_back(Event::Settled(place, outcome));
        }
    }

    fn arrives(&mut self, place: u64) {
        self.disk.lock().arrived.push(place);
    }

    fn restored(&mut self) {
        self.open = self.disk.lock().outbox.keys().copied().collect();
    }
}

impl Upstream for Cluster {
    fn connect(&mut self, _: u32) {
        assert!(!self.connected);
        self.last = None;
        if self.stores {
            self.restored();
            self.mark = self.disk.lock().mark;
        }
        match self.rng.below(if self.calm { 1 } else { 5 }) {
            0 => {
                self.connected = true;
                self.events.push_back(Event::Connected);
            }
            1 => {}
            // It has its outbox, goes on trying, and connects later.
            2 if self.stores => self.events.push_back(Event::Offline("refused".to_owned())),
            _ => self.events.push_back(Event::Lost("refused".to_owned())),
        }
    }

    fn stored_up_to(&self) -> Option<u64> {
        self.mark
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>> {
        assert!(self.connected && self.last.is_none_or(|last| last < message.place), "in order on a connection");
        if !self.calm && self.rng.below(6) == 0 {
            return Err(Box::new(message));
        }
        self.last = Some(message.place);
        self.last_expiry_s = message.expiry_s;
        self.last_payload = message.message.payload().to_vec();
        assert_eq!(message.topic, format!("up/t/{}", message.place));
        self.open.push(message.place);
        if self.stores {
            let mut disk = self.disk.lock();
            disk.outbox.insert(message.place, ());
            disk.mark = Some(message.place);
            self.stored.push(message.place);
        }
        Ok(())
    }

    fn poll_event(&mut self, _: &mut Context<'_>) -> Poll<Event> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn close(&mut self) {
        self.connected = false;
        self.open.clear();
        self.stored.clear();
    }
}

fn message(place: u64) -> Arc<Message> {
    expiring(place, None)
}

fn expiring(place: u64, expires_at: Option<Time>) -> Arc<Message> {
    let (topic, payload) = (format!("t/{place}"), place.to_string());
    let parts = Parts {
        topic: &topic,
        properties: &[],
        payload: payload.as_bytes(),
        qos: 1,
        retain: false,
        expires_at,
        accepted_at: Time(0),
    };
    Arc::new(Message::new(&parts, None))
}

fn terms(seed: u64) -> Terms {
    Terms {
        name: "b".into(),
        gateway: "g".into(),
        rules: vec![Rule {
            filter: "t/#".to_owned(),
            topic: Template::parse("up/{topic}").unwrap(),
            qos: 1,
            ..Rule::default()
        }],
        window: WINDOW,
        stalled_ms: 10_000,
        pace: Pace::new(None, None, 0),
        seed,
        marks: Marks { origin: "g.b".into(), epoch: 5 },
        times: None,
    }
}

fn open(disk: &Shared, seed: u64, stores: bool) -> Outward<Queue, Cluster, Dead> {
    disk.lock().taken.clear();
    let cluster = Cluster {
        disk: disk.clone(),
        rng: Rng(seed),
        stores,
        connected: false,
        events: VecDeque::new(),
        open: Vec::new(),
        last: None,
        mark: None,
        stored: Vec::new(),
        last_expiry_s: None,
        last_payload: Vec::new(),
        calm: false,
    };
    Outward::new(terms(seed), Queue(disk.clone()), cluster, Dead(disk.clone()))
}

/// Published, killed and connected again at random; then calm until the queue is empty.
fn play(seed: u64, stores: bool) {
    let disk = Shared::default();
    let mut rng = Rng(seed ^ 0xabcd);
    let mut outward = open(&disk, seed, stores);
    let mut cx = Context::from_waker(Waker::noop());
    let (mut now_ms, mut next, mut kills, mut pauses) = (0, 0, 0, 0);
    for turn in 0..1_500 {
        let calm = turn >= 1_000;
        if !calm && rng.below(3) == 0 {
            disk.lock().queue.insert(next, message(next));
            next += 1;
        }
        if !calm && rng.below(60) == 0 {
            kills += 1;
            outward = open(&disk, seed + kills, stores);
        }
        outward.upstream.calm = calm;
        if calm || rng.below(30) == 0 {
            let paused = !calm && !outward.paused;
            pauses += u32::from(paused);
            outward.set_paused(paused);
        }
        let sent = outward.figures().sent;
        // A module that connects again by itself.
        if outward.link == Link::Offline && (calm || rng.below(5) == 0) {
            outward.upstream.connected = true;
            outward.upstream.events.push_back(Event::Connected);
        }
        outward.upstream.act();
        let again = outward.turn(now_ms, Time(now_ms), &mut cx);
        assert!(again.is_none_or(|at| at > now_ms), "a turn that asks for itself at once: {again:?} at {now_ms}");
        assert!(outward.in_flight() <= WINDOW);
        assert!(!outward.paused || outward.figures().sent == sent, "sent while it is paused");
        now_ms += if calm { 1_000 } else { 1 + rng.below(2_000) };
    }
    let disk = disk.lock();
    assert!(
        disk.queue.is_empty() && disk.outbox.is_empty(),
        "{:?} {:?} are left",
        disk.queue.keys(),
        disk.outbox.keys()
    );
    for place in 0..next {
        let times = disk.arrived.iter().filter(|arrived| **arrived == place).count();
        if is_refused(place) {
            assert_eq!(times, 0);
            // A refusal that the gateway was killed upon, after its module had stored the message, is only counted there.
            let known = disk.dead.contains(&place) || stores && disk.told.contains(&place);
            assert!(known, "{place} was refused and is not among the dead letters");
        } else {
            assert!(times == 1 || times > 1 && !stores, "{place} arrived {times} times");
        }
    }
    assert!(kills > 3 && pauses > 3 && next > 200 && outward.figures().connects > 0);
}

#[test]
fn nothing_is_lost_whatever_an_upstream_does() {
    (0..150).for_each(|seed| play(seed, false));
}

#[test]
fn nothing_is_lost_or_doubled_where_the_module_stores() {
    (0..150).for_each(|seed| play(seed, true));
}

fn one(stores: bool) -> (Outward<Queue, Cluster, Dead>, Shared) {
    let disk = Shared::default();
    let mut outward = open(&disk, 1, stores);
    outward.upstream.calm = true;
    (outward, disk)
}

#[test]
fn the_state_is_made_of_confirmations() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(outward.state(0).text(), "connecting");
    outward.turn(0, Time(0), &mut cx);
    assert!(disk.lock().attended, "an empty queue knows as well that somebody is there");
    disk.lock().queue.insert(0, message(0));
    let again = outward.turn(0, Time(0), &mut cx);
    assert_eq!((again, outward.state(9_999).text().as_str()), (Some(10_000), "connected"));
    assert_eq!(outward.state(10_000).text(), "blocked: nothing was confirmed for 10 s, 1 in flight");
    outward.upstream.answer();
    assert_eq!(outward.turn(11_000, Time(0), &mut cx), None);
    assert_eq!(outward.state(99_000).text(), "connected", "nothing is in flight");
    disk.lock().queue.insert(5, message(5));
    outward.turn(99_000, Time(0), &mut cx);
    outward.upstream.answer();
    outward.turn(99_000, Time(0), &mut cx);
    assert_eq!(outward.state(99_000).text(), "blocked: the last message was refused: no");
    outward.upstream.events.push_back(Event::Lost("cut".to_owned()));
    outward.turn(99_000, Time(0), &mut cx);
    assert_eq!(outward.state(99_000).text(), "backing off: cut");
    assert!(!disk.lock().attended);
}

#[test]
fn what_is_not_taken_now_comes_again_in_order() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    (0..3).for_each(|place| drop(disk.lock().queue.insert(place, message(place))));
    outward.turn(0, Time(0), &mut cx);
    let full = || Outcome::Retry("full".to_owned());
    outward.upstream.open.clear();
    outward.upstream.events.push_back(Event::Settled(0, full()));
    assert_eq!(outward.turn(0, Time(0), &mut cx), Some(10_000), "the others are in flight");
    outward.upstream.arrives(1);
    outward.upstream.events.push_back(Event::Settled(1, Outcome::Delivered));
    outward.upstream.events.push_back(Event::Settled(2, full()));
    let again = outward.turn(0, Time(0), &mut cx).unwrap();
    assert_eq!((outward.in_flight(), outward.state(0).text().as_str()), (0, "blocked: not taken for now: full"));
    outward.upstream.last = None;
    assert!(again >= 250 && outward.turn(again - 1, Time(0), &mut cx) == Some(again));
    outward.turn(again, Time(0), &mut cx);
    assert_eq!(outward.upstream.open, [0, 2]);
    assert_eq!(outward.figures().repeated, 2);
    // Nobody knows yet whether there is room.
    assert_eq!(outward.state(again).text(), "blocked: not taken for now: full");
    outward.upstream.open.clear();
    outward.upstream.arrives(0);
    outward.upstream.events.push_back(Event::Settled(0, Outcome::Delivered));
    outward.turn(again, Time(0), &mut cx);
    assert_eq!((outward.in_flight(), outward.state(again).text().as_str()), (1, "connected"));
}

#[test]
fn an_upstream_that_asks_for_a_pause_gets_one() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    outward.turn(0, Time(0), &mut cx);
    outward.upstream.events.push_back(Event::Blocked(Some("low on memory".to_owned())));
    disk.lock().queue.insert(0, message(0));
    assert_eq!(outward.turn(0, Time(0), &mut cx), None);
    assert_eq!((outward.in_flight(), outward.state(0).text().as_str()), (0, "blocked: low on memory"));
    outward.upstream.events.push_back(Event::Blocked(None));
    outward.turn(0, Time(0), &mut cx);
    assert_eq!((outward.in_flight(), outward.state(0).text().as_str()), (1, "connected"));
    outward.upstream.events.push_back(Event::Blocked(Some("not allowed".to_owned())));
    outward.turn(0, Time(0), &mut cx);
    assert_eq!(outward.state(u64::MAX).text(), "blocked: not allowed", "however long that nothing is confirmed");
}

#[test]
fn a_message_of_an_earlier_run_that_is_never_taken_is_a_dead_letter() {
    let (mut outward, _) = one(true);
    let mut cx = Context::from_waker(Waker::noop());
    outward.turn(0, Time(0), &mut cx);
    let left = LeftBehind {
        topic: "up/t".to_owned(),
        properties: Vec::new(),
        payload: b"3".to_vec(),
        qos: 2,
        reason: "no".to_owned(),
        why: DropReason::Refused,
    };
    outward.upstream.events.push_back(Event::Dead(Box::new(left)));
    outward.turn(0, Time(0), &mut cx);
    assert_eq!(outward.figures().dead, 1);
    assert_eq!(outward.state(0).text(), "blocked: the last message was refused: no");
}

#[test]
fn a_pause_settles_what_is_in_flight_and_leaves_the_rest_in_the_queue() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    outward.turn(0, Time(0), &mut cx);
    disk.lock().queue.insert(0, message(0));
    outward.turn(0, Time(0), &mut cx);
    outward.set_paused(true);
    disk.lock().queue.insert(1, message(1));
    outward.turn(0, Time(0), &mut cx);
    assert_eq!((outward.in_flight(), outward.state(0).text().as_str()), (1, "paused"));
    assert!(disk.lock().attended);
    outward.upstream.answer();
    assert_eq!(outward.turn(0, Time(0), &mut cx), None);
    assert_eq!((outward.in_flight(), outward.figures().delivered, disk.lock().attended), (0, 1, false));
    outward.set_paused(false);
    outward.turn(0, Time(0), &mut cx);
    assert_eq!((outward.in_flight(), outward.state(0).text().as_str()), (1, "connected"));
}

#[test]
fn an_upstream_that_never_answers_is_tried_again() {
    let (mut outward, _) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    outward.link = Link::Connecting { since_ms: 0 };
    assert_eq!(outward.turn(59_999, Time(0), &mut cx), Some(60_000));
    let again = outward.turn(60_000, Time(0), &mut cx).unwrap();
    assert!(again > 60_000);
    assert_eq!(outward.state(60_000).text(), "backing off: no answer in 60 s");
    outward.turn(again, Time(0), &mut cx);
    assert_eq!(outward.figures().connects, 1);
}

#[test]
fn loops_end_and_what_cannot_be_mapped_is_a_dead_letter() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    outward.terms.rules[0].topic = Template::parse("{user.line}").unwrap();
    let with = |via: &str| {
        let mut properties = b"\x26\x00\x03via".to_vec();
        properties.extend_from_slice(&u16::try_from(via.len()).unwrap().to_be_bytes());
        properties.extend_from_slice(via.as_bytes());
        let parts = Parts {
            topic: "t/x",
            properties: &properties,
            payload: b"3",
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    };
    // The last one goes on: it came down by a bridge of this gateway.
    for (place, via) in [(0, "g,a"), (1, "a,g,g"), (2, "1,2,3,4,5,6,7,8"), (3, "gg,a,g")] {
        disk.lock().queue.insert(place, with(via));
    }
    outward.turn(0, Time(0), &mut cx);
    let disk = disk.lock();
    assert_eq!((outward.figures().looped, outward.figures().dead), (3, 1));
    assert_eq!(disk.dead, BTreeSet::from([3]), "it has no user property `line`");
    assert_eq!(disk.refused, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn what_expires_while_it_is_held_is_not_sent() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    outward.terms.pace = Pace::new(Some(1), None, 0);
    outward.turn(0, Time(0), &mut cx);
    let at_5 = Some(Time(5_000));
    for place in 0..3 {
        disk.lock().queue.insert(place, expiring(place, at_5));
    }
    disk.lock().queue.insert(3, expiring(3, Some(Time(60_000))));
    outward.turn(0, Time(0), &mut cx);
    assert_eq!((outward.in_flight(), outward.upstream.last_expiry_s), (1, Some(5)));
    outward.turn(1_100, Time(1_100), &mut cx);
    assert_eq!((outward.in_flight(), outward.upstream.last_expiry_s), (2, Some(4)), "what is left when it is sent");
    outward.turn(10_000, Time(10_000), &mut cx);
    assert_eq!((outward.in_flight(), outward.upstream.last_expiry_s), (3, Some(50)));
    assert_eq!((outward.figures().expired, disk.lock().expired.clone()), (1, BTreeSet::from([2])));
}

#[test]
fn what_the_module_finds_expired_is_counted_as_that() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    disk.lock().queue.insert(0, message(0));
    outward.turn(0, Time(0), &mut cx);
    outward.upstream.events.push_back(Event::Settled(0, Outcome::Expired));
    outward.turn(0, Time(0), &mut cx);
    let disk = disk.lock();
    assert_eq!((&disk.expired, disk.refused.len(), disk.dead.len()), (&BTreeSet::from([0]), 0, 0));
}

#[test]
fn a_dead_letter_that_is_not_taken_is_not_buried_again() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    let rule = Rule { filter: "$dead/#".to_owned(), topic: Template::parse("{user.line}").unwrap(), ..Rule::default() };
    outward.terms.rules = vec![rule];
    let parts = Parts {
        topic: "$dead/b/t/3",
        properties: &[],
        payload: b"3",
        qos: 1,
        retain: false,
        expires_at: None,
        accepted_at: Time(0),
    };
    disk.lock().queue.insert(3, Arc::new(Message::new(&parts, None)));
    outward.turn(0, Time(0), &mut cx);
    let disk = disk.lock();
    assert_eq!((outward.figures().dead, disk.refused.len(), disk.dead.len()), (1, 1, 0));
}

#[test]
fn a_message_at_which_the_server_ends_each_connection_is_given_up() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    (0..4).for_each(|place| drop(disk.lock().queue.insert(place, message(place))));
    let (mut now_ms, mut connections) = (0, 0);
    while !disk.lock().queue.is_empty() && connections < 40 {
        outward.turn(now_ms, Time(0), &mut cx);
        while outward.upstream.connected && !outward.upstream.open.is_empty() {
            if outward.upstream.open.contains(&2) {
                connections += 1;
                outward.upstream.events.push_back(Event::Ended);
                outward.upstream.events.push_back(Event::Lost("cut".to_owned()));
            } else {
                outward.upstream.answer();
            }
            outward.turn(now_ms, Time(0), &mut cx);
        }
        now_ms += 60_000;
    }
    let disk = disk.lock();
    assert_eq!((disk.arrived.as_slice(), &disk.dead), (&[0, 1, 3][..], &BTreeSet::from([2])));
    assert!((5..12).contains(&connections), "{connections}");
}

#[test]
fn a_server_that_is_silent_costs_no_message() {
    let (mut outward, disk) = one(false);
    let mut cx = Context::from_waker(Waker::noop());
    disk.lock().queue.insert(0, message(0));
    for now_ms in (0..40).map(|n| n * 61_000) {
        outward.turn(now_ms, Time(0), &mut cx);
        outward.upstream.events.push_back(Event::Lost("no answer".to_owned()));
        outward.turn(now_ms, Time(0), &mut cx);
    }
    assert!(disk.lock().queue.contains_key(&0) && outward.figures().dead == 0);
}

#[test]
fn what_is_wrapped_is_the_same_again_and_dies_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(crate::bridge::identity::folder(scratch.path())).unwrap();
    let (mut outward, disk) = one(false);
    outward.terms.rules[0].wrapping = Wrapping::Json;
    outward.terms.times = Some(Timeline::of(scratch.path(), "b", 5).unwrap());
    let mut cx = Context::from_waker(Waker::noop());
    // The second is refused: the dead letters read its payload.
    for place in [4, 5] {
        disk.lock().queue.insert(place, message(place));
        outward.look_at_clocks(0, Time(0), Some(1_800_000_000_000)).unwrap();
        outward.turn(0, Time(0), &mut cx);
        let first = std::mem::take(&mut outward.upstream.last_payload);
        let value: serde_json::Value = serde_json::from_slice(&first).unwrap();
        assert_eq!((&value["payload"], &value["seq"], &value["origin"]), (&place.into(), &place.into(), &"g.b".into()));
        assert_eq!(value["time"], "2027-01-15T08:00:00Z");
        outward.upstream.events.push_back(Event::Lost("cut".to_owned()));
        let again = outward.turn(0, Time(0), &mut cx).unwrap();
        // The wall clock has been set meanwhile.
        outward.look_at_clocks(100_000, Time(100_000), Some(1_900_000_000_000)).unwrap();
        outward.turn(again, Time(100_000), &mut cx);
        assert_eq!(outward.upstream.last_payload, first);
        outward.upstream.answer();
        outward.turn(again, Time(100_000), &mut cx);
    }
    assert_eq!((outward.figures().delivered, outward.figures().dead), (1, 1));
    assert!(disk.lock().dead.contains(&5));
}

/// 2027-01-15T00:00:00Z
const MIDNIGHT: u64 = 1_800_000_000_000 - 8 * 3_600_000;

#[test]
fn the_bytes_of_a_day_are_kept_and_said() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(crate::bridge::identity::folder(scratch.path())).unwrap();
    let (mut outward, disk) = one(false);
    let size = message(0).size() as u64;
    let budget = Budget::of(scratch.path(), "b", 3 * size, Calendar::default()).unwrap();
    outward.terms.pace = Pace::new(None, None, 0).with(None, Some(budget));
    let mut cx = Context::from_waker(Waker::noop());
    (0..5).for_each(|place| drop(disk.lock().queue.insert(place, message(place))));
    let mut turn = |outward: &mut Outward<_, Cluster, _>, at: u64| {
        outward.look_at_clocks(at, Time(at), Some(MIDNIGHT + at)).unwrap();
        let again = outward.turn(at, Time(at), &mut cx);
        while !outward.upstream.open.is_empty() {
            outward.upstream.answer();
            outward.turn(at, Time(at), &mut cx);
        }
        again
    };
    turn(&mut outward, 1_000);
    assert_eq!(outward.figures().sent, 3);
    let why = "blocked: the bytes of the day are used up, until 2027-01-16T00:00:00Z";
    assert_eq!(outward.state(1_000).text(), why);
    let pacing = outward.pacing();
    assert_eq!(pacing.budget, Some((3 * size, 3 * size)));
    assert_eq!(pacing.until.as_deref(), Some("2027-01-16T00:00:00Z"));
    let again = turn(&mut outward, DAY_MS - 1_000);
    assert_eq!((again, outward.figures().sent), (Some(DAY_MS), 3), "it asks again when the day ends");
    turn(&mut outward, DAY_MS);
    assert_eq!((outward.figures().sent, outward.state(DAY_MS)), (5, State::Connected));
    assert_eq!((outward.pacing().budget, outward.pacing().until), (Some((3 * size, 2 * size)), None));
    assert!(disk.lock().queue.is_empty());
}

#[test]
fn a_plan_paces_what_is_sent() {
    let (mut outward, disk) = one(false);
    outward.terms.pace = Pace::new(None, None, 0).with(Some(Drain::new(3_600_000, Calendar::default())), None);
    let mut cx = Context::from_waker(Waker::noop());
    (0..40).filter(|place| !is_refused(*place)).for_each(|place| drop(disk.lock().queue.insert(place, message(place))));
    let backlog = disk.lock().queue.len() as u64;
    let (mut now_ms, mut most) = (0, 0);
    // Ten seconds are left. What waits is always an hour old here.
    while now_ms < 9_500 {
        outward.look_at_clocks(now_ms, Time(now_ms), Some(MIDNIGHT + 3_590_000 + now_ms)).unwrap();
        let before = outward.figures().sent;
        let again = outward.turn(now_ms, Time(now_ms), &mut cx);
        most = most.max(outward.figures().sent - before);
        while !outward.upstream.open.is_empty() {
            outward.upstream.answer();
        }
        now_ms = again.unwrap_or(u64::MAX).clamp(now_ms + 1, now_ms + 1_000);
    }
    let sent = outward.figures().sent;
    assert!(sent.abs_diff(backlog * 95 / 100) <= 3 && most <= 2, "{sent} of {backlog}, {most} at once");
    outward.look_at_clocks(10_500, Time(10_500), Some(MIDNIGHT + 3_600_500)).unwrap();
    outward.turn(10_500, Time(10_500), &mut cx);
    assert_eq!(outward.figures().sent, backlog);
}
