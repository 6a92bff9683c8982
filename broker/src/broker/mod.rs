//! What all connections share: sessions, routes, retained messages, the store's threads, the clock.

mod fanout;
mod keeper;
mod leaving;
mod pager;
mod retained;
mod sessions;
mod slot;
mod sys;
mod woken;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

pub use fanout::{Batch, Source, Staged, Verdict};
pub use keeper::Stop;
pub use pager::{Pager, Request};
pub use retained::RetainedStore;
pub use sessions::{Ending, Opened};
pub use slot::Slot;
pub use sys::Pressure;
pub(crate) use woken::Woken;
pub use writer::{Writer, WriterOptions};

use crate::auth::Mechanisms;
use crate::clock::Clock;
use crate::config::Config;
use crate::message::Time;
use crate::observe::Counters;
use crate::router::Router;
use crate::session::{Cx, Policy, Settings};
use crate::store::redb::Gauge;
use crate::store::{Ledger, Recovered, SessionNo};

/// Milliseconds after which a refused publisher or client is told to try again.
pub const RETRY_AFTER_MS: u32 = 1000;

/// The broker.
pub struct Broker {
    /// The configuration.
    pub config: Arc<Config>,
    /// What sessions obey.
    pub settings: Settings,
    /// Who gets what.
    pub router: Router<Arc<Slot>>,
    /// Retained messages.
    pub retained: RetainedStore,
    /// The clock.
    pub clock: Clock,
    /// The writer of the store.
    pub writer: Writer,
    /// The reader of queues.
    pub pager: Pager,
    /// What has happened.
    pub counters: Counters,
    /// Enhanced authentication.
    pub mechanisms: Mechanisms,
    /// Network connections that are past their CONNECT.
    pub connections: AtomicUsize,
    /// New connections are refused: the broker is stopping.
    pub stopping: AtomicBool,
    sessions: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// Sessions that have ended, but for what others are to take of their queues. Locked under `sessions`.
    leaving: Mutex<HashMap<SessionNo, Arc<Slot>>>,
    next_session: AtomicU64,
    deadlines: Mutex<keeper::Deadlines>,
    parked: Mutex<Vec<Arc<Slot>>>,
    ended_ledger: Mutex<EndedLedger>,
    gauge: Option<Arc<Gauge>>,
}

#[derive(Default)]
struct EndedLedger {
    total: Ledger,
    changed: bool,
}

fn settings(config: &Config) -> Settings {
    let (limits, queue) = (&config.limits, &config.queue);
    Settings {
        max_messages: queue.max_messages,
        max_bytes: queue.max_bytes,
        max_transient_bytes: (limits.memory_bytes as u64).saturating_mul(16).min(queue.max_bytes),
        max_age_ms: queue.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        policy: match queue.policy {
            crate::config::QueuePolicy::Reject => Policy::Reject,
            crate::config::QueuePolicy::DropOldest => Policy::DropOldest,
            crate::config::QueuePolicy::DropNewest => Policy::DropNewest,
            crate::config::QueuePolicy::KeepLast => Policy::KeepLast,
        },
        queue_qos0: queue.queue_qos0,
        memory_messages: limits.memory_messages,
        memory_bytes: limits.memory_bytes,
        outbound_buffer: limits.outbound_buffer,
        max_inflight: limits.max_inflight,
        receive_maximum: limits.receive_maximum,
        outbound_topic_alias_maximum: limits.outbound_topic_alias_maximum,
    }
}

/// What nobody waits for is written this often: the shortest interval that the configuration promises, or a tenth of a
/// second.
fn lazy(config: &Config) -> std::time::Duration {
    let rules = config.durability.iter().map(|rule| rule.durability);
    let all = rules.chain(config.listeners.iter().map(|listener| listener.durability));
    let intervals = all.filter_map(|durability| match durability {
        crate::config::Durability::Interval(time) => Some(time),
        crate::config::Durability::Commit | crate::config::Durability::Memory => None,
    });
    intervals.chain([WriterOptions::default().lazy]).min().unwrap_or_default()
}

impl Broker {
    /// A broker with what the store found. Its threads are started by [`crate::start::start`], or driven by a simulation.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        recovered: Recovered,
        pager: Pager,
        mechanisms: Mechanisms,
        gauge: Option<Arc<Gauge>>,
    ) -> Arc<Self> {
        let clock = Clock::new(recovered.clock);
        Self::with_clock(config, recovered, pager, mechanisms, gauge, clock)
    }

    /// As [`Broker::new`], with a clock of the caller's.
    #[must_use]
    pub fn with_clock(
        config: Arc<Config>,
        recovered: Recovered,
        pager: Pager,
        mechanisms: Mechanisms,
        gauge: Option<Arc<Gauge>>,
        clock: Clock,
    ) -> Arc<Self> {
        let options = WriterOptions { commit_wait: config.store.commit_wait, lazy: lazy(&config) };
        let broker = Arc::new(Self {
            settings: settings(&config),
            router: Router::new(),
            retained: RetainedStore::new(config.limits.max_retained_messages, config.limits.max_retained_bytes),
            clock,
            writer: Writer::new(options),
            pager,
            counters: Counters::default(),
            mechanisms,
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            sessions: Mutex::new(HashMap::new()),
            leaving: Mutex::new(HashMap::new()),
            next_session: AtomicU64::new(recovered.last_session + 1),
            deadlines: Mutex::new(keeper::Deadlines::default()),
            parked: Mutex::new(Vec::new()),
            ended_ledger: Mutex::new(EndedLedger { total: recovered.ended_ledger, changed: false }),
            gauge,
            config,
        });
        broker.recover(recovered);
        broker
    }

    /// Now, with the limits.
    #[must_use]
    pub fn cx(&self) -> Cx<'_> {
        Cx { now: self.clock.now(), settings: &self.settings }
    }

    /// The limits, where the time does not matter.
    #[must_use]
    pub fn cx_settings(&self) -> Cx<'_> {
        Cx { now: Time(0), settings: &self.settings }
    }

    /// A number for a new session.
    pub(crate) fn session_no(&self) -> SessionNo {
        SessionNo(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// All sessions that have not ended, as of now.
    #[must_use]
    pub fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// Whether there is a session of this client.
    #[must_use]
    pub fn has_session(&self, client_id: &str) -> bool {
        self.sessions.lock().contains_key(client_id)
    }

    /// Whether a connection serves this client.
    #[must_use]
    pub fn is_online(&self, client_id: &str) -> bool {
        self.sessions.lock().get(client_id).is_some_and(|slot| slot.online())
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.lock().len()
    }

    /// A publisher waits for room somewhere; [`Broker::unpark`] wakes it.
    pub(crate) fn park(&self, slot: &Arc<Slot>) {
        if slot.set_parked(true) {
            return;
        }
        self.parked.lock().push(slot.clone());
    }

    /// There is room again somewhere: those who wait look for themselves.
    pub fn unpark(&self) {
        let parked = std::mem::take(&mut *self.parked.lock());
        for slot in parked {
            slot.set_parked(false);
            slot.wake();
        }
    }

    /// Whether durable messages are refused because the store cannot be written.
    #[must_use]
    pub fn store_failing(&self) -> bool {
        self.writer.failing.load(Ordering::Relaxed) || self.gauge.as_ref().is_some_and(|gauge| gauge.low())
    }

    /// The ledger of everything: queues that are, and queues that have ended. Also the messages queued.
    #[must_use]
    pub fn ledger(&self) -> (Ledger, u64) {
        let mut total = self.ended_ledger.lock().total;
        let mut queued = 0;
        let all: Vec<Arc<Slot>> = {
            let sessions = self.sessions.lock();
            sessions.values().chain(self.leaving.lock().values()).cloned().collect()
        };
        for slot in all {
            let (ledger, waiting) = slot.look(|session| session.ledger());
            total.add(&ledger);
            queued += waiting;
        }
        (total, queued)
    }

    pub(crate) fn bury(&self, ledger: &Ledger) {
        let mut ended = self.ended_ledger.lock();
        ended.total.add(ledger);
        ended.changed = true;
    }

    pub(crate) fn take_ended_ledger(&self) -> Option<Ledger> {
        let mut ended = self.ended_ledger.lock();
        std::mem::take(&mut ended.changed).then_some(ended.total)
    }

    pub(crate) fn return_ended_ledger(&self, taken: Option<Ledger>) {
        if taken.is_some() {
            self.ended_ledger.lock().changed = true;
        }
    }
}
