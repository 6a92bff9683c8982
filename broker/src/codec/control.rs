//! Acks, DISCONNECT and AUTH.

use bytes::{BufMut, BytesMut};
use forebay_wire::frame;
use forebay_wire::property::{Place, Property};
use forebay_wire::read::Reader;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};
use forebay_wire::varint;
use mqttbytes::{FixedHeader, v5};

use super::encode::RETRY_AFTER_MS;
use super::{AckKind, Auth, CodecError, Disconnect, Limits, Packet, walk};

/// The packet identifier alone in nearly all cases; in MQTT 5 a reason code and properties may follow.
#[inline]
pub(super) fn read_ack(version: Version, kind: AckKind, body: &[u8], limits: &Limits) -> Result<Packet, CodecError> {
    let mut r = Reader::new(body);
    let id = packet_id(r.u16()?)?;
    if r.is_empty() {
        return Ok(Packet::Ack { kind, id, reason: ReasonCode::Success, retry_after_ms: None });
    }
    if !version.is_v5() {
        return Err(CodecError::malformed("MQTT-3.4.1", "bytes after the packet identifier of an ack"));
    }
    let reason = reason(r.u8()?)?;
    if !ack_may_say(kind, reason) {
        return Err(CodecError::protocol("MQTT5-3.4.2-1", "a reason code that this ack may not have"));
    }
    let mut retry_after_ms = None;
    if !r.is_empty() {
        let len = r.varint()?;
        walk(r.bytes(len as usize)?, Place::Ack, limits, |property, _| {
            if let Property::UserProperty(RETRY_AFTER_MS, value) = property {
                retry_after_ms = value.parse().ok().or(retry_after_ms);
            }
        })?;
    }
    if !r.is_empty() {
        return Err(CodecError::malformed("MQTT5-3.4.2", "bytes after the properties of an ack"));
    }
    Ok(Packet::Ack { kind, id, reason, retry_after_ms })
}

fn ack_may_say(kind: AckKind, reason: ReasonCode) -> bool {
    match kind {
        AckKind::Puback | AckKind::Pubrec => matches!(
            reason,
            ReasonCode::Success
                | ReasonCode::NoMatchingSubscribers
                | ReasonCode::UnspecifiedError
                | ReasonCode::ImplementationSpecificError
                | ReasonCode::NotAuthorized
                | ReasonCode::TopicNameInvalid
                | ReasonCode::PacketIdentifierInUse
                | ReasonCode::QuotaExceeded
                | ReasonCode::PayloadFormatInvalid
        ),
        AckKind::Pubrel | AckKind::Pubcomp => {
            matches!(reason, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound)
        }
    }
}

pub(super) fn packet_id(id: u16) -> Result<PacketId, CodecError> {
    PacketId::new(id).ok_or(CodecError::malformed("MQTT5-2.2.1-3", "packet identifier 0"))
}

fn reason(value: u8) -> Result<ReasonCode, CodecError> {
    ReasonCode::from_u8(value).ok_or(CodecError::malformed("MQTT5-2.4", "a reason code that does not exist"))
}

pub(super) fn read_disconnect(version: Version, body: &[u8], limits: &Limits) -> Result<Disconnect, CodecError> {
    if !version.is_v5() {
        if !body.is_empty() {
            return Err(CodecError::malformed("MQTT-3.14.1-1", "DISCONNECT has no body before MQTT 5"));
        }
        return Ok(Disconnect { reason: ReasonCode::Success, session_expiry_s: None, reason_string: None });
    }
    let mut r = Reader::new(body);
    let reason = if r.is_empty() { ReasonCode::Success } else { reason(r.u8()?)? };
    if !disconnect_may_say(reason) {
        return Err(CodecError::protocol("MQTT5-3.14.2-1", "a reason code that a client may not send in DISCONNECT"));
    }
    let section = if r.is_empty() {
        &[]
    } else {
        let len = r.varint()?;
        r.bytes(len as usize)?
    };
    let mut server_reference = false;
    walk(section, Place::Disconnect, limits, |property, _| {
        server_reference |= matches!(property, Property::ServerReference(_));
    })?;
    if server_reference {
        return Err(CodecError::protocol("MQTT5-3.14.2.2.5", "a client sent a server reference"));
    }
    if !r.is_empty() {
        return Err(CodecError::malformed("MQTT5-3.14.2", "bytes after the properties of DISCONNECT"));
    }
    let read = unguarded_disconnect(reason, section)?;
    let properties = read.properties;
    Ok(Disconnect {
        reason,
        session_expiry_s: properties.as_ref().and_then(|p| p.session_expiry_interval),
        reason_string: properties.and_then(|p| p.reason_string),
    })
}

/// mqttbytes wants the reason code and the property length, which may be left out on the wire.
fn unguarded_disconnect(reason: ReasonCode, section: &[u8]) -> Result<v5::Disconnect, CodecError> {
    let (section_len, section_len_len) = varint::encode(u32::try_from(section.len()).unwrap_or(varint::MAX));
    let remaining = 1 + section_len_len + section.len();
    let (len, len_len) = varint::encode(u32::try_from(remaining).unwrap_or(varint::MAX));
    let mut out = BytesMut::with_capacity(1 + len_len + remaining);
    out.put_u8(frame::DISCONNECT << 4);
    out.extend_from_slice(len.get(..len_len).unwrap_or_default());
    out.put_u8(reason as u8);
    out.extend_from_slice(section_len.get(..section_len_len).unwrap_or_default());
    out.extend_from_slice(section);
    v5::Disconnect::read(FixedHeader::new(frame::DISCONNECT << 4, len_len, remaining), out.freeze())
        .map_err(|error| CodecError::unread(&error))
}

fn disconnect_may_say(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::Success
            | ReasonCode::DisconnectWithWill
            | ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::TopicNameInvalid
            | ReasonCode::ReceiveMaximumExceeded
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::AdministrativeAction
            | ReasonCode::PayloadFormatInvalid
    )
}

/// mqttbytes has no AUTH.
pub(super) fn read_auth(body: &[u8], limits: &Limits) -> Result<Auth, CodecError> {
    let mut r = Reader::new(body);
    let mut auth = Auth { reason: ReasonCode::Success, method: None, data: None };
    if !r.is_empty() {
        auth.reason = reason(r.u8()?)?;
        let section = if r.is_empty() {
            &[]
        } else {
            let len = r.varint()?;
            r.bytes(len as usize)?
        };
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "reason string and user properties say nothing to the broker"
        )]
        walk(section, Place::Auth, limits, |property, _| match property {
            Property::AuthenticationMethod(method) => auth.method = Some(method.to_owned()),
            Property::AuthenticationData(data) => auth.data = Some(data.to_vec()),
            _ => {}
        })?;
    }
    if !r.is_empty() {
        return Err(CodecError::malformed("MQTT5-3.15.2", "bytes after the properties of AUTH"));
    }
    if !matches!(auth.reason, ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate) {
        return Err(CodecError::protocol("MQTT5-3.15.2-1", "a reason code that a client may not send in AUTH"));
    }
    Ok(auth)
}
