//! `kill -9` at random moments while clients change what the broker keeps: retained messages (replaced, removed, expiring),
//! subscriptions with their options, sessions that begin anew, session expiry intervals and wills that DISCONNECT changes and
//! discards. What was acknowledged holds after the restart; of what was asked for since, each may.
//!
//! FOREBAY_KILLS=n for another number of rounds, FOREBAY_SEED=n for the same choices.

mod client;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay_tests::broker::Broker;
use forebay_tests::packet::build::{
    Connect, NO_LOCAL, Publish, RETAIN_AS_PUBLISHED, RETAIN_NEVER, Subscribe, Will, disconnect,
};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{Packet, Version};
use forebay_tests::raw::Raw;
use forebay_tests::rng::Rng;

use client::Client;
use model::{Fate, Guest, Known};

const FILTERS: usize = 3;
const TOPICS: usize = 3;
const HOUR_S: u32 = 3600;
/// How long what is published by the clock may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscription: QoS and options, and its identifier, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sub {
    options: u8,
    id: u32,
}

struct Play {
    broker: Broker,
    rng: Rng,
    /// The last packet identifier, message or will.
    numbers: u16,
    publisher: Client,
    subscriber: Client,
    guest: Client,
    watcher: Client,
    retained: Vec<Known<Option<u16>>>,
    /// Retained messages that expire after a second.
    expiring: BTreeSet<u16>,
    subs: Vec<Known<Option<Sub>>>,
    visits: Guest,
    exactly_once: BTreeSet<u32>,
}

fn kept(client: &str) -> Connect {
    Connect::new(Version::V5, client).resume().with(Property::SessionExpiry(HOUR_S))
}

impl Play {
    fn new(rng: Rng, config: &str) -> Self {
        let broker = Broker::with_config(config);
        let clients = || Client::default();
        let mut play = Self {
            broker,
            rng,
            numbers: 0,
            publisher: clients(),
            subscriber: clients(),
            guest: clients(),
            watcher: clients(),
            retained: vec![Known::new(None); TOPICS],
            expiring: BTreeSet::new(),
            subs: vec![Known::new(None); FILTERS],
            visits: Guest::new(),
            exactly_once: BTreeSet::new(),
        };
        play.open();
        play.watcher.connect(play.broker.port(), &kept("watcher"));
        let number = play.number();
        play.watcher.send(&Subscribe::new(Version::V5, number).filter("w/#", 2).packet());
        play.watcher.until_acknowledged(number);
        play.fence();
        play
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.below(end as u64) as usize
    }

    fn number(&mut self) -> u16 {
        self.numbers += 1;
        self.numbers
    }

    fn open(&mut self) -> bool {
        let port = self.broker.port();
        self.publisher.connect(port, &Connect::new(Version::V5, "publisher"));
        self.subscriber.connect(port, &kept("subscriber"))
    }

    /// Waits for a commit: what was handled before it is in it.
    fn fence(&mut self) {
        let number = self.number();
        let packet = Publish::new(Version::V5, "fence", number.to_string().as_bytes()).qos(1, number).retain();
        self.publisher.send(&packet.packet());
        while let Some(acknowledged) = self.publisher.one() {
            self.published(acknowledged);
            if acknowledged == number {
                self.visits.fenced();
                return;
            }
        }
        panic!("the connection is over");
    }

    fn published(&mut self, number: u16) {
        self.retained.iter_mut().for_each(|known| known.acknowledged(number));
    }

    fn subscribed(&mut self, number: u16) {
        self.subs.iter_mut().for_each(|known| known.acknowledged(number));
    }

    fn retain(&mut self) {
        let (at, number) = (self.below(TOPICS), self.number());
        let mut packet = Publish::new(Version::V5, &format!("r/{at}"), b"").qos(1, number).retain();
        let removes = self.below(4) == 0;
        if !removes {
            packet =
                Publish::new(Version::V5, &format!("r/{at}"), number.to_string().as_bytes()).qos(1, number).retain();
            self.retained[at].ask(number, Some(number));
        }
        if !removes && self.below(3) == 0 {
            packet = packet.with(Property::MessageExpiry(1));
            self.expiring.insert(number);
        }
        if removes || self.expiring.contains(&number) {
            self.retained[at].ask(number, None);
        }
        self.publisher.send(&packet.packet());
    }

    fn subscribe(&mut self) {
        let (at, number) = (self.below(FILTERS), self.number());
        let filter = format!("s/{at}");
        if self.below(3) == 0 {
            self.subs[at].ask(number, None);
            self.subscriber.send(&Subscribe::new(Version::V5, number).filter(&filter, 0).undo());
            return;
        }
        let options = [0, NO_LOCAL, RETAIN_AS_PUBLISHED, NO_LOCAL | RETAIN_AS_PUBLISHED][self.below(4)];
        let sub = Sub { options: options | (1 + self.below(2) as u8), id: self.below(4) as u32 };
        self.subs[at].ask(number, Some(sub));
        let packet = Subscribe::new(Version::V5, number).filter(&filter, sub.options | RETAIN_NEVER);
        let packet = if sub.id > 0 { packet.with(Property::SubscriptionId(sub.id)) } else { packet };
        self.subscriber.send(&packet.packet());
    }

    /// The subscriber's session begins anew.
    fn begin_anew(&mut self) {
        let number = self.number();
        let connect = Connect::new(Version::V5, "subscriber").with(Property::SessionExpiry(HOUR_S));
        self.subscriber.connect(self.broker.port(), &connect);
        self.subs.iter_mut().for_each(|known| known.ask(number, None));
        if self.below(2) == 0 {
            self.fence();
            self.subscribed(number);
        }
    }

    /// The guest comes, again perhaps, or goes.
    fn visit(&mut self) {
        let number = self.number();
        match self.below(5) {
            0 if self.guest.is_connected() => {
                self.guest.cut();
                self.visits.published();
            }
            1 | 2 if self.guest.is_connected() => {
                let with_will = self.below(3) == 0;
                let other = self.visits.expiry_s > 0 && self.below(2) == 0;
                let expiry_s = other.then(|| [0, HOUR_S][self.below(2)]);
                let properties: Vec<Property> = expiry_s.into_iter().map(Property::SessionExpiry).collect();
                self.guest.leave(&disconnect(if with_will { 4 } else { 0 }, &properties));
                self.visits.left(number, with_will, expiry_s);
            }
            _ => {
                let expiry_s = [0, HOUR_S, HOUR_S][self.below(3)];
                let (qos, clean) = (1 + self.below(2) as u8, self.below(3) == 0);
                let connect = Connect::new(Version::V5, "guest").with(Property::SessionExpiry(expiry_s));
                let connect = if clean { connect } else { connect.resume() };
                let will = Will::new("w/guest", number.to_string().as_bytes()).qos(qos);
                self.guest.connect(self.broker.port(), &connect.will(will));
                self.visits.connected(number, expiry_s, Some(number.into()));
                if qos == 2 {
                    self.exactly_once.insert(number.into());
                }
            }
        }
        if self.below(2) == 0 {
            self.fence();
        }
    }

    /// Asks for much, hears some of it, and kills.
    fn round(&mut self) {
        if self.below(5) == 0 {
            self.begin_anew();
        }
        let (mut publications, mut subscriptions) = (0, 0);
        for _ in 0..self.below(16) {
            match self.below(8) {
                0..=2 => {
                    self.retain();
                    publications += 1;
                }
                3..=5 => {
                    self.subscribe();
                    subscriptions += 1;
                }
                6 => {
                    self.visit();
                    // A fence has heard of them.
                    publications = 0;
                }
                _ => std::thread::sleep(Duration::from_micros(self.rng.below(2000))),
            }
        }
        for _ in 0..self.below(subscriptions + 1) {
            let number = self.subscriber.one().expect("an answer");
            self.subscribed(number);
        }
        for _ in 0..self.below(publications + 1) {
            let number = self.publisher.one().expect("an answer");
            self.published(number);
        }
        std::thread::sleep(Duration::from_micros(self.rng.below(3000)));
        self.kill();
    }

    fn kill(&mut self) {
        self.broker.kill();
        // What had been said before it.
        while let Some(number) = self.publisher.one() {
            self.published(number);
        }
        while let Some(number) = self.subscriber.one() {
            self.subscribed(number);
        }
        self.visits.killed();
        self.guest.cut();
        self.watcher.cut();
        self.broker.run();
        assert!(self.open(), "the subscriber's session");
    }

    fn look(&mut self) {
        self.look_at_retained();
        self.look_at_subscriptions();
        let present = self.guest.connect(self.broker.port(), &kept("guest"));
        self.visits.present.find(&format!("the guest's session is there: {present}"), |known| *known == present);
        let number = self.number();
        self.visits.connected(number, HOUR_S, None);
        self.watch();
    }

    /// What a new subscriber is given.
    fn found_retained(&self) -> BTreeMap<String, u16> {
        let mut observer = Raw::clean(self.broker.port(), Version::V5, "observer");
        observer.subscribe("r/+", 0);
        let came = observer.receive_all().into_iter().filter_map(|packet| match packet {
            Packet::Publish(message) => Some((message.topic, number_of(&message.payload).unwrap())),
            _ => None,
        });
        came.collect()
    }

    fn look_at_retained(&mut self) {
        let found = self.found_retained();
        for (at, known) in self.retained.iter_mut().enumerate() {
            let topic = format!("r/{at}");
            let value = found.get(&topic).copied();
            known.find(&format!("{topic} is {value:?}"), |known| *known == value);
            if value.is_some_and(|number| self.expiring.contains(&number)) {
                known.ask(0, None);
            }
        }
    }

    /// Each subscription gets a message of another client, with RETAIN, and one of its own client.
    fn look_at_subscriptions(&mut self) {
        let fence = self.number();
        self.subscriber.send(&Subscribe::new(Version::V5, fence).filter("fence/subscriber", 2).packet());
        self.subscriber.until_acknowledged(fence);
        self.subscriber.came.clear();
        let mut probes = Vec::new();
        for at in 0..FILTERS {
            let (own, others) = (self.number(), self.number());
            let packet = |number: u16, qos| {
                Publish::new(Version::V5, &format!("s/{at}"), number.to_string().as_bytes()).qos(qos, number)
            };
            self.subscriber.send(&packet(own, 1).packet());
            self.subscriber.until_acknowledged(own);
            self.publisher.send(&packet(others, 2).retain().packet());
            self.publisher.until_acknowledged(others);
            probes.push((own, others));
        }
        let end = self.number();
        let packet = Publish::new(Version::V5, "fence/subscriber", end.to_string().as_bytes()).qos(2, end);
        self.publisher.send(&packet.packet());
        self.publisher.until_acknowledged(end);
        self.subscriber.until_came(&end.to_string());
        for (at, (own, others)) in probes.into_iter().enumerate() {
            let find =
                |number: u16| self.subscriber.came.iter().find(|message| number_of(&message.payload) == Some(number));
            let found = find(others).map(|message| {
                let ids = message.properties.iter().filter_map(|property| match property {
                    Property::SubscriptionId(id) => Some(*id),
                    _ => None,
                });
                let no_local = if find(own).is_some() { 0 } else { NO_LOCAL };
                let retain = if message.retain { RETAIN_AS_PUBLISHED } else { 0 };
                Sub { options: message.qos | no_local | retain, id: ids.sum() }
            });
            self.subs[at].find(&format!("s/{at} is {found:?}"), |known| *known == found);
        }
    }

    /// Takes the wills that have come until now.
    fn watch(&mut self) {
        if !self.watcher.is_connected() {
            assert!(self.watcher.connect(self.broker.port(), &kept("watcher")), "the watcher's session");
        }
        let end = self.number();
        let packet = Publish::new(Version::V5, "w/end", format!("end {end}").as_bytes()).qos(2, end);
        self.publisher.send(&packet.packet());
        self.publisher.until_acknowledged(end);
        self.watcher.until_came(&format!("end {end}"));
    }

    fn check_wills(&mut self) {
        let begun = Instant::now();
        loop {
            self.watch();
            let came: Vec<u32> =
                self.watcher.came.iter().filter_map(|m| number_of(&m.payload)).map(u32::from).collect();
            let fates = &self.visits.fates;
            for will in &came {
                assert!(matches!(fates.get(will), Some(Fate::Must | Fate::May)), "will {will}: {:?}", fates.get(will));
            }
            let twice = self.exactly_once.iter().find(|will| came.iter().filter(|came| came == will).count() > 1);
            assert_eq!(twice, None, "a will of QoS 2 came twice");
            let lost: Vec<_> =
                fates.iter().filter(|(will, fate)| **fate == Fate::Must && !came.contains(will)).collect();
            if lost.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "wills that never came: {lost:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What has expired is gone, and does not come back.
    fn check_expired(&mut self) {
        let begun = Instant::now();
        while self.found_retained().values().any(|number| self.expiring.contains(number)) {
            assert!(begun.elapsed() < PATIENCE, "a retained message that does not expire");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill();
        assert!(!self.found_retained().values().any(|number| self.expiring.contains(number)));
    }
}

fn number_of(payload: &[u8]) -> Option<u16> {
    std::str::from_utf8(payload).unwrap().parse().ok()
}

fn rounds(config: &str) {
    let seed = Rng::seed_from_environment();
    let rounds = std::env::var("FOREBAY_KILLS").map_or(18, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    println!("{rounds} rounds, FOREBAY_SEED={seed}");
    let mut play = Play::new(Rng::new(seed), config);
    for _ in 0..rounds {
        play.round();
        play.look();
    }
    play.check_wills();
    play.check_expired();
    let fates: Vec<Fate> = play.visits.fates.into_values().collect();
    let count = |of| fates.iter().filter(|fate| **fate == of).count();
    println!("wills: {} published, {} discarded, {} either", count(Fate::Must), count(Fate::Never), count(Fate::May));
}

#[test]
fn what_was_acknowledged_holds_after_a_kill() {
    rounds("");
}

#[test]
fn what_was_acknowledged_holds_without_a_journal() {
    rounds("[store]\njournal = \"0B\"\n");
}
