//! From the queue to the socket's buffer, as far as the client's window allows.

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::{Delivery, Entry, InFlight, Outbound, State};
use crate::codec::encode;
use crate::message::Time;
use crate::session::alias::Alias;
use crate::session::scan::expires;
use crate::session::{Cx, Session, Urgency};
use crate::store::DropReason;

impl Session {
    /// Moves messages from the queue to the socket's buffer as far as the client's window allows.
    pub fn pump(&mut self, cx: Cx<'_>) {
        if !self.connected || !self.outbound.flow.is_made() {
            return;
        }
        self.resend(cx);
        while self.outbound.flow.resend_from.is_none() && self.window_open(cx) {
            if self.outbound.flow.queue.is_empty() {
                self.refill(cx);
            }
            let durable = self.durable();
            let o = &mut self.outbound;
            let Some(entry) = o.flow.queue.pop_front() else { return };
            if durable && entry.item.qos == 2 && entry.item.seq >= o.flow.committed {
                o.flow.queue.push_front(entry);
                self.want(Urgency::Now);
                return;
            }
            o.flow.queue_bytes = o.flow.queue_bytes.saturating_sub(entry.item.message.size());
            self.send_entry(entry, durable, cx);
        }
    }

    /// The queue is empty and nothing lies on disk: pending messages are next.
    pub(super) fn refill(&mut self, cx: Cx<'_>) {
        let o = &mut self.outbound;
        while !o.on_disk() && !o.memory_full(cx) {
            let Some(entry) = o.flow.pending.pop_front() else { return };
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        }
    }

    fn send_entry(&mut self, entry: Entry, durable: bool, cx: Cx<'_>) {
        if entry.released {
            let id = Outbound::packet_id(entry.item.seq);
            self.outbound.flow.released_before.retain(|seq| *seq != entry.item.seq);
            encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success);
            let size = u32::try_from(entry.item.message.size()).unwrap_or(u32::MAX);
            let flight =
                InFlight { seq: entry.item.seq, state: State::Released, awaiting: false, qos: 2, size, item: None };
            self.fly(flight);
            return;
        }
        if self.too_old(&entry, cx) {
            self.outbound.discard(entry, None);
            self.changed();
            return;
        }
        let item = &entry.item;
        let d = Delivery::of(item);
        let id = (item.qos > 0).then(|| Outbound::packet_id(item.seq));
        let dup = entry.dup || item.qos > 0 && item.seq < self.outbound.flow.maybe_sent_before;
        if !self.write_publish(&d, dup, id, cx.now) {
            self.outbound.discard(entry, Some(DropReason::TooLarge));
            self.changed();
            return;
        }
        let size = u32::try_from(entry.item.message.size()).unwrap_or(u32::MAX);
        if id.is_none() {
            self.out.qos0 += 1;
            self.outbound.queued_bytes = self.outbound.queued_bytes.saturating_sub(u64::from(size));
            self.changed();
            return;
        }
        let (seq, qos, awaiting) = (entry.item.seq, entry.item.qos, entry.awaiting);
        let item = (durable || entry.item.shared).then_some(entry.item);
        self.fly(InFlight { seq, state: State::Sent, awaiting, qos, size, item });
    }

    pub(super) fn too_old(&self, entry: &Entry, cx: Cx<'_>) -> bool {
        let message = &entry.item.message;
        // A message that may have been sent must be sent again, expired or not, or its identifier is never released.
        !entry.dup && expires(message, cx) <= cx.now
    }

    /// After a resume: PUBLISH with DUP or PUBREL, with the identifiers of before and in order [MQTT-4.4.0-1], [MQTT-4.6.0-1].
    fn resend(&mut self, cx: Cx<'_>) {
        while let Some(at) = self.outbound.flow.resend_from {
            if !self.window_open_for_resend(cx) {
                return;
            }
            let flow = &mut *self.outbound.flow;
            let Some(flight) = flow.inflight.get(at) else {
                flow.resend_from = None;
                return;
            };
            flow.resend_from = Some(at + 1);
            let id = Outbound::packet_id(flight.seq);
            match flight.state {
                State::Done => continue,
                // PUBREL follows when the commit is done.
                State::Received(_) => {}
                State::Released => encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success),
                State::Sent => {
                    let Some(item) = flight.item.clone() else { continue };
                    let d = Delivery::of(&item);
                    if !self.write_publish(&d, true, Some(id), cx.now) {
                        // The client takes smaller packets than before: over, as if it had been sent [MQTT5-3.1.2-25].
                        self.outbound.flow.unacked += 1;
                        self.finish(at, Some(DropReason::TooLarge));
                        continue;
                    }
                }
            }
            self.outbound.flow.unacked += 1;
        }
    }

    fn window_open_for_resend(&self, cx: Cx<'_>) -> bool {
        self.outbound.flow.unacked < self.outbound.window && self.out.buf.len() < cx.settings.outbound_buffer
    }

    /// Encodes a PUBLISH for this client. False: larger than it takes [MQTT5-3.1.2-24].
    pub(super) fn write_publish(&mut self, d: &Delivery<'_>, dup: bool, id: Option<PacketId>, now: Time) -> bool {
        let alias = match &mut self.aliases {
            Some(aliases) => aliases.outgoing(d.topic),
            None => Alias::None,
        };
        let (topic, alias) = match alias {
            Alias::None => (d.topic, None),
            Alias::New(alias) => (d.topic, Some(alias)),
            Alias::Known(alias) => (&[][..], Some(alias)),
        };
        let expiry_s = d.expires_at.map(|at| u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX));
        let start = self.out.buf.len();
        encode::publish(
            &mut self.out.buf,
            self.version,
            dup,
            d.qos,
            d.retain,
            topic,
            id,
            alias,
            d.subscription_ids,
            expiry_s,
            d.properties,
            d.payload,
        );
        if self.out.buf.len() - start > self.outbound.maximum_packet_size as usize {
            self.out.buf.truncate(start);
            if let (Some(aliases), false, Some(_)) = (&mut self.aliases, topic.is_empty(), alias) {
                aliases.take_back(d.topic);
            }
            return false;
        }
        true
    }
}
