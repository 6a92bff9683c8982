//! The properties of MQTT 5.

use super::{binary, number, string, variable, variable_integer};

/// One property; its name is the standard's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the standard's table 2-4 says what each is")]
pub enum Property {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthMethod(String),
    AuthData(Vec<u8>),
    RequestProblemInformation(u8),
    WillDelay(u32),
    RequestResponseInformation(u8),
    ResponseInformation(String),
    ServerReference(String),
    ReasonString(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(u8),
    User(String, String),
    MaximumPacketSize(u32),
    WildcardAvailable(u8),
    SubscriptionIdAvailable(u8),
    SharedAvailable(u8),
}

impl Property {
    /// A user property.
    pub fn user(name: &str, value: &str) -> Self {
        Self::User(name.to_owned(), value.to_owned())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.identifier());
        match self {
            Self::PayloadFormat(n)
            | Self::RequestProblemInformation(n)
            | Self::RequestResponseInformation(n)
            | Self::MaximumQos(n)
            | Self::RetainAvailable(n)
            | Self::WildcardAvailable(n)
            | Self::SubscriptionIdAvailable(n)
            | Self::SharedAvailable(n) => out.push(*n),
            Self::ServerKeepAlive(n) | Self::ReceiveMaximum(n) | Self::TopicAliasMaximum(n) | Self::TopicAlias(n) => {
                out.extend(n.to_be_bytes());
            }
            Self::MessageExpiry(n) | Self::SessionExpiry(n) | Self::WillDelay(n) | Self::MaximumPacketSize(n) => {
                out.extend(n.to_be_bytes());
            }
            Self::SubscriptionId(n) => out.extend(variable(*n as usize)),
            Self::CorrelationData(bytes) | Self::AuthData(bytes) => out.extend(binary(bytes)),
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientId(text)
            | Self::AuthMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => out.extend(string(text)),
            Self::User(name, value) => out.extend([string(name), string(value)].concat()),
        }
    }

    fn identifier(&self) -> u8 {
        match self {
            Self::PayloadFormat(_) => 0x01,
            Self::MessageExpiry(_) => 0x02,
            Self::ContentType(_) => 0x03,
            Self::ResponseTopic(_) => 0x08,
            Self::CorrelationData(_) => 0x09,
            Self::SubscriptionId(_) => 0x0B,
            Self::SessionExpiry(_) => 0x11,
            Self::AssignedClientId(_) => 0x12,
            Self::ServerKeepAlive(_) => 0x13,
            Self::AuthMethod(_) => 0x15,
            Self::AuthData(_) => 0x16,
            Self::RequestProblemInformation(_) => 0x17,
            Self::WillDelay(_) => 0x18,
            Self::RequestResponseInformation(_) => 0x19,
            Self::ResponseInformation(_) => 0x1A,
            Self::ServerReference(_) => 0x1C,
            Self::ReasonString(_) => 0x1F,
            Self::ReceiveMaximum(_) => 0x21,
            Self::TopicAliasMaximum(_) => 0x22,
            Self::TopicAlias(_) => 0x23,
            Self::MaximumQos(_) => 0x24,
            Self::RetainAvailable(_) => 0x25,
            Self::User(..) => 0x26,
            Self::MaximumPacketSize(_) => 0x27,
            Self::WildcardAvailable(_) => 0x28,
            Self::SubscriptionIdAvailable(_) => 0x29,
            Self::SharedAvailable(_) => 0x2A,
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let identifier = byte(bytes)?;
        Some(match identifier {
            0x01 => Self::PayloadFormat(byte(bytes)?),
            0x02 => Self::MessageExpiry(four(bytes)?),
            0x03 => Self::ContentType(text(bytes)?),
            0x08 => Self::ResponseTopic(text(bytes)?),
            0x09 => Self::CorrelationData(data(bytes)?),
            0x0B => {
                let (used, value) = variable_integer(bytes)?;
                *bytes = &bytes[used..];
                Self::SubscriptionId(value as u32)
            }
            0x11 => Self::SessionExpiry(four(bytes)?),
            0x12 => Self::AssignedClientId(text(bytes)?),
            0x13 => Self::ServerKeepAlive(two(bytes)?),
            0x15 => Self::AuthMethod(text(bytes)?),
            0x16 => Self::AuthData(data(bytes)?),
            0x17 => Self::RequestProblemInformation(byte(bytes)?),
            0x18 => Self::WillDelay(four(bytes)?),
            0x19 => Self::RequestResponseInformation(byte(bytes)?),
            0x1A => Self::ResponseInformation(text(bytes)?),
            0x1C => Self::ServerReference(text(bytes)?),
            0x1F => Self::ReasonString(text(bytes)?),
            0x21 => Self::ReceiveMaximum(two(bytes)?),
            0x22 => Self::TopicAliasMaximum(two(bytes)?),
            0x23 => Self::TopicAlias(two(bytes)?),
            0x24 => Self::MaximumQos(byte(bytes)?),
            0x25 => Self::RetainAvailable(byte(bytes)?),
            0x26 => Self::User(text(bytes)?, text(bytes)?),
            0x27 => Self::MaximumPacketSize(four(bytes)?),
            0x28 => Self::WildcardAvailable(byte(bytes)?),
            0x29 => Self::SubscriptionIdAvailable(byte(bytes)?),
            0x2A => Self::SharedAvailable(byte(bytes)?),
            _ => return None,
        })
    }
}

/// Properties as a packet carries them: the length, then each.
pub fn write(properties: &[Property]) -> Vec<u8> {
    let mut body = Vec::new();
    for property in properties {
        property.write(&mut body);
    }
    [variable(body.len()), body].concat()
}

/// Reads properties from the front of `body`; also what follows them.
pub(super) fn read(body: &[u8]) -> Option<(Vec<Property>, &[u8])> {
    let (used, length) = variable_integer(body)?;
    let mut inside = body.get(used..used + length)?;
    let mut properties = Vec::new();
    while !inside.is_empty() {
        properties.push(Property::read(&mut inside)?);
    }
    Some((properties, &body[used + length..]))
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn two(bytes: &mut &[u8]) -> Option<u16> {
    let value = number(bytes)?;
    *bytes = &bytes[2..];
    Some(value)
}

fn four(bytes: &mut &[u8]) -> Option<u32> {
    Some((u32::from(two(bytes)?) << 16) | u32::from(two(bytes)?))
}

fn data(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(two(bytes)?);
    let value = bytes.get(..length)?.to_vec();
    *bytes = &bytes[length..];
    Some(value)
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(data(bytes)?).ok()
}
