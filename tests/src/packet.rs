//! The packets that the tests' own client needs, written apart from the broker's codec so that a mistake there shows.

use std::io;

/// The protocol's version, as CONNECT carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
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

/// What a broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Session present, and the reason code.
    Connack(bool, u8),
    /// A message; the packet identifier is 0 at QoS 0.
    Publish {
        /// Sent before, perhaps.
        dup: bool,
        /// 0 to 2.
        qos: u8,
        /// The packet identifier.
        id: u16,
        /// The topic name.
        topic: String,
        /// The application's bytes.
        payload: Vec<u8>,
    },
    /// An acknowledgement: kind, packet identifier, reason code.
    Ack(Ack, u16, u8),
    /// Packet identifier and a code for each filter.
    Suback(u16, Vec<u8>),
    /// The answer to a ping.
    Pingresp,
    /// The broker ends the connection, with a reason code.
    Disconnect(u8),
    /// Any other, by its first byte.
    Other(u8),
}

/// A CONNECT for a session that outlives its connection (an hour in 5.0), without keep alive.
pub fn connect(version: Version, client: &str) -> Vec<u8> {
    let mut body = string("MQTT");
    let clean = 0;
    body.extend([version as u8, clean, 0, 0]);
    if version == Version::V5 {
        body.extend([5, 0x11]);
        body.extend(3600u32.to_be_bytes());
    }
    body.extend(string(client));
    frame(0x10, body)
}

/// A SUBSCRIBE to one filter.
pub fn subscribe(version: Version, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(no_properties(version));
    body.extend(string(filter));
    body.push(qos);
    frame(0x82, body)
}

/// A PUBLISH; `id` is ignored at QoS 0.
pub fn publish(version: Version, dup: bool, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(no_properties(version));
    body.extend(payload);
    frame(0x30 | (u8::from(dup) << 3) | (qos << 1), body)
}

/// An acknowledgement with success in it.
pub fn ack(kind: Ack, id: u16) -> Vec<u8> {
    let flags = if kind == Ack::Pubrel { 2 } else { 0 };
    frame(((kind as u8) << 4) | flags, id.to_be_bytes().to_vec())
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
    let Some((header, length)) = remaining_length(buffer)? else { return Ok(None) };
    if buffer.len() < header + length {
        return Ok(None);
    }
    let first = buffer[0];
    let packet = decode(version, first, &buffer[header..header + length]);
    buffer.drain(..header + length);
    packet.map(Some).ok_or_else(|| io::Error::other(format!("a packet that makes no sense, first byte {first:#x}")))
}

fn decode(version: Version, first: u8, body: &[u8]) -> Option<Packet> {
    Some(match first >> 4 {
        2 => Packet::Connack(*body.first()? & 1 == 1, *body.get(1)?),
        3 => return decode_publish(version, first, body),
        4 => decode_ack(Ack::Puback, body)?,
        5 => decode_ack(Ack::Pubrec, body)?,
        6 => decode_ack(Ack::Pubrel, body)?,
        7 => decode_ack(Ack::Pubcomp, body)?,
        9 => Packet::Suback(number(body)?, skip_properties(version, body.get(2..)?)?.to_vec()),
        13 => Packet::Pingresp,
        14 => Packet::Disconnect(body.first().copied().unwrap_or(0)),
        _ => Packet::Other(first),
    })
}

fn decode_ack(kind: Ack, body: &[u8]) -> Option<Packet> {
    Some(Packet::Ack(kind, number(body)?, body.get(2).copied().unwrap_or(0)))
}

fn decode_publish(version: Version, first: u8, body: &[u8]) -> Option<Packet> {
    let qos = (first >> 1) & 3;
    let length = usize::from(number(body)?);
    let topic = String::from_utf8(body.get(2..2 + length)?.to_vec()).ok()?;
    let mut rest = body.get(2 + length..)?;
    let mut id = 0;
    if qos > 0 {
        id = number(rest)?;
        rest = &rest[2..];
    }
    let payload = skip_properties(version, rest)?.to_vec();
    Some(Packet::Publish { dup: first & 8 != 0, qos, id, topic, payload })
}

fn number(body: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*body.first()?, *body.get(1)?]))
}

fn skip_properties(version: Version, body: &[u8]) -> Option<&[u8]> {
    if version == Version::V4 {
        return Some(body);
    }
    let (used, length) = variable_integer(body)?;
    body.get(used + length..)
}

fn no_properties(version: Version) -> &'static [u8] {
    if version == Version::V5 { &[0] } else { &[] }
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn frame(first: u8, body: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        frame.push((length & 127) as u8 | more);
        length >>= 7;
        if more == 0 {
            break;
        }
    }
    frame.extend(body);
    frame
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
            let whole = Packet::Publish { dup: true, qos: 2, id: 513, topic: "a/b".into(), payload: vec![7; 300] };
            assert_eq!(take(version, &mut bytes).unwrap(), Some(whole));
            assert_eq!(take(version, &mut bytes).unwrap(), None, "half a packet is not a packet");
        }
    }
}
