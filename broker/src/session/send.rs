//! From the queue to the socket's buffer, as far as the client's window allows.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

use super::alias::Alias;
use super::delivery::Delivery;
use super::encoded::SHARED_PAYLOAD_BYTES;
use super::flights::{InFlight, State, packet_id};
use super::{Cx, Session, Urgency, lent};
use crate::codec::encode;
use crate::message::{Message, Time};
use crate::queue::{Ending, Entry};
use crate::store::DropReason;

impl Session {
    /// Moves messages from the queue to the socket's buffer as far as the client's window allows.
    pub fn pump(&mut self, cx: Cx<'_>) {
        if !self.connected || self.queue.by_value() || !self.queue.is_made() {
            return;
        }
        self.resend(cx);
        while self.flights.resend_from.is_none() && self.window_open(cx) {
            let durable = self.durable();
            self.queue.refill(cx.rules());
            let Some(first) = self.queue.first() else { return };
            let (seq, qos) = (first.item.seq, first.item.qos);
            if qos > 0 && lent::holds(self.lent.as_deref(), packet_id(seq)) {
                return;
            }
            let known = || self.mark_committed(self.flights.connected_mark);
            if durable && qos == 2 && (seq >= self.queue.committed_to() || !known()) {
                self.want(Urgency::Now);
                return;
            }
            if durable && self.queue.wants_promise() {
                self.changed();
                self.want(Urgency::Now);
                return;
            }
            let Some(entry) = self.queue.take_first() else { return };
            self.send_entry(entry, durable, cx);
        }
    }

    fn send_entry(&mut self, entry: Entry, durable: bool, cx: Cx<'_>) {
        let item = &entry.item;
        let size = u32::try_from(item.message.size()).unwrap_or(u32::MAX);
        let seq = item.seq;
        if self.flights.was_released(seq) {
            self.flights.released_before.retain(|place| *place != seq);
            encode::pubrel(&mut self.out.buf, self.version, packet_id(seq), ReasonCode::Success);
            self.flights.start(InFlight { seq, state: State::Released, awaiting: false, qos: 2, size, item: None });
            return;
        }
        if self.queue.too_old(item, cx.rules()) {
            self.queue.discard(entry, None);
            self.changed();
            return;
        }
        if !self.may_have(item) {
            self.queue.discard(entry, Some(DropReason::Revoked));
            self.changed();
            return;
        }
        let d = Delivery::of(item);
        let id = (item.qos > 0).then(|| packet_id(seq));
        // A message of QoS 0 is never a repetition [MQTT-3.3.1-2], though its place may lie among those that were sent.
        let dup = item.qos > 0 && seq < self.queue.sent_before().max(self.queue.maybe_sent_before());
        if !self.write_publish(&d, &mut || item.message.clone(), dup, id, cx.now) {
            self.queue.discard(entry, Some(DropReason::TooLarge));
            self.changed();
            return;
        }
        if id.is_none() {
            self.out.count_qos0();
            self.queue.pass_taken(seq, entry.item.message.size());
            self.changed();
            return;
        }
        let (qos, awaiting) = (entry.item.qos, entry.awaiting);
        let item = (durable || entry.item.shared.is_some()).then_some(entry.item);
        self.flights.start(InFlight { seq, state: State::Sent, awaiting, qos, size, item });
    }

    /// After a resume: PUBLISH with DUP or PUBREL, with the identifiers of before and in order [MQTT-4.4.0-1], [MQTT-4.6.0-1].
    fn resend(&mut self, cx: Cx<'_>) {
        while let Some(at) = self.flights.resend_from {
            if !self.window_open_for_resend(cx) {
                return;
            }
            let flights = &mut *self.flights;
            flights.resend_from = (at < flights.len()).then_some(at + 1);
            let Some(flight) = flights.get(at) else { return };
            let id = packet_id(flight.seq);
            match flight.state {
                State::Done => continue,
                // PUBREL follows when the commit is done.
                State::Received(_) => {}
                State::Released => encode::pubrel(&mut self.out.buf, self.version, id, ReasonCode::Success),
                State::Sent => {
                    let Some(item) = flight.item.clone() else { continue };
                    if !self.may_have(&item) {
                        self.flights.unacked += 1;
                        self.finish(at, Ending::Dropped(DropReason::Revoked));
                        continue;
                    }
                    let d = Delivery::of(&item);
                    if !self.write_publish(&d, &mut || item.message.clone(), true, Some(id), cx.now) {
                        // The client takes smaller packets than before: over, as if it had been sent [MQTT5-3.1.2-25].
                        self.flights.unacked += 1;
                        self.finish(at, Ending::Dropped(DropReason::TooLarge));
                        continue;
                    }
                }
            }
            self.flights.unacked += 1;
        }
    }

    pub(super) fn window_open_for_resend(&self, cx: Cx<'_>) -> bool {
        self.flights.unacked < self.window && !self.out_is_full(cx)
    }

    /// Encodes a PUBLISH for this client. False: larger than it takes [MQTT5-3.1.2-24]. `shared` gives the message whose
    /// payload all subscribers write, if it is large.
    pub(crate) fn write_publish(
        &mut self,
        d: &Delivery<'_>,
        shared: &mut dyn FnMut() -> Arc<Message>,
        dup: bool,
        id: Option<PacketId>,
        now: Time,
    ) -> bool {
        let alias = match &mut self.aliases {
            Some(aliases) => aliases.outgoing(d.topic),
            None => Alias::None,
        };
        // What the client may receive begins with its mount point.
        let mount_len = self.egress.as_ref().map_or(0, |egress| egress.mount_len);
        let own_topic = d.topic.get(mount_len..).unwrap_or_default();
        let (topic, alias) = match alias {
            Alias::None => (own_topic, None),
            Alias::New(alias) => (own_topic, Some(alias)),
            Alias::Known(alias) => (&[][..], Some(alias)),
        };
        let expiry_s = d.expires_at.map(|at| u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX));
        let start = self.out.buf.len();
        encode::publish_head(
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
            d.payload.len(),
        );
        if self.out.buf.len() - start + d.payload.len() > self.maximum_packet_size as usize {
            self.out.buf.truncate(start);
            if let (Some(aliases), false, Some(_)) = (&mut self.aliases, topic.is_empty(), alias) {
                aliases.take_back(d.topic);
            }
            return false;
        }
        self.out.count_message();
        if d.payload.len() < SHARED_PAYLOAD_BYTES {
            self.out.buf.extend_from_slice(d.payload);
        } else {
            self.out.share(shared());
        }
        true
    }
}
