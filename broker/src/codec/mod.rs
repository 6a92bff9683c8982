//! The packets of MQTT beside PUBLISH: checked by the guard (this module and the wire crate), then read by mqttbytes. What
//! mqttbytes cannot read or write is done by hand here.

mod connect;
mod control;
pub mod encode;
mod subscribe;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use forebay_wire::WireError;
use forebay_wire::frame::{self, Frame};
use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::publish::{From as Sender, Publish};
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS, Version};

pub use connect::read_connect;

/// What one packet may hold. Without caps a packet of 1 MiB takes many times its size in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// User properties in one packet.
    pub max_user_properties: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub max_filters_per_packet: usize,
    /// Levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Bytes of a client identifier.
    pub max_client_id_len: usize,
}

/// What is wrong with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError {
    /// The reason code that MQTT 5 has for it.
    pub reason: ReasonCode,
    /// The statement that it breaks.
    pub statement: &'static str,
    /// Words for the log and the peer.
    pub detail: Cow<'static, str>,
}

impl CodecError {
    /// An error.
    #[must_use]
    pub fn new(reason: ReasonCode, statement: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, statement, detail: detail.into() }
    }

    fn malformed(statement: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, statement, detail)
    }

    fn protocol(statement: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, statement, detail)
    }

    /// mqttbytes refuses a frame that the guard let pass: whoever is right, the connection cannot go on.
    fn unread(error: &mqttbytes::Error) -> Self {
        Self::new(ReasonCode::MalformedPacket, "MQTT5-4.13.1-1", format!("the packet cannot be read: {error:?}"))
    }
}

impl From<WireError> for CodecError {
    fn from(error: WireError) -> Self {
        Self::new(error.reason, error.statement, error.detail)
    }
}

/// A CONNECT that is refused, and how to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What is wrong.
    pub error: CodecError,
    /// The protocol in which CONNACK answers; `None`: the connection is closed without a word.
    pub answer: Option<Version>,
    /// The client's Maximum Packet Size, as far as it was read: it bounds the answer.
    pub maximum_packet_size: u32,
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version, from here on the connection's.
    pub version: Version,
    /// It is another broker's bridge: nothing of its own is sent back to it, and RETAIN is kept as published.
    pub bridge: bool,
    /// Client identifier; empty when the broker is to give one.
    pub client_id: String,
    /// Clean Start, or Clean Session in 3.1.1.
    pub clean_start: bool,
    /// Keep alive in seconds, 0 for none.
    pub keep_alive_s: u16,
    /// Session expiry interval in seconds; 0 in 3.1.1, where Clean Session stands for it.
    pub session_expiry_s: u32,
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Maximum Packet Size; `u32::MAX` for none.
    pub maximum_packet_size: u32,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: u16,
    /// Request Response Information.
    pub request_response: bool,
    /// Request Problem Information.
    pub request_problem: bool,
    /// User properties.
    pub user_properties: Vec<(String, String)>,
    /// Authentication method.
    pub auth_method: Option<String>,
    /// Authentication data.
    pub auth_data: Option<Vec<u8>>,
    /// The will.
    pub will: Option<Will>,
    /// User name; may be empty.
    pub username: Option<String>,
    /// Password: any bytes.
    pub password: Option<Vec<u8>>,
}

/// The will in CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    /// Message expiry interval in seconds.
    pub expiry_s: Option<u32>,
    /// Properties to forward, encoded.
    pub properties: Vec<u8>,
}

/// The acks of QoS 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// PUBACK.
    Puback,
    /// PUBREC.
    Pubrec,
    /// PUBREL.
    Pubrel,
    /// PUBCOMP.
    Pubcomp,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub id: PacketId,
    /// Subscription identifier.
    pub subscription_id: Option<u32>,
    /// Its user properties, in order.
    pub user: Vec<(String, String)>,
    /// What is asked for; at least one.
    pub filters: Vec<SubscribeFilter>,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// The topic filter.
    pub filter: String,
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling, 0 to 2.
    pub retain_handling: u8,
    /// A filter that is over a limit is refused in SUBACK; the others are not touched.
    pub valid: Result<(), ReasonCode>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub id: PacketId,
    /// At least one.
    pub filters: Vec<String>,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// A new session expiry interval in seconds.
    pub session_expiry_s: Option<u32>,
    /// Words.
    pub reason_string: Option<String>,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Continue, or re-authenticate.
    pub reason: ReasonCode,
    /// Authentication method.
    pub method: Option<String>,
    /// Authentication data.
    pub data: Option<Vec<u8>>,
}

/// A packet that a client may send after its CONNECT, PUBLISH apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Which.
        kind: AckKind,
        /// Packet identifier.
        id: PacketId,
        /// Reason code; success in 3.1.1.
        reason: ReasonCode,
        /// Milliseconds after which a message that is refused is wanted again: the user property
        /// [`encode::RETRY_AFTER_MS`].
        retry_after_ms: Option<u32>,
    },
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect(Disconnect),
    /// AUTH.
    Auth(Auth),
}

/// Reads a packet that is not a PUBLISH. `packet` is the whole frame.
///
/// # Errors
/// What is wrong with it, or that a client may not send it now.
#[inline]
pub fn read_packet(version: Version, frame: &Frame, packet: &[u8], limits: &Limits) -> Result<Packet, CodecError> {
    let body = packet.get(frame.header_len..).unwrap_or_default();
    match frame.packet_type() {
        frame::PUBACK => control::read_ack(version, AckKind::Puback, body, limits),
        frame::PUBREC => control::read_ack(version, AckKind::Pubrec, body, limits),
        frame::PUBREL => control::read_ack(version, AckKind::Pubrel, body, limits),
        frame::PUBCOMP => control::read_ack(version, AckKind::Pubcomp, body, limits),
        frame::PINGREQ if body.is_empty() => Ok(Packet::PingReq),
        frame::PINGREQ => Err(CodecError::malformed("MQTT5-3.12.1", "PINGREQ has no body")),
        frame::SUBSCRIBE => subscribe::read_subscribe(version, frame, packet, limits).map(Packet::Subscribe),
        frame::UNSUBSCRIBE => subscribe::read_unsubscribe(version, frame, packet, limits).map(Packet::Unsubscribe),
        frame::DISCONNECT => control::read_disconnect(version, body, limits).map(Packet::Disconnect),
        frame::AUTH if version.is_v5() => control::read_auth(body, limits).map(Packet::Auth),
        frame::AUTH => Err(CodecError::malformed("MQTT-2.2.1", "packet type 15 does not exist before MQTT 5")),
        frame::CONNECT => Err(CodecError::protocol("MQTT5-3.1.0-2", "a second CONNECT")),
        _ => Err(CodecError::protocol("MQTT5-2.1.2", "a packet that only a server sends")),
    }
}

/// Reads a PUBLISH of a client.
///
/// # Errors
/// What is wrong, with its reason code; too many user properties are.
#[inline]
pub fn read_publish<'a>(
    version: Version,
    frame: &Frame,
    packet: &'a [u8],
    limits: &Limits,
) -> Result<Publish<'a>, CodecError> {
    let body = packet.get(frame.header_len..).unwrap_or_default();
    let publish = Publish::parse(version, Sender::Client, frame.first_byte, body, limits.max_topic_levels)?;
    if publish.user_properties > limits.max_user_properties {
        return Err(too_many_user_properties(limits));
    }
    Ok(publish)
}

#[cold]
fn too_many_user_properties(limits: &Limits) -> CodecError {
    let detail = format!("more than {} user properties", limits.max_user_properties);
    CodecError::new(ReasonCode::QuotaExceeded, "MQTT5-4.13.2", detail)
}

/// Walks a property section with its length checked and its user properties counted.
fn walk<'a>(
    section: &'a [u8],
    place: Place,
    limits: &Limits,
    mut take: impl FnMut(Property<'a>, &'a [u8]),
) -> Result<(), CodecError> {
    let mut user = 0usize;
    for item in Properties::new(section, place) {
        let item = item?;
        if matches!(item.property, Property::UserProperty(..)) {
            user += 1;
            if user > limits.max_user_properties {
                return Err(too_many_user_properties(limits));
            }
        }
        take(item.property, item.bytes);
    }
    Ok(())
}
