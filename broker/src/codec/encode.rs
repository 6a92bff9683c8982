//! Packets that the broker sends, appended to a buffer. By hand: PUBLISH and the acks because they are hot, CONNACK,
//! SUBACK, DISCONNECT and AUTH because mqttbytes' enums lack reason codes that are sent here (0x97 in SUBACK, 0x8E with a
//! reason string, authentication data in CONNACK), and a packet that is written in two ways is written wrong in one.

use forebay_wire::property::id;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};
use forebay_wire::varint;

use super::AckKind;
use crate::properties::put_user;

/// The user property that tells a client how long to wait.
pub const RETRY_AFTER_MS: &str = "retry-after-ms";

#[inline]
fn put_varint(out: &mut Vec<u8>, value: usize) {
    let (bytes, len) = varint::encode(u32::try_from(value).unwrap_or(varint::MAX));
    out.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

#[inline]
fn varint_len(value: usize) -> usize {
    varint::size(u32::try_from(value).unwrap_or(varint::MAX))
}

/// A string or binary data. What is longer than 65,535 bytes cannot come from the wire; it is cut.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(len)).unwrap_or_default());
}

fn put_str(out: &mut Vec<u8>, property: u8, text: &str) {
    out.push(property);
    put_bytes(out, text.as_bytes());
}

fn put_u16(out: &mut Vec<u8>, property: u8, value: u16) {
    out.push(property);
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u32(out: &mut Vec<u8>, property: u8, value: u32) {
    out.push(property);
    out.extend_from_slice(&value.to_be_bytes());
}

/// PUBLISH. An empty topic goes with an alias that stands for it.
#[allow(clippy::too_many_arguments, reason = "the fields of the packet")]
#[inline]
pub fn publish(
    out: &mut Vec<u8>,
    version: Version,
    dup: bool,
    qos: u8,
    retain: bool,
    topic: &[u8],
    packet_id: Option<PacketId>,
    alias: Option<u16>,
    subscription_ids: &[u32],
    expiry_s: Option<u32>,
    forwarded: &[u8],
    payload: &[u8],
) {
    let len = payload.len();
    publish_head(out, version, dup, qos, retain, topic, packet_id, alias, subscription_ids, expiry_s, forwarded, len);
    out.extend_from_slice(payload);
}

/// PUBLISH without its payload, which the caller sends next.
#[allow(clippy::too_many_arguments, reason = "the fields of the packet")]
#[inline]
pub fn publish_head(
    out: &mut Vec<u8>,
    version: Version,
    dup: bool,
    qos: u8,
    retain: bool,
    topic: &[u8],
    packet_id: Option<PacketId>,
    alias: Option<u16>,
    subscription_ids: &[u32],
    expiry_s: Option<u32>,
    forwarded: &[u8],
    payload_len: usize,
) {
    let mut remaining = 2 + topic.len() + 2 * usize::from(packet_id.is_some()) + payload_len;
    let mut properties = 0;
    if version.is_v5() {
        properties = forwarded.len() + 3 * usize::from(alias.is_some()) + 5 * usize::from(expiry_s.is_some());
        properties += subscription_ids.iter().map(|id| 1 + varint::size(*id)).sum::<usize>();
        remaining += varint_len(properties) + properties;
    }
    // The head alone where the payload is not put behind it.
    out.reserve(5 + remaining - payload_len);
    out.push(0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain));
    put_varint(out, remaining);
    put_bytes(out, topic);
    if let Some(packet_id) = packet_id {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
    }
    if version.is_v5() {
        put_varint(out, properties);
        if let Some(alias) = alias {
            put_u16(out, id::TOPIC_ALIAS, alias);
        }
        if let Some(expiry_s) = expiry_s {
            put_u32(out, id::MESSAGE_EXPIRY_INTERVAL, expiry_s);
        }
        for subscription_id in subscription_ids {
            out.push(id::SUBSCRIPTION_IDENTIFIER);
            put_varint(out, *subscription_id as usize);
        }
        out.extend_from_slice(forwarded);
    }
}

#[inline]
const fn ack_first_byte(kind: AckKind) -> u8 {
    match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    }
}

/// An ack without properties. MQTT 3.1.1 has no reason codes.
#[inline]
pub fn ack(out: &mut Vec<u8>, version: Version, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
    let [high, low] = packet_id.get().to_be_bytes();
    if version.is_v5() && reason != ReasonCode::Success {
        out.extend_from_slice(&[ack_first_byte(kind), 3, high, low, reason as u8]);
    } else {
        out.extend_from_slice(&[ack_first_byte(kind), 2, high, low]);
    }
}

/// What an ack says beside its reason code, in a user property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckNote {
    /// With 0x97: milliseconds after which the client should try again.
    RetryAfterMs(u32),
    /// The message had come before, from the same origin.
    Duplicate,
}

/// The user property of [`AckNote::Duplicate`].
const DUPLICATE: &str = "duplicate";

/// An ack with a note, if the client wants to be told and the packet is not too large for it
/// [MQTT5-3.1.2-29], [MQTT5-3.4.2-3], [MQTT5-3.5.2-3].
#[allow(clippy::too_many_arguments, reason = "the fields of the packet")]
pub fn ack_with_note(
    out: &mut Vec<u8>,
    version: Version,
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
    note: Option<AckNote>,
    problem_information: bool,
    maximum_packet_size: u32,
) {
    let start = out.len();
    let Some(note) = note.filter(|_| version.is_v5() && problem_information) else {
        return ack(out, version, kind, packet_id, reason);
    };
    let mut properties = Vec::with_capacity(32);
    match note {
        AckNote::RetryAfterMs(ms) => put_user(&mut properties, RETRY_AFTER_MS, &ms.to_string()),
        AckNote::Duplicate => put_user(&mut properties, DUPLICATE, "true"),
    }
    let mut body = Vec::with_capacity(40);
    body.extend_from_slice(&packet_id.get().to_be_bytes());
    body.push(reason as u8);
    section(&mut body, &properties);
    packet(out, ack_first_byte(kind), &body);
    if out.len() - start > maximum_packet_size as usize {
        out.truncate(start);
        ack(out, version, kind, packet_id, reason);
    }
}

/// PUBREL.
#[inline]
pub fn pubrel(out: &mut Vec<u8>, version: Version, packet_id: PacketId, reason: ReasonCode) {
    ack(out, version, AckKind::Pubrel, packet_id, reason);
}

/// PINGRESP.
#[inline]
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

fn packet(out: &mut Vec<u8>, first_byte: u8, body: &[u8]) {
    out.reserve(5 + body.len());
    out.push(first_byte);
    put_varint(out, body.len());
    out.extend_from_slice(body);
}

fn section(out: &mut Vec<u8>, properties: &[u8]) {
    put_varint(out, properties.len());
    out.extend_from_slice(properties);
}

/// What CONNACK may say in MQTT 5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnackProperties {
    /// Session Expiry Interval in seconds, when it is not what the client asked for.
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size.
    pub maximum_packet_size: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<String>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<String>,
    /// The client should try again after so many milliseconds.
    pub retry_after_ms: Option<u32>,
    /// Server Keep Alive in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Server Reference.
    pub server_reference: Option<String>,
    /// Authentication Method.
    pub auth_method: Option<String>,
    /// Authentication Data.
    pub auth_data: Option<Vec<u8>>,
}

impl ConnackProperties {
    fn encode(&self, optional: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        let o = &mut out;
        self.session_expiry_s.inspect(|v| put_u32(o, id::SESSION_EXPIRY_INTERVAL, *v));
        self.receive_maximum.inspect(|v| put_u16(o, id::RECEIVE_MAXIMUM, *v));
        self.maximum_packet_size.inspect(|v| put_u32(o, id::MAXIMUM_PACKET_SIZE, *v));
        self.assigned_client_id.as_ref().inspect(|v| put_str(o, id::ASSIGNED_CLIENT_IDENTIFIER, v));
        self.topic_alias_maximum.inspect(|v| put_u16(o, id::TOPIC_ALIAS_MAXIMUM, *v));
        self.server_keep_alive_s.inspect(|v| put_u16(o, id::SERVER_KEEP_ALIVE, *v));
        self.server_reference.as_ref().inspect(|v| put_str(o, id::SERVER_REFERENCE, v));
        self.auth_method.as_ref().inspect(|v| put_str(o, id::AUTHENTICATION_METHOD, v));
        if let Some(data) = &self.auth_data {
            o.push(id::AUTHENTICATION_DATA);
            put_bytes(o, data);
        }
        if optional {
            self.reason_string.as_ref().inspect(|v| put_str(o, id::REASON_STRING, v));
            self.retry_after_ms.inspect(|v| put_user(o, RETRY_AFTER_MS, &v.to_string()));
        }
        out
    }
}

/// CONNACK. Reason string and user properties are left out where they would exceed the client's maximum packet size
/// [MQTT5-3.2.2-19], [MQTT5-3.2.2-20].
pub fn connack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    reason: ReasonCode,
    properties: &ConnackProperties,
    maximum_packet_size: u32,
) {
    let present = u8::from(session_present && reason == ReasonCode::Success);
    if !version.is_v5() {
        // MQTT 3.1 has no Session Present: the byte is reserved.
        let present = if version == Version::V31 { 0 } else { present };
        return out.extend_from_slice(&[0x20, 2, present, reason.connect_return_code()]);
    }
    let mut body = vec![present, reason as u8];
    section(&mut body, &properties.encode(true));
    if body.len() + 5 > maximum_packet_size as usize {
        body.truncate(2);
        section(&mut body, &properties.encode(false));
    }
    packet(out, 0x20, &body);
}

/// SUBACK: a code for each filter, in order. MQTT 3.1.1 knows 0x80 alone for a refusal.
pub fn suback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[ReasonCode]) {
    let mut body = packet_id.get().to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    body.extend(codes.iter().map(|code| if version.is_v5() || code.is_success() { *code as u8 } else { 0x80 }));
    packet(out, 0x90, &body);
}

/// UNSUBACK; codes in MQTT 5 only.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[ReasonCode]) {
    let mut body = packet_id.get().to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
        body.extend(codes.iter().map(|code| *code as u8));
    }
    packet(out, 0xb0, &body);
}

/// What DISCONNECT may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Reason String.
    pub reason_string: Option<String>,
    /// Server Reference.
    pub server_reference: Option<String>,
    /// The client should try again after so many milliseconds.
    pub retry_after_ms: Option<u32>,
}

/// DISCONNECT, MQTT 5 only. What is optional is left out where it would exceed the client's maximum packet size
/// [MQTT5-3.14.2-3], [MQTT5-3.14.2-4].
pub fn disconnect(out: &mut Vec<u8>, reason: ReasonCode, properties: &DisconnectProperties, maximum_packet_size: u32) {
    let mut section_bytes = Vec::new();
    properties.server_reference.as_ref().inspect(|v| put_str(&mut section_bytes, id::SERVER_REFERENCE, v));
    let required = section_bytes.len();
    properties.reason_string.as_ref().inspect(|v| put_str(&mut section_bytes, id::REASON_STRING, v));
    properties.retry_after_ms.inspect(|v| put_user(&mut section_bytes, RETRY_AFTER_MS, &v.to_string()));
    if section_bytes.len() + 10 > maximum_packet_size as usize {
        section_bytes.truncate(required);
    }
    let mut body = vec![reason as u8];
    section(&mut body, &section_bytes);
    packet(out, 0xe0, &body);
}

/// AUTH.
pub fn auth(out: &mut Vec<u8>, reason: ReasonCode, method: &str, data: Option<&[u8]>) {
    let mut properties = Vec::new();
    put_str(&mut properties, id::AUTHENTICATION_METHOD, method);
    if let Some(data) = data {
        properties.push(id::AUTHENTICATION_DATA);
        put_bytes(&mut properties, data);
    }
    let mut body = vec![reason as u8];
    section(&mut body, &properties);
    packet(out, 0xf0, &body);
}
