//! The other end: what a client sends, read without the code under test, and what a server sends, byte by byte.

use forebay_wire::types::{QoS, Version};

/// A packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Connect {
        clean: bool,
        keep_alive: u16,
        client_id: String,
        properties: Vec<u8>,
    },
    Publish {
        topic: String,
        payload: String,
        qos: u8,
        dup: bool,
        retain: bool,
        id: u16,
        properties: Vec<u8>,
    },
    /// First byte, packet identifier, reason code.
    Ack(u8, u16, u8),
    Subscribe {
        id: u16,
        filters: Vec<(String, u8)>,
        properties: Vec<u8>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect(Vec<u8>),
    /// Reason code, properties.
    Auth(u8, Vec<u8>),
}

pub(super) const PUBACK: u8 = 0x40;
pub(super) const PUBREC: u8 = 0x50;
pub(super) const PUBREL: u8 = 0x62;
pub(super) const PUBCOMP: u8 = 0x70;

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        let bytes = self.take(2);
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.u8();
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn text(&mut self) -> String {
        let len = self.u16();
        String::from_utf8(self.take(len.into()).to_vec()).unwrap()
    }

    fn properties(&mut self, version: Version) -> Vec<u8> {
        if !version.is_v5() {
            return Vec::new();
        }
        let len = self.varint();
        self.take(len).to_vec()
    }
}

/// Takes what a client sent apart; incomplete packets are none.
pub(super) fn packets(version: Version, bytes: &[u8]) -> Vec<Packet> {
    let mut cursor = Cursor(bytes);
    let mut found = Vec::new();
    while !cursor.0.is_empty() {
        let first = cursor.u8();
        let len = cursor.varint();
        found.push(packet(version, first, cursor.take(len)));
    }
    found
}

fn packet(version: Version, first: u8, body: &[u8]) -> Packet {
    let mut c = Cursor(body);
    let packet = match first {
        0x10 => {
            assert_eq!((c.text().as_str(), c.u8()), ("MQTT", version.level()));
            let (flags, keep_alive, properties) = (c.u8(), c.u16(), c.properties(version));
            let client_id = c.text();
            c.0 = &[];
            Packet::Connect { clean: flags & 2 != 0, keep_alive, client_id, properties }
        }
        0x30..=0x3f => {
            let qos = first >> 1 & 3;
            let topic = c.text();
            let id = if qos > 0 { c.u16() } else { 0 };
            assert!(qos == 0 || id > 0);
            let properties = c.properties(version);
            let payload = String::from_utf8(std::mem::take(&mut c.0).to_vec()).unwrap();
            Packet::Publish { topic, payload, qos, dup: first & 8 != 0, retain: first & 1 != 0, id, properties }
        }
        PUBACK | PUBREC | PUBREL | PUBCOMP => {
            let id = c.u16();
            let reason = if c.0.is_empty() { 0 } else { c.u8() };
            Packet::Ack(first, id, reason)
        }
        0x82 => {
            let (id, properties) = (c.u16(), c.properties(version));
            let mut filters = Vec::new();
            while !c.0.is_empty() {
                filters.push((c.text(), c.u8()));
            }
            Packet::Subscribe { id, filters, properties }
        }
        0xa2 => {
            let id = c.u16();
            c.properties(version);
            let mut filters = Vec::new();
            while !c.0.is_empty() {
                filters.push(c.text());
            }
            Packet::Unsubscribe { id, filters }
        }
        0xc0 => Packet::Ping,
        0xe0 => Packet::Disconnect(std::mem::take(&mut c.0).to_vec()),
        0xf0 => {
            let reason = c.u8();
            Packet::Auth(reason, c.properties(version))
        }
        other => panic!("no client sends {other:#x}"),
    };
    assert!(c.0.is_empty(), "bytes are left after {packet:?}");
    packet
}

/// A packet of a server: fixed header and body.
pub(super) fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let (len, len_len) = forebay_wire::varint::encode(body.len() as u32);
    bytes.extend_from_slice(&len[..len_len]);
    bytes.extend_from_slice(body);
    bytes
}

fn with_properties(version: Version, body: &mut Vec<u8>, properties: &[u8]) {
    if version.is_v5() {
        let (len, len_len) = forebay_wire::varint::encode(properties.len() as u32);
        body.extend_from_slice(&len[..len_len]);
        body.extend_from_slice(properties);
    }
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A user property.
pub(super) fn user(name: &str, value: &str) -> Vec<u8> {
    [vec![0x26], text(name), text(value)].concat()
}

pub(super) fn connack(version: Version, session_present: bool, code: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![session_present.into(), code];
    with_properties(version, &mut body, properties);
    framed(0x20, &body)
}

/// PUBLISH of a server; `id` is for QoS 1 and 2.
pub(super) fn publish(version: Version, topic: &str, payload: &str, qos: QoS, id: u16, dup: bool) -> Vec<u8> {
    publish_with(version, topic, payload, qos, id, dup, &[])
}

pub(super) fn publish_with(
    version: Version,
    topic: &str,
    payload: &str,
    qos: QoS,
    id: u16,
    dup: bool,
    properties: &[u8],
) -> Vec<u8> {
    let mut body = text(topic);
    if qos != QoS::AtMostOnce {
        body.extend_from_slice(&id.to_be_bytes());
    }
    with_properties(version, &mut body, properties);
    body.extend_from_slice(payload.as_bytes());
    framed(0x30 | (qos as u8) << 1 | u8::from(dup) << 3, &body)
}

pub(super) fn ack(first: u8, id: u16) -> Vec<u8> {
    framed(first, &id.to_be_bytes())
}

/// An ack with a reason code and properties, MQTT 5.
pub(super) fn ack_with(first: u8, id: u16, reason: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(reason);
    with_properties(Version::V5, &mut body, properties);
    framed(first, &body)
}

pub(super) fn suback(version: Version, id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    with_properties(version, &mut body, &[]);
    body.extend_from_slice(codes);
    framed(0x90, &body)
}

pub(super) fn unsuback(version: Version, id: u16) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    with_properties(version, &mut body, &[]);
    if version.is_v5() {
        body.push(0);
    }
    framed(0xb0, &body)
}

/// DISCONNECT or AUTH with a reason code and properties, MQTT 5.
pub(super) fn with_reason(first: u8, reason: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![reason];
    with_properties(Version::V5, &mut body, properties);
    framed(first, &body)
}

/// What of the packets are PUBLISHes: payload, packet identifier, DUP.
pub(super) fn publishes(packets: &[Packet]) -> Vec<(String, u16, bool)> {
    let publish = |packet: &Packet| match packet {
        Packet::Publish { payload, id, dup, .. } => Some((payload.clone(), *id, *dup)),
        _ => None,
    };
    packets.iter().filter_map(publish).collect()
}
