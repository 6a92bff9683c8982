//! SUBSCRIBE and UNSUBSCRIBE, and what the server answers.

use std::collections::VecDeque;

use forebay_wire::types::{PacketId, Version};
use forebay_wire::{WireError, varint};

use super::{Phase, Subscription, Subscriptions};
use crate::codec::read::SubAck;
use crate::codec::write;
use crate::error::SubscribeError;
use crate::event::Event;
use crate::message::Received;
use crate::options::{RetainHandling, SubscribeFilter};
use crate::session::outbox::PUBLISH_IDS;

/// Unacknowledged SUBSCRIBEs and UNSUBSCRIBEs at most.
const REQUESTS_MAX: u16 = u16::MAX - PUBLISH_IDS;
/// Body of an UNSUBSCRIBE without filters: packet identifier, and in MQTT 5 no properties.
const UNSUBSCRIBE_LEN: usize = 3;

/// What of a connection matters to what is asked on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    pub(crate) version: Version,
    /// The server knows subscription identifiers.
    pub(crate) with_ids: bool,
    /// What the server takes [MQTT5-3.2.2-15].
    pub(crate) maximum_packet_size: u32,
}

impl Asking {
    /// Whether a packet with a body of so many bytes does.
    fn fits(self, body_len: usize) -> bool {
        body_len <= varint::MAX as usize && write::packet_len(body_len) <= self.maximum_packet_size as usize
    }

    /// How many filters go into one packet; one at least: the caller has looked at each alone.
    fn how_many_fit(self, empty_len: usize, filters: impl Iterator<Item = usize>) -> usize {
        let bodies = filters.scan(empty_len, |body, filter| {
            *body += filter;
            Some(*body)
        });
        bodies.take_while(|body| self.fits(*body)).count().max(1)
    }

    /// A server that takes less than it did when it granted a filter cannot be told that it is no longer wanted.
    fn may_leave(self, filter: &str) -> bool {
        let fits = self.fits(UNSUBSCRIBE_LEN + filter.len() + 2);
        if !fits {
            tracing::warn!(filter, "the server takes no packet that is large enough to unsubscribe from it");
        }
        fits
    }
}

impl Subscriptions {
    /// Whether [`Subscriptions::ask`] has something to say.
    pub(crate) fn wants_to_ask(&self) -> bool {
        self.to_ask && self.requests.count_ones() < u32::from(REQUESTS_MAX)
    }

    /// Whether the server owes a SUBACK or UNSUBACK.
    pub(crate) fn are_asked(&self) -> bool {
        self.requests != 0
    }

    /// SUBSCRIBE and UNSUBSCRIBE; the tokens of what nobody will read.
    pub(crate) fn ask(&mut self, how: Asking, out: &mut Vec<u8>) -> Vec<u64> {
        let mut tokens = Vec::new();
        while self.wants_to_ask() {
            self.to_ask = false;
            self.identify(how.with_ids);
            // What is to go goes first: it may be wanted again.
            for leave in [true, false] {
                for key in 0..self.all.capacity() {
                    let phase = self.all.get(key).map(|subscription| subscription.phase);
                    if phase != Some(if leave { Phase::Unwanted } else { Phase::Wanted }) {
                        continue;
                    }
                    let Some(id) = free_id(self.requests) else {
                        self.to_ask = true;
                        return tokens;
                    };
                    if leave {
                        self.leave(key, id, how, out);
                    } else {
                        tokens.extend(self.want(key, id, how, out));
                    }
                }
            }
        }
        tokens
    }

    /// Asks for the filters that the server has not answered yet, or for as many of them as it takes in one packet.
    fn want(&mut self, key: usize, id: PacketId, how: Asking, out: &mut Vec<u8>) -> Vec<u64> {
        let Some(subscription) = self.all.get_mut(key) else { return Vec::new() };
        if subscription.reasons.is_empty() {
            subscription.with_id = how.with_ids && subscription.needs_id();
        }
        let subscription_id = subscription.with_id.then_some(key as u32 + 1);
        let what = &subscription.what;
        let rest = what.filters.get(subscription.reasons.len()..).unwrap_or_default();
        let empty_len = write::subscribe_len(how.version, subscription_id, &what.user_properties);
        let len = |filter: &SubscribeFilter| filter.filter.len() + 3;
        if let Some(filter) = rest.iter().find(|filter| !how.fits(empty_len + len(filter))) {
            let (filter, size) = (filter.filter.clone(), write::packet_len(empty_len + len(filter)));
            let max = how.maximum_packet_size as usize;
            return self.is_over(key, SubscribeError::TooLarge { filter, size, max });
        }
        let sent = how.how_many_fit(empty_len, rest.iter().map(len));
        let mut filters = rest.get(..sent).unwrap_or_default().to_vec();
        if subscription.again {
            // Retained messages have come.
            filters.iter_mut().for_each(|filter| filter.retain_handling = RetainHandling::Never);
        }
        if write::subscribe(how.version, id, subscription_id, &filters, &what.user_properties, out) {
            (subscription.phase, subscription.sent) = (Phase::Asked(id), sent);
            self.requests |= bit(id);
        }
        Vec::new()
    }

    /// For the server there is one subscription for a filter: what another of the program's stands on stays.
    fn leave(&mut self, key: usize, id: PacketId, how: Asking, out: &mut Vec<u8>) {
        let Some(subscription) = self.all.get_mut(key) else { return };
        let mut filters = std::mem::take(&mut subscription.what.filters);
        filters.retain(|filter| !self.is_wanted(&filter.filter) && how.may_leave(&filter.filter));
        if filters.is_empty() {
            return self.gone(key);
        }
        let sent = how.how_many_fit(UNSUBSCRIBE_LEN, filters.iter().map(|filter| filter.filter.len() + 2));
        let names: Vec<String> = filters.iter().take(sent).map(|filter| filter.filter.clone()).collect();
        let Some(subscription) = self.all.get_mut(key) else { return };
        subscription.what.filters = filters;
        if write::unsubscribe(how.version, id, &names, out) {
            (subscription.phase, subscription.sent) = (Phase::Leaving(id), sent);
            self.requests |= bit(id);
        }
    }

    fn gone(&mut self, key: usize) {
        if let Some(left) = self.all.remove(key).left {
            left.tell(());
        }
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
        let Some(subscription) = self.all.get_mut(key) else { return Ok(Vec::new()) };
        if ack.of_unsubscribe {
            subscription.what.filters.drain(..subscription.sent.min(subscription.what.filters.len()));
            subscription.phase = Phase::Unwanted;
            // The rest is for the next packet.
            self.to_ask |= !subscription.what.filters.is_empty();
            if subscription.what.filters.is_empty() {
                self.gone(key);
            }
            return Ok(Vec::new());
        }
        if ack.reasons.len() != subscription.sent {
            return Err(WireError::protocol("MQTT-3.8.4-5", "SUBACK without a reason code for each filter"));
        }
        subscription.reasons.extend(ack.reasons);
        if subscription.reasons.len() < subscription.what.filters.len() {
            subscription.phase = Phase::Wanted;
            self.to_ask = true;
            return Ok(Vec::new());
        }
        (subscription.phase, subscription.again) = (Phase::Held, false);
        Ok(self.decided(key, ack.reason_string))
    }

    /// The server has answered for all filters.
    fn decided(&mut self, key: usize, reason_string: Option<String>) -> Vec<u64> {
        let Some(subscription) = self.all.get_mut(key) else { return Vec::new() };
        if let Some(teller) = subscription.granted.take_if(|_| subscription.reasons.iter().any(|r| r.is_success())) {
            subscription.held = std::mem::take(&mut subscription.reasons);
            teller.tell(Ok(subscription.held.clone()));
            return Vec::new();
        }
        if subscription.granted.is_some() {
            let reasons = subscription.reasons.clone();
            return self.is_over(key, SubscribeError::Refused { reasons, reason_string });
        }
        let both = subscription.held.iter().zip(&subscription.reasons);
        let revoked =
            both.zip(&subscription.what.filters).filter(|((was, is), _)| was.is_success() && !is.is_success());
        let refused: Vec<_> = revoked.map(|((_, reason), filter)| (filter.filter.clone(), *reason)).collect();
        if refused.is_empty() {
            subscription.held = std::mem::take(&mut subscription.reasons);
            return Vec::new();
        }
        self.is_over(key, SubscribeError::Revoked { refused, reason_string })
    }

    /// The server does not grant it, or not all of it any more. A stream that misses a part of what it is for without a word
    /// would look healthy: it ends, and what it has can still be read. The tokens of what nobody will read.
    fn is_over(&mut self, key: usize, why: SubscribeError) -> Vec<u64> {
        let Some(subscription) = self.all.get_mut(key) else { return Vec::new() };
        let filters = || subscription.what.filters.iter().map(|filter| filter.filter.clone()).collect();
        tracing::warn!("the subscription to {:?} is over: {why}", filters());
        subscription.phase = Phase::Refused;
        self.last.0.clear();
        let was_held = !subscription.held.is_empty();
        let mut unread = VecDeque::new();
        match subscription.granted.take() {
            Some(teller) => {
                unread = std::mem::take(&mut subscription.queue);
                self.bytes -= unread.iter().map(Received::size).sum::<usize>();
                teller.tell(Err(why));
            }
            None => {
                self.ends.push_back(Event::SubscriptionEnded { filters: filters(), why: why.clone() });
                subscription.ended = Some(why);
                if let Some(waker) = subscription.waker.take() {
                    waker.wake();
                }
            }
        }
        // What of it the server has, or may have.
        if was_held || subscription.reasons.iter().any(|reason| reason.is_success()) {
            let what = subscription.what.clone();
            self.all.insert(Subscription { phase: Phase::Unwanted, ..Subscription::new(what) });
            self.to_ask = true;
        }
        unread.iter().filter_map(|received| received.token).collect()
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
