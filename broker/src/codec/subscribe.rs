//! SUBSCRIBE and UNSUBSCRIBE: guarded, then read by mqttbytes; UNSUBSCRIBE of MQTT 5 by hand, as mqttbytes prints it to
//! standard error.

use bytes::Bytes;
use forebay_wire::frame::Frame;
use forebay_wire::property::{Place, Property};
use forebay_wire::read::Reader;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::types::{PacketId, QoS, Version};
use mqttbytes::{FixedHeader, v4, v5};

use super::control::packet_id;
use super::{CodecError, Limits, Subscribe, SubscribeFilter, Unsubscribe, walk};

fn header(frame: &Frame) -> FixedHeader {
    FixedHeader::new(frame.first_byte, frame.header_len.saturating_sub(1), frame.remaining_len)
}

/// What stands before the filters.
struct Opening {
    id: PacketId,
    subscription_id: Option<u32>,
    user: Vec<(String, String)>,
}

/// Packet identifier and, in MQTT 5, the properties.
fn opening<'a>(version: Version, r: &mut Reader<'a>, place: Place, limits: &Limits) -> Result<Opening, CodecError> {
    let mut opening = Opening { id: packet_id(r.u16()?)?, subscription_id: None, user: Vec::new() };
    if version.is_v5() {
        let len = r.varint()?;
        let section: &'a [u8] = r.bytes(len as usize)?;
        walk(section, place, limits, |property, _| {
            if let Property::SubscriptionIdentifier(value) = property {
                opening.subscription_id = Some(value);
            } else if let Property::UserProperty(name, value) = property {
                opening.user.push((name.to_owned(), value.to_owned()));
            }
        })?;
    }
    Ok(opening)
}

fn count(filters: usize, limits: &Limits) -> Result<(), CodecError> {
    if filters > limits.max_filters_per_packet {
        let detail = format!("more than {} topic filters in one packet", limits.max_filters_per_packet);
        return Err(CodecError::new(ReasonCode::QuotaExceeded, "MQTT5-4.13.2", detail));
    }
    Ok(())
}

pub(super) fn read_subscribe(
    version: Version,
    frame: &Frame,
    packet: &[u8],
    limits: &Limits,
) -> Result<Subscribe, CodecError> {
    let mut r = Reader::new(packet.get(frame.header_len..).unwrap_or_default());
    let Opening { id, subscription_id, user } = opening(version, &mut r, Place::Subscribe, limits)?;
    let mut filters = 0;
    while !r.is_empty() {
        let filter = r.string()?;
        check_form(filter)?;
        check_options(version, filter, r.u8()?)?;
        filters += 1;
        count(filters, limits)?;
    }
    if filters == 0 {
        return Err(CodecError::protocol("MQTT5-3.8.3-2", "SUBSCRIBE without a topic filter"));
    }
    let filters = if version.is_v5() { filters_v5(frame, packet, limits)? } else { filters_v4(frame, packet, limits)? };
    Ok(Subscribe { id, subscription_id, user, filters })
}

/// A filter that is none costs the connection, in every version: 3.1.1 has nothing else for it [MQTT-4.8.0-1], and the
/// codes 0x8F and 0x80 are for filters that are well formed and not allowed [MQTT5-3.9.3].
fn check_form(filter: &str) -> Result<(), CodecError> {
    topic::check_filter(filter, usize::MAX).map_err(|error| CodecError::malformed(error.statement, error.detail))
}

fn check_options(version: Version, filter: &str, options: u8) -> Result<(), CodecError> {
    let reserved = if version.is_v5() { 0xc0 } else { 0xfc };
    if options & reserved != 0 {
        return Err(CodecError::malformed("MQTT5-3.8.3-5", "reserved subscription options are set"));
    }
    if options & 0x03 == 0x03 {
        return Err(CodecError::protocol("MQTT5-3.8.3-4", "QoS 3 in a subscription"));
    }
    if options & 0x30 == 0x30 {
        return Err(CodecError::protocol("MQTT5-3.8.3.1", "Retain Handling 3"));
    }
    if options & 0x04 != 0 && filter.starts_with("$share/") {
        return Err(CodecError::protocol("MQTT5-3.8.3-4", "No Local on a shared subscription"));
    }
    Ok(())
}

/// Whether it is one that this broker takes: it has a limit of levels.
fn valid(filter: &str, limits: &Limits) -> Result<(), ReasonCode> {
    topic::check_filter(filter, limits.max_topic_levels).map_err(|error| error.reason)
}

fn filters_v4(frame: &Frame, packet: &[u8], limits: &Limits) -> Result<Vec<SubscribeFilter>, CodecError> {
    let read = v4::Subscribe::read(header(frame), Bytes::copy_from_slice(packet))
        .map_err(|error| CodecError::unread(&error))?;
    let filters = read.filters.into_iter().map(|filter| SubscribeFilter {
        valid: valid(&filter.path, limits),
        qos: qos(filter.qos),
        filter: filter.path,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    });
    Ok(filters.collect())
}

fn filters_v5(frame: &Frame, packet: &[u8], limits: &Limits) -> Result<Vec<SubscribeFilter>, CodecError> {
    let read = v5::Subscribe::read(header(frame), Bytes::copy_from_slice(packet))
        .map_err(|error| CodecError::unread(&error))?;
    let filters = read.filters.into_iter().map(|filter| SubscribeFilter {
        valid: valid(&filter.path, limits),
        qos: qos(filter.qos),
        filter: filter.path,
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            v5::RetainForwardRule::OnEverySubscribe => 0,
            v5::RetainForwardRule::OnNewSubscribe => 1,
            v5::RetainForwardRule::Never => 2,
        },
    });
    Ok(filters.collect())
}

fn qos(qos: mqttbytes::QoS) -> QoS {
    match qos {
        mqttbytes::QoS::AtMostOnce => QoS::AtMostOnce,
        mqttbytes::QoS::AtLeastOnce => QoS::AtLeastOnce,
        mqttbytes::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub(super) fn read_unsubscribe(
    version: Version,
    frame: &Frame,
    packet: &[u8],
    limits: &Limits,
) -> Result<Unsubscribe, CodecError> {
    let mut r = Reader::new(packet.get(frame.header_len..).unwrap_or_default());
    let Opening { id, .. } = opening(version, &mut r, Place::Unsubscribe, limits)?;
    let mut filters = Vec::new();
    while !r.is_empty() {
        let filter = r.string()?;
        check_form(filter)?;
        filters.push(filter);
        count(filters.len(), limits)?;
    }
    if filters.is_empty() {
        return Err(CodecError::protocol("MQTT5-3.10.3-2", "UNSUBSCRIBE without a topic filter"));
    }
    if version.is_v5() {
        return Ok(Unsubscribe { id, filters: filters.into_iter().map(str::to_owned).collect() });
    }
    let read = v4::Unsubscribe::read(header(frame), Bytes::copy_from_slice(packet))
        .map_err(|error| CodecError::unread(&error))?;
    Ok(Unsubscribe { id, filters: read.topics })
}
