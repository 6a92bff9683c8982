//! A connection does so much in a turn and no more: the others of its worker have theirs in between.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use forebay::broker::{Broker, Slot};
use forebay::codec::encode;
use forebay::session::Link;
use forebay::store::{DropReason, StoredSubscription};
use forebay_wire::publish::{From as Sender, Publish};
use forebay_wire::types::{PacketId, Version};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::board::link;
use crate::world::World;

/// Bytes that a connection holds: it is never what holds anything up here.
const ROOM: usize = 64 << 20;
const PINGREQ: [u8; 2] = [0xC0, 0];

/// A raw client.
pub struct Raw {
    stream: DuplexStream,
    input: Vec<u8>,
}

/// How a client connects.
pub struct Hello {
    pub version: Version,
    pub name: u8,
    pub keep_alive_s: u8,
    /// Bytes that its network connection holds in each direction.
    pub room: usize,
    pub properties: Vec<u8>,
}

impl Hello {
    /// With a session that ends with the connection.
    pub fn of(version: Version, name: u8) -> Self {
        let properties = if version.is_v5() { vec![0] } else { Vec::new() };
        Self { version, name, keep_alive_s: 0, room: ROOM, properties }
    }

    pub fn connect(self, world: &mut World) -> Raw {
        let mut raw = Raw { stream: world.dial(self.room), input: Vec::new() };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', self.version.level(), 2, 0, self.keep_alive_s];
        body.extend_from_slice(&self.properties);
        body.extend([0, 1, self.name]);
        raw.send(&[&[0x10, u8::try_from(body.len()).unwrap()][..], &body].concat());
        while raw.packets().is_empty() {
            world.run(1);
        }
        raw
    }
}

impl Raw {
    /// With a session that ends with the connection.
    pub fn connect(world: &mut World, version: Version, name: u8) -> Self {
        Hello::of(version, name).connect(world)
    }

    /// With a session expiry interval and a Receive Maximum, in MQTT 5.
    pub fn connect_for(world: &mut World, name: u8, expiry_s: u32, receive_maximum: u16) -> Self {
        let properties = [&[8, 0x11][..], &expiry_s.to_be_bytes(), &[0x21], &receive_maximum.to_be_bytes()].concat();
        Hello { properties, ..Hello::of(Version::V5, name) }.connect(world)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            matches!(Pin::new(&mut self.stream).poll_write(&mut cx, bytes), Poll::Ready(Ok(n)) if n == bytes.len())
        );
    }

    /// The packets that have come: first byte and body.
    pub fn packets(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = vec![0; 1 << 16];
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.input.extend_from_slice(buf.filled()),
                Poll::Ready(_) => panic!("the broker has closed the connection"),
                Poll::Pending => break,
            }
        }
        let (packets, used) = split(&self.input);
        self.input.drain(..used);
        packets
    }
}

/// The whole packets in these bytes, and how many bytes they take.
pub fn split(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, usize) {
    let (mut packets, mut at) = (Vec::new(), 0);
    while let Ok(Some(frame)) = forebay_wire::frame::peek(&bytes[at..], u32::MAX) {
        let Some(packet) = bytes[at..].get(..frame.total()) else { break };
        packets.push((frame.first_byte, packet[frame.header_len..].to_vec()));
        at += frame.total();
    }
    (packets, at)
}

/// The number in a PUBLISH, if it has one.
pub fn number(first: u8, body: &[u8]) -> Option<u16> {
    let publish = Publish::parse(Version::V5, Sender::Server, first, body, 128).unwrap();
    publish.payload.first_chunk().copied().map(u16::from_be_bytes)
}

/// A session that asks for QoS 0, and whose client takes nothing.
fn subscriber(broker: &Arc<Broker>, name: &str, filter: &str) -> Arc<Slot> {
    let link = Link { receive_maximum: 10, ..link() };
    let slot = broker.open(name, true, link, 0).slot;
    let filter = filter.to_owned();
    let (qos, no_local, retain_as_published, subscription_id) = (0, false, false, 0);
    broker.subscribe(
        &slot,
        StoredSubscription { filter, qos, no_local, retain_as_published, subscription_id, retained_behind: None },
    );
    slot
}

fn publishes(topic: &[u8], qos: u8, count: u16, size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut payload = vec![b'.'; size];
    for n in 1..=count {
        payload[..2].copy_from_slice(&n.to_be_bytes());
        let id = PacketId::new(n).filter(|_| qos > 0);
        encode::publish(&mut out, Version::V5, false, qos, false, topic, id, None, &[], None, &[], &payload);
    }
    out
}

/// What the broker had accepted when the first byte came.
fn note_first_byte(world: &mut World, raw: &Arc<Mutex<Raw>>) -> Arc<AtomicU64> {
    let (broker, accepted) = (world.broker(), Arc::new(AtomicU64::new(u64::MAX)));
    let (noted, raw) = (accepted.clone(), raw.clone());
    world.spawn(async move {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        std::future::poll_fn(|cx| Pin::new(&mut raw.lock().unwrap().stream).poll_read(cx, &mut buf)).await.unwrap();
        noted.store(broker.ledger().0.accepted, Ordering::Relaxed);
    });
    // Until it waits.
    world.run(100);
    accepted
}

#[test]
fn a_publisher_with_many_subscribers_leaves_others_their_turn() {
    const SUBSCRIBERS: u64 = 200;
    const MESSAGES: u16 = 900;
    for qos in [0, 1, 2] {
        let mut world = World::new(3);
        let broker = world.broker();
        let subscribers: Vec<_> = (0..SUBSCRIBERS).map(|n| subscriber(&broker, &format!("wide{n}"), "wide")).collect();
        let (mut publisher, other) = [b'p', b'o'].map(|name| Raw::connect(&mut world, Version::V5, name)).into();
        let other = Arc::new(Mutex::new(other));
        let at_pingresp = note_first_byte(&mut world, &other);
        publisher.send(&publishes(b"wide", qos, MESSAGES, 10));
        other.lock().unwrap().send(&PINGREQ);
        let all = SUBSCRIBERS * u64::from(MESSAGES);
        let mut acks = Vec::new();
        while broker.ledger().0.accepted < all || qos > 0 && acks.len() < usize::from(MESSAGES) {
            world.run(1);
            world.commit(false);
            acks.extend(publisher.packets().into_iter().map(|(first, body)| {
                assert_eq!((first, body.len()), (if qos == 1 { 0x40 } else { 0x50 }, 2), "a success");
                u16::from_be_bytes([body[0], body[1]])
            }));
        }
        let done = at_pingresp.load(Ordering::Relaxed);
        // As one block of bytes for each subscriber they are a turn's work, one by one they are not.
        assert!(qos == 0 || done < all * 3 / 4, "QoS {qos}: {done} of {all} before the PINGRESP");
        assert!(qos == 0 || acks.iter().copied().eq(1..=MESSAGES), "acks in order: {acks:?}");
        for slot in subscribers {
            let out = slot.with(&broker, |session| session.take_all_out());
            let came = split(&out).0.into_iter().filter_map(|(first, body)| number(first, &body));
            assert!(came.eq(1..=MESSAGES), "messages in order at QoS {qos}");
        }
    }
}

/// A publication of 1 MB for 500 slow readers was 500 MB of copies, in one turn of its publisher.
#[test]
fn a_large_payload_is_written_from_one_place_for_all_its_subscribers() {
    const SUBSCRIBERS: usize = 100;
    // First byte, remaining length, topic with its length, no properties.
    const HEAD: usize = 1 + 3 + 2 + 5 + 1;
    for qos in [0, 1, 2] {
        let mut world = World::new(3);
        let broker = world.broker();
        let subscribers: Vec<_> = (0..SUBSCRIBERS).map(|n| subscriber(&broker, &format!("s{n}"), "large")).collect();
        let mut publisher = Raw::connect(&mut world, Version::V5, b'p');
        publisher.send(&publishes(b"large", qos, 2, 200_000));
        while broker.ledger().0.accepted < 2 * SUBSCRIBERS as u64 {
            world.run(1);
        }
        let mut places = [const { Vec::new() }; 2];
        for slot in &subscribers {
            assert_eq!(slot.look(|session| session.out_len()), 2 * (200_000 + HEAD));
            for (n, places) in (1..).zip(&mut places) {
                let piece = slot.with(&broker, |session| session.take_out());
                let whole = [&piece.bytes, piece.payload()].concat();
                let packet = split(&whole).0.remove(0);
                assert_eq!((number(packet.0, &packet.1), piece.len()), (Some(n), whole.len()));
                places.push(piece.payload().as_ptr());
            }
            assert!(slot.with(&broker, |session| session.take_out()).is_empty());
        }
        let ledger = broker.ledger();
        assert_eq!((ledger.0.delivered, ledger.1), (2 * SUBSCRIBERS as u64, 0), "QoS {qos}");
        for mut places in places {
            places.dedup();
            assert_eq!((places.len(), places[0].is_null()), (1, false), "QoS {qos}: copies");
        }
    }
}

/// What one read brings is less than a buffer, and the subscriber has its turn before the next.
#[test]
fn a_burst_at_qos_0_arrives_whole_where_the_socket_takes_it() {
    const MESSAGES: u16 = 20_000;
    let mut world = World::new(3);
    let (mut reader, mut publisher) = [b'r', b'p'].map(|name| Raw::connect(&mut world, Version::V5, name)).into();
    reader.send(b"\x82\x08\x00\x01\x00\x00\x02t1\x00");
    while reader.packets().is_empty() {
        world.run(1);
    }
    publisher.send(&publishes(b"t1", 0, MESSAGES, 200));
    let mut came = Vec::new();
    while came.len() < usize::from(MESSAGES) {
        world.run(1);
        came.extend(reader.packets().into_iter().filter_map(|(first, body)| number(first, &body)));
        assert_eq!(world.broker().ledger().0.dropped[DropReason::Qos0 as usize], 0);
    }
    assert!(came.into_iter().eq(1..=MESSAGES));
}
