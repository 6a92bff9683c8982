//! A client that obeys the protocol and remembers what a real one keeps on its own disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forebay::codec::encode;
use forebay::properties::user_property;
use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::publish::{From as Sender, Publish};
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS, Version};
use tokio::io::DuplexStream;

/// The session expiry interval of a client whose session does not last.
pub const SHORT_EXPIRY_S: u16 = 2;

/// What a client is, for the whole run.
pub struct Plan {
    pub name: String,
    pub version: Version,
    pub receive_maximum: u16,
    pub filters: Vec<(String, u8)>,
    /// Its session never ends: the broker may not lose it.
    pub lasting: bool,
    /// Each of its subscriptions has an identifier: 1 for the first; MQTT 5 only.
    pub numbered: bool,
}

/// Where a message of the client stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// PUBLISH is to be acknowledged.
    Publish,
    /// PUBREC has come.
    Release,
}

pub struct Sent {
    pub id: u16,
    pub topic: String,
    pub number: u32,
    pub qos: u8,
    pub step: Step,
    pub sent: bool,
}

/// What a subscriber has taken: topic, number, QoS.
pub type Taken = (String, u32, u8);

pub struct Client {
    pub plan: Plan,
    pub stream: Option<DuplexStream>,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub greeted: bool,
    pub subscribed: bool,
    /// Its next connection is a clean start.
    anew: bool,
    /// Of this client, not yet acknowledged, in order.
    pub outbox: VecDeque<Sent>,
    next_id: u16,
    /// QoS 2 identifiers that the broker has not released, with what came under them.
    held: BTreeMap<u16, Taken>,
    /// Packet identifiers that the broker has in flight on this connection.
    open: BTreeSet<u16>,
    pub taken: Vec<Taken>,
    /// The subscription identifier of each of them, where it has one.
    pub through: Vec<Option<u32>>,
    /// The due times of the messages of schedules among them.
    pub due: Vec<u64>,
    /// Acknowledged numbers of this publisher, by topic and QoS, in the order of their acks.
    pub acknowledged: Vec<Taken>,
    /// Refused with a reason code: to be published again.
    again: Vec<Taken>,
    /// Numbers that were sent more than once.
    pub repeated: BTreeSet<u32>,
    /// It reads nothing for this many turns.
    pub asleep: u32,
    pub log: Vec<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outbox: Vec<u32> = self.outbox.iter().map(|sent| sent.number).collect();
        let held = &self.held;
        f.debug_struct("Client").field("greeted", &self.greeted).field("outbox", &outbox).field("held", held).finish()
    }
}

impl Client {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            stream: None,
            input: Vec::new(),
            output: Vec::new(),
            greeted: false,
            subscribed: false,
            anew: false,
            outbox: VecDeque::new(),
            next_id: 1,
            held: BTreeMap::new(),
            open: BTreeSet::new(),
            taken: Vec::new(),
            through: Vec::new(),
            due: Vec::new(),
            acknowledged: Vec::new(),
            again: Vec::new(),
            repeated: BTreeSet::new(),
            asleep: 0,
            log: Vec::new(),
        }
    }

    /// The client's end of a new connection; whatever was half sent or half read is gone.
    pub fn connect(&mut self, stream: DuplexStream) {
        self.stream = Some(stream);
        self.greeted = false;
        self.asleep = 0;
        self.input.clear();
        self.output.clear();
        self.open.clear();
        // What became of its session is not known before the answer is there, and the answer may be lost.
        self.subscribed &= self.plan.lasting;
        let flags = u8::from(self.anew) << 1;
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', self.plan.version.level(), flags, 0, 0];
        if self.plan.version.is_v5() {
            let [high, low] = self.plan.receive_maximum.to_be_bytes();
            let [more, less] = if self.plan.lasting { [0xFF, 0xFF] } else { SHORT_EXPIRY_S.to_be_bytes() };
            body.extend_from_slice(&[8, 0x11, 0, 0, more, less, 0x21, high, low]);
        }
        self.string(&mut body);
        self.packet(0x10, &body);
    }

    fn string(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&u16::try_from(self.plan.name.len()).unwrap().to_be_bytes());
        body.extend_from_slice(self.plan.name.as_bytes());
    }

    fn packet(&mut self, first: u8, body: &[u8]) {
        assert!(body.len() < 128, "one byte of length is enough here");
        self.output.push(first);
        self.output.push(u8::try_from(body.len()).unwrap());
        self.output.extend_from_slice(body);
    }

    pub fn cut(&mut self) {
        self.stream = None;
        self.greeted = false;
    }

    /// DISCONNECT, and with it the end of the session; MQTT 5 only.
    pub fn end(&mut self) {
        self.packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
        self.greeted = false;
        self.begin_anew();
    }

    /// Its session is over, or is ended by its next CONNECT.
    pub fn begin_anew(&mut self) {
        self.anew = true;
        self.held.clear();
    }

    /// Publishes what was refused.
    pub fn try_again(&mut self) {
        for (topic, number, qos) in std::mem::take(&mut self.again) {
            self.publish(&topic, number, qos);
        }
    }

    pub fn publish(&mut self, topic: &str, number: u32, qos: u8) {
        while self.outbox.iter().any(|sent| sent.id == self.next_id) {
            self.next_id = self.next_id % 60 + 1;
        }
        let id = self.next_id;
        self.next_id = id % 60 + 1;
        self.outbox.push_back(Sent { id, topic: topic.to_owned(), number, qos, step: Step::Publish, sent: false });
        if self.greeted {
            self.send_last();
        }
    }

    fn send_last(&mut self) {
        let at = self.outbox.len() - 1;
        self.send(at, false);
    }

    fn send(&mut self, at: usize, again: bool) {
        let sent = &mut self.outbox[at];
        let what = if sent.step == Step::Release { "PUBREL" } else { "PUBLISH" };
        self.log.push(format!("{} -> {what} {} of id {}, {}", self.plan.name, sent.number, sent.id, sent.topic));
        let (id, version) = (PacketId::new(sent.id).unwrap(), self.plan.version);
        if sent.step == Step::Release {
            encode::pubrel(&mut self.output, version, id, ReasonCode::Success);
            return;
        }
        let payload = sent.number.to_be_bytes();
        let (topic, dup) = (sent.topic.as_bytes(), again && sent.sent);
        if std::mem::replace(&mut sent.sent, true) {
            self.repeated.insert(sent.number);
        }
        let out = &mut self.output;
        encode::publish(out, version, dup, sent.qos, false, topic, Some(id), None, &[], None, &[], &payload);
    }

    fn greet(&mut self, body: &[u8]) {
        assert_eq!(body[1], 0, "{}: CONNECT refused", self.plan.name);
        self.greeted = true;
        self.anew = false;
        if body[0] & 1 == 0 {
            self.forget();
        }
        if !self.subscribed && !self.plan.filters.is_empty() {
            self.subscribe();
        }
        for at in 0..self.outbox.len() {
            self.send(at, true);
        }
    }

    /// The broker has no session: nothing that is half done can be finished. PUBLISHes go once more as new.
    fn forget(&mut self) {
        assert!(!self.subscribed, "{}: the broker lost the session", self.plan.name);
        self.held.clear();
    }

    fn subscribe(&mut self) {
        if self.plan.numbered {
            for (at, (filter, qos)) in (1..).zip(self.plan.filters.clone()) {
                let mut body = vec![0xEE, at, 2, 0x0B, at];
                body.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
                body.extend_from_slice(filter.as_bytes());
                body.push(qos);
                self.packet(0x82, &body);
            }
            return;
        }
        let mut body = vec![0xEE, 0xEE];
        if self.plan.version.is_v5() {
            body.push(0);
        }
        for (filter, qos) in self.plan.filters.clone() {
            body.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
            body.extend_from_slice(filter.as_bytes());
            body.push(qos);
        }
        self.packet(0x82, &body);
    }

    /// Handles every whole packet that has come.
    pub fn handle(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Ok(Some(frame)) = forebay_wire::frame::peek(rest, u32::MAX) {
            if frame.total() > rest.len() {
                break;
            }
            let (packet, after) = rest.split_at(frame.total());
            self.one(frame.first_byte, &packet[frame.header_len..]);
            rest = after;
        }
        self.input = rest.to_vec();
    }

    fn one(&mut self, first: u8, body: &[u8]) {
        let id = || u16::from_be_bytes([body[0], body[1]]);
        let refused = body.get(2).is_some_and(|code| *code >= 0x80);
        self.log.push(format!("{} <- {first:#04x} {:02x?}", self.plan.name, &body[..body.len().min(24)]));
        match first >> 4 {
            2 => self.greet(body),
            3 => self.arrived(first, body),
            4 => self.finished(id(), 1, refused),
            5 if refused => self.finished(id(), 2, true),
            5 => self.received(id()),
            6 => self.released(id()),
            7 => self.finished(id(), 2, false),
            9 => self.subscribed = true,
            14 => self.cut(),
            other => panic!("{}: packet type {other}", self.plan.name),
        }
    }

    fn received(&mut self, id: u16) {
        let at = self.outbox.iter().position(|sent| sent.id == id && sent.qos == 2);
        if let Some(at) = at {
            self.outbox[at].step = Step::Release;
            self.send(at, false);
        }
    }

    fn finished(&mut self, id: u16, qos: u8, refused: bool) {
        let Some(at) = self.outbox.iter().position(|sent| sent.id == id && sent.qos == qos) else { return };
        let done = self.outbox.remove(at).unwrap();
        if refused {
            // To everybody the next try is another message.
            self.repeated.insert(done.number);
            self.again.push((done.topic, done.number, done.qos));
        } else {
            self.acknowledged.push((done.topic, done.number, done.qos));
        }
    }

    fn arrived(&mut self, first: u8, body: &[u8]) {
        let publish = Publish::parse(self.plan.version, Sender::Server, first, body, 128).unwrap();
        let number = u32::from_be_bytes(publish.payload.try_into().unwrap());
        let taken = (publish.topic.to_owned(), number, publish.qos as u8);
        let through = subscription_id(&publish);
        let Some(id) = publish.packet_id else { return self.take(taken, through) };
        assert!(self.open.insert(id.get()), "{}: identifier {id:?} is in flight already", self.plan.name);
        let most = usize::from(if self.plan.version.is_v5() { self.plan.receive_maximum } else { u16::MAX });
        assert!(self.open.len() <= most, "{}: more than the Receive Maximum", self.plan.name);
        if publish.qos == QoS::ExactlyOnce {
            if let Some(before) = self.held.get(&id.get()) {
                assert_eq!(*before, taken, "{}: another message under a held identifier", self.plan.name);
            } else {
                self.held.insert(id.get(), taken.clone());
                self.take(taken, through);
                self.due.extend(due(&publish));
            }
            self.answer(0x50, id.get());
        } else {
            self.take(taken, through);
            self.open.remove(&id.get());
            self.answer(0x40, id.get());
        }
    }

    fn take(&mut self, taken: Taken, through: Option<u32>) {
        self.taken.push(taken);
        self.through.push(through);
    }

    fn released(&mut self, id: u16) {
        self.held.remove(&id);
        self.open.remove(&id);
        self.answer(0x70, id);
    }

    fn answer(&mut self, first: u8, id: u16) {
        self.packet(first, &id.to_be_bytes());
    }

    /// Nothing is under way in either direction.
    pub fn idle(&self) -> bool {
        self.greeted
            && self.outbox.is_empty()
            && self.again.is_empty()
            && self.held.is_empty()
            && self.output.is_empty()
    }
}

/// The subscription that a message came through.
fn subscription_id(publish: &Publish<'_>) -> Option<u32> {
    let found = Properties::new(publish.properties, Place::Publish).flatten();
    found.into_iter().find_map(|spanned| {
        let Property::SubscriptionIdentifier(id) = spanned.property else { return None };
        Some(id)
    })
}

/// When a message of a schedule was due.
fn due(publish: &Publish<'_>) -> Option<u64> {
    user_property(publish.properties, "due")?.parse().ok()
}
