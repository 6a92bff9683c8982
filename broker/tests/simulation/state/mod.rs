//! State over a restart, by seed: retained messages that are replaced and expire, wills that are published (at once, after
//! their delay, by a take-over) or discarded, subscriptions with all their options, session expiry intervals that DISCONNECT
//! changes, retained messages of which a new subscriber has got a part. The broker crashes at any step, with commits that fail before, or whose outcome nobody knows. What it knows then
//! is what its last commit held, and what it had answered is in that.

mod model;
mod peer;

use std::collections::BTreeSet;

use forebay::store::memory::Failure;

use self::model::{LONG_S, Leave, State, Sub, Terms, Will};
use self::peer::Peer;
use crate::seeds;
use crate::world::World;

const CLIENTS: [&str; 3] = ["c0", "c1", "c2"];
const WATCHER: &str = "watcher";
const PUBLISHER: &str = "publisher";
/// It subscribes to what is retained, and is given it as commits make room.
const READER: &str = "reader";
/// Retained messages that stay as they are: more than there is room for before a commit.
const KEPT: usize = 12;
const EVENTS: u32 = 120;
/// Turns in which whatever is under way is over.
const TURNS: u32 = 2000;

struct Play {
    world: World,
    peers: Vec<Peer>,
    /// What the broker knows.
    now: State,
    /// What its last commit held.
    disk: State,
    /// Wills that were published in any of its lives.
    ever: BTreeSet<u32>,
    /// Of those, the ones of QoS 2.
    exactly_once: BTreeSet<u32>,
    /// The watcher reads nothing: what it is sent is lost in a crash.
    asleep: bool,
    /// Publications that nothing has to be written for.
    unwritten: BTreeSet<u16>,
    numbers: u32,
    packets: u16,
    crashes: u32,
}

fn name_of(at: usize) -> &'static str {
    CLIENTS.into_iter().chain([WATCHER, PUBLISHER, READER]).nth(at).unwrap()
}

impl Play {
    fn new(seed: u64) -> Self {
        let peers = (0..CLIENTS.len() + 3).map(|at| Peer::named(name_of(at))).collect();
        let (now, disk) = (State::default(), State::default());
        let world = World::retaining(seed, 1000);
        let (ever, exactly_once, unwritten) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut play = Self {
            world,
            peers,
            now,
            disk,
            ever,
            exactly_once,
            asleep: false,
            unwritten,
            numbers: 0,
            packets: 0,
            crashes: 0,
        };
        let (watcher, all) = (play.at(WATCHER), Sub { qos: 2, no_local: false, retain_as_published: false, id: 0 });
        // The broker may crash meanwhile.
        while play.disk.sessions.get(WATCHER).is_none_or(|kept| kept.subs.is_empty()) {
            play.connect(watcher, false, LONG_S, None);
            play.subscribe(watcher, "w/#", all);
            play.commit(Failure::None);
        }
        for topic in (0..KEPT).map(|n| format!("k/{n:02}")) {
            while !play.disk.retained.contains_key(&topic) {
                let (publisher, number) = (play.publisher(), play.number());
                play.retain_one(publisher, topic.clone(), number, 2, None);
                play.commit(Failure::None);
            }
        }
        play
    }

    fn at(&self, name: &str) -> usize {
        self.peers.iter().position(|peer| peer.name == name).unwrap()
    }

    fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.world.seed.below(end)).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.world.seed.one_in(n)
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn packet_id(&mut self) -> u16 {
        self.packets += 1;
        self.packets
    }

    fn now_ms(&self) -> u64 {
        self.world.broker().clock.now().0
    }

    /// The broker and its clients run a little, and what the clients have been told is held against the store.
    fn run(&mut self) {
        self.world.run(2);
        self.world.page();
        let asleep = self.asleep;
        for peer in self.peers.iter_mut().filter(|peer| peer.name != WATCHER || !asleep) {
            peer.poll();
        }
        self.check_answers();
        self.ever.extend(&self.now.published);
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS {
            if done(self) {
                return;
            }
            self.run();
        }
        panic!("{what} never came");
    }

    /// Everything that the client has sent is handled: the broker answers in order.
    fn handled(&mut self, at: usize) {
        let pongs = self.peers[at].pongs;
        self.peers[at].packet(0xC0, &[]);
        self.run_until("PINGRESP", |play| play.peers[at].pongs > pongs);
    }

    /// What is answered is committed, where the session or the message outlives a crash.
    fn check_answers(&mut self) {
        for peer in &mut self.peers {
            let name = peer.name;
            let durable = self.now.sessions.get(name).is_some_and(|kept| kept.expiry_s > 0);
            let on_disk = self.disk.sessions.get(name).map_or(0, |kept| kept.handled);
            for id in peer.answered.drain(..) {
                assert!(!durable || id <= on_disk, "{name}: SUBACK or UNSUBACK {id} before its commit");
            }
            for id in peer.acknowledged.drain(..) {
                let on_disk = self.disk.handled;
                let written = id <= on_disk || self.unwritten.contains(&id);
                assert!(name != PUBLISHER || written, "publication {id} is acknowledged before its commit");
            }
        }
    }

    fn connect(&mut self, at: usize, clean: bool, expiry_s: u32, will: Option<Will>) {
        let name = self.peers[at].name;
        self.world.note(format!("{name} connects, clean {clean}, expiry {expiry_s}, {will:?}"));
        self.asleep &= name != WATCHER;
        let stream = self.world.dial(Peer::room());
        self.peers[at].connect(stream, clean, expiry_s, will);
        self.run_until("CONNACK", |play| play.peers[at].greeted.is_some());
        let now_ms = self.now_ms();
        let present = self.now.connect(name, clean, expiry_s, will, now_ms);
        assert_eq!(self.peers[at].greeted, Some(present), "{name}: Session Present");
        self.ever.extend(&self.now.published);
    }

    fn subscribe(&mut self, at: usize, filter: &str, sub: Sub) {
        let id = self.packet_id();
        self.world.note(format!("{} subscribes to {filter}: {sub:?}", self.peers[at].name));
        let before = self.peers[at].came.len();
        self.peers[at].subscribe(id, filter, sub);
        if self.crash_now(30) {
            return;
        }
        self.handled(at);
        let kept = self.now.sessions.get_mut(self.peers[at].name).unwrap();
        kept.subs.insert(filter.to_owned(), sub);
        (kept.handled, kept.asked) = (id, Some(before));
    }

    fn unsubscribe(&mut self, at: usize, filter: &str) {
        let id = self.packet_id();
        self.world.note(format!("{} unsubscribes from {filter}", self.peers[at].name));
        self.peers[at].unsubscribe(id, filter);
        if self.crash_now(30) {
            return;
        }
        self.handled(at);
        let kept = self.now.sessions.get_mut(self.peers[at].name).unwrap();
        kept.subs.remove(filter);
        (kept.handled, kept.asked) = (id, None);
    }

    fn leave(&mut self, at: usize, how: Leave, expiry_s: Option<u32>) {
        let name = self.peers[at].name;
        self.world.note(format!("{name} leaves, {how:?}, {expiry_s:?}"));
        match how {
            Leave::Quietly => self.peers[at].disconnect(0, expiry_s),
            Leave::WithWill => self.peers[at].disconnect(4, expiry_s),
            Leave::Cut => self.peers[at].cut(),
        }
        if self.crash_now(30) {
            return;
        }
        self.run_until("the end of the connection", |play| !play.world.broker().is_online(name));
        self.peers[at].cut();
        let now_ms = self.now_ms();
        self.now.leave(name, how, expiry_s, now_ms);
        self.ever.extend(&self.now.published);
    }

    fn publisher(&mut self) -> usize {
        let at = self.at(PUBLISHER);
        if !self.peers[at].is_connected() {
            self.connect(at, true, 0, None);
        }
        at
    }

    /// One topic or a few, several times perhaps before anything is committed.
    fn retain(&mut self) {
        let at = self.publisher();
        for _ in 0..=self.below(3) {
            let topic = format!("r/{}", self.below(3));
            let number = if self.one_in(5) { 0 } else { self.number() };
            let qos = u8::try_from(self.below(3)).unwrap();
            let expiry_s = self.one_in(3).then_some(2);
            if !self.retain_one(at, topic, number, qos, expiry_s) {
                return;
            }
        }
    }

    /// False: the broker has crashed.
    fn retain_one(&mut self, at: usize, topic: String, number: u32, qos: u8, expiry_s: Option<u32>) -> bool {
        let id = self.packet_id();
        self.world.note(format!("{number} is retained on {topic} at QoS {qos}, {expiry_s:?}"));
        if number == 0 && !self.now.alive(self.now_ms()).contains_key(&topic) {
            self.unwritten.insert(id);
        }
        self.peers[at].publish(id, &topic, qos, true, number, expiry_s);
        if self.crash_now(40) {
            return false;
        }
        self.handled(at);
        let expires = expiry_s.map(|s| self.now_ms() + u64::from(s) * 1000);
        match number {
            0 => drop(self.now.retained.remove(&topic)),
            _ => drop(self.now.retained.insert(topic, (number, expires))),
        }
        self.now.handled = id;
        true
    }

    /// Subscribes, or goes away while it is being given what is retained, or is to have it.
    fn read(&mut self) {
        let at = self.at(READER);
        if !self.peers[at].is_connected() {
            return self.connect(at, false, LONG_S, None);
        }
        if self.now.sessions[READER].asked.is_none() {
            let qos = 1 + u8::try_from(self.below(2)).unwrap();
            return self.subscribe(at, "k/+", Sub { qos, no_local: false, retain_as_published: false, id: 0 });
        }
        if self.one_in(2) {
            return self.leave(at, Leave::Cut, None);
        }
        self.check_reader();
        self.unsubscribe(at, "k/+");
    }

    /// All that was retained when it subscribed comes, however often the broker has crashed since: at QoS 2 once.
    fn check_reader(&mut self) {
        let at = self.at(READER);
        if !self.peers[at].is_connected() {
            self.connect(at, false, LONG_S, None);
        }
        let kept = &self.now.sessions[READER];
        let (Some(asked), Some(sub)) = (kept.asked, kept.subs.get("k/+").copied()) else { return };
        let terms = Terms { qos: sub.qos, retain: true, ids: Vec::new() };
        let retained: Vec<(String, u32)> =
            self.now.retained.iter().filter(|(t, _)| t.starts_with("k/")).map(|(t, (n, _))| (t.clone(), *n)).collect();
        let mut counts = Vec::new();
        for _ in 0..5 {
            self.calm();
            let came = &self.peers[at].came[asked..];
            let count = |(topic, number): &(String, u32)| {
                came.iter().filter(|(t, n, how)| t == topic && n == number && *how == terms).count()
            };
            counts = retained.iter().map(count).collect();
            if !counts.contains(&0) {
                break;
            }
        }
        assert!(!counts.contains(&0), "not all that was retained when it subscribed: {counts:?}");
        assert!(sub.qos == 1 || counts.iter().all(|count| *count == 1), "more than once at QoS 2: {counts:?}");
    }

    fn advance(&mut self, ms: u64) {
        self.world.note(format!("{ms} ms pass"));
        self.world.advance(ms);
        let now_ms = self.now_ms();
        self.now.settle(now_ms);
        self.ever.extend(&self.now.published);
        if self.one_in(2) {
            self.world.broker().expire_retained();
        }
    }

    /// A commit that succeeds, or fails; then the broker crashes, since only that shows what it left.
    fn commit(&mut self, failure: Failure) {
        let wait = self.world.seed.below(20);
        let done = self.world.commit_of(Some(wait), failure);
        if done || failure == Failure::Unknown {
            self.disk = self.now.clone();
        }
        if !done {
            self.crash();
        }
        self.run();
    }

    fn crash_now(&mut self, n: u64) -> bool {
        let now = self.one_in(n);
        if now {
            self.crash();
        }
        now
    }

    fn crash(&mut self) {
        self.crashes += 1;
        for peer in &mut self.peers {
            peer.cut();
        }
        self.world.crash();
        self.now = self.disk.clone();
        let now_ms = self.now_ms();
        self.now.restart(now_ms);
        self.ever.extend(&self.now.published);
    }

    fn will(&mut self) -> Option<Will> {
        if self.one_in(4) {
            return None;
        }
        let qos = 1 + u8::try_from(self.below(2)).unwrap();
        let delay_s = [0, 0, 2, 6][self.below(4)];
        let will = Will { number: self.number(), qos, retain: self.one_in(3), delay_s };
        if qos == 2 {
            self.exactly_once.insert(will.number);
        }
        Some(will)
    }

    fn event(&mut self) {
        let at = self.below(CLIENTS.len() as u64);
        let connected = self.peers[at].is_connected();
        let filter = ["a/#", "a/1", "+/2", "a/+"][self.below(4)];
        match self.below(22) {
            0..=2 => {
                let expiry_s = [0, 3, LONG_S, LONG_S][self.below(4)];
                let (clean, will) = (self.one_in(4), self.will());
                self.connect(at, clean, expiry_s, will);
            }
            3..=6 if connected => {
                let [qos, no_local, kept] = [3, 2, 2].map(|end| u8::try_from(self.below(end)).unwrap());
                let id = u32::try_from(self.below(4)).unwrap();
                self.subscribe(at, filter, Sub { qos, no_local: no_local == 1, retain_as_published: kept == 1, id });
            }
            7 | 8 if connected => self.unsubscribe(at, filter),
            9 | 10 if connected => {
                let how = [Leave::Quietly, Leave::WithWill, Leave::Cut][self.below(3)];
                let may = !matches!(how, Leave::Cut) && self.now.sessions[self.peers[at].name].expiry_s > 0;
                let expiry_s = (may && self.one_in(2)).then(|| [0, 3, LONG_S][self.below(3)]);
                self.leave(at, how, expiry_s);
            }
            11 => {
                let watcher = self.at(WATCHER);
                if self.one_in(2) {
                    self.asleep = !self.asleep;
                } else if self.peers[watcher].is_connected() {
                    self.leave(watcher, Leave::Cut, None);
                } else {
                    self.connect(watcher, false, LONG_S, None);
                }
            }
            12 | 13 => self.retain(),
            14 => {
                let ms = self.world.seed.below(2500);
                self.advance(ms);
            }
            15..=17 => {
                let failure = match self.below(16) {
                    0 => Failure::Lost,
                    1 => Failure::Unknown,
                    _ => Failure::None,
                };
                self.commit(failure);
            }
            18 if self.one_in(3) => self.crash(),
            19 if self.one_in(4) => self.look(),
            20 | 21 => self.read(),
            _ => {
                self.world.advance(1);
                self.run();
            }
        }
        self.world.check_ledger();
    }

    fn calm(&mut self) {
        for _ in 0..10 {
            self.commit(Failure::None);
        }
    }

    /// Everything that can be asked of the broker is asked.
    fn look(&mut self) {
        self.world.note("a look");
        self.world.advance(0);
        self.look_at_retained();
        for at in 0..CLIENTS.len() {
            self.connect(at, false, LONG_S, None);
        }
        self.calm();
        for publisher in [0, 1, 2, self.publisher()] {
            for topic in ["a/1", "a/2"] {
                for retain in [false, true] {
                    self.probe(publisher, topic, retain);
                }
            }
        }
    }

    fn look_at_retained(&mut self) {
        let stream = self.world.dial(Peer::room());
        let mut observer = Peer::named("observer");
        observer.connect(stream, true, 0, None);
        observer.subscribe(1, "#", Sub { qos: 0, no_local: false, retain_as_published: false, id: 0 });
        for _ in 0..20 {
            self.world.run(2);
            observer.poll();
        }
        assert!(observer.answered == [1], "the observer is subscribed");
        let found = observer.came.iter().map(|(topic, number, _)| (topic.clone(), *number)).collect();
        assert_eq!(self.now.alive(self.now_ms()), found, "what is retained");
        observer.cut();
        self.run_until("the observer's end", |play| !play.world.broker().is_online("observer"));
    }

    /// A message of this client, and on which terms the others get it.
    fn probe(&mut self, publisher: usize, topic: &str, retain: bool) {
        let (number, id, name) = (self.number(), self.packet_id(), self.peers[publisher].name);
        self.world.note(format!("{name} sends the probe {number} to {topic}, retain {retain}"));
        for peer in &mut self.peers {
            peer.came.retain(|(topic, ..)| topic.starts_with("w/") || topic.starts_with("k/"));
        }
        // Who has acknowledged it makes the write needless.
        self.unwritten.insert(id);
        self.peers[publisher].publish(id, topic, 2, retain, number, None);
        self.handled(publisher);
        if retain {
            self.now.retained.insert(topic.to_owned(), (number, None));
        }
        self.calm();
        for at in 0..CLIENTS.len() {
            let wanted = self.now.terms(name_of(at), name, topic, 2, retain);
            let came = self.peers[at].came.iter().filter(|(_, came, _)| *came == number);
            let came: Vec<&Terms> = came.map(|(.., terms)| terms).collect();
            assert_eq!(came, wanted.iter().collect::<Vec<_>>(), "{}: probe {number} of {name}", name_of(at));
        }
    }

    fn check_wills(&mut self) {
        let watcher = self.at(WATCHER);
        self.asleep = false;
        self.world.advance(0);
        if !self.peers[watcher].is_connected() {
            self.connect(watcher, false, LONG_S, None);
        }
        self.calm();
        let came: Vec<u32> = self.peers[watcher].came.iter().map(|(_, number, _)| *number).collect();
        let known: BTreeSet<u32> = came.iter().copied().collect();
        let lost: Vec<_> = self.now.published.difference(&known).collect();
        assert!(lost.is_empty(), "wills that were published and are lost: {lost:?}");
        let strange: Vec<_> = known.difference(&self.ever).collect();
        assert!(strange.is_empty(), "wills that were never to be published: {strange:?}");
        let twice = self.exactly_once.iter().find(|number| came.iter().filter(|came| came == number).count() > 1);
        assert_eq!(twice, None, "a will of QoS 2 came twice");
    }
}

impl Play {
    /// What has expired leaves the store as well.
    fn check_store(&mut self) {
        self.advance(3000);
        self.world.broker().expire_retained();
        self.calm();
        let stored = self.world.disk.found().0.retained;
        let stored = stored.iter().map(|message| (message.topic().to_owned(), number_of(message.payload()))).collect();
        assert_eq!(self.now.alive(self.now_ms()), stored, "what is retained in the store");
    }
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

fn play(play: &mut Play) {
    for _ in 0..EVENTS {
        play.event();
    }
    play.look();
    play.crash();
    play.look();
    play.check_reader();
    play.check_wills();
    play.check_store();
}

#[test]
fn what_a_crash_finds_is_what_was_committed() {
    let (mut crashes, mut wills) = (0, 0);
    for seed in seeds().step_by(6) {
        let mut one = Play::new(seed);
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(&mut one))).is_ok();
        crate::say_unless(passed, &one.world, seed);
        crashes += one.crashes;
        wills += one.ever.len();
    }
    if seeds().count() > 100 {
        assert!(crashes > 100 && wills > 100, "hardly anything happens: {crashes} crashes, {wills} wills");
    }
}
