//! What the connections are to MQTT: handshakes, acks, windows, and what is counted.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::check::Checker;
use super::latency::Latency;
use super::peer::{Fault, greeting, packet, reason_words};
use super::plan::{Pacing, Plan};
use super::progress::Snapshot;
use super::publisher::{Publisher, Schedule};
use super::wire::{self, Packet};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    Closed,
    /// It waits for CONNACK since then.
    Connecting(u64),
    /// It waits for SUBACK.
    Subscribing,
    /// It has all that it needs.
    Ready,
}

/// What is counted from [`Clients::reset`] on.
#[derive(Debug, Default)]
pub struct Measured {
    /// From when a message was published, or due, to its receipt.
    pub latency: Latency,
    /// The same to its last ack.
    pub ack_latency: Latency,
    /// How late an open loop published.
    pub late: Latency,
}

/// Publishers first, then subscribers.
pub struct Clients {
    plan: Plan,
    started: Instant,
    stages: Vec<Stage>,
    publishers: Vec<Publisher>,
    marked: Vec<usize>,
    finished: usize,
    /// Who is to get what, and what came of it.
    pub check: Checker,
    /// From the last reset on.
    pub measured: Measured,
    /// From when a connection was begun to its CONNACK.
    pub handshakes: Latency,
    /// A server that speaks MQTT is there.
    pub greeted: bool,
    /// CONNACKs since the opening began.
    pub answered: usize,
    /// Who has all that it needs.
    pub ready: usize,
    /// Published.
    pub sent: u64,
    /// How long the server lets a client be silent, where it says so.
    pub keep_alive_s: Option<u16>,
    /// Acknowledged, refused among them.
    pub acknowledged: u64,
    /// Refused by an ack.
    pub refused: u64,
    /// Messages of others, or of another run.
    pub foreign: u64,
    /// Acks for what was not published, or is acknowledged.
    pub odd_acks: u64,
    /// The first refusal of a message.
    pub refusal: Option<u8>,
    /// Subscribers ask for a session that outlives its connection.
    pub persistent: bool,
    /// Subscribers do not subscribe.
    pub silent: bool,
    /// Receipts are not timed: the subscribers were away.
    pub untimed: bool,
}

impl Clients {
    /// Nobody is connected.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let fill: Arc<[u8]> = vec![b'x'; plan.size - wire::STAMP].into();
        let publishers: Vec<Publisher> = (0..plan.publishers).map(|n| Publisher::new(plan, n, fill.clone())).collect();
        Self {
            plan: plan.clone(),
            started: Instant::now(),
            stages: vec![Stage::Closed; plan.publishers + plan.subscribers],
            finished: publishers.iter().filter(|publisher| publisher.finished()).count(),
            publishers,
            marked: Vec::new(),
            check: Checker::new(plan.layout, plan.publishers, plan.subscribers),
            measured: Measured::default(),
            handshakes: Latency::default(),
            greeted: false,
            answered: 0,
            ready: 0,
            sent: 0,
            keep_alive_s: None,
            acknowledged: 0,
            refused: 0,
            foreign: 0,
            odd_acks: 0,
            refusal: None,
            persistent: plan.persistent,
            silent: false,
            untimed: false,
        }
    }

    /// Since the load began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// How far a connection is.
    #[must_use]
    pub fn stage(&self, number: usize) -> Stage {
        self.stages.get(number).copied().unwrap_or(Stage::Closed)
    }

    fn set_stage(&mut self, number: usize, stage: Stage) {
        if let Some(place) = self.stages.get_mut(number) {
            *place = stage;
        }
    }

    /// As it is called in messages.
    #[must_use]
    pub fn name(&self, number: usize) -> String {
        match number.checked_sub(self.publishers.len()) {
            None => format!("publisher {number}"),
            Some(subscriber) => format!("subscriber {subscriber}"),
        }
    }

    /// CONNECT.
    pub fn connect(&mut self, number: usize, out: &mut Vec<u8>) {
        let now = self.now_ns();
        self.set_stage(number, Stage::Connecting(now));
        match number.checked_sub(self.publishers.len()) {
            None => self.plan.connect(out, &format!("p{number}"), false),
            Some(subscriber) => self.plan.connect(out, &format!("s{subscriber}"), self.persistent),
        }
    }

    /// It is not connected any more.
    pub fn closed(&mut self, number: usize) {
        self.ready -= usize::from(self.stage(number) == Stage::Ready);
        self.set_stage(number, Stage::Closed);
    }

    /// Measures from here on.
    pub fn reset(&mut self) {
        self.measured.latency.reset();
        self.measured.ack_latency.reset();
        self.measured.late.reset();
    }

    /// All packets of one read; how many bytes they were.
    ///
    /// # Errors
    /// The server refuses, or speaks something else.
    pub fn handle(&mut self, number: usize, out: &mut Vec<u8>, bytes: &[u8]) -> Result<usize, Fault> {
        let now = self.now_ns();
        let mut at = 0;
        if let Stage::Connecting(since) = self.stage(number) {
            // What is no CONNACK need not ever be complete.
            if bytes.first().is_some_and(|first| *first != 0x20) {
                return Err(Fault::NotMqtt(bytes.get(..bytes.len().min(40)).unwrap_or_default().to_vec()));
            }
            let Some(found) = packet(bytes)? else { return Ok(0) };
            self.handshakes.record(now.saturating_sub(since));
            self.connected(number, out, &found)?;
            at = found.len;
        }
        while let Some(found) = packet(bytes.get(at..).unwrap_or_default())? {
            at += found.len;
            self.packet(number, out, &found, now)?;
        }
        Ok(at)
    }

    fn connected(&mut self, number: usize, out: &mut Vec<u8>, found: &Packet<'_>) -> Result<(), Fault> {
        let greeting = greeting(self.plan.version.is_v5(), found.first, found.body)?;
        self.greeted = true;
        self.answered += 1;
        self.keep_alive_s = greeting.keep_alive_s.or(self.keep_alive_s);
        if let Some(maximum) = greeting.maximum_qos.filter(|maximum| *maximum < self.plan.qos) {
            return Err(Fault::Refused(format!("it takes QoS {maximum} at most; --qos {maximum} is right for it")));
        }
        let subscriber = number.checked_sub(self.publishers.len());
        if let (Some(publisher), Some(maximum)) = (self.publishers.get_mut(number), greeting.receive_maximum) {
            publisher.limit_window(u64::from(maximum));
        }
        let subscribed = self.persistent && greeting.session_present;
        match subscriber.filter(|_| !self.silent && !subscribed) {
            Some(subscriber) => {
                wire::subscribe(out, self.plan.version, &self.plan.filter(subscriber), self.plan.qos);
                self.set_stage(number, Stage::Subscribing);
            }
            None => self.is_ready(number),
        }
        Ok(())
    }

    fn is_ready(&mut self, number: usize) {
        self.set_stage(number, Stage::Ready);
        self.ready += 1;
    }

    #[inline]
    fn packet(&mut self, number: usize, out: &mut Vec<u8>, found: &Packet<'_>, now: u64) -> Result<(), Fault> {
        let acked = || wire::acked(found.body).ok_or_else(|| Fault::NotMqtt(vec![found.first]));
        match found.first >> 4 {
            3 => self.received(number, out, found, now),
            4 | 7 => acked().map(|(id, code)| self.acked(number, id, code, now)),
            5 => {
                let (id, code) = acked()?;
                if code < 0x80 {
                    wire::ack(out, 0x62, id);
                } else {
                    self.acked(number, id, code, now);
                }
                Ok(())
            }
            6 => acked().map(|(id, _)| wire::ack(out, 0x70, id)),
            9 => self.subscribed(number, found.body),
            // PINGRESP.
            13 => Ok(()),
            14 if self.plan.version.is_v5() => {
                let code = found.body.first().copied().unwrap_or(0);
                Err(Fault::Refused(format!("DISCONNECT {}", reason_words(code))))
            }
            _ => Err(Fault::NotMqtt(vec![found.first])),
        }
    }

    #[inline]
    fn received(&mut self, number: usize, out: &mut Vec<u8>, found: &Packet<'_>, now: u64) -> Result<(), Fault> {
        let delivery = wire::delivery(self.plan.version, found.first, found.body);
        let delivery = delivery.ok_or_else(|| Fault::NotMqtt(vec![found.first]))?;
        match found.first >> 1 & 3 {
            1 => wire::ack(out, 0x40, delivery.id),
            2 => wire::ack(out, 0x50, delivery.id),
            _ => {}
        }
        let stamp = delivery.stamp.filter(|stamp| stamp.run == self.plan.run);
        let receiver = number.checked_sub(self.publishers.len());
        let (Some(stamp), Some(receiver)) = (stamp, receiver) else {
            self.foreign += 1;
            return Ok(());
        };
        let at = stamp.publisher as usize;
        let sent = self.publishers.get(at).map_or(0, |publisher| publisher.sent);
        let further = self.check.take(receiver, at, stamp.number, sent);
        if !self.untimed {
            self.measured.latency.record(now.saturating_sub(stamp.ns));
        }
        if self.plan.qos == 0 && further > 0 {
            if let Some(publisher) = self.publishers.get_mut(at) {
                publisher.received(further);
            }
            self.mark(at);
        }
        Ok(())
    }

    #[inline]
    fn acked(&mut self, number: usize, id: u16, code: u8, now: u64) {
        let since = self.publishers.get_mut(number).and_then(|publisher| publisher.acknowledged(id));
        let Some(since) = since else {
            self.odd_acks += 1;
            return;
        };
        self.acknowledged += 1;
        if code >= 0x80 {
            self.refused += 1;
            self.refusal.get_or_insert(code);
        }
        self.measured.ack_latency.record(now.saturating_sub(since));
        self.mark(number);
    }

    fn subscribed(&mut self, number: usize, body: &[u8]) -> Result<(), Fault> {
        match body.last().copied().unwrap_or(0x80) {
            code if code >= 0x80 => {
                let why = if self.plan.version.is_v5() { reason_words(code) } else { "SUBACK 0x80".to_owned() };
                let subscriber = number.saturating_sub(self.publishers.len());
                Err(Fault::Refused(format!("the subscription to {}: {why}", self.plan.filter(subscriber))))
            }
            granted if granted < self.plan.qos => {
                Err(Fault::Refused(format!("QoS {granted} is all it grants; --qos {granted} is right for it")))
            }
            _ => {
                if self.stage(number) == Stage::Subscribing {
                    self.is_ready(number);
                }
                Ok(())
            }
        }
    }

    /// It may have something to do.
    #[inline]
    pub fn mark(&mut self, number: usize) {
        if let Some(publisher) = self.publishers.get_mut(number).filter(|publisher| !publisher.marked) {
            publisher.marked = true;
            self.marked.push(number);
        }
    }

    /// All may.
    pub fn mark_all(&mut self) {
        (0..self.publishers.len()).for_each(|number| self.mark(number));
    }

    /// Somebody may.
    #[must_use]
    pub fn has_marked(&self) -> bool {
        !self.marked.is_empty()
    }

    /// Who may; they are not marked any more.
    pub fn take_marked(&mut self) -> Vec<usize> {
        let marked = std::mem::take(&mut self.marked);
        for number in &marked {
            if let Some(publisher) = self.publishers.get_mut(*number) {
                publisher.marked = false;
            }
        }
        marked
    }

    /// Encodes what a publisher may publish; true: there is more, and the output is full.
    pub fn publish(&mut self, number: usize, out: &mut Vec<u8>, schedule: Option<&Schedule>) -> bool {
        let now = self.now_ns();
        let Some(publisher) = self.publishers.get_mut(number) else { return false };
        let (was_finished, before) = (publisher.finished(), publisher.sent);
        let late = &mut self.measured.late;
        let more = publisher.publish(out, now, schedule, |ns| late.record(ns));
        self.sent += publisher.sent - before;
        self.finished += usize::from(publisher.finished() && !was_finished);
        more
    }

    /// These of all messages are due: publishers take turns.
    pub fn due(&mut self, messages: Range<u64>) {
        let count = self.publishers.len() as u64;
        for message in messages {
            let number = (message % count) as usize;
            if let Some(publisher) = self.publishers.get_mut(number) {
                publisher.due += 1;
            }
            self.mark(number);
        }
    }

    /// All that may be published is.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.finished == self.publishers.len()
    }

    /// How many unacknowledged messages the server takes, where that is less than the plan has.
    #[must_use]
    pub fn limited(&self) -> Option<u64> {
        self.publishers.iter().filter_map(|publisher| publisher.limited).min()
    }

    /// Changes with every message and ack.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.check.counts.received + self.acknowledged + self.foreign + self.odd_acks + self.sent
    }

    /// QoS 0 in a closed loop: what has not been received will not be. False: nobody waits.
    pub fn write_off(&mut self) -> bool {
        if self.plan.qos > 0 || !matches!(self.plan.pacing, Pacing::Closed { window: Some(_) }) {
            return false;
        }
        let waited = self.publishers.iter_mut().filter_map(Publisher::write_off).count();
        self.mark_all();
        waited > 0
    }

    /// Due and not published: the server, or this program, was too slow. In a closed loop, what is left to publish.
    #[must_use]
    pub fn overdue(&self) -> u64 {
        self.publishers.iter().fold(0, |sum, publisher| publisher.overdue().saturating_add(sum))
    }

    /// Deliveries that there must be.
    #[must_use]
    pub fn expected(&self) -> u64 {
        (self.sent - self.refused) * self.check.fan()
    }

    /// Deliveries that there are not.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.expected().saturating_sub(self.check.unique())
    }

    /// No ack is missing.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        self.plan.qos == 0 || self.acknowledged == self.sent
    }

    /// For the line on the terminal.
    pub fn snapshot(&mut self) -> Snapshot {
        let late = if self.plan.subscribers > 0 { &mut self.measured.latency } else { &mut self.measured.ack_latency };
        Snapshot { sent: self.sent, received: self.check.counts.received, latency: late.percentiles() }
    }
}
