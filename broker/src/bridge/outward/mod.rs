//! One bridge's way up, without sockets and without a clock: takes from the queue, gives to the upstream, and removes from the
//! queue what the upstream confirmed. [`Outward::turn`] is called when something woke it, or when it is time.
//!
//! ```text
//!            it is time             Connected
//!   Down ───────────────▶ Connecting ────────▶ Up ◀──── Connected ──── Offline
//!    ▲                        │  │              │ │                      ▲ │
//!    └── Lost, or no answer ──┘  └── Offline ───┼─┴────── Offline ───────┘ │
//!    └──────────────────────── Lost ────────────┴──────────────────────────┘
//! ```
//!
//! `Lost`: all that is not settled is taken from the queue again, in order, and marked as repeated. `Offline`: the upstream's
//! module keeps what it has and connects again by itself. `Retry`: nothing more is sent until all that is in flight is settled;
//! what was not taken is then taken from the queue again, in order, after a wait.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use forebay_wire::topic;

use super::backoff::Backoff;
use super::pace::{Pace, Pacing};
use super::source::{Source, Taken};
use super::suspect::{Loss, Suspect};
use super::template::{Fill, Missing, Rule, Template};
use super::timeline::Timeline;
use super::upstream::marks::Marks;
use super::upstream::{Event, LeftBehind, Outcome, Outgoing, Upstream};
use super::wrap::{EVENT_TYPE, Wrap};
use crate::dead_letter::DEAD_PREFIX;
use crate::message::{Message, Parts, Time};
use crate::properties::user_property;
use crate::queue::Why;
use crate::store::DropReason;

/// The user property that lists the gateways a message came through.
pub const VIA: &str = "via";
/// Gateways that a message may have come through.
pub const HOPS_MAX: usize = 8;
/// How long an upstream may take to answer before its connection is given up.
const CONNECT_MS: u64 = 60_000;
/// After an upstream had no room.
const ROOM_MS: u64 = 20;
/// What is taken at once.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// What a bridge obeys.
pub struct Terms {
    /// The bridge's name.
    pub name: Arc<str>,
    /// This gateway, in [`VIA`].
    pub gateway: Arc<str>,
    /// The first that matches holds.
    pub rules: Vec<Rule>,
    /// Messages that are sent and not settled.
    pub window: usize,
    /// Without a confirmation for this long the state is `blocked`.
    pub stalled_ms: u64,
    /// How quickly it sends.
    pub pace: Pace,
    /// What the waits are drawn from.
    pub seed: u64,
    /// What messages say of where they come from.
    pub marks: Marks,
    /// When they were published, where somebody wants to know.
    pub times: Option<Timeline>,
}

/// Keeps what the upstream will never take.
pub trait DeadLetters: Send {
    /// `message` leaves the queue for this reason; `detail` says it in the upstream's words. `leave` takes it out, in the commit in
    /// which the letter enters its own queue: a kill between would have both, or neither.
    fn put(&mut self, message: &Message, reason: Why, detail: &str, leave: &mut dyn FnMut());
}

/// How the way up is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The first attempt is under way.
    Connecting,
    /// It answers, and confirms what it is sent.
    Connected,
    /// It cannot be reached, for this reason.
    BackingOff(String),
    /// It answers, and does not take what it is sent, for this reason.
    Blocked(String),
    /// It is sent nothing, because an operator says so.
    Paused,
}

impl State {
    /// As it is published.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Connecting => "connecting".to_owned(),
            Self::Connected => "connected".to_owned(),
            Self::BackingOff(reason) => format!("backing off: {reason}"),
            Self::Blocked(reason) => format!("blocked: {reason}"),
            Self::Paused => "paused".to_owned(),
        }
    }
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections that were made.
    pub connects: u64,
    /// Messages given to the upstream, repetitions among them.
    pub sent: u64,
    /// Of those, messages that may have been sent before.
    pub repeated: u64,
    /// Messages that the upstream confirmed.
    pub delivered: u64,
    /// Messages that will never be taken: they went to the dead letters, unless they were dead letters already.
    pub dead: u64,
    /// Messages whose time was over before they were sent.
    pub expired: u64,
    /// Messages that had come through too many gateways, or through this one before.
    pub looped: u64,
    /// Messages that the upstream's module had on disk already at a start.
    pub found_stored: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down { until_ms: u64 },
    Connecting { since_ms: u64 },
    Offline,
    Up,
}

/// Taken, and not given to the upstream yet.
struct Held {
    out: Outgoing,
    /// As it is in the queue.
    message: Arc<Message>,
}

struct Flight {
    /// As it was in the queue.
    message: Arc<Message>,
    /// It has left the queue.
    stored: bool,
    /// The upstream did not take it now.
    again: bool,
}

/// Nothing is sent before then, and while something is in flight.
struct Wait {
    until_ms: u64,
    reason: String,
    /// The first message that was not taken.
    place: u64,
}

/// One bridge's way up.
pub struct Outward<S, U, D> {
    terms: Terms,
    source: S,
    upstream: U,
    dead: D,
    link: Link,
    backoff: Backoff,
    attempt: u32,
    stored_up_to: Option<u64>,
    flights: BTreeMap<u64, Flight>,
    held: VecDeque<Held>,
    /// When those that are held were taken.
    taken_at: Time,
    /// Nothing was taken since the connection was made: until then the queue keeps no QoS 0 messages, as for a client that is
    /// away.
    unattended: bool,
    /// When something was confirmed last, or the first of those in flight was sent.
    moved_ms: u64,
    /// Why there is no connection.
    reason: Option<String>,
    /// Why the last message that was settled was refused.
    refusal: Option<String>,
    /// Since a message was not taken.
    wait: Option<Wait>,
    /// The last wait is over: whether the message is taken now is known when it is settled.
    tried: Option<Wait>,
    /// How long such waits are.
    patience: Backoff,
    /// Why the upstream wants nothing at present.
    blocked: Option<String>,
    /// Whether something was settled on this connection.
    answered: bool,
    /// How this connection is being lost.
    loss: Loss,
    /// A message may be why connections are lost.
    suspect: Suspect,
    /// An operator wants nothing to be sent.
    paused: bool,
    /// The day's bytes are not enough for the next message.
    is_spent: bool,
    figures: Figures,
}

impl<S: Source, U: Upstream, D: DeadLetters> Outward<S, U, D> {
    /// It connects in its first turn.
    pub fn new(terms: Terms, source: S, upstream: U, dead: D) -> Self {
        let backoff = Backoff::new(terms.seed);
        let patience = Backoff::new(terms.seed.rotate_left(32));
        Self {
            terms,
            source,
            upstream,
            dead,
            link: Link::Down { until_ms: 0 },
            backoff,
            attempt: 0,
            stored_up_to: None,
            flights: BTreeMap::new(),
            held: VecDeque::new(),
            taken_at: Time(0),
            unattended: true,
            moved_ms: 0,
            reason: None,
            refusal: None,
            wait: None,
            tried: None,
            patience,
            blocked: None,
            answered: false,
            loss: Loss::Other,
            suspect: Suspect::default(),
            paused: false,
            is_spent: false,
            figures: Figures::default(),
        }
    }

    /// Sends nothing more while it is paused: what is in flight is settled, the rest waits in the queue. The connection stays.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Looks at the clocks: for the plan of a backlog, for the day's bytes, and if somebody wants to know when messages were published.
    /// `wall_ms`: `None` where it cannot be right. To be called before each turn.
    ///
    /// # Errors
    /// What is to be remembered of them cannot be written.
    pub fn look_at_clocks(&mut self, now_ms: u64, now: Time, wall_ms: Option<u64>) -> io::Result<()> {
        self.terms.pace.look(now_ms, now, wall_ms, || self.source.backlog());
        self.terms.times.as_mut().map_or(Ok(()), |times| times.look(now, wall_ms))
    }

    /// Does what can be done; returns when to call it again, whatever happens. `now` is the broker's clock, for expiry.
    pub fn turn(&mut self, now_ms: u64, now: Time, cx: &mut Context<'_>) -> Option<u64> {
        loop {
            while let Poll::Ready(event) = self.upstream.poll_event(cx) {
                self.happened(event, now_ms, now);
            }
            match self.link {
                Link::Down { until_ms } if until_ms <= now_ms => {
                    self.link = Link::Connecting { since_ms: now_ms };
                    self.upstream.connect(self.attempt);
                    self.attempt = self.attempt.wrapping_add(1);
                }
                Link::Connecting { since_ms } if now_ms.saturating_sub(since_ms) >= CONNECT_MS => {
                    self.lost(format!("no answer in {} s", CONNECT_MS / 1_000), now_ms);
                }
                Link::Up => match self.send(now_ms, now, cx) {
                    // What was sent is to be asked after.
                    Sent::Some => {}
                    Sent::Nothing(again) => return again.into_iter().chain(self.stalls_at(now_ms)).min(),
                },
                Link::Down { until_ms } => return Some(until_ms),
                Link::Connecting { since_ms } => return Some(since_ms + CONNECT_MS),
                Link::Offline => return None,
            }
        }
    }

    /// How it is.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> State {
        let no_reason = || "not connected".to_owned();
        match self.link {
            _ if self.paused => State::Paused,
            Link::Connecting { .. } | Link::Down { .. } if self.reason.is_none() => State::Connecting,
            Link::Connecting { .. } | Link::Down { .. } | Link::Offline => {
                State::BackingOff(self.reason.clone().unwrap_or_else(no_reason))
            }
            Link::Up
                if self.blocked.is_none()
                    && !self.flights.is_empty()
                    && self.silent_ms(now_ms) >= self.terms.stalled_ms =>
            {
                State::Blocked(format!(
                    "nothing was confirmed for {} s, {} in flight",
                    self.terms.stalled_ms / 1_000,
                    self.flights.len()
                ))
            }
            Link::Up => match (&self.blocked, self.waits(), &self.refusal) {
                (Some(reason), ..) => State::Blocked(reason.clone()),
                (None, Some(wait), _) => State::Blocked(format!("not taken for now: {}", wait.reason)),
                _ if self.is_spent => {
                    let until = self.terms.pace.pacing(true).until.unwrap_or_default();
                    State::Blocked(format!("the bytes of the day are used up, until {until}"))
                }
                (None, None, Some(reason)) => State::Blocked(format!("the last message was refused: {reason}")),
                (None, None, None) => State::Connected,
            },
        }
    }

    /// What is waited for: until it is time to send again, and until that has been answered.
    fn waits(&self) -> Option<&Wait> {
        let is_under_way = |wait: &&Wait| {
            let is_held = self.held.front().is_some_and(|held| held.out.place == wait.place);
            is_held || self.flights.contains_key(&wait.place)
        };
        self.wait.as_ref().or_else(|| self.tried.as_ref().filter(is_under_way))
    }

    /// What has happened.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// What its plan and its budget say.
    #[must_use]
    pub fn pacing(&self) -> Pacing {
        self.terms.pace.pacing(self.is_spent && self.link == Link::Up)
    }

    /// Messages that are sent and not settled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The queue.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The upstream.
    pub fn upstream(&mut self) -> &mut U {
        &mut self.upstream
    }

    fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.moved_ms)
    }

    /// When a window that does not move becomes an alarm.
    fn stalls_at(&self, now_ms: u64) -> Option<u64> {
        let at = self.moved_ms.saturating_add(self.terms.stalled_ms);
        (!self.flights.is_empty() && at > now_ms).then_some(at)
    }

    fn happened(&mut self, event: Event, now_ms: u64, now: Time) {
        match event {
            Event::Connected => {
                // Always: the first connection may come long after the module began.
                self.stored_up_to = self.upstream.stored_up_to();
                (self.link, self.reason) = (Link::Up, None);
                (self.loss, self.answered) = (Loss::Other, false);
                self.moved_ms = now_ms;
                self.figures.connects += 1;
                self.backoff.connected(now_ms);
            }
            Event::Offline(reason) => {
                self.reason = Some(reason);
                self.link = Link::Offline;
            }
            Event::Ended => self.loss = Loss::Ended,
            Event::Lost(reason) => self.lost(reason, now_ms),
            Event::Blocked(reason) => self.blocked = reason,
            Event::Settled(place, outcome) => self.settled(place, outcome, now_ms),
            Event::Dead(left) => self.dead(*left, now),
        }
    }

    fn lost(&mut self, reason: String, now_ms: u64) {
        self.upstream.close();
        self.suspect(&reason, now_ms);
        self.take_again();
        (self.wait, self.tried, self.blocked) = (None, None, None);
        self.reason = Some(reason);
        self.link = Link::Down { until_ms: now_ms + self.backoff.wait_ms(now_ms) };
    }

    /// Nothing was settled on a connection that is lost: what was first may be why, and is given up some time.
    fn suspect(&mut self, reason: &str, now_ms: u64) {
        let places = (self.flights.first_key_value(), self.flights.last_key_value());
        let (Some((&first, flight)), Some((&last, _))) = places else { return };
        if self.answered || flight.stored {
            return;
        }
        let Some(times) = self.suspect.fruitless((first, last), self.loss, now_ms) else { return };
        let Some(flight) = self.flights.remove(&first) else { return };
        let why = format!("the server has ended {times} connections in a row when this message came: {reason}");
        self.discard(&flight.message, DropReason::Refused, &why, Some(first));
        // Those behind it have waited long enough.
        self.backoff.taken();
    }

    /// Whether the next message has to wait until nothing is in flight.
    fn waits_to_be_alone(&self) -> bool {
        // Most often this is all that is asked.
        let is_careful = self.flights.first_key_value().is_some_and(|(first, _)| self.suspect.is_careful(*first));
        is_careful && self.flights.values().any(|flight| !flight.stored)
    }

    /// All that is not settled goes back to the queue.
    fn take_again(&mut self) {
        self.flights.clear();
        self.held.clear();
        if !std::mem::replace(&mut self.unattended, true) {
            self.source.give_back();
        }
    }

    /// A message was not taken now.
    fn retry(&mut self, place: u64, reason: String, now_ms: u64) {
        let Some(flight) = self.flights.get_mut(&place).filter(|flight| !flight.stored) else { return };
        flight.again = true;
        self.moved_ms = now_ms;
        match &mut self.wait {
            Some(wait) if wait.place < place => {}
            Some(wait) => (wait.place, wait.reason) = (place, reason),
            None => self.wait = Some(Wait { until_ms: now_ms + self.patience.wait_ms(now_ms), reason, place }),
        }
    }

    /// `Some`: nothing may be sent, and when to ask again if that is known.
    fn must_wait(&mut self, now_ms: u64) -> Option<Sent> {
        if self.paused && self.flights.is_empty() {
            // Nobody takes from the queue: it waits on disk.
            self.take_again();
        }
        if self.paused || self.blocked.is_some() {
            return Some(Sent::Nothing(None));
        }
        let wait = self.wait.as_ref()?;
        if self.flights.values().any(|flight| !flight.again) {
            return Some(Sent::Nothing(None));
        }
        let until_ms = wait.until_ms;
        if !self.flights.is_empty() {
            self.take_again();
        }
        if until_ms > now_ms {
            return Some(Sent::Nothing(Some(until_ms)));
        }
        self.tried = self.wait.take();
        None
    }

    /// What is not in flight (any more) was settled before, or its connection was lost and it is taken again.
    fn settled(&mut self, place: u64, outcome: Outcome, now_ms: u64) {
        if self.flights.contains_key(&place) {
            self.answered = true;
            self.suspect.answered();
        }
        if let Outcome::Retry(reason) = outcome {
            return self.retry(place, reason, now_ms);
        }
        let Some(flight) = self.flights.get_mut(&place) else { return };
        let was_stored = std::mem::replace(&mut flight.stored, true);
        if outcome == Outcome::Stored {
            if !was_stored {
                self.source.confirm(place);
            }
            return;
        }
        let Some(flight) = self.flights.remove(&place) else { return };
        self.moved_ms = now_ms;
        self.refusal = None;
        let in_queue = !was_stored;
        match outcome {
            Outcome::Stored | Outcome::Retry(_) => {}
            Outcome::Delivered => {
                self.figures.delivered += 1;
                if self.wait.is_none() {
                    self.patience.taken();
                }
                if in_queue {
                    self.source.confirm(place);
                }
            }
            Outcome::Expired => {
                self.figures.expired += 1;
                if in_queue {
                    self.source.expire(place);
                }
            }
            Outcome::Refused(reason, why) => {
                self.discard(&flight.message, why, &reason, in_queue.then_some(place));
                self.refusal = Some(reason);
            }
        }
    }

    /// It left the queue before a restart, and is in no flight.
    fn dead(&mut self, left: LeftBehind, now: Time) {
        let LeftBehind { topic, properties, payload, qos, reason, why } = left;
        let parts = Parts {
            topic: &topic,
            properties: &properties,
            payload: &payload,
            qos,
            retain: false,
            expires_at: None,
            accepted_at: now,
        };
        self.discard(&Message::new(&parts, None), why, &reason, None);
        self.refusal = Some(reason);
    }

    /// `place`: where it is in the queue, if it is there.
    fn discard(&mut self, message: &Message, why: DropReason, detail: &str, place: Option<u64>) {
        self.figures.dead += 1;
        let source = &mut self.source;
        let mut leave = || place.into_iter().for_each(|place| source.refuse(place, why));
        // What is dead already dies once: its letter might come here again, and without end.
        if message.topic().starts_with(DEAD_PREFIX) {
            let (bridge, topic) = (&*self.terms.name, message.topic());
            tracing::warn!(bridge, topic, "a dead letter will not be taken, and is not kept again: {detail}");
            return leave();
        }
        let reason = if why == DropReason::TooLarge { Why::TooLarge } else { Why::Refused };
        self.dead.put(message, reason, detail, &mut leave);
    }

    fn send(&mut self, now_ms: u64, now: Time, cx: &mut Context<'_>) -> Sent {
        self.is_spent = false;
        if let Some(waits) = self.must_wait(now_ms) {
            return waits;
        }
        let mut sent = false;
        let again = loop {
            if self.held.is_empty() && !self.take(now, cx) {
                break None;
            }
            if self.waits_to_be_alone() {
                break None;
            }
            let Some(next) = self.held.front() else { continue };
            let size = next.out.message.size() as u64;
            self.is_spent = !self.terms.pace.affords(size);
            let wait_ms = self.terms.pace.wait_ms(size, now_ms);
            if wait_ms > 0 {
                break Some(now_ms + wait_ms);
            }
            let Some(Held { mut out, message }) = self.held.pop_front() else { continue };
            if self.is_too_old(&message, now) {
                self.figures.expired += 1;
                self.source.expire(out.place);
                continue;
            }
            out.expiry_s = message.remaining_s(now);
            let (place, repeated) = (out.place, out.repeated);
            self.terms.pace.reserve(size);
            if let Err(back) = self.upstream.send(out) {
                self.held.push_front(Held { out: *back, message });
                break Some(now_ms + ROOM_MS);
            }
            if self.flights.is_empty() {
                self.moved_ms = now_ms;
            }
            self.terms.pace.sent(size);
            self.figures.sent += 1;
            self.figures.repeated += u64::from(repeated);
            self.flights.insert(place, Flight { message, stored: false, again: false });
            sent = true;
        };
        if sent { Sent::Some } else { Sent::Nothing(again) }
    }

    /// The queue gives nothing that is too old: who waited since is asked again.
    fn is_too_old(&self, message: &Message, now: Time) -> bool {
        now != self.taken_at && self.source.is_too_old(message, now)
    }

    /// False: there is nothing to take, or no room in the window.
    fn take(&mut self, now: Time, cx: &mut Context<'_>) -> bool {
        let room = self.terms.window.saturating_sub(self.flights.len()).min(BATCH);
        if room == 0 || self.source.poll_ready(cx).is_pending() && !self.unattended {
            return false;
        }
        self.unattended = false;
        self.taken_at = now;
        let taken = self.source.take(room, BATCH_BYTES);
        let some = !taken.is_empty();
        for taken in taken {
            self.prepare(taken);
        }
        some
    }

    fn prepare(&mut self, taken: Taken) {
        let Taken { place, repeated, entry } = taken;
        let message = entry.message;
        if self.stored_up_to.is_some_and(|last| place <= last) {
            self.figures.found_stored += 1;
            self.source.confirm(place);
            return;
        }
        let before = user_property(message.properties(), VIA).unwrap_or_default();
        // The last one may be this gateway: one of its bridges brought the message down. Anywhere else it has been here before.
        let (earlier, _) = before.rsplit_once(',').unwrap_or_default();
        let loops = earlier.split(',').any(|gateway| gateway == &*self.terms.gateway);
        if loops || before.split(',').count() >= HOPS_MAX {
            self.figures.looped += 1;
            self.source.refuse(place, DropReason::Refused);
            return;
        }
        let via =
            if before.is_empty() { self.terms.gateway.to_string() } else { format!("{before},{}", self.terms.gateway) };
        let rule = match self.rule(&message) {
            Ok(rule) => rule,
            Err(reason) => return self.discard(&message, DropReason::Refused, &reason, Some(place)),
        };
        match self.address(rule, &message, (place, entry.retain)) {
            Ok(to) => self.held.push_back(Held {
                out: Outgoing {
                    place,
                    repeated,
                    topic: to.topic,
                    key: to.key,
                    partition: to.partition,
                    exchange: to.exchange,
                    tag: to.tag,
                    delay_s: to.delay_s,
                    qos: entry.qos.min(rule.qos),
                    retain: entry.retain,
                    expiry_s: None,
                    via,
                    message: to.message,
                },
                message,
            }),
            Err(missing) => self.discard(&message, DropReason::Refused, &missing.to_string(), Some(place)),
        }
    }

    fn rule(&self, message: &Message) -> Result<&Rule, String> {
        let rule = self.terms.rules.iter().find(|rule| topic::matches(&rule.filter, message.topic()));
        rule.ok_or_else(|| "no filter of the bridge matches it any more".to_owned())
    }

    /// Where a message goes, and as what; or what it lacks.
    fn address(&self, rule: &Rule, message: &Arc<Message>, (place, retain): (u64, bool)) -> Result<Address, Missing> {
        let fields = rule.fields(message.payload());
        let from = Fill::of(&self.terms.name, message, &fields);
        let fill = |template: &Option<Template>| template.as_ref().map(|template| template.fill(from)).transpose();
        let event_type = fill(&rule.event_type)?;
        let wrap = Wrap {
            message,
            place,
            retain,
            wall_ms: self.terms.times.as_ref().and_then(|times| times.wall_ms(message.accepted_at)),
            marks: &self.terms.marks,
            event_type: event_type.as_deref().unwrap_or(EVENT_TYPE),
        };
        Ok(Address {
            topic: self.upstream.destination(&rule.topic, from)?,
            key: fill(&rule.key)?,
            partition: fill(&rule.partition)?,
            exchange: fill(&rule.exchange)?,
            tag: fill(&rule.tag)?,
            delay_s: fill(&rule.delay_s)?,
            message: wrap.into(rule.wrapping).unwrap_or_else(|| message.clone()),
        })
    }
}

struct Address {
    topic: String,
    key: Option<String>,
    partition: Option<String>,
    exchange: Option<String>,
    tag: Option<String>,
    delay_s: Option<String>,
    /// What travels.
    message: Arc<Message>,
}

enum Sent {
    Some,
    /// When to try again, if that is known.
    Nothing(Option<u64>),
}
