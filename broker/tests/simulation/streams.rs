//! Streams beside a writer that commits at the worst moment, and on a board whose wall clock is set late.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use forebay::broker::{Broker, Slot};
use forebay::clock::Clock;
use forebay::message::Time;
use forebay::session::{Authority, Durability, Link};
use forebay::store::ClockMark;
use forebay::store::memory::MemoryStore;

use crate::board::{Board, Reads, link, subscription};

/// A broker with a stream.
struct Logged {
    on: Board,
}

impl Logged {
    fn start(store: &MemoryStore, clock: Clock) -> Self {
        let text = "[[streams]]\nname = \"log\"\nfilter = \"t/#\"\nmax_age = \"1h\"\n";
        Self { on: Board::start(text, store, clock) }
    }

    /// Publishes, and moves the messages into the stream.
    fn fill(&mut self, messages: usize) {
        let broker = self.on.broker.clone();
        let before = broker.counters.stream_appended.get();
        (0..messages).for_each(|_| broker.publish(&self.on.message("t/1"), false, Durability::Interval, None));
        // Into the queue of the stream, and from there into the stream.
        (0..4).for_each(|_| self.on.turn());
        assert_eq!(broker.counters.stream_appended.get() - before, messages as u64);
    }

    /// How many messages come to who reads all of it.
    fn read(&self, authority: Option<Arc<dyn Authority>>) -> usize {
        let slot = reader(&self.on.broker, authority);
        self.on.broker.serve_queues();
        self.on.take(&slot)
    }
}

fn reader(broker: &Arc<Broker>, authority: Option<Arc<dyn Authority>>) -> Arc<Slot> {
    let slot = broker.open("reader", true, Link { authority, ..link() }, 0).slot;
    broker.join_queues(&slot, &subscription("$stream/log/@earliest", 1));
    slot
}

/// While a message is being lent the writer makes its cut.
struct CutMeanwhile {
    broker: Weak<Broker>,
    /// 0: not tried; 1: the cut waits for whoever lends; 2: it was made.
    done: AtomicU8,
}

impl CutMeanwhile {
    /// The message may be read.
    fn cut(&self) -> bool {
        if self.done.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let broker = self.broker.upgrade().unwrap();
            let (done, wait) = channel();
            std::thread::spawn(move || {
                broker.writer.round(&broker, &mut MemoryStore::default(), Time(u64::MAX));
                let _ = done.send(());
            });
            if wait.recv_timeout(Duration::from_secs(5)).is_ok() {
                self.done.store(2, Ordering::Release);
            }
        }
        true
    }
}

/// Whoever changes a session may have to wait for the writer's gate: with what the writer waits for in its hands, both waited for
/// ever, and with them the whole broker.
#[test]
fn the_writer_makes_its_cut_while_a_reader_is_lent_something() {
    let mut logged = Logged::start(&MemoryStore::default(), Clock::by_hand(None));
    logged.fill(3);
    let meanwhile = Arc::new(CutMeanwhile { broker: Arc::downgrade(&logged.on.broker), done: AtomicU8::new(0) });
    let authority = Reads({
        let meanwhile = meanwhile.clone();
        move |_: &str| meanwhile.cut()
    });
    assert_eq!(logged.read(Some(Arc::new(authority))), 3);
    assert_eq!(meanwhile.done.load(Ordering::Acquire), 2, "the cut waits for whoever lends");
    logged.on.broker.close_queues();
}

/// A board without a battery clock begins in 1970: when NTP answers, what it has is not fifty years old.
#[test]
fn what_came_before_the_wall_clock_was_set_is_not_old() {
    let store = MemoryStore::default();
    let early = ClockMark { time: Time(1_000), wall_ms: 5_000 };
    let mut logged = Logged::start(&store, Clock::by_hand(Some(early)));
    logged.fill(10);
    let time = logged.on.broker.clock.now();
    logged.on.broker.close_queues();
    // By hand the wall clock steps between two lives only.
    let set = ClockMark { time, wall_ms: 1_800_000_000_000 };
    let mut logged = Logged::start(&store, Clock::by_hand(Some(set)));
    logged.fill(1);
    logged.on.broker.clock.advance(3_000_000);
    assert_eq!(logged.read(None), 11);
    // They age by the broker's own clock.
    logged.on.broker.clock.advance(3_000_000);
    logged.on.turn();
    assert_eq!(logged.read(None), 0);
    logged.on.broker.close_queues();
}
