//! From the outbox into flash.

use super::ring::Pushed;
use super::{FRONT, STAMP, Tier};
use crate::QoS;
use crate::client::{Client, Waiting, is_from};
use crate::message::Class;
use crate::store::{Access, StoreFailed};
use embedded_storage_async::nor_flash::NorFlash;

/// Those first that are sent last.
const DOWNWARD: [Class; 4] = [Class::Bulk, Class::Telemetry, Class::State, Class::Alarm];

/// The messages of a class that wait in the outbox, in order.
fn waiting<'c>(client: &'c Client<'_>, class: Class) -> impl Iterator<Item = Waiting> + 'c {
    let mut after = None;
    core::iter::from_fn(move || {
        let next = client.waiting(after)?;
        after = Some(next.ticket);
        Some(next)
    })
    .filter(move |message| message.class == class)
}

impl<F: NorFlash> Tier<'_, F> {
    /// Whether a message is not sent before it is stored.
    fn is_precious(&self, message: &Waiting) -> bool {
        let safe = self.config.safe.get(message.class as usize).copied().unwrap_or_default();
        message.qos == QoS::ExactlyOnce || (safe && message.qos == QoS::AtLeastOnce)
    }

    fn unstored<'c>(&'c self, client: &'c Client<'_>, class: Class) -> impl Iterator<Item = Waiting> + 'c {
        let lane = self.lane(class);
        waiting(client, class).filter(move |message| !lane.has(message.ticket.number()))
    }

    /// The first message that waits to be stored before it is sent.
    pub(super) fn first_unsafe(&self, client: &Client<'_>, class: Class) -> Option<u32> {
        self.unstored(client, class).find(|message| self.is_precious(message)).map(|message| message.ticket.number())
    }

    /// Moves what has to move, in both directions.
    pub(super) async fn move_messages(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        if self.torn {
            self.agree(access).await?;
        }
        let mut full = !self.store_precious(access).await?;
        if full {
            // What has ended makes room.
            self.sweep(access, false).await?;
            full = !self.store_precious(access).await?;
        }
        let over = access.client(|_, client| client.fill().0 > self.config.high);
        if !full && over == Some(true) {
            self.spill(access).await?;
        }
        if access.client(|_, client| self.is_worth_a_look(client)) == Some(true) {
            self.sweep(access, true).await?;
        }
        Ok(())
    }

    /// Stores what must be stored before it is sent. False: flash is full.
    async fn store_precious(&mut self, access: &mut impl Access) -> Result<bool, StoreFailed> {
        let mut all = true;
        for class in Class::ALL {
            let last = access
                .client(|_, client| self.unstored(client, class).filter(|message| self.is_precious(message)).last());
            if let Some(last) = last.flatten() {
                // With all that was published before it: what lies in flash is in order.
                all &= self.store(access, class, last.ticket.number(), None).await?;
            }
        }
        Ok(all)
    }

    async fn spill(&mut self, access: &mut impl Access) -> Result<(), StoreFailed> {
        for class in DOWNWARD {
            let Some(plan) = access.client(|_, client| self.plan(client, class)).flatten() else { continue };
            if plan.known {
                self.forget(access, class, plan.from).await?;
            }
            if !self.store(access, class, plan.last, Some(plan.from)).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Which messages of a class move out, if any: the last ones, as many as are needed, and all that wait behind others in
    /// flash.
    fn plan(&self, client: &Client<'_>, class: Class) -> Option<Plan> {
        let over = client.fill().0.saturating_sub(self.config.low);
        let lane = self.lane(class);
        let last = waiting(client, class).last()?.ticket.number();
        if over == 0 {
            return None;
        }
        if lane.away > 0 {
            let from = self.unstored(client, class).next()?.ticket.number();
            return Some(Plan { from, last, known: false });
        }
        let mut rest = waiting(client, class).fold(0u32, |sum, message| sum.saturating_add(message.len as u32));
        // The first one stays, so that there is one to send.
        let mut all = waiting(client, class);
        let flying = client.last_flying(class);
        rest = rest.saturating_sub(all.next()?.len as u32);
        let from = all.find(|message| {
            let enough = rest <= over;
            rest = rest.saturating_sub(message.len as u32);
            // Those that are elsewhere come after all that are here.
            enough && flying.is_none_or(|flying| is_from(message.ticket.number(), flying))
        })?;
        let from = from.ticket.number();
        Some(Plan { from, last, known: lane.has(from) })
    }

    /// Stores the messages of a class that are not, up to a ticket. From `spilled` on they leave the outbox, and those
    /// behind others that are only in flash do so in any case. False: flash is full.
    async fn store(
        &mut self,
        access: &mut impl Access,
        class: Class,
        upto: u32,
        spilled: Option<u32>,
    ) -> Result<bool, StoreFailed> {
        loop {
            self.find_end().await?;
            let next = access.client(|now, client| {
                let lane = self.lane(class);
                let leaves = |ticket| lane.away > 0 || spilled.is_some_and(|from| is_from(ticket, from));
                let next = waiting(client, class).find(|message| {
                    let ticket = message.ticket.number();
                    // What stays and may be sent twice is not stored; it is sent from where it is.
                    let stays = message.qos == QoS::AtMostOnce && !leaves(ticket);
                    !lane.has(ticket) && is_from(upto, ticket) && !stays
                })?;
                let (stamp, room) = self.buffer.get_mut(FRONT..)?.split_first_chunk_mut::<STAMP>()?;
                *stamp = stamp_of(now).to_le_bytes();
                let len = client.copy_out(now, next.ticket, room);
                Some((next, len, leaves(next.ticket.number())))
            });
            let Some((message, len, leaves)) = next.flatten() else { return Ok(true) };
            let ticket = message.ticket.number();
            self.torn = true;
            let fits = message.len as u32 <= self.config.largest;
            let pushed = match len.filter(|_| fits) {
                Some(len) => self.push(len.wrapping_add(STAMP)).await?,
                None => Pushed::TooLarge,
            };
            match pushed {
                Pushed::Done => self.note_stored(access, &message, leaves).await?,
                Pushed::Full => {
                    self.torn = false;
                    return Ok(false);
                }
                Pushed::TooLarge => {
                    self.unsafe_sent = self.unsafe_sent.wrapping_add(u32::from(self.is_precious(&message)));
                    self.change(class, |lane| {
                        lane.last = ticket;
                        if lane.away == 0 {
                            lane.cursor = ticket.wrapping_add(1);
                        }
                    });
                }
            }
            self.torn = false;
        }
    }

    async fn note_stored(
        &mut self,
        access: &mut impl Access,
        message: &Waiting,
        leaves: bool,
    ) -> Result<(), StoreFailed> {
        let ticket = message.ticket.number();
        let left = leaves && access.client(|_, client| client.remove_spilled(message.ticket)) == Some(true);
        self.change(message.class, |lane| {
            (lane.last, lane.stored) = (ticket, lane.stored.wrapping_add(1));
            if left && lane.away == 0 {
                lane.cursor = ticket;
            }
            if left {
                lane.away = lane.away.wrapping_add(1);
            } else if lane.away == 0 {
                lane.cursor = ticket.wrapping_add(1);
            }
        });
        // It ended while it was being written.
        if leaves && !left { self.unstore(message.class, message.ticket).await } else { Ok(()) }
    }
}

/// What moves out of a class.
struct Plan {
    from: u32,
    last: u32,
    /// Some of it is in flash already.
    known: bool,
}

/// A time as it is written before a message.
pub(super) const fn stamp_of(now: u64) -> u32 {
    (now >> 6) as u32
}
