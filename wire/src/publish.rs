//! PUBLISH, borrowed from the buffer that it was read into.

use crate::property::{Place, Properties, Property, Spanned, id};
use crate::read::Reader;
use crate::types::{PacketId, QoS, Version};
use crate::{ReasonCode, WireError, topic};

/// Who sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A client: no subscription identifiers [MQTT5-3.3.4-6].
    Client,
    /// A server.
    Server,
}

/// A PUBLISH packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Topic name; empty when the alias stands for it.
    pub topic: &'a str,
    /// Packet identifier, for QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Properties as they stand, without their length; empty in 3.1.1.
    pub properties: &'a [u8],
    /// Message expiry interval in seconds.
    pub expiry_s: Option<u32>,
    /// Topic alias.
    pub topic_alias: Option<u16>,
    /// The payload is said to be UTF-8.
    pub payload_is_utf8: bool,
    /// How many user properties there are.
    pub user_properties: usize,
    /// Payload.
    pub payload: &'a [u8],
    /// Properties hold something that is not to be forwarded.
    filtered: bool,
}

impl<'a> Publish<'a> {
    /// Parses the body of a PUBLISH whose fixed header was `first_byte`.
    ///
    /// # Errors
    /// What is wrong, with its reason code.
    #[inline]
    pub fn parse(
        version: Version,
        from: From,
        first_byte: u8,
        body: &'a [u8],
        topic_levels_max: usize,
    ) -> Result<Self, WireError> {
        // Looked at where it stands: `?` would copy it, which costs more than the look.
        let publish = Self::parse_head(version, from, first_byte, body, topic_levels_max);
        match publish.as_ref().map_or(Ok(()), Self::check_payload) {
            Ok(()) => publish,
            Err(error) => Err(error),
        }
    }

    /// The same for a body whose payload may be cut off: `payload` is what there is of it, and is not checked.
    ///
    /// # Errors
    /// What is wrong, with its reason code; the body ends before the payload begins.
    #[inline]
    pub fn parse_head(
        version: Version,
        from: From,
        first_byte: u8,
        body: &'a [u8],
        topic_levels_max: usize,
    ) -> Result<Self, WireError> {
        let (dup, retain) = (first_byte & 0x08 != 0, first_byte & 0x01 != 0);
        let qos = QoS::try_from(first_byte >> 1 & 3)
            .map_err(|_| WireError::malformed("MQTT-3.3.1-4", "QoS 3 does not exist"))?;
        if dup && qos == QoS::AtMostOnce {
            return Err(WireError::malformed("MQTT-3.3.1-2", "DUP with QoS 0"));
        }
        let mut reader = Reader::new(body);
        let topic = reader.string()?;
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            let id = PacketId::new(reader.u16()?);
            Some(id.ok_or(WireError::malformed("MQTT-2.3.1-1", "packet identifier 0"))?)
        };
        let mut publish = Self {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            properties: &[],
            expiry_s: None,
            topic_alias: None,
            payload_is_utf8: false,
            user_properties: 0,
            payload: &[],
            filtered: false,
        };
        if version.is_v5() {
            let len = reader.varint()?;
            publish.properties = reader.bytes(len as usize)?;
            publish.payload = reader.rest();
            if len > 0 {
                publish.read_properties(from)?;
            }
        } else {
            publish.payload = reader.rest();
        }
        if !topic.is_empty() || !version.is_v5() {
            topic::check_name(topic, topic_levels_max)?;
        } else if publish.topic_alias.is_none() {
            return Err(WireError::protocol("MQTT5-4.7.3-1", "neither a topic name nor an alias"));
        }
        Ok(publish)
    }

    fn read_properties(&mut self, from: From) -> Result<(), WireError> {
        let mut properties = Properties::new(self.properties, Place::Publish);
        while let Some(item) = properties.next_raw() {
            let raw = item?;
            match raw.id {
                id::MESSAGE_EXPIRY_INTERVAL => self.expiry_s = Some(raw.number),
                id::TOPIC_ALIAS => self.topic_alias = Some(raw.number as u16),
                id::USER_PROPERTY => self.user_properties += 1,
                id::PAYLOAD_FORMAT_INDICATOR => self.payload_is_utf8 = raw.number == 1,
                id::SUBSCRIPTION_IDENTIFIER if from == From::Client => {
                    return Err(WireError::protocol("MQTT5-3.3.4-6", "a client sent a subscription identifier"));
                }
                id::SUBSCRIPTION_IDENTIFIER => self.filtered = true,
                // What is left is forwarded as it is.
                _ => {}
            }
        }
        self.filtered |= self.expiry_s.is_some() || self.topic_alias.is_some();
        Ok(())
    }

    #[inline]
    fn check_payload(&self) -> Result<(), WireError> {
        if self.payload_is_utf8 && core::str::from_utf8(self.payload).is_err() {
            return Err(WireError::new(
                ReasonCode::PayloadFormatInvalid,
                "MQTT5-3.3.2.3.2",
                "the payload is said to be UTF-8 and is not",
            ));
        }
        Ok(())
    }

    /// The properties to forward, when all of them are.
    #[inline]
    #[must_use]
    pub const fn forwarded(&self) -> Option<&'a [u8]> {
        if self.filtered { None } else { Some(self.properties) }
    }

    /// Yields the properties to forward, in order [MQTT5-3.3.2-4], [MQTT5-3.3.2-15], [MQTT5-3.3.2-17], [MQTT5-3.3.2-20]:
    /// all but topic alias, message expiry and subscription identifiers.
    pub fn each_forwarded(&self, mut take: impl FnMut(&'a [u8])) {
        for Spanned { property, bytes } in Properties::new(self.properties, Place::Publish).flatten() {
            if !matches!(
                property,
                Property::TopicAlias(_) | Property::MessageExpiryInterval(_) | Property::SubscriptionIdentifier(_)
            ) {
                take(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn parse(version: Version, first: u8, body: &[u8]) -> Result<Publish<'_>, WireError> {
        Publish::parse(version, From::Client, first, body, 16)
    }

    #[test]
    fn borrows_topic_and_payload() {
        let publish = parse(Version::V311, 0x3b, &[0, 3, b'a', b'/', b'b', 0, 9, 1, 2]).unwrap();
        assert_eq!((publish.topic, publish.payload), ("a/b", &[1u8, 2][..]));
        assert_eq!((publish.qos, publish.dup, publish.retain), (QoS::AtLeastOnce, true, true));
        assert_eq!(publish.packet_id, PacketId::new(9));
    }

    #[test]
    fn forwards_all_but_what_is_the_connections() {
        let body = [0, 1, b't', 10, 0x23, 0, 1, 0x01, 0, 0x02, 0, 0, 0, 5, b'p'];
        let publish = parse(Version::V5, 0x30, &body).unwrap();
        assert_eq!((publish.topic_alias, publish.expiry_s, publish.forwarded()), (Some(1), Some(5), None));
        let mut forwarded = Vec::new();
        publish.each_forwarded(|bytes| forwarded.extend_from_slice(bytes));
        assert_eq!(forwarded, [0x01, 0]);
    }

    #[test]
    fn refuses_what_is_wrong() {
        for (version, first, body, reason) in [
            (Version::V311, 0x38, &[0, 1, b't'][..], ReasonCode::MalformedPacket),
            (Version::V311, 0x30, &[0, 0], ReasonCode::TopicNameInvalid),
            (Version::V311, 0x30, &[0, 1, b'#'], ReasonCode::TopicNameInvalid),
            (Version::V311, 0x30, &[0, 5, b'a'], ReasonCode::MalformedPacket),
            (Version::V311, 0x32, &[0, 1, b't', 0, 0], ReasonCode::MalformedPacket),
            (Version::V311, 0x30, &[0, 1, 0xff], ReasonCode::MalformedPacket),
            (Version::V311, 0x30, &[0, 1, 0], ReasonCode::MalformedPacket),
            (Version::V5, 0x30, &[0, 1, b't', 2, 0x0b, 1], ReasonCode::ProtocolError),
            (Version::V5, 0x30, &[0, 0, 0], ReasonCode::ProtocolError),
            (Version::V5, 0x30, &[0, 1, b't', 2, 0x01, 1, 0xff], ReasonCode::PayloadFormatInvalid),
            (Version::V5, 0x30, &[0, 1, b't', 9, 0x01], ReasonCode::MalformedPacket),
        ] {
            assert_eq!(parse(version, first, body).unwrap_err().reason, reason, "{body:?}");
        }
    }

    #[test]
    fn an_alias_may_stand_for_the_topic() {
        let publish = parse(Version::V5, 0x30, &[0, 0, 3, 0x23, 0, 2, b'x']).unwrap();
        assert_eq!((publish.topic, publish.topic_alias, publish.payload), ("", Some(2), &b"x"[..]));
    }

    #[test]
    fn no_mutation_panics() {
        let seed_body = [0, 3, b'a', b'/', b'b', 0, 9, 9, 0x23, 0, 1, 0x26, 0, 1, b'k', 0, 0, b'p'];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut body = seed_body;
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                body[(state >> 8) as usize % seed_body.len()] = state as u8;
            }
            let len = (state >> 32) as usize % (seed_body.len() + 1);
            for version in [Version::V311, Version::V5] {
                accepted += usize::from(parse(version, 0x32, &body[..len]).is_ok());
            }
        }
        assert!(accepted > 0);
    }
}
