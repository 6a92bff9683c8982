//! Properties of MQTT 5 [MQTT5-2.2.2]: which may stand where, how often, with what values.

use crate::read::Reader;
use crate::types::QoS;
use crate::{ReasonCode, WireError};

/// The packets (and the will) that have properties; a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Place {
    Connect = 1,
    ConnAck = 1 << 1,
    Publish = 1 << 2,
    Will = 1 << 3,
    /// PUBACK, PUBREC, PUBREL and PUBCOMP.
    Ack = 1 << 4,
    Subscribe = 1 << 5,
    /// SUBACK and UNSUBACK.
    SubAck = 1 << 6,
    Unsubscribe = 1 << 7,
    Disconnect = 1 << 8,
    Auth = 1 << 9,
}

/// A property as it stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Property<'a> {
    PayloadFormatIndicator(u8),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(u8),
    WillDelayInterval(u32),
    RequestResponseInformation(u8),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQoS(u8),
    RetainAvailable(u8),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(u8),
    SubscriptionIdentifierAvailable(u8),
    SharedSubscriptionAvailable(u8),
}

/// Property identifiers, for writers.
#[allow(missing_docs)]
pub mod id {
    pub const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
    pub const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2a;
}

/// Where a property may stand, table 2-4 of the standard; 0 for an identifier that does not exist.
const fn places(id: u8) -> u16 {
    use Place as P;
    const MESSAGE: u16 = P::Publish as u16 | P::Will as u16;
    const ANSWERS: u16 = P::ConnAck as u16 | P::Ack as u16 | P::SubAck as u16 | P::Disconnect as u16 | P::Auth as u16;
    const AUTH: u16 = P::Connect as u16 | P::ConnAck as u16 | P::Auth as u16;
    match id {
        id::PAYLOAD_FORMAT_INDICATOR
        | id::MESSAGE_EXPIRY_INTERVAL
        | id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA => MESSAGE,
        id::SUBSCRIPTION_IDENTIFIER => P::Publish as u16 | P::Subscribe as u16,
        id::SESSION_EXPIRY_INTERVAL => P::Connect as u16 | P::ConnAck as u16 | P::Disconnect as u16,
        id::AUTHENTICATION_METHOD | id::AUTHENTICATION_DATA => AUTH,
        id::REQUEST_PROBLEM_INFORMATION | id::REQUEST_RESPONSE_INFORMATION => P::Connect as u16,
        id::WILL_DELAY_INTERVAL => P::Will as u16,
        id::SERVER_REFERENCE => P::ConnAck as u16 | P::Disconnect as u16,
        id::REASON_STRING => ANSWERS,
        id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::MAXIMUM_PACKET_SIZE => {
            P::Connect as u16 | P::ConnAck as u16
        }
        id::TOPIC_ALIAS => P::Publish as u16,
        id::USER_PROPERTY => 0x03ff,
        id::ASSIGNED_CLIENT_IDENTIFIER
        | id::SERVER_KEEP_ALIVE
        | id::RESPONSE_INFORMATION
        | id::MAXIMUM_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_SUBSCRIPTION_AVAILABLE
        | id::SUBSCRIPTION_IDENTIFIER_AVAILABLE
        | id::SHARED_SUBSCRIPTION_AVAILABLE => P::ConnAck as u16,
        _ => 0,
    }
}

/// Walks the properties of a bounded slice and checks each: allowed here, not doubled, value in range. Ends after the
/// first error.
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    reader: Reader<'a>,
    place: Place,
    seen: u64,
    failed: bool,
}

/// A property and the bytes that it takes, identifier included.
#[derive(Clone, Copy, Debug)]
pub struct Spanned<'a> {
    /// What it says.
    pub property: Property<'a>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Properties<'a> {
    /// The properties in `section`, which is without its length.
    #[must_use]
    pub const fn new(section: &'a [u8], place: Place) -> Self {
        Self { reader: Reader::new(section), place, seen: 0, failed: false }
    }

    fn step(&mut self) -> Result<Spanned<'a>, WireError> {
        let before = self.reader.rest();
        let id = self.reader.u8()?;
        let allowed = places(id);
        if allowed == 0 {
            return Err(WireError::malformed("MQTT5-2.2.2-2", "an unknown property"));
        }
        if allowed & self.place as u16 == 0 {
            return Err(WireError::protocol("MQTT5-2.2.2-2", "a property that this packet may not have"));
        }
        let many = id == id::USER_PROPERTY || id == id::SUBSCRIPTION_IDENTIFIER && matches!(self.place, Place::Publish);
        let bit = 1u64 << id;
        if self.seen & bit != 0 && !many {
            return Err(WireError::protocol("MQTT5-2.2.2", "a property stands twice"));
        }
        self.seen |= bit;
        let property = self.value(id)?;
        let taken = before.len() - self.reader.rest().len();
        Ok(Spanned { property, bytes: before.get(..taken).unwrap_or_default() })
    }

    fn value(&mut self, id: u8) -> Result<Property<'a>, WireError> {
        let r = &mut self.reader;
        Ok(match id {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(flag(r.u8()?)?),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryInterval(r.u32()?),
            id::CONTENT_TYPE => Property::ContentType(r.string()?),
            id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(r.string()?)?),
            id::CORRELATION_DATA => Property::CorrelationData(r.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionIdentifier(not_zero(r.varint()?)?),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryInterval(r.u32()?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientIdentifier(r.string()?),
            id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(r.u16()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(r.string()?),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(r.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(r.u8()?)?),
            id::WILL_DELAY_INTERVAL => Property::WillDelayInterval(r.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(flag(r.u8()?)?),
            id::RESPONSE_INFORMATION => Property::ResponseInformation(r.string()?),
            id::SERVER_REFERENCE => Property::ServerReference(r.string()?),
            id::REASON_STRING => Property::ReasonString(r.string()?),
            id::RECEIVE_MAXIMUM => {
                let value = r.u16()?;
                not_zero(u32::from(value))?;
                Property::ReceiveMaximum(value)
            }
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(r.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(topic_alias(r.u16()?)?),
            id::MAXIMUM_QOS => Property::MaximumQoS(flag(r.u8()?)?),
            id::RETAIN_AVAILABLE => Property::RetainAvailable(flag(r.u8()?)?),
            id::USER_PROPERTY => Property::UserProperty(r.string()?, r.string()?),
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(not_zero(r.u32()?)?),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => Property::WildcardSubscriptionAvailable(flag(r.u8()?)?),
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => Property::SubscriptionIdentifierAvailable(flag(r.u8()?)?),
            id::SHARED_SUBSCRIPTION_AVAILABLE => Property::SharedSubscriptionAvailable(flag(r.u8()?)?),
            _ => return Err(WireError::malformed("MQTT5-2.2.2-2", "an unknown property")),
        })
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Result<Spanned<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_empty() {
            return None;
        }
        let item = self.step();
        self.failed = item.is_err();
        Some(item)
    }
}

fn flag(value: u8) -> Result<u8, WireError> {
    if value > 1 { Err(WireError::protocol("MQTT5-2.2.2.2", "a property is neither 0 nor 1")) } else { Ok(value) }
}

fn not_zero(value: u32) -> Result<u32, WireError> {
    if value == 0 {
        Err(WireError::protocol("MQTT5-2.2.2.2", "a property is 0 where it may not be"))
    } else {
        Ok(value)
    }
}

fn topic_alias(value: u16) -> Result<u16, WireError> {
    if value == 0 {
        return Err(WireError::new(ReasonCode::TopicAliasInvalid, "MQTT5-3.3.2-8", "topic alias 0"));
    }
    Ok(value)
}

fn response_topic(topic: &str) -> Result<&str, WireError> {
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(WireError::protocol("MQTT5-3.3.2-14", "a response topic is empty or holds a wildcard"));
    }
    Ok(topic)
}

/// The QoS of a Maximum QoS property.
#[must_use]
pub const fn maximum_qos(value: u8) -> QoS {
    if value == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_error(section: &[u8], place: Place) -> Option<ReasonCode> {
        Properties::new(section, place).find_map(Result::err).map(|e| e.reason)
    }

    #[test]
    fn yields_what_stands_there_with_its_bytes() {
        let section = [0x23, 0, 7, 0x26, 0, 1, b'k', 0, 1, b'v', 0x26, 0, 1, b'k', 0, 1, b'v'];
        let found: [_; 3] = {
            let mut it = Properties::new(&section, Place::Publish).map(Result::unwrap);
            [it.next().unwrap(), it.next().unwrap(), it.next().unwrap()]
        };
        assert_eq!(found[0].property, Property::TopicAlias(7));
        assert_eq!(found[0].bytes, &section[..3]);
        assert_eq!(found[1].property, Property::UserProperty("k", "v"));
        assert_eq!(found[2].bytes, &section[10..]);
    }

    #[test]
    fn refuses_doubles_wrong_places_and_wrong_values() {
        assert_eq!(first_error(&[0x01, 0, 0x01, 0], Place::Publish), Some(ReasonCode::ProtocolError));
        assert_eq!(first_error(&[0x01, 2], Place::Publish), Some(ReasonCode::ProtocolError));
        assert_eq!(first_error(&[0x11, 0, 0, 0, 1], Place::Publish), Some(ReasonCode::ProtocolError));
        assert_eq!(first_error(&[0x23, 0, 0], Place::Publish), Some(ReasonCode::TopicAliasInvalid));
        assert_eq!(first_error(&[0x21, 0, 0], Place::Connect), Some(ReasonCode::ProtocolError));
        assert_eq!(first_error(&[0x7e, 0], Place::Connect), Some(ReasonCode::MalformedPacket));
        assert_eq!(first_error(&[0x02, 0, 0], Place::Publish), Some(ReasonCode::MalformedPacket));
        assert_eq!(first_error(&[0x08, 0, 1, b'#'], Place::Publish), Some(ReasonCode::ProtocolError));
        assert_eq!(first_error(&[0x0b, 1, 0x0b, 2], Place::Publish), None);
        assert_eq!(first_error(&[0x0b, 1, 0x0b, 2], Place::Subscribe), Some(ReasonCode::ProtocolError));
    }
}
