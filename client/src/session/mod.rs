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
mod incoming;
pub(crate) mod journal;
mod leftovers;
pub(crate) mod outbox;
mod pulse;
mod put_off;
pub(crate) mod subscriptions;
mod suspect;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::QoS;

use crate::codec::frame::Frame;
use crate::codec::write::{self, ConnectNow, PINGREQ};
use crate::error::{ConnectError, Dropped, EndReason, LostReason, SubscribeError};
use crate::event::{Event, PutOff};
use crate::message::{Message, Received};
use crate::options::{Options, Subscribe};
use crate::stats::Stats;
use crate::ticket::{Outcome, Teller, Told};
use inbound::Inbound;
use journal::{Journal, Op, OpNumber};
use outbox::{Expiry, Fill, NoRoom, Outbox, SetAside, Takes};
use pulse::Pulse;
use subscriptions::{Asking, Granted, Subscriptions};

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

/// Who has ended a connection, as far as that says something of the messages that were on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// The server, and not since it is busy, stops or has moved: a message may be the cause.
    Server,
    /// Anybody and anything else.
    Other,
}

impl Over {
    /// Whether a message may be the cause.
    pub(crate) fn ended_by(&self) -> EndedBy {
        use std::io::ErrorKind as Kind;
        let Self::Lost(reason, _) = self else { return EndedBy::Other };
        let is_cause = match reason {
            LostReason::Closed => true,
            LostReason::Io(error) => matches!(
                error.kind(),
                Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof
            ),
            LostReason::Server { reason, .. } => !matches!(
                reason,
                ReasonCode::ServerBusy
                    | ReasonCode::ServerShuttingDown
                    | ReasonCode::KeepAliveTimeout
                    | ReasonCode::SessionTakenOver
                    | ReasonCode::UseAnotherServer
                    | ReasonCode::ServerMoved
                    | ReasonCode::ConnectionRateExceeded
                    | ReasonCode::MaximumConnectTime
                    | ReasonCode::AdministrativeAction
            ),
            LostReason::KeepAlive | LostReason::Protocol(_) | LostReason::Authentication(_) | LostReason::Ended => {
                false
            }
        };
        if is_cause { EndedBy::Server } else { EndedBy::Other }
    }
}

/// The wall clock's time, since the beginning of 1970: what a restart needs to know of an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WallTime(pub(crate) Duration);

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
    /// What this client left with the server when it ran the last time is known: it is in the file.
    knows_its_past: bool,
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
    /// Bytes of a message that are read past.
    skip: usize,
    pulse: Pulse,
    events: VecDeque<Event>,
    stats: Stats,
    /// The end of the client, when it has come.
    ended: Option<EndReason>,
    response_information: Option<String>,
    /// The program's own, see `Client::try_publish_marked`.
    mark: Option<u64>,
    /// What was told last of what is put off.
    told_put_off: Option<PutOff>,
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
            knows_its_past: false,
            outbox: Outbox::new(options.outbox.clone(), options.when_refused.clone()),
            inbound: Inbound::default(),
            subscriptions: Subscriptions::new(),
            journal,
            aliases: alias::Outgoing::new(0),
            given_aliases: alias::Incoming::new(0),
            out: Vec::new(),
            takes: Takes { maximum_packet_size: u32::MAX, maximum_qos: QoS::ExactlyOnce, retain: true },
            with_subscription_ids: false,
            skip: 0,
            pulse: Pulse::new(options.keep_alive, now),
            events: VecDeque::new(),
            stats: Stats::default(),
            ended: None,
            response_information: None,
            mark: None,
            told_put_off: None,
            options,
        }
    }

    // What the program does.

    /// Takes a message that was checked. The operation number says when it is safe.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        wall: WallTime,
        message: Message,
        teller: Teller<Outcome>,
    ) -> Result<OpNumber, (NoRoom, Message)> {
        let expires = message.expiry.and_then(|expiry| {
            let unix_ms = u64::try_from(wall.0.saturating_add(expiry).as_millis()).unwrap_or(u64::MAX);
            now.checked_add(expiry).map(|at| Expiry { at, unix_ms })
        });
        let frame = Frame::new(self.options.version, &message);
        self.outbox
            .accept(frame, expires, teller, &mut self.journal, &mut self.stats)
            .map_err(|(why, _)| (why, message))
    }

    /// Notes the program's mark, in the same commit as what was accepted just before.
    pub(crate) fn set_mark(&mut self, mark: u64) -> OpNumber {
        self.mark = Some(mark);
        self.journal.log(|| Op::Mark { mark })
    }

    pub(crate) fn mark(&self) -> Option<u64> {
        self.mark
    }

    #[cfg(feature = "durable")]
    pub(crate) fn restore_mark(&mut self, mark: u64) {
        self.mark = Some(mark);
    }

    #[cfg(feature = "durable")]
    pub(crate) fn last_op(&self) -> OpNumber {
        self.journal.last()
    }

    pub(crate) fn subscribe(&mut self, what: Subscribe, granted: Teller<Granted>) -> usize {
        self.subscriptions.add(what, granted)
    }

    /// The program has no more use for a subscription.
    pub(crate) fn unsubscribe(&mut self, key: usize, left: Option<Teller<()>>) {
        let (unread, reason) = self.subscriptions.remove(key, left);
        for token in unread {
            self.inbound.done(token, reason);
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
            // Nobody comes back to a session that lives as long as the client. A server that takes no 9 bytes is not told.
            let unwanted = self.options.session_expiry.is_none() && !self.journal.is_on();
            let expiry_s = (unwanted && self.takes.maximum_packet_size >= 9).then_some(0);
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
            Some(authenticator) => {
                let start = authenticator.start().and_then(|data| incoming::fits(authenticator.method(), data));
                Some(start.map_err(ConnectError::Authentication)?)
            }
            None => None,
        };
        let method = self.options.authenticator.as_ref().map_or("", |authenticator| authenticator.method());
        let connect = ConnectNow {
            client_id: &self.client_id,
            clean_start: self.starts_clean(),
            keep_alive_s: u16::try_from(self.options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            auth: auth.as_ref().map(|data| (method, data.as_slice())),
        };
        (self.skip, self.given_aliases) = (0, alias::Incoming::new(self.options.topic_alias_maximum));
        self.out.clear();
        write::connect(&self.options, &connect, &mut self.out);
        (self.link, self.pulse) = (Link::Opening, Pulse::new(self.options.keep_alive, now));
        Ok(())
    }

    fn starts_clean(&self) -> bool {
        if self.options.version.is_v5() {
            return !self.was_connected && self.options.first_is_clean();
        }
        // Clean Session is for the whole session: one that is to be resumed must begin without it.
        self.options.first_is_clean()
    }

    /// Puts what may be sent now into `out`; QoS 0 messages in it whose sender waits go to `unwritten`.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Vec<u8>, unwritten: &mut Vec<Teller<Outcome>>) {
        if self.link == Link::Online && self.ended.is_none() {
            self.ask();
        }
        out.append(&mut self.out);
        if self.link != Link::Online || self.ended.is_some() {
            return;
        }
        self.with_outbox(now, out, unwritten, Outbox::fill);
        if !out.is_empty() {
            self.pulse.sent(now, out.len());
        }
        if self.pulse.wants_sign() {
            out.extend_from_slice(&PINGREQ);
            self.pulse.asks(now);
        }
    }

    fn ask(&mut self) {
        let how = Asking {
            version: self.options.version,
            with_ids: self.with_subscription_ids,
            maximum_packet_size: self.takes.maximum_packet_size,
        };
        for token in self.subscriptions.ask(how, &mut self.out) {
            self.inbound.done(token, ReasonCode::Success);
            self.acknowledge();
        }
    }

    /// Has the outbox write into `out`.
    fn with_outbox(
        &mut self,
        now: Instant,
        out: &mut Vec<u8>,
        unwritten: &mut Vec<Teller<Outcome>>,
        work: impl FnOnce(&mut Outbox, &mut Fill<'_>),
    ) {
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
        work(&mut self.outbox, &mut fill);
        self.tell_put_off();
    }

    /// What the server refuses and what waits for that, when it is other than it was.
    fn tell_put_off(&mut self) {
        let now = self.outbox.put_off();
        if now == self.told_put_off.as_ref() {
            return;
        }
        self.told_put_off = now.cloned();
        self.events.push_back(now.cloned().map_or(Event::GoesOn, Event::PutOff));
    }

    pub(crate) fn put_off(&self) -> Option<PutOff> {
        self.outbox.put_off().cloned()
    }

    pub(crate) fn adopt(&mut self) -> Vec<(Frame, Told<Outcome>)> {
        self.outbox.adopt()
    }

    /// What is still to be said on a connection that is over: why, and no message more.
    pub(crate) fn last_words(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    /// The socket was full, and has taken bytes again.
    pub(crate) fn line_moves(&mut self, now: Instant) {
        self.pulse.moved(now);
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
        if self.link != Link::Online || self.pulse.keep_alive.is_zero() {
            return Ok(());
        }
        if self.inbox_is_full() {
            // It is this side that does not read: PINGRESP may wait in the socket. The server must hear of it all the same.
            self.pulse.received(now);
        }
        if self.pulse.is_dead(now) {
            return Err(Over::Lost(LostReason::KeepAlive, Hint::default()));
        }
        if self.pulse.must_ask(now) {
            self.out.extend_from_slice(&PINGREQ);
            self.pulse.asks(now);
        }
        Ok(())
    }

    /// When [`Session::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let outbox = self.outbox.deadline();
        let watched = self.link == Link::Online && !self.pulse.keep_alive.is_zero();
        let pulse = watched.then(|| self.pulse.deadline());
        outbox.into_iter().chain(pulse).chain(self.subscriptions.deadline()).min()
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self, by: EndedBy) {
        let was_online = self.link == Link::Online;
        if by == EndedBy::Server
            && let Some(SetAside { frame, connections }) =
                self.outbox.ended_by_server(&mut self.journal, &mut self.stats)
        {
            let topic = String::from_utf8_lossy(frame.topic()).into_owned();
            tracing::warn!(topic, "a message is set aside: the server ended {connections} connections with it");
            self.event(Event::SetAside { topic, payload: frame.payload(), connections });
        }
        self.in_doubt |= self.link == Link::Opening;
        self.link = Link::Offline;
        self.out.clear();
        self.outbox.disconnected();
        self.tell_put_off();
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

    /// Messages that were given to the socket.
    pub(crate) fn sent(&self) -> u64 {
        self.stats.sent
    }

    /// Whether more waits than the server takes at once.
    pub(crate) fn is_saturated(&self) -> bool {
        self.outbox.is_saturated()
    }

    /// Whether it is silent by its own choice, when the server may be waiting for a sign of life.
    pub(crate) fn holds_back(&self) -> bool {
        self.outbox.holds_back()
    }

    /// Whether the program has so much unread that no more is taken from the socket. An answer that it may be waiting for is
    /// behind that: for such a one there is as much room again.
    pub(crate) fn inbox_is_full(&self) -> bool {
        let max = self.options.inbox.max_bytes;
        let is_owed = self.subscriptions.are_asked() || self.outbox.is_owed();
        self.subscriptions.bytes() >= if is_owed { max.saturating_mul(2) } else { max }
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
        self.events.pop_front().or_else(|| self.subscriptions.next_event())
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
    pub(crate) fn committed(&mut self, number: OpNumber, what: journal::Committed) {
        let before = self.journal.committed(number, what);
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

    /// What was found of an outbox and cannot be used.
    #[cfg(feature = "durable")]
    pub(crate) fn unreadable(&mut self, files: u64, messages: u64) {
        self.stats.unreadable_files += files;
        self.stats.unreadable_messages += messages;
    }

    /// The file is not a new one.
    #[cfg(feature = "durable")]
    pub(crate) fn restored(&mut self) {
        self.knows_its_past = true;
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

/// Earlier than this, 2020, is a clock that nobody has set.
#[cfg(feature = "durable")]
const SET: Duration = Duration::from_secs(1_577_836_800);

/// When a message that was kept over a restart expires. `None`: that is not known, since the clock was not set when it was
/// accepted, or is not now.
#[cfg(feature = "durable")]
pub(crate) fn instant_of(unix_ms: u64, now: Instant, wall: WallTime) -> Option<Instant> {
    let at = Duration::from_millis(unix_ms);
    if at < SET || wall.0 < SET {
        return None;
    }
    now.checked_add(at.saturating_sub(wall.0))
}
