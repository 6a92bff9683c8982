//! A client for tests of the protocol itself: it sends any bytes, and says exactly what came back. What does not come
//! as expected fails the test at the line that expected it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::packet::build::{Connect, Publish, Subscribe};
use crate::packet::property::Property;
use crate::packet::{self, Ack, Message, Packet, Version};

/// How long a broker may take before the test is given up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    /// Messages that came while something else was waited for.
    aside: VecDeque<Vec<u8>>,
}

impl Raw {
    /// A TCP connection on which nothing has been sent; `version` is how answers are read.
    #[track_caller]
    pub fn connect(port: u16, version: Version) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, version, input: Vec::new(), aside: VecDeque::new() }
    }

    /// Connects and sends CONNECT.
    #[track_caller]
    pub fn begin(port: u16, connect: &Connect) -> Self {
        let mut raw = Self::connect(port, connect.version());
        raw.send(&connect.packet());
        raw
    }

    /// Connects with success: also whether there was a session, and the properties of CONNACK.
    #[track_caller]
    pub fn open(port: u16, connect: &Connect) -> (Self, bool, Vec<Property>) {
        let mut raw = Self::begin(port, connect);
        let (present, properties) = raw.expect_connack(0);
        (raw, present, properties)
    }

    /// Connects with a clean start, no keep alive, no properties.
    #[track_caller]
    pub fn clean(port: u16, version: Version, client: &str) -> Self {
        Self::open(port, &Connect::new(version, client)).0
    }

    /// Writes bytes. That the broker has closed the connection shows at the next read, not here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Writes bytes given as hexadecimal digits; blanks between them are for the reader.
    #[track_caller]
    pub fn send_hex(&mut self, text: &str) {
        self.send(&hex(text));
    }

    /// Goes away without a word.
    pub fn drop_connection(self) {}

    /// Says DISCONNECT and waits until the broker has closed the connection.
    #[track_caller]
    pub fn leave(mut self) {
        self.send(&packet::DISCONNECT);
        self.expect_closed();
    }

    /// The next whole packet, as it came; none when the broker closed the connection.
    #[track_caller]
    pub fn receive_bytes(&mut self) -> Option<Vec<u8>> {
        // No closure: it would hide the line that expected something.
        match self.aside.pop_front() {
            Some(message) => Some(message),
            None => self.read_bytes(),
        }
    }

    #[track_caller]
    fn read_bytes(&mut self) -> Option<Vec<u8>> {
        let begun = Instant::now();
        loop {
            if let Some(bytes) = packet::take_bytes(&mut self.input).unwrap() {
                return Some(bytes);
            }
            assert!(begun.elapsed() < PATIENCE, "nothing came; unread: {:02x?}", self.input);
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.input.is_empty(), "the connection ended within a packet: {:02x?}", self.input);
                    return None;
                }
                Ok(n) => self.input.extend(&chunk[..n]),
                Err(why) if why.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => panic!("nothing came: {why}; unread: {:02x?}", self.input),
            }
        }
    }

    /// The next packet.
    #[track_caller]
    pub fn receive(&mut self) -> Packet {
        let bytes = self.receive_bytes();
        self.parse(bytes)
    }

    /// The next packet that is no message. Messages that come before it are received later.
    #[track_caller]
    pub fn receive_answer(&mut self) -> Packet {
        loop {
            let bytes = self.read_bytes();
            match bytes {
                Some(message) if message[0] >> 4 == 3 => self.aside.push_back(message),
                other => return self.parse(other),
            }
        }
    }

    #[track_caller]
    fn parse(&self, bytes: Option<Vec<u8>>) -> Packet {
        let bytes = bytes.expect("a packet, but the broker closed the connection");
        let Some(packet) = packet::parse(self.version, &bytes) else { panic!("this makes no sense: {bytes:02x?}") };
        packet
    }

    /// The next packet is this one to the byte.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let came = self.receive_bytes().expect("a packet, but the broker closed the connection");
        assert_eq!(came, bytes, "left: what came; right: what was expected");
    }

    /// CONNACK with this code: session present, and the properties.
    #[track_caller]
    pub fn expect_connack(&mut self, code: u8) -> (bool, Vec<Property>) {
        match self.receive() {
            Packet::Connack(present, came, properties) if came == code => (present, properties),
            other => panic!("instead of CONNACK {code:#04x}: {other:?}"),
        }
    }

    /// CONNACK with this code, and then the end.
    #[track_caller]
    pub fn expect_refused(&mut self, code: u8) -> Vec<Property> {
        let (present, properties) = self.expect_connack(code);
        assert!(!present, "session present in a refusal");
        self.expect_closed();
        properties
    }

    /// A message with this topic and payload.
    #[track_caller]
    pub fn expect_message(&mut self, topic: &str, payload: &[u8]) -> Message {
        match self.receive() {
            Packet::Publish(message) if message.topic == topic && message.payload == payload => message,
            other => panic!("instead of {:?} on {topic}: {other:?}", String::from_utf8_lossy(payload)),
        }
    }

    /// The same, answered: at QoS 2 up to PUBCOMP.
    #[track_caller]
    pub fn take_message(&mut self, topic: &str, payload: &[u8]) -> Message {
        let message = self.expect_message(topic, payload);
        match message.qos {
            0 => {}
            1 => self.send(&packet::ack(Ack::Puback, message.id)),
            _ => {
                self.send(&packet::ack(Ack::Pubrec, message.id));
                match self.receive_answer() {
                    Packet::Ack(Ack::Pubrel, id, 0, _) if id == message.id => {}
                    other => panic!("instead of PUBREL {}: {other:?}", message.id),
                }
                self.send(&packet::ack(Ack::Pubcomp, message.id));
            }
        }
        message
    }

    /// Whatever message comes next, answered: at QoS 2 up to PUBCOMP. What is not a PUBLISH between is an error.
    #[track_caller]
    pub fn take_any(&mut self) -> Message {
        let message = match self.receive() {
            Packet::Publish(message) => message,
            other => panic!("instead of a message: {other:?}"),
        };
        match message.qos {
            0 => {}
            1 => self.send(&packet::ack(Ack::Puback, message.id)),
            _ => {
                self.send(&packet::ack(Ack::Pubrec, message.id));
                match self.receive_answer() {
                    Packet::Ack(Ack::Pubrel, id, 0, _) if id == message.id => {}
                    other => panic!("instead of PUBREL {}: {other:?}", message.id),
                }
                self.send(&packet::ack(Ack::Pubcomp, message.id));
            }
        }
        message
    }

    /// An acknowledgement with this reason code: its properties.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: Ack, id: u16, reason: u8) -> Vec<Property> {
        match self.receive() {
            Packet::Ack(k, i, r, properties) if (k, i, r) == (kind, id, reason) => properties,
            other => panic!("instead of {kind:?} {id} {reason:#04x}: {other:?}"),
        }
    }

    /// SUBACK with these codes.
    #[track_caller]
    pub fn expect_suback(&mut self, id: u16, codes: &[u8]) {
        match self.receive() {
            Packet::Suback(i, c, _) if i == id && c == codes => {}
            other => panic!("instead of SUBACK {id} {codes:02x?}: {other:?}"),
        }
    }

    /// UNSUBACK with these codes; none in 3.1.1.
    #[track_caller]
    pub fn expect_unsuback(&mut self, id: u16, codes: &[u8]) {
        match self.receive() {
            Packet::Unsuback(i, c, _) if i == id && c == codes => {}
            other => panic!("instead of UNSUBACK {id} {codes:02x?}: {other:?}"),
        }
    }

    /// DISCONNECT with this reason, and then the end: its properties.
    #[track_caller]
    pub fn expect_disconnect(&mut self, reason: u8) -> Vec<Property> {
        match self.receive() {
            Packet::Disconnect(came, properties) if came == reason => {
                self.expect_closed();
                properties
            }
            other => panic!("instead of DISCONNECT {reason:#04x}: {other:?}"),
        }
    }

    /// The broker closes the connection without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        if let Some(bytes) = self.receive_bytes() {
            panic!("instead of the end: {bytes:02x?} {:?}", packet::parse(self.version, &bytes));
        }
    }

    /// The broker has taken all that was sent, and sent nothing: PINGRESP is the next packet after a PINGREQ. What others
    /// have published and had acknowledged (or fenced in the same way, at QoS 0) would have come before it. It is no fence
    /// for what waits for a commit or for room in the window, nor for what a resumed session pages in from the disk.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.send(&packet::PINGREQ);
        match self.receive() {
            Packet::Pingresp => {}
            other => panic!("instead of nothing: {other:?}"),
        }
    }

    /// Everything that comes up to the PINGRESP of a PINGREQ sent now.
    #[track_caller]
    pub fn receive_all(&mut self) -> Vec<Packet> {
        self.send(&packet::PINGREQ);
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Packet::Pingresp => return all,
                packet => all.push(packet),
            }
        }
    }

    /// Subscribes to one filter; the QoS in `options` is granted. Retained messages are received later.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        self.send(&Subscribe::new(self.version, 65_000).filter(filter, options).packet());
        match self.receive_answer() {
            Packet::Suback(65_000, codes, _) if codes == [options & 3] => {}
            other => panic!("instead of SUBACK {:#04x} for {filter}: {other:?}", options & 3),
        }
    }

    /// Publishes and waits until the broker has it: for the last acknowledgement, or at QoS 0 for a PINGRESP. Messages
    /// that come before it are received later.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.publish_packet(qos, 64_000, &Publish::new(self.version, topic, payload).qos(qos, 64_000).packet());
    }

    /// The same for a packet that is there already, of this QoS and packet identifier.
    #[track_caller]
    pub fn publish_packet(&mut self, qos: u8, id: u16, packet: &[u8]) {
        self.send(packet);
        match qos {
            0 => {
                self.send(&packet::PINGREQ);
                let answer = self.receive_answer();
                assert_eq!(answer, Packet::Pingresp);
            }
            1 => self.expect_success(Ack::Puback, id),
            _ => {
                self.expect_success(Ack::Pubrec, id);
                self.send(&packet::ack(Ack::Pubrel, id));
                self.expect_success(Ack::Pubcomp, id);
            }
        }
    }

    #[track_caller]
    fn expect_success(&mut self, wanted: Ack, id: u16) {
        match self.receive_answer() {
            Packet::Ack(kind, i, reason, _) if kind == wanted && i == id && reason < 0x80 => {}
            other => panic!("instead of {wanted:?} {id}: {other:?}"),
        }
    }
}

/// Bytes from hexadecimal digits with blanks between them.
#[track_caller]
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap_or_else(|| panic!("{c:?} is not a hexadecimal digit")) as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "half a byte at the end of {text}");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
