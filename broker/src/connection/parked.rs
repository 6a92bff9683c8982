//! MQTT 3.1 and 3.1.1 cannot refuse a PUBLISH: its ack is withheld until there is room for it. What a turn had no time for
//! waits here as well, in every version.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_wire::types::PacketId;

use super::input::{acknowledge, is_to_wait};
use super::worker::Scratch;
use super::{Connection, Stream};
use crate::broker::{Batch, Broker, Budget, Staged};
use crate::codec::AckKind;
use crate::message::Message;
use crate::session::Durability;

/// Messages that are tried together.
const AT_ONCE: usize = 64;

struct One {
    message: Arc<Message>,
    /// `None` at QoS 0: it waits behind others.
    ack: Option<(AckKind, PacketId)>,
    durability: Durability,
}

/// Messages that wait for room, in order; those behind them wait as well.
#[derive(Default)]
pub(crate) struct Parked {
    waiting: VecDeque<One>,
    bytes: usize,
}

impl Parked {
    /// As much is parked as may be: the socket is read no further.
    pub(crate) fn full(&self, broker: &Broker) -> bool {
        self.waiting.len() >= usize::from(broker.settings.receive_maximum)
            || self.bytes >= broker.settings.queue.memory_bytes
    }

    pub(crate) fn push(&mut self, message: Arc<Message>, ack: Option<(AckKind, PacketId)>, durability: Durability) {
        self.bytes += message.size();
        self.waiting.push_back(One { message, ack, durability });
    }
}

impl<S: Stream> Connection<S> {
    /// Whether as much is parked as may be.
    pub(super) fn is_parked_full(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.full(&self.on.broker))
    }

    /// Tries what is parked again, in order, until one finds no room or the turn is over.
    pub(super) fn retry_parked(&mut self, scratch: &mut Scratch, budget: &Budget) {
        let Some(mut parked) = self.parked.take() else { return };
        let broker = self.on.broker.clone();
        while !parked.waiting.is_empty() {
            if budget.is_spent() {
                self.goes_on = true;
                self.parked = Some(parked);
                return;
            }
            // On the list before the try: room that comes in between is not missed.
            broker.park(&self.slot);
            let gate = broker.writer.gate();
            let done = self.retry_some(&parked, &broker, scratch, budget);
            drop(gate);
            let full = done < parked.waiting.len().min(AT_ONCE) && !budget.is_spent();
            for one in parked.waiting.drain(..done) {
                parked.bytes = parked.bytes.saturating_sub(one.message.size());
            }
            if full {
                self.parked = Some(parked);
                return;
            }
        }
    }

    /// How many of the first of them are done with.
    fn retry_some(&self, parked: &Parked, broker: &Broker, scratch: &mut Scratch, budget: &Budget) -> usize {
        let staged = parked.waiting.iter().take(AT_ONCE).map(|one| {
            let staged = Staged::of(&one.message, one.message.retain, one.durability);
            Staged { ack: one.ack, ..staged }
        });
        let mut staged: Vec<Staged<'_>> = staged.collect();
        let batch = Batch { origin: Some(&self.slot), version: self.version, budget: Some(budget), ..Batch::OWN };
        broker.fan_out(&mut scratch.cache, batch, &mut staged);
        let v5 = self.version.is_v5();
        let done = staged.iter().position(|staged| is_to_wait(staged, v5)).unwrap_or(staged.len());
        self.slot.with(broker, |session| {
            for staged in staged.iter_mut().take(done) {
                if let Some((AckKind::Pubrec, packet_id)) = staged.ack {
                    session.take_qos2(packet_id);
                }
                acknowledge(broker, session, staged);
            }
        });
        done
    }
}
