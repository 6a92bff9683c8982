//! What the client acknowledges.

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::flights::{Over, State, packet_id};
use super::{Session, Urgency};
use crate::codec::{AckKind, encode};
use crate::queue::Ending;
use crate::store::DropReason;

impl Session {
    /// Whether the ack belongs to another kind of exchange than the message in flight that has its identifier, or comes
    /// before its turn. A peer that mixes them up would hold a place in the window for ever.
    #[must_use]
    pub fn is_wrong_ack(&self, kind: AckKind, id: PacketId) -> bool {
        if self.has_lent(id) {
            return matches!(kind, AckKind::Pubrec | AckKind::Pubcomp);
        }
        let flight = self.flights.find(id).and_then(|at| self.flights.get(at));
        flight.is_some_and(|flight| match kind {
            AckKind::Puback => flight.qos == 2,
            AckKind::Pubrec => flight.qos == 1,
            AckKind::Pubcomp => flight.qos == 1 || flight.state != State::Released,
            // The other direction's.
            AckKind::Pubrel => false,
        })
    }

    /// PUBACK. False: no such message is in flight; a peer's mistake that is counted, no more.
    pub fn receive_puback(&mut self, id: PacketId, reason: ReasonCode) -> bool {
        let Some(at) = self.flights.find(id) else { return false };
        let ok = self.flights.get(at).is_some_and(|f| f.qos == 1 && f.state == State::Sent);
        if ok {
            self.finish(at, ending(reason));
        }
        ok
    }

    /// PUBREC: PUBREL follows, for a durable session when this is committed.
    pub fn receive_pubrec(&mut self, id: PacketId, reason: ReasonCode) {
        let durable = self.durable();
        let found = self.flights.find(id);
        let flight = found.and_then(|at| Some((at, self.flights.get_mut(at)?)));
        let Some((at, flight)) = flight.filter(|(_, flight)| flight.qos == 2) else {
            // One that refuses ends the exchange by itself: no PUBREL belongs to it [MQTT5-4.3.3-4].
            if reason.is_success() {
                encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::PacketIdentifierNotFound);
            }
            return;
        };
        match flight.state {
            State::Sent if !reason.is_success() => self.finish(at, ending(reason)),
            State::Sent if durable => {
                let mark = self.persist.as_ref().map_or(0, |p| p.open);
                flight.state = State::Received(mark);
                self.changed();
                self.want(Urgency::Now);
            }
            State::Sent | State::Released => {
                flight.state = State::Released;
                flight.item = None;
                encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
            }
            State::Received(_) | State::Done => {}
        }
    }

    /// PUBCOMP. False: no such message.
    pub fn receive_pubcomp(&mut self, id: PacketId) -> bool {
        let Some(at) = self.flights.find(id) else { return false };
        let ok = self.flights.get(at).is_some_and(|f| f.state == State::Released);
        if ok {
            self.finish(at, Ending::Delivered);
        }
        ok
    }

    /// PUBRELs whose PUBREC is now committed leave, in order.
    pub(crate) fn release_committed(&mut self, mark: u64) {
        if !self.flights.is_made() {
            return;
        }
        for flight in self.flights.all_mut() {
            if let State::Received(at) = flight.state
                && at <= mark
            {
                flight.state = State::Released;
                flight.item = None;
                if self.connected {
                    encode::pubrel(&mut self.out.buf, self.version, packet_id(flight.seq), ReasonCode::Success);
                }
            }
        }
    }

    /// The exchange at this index is over.
    pub(super) fn finish(&mut self, at: usize, ending: Ending) {
        let Some(Over { seq, size, entry }) = self.flights.end(at) else { return };
        if self.queue.finish(seq, size as usize, ending) {
            self.changed();
        }
        let Some(entry) = entry else { return };
        match ending {
            // Who takes messages as values knows what is to become of those that it refuses.
            Ending::Expired if !self.queue.by_value() => self.queue.fall(entry, None, true),
            Ending::Dropped(reason) if !self.queue.by_value() => self.queue.fall(entry, Some(reason), true),
            Ending::Delivered | Ending::Expired | Ending::Dropped(_) => entry.settle(),
        }
    }

    /// Something that was stored has changed; nobody waits for it.
    pub(crate) fn changed(&mut self) {
        if let Some(persist) = &mut self.persist {
            persist.changed = true;
            self.want(Urgency::Lazy);
        }
    }
}

/// What a client's PUBACK or PUBREC makes of its message [MQTT5-4.4.0-2].
fn ending(reason: ReasonCode) -> Ending {
    if reason.is_success() { Ending::Delivered } else { Ending::Dropped(DropReason::Refused) }
}
