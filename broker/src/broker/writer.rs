//! The one thread that writes. It waits until sessions have something, lets a little time pass in which acks may
//! make the write needless, collects from every session that asked, commits once, and tells them.
//!
//! What one read of a connection does to several sessions must be in one commit: a QoS 2 identifier of the publisher without
//! its message in the subscribers' queues would lose that message in a crash (the repetition is taken for a duplicate), the
//! message without the identifier would double it. So connections work inside a [`Writer::gate`], many at once, and
//! the writer makes its cut while none of them is inside: it notes whose part is to be in the commit. It collects the parts
//! when they are let in again; whoever changes a session that is in the cut before the writer has come to it collects its part
//! first ([`Slot::with`]). So nobody waits for a hundred thousand sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::access::DynamicWork;
use crate::broker::Broker;
use crate::broker::Slot;
use crate::broker::delay::DelayedWork;
use crate::broker::once::OriginWork;
use crate::broker::schedules::ScheduleWork;
use crate::broker::streams::StreamWork;
use crate::message::{Message, Time};
use crate::session::{Collected, Cx, Refused, Urgency};
use crate::store::{Batch, RetainedChange, Store, StoreError};

/// How long a deletion or a change that nobody waits for may wait.
const LAZY: Duration = Duration::from_millis(100);
/// Between two commits that only delete what nobody needs: those that somebody waits for come in between.
const CLEAN_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of retained messages in one commit, as far as nobody waits for them.
const RETAINED_BYTES_MAX: usize = 4 << 20;
/// After a commit that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Times and switches of the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// How long a write may wait for acks that make it needless.
    pub commit_wait: Duration,
    /// How long what somebody waits for may wait for company.
    pub gather: Duration,
    /// How long what nobody waits for may wait: `interval` durability and deletions.
    pub lazy: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { commit_wait: Duration::from_millis(2), gather: Duration::ZERO, lazy: LAZY }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Dirty {
    slots: Vec<Arc<Slot>>,
    retained: bool,
    due: Option<Instant>,
    /// The shortest delay that `due` was made of.
    delay: Option<Duration>,
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
    /// How long all commits took.
    pub times: crate::observe::Histogram,
    /// More was written than `store.wear` allows.
    pub wear_over: AtomicBool,
}

/// Asks the writer to collect.
pub struct Writer {
    gate: RwLock<()>,
    dirty: Mutex<Dirty>,
    wake: Condvar,
    commit_wait: Duration,
    /// These two in microseconds: they are planned anew while it works.
    gather_us: AtomicU64,
    lazy_us: AtomicU64,
    /// The store has rows to delete yet.
    unclean: AtomicBool,
    /// The last commit failed: new durable messages are refused until one succeeds.
    pub failing: AtomicBool,
    /// Somebody was told that the store takes nothing, and may wait.
    pub(super) has_refused: AtomicBool,
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
            commit_wait: options.commit_wait,
            gather_us: AtomicU64::new(micros(options.gather)),
            lazy_us: AtomicU64::new(micros(options.lazy)),
            unclean: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
            counters: WriterCounters::default(),
        }
    }

    /// What is done while this is held goes into one commit. Not to be asked for by who holds it already.
    pub fn gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// Whether the thread is to do something.
    #[cfg(test)]
    pub(crate) fn is_due(&self) -> bool {
        self.dirty.lock().due.is_some()
    }

    /// Whether somebody is inside the gate.
    #[cfg(test)]
    pub(crate) fn is_held_off(&self) -> bool {
        self.gate.is_locked()
    }

    /// The same for who may hold it already.
    pub(crate) fn gate_again(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read_recursive()
    }

    /// As they are at the moment.
    pub(crate) fn options(&self) -> WriterOptions {
        let time = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
        WriterOptions { commit_wait: self.commit_wait, gather: time(&self.gather_us), lazy: time(&self.lazy_us) }
    }

    /// From now on commits wait so long; `commit_wait` stays.
    pub(crate) fn set_options(&self, options: &WriterOptions) {
        self.gather_us.store(micros(options.gather), Ordering::Relaxed);
        self.lazy_us.store(micros(options.lazy), Ordering::Relaxed);
    }

    fn delay(&self, urgency: Urgency) -> Duration {
        let options = self.options();
        match urgency {
            Urgency::Now => options.gather,
            Urgency::Elidable => options.commit_wait.max(options.gather),
            Urgency::None | Urgency::Lazy => options.lazy,
        }
    }

    /// The session has something to write.
    pub fn mark(&self, slot: &Arc<Slot>, urgency: Urgency) {
        if slot.dirty.load(Ordering::Acquire) >= urgency as u8 {
            return;
        }
        let mut dirty = self.dirty.lock();
        // Under the lock: a session that says so of itself is in the list. Another connection trusts that and leaves the gate, and the
        // cut that follows must have this session's part together with that connection's.
        let before = slot.dirty.fetch_max(urgency as u8, Ordering::AcqRel);
        if before >= urgency as u8 {
            return;
        }
        if before == 0 {
            dirty.slots.push(slot.clone());
        }
        let delay = self.delay(urgency);
        // For all the sessions that one message reaches the clock is read once.
        if dirty.delay.is_none_or(|planned| delay < planned) {
            dirty.delay = Some(delay);
            self.due_in(&mut dirty, delay);
        }
    }

    /// Has the thread look at the store soon, though nothing is to be written.
    pub(crate) fn look_soon(&self) {
        self.due_in(&mut self.dirty.lock(), Duration::ZERO);
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
        dirty.delay = None;
        let slots = std::mem::take(&mut dirty.slots);
        // The list's memory is used again, without keeping a storm's worth of it.
        dirty.slots.reserve(slots.len().min(1024));
        (slots, std::mem::take(&mut dirty.retained))
    }

    /// The thread.
    pub fn run(&self, broker: &Arc<Broker>, store: &mut dyn Store) {
        let mut refusing = broker.store_failing();
        loop {
            if self.wait(refusing) {
                // Nothing may be left for an ack that will not come any more.
                self.round(broker, store, Time(u64::MAX));
                return;
            }
            let wait_ms = u64::try_from(self.commit_wait.as_millis()).unwrap_or(0);
            let cutoff = Time(broker.clock.now().0.saturating_sub(wait_ms));
            if !self.round(broker, store, cutoff) {
                std::thread::sleep(RETRY);
            }
            if refusing {
                store.refresh(broker.clock.now());
            }
            if store.outdated() {
                broker.begin_anew.notify_one();
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
        let (mut batch, collected, waiting, keyed) = self.collect(broker, cutoff);
        let none = batch.retained.is_empty() && batch.keyed.is_empty() && batch.ended_ledger.is_none();
        // A store that failed is tried again with nothing as well, and one that has rows to delete goes on.
        let goes_on = self.failing.load(Ordering::Relaxed) || self.unclean.load(Ordering::Relaxed);
        if batch.sessions.is_empty() && none && !goes_on {
            return true;
        }
        batch.clock = broker.clock.mark();
        let started = Instant::now();
        let result = store.commit(&batch);
        let took = started.elapsed();
        self.counters.times.add(took);
        self.counters.last_commit_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        match result {
            Ok(done) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters.message_bytes.fetch_add(done.message_bytes, Ordering::Relaxed);
                drop(batch);
                broker.delayed_committed(keyed.delayed);
                broker.origins_committed(keyed.origins);
                broker.streams_committed(keyed.streams);
                broker.dynamic_committed(keyed.dynamic);
                self.unclean.store(done.more, Ordering::Relaxed);
                if done.more {
                    self.due_in(&mut self.dirty.lock(), CLEAN_PAUSE);
                }
                self.succeeded(broker, collected, waiting, cx);
                true
            }
            Err(error) => {
                let left_nothing = store.left_nothing();
                self.failed(broker, &error, (batch, collected, waiting, keyed), left_nothing);
                false
            }
        }
    }

    fn collect(&self, broker: &Arc<Broker>, cutoff: Time) -> Work {
        let (slots, cutoff, mut work) = self.cut(broker, cutoff);
        let (batch, collected, ..) = &mut work;
        collected.reserve(slots.len());
        for slot in slots {
            let (found, left) = slot.collect(cutoff);
            if left {
                self.mark(&slot, Urgency::Elidable);
            }
            if let Some(mut found) = found {
                batch.sessions.push(std::mem::take(&mut found.delta));
                collected.push((slot, found));
            }
        }
        work
    }

    /// What is to be in the commit: sessions whose parts are to be collected, up to which time, and everything else.
    fn cut(&self, broker: &Arc<Broker>, cutoff: Time) -> (Vec<Arc<Slot>>, Time, Work) {
        let _nobody_inside = self.gate.write();
        let last = cutoff == Time(u64::MAX);
        // A number on disk without its message would make the message's repetition a success, and lose it: with new numbers
        // nothing waits for an ack that makes it needless.
        let cutoff = if broker.has_new_of_origins() { Time(u64::MAX) } else { cutoff };
        let (mut slots, mut retained) = self.take();
        if broker.queues.keeps_dead_letters() {
            // A session that is on its way to make dead letters of something, outside of the gate, gives nothing to a commit before
            // it has; what others have done together with it would be in this one.
            let on_the_way = slots.iter().filter(|slot| slot.look(|session| session.has_fallen()));
            on_the_way.for_each(|slot| broker.keep_fallen_inside(slot));
            let (letters, retained_too) = self.take();
            slots.extend(letters);
            retained |= retained_too;
        }
        slots.iter().for_each(|slot| slot.cut(cutoff));
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        if retained {
            let most = if last { usize::MAX } else { RETAINED_BYTES_MAX };
            let left;
            ((batch.retained, waiting), left) = broker.retained.collect(most);
            if left {
                let mut dirty = self.dirty.lock();
                dirty.retained = true;
                self.due_in(&mut dirty, CLEAN_PAUSE);
            }
        }
        let delayed = broker.collect_delayed(&mut batch.keyed);
        let origins = broker.collect_origins(&mut batch.keyed);
        let streams = broker.collect_streams(&mut batch.keyed);
        let dynamic = broker.collect_dynamic(&mut batch.keyed);
        let schedules = broker.collect_schedules(&mut batch.keyed);
        batch.ended_ledger = broker.take_ended_ledger();
        (slots, cutoff, (batch, Vec::new(), waiting, Keyed { delayed, origins, streams, dynamic, schedules }))
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
        let (batch, collected, waiting, keyed) = work;
        let cx = Cx { now: broker.clock.now(), settings: &broker.settings };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!("{error}; new durable messages are refused until it can be written again");
        }
        let refused = refuse(broker, &batch, &waiting, &keyed, left_nothing);
        broker.delayed_not_committed(keyed.delayed, &refused);
        broker.origins_not_committed(keyed.origins, &refused);
        broker.streams_not_committed(keyed.streams);
        broker.dynamic_not_committed(keyed.dynamic);
        broker.schedules_not_committed(keyed.schedules);
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
        // What was refused has left room behind.
        broker.unpark();
    }
}

/// The messages of a commit that failed are refused like those that come after it, where the protocol has words for it:
/// else their acks, and all acks behind them, would wait until there is room.
///
/// At QoS 1 that is right even if the commit may yet turn out to be on the disk, or a subscriber has the message: its
/// publisher sends it again, and twice is at least once. At QoS 2 it must be known that the message is nowhere: the
/// publisher's second try is another message to everybody. A durable subscriber is sent it after its commit, so none has
/// it; others may ([`crate::session::Awaited`]), new subscriptions may as its topic's retained message
/// ([`Message::give_once`]), and the store says whether it may. If it may, the ack waits.
fn refuse(broker: &Broker, batch: &Batch, waiting: &[Waiting], keyed: &Keyed, left_nothing: bool) -> Refused {
    let mut refused = Refused::default();
    let queued = batch.sessions.iter().flat_map(|delta| &delta.enqueued).map(|entry| &entry.message);
    for message in queued.chain(waiting.iter().map(|waiting| &waiting.message)).chain(keyed.messages()) {
        let may = !message.is_safe() && (message.qos < 2 || left_nothing) && !refused.holds(message);
        if may && message.was_refused() {
            refused.add(message);
        } else if may && message.refuse() {
            broker.counters.publish_refused.add(1);
            refused.add(message);
        }
    }
    refused
}

/// A session, and what it gave to the commit.
type Given = (Arc<Slot>, Collected);

/// All that a commit is made of: the batch, who gave what, retained messages whose publishers wait, and keyed rows.
type Work = (Batch, Vec<Given>, Vec<Waiting>, Keyed);

/// What is in keyed rows: delayed messages, which publications have come, streams, users made while the broker runs, schedules.
struct Keyed {
    delayed: DelayedWork,
    origins: OriginWork,
    streams: StreamWork,
    dynamic: DynamicWork,
    schedules: ScheduleWork,
}

impl Keyed {
    fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.delayed.messages().chain(self.origins.messages())
    }
}

/// A retained message whose publisher waits for its commit.
pub struct Waiting {
    /// The message.
    pub message: Arc<Message>,
    /// What was retained before it.
    pub replaced: Option<Arc<Message>>,
}

/// Collected retained changes, and the messages whose publishers wait for them.
pub type RetainedWork = (Vec<RetainedChange>, Vec<Waiting>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;
    use crate::store::SessionNo;

    /// Two connections change a session at once, one of them inside the gate. That one leaves when it sees that the other has said
    /// so: the writer, which comes then, must find the session in the list.
    #[test]
    fn a_session_that_is_marked_is_in_the_list() {
        let writer = Writer::new(WriterOptions::default());
        let slot = Slot::new(Session::new(SessionNo(1), "a"));
        let list = writer.dirty.lock();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| writer.mark(&slot, Urgency::Now));
            // It cannot put it into the list now, so it must not say that it is there.
            for _ in 0..10_000 {
                std::thread::yield_now();
                assert_eq!(slot.dirty.load(Ordering::Acquire), 0);
            }
            drop(list);
            other.join().unwrap();
        });
        assert_eq!(writer.take().0.len(), 1);
    }
}
