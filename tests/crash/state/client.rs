//! A client whose side of its session outlives its connections: it answers whatever comes, and remembers it.

use std::collections::BTreeSet;

use forebay_tests::packet::build::Connect;
use forebay_tests::packet::{Ack, Message, Packet, Version, ack, parse};
use forebay_tests::raw::Raw;

/// See the module.
pub struct Client {
    version: Version,
    raw: Option<Raw>,
    /// QoS 2 identifiers that the broker has not released.
    held: BTreeSet<u16>,
    /// What has come; at QoS 2 each message once.
    pub came: Vec<Message>,
}

impl Client {
    pub fn new(version: Version) -> Self {
        Self { version, raw: None, held: BTreeSet::new(), came: Vec::new() }
    }

    pub fn is_connected(&self) -> bool {
        self.raw.is_some()
    }

    /// Connects with success; whether there was a session.
    pub fn connect(&mut self, port: u16, connect: &Connect) -> bool {
        let (raw, present, _) = Raw::open(port, connect);
        self.raw = Some(raw);
        if !present {
            self.held.clear();
        }
        present
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.raw.as_mut().unwrap().send(bytes);
    }

    /// Handles one packet: the identifier that it acknowledges for good, 0 where it does not. `None`: the connection is over.
    pub fn one(&mut self) -> Option<u16> {
        let bytes = self.raw.as_mut()?.receive_bytes()?;
        match parse(self.version, &bytes).unwrap() {
            Packet::Publish(message) => {
                self.arrived(message);
                Some(0)
            }
            Packet::Ack(kind, id, code, _) => {
                assert!(code < 0x80, "{kind:?} with {code:#x}");
                match kind {
                    Ack::Puback | Ack::Pubcomp => Some(id),
                    Ack::Pubrec => self.answer(Ack::Pubrel, id),
                    Ack::Pubrel => {
                        self.held.remove(&id);
                        self.answer(Ack::Pubcomp, id)
                    }
                }
            }
            Packet::Suback(id, codes, _) | Packet::Unsuback(id, codes, _) => {
                assert!(codes.iter().all(|code| *code < 0x80), "{codes:?}");
                Some(id)
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, kind: Ack, id: u16) -> Option<u16> {
        self.send(&ack(kind, id));
        Some(0)
    }

    fn arrived(&mut self, message: Message) {
        let (qos, id) = (message.qos, message.id);
        if qos < 2 || self.held.insert(id) {
            self.came.push(message);
        }
        match qos {
            0 => {}
            1 => self.send(&ack(Ack::Puback, id)),
            _ => self.send(&ack(Ack::Pubrec, id)),
        }
    }

    /// Handles what comes until this is acknowledged.
    pub fn until_acknowledged(&mut self, wanted: u16) {
        while self.one().expect("an answer") != wanted {}
    }

    /// Handles what comes until a message with this payload has.
    pub fn until_came(&mut self, payload: &str) {
        while !self.came.iter().any(|message| message.payload == payload.as_bytes()) {
            self.one().expect("a message");
        }
    }

    /// Goes without a word.
    pub fn cut(&mut self) {
        self.raw = None;
    }

    /// Sends its last packet and waits until the broker has closed the connection.
    pub fn leave(&mut self, disconnect: &[u8]) {
        self.send(disconnect);
        while self.one().is_some() {}
        self.raw = None;
    }
}
