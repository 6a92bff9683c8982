//! What goes to the server, and in which order.

use super::{Client, NEVER, Phase};
use crate::arena::{BACKLOG, DUE, Head, LIVE, NUMBERED, RETAIN, State};
use crate::bytes;
use crate::event::Pressure;
use crate::inbound::Entry;
use crate::message::{CLASSES, DropReason};
use crate::options::Order;

/// The packet that is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Nothing,
    Connect,
    Disconnect,
    Ping,
    Answer(Entry),
    /// The record that has the ticket, as its state says.
    Record,
}

/// The packet that is being sent, and how much of it is gone. What would change in the middle is decided once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tx {
    pub(super) what: What,
    pub(super) ticket: u32,
    /// Bytes of it: no packet is larger than the outbox, or than CONNECT can be.
    pub(super) done: u32,
    pub(super) expiry_s: Option<u32>,
    /// How many lost messages this one tells of.
    pub(super) lost: u32,
    pub(super) alias: u16,
    /// The alias stands for the topic.
    pub(super) known: bool,
    pub(super) dup: bool,
}

impl Tx {
    #[inline]
    pub(super) fn nothing() -> Self {
        Self { what: What::Nothing, ticket: 0, done: 0, expiry_s: None, lost: 0, alias: 0, known: false, dup: false }
    }

    /// Nothing is being sent. Field by field: as one value it would be a memcpy, and that is a kilobyte.
    #[inline(never)]
    pub(super) fn clear(&mut self) {
        self.what = What::Nothing;
        self.ticket = 0;
        self.done = 0;
        self.expiry_s = None;
        self.lost = 0;
        self.alias = 0;
        self.known = false;
        self.dup = false;
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.what, What::Nothing)
    }

    /// Whether this record is on its way.
    pub(super) fn is_record(&self, ticket: u32) -> bool {
        matches!(self.what, What::Record) && self.ticket == ticket
    }
}

const NONE: usize = usize::MAX;

/// What one pass over the outbox finds: places of records, or `NONE`.
struct Survey {
    /// Messages that wait for an acknowledgement on this connection; requests too, while one at a time is sent.
    window: usize,
    /// What was in flight before this connection and is first in order, or a PUBREL.
    due: usize,
    /// It is a PUBREL, which no window holds back.
    release: bool,
    /// A request to subscribe or unsubscribe.
    request: usize,
    /// The next message of each class.
    next: [usize; CLASSES],
    /// Those of them that have QoS 0: a bit each.
    unnumbered: u8,
}

impl Client<'_> {
    /// Fills `out` with what is to be sent, and says with how many bytes; 0 is nothing for now. They count as sent: write
    /// all of them to the transport (and flush it when this answers 0), or call [`disconnected`](Self::disconnected). Any
    /// length of `out` will do; a packet that does not fit is continued by the next call.
    pub fn poll_transmit(&mut self, now: u64, out: &mut [u8]) -> usize {
        self.set_time(now);
        let mut len = 0usize;
        while let Some(room) = out.get_mut(len..).filter(|room| !room.is_empty()) {
            if self.tx.is_nothing() && !self.choose() {
                break;
            }
            let Some((written, complete)) = self.emit(room) else {
                // Only a server that answers what it does not have yet gets here.
                self.phase = Phase::Done;
                break;
            };
            len = len.wrapping_add(written);
            self.tx.done = self.tx.done.wrapping_add(written as u32);
            // Before the next is chosen: that may be PINGREQ.
            self.last_tx = self.clock.now();
            if complete {
                self.sent();
            }
        }
        len
    }

    /// Chooses the next packet, if there is one.
    fn choose(&mut self) -> bool {
        self.tx.clear();
        self.tx.what = match self.phase {
            Phase::Connect => What::Connect,
            Phase::Leaving => What::Disconnect,
            Phase::Up => return self.choose_online(),
            Phase::Down | Phase::ConnAck | Phase::Done => return false,
        };
        true
    }

    fn choose_online(&mut self) -> bool {
        if let Some(entry) = self.inbound.take() {
            self.tx.what = What::Answer(entry);
            return true;
        }
        if self.ping_due() <= self.clock.now() {
            self.tx.what = What::Ping;
            return true;
        }
        self.refill();
        loop {
            let (at, due) = self.next_record();
            if due > self.clock.now() {
                return false;
            }
            let Some((at, head)) = self.arena.find(at, LIVE) else { return false };
            // Otherwise it was dropped, and there may be another.
            if self.start(at, head) {
                return true;
            }
        }
    }

    /// The record that is sent next, and when, if nothing else happens.
    #[inline(never)]
    fn next_record(&self) -> (usize, u64) {
        let mut survey =
            Survey { window: 0, due: NONE, release: false, request: NONE, next: [NONE; CLASSES], unnumbered: 0 };
        self.survey(&mut survey);
        // What was in flight goes before new messages, as far as the window allows; and requests need no window.
        if survey.due != NONE && (survey.release || survey.window < self.window()) {
            return (survey.due, 0);
        }
        let id_is_free = self.id_is_free();
        let request_waits = self.suspect.is_careful() && survey.window > 0;
        if survey.request != NONE && id_is_free && !request_waits {
            return (survey.request, 0);
        }
        let mut first = (NONE, NEVER);
        if survey.due != NONE {
            return first;
        }
        // The last place of the window is for alarms.
        let mut window = self.window();
        let mut unnumbered = survey.unnumbered;
        for (at, hold) in survey.next.iter().zip(&self.hold) {
            let sendable = unnumbered & 1 != 0 || (id_is_free && survey.window < window);
            if *at != NONE && sendable && *hold < first.1 {
                first = (*at, *hold);
            }
            // Whatever is due comes before what is not, and of two that are the class that is above.
            if first.1 <= self.clock.now() || self.yields() {
                break;
            }
            unnumbered >>= 1;
            window = self.window().saturating_sub(1).max(1);
        }
        first.1 = first.1.max(self.token_due());
        first
    }

    /// Alarms only.
    fn yields(&self) -> bool {
        self.options.yield_to_pressure && self.peer.pressure == Pressure::Critical
    }

    /// How many messages may wait for their acknowledgement.
    fn window(&self) -> usize {
        if self.suspect.is_careful() {
            return 1;
        }
        let most = self.options.in_flight_max.min(self.peer.receive_maximum).max(1);
        #[cfg(feature = "flash")]
        let most = most.min(crate::flash::FLOWN_MAX as u16);
        usize::from(most)
    }

    /// Whether the next packet identifier is in use by nobody. It is, but for a server that leaves one unanswered for
    /// 65,535 others.
    fn id_is_free(&self) -> bool {
        self.arena.find_id(self.next_id, NUMBERED).is_none()
    }

    fn survey(&self, survey: &mut Survey) {
        let (mut at, mut oldest) = (0, u16::MAX);
        let mut live = 0u8;
        while let Some((here, head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            match head.state {
                State::InFlight | State::Released if head.has(DUE) => {
                    // Identifiers are given in order, so the first is the one that is farthest behind.
                    let age = head.id.wrapping_sub(self.next_id);
                    if age <= oldest {
                        oldest = age;
                        survey.due = here;
                        survey.release = head.state == State::Released;
                    }
                }
                State::InFlight | State::Released if head.qos() > 0 => {
                    survey.window = survey.window.wrapping_add(1);
                }
                State::SubSent | State::UnsubSent if self.suspect.is_careful() => {
                    survey.window = survey.window.wrapping_add(1);
                }
                #[cfg(feature = "flash")]
                State::Queued if self.is_barred(&head) => {}
                State::Queued => {
                    let class = head.class() as usize;
                    let is_live = self.options.order == Order::LiveFirst && !head.has(BACKLOG);
                    let first_live = is_live && live & 1 << class == 0;
                    if let Some(next) = survey.next.get_mut(class).filter(|next| **next == NONE || first_live) {
                        *next = here;
                        survey.unnumbered &= !(1 << class);
                        survey.unnumbered |= u8::from(head.qos() == 0) << class;
                    }
                    if first_live {
                        live |= 1 << class;
                    }
                }
                State::SubWanted | State::UnsubWanted if survey.request == NONE => survey.request = here,
                State::Dead
                | State::InFlight
                | State::Released
                | State::SubWanted
                | State::SubSent
                | State::SubGranted
                | State::UnsubWanted
                | State::UnsubSent => {}
            }
        }
    }

    fn refill(&mut self) {
        let rate = u32::from(self.options.rate_per_s);
        if rate == 0 {
            return;
        }
        let now = self.clock.now();
        let passed = u32::try_from(now.saturating_sub(self.tokens_at)).unwrap_or(u32::MAX);
        let most = u32::from(self.options.burst.max(1)).saturating_mul(TOKEN);
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(rate)).min(most);
        self.tokens_at = now;
    }

    /// When the rate allows another message.
    #[inline(never)]
    fn token_due(&self) -> u64 {
        let rate = u32::from(self.options.rate_per_s);
        if rate == 0 || self.tokens >= TOKEN {
            return 0;
        }
        let wait = TOKEN.wrapping_sub(self.tokens).wrapping_add(rate).wrapping_sub(1) / rate;
        self.tokens_at.saturating_add(u64::from(wait))
    }

    /// When something that waits can be sent, if nothing else happens.
    pub(super) fn transmit_due(&self) -> u64 {
        if self.inbound.any_due() || !self.tx.is_nothing() { 0 } else { self.next_record().1 }
    }

    /// Starts to send a record; or drops it, when this server cannot take it.
    fn start(&mut self, at: usize, mut head: Head) -> bool {
        self.tx.what = What::Record;
        self.tx.ticket = head.ticket;
        match head.state {
            State::Queued => {
                if head.qos() > self.peer.maximum_qos || (head.has(RETAIN) && !self.peer.retains) {
                    return self.cannot_send(at, &head, DropReason::NotSupported);
                }
                head.state = State::InFlight;
                if head.qos() > 0 {
                    head.id = self.take_id();
                }
                self.tokens = self.tokens.saturating_sub(TOKEN);
            }
            State::InFlight => self.tx.dup = true,
            State::SubWanted | State::UnsubWanted => {
                head.id = self.take_id();
                head.state = if head.state == State::SubWanted { State::SubSent } else { State::UnsubSent };
            }
            State::Dead | State::Released | State::SubSent | State::SubGranted | State::UnsubSent => {}
        }
        head.flags &= !DUE;
        self.arena.set(at, &head);
        // A server of MQTT 3.1.1 says no limit: there is one only where the device may have set its own.
        if head.state == State::InFlight && (cfg!(feature = "undeliverable") || self.v5()) {
            if self.v5() {
                self.tx.expiry_s = self.remaining_s(&head);
                self.choose_alias(at, &head);
                self.tell_lost(&head);
            }
            if self.frame_len() > self.peer.maximum_packet_size as usize {
                self.tx.lost = 0;
                if self.frame_len() > self.peer.maximum_packet_size as usize {
                    return self.cannot_send(at, &head, DropReason::TooLarge);
                }
            }
        }
        true
    }

    fn cannot_send(&mut self, at: usize, head: &Head, reason: DropReason) -> bool {
        self.drop_record(at, head, reason);
        self.tx.clear();
        false
    }

    /// The next packet identifier. They are given in order, and none passes one that is still in use: so their order is the
    /// order of sending.
    #[inline(never)]
    fn take_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        id
    }

    fn choose_alias(&mut self, at: usize, head: &Head) {
        let topic = self.arena.parts(at, head).topic;
        let aliases = self.options.topic_aliases.iter().take(usize::from(self.peer.topic_aliases));
        if let Some(index) =
            aliases.enumerate().find(|(_, alias)| bytes::same(alias.as_bytes(), topic)).map(|(index, _)| index)
        {
            self.tx.alias = (index as u16).wrapping_add(1);
            self.tx.known = self.peer.told & 1 << index != 0;
        }
    }

    fn tell_lost(&mut self, head: &Head) {
        let lost = &mut self.lost;
        if self.options.tell_lost && lost.told == 0 && lost.untold > 0 {
            (lost.ticket, lost.told) = (head.ticket, lost.untold);
        }
        if lost.told > 0 && lost.ticket == head.ticket {
            self.tx.lost = lost.told;
        }
    }

    /// A packet is with the transport.
    fn sent(&mut self) {
        let now = self.clock.now();
        match self.tx.what {
            What::Connect => {
                self.phase = Phase::ConnAck;
                self.asked_at = now;
            }
            What::Disconnect => self.phase = Phase::Done,
            // Of several without an answer the first says since when the server is silent.
            What::Ping => self.ping_at = self.ping_at.min(now),
            What::Record => {
                if self.tx.alias > 0 {
                    self.peer.told |= 1 << (self.tx.alias.wrapping_sub(1) & 31);
                }
                match self.arena.find_ticket(self.tx.ticket) {
                    Some((at, head)) if head.state == State::InFlight && head.qos() == 0 => self.complete(at, &head),
                    Some(_) | None => self.asked_at = self.asked_at.min(now),
                }
            }
            What::Nothing | What::Answer(_) => {}
        }
        self.tx.clear();
    }
}

/// What a message costs, in thousandths of itself.
const TOKEN: u32 = 1_000;
