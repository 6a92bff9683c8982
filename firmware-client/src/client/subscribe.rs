//! Subscriptions. They lie in the outbox, in a share of their own, and are made again when the server has lost them.

use super::{Client, QOS2};
use crate::arena::{self, HEAD, Head, SUBS, SUBSCRIPTIONS, State};
use crate::bytes;
use crate::message::{PublishError, Ticket};
use forebay_wire::types::QoS;

impl Client<'_> {
    /// Subscribes to a topic filter, now or as soon as there is a connection. The answer is
    /// [`Event::Subscribed`](crate::Event::Subscribed). A filter that is subscribed to is subscribed to again, and brings
    /// its retained messages.
    ///
    /// # Errors
    /// There is no room, or it is not a topic filter.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<Ticket, PublishError> {
        if !QOS2 && qos == QoS::ExactlyOnce {
            return Err(PublishError::NotSupported);
        }
        self.request(filter, State::SubWanted, qos as u8)
    }

    /// Ends a subscription. The answer is [`Event::Unsubscribed`](crate::Event::Unsubscribed).
    ///
    /// # Errors
    /// There is no room, or it is not a topic filter.
    pub fn unsubscribe(&mut self, filter: &str) -> Result<Ticket, PublishError> {
        self.request(filter, State::UnsubWanted, 0)
    }

    /// The last word on a filter counts: what was wanted of it before and is not under way is forgotten.
    #[inline(never)]
    fn request(&mut self, filter: &str, state: State, options: u8) -> Result<Ticket, PublishError> {
        if !is_filter(filter) {
            return Err(PublishError::Topic);
        }
        let filter = filter.as_bytes();
        let parts = filter.len().saturating_add(1);
        let len = arena::record_len(parts);
        let old = self.find_filter(filter, State::SubWanted.bit() | State::SubGranted.bit() | State::UnsubWanted.bit());
        let back = old.map_or(0, |(_, head)| head.len as u32);
        if !self.fits(SUBSCRIPTIONS, len as u32, back) {
            return Err(PublishError::Full);
        }
        if let Some((at, head)) = old {
            self.arena.kill(at, &head);
        }
        let mut head = Head::subscription(self.next_ticket, state);
        head.topic_len = filter.len() as u16;
        let room = self.arena.room(HEAD.wrapping_add(parts)).and_then(|room| room.get_mut(HEAD..));
        let room = room.ok_or(PublishError::Full)?;
        let taken = bytes::copy(room, filter);
        bytes::copy(room.get_mut(taken..).unwrap_or_default(), &[options]);
        self.arena.commit(&mut head, 1);
        Ok(self.take_ticket())
    }

    /// The server has answered a request: what it has made of the filter before counts no more.
    pub(super) fn forget_granted(&mut self, at: usize, head: &Head) {
        let mut next = 0;
        while let Some((here, other)) = self.arena.find(next, State::SubGranted.bit()) {
            next = here.wrapping_add(other.len);
            let same = bytes::same(self.arena.parts(here, &other).topic, self.arena.parts(at, head).topic);
            if same && here < at {
                self.arena.kill(here, &other);
            }
        }
    }

    fn find_filter(&self, filter: &[u8], states: u16) -> Option<(usize, Head)> {
        let mut at = 0;
        loop {
            let (here, head) = self.arena.find(at, SUBS & states)?;
            if bytes::same(self.arena.parts(here, &head).topic, filter) {
                return Some((here, head));
            }
            at = here.wrapping_add(head.len);
        }
    }

    /// How many subscriptions the server has granted.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        let (mut at, mut count) = (0, 0usize);
        while let Some((here, head)) = self.arena.find(at, State::SubGranted.bit()) {
            at = here.wrapping_add(head.len);
            count = count.wrapping_add(1);
        }
        count
    }
}

/// Whether it is a topic filter [MQTT-4.7]: a wildcard stands alone in its level, and `#` in the last one.
fn is_filter(filter: &str) -> bool {
    let mut before = b'/';
    let mut ended = false;
    for byte in filter.bytes() {
        let alone = before == b'/';
        let after_wildcard = matches!(before, b'+' | b'#') && byte != b'/';
        if byte == 0 || ended || after_wildcard || (matches!(byte, b'+' | b'#') && !alone) {
            return false;
        }
        ended = byte == b'#';
        before = byte;
    }
    !filter.is_empty() && filter.len() <= usize::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::is_filter;
    use forebay_wire::topic;

    #[test]
    fn a_filter_is_one_as_the_broker_understands_it() {
        const LEN: usize = if cfg!(miri) { 3 } else { 6 };
        let letters = [b'a', b'+', b'#', b'/', 0];
        for number in 0..letters.len().pow(LEN as u32) {
            let mut text = [0u8; LEN];
            let mut rest = number;
            for byte in &mut text {
                *byte = letters[rest % letters.len()];
                rest /= letters.len();
            }
            for len in 0..=LEN {
                let filter = core::str::from_utf8(&text[..len]).unwrap();
                assert_eq!(is_filter(filter), topic::check_filter(filter, 100).is_ok(), "{filter:?}");
            }
        }
    }
}
