//! `kill -9` at random moments while clients of MQTT 3.1.1 or 5 change what the broker keeps: retained messages
//! (replaced, removed, expiring), subscriptions with their options, sessions that begin anew, session expiry intervals
//! that DISCONNECT changes, wills that are published at once, after a delay or never, retained or not. What was
//! acknowledged holds after the restart; of what was asked for since, each may.
//!
//! FOREBAY_KILLS=n for another number of rounds, FOREBAY_SEED=n for the same choices.

mod client;
mod model;
mod wills;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay_tests::broker::Broker;
use forebay_tests::packet::build::{Connect, NO_LOCAL, Publish, RETAIN_AS_PUBLISHED, RETAIN_NEVER, Subscribe};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{DISCONNECT, Packet, Version};
use forebay_tests::raw::Raw;
use forebay_tests::rng::Rng;

use client::Client;
use model::{Fate, Guest, Known};
use wills::RetainedWills;

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
    version: Version,
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
    /// The last number before the subscriber's session began anew, until something later is acknowledged.
    begun_anew: Option<u16>,
    visits: Guest,
    retained_wills: RetainedWills,
    exactly_once: BTreeSet<u16>,
}

/// With a session that outlives the connection.
fn kept(version: Version, client: &str) -> Connect {
    let connect = Connect::new(version, client).resume();
    if version == Version::V5 { connect.with(Property::SessionExpiry(HOUR_S)) } else { connect }
}

impl Play {
    fn new(rng: Rng, version: Version, config: &str) -> Self {
        let broker = Broker::with_config(config);
        let clients = || Client::new(version);
        let mut play = Self {
            broker,
            version,
            rng,
            numbers: 0,
            publisher: clients(),
            subscriber: clients(),
            guest: clients(),
            watcher: clients(),
            retained: vec![Known::new(None); TOPICS],
            expiring: BTreeSet::new(),
            subs: vec![Known::new(None); FILTERS],
            begun_anew: None,
            visits: Guest::new(),
            retained_wills: RetainedWills::default(),
            exactly_once: BTreeSet::new(),
        };
        play.open();
        play.watcher.connect(play.broker.port(), &kept(version, "watcher"));
        let number = play.number();
        play.watcher.send(&Subscribe::new(version, number).filter("w/#", 2).packet());
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
        self.publisher.connect(port, &Connect::new(self.version, "publisher"));
        self.subscriber.connect(port, &kept(self.version, "subscriber"))
    }

    /// Waits for a commit: what was handled before it is in it.
    fn fence(&mut self) {
        let number = self.number();
        let packet = Publish::new(self.version, "fence", number.to_string().as_bytes()).qos(1, number).retain();
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
        self.begun_anew.take_if(|begun| *begun < number);
        self.retained.iter_mut().for_each(|known| known.acknowledged(number));
    }

    fn subscribed(&mut self, number: u16) {
        self.begun_anew.take_if(|begun| *begun < number);
        self.subs.iter_mut().for_each(|known| known.acknowledged(number));
    }

    fn retain(&mut self) {
        let (at, number) = (self.below(TOPICS), self.number());
        let mut packet = Publish::new(self.version, &format!("r/{at}"), b"").qos(1, number).retain();
        let removes = self.below(4) == 0;
        if !removes {
            packet =
                Publish::new(self.version, &format!("r/{at}"), number.to_string().as_bytes()).qos(1, number).retain();
            self.retained[at].ask(number, Some(number));
        }
        if !removes && self.version == Version::V5 && self.below(3) == 0 {
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
            self.subscriber.send(&Subscribe::new(self.version, number).filter(&filter, 0).undo());
            return;
        }
        let sub = self.sub();
        self.subs[at].ask(number, Some(sub));
        let never = if self.version == Version::V5 { RETAIN_NEVER } else { 0 };
        let packet = Subscribe::new(self.version, number).filter(&filter, sub.options | never);
        let packet = if sub.id > 0 { packet.with(Property::SubscriptionId(sub.id)) } else { packet };
        self.subscriber.send(&packet.packet());
    }

    fn sub(&mut self) -> Sub {
        let qos = 1 + self.below(2) as u8;
        if self.version != Version::V5 {
            return Sub { options: qos, id: 0 };
        }
        let options = [0, NO_LOCAL, RETAIN_AS_PUBLISHED, NO_LOCAL | RETAIN_AS_PUBLISHED][self.below(4)];
        Sub { options: options | qos, id: self.below(4) as u32 }
    }

    /// The subscriber's session begins anew.
    fn begin_anew(&mut self) {
        let (number, port) = (self.number(), self.broker.port());
        self.begun_anew = Some(number);
        let clean = Connect::new(self.version, "subscriber");
        if self.version == Version::V5 {
            self.subscriber.connect(port, &clean.with(Property::SessionExpiry(HOUR_S)));
        } else {
            // A clean session ends with its connection.
            self.subscriber.connect(port, &clean);
            self.subscriber.leave(&DISCONNECT);
            assert!(!self.subscriber.connect(port, &kept(self.version, "subscriber")), "it ended");
        }
        self.subs.iter_mut().for_each(|known| known.ask(number, None));
        if self.below(2) == 0 {
            self.fence();
            self.subscribed(number);
        }
    }

    /// Asks for much, hears some of it, and kills.
    fn round(&mut self) {
        if self.below(5) == 0 {
            self.begin_anew();
        }
        let (mut publications, mut subscriptions) = (0, 0);
        for _ in 0..self.below(16) {
            match self.below(10) {
                0..=2 => {
                    self.retain();
                    publications += 1;
                }
                3..=5 => {
                    self.subscribe();
                    subscriptions += 1;
                }
                6..=8 => {
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
        let present = self.open();
        // Nothing has been acknowledged to one that has just begun anew: it may be gone, and the one before it is.
        assert!(present || self.begun_anew.is_some(), "the subscriber's session");
        self.begun_anew = (!present).then_some(self.numbers);
    }

    fn look(&mut self) {
        self.look_at_retained();
        self.look_at_subscriptions();
        self.look_at_guest();
    }

    /// What a new subscriber is given.
    fn found_retained(&self, filter: &str) -> BTreeMap<String, u16> {
        let mut observer = Raw::clean(self.broker.port(), self.version, "observer");
        observer.subscribe(filter, 0);
        let came = observer.receive_all().into_iter().filter_map(|packet| match packet {
            Packet::Publish(message) => Some((message.topic, number_of(&message.payload).unwrap())),
            _ => None,
        });
        came.collect()
    }

    fn look_at_retained(&mut self) {
        let found = self.found_retained("r/+");
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
        self.subscriber.send(&Subscribe::new(self.version, fence).filter("fence/subscriber", 2).packet());
        self.subscriber.until_acknowledged(fence);
        self.subscriber.came.clear();
        let mut probes = Vec::new();
        for at in 0..FILTERS {
            let (own, others) = (self.number(), self.number());
            let packet = |number: u16, qos| {
                Publish::new(self.version, &format!("s/{at}"), number.to_string().as_bytes()).qos(qos, number)
            };
            self.subscriber.send(&packet(own, 1).packet());
            self.subscriber.until_acknowledged(own);
            self.publisher.send(&packet(others, 2).retain().packet());
            self.publisher.until_acknowledged(others);
            probes.push((own, others));
        }
        let end = self.number();
        let packet = Publish::new(self.version, "fence/subscriber", end.to_string().as_bytes()).qos(2, end);
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

    /// What has expired is gone, and does not come back.
    fn check_expired(&mut self) {
        let begun = Instant::now();
        while self.found_retained("r/+").values().any(|number| self.expiring.contains(number)) {
            assert!(begun.elapsed() < PATIENCE, "a retained message that does not expire");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill();
        assert!(!self.found_retained("r/+").values().any(|number| self.expiring.contains(number)));
    }
}

fn number_of(payload: &[u8]) -> Option<u16> {
    std::str::from_utf8(payload).unwrap().parse().ok()
}

fn rounds(version: Version, config: &str) {
    let seed = Rng::seed_from_environment();
    let rounds = std::env::var("FOREBAY_KILLS").map_or(18, |n| n.parse().expect("FOREBAY_KILLS is a number"));
    println!("{rounds} rounds of {version:?}, FOREBAY_SEED={seed}");
    let mut play = Play::new(Rng::new(seed), version, config);
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

const NO_JOURNAL: &str = "[store]\njournal = \"0B\"\n";

#[test]
fn what_was_acknowledged_holds_after_a_kill() {
    rounds(Version::V5, "");
}

#[test]
fn what_was_acknowledged_holds_without_a_journal() {
    rounds(Version::V5, NO_JOURNAL);
}

#[test]
fn what_was_acknowledged_in_3_1_1_holds_after_a_kill() {
    rounds(Version::V4, "");
}

#[test]
fn what_was_acknowledged_in_3_1_1_holds_without_a_journal() {
    rounds(Version::V4, NO_JOURNAL);
}
