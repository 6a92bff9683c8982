//! Serving the queues: what members say is heard, what is over leaves its queue, what waits is lent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use hashbrown::HashMap;

use super::inbox::{Bell, Event};
use super::replay::Running;
use super::{DeclaredQueue, Named};
use crate::broker::{Broker, Slot, Taker, TakerFigures};
use crate::config;
use crate::dead_letter::Cause;
use crate::message::Message;
use crate::queue::members::{Fate, Given, LEVEL_SHIFT, Members, Outcome, Terms};
use crate::queue::{KeyOf, Reasons, Why};
use crate::session::{Lending, Taken};
use crate::store::DropReason;

/// Messages that are taken at once.
const BATCH: usize = 256;

struct Member {
    slot: Arc<Slot>,
    qos: u8,
    subscription_id: u32,
}

/// One level of a queue, and how much of it is here.
struct InLane {
    taker: Arc<Taker>,
    messages: usize,
    bytes: usize,
}

/// A place in one of several lanes, as [`Members`] know it.
fn place_in(lane: usize, place: u64) -> u64 {
    (lane as u64) << LEVEL_SHIFT | place
}

/// The lane, and the place in it.
fn of_lane(place: u64) -> (usize, u64) {
    let lane = place >> LEVEL_SHIFT;
    (usize::try_from(lane).unwrap_or(usize::MAX), place & !(lane << LEVEL_SHIFT))
}

/// One queue at work.
pub(super) struct Work {
    /// Of each level of priority, the highest first.
    lanes: Vec<InLane>,
    pub(super) members: Members<Taken>,
    slots: HashMap<u64, Member>,
    order_by: Option<KeyOf>,
    /// Where dead letters go, and which messages become such.
    dead: Option<(usize, Reasons)>,
    pub(super) name: Box<str>,
    /// Bytes of what may be here of a level, and messages.
    bytes_max: usize,
    window: usize,
    bell: Option<(Arc<Bell>, Waker)>,
    pub(super) touched: bool,
    pub(super) replay: Option<Running>,
}

/// A message that leaves its queue, and goes to another where `to` says so.
struct GivenUp {
    place: u64,
    message: Arc<Message>,
    why: Why,
    deliveries: u32,
    to: Option<usize>,
}

impl Work {
    pub(super) fn new(
        lanes: Vec<Arc<Taker>>,
        terms: Terms,
        declared: &config::Queue,
        dead: usize,
        bytes_max: usize,
    ) -> Self {
        let order_by = declared.order_by.clone();
        let dead = Some((dead, declared.dead_letters));
        Self { order_by, dead, ..Self::of_dead_letters(lanes, terms, &declared.name, declared.window, bytes_max) }
    }

    pub(super) fn of_dead_letters(
        lanes: Vec<Arc<Taker>>,
        terms: Terms,
        name: &str,
        window: u16,
        bytes_max: usize,
    ) -> Self {
        Self {
            lanes: lanes.into_iter().map(|taker| InLane { taker, messages: 0, bytes: 0 }).collect(),
            members: Members::new(terms),
            slots: HashMap::new(),
            order_by: None,
            dead: None,
            name: name.into(),
            bytes_max,
            window: usize::from(window),
            bell: None,
            touched: true,
            replay: None,
        }
    }

    pub(super) fn figures(&self, named: &Named) -> DeclaredQueue {
        let (members, online) = self.members.count();
        let (in_flight, aside) = self.members.held_and_aside();
        let figures: Vec<TakerFigures> = self.lanes.iter().map(|lane| lane.taker.figures()).collect();
        DeclaredQueue {
            name: named.name.to_string(),
            dead_letters: named.dead,
            messages: figures.iter().map(|lane| lane.messages).sum(),
            bytes: figures.iter().map(|lane| lane.bytes).sum(),
            members,
            online,
            in_flight,
            aside,
            not_allowed: self.members.not_allowed(),
        }
    }

    /// The queue of the lowest level, or the only one.
    pub(super) fn taker(&self) -> Option<&Arc<Taker>> {
        self.lanes.last().map(|lane| &lane.taker)
    }

    /// The sessions of all levels.
    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        self.lanes.iter().map(|lane| lane.taker.slot().clone()).collect()
    }

    /// Ends what was taken at this place.
    pub(super) fn end_at(&mut self, place: u64, size: usize, end: impl FnOnce(&Taker, u64) -> bool) {
        let (lane, place) = of_lane(place);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.messages = lane.messages.saturating_sub(1);
            lane.bytes = lane.bytes.saturating_sub(size);
            end(&lane.taker, place);
        }
    }

    /// Takes as much as there is room for. True: something came.
    fn fill(&mut self) -> bool {
        let mut some = false;
        for lane in 0..self.lanes.len() {
            some |= self.fill_lane(lane);
        }
        some
    }

    fn fill_lane(&mut self, at: usize) -> bool {
        let mut some = false;
        while self.members.count().1 > 0 || self.replay.is_some() {
            let ready = self.has_something(at);
            let Some(lane) = self.lanes.get_mut(at) else { break };
            let full = lane.messages >= self.window || lane.bytes >= self.bytes_max && lane.messages > 0;
            // The taker gives no more than the window either, so it is asked for all that it has.
            if full && self.members.not_allowed() > 0 && lane.taker.figures().messages > lane.messages as u64 {
                self.members.make_room(at, lane.messages);
            }
            if full || !ready {
                break;
            }
            let room = (self.window - lane.messages).min(BATCH);
            let taken = lane.taker.take(room, self.bytes_max.saturating_sub(lane.bytes));
            if taken.is_empty() {
                break;
            }
            some = true;
            for taken in taken {
                let message = &taken.entry.message;
                lane.messages += 1;
                lane.bytes += message.size();
                let key = self.order_by.as_ref();
                let key = key.and_then(|key| key.hash_of(message.topic_bytes(), message.properties()));
                self.members.put(place_in(at, taken.place), key, taken);
            }
        }
        some
    }

    /// Drops whatever no member has.
    pub(super) fn purge(&mut self) -> u64 {
        let gone = self.members.withdraw_all();
        let mut count = gone.len() as u64;
        for (place, taken) in gone {
            self.end_at(place, taken.entry.message.size(), |taker, place| taker.refuse(place, DropReason::Purged));
        }
        count += self.lanes.iter().map(|lane| lane.taker.purge()).sum::<u64>();
        count
    }

    /// When there is something to do by the clock.
    fn due_ms(&self) -> Option<u64> {
        let replay = self.replay.as_ref().map(|replay| replay.next_ms);
        self.members.due_ms().into_iter().chain(replay).min()
    }

    fn has_something(&self, lane: usize) -> bool {
        let (Some((bell, waker)), Some(lane)) = (&self.bell, self.lanes.get(lane)) else { return true };
        bell.rung.store(false, Ordering::Release);
        lane.taker.poll_ready(&mut Context::from_waker(waker)).is_ready()
    }

    fn deal(&mut self, queue: usize, broker: &Broker) {
        let cx = broker.cx();
        self.look_what_comes(broker);
        let slots = &self.slots;
        self.members.deal(cx.now.0, |no, number, taken: &Taken| {
            let Some(member) = slots.get(&no) else { return Given::Busy };
            let message = &taken.entry.message;
            if !member.slot.may_receive(message.topic()) {
                return Given::NotAllowed;
            }
            let qos = taken.entry.qos.min(member.qos).min(1);
            let lending = Lending { queue, number, message, qos, subscription_id: member.subscription_id };
            let given = member.slot.with(broker, |session| session.lend(&lending, cx));
            if given == Given::Taken {
                member.slot.wake();
            }
            given
        });
    }

    /// A level whose next messages are read from the disk has its turn when they are here. A disk that cannot be read holds up no
    /// other level.
    fn look_what_comes(&mut self, broker: &Broker) {
        if self.lanes.len() < 2 {
            return;
        }
        let readable = !broker.pager.is_failing();
        for (level, lane) in self.lanes.iter().enumerate() {
            let has_room = lane.messages < self.window && (lane.bytes < self.bytes_max || lane.messages == 0);
            let coming = readable && has_room && lane.taker.slot().look(|session| session.has_more_to_take());
            self.members.set_coming(level, coming);
        }
    }

    /// What has arrived leaves the queue. Returns what is given up.
    fn end(&mut self) -> Vec<GivenUp> {
        let mut confirmed: Vec<Vec<u64>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let mut over = Vec::new();
        for fate in self.members.take_fates() {
            match fate {
                Fate::Confirmed(place, taken) => {
                    let (lane, own_place) = of_lane(place);
                    self.end_at(place, taken.entry.message.size(), |_, _| true);
                    if let Some(of_lane) = confirmed.get_mut(lane) {
                        of_lane.push(own_place);
                    }
                }
                Fate::Over { place, item, why, deliveries } => {
                    let message = item.entry.message;
                    let to = self.dead.filter(|(_, reasons)| reasons.has(why)).map(|(to, _)| to);
                    over.push(GivenUp { place, message, why, deliveries, to });
                }
            }
        }
        for (lane, places) in self.lanes.iter().zip(confirmed).filter(|(_, places)| !places.is_empty()) {
            lane.taker.confirm(&places);
        }
        over
    }
}

impl Broker {
    /// Does what there is to do; returns in how many milliseconds there is more by the clock.
    pub fn serve_queues(self: &Arc<Self>) -> Option<u64> {
        let mut all = self.queues.work.lock();
        loop {
            for event in self.queues.inbox.take() {
                let (of_stream, of_queue) = event.is_for();
                if of_stream {
                    self.hear_stream(event.clone());
                }
                if of_queue {
                    self.hear(&mut all, event);
                }
            }
            let now = self.clock.now();
            let (mut some, mut due_at) = self.serve_streams();
            for at in 0..all.len() {
                let Some(work) = all.get_mut(at) else { break };
                let due = work.due_ms().is_some_and(|due| due <= now.0);
                if std::mem::take(&mut work.touched) || due {
                    some = true;
                    self.turn(&mut all, at);
                }
                let due = all.get(at).and_then(Work::due_ms);
                due_at = due_at.into_iter().chain(due).min();
            }
            if !some {
                return due_at.map(|at| at.saturating_sub(now.0).max(1));
            }
        }
    }

    fn hear(&self, all: &mut [Work], event: Event) {
        let now_ms = self.clock.now().0;
        match event {
            Event::Joined { queue, slot, qos, subscription_id, .. } => {
                let Some(work) = all.get_mut(queue) else { return };
                work.touched = true;
                let no = slot.no().0;
                work.members.join(no, slot.online());
                work.slots.insert(no, Member { slot, qos, subscription_id });
            }
            Event::Left { queue, no } => {
                let Some(work) = all.get_mut(queue) else { return };
                work.touched = true;
                work.members.leave(no);
                work.slots.remove(&no);
            }
            Event::Settled(settled) => {
                let Some(work) = all.get_mut(settled.queue) else { return };
                work.touched = true;
                if matches!(settled.outcome, Outcome::Refused { .. }) {
                    self.counters.queue_refused.add(1);
                }
                work.members.settle(settled.number, settled.outcome, now_ms);
            }
            Event::Room(no) => {
                for work in all.iter_mut().filter(|work| work.slots.contains_key(&no)) {
                    work.touched = true;
                    work.members.room(no);
                }
            }
            Event::Presence(no) => {
                for work in all.iter_mut() {
                    let Some(member) = work.slots.get(&no) else { continue };
                    work.members.set_online(no, member.slot.online());
                    work.touched = true;
                }
            }
            Event::Ready(queue) => {
                if let Some(work) = all.get_mut(queue) {
                    work.touched = true;
                }
            }
        }
    }

    fn turn(self: &Arc<Self>, all: &mut [Work], at: usize) {
        loop {
            let Some(work) = all.get_mut(at) else { return };
            if work.bell.is_none() {
                let inbox = self.queues.inbox.clone();
                let bell = Arc::new(Bell { inbox, queue: at, rung: AtomicBool::new(false) });
                work.bell = Some((bell.clone(), bell.into()));
            }
            let came = work.fill();
            if work.replay.is_some() {
                self.replay_on(all, at);
            }
            let Some(work) = all.get_mut(at) else { return };
            work.deal(at, self);
            let over = work.end();
            if !came && over.is_empty() {
                return;
            }
            for given_up in over {
                self.give_up(all, at, &given_up);
            }
        }
    }

    /// The message leaves its queue, and is a dead letter in the same commit.
    fn give_up(&self, all: &mut [Work], at: usize, given_up: &GivenUp) {
        let _one_commit = self.writer.gate();
        let name = all.get(at).map_or_else(Box::default, |work| work.name.clone());
        let GivenUp { place, message, why, deliveries, to } = given_up;
        if let Some(work) = to.and_then(|to| all.get_mut(to)) {
            work.touched = true;
            let wall_ms = self.clock.wall_ms();
            let cause =
                Cause { name: &name, from: &name, why: why.name(), detail: None, count: Some(*deliveries), wall_ms };
            if let Some(taker) = work.taker() {
                self.keep_given_up(taker.slot(), message, &cause);
            }
        }
        let Some(work) = all.get_mut(at) else { return };
        work.end_at(*place, message.size(), |taker, place| match why {
            Why::Expired => taker.expire(place),
            Why::TooLarge => taker.refuse(place, DropReason::TooLarge),
            Why::Refused | Why::TooOften => taker.refuse(place, DropReason::Refused),
            Why::NotAllowed => taker.refuse(place, DropReason::Revoked),
            // What members do not say.
            Why::Full | Why::Revoked | Why::Undeliverable | Why::Rule => taker.refuse(place, DropReason::Revoked),
        });
    }
}
