//! What the client acknowledges.

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::{Outbound, State};
use crate::codec::encode;
use crate::session::{Session, Urgency};
use crate::store::DropReason;

impl Session {
    /// PUBACK. False: no such message is in flight; a peer's mistake that is counted, no more.
    pub fn receive_puback(&mut self, id: PacketId, reason: ReasonCode) -> bool {
        let Some(at) = self.outbound.find(id) else { return false };
        let ok = self.outbound.flow.inflight.get(at).is_some_and(|f| f.qos == 1 && f.state == State::Sent);
        if ok {
            self.finish(at, refusal(reason));
        }
        ok
    }

    /// PUBREC: PUBREL follows, for a durable session when this is committed.
    pub fn receive_pubrec(&mut self, id: PacketId, reason: ReasonCode) {
        let durable = self.durable();
        let Some((at, flight)) = self
            .outbound
            .find(id)
            .and_then(|at| Some((at, self.outbound.flow.inflight.get_mut(at)?)))
            .filter(|(_, f)| f.qos == 2)
        else {
            encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::PacketIdentifierNotFound);
            return;
        };
        match flight.state {
            State::Sent if !reason.is_success() => self.finish(at, refusal(reason)),
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
        let Some(at) = self.outbound.find(id) else { return false };
        let ok = self.outbound.flow.inflight.get(at).is_some_and(|f| f.state == State::Released);
        if ok {
            self.finish(at, None);
        }
        ok
    }

    /// PUBRELs whose PUBREC is now committed leave, in order.
    pub(crate) fn release_committed(&mut self, mark: u32) {
        for flight in &mut self.outbound.flow.inflight {
            if let State::Received(at) = flight.state
                && at <= mark
            {
                flight.state = State::Released;
                flight.item = None;
                if self.connected {
                    let id = Outbound::packet_id(flight.seq);
                    encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
                }
            }
        }
    }

    /// The exchange is over: delivered, or dropped for this reason.
    pub(super) fn finish(&mut self, at: usize, dropped: Option<DropReason>) {
        let o = &mut self.outbound;
        let Some(flight) = o.flow.inflight.get_mut(at) else { return };
        flight.state = State::Done;
        let (seq, size, item) = (flight.seq, flight.size, flight.item.take());
        if let Some(item) = item
            && flight.awaiting
        {
            item.message.settle();
        }
        flight.awaiting = false;
        // What a resume has not sent again yet is not counted yet.
        if o.flow.resend_from.is_none_or(|from| at < from) {
            o.flow.unacked = o.flow.unacked.saturating_sub(1);
        }
        o.gone(size as usize);
        match dropped {
            None => o.ledger.delivered += 1,
            Some(reason) => o.dropped(reason, 1),
        }
        while o.flow.inflight.front().is_some_and(|f| !f.live()) {
            o.flow.inflight.pop_front();
            if let Some(from) = o.flow.resend_from {
                o.flow.resend_from = Some(from.saturating_sub(1));
            }
        }
        if seq < o.flow.collected {
            self.changed();
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
fn refusal(reason: ReasonCode) -> Option<DropReason> {
    (!reason.is_success()).then_some(DropReason::Refused)
}
