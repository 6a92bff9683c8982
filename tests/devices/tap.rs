//! A connection that is listened to: what a device sends, and whether it waits as long as the broker asks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use forebay_firmware::adapter::std::Transport;
use forebay_wire::frame;
use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::publish::{From, Publish};
use forebay_wire::read::Reader;
use forebay_wire::types::Version;

/// What was heard on the connections of one device.
#[derive(Debug, Default)]
pub struct Log {
    /// Alarms that were published and are not sent yet.
    pub alarms: BTreeSet<u32>,
    sent: BTreeSet<u32>,
    by_id: BTreeMap<u16, u32>,
    /// When a message may be sent again.
    earliest: BTreeMap<u32, Instant>,
    /// Until when no alarm is sent.
    alarms_wait: Option<Instant>,
    pub refused: u32,
    pub repeated: u32,
}

/// What a payload of these tests says: the device, the number of the message, and whether it is an alarm.
pub fn payload(device: u32, number: u32, alarm: bool) -> Vec<u8> {
    let mut payload = [device.to_be_bytes(), number.to_be_bytes()].concat();
    payload.push(u8::from(alarm));
    payload.resize(60, b'.');
    payload
}

pub fn parse(payload: &[u8]) -> (u32, u32, bool) {
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    (number(0), number(4), payload[8] == 1)
}

impl Log {
    fn on_publish(&mut self, publish: &Publish<'_>) {
        let (_, number, alarm) = parse(publish.payload);
        if let Some(id) = publish.packet_id {
            self.by_id.insert(id.get(), number);
        }
        let now = Instant::now();
        if let Some(earliest) = self.earliest.remove(&number) {
            assert!(now >= earliest, "message {number} comes {:?} before its time", earliest - now);
        }
        if !self.sent.insert(number) {
            self.repeated += 1;
            return;
        }
        self.alarms.remove(&number);
        let held = self.alarms_wait.is_some_and(|until| until > now);
        assert!(alarm || held || self.alarms.is_empty(), "{number} goes before alarms: {:?}", self.alarms);
    }

    fn on_refused(&mut self, id: u16, properties: &[u8]) {
        let wait = Properties::new(properties, Place::Ack).find_map(|property| match property.unwrap().property {
            Property::UserProperty("retry-after-ms", value) => value.parse().ok(),
            _ => None,
        });
        let wait = Duration::from_millis(wait.expect("a time to wait"));
        let number = self.by_id[&id];
        self.refused += 1;
        self.earliest.insert(number, Instant::now() + wait);
        // With the jitter of the device.
        self.alarms_wait = self.alarms_wait.max(Some(Instant::now() + wait * 2));
    }
}

pub struct Tap {
    stream: TcpStream,
    version: Version,
    log: Rc<RefCell<Log>>,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Tap {
    pub fn new(stream: TcpStream, version: Version, log: Rc<RefCell<Log>>) -> Self {
        Self { stream, version, log, up: Vec::new(), down: Vec::new() }
    }
}

/// The next whole packet.
fn next(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let frame = frame::peek(bytes, u32::MAX).unwrap().filter(|frame| bytes.len() >= frame.total())?;
    let packet: Vec<u8> = bytes.drain(..frame.total()).collect();
    Some((frame.first_byte, packet[frame.header_len..].to_vec()))
}

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buf)?;
        self.down.extend(&buf[..len]);
        while let Some((first, body)) = next(&mut self.down) {
            let is_ack = matches!(first >> 4, frame::PUBACK | frame::PUBREC);
            if is_ack && body.get(2) == Some(&0x97) {
                let mut reader = Reader::new(&body);
                let id = reader.u16().unwrap();
                reader.u8().unwrap();
                let len = reader.varint().unwrap();
                self.log.borrow_mut().on_refused(id, reader.bytes(len as usize).unwrap());
            }
        }
        Ok(len)
    }
}

impl Write for Tap {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.stream.write(buf)?;
        self.up.extend(&buf[..len]);
        while let Some((first, body)) = next(&mut self.up) {
            if first >> 4 == frame::PUBLISH {
                let publish = Publish::parse(self.version, From::Client, first, &body, 100).unwrap();
                self.log.borrow_mut().on_publish(&publish);
            }
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Transport for Tap {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.stream.set_wait(wait)
    }
}
