//! CONNECT: the guard reads all of it, takes the credentials out (mqttbytes refuses a binary password and loses an empty
//! user name), writes what is left as MQTT 3.1.1 or 5, and lets mqttbytes read that.

use bytes::{BufMut, Bytes, BytesMut};
use forebay_wire::frame::{self, Frame};
use forebay_wire::property::{Place, Property};
use forebay_wire::read::Reader;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::types::{QoS, Version};
use forebay_wire::varint;
use mqttbytes::{FixedHeader, v4, v5};

use super::{CodecError, Connect, ConnectError, Limits, Will, walk};

/// In the protocol level: the client is a bridge.
const BRIDGE: u8 = 0x80;
const RESERVED: u8 = 0x01;
const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

/// What the guard found in the body.
struct Guarded<'a> {
    version: Version,
    flags: u8,
    /// From the keep alive to the end of the will: what mqttbytes is given.
    middle: &'a [u8],
    client_id: &'a str,
    will: Option<GuardedWill<'a>>,
    username: Option<&'a str>,
    password: Option<&'a [u8]>,
}

struct GuardedWill<'a> {
    delay_s: u32,
    forwarded: Vec<u8>,
    topic: &'a str,
}

/// Reads the first packet of a connection. `packet` is the whole frame.
///
/// # Errors
/// What is wrong with it; a packet that is not a CONNECT is closed without an answer [MQTT-3.1.0-1], [MQTT5-3.1.0-1].
pub fn read_connect(frame: &Frame, packet: &[u8], limits: &Limits) -> Result<Connect, ConnectError> {
    if frame.packet_type() != frame::CONNECT {
        return Err(silent(CodecError::protocol("MQTT5-3.1.0-1", "the first packet is not a CONNECT")));
    }
    let body = packet.get(frame.header_len..).unwrap_or_default();
    let mut reader = Reader::new(body);
    let (version, bridge) = read_version(&mut reader)?;
    // MQTT 3.1 does not use these flags, and there are devices that set them.
    if version != Version::V31 && frame.first_byte != frame::CONNECT << 4 {
        return Err(silent(CodecError::malformed("MQTT5-2.1.3-1", "flags in the fixed header of CONNECT")));
    }
    let mut maximum_packet_size = u32::MAX;
    let header = if version == Version::V31 { Ok(()) } else { frame.check(version).map_err(CodecError::from) };
    let guarded = header.and_then(|()| guard(version, reader, limits, &mut maximum_packet_size));
    let answered = |error: CodecError| ConnectError { error, answer: Some(version), maximum_packet_size };
    guarded
        .and_then(|guarded| if version.is_v5() { read_v5(guarded) } else { read_v4(&guarded) })
        .map(|connect| Connect { bridge, ..connect })
        .map_err(|error| if version.is_v5() || has_return_code(error.reason) { answered(error) } else { silent(error) })
}

/// MQTT 3.1.1 has return codes for few reasons; a malformed CONNECT is closed without one [MQTT-3.1.4-1].
fn has_return_code(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::ClientIdentifierNotValid | ReasonCode::BadUserNameOrPassword)
}

fn silent(error: CodecError) -> ConnectError {
    ConnectError { error, answer: None, maximum_packet_size: u32::MAX }
}

/// The version, and whether the client says that it is another broker's bridge: mosquitto's sets the upper bit of the
/// level, and tries again without it when it is answered with 0x01.
fn read_version(reader: &mut Reader<'_>) -> Result<(Version, bool), ConnectError> {
    let name = reader.binary().map_err(|error| silent(error.into()))?;
    let level = reader.u8().map_err(|error| silent(error.into()))?;
    let bridge = level & BRIDGE != 0;
    match (name, level & !BRIDGE) {
        (b"MQTT", 4) => Ok((Version::V311, bridge)),
        (b"MQTT", 5) => Ok((Version::V5, bridge)),
        (b"MQIsdp", 3) => Ok((Version::V31, bridge)),
        (b"MQTT" | b"MQIsdp", lower) => {
            let detail = format!("protocol level {level} is not supported");
            let error = CodecError::new(ReasonCode::UnsupportedProtocolVersion, "MQTT5-3.1.2-2", detail);
            // What 5.0 follows is answered as 5.0 says, what came before it as 3.1.1 says [MQTT-3.1.2-2].
            let answer = Some(if name == b"MQTT" && lower > 5 { Version::V5 } else { Version::V311 });
            Err(ConnectError { answer, ..silent(error) })
        }
        _ => Err(silent(CodecError::new(
            ReasonCode::UnsupportedProtocolVersion,
            "MQTT5-3.1.2-1",
            "the protocol name is neither MQTT nor MQIsdp",
        ))),
    }
}

fn guard<'a>(
    version: Version,
    mut r: Reader<'a>,
    limits: &Limits,
    maximum_packet_size: &mut u32,
) -> Result<Guarded<'a>, CodecError> {
    let flags = r.u8()?;
    check_flags(version, flags)?;
    let middle = r.rest();
    r.u16()?;
    if version.is_v5() {
        check_properties(section(&mut r)?, limits, maximum_packet_size)?;
    }
    let client_id = r.string()?;
    check_client_id(version, flags, client_id, limits)?;
    let will = if flags & WILL == 0 { None } else { Some(guard_will(version, &mut r, limits)?) };
    let middle = middle.get(..middle.len() - r.rest().len()).unwrap_or_default();
    let username = if flags & USERNAME == 0 { None } else { Some(r.string()?) };
    let password = if flags & PASSWORD == 0 { None } else { Some(r.binary()?) };
    if !r.is_empty() {
        return Err(CodecError::malformed("MQTT5-3.1.3-1", "bytes after the last field of CONNECT"));
    }
    Ok(Guarded { version, flags, middle, client_id, will, username, password })
}

fn check_flags(version: Version, flags: u8) -> Result<(), CodecError> {
    // MQTT 3.1 does not use it, and there are devices that set it.
    if flags & 0x01 != 0 && version != Version::V31 {
        return Err(CodecError::malformed("MQTT5-3.1.2-3", "the reserved connect flag is set"));
    }
    if flags & WILL == 0 && flags & 0x38 != 0 {
        return Err(CodecError::malformed("MQTT5-3.1.2-11", "Will QoS or Will Retain without a will"));
    }
    if flags & 0x18 == 0x18 {
        return Err(CodecError::malformed("MQTT5-3.1.2-12", "Will QoS 3"));
    }
    if !version.is_v5() && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return Err(CodecError::malformed("MQTT-3.1.2-22", "a password without a user name"));
    }
    Ok(())
}

fn section<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], CodecError> {
    let len = r.varint()?;
    Ok(r.bytes(len as usize)?)
}

fn check_properties(section: &[u8], limits: &Limits, maximum_packet_size: &mut u32) -> Result<(), CodecError> {
    let (mut method, mut data) = (false, false);
    #[allow(clippy::wildcard_enum_match_arm, reason = "mqttbytes reads the rest")]
    walk(section, Place::Connect, limits, |property, _| match property {
        Property::AuthenticationMethod(_) => method = true,
        Property::AuthenticationData(_) => data = true,
        Property::MaximumPacketSize(max) => *maximum_packet_size = max,
        _ => {}
    })?;
    if data && !method {
        return Err(CodecError::protocol("MQTT5-3.1.2.11.10", "authentication data without a method"));
    }
    Ok(())
}

fn check_client_id(version: Version, flags: u8, client_id: &str, limits: &Limits) -> Result<(), CodecError> {
    let refuse =
        |statement, detail: String| Err(CodecError::new(ReasonCode::ClientIdentifierNotValid, statement, detail));
    if client_id.len() > limits.max_client_id_len {
        return refuse(
            "MQTT5-3.1.3-8",
            format!("the client identifier has more than {} bytes", limits.max_client_id_len),
        );
    }
    if client_id.is_empty() && version == Version::V31 {
        return refuse("MQTT-3.1.3-9", "MQTT 3.1 has no empty client identifiers".to_owned());
    }
    if client_id.is_empty() && flags & CLEAN == 0 && !version.is_v5() {
        return refuse("MQTT-3.1.3-8", "an empty client identifier needs clean session".to_owned());
    }
    Ok(())
}

fn guard_will<'a>(version: Version, r: &mut Reader<'a>, limits: &Limits) -> Result<GuardedWill<'a>, CodecError> {
    let (mut delay_s, mut forwarded, mut utf8) = (0, Vec::new(), false);
    if version.is_v5() {
        #[allow(clippy::wildcard_enum_match_arm, reason = "what is left is forwarded as it is")]
        walk(section(r)?, Place::Will, limits, |property, bytes| match property {
            Property::WillDelayInterval(s) => delay_s = s,
            Property::MessageExpiryInterval(_) => {}
            other => {
                utf8 |= other == Property::PayloadFormatIndicator(1);
                forwarded.extend_from_slice(bytes);
            }
        })?;
    }
    let topic = r.string()?;
    topic::check_name(topic, limits.max_topic_levels)?;
    let payload = r.binary()?;
    if utf8 && std::str::from_utf8(payload).is_err() {
        return Err(CodecError::new(
            ReasonCode::PayloadFormatInvalid,
            "MQTT5-3.1.3.2.3",
            "the will's payload is said to be UTF-8 and is not",
        ));
    }
    Ok(GuardedWill { delay_s, forwarded, topic })
}

/// The packet as mqttbytes reads it: `MQTT`, level 4 or 5, no credentials.
fn normalised(guarded: &Guarded<'_>) -> (FixedHeader, Bytes) {
    let remaining = 8 + guarded.middle.len();
    let (len, len_len) = varint::encode(u32::try_from(remaining).unwrap_or(varint::MAX));
    let mut out = BytesMut::with_capacity(1 + len_len + remaining);
    out.put_u8(frame::CONNECT << 4);
    out.extend_from_slice(len.get(..len_len).unwrap_or_default());
    out.extend_from_slice(b"\x00\x04MQTT");
    out.put_u8(if guarded.version.is_v5() { 5 } else { 4 });
    out.put_u8(guarded.flags & !(USERNAME | PASSWORD | RESERVED));
    out.extend_from_slice(guarded.middle);
    (FixedHeader::new(frame::CONNECT << 4, len_len, remaining), out.freeze())
}

fn read_v4(guarded: &Guarded<'_>) -> Result<Connect, CodecError> {
    let (header, packet) = normalised(guarded);
    let read = v4::Connect::read(header, packet).map_err(|error| CodecError::unread(&error))?;
    let will = read.last_will.zip(guarded.will.as_ref()).map(|(will, guarded_will)| Will {
        topic: guarded_will.topic.to_owned(),
        payload: will.message.to_vec(),
        qos: qos(guarded.flags),
        retain: guarded.flags & WILL_RETAIN != 0,
        delay_s: 0,
        expiry_s: None,
        properties: Vec::new(),
    });
    Ok(Connect { clean_start: read.clean_session, keep_alive_s: read.keep_alive, will, ..common(guarded) })
}

fn read_v5(guarded: Guarded<'_>) -> Result<Connect, CodecError> {
    let (header, packet) = normalised(&guarded);
    let read = v5::Connect::read(header, packet).map_err(|error| CodecError::unread(&error))?;
    let common = common(&guarded);
    let will = read.last_will.zip(guarded.will).map(|(will, guarded_will)| Will {
        topic: guarded_will.topic.to_owned(),
        payload: will.message.to_vec(),
        qos: qos(guarded.flags),
        retain: guarded.flags & WILL_RETAIN != 0,
        delay_s: guarded_will.delay_s,
        expiry_s: will.properties.and_then(|p| p.message_expiry_interval),
        properties: guarded_will.forwarded,
    });
    let connect = Connect { clean_start: read.clean_session, keep_alive_s: read.keep_alive, will, ..common };
    let Some(properties) = read.properties else { return Ok(connect) };
    Ok(Connect {
        session_expiry_s: properties.session_expiry_interval.unwrap_or(0),
        receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
        maximum_packet_size: properties.max_packet_size.unwrap_or(u32::MAX),
        topic_alias_maximum: properties.topic_alias_max.unwrap_or(0),
        request_response: properties.request_response_info == Some(1),
        request_problem: properties.request_problem_info != Some(0),
        user_properties: properties.user_properties,
        auth_method: properties.authentication_method,
        auth_data: properties.authentication_data.map(|data| data.to_vec()),
        ..connect
    })
}

fn common(guarded: &Guarded<'_>) -> Connect {
    Connect {
        version: guarded.version,
        bridge: false,
        client_id: guarded.client_id.to_owned(),
        clean_start: true,
        keep_alive_s: 0,
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: 0,
        request_response: false,
        request_problem: true,
        user_properties: Vec::new(),
        auth_method: None,
        auth_data: None,
        will: None,
        username: guarded.username.map(str::to_owned),
        password: guarded.password.map(<[u8]>::to_vec),
    }
}

fn qos(flags: u8) -> QoS {
    QoS::try_from(flags >> 3 & 3).unwrap_or(QoS::AtMostOnce)
}
