//! A queue with the plainest of takers, a cursor, and a store that is a map: no session, no packet, no clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Arrival, Ending, Held, Holder, Kept, KeyOf, Paged, Policy, Presence, Queue, QueueLimits, Rules};
use crate::message::{Message, Parts, Time};
use crate::store::{DropReason, QueueEntry, QueueState};

/// Knows how far it has taken, and what of that is not confirmed.
#[derive(Default)]
struct Cursor {
    taken: VecDeque<QueueEntry>,
}

impl Holder for Cursor {
    fn held(&self) -> impl Iterator<Item = Held<'_>> {
        let size = |item: &QueueEntry| u32::try_from(item.message.size()).unwrap();
        self.taken.iter().map(move |item| Held { seq: item.seq, size: size(item), item: Some(item) })
    }

    fn taken_to(&self) -> Option<u64> {
        self.taken.back().map(|item| item.seq + 1)
    }
}

/// A queue, its taker and its store, moved by hand.
struct World {
    queue: Queue,
    cursor: Cursor,
    presence: Presence,
    limits: QueueLimits,
    now: Time,
    rows: BTreeMap<u64, QueueEntry>,
    state: QueueState,
    /// Payloads by the order in which they were confirmed.
    confirmed: Vec<u32>,
    next_payload: u32,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            queue: Queue::default(),
            cursor: Cursor::default(),
            presence: Presence::There,
            limits: limits(policy),
            now: Time(1_000),
            rows: BTreeMap::new(),
            state: QueueState::default(),
            confirmed: Vec::new(),
            next_payload: 0,
        }
    }

    fn rules(&self) -> (Time, QueueLimits) {
        (self.now, self.limits.clone())
    }

    fn check(&self) {
        self.queue.check(&self.cursor).unwrap();
    }

    fn publish(&mut self, topic: &str) {
        let (now, limits) = self.rules();
        let rules = Rules { now, limits: &limits };
        let payload = self.next_payload.to_be_bytes();
        self.next_payload += 1;
        if !self.queue.make_room(rules, Kept::Stored) {
            return self.check();
        }
        let expires_at = None;
        let parts =
            Parts { topic, properties: &[], payload: &payload, qos: 1, retain: false, expires_at, accepted_at: now };
        let message = Arc::new(Message::new(&parts, None));
        let seq = self.queue.admit(topic.as_bytes(), &[], message.size(), rules);
        let subscription_ids = smallvec::SmallVec::new();
        let item = QueueEntry { seq, qos: 1, retain: false, shared: None, subscription_ids, message };
        let arrival = Arrival { item, awaiting: false, moved: false };
        self.queue.put(arrival, Kept::Stored, self.presence, rules);
        self.check();
    }

    fn take(&mut self) -> bool {
        let (now, limits) = self.rules();
        let rules = Rules { now, limits: &limits };
        self.queue.refill(rules);
        let Some(entry) = self.queue.take_first() else { return false };
        if self.queue.too_old(&entry.item, rules) {
            self.queue.discard(entry, None);
        } else {
            self.cursor.taken.push_back(entry.item);
        }
        self.check();
        true
    }

    fn confirm(&mut self) {
        let Some(item) = self.cursor.taken.pop_front() else { return };
        let payload = item.message.payload().try_into().unwrap();
        self.confirmed.push(u32::from_be_bytes(payload));
        self.queue.finish(item.seq, item.message.size(), Ending::Delivered);
        self.check();
    }

    fn commit(&mut self, succeeds: bool) {
        let (entries, left) = self.queue.collect(None, &self.cursor);
        assert!(!left, "without a cutoff all is collected");
        let state = self.queue.state(&self.cursor);
        let done = self.queue.take_done(&state);
        let upto = self.queue.collected_to();
        self.check();
        if !succeeds {
            self.queue.not_committed(done);
            return self.check();
        }
        self.rows.extend(entries.into_iter().map(|item| (item.seq, item)));
        self.rows.retain(|seq, _| *seq >= state.floor && !done.iter().any(|(from, to)| (*from..*to).contains(seq)));
        self.state = state;
        self.queue.committed(upto);
        self.check();
        assert_eq!(self.rows.len() as u64, self.state.queued, "the store has what its state counts");
    }

    fn page(&mut self) {
        let (now, limits) = self.rules();
        let rules = Rules { now, limits: &limits };
        while let Some(wanted) = self.queue.wants_page(self.presence, rules) {
            let page: Vec<QueueEntry> = self.rows.range(wanted.from..).take(3).map(|(_, item)| item.clone()).collect();
            let paged = self.queue.page_in(wanted.from, Ok(page), self.presence, &self.cursor, rules);
            assert_ne!(paged, Paged::NotAsked);
            self.check();
        }
    }

    fn leave(&mut self) {
        self.presence = Presence::Away;
        self.queue.spill();
        self.check();
    }

    fn come(&mut self) {
        self.presence = Presence::There;
        self.queue.attend();
        self.check();
    }

    /// The cursor is confirmed at once, so that nothing that is taken is taken twice.
    fn drain(&mut self) {
        self.come();
        for _ in 0..1_000 {
            self.page();
            while self.take() {
                self.confirm();
            }
            while !self.cursor.taken.is_empty() {
                self.confirm();
            }
            self.commit(true);
            if self.queue.nothing_waits() {
                return;
            }
        }
        panic!("it does not drain");
    }
}

fn limits(policy: Policy) -> QueueLimits {
    QueueLimits {
        max_messages: 20,
        max_bytes: 1 << 20,
        max_transient_bytes: 1 << 20,
        max_age_ms: Some(5_000),
        policy,
        keep_last_by: KeyOf::Topic,
        queue_qos0: false,
        stall_ms: None,
        stall_transient_ms: None,
        dead_letters: super::Reasons::default(),
        memory_messages: 4,
        memory_bytes: 1 << 20,
    }
}

fn is_ascending(payloads: &[u32]) -> bool {
    payloads.is_sorted_by(|a, b| a < b)
}

#[test]
fn a_cursor_takes_in_order_through_memory_and_disk() {
    let mut world = World::new(Policy::Reject);
    world.leave();
    for _ in 0..7 {
        world.publish("t");
    }
    world.commit(true);
    world.come();
    for _ in 7..12 {
        world.publish("t");
    }
    assert!(!world.queue.nothing_waits() && world.queue.disk_range().is_some());
    world.drain();
    assert_eq!(world.confirmed, (0..12).collect::<Vec<u32>>());
    let (ledger, queued) = world.queue.ledger();
    assert_eq!((ledger.accepted, ledger.delivered, queued, world.rows.len()), (12, 12, 0, 0));
}

#[test]
fn what_is_confirmed_before_its_commit_is_never_written() {
    let mut world = World::new(Policy::Reject);
    world.publish("t");
    assert!(world.take());
    world.confirm();
    let (entries, _) = world.queue.collect(None, &world.cursor);
    assert!(entries.is_empty());
}

#[test]
fn what_is_held_is_stored_and_found_again_after_a_crash() {
    let mut world = World::new(Policy::Reject);
    for _ in 0..3 {
        world.publish("t");
    }
    assert!(world.take());
    world.commit(true);
    let mut again = World::new(Policy::Reject);
    again.queue.recover(&world.state, Presence::There);
    again.rows = world.rows;
    again.drain();
    assert_eq!(again.confirmed, [0, 1, 2]);
}

/// By seed: every policy, commits that fail, a taker that comes and goes, a clock. What is confirmed is in order and once, and
/// the sum holds.
#[test]
fn the_invariants_hold_whatever_happens() {
    for seed in 0..400u64 {
        let policies = [Policy::Reject, Policy::DropOldest, Policy::DropNewest, Policy::KeepLast];
        let mut world = World::new(policies[usize::try_from(seed % 4).unwrap()]);
        let mut random = seed;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        for _ in 0..300 {
            match below(12) {
                0..=4 => {
                    let topic = ["a", "b", "c", "d", "e"][usize::try_from(below(5)).unwrap()];
                    if world.limits.policy != Policy::Reject || world.queue.fill().0 < world.limits.max_messages {
                        world.publish(topic);
                    }
                }
                5 | 6 if world.presence == Presence::There => drop(world.take()),
                7 => world.confirm(),
                8 => world.commit(below(4) > 0),
                9 => world.page(),
                10 if world.presence == Presence::There => world.leave(),
                10 => world.come(),
                _ => world.now = world.now.plus_ms(below(600)),
            }
        }
        world.drain();
        assert!(is_ascending(&world.confirmed), "seed {seed}: {:?}", world.confirmed);
        let (ledger, queued) = world.queue.ledger();
        assert_eq!(queued, 0, "seed {seed}");
        let reject = world.limits.policy == Policy::Reject;
        assert!(!reject || ledger.dropped.iter().sum::<u64>() == 0, "seed {seed}: {ledger:?}");
        assert_eq!(ledger.dropped[DropReason::Damaged as usize], 0, "seed {seed}: {ledger:?}");
    }
}

#[test]
fn a_check_that_is_broken_says_so() {
    let mut world = World::new(Policy::Reject);
    world.publish("t");
    world.queue.ledger.accepted += 1;
    assert!(world.queue.check(&world.cursor).is_err());
    world.queue.ledger.accepted -= 1;
    world.queue.queued_bytes += 1;
    assert!(world.queue.check(&world.cursor).is_err());
    world.queue.queued_bytes -= 1;
    world.cursor.taken.push_back(world.queue.places.next[0].item.clone());
    assert!(world.queue.check(&world.cursor).is_err(), "it is held, and waits");
}
