//! What the server sends, packet by packet.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_wire::WireError;
use forebay_wire::frame::Frame;
use forebay_wire::publish::Publish;
use forebay_wire::read::Reader;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS};

use super::inbound::{self, Arrival};
use super::outbox::Takes;
use super::{Hint, Link, Over, Session, alias};
use crate::codec::read::{Auth, ConnAck, Incoming, SubAck, read, read_publish};
use crate::codec::{Ack, AckKind, Words, write};
use crate::error::{ConnectError, LostReason};
use crate::event::{Connected, Event};
use crate::message::Received;

impl Session {
    /// Handles all complete packets; how many bytes they were.
    pub(crate) fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, Over> {
        let mut at = 0;
        self.pulse.received(now);
        while let Some(rest) = bytes.get(at..) {
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                (self.skip, at) = (self.skip - skipped, at + skipped);
                if self.skip > 0 {
                    break;
                }
                continue;
            }
            let version = self.options.version;
            // MQTT 5 tells the server what is too large [MQTT5-3.1.2-24].
            let largest = if version.is_v5() { self.options.maximum_packet_size } else { u32::MAX };
            let frame = forebay_wire::frame::peek(rest, largest).map_err(|e| self.broken(e))?;
            let Some(frame) = frame else { break };
            // What is not MQTT is known by its first bytes; the rest of what they announce may never come.
            frame.check(version).and_then(|()| self.expected(&frame)).map_err(|e| self.broken(e))?;
            if frame.total() > self.options.maximum_packet_size as usize {
                match self.skip_message(&frame, rest)? {
                    Some(head) => at += head,
                    None => break,
                }
                continue;
            }
            let Some(packet) = rest.get(..frame.total()) else { break };
            if frame.packet_type() == forebay_wire::frame::PUBLISH {
                // Most packets are of this type: the way is shorter, with nothing moved.
                match &read_publish(version, &frame, packet) {
                    Ok(publish) => self.arrived(now, publish)?,
                    Err(error) => return Err(self.broken(*error)),
                }
            } else {
                let incoming = read(version, &frame, packet).map_err(|e| self.broken(e))?;
                self.handle(now, incoming)?;
            }
            at += frame.total();
        }
        Ok(at)
    }

    /// A message of MQTT 3.1.1 that is too large: its payload is read past, and it is acknowledged, since it would come with
    /// every connection again. How long its head is; `None` while that is not complete.
    fn skip_message(&mut self, frame: &Frame, bytes: &[u8]) -> Result<Option<usize>, Over> {
        let too_large = WireError::new(ReasonCode::PacketTooLarge, "MQTT5-3.1.2-24", "a packet larger than is taken");
        if frame.packet_type() != forebay_wire::frame::PUBLISH {
            return Err(self.broken(too_large));
        }
        // A topic that is larger than a packet may be is not waited for.
        let is_too_long = bytes.len() >= self.options.maximum_packet_size as usize;
        let qos = QoS::try_from(frame.first_byte >> 1 & 3).unwrap_or(QoS::AtMostOnce);
        let mut head = Reader::new(bytes.get(frame.header_len..).unwrap_or_default());
        let topic = match head.string() {
            Ok(topic) => topic,
            Err(_) if !is_too_long => return Ok(None),
            Err(_) => return Err(self.broken(too_large)),
        };
        let id = if qos == QoS::AtMostOnce { None } else { Some(head.u16()) };
        let id = match id.transpose() {
            Ok(id) => id.and_then(PacketId::new),
            Err(_) if !is_too_long => return Ok(None),
            Err(_) => return Err(self.broken(too_large)),
        };
        let head_len = frame.header_len + 2 + topic.len() + if qos == QoS::AtMostOnce { 0 } else { 2 };
        let Some(left) = frame.total().checked_sub(head_len) else { return Err(self.broken(too_large)) };
        tracing::warn!(topic, size = frame.total(), "a message is skipped: it is larger than this client takes");
        if let Some(id) = id {
            let (dup, mark) = (frame.first_byte & 8 != 0, inbound::mark(topic, &[]));
            let arrival = self.inbound.arrived(id, qos, dup, mark, u16::MAX, &mut self.journal);
            if let Arrival::New(token) = arrival {
                self.inbound.done(token, ReasonCode::Success);
            }
            self.acknowledge();
        }
        self.skip = left;
        self.stats.too_large += 1;
        self.event(Event::TooLarge { topic: topic.to_owned(), size: frame.total() });
        Ok(Some(head_len))
    }

    fn expected(&self, frame: &forebay_wire::frame::Frame) -> Result<(), WireError> {
        use forebay_wire::frame::{AUTH, CONNACK};
        if self.link == Link::Online || matches!(frame.packet_type(), CONNACK | AUTH) {
            return Ok(());
        }
        Err(WireError::protocol("MQTT-3.2.0-1", "a packet before CONNACK"))
    }

    /// The server broke the protocol: it is told why, where the protocol allows it.
    fn broken(&mut self, error: WireError) -> Over {
        if self.link != Link::Online {
            return Over::NotConnected(ConnectError::Protocol(error), Hint::default());
        }
        if self.options.version.is_v5() {
            write::disconnect(self.options.version, error.reason, None, &mut self.out);
        }
        Over::Lost(LostReason::Protocol(error), Hint::default())
    }

    fn handle(&mut self, now: Instant, incoming: Incoming) -> Result<(), Over> {
        match (self.link, incoming) {
            (Link::Opening, Incoming::ConnAck(ack)) => self.connack(*ack),
            (_, Incoming::Auth(auth)) => self.auth(&auth),
            (Link::Online, Incoming::Ack(Ack { kind: AckKind::Pubrel, id, .. })) => {
                self.inbound.released(id, self.options.version, &mut self.journal, &mut self.out);
                Ok(())
            }
            (Link::Online, Incoming::Ack(ack)) => {
                self.acked(now, &ack);
                Ok(())
            }
            (Link::Online, Incoming::SubAck(ack)) => self.answered(ack),
            (Link::Online, Incoming::PingResp) => {
                self.pulse.answered();
                Ok(())
            }
            (Link::Online, Incoming::Disconnect(reason, words)) => Err(server_left(reason, *words)),
            (_, _) => Err(self.broken(WireError::protocol("MQTT-3.2.0-1", "a packet before CONNACK, or a second one"))),
        }
    }

    fn connack(&mut self, ack: ConnAck) -> Result<(), Over> {
        if !ack.reason.is_success() {
            let Words { reason_string, server_reference, retry_after_ms } = ack.words;
            let hint = hint(retry_after_ms, &server_reference);
            // It is over, and made no session.
            self.link = Link::Offline;
            let error = ConnectError::Refused { reason: ack.reason, reason_string, server_reference };
            return Err(Over::NotConnected(error, hint));
        }
        if ack.session_present && self.starts_clean() {
            return Err(self.broken(WireError::protocol("MQTT5-3.2.2-2", "a new session is said to be present")));
        }
        if let Some(authenticator) = &self.options.authenticator {
            authenticator
                .finish(ack.auth_data.as_deref().unwrap_or_default())
                .map_err(|error| Over::NotConnected(ConnectError::Authentication(error), Hint::default()))?;
        }
        self.link = Link::Online;
        if ack.session_present && !self.was_connected && !self.knows_its_past {
            self.outbox.inherits();
        }
        self.was_connected = true;
        if let Some(id) = &ack.assigned_client_id {
            self.client_id.clone_from(id);
        }
        self.takes = Takes {
            maximum_packet_size: ack.maximum_packet_size.min(self.options.largest_sent),
            maximum_qos: ack.maximum_qos,
            retain: ack.retain_available,
        };
        self.with_subscription_ids = ack.subscription_ids_available;
        self.pulse.keep_alive =
            ack.server_keep_alive_s.map_or(self.options.keep_alive, |s| Duration::from_secs(s.into()));
        self.response_information.clone_from(&ack.response_information);
        let aliases = if self.options.topic_aliases { ack.topic_alias_maximum } else { 0 };
        self.aliases = alias::Outgoing::new(aliases);
        let window = self.options.window.min(ack.receive_maximum);
        self.outbox.connected(ack.session_present, self.options.version, window, &mut self.journal, &mut self.stats);
        if !ack.session_present {
            self.inbound.forget(&mut self.journal);
            self.subscriptions.forgotten();
        } else if self.in_doubt {
            self.subscriptions.ask_again();
        }
        self.in_doubt = false;
        self.stats.connections += 1;
        self.event(Event::Connected(Connected::new(ack, &self.client_id)));
        Ok(())
    }

    fn auth(&mut self, auth: &Auth) -> Result<(), Over> {
        let Some(authenticator) = self.options.authenticator.clone() else {
            return Err(self.broken(WireError::protocol("MQTT5-4.12.0-6", "AUTH without an authentication method")));
        };
        if auth.method.as_deref() != Some(authenticator.method()) {
            return Err(self.broken(WireError::protocol("MQTT5-4.12.0-5", "AUTH with another authentication method")));
        }
        let data = auth.data.as_deref().unwrap_or_default();
        let online = self.link == Link::Online;
        let failed = |error: String| match online {
            true => Over::Lost(LostReason::Authentication(error), Hint::default()),
            false => Over::NotConnected(ConnectError::Authentication(error), Hint::default()),
        };
        if !online && auth.reason != ReasonCode::ContinueAuthentication {
            // [MQTT5-4.12.0-4]: CONNACK says that it is satisfied.
            return Err(self.broken(WireError::protocol("MQTT5-4.12.0-2", "AUTH that is no step before CONNACK")));
        }
        if auth.reason == ReasonCode::ContinueAuthentication {
            let answer =
                authenticator.answer(data).and_then(|data| fits(authenticator.method(), data)).map_err(failed)?;
            self.say_auth(ReasonCode::ContinueAuthentication, authenticator.method(), &answer).map_err(failed)?;
        } else {
            // The end of a re-authentication.
            authenticator.finish(data).map_err(failed)?;
        }
        Ok(())
    }

    /// Starts a re-authentication [MQTT5-4.12.1]; false without a connection or an authenticator.
    pub(crate) fn reauthenticate(&mut self) -> Result<bool, String> {
        let Some(authenticator) = self.options.authenticator.clone().filter(|_| self.link == Link::Online) else {
            return Ok(false);
        };
        let data = authenticator.start().and_then(|data| fits(authenticator.method(), data))?;
        self.say_auth(ReasonCode::ReAuthenticate, authenticator.method(), &data)?;
        Ok(true)
    }

    fn say_auth(&mut self, reason: ReasonCode, method: &str, data: &[u8]) -> Result<(), String> {
        // What it takes is said in CONNACK.
        let maximum = if self.link == Link::Online { self.takes.maximum_packet_size } else { u32::MAX };
        if write::auth(reason, method, data, maximum, &mut self.out) {
            return Ok(());
        }
        Err(format!("the authentication data of {} bytes is more than the server takes in a packet", data.len()))
    }

    fn arrived(&mut self, now: Instant, publish: &Publish<'_>) -> Result<(), Over> {
        let known = self.given_aliases.resolve(publish).map_err(|error| self.broken(error))?;
        let topic = known.as_deref().unwrap_or(publish.topic);
        let token = match publish.packet_id {
            None => None,
            Some(id) => {
                let (mark, maximum) = (inbound::mark(topic, publish.payload), self.receive_maximum());
                match self.inbound.arrived(id, publish.qos, publish.dup, mark, maximum, &mut self.journal) {
                    Arrival::New(token) => Some(token),
                    Arrival::Repeated => {
                        self.acknowledge();
                        return Ok(());
                    }
                    Arrival::TooMany => {
                        let detail = "more unacknowledged messages than Receive Maximum";
                        let error = WireError::new(ReasonCode::ReceiveMaximumExceeded, "MQTT5-3.3.4-9", detail);
                        return Err(self.broken(error));
                    }
                }
            }
        };
        self.stats.received += 1;
        let received = received(publish, topic, token);
        let id_of = if publish.properties.is_empty() { None } else { only_subscription_id(&received) };
        let delivered = self.subscriptions.deliver(received, id_of);
        if let Some(token) = token.filter(|_| delivered.holders > 1) {
            self.inbound.held_by(token, delivered.holders);
        }
        if let Some(received) = delivered.unread {
            self.unclaimed(now, received);
        }
        Ok(())
    }

    /// Nobody has it. It is kept for a while: a program that starts may still be subscribing. QoS 0 is not, since it may be
    /// lost.
    pub(super) fn unclaimed(&mut self, now: Instant, received: Received) {
        if received.token.is_none() {
            return self.unread(&received);
        }
        self.subscriptions.keep(received, &self.options.inbox, now);
        self.give_up_unclaimed(now);
    }

    pub(super) fn give_up_unclaimed(&mut self, now: Instant) {
        let mut any = false;
        while let Some(received) = self.subscriptions.give_up(&self.options.inbox, now) {
            self.unread(&received);
            any = true;
        }
        if any {
            self.acknowledge();
        }
    }

    /// MQTT 3.1.1 has no Receive Maximum: there the packet identifiers are the limit.
    fn receive_maximum(&self) -> u16 {
        if self.options.version.is_v5() { self.options.receive_maximum } else { u16::MAX }
    }

    fn unread(&mut self, received: &Received) {
        tracing::debug!(topic = received.topic(), "a message that no subscription of this program matches is dropped");
        self.stats.unclaimed += 1;
        if let Some(token) = received.token {
            self.inbound.done(token, ReasonCode::Success);
        }
    }

    fn acked(&mut self, now: Instant, ack: &Ack) {
        // PUBREL joins the acks that wait already.
        let mut out = std::mem::take(&mut self.out);
        self.with_outbox(now, &mut out, &mut Vec::new(), |outbox, fill| outbox.acked(ack, fill));
        self.out = out;
    }

    fn answered(&mut self, ack: SubAck) -> Result<(), Over> {
        for token in self.subscriptions.answered(ack).map_err(|error| self.broken(error))? {
            self.inbound.done(token, ReasonCode::Success);
        }
        self.acknowledge();
        Ok(())
    }
}

/// What an authenticator says, if MQTT has room for it: a length of two bytes.
pub(super) fn fits(method: &str, data: Vec<u8>) -> Result<Vec<u8>, String> {
    let max = usize::from(u16::MAX);
    if method.len() > max || data.len() > max {
        return Err(format!(
            "the authenticator's method has {} bytes and its data {}: MQTT has room for {max} of each",
            method.len(),
            data.len()
        ));
    }
    Ok(data)
}

fn server_left(reason: ReasonCode, words: Words) -> Over {
    let Words { reason_string, server_reference, retry_after_ms } = words;
    let hint = hint(retry_after_ms, &server_reference);
    Over::Lost(LostReason::Server { reason, reason_string, server_reference }, hint)
}

fn hint(retry_after_ms: Option<u32>, server_reference: &Option<String>) -> Hint {
    Hint {
        retry_after: retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
        server_reference: server_reference.clone(),
    }
}

/// Several mean that the server sends one copy for all.
fn only_subscription_id(received: &Received) -> Option<u32> {
    let mut ids = received.subscription_ids();
    ids.next().filter(|_| ids.next().is_none())
}

/// Topic, properties and payload in one allocation.
fn received(publish: &Publish<'_>, topic: &str, token: Option<u64>) -> Received {
    let mut body = Vec::with_capacity(topic.len() + publish.properties.len() + publish.payload.len());
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(publish.properties);
    body.extend_from_slice(publish.payload);
    Received {
        body: Bytes::from(body),
        topic_len: topic.len() as u32,
        properties_len: publish.properties.len() as u32,
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        token,
    }
}
