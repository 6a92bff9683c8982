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
use crate::session::{Collected, Cx, Urgency};
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
                self.failed(broker, &error, batch, collected, waiting);
                false
            }
        }
    }

    fn collect(&self, broker: &Arc<Broker>, cutoff: Time) -> (Batch, Vec<Given>, Vec<Arc<Message>>) {
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

    fn succeeded(&self, broker: &Arc<Broker>, collected: Vec<Given>, waiting: Vec<Arc<Message>>, cx: Cx<'_>) {
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::info!("the store is writable again");
            broker.unpark();
        }
        for message in waiting {
            message.settle();
        }
        for (slot, found) in collected {
            slot.with(broker, |session| session.committed(&found, cx));
            slot.wake();
        }
    }

    fn failed(
        &self,
        broker: &Arc<Broker>,
        error: &StoreError,
        batch: Batch,
        collected: Vec<Given>,
        waiting: Vec<Arc<Message>>,
    ) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!("{error}; new durable messages are refused until it can be written again");
        }
        broker.return_ended_ledger(batch.ended_ledger);
        broker.retained.uncollect(batch.retained, waiting);
        self.mark_retained(Urgency::Lazy);
        for ((slot, mut found), delta) in collected.into_iter().zip(batch.sessions) {
            found.delta = delta;
            slot.with(broker, |session| session.not_committed(found));
        }
    }
}

/// A session, and what it gave to the commit.
type Given = (Arc<Slot>, Collected);

/// Collected retained changes, and the messages whose publishers wait for them.
pub type RetainedWork = (Vec<RetainedChange>, Vec<Arc<Message>>);
