//! The one thread that writes. It waits until sessions have something, lets a little time pass in which acks may
//! make the write needless, collects from every session that asked, commits once, and tells them.
//!
//! What one read of a connection does to several sessions must be in one commit: a QoS 2 identifier of the publisher without
//! its message in the subscribers' queues would lose that message in a crash (the repetition is taken for a duplicate), the
//! message without the identifier would double it. So connections work inside a [`Writer::gate`], many at once, and
//! the writer collects while none of them is inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use crate::broker::Broker;
use crate::broker::Slot;
use crate::message::{Message, Time};
use crate::session::{Collected, Cx, Refused, Urgency};
use crate::store::{Batch, RetainedChange, Store, StoreError};

/// How long a deletion or a change that nobody waits for may wait.
const LAZY: Duration = Duration::from_millis(100);
/// After a commit that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Times and switches of the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// How long a write may wait for acks that make it needless.
    pub commit_wait: Duration,
    /// How long what nobody waits for may wait: `interval` durability and deletions.
    pub lazy: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { commit_wait: Duration::from_millis(2), lazy: LAZY }
    }
}

#[derive(Default)]
struct Dirty {
    slots: Vec<Arc<Slot>>,
    retained: bool,
    due: Option<Instant>,
    stop: bool,
}

/// What the writer has done, for `$SYS` and the metrics.
#[derive(Default)]
pub struct WriterCounters {
    /// Commits.
    pub commits: AtomicU64,
    /// Commits that failed.
    pub failures: AtomicU64,
    /// Message bytes written.
    pub message_bytes: AtomicU64,
    /// Microseconds that the last commit took.
    pub last_commit_us: AtomicU64,
}

/// Asks the writer to collect.
pub struct Writer {
    gate: RwLock<()>,
    dirty: Mutex<Dirty>,
    wake: Condvar,
    options: WriterOptions,
    /// The last commit failed: new durable messages are refused until one succeeds.
    pub failing: AtomicBool,
    /// Counters.
    pub counters: WriterCounters,
}

impl Writer {
    /// A writer that nobody serves yet.
    #[must_use]
    pub fn new(options: WriterOptions) -> Self {
        Self {
            gate: RwLock::new(()),
            dirty: Mutex::new(Dirty::default()),
            wake: Condvar::new(),
            options,
            failing: AtomicBool::new(false),
            counters: WriterCounters::default(),
        }
    }

    /// What is done while this is held goes into one commit. Not to be asked for by who holds it already.
    pub fn gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    fn delay(&self, urgency: Urgency) -> Duration {
        match urgency {
            Urgency::Now => Duration::ZERO,
            Urgency::Elidable => self.options.commit_wait,
            Urgency::None | Urgency::Lazy => self.options.lazy,
        }
    }

    /// The session has something to write.
    pub fn mark(&self, slot: &Arc<Slot>, urgency: Urgency) {
        let before = slot.dirty.fetch_max(urgency as u8, Ordering::AcqRel);
        if before >= urgency as u8 {
            return;
        }
        let mut dirty = self.dirty.lock();
        if before == 0 {
            dirty.slots.push(slot.clone());
        }
        self.due_in(&mut dirty, self.delay(urgency));
    }

    /// Retained messages have changed.
    pub fn mark_retained(&self, urgency: Urgency) {
        let mut dirty = self.dirty.lock();
        dirty.retained = true;
        self.due_in(&mut dirty, self.delay(urgency));
    }

    fn due_in(&self, dirty: &mut Dirty, delay: Duration) {
        let due = Instant::now() + delay;
        if dirty.due.is_none_or(|before| due < before) {
            dirty.due = Some(due);
            self.wake.notify_one();
        }
    }

    /// Ends the thread after one last commit of everything.
    pub fn stop(&self) {
        let mut dirty = self.dirty.lock();
        dirty.stop = true;
        self.wake.notify_one();
    }

    /// Waits until something is due, or for a moment while the store refuses; true when it is time to stop.
    fn wait(&self, refusing: bool) -> bool {
        let mut dirty = self.dirty.lock();
        loop {
            let now = Instant::now();
            match dirty.due {
                _ if dirty.stop => break,
                Some(due) if due <= now => break,
                Some(due) => {
                    self.wake.wait_until(&mut dirty, due);
                }
                None if refusing => {
                    if self.wake.wait_for(&mut dirty, RETRY).timed_out() {
                        break;
                    }
                }
                None => self.wake.wait(&mut dirty),
            }
        }
        dirty.stop
    }

    fn take(&self) -> (Vec<Arc<Slot>>, bool) {
        let mut dirty = self.dirty.lock();
        dirty.due = None;
        let slots = std::mem::take(&mut dirty.slots);
        // The list's memory is used again, without keeping a storm's worth of it.
        dirty.slots.reserve(slots.len().min(1024));
        (slots, std::mem::take(&mut dirty.retained))
    }

    /// The thread.
    pub fn run(&self, broker: &Arc<Broker>, store: &mut dyn Store) {
        let mut refusing = false;
        loop {
            if self.wait(refusing) {
                // Nothing may be left for an ack that will not come any more.
                self.round(broker, store, Time(u64::MAX));
                return;
            }
            let wait_ms = u64::try_from(self.options.commit_wait.as_millis()).unwrap_or(0);
            let cutoff = Time(broker.clock.now().0.saturating_sub(wait_ms));
            if !self.round(broker, store, cutoff) {
                std::thread::sleep(RETRY);
            }
            if refusing {
                store.refresh(broker.clock.now());
            }
            // Those who wait for room on the disk are not woken by a queue.
            if std::mem::replace(&mut refusing, broker.store_failing()) && !refusing {
                broker.unpark();
            }
        }
    }

    /// One collection and its commit; false when the commit failed.
    pub fn round(&self, broker: &Arc<Broker>, store: &mut dyn Store, cutoff: Time) -> bool {
        let cx = Cx { now: broker.clock.now(), settings: &broker.settings };
        let (mut batch, collected, waiting) = self.collect(broker, cutoff);
        if batch.sessions.is_empty() && batch.retained.is_empty() && batch.ended_ledger.is_none() {
            return true;
        }
        batch.clock = broker.clock.mark();
        let started = Instant::now();
        let result = store.commit(&batch);
        self.counters
            .last_commit_us
            .store(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        match result {
            Ok(done) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters.message_bytes.fetch_add(done.message_bytes, Ordering::Relaxed);
                drop(batch);
                self.succeeded(broker, collected, waiting, cx);
                true
            }
            Err(error) => {
                let left_nothing = store.left_nothing();
                self.failed(broker, &error, (batch, collected, waiting), left_nothing);
                false
            }
        }
    }

    fn collect(&self, broker: &Arc<Broker>, cutoff: Time) -> Work {
        let _nobody_inside = self.gate.write();
        let (slots, retained) = self.take();
        let mut batch = Batch::default();
        let mut collected: Vec<Given> = Vec::with_capacity(slots.len());
        for slot in slots {
            slot.dirty.store(0, Ordering::Release);
            let (found, left) = slot.look(|session| session.collect(cutoff));
            if left {
                self.mark(&slot, Urgency::Elidable);
            }
            if let Some(mut found) = found {
                batch.sessions.push(std::mem::take(&mut found.delta));
                collected.push((slot, found));
            }
        }
        let mut waiting = Vec::new();
        if retained {
            (batch.retained, waiting) = broker.retained.collect();
        }
        batch.ended_ledger = broker.take_ended_ledger();
        (batch, collected, waiting)
    }

    fn succeeded(&self, broker: &Arc<Broker>, collected: Vec<Given>, waiting: Vec<Waiting>, cx: Cx<'_>) {
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::info!("the store is writable again");
            broker.unpark();
        }
        for Waiting { message, .. } in waiting {
            message.settle();
        }
        for (slot, found) in collected {
            slot.with(broker, |session| session.committed(&found, cx));
            slot.wake();
        }
    }

    fn failed(&self, broker: &Arc<Broker>, error: &StoreError, work: Work, left_nothing: bool) {
        let (batch, collected, waiting) = work;
        let cx = Cx { now: broker.clock.now(), settings: &broker.settings };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!("{error}; new durable messages are refused until it can be written again");
        }
        let refused = refuse(broker, &batch, &waiting, left_nothing);
        broker.return_ended_ledger(batch.ended_ledger);
        broker.retained.uncollect(batch.retained, waiting, &refused);
        self.mark_retained(Urgency::Lazy);
        for ((slot, mut found), delta) in collected.into_iter().zip(batch.sessions) {
            found.delta = delta;
            slot.with(broker, |session| {
                session.not_committed(found);
                session.take_back(&refused, cx);
            });
        }
    }
}

/// The messages of a commit that failed are refused like those that come after it, where the protocol has words for it:
/// else their acks, and all acks behind them, would wait until there is room.
///
/// At QoS 1 that is right even if the commit may yet turn out to be on the disk, or a subscriber has the message: its
/// publisher sends it again, and twice is at least once. At QoS 2 it must be known that the message is nowhere: the
/// publisher's second try is another message to everybody. A durable subscriber is sent it after its commit, so none has
/// it; others may ([`crate::session::Awaited`]), and the store says whether it may. If it may, the ack waits.
fn refuse(broker: &Broker, batch: &Batch, waiting: &[Waiting], left_nothing: bool) -> Refused {
    let mut refused = Refused::default();
    let queued = batch.sessions.iter().flat_map(|delta| &delta.enqueued).map(|entry| &entry.message);
    for message in queued.chain(waiting.iter().map(|waiting| &waiting.message)) {
        let may = !message.is_safe() && (message.qos < 2 || left_nothing) && !refused.holds(message);
        if may && message.refuse() {
            broker.counters.publish_refused.add(1);
            refused.add(message);
        }
    }
    refused
}

/// A session, and what it gave to the commit.
type Given = (Arc<Slot>, Collected);

/// All that a commit is made of: the batch, who gave what, and retained messages whose publishers wait.
type Work = (Batch, Vec<Given>, Vec<Waiting>);

/// A retained message whose publisher waits for its commit.
pub struct Waiting {
    /// The message.
    pub message: Arc<Message>,
    /// What was retained before it.
    pub replaced: Option<Arc<Message>>,
}

/// Collected retained changes, and the messages whose publishers wait for them.
pub type RetainedWork = (Vec<RetainedChange>, Vec<Waiting>);
