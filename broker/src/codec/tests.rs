#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use bytes::BytesMut;
use forebay_wire::publish::{From, Publish};
use mqttbytes::{v4, v5};

use super::encode::{ConnackProperties, DisconnectProperties};
use super::*;

const LIMITS: Limits =
    Limits { max_user_properties: 3, max_filters_per_packet: 4, max_topic_levels: 8, max_client_id_len: 30 };

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first, u8::try_from(body.len()).unwrap()];
    out.extend_from_slice(body);
    out
}

fn read(version: Version, bytes: &[u8]) -> Result<Packet, CodecError> {
    let frame = frame::peek(bytes, 100_000)?.unwrap();
    read_packet(version, &frame, bytes, &LIMITS)
}

fn connect(bytes: &[u8]) -> Result<Connect, ConnectError> {
    let frame = frame::peek(bytes, 100_000).unwrap().unwrap();
    read_connect(&frame, bytes, &LIMITS)
}

#[test]
fn reads_connects_of_every_version() {
    let v31 = connect(&packet(0x10, b"\0\x06MQIsdp\x03\x02\0\x3c\0\x02ab")).unwrap();
    assert_eq!(
        (v31.version, v31.client_id.as_str(), v31.keep_alive_s, v31.clean_start),
        (Version::V31, "ab", 60, true)
    );
    let v311 = connect(&packet(0x10, b"\0\x04MQTT\x04\xee\0\x0a\0\x01c\0\x01w\0\x02hi\0\0\0\x02\xff\xfe")).unwrap();
    let will = v311.will.unwrap();
    assert_eq!(
        (will.topic.as_str(), &will.payload[..], will.qos, will.retain),
        ("w", &b"hi"[..], QoS::AtLeastOnce, true)
    );
    assert_eq!((v311.username.as_deref(), v311.password.as_deref()), (Some(""), Some(&b"\xff\xfe"[..])));
    let v5 = connect(&packet(
        0x10,
        b"\0\x04MQTT\x05\x06\0\x0a\x0d\x11\0\0\0\x07\x21\0\x09\x27\0\0\x10\0\0\x01c\x0c\x18\0\0\0\x05\x02\0\0\0\x08\x01\x01\0\x01w\0\x01p",
    ))
    .unwrap();
    assert_eq!((v5.session_expiry_s, v5.receive_maximum, v5.maximum_packet_size), (7, 9, 4096));
    let will = v5.will.unwrap();
    assert_eq!((will.delay_s, will.expiry_s, &will.properties[..]), (5, Some(8), &[1u8, 1][..]));
}

#[test]
fn refuses_connects_and_knows_how_to_answer() {
    use ReasonCode as R;
    for (bytes, reason, answer) in [
        (&b"\0\x04MQTT\x06\x02\0\0\0\0"[..], R::UnsupportedProtocolVersion, Some(Version::V5)),
        (b"\0\x04MQTT\x03\x02\0\0\0\0", R::UnsupportedProtocolVersion, Some(Version::V311)),
        (b"\0\x04HTTP\x04\x02\0\0\0\0", R::UnsupportedProtocolVersion, None),
        (b"\0\x04MQTT\x04\x00\0\0\0\0", R::ClientIdentifierNotValid, Some(Version::V311)),
        (b"\0\x04MQTT\x04\x03\0\0\0\0", R::MalformedPacket, None),
        (b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p", R::MalformedPacket, None),
        (b"\0\x04MQTT\x04\x02\0\0\0\x01a!", R::MalformedPacket, None),
        (b"\0\x04MQTT\x05\x1e\0\0\0\0\x01a\0\0\x01w\0\0", R::MalformedPacket, Some(Version::V5)),
        (b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", R::ProtocolError, Some(Version::V5)),
        (b"\0\x04MQTT\x05\x02\0\0\x03\x16\0\0\0\0", R::ProtocolError, Some(Version::V5)),
        (b"\0\x04MQTT\x05\x02\0\0\0\0\x03a\0b", R::MalformedPacket, Some(Version::V5)),
        (b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01#\0\0", R::TopicNameInvalid, Some(Version::V5)),
    ] {
        let error = connect(&packet(0x10, bytes)).unwrap_err();
        assert_eq!((error.error.reason, error.answer), (reason, answer), "{bytes:?}: {error:?}");
    }
    assert_eq!(connect(&packet(0x30, b"\0\x01t")).unwrap_err().answer, None);
}

#[test]
fn reads_acks() {
    let expected = |kind, reason| Packet::Ack { kind, id: PacketId::new(7).unwrap(), reason, retry_after_ms: None };
    assert_eq!(read(Version::V311, &[0x40, 2, 0, 7]), Ok(expected(AckKind::Puback, ReasonCode::Success)));
    assert_eq!(read(Version::V5, &[0x50, 3, 0, 7, 0x97]), Ok(expected(AckKind::Pubrec, ReasonCode::QuotaExceeded)));
    assert_eq!(read(Version::V5, &[0x62, 4, 0, 7, 0, 0]), Ok(expected(AckKind::Pubrel, ReasonCode::Success)));
    for (version, bytes, reason) in [
        (Version::V311, &[0x40, 2, 0, 0][..], ReasonCode::MalformedPacket),
        (Version::V311, &[0x40, 3, 0, 7, 0], ReasonCode::MalformedPacket),
        (Version::V5, &[0x62, 3, 0, 7, 0x97], ReasonCode::ProtocolError),
        (Version::V5, &[0x40, 3, 0, 7, 0x03], ReasonCode::MalformedPacket),
        (Version::V5, &[0x40, 5, 0, 7, 0, 0, 0], ReasonCode::MalformedPacket),
        (Version::V5, &[0x40, 6, 0, 7, 0, 2, 0x11, 0], ReasonCode::ProtocolError),
        (Version::V311, &[0x40, 1, 0], ReasonCode::MalformedPacket),
    ] {
        assert_eq!(read(version, bytes).unwrap_err().reason, reason, "{bytes:?}");
    }
}

#[test]
fn reads_subscriptions() {
    let Ok(Packet::Subscribe(v5)) = read(Version::V5, &packet(0x82, b"\0\x05\x02\x0b\x09\0\x03a/+\x2d\0\x01#\x01"))
    else {
        panic!("not a SUBSCRIBE")
    };
    assert_eq!((v5.id.get(), v5.subscription_id), (5, Some(9)));
    let first = &v5.filters[0];
    assert_eq!(
        (first.filter.as_str(), first.qos, first.no_local, first.retain_as_published, first.retain_handling),
        ("a/+", QoS::AtLeastOnce, true, true, 2)
    );
    assert_eq!(v5.filters[1].valid, Ok(()));
    let deep = [&b"\0\x05\0\0\x14"[..], &[b'/'; 20], b"\x01"].concat();
    let Ok(Packet::Subscribe(deep)) = read(Version::V5, &packet(0x82, &deep)) else { panic!("not a SUBSCRIBE") };
    assert_eq!(deep.filters[0].valid, Err(ReasonCode::TopicFilterInvalid));
    for (version, bytes, reason) in [
        (Version::V5, &b"\0\x05\0"[..], ReasonCode::ProtocolError),
        (Version::V5, b"\0\x05\0\0\x01a\x03", ReasonCode::ProtocolError),
        (Version::V5, b"\0\x05\0\0\x01a\x40", ReasonCode::MalformedPacket),
        (Version::V5, b"\0\x05\0\0\x01a\x30", ReasonCode::ProtocolError),
        (Version::V5, b"\0\x05\0\0\x0a$share/g/a\x04", ReasonCode::ProtocolError),
        (Version::V5, b"\0\x05\x02\x0b\0\0\x01a\0", ReasonCode::ProtocolError),
        (Version::V5, b"\0\x05\0\0\x02a#\x01", ReasonCode::MalformedPacket),
        (Version::V311, b"\0\x05\0\0\0", ReasonCode::MalformedPacket),
        (Version::V311, b"\0\x05\0\x01a\x04", ReasonCode::MalformedPacket),
        (Version::V311, b"\0\0\0\x01a\0", ReasonCode::MalformedPacket),
        (Version::V311, b"\0\x05\0\x02\xc0\x80\0", ReasonCode::MalformedPacket),
        (Version::V311, b"\0\x05\0\x01a\0\0\x01a\0\0\x01a\0\0\x01a\0\0\x01a\0", ReasonCode::QuotaExceeded),
    ] {
        assert_eq!(read(version, &packet(0x82, bytes)).unwrap_err().reason, reason, "{bytes:?}");
    }
    for version in [Version::V311, Version::V5] {
        let body: &[u8] = if version.is_v5() { b"\0\x05\0\0\x01a\0\x03b/#" } else { b"\0\x05\0\x01a\0\x03b/#" };
        let Ok(Packet::Unsubscribe(packet)) = read(version, &packet(0xa2, body)) else { panic!("not an UNSUBSCRIBE") };
        assert_eq!(packet.filters, ["a", "b/#"]);
    }
    assert_eq!(read(Version::V311, &packet(0xa2, b"\0\x05")).unwrap_err().reason, ReasonCode::ProtocolError);
}

#[test]
fn reads_disconnect_and_auth() {
    let Ok(Packet::Disconnect(bye)) = read(Version::V5, &packet(0xe0, b"\x04\x05\x11\0\0\0\x09")) else { panic!("no") };
    assert_eq!((bye.reason, bye.session_expiry_s), (ReasonCode::DisconnectWithWill, Some(9)));
    assert!(read(Version::V5, &[0xe0, 0]).is_ok() && read(Version::V5, &[0xe0, 1, 0]).is_ok());
    assert_eq!(read(Version::V5, &[0xe0, 1, 0x8b]).unwrap_err().reason, ReasonCode::ProtocolError);
    assert_eq!(read(Version::V311, &[0xe0, 1, 0]).unwrap_err().reason, ReasonCode::MalformedPacket);
    let Ok(Packet::Auth(auth)) = read(Version::V5, &packet(0xf0, b"\x18\x08\x15\0\x01m\x16\0\x01d")) else {
        panic!("no")
    };
    assert_eq!((auth.method.as_deref(), auth.data.as_deref()), (Some("m"), Some(&b"d"[..])));
    assert_eq!(read(Version::V311, &packet(0xf0, b"\x18\0")).unwrap_err().reason, ReasonCode::MalformedPacket);
    assert_eq!(read(Version::V5, &packet(0x10, b"")).unwrap_err().reason, ReasonCode::ProtocolError);
    assert_eq!(read(Version::V5, &packet(0x90, b"")).unwrap_err().reason, ReasonCode::ProtocolError);
}

#[test]
fn what_is_written_is_read_by_a_client() {
    let id = PacketId::new(258).unwrap();
    let mut out = Vec::new();
    encode::publish(
        &mut out,
        Version::V5,
        true,
        1,
        true,
        b"t/1",
        Some(id),
        Some(3),
        &[1, 300],
        Some(60),
        &[1, 1],
        b"hi",
    );
    encode::publish(&mut out, Version::V5, false, 0, false, b"t", None, None, &[], None, &[], &[7; 300]);
    encode::ack_with_note(
        &mut out,
        Version::V5,
        AckKind::Puback,
        id,
        ReasonCode::QuotaExceeded,
        Some(encode::AckNote::RetryAfterMs(1000)),
        true,
        100,
    );
    encode::ack(&mut out, Version::V5, AckKind::Pubcomp, id, ReasonCode::PacketIdentifierNotFound);
    encode::suback(&mut out, Version::V5, id, &[ReasonCode::GrantedQoS1, ReasonCode::TopicFilterInvalid]);
    encode::unsuback(&mut out, Version::V5, id, &[ReasonCode::NoSubscriptionExisted]);
    let properties =
        ConnackProperties { receive_maximum: Some(9), retry_after_ms: Some(5), ..ConnackProperties::default() };
    encode::connack(&mut out, Version::V5, true, ReasonCode::Success, &properties, u32::MAX);
    let words = DisconnectProperties { reason_string: Some("why".into()), ..DisconnectProperties::default() };
    encode::disconnect(&mut out, ReasonCode::SessionTakenOver, &words, u32::MAX);
    // mqttbytes' reader loses count at a subscription identifier: that packet is read by the wire crate.
    let first = frame::peek(&out, 10_000).unwrap().unwrap();
    let body = &out[first.header_len..first.total()];
    let publish = Publish::parse(Version::V5, From::Server, first.first_byte, body, 8).unwrap();
    assert_eq!((publish.dup, publish.retain, publish.packet_id, publish.topic), (true, true, Some(id), "t/1"));
    assert_eq!((publish.topic_alias, publish.expiry_s, publish.payload), (Some(3), Some(60), &b"hi"[..]));
    let ids = Properties::new(publish.properties, Place::Publish).flatten().filter_map(|item| match item.property {
        Property::SubscriptionIdentifier(id) => Some(id),
        _ => None,
    });
    assert_eq!(ids.collect::<Vec<_>>(), [1, 300]);
    let mut stream = BytesMut::from(&out[first.total()..]);
    let mut next = || v5::read(&mut stream, 10_000).unwrap();
    assert!(matches!(next(), v5::Packet::Publish(p) if p.payload.len() == 300));
    assert!(matches!(next(), v5::Packet::PubAck(p) if p.properties.as_ref().unwrap().user_properties[0].1 == "1000"));
    assert!(matches!(next(), v5::Packet::PubComp(p) if p.pkid == 258));
    assert!(matches!(next(), v5::Packet::SubAck(p) if p.return_codes.len() == 2));
    assert!(matches!(next(), v5::Packet::UnsubAck(p) if p.reasons.len() == 1));
    assert!(
        matches!(next(), v5::Packet::ConnAck(p) if p.session_present && p.properties.as_ref().unwrap().receive_max == Some(9))
    );
    assert!(
        matches!(next(), v5::Packet::Disconnect(p) if p.properties.as_ref().unwrap().reason_string.as_deref() == Some("why"))
    );
}

#[test]
fn older_clients_read_it_as_well() {
    let id = PacketId::new(3).unwrap();
    let mut out = Vec::new();
    encode::connack(&mut out, Version::V311, true, ReasonCode::Success, &ConnackProperties::default(), u32::MAX);
    encode::publish(&mut out, Version::V311, false, 2, false, b"t", Some(id), None, &[4], Some(9), &[1, 1], b"x");
    encode::suback(&mut out, Version::V311, id, &[ReasonCode::GrantedQoS2, ReasonCode::QuotaExceeded]);
    encode::ack(&mut out, Version::V311, AckKind::Puback, id, ReasonCode::NoMatchingSubscribers);
    let mut stream = BytesMut::from(&out[..]);
    let mut next = || v4::read(&mut stream, 10_000).unwrap();
    assert!(matches!(next(), v4::Packet::ConnAck(p) if p.session_present));
    assert!(matches!(next(), v4::Packet::Publish(p) if p.pkid == 3 && &p.payload[..] == b"x"));
    assert!(matches!(next(), v4::Packet::SubAck(p) if p.return_codes.len() == 2));
    assert!(matches!(next(), v4::Packet::PubAck(p) if p.pkid == 3));
}

#[test]
fn large_optional_words_are_left_out() {
    let words = DisconnectProperties { reason_string: Some("x".repeat(100)), ..DisconnectProperties::default() };
    let mut out = Vec::new();
    encode::disconnect(&mut out, ReasonCode::ProtocolError, &words, 50);
    assert_eq!(out, [0xe0, 2, 0x82, 0]);
}

#[test]
fn no_mutation_panics() {
    let seeds: [(Version, &[u8]); 7] = [
        (Version::V5, b"\x10\x20\0\x04MQTT\x05\xce\0\x0a\x05\x11\0\0\0\x07\0\x01c\0\0\x01w\0\x01p\0\x01u\0\x01p"),
        (Version::V311, b"\x10\x17\0\x04MQTT\x04\xce\0\x0a\0\x01c\0\x01w\0\x01p\0\x01u"),
        (Version::V5, b"\x82\x0e\0\x05\x02\x0b\x09\0\x03a/+\x2d\0\x00\x01"),
        (Version::V311, b"\x82\x06\0\x05\0\x01a\x01"),
        (Version::V5, b"\xa2\x06\0\x05\0\0\x01a"),
        (Version::V5, b"\xe0\x07\x04\x05\x11\0\0\0\x09"),
        (Version::V5, b"\xf0\x0a\x18\x08\x15\0\x01m\x16\0\x01d"),
    ];
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut accepted = 0usize;
    for round in 0..200_000 {
        let (version, seed) = seeds[round % seeds.len()];
        let mut bytes = seed.to_vec();
        for _ in 0..random() % 4 {
            let at = 2 + random() % (bytes.len() - 2);
            bytes[at] = random() as u8;
        }
        bytes.truncate(2 + random() % (bytes.len() - 1));
        bytes[1] = (bytes.len() - 2) as u8;
        let frame = frame::peek(&bytes, 1000).unwrap().unwrap();
        accepted += usize::from(read_connect(&frame, &bytes, &LIMITS).is_ok());
        accepted += usize::from(read_packet(version, &frame, &bytes, &LIMITS).is_ok());
    }
    assert!(accepted > 1000, "{accepted}");
}
