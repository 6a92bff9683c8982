//! What a client sends, PUBLISH apart.

use bytes::BytesMut;
use forebay_wire::property::id;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};
use forebay_wire::varint;
use mqttbytes::v5::RetainForwardRule;
use mqttbytes::{v4, v5};

use super::AckKind;
use super::frame::put_varint;
use crate::message::put_binary;
use crate::options::{Options, SubscribeFilter, Will};

/// What of CONNECT is not in the options.
pub(crate) struct ConnectNow<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) auth: Option<(&'a str, &'a [u8])>,
}

/// CONNECT.
pub(crate) fn connect(options: &Options, now: &ConnectNow<'_>, out: &mut Vec<u8>) {
    let v5 = options.version.is_v5();
    let mut body = Vec::with_capacity(64);
    let name = if options.version == Version::V31 { "MQIsdp" } else { "MQTT" };
    put_bytes(&mut body, name.as_bytes());
    body.push(options.version.level());
    let mut flags = if now.clean_start { 0x02 } else { 0 };
    if let Some(will) = &options.will {
        let message = &will.message;
        flags |= 0x04 | (message.qos as u8) << 3 | if message.retain { 0x20 } else { 0 };
    }
    flags |= if options.username.is_some() { 0x80 } else { 0 };
    flags |= if options.password.is_some() { 0x40 } else { 0 };
    body.push(flags);
    body.extend_from_slice(&now.keep_alive_s.to_be_bytes());
    if v5 {
        let mut properties = Vec::new();
        connect_properties(options, now, &mut properties);
        put_varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    put_bytes(&mut body, now.client_id.as_bytes());
    if let Some(will) = &options.will {
        put_will(v5, will, &mut body);
    }
    if let Some(name) = &options.username {
        put_bytes(&mut body, name.as_bytes());
    }
    if let Some(password) = &options.password {
        put_bytes(&mut body, password);
    }
    out.push(0x10);
    put_varint(out, body.len());
    out.extend_from_slice(&body);
}

fn connect_properties(options: &Options, now: &ConnectNow<'_>, out: &mut Vec<u8>) {
    let expiry_s = options.session_expiry_s();
    if expiry_s > 0 {
        out.push(id::SESSION_EXPIRY_INTERVAL);
        out.extend_from_slice(&expiry_s.to_be_bytes());
    }
    if options.receive_maximum < u16::MAX {
        out.push(id::RECEIVE_MAXIMUM);
        out.extend_from_slice(&options.receive_maximum.to_be_bytes());
    }
    out.push(id::MAXIMUM_PACKET_SIZE);
    out.extend_from_slice(&options.maximum_packet_size.to_be_bytes());
    if options.topic_alias_maximum > 0 {
        out.push(id::TOPIC_ALIAS_MAXIMUM);
        out.extend_from_slice(&options.topic_alias_maximum.to_be_bytes());
    }
    if options.request_response_information {
        out.extend_from_slice(&[id::REQUEST_RESPONSE_INFORMATION, 1]);
    }
    if options.without_problem_information {
        out.extend_from_slice(&[id::REQUEST_PROBLEM_INFORMATION, 0]);
    }
    for (name, value) in &options.user_properties {
        put_user(out, name, value);
    }
    if let Some((method, data)) = now.auth {
        put_binary(out, id::AUTHENTICATION_METHOD, method.as_bytes());
        if !data.is_empty() {
            put_binary(out, id::AUTHENTICATION_DATA, data);
        }
    }
}

fn put_will(v5: bool, will: &Will, out: &mut Vec<u8>) {
    if v5 {
        let mut properties = Vec::new();
        let delay_s = u32::try_from(will.delay.as_secs()).unwrap_or(u32::MAX);
        if delay_s > 0 {
            properties.push(id::WILL_DELAY_INTERVAL);
            properties.extend_from_slice(&delay_s.to_be_bytes());
        }
        will.message.put_properties(&mut properties);
        put_varint(out, properties.len());
        out.extend_from_slice(&properties);
    }
    put_bytes(out, will.message.topic.as_bytes());
    put_bytes(out, &will.message.payload);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_user(out: &mut Vec<u8>, name: &str, value: &str) {
    put_binary(out, id::USER_PROPERTY, name.as_bytes());
    put_bytes(out, value.as_bytes());
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[inline]
pub(crate) fn ack(version: Version, kind: AckKind, id: PacketId, reason: ReasonCode, out: &mut Vec<u8>) {
    let [high, low] = id.get().to_be_bytes();
    if reason == ReasonCode::Success || !version.is_v5() {
        out.extend_from_slice(&[kind.first_byte(), 2, high, low]);
    } else {
        out.extend_from_slice(&[kind.first_byte(), 3, high, low, reason as u8]);
    }
}

/// A packet with a body of so many bytes.
pub(crate) fn packet_len(body_len: usize) -> usize {
    1 + varint::size(u32::try_from(body_len).unwrap_or(u32::MAX)) + body_len
}

/// Body of a SUBSCRIBE without filters: packet identifier and properties.
pub(crate) fn subscribe_len(version: Version, subscription_id: Option<u32>, user: &[(String, String)]) -> usize {
    if !version.is_v5() {
        return 2;
    }
    let id = subscription_id.map_or(0, |id| 1 + varint::size(id));
    let properties = id + user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
    2 + varint::size(u32::try_from(properties).unwrap_or(u32::MAX)) + properties
}

/// SUBSCRIBE; false when mqttbytes cannot write it.
pub(crate) fn subscribe(
    version: Version,
    id: PacketId,
    subscription_id: Option<u32>,
    filters: &[SubscribeFilter],
    user: &[(String, String)],
    out: &mut Vec<u8>,
) -> bool {
    let mut packet = BytesMut::new();
    let written = if version.is_v5() {
        let filters = filters.iter().map(|filter| {
            let mut to = v5::SubscribeFilter::new(filter.filter.clone(), qos(filter.qos));
            to.set_nolocal(filter.no_local).set_preserve_retain(filter.retain_as_published);
            to.set_retain_forward_rule(match filter.retain_handling {
                crate::RetainHandling::OnSubscribe => RetainForwardRule::OnEverySubscribe,
                crate::RetainHandling::OnNewSubscribe => RetainForwardRule::OnNewSubscribe,
                crate::RetainHandling::Never => RetainForwardRule::Never,
            });
            to
        });
        let properties =
            v5::SubscribeProperties { id: subscription_id.map(|id| id as usize), user_properties: user.to_vec() };
        let packet_out = v5::Subscribe { pkid: id.get(), filters: filters.collect(), properties: Some(properties) };
        packet_out.write(&mut packet)
    } else {
        let filters =
            filters.iter().map(|filter| v4::SubscribeFilter { path: filter.filter.clone(), qos: qos(filter.qos) });
        v4::Subscribe { pkid: id.get(), filters: filters.collect() }.write(&mut packet)
    };
    out.extend_from_slice(&packet);
    written.is_ok()
}

/// UNSUBSCRIBE; false when mqttbytes cannot write it.
pub(crate) fn unsubscribe(version: Version, id: PacketId, filters: &[String], out: &mut Vec<u8>) -> bool {
    let mut packet = BytesMut::new();
    let written = if version.is_v5() {
        v5::Unsubscribe { pkid: id.get(), filters: filters.to_vec(), properties: None }.write(&mut packet)
    } else {
        v4::Unsubscribe { pkid: id.get(), topics: filters.to_vec() }.write(&mut packet)
    };
    out.extend_from_slice(&packet);
    written.is_ok()
}

fn qos(qos: crate::QoS) -> mqttbytes::QoS {
    match qos {
        crate::QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
        crate::QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
        crate::QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
    }
}

/// PINGREQ.
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];

/// DISCONNECT; its reason and session expiry interval are MQTT 5's.
pub(crate) fn disconnect(version: Version, reason: ReasonCode, session_expiry_s: Option<u32>, out: &mut Vec<u8>) {
    match session_expiry_s.filter(|_| version.is_v5()) {
        Some(expiry_s) => {
            out.extend_from_slice(&[0xe0, 7, reason as u8, 5, id::SESSION_EXPIRY_INTERVAL]);
            out.extend_from_slice(&expiry_s.to_be_bytes());
        }
        None if reason == ReasonCode::Success || !version.is_v5() => out.extend_from_slice(&[0xe0, 0]),
        None => out.extend_from_slice(&[0xe0, 1, reason as u8]),
    }
}

/// AUTH; false, and nothing is written, when it is larger than the server takes [MQTT5-3.2.2-15].
#[must_use]
pub(crate) fn auth(reason: ReasonCode, method: &str, data: &[u8], maximum: u32, out: &mut Vec<u8>) -> bool {
    let mut properties = Vec::new();
    put_binary(&mut properties, id::AUTHENTICATION_METHOD, method.as_bytes());
    if !data.is_empty() {
        put_binary(&mut properties, id::AUTHENTICATION_DATA, data);
    }
    let mut body = vec![reason as u8];
    put_varint(&mut body, properties.len());
    body.extend_from_slice(&properties);
    let fits = packet_len(body.len()) <= maximum as usize;
    if fits {
        out.push(0xf0);
        put_varint(out, body.len());
        out.extend_from_slice(&body);
    }
    fits
}
