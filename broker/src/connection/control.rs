//! Packets that change more than their own session: SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, AUTH.

use forebay_wire::frame::Frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::varint;

use super::end::End;
use super::{Connection, Stream};
use crate::auth::Step;
use crate::broker::{Budget, Fed, Found, may_want_retained};
use crate::codec::{self, Auth, CodecError, Packet, Subscribe, SubscribeFilter, Unsubscribe, encode};
use crate::router::branching;
use crate::session::Session;
use crate::store::StoredSubscription;

impl<S: Stream> Connection<S> {
    pub(super) fn control(&mut self, frame: &Frame, packet: &[u8], budget: &Budget) -> Result<(), End> {
        match codec::read_packet(self.version, frame, packet, &self.on.limits)? {
            Packet::Subscribe(packet) => {
                self.answer_fits(packet.filters.len())?;
                budget.spend_on_filters(packet.filters.len());
                self.subscribe(&packet, budget);
                Ok(())
            }
            Packet::Unsubscribe(packet) => {
                self.answer_fits(packet.filters.len())?;
                budget.spend_on_filters(packet.filters.len());
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

    /// A return code for each filter, in order [MQTT-3.8.4-5], [MQTT5-3.8.4-6]; retained messages follow as there is room.
    fn subscribe(&mut self, packet: &Subscribe, budget: &Budget) {
        let mut codes = Vec::with_capacity(packet.filters.len());
        let mut retained = Vec::new();
        for filter in &packet.filters {
            match self.subscribe_one(packet, filter) {
                Ok(existed) => {
                    codes.push(match self.on.broker.granted(&filter.filter, filter.qos as u8) {
                        0 => ReasonCode::Success,
                        1 => ReasonCode::GrantedQoS1,
                        _ => ReasonCode::GrantedQoS2,
                    });
                    let wanted = match filter.retain_handling {
                        0 => true,
                        1 => !existed,
                        _ => false,
                    };
                    if wanted && may_want_retained(&filter.filter) {
                        retained.push(filter);
                    }
                }
                Err(code) => codes.push(code),
            }
        }
        let mut suback = Vec::new();
        encode::suback(&mut suback, self.version, packet.id, &codes);
        let broker = &self.on.broker;
        self.slot.with(broker, |session| {
            session.owe_packet(&suback);
            for filter in retained {
                session.want_retained(&filter.filter);
            }
            // A few come at once: who subscribes again before it has read gets them again.
            if let Some(cx) = broker.may_encode() {
                self.goes_on |= broker.feed_retained(session, cx, budget) == Fed::NotYet;
            }
        });
        self.join_queues(packet);
    }

    fn join_queues(&self, packet: &Subscribe) {
        for filter in packet.filters.iter().filter(|filter| filter.filter.starts_with('$')) {
            let known = |session: &mut Session| {
                session.subscriptions().iter().find(|known| known.filter == filter.filter).cloned()
            };
            if let Some(subscription) = self.slot.look(known) {
                self.on.broker.join_queues(&self.slot, &subscription);
            }
        }
    }

    fn subscribe_one(&self, packet: &Subscribe, filter: &SubscribeFilter) -> Result<bool, ReasonCode> {
        filter.valid?;
        let broker = &self.on.broker;
        if broker.find_queue(&filter.filter) == Found::Unknown {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if let Some(rights) = &self.rights
            && !rights.may_subscribe(&filter.filter)
        {
            broker.counters.subscribe_denied.add(1);
            let who = rights.who();
            tracing::info!(client = &*who.client_id, user = ?who.user, filter = ?filter.filter, "SUBSCRIBE denied by the ACL");
            return Err(ReasonCode::NotAuthorized);
        }
        let limits = &broker.config.limits;
        let cost = branching(&filter.filter);
        let (durable, known, room) = self.slot.look(|session| {
            let room = session.subscriptions().len() < limits.max_subscriptions_per_client
                && (cost == 0 || session.wildcard_levels() + cost <= limits.max_wildcard_levels_per_client);
            (session.durable(), session.is_subscribed(&filter.filter), room)
        });
        let room = room && (known || broker.room_for_filter(&filter.filter));
        if (durable && broker.store_failing()) || (!known && !room) {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(broker.subscribe(
            &self.slot,
            StoredSubscription {
                filter: filter.filter.clone(),
                qos: filter.qos as u8,
                // A bridge before MQTT 5 cannot ask for these, and would echo its messages without end.
                no_local: filter.no_local || (self.bridge && topic::split_share(&filter.filter).is_none()),
                retain_as_published: filter.retain_as_published || self.bridge,
                subscription_id: packet.subscription_id.unwrap_or(0),
                retained_behind: None,
            },
        ))
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
            let own = self.on.broker.mechanisms.find(method).map(|mechanism| mechanism.begin(&client));
            *exchange = own.or_else(|| self.rights.as_ref().and_then(|rights| rights.prove_anew(method)));
        }
        let Some(under_way) = exchange else {
            return Err(protocol("MQTT5-4.12.0-3", "AUTH without an exchange under way"));
        };
        let refused = |reason| End::Peer(CodecError::new(reason, "MQTT5-4.12.1-2", "re-authentication failed"));
        let (reason, data) = match under_way.step(packet.data.as_deref().unwrap_or_default()) {
            Step::Continue(data) => (ReasonCode::ContinueAuthentication, Some(data)),
            Step::Done(data) => {
                let identity = under_way.identity();
                *exchange = None;
                if let (Some(rights), Some(identity)) = (&self.rights, identity) {
                    if !rights.renew(identity) {
                        return Err(refused(ReasonCode::NotAuthorized));
                    }
                    if let Some(at) = rights.expires() {
                        self.on.broker.expires_at(at);
                    }
                    self.on.broker.hold_against_policy(&self.slot);
                }
                (ReasonCode::Success, data)
            }
            Step::Refused(reason) => return Err(refused(reason)),
        };
        let method = method.clone();
        self.slot.with(&self.on.broker, |session| {
            session.control(|out| encode::auth(out, reason, &method, data.as_deref()));
        });
        Ok(())
    }
}
