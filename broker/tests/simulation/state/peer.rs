//! A client of MQTT 5 that acknowledges what it gets and remembers what was said to it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use forebay_wire::publish::{From as Sender, Publish};
use forebay_wire::types::Version;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::model::{Sub, Terms, Will};
use crate::turns::split;

/// Bytes that a connection holds in each direction.
const ROOM: usize = 1 << 20;

/// A message that has come: topic, number, and how.
pub type Came = (String, u32, Terms);

#[derive(Default)]
pub struct Peer {
    pub name: &'static str,
    stream: Option<DuplexStream>,
    input: Vec<u8>,
    /// Session Present of its CONNACK.
    pub greeted: Option<bool>,
    pub pongs: u32,
    /// SUBACKs and UNSUBACKs that have come.
    pub answered: Vec<u16>,
    /// Its publications that are acknowledged: PUBACK, or PUBREC.
    pub acknowledged: Vec<u16>,
    /// QoS 2 identifiers that the broker has not released.
    held: BTreeMap<u16, u32>,
    pub came: Vec<Came>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Peer {
    pub fn named(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    pub fn room() -> usize {
        ROOM
    }

    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    pub fn cut(&mut self) {
        self.stream = None;
        self.input.clear();
        self.greeted = None;
    }

    pub fn connect(&mut self, stream: DuplexStream, clean: bool, expiry_s: u32, will: Option<Will>) {
        self.cut();
        self.stream = Some(stream);
        let will_flags = will.map_or(0, |will| 4 | will.qos << 3 | u8::from(will.retain) << 5);
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, u8::from(clean) << 1 | will_flags, 0, 0, 5, 0x11];
        body.extend_from_slice(&expiry_s.to_be_bytes());
        text(&mut body, self.name);
        if let Some(will) = will {
            body.extend_from_slice(&[5, 0x18]);
            body.extend_from_slice(&will.delay_s.to_be_bytes());
            text(&mut body, &format!("w/{}", self.name));
            body.extend_from_slice(&[0, 4]);
            body.extend_from_slice(&will.number.to_be_bytes());
        }
        self.packet(0x10, &body);
    }

    pub fn packet(&mut self, first: u8, body: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        let mut bytes = vec![first, u8::try_from(body.len()).unwrap()];
        assert!(body.len() < 128, "one byte of length is enough here");
        bytes.extend_from_slice(body);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(stream).poll_write(&mut cx, &bytes) {
            Poll::Ready(Ok(n)) => assert_eq!(n, bytes.len()),
            // The broker has closed it: whoever looks sees that.
            Poll::Ready(Err(_)) => {}
            Poll::Pending => panic!("{}: the broker does not read", self.name),
        }
    }

    pub fn subscribe(&mut self, id: u16, filter: &str, sub: Sub) {
        let mut body = id.to_be_bytes().to_vec();
        match sub.id {
            0 => body.push(0),
            id => body.extend_from_slice(&[2, 0x0B, u8::try_from(id).unwrap()]),
        }
        text(&mut body, filter);
        body.push(sub.qos | u8::from(sub.no_local) << 2 | u8::from(sub.retain_as_published) << 3);
        self.packet(0x82, &body);
    }

    pub fn unsubscribe(&mut self, id: u16, filter: &str) {
        let mut body = id.to_be_bytes().to_vec();
        body.push(0);
        text(&mut body, filter);
        self.packet(0xA2, &body);
    }

    /// `number` 0: an empty payload.
    pub fn publish(&mut self, id: u16, topic: &str, qos: u8, retain: bool, number: u32, expiry_s: Option<u32>) {
        let mut body = Vec::new();
        text(&mut body, topic);
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        match expiry_s {
            Some(s) => {
                body.extend_from_slice(&[5, 2]);
                body.extend_from_slice(&s.to_be_bytes());
            }
            None => body.push(0),
        }
        if number > 0 {
            body.extend_from_slice(&number.to_be_bytes());
        }
        self.packet(0x30 | qos << 1 | u8::from(retain), &body);
    }

    pub fn disconnect(&mut self, reason: u8, expiry_s: Option<u32>) {
        let mut body = vec![reason];
        if let Some(s) = expiry_s {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&s.to_be_bytes());
        }
        self.packet(0xE0, &body);
    }

    /// Handles what has come.
    pub fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = vec![0; 1 << 14];
        while let Some(stream) = &mut self.stream {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.input.extend_from_slice(buf.filled()),
                Poll::Ready(_) => self.stream = None,
                Poll::Pending => break,
            }
        }
        let (packets, used) = split(&self.input);
        self.input.drain(..used);
        for (first, body) in packets {
            self.one(first, &body);
        }
    }

    fn one(&mut self, first: u8, body: &[u8]) {
        let id = || u16::from_be_bytes([body[0], body[1]]);
        let refused = body.get(2).is_some_and(|code| *code >= 0x80);
        match first >> 4 {
            2 => {
                assert_eq!(body[1], 0, "{}: CONNECT refused", self.name);
                self.greeted = Some(body[0] & 1 == 1);
                if body[0] & 1 == 0 {
                    self.held.clear();
                }
            }
            3 => self.arrived(first, body),
            4 => {
                assert!(!refused, "{}: refused", self.name);
                self.acknowledged.push(id());
            }
            5 => {
                assert!(!refused, "{}: refused", self.name);
                self.acknowledged.push(id());
                self.packet(0x62, &id().to_be_bytes());
            }
            6 => {
                self.held.remove(&id());
                self.packet(0x70, &id().to_be_bytes());
            }
            7 => {}
            9 | 11 => {
                assert!(body.last().is_some_and(|code| *code < 0x80), "{}: {first:#x} {body:?}", self.name);
                self.answered.push(id());
            }
            13 => self.pongs += 1,
            14 => self.stream = None,
            other => panic!("{}: packet type {other}", self.name),
        }
    }

    fn arrived(&mut self, first: u8, body: &[u8]) {
        let publish = Publish::parse(Version::V5, Sender::Server, first, body, 128).unwrap();
        let number = publish.payload.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        let (qos, id) = (publish.qos as u8, publish.packet_id.map_or(0, |id| id.get()));
        let terms = Terms { qos, retain: publish.retain, ids: subscription_ids(publish.properties) };
        let topic = publish.topic.to_owned();
        let new = qos < 2
            || self.held.insert(id, number).is_none_or(|before| {
                assert_eq!(before, number, "{}: another message under a held identifier", self.name);
                false
            });
        if new {
            self.came.push((topic, number, terms));
        }
        if qos > 0 {
            self.packet(if qos == 1 { 0x40 } else { 0x50 }, &id.to_be_bytes());
        }
    }
}

/// All of them are below 128: a byte each. Beside them there is at most a Message Expiry Interval.
fn subscription_ids(mut properties: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some((name, rest)) = properties.split_first() {
        match name {
            0x0B => ids.push(u32::from(rest[0])),
            0x02 => {}
            other => panic!("property {other:#x}"),
        }
        properties = &rest[if *name == 0x0B { 1 } else { 4 }..];
    }
    ids.sort_unstable();
    ids
}
