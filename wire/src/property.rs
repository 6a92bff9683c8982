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

/// How the value of a property is written.
mod form {
    pub(super) const FLAG: u16 = 1 << 12;
    pub(super) const U16: u16 = 2 << 12;
    pub(super) const U32: u16 = 3 << 12;
    pub(super) const VARINT: u16 = 4 << 12;
    pub(super) const TEXT: u16 = 5 << 12;
    pub(super) const DATA: u16 = 6 << 12;
    pub(super) const PAIR: u16 = 7 << 12;
    pub(super) const ALL: u16 = 7 << 12;
}

/// Where a property may stand, table 2-4 of the standard, and how it is written; 0 for an identifier that does not exist.
#[allow(clippy::indexing_slicing, reason = "a table that the compiler makes")]
const KINDS: [u16; 43] = {
    use Place as P;
    const MESSAGE: u16 = P::Publish as u16 | P::Will as u16;
    const ANSWERS: u16 = P::ConnAck as u16 | P::Ack as u16 | P::SubAck as u16 | P::Disconnect as u16 | P::Auth as u16;
    const AUTH: u16 = P::Connect as u16 | P::ConnAck as u16 | P::Auth as u16;
    const BOTH: u16 = P::Connect as u16 | P::ConnAck as u16;
    const CONNECT: u16 = P::Connect as u16;
    const CONNACK: u16 = P::ConnAck as u16;
    let mut kinds = [0; 43];
    kinds[id::PAYLOAD_FORMAT_INDICATOR as usize] = form::FLAG | MESSAGE;
    kinds[id::MESSAGE_EXPIRY_INTERVAL as usize] = form::U32 | MESSAGE;
    kinds[id::CONTENT_TYPE as usize] = form::TEXT | MESSAGE;
    kinds[id::RESPONSE_TOPIC as usize] = form::TEXT | MESSAGE;
    kinds[id::CORRELATION_DATA as usize] = form::DATA | MESSAGE;
    kinds[id::SUBSCRIPTION_IDENTIFIER as usize] = form::VARINT | P::Publish as u16 | P::Subscribe as u16;
    kinds[id::SESSION_EXPIRY_INTERVAL as usize] = form::U32 | BOTH | P::Disconnect as u16;
    kinds[id::ASSIGNED_CLIENT_IDENTIFIER as usize] = form::TEXT | CONNACK;
    kinds[id::SERVER_KEEP_ALIVE as usize] = form::U16 | CONNACK;
    kinds[id::AUTHENTICATION_METHOD as usize] = form::TEXT | AUTH;
    kinds[id::AUTHENTICATION_DATA as usize] = form::DATA | AUTH;
    kinds[id::REQUEST_PROBLEM_INFORMATION as usize] = form::FLAG | CONNECT;
    kinds[id::WILL_DELAY_INTERVAL as usize] = form::U32 | P::Will as u16;
    kinds[id::REQUEST_RESPONSE_INFORMATION as usize] = form::FLAG | CONNECT;
    kinds[id::RESPONSE_INFORMATION as usize] = form::TEXT | CONNACK;
    kinds[id::SERVER_REFERENCE as usize] = form::TEXT | CONNACK | P::Disconnect as u16;
    kinds[id::REASON_STRING as usize] = form::TEXT | ANSWERS;
    kinds[id::RECEIVE_MAXIMUM as usize] = form::U16 | BOTH;
    kinds[id::TOPIC_ALIAS_MAXIMUM as usize] = form::U16 | BOTH;
    kinds[id::TOPIC_ALIAS as usize] = form::U16 | P::Publish as u16;
    kinds[id::MAXIMUM_QOS as usize] = form::FLAG | CONNACK;
    kinds[id::RETAIN_AVAILABLE as usize] = form::FLAG | CONNACK;
    kinds[id::USER_PROPERTY as usize] = form::PAIR | 0x03ff;
    kinds[id::MAXIMUM_PACKET_SIZE as usize] = form::U32 | BOTH;
    kinds[id::WILDCARD_SUBSCRIPTION_AVAILABLE as usize] = form::FLAG | CONNACK;
    kinds[id::SUBSCRIPTION_IDENTIFIER_AVAILABLE as usize] = form::FLAG | CONNACK;
    kinds[id::SHARED_SUBSCRIPTION_AVAILABLE as usize] = form::FLAG | CONNACK;
    kinds
};

/// A property by its identifier; what its form does not have is 0 or empty. For readers that look for a few of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Its identifier, see [`id`].
    pub id: u8,
    /// A number.
    pub number: u32,
    /// A text, or the key of a user property.
    pub text: &'a str,
    /// The value of a user property.
    pub value: &'a str,
    /// Binary data.
    pub data: &'a [u8],
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

    /// The next property, by its identifier.
    #[inline]
    pub fn next_raw(&mut self) -> Option<Result<Raw<'a>, WireError>> {
        if self.failed || self.reader.is_empty() {
            return None;
        }
        let item = self.step();
        self.failed = item.is_err();
        Some(item)
    }

    fn step(&mut self) -> Result<Raw<'a>, WireError> {
        let id = self.reader.u8()?;
        let kind = KINDS.get(usize::from(id)).copied().unwrap_or_default();
        if kind == 0 {
            return Err(WireError::malformed("MQTT5-2.2.2-2", "an unknown property"));
        }
        if kind & self.place as u16 == 0 {
            return Err(WireError::protocol("MQTT5-2.2.2-2", "a property that this packet may not have"));
        }
        let many = id == id::USER_PROPERTY || id == id::SUBSCRIPTION_IDENTIFIER && matches!(self.place, Place::Publish);
        let bit = 1u64 << id;
        if self.seen & bit != 0 && !many {
            return Err(WireError::protocol("MQTT5-2.2.2", "a property stands twice"));
        }
        self.seen |= bit;
        let r = &mut self.reader;
        let mut raw = Raw { id, ..Raw::default() };
        match kind & form::ALL {
            form::FLAG => raw.number = flag(r.u8()?)?,
            form::U16 => raw.number = u32::from(r.u16()?),
            form::U32 => raw.number = r.u32()?,
            form::VARINT => raw.number = r.varint()?,
            form::TEXT => raw.text = r.string()?,
            form::DATA => raw.data = r.binary()?,
            _ => {
                raw.text = r.string()?;
                raw.value = r.string()?;
            }
        }
        match id {
            id::RECEIVE_MAXIMUM | id::MAXIMUM_PACKET_SIZE | id::SUBSCRIPTION_IDENTIFIER if raw.number == 0 => {
                Err(WireError::protocol("MQTT5-2.2.2.2", "a property is 0 where it may not be"))
            }
            id::TOPIC_ALIAS if raw.number == 0 => {
                Err(WireError::new(ReasonCode::TopicAliasInvalid, "MQTT5-3.3.2-8", "topic alias 0"))
            }
            id::RESPONSE_TOPIC if !is_name(raw.text) => {
                Err(WireError::protocol("MQTT5-3.3.2-14", "a response topic is empty or holds a wildcard"))
            }
            _ => Ok(raw),
        }
    }
}

impl<'a> Raw<'a> {
    /// The property of this identifier; the walk has checked that there is one.
    fn property(&self) -> Property<'a> {
        let (number, short, flag) = (self.number, self.number as u16, self.number as u8);
        match self.id {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(flag),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryInterval(number),
            id::CONTENT_TYPE => Property::ContentType(self.text),
            id::RESPONSE_TOPIC => Property::ResponseTopic(self.text),
            id::CORRELATION_DATA => Property::CorrelationData(self.data),
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionIdentifier(number),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryInterval(number),
            id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientIdentifier(self.text),
            id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(short),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(self.text),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(self.data),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag),
            id::WILL_DELAY_INTERVAL => Property::WillDelayInterval(number),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(flag),
            id::RESPONSE_INFORMATION => Property::ResponseInformation(self.text),
            id::SERVER_REFERENCE => Property::ServerReference(self.text),
            id::REASON_STRING => Property::ReasonString(self.text),
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(short),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(short),
            id::TOPIC_ALIAS => Property::TopicAlias(short),
            id::MAXIMUM_QOS => Property::MaximumQoS(flag),
            id::RETAIN_AVAILABLE => Property::RetainAvailable(flag),
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(number),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => Property::WildcardSubscriptionAvailable(flag),
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => Property::SubscriptionIdentifierAvailable(flag),
            id::SHARED_SUBSCRIPTION_AVAILABLE => Property::SharedSubscriptionAvailable(flag),
            _ => Property::UserProperty(self.text, self.value),
        }
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Result<Spanned<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let before = self.reader.rest();
        let raw = self.next_raw()?;
        let taken = before.len() - self.reader.rest().len();
        Some(raw.map(|raw| Spanned { property: raw.property(), bytes: before.get(..taken).unwrap_or_default() }))
    }
}

fn flag(value: u8) -> Result<u32, WireError> {
    if value > 1 {
        Err(WireError::protocol("MQTT5-2.2.2.2", "a property is neither 0 nor 1"))
    } else {
        Ok(u32::from(value))
    }
}

fn is_name(topic: &str) -> bool {
    !topic.is_empty() && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#'))
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
