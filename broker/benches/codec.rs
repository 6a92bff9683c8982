//! What a packet costs between the socket and the session: `cargo bench -p forebay --bench codec`. mqttbytes alone stands
//! beside the borrowed PUBLISH, though it checks less.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use forebay::codec::{self, Limits, encode};
use forebay_wire::frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};
use mqttbytes::{FixedHeader, v4, v5};

const TOPIC: &[u8] = b"site/north/device/000017/sensor1";
const PAYLOAD: [u8; 64] = [b'x'; 64];
const LIMITS: Limits =
    Limits { max_user_properties: 100, max_filters_per_packet: 100, max_topic_levels: 128, max_client_id_len: 256 };
/// Content type, response topic, a user property.
const PROPERTIES: &[u8] = b"\x03\x00\x04json\x08\x00\x05reply\x26\x00\x04unit\x00\x07celsius";
const MAX: u32 = 1024 * 1024;

fn published(version: Version, properties: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let id = PacketId::new(7);
    encode::publish(&mut packet, version, false, 1, false, TOPIC, id, None, &[], None, properties, &PAYLOAD);
    packet
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode PUBLISH, QoS 1");
    let cases = [
        ("3.1.1", Version::V311, published(Version::V311, b"")),
        ("5", Version::V5, published(Version::V5, b"")),
        ("5 with 3 properties", Version::V5, published(Version::V5, PROPERTIES)),
    ];
    for (name, version, packet) in &cases {
        group.bench_function(format!("{name}, borrowed"), |b| {
            b.iter(|| {
                let packet = black_box(packet.as_slice());
                let frame = frame::peek(packet, MAX).unwrap().unwrap();
                let publish = codec::read_publish(*version, &frame, packet, &LIMITS).unwrap();
                (publish.topic.len(), publish.payload.len())
            });
        });
        let owned = Bytes::from(packet.clone());
        group.bench_function(format!("{name}, mqttbytes alone"), |b| {
            b.iter(|| {
                let packet = black_box(owned.clone());
                let frame = frame::peek(&packet, MAX).unwrap().unwrap();
                let header = FixedHeader::new(frame.first_byte, frame.header_len - 1, frame.remaining_len);
                if version.is_v5() {
                    v5::Publish::read(header, packet).unwrap().topic.len()
                } else {
                    v4::Publish::read(header, packet).unwrap().topic.len()
                }
            });
        });
    }
    group.finish();
}

fn encoded(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let mut out = Vec::with_capacity(4096);
    for (name, version) in [("PUBLISH 3.1.1", Version::V311), ("PUBLISH 5", Version::V5)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let id = PacketId::new(black_box(7));
                encode::publish(&mut out, version, false, 1, false, TOPIC, id, None, &[], None, b"", &PAYLOAD);
                out.len()
            });
        });
    }
    group.bench_function("PUBACK 5", |b| {
        b.iter(|| {
            out.clear();
            encode::ack(&mut out, Version::V5, codec::AckKind::Puback, PacketId::MIN, black_box(ReasonCode::Success));
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encoded);
criterion_main!(benches);
