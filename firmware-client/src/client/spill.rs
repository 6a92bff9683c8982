//! Messages that leave the outbox for another store, and come back.

use super::Client;
use super::timer::ticks;
use crate::arena::{self, State};
use crate::bytes;
use crate::message::{Class, PublishError, Ticket};
use forebay_wire::types::QoS;

/// A message that waits in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Its ticket; messages are in the order of their tickets, within a class.
    pub ticket: Ticket,
    /// Its class.
    pub class: Class,
    /// Its QoS.
    pub qos: QoS,
    /// Bytes that it takes, here and in a store.
    pub len: usize,
}

/// For a store behind the outbox. A message that is copied, removed here, and restored later is the same message: it keeps
/// its ticket, its place and its age. While it is away it counts as [`spilled`](crate::Counters::spilled).
impl Client<'_> {
    /// The first message in the outbox that waits to be sent and was published after `after`.
    #[must_use]
    pub fn waiting(&self, after: Option<Ticket>) -> Option<Waiting> {
        let mut at = 0;
        loop {
            let (here, head) = self.arena.find(at, State::Queued.bit())?;
            if after.is_none_or(|after| head.ticket.wrapping_sub(after.0) as i32 > 0) {
                let qos = QoS::try_from(head.qos()).unwrap_or(QoS::AtMostOnce);
                return Some(Waiting { ticket: Ticket(head.ticket), class: head.class(), qos, len: head.len });
            }
            at = here.wrapping_add(head.len);
        }
    }

    /// Copies a message that waits to be sent into `out`, as bytes that [`restore`](Self::restore) takes. How many;
    /// `None` when it does not wait, or does not fit.
    pub fn copy_out(&mut self, now: u64, ticket: Ticket, out: &mut [u8]) -> Option<usize> {
        self.set_time(now);
        let (at, mut head) = self.arena.find_ticket(ticket.0).filter(|(_, head)| head.state == State::Queued)?;
        let out = out.get_mut(..head.len)?;
        bytes::copy(out, self.arena.raw(at, &head));
        // What is left, since the clock of another day counts from elsewhere.
        if head.expires != 0 {
            head.expires = (head.expires.wrapping_sub(self.clock.tick()) as i32).max(1) as u32;
            arena::rewrite(out, &head);
        }
        Some(head.len)
    }

    /// Takes a message out of the outbox that is safe elsewhere. Whether it was waiting.
    pub fn remove_spilled(&mut self, ticket: Ticket) -> bool {
        match self.arena.find_ticket(ticket.0) {
            Some((at, head)) if head.state == State::Queued => {
                self.arena.kill(at, &head);
                self.counters.spilled = self.counters.spilled.wrapping_add(1);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Puts a message back that was away for `away_ms`, before those of its class that were published after it. One that
    /// this client does not know, since the device has started anew, counts as accepted.
    ///
    /// # Errors
    /// There is no room for it now, or these bytes are no message ([`NotSupported`](PublishError::NotSupported)). It is
    /// not counted as dropped.
    pub fn restore(&mut self, now: u64, away_ms: u32, from: &[u8]) -> Result<Ticket, PublishError> {
        self.set_time(now);
        let mut head =
            arena::parse(from).filter(|head| head.state == State::Queued).ok_or(PublishError::NotSupported)?;
        #[cfg(feature = "flash")]
        let fits = self.fits_back(head.class() as usize, head.len as u32);
        #[cfg(not(feature = "flash"))]
        let fits = self.fits(head.class() as usize, head.len as u32, 0);
        if !fits {
            return Err(PublishError::Full);
        }
        if head.expires != 0 {
            head.expires = self.clock.expiry(head.expires.saturating_sub(ticks(away_ms)));
        }
        head.flags |= arena::BACKLOG;
        self.arena.insert(&head, from, State::Queued.bit());
        self.expires_at(head.expires);
        if self.counters.spilled > 0 {
            self.counters.spilled = self.counters.spilled.wrapping_sub(1);
        } else {
            self.counters.accepted = self.counters.accepted.wrapping_add(1);
        }
        if head.ticket.wrapping_sub(self.next_ticket) as i32 >= 0 {
            self.next_ticket = head.ticket.wrapping_add(1).max(1);
        }
        Ok(Ticket(head.ticket))
    }
}
