//! `$SYS`: what the broker says of itself to whoever subscribes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Broker;
use crate::message::{Message, Parts};
use crate::session::Durability;

/// A commit that takes longer than this is pressure.
const SLOW_COMMIT: Duration = Duration::from_millis(250);
/// And longer than this is critical.
const VERY_SLOW_COMMIT: Duration = Duration::from_secs(1);

/// How pressed the broker is; published, retained, on `$SYS/broker/pressure` when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// All is well.
    Normal,
    /// A queue is more than three quarters full, or commits are slow.
    High,
    /// A queue refuses, or the store cannot be written.
    Critical,
}

impl Pressure {
    /// As it is published.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What was published last.
pub(crate) struct Sys {
    next: Instant,
    next_pressure: Instant,
    pressure: Option<Pressure>,
}

impl Sys {
    pub(crate) fn new(broker: &Broker) -> Self {
        let sys = Self { next: Instant::now(), next_pressure: Instant::now(), pressure: None };
        sys.say(broker, "version", concat!("forebay ", env!("CARGO_PKG_VERSION")));
        sys
    }

    pub(crate) fn tick(&mut self, broker: &Arc<Broker>) {
        let now = Instant::now();
        if now >= self.next_pressure {
            self.next_pressure = now + Duration::from_secs(1);
            let pressure = broker.pressure();
            if self.pressure != Some(pressure) {
                self.pressure = Some(pressure);
                self.say(broker, "pressure", pressure.name());
            }
        }
        if broker.config.sys_interval.is_zero() || now < self.next {
            return;
        }
        self.next = now + broker.config.sys_interval;
        for (topic, value) in figures(broker) {
            self.say(broker, &topic, &value.to_string());
        }
    }

    fn say(&self, broker: &Broker, topic: &str, value: &str) {
        let topic = format!("$SYS/broker/{topic}");
        let message = Message::new(
            &Parts {
                topic: &topic,
                properties: &[],
                payload: value.as_bytes(),
                qos: 0,
                retain: true,
                expires_at: None,
                accepted_at: broker.clock.now(),
            },
            None,
        );
        broker.publish(&Arc::new(message), true, Durability::Memory, None);
    }
}

fn figures(broker: &Broker) -> Vec<(String, u64)> {
    let mut out = Vec::with_capacity(64);
    let mut add = |name: &str, value: u64| out.push((name.to_owned(), value));
    let (ledger, queued) = broker.ledger();
    add("uptime", broker.clock.uptime_ms() / 1000);
    add("clients/connected", broker.connections.load(Ordering::Relaxed) as u64);
    add("clients/total", broker.session_count() as u64);
    add("subscriptions/count", broker.router.stats().subscriptions as u64);
    let (retained, retained_bytes) = broker.retained.count();
    add("retained messages/count", retained as u64);
    add("retained messages/bytes", retained_bytes as u64);
    add("ledger/accepted", ledger.accepted);
    add("ledger/delivered", ledger.delivered);
    add("ledger/queued", queued);
    add("ledger/expired", ledger.expired);
    for (reason, count) in crate::store::DropReason::ALL.iter().zip(ledger.dropped) {
        add(&format!("ledger/dropped/{}", reason.name()), count);
    }
    let writer = &broker.writer.counters;
    add("store/commits", writer.commits.load(Ordering::Relaxed));
    add("store/failures", writer.failures.load(Ordering::Relaxed));
    add("store/message bytes", writer.message_bytes.load(Ordering::Relaxed));
    add("store/last commit us", writer.last_commit_us.load(Ordering::Relaxed));
    for (name, value) in broker.counters.each() {
        add(&format!("counters/{name}"), value);
    }
    out
}

impl Broker {
    /// How pressed the broker is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let commit = Duration::from_micros(self.writer.counters.last_commit_us.load(Ordering::Relaxed));
        let mut worst = if self.store_failing() || commit >= VERY_SLOW_COMMIT {
            Pressure::Critical
        } else if commit >= SLOW_COMMIT {
            Pressure::High
        } else {
            Pressure::Normal
        };
        let settings = &self.settings;
        for slot in self.all_slots() {
            if worst == Pressure::Critical {
                break;
            }
            let (messages, bytes) = slot.look(|session| session.fill());
            let over = |part: u64, whole: u64| part >= whole - whole / 4;
            if slot.full() {
                worst = Pressure::Critical;
            } else if over(messages, settings.max_messages) || over(bytes, settings.max_bytes) {
                worst = worst.max(Pressure::High);
            }
        }
        worst
    }
}
