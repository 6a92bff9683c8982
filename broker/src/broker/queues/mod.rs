//! Declared queues: each keeps the messages of a filter, whether anybody is there or not, and lends them to its members. A
//! message leaves it when a member has acknowledged it. What no member takes becomes a dead letter, in a queue beside it.
//!
//! A queue is a taker's ([`super::Taker`]); its members are sessions that subscribe to its name. One thread serves all
//! queues ([`Broker::serve_queues`]): sessions tell it what has happened through an inbox, and never wait for it.

mod dead;
mod inbox;
mod names;
mod replay;
mod serve;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use crate::dead_letter::DEAD_PREFIX;
use dead::{DeadLetters, OfQueue, dead_client_id};
pub use inbox::QueueInbox;
pub use names::Found;
use names::{Named, Names};
pub use replay::Replay;
use serve::Work;

use super::{Broker, Lane, STREAM_PREFIX, Slot, Streams, Taker, TakerFilter, TakerOptions, millis, queue_limits};
use crate::config;
use crate::queue::members::{Share, Terms};
use crate::queue::{KeyOf, Policy, QueueLimits};
use crate::session::LentNews;
use crate::store::StoredSubscription;
pub(in crate::broker) use inbox::{Bell, Event};

/// How the client identifier of a declared queue begins; clients are refused such a one.
pub const QUEUE_PREFIX: &str = "$queue/";

/// Milliseconds after which a message that no member may read is a dead letter: whoever may read it has come by then.
const NOT_ALLOWED_MS: u64 = 300_000;

/// The declared queues of a broker.
pub struct Queues {
    names: Names,
    inbox: Arc<QueueInbox>,
    work: Mutex<Vec<Work>>,
    /// Known when they are open.
    dead: OnceLock<DeadLetters>,
}

impl Queues {
    pub(super) fn new(config: &config::Config) -> Self {
        let names = Names::new(&config.queues, &config.dead_letters);
        Self { names, inbox: Arc::default(), work: Mutex::new(Vec::new()), dead: OnceLock::new() }
    }

    /// Whether what leaves a queue may have to be kept.
    pub(in crate::broker) fn keeps_dead_letters(&self) -> bool {
        self.dead.get().is_some_and(|dead| !dead.is_empty())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What a filter is to them, or to streams.
    pub(super) fn find(&self, filter: &str, streams: &Streams) -> Found {
        let found = self.names.find(filter);
        if found == Found::Topics { streams.find(filter) } else { found }
    }

    /// Wakes whoever serves them.
    #[must_use]
    pub fn inbox(&self) -> &Arc<QueueInbox> {
        &self.inbox
    }

    /// What a session tells of what it was lent.
    pub(super) fn tell(&self, no: u64, news: LentNews) {
        let room = news.room.then_some(Event::Room(no));
        self.inbox.post(news.settled.into_iter().map(Event::Settled).chain(room));
    }

    /// The client of a member has come or gone.
    pub(super) fn came_or_went(&self, no: u64) {
        self.inbox.post([Event::Presence(no)]);
    }
}

impl Broker {
    /// Opens the queues that the configuration names. To be called once, before anybody can publish: from then on they are
    /// filled. A queue that the configuration names no more is filled no more, and what it has is kept.
    pub fn open_queues(self: &Arc<Self>) {
        let mut work = self.queues.work.lock();
        let mut of_queues = Vec::new();
        for declared in &self.config.queues {
            let lanes = self.open_lanes(declared);
            let dead = work.len() + 1;
            let (work_of_dead, slot) = self.open_dead(&declared.name, &dead_options(declared, &self.config.limits));
            of_queues.extend(lanes.iter().map(|lane| OfQueue {
                client_id: (&**lane.slot().client_id()).into(),
                name: declared.name.as_str().into(),
                dead: slot.clone(),
            }));
            let bytes_max = self.config.limits.memory_bytes;
            work.push(Work::new(lanes, terms(declared), declared, dead, bytes_max));
            work.push(work_of_dead);
        }
        let mut of_sessions = Vec::new();
        for rule in &self.config.dead_letters {
            let (work_of_dead, slot) = self.open_dead(&rule.name, &rule_options(rule, &self.config.limits));
            of_sessions.push((rule.clone(), slot));
            work.push(work_of_dead);
        }
        drop(work);
        let _ = self.queues.dead.set(DeadLetters::new(of_queues, of_sessions));
        self.all_slots().iter().for_each(|slot| self.keep_fallen(slot));
        self.open_streams();
        self.leave_undeclared();
    }

    /// A queue for each level of priority, the highest first. That of the lowest has the name of the declared one, so that a queue
    /// which gets priorities keeps what it has.
    fn open_lanes(self: &Arc<Self>, declared: &config::Queue) -> Vec<Arc<Taker>> {
        let priorities = Arc::new(declared.priorities.clone());
        let keys = [declared.order_by.as_ref(), declared.keep_last_by.as_ref()];
        let names_publisher = keys.into_iter().flatten().any(|key| *key == KeyOf::Client);
        let open = |level: u8| {
            let filter = TakerFilter { filter: declared.filter.clone(), qos: 2, no_local: false };
            let limits = limits(declared, &self.config.limits);
            let options =
                TakerOptions { filters: vec![filter], limits, window: declared.window, committed_only: false };
            let name = &declared.name;
            let client_id =
                if level == 0 { format!("{QUEUE_PREFIX}{name}") } else { format!("{QUEUE_PREFIX}{name}/{level}") };
            let taker = self.open_taker_as(client_id, &options);
            if priorities.levels > 1 {
                taker.slot().take_lane(Lane { priorities: priorities.clone(), level });
            }
            if names_publisher {
                taker.slot().name_publisher();
            }
            taker
        };
        (0..priorities.levels).rev().map(open).collect()
    }

    /// A queue of dead letters, and its session.
    fn open_dead(self: &Arc<Self>, name: &str, options: &TakerOptions) -> (Work, Arc<Slot>) {
        let taker = self.open_taker_as(dead_client_id(name), options);
        let slot = taker.slot().clone();
        (Work::of_dead_letters(vec![taker], dead_terms(), name, options.window, options.limits.memory_bytes), slot)
    }

    /// Nobody serves them any more: what members had and did not acknowledge is in the queues.
    pub fn close_queues(&self) {
        let closed = std::mem::take(&mut *self.queues.work.lock());
        drop(closed);
        self.close_streams();
    }

    /// What a filter is to declared queues and streams.
    #[must_use]
    pub fn find_queue(&self, filter: &str) -> Found {
        self.queues.find(filter, &self.streams)
    }

    fn leave_undeclared(self: &Arc<Self>) {
        for slot in self.all_slots() {
            let (client_id, filters, (messages, bytes)) = slot.look(|session| {
                let filters: Vec<String> = session.subscriptions().iter().map(|s| s.filter.clone()).collect();
                (session.client_id().clone(), filters, session.fill())
            });
            let of_queue = [QUEUE_PREFIX, DEAD_PREFIX].into_iter().find_map(|prefix| client_id.strip_prefix(prefix));
            let of_stream = client_id.strip_prefix(STREAM_PREFIX).filter(|name| !self.streams.declares(name));
            let of_queue = of_queue.filter(|_| !self.queues.names.declares(&client_id));
            let Some(name) = of_queue.or(of_stream) else { continue };
            if messages == 0 {
                self.end_session(&slot);
                continue;
            }
            for filter in filters {
                self.unsubscribe(&slot, &filter);
            }
            tracing::warn!(
                queue = &*client_id,
                messages,
                bytes,
                "the configuration declares no queue or stream \"{name}\": its messages are kept, it takes no more; declare it again \
                 to read them, or drop them with `forebay ctl end '{client_id}'`"
            );
        }
    }

    /// Makes the session a member, if the subscription names queues. After SUBACK, so that nothing comes before it.
    pub fn join_queues(&self, slot: &Arc<Slot>, subscription: &StoredSubscription) {
        if let Found::Queues(queues) | Found::QueuesAndTopics(queues) = self.find_queue(&subscription.filter) {
            slot.set_member();
            self.queues.inbox.post(queues.iter().map(|queue| Event::Joined {
                queue: *queue,
                slot: slot.clone(),
                qos: subscription.qos,
                subscription_id: subscription.subscription_id,
                filter: subscription.filter.as_str().into(),
            }));
        }
    }

    /// The QoS that a subscription is granted: a message that a queue lends is acknowledged once.
    #[must_use]
    pub fn granted(&self, filter: &str, qos: u8) -> u8 {
        if matches!(self.find_queue(filter), Found::Queues(_)) { qos.min(1) } else { qos }
    }

    /// The session is a member no more.
    pub(super) fn leave_queues(&self, slot: &Slot, filter: &str) -> Found {
        let found = self.find_queue(filter);
        if let Found::Queues(queues) | Found::QueuesAndTopics(queues) = &found {
            let no = slot.no().0;
            self.queues.inbox.post(queues.iter().map(|queue| Event::Left { queue: *queue, no }));
        }
        found
    }

    /// Drops what waits in the queue of this client identifier, and no consumer has; returns how many messages that were.
    /// `None`: there is no such queue.
    pub fn purge_queue(&self, client_id: &str) -> Option<u64> {
        let mut all = self.queues.work.lock();
        let at = self.queues.names.of_client(client_id)?;
        Some(all.get_mut(at)?.purge())
    }

    /// What is known of each queue, dead letters included.
    #[must_use]
    pub fn queue_figures(&self) -> Vec<DeclaredQueue> {
        let work = self.queues.work.lock();
        work.iter().zip(self.queues.names.iter()).map(|(work, name)| work.figures(name)).collect()
    }
}

/// How a declared queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredQueue {
    /// Its name.
    pub name: String,
    /// It holds the dead letters of the queue of this name.
    pub dead_letters: bool,
    /// Messages in it, those with members among them.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Members, and those of them that are there.
    pub members: usize,
    /// Members that are there.
    pub online: usize,
    /// Messages that members have.
    pub in_flight: usize,
    /// Messages that are set aside until they are given to a member again.
    pub aside: usize,
    /// Messages that no member who is there may read: they are offered again now and then.
    pub not_allowed: usize,
}

fn limits(declared: &config::Queue, of_broker: &config::Limits) -> QueueLimits {
    let mut limits = queue_limits(&declared.limits, of_broker);
    limits.dead_letters = declared.dead_letters;
    if let Some(by) = &declared.keep_last_by {
        limits.policy = Policy::KeepLast;
        limits.keep_last_by = by.clone();
    }
    limits
}

fn terms(declared: &config::Queue) -> Terms {
    Terms {
        share: declared.share,
        exclusive: declared.exclusive,
        ack_timeout_ms: declared.ack_timeout.map(millis),
        max_deliveries: declared.max_deliveries,
        backoff_ms: (millis(declared.backoff), millis(declared.backoff_max)),
        not_allowed_ms: Some(NOT_ALLOWED_MS),
        levels: declared.priorities.levels,
        lower_each: declared.lower_each,
    }
}

/// Who reads dead letters decides alone what becomes of them.
fn dead_terms() -> Terms {
    let share = Share::RoundRobin;
    Terms {
        share,
        exclusive: false,
        ack_timeout_ms: None,
        max_deliveries: u32::MAX,
        backoff_ms: (1_000, 300_000),
        not_allowed_ms: None,
        levels: 1,
        lower_each: None,
    }
}

/// The newest dead letters are kept: the oldest make room.
fn dead_options(declared: &config::Queue, of_broker: &config::Limits) -> TakerOptions {
    let queue = config::QueueLimits {
        max_messages: declared.max_dead_letters,
        max_age: None,
        policy: config::QueuePolicy::DropOldest,
        ..declared.limits.clone()
    };
    TakerOptions {
        filters: Vec::new(),
        limits: queue_limits(&queue, of_broker),
        window: declared.window,
        committed_only: false,
    }
}

fn rule_options(rule: &config::DeadLetterRule, of_broker: &config::Limits) -> TakerOptions {
    let queue = config::QueueLimits {
        max_messages: rule.max_messages,
        max_bytes: rule.max_bytes,
        max_age: rule.max_age,
        policy: config::QueuePolicy::DropOldest,
        stall_limit: None,
        queue_qos0: true,
        ..config::QueueLimits::default()
    };
    let window = config::Queue::DEAD_WINDOW;
    TakerOptions { filters: Vec::new(), limits: queue_limits(&queue, of_broker), window, committed_only: false }
}
