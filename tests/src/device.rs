//! A client that keeps its session over lost connections and a killed broker, as a device with an outbox does.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::link::{Endpoint, Link};
use crate::packet::{self, Ack, Message, Packet, Version};

/// How long a read waits before it looks whether there is something else to do.
const READ_LIMIT: Duration = Duration::from_millis(20);
/// How long a broker may take to answer CONNECT or SUBSCRIBE before the connection is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// One connection: bytes in both directions, and what was read of a packet that is not yet whole.
#[derive(Debug)]
pub struct Wire {
    link: Link,
    version: Version,
    input: Vec<u8>,
}

impl Wire {
    /// Connects and sends CONNECT; the answer is the connection and whether the broker knew the session.
    pub fn open(endpoint: &Endpoint, version: Version, client: &str) -> io::Result<(Self, bool)> {
        let link = endpoint.connect(READ_LIMIT)?;
        let mut wire = Self { link, version, input: Vec::new() };
        wire.send(&packet::connect(version, client))?;
        match wire.answer()? {
            Packet::Connack(present, 0, _) => Ok((wire, present)),
            other => Err(io::Error::other(format!("instead of CONNACK: {other:?}"))),
        }
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.write_all(bytes)?;
        self.link.flush()
    }

    /// The next packet, or none if nothing came for a short while.
    pub fn receive(&mut self) -> io::Result<Option<Packet>> {
        if let Some(packet) = packet::take(self.version, &mut self.input)? {
            return Ok(Some(packet));
        }
        let mut chunk = [0; 16 * 1024];
        match self.link.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.input.extend(&chunk[..n]),
            Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(None),
            Err(why) => return Err(why),
        }
        packet::take(self.version, &mut self.input)
    }

    /// The next packet, waiting for it.
    pub fn answer(&mut self) -> io::Result<Packet> {
        let begun = Instant::now();
        while begun.elapsed() < ANSWER_LIMIT {
            if let Some(packet) = self.receive()? {
                return Ok(packet);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// Who a device is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where the broker is.
    pub endpoint: Endpoint,
    /// Which protocol it speaks.
    pub version: Version,
    /// Its client identifier.
    pub client: String,
}

/// What has become of a message under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// PUBLISH is sent, nothing came back.
    Published,
    /// PUBREC came, PUBREL is sent: the payload must not be sent again [MQTT-4.3.3-1].
    Released,
    /// The broker refused it with this code; it waits to be taken back.
    Refused(u8),
}

#[derive(Debug)]
struct Flight {
    id: u16,
    stage: Stage,
    payload: Vec<u8>,
}

/// Publishes to one topic at one QoS; what is not acknowledged is kept and sent again with DUP after a reconnect.
#[derive(Debug)]
pub struct Publisher {
    identity: Identity,
    topic: String,
    qos: u8,
    wire: Option<Wire>,
    flights: VecDeque<Flight>,
    next_id: u16,
    /// How many messages the broker has acknowledged to the end.
    pub acknowledged: u64,
    /// How many PUBLISH packets went out with DUP.
    pub repeated: u64,
    had_answer: bool,
}

impl Publisher {
    /// A publisher that is not connected yet.
    pub fn new(identity: Identity, topic: &str, qos: u8) -> Self {
        assert!(qos == 1 || qos == 2);
        let (wire, flights) = (None, VecDeque::new());
        let topic = topic.to_owned();
        Self { identity, topic, qos, wire, flights, next_id: 1, acknowledged: 0, repeated: 0, had_answer: false }
    }

    /// How many messages wait for an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// Drops the connection without a word.
    pub fn cut(&mut self) {
        self.wire = None;
    }

    /// Connects if it is not connected, and sends again what is not acknowledged, in its order [MQTT-4.4.0-1].
    pub fn connect(&mut self) -> io::Result<()> {
        if self.wire.is_some() {
            return Ok(());
        }
        let (mut wire, present) = Wire::open(&self.identity.endpoint, self.identity.version, &self.identity.client)?;
        assert!(present || !self.had_answer, "{}: the broker forgot the session", self.identity.client);
        for flight in &self.flights {
            match flight.stage {
                Stage::Published => {
                    self.repeated += 1;
                    let version = self.identity.version;
                    let bytes = packet::publish(version, true, self.qos, flight.id, &self.topic, &flight.payload);
                    wire.send(&bytes)?;
                }
                Stage::Released => wire.send(&packet::ack(Ack::Pubrel, flight.id))?,
                Stage::Refused(_) => {}
            }
        }
        self.wire = Some(wire);
        Ok(())
    }

    /// Takes a message into the outbox and sends it if it can. It is kept until it is acknowledged.
    pub fn publish(&mut self, payload: Vec<u8>) {
        let id = self.free_id();
        let bytes = packet::publish(self.identity.version, false, self.qos, id, &self.topic, &payload);
        self.flights.push_back(Flight { id, stage: Stage::Published, payload });
        if let Some(wire) = &mut self.wire
            && wire.send(&bytes).is_err()
        {
            self.wire = None;
        }
    }

    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            if !self.flights.iter().any(|f| f.id == id) {
                return id;
            }
        }
    }

    /// Reads what has come and acts on it. An error has closed the connection; the session is kept.
    pub fn poll(&mut self) -> io::Result<()> {
        let Some(wire) = &mut self.wire else { return Err(io::ErrorKind::NotConnected.into()) };
        let outcome = wire.receive().and_then(|packet| packet.map_or(Ok(()), |p| self.take(p)));
        if outcome.is_err() {
            self.wire = None;
        }
        outcome
    }

    fn take(&mut self, packet: Packet) -> io::Result<()> {
        let Packet::Ack(kind, id, code, _) = packet else {
            return match packet {
                Packet::Disconnect(code, _) => Err(io::Error::other(format!("DISCONNECT {code:#x}"))),
                other => panic!("{}: unexpected {other:?}", self.identity.client),
            };
        };
        self.had_answer = true;
        let Some(at) = self.flights.iter().position(|f| f.id == id) else {
            // A PUBREC or PUBCOMP may come again for what is over [MQTT5-4.3.3-4].
            assert!(self.qos == 2, "{}: {kind:?} for {id}, which is not in flight", self.identity.client);
            return if kind == Ack::Pubrec { self.send(&packet::ack(Ack::Pubrel, id)) } else { Ok(()) };
        };
        let end = match kind {
            // The broker has released it before its PUBCOMP was lost [MQTT5-3.7.2.1].
            Ack::Pubcomp if code == 0x92 => true,
            _ if code >= 0x80 => {
                self.flights[at].stage = Stage::Refused(code);
                return Ok(());
            }
            Ack::Puback => self.qos == 1,
            Ack::Pubcomp => self.flights[at].stage == Stage::Released,
            Ack::Pubrec => {
                self.flights[at].stage = Stage::Released;
                return self.send(&packet::ack(Ack::Pubrel, id));
            }
            Ack::Pubrel => false,
        };
        assert!(end, "{}: {kind:?} for {id} at QoS {}, out of turn", self.identity.client, self.qos);
        self.flights.remove(at);
        self.acknowledged += 1;
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.as_mut().map_or(Ok(()), |wire| wire.send(bytes))
    }

    /// Takes back what the broker refused: the reason codes and payloads, oldest first.
    pub fn take_refused(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut refused = Vec::new();
        self.flights.retain_mut(|flight| match flight.stage {
            Stage::Refused(code) => {
                refused.push((code, std::mem::take(&mut flight.payload)));
                false
            }
            Stage::Published | Stage::Released => true,
        });
        refused
    }
}

/// Subscribes to one filter with a session that is kept, and hands on each message once at QoS 2.
#[derive(Debug)]
pub struct Subscriber {
    identity: Identity,
    filter: String,
    qos: u8,
    wire: Option<Wire>,
    subscribed: bool,
    unreleased: HashSet<u16>,
    /// How many reads in a row have brought nothing, not even a PUBREL.
    pub idle: u32,
    /// How many PUBLISH packets came with DUP.
    pub repeated: u64,
}

/// A message as an application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The topic name.
    pub topic: String,
    /// The application's bytes.
    pub payload: Vec<u8>,
    /// The QoS that it came with.
    pub qos: u8,
}

impl Subscriber {
    /// A subscriber that is not connected yet.
    pub fn new(identity: Identity, filter: &str, qos: u8) -> Self {
        let filter = filter.to_owned();
        Self { identity, filter, qos, wire: None, subscribed: false, unreleased: HashSet::new(), idle: 0, repeated: 0 }
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// Goes away: with DISCONNECT, or without a word.
    pub fn leave(&mut self, politely: bool) {
        if let Some(mut wire) = self.wire.take()
            && politely
        {
            let _ = wire.send(&packet::DISCONNECT);
        }
    }

    /// The broker has to know its session, from a subscriber of the same name that was there before.
    pub fn resume(&mut self) {
        self.subscribed = true;
    }

    /// Connects if it is not connected; subscribes if it never did. After that the broker has to know the session.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.wire.is_some() {
            return Ok(());
        }
        let (mut wire, present) = Wire::open(&self.identity.endpoint, self.identity.version, &self.identity.client)?;
        assert!(present || !self.subscribed, "{}: the broker forgot the session", self.identity.client);
        if !self.subscribed {
            wire.send(&packet::subscribe(self.identity.version, 1, &self.filter, self.qos))?;
            match wire.answer()? {
                Packet::Suback(1, codes, _) if codes == [self.qos] => self.subscribed = true,
                other => return Err(io::Error::other(format!("instead of SUBACK: {other:?}"))),
            }
        }
        self.wire = Some(wire);
        Ok(())
    }

    /// Reads one packet and answers it; a message is handed on if it is new. An error has closed the connection.
    pub fn poll(&mut self) -> io::Result<Option<Received>> {
        let Some(wire) = &mut self.wire else { return Err(io::ErrorKind::NotConnected.into()) };
        let received = wire.receive();
        self.idle = if matches!(received, Ok(None)) { self.idle + 1 } else { 0 };
        let outcome = received.and_then(|packet| packet.map_or(Ok(None), |p| self.take(p)));
        // A message is handed on even if its acknowledgement could not be sent any more.
        match outcome {
            Ok(message) => Ok(message),
            Err(why) => {
                self.wire = None;
                Err(why)
            }
        }
    }

    fn take(&mut self, packet: Packet) -> io::Result<Option<Received>> {
        match packet {
            Packet::Publish(Message { dup, qos, id, topic, payload, .. }) => {
                self.repeated += u64::from(dup);
                let (new, answer) = match qos {
                    0 => (true, None),
                    1 => (true, Some(Ack::Puback)),
                    _ => (self.unreleased.insert(id), Some(Ack::Pubrec)),
                };
                if let Some(answer) = answer {
                    self.send(&packet::ack(answer, id));
                }
                Ok(new.then_some(Received { topic, payload, qos }))
            }
            Packet::Ack(Ack::Pubrel, id, ..) => {
                self.unreleased.remove(&id);
                self.send(&packet::ack(Ack::Pubcomp, id));
                Ok(None)
            }
            Packet::Disconnect(code, _) => Err(io::Error::other(format!("DISCONNECT {code:#x}"))),
            other => panic!("{}: unexpected {other:?}", self.identity.client),
        }
    }

    /// A failed write shows at the next read.
    fn send(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            let _ = wire.send(bytes);
        }
    }
}
