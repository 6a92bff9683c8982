//! One client's side of MQTT, without I/O and without a clock: `now` is an argument, bytes come in, bytes go out.
//!
//! ```text
//!             open            CONNACK
//!  Offline ─────────▶ Opening ───────▶ Online
//!     ▲                  │               │
//!     └───── closed ─────┴───────────────┘
//! ```

mod alias;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod inbound;
pub(crate) mod journal;
pub(crate) mod outbox;
pub(crate) mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use forebay_wire::WireError;
use forebay_wire::publish::Publish;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::QoS;

use crate::codec::frame::Frame;
use crate::codec::read::{Auth, ConnAck, Incoming, SubAck, read};
use crate::codec::write::{self, ConnectNow, PINGREQ};
use crate::codec::{Ack, AckKind, Words};
use crate::error::{ConnectError, Dropped, EndReason, LostReason, SubscribeError};
use crate::event::{Connected, Event};
use crate::message::{Message, Received};
use crate::options::{Options, Subscribe};
use crate::stats::Stats;
use crate::ticket::{Outcome, Teller};
use inbound::{Arrival, Inbound};
use journal::{Journal, OpNumber};
use outbox::{Fill, NoRoom, Outbox, Takes};
use subscriptions::{Granted, Subscriptions};

/// Bytes of acks and requests that wait for the socket.
const ANSWERS_MAX: usize = 1 << 20;

/// Why a connection is over, for the driver.
#[derive(Debug)]
pub(crate) enum Over {
    /// Before CONNACK said yes.
    NotConnected(ConnectError, Hint),
    /// After it.
    Lost(LostReason, Hint),
}

/// What the server said about coming back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) retry_after: Option<Duration>,
    pub(crate) server_reference: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Offline,
    Opening,
    Online,
}

pub(crate) struct Session {
    options: Arc<Options>,
    link: Link,
    /// The identifier in use: given by the program, or by the server.
    client_id: String,
    /// A CONNACK has come at some time: from then on the session is resumed.
    was_connected: bool,
    /// CONNECT was sent and no CONNACK came: the server may have made a new session of it, which the next CONNACK calls
    /// present.
    in_doubt: bool,
    outbox: Outbox,
    inbound: Inbound,
    subscriptions: Subscriptions,
    journal: Journal,
    aliases: alias::Outgoing,
    given_aliases: alias::Incoming,
    /// Acks and requests that go before messages.
    out: Vec<u8>,
    takes: Takes,
    with_subscription_ids: bool,
    keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    ping_sent: Option<Instant>,
    events: VecDeque<Event>,
    stats: Stats,
    /// The end of the client, when it has come.
    ended: Option<EndReason>,
    response_information: Option<String>,
}

impl Session {
    pub(crate) fn new(options: Arc<Options>, journal: Journal, now: Instant) -> Self {
        let client_id = if options.client_id.is_empty() && !options.version.is_v5() {
            random_client_id()
        } else {
            options.client_id.clone()
        };
        Self {
            link: Link::Offline,
            client_id,
            was_connected: false,
            in_doubt: false,
            outbox: Outbox::new(options.outbox.clone()),
            inbound: Inbound::default(),
            subscriptions: Subscriptions::new(),
            journal,
            aliases: alias::Outgoing::new(0),
            given_aliases: alias::Incoming::new(0),
            out: Vec::new(),
            takes: Takes { maximum_packet_size: u32::MAX, maximum_qos: QoS::ExactlyOnce, retain: true },
            with_subscription_ids: false,
            keep_alive: options.keep_alive,
            last_sent: now,
            last_received: now,
            ping_sent: None,
            events: VecDeque::new(),
            stats: Stats::default(),
            ended: None,
            response_information: None,
            options,
        }
    }

    // What the program does.

    /// Takes a message that was checked. The operation number says when it is safe.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        message: Message,
        teller: Teller<Outcome>,
    ) -> Result<OpNumber, (NoRoom, Message)> {
        let expires = message.expiry.and_then(|expiry| now.checked_add(expiry));
        let frame = Frame::new(self.options.version, &message);
        self.outbox
            .accept(frame, expires, teller, &mut self.journal, &mut self.stats)
            .map_err(|(why, _)| (why, message))
    }

    pub(crate) fn subscribe(&mut self, what: Subscribe, granted: Teller<Granted>) -> usize {
        self.subscriptions.add(what, granted)
    }

    /// The program has no more use for a subscription.
    pub(crate) fn unsubscribe(&mut self, key: usize, left: Option<Teller<()>>) {
        for token in self.subscriptions.remove(key, left) {
            self.inbound.done(token, ReasonCode::Success);
        }
        self.acknowledge();
    }

    /// The stream is gone; the server keeps the subscription. What was not read is not acknowledged.
    pub(crate) fn detach(&mut self, now: Instant, key: usize) {
        for received in self.subscriptions.detach(key) {
            // Others who got it with this one have it still; nobody gets it twice.
            match received.token {
                Some(token) if self.inbound.holders(token) > 1 => {
                    self.inbound.done(token, ReasonCode::Success);
                }
                _ => self.unclaimed(now, received),
            }
        }
        self.acknowledge();
    }

    /// The next message of a subscription.
    pub(crate) fn take(&mut self, key: usize) -> Option<Received> {
        let (received, ack) = self.subscriptions.take(key)?;
        if let Some(token) = received.token.filter(|_| ack) {
            self.ack(token, ReasonCode::Success);
        }
        Some(received)
    }

    pub(crate) fn subscriptions(&mut self) -> &mut Subscriptions {
        &mut self.subscriptions
    }

    /// The program is done with a message; false when the session in which it came is over.
    pub(crate) fn ack(&mut self, token: u64, reason: ReasonCode) -> bool {
        let known = self.inbound.done(token, reason);
        self.acknowledge();
        known
    }

    fn acknowledge(&mut self) {
        if self.link == Link::Online {
            self.inbound.acknowledge(self.options.version, &mut self.journal, &mut self.out);
        }
    }

    /// The end: says DISCONNECT if there is a connection, and tells everybody who waits. What a durable outbox holds stays
    /// in its file.
    pub(crate) fn end(&mut self, why: EndReason, disconnect: Option<ReasonCode>) {
        if self.ended.is_some() {
            return;
        }
        // In MQTT 3.1.1 DISCONNECT always means that the will is not to be published [MQTT-3.14.4-3].
        let with_will = |reason| reason == ReasonCode::DisconnectWithWill && !self.options.version.is_v5();
        if let Some(reason) = disconnect.filter(|reason| self.link == Link::Online && !with_will(*reason)) {
            // Nobody comes back to a session that lives as long as the client.
            let expiry_s = (self.options.session_expiry.is_none() && !self.journal.is_on()).then_some(0);
            write::disconnect(self.options.version, reason, expiry_s, &mut self.out);
        }
        self.outbox.end(&Dropped::Ended(why.clone()), &self.journal, &mut self.stats);
        self.subscriptions.end(&SubscribeError::Ended(why.clone()));
        self.ended = Some(why);
    }

    pub(crate) fn ended(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    // What the driver does.

    /// A connection is there: CONNECT.
    pub(crate) fn open(&mut self, now: Instant) -> Result<(), ConnectError> {
        let auth = match &self.options.authenticator {
            Some(authenticator) => Some(authenticator.start().map_err(ConnectError::Authentication)?),
            None => None,
        };
        let method = self.options.authenticator.as_ref().map_or("", |authenticator| authenticator.method());
        let connect = ConnectNow {
            client_id: &self.client_id,
            clean_start: self.starts_clean(),
            keep_alive_s: u16::try_from(self.options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            auth: auth.as_ref().map(|data| (method, data.as_slice())),
        };
        self.out.clear();
        write::connect(&self.options, &connect, &mut self.out);
        (self.link, self.last_sent, self.last_received, self.ping_sent) = (Link::Opening, now, now, None);
        self.given_aliases = alias::Incoming::new(self.options.topic_alias_maximum);
        Ok(())
    }

    fn starts_clean(&self) -> bool {
        if self.options.version.is_v5() {
            return !self.was_connected && self.options.first_is_clean();
        }
        // Clean Session is for the whole session: one that is to be resumed must begin without it.
        self.options.first_is_clean()
    }

    /// Handles all complete packets; how many bytes they were.
    pub(crate) fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, Over> {
        let mut at = 0;
        self.last_received = now;
        while let Some(rest) = bytes.get(at..) {
            let frame =
                forebay_wire::frame::peek(rest, self.options.maximum_packet_size).map_err(|e| self.broken(e))?;
            let Some(frame) = frame else { break };
            let version = self.options.version;
            // What is not MQTT is known by its first bytes; the rest of what they announce may never come.
            frame.check(version).and_then(|()| self.expected(&frame)).map_err(|e| self.broken(e))?;
            let Some(packet) = rest.get(..frame.total()) else { break };
            let incoming = read(version, &frame, packet).map_err(|e| self.broken(e))?;
            self.handle(now, incoming)?;
            at += frame.total();
        }
        Ok(at)
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

    fn handle(&mut self, now: Instant, incoming: Incoming<'_>) -> Result<(), Over> {
        match (self.link, incoming) {
            (Link::Opening, Incoming::ConnAck(ack)) => self.connack(*ack),
            (_, Incoming::Auth(auth)) => self.auth(&auth),
            (Link::Online, Incoming::Publish(publish)) => self.arrived(now, &publish),
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
                self.ping_sent = None;
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
        self.was_connected = true;
        if let Some(id) = &ack.assigned_client_id {
            self.client_id.clone_from(id);
        }
        self.takes = Takes {
            maximum_packet_size: ack.maximum_packet_size,
            maximum_qos: ack.maximum_qos,
            retain: ack.retain_available,
        };
        self.with_subscription_ids = ack.subscription_ids_available;
        self.keep_alive = ack.server_keep_alive_s.map_or(self.options.keep_alive, |s| Duration::from_secs(s.into()));
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
            let answer = authenticator.answer(data).map_err(failed)?;
            write::auth(ReasonCode::ContinueAuthentication, authenticator.method(), &answer, &mut self.out);
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
        let data = authenticator.start()?;
        write::auth(ReasonCode::ReAuthenticate, authenticator.method(), &data, &mut self.out);
        Ok(true)
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
    fn unclaimed(&mut self, now: Instant, received: Received) {
        if received.token.is_none() {
            return self.unread(&received);
        }
        self.subscriptions.keep(received, &self.options.inbox, now);
        self.give_up_unclaimed(now);
    }

    fn give_up_unclaimed(&mut self, now: Instant) {
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
        let mut fill = Fill {
            now,
            version: self.options.version,
            takes: self.takes,
            aliases: &mut self.aliases,
            journal: &mut self.journal,
            stats: &mut self.stats,
            out: &mut self.out,
            unwritten: &mut Vec::new(),
        };
        self.outbox.acked(ack, &mut fill);
    }

    fn answered(&mut self, ack: SubAck) -> Result<(), Over> {
        for token in self.subscriptions.answered(ack).map_err(|error| self.broken(error))? {
            self.inbound.done(token, ReasonCode::Success);
        }
        self.acknowledge();
        Ok(())
    }

    /// Puts what may be sent now into `out`; QoS 0 messages in it whose sender waits go to `unwritten`.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Vec<u8>, unwritten: &mut Vec<Teller<Outcome>>) {
        if self.link == Link::Online && self.ended.is_none() {
            self.subscriptions.ask(self.options.version, self.with_subscription_ids, &mut self.out);
        }
        out.append(&mut self.out);
        if self.link != Link::Online || self.ended.is_some() {
            return;
        }
        let mut fill = Fill {
            now,
            version: self.options.version,
            takes: self.takes,
            aliases: &mut self.aliases,
            journal: &mut self.journal,
            stats: &mut self.stats,
            out,
            unwritten,
        };
        self.outbox.fill(&mut fill);
    }

    /// What is still to be said on a connection that is over: why, and no message more.
    pub(crate) fn last_words(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    /// Bytes were written to the socket.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// QoS 0 messages were written, or lost with the connection.
    pub(crate) fn settle_unwritten(&mut self, unwritten: Vec<Teller<Outcome>>, written: bool) {
        // Not every message has somebody who waits for it.
        let messages = self.outbox.settle_unwritten();
        let counter = if written { &mut self.stats.written } else { &mut self.stats.lost_unwritten };
        *counter += messages;
        let done = crate::ticket::Acked { reason: ReasonCode::Success };
        for teller in unwritten {
            teller.tell(if written { Ok(done) } else { Err(Dropped::ConnectionLost) });
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), Over> {
        self.outbox.expire(now, &mut self.journal, &mut self.stats);
        self.give_up_unclaimed(now);
        if self.link != Link::Online || self.keep_alive.is_zero() {
            return Ok(());
        }
        if self.inbox_is_full() {
            // It is this side that does not read: PINGRESP may wait in the socket. The server must hear of it all the same.
            self.last_received = now;
        }
        if let Some(sent) = self.ping_sent.filter(|sent| self.last_received <= *sent) {
            if now >= sent + self.patience() {
                return Err(Over::Lost(LostReason::KeepAlive, Hint::default()));
            }
        } else if now >= self.last_sent.min(self.last_received) + self.keep_alive {
            // Also when only this side talks: a connection that is dead on the way is noticed by the missing answer.
            self.out.extend_from_slice(&PINGREQ);
            self.ping_sent = Some(now);
            self.last_sent = now;
            self.last_received = self.last_received.min(now);
        }
        Ok(())
    }

    /// Half a keep alive for the answer to PINGREQ.
    fn patience(&self) -> Duration {
        (self.keep_alive / 2).max(Duration::from_secs(1))
    }

    /// When [`Session::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let outbox = self.outbox.deadline();
        let ping = (self.link == Link::Online && !self.keep_alive.is_zero()).then(|| {
            match self.ping_sent.filter(|sent| self.last_received <= *sent) {
                Some(sent) => sent + self.patience(),
                None => self.last_sent.min(self.last_received) + self.keep_alive,
            }
        });
        outbox.into_iter().chain(ping).chain(self.subscriptions.deadline()).min()
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self) {
        let was_online = self.link == Link::Online;
        self.in_doubt |= self.link == Link::Opening;
        self.link = Link::Offline;
        self.out.clear();
        self.outbox.disconnected();
        if was_online {
            self.inbound.disconnected();
            self.subscriptions.disconnected();
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.link == Link::Online
    }

    pub(crate) fn has_output(&self) -> bool {
        let online = self.link == Link::Online && self.ended.is_none();
        !self.out.is_empty()
            || online && (self.subscriptions.wants_to_ask() || self.outbox.wants_to_send(&self.journal))
    }

    /// Whether the program has so much unread that no more is taken from the socket.
    pub(crate) fn inbox_is_full(&self) -> bool {
        self.subscriptions.bytes() >= self.options.inbox.max_bytes
    }

    pub(crate) fn outbox_is_roomy_for(&self, size: usize) -> bool {
        self.outbox.is_roomy_for(size)
    }

    /// The server asks and does not listen: so many answers wait that no more is taken from the socket. Those to a full
    /// Receive Maximum are fewer.
    pub(crate) fn is_choked(&self) -> bool {
        self.out.len() >= ANSWERS_MAX
    }

    /// Nothing waits to be sent, written or acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.outbox.len() == 0 && self.outbox.unwritten() == 0 && self.out.is_empty()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(crate) fn response_information(&self) -> Option<&str> {
        self.response_information.as_deref()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            outbox_messages: self.outbox.len() + self.outbox.unwritten() as usize + self.outbox.kept(),
            outbox_bytes: self.outbox.bytes(),
            in_flight: self.outbox.in_flight(),
            ..self.stats.clone()
        }
    }

    /// What is to be committed, and its number.
    #[cfg(feature = "durable")]
    pub(crate) fn take_ops(&mut self) -> (Vec<journal::Op>, OpNumber) {
        self.journal.take()
    }

    #[cfg(feature = "durable")]
    pub(crate) fn has_ops(&self) -> bool {
        self.journal.has_ops()
    }

    #[cfg(feature = "durable")]
    pub(crate) fn is_safe(&self, number: OpNumber) -> bool {
        self.journal.is_safe(number)
    }

    /// Operations up to this one are on disk: what waited for that is sent.
    #[cfg(feature = "durable")]
    pub(crate) fn committed(&mut self, before: OpNumber, number: OpNumber) {
        self.journal.committed(number);
        if self.link == Link::Online {
            self.inbound.send_safe(self.options.version, &self.journal, &mut self.out);
            self.outbox.release_safe(before, self.options.version, &self.journal, &mut self.out);
        }
    }

    /// What an earlier run left.
    #[cfg(feature = "durable")]
    pub(crate) fn restore(&mut self, number: u64, frame: Frame, expires: Option<Instant>, released: bool) {
        self.stats.restored += 1;
        self.outbox.restore(number, frame, expires, released);
    }

    #[cfg(feature = "durable")]
    pub(crate) fn restore_seen(&mut self, id: forebay_wire::types::PacketId, mark: inbound::Mark) {
        self.inbound.restore(id, mark);
    }
}

/// MQTT 3.1 knows no empty one, and in 3.1.1 a session needs one [MQTT-3.1.3-7]; 23 letters and digits go everywhere
/// [MQTT-3.1.3-5].
fn random_client_id() -> String {
    let random = RandomState::new();
    format!("forebay{:016x}", random.hash_one(0u8))
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

/// A time of the wall clock for one of the monotonic clock: what is kept over a restart.
pub(crate) fn unix_ms(at: Instant) -> u64 {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = since.saturating_add(at.saturating_duration_since(now));
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// The other way.
#[cfg(feature = "durable")]
pub(crate) fn instant_of(unix_ms: u64, now: Instant) -> Instant {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now + Duration::from_millis(unix_ms).saturating_sub(wall)
}
