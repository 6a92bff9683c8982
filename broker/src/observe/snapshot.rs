//! Everything that can be known of the broker at one moment. Taking it locks each session for a moment, one after
//! another: it is not one instant for all, but each session's own figures agree.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::bridges::{BridgePart, OpenBridge};
use super::histogram::Counted;
use super::process::Process;
use super::schema::answer;
use crate::broker::{Broker, Taker};
use crate::store::{DropReason, Ledger};
use crate::transport::LiveTls;

answer! {
    /// Everything that can be known of the broker at one moment.
    Snapshot {
        /// The broker as a whole.
        broker: BrokerPart,
        /// The process.
        process: Process,
        /// Each open address.
        listeners: Vec<ListenerPart>,
        /// Each bridge.
        bridges: Vec<BridgePart>,
        /// All sessions together.
        sessions: SessionsPart,
        /// All subscriptions together.
        subscriptions: SubscriptionsPart,
        /// All queues together.
        queues: QueuesPart,
        /// Retained messages.
        retained: RetainedPart,
        /// Messages that wait for their time.
        delayed: DelayedPart,
        /// Publishers whose repetitions are known.
        origins: OriginsPart,
        /// What became of all messages since the store was made.
        ledger: LedgerPart,
        /// The store.
        store: StorePart,
        /// What takes memory.
        memory: MemoryPart,
        /// The log.
        log: LogPart,
        /// What has happened since the start.
        counters: Vec<CounterValue>,
    }
}

answer! {
    /// The broker as a whole.
    BrokerPart {
        /// The program's version.
        version: String,
        /// Milliseconds since the start.
        uptime_ms: u64,
        /// How pressed it is: `normal`, `high` or `critical`.
        pressure: String,
        /// It is ending: new connections are refused.
        stopping: bool,
        /// Network connections that are past their CONNECT.
        connections: u64,
        /// The most of them at once since the start, as seen once a second.
        connections_max: u64,
    }
}

answer! {
    /// One open address.
    ListenerPart {
        /// Its URL.
        url: String,
        /// Sockets that are open on it.
        sockets: u64,
        /// The most that it may have.
        sockets_limit: u64,
        /// When the first of its certificates ends, in seconds since 1970; none without TLS.
        certificate_ends_s: Option<u64>,
    }
}

answer! {
    /// All sessions together.
    SessionsPart {
        /// Sessions that there are.
        total: u64,
        /// Those whose client is connected.
        connected: u64,
        /// Those whose client is away.
        away: u64,
        /// Those that have ended and still give shared messages to others.
        leaving: u64,
        /// Those whose queue refuses more.
        full: u64,
    }
}

answer! {
    /// All subscriptions together.
    SubscriptionsPart {
        /// Subscriptions, members of shared ones included.
        count: u64,
        /// Groups of shared subscriptions.
        groups: u64,
        /// Distinct beginnings of all filters: what the tree of filters is made of.
        nodes: u64,
    }
}

answer! {
    /// All queues together.
    QueuesPart {
        /// Messages in them.
        messages: u64,
        /// Their bytes: topics, properties, payloads.
        bytes: u64,
        /// Messages that were sent and are not acknowledged.
        in_flight: u64,
        /// How long the oldest message has waited, in milliseconds; those that are on disk and were not read since the start
        /// do not count.
        oldest_ms: u64,
    }
}

answer! {
    /// Retained messages.
    RetainedPart {
        /// How many.
        messages: u64,
        /// Their bytes.
        bytes: u64,
    }
}

answer! {
    /// Messages that wait for their time.
    DelayedPart {
        /// How many.
        messages: u64,
        /// Their bytes.
        bytes: u64,
        /// Sent when they were due, since the store was made.
        sent: u64,
        /// Expired before they were due, since the store was made.
        expired: u64,
        /// Cancelled by an operator, since the store was made.
        cancelled: u64,
    }
}

answer! {
    /// Publishers whose repetitions are known.
    OriginsPart {
        /// How many.
        count: u64,
        /// Those that were forgotten because there were too many.
        forgotten: u64,
    }
}

answer! {
    /// What became of messages: accepted = delivered + queued + expired + all dropped.
    LedgerPart {
        /// Messages that entered a queue.
        accepted: u64,
        /// Acknowledged by their receiver; for QoS 0 written to its socket.
        delivered: u64,
        /// Waiting.
        queued: u64,
        /// Expired while they waited.
        expired: u64,
        /// Dropped, by reason.
        dropped: Vec<DropCount>,
    }
}

answer! {
    /// Messages dropped for one reason.
    DropCount {
        /// The reason.
        reason: String,
        /// How many.
        count: u64,
    }
}

answer! {
    /// The store.
    StorePart {
        /// It cannot be written: durable messages are refused.
        failing: bool,
        /// Commits since the start.
        commits: u64,
        /// Commits that failed.
        failures: u64,
        /// Bytes of messages written.
        message_bytes: u64,
        /// Microseconds of the last commit.
        last_commit_us: u64,
        /// How long commits took.
        commit_times: Counted,
        /// What the rows of queues and retained messages take in the file.
        live_bytes: u64,
        /// Room on the disk and inside the file.
        room_bytes: u64,
        /// Rows that could not be read since the start.
        damaged_rows: u64,
        /// Bytes in the journal that the file does not have yet.
        journal_pending_bytes: u64,
        /// How often the journal was folded into the file.
        folds: u64,
        /// Bytes given to the device for the journal since the start.
        journal_written_bytes: u64,
        /// Bytes given to the device for the file since the start.
        file_written_bytes: u64,
        /// Both, for each 1,000 bytes of messages written.
        device_bytes_per_kilobyte: u64,
        /// Microseconds that a commit waits for company at the moment.
        gather_us: u64,
        /// Bytes that the device may be written in a year (`store.wear`); 0 for as many as it takes.
        wear_bytes_per_year: u64,
        /// More was written than that.
        wear_over: bool,
    }
}

answer! {
    /// What takes memory.
    MemoryPart {
        /// Bytes that the program has from its allocator.
        used: u64,
        /// Bytes that it may have.
        limit: u64,
        /// Bytes of all wills.
        wills: u64,
    }
}

answer! {
    /// The log.
    LogPart {
        /// Lines that nobody could read.
        lines_lost: u64,
        /// Lines left out because there were too many in a second.
        lines_left_out: u64,
    }
}

answer! {
    /// How often something has happened since the start.
    CounterValue {
        /// What.
        name: String,
        /// How often.
        count: u64,
    }
}

/// What the broker's parts register so that it can be seen.
#[derive(Debug, Default)]
pub struct Observed {
    listeners: Mutex<Vec<OpenListener>>,
    bridges: Mutex<Vec<(Arc<OpenBridge>, Weak<Taker>)>>,
    connections_max: AtomicU64,
    last_beat_ms: AtomicU64,
}

#[derive(Debug)]
struct OpenListener {
    url: String,
    limit: usize,
    sockets: Arc<AtomicUsize>,
    tls: Option<Arc<LiveTls>>,
}

impl Observed {
    /// An address is open; `sockets` counts what is connected to it.
    pub fn listener(&self, url: &str, limit: usize, sockets: &Arc<AtomicUsize>, tls: Option<&Arc<LiveTls>>) {
        let (sockets, tls) = (sockets.clone(), tls.cloned());
        self.listeners.lock().push(OpenListener { url: url.to_owned(), limit, sockets, tls });
    }

    /// A bridge runs, and takes from this queue.
    pub fn bridge(&self, bridge: &Arc<OpenBridge>, queue: &Arc<Taker>) {
        self.bridges.lock().push((bridge.clone(), Arc::downgrade(queue)));
    }

    /// The bridge of this name, and its queue; `None`: none of this name runs.
    #[must_use]
    pub fn open_bridge(&self, name: &str) -> Option<(Arc<OpenBridge>, Arc<Taker>)> {
        let open = self.bridges.lock();
        let (bridge, queue) = open.iter().find(|(bridge, _)| bridge.name() == name)?;
        Some((bridge.clone(), queue.upgrade()?))
    }

    /// All bridges that run.
    #[must_use]
    pub fn bridges(&self) -> Vec<BridgePart> {
        let open = self.bridges.lock().clone();
        open.iter().filter_map(|(bridge, queue)| Some(bridge.part(&*queue.upgrade()?))).collect()
    }

    /// The TLS of all listeners that have it.
    #[must_use]
    pub fn tls(&self) -> Vec<Arc<LiveTls>> {
        self.listeners.lock().iter().filter_map(|open| open.tls.clone()).collect()
    }

    /// The keeper's thread is alive, and so many connections are open.
    pub fn beat(&self, uptime_ms: u64, connections: usize) {
        self.last_beat_ms.store(uptime_ms, Ordering::Relaxed);
        self.connections_max.fetch_max(connections as u64, Ordering::Relaxed);
    }

    /// Milliseconds since the start at which the keeper's thread was last seen alive.
    #[must_use]
    pub fn last_beat_ms(&self) -> u64 {
        self.last_beat_ms.load(Ordering::Relaxed)
    }

    fn listeners(&self) -> Vec<ListenerPart> {
        let listeners = self.listeners.lock();
        let parts = listeners.iter().map(|open| ListenerPart {
            url: open.url.clone(),
            sockets: open.sockets.load(Ordering::Relaxed) as u64,
            sockets_limit: open.limit as u64,
            certificate_ends_s: open.tls.as_ref().map(|tls| u64::try_from(tls.ends_s()).unwrap_or_default()),
        });
        parts.collect()
    }
}

impl LedgerPart {
    /// From a ledger and the messages that wait.
    #[must_use]
    pub fn new(ledger: &Ledger, queued: u64) -> Self {
        let Ledger { accepted, delivered, expired, dropped } = *ledger;
        let dropped = DropReason::ALL.iter().zip(dropped);
        let dropped = dropped.map(|(reason, count)| DropCount { reason: reason.name().to_owned(), count }).collect();
        Self { accepted, delivered, queued, expired, dropped }
    }
}

impl Snapshot {
    /// The broker as it is now.
    #[must_use]
    pub fn take(broker: &Broker) -> Self {
        let (sessions, queues, ledger) = queues(broker);
        let counters = broker.counters.each();
        let connections = broker.connections.load(Ordering::Relaxed) as u64;
        let (retained, retained_bytes) = broker.retained.count();
        let subscriptions = broker.router.stats();
        let delayed = broker.delayed.totals();
        let (origins, origins_forgotten) = broker.origins.count();
        Self {
            broker: BrokerPart {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: broker.clock.uptime_ms(),
                pressure: broker.pressure().name().to_owned(),
                stopping: broker.stopping.load(Ordering::Relaxed),
                connections,
                connections_max: broker.observed.connections_max.load(Ordering::Relaxed).max(connections),
            },
            process: Process::look(),
            listeners: broker.observed.listeners(),
            bridges: broker.observed.bridges(),
            sessions,
            subscriptions: SubscriptionsPart {
                count: subscriptions.subscriptions as u64,
                groups: subscriptions.groups as u64,
                nodes: subscriptions.nodes as u64,
            },
            queues,
            retained: RetainedPart { messages: retained as u64, bytes: retained_bytes as u64 },
            delayed: DelayedPart {
                messages: delayed.messages,
                bytes: delayed.bytes,
                sent: delayed.sent,
                expired: delayed.expired,
                cancelled: delayed.cancelled,
            },
            origins: OriginsPart { count: origins as u64, forgotten: origins_forgotten },
            ledger,
            store: store(broker),
            memory: broker.memory_part(),
            log: LogPart { lines_lost: crate::logging::lost(), lines_left_out: crate::logging::suppressed() },
            counters: counters.map(|(name, count)| CounterValue { name: name.to_owned(), count }).collect(),
        }
    }
}

fn queues(broker: &Broker) -> (SessionsPart, QueuesPart, LedgerPart) {
    let now = broker.clock.now();
    let mut sessions = SessionsPart { total: 0, connected: 0, away: 0, leaving: 0, full: 0 };
    let mut queues = QueuesPart { messages: 0, bytes: 0, in_flight: 0, oldest_ms: 0 };
    let (slots, mut ledger) = broker.all_queues();
    let mut queued = 0;
    for slot in slots {
        let (figures, (of, waiting), leaving) = slot.look(|s| (s.queue_figures(), s.ledger(), s.leaving()));
        ledger.add(&of);
        queued += waiting;
        queues.messages += figures.messages;
        queues.bytes += figures.bytes;
        queues.in_flight += figures.in_flight;
        queues.oldest_ms = queues.oldest_ms.max(figures.oldest.map_or(0, |at| now.since(at)));
        if leaving {
            sessions.leaving += 1;
            continue;
        }
        sessions.total += 1;
        *(if slot.online() { &mut sessions.connected } else { &mut sessions.away }) += 1;
        sessions.full += u64::from(slot.full());
    }
    (sessions, queues, LedgerPart::new(&ledger, queued))
}

fn store(broker: &Broker) -> StorePart {
    let counters = &broker.writer.counters;
    let gauge = broker.gauge();
    let journal_written = gauge.map_or(0, |gauge| gauge.journal_written());
    let file_written = gauge.map_or(0, |gauge| gauge.file_written());
    let message_bytes = counters.message_bytes.load(Ordering::Relaxed);
    let device_bytes = journal_written.saturating_add(file_written);
    StorePart {
        failing: broker.store_failing(),
        commits: counters.commits.load(Ordering::Relaxed),
        failures: counters.failures.load(Ordering::Relaxed),
        message_bytes,
        last_commit_us: counters.last_commit_us.load(Ordering::Relaxed),
        commit_times: counters.times.counted(),
        live_bytes: gauge.map_or(0, |gauge| gauge.live_bytes()),
        room_bytes: gauge.map_or(0, |gauge| gauge.room_bytes()),
        damaged_rows: gauge.map_or(0, |gauge| gauge.damaged_rows()),
        journal_pending_bytes: gauge.map_or(0, |gauge| gauge.pending_bytes()),
        folds: gauge.map_or(0, |gauge| gauge.folds()),
        journal_written_bytes: journal_written,
        file_written_bytes: file_written,
        device_bytes_per_kilobyte: device_bytes.saturating_mul(1000).checked_div(message_bytes).unwrap_or(0),
        gather_us: u64::try_from(broker.writer.options().gather.as_micros()).unwrap_or(u64::MAX),
        wear_bytes_per_year: broker.config.store.wear.unwrap_or(0),
        wear_over: counters.wear_over.load(Ordering::Relaxed),
    }
}
