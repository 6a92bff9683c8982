//! The outbox: publishing, with or without a connection.

use super::timer::ticks;
use super::{Client, Phase, QOS2};
use crate::arena::{self, BACKLOG, DUE, HEAD, Head, LIVE, State};
use crate::bytes;
use crate::logging::say;
use crate::message::{DropReason, Dropped, Message, Policy, PublishError, Status, Ticket};
use crate::write::Out;
use forebay_wire::topic;
use forebay_wire::types::QoS;

/// How many ends of messages are remembered for [`Client::status`].
pub const ENDED_MAX: usize = 8;

const DONE: u8 = u8::MAX;

/// How the last messages ended.
#[derive(Debug)]
pub(super) struct Ended {
    tickets: [u32; ENDED_MAX],
    how: [u8; ENDED_MAX],
    next: u8,
}

impl Ended {
    pub(super) const fn new() -> Self {
        Self { tickets: [0; ENDED_MAX], how: [0; ENDED_MAX], next: 0 }
    }

    fn push(&mut self, ticket: u32, how: u8) {
        let at = usize::from(self.next) & (ENDED_MAX - 1);
        if let (Some(to), Some(code)) = (self.tickets.get_mut(at), self.how.get_mut(at)) {
            (*to, *code) = (ticket, how);
        }
        self.next = self.next.wrapping_add(1);
    }

    fn find(&self, ticket: u32) -> Status {
        match self.tickets.iter().zip(&self.how).find(|(ended, _)| **ended == ticket) {
            Some((_, &DONE)) => Status::Done,
            Some((_, how)) => Status::Dropped(DropReason::from_bits(*how)),
            None => Status::Unknown,
        }
    }
}

impl Client<'_> {
    /// Puts a message into the outbox. It needs no connection.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn publish(&mut self, now: u64, message: &Message<'_>, payload: &[u8]) -> Result<Ticket, PublishError> {
        self.try_publish(now, message, payload.len(), |room| bytes::copy(room, payload))
    }

    /// The same, with the payload written where it is sent from: `write` is given room for `payload_max` bytes and says
    /// how many it has used. Room for all of them has to be there, and what is not used is given back.
    ///
    /// # Errors
    /// Why it was not taken; `write` was not called then.
    #[inline]
    pub fn try_publish(
        &mut self,
        now: u64,
        message: &Message<'_>,
        payload_max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<Ticket, PublishError> {
        let mut head = Head::NONE;
        let room = self.begin(now, message, payload_max, &mut head)?;
        let len = write(room);
        Ok(self.finish(&mut head, len.min(payload_max)))
    }

    fn begin(
        &mut self,
        now: u64,
        message: &Message<'_>,
        payload_max: usize,
        head: &mut Head,
    ) -> Result<&mut [u8], PublishError> {
        self.set_time(now);
        let topic = message.topic.as_bytes();
        if topic.len() > usize::from(u16::MAX) || topic::check_name(message.topic, usize::MAX).is_err() {
            return Err(PublishError::Topic);
        }
        let properties = properties_len(message).ok_or(PublishError::NotSupported)?;
        if !QOS2 && message.qos == QoS::ExactlyOnce {
            return Err(PublishError::NotSupported);
        }
        let parts = topic.len().saturating_add(usize::from(properties)).saturating_add(payload_max);
        self.make_room(message, arena::record_len(parts))?;

        *head = Head::message(self.next_ticket, message.qos, message.retain, message.class);
        head.topic_len = topic.len() as u16;
        head.properties_len = properties;
        if message.ttl_ms > 0 {
            head.expires = self.clock.tick().wrapping_add(ticks(message.ttl_ms)).max(1);
        }
        if self.phase != Phase::Up {
            head.flags |= BACKLOG;
        }
        let room = self.arena.room(HEAD.wrapping_add(parts)).ok_or(PublishError::Full)?;
        let mut out = Out::new(room.get_mut(HEAD..).unwrap_or_default(), 0);
        out.bytes(topic);
        if properties > 0 {
            arena::write_properties(message.properties, &mut out);
        }
        let at = HEAD.wrapping_add(parts).wrapping_sub(payload_max);
        Ok(room.get_mut(at..).unwrap_or_default())
    }

    fn finish(&mut self, head: &mut Head, payload_len: usize) -> Ticket {
        self.arena.commit(head, payload_len);
        self.expires_at(head.expires);
        self.counters.accepted = self.counters.accepted.wrapping_add(1);
        self.take_ticket()
    }

    /// The next ticket; zero is nobody's.
    pub(super) fn take_ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1).max(1);
        Ticket(ticket)
    }

    /// Sees to it that a class may take `len` bytes more: of its own share and what is left of everyone's.
    fn make_room(&mut self, message: &Message<'_>, len: usize) -> Result<(), PublishError> {
        let (class, account) = (message.class, message.class as usize);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let (mut at, mut yielding) = (0, 0u32);
        while let Some((here, head)) = self.next_yielding(at, message) {
            at = here.wrapping_add(head.len);
            yielding = yielding.wrapping_add(head.len as u32);
        }
        if !self.fits(account, len, yielding) {
            self.count_drop(Dropped { reason: DropReason::Full, class, ticket: None });
            let never = len > self.arena.capacity();
            return Err(if never { PublishError::TooLarge } else { PublishError::Full });
        }
        let keep_last = message.policy == Policy::KeepLast;
        let reason = if keep_last { DropReason::Superseded } else { DropReason::Evicted };
        while keep_last || !self.fits(account, len, 0) {
            let Some((here, head)) = self.next_yielding(0, message) else { break };
            self.drop_record(here, &head, reason);
        }
        Ok(())
    }

    /// Whether a message with so much payload would be taken now.
    #[cfg(feature = "embedded-io-async")]
    pub(crate) fn has_room(&self, message: &Message<'_>, payload_len: usize) -> bool {
        let parts = message.topic.len().saturating_add(usize::from(properties_len(message).unwrap_or_default()));
        let len = u32::try_from(arena::record_len(parts.saturating_add(payload_len))).unwrap_or(u32::MAX);
        let (mut at, mut yielding) = (0, 0u32);
        while let Some((here, head)) = self.next_yielding(at, message) {
            at = here.wrapping_add(head.len);
            yielding = yielding.wrapping_add(head.len as u32);
        }
        // What never fits is not waited for.
        len > self.arena.capacity() || self.fits(message.class as usize, len, yielding)
    }

    /// The next message that makes room for this one.
    fn next_yielding(&self, at: usize, message: &Message<'_>) -> Option<(usize, Head)> {
        let mut at = at;
        loop {
            let (here, head) = self.arena.find(at, State::Queued.bit())?;
            let yields = match message.policy {
                Policy::DropOldest => true,
                Policy::DropNewest => false,
                Policy::KeepLast => bytes::same(self.arena.parts(here, &head).topic, message.topic.as_bytes()),
            };
            if yields && head.class() == message.class {
                return Some((here, head));
            }
            at = here.wrapping_add(head.len);
        }
    }

    /// Whether an account may have `len` bytes more once it has given `back` bytes.
    pub(super) fn fits(&self, account: usize, len: u32, back: u32) -> bool {
        let mut kept = 0u32;
        for (at, used) in self.arena.used().iter().enumerate() {
            let used = if at == account { used.wrapping_sub(back).saturating_add(len) } else { *used };
            kept = kept.saturating_add(used.max(self.reserve_of(at)));
        }
        #[cfg(feature = "flash")]
        let kept = kept.saturating_add(self.kept_back(account));
        kept <= self.arena.capacity()
    }

    fn reserve_of(&self, account: usize) -> u32 {
        self.options.reserve.get(account).copied().unwrap_or(self.options.subscription_reserve)
    }

    /// A message is gone, and everyone who wants to know is told.
    #[inline(never)]
    pub(super) fn drop_record(&mut self, at: usize, head: &Head, reason: DropReason) {
        self.arena.kill(at, head);
        self.ended.push(head.ticket, reason as u8);
        if self.lost.ticket == head.ticket {
            self.lost.told = 0;
        }
        self.count_drop(Dropped { reason, class: head.class(), ticket: Some(Ticket(head.ticket)) });
    }

    pub(crate) fn count_drop(&mut self, dropped: Dropped) {
        say!(debug, "dropped: class {}, reason {}", dropped.class as u8, dropped.reason as u8);
        if let Some(count) = self.counters.dropped.get_mut(dropped.reason as usize) {
            *count = count.wrapping_add(1);
        }
        // Whoever is told a newer value has lost nothing.
        if dropped.reason != DropReason::Superseded {
            self.lost.untold = self.lost.untold.saturating_add(1);
        }
        if let Some(call) = self.options.on_drop {
            call(dropped);
        }
    }

    /// A message is safe, or QoS 0 and sent.
    #[inline(never)]
    pub(super) fn complete(&mut self, at: usize, head: &Head) {
        self.arena.kill(at, head);
        self.ended.push(head.ticket, DONE);
        let counter = if head.qos() == 0 { &mut self.counters.sent } else { &mut self.counters.acknowledged };
        *counter = counter.wrapping_add(1);
        if self.lost.ticket == head.ticket && self.lost.told > 0 {
            self.lost.untold = self.lost.untold.wrapping_sub(self.lost.told);
            self.lost.told = 0;
        }
    }

    /// A message that was sent is one to be sent again as new.
    pub(super) fn requeue(&mut self, at: usize, head: &mut Head) {
        head.state = State::Queued;
        head.id = 0;
        head.flags &= !DUE;
        self.arena.set(at, head);
        self.look_for_expiry();
    }

    /// What has become of a message.
    #[must_use]
    pub fn status(&self, ticket: Ticket) -> Status {
        match self.arena.find_ticket(ticket.0) {
            Some((_, head)) if head.state == State::Queued => Status::Queued,
            Some(_) => Status::Sent,
            None => self.ended.find(ticket.0),
        }
    }

    /// Takes a message back that was not sent yet. Whether it was.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        match self.arena.find_ticket(ticket.0) {
            Some((at, head)) if head.state == State::Queued => {
                self.drop_record(at, &head, DropReason::Cancelled);
                true
            }
            Some(_) | None => false,
        }
    }

    /// How many messages are in the outbox.
    #[must_use]
    pub fn pending(&self) -> usize {
        let (mut at, mut count) = (0, 0usize);
        while let Some((here, head)) = self.arena.find(at, LIVE & !arena::SUBS) {
            at = here.wrapping_add(head.len);
            count = count.wrapping_add(1);
        }
        count
    }

    /// Whether all that was published is safe, and nothing is owed to the server: a good moment to sleep.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        #[cfg(feature = "flash")]
        if self.is_barred_at_all() {
            return false;
        }
        self.arena.find(0, LIVE & !State::SubGranted.bit()).is_none() && self.tx.is_nothing() && !self.inbound.any_due()
    }

    /// Whether the server has still to release a message of QoS 2 that came (PUBREL). Who leaves before that has had the
    /// message; the server keeps it in its session, and releases it when the client is back [MQTT-4.4.0-1].
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.inbound.any_open()
    }

    /// Bytes of the outbox that are used, and how many there are.
    #[must_use]
    pub fn fill(&self) -> (u32, u32) {
        (self.arena.used_total(), self.arena.capacity())
    }
}

/// Bytes of a message's properties; `None` when they cannot be written.
fn properties_len(message: &Message<'_>) -> Option<u16> {
    if !cfg!(feature = "v5") || message.properties.is_empty() {
        return Some(0);
    }
    let mut out = Out::counting();
    arena::write_properties(message.properties, &mut out);
    let longest = usize::from(u16::MAX);
    if out.seen() > longest { None } else { Some(out.seen() as u16) }
}
