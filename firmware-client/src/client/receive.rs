//! What comes from the server.

use super::{Client, NEVER, Phase, QOS2};
use crate::arena::{DUE, State};
use crate::bytes;
use crate::decode::{self, Answer};
use crate::event::{Event, Farewell, Pressure, Received, Session};
use crate::inbound::{INBOUND_MAX, Owed};
use crate::input::Input;
use crate::logging::say;
use crate::message::{DropReason, Ticket};
use forebay_wire::frame::{self, Frame};
use forebay_wire::publish::{From, Publish};
use forebay_wire::read::Reader;
use forebay_wire::types::{QoS, Version};
use forebay_wire::{ReasonCode, WireError};

/// A message whose topic name and properties do not fit the buffer is read past, instead of ending the connection. In 3.1.1 it takes
/// a topic name of that length, which a device can rule out by its subscriptions.
const PASSES_HEADS: bool = cfg!(any(feature = "v5", feature = "undeliverable"));

/// The payload that is being read in pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    left: u32,
    /// 0 when there is nothing to acknowledge. Bytes that are left of the topic name, while that is read past.
    id: u16,
    first_byte: u8,
    state: Streaming,
    reason: ReasonCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streaming {
    No,
    /// The application gets it.
    Yes,
    /// It is refused, or its head was enough, and the rest is read past.
    Past,
    /// The same, and the packet identifier is still to come, behind the topic name.
    Topic,
}

/// What a packet identifier says of a message.
enum Arrival {
    New,
    /// It was delivered.
    Known,
    /// Something is to be sent first.
    Later,
}

impl Stream {
    /// A piece of a message, or its end, is there for the application.
    #[cfg(feature = "embedded-io-async")]
    pub(super) fn has_more(&self, pending: bool) -> bool {
        self.state == Streaming::Yes && (pending || self.left == 0)
    }

    /// Whether no payload is being read.
    #[cfg(feature = "embedded-io-async")]
    pub(super) fn is_idle(&self) -> bool {
        self.state == Streaming::No
    }

    #[inline]
    pub(super) fn nothing() -> Self {
        Self { left: 0, id: 0, first_byte: 0, state: Streaming::No, reason: ReasonCode::Success }
    }
}

/// What one step comes to. It borrows nothing, so that steps can follow each other.
enum Step {
    /// Nothing more for now.
    Idle,
    /// Handled, without a word.
    Again,
    Event(Event<'static>),
    /// The rest is in `Found`.
    Connected(Session),
    Farewell {
        refused: bool,
        reason: ReasonCode,
        retry_after_ms: Option<u32>,
    },
    Message,
    MessageStart,
    MessageChunk,
}

/// Where what an event borrows lies in the input.
struct Found {
    /// Where it begins.
    at: usize,
    /// Bytes of a text, or of the topic or the piece.
    len: usize,
    first_byte: u8,
    /// Where the payload begins; the properties end there.
    payload_at: usize,
    properties_len: usize,
    payload_len: u32,
}

impl Found {
    #[inline]
    fn nothing() -> Self {
        Self { at: 0, len: 0, first_byte: 0, payload_at: 0, properties_len: 0, payload_len: 0 }
    }

    fn text<'i>(&self, input: &'i Input<'_>) -> Option<&'i str> {
        core::str::from_utf8(input.part(self.at, self.len)).ok().filter(|text| !text.is_empty())
    }

    /// A text among the pending bytes.
    fn set_text(&mut self, input: &Input<'_>, text: Option<&str>) {
        let text = text.unwrap_or_default();
        let before = (text.as_ptr() as usize).wrapping_sub(input.pending().as_ptr() as usize);
        (self.at, self.len) = (input.position().wrapping_add(before), text.len());
    }
}

/// Reads past a head, whatever is in it; an error when it is not complete.
fn pass_head(body: &[u8], id_len: usize, v5: bool) -> Result<(), WireError> {
    let mut reader = Reader::new(body);
    reader.binary()?;
    reader.bytes(id_len)?;
    if v5 {
        let len = reader.varint()?;
        reader.bytes(len as usize)?;
    }
    Ok(())
}

/// How many bytes of a packet's body are understood without the others, where all of them do not fit the buffer; 0 is none. In MQTT 5
/// such a packet has many words in its properties. An acknowledgement that ended the connection would come again, as its message
/// does.
fn enough_of(kind: u8, v5: bool) -> usize {
    match kind {
        _ if !v5 => 0,
        frame::PUBACK..=frame::PUBCOMP => 3,
        frame::DISCONNECT => 1,
        _ => 0,
    }
}

impl Client<'_> {
    /// Handles what has come, up to the next thing that is worth telling. `None`: nothing more for now. Then transmit;
    /// when anything was transmitted, ask here again before waiting for more to come: what cannot be answered yet is not
    /// read.
    ///
    /// The message of the last event counts as handled, and is acknowledged.
    pub fn poll_event<'i>(&mut self, now: u64, input: &'i mut Input<'_>) -> Option<Event<'i>> {
        self.set_time(now);
        #[cfg(feature = "embedded-io-async")]
        self.release_unless_held();
        #[cfg(not(feature = "embedded-io-async"))]
        self.inbound.release();
        let mut found = Found::nothing();
        let step = loop {
            if let Some(fault) = self.fault.take() {
                return Some(Event::Fault(fault));
            }
            match self.step(input, &mut found) {
                Ok(Step::Idle) => return None,
                Ok(Step::Again) => {}
                Ok(step) => break step,
                Err(reason) => self.fail(reason),
            }
        };
        Some(match step {
            Step::Event(event) => event,
            Step::MessageChunk => Event::MessageChunk(input.part(found.at, found.len)),
            Step::Connected(session) => Event::Connected { session, assigned_client_id: found.text(input) },
            Step::Farewell { refused, reason, retry_after_ms } => {
                let farewell = Farewell { reason, server_reference: found.text(input), retry_after_ms };
                if refused { Event::Refused(farewell) } else { Event::Disconnected(farewell) }
            }
            Step::Message | Step::MessageStart => {
                let whole = matches!(step, Step::Message);
                let properties_at = found.payload_at.wrapping_sub(found.properties_len);
                let received = Received {
                    topic: found.text(input).unwrap_or_default(),
                    qos: QoS::try_from(found.first_byte >> 1 & 3).unwrap_or(QoS::AtMostOnce),
                    retain: found.first_byte & 1 != 0,
                    dup: found.first_byte & 8 != 0,
                    payload_len: found.payload_len,
                    payload: input.part(found.payload_at, if whole { found.payload_len as usize } else { 0 }),
                    properties: input.part(properties_at, found.properties_len),
                };
                if whole { Event::Message(received) } else { Event::MessageStart(received) }
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
    fn step(&mut self, input: &mut Input<'_>, found: &mut Found) -> Result<Step, ReasonCode> {
        if !matches!(self.phase, Phase::ConnAck | Phase::Up) {
            return Ok(Step::Idle);
        }
        // Also a part of a packet that takes long to come.
        if input.take_fresh() {
            self.last_rx = self.clock.now();
        }
        #[cfg(feature = "embedded-io-async")]
        if self.holds_back(input) {
            return Ok(Step::Idle);
        }
        if self.stream.state != Streaming::No {
            return self.step_stream(input, found);
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
            return self.on_publish(frame, input, found);
        }
        let mut len = frame.remaining_len;
        if frame.total() > input.capacity() {
            len = enough_of(kind, v5);
            if len == 0 {
                return Err(ReasonCode::PacketTooLarge);
            }
        }
        let end = frame.header_len.wrapping_add(len);
        let Some(body) = bytes.get(frame.header_len..end) else {
            return if input.is_full() { Err(ReasonCode::PacketTooLarge) } else { Ok(Step::Idle) };
        };
        let step = self.on_packet(kind, body, input, found)?;
        if len < frame.remaining_len {
            let left = frame.remaining_len.wrapping_sub(len) as u32;
            self.stream = Stream { left, state: Streaming::Past, ..Stream::nothing() };
        }
        self.heard(input, end);
        Ok(step)
    }

    /// The server is there.
    fn heard(&mut self, input: &mut Input<'_>, len: usize) {
        self.last_rx = self.clock.now();
        self.asked_at = NEVER;
        input.consume(len);
    }

    fn on_packet(&mut self, kind: u8, body: &[u8], input: &Input<'_>, found: &mut Found) -> Result<Step, ReasonCode> {
        let v5 = self.v5();
        match kind {
            frame::CONNACK => self.on_connack(body, input, found),
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
                found.set_text(input, said.text);
                Ok(Step::Farewell { refused: false, reason, retry_after_ms: said.retry_after_ms })
            }
            // What only a client sends; and AUTH, since no method was proposed [MQTT5-4.12.0-6].
            _ => Err(ReasonCode::ProtocolError),
        }
    }

    fn on_connack(&mut self, body: &[u8], input: &Input<'_>, found: &mut Found) -> Result<Step, ReasonCode> {
        let ack = decode::connack(body, self.v5())?;
        found.set_text(input, ack.said.text);
        if ack.reason == ReasonCode::Success {
            return Ok(self.on_accepted(&ack)?.map_or(Step::Again, Step::Connected));
        }
        self.on_farewell(ack.reason, ack.said.retry_after_ms);
        Ok(Step::Farewell { refused: true, reason: ack.reason, retry_after_ms: ack.said.retry_after_ms })
    }

    fn on_publish(&mut self, frame: Frame, input: &mut Input<'_>, found: &mut Found) -> Result<Step, ReasonCode> {
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
            // Its head may not be complete.
            Err(_) if input.is_full() && PASSES_HEADS => return self.refuse_head(frame, input),
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
        let mut stream = Stream { left: payload_len, id, first_byte: frame.first_byte, ..Stream::nothing() };
        match self.arrival(id, frame.first_byte)? {
            Arrival::New => {}
            Arrival::Known => (stream.id, stream.state) = (0, Streaming::Past),
            Arrival::Later => return Ok(Step::Idle),
        }
        let position = input.position();
        *found = Found {
            at: position.wrapping_add(frame.header_len).wrapping_add(2),
            len: publish.topic.len(),
            first_byte: frame.first_byte,
            payload_at: position.wrapping_add(head_len),
            properties_len: publish.properties.len(),
            payload_len,
        };
        if stream.state == Streaming::No && whole && !refused {
            self.note_pressure(publish.topic, publish.payload);
            self.owe(&stream);
            self.heard(input, frame.total());
            return Ok(Step::Message);
        }
        let step = match stream.state {
            Streaming::Past => Step::Again,
            _ if refused => {
                stream.state = Streaming::Past;
                self.refuse_large(&mut stream, payload_len)
            }
            Streaming::No | Streaming::Yes | Streaming::Topic => {
                stream.state = Streaming::Yes;
                Step::MessageStart
            }
        };
        self.stream = stream;
        self.heard(input, head_len);
        Ok(step)
    }

    /// The topic name and the properties of a message are larger than the buffer. A client that ends the connection for it gets it
    /// again, so it is refused and read past. It is not known to be valid; where it is complete, it is known not to be.
    fn refuse_head(&mut self, frame: Frame, input: &mut Input<'_>) -> Result<Step, ReasonCode> {
        let rest = input.pending().get(frame.header_len..).unwrap_or_default();
        let id_len = if frame.first_byte & 6 == 0 { 0 } else { 2 };
        if pass_head(rest, id_len, self.v5()).is_ok() {
            return Err(ReasonCode::MalformedPacket);
        }
        let topic_len = Reader::new(rest).u16().map_err(|_| ReasonCode::PacketTooLarge)?;
        let left = (frame.remaining_len as u32).wrapping_sub(2);
        let payload_len = left.checked_sub(u32::from(topic_len).wrapping_add(id_len as u32));
        let payload_len = payload_len.ok_or(ReasonCode::MalformedPacket)?;
        let first_byte = frame.first_byte;
        let mut stream = Stream { left, id: topic_len, first_byte, state: Streaming::Topic, ..Stream::nothing() };
        let step = self.refuse_large(&mut stream, payload_len);
        self.stream = stream;
        self.heard(input, frame.header_len.wrapping_add(2));
        Ok(step)
    }

    /// A message is too large: it is counted, and the answer will say so; 3.1.1 has no word for it.
    fn refuse_large(&mut self, stream: &mut Stream, payload_len: u32) -> Step {
        say!(warn, "a message of {} bytes is refused", payload_len);
        self.counters.refused_inbound = self.counters.refused_inbound.wrapping_add(1);
        if self.v5() {
            stream.reason = ReasonCode::QuotaExceeded;
        }
        Step::Event(Event::MessageRefused { payload_len })
    }

    /// What lies behind the topic name of such a message.
    fn step_identifier(&mut self, input: &mut Input<'_>) -> Result<Step, ReasonCode> {
        let mut stream = Stream { state: Streaming::Past, ..self.stream };
        if stream.first_byte & 6 != 0 {
            let Ok(id) = Reader::new(input.pending()).u16() else { return Ok(Step::Idle) };
            if id == 0 {
                return Err(ReasonCode::MalformedPacket);
            }
            stream.id = match self.arrival(id, stream.first_byte)? {
                Arrival::New => id,
                Arrival::Known => 0,
                Arrival::Later => return Ok(Step::Idle),
            };
            stream.left = stream.left.wrapping_sub(2);
            self.heard(input, 2);
        }
        self.stream = stream;
        Ok(Step::Again)
    }

    /// Whether a message came before, and whether there may be another. `id` is 0 with QoS 0.
    fn arrival(&mut self, id: u16, first_byte: u8) -> Result<Arrival, ReasonCode> {
        if first_byte & 4 != 0 {
            if !QOS2 {
                return Err(ReasonCode::QoSNotSupported);
            }
            if let Some(entry) = self.inbound.open(id) {
                if entry.owed == Owed::Comp {
                    // The identifier is free once the PUBCOMP is sent.
                    return Ok(Arrival::Later);
                }
                if first_byte & 8 != 0 || !self.peer.doubtful {
                    entry.owed = Owed::Rec;
                    return Ok(Arrival::Known);
                }
                // A message that comes for the first time, in a session that is not the one this identifier is of.
                self.inbound.forget(id);
            }
        }
        if id != 0 && self.inbound.in_flight() >= self.receive_maximum() {
            // 3.1.1 knows no such limit, so what is owed is paid first.
            let wait = !self.v5() && self.inbound.any_due();
            return if wait { Ok(Arrival::Later) } else { Err(ReasonCode::ReceiveMaximumExceeded) };
        }
        Ok(Arrival::New)
    }

    /// How many messages the server may have in flight.
    pub(super) fn receive_maximum(&self) -> usize {
        if self.v5() { usize::from(self.options.receive_maximum).clamp(1, INBOUND_MAX) } else { INBOUND_MAX }
    }

    /// The application has been given all of a message.
    fn owe(&mut self, stream: &Stream) {
        if stream.id != 0 {
            let owed = if stream.first_byte & 4 != 0 { Owed::RecLater } else { Owed::AckLater };
            self.inbound.push(stream.id, owed, stream.reason);
        }
    }

    fn step_stream(&mut self, input: &mut Input<'_>, found: &mut Found) -> Result<Step, ReasonCode> {
        let in_topic = PASSES_HEADS && self.stream.state == Streaming::Topic;
        let left = if in_topic { u32::from(self.stream.id) } else { self.stream.left };
        if left > 0 {
            found.at = input.position();
            found.len = input.pending().len().min(left as usize);
            if found.len == 0 {
                return Ok(Step::Idle);
            }
            self.heard(input, found.len);
            self.stream.left = self.stream.left.wrapping_sub(found.len as u32);
            if in_topic {
                self.stream.id = self.stream.id.wrapping_sub(found.len as u16);
            }
            return Ok(if self.stream.state == Streaming::Yes { Step::MessageChunk } else { Step::Again });
        }
        if in_topic {
            return self.step_identifier(input);
        }
        let stream = self.stream;
        self.stream = Stream::nothing();
        self.owe(&stream);
        if stream.state == Streaming::Yes {
            return Ok(Step::Event(Event::MessageEnd));
        }
        // What is read past may be no message; then the one before it may still be in the application's hands.
        if stream.id != 0 {
            self.inbound.release();
        }
        Ok(Step::Again)
    }

    /// What the server says of itself, for whoever subscribes to it.
    fn note_pressure(&mut self, topic: &str, payload: &[u8]) {
        if bytes::same(topic.as_bytes(), b"$SYS/broker/pressure") {
            self.peer.pressure = match payload.first() {
                Some(b'c') => Pressure::Critical,
                Some(b'h') => Pressure::High,
                Some(_) | None => Pressure::Normal,
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
        self.suspect.took_one();
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
        self.suspect.took_one();
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
