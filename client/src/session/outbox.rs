//! What is accepted and not acknowledged: a queue of what was not sent yet, and what is in flight.
//!
//! Each message has a number that grows; its packet identifier is made from it, so that it is the same after a restart
//! without being stored. Both queues are in the order of the numbers.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS, Version};

use super::alias;
use super::journal::{Journal, Op, OpNumber};
use super::leftovers::Leftovers;
use super::put_off::{Refusal, Waits};
use super::suspect::{OnWire, Suspect};
use crate::codec::frame::{Alias, Frame};
use crate::codec::{Ack, AckKind, write};
use crate::error::Dropped;
use crate::event::PutOff;
use crate::message::whole_seconds;
use crate::options::{Judge, Outbox as Limits, WhenFull, WhenRefused};
use crate::stats::Stats;
use crate::ticket::{Acked, Outcome, Teller, Told, pair};

/// Packet identifiers 1 to this are for PUBLISH; the 16 above are for SUBSCRIBE and UNSUBSCRIBE.
pub(crate) const PUBLISH_IDS: u16 = 65_519;
/// The socket's buffer takes no more once it is this full.
const OUT_FULL: usize = 128 * 1024;
/// Before MQTT 5 a server cannot say how many QoS 2 messages it takes at once. mosquitto holds 20; while it does, it acknowledges
/// messages of QoS 1 and forgets them.
const QOS_2_MAX: usize = 19;
/// After a refusal for want of room that does not say when to try again; doubled each time.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

struct Waiting {
    number: u64,
    frame: Frame,
    expires: Option<Instant>,
    op: OpNumber,
    teller: Option<Teller<Outcome>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// An earlier run of the program may have sent PUBLISH; this one has not.
    Restored,
    /// PUBLISH was sent.
    Sent,
    /// PUBREC came; PUBREL is sent when that is safe.
    Released(OpNumber),
}

struct Flight {
    of: Waiting,
    stage: Stage,
}

/// What the server of this connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takes {
    pub(crate) maximum_packet_size: u32,
    pub(crate) maximum_qos: QoS,
    pub(crate) retain: bool,
}

/// Surroundings of a fill.
pub(crate) struct Fill<'a> {
    pub(crate) now: Instant,
    pub(crate) version: Version,
    pub(crate) takes: Takes,
    pub(crate) aliases: &'a mut alias::Outgoing,
    pub(crate) journal: &'a mut Journal,
    pub(crate) stats: &'a mut Stats,
    pub(crate) out: &'a mut Vec<u8>,
    /// QoS 0 messages in `out` whose sender waits.
    pub(crate) unwritten: &'a mut Vec<Teller<Outcome>>,
}

/// When a message expires, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    pub(crate) at: Instant,
    pub(crate) unix_ms: u64,
}

/// A message that was dropped since every connection ended with it.
pub(crate) struct SetAside {
    pub(crate) frame: Frame,
    pub(crate) connections: u32,
}

/// Why a message was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// For now; the bytes that it takes.
    Full(usize),
    /// For ever.
    TooLarge,
}

pub(crate) struct Outbox {
    limits: Limits,
    /// What becomes of a message that the server refuses.
    judge: Option<Judge>,
    queue: VecDeque<Waiting>,
    flight: VecDeque<Flight>,
    /// How many of `flight` are on the wire of this connection; the rest is to be repeated.
    on_wire: usize,
    /// What may be in flight on this connection.
    window: usize,
    window_was_full: bool,
    /// The same for QoS 2 alone, and how many of those are on the wire.
    window_of_qos_2: usize,
    qos_2_on_wire: usize,
    /// Messages that are done with and are in the file still: the operations that remove them.
    in_file: VecDeque<OpNumber>,
    bytes: usize,
    /// QoS 0 messages that were given to the socket's buffer and are not written yet.
    unwritten: u64,
    /// Messages that the file kept when the client ended.
    kept: usize,
    next_number: u64,
    /// For keep-last: the unsent message of each topic.
    by_topic: HashMap<Box<[u8]>, u64>,
    /// No message expires before this.
    next_expiry: Option<Instant>,
    /// The server asked for patience.
    paused_until: Option<Instant>,
    refusals: u32,
    put_off: Waits,
    /// Which message the server may never take.
    suspect: Suspect,
    /// Something was acknowledged on this connection.
    fruitful: bool,
    /// Until the server is known to hold nothing of an earlier run.
    leftovers: Option<Box<Leftovers>>,
}

impl Outbox {
    pub(crate) fn new(limits: Limits, judge: Option<Judge>) -> Self {
        Self {
            limits,
            judge,
            queue: VecDeque::new(),
            flight: VecDeque::new(),
            on_wire: 0,
            window: 0,
            window_was_full: false,
            window_of_qos_2: 0,
            qos_2_on_wire: 0,
            in_file: VecDeque::new(),
            bytes: 0,
            unwritten: 0,
            kept: 0,
            next_number: 1,
            by_topic: HashMap::new(),
            next_expiry: None,
            paused_until: None,
            refusals: 0,
            put_off: Waits::default(),
            suspect: Suspect::default(),
            fruitful: false,
            leftovers: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.flight.len()
    }

    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// What was in the socket's buffer is written, or lost; how many messages of QoS 0 that were.
    pub(crate) fn settle_unwritten(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten)
    }

    /// Whether the server owes an ack.
    pub(crate) fn is_owed(&self) -> bool {
        self.on_wire > 0
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// There is room for a message of this size, and a quarter is free: enough for those who wait to be woken for more than
    /// one message. One that is larger than that quarter is not kept waiting for it.
    pub(crate) fn is_roomy_for(&self, size: usize) -> bool {
        let bytes = self.limits.max_bytes / 4 * 3;
        let roomy = self.len() <= self.limits.max_messages / 4 * 3 && self.bytes <= bytes;
        self.has_room(size) && (roomy || size > self.limits.max_bytes - bytes)
    }

    fn has_room(&self, size: usize) -> bool {
        self.len() < self.limits.max_messages && self.bytes + size <= self.limits.max_bytes
    }

    /// Takes a message. Its operation in the journal says when it is safe.
    pub(crate) fn accept(
        &mut self,
        frame: Frame,
        expiry: Option<Expiry>,
        teller: Teller<Outcome>,
        journal: &mut Journal,
        stats: &mut Stats,
    ) -> Result<OpNumber, (NoRoom, Frame)> {
        let size = frame.size();
        if size > self.limits.max_bytes || self.limits.max_messages == 0 {
            return Err((NoRoom::TooLarge, frame));
        }
        let replaced = self.unsent_of(frame.topic());
        let room = match replaced.and_then(|at| self.queue.get(at)) {
            Some(old) => self.bytes - old.frame.size() + size <= self.limits.max_bytes,
            None => self.make_room(size, journal, stats),
        };
        if !room {
            return Err((NoRoom::Full(size), frame));
        }
        let number = replaced.and_then(|at| self.queue.get(at)).map_or(self.next_number, |old| old.number);
        let expires = expiry.map(|expiry| expiry.at);
        let mut new = Waiting { number, frame, expires, op: 0, teller: Some(teller) };
        self.bytes += size;
        stats.accepted += 1;
        self.expires_at(expires);
        match replaced.and_then(|at| self.queue.get_mut(at)) {
            // In its place: a topic that changes all the time would never come to the front.
            Some(old) => {
                std::mem::swap(old, &mut new);
                self.drop_one(new, Dropped::Replaced, journal, stats);
            }
            None => {
                if self.limits.when_full == WhenFull::KeepLast {
                    self.by_topic.insert(new.frame.topic().into(), number);
                }
                self.next_number += 1;
                self.queue.push_back(new);
            }
        }
        let at = replaced.unwrap_or(self.queue.len() - 1);
        Ok(self.queue.get_mut(at).map_or(0, |new| log_put(new, expiry, journal)))
    }

    /// For keep-last: where the unsent message of this topic is.
    fn unsent_of(&self, topic: &[u8]) -> Option<usize> {
        let number = self.by_topic.get(topic)?;
        self.queue.binary_search_by_key(number, |waiting| waiting.number).ok()
    }

    /// Drops the oldest, if that is the policy, and if there is room then.
    fn make_room(&mut self, size: usize, journal: &mut Journal, stats: &mut Stats) -> bool {
        if self.has_room(size) {
            return true;
        }
        if self.limits.when_full != WhenFull::DropOldest {
            return false;
        }
        let (mut messages, mut bytes, mut oldest) = (self.len(), self.bytes + size, 0);
        while messages >= self.limits.max_messages || bytes > self.limits.max_bytes {
            let Some(waiting) = self.queue.get(oldest) else { return false };
            (messages, bytes, oldest) = (messages - 1, bytes - waiting.frame.size(), oldest + 1);
        }
        for _ in 0..oldest {
            self.drop_front(Dropped::Evicted, journal, stats);
        }
        true
    }

    fn expires_at(&mut self, at: Option<Instant>) {
        self.next_expiry = self.next_expiry.into_iter().chain(at).min();
    }

    fn drop_front(&mut self, why: Dropped, journal: &mut Journal, stats: &mut Stats) -> bool {
        let Some(waiting) = self.queue.pop_front() else { return false };
        self.left_queue(&waiting);
        self.drop_one(waiting, why, journal, stats);
        true
    }

    fn left_queue(&mut self, waiting: &Waiting) {
        if !self.by_topic.is_empty() && self.by_topic.get(waiting.frame.topic()) == Some(&waiting.number) {
            self.by_topic.remove(waiting.frame.topic());
        }
    }

    fn drop_one(&mut self, waiting: Waiting, why: Dropped, journal: &mut Journal, stats: &mut Stats) {
        stats.count(&why);
        self.finish(waiting, Err(why), journal);
    }

    fn finish(&mut self, waiting: Waiting, outcome: Outcome, journal: &mut Journal) {
        self.put_off.ended(waiting.number);
        self.bytes = self.bytes.saturating_sub(waiting.frame.size());
        if waiting.frame.qos() != QoS::AtMostOnce {
            let op = journal.log(|| Op::Remove { number: waiting.number });
            let safe = self.in_file.partition_point(|op| journal.is_ack_safe(*op));
            self.in_file.drain(..safe);
            if !journal.is_ack_safe(op) {
                self.in_file.push_back(op);
            }
        }
        if let Some(teller) = waiting.teller {
            teller.tell(outcome);
        }
    }

    /// A new connection; what was in flight is repeated in order [MQTT-4.4.0-1], or, when the server has forgotten, sent
    /// anew.
    pub(crate) fn connected(
        &mut self,
        resumed: bool,
        version: Version,
        window: u16,
        journal: &mut Journal,
        stats: &mut Stats,
    ) {
        self.on_wire = 0;
        self.qos_2_on_wire = 0;
        self.window = usize::from(window);
        self.window_of_qos_2 = if version.is_v5() { self.window } else { self.window.min(QOS_2_MAX) };
        self.window_was_full = false;
        self.paused_until = None;
        self.fruitful = false;
        if resumed {
            return;
        }
        self.leftovers = None;
        self.put_off.forgotten();
        for flight in std::mem::take(&mut self.flight).into_iter().rev() {
            match flight.stage {
                Stage::Restored | Stage::Sent => {
                    self.expires_at(flight.of.expires);
                    self.queue.push_front(flight.of);
                }
                // The server took it over with PUBREC [MQTT-4.3.3]: its end of the hand-over is gone, the message is not.
                Stage::Released(_) => {
                    stats.acked += 1;
                    self.finish(flight.of, Ok(Acked { reason: ReasonCode::Success }), journal);
                }
            }
        }
        // What was refused for want of room stands in the queue already, and may be older.
        self.queue.make_contiguous().sort_by_key(|waiting| waiting.number);
    }

    /// The session is that of an earlier run of the program, of which nothing is known.
    pub(crate) fn inherits(&mut self) {
        self.leftovers = Some(Box::new(Leftovers::new()));
    }

    /// The connection is over, and the server has ended it without saying that it is its own doing. The message that it will
    /// never take is dropped, once it is known; its topic, its payload and how many connections it took to know it.
    pub(crate) fn ended_by_server(&mut self, journal: &mut Journal, stats: &mut Stats) -> Option<SetAside> {
        let limit = self.limits.max_losses.filter(|_| !self.fruitful)?;
        let on_wire = |flight: &&Flight| flight.stage == Stage::Sent;
        let first = self.flight.iter().take(self.on_wire).find(on_wire)?.of.number;
        let last = self.flight.iter().take(self.on_wire).rfind(on_wire)?.of.number;
        let connections = self.suspect.fruitless(OnWire { first, last }, limit.get())?;
        let at = self.flight.iter().position(|flight| flight.of.number == first)?;
        let flight = self.flight.remove(at)?;
        self.on_wire -= 1;
        let frame = flight.of.frame.clone();
        self.drop_one(flight.of, Dropped::SetAside { connections }, journal, stats);
        Some(SetAside { frame, connections })
    }

    /// The connection is over.
    pub(crate) fn disconnected(&mut self) {
        if self.leftovers.as_mut().is_some_and(|leftovers| !leftovers.disconnected()) {
            tracing::warn!(
                "the server ends the connection when it is asked about QoS 2 messages of an earlier run of this program: one of this run may be taken for one of those"
            );
            self.leftovers = None;
        }
        self.on_wire = 0;
        self.qos_2_on_wire = 0;
        self.window = 0;
    }

    /// Puts what may be sent into `out`.
    pub(crate) fn fill(&mut self, fill: &mut Fill<'_>) {
        self.paused_until = self.paused_until.filter(|until| fill.now < *until);
        self.window_was_full &= !self.window_is_open();
        self.repeat(fill);
        while fill.out.len() < OUT_FULL && self.on_wire == self.flight.len() {
            let Some(next) = self.queue.front() else { break };
            if next.expires.is_some_and(|at| at <= fill.now) {
                self.drop_front(Dropped::Expired, fill.journal, fill.stats);
                continue;
            }
            if let Some(why) = not_taken(&next.frame, &fill.takes) {
                tracing::warn!(topic = %String::from_utf8_lossy(next.frame.topic()), "a message is dropped: {why}");
                self.drop_front(why, fill.journal, fill.stats);
                continue;
            }
            if self.must_wait(next, fill.journal) {
                break;
            }
            let Some(mut next) = self.queue.pop_front() else { break };
            self.left_queue(&next);
            let alias = alias_of(&next.frame, fill);
            let expiry_s = next.expires.map(|at| whole_seconds(at.saturating_duration_since(fill.now)));
            let id = (next.frame.qos() != QoS::AtMostOnce).then(|| packet_id(next.number));
            next.frame.put(fill.out, id, false, expiry_s, alias);
            fill.stats.sent += 1;
            if id.is_some() {
                self.put_off.sent(next.number);
                self.qos_2_on_wire += usize::from(next.frame.qos() == QoS::ExactlyOnce);
                self.flight.push_back(Flight { of: next, stage: Stage::Sent });
                self.sort_last();
                self.on_wire = self.flight.len();
                self.window_was_full = self.flight.len() >= self.window;
            } else {
                fill.unwritten.extend(next.teller.take().filter(Teller::is_heard));
                self.unwritten += 1;
                self.bytes = self.bytes.saturating_sub(next.frame.size());
            }
        }
        if let Some(id) = self.id_to_release()
            && let Some(leftovers) = &mut self.leftovers
        {
            leftovers.ask(id, fill.version, fill.out);
        }
    }

    /// The packet identifier of the next message, when what an earlier run may have left there is to be released first.
    fn id_to_release(&self) -> Option<PacketId> {
        let leftovers = self.leftovers.as_ref().filter(|leftovers| !leftovers.is_asking() && self.window > 0)?;
        let next = self.queue.front()?;
        let of_next = Some(packet_id(next.number)).filter(|_| next.frame.qos() == QoS::ExactlyOnce);
        let id = leftovers.next_to_release().or(of_next)?;
        let in_use = |flight: &Flight| Leftovers::share_a_block(packet_id(flight.of.number), id);
        (self.on_wire == self.flight.len() && !leftovers.is_released(id) && !self.flight.iter().any(in_use))
            .then_some(id)
    }

    /// Whether the server may hold something else under the identifier of this message.
    fn is_in_doubt(&self, next: &Waiting) -> bool {
        let (id, qos) = (packet_id(next.number), next.frame.qos());
        qos != QoS::AtMostOnce
            && self.leftovers.as_ref().is_some_and(|leftovers| {
                leftovers.is_asked(id) || qos == QoS::ExactlyOnce && !leftovers.is_released(id)
            })
    }

    /// Whether a message waits because it, or the one that is on the wire, is to be alone there.
    fn is_kept_back(&self, next: &Waiting) -> bool {
        let Some(oldest) = self.flight.front() else { return false };
        self.put_off.why().is_some()
            || self.suspect.is_careful(oldest.of.number)
            || self.suspect.is_careful(next.number)
    }

    fn must_wait(&self, next: &Waiting, journal: &Journal) -> bool {
        if self.is_kept_back(next) {
            return true;
        }
        if self.paused_until.is_some() || !journal.is_safe(next.op) {
            return true;
        }
        next.frame.qos() != QoS::AtMostOnce
            && !(self.window_is_open()
                && self.id_is_free(next.number)
                && self.takes_qos_2(&next.frame)
                && self.would_be_repeated_first(&next.frame, journal))
            || self.is_in_doubt(next)
    }

    fn takes_qos_2(&self, frame: &Frame) -> bool {
        frame.qos() != QoS::ExactlyOnce || self.qos_2_on_wire < self.window_of_qos_2
    }

    /// Whether this message would be within the first window of what is repeated, if the program were killed now.
    ///
    /// mosquitto counts what it holds of QoS 2 against Receive Maximum when a session is resumed, before any of it has come again,
    /// and refuses what goes beyond (0x97). What is done with and still in the file would come before that, and be refused for ever.
    fn would_be_repeated_first(&self, frame: &Frame, journal: &Journal) -> bool {
        let done = self.in_file.len() - self.in_file.partition_point(|op| journal.is_ack_safe(*op));
        frame.qos() != QoS::ExactlyOnce || self.on_wire + done < self.window
    }

    /// Whether no other message in flight has the same packet identifier: they follow from the numbers, so those of one
    /// round of them are apart.
    fn id_is_free(&self, number: u64) -> bool {
        self.flight.front().is_none_or(|oldest| number.abs_diff(oldest.of.number) < u64::from(PUBLISH_IDS))
    }

    /// Whether the next message that is to be repeated may be. What a durable outbox gave back was not all in flight: it may
    /// be more than a window, or than there are packet identifiers.
    fn may_repeat(&self, journal: &Journal) -> bool {
        let next = self.flight.get(self.on_wire).filter(|_| self.on_wire < self.window);
        let careful = |flight: &Flight| self.suspect.is_careful(flight.of.number);
        if self.on_wire > 0 && next.is_some_and(careful) {
            return false;
        }
        next.is_some_and(|flight| {
            let is_released = matches!(flight.stage, Stage::Released(_));
            let may_go = is_released || self.would_be_repeated_first(&flight.of.frame, journal);
            may_go && self.id_is_free(flight.of.number) && self.takes_qos_2(&flight.of.frame)
        })
    }

    /// A window that was full opens again when a quarter of it is free: one write for many messages, where acks come one by
    /// one. It costs no time, since the server has the other three quarters to do.
    fn window_is_open(&self) -> bool {
        let free = self.window.saturating_sub(self.flight.len());
        if self.window_was_full { free > self.window / 4 } else { free > 0 }
    }

    pub(crate) fn is_saturated(&self) -> bool {
        self.window_was_full
    }

    /// Whether something could be sent, but for that.
    pub(crate) fn holds_back(&self) -> bool {
        self.window_was_full && self.flight.len() < self.window && !self.window_is_open()
    }

    /// A message that was refused and is sent again stands before others that were not.
    fn sort_last(&mut self) {
        let Some(last) = self.flight.back().map(|flight| flight.of.number) else { return };
        let before = self.flight.len() - 1;
        if before > 0 && self.flight.get(before - 1).is_some_and(|flight| flight.of.number > last) {
            self.flight.make_contiguous().sort_unstable_by_key(|flight| flight.of.number);
        }
    }

    /// DUP, in order, within the window; only after a resumed session.
    fn repeat(&mut self, fill: &mut Fill<'_>) {
        while self.may_repeat(fill.journal) && fill.out.len() < OUT_FULL {
            let Some(flight) = self.flight.get_mut(self.on_wire) else { break };
            let id = packet_id(flight.of.number);
            match flight.stage {
                Stage::Restored | Stage::Sent => {
                    // Another server, or another limit: this would end every connection anew.
                    let not_taken = not_taken(&flight.of.frame, &fill.takes);
                    if let Some(why) = not_taken.or_else(|| has_expired(flight, fill.now)) {
                        if let Some(flight) = self.flight.remove(self.on_wire) {
                            self.drop_one(flight.of, why, fill.journal, fill.stats);
                        }
                        continue;
                    }
                    let expires = flight.of.expires;
                    let expiry_s = expires.map(|at| whole_seconds(at.saturating_duration_since(fill.now)));
                    let alias = alias_of(&flight.of.frame, fill);
                    flight.of.frame.put(fill.out, Some(id), true, expiry_s, alias);
                    flight.stage = Stage::Sent;
                    fill.stats.repeated += 1;
                }
                Stage::Released(op) if fill.journal.is_ack_safe(op) => {
                    write::ack(fill.version, AckKind::Pubrel, id, ReasonCode::Success, fill.out);
                }
                // Its PUBREL comes with the commit.
                Stage::Released(_) => {}
            }
            self.qos_2_on_wire += usize::from(flight.of.frame.qos() == QoS::ExactlyOnce);
            self.on_wire += 1;
        }
    }

    /// PUBREL for what has become safe since it was released.
    #[cfg(feature = "durable")]
    pub(crate) fn release_safe(&self, from: OpNumber, version: Version, journal: &Journal, out: &mut Vec<u8>) {
        for flight in self.flight.iter().take(self.on_wire) {
            if let Stage::Released(op) = flight.stage
                && op > from
                && journal.is_ack_safe(op)
            {
                write::ack(version, AckKind::Pubrel, packet_id(flight.of.number), ReasonCode::Success, out);
            }
        }
    }

    /// PUBACK, PUBREC or PUBCOMP.
    pub(crate) fn acked(&mut self, ack: &Ack, fill: &mut Fill<'_>) {
        if let Some(leftovers) = self.leftovers.as_mut().filter(|_| ack.kind == AckKind::Pubcomp)
            && leftovers.answered(ack.id, ack.reason)
        {
            return;
        }
        let Some(at) = self.find(ack.id) else {
            tracing::debug!(id = ack.id.get(), "an ack for a packet identifier that is not in use");
            if ack.kind == AckKind::Pubrec && ack.reason.is_success() {
                // Left over from a session of which this client knows nothing [MQTT5-4.3.3-4].
                write::ack(fill.version, AckKind::Pubrel, ack.id, ReasonCode::PacketIdentifierNotFound, fill.out);
            }
            return;
        };
        self.fruitful = true;
        self.suspect.acknowledged();
        let Some(flight) = self.flight.get_mut(at) else { return };
        let (qos, stage) = (flight.of.frame.qos(), flight.stage);
        match (ack.kind, stage) {
            (AckKind::Puback, Stage::Sent) if qos == QoS::AtLeastOnce => self.settled(at, ack, fill),
            (AckKind::Pubrec, Stage::Sent) if qos == QoS::ExactlyOnce && !ack.reason.is_success() => {
                self.settled(at, ack, fill);
            }
            (AckKind::Pubrec, Stage::Sent) if qos == QoS::ExactlyOnce => {
                let number = flight.of.number;
                let op = fill.journal.log(|| Op::Release { number });
                flight.stage = Stage::Released(op);
                if fill.journal.is_ack_safe(op) {
                    write::ack(fill.version, AckKind::Pubrel, ack.id, ReasonCode::Success, fill.out);
                }
            }
            (AckKind::Pubrec, Stage::Released(op)) => {
                if fill.journal.is_ack_safe(op) {
                    write::ack(fill.version, AckKind::Pubrel, ack.id, ReasonCode::Success, fill.out);
                }
            }
            // PUBCOMP says PacketIdentifierNotFound when the server had finished before: the message has arrived.
            (AckKind::Pubcomp, Stage::Released(_)) => {
                let done = Ack { reason: ReasonCode::Success, ..*ack };
                self.settled(at, &done, fill);
            }
            _ => tracing::debug!(id = ack.id.get(), kind = ?ack.kind, "an ack that does not fit its message"),
        }
    }

    fn settled(&mut self, at: usize, ack: &Ack, fill: &mut Fill<'_>) {
        let Some(flight) = self.flight.remove(at) else { return };
        self.on_wire -= 1;
        self.qos_2_on_wire -= usize::from(flight.of.frame.qos() == QoS::ExactlyOnce);
        if let Some(leftovers) = &mut self.leftovers {
            leftovers.set_no_room(ack.reason == ReasonCode::QuotaExceeded);
        }
        if ack.reason.is_success() {
            self.refusals = 0;
            fill.stats.acked += 1;
            self.finish(flight.of, Ok(Acked { reason: ack.reason }), fill.journal);
        } else if ack.reason == ReasonCode::QuotaExceeded {
            fill.stats.refused_for_now += 1;
            self.wait(ack.retry_after_ms, fill.now);
            self.take_back(flight.of);
        } else if self.is_put_off(&flight.of.frame, ack.reason) {
            fill.stats.put_off += 1;
            if self.put_off.refused(flight.of.number, flight.of.frame.topic(), ack.reason) == Refusal::OfTry {
                self.wait(ack.retry_after_ms, fill.now);
            }
            self.take_back(flight.of);
        } else {
            self.drop_one(flight.of, Dropped::Refused(ack.reason), fill.journal, fill.stats);
        }
    }

    fn is_put_off(&self, frame: &Frame, reason: ReasonCode) -> bool {
        let judge = |judge: &Judge| judge.0(&String::from_utf8_lossy(frame.topic()), reason);
        self.judge.as_ref().is_some_and(|by| judge(by) == WhenRefused::PutOff)
    }

    /// What is put off, if something is.
    pub(crate) fn put_off(&self) -> Option<&PutOff> {
        self.put_off.why()
    }

    /// Nothing is sent for a while.
    fn wait(&mut self, retry_after_ms: Option<u32>, now: Instant) {
        let wait = retry_after_ms.map_or_else(
            || RETRY_AFTER.saturating_mul(1 << self.refusals.min(5)).min(RETRY_AFTER_MAX),
            |ms| Duration::from_millis(u64::from(ms)),
        );
        self.refusals = self.refusals.saturating_add(1);
        self.paused_until = self.paused_until.max(Some(now + wait));
    }

    /// A message that was refused stays, before all that were accepted after it.
    fn take_back(&mut self, waiting: Waiting) {
        self.expires_at(waiting.expires);
        let at = self.queue.partition_point(|other| other.number < waiting.number);
        self.queue.insert(at, waiting);
    }

    fn find(&self, id: PacketId) -> Option<usize> {
        let ids = u64::from(PUBLISH_IDS);
        let first = self.flight.front()?.of.number;
        let offset = (u64::from(id.get()) + ids - 1 - first % ids) % ids;
        let number = first + offset;
        let is_it = |at: usize| self.flight.get(at).is_some_and(|flight| flight.of.number == number);
        let guess = offset as usize;
        let at = if is_it(guess) {
            guess
        } else {
            self.flight.binary_search_by_key(&number, |flight| flight.of.number).ok()?
        };
        (at < self.on_wire && id.get() <= PUBLISH_IDS).then_some(at)
    }

    /// Does what is due: drops what has expired. Messages in flight are the server's already.
    pub(crate) fn expire(&mut self, now: Instant, journal: &mut Journal, stats: &mut Stats) {
        // Also while the socket is full and nothing is filled: a time in the past would be due at once, for ever.
        self.paused_until = self.paused_until.filter(|until| now < *until);
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|w| w.expires.is_some_and(|at| at <= now));
        self.queue = kept;
        for waiting in gone {
            self.left_queue(&waiting);
            self.drop_one(waiting, Dropped::Expired, journal, stats);
        }
        // Not more often than ten times a second, however close the expiries are.
        let next = self.queue.iter().filter_map(|waiting| waiting.expires).min();
        self.next_expiry = next.map(|at| at.max(now + Duration::from_millis(100)));
    }

    /// When there is something to do by the clock.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let resume = self.paused_until.filter(|_| !self.queue.is_empty() && self.window > 0);
        self.next_expiry.into_iter().chain(resume).min()
    }

    /// Whether [`Outbox::fill`] would find something.
    pub(crate) fn wants_to_send(&self, journal: &Journal) -> bool {
        if self.on_wire < self.flight.len() {
            return self.may_repeat(journal);
        }
        self.queue.front().is_some_and(|next| !self.must_wait(next, journal)) || self.id_to_release().is_some()
    }

    /// The client ends: what was not acknowledged is told so. A durable outbox keeps it.
    pub(crate) fn end(&mut self, why: &Dropped, journal: &Journal, stats: &mut Stats) {
        let flight = std::mem::take(&mut self.flight).into_iter().map(|flight| flight.of);
        for waiting in flight.chain(std::mem::take(&mut self.queue)) {
            if !journal.is_on() || waiting.frame.qos() == QoS::AtMostOnce {
                stats.count(why);
            } else {
                self.kept += 1;
            }
            if let Some(teller) = waiting.teller {
                teller.tell(Err(why.clone()));
            }
        }
        self.bytes = 0;
        self.on_wire = 0;
        self.qos_2_on_wire = 0;
    }

    /// Gives each message that nobody is told of to somebody who wants to be told.
    pub(crate) fn adopt(&mut self) -> Vec<(Frame, Told<Outcome>)> {
        let all = self.flight.iter_mut().map(|flight| &mut flight.of).chain(&mut self.queue);
        all.filter(|waiting| waiting.teller.is_none())
            .map(|waiting| {
                let (teller, told) = pair();
                waiting.teller = Some(teller);
                (waiting.frame.clone(), told)
            })
            .collect()
    }

    /// A message that an earlier run of the program left; in the order of the numbers.
    #[cfg(feature = "durable")]
    pub(crate) fn restore(&mut self, number: u64, frame: Frame, expires: Option<Instant>, released: bool) {
        self.next_number = self.next_number.max(number + 1);
        self.bytes += frame.size();
        let of = Waiting { number, frame, expires, op: 0, teller: None };
        // Whether it was sent is not known: it may have been. With DUP, under its identifier, it cannot become two.
        let stage = if released { Stage::Released(0) } else { Stage::Restored };
        self.flight.push_back(Flight { of, stage });
    }
}

fn log_put(waiting: &mut Waiting, expiry: Option<Expiry>, journal: &mut Journal) -> OpNumber {
    let Waiting { number, frame, .. } = waiting;
    if frame.qos() != QoS::AtMostOnce {
        let expires_unix_ms = expiry.map(|expiry| expiry.unix_ms);
        waiting.op = journal.log(|| Op::Put { number: *number, frame: frame.clone(), expires_unix_ms });
    }
    waiting.op
}

fn packet_id(number: u64) -> PacketId {
    PacketId::new((number % u64::from(PUBLISH_IDS)) as u16 + 1).unwrap_or(PacketId::MIN)
}

/// An alias that is set makes the packet larger. Whether there is room for that is asked first: one that was given and not
/// sent would be used the next time.
fn alias_of(frame: &Frame, fill: &mut Fill<'_>) -> Alias {
    if frame.packet_len() + 8 > fill.takes.maximum_packet_size as usize {
        return Alias::None;
    }
    fill.aliases.of(frame.topic())
}

/// A message whose time was over while no program ran. With QoS 2 the server may hold it: it is sent for its end to be known.
fn has_expired(flight: &Flight, now: Instant) -> Option<Dropped> {
    let is_over = flight.of.expires.is_some_and(|at| at <= now);
    let may_go = flight.stage == Stage::Restored && flight.of.frame.qos() == QoS::AtLeastOnce;
    (is_over && may_go).then_some(Dropped::Expired)
}

fn not_taken(frame: &Frame, takes: &Takes) -> Option<Dropped> {
    let why = if frame.packet_len() > takes.maximum_packet_size as usize {
        ReasonCode::PacketTooLarge
    } else if frame.qos() > takes.maximum_qos {
        ReasonCode::QoSNotSupported
    } else if frame.retain() && !takes.retain {
        ReasonCode::RetainNotSupported
    } else {
        return None;
    };
    Some(Dropped::NotTaken(why))
}
