//! What is heard on the connection of a device: whether it waits as long as the broker asks, and what it sends first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay_tests::line::Way;
use forebay_wire::frame;
use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::publish::{From, Publish};
use forebay_wire::read::Reader;
use forebay_wire::types::{QoS, Version};

/// How the messages of a device are numbered, in the order of publishing.
#[derive(Clone, Copy)]
pub struct Naming {
    /// `None`: it is none of those that are counted.
    pub number: fn(&Publish<'_>) -> Option<u32>,
    pub is_alarm: fn(u32) -> bool,
}

pub struct Log {
    version: Version,
    naming: Naming,
    up: Vec<u8>,
    down: Vec<u8>,
    /// Alarms that the device has in its outbox and has not sent.
    alarms: BTreeSet<u32>,
    sent: BTreeSet<u32>,
    by_id: BTreeMap<u16, u32>,
    /// When a message may be sent again.
    earliest: BTreeMap<u32, Instant>,
    /// Until when no alarm is sent.
    alarms_wait: Option<Instant>,
    /// PUBLISH with QoS 1 and 2, and how many were answered for good.
    pub published: usize,
    pub answered: usize,
    pub refused: u32,
    pub repeated: u32,
    /// Alarms that went before telemetry which had waited longer.
    pub overtook: u32,
    pub faults: Vec<String>,
}

impl Log {
    pub fn new(version: Version, naming: Naming) -> Self {
        Self {
            version,
            naming,
            up: Vec::new(),
            down: Vec::new(),
            alarms: BTreeSet::new(),
            sent: BTreeSet::new(),
            by_id: BTreeMap::new(),
            earliest: BTreeMap::new(),
            alarms_wait: None,
            published: 0,
            answered: 0,
            refused: 0,
            repeated: 0,
            overtook: 0,
            faults: Vec::new(),
        }
    }

    /// A new connection.
    pub fn connected(&mut self) {
        self.up.clear();
        self.down.clear();
    }

    /// The device has this alarm: no telemetry may be chosen before it from now on.
    pub fn has_alarm(&mut self, number: u32) {
        if !self.sent.contains(&number) {
            self.alarms.insert(number);
        }
    }

    /// Bytes go over the connection, in pieces of any length. `before` is told of each PUBLISH with QoS 1 or 2, before it is
    /// looked at, and of each answer that ended one, after that.
    pub fn heard(&mut self, way: Way, bytes: &[u8], mut before: impl FnMut(&mut Self, Came)) {
        let buffer = if way == Way::Up { &mut self.up } else { &mut self.down };
        buffer.extend(bytes);
        let mut buffer = std::mem::take(buffer);
        while let Some((first, body)) = next(&mut buffer) {
            match (way, first >> 4) {
                (Way::Up, frame::PUBLISH) => {
                    let publish = Publish::parse(self.version, From::Client, first, &body, 100).unwrap();
                    if publish.qos != QoS::AtMostOnce {
                        before(self, Came::Publish(&publish));
                        self.published += 1;
                        self.on_publish(&publish);
                    }
                }
                (Way::Down, frame::PUBACK | frame::PUBREC | frame::PUBCOMP) => {
                    let reason = body.get(2).copied().unwrap_or(0);
                    if reason == 0x97 {
                        self.on_refused(&body);
                    }
                    if first >> 4 != frame::PUBREC || reason >= 0x80 {
                        self.answered += 1;
                        before(self, Came::Answer);
                    }
                }
                _ => {}
            }
        }
        *(if way == Way::Up { &mut self.up } else { &mut self.down }) = buffer;
    }

    fn on_publish(&mut self, publish: &Publish<'_>) {
        let Some(number) = (self.naming.number)(publish) else { return };
        let is_alarm = self.naming.is_alarm;
        if let Some(id) = publish.packet_id {
            self.by_id.insert(id.get(), number);
        }
        let now = Instant::now();
        if let Some(earliest) = self.earliest.remove(&number)
            && now < earliest
        {
            self.faults.push(format!("{number} comes {:?} before its time", earliest - now));
        }
        if !self.sent.insert(number) {
            self.repeated += 1;
            return;
        }
        self.alarms.remove(&number);
        let held = self.alarms_wait.is_some_and(|until| until > now);
        if is_alarm(number) {
            self.overtook += u32::from((0..number).any(|other| !is_alarm(other) && !self.sent.contains(&other)));
        } else if !held && !self.alarms.is_empty() {
            self.faults.push(format!("{number} goes before alarms: {:?}", self.alarms));
        }
    }

    fn on_refused(&mut self, body: &[u8]) {
        let mut reader = Reader::new(body);
        let id = reader.u16().unwrap();
        reader.u8().unwrap();
        let len = reader.varint().unwrap();
        let properties = reader.bytes(len as usize).unwrap();
        let wait = Properties::new(properties, Place::Ack).find_map(|property| match property.unwrap().property {
            Property::UserProperty("retry-after-ms", value) => value.parse().ok(),
            _ => None,
        });
        let wait = Duration::from_millis(wait.expect("a time to wait"));
        let number = self.by_id[&id];
        self.refused += 1;
        self.earliest.insert(number, Instant::now() + wait);
        if (self.naming.is_alarm)(number) {
            // With the jitter of the device.
            self.alarms_wait = self.alarms_wait.max(Some(Instant::now() + wait * 2));
        }
    }
}

/// What is told while it is heard.
pub enum Came<'p> {
    Publish(&'p Publish<'p>),
    Answer,
}

/// The next whole packet.
fn next(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let frame = frame::peek(bytes, u32::MAX).unwrap().filter(|frame| bytes.len() >= frame.total())?;
    let packet: Vec<u8> = bytes.drain(..frame.total()).collect();
    Some((frame.first_byte, packet[frame.header_len..].to_vec()))
}
