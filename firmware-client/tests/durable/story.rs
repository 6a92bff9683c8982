//! A device with flash, from its first start to when all is done: over any number of power cuts, lost connections and
//! futures that are dropped.

use crate::book::{self, Book, SAFE};
use crate::chip::{Chip, pause};
use crate::mock::{SECTOR, Torn};
use crate::net::{Net, Task};
use crate::payload::payload;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use forebay_firmware::adapter::task::{Device, Handle, Memory, Runner, Time};
use forebay_firmware::flash::{Config, Tier};
use forebay_firmware::store::{Access, Store, StoreFailed};
use forebay_firmware::{Client, Counters, Message, Options, Protocol, QoS};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;

/// So many are published before there is a network.
const OFFLINE: u32 = 24;
pub const MESSAGES: u32 = 40;
const DOWN: u32 = 30;
const SECTORS: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub struct Story {
    pub v5: bool,
    /// The power is cut at this write or erase.
    pub power: Option<(u64, Torn)>,
    /// The task of the connection is dropped after so many polls; and the next two, if that is more than 0, after so many.
    pub connection: Option<(usize, usize)>,
    /// The others are, again and again, after so many.
    pub others: Option<usize>,
    /// Each so-manyth read of flash takes a while.
    pub eager: u32,
    /// The receiver lets so many turns pass before it asks for the next message.
    pub slow: usize,
    /// Whenever all is through and the store is done, somebody publishes.
    pub preempted: bool,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Writes and erases.
    pub operations: u64,
    /// Of the task of the connection.
    pub polls: usize,
    pub cuts: u32,
    pub counters: Counters,
    /// Messages that were in flash alone, at most.
    pub spilled: u32,
}

/// Time since the device was started.
#[derive(Clone)]
struct Clock {
    net: Net,
    started: u64,
}

impl Time for Clock {
    fn now(&self) -> u64 {
        self.net.now() - self.started
    }

    async fn wait_until(&self, at: u64) {
        Time::wait_until(&self.net, at + self.started).await;
    }
}

type Shared = Rc<RefCell<Book>>;
type Hand<'d> = Handle<'d, 'static, NoopRawMutex, Clock>;
type Boxed<'f> = Pin<Box<dyn Future<Output = ()> + 'f>>;

/// The tier, and somebody who looks on.
struct Watched {
    tier: Tier<'static, Chip>,
    book: Shared,
    preempted: bool,
}

impl Store for Watched {
    async fn settle(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        let result = self.tier.settle(access).await;
        let number = self.book.borrow().published();
        if self.preempted && (OFFLINE..MESSAGES).contains(&number) {
            // As an executor of a higher priority may.
            let publish = |now, client: &mut Client<'_>| {
                let idle = client.is_connected() && client.is_drained();
                idle.then(|| client.publish(now, &book::message(number), &payload(number, 30)).unwrap())
            };
            if let Some(ticket) = access.client(publish).flatten() {
                self.book.borrow_mut().publish(ticket);
            }
        }
        result
    }

    fn allow(&mut self, client: &mut Client<'_>) {
        self.tier.allow(client);
    }

    async fn seal(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        let handled = self.book.borrow().handled();
        self.tier.seal(access).await?;
        self.book.borrow_mut().seal(handled);
        Ok(())
    }
}

/// All that outlives a device.
struct World {
    story: Story,
    net: Net,
    chip: Chip,
    book: Shared,
    sent_down: Cell<u32>,
    /// When the next message is published.
    next_at: Cell<u64>,
    outage: Cell<bool>,
    /// After how many polls the next tasks of the connection are dropped.
    cancel: Vec<usize>,
    outcome: Outcome,
}

impl Story {
    pub fn new(v5: bool) -> Self {
        Self { v5, power: None, connection: None, others: None, eager: u32::MAX, slow: 0, preempted: false }
    }

    pub fn run(self) -> Outcome {
        let mut world = World {
            story: self,
            net: Net::new(self.v5),
            chip: Chip::new(SECTORS as usize + 2, self.eager),
            book: Shared::default(),
            sent_down: Cell::new(0),
            next_at: Cell::new(0),
            outage: Cell::new(false),
            cancel: self.connection.map_or_else(Vec::new, |(first, next)| vec![next, next, first]),
            outcome: Outcome::default(),
        };
        world.net.reachable(false);
        if let Some((at, torn)) = self.power {
            let mut flash = world.chip.flash.borrow_mut();
            (flash.left, flash.torn) = (Some(at), torn);
        }
        while !world.live() {
            world.outcome.cuts += 1;
            world.book.borrow_mut().power_cut();
            world.chip.flash.borrow_mut().power_on();
            let later = world.net.now() + 500;
            world.net.block_on(Time::wait_until(&world.net, later));
        }
        world.book.borrow().verify(&world.net.broker(), DOWN);
        world.outcome.operations = world.chip.flash.borrow().operations;
        world.outcome
    }
}

fn options(v5: bool) -> &'static Options<'static> {
    let mut options = Options::new("device");
    options.protocol = if v5 { Protocol::V5 } else { Protocol::V311 };
    options.in_flight_max = 4;
    options.subscription_reserve = 64;
    options.network.cap_ms = 5_000;
    options.seed = 7;
    Box::leak(Box::new(options))
}

fn config() -> Config {
    let split = SECTORS * SECTOR as u32;
    let session = split..split + 2 * SECTOR as u32;
    Config { messages: 0..split, session, high: 600, low: 300, largest: 200, safe: SAFE }
}

impl World {
    /// One life of the device. False: the power was cut.
    fn live(&mut self) -> bool {
        let started = if self.outcome.cuts == 0 { 0 } else { self.net.now() };
        let clock = Clock { net: self.net.clone(), started };
        let memory =
            Memory { outbox: vec![0; 1_200].leak(), receive: vec![0; 128].leak(), scratch: vec![0; 128].leak() };
        let mut device = Device::<NoopRawMutex, Clock>::new(options(self.story.v5), memory, clock.clone());
        let mut tier = Tier::new(self.chip.clone(), config(), vec![0; 640].leak());
        if self.net.block_on(tier.recover(device.client(), clock.now(), 500)).is_err() {
            return false;
        }
        let store = Watched { tier, book: Rc::clone(&self.book), preempted: self.story.preempted };
        let (mut runner, handle) = device.split_with(store);
        handle.subscribe("down/#", QoS::ExactlyOnce).unwrap();
        loop {
            match self.serve(&mut runner, handle) {
                Ended::Cancelled => {
                    self.cancel.pop();
                }
                Ended::PowerCut => return false,
                Ended::Done => return true,
            }
        }
    }

    fn serve(&mut self, runner: &mut Runner<'_, 'static, NoopRawMutex, Clock, Watched>, handle: Hand<'_>) -> Ended {
        let mut connector = self.net.connector();
        let mut task = Task::new(Box::pin(runner.run(&mut connector)));
        let (mut publisher, mut receiver) = (None, None);
        for _ in 0..1_000_000 {
            if self.cancel.last() == Some(&task.polls) && task.polls > 0 {
                self.outcome.polls += task.polls;
                return Ended::Cancelled;
            }
            let others = self.story.others;
            let mut polled = task.poll().is_some();
            let most = if self.story.preempted { OFFLINE } else { MESSAGES };
            polled |=
                tend(&mut publisher, others, || publish(handle, self.net.clone(), &self.book, &self.next_at, most));
            polled |= tend(&mut receiver, others, || receive(handle, &self.book, self.story.slow));
            self.book.borrow_mut().look(handle);
            if self.chip.flash.borrow().dead {
                self.outcome.polls += task.polls;
                return Ended::PowerCut;
            }
            polled |= self.surround();
            self.book.borrow_mut().check_taken(&self.net.broker());
            self.outcome.spilled = self.outcome.spilled.max(handle.counters().spilled);
            if self.is_over() && handle.is_drained() {
                self.outcome.polls += task.polls;
                let counters = handle.counters();
                let ended = counters.sent + counters.acknowledged + counters.dropped_with_ticket();
                assert_eq!((counters.accepted, counters.spilled), (ended, 0), "{counters:?}");
                self.outcome.counters = counters;
                return Ended::Done;
            }
            if !polled && !self.net.carry() {
                assert!(self.net.pass(), "nobody will ever wake anybody");
            }
        }
        panic!("it never ends: {:?} {:?}", handle.counters(), self.net.taken());
    }

    /// What the network and the broker do; whether they did.
    fn surround(&self) -> bool {
        let taken = self.net.broker().taken.len();
        if self.book.borrow().published() >= OFFLINE && (taken == 0 || self.outage.get()) {
            self.net.reachable(true);
        }
        if taken >= 8 && !self.outage.replace(true) {
            self.net.reachable(false);
            return true;
        }
        let number = self.sent_down.get();
        let qos = if book::is_once(number) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        let all = self.book.borrow().published() == MESSAGES;
        let due = number < DOWN && (all || taken >= number as usize);
        let sent = due && self.net.broker().send(number, payload(number, 30), qos);
        self.sent_down.set(number + u32::from(sent));
        sent
    }

    fn is_over(&self) -> bool {
        self.book.borrow().published() == MESSAGES && self.sent_down.get() == DOWN && self.net.broker().is_idle()
    }
}

enum Ended {
    Cancelled,
    PowerCut,
    Done,
}

/// Polls a task, starts it when there is none, and drops it after so many polls.
fn tend<'f>(slot: &mut Option<Task<'f, ()>>, every: Option<usize>, start: impl FnOnce() -> Boxed<'f>) -> bool {
    let task = slot.get_or_insert_with(|| Task::new(start()));
    let Some(poll) = task.poll() else { return false };
    // One that is dropped has done nothing, or this would go on for ever.
    let dropped = poll.is_pending() && every.is_some_and(|every| task.polls >= every);
    if poll.is_ready() || dropped {
        *slot = None;
    }
    !dropped
}

fn publish<'f>(handle: Hand<'f>, net: Net, book: &Shared, next_at: &Cell<u64>, most: u32) -> Boxed<'f> {
    let book = Rc::clone(book);
    let number = book.borrow().published();
    let at = next_at.get();
    if number >= OFFLINE && net.now() >= at {
        next_at.set(net.now() + 150);
    }
    Box::pin(async move {
        if number >= OFFLINE {
            Time::wait_until(&net, at).await;
        }
        if number >= most {
            return std::future::pending().await;
        }
        let message: Message<'_> = book::message(number);
        let ticket = handle.publish_wait(&message, &payload(number, 20 + number as usize % 30)).await.unwrap();
        book.borrow_mut().publish(ticket);
        if number % 5 == 1 && message.qos != QoS::AtMostOnce {
            handle.stored(ticket).await;
        }
    })
}

fn receive<'f>(handle: Hand<'f>, book: &Shared, slow: usize) -> Boxed<'f> {
    let book = Rc::clone(book);
    Box::pin(async move {
        let mut buffer = [0; 64];
        for _ in 0..slow {
            pause().await;
        }
        book.borrow_mut().asks();
        let message = handle.receive(&mut buffer).await.unwrap();
        book.borrow_mut().receive(message.payload);
    })
}
