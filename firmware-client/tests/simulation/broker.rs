//! A model of a broker: simple, strict with its client, and unkind where it may be.

use forebay_wire::frame;
use forebay_wire::property::{Place, Properties, Property};
use forebay_wire::publish::{From, Publish};
use forebay_wire::read::Reader;
use forebay_wire::types::{QoS, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the broker is like on its next connections.
#[derive(Clone, Debug)]
pub struct Mood {
    /// Answers CONNECT with this code, and the time to stay away.
    pub refuse: Option<(u8, Option<u32>)>,
    /// Has forgotten the session.
    pub forget: bool,
    /// Has no room for messages until then: 0x97.
    pub full_until: u64,
    /// Withholds acknowledgements.
    pub withhold: bool,
    pub receive_maximum: u16,
    pub topic_aliases: u16,
    /// More properties of CONNACK.
    pub properties: Vec<u8>,
    /// Answers nothing.
    pub silent: bool,
}

impl Default for Mood {
    fn default() -> Self {
        Self {
            refuse: None,
            forget: false,
            full_until: 0,
            withhold: false,
            receive_maximum: 65_535,
            topic_aliases: 0,
            properties: Vec::new(),
            silent: false,
        }
    }
}

/// A message that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    pub expiry_s: Option<u32>,
    /// The user property `lost`.
    pub lost: Option<u32>,
    pub at: u64,
}

#[derive(Clone, Debug)]
pub struct Outgoing {
    pub number: u32,
    pub payload: Vec<u8>,
    pub qos: QoS,
    id: u16,
    state: OutState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutState {
    Queued,
    Sent,
    Released,
}

/// What outlives a connection.
#[derive(Clone, Debug, Default)]
struct Session {
    filters: BTreeSet<String>,
    /// QoS 2 identifiers that the client has not released.
    open: BTreeSet<u16>,
    outgoing: VecDeque<Outgoing>,
    next_id: u16,
}

#[derive(Clone, Debug, Default)]
struct Connection {
    greeted: bool,
    resumed: bool,
    clean: bool,
    input: Vec<u8>,
    window: usize,
    /// Identifiers of the client's messages that are not acknowledged yet.
    unacknowledged: BTreeSet<u16>,
    aliases: BTreeMap<u16, String>,
    /// A message was sent as new: what is repeated came before.
    fresh: bool,
    /// What this connection has seen, except what was refused.
    seen: BTreeSet<Vec<u8>>,
    held: Vec<Vec<u8>>,
    receive_maximum: usize,
    topic_aliases: u16,
}

pub struct Broker {
    pub v5: bool,
    pub mood: Mood,
    pub taken: Vec<Taken>,
    /// Numbers of the messages that are lost with a session.
    pub forgotten: BTreeSet<u32>,
    pub sessions_lost: u32,
    /// When there was a CONNECT, and whether it asked for a clean session.
    pub connects: Vec<(u64, bool)>,
    /// The reason code of each DISCONNECT.
    pub disconnects: Vec<u8>,
    pub refused_until: u64,
    pub pings: u32,
    /// What CONNECT said, and when the last packet of the client came.
    pub keep_alive_s: u16,
    pub heard_at: u64,
    /// Messages whose topic was an alias.
    pub aliased: u32,
    /// How many messages it had no room for.
    pub no_room: u32,
    /// Numbers of the messages whose PUBREC came: the device has handled them.
    pub handled: BTreeSet<u32>,
    /// The device's clock jumps, so it cannot keep a time.
    pub wrong_clock: bool,
    session: Option<Session>,
    connection: Option<Connection>,
    now: u64,
    pub out: Vec<u8>,
    /// The connection is to be closed.
    pub hang_up: bool,
}

impl Broker {
    pub fn new(v5: bool) -> Self {
        Self {
            v5,
            mood: Mood::default(),
            taken: Vec::new(),
            forgotten: BTreeSet::new(),
            sessions_lost: 0,
            connects: Vec::new(),
            disconnects: Vec::new(),
            refused_until: 0,
            pings: 0,
            keep_alive_s: 0,
            heard_at: 0,
            aliased: 0,
            no_room: 0,
            handled: BTreeSet::new(),
            wrong_clock: false,
            session: None,
            connection: None,
            now: 0,
            out: Vec::new(),
            hang_up: false,
        }
    }

    pub fn accept(&mut self) {
        self.connection = Some(Connection::default());
        self.out.clear();
        self.hang_up = false;
    }

    pub fn cut(&mut self) {
        if self.connection.take().is_some_and(|connection| connection.clean) && !self.v5 {
            self.lose_session();
        }
        self.out.clear();
    }

    fn lose_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.forgotten.extend(session.outgoing.iter().map(|message| message.number));
        }
    }

    pub fn is_subscribed(&self, filter: &str) -> bool {
        self.session.as_ref().is_some_and(|session| session.filters.contains(filter))
    }

    pub fn is_idle(&self) -> bool {
        let nothing_open = self.session.as_ref().is_none_or(|session| session.outgoing.is_empty());
        nothing_open && self.connection.as_ref().is_none_or(|connection| connection.held.is_empty())
    }

    /// A message for the client, if it has subscribed.
    pub fn send(&mut self, number: u32, payload: Vec<u8>, qos: QoS) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| session.filters.contains("down/#")) else {
            return false;
        };
        session.outgoing.push_back(Outgoing { number, payload, qos, id: 0, state: OutState::Queued });
        self.pump();
        true
    }

    /// The server ends the connection.
    pub fn dismiss(&mut self, reason: u8, retry_after_ms: Option<u32>) {
        if self.v5 && self.connection.as_ref().is_some_and(|connection| connection.greeted) {
            let properties = properties(&[], retry_after_ms, None);
            self.write(0xe0, &[&[reason][..], &properties].concat());
        }
        self.hang_up = true;
    }

    pub fn bytes(&mut self, now: u64, bytes: &[u8]) {
        self.now = now;
        if self.mood.silent {
            return;
        }
        let Some(connection) = self.connection.as_mut() else { return };
        connection.input.extend_from_slice(bytes);
        while let Some(mut input) = self.connection.as_mut().map(|connection| std::mem::take(&mut connection.input)) {
            let frame = match frame::peek(&input, u32::MAX).expect("the client frames its packets") {
                Some(frame) if input.len() >= frame.total() && !self.hang_up => frame,
                _ => {
                    if let Some(connection) = self.connection.as_mut() {
                        connection.input = input;
                    }
                    break;
                }
            };
            frame.check(self.version()).expect("flags and lengths are as the version asks");
            let rest = input.split_off(frame.total());
            if let Some(connection) = self.connection.as_mut() {
                connection.input = rest;
            }
            self.packet(frame.first_byte, &input[frame.header_len..]);
        }
        self.pump();
    }

    fn version(&self) -> Version {
        if self.v5 { Version::V5 } else { Version::V311 }
    }

    fn write(&mut self, first: u8, body: &[u8]) {
        self.out.extend(packet(first, body));
    }

    /// Acknowledges, or keeps the acknowledgement back.
    fn acknowledge(&mut self, first: u8, id: u16, code: &[u8]) {
        let bytes = packet(first, &[&id.to_be_bytes()[..], code].concat());
        let connection = self.connection.as_mut().unwrap();
        if self.mood.withhold || !connection.held.is_empty() {
            connection.held.push(bytes);
        } else {
            self.out.extend(bytes);
        }
    }

    /// What was kept back.
    pub fn release(&mut self) {
        if let Some(connection) = self.connection.as_mut() {
            self.out.extend(connection.held.drain(..).flatten());
        }
    }

    fn packet(&mut self, first: u8, body: &[u8]) {
        let kind = first >> 4;
        self.heard_at = self.now;
        let greeted = self.connection.as_ref().unwrap().greeted;
        assert_eq!(kind != frame::CONNECT, greeted, "CONNECT comes first and once");
        let mut reader = Reader::new(body);
        match kind {
            frame::CONNECT => self.connect(body),
            frame::PUBLISH => self.publish(first, body),
            frame::PUBACK | frame::PUBCOMP => {
                let id = reader.u16().unwrap();
                if let Some(session) = self.session.as_mut() {
                    let state = if kind == frame::PUBACK { OutState::Sent } else { OutState::Released };
                    session.outgoing.retain(|message| message.id != id || message.state != state);
                }
            }
            frame::PUBREC => {
                let id = reader.u16().unwrap();
                let refused = reader.u8().is_ok_and(|code| code >= 0x80);
                let session = self.session.as_mut().unwrap();
                if refused {
                    session.outgoing.retain(|message| message.id != id);
                } else {
                    let found = session.outgoing.iter_mut().find(|message| message.id == id);
                    let found = found.expect("PUBREC is for a message that was sent");
                    found.state = OutState::Released;
                    self.handled.insert(found.number);
                    self.write(0x62, &id.to_be_bytes());
                }
            }
            frame::PUBREL => {
                let id = reader.u16().unwrap();
                self.connection.as_mut().unwrap().unacknowledged.remove(&id);
                self.session.as_mut().unwrap().open.remove(&id);
                self.acknowledge(0x70, id, &[]);
            }
            frame::SUBSCRIBE | frame::UNSUBSCRIBE => {
                let id = reader.u16().unwrap();
                if self.v5 {
                    assert_eq!(reader.u8(), Ok(0));
                }
                let filter = reader.string().unwrap().to_owned();
                forebay_wire::topic::check_filter(&filter, 100).unwrap();
                let filters = &mut self.session.as_mut().unwrap().filters;
                let mut answer = id.to_be_bytes().to_vec();
                if self.v5 {
                    answer.push(0);
                }
                if kind == frame::SUBSCRIBE {
                    filters.insert(filter);
                    answer.push(reader.u8().unwrap() & 3);
                    self.write(0x90, &answer);
                } else {
                    let code = if filters.remove(&filter) { 0 } else { 0x11 };
                    if self.v5 {
                        answer.push(code);
                    }
                    self.write(0xb0, &answer);
                }
                assert!(reader.is_empty());
            }
            frame::PINGREQ => {
                assert!(body.is_empty());
                self.pings += 1;
                self.write(0xd0, &[]);
            }
            frame::DISCONNECT => {
                assert!(body.is_empty() || self.v5);
                self.disconnects.push(body.first().copied().unwrap_or_default());
                self.hang_up = true;
            }
            other => panic!("a client does not send {other}"),
        }
    }

    fn connect(&mut self, body: &[u8]) {
        assert!(self.now >= self.refused_until || self.wrong_clock, "the client came back before it was asked to");
        let mut reader = Reader::new(body);
        assert_eq!(reader.string(), Ok("MQTT"));
        assert_eq!(reader.u8(), Ok(if self.v5 { 5 } else { 4 }));
        let flags = reader.u8().unwrap();
        self.connects.push((self.now, flags & 2 != 0));
        self.keep_alive_s = reader.u16().unwrap();
        let mut window = 20;
        if self.v5 {
            let len = reader.varint().unwrap();
            for property in Properties::new(reader.bytes(len as usize).unwrap(), Place::Connect) {
                if let Property::ReceiveMaximum(value) = property.unwrap().property {
                    window = usize::from(value);
                }
            }
        }
        assert_eq!(reader.string(), Ok("device"));
        assert!(reader.is_empty());
        if let Some((code, retry_after_ms)) = self.mood.refuse {
            let mut answer = vec![0, code];
            if self.v5 {
                answer.extend(properties(&[], retry_after_ms, None));
            }
            self.write(0x20, &answer);
            self.hang_up = true;
            return;
        }
        let clean = flags & 2 != 0;
        if self.mood.forget && self.session.is_some() {
            self.sessions_lost += u32::from(!clean);
            self.lose_session();
        }
        if clean {
            self.lose_session();
        }
        let present = self.session.is_some();
        self.session.get_or_insert_default();
        self.mood.forget = false;
        let connection = self.connection.as_mut().unwrap();
        (connection.greeted, connection.resumed, connection.window) = (true, present, window);
        connection.clean = clean;
        connection.receive_maximum = usize::from(self.mood.receive_maximum);
        connection.topic_aliases = self.mood.topic_aliases;
        let mut answer = vec![u8::from(present), 0];
        if self.v5 {
            let maximum = self.mood.receive_maximum.to_be_bytes();
            let aliases = self.mood.topic_aliases.to_be_bytes();
            let own = [0x21, maximum[0], maximum[1], 0x22, aliases[0], aliases[1]];
            answer.extend(properties(&[&own[..], &self.mood.properties].concat(), None, None));
        }
        self.write(0x20, &answer);
        self.replay();
    }

    /// What was in flight, in order; before anything else.
    fn replay(&mut self) {
        let outgoing = self.session.as_ref().unwrap().outgoing.clone();
        for message in outgoing {
            match message.state {
                OutState::Queued => {}
                OutState::Sent => self.deliver(&message, true),
                OutState::Released => self.write(0x62, &message.id.to_be_bytes()),
            }
        }
    }

    fn deliver(&mut self, message: &Outgoing, dup: bool) {
        let mut body = Vec::new();
        field(&mut body, b"down/x");
        if message.qos != QoS::AtMostOnce {
            body.extend(message.id.to_be_bytes());
        }
        if self.v5 {
            body.push(0);
        }
        body.extend(&message.payload);
        self.write(0x30 | u8::from(dup) << 3 | (message.qos as u8) << 1, &body);
    }

    /// Sends what the client's window has room for.
    fn pump(&mut self) {
        let Some(window) = self.connection.as_ref().filter(|c| c.greeted).map(|c| c.window) else { return };
        if self.hang_up {
            return;
        }
        let Some(mut session) = self.session.take() else { return };
        for _ in 0..session.outgoing.len() {
            let open = session.outgoing.iter().filter(|message| message.state != OutState::Queued).count();
            let next = session.outgoing.iter().position(|message| message.state == OutState::Queued);
            let Some(at) = next.filter(|_| open < window) else { break };
            if session.outgoing[at].qos == QoS::AtMostOnce {
                let message = session.outgoing.remove(at).unwrap();
                self.deliver(&message, false);
                continue;
            }
            loop {
                session.next_id = session.next_id.wrapping_add(1).max(1);
                if session.outgoing.iter().all(|message| message.id != session.next_id) {
                    break;
                }
            }
            session.outgoing[at].id = session.next_id;
            session.outgoing[at].state = OutState::Sent;
            let message = session.outgoing[at].clone();
            self.deliver(&message, false);
        }
        self.session = Some(session);
    }

    fn publish(&mut self, first: u8, body: &[u8]) {
        let publish = Publish::parse(self.version(), From::Client, first, body, 100).expect("a valid PUBLISH");
        let connection = self.connection.as_mut().unwrap();
        let mut topic = publish.topic.to_owned();
        if let Some(alias) = publish.topic_alias {
            assert!(alias <= connection.topic_aliases, "an alias that was not allowed");
            if topic.is_empty() {
                self.aliased += 1;
                topic = connection.aliases.get(&alias).expect("an alias that was told").clone();
            }
            connection.aliases.insert(alias, topic.clone());
        }
        let mut lost = None;
        for property in Properties::new(publish.properties, Place::Publish) {
            if let Property::UserProperty("lost", value) = property.unwrap().property {
                lost = Some(value.parse().unwrap());
            }
        }
        let taken = Taken {
            topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            expiry_s: publish.expiry_s,
            lost,
            at: self.now,
        };
        let Some(id) = publish.packet_id.map(|id| id.get()) else {
            self.taken.push(taken);
            return;
        };
        assert!(connection.seen.insert(taken.payload.clone()), "sent again on a live connection");
        if publish.dup {
            assert!(connection.resumed && !connection.fresh, "DUP before all else, and only after a resume");
        }
        connection.fresh |= !publish.dup;
        assert!(connection.unacknowledged.insert(id), "an identifier that is in use");
        assert!(!self.v5 || connection.unacknowledged.len() <= connection.receive_maximum, "Receive Maximum");
        let session = self.session.as_mut().unwrap();
        assert!(publish.dup || !session.open.contains(&id), "an identifier of QoS 2 that was not released");
        let known = publish.qos == QoS::ExactlyOnce && session.open.contains(&id);
        if self.v5 && self.now < self.mood.full_until && !known {
            self.no_room += 1;
            connection.seen.remove(&taken.payload);
            connection.unacknowledged.remove(&id);
            let retry_after_ms = (self.mood.full_until - self.now) as u32;
            let code = [&[0x97][..], &properties(&[], Some(retry_after_ms), None)].concat();
            let first = if publish.qos == QoS::AtLeastOnce { 0x40 } else { 0x50 };
            return self.acknowledge(first, id, &code);
        }
        if publish.qos == QoS::AtLeastOnce {
            connection.unacknowledged.remove(&id);
            self.taken.push(taken);
            self.acknowledge(0x40, id, &[]);
        } else {
            if session.open.insert(id) {
                self.taken.push(taken);
            }
            self.acknowledge(0x50, id, &[]);
        }
    }
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (len, size) = forebay_wire::varint::encode(body.len() as u32);
    [&[first][..], &len[..size], body].concat()
}

pub fn field(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u16).to_be_bytes());
    to.extend(bytes);
}

/// A section of properties with its length.
pub fn properties(raw: &[u8], retry_after_ms: Option<u32>, server: Option<&str>) -> Vec<u8> {
    let mut section = raw.to_vec();
    if let Some(ms) = retry_after_ms {
        section.push(0x26);
        field(&mut section, b"retry-after-ms");
        field(&mut section, ms.to_string().as_bytes());
    }
    if let Some(server) = server {
        section.push(0x1c);
        field(&mut section, server.as_bytes());
    }
    [&[section.len() as u8][..], &section].concat()
}
