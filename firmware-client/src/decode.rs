//! What a server says, beside PUBLISH.

use crate::bytes;
use forebay_wire::property::{Place, Properties, id};
use forebay_wire::read::Reader;
use forebay_wire::{ReasonCode, WireError};

/// What stands in the properties of any packet of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'i> {
    pub(crate) retry_after_ms: Option<u32>,
    /// The server reference, or the assigned client identifier.
    pub(crate) text: Option<&'i str>,
    pub(crate) server_keep_alive_s: Option<u16>,
    pub(crate) receive_maximum: u16,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) maximum_qos: u8,
    pub(crate) retains: bool,
}

impl Said<'_> {
    /// What holds when nothing is said.
    pub(crate) const SILENT: Self = Self {
        retry_after_ms: None,
        text: None,
        server_keep_alive_s: None,
        receive_maximum: u16::MAX,
        topic_alias_maximum: 0,
        maximum_packet_size: u32::MAX,
        maximum_qos: 2,
        retains: true,
    };
}

const TRAILING: ReasonCode = ReasonCode::MalformedPacket;

pub(crate) fn end(reader: &Reader<'_>) -> Result<(), ReasonCode> {
    if reader.is_empty() { Ok(()) } else { Err(TRAILING) }
}

/// The code of this name, if there is one.
pub(crate) fn reason(code: u8) -> Result<ReasonCode, ReasonCode> {
    ReasonCode::from_u8(code).ok_or(ReasonCode::MalformedPacket)
}

/// Reads the length of the properties and the properties; what is after them is left.
#[inline(never)]
pub(crate) fn properties<'i>(reader: &mut Reader<'i>, place: Place) -> Result<Said<'i>, WireError> {
    let mut said = Said::SILENT;
    let len = reader.varint()?;
    let mut properties = Properties::new(reader.bytes(len as usize)?, place);
    while let Some(item) = properties.next_raw() {
        let raw = item?;
        match raw.id {
            id::USER_PROPERTY if bytes::same(raw.text.as_bytes(), b"retry-after-ms") => {
                said.retry_after_ms = number(raw.value)
            }
            id::SERVER_REFERENCE | id::ASSIGNED_CLIENT_IDENTIFIER => said.text = Some(raw.text),
            id::SERVER_KEEP_ALIVE => said.server_keep_alive_s = Some(raw.number as u16),
            id::RECEIVE_MAXIMUM => said.receive_maximum = raw.number as u16,
            id::TOPIC_ALIAS_MAXIMUM => said.topic_alias_maximum = raw.number as u16,
            id::MAXIMUM_PACKET_SIZE => said.maximum_packet_size = raw.number,
            id::MAXIMUM_QOS => said.maximum_qos = raw.number as u8,
            id::RETAIN_AVAILABLE => said.retains = raw.number == 1,
            // What is left changes nothing for a client.
            _ => {}
        }
    }
    Ok(said)
}

/// A number in digits; `None` when it is not one. One that does not fit is the largest.
fn number(text: &str) -> Option<u32> {
    let mut value = 0u32;
    for digit in text.bytes() {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(u32::from(digit));
    }
    (!text.is_empty()).then_some(value)
}

/// CONNACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnAck<'i> {
    pub(crate) session_present: bool,
    pub(crate) reason: ReasonCode,
    pub(crate) said: Said<'i>,
}

pub(crate) fn connack(body: &[u8], v5: bool) -> Result<ConnAck<'_>, ReasonCode> {
    let mut reader = Reader::new(body);
    let (flags, code) = (reader.u8().map_err(code_of)?, reader.u8().map_err(code_of)?);
    if flags > 1 {
        return Err(ReasonCode::MalformedPacket);
    }
    let (reason, said) = if v5 {
        (reason(code)?, properties(&mut reader, Place::ConnAck).map_err(code_of)?)
    } else {
        (return_code(code)?, Said::SILENT)
    };
    end(&reader)?;
    // [MQTT-3.2.2-4], [MQTT5-3.2.2-6].
    if flags == 1 && reason != ReasonCode::Success {
        return Err(ReasonCode::ProtocolError);
    }
    Ok(ConnAck { session_present: flags == 1, reason, said })
}

fn return_code(code: u8) -> Result<ReasonCode, ReasonCode> {
    Ok(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        3 => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => return Err(ReasonCode::MalformedPacket),
    })
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK: an identifier, and what is said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) id: u16,
    pub(crate) reason: ReasonCode,
    pub(crate) retry_after_ms: Option<u32>,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
pub(crate) fn ack(body: &[u8], v5: bool) -> Result<Answer, ReasonCode> {
    let mut reader = Reader::new(body);
    let mut answer = Answer { id: packet_id(&mut reader)?, reason: ReasonCode::Success, retry_after_ms: None };
    if v5 && !reader.is_empty() {
        answer.reason = reason(reader.u8().map_err(code_of)?)?;
        if !reader.is_empty() {
            answer.retry_after_ms = properties(&mut reader, Place::Ack).map_err(code_of)?.retry_after_ms;
        }
    }
    end(&reader)?;
    Ok(answer)
}

/// SUBACK and UNSUBACK for one filter.
pub(crate) fn suback(body: &[u8], v5: bool, has_code: bool) -> Result<Answer, ReasonCode> {
    let mut reader = Reader::new(body);
    let id = packet_id(&mut reader)?;
    if v5 {
        properties(&mut reader, Place::SubAck).map_err(code_of)?;
    }
    let reason = if has_code { reason(reader.u8().map_err(code_of)?)? } else { ReasonCode::Success };
    end(&reader)?;
    Ok(Answer { id, reason, retry_after_ms: None })
}

/// DISCONNECT: MQTT 5 only.
pub(crate) fn disconnect(body: &[u8]) -> Result<(ReasonCode, Said<'_>), ReasonCode> {
    let mut reader = Reader::new(body);
    let mut said = Said::SILENT;
    let mut code = ReasonCode::Success;
    if !reader.is_empty() {
        code = reason(reader.u8().map_err(code_of)?)?;
        if !reader.is_empty() {
            said = properties(&mut reader, Place::Disconnect).map_err(code_of)?;
        }
    }
    end(&reader)?;
    Ok((code, said))
}

fn packet_id(reader: &mut Reader<'_>) -> Result<u16, ReasonCode> {
    match reader.u16() {
        Ok(id) if id != 0 => Ok(id),
        Ok(_) | Err(_) => Err(ReasonCode::MalformedPacket),
    }
}

pub(crate) fn code_of(error: WireError) -> ReasonCode {
    error.reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("30000"), Some(30_000));
        assert_eq!(number("99999999999"), Some(u32::MAX));
        for bad in ["", "-1", "1 ", "x"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_connack_says_what_the_server_can() {
        let body = [0, 0, 12, 0x21, 0, 5, 0x22, 0, 3, 0x13, 0, 9, 0x24, 1, 0x25];
        assert_eq!(connack(&body, true).unwrap_err(), ReasonCode::MalformedPacket);
        let body = [1, 0, 13, 0x21, 0, 5, 0x22, 0, 3, 0x13, 0, 9, 0x24, 1, 0x25, 0];
        let ack = connack(&body, true).unwrap();
        assert!(ack.session_present && ack.reason == ReasonCode::Success);
        let said = ack.said;
        assert_eq!((said.receive_maximum, said.topic_alias_maximum), (5, 3));
        assert_eq!((said.server_keep_alive_s, said.maximum_qos, said.retains), (Some(9), 1, false));
    }

    #[test]
    fn a_refusal_says_for_how_long() {
        let mut body = [0u8; 64];
        let text = b"\x26\x00\x0eretry-after-ms\x00\x041500";
        body[1] = 0x89;
        body[2] = text.len() as u8;
        body[3..3 + text.len()].copy_from_slice(text);
        let ack = connack(&body[..3 + text.len()], true).unwrap();
        assert_eq!((ack.reason, ack.said.retry_after_ms), (ReasonCode::ServerBusy, Some(1_500)));
    }

    #[test]
    fn what_is_not_a_packet_is_malformed() {
        let malformed = ReasonCode::MalformedPacket;
        assert_eq!(connack(&[2, 0], false).unwrap_err(), malformed);
        assert_eq!(connack(&[0, 6], false).unwrap_err(), malformed);
        assert_eq!(connack(&[0, 0, 0], false).unwrap_err(), malformed);
        assert_eq!(connack(&[1, 3], false).unwrap_err(), ReasonCode::ProtocolError);
        assert_eq!(connack(&[0, 0], true).unwrap_err(), malformed);
        assert_eq!(connack(&[0, 0, 2, 0x17, 0], true).unwrap_err(), ReasonCode::ProtocolError);
        for body in [&[][..], &[1], &[0, 0], &[0, 1, 0]] {
            assert_eq!(ack(body, false).unwrap_err(), malformed, "{body:?}");
        }
        for body in [&[0, 1, 0x05][..], &[0, 1, 0, 1], &[0, 1, 0, 0, 0], &[0, 0, 0]] {
            assert_eq!(ack(body, true).unwrap_err(), malformed, "{body:?}");
        }
        assert_eq!(suback(&[0, 1], false, true).unwrap_err(), malformed);
        assert_eq!(suback(&[0, 1, 0, 0], false, true).unwrap_err(), malformed);
        assert_eq!(suback(&[0, 1, 0], true, true).unwrap_err(), malformed);
        assert_eq!(disconnect(&[0x03]).unwrap_err(), malformed);
        assert_eq!(disconnect(&[0, 0, 0]).unwrap_err(), malformed);
        assert!(disconnect(&[]).is_ok());
    }

    #[test]
    fn short_forms() {
        assert_eq!(ack(&[0, 7], true).unwrap().reason, ReasonCode::Success);
        assert_eq!(ack(&[0, 7, 0x97], true).unwrap().reason, ReasonCode::QuotaExceeded);
        assert_eq!(suback(&[0, 7, 0, 2], true, true).unwrap().reason, ReasonCode::GrantedQoS2);
        assert_eq!(suback(&[0, 7], false, false).unwrap().id, 7);
    }
}
