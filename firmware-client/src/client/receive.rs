//! What comes from the server.

use super::{Client, NEVER, Phase, QOS2};
use crate::arena::{DUE, State};
use crate::decode::{self, Answer};
use crate::event::{Event, Farewell, Pressure, Received, Session};
use crate::inbound::{INBOUND_MAX, Owed};
use crate::input::Input;
use crate::message::{DropReason, Ticket};
use forebay_wire::ReasonCode;
use forebay_wire::frame::{self, Frame};
use forebay_wire::publish::{From, Publish};
use forebay_wire::types::{QoS, Version};

/// The payload that is being read in pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    left: u32,
    /// 0 when there is nothing to acknowledge.
    id: u16,
    qos: u8,
    state: Streaming,
    reason: ReasonCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    No,
    /// The application gets it.
    Yes,
    /// It is refused, and read past.
    Past,
}

impl Stream {
    pub(super) const NOTHING: Self = Self { left: 0, id: 0, qos: 0, state: Streaming::No, reason: ReasonCode::Success };
}

/// Where a text lies in the input.
type Place = (usize, usize);

/// What one step comes to. It borrows nothing, so that steps can follow each other.
enum Step {
    /// Nothing more for now.
    Idle,
    /// Handled, without a word.
    Again,
    Event(Event<'static>),
    Connected(Session, Place),
    Farewell {
        refused: bool,
        reason: ReasonCode,
        retry_after_ms: Option<u32>,
        text: Place,
    },
    Message {
        start: bool,
        shape: Shape,
    },
    Chunk(usize, usize),
}

/// Where the parts of a PUBLISH lie in the input.
struct Shape {
    first_byte: u8,
    topic: Place,
    properties: Place,
    payload: Place,
    payload_len: u32,
}

impl Client<'_> {
    /// Handles what has come, up to the next thing that is worth telling. `None`: nothing more for now. Then transmit;
    /// when anything was transmitted, ask here again before waiting for more to come: what cannot be answered yet is not
    /// read.
    ///
    /// The message of the last event counts as handled, and is acknowledged.
    pub fn poll_event<'i>(&mut self, now: u64, input: &'i mut Input<'_>) -> Option<Event<'i>> {
        self.set_time(now);
        self.inbound.release();
        let step = loop {
            if let Some(fault) = self.fault.take() {
                return Some(Event::Fault(fault));
            }
            match self.step(input) {
                Ok(Step::Idle) => return None,
                Ok(Step::Again) => {}
                Ok(step) => break step,
                Err(reason) => self.fail(reason),
            }
        };
        Some(match step {
            Step::Event(event) => event,
            Step::Chunk(at, len) => Event::MessageChunk(input.part(at, len)),
            Step::Connected(session, text) => Event::Connected { session, assigned_client_id: text_at(input, text) },
            Step::Farewell { refused, reason, retry_after_ms, text } => {
                let farewell = Farewell { reason, server_reference: text_at(input, text), retry_after_ms };
                if refused { Event::Refused(farewell) } else { Event::Disconnected(farewell) }
            }
            Step::Message { start, shape } => {
                let received = Received {
                    topic: text_at(input, shape.topic).unwrap_or_default(),
                    qos: QoS::try_from(shape.first_byte >> 1 & 3).unwrap_or(QoS::AtMostOnce),
                    retain: shape.first_byte & 1 != 0,
                    dup: shape.first_byte & 8 != 0,
                    payload_len: shape.payload_len,
                    payload: input.part(shape.payload.0, shape.payload.1),
                    properties: input.part(shape.properties.0, shape.properties.1),
                };
                if start { Event::MessageStart(received) } else { Event::Message(received) }
            }
            Step::Idle | Step::Again => return None,
        })
    }

    /// Refuses the message of the last event, instead of acknowledging it: MQTT 5 tells the server why, with a code of
    /// PUBACK (0x80, 0x83, 0x87, 0x90, 0x97 or 0x99). In MQTT 3.1.1 it is acknowledged all the same. What is left of a
    /// message that comes in pieces is read past, without events.
    pub fn refuse(&mut self, reason: ReasonCode) {
        let reason = if self.v5() { reason } else { ReasonCode::Success };
        if self.stream.state == Streaming::Yes {
            self.stream.state = Streaming::Past;
            self.stream.reason = reason;
        } else {
            self.inbound.answer(reason);
        }
    }

    #[inline(never)]
    fn step(&mut self, input: &mut Input<'_>) -> Result<Step, ReasonCode> {
        if !matches!(self.phase, Phase::ConnAck | Phase::Up) {
            return Ok(Step::Idle);
        }
        if self.stream.state != Streaming::No {
            return Ok(self.step_stream(input));
        }
        if !self.inbound.has_room() {
            return Ok(Step::Idle);
        }
        let (v5, bytes) = (self.v5(), input.pending());
        let largest =
            if v5 && self.options.maximum_packet_size > 0 { self.options.maximum_packet_size } else { u32::MAX };
        let Some(frame) = frame::peek(bytes, largest).map_err(decode::code_of)? else {
            return if input.is_full() { Err(ReasonCode::PacketTooLarge) } else { Ok(Step::Idle) };
        };
        frame.check(if v5 { Version::V5 } else { Version::V311 }).map_err(decode::code_of)?;
        let kind = frame.packet_type();
        if (kind == frame::CONNACK) != (self.phase == Phase::ConnAck) {
            return Err(ReasonCode::ProtocolError);
        }
        if kind == frame::PUBLISH {
            return self.on_publish(frame, input);
        }
        let Some(body) = bytes.get(frame.header_len..frame.total()) else {
            let fits = frame.total() <= input.capacity();
            return if fits { Ok(Step::Idle) } else { Err(ReasonCode::PacketTooLarge) };
        };
        let step = self.on_packet(kind, body, input)?;
        self.heard(input, frame.total());
        Ok(step)
    }

    /// The server is there.
    fn heard(&mut self, input: &mut Input<'_>, len: usize) -> usize {
        self.last_rx = self.clock.now();
        self.asked_at = NEVER;
        input.consume(len)
    }

    fn on_packet(&mut self, kind: u8, body: &[u8], input: &Input<'_>) -> Result<Step, ReasonCode> {
        let v5 = self.v5();
        match kind {
            frame::CONNACK => self.on_connack(body, input),
            frame::PUBACK => self.on_puback(decode::ack(body, v5)?),
            frame::PUBREC if QOS2 => self.on_pubrec(decode::ack(body, v5)?),
            frame::PUBREL if QOS2 => Ok(self.on_pubrel(decode::ack(body, v5)?)),
            frame::PUBCOMP if QOS2 => self.on_pubcomp(decode::ack(body, v5)?),
            frame::SUBACK => self.on_suback(decode::suback(body, v5, true)?),
            frame::UNSUBACK => self.on_unsuback(decode::suback(body, v5, v5)?),
            frame::PINGRESP if body.is_empty() => {
                self.ping_at = NEVER;
                Ok(Step::Again)
            }
            frame::PINGRESP => Err(ReasonCode::MalformedPacket),
            frame::DISCONNECT if v5 => {
                let (reason, said) = decode::disconnect(body)?;
                self.on_farewell(reason, said.retry_after_ms);
                let text = place(input, said.text.unwrap_or_default());
                Ok(Step::Farewell { refused: false, reason, retry_after_ms: said.retry_after_ms, text })
            }
            // What only a client sends; and AUTH, since no method was proposed [MQTT5-4.12.0-6].
            _ => Err(ReasonCode::ProtocolError),
        }
    }

    fn on_connack(&mut self, body: &[u8], input: &Input<'_>) -> Result<Step, ReasonCode> {
        let ack = decode::connack(body, self.v5())?;
        let text = place(input, ack.said.text.unwrap_or_default());
        if ack.reason == ReasonCode::Success {
            return Ok(self.on_accepted(&ack)?.map_or(Step::Again, |session| Step::Connected(session, text)));
        }
        self.on_farewell(ack.reason, ack.said.retry_after_ms);
        Ok(Step::Farewell { refused: true, reason: ack.reason, retry_after_ms: ack.said.retry_after_ms, text })
    }

    fn on_publish(&mut self, frame: Frame, input: &mut Input<'_>) -> Result<Step, ReasonCode> {
        let bytes = input.pending();
        let whole = bytes.len() >= frame.total();
        if !whole && frame.total() <= input.capacity() {
            return Ok(Step::Idle);
        }
        let end = frame.total().min(bytes.len());
        let body = bytes.get(frame.header_len..end).unwrap_or_default();
        let version = if self.v5() { Version::V5 } else { Version::V311 };
        let publish = match Publish::parse_head(version, From::Server, frame.first_byte, body, usize::MAX) {
            Ok(publish) => publish,
            Err(error) if whole || error.reason != ReasonCode::MalformedPacket => return Err(error.reason),
            // Its head may not be complete; it has to fit the buffer.
            Err(_) if input.is_full() => return Err(ReasonCode::PacketTooLarge),
            Err(_) => return Ok(Step::Idle),
        };
        if publish.topic_alias.is_some() {
            // This client allows none [MQTT5-3.3.2-9].
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let id = publish.packet_id.map_or(0, |id| id.get());
        let head_len = end.wrapping_sub(publish.payload.len());
        let payload_len = frame.total().wrapping_sub(head_len) as u32;
        let refused = payload_len > self.options.payload_max;
        let mut stream = Stream { left: payload_len, id, qos: publish.qos as u8, ..Stream::NOTHING };
        if publish.qos == QoS::ExactlyOnce {
            if !QOS2 {
                return Err(ReasonCode::QoSNotSupported);
            }
            if let Some(entry) = self.inbound.open(id) {
                if entry.owed == Owed::Comp {
                    // The identifier is free once the PUBCOMP is sent.
                    return Ok(Step::Idle);
                }
                if publish.dup || !self.peer.doubtful {
                    entry.owed = Owed::Rec;
                    stream = Stream { id: 0, state: Streaming::Past, ..stream };
                } else {
                    // A message that comes for the first time, in a session that is not the one this identifier is of.
                    self.inbound.forget(id);
                }
            }
        }
        if stream.id != 0 && self.inbound.in_flight() >= self.receive_maximum() {
            // 3.1.1 knows no such limit, so what is owed is paid first.
            let wait = !self.v5() && self.inbound.any_due();
            return if wait { Ok(Step::Idle) } else { Err(ReasonCode::ReceiveMaximumExceeded) };
        }
        if stream.state == Streaming::Past || refused || !whole {
            let again = stream.state == Streaming::Past;
            stream.state = if again || refused { Streaming::Past } else { Streaming::Yes };
            if refused && self.v5() {
                stream.reason = ReasonCode::QuotaExceeded;
            }
            self.stream = stream;
            let shape = shape(input, frame.first_byte, &publish, payload_len, false);
            self.heard(input, head_len);
            return Ok(match (again, refused) {
                (true, _) => Step::Again,
                (false, true) => Step::Event(Event::MessageRefused { payload_len }),
                (false, false) => Step::Message { start: true, shape },
            });
        }
        self.note_pressure(publish.topic, publish.payload);
        let shape = shape(input, frame.first_byte, &publish, payload_len, true);
        self.owe(&stream);
        self.heard(input, frame.total());
        Ok(Step::Message { start: false, shape })
    }

    /// How many messages the server may have in flight.
    pub(super) fn receive_maximum(&self) -> usize {
        if self.v5() { usize::from(self.options.receive_maximum).clamp(1, INBOUND_MAX) } else { INBOUND_MAX }
    }

    /// The application has been given all of a message.
    fn owe(&mut self, stream: &Stream) {
        if stream.id != 0 {
            let owed = if stream.qos == 2 { Owed::RecLater } else { Owed::AckLater };
            self.inbound.push(stream.id, owed, stream.reason);
        }
    }

    fn step_stream(&mut self, input: &mut Input<'_>) -> Step {
        if self.stream.left > 0 {
            let at = input.position();
            let len = input.consume(self.stream.left as usize);
            if len == 0 {
                return Step::Idle;
            }
            self.heard(input, 0);
            self.stream.left = self.stream.left.wrapping_sub(len as u32);
            return if self.stream.state == Streaming::Yes { Step::Chunk(at, len) } else { Step::Again };
        }
        let stream = self.stream;
        self.stream = Stream::NOTHING;
        self.owe(&stream);
        if stream.state == Streaming::Yes {
            return Step::Event(Event::MessageEnd);
        }
        self.inbound.release();
        Step::Again
    }

    /// What the server says of itself, for whoever subscribes to it.
    fn note_pressure(&mut self, topic: &str, payload: &[u8]) {
        if topic == "$SYS/broker/pressure" {
            self.peer.pressure = match payload {
                b"critical" => Pressure::Critical,
                b"high" => Pressure::High,
                _ => Pressure::Normal,
            };
        }
    }

    fn on_puback(&mut self, answer: Answer) -> Result<Step, ReasonCode> {
        match self.arena.find_id(answer.id, State::InFlight.bit()) {
            Some((_, head)) if head.qos() != 1 || self.tx.is_record(head.ticket) => Err(ReasonCode::ProtocolError),
            Some((at, head)) => Ok(self.settle(at, head, &answer)),
            // Of a message that is none of this session's any more.
            None => Ok(Step::Again),
        }
    }

    fn on_pubrec(&mut self, answer: Answer) -> Result<Step, ReasonCode> {
        let Some((at, mut head)) = self.arena.find_id(answer.id, State::InFlight.bit() | State::Released.bit()) else {
            if answer.reason.is_success() {
                self.inbound.push(answer.id, Owed::Rel, ReasonCode::PacketIdentifierNotFound);
            }
            return Ok(Step::Again);
        };
        if head.qos() != 2 || self.tx.is_record(head.ticket) {
            return Err(ReasonCode::ProtocolError);
        }
        if !answer.reason.is_success() && head.state == State::InFlight {
            return Ok(self.settle(at, head, &answer));
        }
        head.state = State::Released;
        head.flags |= DUE;
        self.arena.strip(at, &mut head);
        Ok(Step::Again)
    }

    fn on_pubrel(&mut self, answer: Answer) -> Step {
        match self.inbound.open(answer.id) {
            Some(entry) => {
                entry.owed = Owed::Comp;
                entry.reason = ReasonCode::Success;
            }
            None => self.inbound.push(answer.id, Owed::Comp, ReasonCode::PacketIdentifierNotFound),
        }
        Step::Again
    }

    fn on_pubcomp(&mut self, answer: Answer) -> Result<Step, ReasonCode> {
        match self.arena.find_id(answer.id, State::InFlight.bit() | State::Released.bit()) {
            Some((_, head)) if head.state != State::Released || self.tx.is_record(head.ticket) => {
                Err(ReasonCode::ProtocolError)
            }
            Some((at, head)) => {
                self.complete(at, &head);
                Ok(Step::Event(Event::Acknowledged { ticket: Ticket(head.ticket), reason: answer.reason }))
            }
            None => Ok(Step::Again),
        }
    }

    /// The server's answer to a message.
    fn settle(&mut self, at: usize, mut head: crate::arena::Head, answer: &Answer) -> Step {
        let (ticket, reason) = (Ticket(head.ticket), answer.reason);
        if reason.is_success() {
            self.complete(at, &head);
            return Step::Event(Event::Acknowledged { ticket, reason });
        }
        if matches!(reason, ReasonCode::QuotaExceeded | ReasonCode::PacketIdentifierInUse) {
            let retry_after_ms = self.postpone_ms(answer.retry_after_ms);
            self.hold_for(head.class() as usize, retry_after_ms);
            self.requeue(at, &mut head);
            return Step::Event(Event::Postponed { ticket, retry_after_ms });
        }
        self.drop_record(at, &head, DropReason::Refused);
        Step::Event(Event::Rejected { ticket, reason })
    }

    fn on_suback(&mut self, answer: Answer) -> Result<Step, ReasonCode> {
        let Some((at, mut head)) = self.arena.find_id(answer.id, State::SubSent.bit()) else { return Ok(Step::Again) };
        let code = answer.reason as u8;
        // [MQTT-3.9.3-2].
        if self.tx.is_record(head.ticket) || (!self.v5() && code > 2 && code != 0x80) {
            return Err(ReasonCode::ProtocolError);
        }
        if answer.reason.is_success() {
            self.forget_granted(at, &head);
            (head.state, head.id) = (State::SubGranted, 0);
            self.arena.set(at, &head);
        } else {
            self.arena.kill(at, &head);
        }
        Ok(Step::Event(Event::Subscribed { ticket: Ticket(head.ticket), reason: answer.reason }))
    }

    fn on_unsuback(&mut self, answer: Answer) -> Result<Step, ReasonCode> {
        let Some((at, head)) = self.arena.find_id(answer.id, State::UnsubSent.bit()) else { return Ok(Step::Again) };
        if self.tx.is_record(head.ticket) {
            return Err(ReasonCode::ProtocolError);
        }
        self.forget_granted(at, &head);
        self.arena.kill(at, &head);
        Ok(Step::Event(Event::Unsubscribed { ticket: Ticket(head.ticket), reason: answer.reason }))
    }
}

/// Where a part of the pending bytes lies.
fn place(input: &Input<'_>, text: &str) -> Place {
    place_of(input, text.as_bytes())
}

fn place_of(input: &Input<'_>, part: &[u8]) -> Place {
    let before = (part.as_ptr() as usize).wrapping_sub(input.pending().as_ptr() as usize);
    (input.position().wrapping_add(before), part.len())
}

fn text_at<'i>(input: &'i Input<'_>, (at, len): Place) -> Option<&'i str> {
    core::str::from_utf8(input.part(at, len)).ok().filter(|text| !text.is_empty())
}

fn shape(input: &Input<'_>, first_byte: u8, publish: &Publish<'_>, payload_len: u32, whole: bool) -> Shape {
    Shape {
        first_byte,
        topic: place(input, publish.topic),
        properties: place_of(input, publish.properties),
        payload: if whole { place_of(input, publish.payload) } else { (0, 0) },
        payload_len,
    }
}
