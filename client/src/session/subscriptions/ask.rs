//! SUBSCRIBE and UNSUBSCRIBE, and what the server answers.

use forebay_wire::WireError;
use forebay_wire::types::{PacketId, Version};

use super::{Phase, Subscription, Subscriptions};
use crate::codec::read::SubAck;
use crate::codec::write;
use crate::error::SubscribeError;
use crate::message::Received;
use crate::options::RetainHandling;
use crate::session::outbox::PUBLISH_IDS;

/// Unacknowledged SUBSCRIBEs and UNSUBSCRIBEs at most.
const REQUESTS_MAX: u16 = u16::MAX - PUBLISH_IDS;

impl Subscriptions {
    /// Whether [`Subscriptions::ask`] has something to say.
    pub(crate) fn wants_to_ask(&self) -> bool {
        self.to_ask && self.requests.count_ones() < u32::from(REQUESTS_MAX)
    }

    /// SUBSCRIBE and UNSUBSCRIBE.
    pub(crate) fn ask(&mut self, version: Version, with_ids: bool, out: &mut Vec<u8>) {
        if !self.wants_to_ask() {
            return;
        }
        self.to_ask = false;
        self.identify(with_ids);
        // What is to go goes first: it may be wanted again.
        for leave in [true, false] {
            for key in 0..self.all.capacity() {
                let phase = self.all.get(key).map(|subscription| subscription.phase);
                if phase != Some(if leave { Phase::Unwanted } else { Phase::Wanted }) {
                    continue;
                }
                let Some(id) = free_id(self.requests) else {
                    self.to_ask = true;
                    return;
                };
                let said =
                    if leave { self.leave(key, id, version, out) } else { self.want(key, id, version, with_ids, out) };
                if said {
                    self.requests |= bit(id);
                }
            }
        }
    }

    fn want(&mut self, key: usize, id: PacketId, version: Version, with_ids: bool, out: &mut Vec<u8>) -> bool {
        let Some(subscription) = self.all.get_mut(key) else { return false };
        subscription.phase = Phase::Asked(id);
        subscription.with_id = with_ids && subscription.needs_id();
        let subscription_id = subscription.with_id.then_some(key as u32 + 1);
        let what = &subscription.what;
        if !std::mem::take(&mut subscription.again) {
            return write::subscribe(version, id, subscription_id, &what.filters, &what.user_properties, out);
        }
        // Retained messages have come.
        let mut filters = what.filters.clone();
        filters.iter_mut().for_each(|filter| filter.retain_handling = RetainHandling::Never);
        write::subscribe(version, id, subscription_id, &filters, &what.user_properties, out)
    }

    /// For the server there is one subscription for a filter: what another of the program's stands on stays.
    fn leave(&mut self, key: usize, id: PacketId, version: Version, out: &mut Vec<u8>) -> bool {
        let Some(subscription) = self.all.get(key) else { return false };
        let filters: Vec<String> = subscription.what.filters.iter().map(|filter| filter.filter.clone()).collect();
        let filters: Vec<String> = filters.into_iter().filter(|filter| !self.is_wanted(filter)).collect();
        if filters.is_empty() {
            if let Some(left) = self.all.remove(key).left {
                left.tell(());
            }
            return false;
        }
        if let Some(subscription) = self.all.get_mut(key) {
            subscription.phase = Phase::Leaving(id);
        }
        write::unsubscribe(version, id, &filters, out)
    }

    fn is_wanted(&self, filter: &str) -> bool {
        let wanted = self.all.iter().filter(|(_, subscription)| subscription.phase.is_wanted());
        wanted.flat_map(|(_, subscription)| &subscription.what.filters).any(|wanted| wanted.filter == filter)
    }

    /// SUBACK or UNSUBACK; the tokens of what nobody will read.
    ///
    /// # Errors
    /// A SUBACK that does not have a reason code for each filter.
    pub(crate) fn answered(&mut self, ack: SubAck) -> Result<Vec<u64>, WireError> {
        let asked = |phase: Phase| match phase {
            Phase::Asked(id) => !ack.of_unsubscribe && id == ack.id,
            Phase::Leaving(id) => ack.of_unsubscribe && id == ack.id,
            Phase::Wanted | Phase::Held | Phase::Unwanted | Phase::Refused => false,
        };
        let Some(key) = self.all.iter().find(|(_, subscription)| asked(subscription.phase)).map(|(key, _)| key) else {
            // The answer to a request whose subscription is gone.
            if ack.id.get() > PUBLISH_IDS {
                self.requests &= !bit(ack.id);
            }
            return Ok(Vec::new());
        };
        self.requests &= !bit(ack.id);
        let asks = |s: &Subscription| match s.phase {
            Phase::Wanted | Phase::Unwanted => true,
            // The answer that comes now may find it in need of an identifier.
            Phase::Held | Phase::Asked(_) => s.overlaps && !s.with_id,
            Phase::Leaving(_) | Phase::Refused => false,
        };
        self.to_ask |= self.all.iter().any(|(_, subscription)| asks(subscription));
        if ack.of_unsubscribe {
            if let Some(left) = self.all.remove(key).left {
                left.tell(());
            }
            return Ok(Vec::new());
        }
        let filters = self.all.get(key).map_or(0, |subscription| subscription.what.filters.len());
        if ack.reasons.len() != filters {
            return Err(WireError::protocol("MQTT-3.8.4-5", "SUBACK without a reason code for each filter"));
        }
        let all_refused = !ack.reasons.iter().any(|reason| reason.is_success());
        let Some(subscription) = self.all.get_mut(key) else { return Ok(Vec::new()) };
        subscription.phase = Phase::Held;
        let teller = subscription.granted.take();
        if !all_refused {
            if let Some(teller) = teller {
                teller.tell(Ok(ack.reasons));
            }
            return Ok(Vec::new());
        }
        tracing::warn!(filters = ?subscription.what.filters, reasons = ?ack.reasons, "a subscription was refused");
        let Some(teller) = teller else { return Ok(Vec::new()) };
        subscription.phase = Phase::Refused;
        let unread = std::mem::take(&mut subscription.queue);
        self.bytes -= unread.iter().map(Received::size).sum::<usize>();
        self.last.0.clear();
        teller.tell(Err(SubscribeError::Refused { reasons: ack.reasons, reason_string: ack.reason_string }));
        Ok(unread.iter().filter_map(|received| received.token).collect())
    }

    /// Has one that is held asked for again, when it lacks an identifier that it needs by now.
    fn identify(&mut self, with_ids: bool) {
        for (_, subscription) in &mut self.all {
            if with_ids && subscription.phase == Phase::Held && subscription.needs_id() && !subscription.with_id {
                (subscription.phase, subscription.again) = (Phase::Wanted, true);
            }
        }
    }
}

fn bit(id: PacketId) -> u16 {
    1u16.checked_shl(u32::from(id.get().wrapping_sub(PUBLISH_IDS + 1))).unwrap_or(0)
}

fn free_id(used: u16) -> Option<PacketId> {
    let free = used.trailing_ones() as u16;
    (free < REQUESTS_MAX).then(|| PacketId::new(PUBLISH_IDS + 1 + free)).flatten()
}
