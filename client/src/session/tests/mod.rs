//! A session against bytes, in virtual time: no socket, no clock, no task.

#![allow(clippy::wildcard_enum_match_arm, reason = "what is not looked for is wrong here")]

mod connection;
mod leftovers;
mod line;
mod malicious;
mod outbox;
mod peer;
mod publish;
mod put_off;
mod receive;
mod resubscribe;
mod simulation;
mod subscribe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::types::{QoS, Version};

use super::journal::{Journal, OpNumber};
use super::outbox::NoRoom;
use super::{EndedBy, Over, Session, WallTime};
use crate::event::Event;
use crate::message::{Message, Received};
use crate::options::{Options, Subscribe};
use crate::session::subscriptions::Granted;
use crate::ticket::{Outcome, Teller, Ticket, Told, pair};
use peer::{Packet, connack, packets};

/// A session, its clock, and what stands for its driver.
struct Bench {
    session: Session,
    now: Instant,
    /// QoS 0 messages that were filled and not settled.
    unwritten: Vec<Teller<Outcome>>,
}

fn options(version: Version) -> Options {
    Options::new("mqtt://h").unwrap().version(version).client_id("c").session_expiry(Duration::from_secs(3600))
}

fn message(topic: &str, payload: impl ToString, qos: QoS) -> Message {
    Message::new(topic, payload.to_string()).qos(qos)
}

impl Bench {
    fn new(options: Options) -> Self {
        Self::with_journal(options, Journal::default())
    }

    fn with_journal(options: Options, journal: Journal) -> Self {
        let now = Instant::now();
        Self { session: Session::new(Arc::new(options), journal, now), now, unwritten: Vec::new() }
    }

    /// A connection that the server accepts; what the client said in CONNECT.
    fn connect(&mut self, session_present: bool) -> Packet {
        self.connect_with(session_present, &[])
    }

    /// The same with properties of CONNACK.
    fn connect_with(&mut self, session_present: bool, properties: &[u8]) -> Packet {
        self.session.open(self.now).unwrap();
        let mut sent = self.flush();
        assert_eq!(sent.len(), 1, "{sent:?}");
        self.receive(&connack(self.version(), session_present, 0, properties));
        sent.remove(0)
    }

    fn version(&self) -> Version {
        self.session.options.version
    }

    fn lose(&mut self) {
        self.lose_by(EndedBy::Other);
    }

    fn lose_by(&mut self, by: EndedBy) {
        let unwritten = std::mem::take(&mut self.unwritten);
        self.session.settle_unwritten(unwritten, false);
        self.session.closed(by);
        self.check();
    }

    fn receive(&mut self, bytes: &[u8]) {
        let taken = self.session.receive(self.now, bytes).unwrap_or_else(|over| panic!("{over:?}"));
        assert_eq!(taken, bytes.len(), "a packet was not complete");
    }

    fn refused(&mut self, bytes: &[u8]) -> Over {
        self.session.receive(self.now, bytes).unwrap_err()
    }

    /// All that the client has to say; the socket takes it.
    fn flush(&mut self) -> Vec<Packet> {
        let bytes = self.flush_bytes();
        packets(self.version(), &bytes)
    }

    fn flush_bytes(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut out = Vec::new();
            self.session.fill(self.now, &mut out, &mut self.unwritten);
            self.check();
            if out.is_empty() {
                break;
            }
            let unwritten = std::mem::take(&mut self.unwritten);
            self.session.settle_unwritten(unwritten, true);
            all.extend_from_slice(&out);
        }
        // Otherwise the driver would ask again and again.
        assert!(!self.session.has_output(), "there is output, and none comes");
        all
    }

    /// What is still said on a connection that is over.
    fn flush_last_words(&mut self) -> Vec<Packet> {
        let mut out = Vec::new();
        self.session.last_words(&mut out);
        packets(self.version(), &out)
    }

    fn publish(&mut self, message: Message) -> Ticket {
        self.try_publish(message).map(|(ticket, _)| ticket).unwrap()
    }

    fn try_publish(&mut self, message: Message) -> Result<(Ticket, OpNumber), NoRoom> {
        let (teller, told) = pair();
        let taken = self.session.publish(self.now, WALL, message, teller);
        self.check();
        taken.map(|op| (Ticket { told }, op)).map_err(|(why, _)| why)
    }

    fn subscribe(&mut self, what: impl Into<Subscribe>) -> (usize, Told<Granted>) {
        let (teller, told) = pair();
        (self.session.subscribe(what.into(), teller), told)
    }

    /// Subscribes, and the server grants it.
    fn subscribed(&mut self, what: impl Into<Subscribe>) -> usize {
        let (key, told) = self.subscribe(what);
        for packet in self.flush() {
            let Packet::Subscribe { id, filters, .. } = packet else { continue };
            let codes = vec![2; filters.len()];
            self.receive(&peer::suback(self.version(), id, &codes));
        }
        assert!(told.try_take().is_some_and(|granted| granted.is_ok()));
        key
    }

    fn take(&mut self, key: usize) -> Option<Received> {
        self.session.take(key)
    }

    /// Payloads of all that a subscription has.
    fn payloads(&mut self, key: usize) -> Vec<String> {
        std::iter::from_fn(|| self.take(key)).map(|m| String::from_utf8_lossy(m.payload()).into_owned()).collect()
    }

    /// Time passes; what is due is done.
    fn wait(&mut self, time: Duration) -> Result<(), Over> {
        self.now += time;
        self.session.tick(self.now)?;
        self.check();
        // Otherwise the driver would be woken again and again.
        assert!(self.session.deadline().is_none_or(|at| at > self.now), "it is due still");
        Ok(())
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.next_event()).collect()
    }

    /// Nothing is lost without a counter.
    fn check(&self) {
        let stats = self.session.stats();
        let gone = stats.acked + stats.written + stats.dropped();
        assert_eq!(stats.accepted + stats.restored, gone + stats.outbox_messages as u64, "{stats:?}");
    }
}

/// The wall clock stands.
const WALL: WallTime = WallTime(Duration::from_secs(1_700_000_000));
const V311: Version = Version::V311;
const V5: Version = Version::V5;
const S: Duration = Duration::from_secs(1);
const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
