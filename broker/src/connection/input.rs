//! What was read, frame by frame. All PUBLISHes of one read are parsed first, under one lock of the publisher's session,
//! then routed together, then acknowledged.

use std::sync::Arc;

use forebay_wire::frame::{self, Frame};
use forebay_wire::publish::Publish;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS};

use super::end::End;
use super::worker::Scratch;
use super::{Connection, Shared, Stream};
use crate::broker::{Batch, RETRY_AFTER_MS, Source, Staged, Verdict};
use crate::codec::{self, AckKind, CodecError, Packet, encode};
use crate::message::Time;
use crate::session::{Awaited, Received, Session};

/// More QoS 1 and 2 messages than there are packet identifiers cannot be unacknowledged.
const UNACKNOWLEDGED_MAX: usize = 65_535;

/// Why the first pass over the frames stopped.
enum Stop {
    /// No further complete frame.
    Incomplete,
    /// What is staged must be routed before this frame can be looked at.
    Flush,
    /// A packet that changes more than its own session.
    Control(Frame),
    /// The connection is over.
    Over(End),
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
    now: Time,
    /// Something of this client waits for room already: what follows waits behind it.
    parked: bool,
    /// QoS 1 messages that are staged: the session does not know of their acks yet. (QoS 2 identifiers it knows.)
    staged_qos1: usize,
}

impl<S: Stream> Connection<S> {
    /// Handles all complete packets; returns how many bytes they were.
    pub(super) fn process(&mut self, scratch: &mut Scratch, bytes: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        loop {
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
                self.route(scratch, bytes, &mut staged);
                drop(staged);
            }
            drop(gate);
            match stop {
                Stop::Incomplete => return Ok(at),
                Stop::Flush => {}
                Stop::Over(end) => return Err(end),
                Stop::Control(frame) => {
                    let packet = bytes.get(at..at + frame.total()).unwrap_or_default();
                    self.control(&frame, packet)?;
                    at += frame.total();
                }
            }
        }
    }

    /// The first pass: PUBLISHes are staged, acks and pings are done, all else stops it.
    fn stage<'b>(&self, bytes: &'b [u8], at: &mut usize, staged: &mut Vec<Staged<'b>>, loan: &mut Loan) -> Stop {
        let broker = &self.on.broker;
        let parked = self.parked.is_some();
        let mut pass = Pass { on: &self.on, now: broker.clock.now(), parked, staged_qos1: 0 };
        let max_packet_size = broker.config.limits.max_packet_size;
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
                    frame::PUBLISH => pass.publish(session, &frame, packet, *at, staged, loan),
                    frame::PUBACK | frame::PUBREC | frame::PUBREL | frame::PUBCOMP => pass.ack(session, &frame, packet),
                    frame::PINGREQ if frame.remaining_len == 0 => {
                        session.control(encode::pingresp);
                        Ok(true)
                    }
                    _ => return Stop::Control(frame),
                };
                match done {
                    Ok(true) => *at += frame.total(),
                    Ok(false) => return Stop::Flush,
                    Err(end) => return Stop::Over(end),
                }
            }
        })
    }

    /// The second and third pass: fan-out, then acks in order.
    fn route(&mut self, scratch: &mut Scratch, bytes: &[u8], staged: &mut [Staged<'_>]) {
        let broker = &self.on.broker;
        broker.counters.publish_received.add(staged.len() as u64);
        if let Some(pace) = &mut self.pace {
            pace.messages(staged.len());
        }
        let batch = Batch { origin: Some(&self.slot), version: self.version, bytes };
        broker.fan_out(&mut scratch.cache, batch, staged);
        if staged.iter().all(|s| s.ack.is_none()) {
            return;
        }
        let now = broker.clock.now();
        let (v5, slot) = (self.version.is_v5(), &self.slot);
        let parked = &mut self.parked;
        slot.with(broker, |session| {
            let mut behind = parked.is_some();
            for staged in staged.iter_mut() {
                let Some((kind, id)) = staged.ack else { continue };
                if staged.verdict == Verdict::Full && v5 {
                    broker.counters.publish_refused.add(1);
                    session.refuse(kind, id, ReasonCode::QuotaExceeded, Some(RETRY_AFTER_MS));
                } else if staged.verdict == Verdict::Full {
                    behind = true;
                    broker.counters.publish_parked.add(1);
                    let message = staged.shared(now, Some(slot));
                    // Taken again when the message finds room: on disk the identifier must never be there without it.
                    session.forget_qos2(id);
                    parked.get_or_insert_default().push(message, kind, id, staged.durability);
                } else {
                    let refusable = !staged.sent_once;
                    let message = staged.message.take().filter(|_| staged.waits);
                    let message = message.map(|message| Awaited { message, refusable });
                    session.acknowledge(kind, id, staged.reason(), message);
                }
            }
            if behind {
                slot.wake();
            }
        });
    }
}

impl Pass<'_> {
    /// False: what is staged must go first.
    fn publish<'b>(
        &mut self,
        session: &mut Session,
        frame: &Frame,
        packet: &'b [u8],
        at: usize,
        staged: &mut Vec<Staged<'b>>,
        loan: &mut Loan,
    ) -> Result<bool, End> {
        let publish = codec::read_publish(session.version(), frame, packet, &self.on.limits)?;
        let alias = self.alias(session, &publish)?;
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let ack = match publish.packet_id {
            None => None,
            Some(id) => {
                let room = self.unacknowledged_max(session).saturating_sub(self.staged_qos1);
                match admit(session, publish.qos, id, room, !staged.is_empty()) {
                    Admitted::Yes(kind) => Some((kind, id)),
                    Admitted::Repeated => return Ok(true),
                    Admitted::AfterTheOthers => return Ok(false),
                    Admitted::No => {
                        return Err(over("MQTT5-3.3.4-9", "more unacknowledged messages than the Receive Maximum"));
                    }
                }
            }
        };
        if topic.starts_with("$SYS/") {
            self.refuse_sys(session, ack);
            return Ok(true);
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
        if self.parked && ack.is_some() && !session.version().is_v5() {
            one.verdict = Verdict::Full;
        }
        let plain = publish.qos == QoS::AtMostOnce && !publish.retain && publish.expiry_s.is_none() && alias.is_none();
        if plain && publish.topic_alias.is_none() && publish.forwarded().is_some() {
            one.frame = Some(at..at + packet.len());
        }
        if publish.forwarded().is_none() {
            let mut forwarded = Vec::new();
            publish.each_forwarded(|bytes| forwarded.extend_from_slice(bytes));
            loan.properties.push((staged.len(), forwarded));
        }
        if let Some(topic) = alias {
            loan.topics.push((staged.len(), topic));
        }
        staged.push(one);
        Ok(true)
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
            session.bind_alias(alias, publish.topic);
            return Ok(None);
        }
        match session.resolve_alias(alias) {
            Some(topic) => Ok(Some(topic)),
            None => {
                Err(peer(ReasonCode::ProtocolError, "MQTT5-3.3.2.3.4", "a topic alias that was never given a topic"))
            }
        }
    }

    /// `$SYS` is the broker's own.
    fn refuse_sys(&self, session: &mut Session, ack: Option<(AckKind, PacketId)>) {
        self.on.broker.counters.publish_refused.add(1);
        if let Some((kind, id)) = ack {
            session.refuse(kind, id, ReasonCode::NotAuthorized, None);
        }
    }

    fn ack(&self, session: &mut Session, frame: &Frame, packet: &[u8]) -> Result<bool, End> {
        let packet = codec::read_packet(session.version(), frame, packet, &self.on.limits)?;
        if let Packet::Ack { kind, id, reason } = packet {
            let known = match kind {
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
        Ok(true)
    }
}

enum Admitted {
    /// To be routed, then acknowledged like this.
    Yes(AckKind),
    /// A repetition, acknowledged.
    Repeated,
    /// It would be acknowledged before those that are staged.
    AfterTheOthers,
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
    if some_staged && session.has_received(id) {
        return Admitted::AfterTheOthers;
    }
    match session.receive_qos2(id, room) {
        Received::New => Admitted::Yes(AckKind::Pubrec),
        Received::Duplicate => {
            session.acknowledge(AckKind::Pubrec, id, ReasonCode::Success, None);
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
