//! What a store needs that survives a power cut: messages that wait for it, and the session without its messages.

use super::timer::ticks;
use super::{Client, Memory};
use crate::arena::{self, BACKLOG, DUE, HEAD, Head, LIVE, SUBS, State};
use crate::inbound::{Entry, Owed};
use crate::message::{CLASSES, Class, DropReason, Dropped};
use crate::{ImportError, Status, Ticket};

#[derive(Clone, Copy, Debug)]
pub(super) struct Durable {
    /// From which ticket on messages of a class are not sent, where `barred` has its bit.
    barrier: [u32; CLASSES],
    /// The last ticket of a class up to which messages are stored; 0 is none.
    stored: [u32; CLASSES],
    /// Bytes of the outbox that only messages which come back may take: those of the largest message that is stored.
    kept_back: u32,
    barred: u8,
}

impl Durable {
    pub(super) const fn new() -> Self {
        Self { barrier: [0; CLASSES], stored: [0; CLASSES], kept_back: 0, barred: 0 }
    }
}

/// Whether `ticket` is `other` or was given after it.
pub(crate) const fn is_from(ticket: u32, other: u32) -> bool {
    ticket.wrapping_sub(other) as i32 >= 0
}

/// A message that came with QoS 2 and was handled. One that is being handled comes again after a power cut.
fn was_handled(entry: &Entry) -> bool {
    matches!(entry.owed, Owed::Rec | Owed::Nothing) && entry.reason.is_success()
}

impl Client<'_> {
    pub(super) fn is_barred(&self, head: &Head) -> bool {
        let class = head.class() as usize;
        let barrier = self.durable.barrier.get(class).copied().unwrap_or_default();
        self.durable.barred & 1 << class != 0 && is_from(head.ticket, barrier)
    }

    /// Whether messages are elsewhere, or wait to be stored.
    pub(super) fn is_barred_at_all(&self) -> bool {
        self.durable.barred != 0
    }

    /// Bytes that an account has to leave free. Subscriptions have their own share, and are made again at a start.
    pub(super) fn kept_back(&self, account: usize) -> u32 {
        if account == arena::SUBSCRIPTIONS { 0 } else { self.durable.kept_back }
    }

    /// Whether a message that comes back has room.
    pub(super) fn fits_back(&mut self, account: usize, len: u32) -> bool {
        let kept_back = core::mem::take(&mut self.durable.kept_back);
        let fits = self.fits(account, len, 0);
        self.durable.kept_back = kept_back;
        fits
    }

    /// Whether a message that comes back has room now.
    pub(crate) fn fits_again(&mut self, class: Class, len: u32) -> bool {
        self.fits_back(class as usize, len)
    }

    /// A message that was elsewhere cannot come back.
    pub(crate) fn lose_spilled(&mut self, class: Class, ticket: Ticket) {
        self.counters.spilled = self.counters.spilled.saturating_sub(1);
        self.count_drop(Dropped { reason: DropReason::Evicted, class, ticket: Some(ticket) });
    }

    /// Messages of a class from this ticket on are not sent: older ones are elsewhere, or they are to be stored first.
    pub(crate) fn set_barrier(&mut self, class: Class, from: Option<u32>) {
        self.durable.barred &= !(1 << class as u8);
        if let (Some(from), Some(barrier)) = (from, self.durable.barrier.get_mut(class as usize)) {
            *barrier = from;
            self.durable.barred |= 1 << class as u8;
        }
    }

    /// Messages of a class are stored up to this ticket; 0 is none.
    pub(crate) fn set_stored(&mut self, class: Class, upto: u32) {
        if let Some(stored) = self.durable.stored.get_mut(class as usize) {
            *stored = upto;
        }
    }

    /// Whether a message is stored, or has ended.
    #[cfg(feature = "embedded-io-async")]
    pub(crate) fn is_stored(&self, ticket: Ticket) -> bool {
        // What is not in the outbox is in the store alone, or has ended.
        let Some((_, head)) = self.arena.find_ticket(ticket.0) else { return true };
        let upto = self.durable.stored.get(head.class() as usize).copied().unwrap_or_default();
        let is_kind = head.state.bit() & SUBS == 0 && head.qos() > 0 && head.len as u32 <= self.durable.kept_back;
        is_kind && upto != 0 && is_from(upto, head.ticket)
    }

    /// Publishing leaves so many bytes free, for what comes back.
    pub(crate) fn keep_room(&mut self, bytes: u32) {
        self.durable.kept_back = bytes;
    }

    /// The next ticket is none up to this one.
    pub(crate) fn skip_tickets(&mut self, upto: u32) {
        if is_from(upto, self.next_ticket) {
            self.next_ticket = upto.wrapping_add(1).max(1);
        }
    }

    /// The number of the next ticket.
    pub(crate) fn upcoming(&self) -> u32 {
        self.next_ticket
    }

    /// The last ticket of a class that is in flight.
    pub(crate) fn last_flying(&self, class: Class) -> Option<u32> {
        let (mut at, mut last) = (0, None);
        while let Some((here, head)) = self.arena.find(at, State::InFlight.bit() | State::Released.bit()) {
            at = here.wrapping_add(head.len);
            if head.class() == class && last.is_none_or(|last| is_from(head.ticket, last)) {
                last = Some(head.ticket);
            }
        }
        last
    }

    /// Whether a message is in the outbox, waiting or in flight.
    pub(crate) fn is_here(&self, ticket: u32) -> bool {
        matches!(self.status(Ticket(ticket)), Status::Queued | Status::Sent)
    }

    /// Changes whenever something has changed that must not be forgotten: who is in flight with QoS 2, both ways, under
    /// which identifier, and what is subscribed to.
    pub(crate) fn session_digest(&self) -> u32 {
        let mut sum = 0x811c_9dc5u32 ^ self.memory as u32;
        let mut add = |number: u32| sum = (sum ^ number).wrapping_mul(0x0100_0193).rotate_left(5);
        for entry in self.inbound.all().iter().filter(|entry| was_handled(entry)) {
            add(u32::from(entry.id));
        }
        let mut at = 0;
        while let Some((here, head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            if head.qos() == 2 && is_numbered(&head) {
                add(head.ticket);
                add(u32::from(head.id) << 1 | u32::from(head.state == State::Released));
            } else if head.state.bit() & SUBS != 0 {
                add(head.ticket);
            }
        }
        sum
    }

    /// Writes the session without the messages that wait: those in flight by their headers alone. Those with QoS 1 are among
    /// them so that none is overtaken by one with QoS 2 that was sent after it. What [`import`](Self::import) takes.
    pub(crate) fn export_session(&mut self, now: u64, out: &mut [u8]) -> Option<usize> {
        self.set_time(now);
        self.write(out, was_handled, |client, to| {
            let mut at = 0;
            while let Some((here, head)) = client.arena.find(at, LIVE) {
                at = here.wrapping_add(head.len);
                if is_numbered(&head) {
                    let mut raw = [0; HEAD];
                    arena::rewrite(&mut raw, &head.stripped());
                    to.bytes(&raw);
                } else if head.state.bit() & SUBS != 0 {
                    to.bytes(client.arena.raw(here, &head));
                }
            }
        })
    }

    /// Takes it over after a power cut: nobody knows whether a CONNECT was on its way then.
    pub(crate) fn import_session(&mut self, now: u64, slept_ms: u64, from: &[u8]) -> Result<(), ImportError> {
        self.import(now, slept_ms, from)?;
        self.doubt |= self.memory == Memory::Kept;
        Ok(())
    }

    /// Gives a message in flight its content back. False: it is not one without, or there is no room.
    pub(crate) fn fill_again(&mut self, now: u64, away_ms: u32, from: &[u8]) -> bool {
        self.set_time(now);
        let Some(mut head) = arena::parse(from) else { return false };
        let Some((at, old)) = self.arena.find_ticket(head.ticket).filter(|(_, old)| is_hollow(old)) else {
            return false;
        };
        let more = (head.len as u32).saturating_sub(old.len as u32);
        if self.arena.used_total().saturating_add(more) > self.arena.capacity() {
            return false;
        }
        (head.state, head.id) = (State::InFlight, old.id);
        head.flags |= DUE | BACKLOG;
        if head.expires != 0 {
            head.expires = self.clock.expiry(head.expires.saturating_sub(ticks(away_ms)));
        }
        self.arena.kill(at, &old);
        self.arena.insert(&head, from, State::InFlight.bit());
        true
    }

    /// Gives up the messages in flight whose content did not come back; how many of them have QoS 2.
    pub(crate) fn drop_hollow(&mut self) -> u32 {
        let (mut at, mut count) = (0, 0u32);
        while let Some((here, head)) = self.arena.find(at, State::InFlight.bit()) {
            at = here.wrapping_add(head.len);
            if is_hollow(&head) {
                self.arena.kill(here, &head);
                count = count.wrapping_add(u32::from(head.qos() == 2));
            }
        }
        count
    }

    /// After a power cut so many messages are elsewhere; the counters say what is there.
    pub(crate) fn recount(&mut self, away: u32) -> u32 {
        let counters = &mut self.counters;
        let ended = counters.sent.wrapping_add(counters.acknowledged).wrapping_add(counters.dropped_with_ticket());
        let before = counters.accepted.wrapping_sub(ended);
        counters.spilled = away;
        let there = away.wrapping_add(self.pending() as u32);
        self.counters.accepted = ended.wrapping_add(there);
        before.saturating_sub(there)
    }
}

/// A message that has its identifier.
fn is_numbered(head: &Head) -> bool {
    head.qos() > 0 && matches!(head.state, State::InFlight | State::Released)
}

/// One of them without its content.
fn is_hollow(head: &Head) -> bool {
    head.state == State::InFlight && head.topic_len == 0
}
