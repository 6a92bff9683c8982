//! From flash into the outbox, and into nothing.

use super::ring::{Lane, Ring};
use super::spill::stamp_of;
use super::{FLOWN_MAX, Half, STAMP, Tier};
use crate::arena::{self, Head};
use crate::client::{Client, is_from};
use crate::message::{CLASSES, Class, Ticket};
use crate::store::{Access, StoreFailed};
use embedded_storage_async::nor_flash::NorFlash;

/// How many ends are waited for before the flash is looked through.
const BATCH: u32 = 8;

/// What is done with a message in flash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Keep,
    /// It has ended.
    Pop,
    /// It is taken out and goes back: QoS 0, which must not be there twice.
    Move,
}

/// A message in flash, or one that was just taken out of it.
pub(super) enum Seen<'r> {
    There(&'r [u8]),
    Taken(&'r [u8]),
}

/// What deciding needs beside the flash.
struct Look<'l> {
    lanes: &'l mut [Lane; CLASSES],
    half: &'l mut Option<Half>,
    flown: &'l [u32; FLOWN_MAX],
    /// Classes whose messages may come back.
    open: [bool; CLASSES],
    low: u32,
    boot: u32,
    slept_ms: u32,
}

/// The stamp, the header and the record of what lies in flash.
pub(super) fn parse(raw: &[u8]) -> Option<(u32, Head, &[u8])> {
    let (stamp, record) = raw.split_first_chunk::<STAMP>()?;
    Some((u32::from_le_bytes(*stamp), arena::parse(record)?, record))
}

fn ends(client: &Client<'_>) -> u32 {
    let counters = client.counters();
    counters.sent.wrapping_add(counters.acknowledged).wrapping_add(counters.dropped_with_ticket())
}

/// Whether a message of a class with so many bytes may come back: there is room, or none of its class waits.
fn has_room(client: &Client<'_>, class: Class, lane: &Lane, low: u32, len: u32) -> bool {
    let mut after = None;
    let mut none = true;
    while let Some(message) = client.waiting(after) {
        after = Some(message.ticket);
        none &= message.class != class || is_from(message.ticket.number(), lane.cursor);
    }
    none || client.fill().0.saturating_add(len) <= low
}

impl Look<'_> {
    fn lane(&mut self, class: Class) -> Option<&mut Lane> {
        self.lanes.get_mut(class as usize)
    }

    /// How long a message was away, in milliseconds.
    fn away_ms(&self, now: u64, stamp: u32, ticket: u32) -> u32 {
        if is_from(ticket, self.boot) {
            stamp_of(now).wrapping_sub(stamp).saturating_mul(64)
        } else {
            self.slept_ms.saturating_add(u32::try_from(now).unwrap_or(u32::MAX))
        }
    }

    fn decide(&mut self, now: u64, client: &mut Client<'_>, raw: &[u8]) -> Act {
        let Some((stamp, head, record)) = parse(raw) else { return Act::Pop };
        let (class, ticket) = (head.class(), head.ticket);
        let here = client.is_here(ticket);
        let flown = self.flown.contains(&ticket);
        let low = self.low;
        let away_ms = self.away_ms(now, stamp, ticket);
        let open = self.open.get(class as usize).copied().unwrap_or_default();
        let Some(lane) = self.lane(class) else { return Act::Keep };
        if flown || lane.away == 0 || !is_from(ticket, lane.cursor) {
            if !here {
                lane.stored = lane.stored.saturating_sub(1);
            }
            return if here { Act::Keep } else { Act::Pop };
        }
        let len = head.len as u32;
        if !open || !has_room(client, class, lane, low, len) || !client.fits_again(class, len) {
            // Those behind it wait for it.
            if let Some(open) = self.open.get_mut(class as usize) {
                *open = false;
            }
            return Act::Keep;
        }
        let only_here = head.qos() == 0;
        if !only_here && client.restore(now, away_ms, record).is_err() {
            return Act::Keep;
        }
        lane.cursor = ticket.wrapping_add(1);
        lane.away = lane.away.saturating_sub(1);
        if only_here {
            lane.stored = lane.stored.saturating_sub(1);
            *self.half = Some(Half::Moves(class, Ticket(ticket)));
            return Act::Move;
        }
        Act::Keep
    }

    /// After [`Act::Move`].
    fn put_back(&mut self, now: u64, client: &mut Client<'_>, raw: &[u8]) {
        let Some((stamp, head, record)) = parse(raw) else { return };
        *self.half = None;
        if client.restore(now, self.away_ms(now, stamp, head.ticket), record).is_err() {
            client.lose_spilled(head.class(), Ticket(head.ticket));
        }
    }
}

impl<F: NorFlash> Tier<'_, F> {
    /// Whether looking through the flash is likely to be of use.
    pub(super) fn is_worth_a_look(&self, client: &Client<'_>) -> bool {
        let ended = ends(client).wrapping_sub(self.ended);
        if self.stored() == 0 {
            return false;
        }
        let (low, largest) = (self.config.low, self.config.largest);
        let comes_back = |class| {
            let lane = self.lane(class);
            lane.away > 0 && has_room(client, class, &lane, low, largest)
        };
        let wanted = client.is_connected() && Class::ALL.into_iter().any(comes_back);
        wanted || ended >= BATCH || (ended > 0 && client.pending() == 0)
    }

    /// Marks what has ended, and brings back what there is room for.
    pub(super) async fn sweep(&mut self, access: &mut impl Access, restore: bool) -> Result<(), StoreFailed> {
        let Some((ended, connected)) = access.client(|_, client| (ends(client), client.is_connected())) else {
            return Ok(());
        };
        if self.stored() == 0 || (!restore && ended == self.ended) {
            return Ok(());
        }
        self.torn = true;
        let (boot, slept_ms) = (self.boot, self.slept_ms);
        let Self { flash, config, buffer, lanes, half, flown, .. } = self;
        let open = [restore && connected; CLASSES];
        let mut look = Look { lanes, half, flown, open, low: config.low, boot, slept_ms };
        let visit = |seen: Seen<'_>| match seen {
            Seen::There(raw) => access.client(|now, client| look.decide(now, client, raw)).unwrap_or(Act::Keep),
            Seen::Taken(raw) => {
                access.client(|now, client| look.put_back(now, client, raw));
                Act::Keep
            }
        };
        Ring::new(flash, config)?.walk(buffer, visit).await?;
        self.torn = false;
        self.ended = ended;
        Ok(())
    }

    /// Whether all that has ended is marked.
    pub(super) fn is_swept(&self, client: &Client<'_>) -> bool {
        self.stored() == 0 || ends(client) == self.ended
    }

    /// Takes a message out of flash that ended meanwhile.
    pub(super) async fn unstore(&mut self, class: Class, ticket: Ticket) -> Result<(), StoreFailed> {
        self.half = Some(Half::Ends(ticket));
        let visit = |seen: Seen<'_>| match seen {
            Seen::There(raw) if parse(raw).is_some_and(|(_, head, _)| head.ticket == ticket.number()) => Act::Pop,
            Seen::There(_) | Seen::Taken(_) => Act::Keep,
        };
        Ring::new(&mut self.flash, &self.config)?.walk(self.buffer, visit).await?;
        self.half = None;
        self.change(class, |lane| lane.stored = lane.stored.saturating_sub(1));
        Ok(())
    }

    /// Lets messages of a class that are in flash too leave the outbox, from a ticket on.
    pub(super) async fn forget(
        &mut self,
        access: &mut impl Access,
        class: Class,
        from: u32,
    ) -> Result<(), StoreFailed> {
        self.torn = true;
        let Self { flash, config, buffer, lanes, half, flown, .. } = self;
        let Some(lane) = lanes.get_mut(class as usize) else { return Ok(()) };
        let visit = |seen: Seen<'_>| {
            let Seen::There(raw) = seen else { return Act::Keep };
            *half = None;
            let ours = parse(raw).filter(|(_, head, _)| head.class() == class && is_from(head.ticket, from));
            let Some((_, head, _)) = ours.filter(|(_, head, _)| !flown.contains(&head.ticket)) else {
                return Act::Keep;
            };
            if access.client(|_, client| client.remove_spilled(Ticket(head.ticket))) == Some(true) {
                if lane.away == 0 {
                    lane.cursor = head.ticket;
                }
                lane.away = lane.away.wrapping_add(1);
                return Act::Keep;
            }
            // What has ended must not look as if it were to come back.
            lane.stored = lane.stored.saturating_sub(1);
            *half = Some(Half::Ends(Ticket(head.ticket)));
            Act::Pop
        };
        Ring::new(flash, config)?.walk(buffer, visit).await?;
        self.half = None;
        self.torn = false;
        Ok(())
    }

    /// Finds out what is in flash after an operation that was not completed; this may be one too, so what is known from before
    /// stays until all is known.
    pub(super) async fn agree(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        let Self { flash, config, buffer, lanes, half, flown, .. } = self;
        let mut counted = *lanes;
        for lane in &mut counted {
            (lane.away, lane.stored) = (0, 0);
        }
        let mut half_is_there = false;
        let visit = |seen: Seen<'_>| {
            let Seen::There(raw) = seen else { return Act::Keep };
            let Some((_, head, _)) = parse(raw) else { return Act::Pop };
            let (class, ticket) = (head.class(), head.ticket);
            let (Some(lane), Some(before)) = (counted.get_mut(class as usize), lanes.get_mut(class as usize)) else {
                return Act::Keep;
            };
            if *half == Some(Half::Ends(Ticket(ticket))) {
                return Act::Pop;
            }
            let moves = *half == Some(Half::Moves(class, Ticket(ticket)));
            half_is_there |= moves;
            let was_away = moves || (before.away > 0 && is_from(ticket, before.cursor));
            let is_new = !before.has(ticket);
            let here = access.client(|_, client| client.is_here(ticket)).unwrap_or_default();
            lane.note_there(ticket);
            if flown.contains(&ticket) || !(was_away || is_new) {
                return Act::Keep;
            }
            // What was being stored when it broke off, and stays where it is.
            if here && lane.away == 0 {
                lane.cursor = ticket.wrapping_add(1);
                return Act::Keep;
            }
            if here && access.client(|_, client| client.remove_spilled(Ticket(ticket))) != Some(true) {
                return Act::Keep;
            }
            if !here && is_new {
                lane.stored = lane.stored.saturating_sub(1);
                return Act::Pop;
            }
            if here {
                // It has left the outbox: not to be taken for one that has ended when this breaks off.
                before.last = lane.last;
                if before.away == 0 {
                    (before.cursor, before.away) = (ticket, 1);
                }
            }
            if lane.away == 0 {
                lane.cursor = ticket;
            }
            lane.away = lane.away.wrapping_add(1);
            Act::Keep
        };
        Ring::new(flash, config)?.walk(buffer, visit).await?;
        if let Some(Half::Moves(class, ticket)) = half.take().filter(|_| !half_is_there) {
            access.client(|_, client| client.lose_spilled(class, ticket));
        }
        self.lanes = counted;
        self.torn = false;
        Ok(())
    }

    /// Finds out what is in flash after a start: everything that is not in flight waits.
    pub(super) async fn take_stock(&mut self, client: &mut Client<'_>, now: u64) -> Result<(), StoreFailed> {
        let slept_ms = self.slept_ms;
        let mut flying = 0;
        let Self { flash, config, buffer, lanes, flown, .. } = self;
        let visit = |seen: Seen<'_>| {
            let Seen::There(raw) = seen else { return Act::Keep };
            let Some((_, head, record)) = parse(raw) else { return Act::Pop };
            let Some(lane) = lanes.get_mut(head.class() as usize) else { return Act::Pop };
            client.skip_tickets(head.ticket);
            lane.stored = lane.stored.wrapping_add(1);
            lane.last = head.ticket;
            if client.is_here(head.ticket) {
                // In flight: its content is all that it lacks.
                client.fill_again(now, slept_ms, record);
                if let Some(place) = flown.get_mut(flying) {
                    (*place, flying) = (head.ticket, flying.wrapping_add(1));
                }
                return Act::Keep;
            }
            if lane.away == 0 {
                lane.cursor = head.ticket;
            }
            lane.away = lane.away.wrapping_add(1);
            Act::Keep
        };
        Ring::new(flash, config)?.walk(buffer, visit).await
    }
}
