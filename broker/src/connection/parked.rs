//! MQTT 3.1 and 3.1.1 cannot refuse a PUBLISH: its ack is withheld until there is room for it.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_wire::types::PacketId;

use super::end::End;
use super::worker::Scratch;
use super::{Connection, Stream};
use crate::broker::{Batch, Broker, Staged, Verdict};
use crate::codec::AckKind;
use crate::message::Message;
use crate::session::{Awaited, Durability};

struct One {
    message: Arc<Message>,
    kind: AckKind,
    packet_id: PacketId,
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
        self.waiting.len() >= usize::from(broker.settings.receive_maximum) || self.bytes >= broker.settings.memory_bytes
    }

    pub(crate) fn push(&mut self, message: Arc<Message>, kind: AckKind, packet_id: PacketId, durability: Durability) {
        self.bytes += message.size();
        self.waiting.push_back(One { message, kind, packet_id, durability });
    }
}

impl<S: Stream> Connection<S> {
    /// Tries what is parked again, in order, until one finds no room.
    pub(super) fn retry_parked(&mut self, scratch: &mut Scratch) -> Result<(), End> {
        let Some(mut parked) = self.parked.take() else { return Ok(()) };
        let broker = self.on.broker.clone();
        while let Some(one) = parked.waiting.front() {
            // On the list before the try: room that comes in between is not missed.
            broker.park(&self.slot);
            let gate = broker.writer.gate();
            let mut staged = [Staged::of(&one.message, one.message.retain, one.durability)];
            let batch = Batch { origin: Some(&self.slot), ..Batch::OWN };
            broker.fan_out(&mut scratch.cache, batch, &mut staged);
            let [staged] = staged;
            if staged.verdict == Verdict::Full {
                self.parked = Some(parked);
                return Ok(());
            }
            let (reason, waits) = (staged.reason(), staged.waits);
            drop(staged);
            let Some(one) = parked.waiting.pop_front() else { break };
            parked.bytes = parked.bytes.saturating_sub(one.message.size());
            // In 3.1.1 nothing can be refused.
            let awaited = Awaited { message: one.message, refusable: false };
            self.slot.with(&broker, |session| {
                if one.kind == AckKind::Pubrec {
                    session.take_qos2(one.packet_id);
                }
                session.acknowledge(one.kind, one.packet_id, reason, waits.then_some(awaited));
            });
            drop(gate);
        }
        Ok(())
    }
}
