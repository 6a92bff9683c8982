//! A server that means harm: bytes say what it sends and what the program does meanwhile. For the fuzzer and for tests by
//! seed. What must hold whatever the bytes are is asserted here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{QoS, Version};

use super::journal::Journal;
use super::{ANSWERS_MAX, Session};
use crate::options::{Inbox, Options, Outbox, Subscribe, WhenFull};
use crate::ticket::pair;
use crate::{Message, Received};

/// What the driver reads at once, at most.
const READ: usize = 64 * 1024;
const INBOX: usize = 4_096;

struct Client {
    session: Session,
    now: Instant,
    tail: Vec<u8>,
    keys: Vec<usize>,
    held: Vec<Received>,
    version: Version,
}

/// Runs what the bytes say.
///
/// # Panics
/// When something does not hold.
pub fn drive(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let Some(mut client) = Client::new(*first) else { return };
    client.open(first & 8 != 0);
    while let Some((op, after)) = rest.split_first() {
        rest = after;
        match op {
            0..160 => {
                let len = usize::from(*op).min(rest.len());
                let (bytes, after) = rest.split_at(len);
                rest = after;
                client.hear(bytes);
            }
            160..170 => client.publish(*op),
            170..176 => client.subscribe(),
            176..180 => client.leave(),
            180..200 => client.take(*op),
            200..210 => client.time(Duration::from_millis(u64::from(op - 199) * 900)),
            210..216 => client.lose(op & 1 != 0),
            // Packets that are right, with an identifier that may be.
            _ => {
                let id = rest.first().copied().unwrap_or(1);
                client.valid(op - 216, id);
            }
        }
        client.check();
    }
}

impl Client {
    fn new(first: u8) -> Option<Self> {
        let version = if first & 1 != 0 { Version::V5 } else { Version::V311 };
        let when_full = [WhenFull::Wait, WhenFull::Reject, WhenFull::DropOldest, WhenFull::KeepLast];
        let outbox = Outbox {
            max_messages: 20,
            max_bytes: 1_000,
            when_full: *when_full.get(usize::from(first >> 1 & 3))?,
            ..Outbox::default()
        };
        let options = Options::new("mqtt://h").ok()?.version(version).client_id("c").outbox(outbox);
        let options = options.session_expiry(Duration::from_secs(60)).receive_maximum(10).topic_alias_maximum(5);
        let inbox = Inbox { max_bytes: INBOX, max_unclaimed: 8, ..Inbox::default() };
        let options = options.inbox(inbox).maximum_packet_size(1_024).window(5);
        let now = Instant::now();
        let session = Session::new(Arc::new(options), Journal::default(), now);
        Some(Self { session, now, tail: Vec::new(), keys: Vec::new(), held: Vec::new(), version })
    }

    fn open(&mut self, accepted: bool) {
        assert!(self.session.open(self.now).is_ok());
        self.flush();
        if accepted {
            let connack: &[u8] =
                if self.version.is_v5() { &[0x20, 9, 1, 0, 6, 0x21, 0, 3, 0x22, 0, 2] } else { &[0x20, 2, 1, 0] };
            self.hear(connack);
        }
    }

    /// As the driver does it.
    fn hear(&mut self, bytes: &[u8]) {
        if self.session.inbox_is_full() || self.session.is_choked() {
            return;
        }
        self.tail.extend_from_slice(bytes);
        match self.session.receive(self.now, &self.tail) {
            Ok(taken) => drop(self.tail.drain(..taken)),
            Err(_) => {
                self.session.last_words(&mut Vec::new());
                self.lose(true);
            }
        }
    }

    fn valid(&mut self, which: u8, id: u8) {
        let properties: &[u8] = if self.version.is_v5() { &[0] } else { &[] };
        let publish = |first: u8| {
            let id = [0, id];
            let id = if first & 6 == 0 { &[][..] } else { &id };
            let body = [&[0, 1, b't'][..], id, properties, b"x"].concat();
            [&[first, body.len() as u8][..], &body].concat()
        };
        // Identifiers of SUBSCRIBE are high.
        let suback =
            |first: u8| [&[first, 3 + properties.len() as u8, 0xff, 0xf0 | id & 15][..], properties, &[1]].concat();
        let bytes = match which {
            0..6 => vec![0x40, 2, 0, id],
            6..12 => vec![0x50, 2, 0, id],
            12..16 => vec![0x62, 2, 0, id],
            16..20 => vec![0x70, 2, 0, id],
            20..24 => publish(0x30),
            24..28 => publish(0x32),
            28..32 => publish(0x34),
            32..34 => publish(0x3c),
            34..37 => suback(0x90),
            _ => suback(0xb0),
        };
        self.hear(&bytes);
    }

    fn publish(&mut self, op: u8) {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].get(usize::from(op % 3)).copied();
        let topic = if op.is_multiple_of(2) { "topic/one" } else { "topic/two" };
        let message = Message::new(topic, vec![op; usize::from(op)]).qos(qos.unwrap_or(QoS::AtMostOnce));
        let message = if op.is_multiple_of(5) { message.expires_after(Duration::from_secs(3)) } else { message };
        // A refusal is an answer, too.
        let _ = self.session.publish(self.now, super::WallTime(Duration::ZERO), message, pair().0);
    }

    fn subscribe(&mut self) {
        if self.keys.len() < 30 {
            let what = Subscribe::to(if self.keys.len().is_multiple_of(2) { "#" } else { "t" }).manual_ack();
            self.keys.push(self.session.subscribe(what, pair().0));
        }
    }

    fn leave(&mut self) {
        if let Some(key) = self.keys.pop() {
            if key.is_multiple_of(2) {
                self.session.unsubscribe(key, None);
            } else {
                self.session.detach(self.now, key);
            }
        }
    }

    fn take(&mut self, op: u8) {
        for key in self.keys.clone() {
            if self.held.len() < 100 {
                self.held.extend(self.session.take(key));
            }
        }
        if op.is_multiple_of(2) {
            for token in self.held.drain(..).filter_map(|received| received.token) {
                self.session.ack(token, ReasonCode::Success);
            }
        }
    }

    fn time(&mut self, time: Duration) {
        self.now += time;
        match self.session.tick(self.now) {
            Ok(()) => assert!(self.session.deadline().is_none_or(|at| at > self.now), "it is due still"),
            Err(_) => self.lose(true),
        }
    }

    fn lose(&mut self, accepted: bool) {
        self.session.settle_unwritten(Vec::new(), false);
        self.session.closed(super::EndedBy::Server);
        self.tail.clear();
        self.open(accepted);
    }

    fn flush(&mut self) {
        for _ in 0..1_000 {
            let mut out = Vec::new();
            self.session.fill(self.now, &mut out, &mut Vec::new());
            self.session.settle_unwritten(Vec::new(), true);
            if out.is_empty() {
                break;
            }
        }
        assert!(!self.session.has_output(), "there is output, and none comes");
    }

    fn check(&mut self) {
        assert!(self.session.out.len() <= ANSWERS_MAX + READ, "answers grow");
        self.flush();
        assert!(self.tail.len() <= 2_048, "an incomplete packet grows");
        // One read more than the limit, for each subscription that it matches.
        assert!(self.session.subscriptions.bytes() <= INBOX + 30 * 2_048, "the inbox grows");
        assert!(self.session.inbound.len() <= 3 * 65_535, "what is to be acknowledged grows");
        while self.session.next_event().is_some() {}
        let stats = self.session.stats();
        let gone = stats.acked + stats.written + stats.dropped();
        assert_eq!(stats.accepted, gone + stats.outbox_messages as u64, "{stats:?}");
    }
}
