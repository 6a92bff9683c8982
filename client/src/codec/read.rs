//! What a server sends.

use forebay_wire::WireError;
use forebay_wire::frame::{self, Frame};
use forebay_wire::property::{Place, Properties, Property, maximum_qos};
use forebay_wire::publish::{From as Sender, Publish};
use forebay_wire::read::Reader;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS, Version};

use super::{Ack, AckKind, Words};

/// User properties of CONNACK that are kept: more is a peer that means harm.
const USER_PROPERTIES_MAX: usize = 1_000;

/// A packet of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    ConnAck(Box<ConnAck>),
    Ack(Ack),
    /// SUBACK or UNSUBACK.
    SubAck(SubAck),
    PingResp,
    Disconnect(ReasonCode, Box<Words>),
    Auth(Auth),
}

/// CONNACK, with the standard's values for what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) reason: ReasonCode,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_qos: QoS,
    pub(crate) retain_available: bool,
    pub(crate) maximum_packet_size: u32,
    pub(crate) assigned_client_id: Option<String>,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) wildcards_available: bool,
    pub(crate) subscription_ids_available: bool,
    pub(crate) shared_available: bool,
    pub(crate) server_keep_alive_s: Option<u16>,
    pub(crate) response_information: Option<String>,
    pub(crate) auth_data: Option<Vec<u8>>,
    pub(crate) user: Vec<(String, String)>,
    pub(crate) words: Words,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubAck {
    pub(crate) of_unsubscribe: bool,
    pub(crate) id: PacketId,
    /// One for each filter; empty for UNSUBACK in 3.1.1.
    pub(crate) reasons: Vec<ReasonCode>,
    pub(crate) reason_string: Option<String>,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Auth {
    pub(crate) reason: ReasonCode,
    pub(crate) method: Option<String>,
    pub(crate) data: Option<Vec<u8>>,
}

/// Reads a complete packet, PUBLISH aside, whose fixed header is `frame`.
///
/// # Errors
/// What is wrong with it, or that a server may not send it.
#[inline]
pub(crate) fn read(version: Version, frame: &Frame, packet: &[u8]) -> Result<Incoming, WireError> {
    let body = packet.get(frame.header_len..).unwrap_or_default();
    match frame.packet_type() {
        frame::PUBACK => read_ack(version, AckKind::Puback, body),
        frame::PUBREC => read_ack(version, AckKind::Pubrec, body),
        frame::PUBREL => read_ack(version, AckKind::Pubrel, body),
        frame::PUBCOMP => read_ack(version, AckKind::Pubcomp, body),
        frame::CONNACK => read_connack(version, body),
        frame::SUBACK => read_suback(version, false, body),
        frame::UNSUBACK => read_suback(version, true, body),
        frame::PINGRESP if body.is_empty() => Ok(Incoming::PingResp),
        frame::DISCONNECT if version.is_v5() => read_disconnect(body),
        frame::AUTH if version.is_v5() => read_auth(body),
        _ => Err(WireError::protocol("MQTT5-2.1.2", "a packet that a server does not send")),
    }
}

/// Reads a complete PUBLISH.
///
/// What the sender and the server answer for is not asked about here: a payload that is said to be UTF-8 and is not, a
/// topic of very many levels, very many user properties. A receiver may look at the payload, and need not [MQTT5-3.3.2.3.2];
/// a server that does not look would send what is refused again with every connection. The packet's size bounds it all.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub(crate) fn read_publish<'a>(version: Version, frame: &Frame, packet: &'a [u8]) -> Result<Publish<'a>, WireError> {
    let body = packet.get(frame.header_len..).unwrap_or_default();
    Publish::parse_head(version, Sender::Server, frame.first_byte, body, usize::MAX)
}

fn read_ack(version: Version, kind: AckKind, body: &[u8]) -> Result<Incoming, WireError> {
    let mut r = Reader::new(body);
    let id = packet_id(r.u16()?)?;
    let mut ack = Ack { kind, id, reason: ReasonCode::Success, retry_after_ms: None };
    if r.is_empty() {
        return Ok(Incoming::Ack(ack));
    }
    if !version.is_v5() {
        return Err(WireError::malformed("MQTT-3.4.1", "bytes after the packet identifier of an ack"));
    }
    ack.reason = reason(r.u8()?)?;
    if !r.is_empty() {
        ack.retry_after_ms = words(section(&mut r)?, Place::Ack)?.retry_after_ms;
    }
    all_read(&r)?;
    Ok(Incoming::Ack(ack))
}

fn read_connack(version: Version, body: &[u8]) -> Result<Incoming, WireError> {
    let mut r = Reader::new(body);
    let flags = r.u8()?;
    let code = r.u8()?;
    if flags > 1 {
        return Err(WireError::malformed("MQTT-3.2.2-1", "reserved flags of CONNACK are set"));
    }
    let mut ack = ConnAck {
        session_present: flags == 1,
        reason: ReasonCode::Success,
        session_expiry_s: None,
        receive_maximum: u16::MAX,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        maximum_packet_size: u32::MAX,
        assigned_client_id: None,
        topic_alias_maximum: 0,
        wildcards_available: true,
        subscription_ids_available: version.is_v5(),
        shared_available: true,
        server_keep_alive_s: None,
        response_information: None,
        auth_data: None,
        user: Vec::new(),
        words: Words::default(),
    };
    if version.is_v5() && !(r.is_empty() && code < 0x80 && code != 0) {
        ack.reason = reason(code)?;
        if code != 0 && ack.reason.is_success() {
            return Err(WireError::malformed("MQTT5-3.2.2-8", "a reason code that CONNACK does not have"));
        }
        let properties = section(&mut r)?;
        ack.read_properties(properties)?;
    } else {
        // A server of 3.1.1 that refuses MQTT 5 does so in its own words.
        ack.reason = from_return_code(code)?;
    }
    all_read(&r)?;
    if ack.session_present && !ack.reason.is_success() {
        return Err(WireError::protocol("MQTT-3.2.2-4", "a refusal says that there is a session"));
    }
    Ok(Incoming::ConnAck(Box::new(ack)))
}

impl ConnAck {
    fn read_properties(&mut self, section: &[u8]) -> Result<(), WireError> {
        for item in Properties::new(section, Place::ConnAck) {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the walker lets only these pass")]
            match item?.property {
                Property::SessionExpiryInterval(s) => self.session_expiry_s = Some(s),
                Property::ReceiveMaximum(n) => self.receive_maximum = n,
                Property::MaximumQoS(n) => self.maximum_qos = maximum_qos(n),
                Property::RetainAvailable(n) => self.retain_available = n == 1,
                Property::MaximumPacketSize(n) => self.maximum_packet_size = n,
                Property::AssignedClientIdentifier(id) => self.assigned_client_id = Some(id.to_owned()),
                Property::TopicAliasMaximum(n) => self.topic_alias_maximum = n,
                Property::WildcardSubscriptionAvailable(n) => self.wildcards_available = n == 1,
                Property::SubscriptionIdentifierAvailable(n) => self.subscription_ids_available = n == 1,
                Property::SharedSubscriptionAvailable(n) => self.shared_available = n == 1,
                Property::ServerKeepAlive(s) => self.server_keep_alive_s = Some(s),
                Property::ResponseInformation(text) => self.response_information = Some(text.to_owned()),
                Property::AuthenticationData(data) => self.auth_data = Some(data.to_vec()),
                Property::UserProperty(name, value) => {
                    if self.user.len() < USER_PROPERTIES_MAX {
                        self.user.push((name.to_owned(), value.to_owned()));
                    }
                    self.words.take(&Property::UserProperty(name, value));
                }
                other => self.words.take(&other),
            }
        }
        Ok(())
    }
}

impl Words {
    fn take(&mut self, property: &Property<'_>) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "nothing else is a word")]
        match property {
            Property::ReasonString(text) => self.reason_string = Some((*text).to_owned()),
            Property::ServerReference(text) => self.server_reference = Some((*text).to_owned()),
            Property::UserProperty("retry-after-ms", value) => self.retry_after_ms = value.parse().ok(),
            _ => {}
        }
    }
}

/// MQTT 3.1.1, table 3.1, in the words of MQTT 5.
fn from_return_code(code: u8) -> Result<ReasonCode, WireError> {
    Ok(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        3 => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => return Err(WireError::malformed("MQTT-3.2.2.3", "a return code that does not exist")),
    })
}

fn read_suback(version: Version, of_unsubscribe: bool, body: &[u8]) -> Result<Incoming, WireError> {
    let mut r = Reader::new(body);
    let id = packet_id(r.u16()?)?;
    let mut reason_string = None;
    if version.is_v5() {
        reason_string = words(section(&mut r)?, Place::SubAck)?.reason_string;
    }
    if of_unsubscribe && !version.is_v5() {
        all_read(&r)?;
    } else if r.is_empty() {
        return Err(WireError::malformed("MQTT-3.8.4-5", "an ack of a subscription without a reason code"));
    }
    let reasons = r.rest().iter().map(|code| reason(*code)).collect::<Result<_, _>>()?;
    Ok(Incoming::SubAck(SubAck { of_unsubscribe, id, reasons, reason_string }))
}

fn read_disconnect(body: &[u8]) -> Result<Incoming, WireError> {
    let mut r = Reader::new(body);
    let reason = if r.is_empty() { ReasonCode::Success } else { reason(r.u8()?)? };
    let words = if r.is_empty() { Words::default() } else { words(section(&mut r)?, Place::Disconnect)? };
    all_read(&r)?;
    Ok(Incoming::Disconnect(reason, Box::new(words)))
}

fn read_auth(body: &[u8]) -> Result<Incoming, WireError> {
    let mut r = Reader::new(body);
    let mut auth = Auth { reason: ReasonCode::Success, method: None, data: None };
    if !r.is_empty() {
        auth.reason = reason(r.u8()?)?;
        let properties = if r.is_empty() { &[] } else { section(&mut r)? };
        for item in Properties::new(properties, Place::Auth) {
            #[allow(clippy::wildcard_enum_match_arm, reason = "words for people")]
            match item?.property {
                Property::AuthenticationMethod(method) => auth.method = Some(method.to_owned()),
                Property::AuthenticationData(data) => auth.data = Some(data.to_vec()),
                _ => {}
            }
        }
    }
    all_read(&r)?;
    Ok(Incoming::Auth(auth))
}

fn words(section: &[u8], place: Place) -> Result<Words, WireError> {
    let mut words = Words::default();
    for item in Properties::new(section, place) {
        words.take(&item?.property);
    }
    Ok(words)
}

fn section<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let len = r.varint()?;
    r.bytes(len as usize)
}

fn all_read(r: &Reader<'_>) -> Result<(), WireError> {
    if r.is_empty() { Ok(()) } else { Err(WireError::malformed("MQTT5-2.1.4", "bytes after the end of a packet")) }
}

fn packet_id(id: u16) -> Result<PacketId, WireError> {
    PacketId::new(id).ok_or(WireError::malformed("MQTT5-2.2.1-3", "packet identifier 0"))
}

fn reason(value: u8) -> Result<ReasonCode, WireError> {
    ReasonCode::from_u8(value).ok_or(WireError::malformed("MQTT5-2.4", "a reason code that does not exist"))
}
