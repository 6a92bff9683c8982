//! Packets that change more than their own session: SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, AUTH.

use forebay_wire::frame::Frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::varint;

use super::end::End;
use super::handshake::bounded_expiry_s;
use super::{Connection, Stream, mount};
use crate::access::auth::Step;
use crate::broker::{Budget, Fed, Found, STREAM_PREFIX, is_same_stream, may_want_retained, with_place_of};
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
        let placed = with_places(packet);
        let packet = placed.as_ref().unwrap_or(packet);
        let levels_max = self.on.limits.max_topic_levels;
        let point = self.on.listener.mount_point.as_deref();
        let whole = point.map(|point| mount::with_whole_filters(point, packet, levels_max));
        let packet = whole.as_ref().unwrap_or(packet);
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
            // Who has taken over did not ask.
            if session.epoch() != self.epoch {
                return;
            }
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
        self.leave_stream(&filter.filter);
        let existed = broker.subscribe_for(
            &self.slot,
            self.epoch,
            StoredSubscription {
                filter: filter.filter.clone(),
                qos: filter.qos as u8,
                // A bridge before MQTT 5 cannot ask for these, and would echo its messages without end.
                no_local: filter.no_local || (self.bridge && topic::split_share(&filter.filter).is_none()),
                retain_as_published: filter.retain_as_published || self.bridge,
                subscription_id: packet.subscription_id.unwrap_or(0),
                retained_behind: None,
            },
        );
        // Another connection has taken over: nobody is told.
        let Some(existed) = existed else { return Err(ReasonCode::SessionTakenOver) };
        // A change of the policy looks at the subscriptions that it finds: this one may have come after its look.
        if self.rights.as_ref().is_some_and(|rights| !rights.may_keep(&filter.filter)) {
            broker.unsubscribe_for(&self.slot, self.epoch, &filter.filter);
            return Err(ReasonCode::NotAuthorized);
        }
        Ok(existed)
    }

    fn unsubscribe(&mut self, packet: &Unsubscribe) {
        let broker = &self.on.broker;
        let codes: Vec<ReasonCode> = packet
            .filters
            .iter()
            .map(|filter| match self.unsubscribe_one(filter) {
                true => ReasonCode::Success,
                false => ReasonCode::NoSubscriptionExisted,
            })
            .collect();
        let mut unsuback = Vec::new();
        encode::unsuback(&mut unsuback, self.version, packet.id, &codes);
        self.slot.with(broker, |session| {
            if session.epoch() == self.epoch {
                session.owe_packet(&unsuback);
            }
        });
    }

    /// A stream may be named without the place that the subscription had.
    fn unsubscribe_one(&self, filter: &str) -> bool {
        let broker = &self.on.broker;
        if let Some(point) = &self.on.listener.mount_point {
            let whole = mount::whole_filter(point, filter, self.on.limits.max_topic_levels);
            return whole.is_ok_and(|whole| broker.unsubscribe_for(&self.slot, self.epoch, &whole));
        }
        let of_stream = |session: &mut Session| {
            let named = |known: &&StoredSubscription| {
                known.filter.strip_prefix(filter).is_some_and(|place| place.starts_with("/@"))
            };
            session.subscriptions().iter().find(named).map(|known| known.filter.clone())
        };
        let placed = filter.starts_with(STREAM_PREFIX).then(|| self.slot.look(of_stream)).flatten();
        broker.unsubscribe_for(&self.slot, self.epoch, placed.as_deref().unwrap_or(filter))
    }

    /// A session reads a stream once: with another place it begins anew.
    fn leave_stream(&self, filter: &str) {
        let others = |session: &mut Session| -> Vec<String> {
            let known = session.subscriptions().iter().map(|known| &known.filter);
            known.filter(|known| *known != filter && is_same_stream(known, filter)).cloned().collect()
        };
        if filter.starts_with(STREAM_PREFIX) {
            for other in self.slot.look(others) {
                self.on.broker.unsubscribe_for(&self.slot, self.epoch, &other);
            }
        }
    }

    fn disconnect(&mut self, mut packet: codec::Disconnect) -> Result<(), End> {
        if let Some(expiry_s) = packet.session_expiry_s {
            if expiry_s > 0 && self.slot.look(|session| session.expiry_s()) == 0 {
                let detail = "DISCONNECT gives a session expiry to a session that had none";
                return Err(End::Peer(CodecError::new(ReasonCode::ProtocolError, "MQTT5-3.14.2.2.2", detail)));
            }
            packet.session_expiry_s = Some(bounded_expiry_s(&self.on, expiry_s));
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
                    let before = rights.depends_on();
                    if !rights.renew(identity) {
                        return Err(refused(ReasonCode::NotAuthorized));
                    }
                    if let Some(at) = rights.expires() {
                        self.on.broker.expires_at(at);
                    }
                    if rights.depends_on() != before {
                        self.on.broker.rights_changed();
                    }
                    self.on.broker.hold_against_policy(&self.slot);
                }
                (ReasonCode::Success, data)
            }
            Step::Refused(reason) => return Err(refused(reason)),
        };
        let method = method.clone();
        self.slot.with(&self.on.broker, |session| {
            if session.epoch() == self.epoch {
                session.control(|out| encode::auth(out, reason, &method, data.as_deref()));
            }
        });
        Ok(())
    }
}

/// The packet with the places in streams that its user properties say; `None`: they say none.
fn with_places(packet: &Subscribe) -> Option<Subscribe> {
    if packet.user.is_empty() || !packet.filters.iter().any(|filter| filter.filter.starts_with(STREAM_PREFIX)) {
        return None;
    }
    let mut placed = packet.clone();
    for filter in &mut placed.filters {
        if let Some(with_place) = with_place_of(&filter.filter, &packet.user) {
            filter.filter = with_place;
        }
    }
    Some(placed)
}
