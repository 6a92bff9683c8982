//! A client without a will of its own: it sends what a test says, whole or not, and shows what comes, properties included.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::link::{Endpoint, Link};
pub use crate::packet::string;
use crate::packet::{self, Ack, Version, variable};

/// How long an answer may take before the test gives up on it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long one read waits.
const READ_LIMIT: Duration = Duration::from_millis(20);

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The protocol.
    pub version: Version,
    /// The client identifier.
    pub client: String,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Properties, MQTT 5 only.
    pub properties: Vec<u8>,
}

impl Connect {
    /// With a session that ends with the connection.
    pub fn clean(version: Version, client: &str) -> Self {
        Self { version, client: client.into(), clean: true, properties: Vec::new() }
    }

    /// With a session that is kept (an hour in 5.0).
    pub fn kept(version: Version, client: &str) -> Self {
        Self { clean: false, ..Self::clean(version, client) }.with(&number4(0x11, 3600))
    }

    /// With more properties; without effect in 3.1.1.
    #[must_use]
    pub fn with(mut self, properties: &[u8]) -> Self {
        self.properties.extend(properties);
        self
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut body = string("MQTT");
        body.extend([self.version as u8, u8::from(self.clean) << 1, 0, 0]);
        body.extend(properties(self.version, &self.properties));
        body.extend(string(&self.client));
        frame(0x10, &body)
    }
}

/// A property with two bytes.
pub fn number2(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property with four bytes.
pub fn number4(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A user property.
pub fn user(key: &str, value: &str) -> Vec<u8> {
    [vec![0x26], string(key), string(value)].concat()
}

/// A PUBLISH; `id` is ignored at QoS 0, `more` are properties.
pub fn publish(version: Version, qos: u8, id: u16, topic: &str, more: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(properties(version, more));
    body.extend(payload);
    frame(0x30 | (qos << 1), &body)
}

/// A SUBSCRIBE.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    subscribe_with(version, id, filters, &[])
}

/// A SUBSCRIBE with properties.
pub fn subscribe_with(version: Version, id: u16, filters: &[(&str, u8)], more: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(version, more));
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    frame(0x82, &body)
}

fn properties(version: Version, bytes: &[u8]) -> Vec<u8> {
    if version == Version::V5 { [variable(bytes.len()), bytes.to_vec()].concat() } else { Vec::new() }
}

/// A packet with its length.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    packet::frame(first, body.to_vec())
}

/// Properties that came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// By identifier; numbers are big-endian bytes.
    pub values: BTreeMap<u8, Vec<u8>>,
    /// User properties, in order.
    pub user: Vec<(String, String)>,
}

impl Properties {
    /// A number.
    pub fn number(&self, id: u8) -> Option<u64> {
        Some(self.values.get(&id)?.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    /// A string.
    pub fn text(&self, id: u8) -> Option<String> {
        Some(String::from_utf8(self.values.get(&id)?.clone()).unwrap())
    }

    /// The user property `retry-after-ms`.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.user.iter().find(|(key, _)| key == "retry-after-ms").map(|(_, value)| value.parse().unwrap())
    }

    /// Reads them from the front of `body`; the answer is also what follows.
    fn take(version: Version, body: &[u8]) -> (Self, &[u8]) {
        let mut all = Self::default();
        if version != Version::V5 || body.is_empty() {
            return (all, body);
        }
        let (used, length) = variable_of(body);
        let (mut rest, after) = body[used..].split_at(length);
        while let Some((id, value)) = rest.split_first() {
            let size = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
                0x13 | 0x21 | 0x22 | 0x23 => 2,
                0x02 | 0x11 | 0x18 | 0x27 => 4,
                0x0B => variable_of(value).0,
                0x26 => {
                    let (key, value) = text(value);
                    let (value, after) = text(value);
                    all.user.push((key, value));
                    rest = after;
                    continue;
                }
                _ => {
                    let (value, after) = text(value);
                    all.values.insert(*id, value.into_bytes());
                    rest = after;
                    continue;
                }
            };
            all.values.insert(*id, value[..size].to_vec());
            rest = &value[size..];
        }
        (all, after)
    }
}

fn text(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (String::from_utf8(bytes[2..2 + length].to_vec()).unwrap(), &bytes[2 + length..])
}

fn variable_of(bytes: &[u8]) -> (usize, usize) {
    let length = 1 + bytes.iter().take_while(|byte| **byte & 0x80 != 0).count();
    (length, bytes[..length].iter().rev().fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7F)))
}

/// A packet from the broker, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// Session present, reason code, properties.
    Connack(bool, u8, Properties),
    /// A message.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP: kind, packet identifier, reason code, properties.
    Ack(Ack, u16, u8, Properties),
    /// Packet identifier and codes.
    Suback(u16, Vec<u8>),
    /// Reason code and properties.
    Disconnect(u8, Properties),
    /// Any other, by its first byte.
    Other(u8),
    /// The connection is closed.
    Closed,
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Sent before, perhaps.
    pub dup: bool,
    /// 0 to 2.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// 0 at QoS 0.
    pub id: u16,
    /// The topic name.
    pub topic: String,
    /// Properties.
    pub properties: Properties,
    /// The application's bytes.
    pub payload: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    link: Link,
    version: Version,
    input: Vec<u8>,
}

impl Peer {
    /// Connects, TLS included, and sends nothing.
    pub fn silent(endpoint: &Endpoint, version: Version) -> io::Result<Self> {
        Ok(Self { link: endpoint.connect(READ_LIMIT)?, version, input: Vec::new() })
    }

    /// Connects and sends CONNECT; the answer is whatever comes.
    pub fn connect(endpoint: &Endpoint, connect: &Connect) -> (Self, Came) {
        let mut peer = Self::silent(endpoint, connect.version).unwrap();
        peer.send(&connect.packet());
        let came = peer.answer();
        (peer, came)
    }

    /// The same, accepted; whether there was a session.
    pub fn open(endpoint: &Endpoint, connect: &Connect) -> (Self, bool) {
        match Self::connect(endpoint, connect) {
            (peer, Came::Connack(present, 0, _)) => (peer, present),
            (_, other) => panic!("{}: instead of CONNACK with 0: {other:?}", connect.client),
        }
    }

    /// Writes; that the broker has closed the connection shows at the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.link.write_all(bytes).and_then(|()| self.link.flush());
    }

    /// The next packet; a panic when none comes.
    pub fn answer(&mut self) -> Came {
        self.within(ANSWER_LIMIT).unwrap_or_else(|| panic!("no packet came"))
    }

    /// The next packet if it comes within this time.
    pub fn within(&mut self, limit: Duration) -> Option<Came> {
        let begun = Instant::now();
        loop {
            if let Some(came) = self.take() {
                return Some(came);
            }
            let mut chunk = [0; 64 * 1024];
            match self.link.read(&mut chunk) {
                Ok(0) => return Some(Came::Closed),
                Ok(n) => self.input.extend(&chunk[..n]),
                Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return Some(Came::Closed),
            }
            if begun.elapsed() >= limit {
                return self.take();
            }
        }
    }

    fn take(&mut self) -> Option<Came> {
        if self.input.len() < 2 || self.input[1..].iter().take(4).all(|byte| byte & 0x80 != 0) {
            return None;
        }
        let (used, length) = variable_of(&self.input[1..]);
        if self.input.len() < 1 + used + length {
            return None;
        }
        let packet: Vec<u8> = self.input.drain(..1 + used + length).collect();
        Some(decode(self.version, packet[0], &packet[1 + used..]))
    }

    /// Subscribes; the codes that were granted.
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &[])
    }

    /// The same with properties.
    pub fn subscribe_with(&mut self, filters: &[(&str, u8)], more: &[u8]) -> Vec<u8> {
        self.send(&subscribe_with(self.version, 1, filters, more));
        match self.answer() {
            Came::Suback(1, codes) => codes,
            other => panic!("instead of SUBACK: {other:?}"),
        }
    }

    /// Publishes at QoS 1 and waits for the code of its PUBACK and the properties.
    pub fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) -> (u8, Properties) {
        self.send(&publish(self.version, 1, id, topic, &[], payload));
        match self.answer() {
            Came::Ack(Ack::Puback, came, code, properties) if came == id => (code, properties),
            other => panic!("instead of PUBACK {id}: {other:?}"),
        }
    }

    /// The next packet, which is a message; it is acknowledged at QoS 1.
    pub fn message(&mut self) -> Publish {
        match self.answer() {
            Came::Publish(message) => {
                if message.qos == 1 {
                    self.send(&packet::ack(Ack::Puback, message.id));
                }
                message
            }
            other => panic!("instead of a message: {other:?}"),
        }
    }

    /// All messages until none has come for `quiet`, acknowledged at QoS 1.
    pub fn drain(&mut self, quiet: Duration) -> Vec<Publish> {
        let mut all = Vec::new();
        while let Some(came) = self.within(quiet) {
            match came {
                Came::Publish(message) => {
                    if message.qos == 1 {
                        self.send(&packet::ack(Ack::Puback, message.id));
                    }
                    all.push(message);
                }
                other => panic!("among messages: {other:?}"),
            }
        }
        all
    }

    /// Says DISCONNECT and waits until the broker has closed the connection: it has left the session.
    pub fn leave(mut self) {
        self.send(&packet::DISCONNECT);
        while self.answer() != Came::Closed {}
    }
}

fn decode(version: Version, first: u8, body: &[u8]) -> Came {
    let two = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let reason = |at: usize| body.get(at).copied().unwrap_or(0);
    let properties = |at: usize| Properties::take(version, body.get(at..).unwrap_or_default()).0;
    match first >> 4 {
        2 => Came::Connack(body[0] & 1 == 1, body[1], properties(2)),
        3 => {
            let qos = (first >> 1) & 3;
            let (topic, mut rest) = text(body);
            let mut id = 0;
            if qos > 0 {
                id = u16::from_be_bytes([rest[0], rest[1]]);
                rest = &rest[2..];
            }
            let (properties, payload) = Properties::take(version, rest);
            let (dup, retain, payload) = (first & 8 != 0, first & 1 != 0, payload.to_vec());
            Came::Publish(Publish { dup, qos, retain, id, topic, properties, payload })
        }
        4 => Came::Ack(Ack::Puback, two(0), reason(2), properties(3)),
        5 => Came::Ack(Ack::Pubrec, two(0), reason(2), properties(3)),
        6 => Came::Ack(Ack::Pubrel, two(0), reason(2), properties(3)),
        7 => Came::Ack(Ack::Pubcomp, two(0), reason(2), properties(3)),
        9 => Came::Suback(two(0), Properties::take(version, &body[2..]).1.to_vec()),
        14 => Came::Disconnect(reason(0), properties(1)),
        _ => Came::Other(first),
    }
}
