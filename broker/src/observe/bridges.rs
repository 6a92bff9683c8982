//! What bridges do, as it is seen from outside.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::figures::{Kind, List, Sample, Unit};
use super::schema::answer;
use crate::bridge::control::Control;
use crate::bridge::outward::{Figures, State};
use crate::bridge::pace::Pacing;
use crate::bridge::upstream::InFigures;
use crate::broker::Taker;

answer! {
    /// One bridge.
    BridgePart {
        /// Its name.
        name: String,
        /// `connecting`, `connected`, `paused`, `backing off: ` or `blocked: ` and why.
        state: String,
        /// It answers, and acknowledges what it is sent.
        connected: bool,
        /// Messages in its queue, those in flight among them.
        queued: u64,
        /// Their bytes: topics, properties, payloads.
        queued_bytes: u64,
        /// How long the oldest message has waited, in milliseconds, as far as it is known.
        oldest_ms: u64,
        /// Messages that are sent and not confirmed.
        in_flight: u64,
        /// Connections that were made since the start.
        connects: u64,
        /// Messages given to the upstream since the start, repetitions among them.
        sent: u64,
        /// Messages given to it that may have been sent before, since the start.
        repeated: u64,
        /// Messages that the upstream confirmed since the start.
        delivered: u64,
        /// Messages that went to the dead letters since the start.
        dead_letters: u64,
        /// Messages whose time was over before they were sent, since the start.
        expired: u64,
        /// Messages that its queue has dropped since it was made.
        dropped: u64,
        /// Messages that had been here before, or had come through too many gateways, since the start.
        looped: u64,
        /// Messages that came down and were published here, since the start.
        received: u64,
        /// Messages that came down and could not be published here, since the start.
        unfit: u64,
        /// Bytes that it may send in a day; 0 without a budget.
        budget_bytes: u64,
        /// Bytes of them that are used.
        budget_used_bytes: u64,
        /// The bytes of the day are used up: when more may go.
        until: Option<String>,
        /// Messages an hour by which its backlog is gone in time; 0 without a plan.
        planned_per_hour: u64,
        /// When the backlog is to be gone, in milliseconds since 1970; 0 without a plan.
        planned_until_ms: u64,
    }
}

/// A bridge that runs. It says here what it does; whoever looks asks its queue as well.
pub struct OpenBridge {
    name: Arc<str>,
    figures: Arc<InFigures>,
    said: Mutex<Said>,
    control: Control,
    dead: Weak<Taker>,
}

/// What a bridge says of itself.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it is.
    pub state: State,
    /// What went up.
    pub out: Figures,
    /// Messages that are sent and not confirmed.
    pub in_flight: usize,
    /// What its plan and its budget say.
    pub pacing: Pacing,
}

impl OpenBridge {
    /// One that has not connected yet.
    #[must_use]
    pub fn new(name: Arc<str>, figures: Arc<InFigures>, control: Control, dead: &Arc<Taker>) -> Self {
        let said = Said { state: State::Connecting, out: Figures::default(), in_flight: 0, pacing: Pacing::default() };
        Self { name, figures, said: Mutex::new(said), control, dead: Arc::downgrade(dead) }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.said.lock().state.clone()
    }

    /// By which it is paused.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its dead letters; `None`: it has ended.
    #[must_use]
    pub fn dead(&self) -> Option<Arc<Taker>> {
        self.dead.upgrade()
    }

    /// Its newest figures.
    pub fn say(&self, said: Said) {
        *self.said.lock() = said;
    }

    /// As it is now; `queue` is its queue.
    #[must_use]
    pub fn part(&self, queue: &Taker) -> BridgePart {
        let queue = queue.figures();
        let Said { state, out, in_flight, pacing } = self.said.lock().clone();
        let InFigures { received, looped, unfit } = &*self.figures;
        BridgePart {
            name: self.name.to_string(),
            connected: state == State::Connected,
            state: state.text(),
            queued: queue.messages,
            queued_bytes: queue.bytes,
            oldest_ms: queue.oldest_ms.unwrap_or(0),
            in_flight: in_flight as u64,
            connects: out.connects,
            sent: out.sent,
            repeated: out.repeated,
            delivered: out.delivered,
            dead_letters: out.dead,
            expired: out.expired,
            dropped: queue.ledger.dropped.iter().sum(),
            looped: out.looped + looped.load(Ordering::Relaxed),
            received: received.load(Ordering::Relaxed),
            unfit: unfit.load(Ordering::Relaxed),
            budget_bytes: pacing.budget.map_or(0, |(per_day, _)| per_day),
            budget_used_bytes: pacing.budget.map_or(0, |(_, used)| used),
            until: pacing.until,
            planned_per_hour: pacing.plan.map_or(0, |(per_hour, _)| per_hour),
            planned_until_ms: pacing.plan.map_or(0, |(_, deadline_ms)| deadline_ms),
        }
    }
}

impl fmt::Debug for OpenBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenBridge").field(&self.name).finish()
    }
}

/// A figure of all bridges: its kind and unit, the metric's name and help, its topic's last level, and its value.
type Of = (Kind, Unit, &'static str, &'static str, &'static str, fn(&BridgePart) -> u64);

const FIGURES: &[Of] = {
    use Kind::{Counter, Gauge};
    use Unit::{Milliseconds, One};
    &[
        (Gauge, One, "connected", "1 while the upstream answers and acknowledges.", "connected", |b| {
            b.connected as u64
        }),
        (Gauge, One, "queued_messages", "Messages in a bridge's queue.", "queued", |b| b.queued),
        (Gauge, One, "queued_bytes", "Bytes of messages in a bridge's queue.", "queued bytes", |b| b.queued_bytes),
        (Gauge, Milliseconds, "oldest_message_age_seconds", OLDEST, "oldest ms", |b| b.oldest_ms),
        (Gauge, One, "in_flight_messages", "Messages sent upstream and not confirmed.", "in flight", |b| b.in_flight),
        (Counter, One, "connects_total", "Connections to an upstream that were made.", "connects", |b| b.connects),
        (Counter, One, "sent_total", "Messages sent upstream, repetitions among them.", "sent", |b| b.sent),
        (Counter, One, "repeated_total", "Messages that may have been sent before.", "repeated", |b| b.repeated),
        (Counter, One, "delivered_total", "Messages that an upstream confirmed.", "delivered", |b| b.delivered),
        (Counter, One, "dead_letters_total", "Messages that an upstream will never take.", "dead letters", |b| {
            b.dead_letters
        }),
        (Counter, One, "expired_total", "Messages that expired before they were sent.", "expired", |b| b.expired),
        (Counter, One, "dropped_total", "Messages dropped from a bridge's queue, since it was made.", "dropped", |b| {
            b.dropped
        }),
        (Counter, One, "looped_total", "Messages that had been here before.", "looped", |b| b.looped),
        (Counter, One, "received_total", "Messages that came down a bridge.", "received", |b| b.received),
        (Counter, One, "unfit_total", "Messages that came down and could not be published here.", "unfit", |b| b.unfit),
        (
            Gauge,
            One,
            "budget_bytes",
            "Bytes that a bridge may send in a day; 0 without a budget.",
            "budget bytes",
            |b| b.budget_bytes,
        ),
        (Gauge, One, "budget_used_bytes", "Bytes of the day's budget that are used.", "budget used bytes", |b| {
            b.budget_used_bytes
        }),
        (Gauge, One, "planned_messages_per_hour", PLANNED, "planned per hour", |b| b.planned_per_hour),
    ]
};

const PLANNED: &str = "Messages an hour by which the backlog of a bridge is gone in time; 0 without a plan.";
const OLDEST: &str = "How long the oldest message of a bridge has waited, as far as it is known.";

pub(super) fn of_bridges(list: &mut List, bridges: &[BridgePart]) {
    for (kind, unit, metric, help, topic, value) in FIGURES {
        let one = |part: &BridgePart| Sample {
            label: Some(("bridge", part.name.clone())),
            value: value(part),
            topics: vec![format!("bridge/{}/{topic}", part.name)],
        };
        list.add(*kind, *unit, &format!("bridge_{metric}"), help, bridges.iter().map(one).collect());
    }
}

/// One bridge, for tests.
#[cfg(test)]
pub(super) fn example() -> BridgePart {
    BridgePart {
        name: "central".to_owned(),
        state: "connected".to_owned(),
        connected: true,
        queued: 4,
        queued_bytes: 400,
        oldest_ms: 1_500,
        in_flight: 2,
        connects: 1,
        sent: 12,
        repeated: 3,
        delivered: 8,
        dead_letters: 1,
        expired: 0,
        dropped: 0,
        looped: 0,
        received: 5,
        unfit: 0,
        budget_bytes: 200_000_000,
        budget_used_bytes: 7_000,
        until: None,
        planned_per_hour: 3_600,
        planned_until_ms: 1_800_000_000_000,
    }
}
