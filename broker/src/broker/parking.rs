//! Publishers that wait for room. Before MQTT 5 a message that finds none cannot be refused, so its publisher is tried again
//! when there is room where it waits. Behind one full queue they wait in line, and a few at a time are woken: each place that
//! the queue has would cost a turn of all of them otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use hashbrown::{HashMap, HashSet};

use super::{Broker, Slot};
use crate::store::SessionNo;

/// Of those behind one queue, so many are woken at once. Whoever has had its turn wakes the next while there is room.
const WOKEN_AT_ONCE: usize = 8;

/// What a publisher waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Behind {
    /// Nobody knows yet: it is being tried.
    Unknown,
    /// Memory, the store, a retained or delayed message that goes.
    Anything,
    /// Any member of a shared subscription.
    Group,
    /// The queue of this session.
    Queue(SessionNo),
}

/// Those who wait for the same.
#[derive(Default)]
struct Line {
    /// The queue, if it is one.
    queue: Weak<Slot>,
    /// In the order in which they began.
    waiting: BTreeMap<u64, Arc<Slot>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Parking {
    next: u64,
    /// None is empty.
    lines: HashMap<Behind, Line>,
    places: HashMap<SessionNo, (Behind, u64)>,
}

/// Which queues hold somebody up.
pub(super) struct HeldUp {
    queues: HashSet<SessionNo>,
    /// Somebody waits for a member of a group, nobody knows which.
    some_group: bool,
}

impl HeldUp {
    pub(super) fn by(&self, slot: &Slot, now_s: u32) -> bool {
        self.queues.contains(&slot.no())
            || slot.has_turned_away(now_s)
            || self.some_group && slot.has_ever_turned_away()
    }

    /// Queues behind which somebody waits.
    pub(super) fn queues(&self) -> &HashSet<SessionNo> {
        &self.queues
    }
}

impl Parking {
    /// One that is there already keeps its place in the order.
    fn put(&mut self, slot: &Arc<Slot>, behind: Behind, queue: Weak<Slot>) {
        let number = self.remove(slot).map_or_else(|| self.number(), |(_, number)| number);
        self.places.insert(slot.no(), (behind, number));
        let line = self.lines.entry(behind).or_insert_with(|| Line { queue, ..Line::default() });
        line.waiting.insert(number, slot.clone());
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn behind(&self, slot: &Arc<Slot>) -> Option<Behind> {
        self.places.get(&slot.no()).map(|(behind, _)| *behind)
    }

    fn remove(&mut self, slot: &Arc<Slot>) -> Option<(Behind, u64)> {
        let (behind, number) = self.places.remove(&slot.no())?;
        if let Some(line) = self.lines.get_mut(&behind) {
            line.waiting.remove(&number);
            if line.waiting.is_empty() {
                self.lines.remove(&behind);
            }
        }
        Some((behind, number))
    }

    /// The first of a line.
    fn first(&self, behind: Behind, most: usize) -> impl Iterator<Item = Arc<Slot>> {
        self.lines.get(&behind).into_iter().flat_map(|line| line.waiting.values()).take(most).cloned()
    }
}

impl Broker {
    /// A publisher is about to try again what waits for room: room that comes meanwhile is not missed. It stays on the list
    /// until [`Broker::forget_parked`]. Returns the queue behind which it was.
    pub(crate) fn park(&self, slot: &Arc<Slot>) -> Option<SessionNo> {
        let mut parking = self.parking.lock();
        let before = parking.behind(slot);
        parking.put(slot, Behind::Unknown, Weak::new());
        match before? {
            Behind::Queue(no) => Some(no),
            Behind::Unknown | Behind::Anything | Behind::Group => None,
        }
    }

    /// It is known what a publisher waits for, if it is parked.
    pub(super) fn park_behind(&self, slot: &Arc<Slot>, behind: Behind, queue: Weak<Slot>) {
        let mut parking = self.parking.lock();
        if parking.behind(slot).is_some() {
            parking.put(slot, behind, queue);
        }
    }

    /// A publisher has been tried, and waits on. One that has found some room is behind the others from now on.
    pub(crate) fn park_on(&self, slot: &Arc<Slot>, found_room: bool) {
        let mut parking = self.parking.lock();
        let Some(behind) = parking.behind(slot) else { return };
        let queue = parking.lines.get(&behind).map(|line| line.queue.clone()).unwrap_or_default();
        if found_room {
            parking.remove(slot);
        }
        let behind = if behind == Behind::Unknown { Behind::Anything } else { behind };
        parking.put(slot, behind, queue);
    }

    /// A publisher that may have waited for room is gone, or waits no more.
    pub(crate) fn forget_parked(&self, slot: &Arc<Slot>) {
        let was = self.parking.lock().remove(slot);
        // It may have been woken, and is not there any more to wake the next.
        if let Some((Behind::Queue(no), _)) = was {
            self.unpark_next(no);
        }
    }

    /// There is room again that is no queue's: those who wait for such look for themselves.
    pub fn unpark(&self) {
        let all = usize::MAX;
        self.wake(&[(Behind::Unknown, all), (Behind::Anything, all), (Behind::Group, all)]);
    }

    /// Who gets what has changed: all who wait look for themselves.
    pub(super) fn unpark_all(&self) {
        let all: Vec<_> = {
            let parking = self.parking.lock();
            parking.lines.values().flat_map(|line| line.waiting.values()).cloned().collect()
        };
        all.iter().for_each(|slot| slot.wake());
    }

    /// The queue of this session has room again. Nobody knows here to which groups it belongs.
    pub(super) fn unpark_behind(&self, no: SessionNo) {
        let all = usize::MAX;
        self.wake(&[(Behind::Unknown, all), (Behind::Group, all), (Behind::Queue(no), WOKEN_AT_ONCE)]);
    }

    /// Who was woken behind a queue has had its turn: the next are woken if there is room still.
    pub(crate) fn unpark_next(&self, no: SessionNo) {
        let queue = self.parking.lock().lines.get(&Behind::Queue(no)).map(|line| line.queue.clone());
        if queue.is_some_and(|queue| queue.upgrade().is_none_or(|queue| !queue.full())) {
            self.wake(&[(Behind::Queue(no), WOKEN_AT_ONCE)]);
        }
    }

    /// So many of the first of each line.
    fn wake(&self, lines: &[(Behind, usize)]) {
        // They are woken outside the lock, and stay on the list until they have found room.
        let woken: Vec<_> = {
            let parking = self.parking.lock();
            lines.iter().flat_map(|(behind, most)| parking.first(*behind, *most)).collect()
        };
        woken.iter().for_each(|slot| slot.wake());
    }

    pub(super) fn held_up(&self) -> HeldUp {
        let parking = self.parking.lock();
        let queues = parking.lines.keys().filter_map(|behind| match behind {
            Behind::Queue(no) => Some(*no),
            Behind::Unknown | Behind::Anything | Behind::Group => None,
        });
        HeldUp { queues: queues.collect(), some_group: parking.lines.contains_key(&Behind::Group) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand::{self, link};

    fn publishers(broker: &Arc<Broker>, count: usize) -> Vec<Arc<Slot>> {
        let slots = (0..count).map(|n| broker.open(&format!("p{n}"), true, link(0), 0).slot);
        slots.inspect(|slot| _ = slot.looked()).collect()
    }

    fn woken(slots: &[Arc<Slot>]) -> Vec<usize> {
        slots.iter().enumerate().filter(|(_, slot)| slot.looked()).map(|(at, _)| at).collect()
    }

    #[test]
    fn behind_a_queue_the_first_are_woken_and_wake_the_next_while_there_is_room() {
        let (broker, _store) = by_hand::broker();
        let queue = by_hand::queue_of(&broker, "t").slot().clone();
        let all = publishers(&broker, 2 * WOKEN_AT_ONCE + 1);
        for slot in &all {
            broker.park(slot);
            broker.park_behind(slot, Behind::Queue(queue.no()), Arc::downgrade(&queue));
        }
        assert!(broker.held_up().by(&queue, 1_000_000));
        broker.unpark();
        assert!(woken(&all).is_empty(), "there is room, and not where they wait");
        broker.unpark_behind(queue.no());
        assert_eq!(woken(&all), (0..WOKEN_AT_ONCE).collect::<Vec<_>>());
        // The first finds room for all that it has, the second for some of it.
        for (slot, some) in all.iter().zip([false, true]) {
            slot.looked();
            assert_eq!(broker.park(slot), Some(queue.no()));
            broker.park_behind(slot, Behind::Queue(queue.no()), Arc::downgrade(&queue));
            if some {
                broker.park_on(slot, true)
            } else {
                broker.forget_parked(slot)
            }
            broker.unpark_next(queue.no());
        }
        assert_eq!(woken(&all), (2..WOKEN_AT_ONCE + 2).collect::<Vec<_>>());
        for slot in &all[2..] {
            broker.forget_parked(slot);
        }
        assert!(woken(&all).contains(&1), "nobody is forgotten");
        broker.forget_parked(&all[1]);
        assert!(!broker.held_up().by(&queue, 1_000_000));
    }

    #[test]
    fn who_is_being_tried_misses_nothing() {
        let (broker, _store) = by_hand::broker();
        let all = publishers(&broker, 1);
        broker.park(&all[0]);
        broker.unpark_behind(SessionNo(999));
        assert_eq!(woken(&all), [0]);
        broker.park_on(&all[0], false);
        broker.unpark_behind(SessionNo(999));
        assert!(woken(&all).is_empty(), "it does not wait for a queue");
        broker.unpark();
        assert_eq!(woken(&all), [0]);
    }
}
