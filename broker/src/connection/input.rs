//! What was read, frame by frame. All PUBLISHes of one read are parsed first, under one lock of the publisher's session,
//! then routed together, then acknowledged.

use std::sync::Arc;

use forebay_wire::frame::{self, Frame};
use forebay_wire::publish::Publish;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS};

use super::end::End;
use super::worker::Scratch;
use super::{Connection, Shared, Stream, mount, trace};
use crate::access::Rights;
use crate::broker::{Batch, Broker, Budget, RETRY_AFTER_MS, Slot, Source, Staged, Verdict};
use crate::codec::{self, AckKind, CodecError, Packet, encode};
use crate::message::Time;
use crate::schedules::{self, Body, Description};
use crate::session::{Awaited, Received, SHARED_PAYLOAD_BYTES, Session};

/// More QoS 1 and 2 messages than there are packet identifiers cannot be unacknowledged.
const UNACKNOWLEDGED_MAX: usize = 65_535;

/// PUBLISHes that are routed together at most, and those of a connection's first batch: it is not known yet what they cost.
const BATCH_MAX: usize = 1024;
pub(super) const FIRST_BATCH: usize = 64;

/// Why the first pass over the frames stopped.
enum Stop {
    /// No further complete frame.
    Incomplete,
    /// What is staged must be routed before this frame can be looked at.
    Flush,
    /// A packet that changes more than its own session.
    Control(Frame),
    /// This frame is the next turn's: its identifier is another connection's, which was taken over and is routing.
    NextTurn,
    /// The connection is over.
    Over(End),
}

/// What became of one frame of the first pass.
enum Done {
    Yes,
    /// What is staged must go first.
    Flush,
    /// Not in this turn.
    NextTurn,
}

/// What staged messages borrow that does not lie in what was read.
#[derive(Default)]
struct Loan {
    topics: Vec<(usize, Arc<str>)>,
    properties: Vec<(usize, Vec<u8>)>,
}

/// Surroundings of the first pass.
struct Pass<'c> {
    on: &'c Shared,
    slot: &'c Arc<Slot>,
    rights: Option<&'c Rights>,
    now: Time,
    /// QoS 1 messages that are staged: the session does not know of their acks yet. (QoS 2 identifiers it knows.)
    staged_qos1: usize,
}

impl<S: Stream> Connection<S> {
    /// Handles all complete packets; returns how many bytes they were.
    ///
    /// They are all complete packets, unless the turn is over before, as much is parked as may be, or one is for the next
    /// turn: then `tail_is_fresh`.
    pub(super) fn process(&mut self, scratch: &mut Scratch, bytes: &[u8], budget: &Budget) -> Result<usize, End> {
        let mut at = 0;
        loop {
            if at < bytes.len() && (budget.is_spent() || self.is_parked_full()) {
                self.tail_is_fresh = true;
                return Ok(at);
            }
            let mut loan = Loan::default();
            let mut staged: Vec<Staged<'_>> = Vec::new();
            let on = self.on.clone();
            let gate = on.broker.writer.gate();
            let stop = self.stage(bytes, &mut at, &mut staged, &mut loan);
            if !staged.is_empty() {
                for (index, topic) in &loan.topics {
                    if let Some(staged) = staged.get_mut(*index) {
                        staged.source.topic = topic;
                    }
                }
                for (index, properties) in &loan.properties {
                    if let Some(staged) = staged.get_mut(*index) {
                        staged.source.properties = properties;
                    }
                }
                self.route(scratch, bytes, &mut staged, budget);
                drop(staged);
            }
            drop(gate);
            match stop {
                Stop::Incomplete => return Ok(at),
                Stop::Flush => {}
                Stop::NextTurn => {
                    self.tail_is_fresh = true;
                    self.goes_on = true;
                    return Ok(at);
                }
                Stop::Over(end) => return Err(end),
                Stop::Control(frame) => {
                    let packet = bytes.get(at..at + frame.total()).unwrap_or_default();
                    self.control(&frame, packet, budget)?;
                    at += frame.total();
                }
            }
        }
    }

    /// The first pass: PUBLISHes are staged, acks and pings are done, all else stops it.
    /// PUBLISHes of one batch are as many as a turn has time for, as far as the last batch tells.
    fn stage<'b>(&self, bytes: &'b [u8], at: &mut usize, staged: &mut Vec<Staged<'b>>, loan: &mut Loan) -> Stop {
        let broker = &self.on.broker;
        let mut pass = Pass {
            on: &self.on,
            slot: &self.slot,
            rights: self.rights.as_deref(),
            now: broker.clock.now(),
            staged_qos1: 0,
        };
        let max_packet_size = self.on.max_packet_size;
        self.slot.with(broker, |session| {
            if session.epoch() != self.epoch || session.ended() {
                return Stop::Over(End::TakenOver);
            }
            loop {
                let rest = bytes.get(*at..).unwrap_or_default();
                let frame = match frame::peek(rest, max_packet_size) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Stop::Incomplete,
                    Err(error) => return Stop::Over(error.into()),
                };
                if let Err(error) = frame.check(self.version) {
                    return Stop::Over(error.into());
                }
                let Some(packet) = rest.get(..frame.total()) else { return Stop::Incomplete };
                let done = match frame.packet_type() {
                    frame::PUBLISH if staged.len() >= self.batch_max => return Stop::Flush,
                    frame::PUBLISH => pass.publish(session, &frame, packet, *at, staged, loan),
                    frame::PUBACK | frame::PUBREC | frame::PUBREL | frame::PUBCOMP => pass.ack(session, &frame, packet),
                    frame::PINGREQ if frame.remaining_len == 0 => {
                        session.control(encode::pingresp);
                        Ok(Done::Yes)
                    }
                    _ => {
                        trace::received(session, &frame, packet);
                        return Stop::Control(frame);
                    }
                };
                match done {
                    Ok(Done::Yes) => {
                        trace::received(session, &frame, packet);
                        *at += frame.total();
                    }
                    Ok(Done::Flush) => return Stop::Flush,
                    Ok(Done::NextTurn) => return Stop::NextTurn,
                    Err(end) => return Stop::Over(end),
                }
            }
        })
    }

    /// The second and third pass: fan-out, then acks in order.
    fn route(&mut self, scratch: &mut Scratch, bytes: &[u8], staged: &mut [Staged<'_>], budget: &Budget) {
        let broker = &self.on.broker;
        broker.counters.publish_received.add(staged.len() as u64);
        if let Some(pace) = &mut self.pace {
            pace.messages(staged.len());
        }
        // Behind a message that waits for room everything of the same publisher waits, at QoS 0 as well [MQTT-4.6.0].
        if self.parked.is_none() {
            let before = budget.left();
            let (origin, version) = (Some(&self.slot), self.version);
            let batch = Batch { origin, version, bytes, budget: Some(budget), ..Batch::OWN };
            broker.fan_out(&mut scratch.cache, batch, staged);
            let spent = before - budget.left();
            let routed = staged.iter().filter(|staged| staged.verdict != Verdict::Open).count();
            let wanted = budget.messages(spent / routed.max(1));
            self.batch_max = wanted.min(self.batch_max.saturating_mul(2)).min(BATCH_MAX);
        }
        let v5 = self.version.is_v5();
        if staged.iter().all(|s| s.ack.is_none() && !is_to_wait(s, v5)) {
            return;
        }
        let now = broker.clock.now();
        let (slot, parked, epoch) = (&self.slot, &mut self.parked, self.epoch);
        let has_room = parked.is_none() && staged.iter().all(|staged| staged.verdict != Verdict::Full);
        slot.with(broker, |session| {
            let is_served = session.epoch() == epoch;
            session.end_qos2(count_qos2(staged));
            for staged in staged.iter_mut() {
                if is_to_wait(staged, v5) {
                    if !has_room {
                        broker.counters.publish_parked.add(1);
                    }
                    // Taken again when the message finds room: on disk the identifier must never be there without it.
                    staged.ack.iter().for_each(|(_, id)| session.forget_qos2(*id));
                    let message = staged.shared(now, Some(slot));
                    parked.get_or_insert_default().push(message, staged.ack, staged.durability);
                } else if is_served {
                    acknowledge(broker, session, staged);
                } else {
                    settle_taken_over(session, staged);
                }
            }
            if parked.is_some() {
                slot.wake();
            }
        });
    }
}

/// Whether a message that was routed, or not, is to be tried again.
pub(super) fn is_to_wait(staged: &Staged<'_>, v5: bool) -> bool {
    match staged.verdict {
        Verdict::Open => true,
        Verdict::Full => staged.ack.is_some() && !v5,
        Verdict::Taken | Verdict::Nobody | Verdict::Duplicate | Verdict::Refused(_) => false,
    }
}

/// PUBLISHes of QoS 2 among them.
pub(super) fn count_qos2(staged: &[Staged<'_>]) -> usize {
    staged.iter().filter(|staged| matches!(staged.ack, Some((AckKind::Pubrec, _)))).count()
}

/// Another connection has taken over: its client sends the message again. At QoS 2 it is known by its identifier then, unless it
/// went nowhere; at QoS 1 the identifier may be another message's by now.
pub(super) fn settle_taken_over(session: &mut Session, staged: &mut Staged<'_>) {
    let Some((AckKind::Pubrec, id)) = staged.ack else { return };
    match staged.verdict {
        Verdict::Open | Verdict::Full | Verdict::Refused(_) => session.forget_qos2(id),
        Verdict::Taken | Verdict::Nobody | Verdict::Duplicate => session.keep_qos2(id, awaited(staged).as_ref()),
    }
}

/// What its ack waits for.
fn awaited(staged: &mut Staged<'_>) -> Option<Awaited> {
    let refusable = !staged.sent_once;
    let message = staged.message.take().filter(|_| staged.waits);
    message.map(|message| Awaited { message, refusable })
}

/// Acknowledges a message that was routed, as it deserves.
pub(super) fn acknowledge(broker: &Broker, session: &mut Session, staged: &mut Staged<'_>) {
    let Some((kind, id)) = staged.ack else { return };
    if staged.verdict == Verdict::Full {
        broker.counters.publish_refused.add(1);
        session.refuse(kind, id, ReasonCode::QuotaExceeded, Some(RETRY_AFTER_MS));
    } else if let Verdict::Refused(reason) = staged.verdict {
        broker.counters.publish_refused.add(1);
        session.refuse(kind, id, reason, None);
    } else {
        let message = awaited(staged);
        if staged.verdict == Verdict::Duplicate {
            session.acknowledge_duplicate(kind, id, message);
        } else {
            session.acknowledge(kind, id, staged.reason(), message);
        }
    }
}

impl Pass<'_> {
    fn publish<'b>(
        &mut self,
        session: &mut Session,
        frame: &Frame,
        packet: &'b [u8],
        at: usize,
        staged: &mut Vec<Staged<'b>>,
        loan: &mut Loan,
    ) -> Result<Done, End> {
        let publish = codec::read_publish(session.version(), frame, packet, &self.on.limits)?;
        let alias = self.alias(session, &publish)?;
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let ack = match publish.packet_id {
            None => None,
            Some(id) => {
                let room = self.unacknowledged_max(session).saturating_sub(self.staged_qos1);
                match admit(session, publish.qos, id, room, !staged.is_empty()) {
                    Admitted::Yes(kind) => Some((kind, id)),
                    Admitted::Repeated => return Ok(Done::Yes),
                    Admitted::AfterTheOthers => return Ok(Done::Flush),
                    Admitted::NextTurn => return Ok(Done::NextTurn),
                    Admitted::No => {
                        return Err(over("MQTT5-3.3.4-9", "more unacknowledged messages than the Receive Maximum"));
                    }
                }
            }
        };
        let whole = match self.on.listener.mount_point.as_deref() {
            None => alias,
            Some(point) => match mount::whole_name(point, topic, self.on.limits.max_topic_levels) {
                Ok(whole) => Some(Arc::from(whole)),
                Err(reason) => {
                    self.refuse(session, ack, reason);
                    return Ok(Done::Yes);
                }
            },
        };
        let topic = whole.as_deref().unwrap_or(publish.topic);
        if let Some(reason) = not_for_clients(topic) {
            self.refuse(session, ack, reason);
            return Ok(Done::Yes);
        }
        if let Some(rights) = self.rights
            && !(rights.may_publish(topic, publish.qos as u8, publish.retain)
                && may_schedule(rights, topic, publish.payload))
        {
            self.deny(session, ack, rights, topic)?;
            return Ok(Done::Yes);
        }
        if let Some(reason) = self.on.broker.control(self.slot, topic, publish.payload) {
            match (reason, ack) {
                (ReasonCode::Success, Some((kind, id))) => session.acknowledge(kind, id, reason, None),
                (ReasonCode::Success, None) => {}
                _ => self.refuse(session, ack, reason),
            }
            return Ok(Done::Yes);
        }
        let source = Source {
            topic: publish.topic,
            properties: publish.forwarded().unwrap_or_default(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            expires_at: publish.expiry_s.map(|s| self.now.plus_s(s)),
        };
        let mut one = Staged::new(source, self.on.durability(topic));
        one.ack = ack;
        self.staged_qos1 += usize::from(publish.qos == QoS::AtLeastOnce);
        session.begin_qos2(usize::from(publish.qos == QoS::ExactlyOnce));
        let plain = publish.qos == QoS::AtMostOnce && !publish.retain && publish.expiry_s.is_none() && whole.is_none();
        let small = publish.payload.len() < SHARED_PAYLOAD_BYTES;
        if plain && small && publish.topic_alias.is_none() && publish.forwarded().is_some() {
            one.frame = Some(at..at + packet.len());
        }
        if publish.forwarded().is_none() {
            let mut forwarded = Vec::new();
            publish.each_forwarded(|bytes| forwarded.extend_from_slice(bytes));
            loan.properties.push((staged.len(), forwarded));
        }
        if let Some(topic) = whole {
            loan.topics.push((staged.len(), topic));
        }
        staged.push(one);
        Ok(Done::Yes)
    }

    fn unacknowledged_max(&self, session: &Session) -> usize {
        if session.version().is_v5() {
            usize::from(self.on.broker.settings.receive_maximum)
        } else {
            UNACKNOWLEDGED_MAX
        }
    }

    /// The topic that an alias stands for; binds one that comes with its topic [MQTT5-3.3.2-7], [MQTT5-3.3.2-8].
    fn alias(&self, session: &mut Session, publish: &Publish<'_>) -> Result<Option<Arc<str>>, End> {
        let Some(alias) = publish.topic_alias else { return Ok(None) };
        if alias == 0 || alias > self.on.broker.config.limits.topic_alias_maximum {
            let detail = "topic alias 0, or over the Topic Alias Maximum";
            return Err(peer(ReasonCode::TopicAliasInvalid, "MQTT5-3.3.2-9", detail));
        }
        if !publish.topic.is_empty() {
            if !session.bind_alias(alias, publish.topic) {
                let detail = "the topics behind this connection's aliases are too long together";
                return Err(peer(ReasonCode::QuotaExceeded, "MQTT5-4.13.2", detail));
            }
            return Ok(None);
        }
        match session.resolve_alias(alias) {
            Some(topic) => Ok(Some(topic)),
            None => {
                Err(peer(ReasonCode::ProtocolError, "MQTT5-3.3.2.3.4", "a topic alias that was never given a topic"))
            }
        }
    }

    /// Before MQTT 5 there is no word for it: it is acknowledged and discarded.
    fn refuse(&self, session: &mut Session, ack: Option<(AckKind, PacketId)>, reason: ReasonCode) {
        self.on.broker.counters.publish_refused.add(1);
        if let Some((kind, id)) = ack {
            session.refuse(kind, id, reason, None);
        }
    }

    /// Not allowed: MQTT 5 is told for the one packet, others as the configuration says.
    fn deny(
        &self,
        session: &mut Session,
        ack: Option<(AckKind, PacketId)>,
        rights: &Rights,
        topic: &str,
    ) -> Result<(), End> {
        self.on.broker.counters.publish_denied.add(1);
        let who = rights.who();
        tracing::info!(client = &*who.client_id, user = ?who.user, topic = ?topic, "PUBLISH denied by the ACL");
        if !session.version().is_v5() && rights.disconnects() {
            if let Some((AckKind::Pubrec, id)) = ack {
                session.forget_qos2(id);
            }
            return Err(peer(ReasonCode::NotAuthorized, "MQTT-3.3.5-2", "a PUBLISH that the client may not make"));
        }
        self.refuse(session, ack, ReasonCode::NotAuthorized);
        Ok(())
    }

    fn ack(&self, session: &mut Session, frame: &Frame, packet: &[u8]) -> Result<Done, End> {
        let packet = codec::read_packet(session.version(), frame, packet, &self.on.limits)?;
        if let Packet::Ack { kind, id, reason, retry_after_ms } = packet {
            if session.is_wrong_ack(kind, id) {
                let detail = "an ack of another kind than the message in flight waits for";
                return Err(peer(ReasonCode::ProtocolError, "MQTT5-4.13.1-1", detail));
            }
            let known = match kind {
                AckKind::Puback if session.settle_lent(id, reason, retry_after_ms) => true,
                AckKind::Puback => session.receive_puback(id, reason),
                AckKind::Pubrec => {
                    session.receive_pubrec(id, reason);
                    true
                }
                AckKind::Pubrel => {
                    session.receive_pubrel(id);
                    true
                }
                AckKind::Pubcomp => session.receive_pubcomp(id),
            };
            if !known {
                self.on.broker.counters.acks_unexpected.add(1);
            }
        }
        Ok(Done::Yes)
    }
}

/// Why no client may publish to the topic: `$SYS` is the broker's own, and `$share` is no part of a topic.
pub(super) fn not_for_clients(topic: &str) -> Option<ReasonCode> {
    if !topic.starts_with("$S") && !topic.starts_with("$s") {
        None
    } else if topic.starts_with("$SYS/") {
        Some(ReasonCode::NotAuthorized)
    } else {
        topic.starts_with("$share/").then_some(ReasonCode::TopicNameInvalid)
    }
}

/// Whether a client may do what a schedule does: publish its message, and read its payload. All else is not asked here.
pub(super) fn may_schedule(rights: &Rights, topic: &str, payload: &[u8]) -> bool {
    if !topic.starts_with(schedules::PREFIX) {
        return true;
    }
    let Ok(schedule) = Description::read(payload) else { return true };
    let reads = match &schedule.body {
        Body::Text(_) => true,
        Body::RetainedOf(topic) => rights.may_subscribe(topic) && rights.may_receive(topic),
    };
    reads && rights.may_publish(&schedule.topic, schedule.qos, schedule.retain)
}

/// Why no client may have a will on the topic. A schedule is checked when it is published, and its publisher is told.
pub(super) fn not_for_wills(topic: &str) -> Option<ReasonCode> {
    not_for_clients(topic).or_else(|| topic.starts_with(schedules::PREFIX).then_some(ReasonCode::TopicNameInvalid))
}

enum Admitted {
    /// To be routed, then acknowledged like this.
    Yes(AckKind),
    /// A repetition, acknowledged.
    Repeated,
    /// It would be acknowledged before those that are staged.
    AfterTheOthers,
    /// It may be a repetition of what a connection that was taken over is routing.
    NextTurn,
    /// Too many.
    No,
}

fn admit(session: &mut Session, qos: QoS, id: PacketId, room: usize, some_staged: bool) -> Admitted {
    if qos != QoS::ExactlyOnce {
        return match session.receive_qos1(room) {
            Received::New => Admitted::Yes(AckKind::Puback),
            Received::Duplicate | Received::TooMany => Admitted::No,
        };
    }
    if session.has_received(id) {
        if some_staged {
            return Admitted::AfterTheOthers;
        }
        if session.has_undecided() {
            return Admitted::NextTurn;
        }
    }
    match session.receive_qos2(id, room) {
        Received::New => Admitted::Yes(AckKind::Pubrec),
        Received::Duplicate => {
            session.acknowledge_repeated(id);
            Admitted::Repeated
        }
        Received::TooMany => Admitted::No,
    }
}

fn peer(reason: ReasonCode, statement: &'static str, detail: &'static str) -> End {
    End::Peer(CodecError::new(reason, statement, detail))
}

fn over(statement: &'static str, detail: &'static str) -> End {
    peer(ReasonCode::ReceiveMaximumExceeded, statement, detail)
}
