//! What all connections share: sessions, routes, retained messages, the store's threads, the clock.

mod access;
mod budget;
#[cfg(test)]
pub(crate) mod by_hand;
mod delay;
mod fanout;
mod feed;
mod keeper;
mod leaving;
mod once;
mod pager;
mod parking;
mod queues;
pub(crate) mod reload;
mod retained;
mod room;
mod rules;
mod schedules;
mod sessions;
mod shortage;
mod slot;
mod special;
mod streams;
mod sys;
mod taker;
mod wear;
mod woken;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use access::DynamicSecurity;
pub use budget::Budget;
pub(crate) use budget::TURN;
pub use delay::{DelayedMessages, Pending};
pub use fanout::{Batch, Source, Staged, Verdict};
pub(crate) use feed::{Fed, may_want_retained};
pub use keeper::Stop;
pub use once::OriginWindows;
pub use pager::{Pager, Request};
pub use queues::{DEAD_PREFIX, DeclaredQueue, Found, QUEUE_PREFIX, QueueInbox, Queues, Replay};
pub use reload::{ConfigSource, ReloadError};
pub use retained::RetainedStore;
pub use rules::{Judging, Rules};
pub use schedules::Schedules;
pub use sessions::{Ending, Opened};
pub(crate) use slot::Lane;
pub use slot::Slot;
pub use streams::{STREAM_PREFIX, Streams};
pub(crate) use streams::{is_same_stream, with_place_of};
pub use sys::Pressure;
pub use taker::{TAKER_PREFIX, Taker, TakerFigures, TakerFilter, TakerOptions};
pub(crate) use woken::Woken;
pub use writer::{Writer, WriterOptions};

use crate::access::Access;
use crate::access::auth::Mechanisms;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::message::Time;
use crate::observe::{Counters, Observed};
use crate::queue::{KeyOf, Policy, QueueLimits, Reasons};
use crate::router::Router;
use crate::session::{Cx, Settings};
use crate::store::{Gauge, Known, Ledger, Recovered, SessionNo};

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
    /// Messages that are sent later.
    pub delayed: DelayedMessages,
    /// Which publications have come, of those that say which they are.
    pub origins: OriginWindows,
    /// Queues that exist without subscribers.
    pub queues: Queues,
    /// What becomes of messages beside what their publishers want.
    pub rules: Rules,
    /// Messages that are published again and again.
    pub schedules: Schedules,
    /// Messages that are kept and read again.
    pub streams: Streams,
    /// The clock.
    pub clock: Clock,
    /// The writer of the store.
    pub writer: Writer,
    /// The reader of queues.
    pub pager: Pager,
    /// What has happened.
    pub counters: Counters,
    /// What its parts have registered to be seen.
    pub observed: Observed,
    /// Enhanced authentication.
    pub mechanisms: Mechanisms,
    /// Network connections that are past their CONNECT.
    pub connections: AtomicUsize,
    /// Room for log-ins in progress.
    pub(crate) log_ins: tokio::sync::Semaphore,
    /// New connections are refused: the broker is stopping.
    pub stopping: AtomicBool,
    sessions: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    /// Sessions that have ended, but for what others are to take of their queues. Locked under `sessions`.
    leaving: Mutex<HashMap<SessionNo, Arc<Slot>>>,
    next_session: AtomicU64,
    deadlines: Mutex<keeper::Deadlines>,
    /// The store asks for another broker: see [`crate::store::Store::outdated`].
    pub begin_anew: tokio::sync::Notify,
    parking: Mutex<parking::Parking>,
    shortages: shortage::Shortages,
    ended_ledger: Mutex<EndedLedger>,
    gauge: Option<Arc<Gauge>>,
    /// Bytes that the program may take.
    memory_limit: usize,
    short_of_memory: room::ShortOfMemory,
    /// Bytes of all wills, as the keeper counted them last, and those that have come since.
    will_bytes: AtomicUsize,
    access: OnceLock<Arc<Access>>,
    dynamic: DynamicSecurity,
    live: RwLock<Arc<Config>>,
    source: OnceLock<Arc<reload::ConfigSource>>,
}

#[derive(Default)]
struct EndedLedger {
    total: Ledger,
    changed: bool,
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The limits of a queue, from those of the configuration.
pub(crate) fn queue_limits(queue: &config::QueueLimits, limits: &config::Limits) -> QueueLimits {
    QueueLimits {
        max_messages: queue.max_messages,
        max_bytes: queue.max_bytes,
        max_transient_bytes: (limits.memory_bytes as u64).saturating_mul(16).min(queue.max_bytes),
        max_age_ms: queue.max_age.map(millis),
        policy: match queue.policy {
            config::QueuePolicy::Reject => Policy::Reject,
            config::QueuePolicy::DropOldest => Policy::DropOldest,
            config::QueuePolicy::DropNewest => Policy::DropNewest,
            config::QueuePolicy::KeepLast => Policy::KeepLast,
        },
        keep_last_by: KeyOf::Topic,
        queue_qos0: queue.queue_qos0,
        stall_ms: queue.stall_limit.map(millis),
        stall_transient_ms: queue.stall_limit_transient.map(millis),
        dead_letters: Reasons::default(),
        memory_messages: limits.memory_messages,
        memory_bytes: limits.memory_bytes,
    }
}

fn settings(config: &Config) -> Settings {
    let (limits, queue) = (&config.limits, &config.queue);
    let of_rules = config.dead_letters.iter().map(|rule| rule.reasons);
    let dead_letters = of_rules.fold(Reasons::default(), Reasons::and);
    Settings {
        queue: QueueLimits { dead_letters, ..queue_limits(queue, limits) },
        outbound_buffer: limits.outbound_buffer,
        max_inflight: limits.max_inflight,
        receive_maximum: limits.receive_maximum,
        outbound_topic_alias_maximum: limits.outbound_topic_alias_maximum,
    }
}

/// What is done is told the store at least this often.
const LAZY_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// What nobody waits for is written this often: the shortest interval that the configuration promises, at most a second;
/// without one, each tenth of a second.
fn lazy(config: &Config) -> std::time::Duration {
    shortest_interval(config).map_or(WriterOptions::default().lazy, |interval| interval.min(LAZY_MAX))
}

/// What [`lazy`] may become where less is to be written.
fn lazy_max(config: &Config) -> std::time::Duration {
    shortest_interval(config).map_or(LAZY_MAX, |interval| interval.min(LAZY_MAX))
}

fn shortest_interval(config: &Config) -> Option<std::time::Duration> {
    let rules = config.durability.iter().map(|rule| rule.durability);
    let all = rules.chain(config.listeners.iter().map(|listener| listener.durability));
    let intervals = all.filter_map(|durability| match durability {
        config::Durability::Interval(time) => Some(time),
        config::Durability::Commit | config::Durability::Memory => None,
    });
    intervals.min()
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
        let store = &config.store;
        let options =
            WriterOptions { commit_wait: store.commit_wait, gather: store.commit_gather, lazy: lazy(&config) };
        let settings = settings(&config);
        let broker = Arc::new(Self {
            short_of_memory: room::ShortOfMemory::new(&settings),
            settings,
            router: Router::new(),
            retained: RetainedStore::new(crate::router::Limits {
                messages_max: config.limits.max_retained_messages,
                bytes_max: config.limits.max_retained_bytes,
                nodes_max: config.limits.max_retained_levels,
            }),
            delayed: DelayedMessages::new(),
            origins: OriginWindows::new(config.limits.max_origins),
            queues: Queues::new(&config),
            rules: Rules::new(&config),
            schedules: Schedules::default(),
            streams: Streams::new(&config.streams),
            clock,
            writer: Writer::new(options),
            pager,
            counters: Counters::default(),
            observed: Observed::default(),
            mechanisms,
            connections: AtomicUsize::new(0),
            log_ins: tokio::sync::Semaphore::new(config.limits.max_log_ins),
            stopping: AtomicBool::new(false),
            sessions: Mutex::new(HashMap::new()),
            leaving: Mutex::new(HashMap::new()),
            next_session: AtomicU64::new(recovered.last_session + 1),
            deadlines: Mutex::new(keeper::Deadlines::default()),
            begin_anew: tokio::sync::Notify::new(),
            parking: Mutex::default(),
            shortages: shortage::Shortages::default(),
            ended_ledger: Mutex::new(EndedLedger { total: recovered.ended_ledger, changed: false }),
            gauge,
            memory_limit: config.limits.memory.unwrap_or_else(crate::memory::half_of_the_machine),
            will_bytes: AtomicUsize::new(0),
            access: OnceLock::new(),
            dynamic: DynamicSecurity::default(),
            live: RwLock::new(config.clone()),
            source: OnceLock::new(),
            config,
        });
        broker.recover(recovered);
        broker
    }

    /// Who may do what; `None`: everybody everything.
    #[must_use]
    pub fn access(&self) -> Option<&Arc<Access>> {
        self.access.get()
    }

    /// To be called once, before the first connection.
    pub(crate) fn set_access(&self, access: Option<Arc<Access>>) {
        if let Some(access) = access {
            if let Some(recent) = access.recent() {
                recent.set_now(self.clock.now().0);
            }
            let _ = self.access.set(access);
        }
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

    /// What another broker is to know that begins with what can be read of this one's store.
    #[must_use]
    pub fn known(&self) -> Known {
        let sessions = self.all_slots().into_iter().filter_map(|slot| slot.look(|session| session.known()));
        Known { sessions: sessions.collect(), retained: self.retained.all() }
    }

    /// The session of this client.
    pub(crate) fn slot_of(&self, client_id: &str) -> Option<Arc<Slot>> {
        self.sessions.lock().get(client_id).cloned()
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

    /// Whether durable messages are refused because the store cannot be written.
    #[must_use]
    pub fn store_failing(&self) -> bool {
        let failing =
            self.writer.failing.load(Ordering::Relaxed) || self.gauge.as_ref().is_some_and(|gauge| gauge.low());
        if failing {
            self.writer.has_refused.store(true, Ordering::Relaxed);
        }
        failing
    }

    /// What the store can do, in a word or a sentence.
    #[must_use]
    pub fn store_state(&self) -> String {
        let trouble = self.gauge.as_ref().and_then(|gauge| gauge.trouble());
        match trouble {
            Some(trouble) => trouble,
            None if self.writer.failing.load(Ordering::Relaxed) => "it cannot be written".to_owned(),
            None if self.store_failing() => "it is full".to_owned(),
            None => "ok".to_owned(),
        }
    }

    /// The ledger of everything: queues that are, and queues that have ended. Also the messages queued.
    #[must_use]
    pub fn ledger(&self) -> (Ledger, u64) {
        let (all, mut total) = self.all_queues();
        let mut queued = 0;
        for slot in all {
            let (ledger, waiting) = slot.look(|session| session.ledger());
            total.add(&ledger);
            queued += waiting;
        }
        (total, queued)
    }

    /// All queues, those of sessions that are leaving included, and the ledger of those that have ended.
    #[must_use]
    pub fn all_queues(&self) -> (Vec<Arc<Slot>>, Ledger) {
        let ended = self.ended_ledger.lock().total;
        let sessions = self.sessions.lock();
        (sessions.values().chain(self.leaving.lock().values()).cloned().collect(), ended)
    }

    /// How full the store is, where it can tell.
    #[must_use]
    pub fn gauge(&self) -> Option<&Gauge> {
        self.gauge.as_deref()
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
