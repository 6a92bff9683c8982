//! Connections begin and end; the session goes on, or is lost.

use super::receive::Stream;
use super::transmit::What;
use super::{Client, Memory, NEVER, Phase};
use crate::arena::{BACKLOG, DUE, LIVE, State};
use crate::backoff::Rung;
use crate::decode::ConnAck;
use crate::event::Session;
use crate::logging::say;
use crate::message::DropReason;
use forebay_wire::ReasonCode;

impl Client<'_> {
    /// The transport has a connection. The caller's [`Input`](crate::Input) is to be empty.
    pub fn connected(&mut self, now: u64) {
        self.set_time(now);
        self.forget_transport();
        let now = self.clock.now();
        self.phase = Phase::Connect;
        self.peer.keep_alive_s = self.options.keep_alive_s;
        self.fault = None;
        (self.last_rx, self.last_tx) = (now, now);
        (self.tokens, self.tokens_at) = (0, now);
    }

    /// The connection has ended, by whomever; or there was none to be had. [`connect_at`](Self::connect_at) says when to
    /// try again.
    pub fn disconnected(&mut self, now: u64) {
        self.set_time(now);
        let now = self.clock.now();
        if self.up_at != NEVER && now.saturating_sub(self.up_at) >= u64::from(self.options.stable_ms) {
            self.backoff.reset();
        }
        let wait = match self.retry_after_ms.take() {
            _ if self.at_once => 0,
            Some(ms) => self.backoff.after(ms),
            None => self.climb(),
        };
        say!(info, "disconnected, {} messages wait, next attempt in {} ms", self.pending(), wait);
        self.connect_at = now.saturating_add(u64::from(wait));
        self.note_fruitless();
        self.forget_transport();
        self.phase = Phase::Down;
    }

    /// The next wait on the ladder of the last failure.
    fn climb(&mut self) -> u32 {
        let ladder = match self.rung {
            Rung::Network => &self.options.network,
            Rung::Busy => &self.options.busy,
            Rung::Refused => &self.options.refused,
        };
        self.backoff.next(self.rung, ladder)
    }

    /// How long a class waits after the server could not take a message, in milliseconds.
    pub(super) fn postpone_ms(&mut self, asked_ms: Option<u32>) -> u32 {
        match asked_ms {
            Some(ms) => self.backoff.after(ms),
            None => self.backoff.next(Rung::Busy, &self.options.busy),
        }
    }

    /// What belonged to the connection is gone with it.
    pub(super) fn forget_transport(&mut self) {
        self.doubt |= self.asked_in_vain();
        self.tx.clear();
        self.stream = Stream::nothing();
        self.peer.forget();
        self.rung = Rung::Network;
        self.at_once = false;
        (self.up_at, self.asked_at, self.ping_at) = (NEVER, NEVER, NEVER);
        self.inbound.disconnected();
        let mut at = 0;
        while let Some((here, mut head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            match head.state {
                State::Queued => head.flags |= BACKLOG,
                // It was on its way, and nobody knows how far it came.
                State::InFlight if head.qos() == 0 => {
                    self.drop_record(here, &head, DropReason::ConnectionLost);
                    continue;
                }
                State::InFlight | State::Released => head.flags |= DUE,
                State::SubSent => (head.state, head.id) = (State::SubWanted, 0),
                State::UnsubSent => (head.state, head.id) = (State::UnsubWanted, 0),
                State::Dead | State::SubWanted | State::SubGranted | State::UnsubWanted => continue,
            }
            self.arena.set(here, &head);
        }
    }

    /// Whether a CONNECT was sent and no CONNACK has come.
    pub(super) fn asked_in_vain(&self) -> bool {
        let asked = !matches!(self.phase, Phase::Down | Phase::Connect) || self.tx.what == What::Connect;
        asked && self.up_at == NEVER
    }

    /// The server has accepted the connection. `None`: only to throw away what it had, and the next one counts.
    pub(super) fn on_accepted(&mut self, ack: &ConnAck<'_>) -> Result<Option<Session>, ReasonCode> {
        let clean = self.starts_clean();
        // [MQTT-3.2.2-1], [MQTT5-3.2.2-2].
        if clean && ack.session_present {
            return Err(ReasonCode::ProtocolError);
        }
        let said = &ack.said;
        self.phase = Phase::Up;
        self.up_at = self.clock.now();
        self.suspect.connected();
        let peer = &mut self.peer;
        peer.receive_maximum = said.receive_maximum;
        peer.topic_aliases = said.topic_alias_maximum.min(32);
        peer.maximum_packet_size = match self.options.largest_packet_sent {
            largest if cfg!(feature = "undeliverable") && largest > 0 => said.maximum_packet_size.min(largest),
            _ => said.maximum_packet_size,
        };
        peer.keep_alive_s = said.server_keep_alive_s.unwrap_or(self.options.keep_alive_s);
        peer.maximum_qos = said.maximum_qos;
        peer.retains = said.retains;
        // In 3.1.1 a session that starts clean also ends with its connection. So the first one is for cleaning up.
        if !self.v5() && clean && self.options.keeps_session() {
            self.memory = Memory::Clean;
            self.phase = Phase::Leaving;
            self.leave = ReasonCode::Success;
            self.at_once = true;
            return Ok(None);
        }
        let session = match (ack.session_present, self.memory) {
            (true, _) => Session::Resumed,
            (false, Memory::Kept) => Session::Lost,
            (false, Memory::Unknown | Memory::Clean) => Session::New,
        };
        say!(info, "connected, session {}, {} messages wait", session as u8, self.pending());
        self.resume(ack.session_present);
        self.peer.doubtful = self.doubt;
        self.doubt = false;
        self.memory = if self.options.keeps_session() { Memory::Kept } else { Memory::Clean };
        Ok(Some(session))
    }

    /// The server has the session, or not: then what it has acknowledged nothing of is sent again as new, in the order in
    /// which it was published. A message of QoS 2 whose PUBREC came is the server's, and done.
    fn resume(&mut self, present: bool) {
        if !present {
            self.inbound.clear();
        }
        let mut at = 0;
        while let Some((here, mut head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            match head.state {
                // Subscribing to what is subscribed to changes nothing.
                State::SubGranted if !present || self.doubt => {
                    head.state = State::SubWanted;
                    self.arena.set(here, &head);
                }
                State::InFlight if !present => {
                    head.flags |= BACKLOG;
                    self.requeue(here, &mut head);
                }
                State::Released if !present => self.complete(here, &head),
                State::Dead
                | State::InFlight
                | State::Released
                | State::SubGranted
                | State::Queued
                | State::SubWanted
                | State::SubSent
                | State::UnsubWanted
                | State::UnsubSent => {}
            }
        }
    }

    /// The server's word on why there is no connection, or no longer.
    pub(super) fn on_farewell(&mut self, reason: ReasonCode, retry_after_ms: Option<u32>) {
        say!(warn, "the server ends the connection: reason {}", reason as u8);
        self.note_farewell(reason);
        self.rung = Rung::of(reason);
        self.retry_after_ms = retry_after_ms;
        self.phase = Phase::Done;
    }

    /// Ends the connection, and wants no other until [`connect`](Self::connect). The server drops the will. What is in the
    /// outbox stays; what is being sent is sent to its end.
    pub fn disconnect(&mut self, now: u64) {
        self.leave_with(now, ReasonCode::Success);
    }

    /// The same, but the server publishes the will.
    pub fn disconnect_with_will(&mut self, now: u64) {
        self.leave_with(now, ReasonCode::DisconnectWithWill);
    }

    fn leave_with(&mut self, now: u64, reason: ReasonCode) {
        self.set_time(now);
        self.stopped = true;
        self.leave = reason;
        match self.phase {
            // 3.1.1 has no other word for it than to hang up.
            Phase::Up if self.v5() || reason == ReasonCode::Success => self.phase = Phase::Leaving,
            Phase::Up | Phase::Connect | Phase::ConnAck => self.phase = Phase::Done,
            Phase::Down | Phase::Leaving | Phase::Done => {}
        }
    }

    /// Wants a connection again, at once.
    pub fn connect(&mut self, now: u64) {
        self.set_time(now);
        self.stopped = false;
        self.connect_at = self.clock.now();
    }
}
