//! What a configuration costs in RAM, before anything is built: all of it can be asked at compile time.
//!
//! ```
//! use forebay_firmware::Sizing;
//!
//! const NEEDS: Sizing = Sizing {
//!     // A day without a network, a reading each quarter of an hour.
//!     messages: 96,
//!     topic_len: "sensor-17/temperature".len(),
//!     payload_len: 16,
//!     subscriptions: 1,
//!     filter_len: "sensor-17/set/#".len(),
//!     inbound_len: 128,
//!     ..Sizing::NOTHING
//! };
//! static OUTBOX: [u8; NEEDS.outbox()] = [0; NEEDS.outbox()];
//! static RECEIVE: [u8; NEEDS.receive()] = [0; NEEDS.receive()];
//! const _: () = assert!(NEEDS.total() < 8 * 1024);
//! # assert_eq!((OUTBOX.len(), RECEIVE.len()), (96 * 60 + 36, 143));
//! ```

use crate::arena;
use crate::client::Client;

/// Bytes of MQTT around a payload, its topic and its properties, at most: fixed header, length of the topic, packet
/// identifier, length of the properties.
const AROUND: usize = 5 + 2 + 2 + 4;
/// The largest packet that is no PUBLISH and that a server without a reason to talk sends: CONNACK with its properties.
const SMALLEST_RECEIVE: usize = 128;

/// What a device has to hold. Lengths are in bytes, and the largest of their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// Messages that wait, and are on their way.
    pub messages: usize,
    /// Topic of a message.
    pub topic_len: usize,
    /// Properties of a message as MQTT 5 writes them: a user property takes 5 and its two texts.
    pub properties_len: usize,
    /// Payload of a message.
    pub payload_len: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Topic filter of a subscription.
    pub filter_len: usize,
    /// Topic, properties and payload of a message that comes, and is to come in one piece.
    pub inbound_len: usize,
}

impl Sizing {
    /// A device that holds nothing.
    pub const NOTHING: Self = Self {
        messages: 0,
        topic_len: 0,
        properties_len: 0,
        payload_len: 0,
        subscriptions: 0,
        filter_len: 0,
        inbound_len: 0,
    };

    /// Bytes of one message in the outbox.
    #[must_use]
    pub const fn message(&self) -> usize {
        arena::record_len(self.topic_len.saturating_add(self.properties_len).saturating_add(self.payload_len))
    }

    /// Bytes of one subscription in the outbox.
    #[must_use]
    pub const fn subscription(&self) -> usize {
        arena::record_len(self.filter_len.saturating_add(1))
    }

    /// Bytes for [`Options::subscription_reserve`](crate::Options::subscription_reserve).
    #[must_use]
    pub const fn subscription_reserve(&self) -> usize {
        self.subscriptions.saturating_mul(self.subscription())
    }

    /// Bytes of the outbox.
    #[must_use]
    pub const fn outbox(&self) -> usize {
        self.messages.saturating_mul(self.message()).saturating_add(self.subscription_reserve())
    }

    /// Bytes of the receive buffer.
    #[must_use]
    pub const fn receive(&self) -> usize {
        let message = self.inbound_len.saturating_add(AROUND);
        let smallest = SMALLEST_RECEIVE.saturating_add(self.filter_len);
        if message > smallest { message } else { smallest }
    }

    /// Bytes of the client itself, on the target that this is compiled for.
    #[must_use]
    pub const fn client() -> usize {
        size_of::<Client<'_>>()
    }

    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.outbox().saturating_add(self.receive()).saturating_add(Self::client())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{Input, Message, Options, Policy, PublishError, PublishProperty, QoS};
    use std::string::String;
    use std::vec;

    /// As many as were asked for have room, and one more has not.
    #[test]
    fn an_outbox_holds_what_it_was_sized_for() {
        for (messages, topic_len, payload_len, user, subscriptions, filter_len) in
            [(1, 1, 0, 0, 0, 0), (10, 7, 33, 0, 1, 3), (50, 30, 200, 12, 4, 25), (3, 128, 1_500, 1, 2, 64)]
        {
            let key: String = core::iter::repeat_n('k', user).collect();
            let properties = [PublishProperty::User(&key, "v")];
            let properties = if user > 0 && cfg!(feature = "v5") { &properties[..] } else { &[] };
            let properties_len = if properties.is_empty() { 0 } else { 5 + user + 1 };
            let sizing = Sizing {
                messages,
                topic_len,
                properties_len,
                payload_len,
                subscriptions,
                filter_len,
                ..Sizing::NOTHING
            };
            let mut options = Options::new("d");
            options.subscription_reserve = sizing.subscription_reserve() as u32;
            let mut outbox = vec![0; sizing.outbox()];
            let mut client = Client::new(&options, &mut outbox);
            let topic: String = core::iter::repeat_n('t', topic_len).collect();
            let message = Message { properties, ..Message::new(&topic).policy(Policy::DropNewest) };
            let payload = vec![7; payload_len];
            for _ in 0..messages {
                client.publish(0, &message, &payload).unwrap();
            }
            assert!(client.publish(0, &message, &payload).is_err());
            for number in 0..subscriptions {
                let filter = std::format!("{number}{}", "f".repeat(filter_len - 1));
                client.subscribe(&filter, QoS::AtMostOnce).unwrap();
            }
            let more = "f".repeat(filter_len.max(1));
            assert_eq!(client.subscribe(&more, QoS::AtMostOnce), Err(PublishError::Full));
            assert_eq!(client.fill().0 as usize, sizing.outbox());
        }
    }

    /// A message of the length that was asked for comes whole; with 3.1.1 and with 5.0.
    #[test]
    fn a_receive_buffer_holds_what_it_was_sized_for() {
        for inbound_len in [200, 1_000, 20_000] {
            let sizing = Sizing { inbound_len, ..Sizing::NOTHING };
            let options = Options::new("d");
            let mut outbox = [0; 64];
            let mut client = Client::new(&options, &mut outbox);
            let mut receive = vec![0; sizing.receive()];
            let mut input = Input::new(&mut receive);
            let mut out = [0; 256];
            client.connected(0);
            assert!(client.poll_transmit(0, &mut out) > 0);
            #[cfg(feature = "v5")]
            let packets = [&[0x20, 3, 0, 0, 0][..]];
            #[cfg(not(feature = "v5"))]
            let packets = [&[0x20, 2, 0, 0][..]];
            input.fill(packets[0]);
            while client.poll_event(0, &mut input).is_some() {}
            // In 3.1.1 the first connection is for cleaning up.
            if !client.is_connected() {
                client.poll_transmit(0, &mut out);
                client.disconnected(0);
                input.clear();
                client.connected(0);
                client.poll_transmit(0, &mut out);
                input.fill(packets[0]);
                while client.poll_event(0, &mut input).is_some() {}
            }
            let payload_len = inbound_len - 5;
            let around = 2 + 5 + 2 + usize::from(cfg!(feature = "v5"));
            let mut packet = vec![0x32];
            let mut rest = around + payload_len;
            while rest >= 128 {
                packet.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            packet.push(rest as u8);
            packet.extend(b"\0\x05topic\0\x01");
            #[cfg(feature = "v5")]
            packet.push(0);
            packet.extend(vec![9; payload_len]);
            assert_eq!(input.fill(&packet), packet.len(), "{inbound_len}");
            let event = client.poll_event(0, &mut input);
            assert!(
                matches!(event, Some(crate::Event::Message(message)) if message.payload.len() == payload_len),
                "{event:?}"
            );
        }
    }

    #[test]
    fn the_client_takes_what_is_said() {
        assert_eq!(Sizing::client(), size_of::<Client<'_>>());
        assert_eq!(Sizing::NOTHING.total(), Sizing::client() + SMALLEST_RECEIVE);
    }
}
