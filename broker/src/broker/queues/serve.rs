//! Serving the queues: what members say is heard, what is over leaves its queue, what waits is lent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use hashbrown::HashMap;

use super::inbox::{Bell, Event};
use super::replay::Running;
use super::{DeclaredQueue, Named};
use crate::broker::{Broker, Slot, Taker};
use crate::config;
use crate::dead_letter::{Cause, dead_letter};
use crate::message::Message;
use crate::queue::KeyOf;
use crate::queue::members::{Fate, Given, Members, Outcome, Terms, Why};
use crate::session::{Delivery, Durability, Lending, Taken};
use crate::store::DropReason;

/// Messages that are taken at once.
const BATCH: usize = 256;

struct Member {
    slot: Arc<Slot>,
    qos: u8,
    subscription_id: u32,
}

/// One queue at work.
pub(super) struct Work {
    pub(super) taker: Arc<Taker>,
    pub(super) members: Members<Taken>,
    slots: HashMap<u64, Member>,
    order_by: Option<KeyOf>,
    /// Where dead letters go, and which messages become such.
    dead: Option<(usize, Vec<Why>)>,
    pub(super) name: Box<str>,
    /// Bytes of what is here, and how many there may be.
    pub(super) bytes: usize,
    bytes_max: usize,
    window: usize,
    bell: Option<(Arc<Bell>, Waker)>,
    pub(super) touched: bool,
    pub(super) replay: Option<Running>,
}

/// A message that leaves its queue and goes to another.
struct DeadLetter {
    to: usize,
    message: Arc<Message>,
}

impl Work {
    pub(super) fn new(
        taker: Arc<Taker>,
        terms: Terms,
        declared: &config::Queue,
        dead: usize,
        bytes_max: usize,
    ) -> Self {
        let order_by = declared.order_by.clone();
        let dead = Some((dead, declared.dead_letters.clone()));
        Self { order_by, dead, ..Self::of_dead_letters(taker, terms, declared, bytes_max) }
    }

    pub(super) fn of_dead_letters(taker: Arc<Taker>, terms: Terms, declared: &config::Queue, bytes_max: usize) -> Self {
        Self {
            taker,
            members: Members::new(terms),
            slots: HashMap::new(),
            order_by: None,
            dead: None,
            name: declared.name.as_str().into(),
            bytes: 0,
            bytes_max,
            window: usize::from(declared.window),
            bell: None,
            touched: true,
            replay: None,
        }
    }

    pub(super) fn figures(&self, named: &Named) -> DeclaredQueue {
        let (members, online) = self.members.count();
        let (in_flight, aside) = self.members.held_and_aside();
        let figures = self.taker.figures();
        DeclaredQueue {
            name: named.name.to_string(),
            dead_letters: named.dead,
            messages: figures.messages,
            bytes: figures.bytes,
            members,
            online,
            in_flight,
            aside,
        }
    }

    /// Takes as much as there is room for. True: something came.
    fn fill(&mut self) -> bool {
        let mut some = false;
        while (self.members.count().1 > 0 || self.replay.is_some()) && self.members.len() < self.window {
            if self.bytes >= self.bytes_max && !self.members.is_empty() || !self.has_something() {
                break;
            }
            let room = (self.window - self.members.len()).min(BATCH);
            let taken = self.taker.take(room, self.bytes_max.saturating_sub(self.bytes));
            if taken.is_empty() {
                break;
            }
            some = true;
            for taken in taken {
                let message = &taken.entry.message;
                self.bytes += message.size();
                let key = self.order_by.as_ref();
                let key = key.and_then(|key| key.hash_of(message.topic_bytes(), message.properties()));
                self.members.put(taken.place, key, taken);
            }
        }
        some
    }

    /// Drops whatever no member has.
    pub(super) fn purge(&mut self) -> u64 {
        let places = self.members.withdraw_all();
        for place in &places {
            self.taker.refuse(*place, DropReason::Purged);
        }
        self.bytes = 0;
        places.len() as u64 + self.taker.purge()
    }

    /// When there is something to do by the clock.
    fn due_ms(&self) -> Option<u64> {
        let replay = self.replay.as_ref().map(|replay| replay.next_ms);
        self.members.due_ms().into_iter().chain(replay).min()
    }

    fn has_something(&self) -> bool {
        let Some((bell, waker)) = &self.bell else { return true };
        bell.rung.store(false, Ordering::Release);
        self.taker.poll_ready(&mut Context::from_waker(waker)).is_ready()
    }

    fn deal(&mut self, queue: usize, broker: &Broker) {
        let cx = broker.cx();
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

    /// What is over leaves the queue. Returns what becomes a dead letter, with its place and why it is one.
    fn end(&mut self, broker: &Broker) -> Vec<(u64, Why, Option<DeadLetter>)> {
        let mut confirmed = Vec::new();
        let mut over = Vec::new();
        for fate in self.members.take_fates() {
            match fate {
                Fate::Confirmed(place, taken) => {
                    self.bytes = self.bytes.saturating_sub(taken.entry.message.size());
                    confirmed.push(place);
                }
                Fate::Over { place, item, why, deliveries } => {
                    let message = &item.entry.message;
                    self.bytes = self.bytes.saturating_sub(message.size());
                    let to = self.dead.as_ref().filter(|(_, reasons)| reasons.contains(&why)).map(|(to, _)| *to);
                    let dead = to.map(|to| {
                        let cause = Cause {
                            from: &self.name,
                            why: why.name(),
                            detail: None,
                            count: Some(deliveries),
                            wall_ms: broker.clock.wall_ms(),
                        };
                        DeadLetter { to, message: dead_letter(message, &cause, broker.clock.now()) }
                    });
                    over.push((place, why, dead));
                }
            }
        }
        if !confirmed.is_empty() {
            self.taker.confirm(&confirmed);
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
            let over = work.end(self);
            if !came && over.is_empty() {
                return;
            }
            for (place, why, dead) in over {
                self.give_up(all, at, place, why, dead);
            }
        }
    }

    /// The message leaves its queue, and is a dead letter in the same commit.
    fn give_up(&self, all: &mut [Work], at: usize, place: u64, why: Why, dead: Option<DeadLetter>) {
        let _one_commit = self.writer.gate();
        if let Some(DeadLetter { to, message }) = dead
            && let Some(work) = all.get_mut(to)
        {
            self.counters.dead_letters.add(1);
            work.touched = true;
            self.put_into(work.taker.slot(), &message);
        }
        let Some(work) = all.get(at) else { return };
        match why {
            Why::Expired => work.taker.expire(place),
            Why::TooLarge => work.taker.refuse(place, DropReason::TooLarge),
            Why::Refused | Why::TooOften => work.taker.refuse(place, DropReason::Refused),
        };
    }

    pub(super) fn put_into(&self, slot: &Arc<Slot>, message: &Arc<Message>) {
        let delivery = Delivery {
            topic: message.topic_bytes(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain: false,
            shared: false,
            subscription_ids: &[],
            expires_at: None,
            durability: Durability::Moved,
        };
        slot.with(self, |session| session.deliver(&delivery, &mut || message.clone(), self.cx()));
        slot.wake();
    }
}
