//! What those who serve the queues are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::broker::streams::FIRST;
use crate::broker::{Broker, Slot};
use crate::session::Settled;

/// Something that a queue has to know.
#[derive(Clone)]
pub(in crate::broker) enum Event {
    /// A session is a member.
    Joined { queue: usize, slot: Arc<Slot>, qos: u8, subscription_id: u32, filter: Box<str> },
    /// It is none any more.
    Left { queue: usize, no: u64 },
    /// What became of something lent.
    Settled(Settled),
    /// A member that was busy has room.
    Room(u64),
    /// A member's client has come or gone.
    Presence(u64),
    /// The queue has something to take.
    Ready(usize),
}

#[derive(Default)]
struct Inside {
    events: Vec<Event>,
    stop: bool,
}

/// The inbox. It holds no more than what members have in flight, and their coming and going.
#[derive(Default)]
pub struct QueueInbox {
    inside: Mutex<Inside>,
    wake: Condvar,
}

impl QueueInbox {
    pub(in crate::broker) fn post(&self, events: impl IntoIterator<Item = Event>) {
        let mut inside = self.inside.lock();
        inside.events.extend(events);
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.inside.lock().events)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.inside.lock().stop = true;
        self.wake.notify_one();
    }

    /// Waits until there is something, or for so long. True: it is time to stop.
    fn wait(&self, most: Option<Duration>) -> bool {
        let until = most.map(|most| Instant::now() + most);
        let mut inside = self.inside.lock();
        while inside.events.is_empty() && !inside.stop {
            match until {
                None => self.wake.wait(&mut inside),
                Some(until) if self.wake.wait_until(&mut inside, until).timed_out() => break,
                Some(_) => {}
            }
        }
        inside.stop
    }
}

impl Broker {
    /// The thread that serves the queues.
    pub fn run_queues(self: &Arc<Self>) {
        loop {
            let due_ms = self.serve_queues();
            if self.queues.inbox.wait(due_ms.map(Duration::from_millis)) {
                return;
            }
        }
    }
}

impl Event {
    /// Whether it is for a stream, and whether it is for a queue.
    pub(super) fn is_for(&self) -> (bool, bool) {
        match self {
            Self::Room(_) | Self::Presence(_) => (true, true),
            Self::Joined { queue, .. } | Self::Left { queue, .. } | Self::Ready(queue) => {
                (*queue >= FIRST, *queue < FIRST)
            }
            Self::Settled(settled) => (settled.queue >= FIRST, settled.queue < FIRST),
        }
    }
}

/// Wakes the queue of this place, once until it has looked.
pub(in crate::broker) struct Bell {
    pub(in crate::broker) inbox: Arc<QueueInbox>,
    pub(in crate::broker) queue: usize,
    pub(in crate::broker) rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.inbox.post([Event::Ready(self.queue)]);
        }
    }
}
