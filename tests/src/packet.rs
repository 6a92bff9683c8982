//! The packets that the tests' own client needs, written apart from the broker's codec so that a mistake there shows.

pub mod build;
pub mod property;

use std::io;

use build::{Connect, Publish, Subscribe};
use property::Property;

/// The protocol's version, as CONNECT carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.
    V31 = 3,
    /// 3.1.1.
    V4 = 4,
    /// 5.0.
    V5 = 5,
}

/// The four packets that acknowledge, by the high nibble of their first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// QoS 1.
    Puback = 4,
    /// QoS 2, first.
    Pubrec = 5,
    /// QoS 2, second.
    Pubrel = 6,
    /// QoS 2, third.
    Pubcomp = 7,
}

impl Ack {
    /// The first byte of the packet.
    pub fn first_byte(self) -> u8 {
        ((self as u8) << 4) | if self == Self::Pubrel { 2 } else { 0 }
    }
}

/// What a broker sends. Properties are those of 5.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Session present, and the reason code.
    Connack(bool, u8, Vec<Property>),
    /// A message.
    Publish(Message),
    /// An acknowledgement: kind, packet identifier, reason code.
    Ack(Ack, u16, u8, Vec<Property>),
    /// Packet identifier and a code for each filter.
    Suback(u16, Vec<u8>, Vec<Property>),
    /// Packet identifier and, in 5.0, a code for each filter.
    Unsuback(u16, Vec<u8>, Vec<Property>),
    /// The answer to a ping.
    Pingresp,
    /// The broker ends the connection, with a reason code.
    Disconnect(u8, Vec<Property>),
    /// A step of authentication.
    Auth(u8, Vec<Property>),
    /// Any other, by its first byte.
    Other(u8),
}

/// A PUBLISH of the broker's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Sent before, perhaps.
    pub dup: bool,
    /// 0 to 2.
    pub qos: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// The packet identifier, 0 at QoS 0.
    pub id: u16,
    /// The topic name.
    pub topic: String,
    /// In the order in which they came.
    pub properties: Vec<Property>,
    /// The application's bytes.
    pub payload: Vec<u8>,
}

/// A CONNECT for a session that outlives its connection (an hour in 5.0), without keep alive.
pub fn connect(version: Version, client: &str) -> Vec<u8> {
    let connect = Connect::new(version, client).resume();
    let connect = if version == Version::V5 { connect.with(Property::SessionExpiry(3600)) } else { connect };
    connect.packet()
}

/// A SUBSCRIBE to one filter.
pub fn subscribe(version: Version, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    Subscribe::new(version, id).filter(filter, qos).packet()
}

/// A PUBLISH; `id` is ignored at QoS 0.
pub fn publish(version: Version, dup: bool, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let publish = Publish::new(version, topic, payload).qos(qos, id);
    if dup { publish.dup().packet() } else { publish.packet() }
}

/// An acknowledgement with success in it.
pub fn ack(kind: Ack, id: u16) -> Vec<u8> {
    frame(kind.first_byte(), id.to_be_bytes().to_vec())
}

/// A PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0];

/// A DISCONNECT that is well meant.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// How long the first packet of `buffer` is, once its head is there.
pub fn length(buffer: &[u8]) -> io::Result<Option<usize>> {
    Ok(remaining_length(buffer)?.map(|(header, length)| header + length))
}

/// Takes the first whole packet from the front of `buffer`, if there is one.
pub fn take(version: Version, buffer: &mut Vec<u8>) -> io::Result<Option<Packet>> {
    let Some(bytes) = take_bytes(buffer)? else { return Ok(None) };
    let nonsense = || io::Error::other(format!("a packet that makes no sense: {bytes:02x?}"));
    parse(version, &bytes).map(Some).ok_or_else(nonsense)
}

/// The same, as it came.
pub fn take_bytes(buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some((header, length)) = remaining_length(buffer)? else { return Ok(None) };
    if buffer.len() < header + length {
        return Ok(None);
    }
    Ok(Some(buffer.drain(..header + length).collect()))
}

/// What a whole packet says, or none if it makes no sense.
pub fn parse(version: Version, bytes: &[u8]) -> Option<Packet> {
    let (header, _) = remaining_length(bytes).ok()??;
    let (first, body) = (*bytes.first()?, bytes.get(header..)?);
    Some(match first >> 4 {
        // The other bits are reserved.
        2 if *body.first()? <= 1 => {
            Packet::Connack(body[0] == 1, *body.get(1)?, properties(version, body.get(2..)?)?.0)
        }
        2 => return None,
        3 => Packet::Publish(parse_publish(version, first, body)?),
        4 => parse_ack(Ack::Puback, body)?,
        5 => parse_ack(Ack::Pubrec, body)?,
        6 => parse_ack(Ack::Pubrel, body)?,
        7 => parse_ack(Ack::Pubcomp, body)?,
        9 | 11 => {
            let (properties, codes) = properties(version, body.get(2..)?)?;
            let kind = if first >> 4 == 9 { Packet::Suback } else { Packet::Unsuback };
            kind(number(body)?, codes.to_vec(), properties)
        }
        13 => Packet::Pingresp,
        14 => Packet::Disconnect(body.first().copied().unwrap_or(0), optional_properties(body, 1)?),
        15 => Packet::Auth(body.first().copied().unwrap_or(0), optional_properties(body, 1)?),
        _ => Packet::Other(first),
    })
}

fn parse_ack(kind: Ack, body: &[u8]) -> Option<Packet> {
    let reason = body.get(2).copied().unwrap_or(0);
    Some(Packet::Ack(kind, number(body)?, reason, optional_properties(body, 3)?))
}

/// Properties that a short packet leaves out with their length.
fn optional_properties(body: &[u8], at: usize) -> Option<Vec<Property>> {
    match body.get(at..) {
        None | Some([]) => Some(Vec::new()),
        Some(rest) => property::read(rest).filter(|(_, rest)| rest.is_empty()).map(|(properties, _)| properties),
    }
}

fn parse_publish(version: Version, first: u8, body: &[u8]) -> Option<Message> {
    let qos = (first >> 1) & 3;
    let length = usize::from(number(body)?);
    let topic = String::from_utf8(body.get(2..2 + length)?.to_vec()).ok()?;
    let mut rest = body.get(2 + length..)?;
    let mut id = 0;
    if qos > 0 {
        id = number(rest)?;
        rest = &rest[2..];
    }
    let (properties, payload) = properties(version, rest)?;
    let (dup, retain, payload) = (first & 8 != 0, first & 1 != 0, payload.to_vec());
    Some(Message { dup, qos, retain, id, topic, properties, payload })
}

fn number(body: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*body.first()?, *body.get(1)?]))
}

fn properties(version: Version, body: &[u8]) -> Option<(Vec<Property>, &[u8])> {
    if version == Version::V5 { property::read(body) } else { Some((Vec::new(), body)) }
}

/// A string with its length before it.
pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// Binary data with its length before it.
pub fn binary(data: &[u8]) -> Vec<u8> {
    let mut bytes = (data.len() as u16).to_be_bytes().to_vec();
    bytes.extend(data);
    bytes
}

/// A whole packet of this first byte and body.
pub fn frame(first: u8, body: Vec<u8>) -> Vec<u8> {
    [vec![first], variable(body.len()), body].concat()
}

/// A variable byte integer.
pub(crate) fn variable(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = if value > 127 { 0x80 } else { 0 };
        bytes.push((value & 127) as u8 | more);
        value >>= 7;
        if more == 0 {
            return bytes;
        }
    }
}

fn remaining_length(buffer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    if buffer.len() < 2 {
        return Ok(None);
    }
    match variable_integer(&buffer[1..]) {
        Some((used, length)) => Ok(Some((1 + used, length))),
        None if buffer.len() > 4 => Err(io::Error::other("a length of more than four bytes")),
        None => Ok(None),
    }
}

fn variable_integer(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 127) << (7 * n);
        if byte & 128 == 0 {
            return Some((n + 1, value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_comes_back_as_it_went() {
        for version in [Version::V4, Version::V5] {
            let mut bytes = publish(version, true, 2, 513, "a/b", &[7; 300]);
            bytes.push(0xD0);
            let (topic, payload) = ("a/b".to_owned(), vec![7; 300]);
            let whole = Message { dup: true, qos: 2, id: 513, topic, payload, ..Message::default() };
            assert_eq!(take(version, &mut bytes).unwrap(), Some(Packet::Publish(whole)));
            assert_eq!(take(version, &mut bytes).unwrap(), None, "half a packet is not a packet");
        }
    }
}
