//! What declared queues have lent to the client. A lent message stays in its queue until the client acknowledges it: it is
//! neither in this session's queue nor in its ledger nor in the store, and goes back when the connection ends.
//!
//! Its packet identifier is any that is not in use. A message of the session's own whose identifier is lent waits until it
//! is free.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;
use hashbrown::HashMap;

use super::{Cx, Delivery, Durability, Session};
use crate::message::Message;
use crate::queue::members::{Given, Outcome};

/// A message that a queue offers to one of its members.
#[derive(Clone, Copy, Debug)]
pub struct Lending<'a> {
    /// Which queue.
    pub queue: usize,
    /// Under which number.
    pub number: u64,
    /// The message.
    pub message: &'a Arc<Message>,
    /// The lower of its QoS in the queue and the member's: 1 at most.
    pub qos: u8,
    /// The subscription identifier of the member, 0 for none.
    pub subscription_id: u32,
}

/// What became of something lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Of which queue.
    pub queue: usize,
    /// Under which number.
    pub number: u64,
    /// What.
    pub outcome: Outcome,
}

/// What the queues of a member are to know.
#[derive(Debug, Default)]
pub struct LentNews {
    /// In the order in which it happened.
    pub settled: Vec<Settled>,
    /// A queue was told that there is no room, and there is some now.
    pub room: bool,
}

#[derive(Default)]
pub(super) struct Lent {
    flights: HashMap<u16, (usize, u64)>,
    last_id: u16,
    settled: Vec<Settled>,
    /// A queue was told that there is no room.
    refused: bool,
}

/// How many messages are lent.
pub(super) fn count(lent: Option<&Lent>) -> usize {
    lent.map_or(0, |lent| lent.flights.len())
}

/// Whether the identifier is lent.
pub(super) fn holds(lent: Option<&Lent>, id: PacketId) -> bool {
    lent.is_some_and(|lent| lent.flights.contains_key(&id.get()))
}

impl Session {
    /// Whether the identifier is that of a message which a queue has lent.
    pub(super) fn has_lent(&self, id: PacketId) -> bool {
        holds(self.lent.as_deref(), id)
    }

    /// Sends a message of a declared queue, if there is room for it.
    pub fn lend(&mut self, lending: &Lending<'_>, cx: Cx<'_>) -> Given {
        let message = lending.message;
        if message.expired(cx.now) {
            return Given::Expired;
        }
        if self.ended {
            return Given::Busy;
        }
        if !self.connected {
            self.lent.get_or_insert_default().refused = true;
            return Given::Busy;
        }
        // What a subscription brings comes after its SUBACK.
        let open = self.window_open(cx) && !self.owes_packet();
        let id = open.then(|| self.free_id()).flatten();
        let lent = self.lent.get_or_insert_default();
        let Some(id) = id else {
            lent.refused = true;
            return Given::Busy;
        };
        let ids = [lending.subscription_id];
        let delivery = Delivery {
            topic: message.topic_bytes(),
            properties: message.properties(),
            payload: message.payload(),
            qos: lending.qos,
            retain: false,
            shared: None,
            subscription_ids: if lending.subscription_id == 0 { &[] } else { &ids },
            expires_at: message.expires_at,
            durability: Durability::Memory,
        };
        if !self.write_publish(&delivery, &mut || message.clone(), false, (lending.qos > 0).then_some(id), cx.now) {
            return Given::TooLarge;
        }
        let lent = self.lent.get_or_insert_default();
        if lending.qos == 0 {
            lent.settled.push(Settled { queue: lending.queue, number: lending.number, outcome: Outcome::Confirmed });
            return Given::Taken;
        }
        lent.last_id = id.get();
        lent.flights.insert(id.get(), (lending.queue, lending.number));
        self.flights.unacked += 1;
        Given::Taken
    }

    /// An identifier that no message in flight has.
    fn free_id(&mut self) -> Option<PacketId> {
        let last = self.lent.as_ref().map_or(0, |lent| lent.last_id);
        let free = |id: &PacketId| self.flights.find(*id).is_none() && !self.has_lent(*id);
        (1..=u16::MAX).filter_map(|step| PacketId::new(last.wrapping_add(step))).find(free)
    }

    /// PUBACK. False: no queue has lent a message with this identifier.
    pub fn settle_lent(&mut self, id: PacketId, reason: ReasonCode, retry_after_ms: Option<u32>) -> bool {
        let Some(lent) = &mut self.lent else { return false };
        let Some((queue, number)) = lent.flights.remove(&id.get()) else { return false };
        let outcome = match reason.is_success() {
            true => Outcome::Confirmed,
            false => Outcome::Refused { after_ms: retry_after_ms.map(u64::from) },
        };
        lent.settled.push(Settled { queue, number, outcome });
        self.flights.unacked = self.flights.unacked.saturating_sub(1);
        true
    }

    /// The connection is over: what it had goes back.
    pub(super) fn return_lent(&mut self) {
        let Some(lent) = &mut self.lent else { return };
        let back = lent.flights.drain();
        lent.settled.extend(back.map(|(_, (queue, number))| Settled { queue, number, outcome: Outcome::Returned }));
        // What was refused is remembered: a connection that takes over has room, and nobody sees the session go.
    }

    /// What the queues are to know since they were told last; `None`: nothing.
    pub fn take_lent_news(&mut self, cx: Cx<'_>) -> Option<LentNews> {
        let open = self.lent.as_ref().is_some_and(|lent| lent.refused)
            && self.connected
            && self.window_open(cx)
            && !self.owes_packet();
        let lent = self.lent.as_mut()?;
        if open {
            lent.refused = false;
        }
        let settled = std::mem::take(&mut lent.settled);
        (open || !settled.is_empty()).then_some(LentNews { settled, room: open })
    }
}
