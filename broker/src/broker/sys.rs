//! `$SYS`: what the broker says of itself to whoever subscribes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Broker;
use crate::memory::Level;
use crate::message::{Message, Parts};
use crate::observe::{Snapshot, figures};
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
    /// A queue is more than three quarters full, commits are slow, memory becomes short, or a message that was to be retained or
    /// delayed, or a schedule, found no room.
    High,
    /// A queue refuses, the store cannot be written, or no memory is left.
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
    store: String,
    stalled: String,
}

impl Sys {
    pub(crate) fn new(broker: &Broker) -> Self {
        let sys = Self {
            next: Instant::now(),
            next_pressure: Instant::now(),
            pressure: None,
            store: String::new(),
            stalled: String::new(),
        };
        broker.say("version", concat!("forebay ", env!("CARGO_PKG_VERSION")));
        sys
    }

    pub(crate) fn tick(&mut self, broker: &Arc<Broker>) {
        let now = Instant::now();
        if now >= self.next_pressure {
            self.next_pressure = now + Duration::from_secs(1);
            let pressure = broker.pressure();
            if self.pressure != Some(pressure) {
                match (self.pressure, pressure) {
                    (None, Pressure::Normal) => {}
                    (_, Pressure::Normal) => tracing::warn!("the pressure is normal again"),
                    (_, Pressure::High | Pressure::Critical) => tracing::warn!("the pressure is {}", pressure.name()),
                }
                self.pressure = Some(pressure);
                broker.say("pressure", pressure.name());
            }
            let store = broker.store_state();
            if self.store != store {
                broker.say("store/state", &store);
                self.store = store;
            }
            let stalled = stalled(broker);
            if self.stalled != stalled {
                // An empty one takes the retained message away.
                broker.say("stalled", &stalled);
                self.stalled = stalled;
            }
        }
        if broker.live().sys_interval.is_zero() || now < self.next {
            return;
        }
        self.next = now + broker.live().sys_interval;
        for figure in figures(&Snapshot::take(broker)) {
            for sample in &figure.samples {
                for topic in &sample.topics {
                    broker.say(topic, &sample.value.to_string());
                }
            }
        }
    }
}

/// The clients whose queues drop their oldest messages, one a line.
fn stalled(broker: &Broker) -> String {
    let name = |slot: &Arc<super::Slot>| slot.look(|s| s.sheds().then(|| s.client_id().to_string()));
    let mut names: Vec<String> = broker.all_slots().iter().filter_map(name).collect();
    names.sort();
    names.join("\n")
}

impl Broker {
    /// Publishes what the broker says of itself on `$SYS/broker/TOPIC`, retained; an empty value takes it away.
    pub(crate) fn say(&self, topic: &str, value: &str) {
        self.say_as(topic, value, true);
    }

    /// The same, for whoever is subscribed now.
    pub(crate) fn say_now(&self, topic: &str, value: &str) {
        self.say_as(topic, value, false);
    }

    fn say_as(&self, topic: &str, value: &str, retain: bool) {
        let parts = Parts {
            topic: &format!("$SYS/broker/{topic}"),
            properties: &[],
            payload: value.as_bytes(),
            qos: 0,
            retain,
            expires_at: None,
            accepted_at: self.clock.now(),
        };
        self.publish(&Arc::new(Message::new(&parts, None)), retain, Durability::Memory, None);
    }

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
        if self.is_short_of_room() {
            worst = worst.max(Pressure::High);
        }
        worst = worst.max(match self.memory_level() {
            Level::Roomy => Pressure::Normal,
            Level::High => Pressure::High,
            Level::Full => Pressure::Critical,
        });
        let cx = self.cx_settings();
        for slot in self.all_slots() {
            if worst == Pressure::Critical {
                break;
            }
            if slot.full() {
                worst = Pressure::Critical;
            } else if slot.look(|session| session.nearly_full(cx)) {
                worst = worst.max(Pressure::High);
            }
        }
        worst
    }
}
