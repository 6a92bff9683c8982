//! Packets that change more than their own session: SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, AUTH.

use forebay_wire::frame::Frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::varint;

use super::end::End;
use super::{Connection, Stream};
use crate::auth::Step;
use crate::broker::Staged;
use crate::codec::{self, Auth, CodecError, Packet, Subscribe, SubscribeFilter, Unsubscribe, encode};
use crate::session::{Delivery, Durability};
use crate::store::StoredSubscription;

impl<S: Stream> Connection<S> {
    pub(super) fn control(&mut self, frame: &Frame, packet: &[u8]) -> Result<(), End> {
        match codec::read_packet(self.version, frame, packet, &self.on.limits)? {
            Packet::Subscribe(packet) => {
                self.answer_fits(packet.filters.len())?;
                self.subscribe(&packet);
                Ok(())
            }
            Packet::Unsubscribe(packet) => {
                self.answer_fits(packet.filters.len())?;
                self.unsubscribe(&packet);
                Ok(())
            }
            Packet::Disconnect(packet) => self.disconnect(packet),
            Packet::Auth(packet) => self.re_authenticate(packet),
            // The first pass handles these.
            Packet::Ack { .. } | Packet::PingReq => Ok(()),
        }
    }

    /// A client that asks for more codes than fit into the packets it takes cannot be answered [MQTT5-3.1.2-24].
    fn answer_fits(&self, codes: usize) -> Result<(), End> {
        // Packet identifier and an empty property section.
        let remaining = 3 + codes;
        let size = 1 + varint::size(u32::try_from(remaining).unwrap_or(varint::MAX)) + remaining;
        if size > self.slot.look(|session| session.maximum_packet_size()) as usize {
            let detail = "the answer is larger than the client's Maximum Packet Size";
            return Err(End::Peer(CodecError::new(ReasonCode::PacketTooLarge, "MQTT5-3.1.2-24", detail)));
        }
        Ok(())
    }

    /// A return code for each filter, in order [MQTT-3.8.4-5], [MQTT5-3.8.4-6]; retained messages follow.
    fn subscribe(&mut self, packet: &Subscribe) {
        let mut codes = Vec::with_capacity(packet.filters.len());
        let mut retained = Vec::new();
        for filter in &packet.filters {
            match self.subscribe_one(packet, filter) {
                Ok(existed) => {
                    codes.push(match filter.qos as u8 {
                        0 => ReasonCode::Success,
                        1 => ReasonCode::GrantedQoS1,
                        _ => ReasonCode::GrantedQoS2,
                    });
                    let wanted = match filter.retain_handling {
                        0 => true,
                        1 => !existed,
                        _ => false,
                    };
                    // Never to a shared subscription [MQTT5-4.8.2].
                    if wanted && topic::split_share(&filter.filter).is_none() {
                        retained.push(filter);
                    }
                }
                Err(code) => codes.push(code),
            }
        }
        let mut suback = Vec::new();
        encode::suback(&mut suback, self.version, packet.id, &codes);
        self.slot.with(&self.on.broker, |session| session.owe_packet(&suback));
        for filter in retained {
            self.send_retained(filter, packet.subscription_id);
        }
    }

    fn subscribe_one(&self, packet: &Subscribe, filter: &SubscribeFilter) -> Result<bool, ReasonCode> {
        filter.valid?;
        let broker = &self.on.broker;
        let (durable, count, known) = self.slot.look(|session| {
            let subscriptions = session.subscriptions();
            (session.durable(), subscriptions.len(), subscriptions.iter().any(|s| s.filter == filter.filter))
        });
        if (durable && broker.store_failing()) || (!known && count >= broker.config.limits.max_subscriptions_per_client)
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(broker.subscribe(
            &self.slot,
            StoredSubscription {
                filter: filter.filter.clone(),
                qos: filter.qos as u8,
                no_local: filter.no_local,
                retain_as_published: filter.retain_as_published,
                subscription_id: packet.subscription_id.unwrap_or(0),
            },
        ))
    }

    /// Retained messages of a new subscription carry RETAIN 1 [MQTT-3.3.1-8], [MQTT5-3.3.1-8].
    fn send_retained(&self, filter: &SubscribeFilter, subscription_id: Option<u32>) {
        let broker = &self.on.broker;
        let cx = broker.cx();
        let ids: &[u32] = subscription_id.as_slice();
        for message in broker.retained.matching(&filter.filter, cx.now) {
            let staged = Staged::of(&message, true, Durability::Interval);
            let source = staged.source;
            self.slot.with(broker, |session| {
                let delivery = Delivery {
                    topic: source.topic.as_bytes(),
                    properties: source.properties,
                    payload: source.payload,
                    qos: source.qos.min(filter.qos as u8),
                    retain: true,
                    shared: false,
                    subscription_ids: ids,
                    expires_at: source.expires_at,
                    durability: Durability::Interval,
                };
                session.deliver(&delivery, &mut || message.clone(), cx);
            });
        }
    }

    fn unsubscribe(&mut self, packet: &Unsubscribe) {
        let broker = &self.on.broker;
        let codes: Vec<ReasonCode> = packet
            .filters
            .iter()
            .map(|filter| match broker.unsubscribe(&self.slot, filter) {
                true => ReasonCode::Success,
                false => ReasonCode::NoSubscriptionExisted,
            })
            .collect();
        let mut unsuback = Vec::new();
        encode::unsuback(&mut unsuback, self.version, packet.id, &codes);
        self.slot.with(broker, |session| session.owe_packet(&unsuback));
    }

    fn disconnect(&mut self, mut packet: codec::Disconnect) -> Result<(), End> {
        if let Some(expiry_s) = packet.session_expiry_s {
            if expiry_s > 0 && self.slot.look(|session| session.expiry_s()) == 0 {
                let detail = "DISCONNECT gives a session expiry to a session that had none";
                return Err(End::Peer(CodecError::new(ReasonCode::ProtocolError, "MQTT5-3.14.2.2.2", detail)));
            }
            packet.session_expiry_s = Some(self.on.broker.bounded_expiry_s(expiry_s));
        }
        Err(End::Disconnected(packet))
    }

    /// Re-authentication [MQTT5-4.12.1].
    fn re_authenticate(&mut self, packet: Auth) -> Result<(), End> {
        let protocol = |statement, detail| End::Peer(CodecError::new(ReasonCode::ProtocolError, statement, detail));
        let Some(auth) = &mut self.auth else {
            return Err(protocol("MQTT5-4.12.0-6", "AUTH on a connection that began without a method"));
        };
        let (method, exchange) = &mut **auth;
        if packet.method.as_deref() != Some(method.as_str()) {
            return Err(protocol("MQTT5-4.12.1-1", "another authentication method than in CONNECT"));
        }
        if packet.reason == ReasonCode::ReAuthenticate {
            let client = self.slot.look(|session| session.client_id().clone());
            *exchange = self.on.broker.mechanisms.find(method).map(|mechanism| mechanism.begin(&client));
        }
        let Some(under_way) = exchange else {
            return Err(protocol("MQTT5-4.12.0-3", "AUTH without an exchange under way"));
        };
        let (reason, data) = match under_way.step(packet.data.as_deref().unwrap_or_default()) {
            Step::Continue(data) => (ReasonCode::ContinueAuthentication, Some(data)),
            Step::Done(data) => {
                *exchange = None;
                (ReasonCode::Success, data)
            }
            Step::Refused(reason) => {
                return Err(End::Peer(CodecError::new(reason, "MQTT5-4.12.1-2", "re-authentication failed")));
            }
        };
        let method = method.clone();
        self.slot.with(&self.on.broker, |session| {
            session.control(|out| encode::auth(out, reason, &method, data.as_deref()));
        });
        Ok(())
    }
}
