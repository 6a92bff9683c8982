//! A queue whose messages are taken as values, beside sessions: an upstream that knows messages by their places, confirms
//! late, in any order or never, and is lost at any moment, as the broker is.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay::broker::{Broker, Taker, TakerFilter, TakerOptions};
use forebay::config::QueuePolicy;
use forebay::queue::{Policy, QueueLimits};
use forebay::store::DropReason;

use crate::client::Taken;
use crate::world::World;
use crate::{DRAIN_TURNS, calm_turn, client, everybody_is_there, seeds, turn};

/// Places that may be taken and not confirmed.
const WINDOW: u16 = 5;

#[derive(Default)]
struct Upstream {
    /// What has arrived, by place: a place that is known already is not taken again.
    arrived: BTreeMap<u64, Taken>,
    /// Places that arrived and are not confirmed.
    owed: Vec<u64>,
    /// The largest place of this connection.
    last: Option<u64>,
    refused: u64,
}

fn open(broker: &Arc<Broker>, world: &World) -> Arc<Taker> {
    let queue = &world.config.queue;
    let limits = &world.config.limits;
    let options = TakerOptions {
        filters: vec![TakerFilter { filter: "t/#".to_owned(), qos: 2, no_local: false }],
        limits: QueueLimits {
            max_messages: queue.max_messages,
            max_bytes: queue.max_bytes,
            max_transient_bytes: queue.max_bytes,
            max_age_ms: None,
            policy: Policy::Reject,
            keep_last_by: forebay::queue::KeyOf::Topic,
            queue_qos0: true,
            stall_ms: None,
            stall_transient_ms: None,
            dead_letters: forebay::queue::Reasons::default(),
            memory_messages: limits.memory_messages,
            memory_bytes: limits.memory_bytes,
        },
        window: WINDOW,
        committed_only: false,
    };
    broker.open_taker("up", &options)
}

impl Upstream {
    fn take(&mut self, taker: &Taker, most: usize) {
        for taken in taker.take(most, usize::MAX) {
            let message = &taken.entry.message;
            let number = u32::from_be_bytes(message.payload().try_into().unwrap());
            let what = (message.topic().to_owned(), number, taken.entry.qos);
            assert!(
                self.last.is_none_or(|last| last < taken.place),
                "out of order: {} after {:?}",
                taken.place,
                self.last
            );
            self.last = Some(taken.place);
            if let Some(before) = self.arrived.get(&taken.place) {
                assert_eq!(*before, what, "two messages have one place");
                assert!(taken.repeated, "place {} is repeated and not marked", taken.place);
            }
            self.arrived.insert(taken.place, what);
            self.owed.push(taken.place);
        }
        assert!(self.owed.len() <= usize::from(WINDOW), "more in flight than the window");
    }

    fn lost(&mut self) {
        self.owed.clear();
        self.last = None;
    }

    fn turn(&mut self, world: &mut World, taker: &Taker) {
        match world.seed.below(20) {
            0 => {
                world.note("the upstream is lost");
                taker.give_back();
                self.lost();
            }
            1 if !self.owed.is_empty() => {
                let place = self.owed.remove(0);
                assert!(taker.refuse(place, DropReason::Refused));
                self.refused += 1;
            }
            2..=7 if !self.owed.is_empty() => {
                let at = usize::try_from(world.seed.below(self.owed.len() as u64)).unwrap();
                let place = self.owed.swap_remove(at);
                world.note(format!("place {place} is confirmed"));
                assert_eq!(taker.confirm(&[place, place]), 1);
            }
            8..=13 => self.take(taker, 1 + usize::try_from(world.seed.below(4)).unwrap()),
            _ => {}
        }
        let figures = taker.figures();
        assert!(figures.in_flight >= self.owed.len() && figures.messages >= figures.in_flight as u64, "{figures:?}");
    }

    fn calm(&mut self, taker: &Taker) {
        self.take(taker, usize::MAX);
        let owed = std::mem::take(&mut self.owed);
        assert_eq!(taker.confirm(&owed), owed.len());
    }

    fn check(&self, world: &World) {
        let mut times: BTreeMap<(&str, u32), u32> = BTreeMap::new();
        let mut last: BTreeMap<(&str, u8), u32> = BTreeMap::new();
        for (topic, number, qos) in self.arrived.values() {
            let repeated = world.clients.iter().any(|client| client.repeated.contains(number));
            let count = times.entry((topic, *number)).or_default();
            *count += 1;
            assert!(*count == 1 || repeated && (*qos < 2 || world.refused > 0), "{topic} {number} has {count} places");
            if *count == 1 && !repeated {
                let before = last.insert((topic, *qos), *number);
                assert!(before.is_none_or(|before| before < *number), "{topic} {number} comes after {before:?}");
            }
        }
        for (topic, number, qos) in world.clients.iter().flat_map(|client| &client.acknowledged) {
            assert!(times.contains_key(&(topic.as_str(), *number)), "{topic} {number} of QoS {qos} is lost");
        }
        let ledger = world.broker().takers().remove(0).1.ledger;
        assert_eq!(ledger.dropped.iter().sum::<u64>(), ledger.dropped[DropReason::Refused as usize]);
        assert!(ledger.dropped[DropReason::Refused as usize] <= self.refused, "refused once only");
    }
}

fn play(world: &mut World) {
    let mut upstream = Upstream::default();
    let mut taker = open(&world.broker(), world);
    everybody_is_there(world);
    let (mut next, mut crashes) = (0, world.crashes);
    for _ in 0..400 {
        turn(world, &mut next);
        if world.crashes != crashes {
            crashes = world.crashes;
            upstream.lost();
            taker = open(&world.broker(), world);
        }
        upstream.turn(world, &taker);
        world.check_ledger();
    }
    world.note("calm from here on");
    for _ in 0..DRAIN_TURNS {
        calm_turn(world);
        upstream.calm(&taker);
        if world.clients.iter().all(client::Client::idle) && world.broker().ledger().1 == 0 {
            break;
        }
    }
    for _ in 0..3 {
        calm_turn(world);
    }
    world.refused += world.broker().counters.publish_refused.get();
    assert_eq!(world.broker().ledger().1, 0, "something is queued still");
    upstream.check(world);
}

#[test]
fn what_is_acknowledged_is_taken_once_for_each_place() {
    for seed in seeds().step_by(3) {
        let world = World::new(seed);
        // Where a policy drops, publishers are told of what the sessions do, not of what the taker has.
        if world.policy == QueuePolicy::Reject {
            crate::run(world, play, seed);
        }
    }
}

/// A message that comes wakes whoever waits, and so do a page from disk and a commit.
#[test]
fn the_taker_is_woken() {
    let mut world = World::new(3);
    let taker = open(&world.broker(), &world);
    everybody_is_there(&mut world);
    let (woken, waiting) = (Arc::new(std::sync::atomic::AtomicU32::new(0)), taker.clone());
    let count = woken.clone();
    world.spawn(async move {
        loop {
            waiting.ready().await;
            let taken = waiting.take(1, usize::MAX);
            let places: Vec<u64> = taken.iter().map(|taken| taken.place).collect();
            count.fetch_add(u32::try_from(waiting.confirm(&places)).unwrap(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    let publisher = world.clients.iter().position(|client| client.plan.filters.is_empty()).unwrap();
    taker.give_back();
    for number in 0..40 {
        world.clients[publisher].publish("t/x/2", number, 1 + u8::try_from(number % 2).unwrap());
        if number % 8 == 0 {
            calm_turn(&mut world);
        }
    }
    for _ in 0..200 {
        calm_turn(&mut world);
    }
    assert_eq!(woken.load(std::sync::atomic::Ordering::Relaxed), 40);
}
