//! A publisher, a receiver and a connection; who of them is cancelled, and what has to hold all the same.

use crate::net::{Net, Task};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use forebay_firmware::adapter::task::{Device, Handle, Memory, Runner};
use forebay_firmware::{Message, Options, Policy, Protocol, QoS};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Poll;

const MESSAGES: u32 = if cfg!(miri) { 4 } else { 12 };

pub fn options(v5: bool, change: impl FnOnce(&mut Options<'static>)) -> &'static Options<'static> {
    let mut options = Options::new("device");
    options.protocol = if v5 { Protocol::V5 } else { Protocol::V311 };
    change(&mut options);
    Box::leak(Box::new(options))
}

pub fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(len.max(4), number as u8);
    payload
}

type Runs<'d> = Runner<'d, 'static, NoopRawMutex, Net>;
type Hand<'d> = Handle<'d, 'static, NoopRawMutex, Net>;

pub fn with(options: &'static Options<'static>, outbox: usize, run: impl FnOnce(Runs<'_>, Hand<'_>, Net)) {
    let net = Net::new(options.protocol == Protocol::V5);
    let memory = Memory { outbox: vec![0; outbox].leak(), receive: vec![0; 128].leak(), scratch: vec![0; 128].leak() };
    let mut device = Device::<NoopRawMutex, Net>::new(options, memory, net.clone());
    let (runner, handle) = device.split();
    run(runner, handle, net);
}

pub struct Story {
    v5: bool,
}

fn qos(number: u32) -> QoS {
    if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
}

impl Story {
    pub fn new(v5: bool) -> Self {
        Self { v5 }
    }

    /// Runs it to its end. `connection`: the task of the connection is dropped once, after so many polls; `every`: the
    /// others are, again and again, after so many. How often the task of the connection was polled.
    pub fn run(&self, connection: Option<usize>, every: Option<usize>) -> usize {
        let options = options(self.v5, |options| options.seed = 7);
        let mut polls = 0;
        with(options, 200, |runner, handle, net| polls = self.play(runner, handle, &net, connection, every));
        polls
    }

    fn play(
        &self,
        mut runner: Runs<'_>,
        handle: Hand<'_>,
        net: &Net,
        connection: Option<usize>,
        every: Option<usize>,
    ) -> usize {
        handle.subscribe("down/#", QoS::ExactlyOnce).unwrap();
        let published = Cell::new(0);
        let received = RefCell::new(Vec::new());
        let mut sent_down = 0;
        let mut connector = net.connector();
        let mut total = 0;
        let mut cut = connection;
        'again: loop {
            let mut task = Task::new(Box::pin(runner.run(&mut connector)));
            let mut publisher = None;
            let mut receiver = None;
            for _ in 0..1_000_000 {
                if cut == Some(task.polls) {
                    cut = None;
                    total += task.polls;
                    continue 'again;
                }
                let mut polled = task.poll().is_some();
                polled |= tend(&mut publisher, every, || publish(handle, &published));
                polled |= tend(&mut receiver, every, || receive(handle, &received));
                if sent_down < MESSAGES && net.broker().send(sent_down, payload(sent_down, 30), qos(sent_down)) {
                    sent_down += 1;
                    polled = true;
                }
                let all = published.get() == MESSAGES && sent_down == MESSAGES && net.broker().is_idle();
                if all && handle.is_drained() {
                    total += task.polls;
                    drop(task);
                    verify(handle, net, &received.borrow());
                    return total;
                }
                if !polled && !net.carry() {
                    assert!(net.pass(), "nobody will ever wake anybody");
                }
            }
            panic!("it never ends: {:?} {:?}", handle.counters(), net.taken());
        }
    }
}

/// Polls a task, starts it when there is none, and drops it after so many polls.
fn tend<'f>(
    slot: &mut Option<Task<'f, ()>>,
    every: Option<usize>,
    start: impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = ()> + 'f>>,
) -> bool {
    let task = slot.get_or_insert_with(|| Task::new(start()));
    let Some(poll) = task.poll() else { return false };
    if poll.is_ready() || every.is_some_and(|every| task.polls >= every) {
        *slot = None;
    }
    !matches!(poll, Poll::Pending) || every.is_none()
}

fn publish<'f>(handle: Hand<'f>, published: &'f Cell<u32>) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'f>> {
    Box::pin(async move {
        let number = published.get();
        if number == MESSAGES {
            return std::future::pending().await;
        }
        // It waits for room instead of making some.
        let message = Message::new("up/0").qos(qos(number)).policy(Policy::DropNewest);
        handle.publish_wait(&message, &payload(number, 30)).await.unwrap();
        published.set(number + 1);
    })
}

fn receive<'f>(handle: Hand<'f>, received: &'f RefCell<Vec<u32>>) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'f>> {
    Box::pin(async move {
        let mut buffer = [0; 64];
        let message = handle.receive(&mut buffer).await.unwrap();
        let number = u32::from_be_bytes(message.payload[..4].try_into().unwrap());
        assert_eq!(message.payload, payload(number, 30));
        received.borrow_mut().push(number);
    })
}

fn verify(handle: Hand<'_>, net: &Net, received: &[u32]) {
    for (what, numbers) in [("up", &net.taken()[..]), ("down", received)] {
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        let mut last = None;
        for number in numbers {
            let count = times.entry(*number).or_default();
            *count += 1;
            if *count == 1 {
                assert!(last < Some(*number), "{what}: {number} after {last:?}");
                last = Some(*number);
            }
        }
        for number in 0..MESSAGES {
            let count = times.get(&number).copied().unwrap_or_default();
            match qos(number) {
                QoS::ExactlyOnce => assert_eq!(count, 1, "{what}: {number}"),
                _ => assert!(count >= 1, "{what}: {number} is lost"),
            }
        }
    }
    let counters = handle.counters();
    assert_eq!((counters.accepted, counters.acknowledged), (MESSAGES, MESSAGES));
}
