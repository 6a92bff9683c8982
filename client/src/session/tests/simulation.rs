//! Runs by seed: a session and a model server over pipes that end at any byte, sessions that are kept or lost, servers
//! without room, windows of all sizes, and programs that end at any time and come back, with a durable outbox or without. FOREBAY_SEED=N repeats
//! one run; FOREBAY_RUNS=N makes N runs.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use forebay_wire::reason::ReasonCode;

use super::peer::*;
use super::*;

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn qos(&mut self) -> QoS {
        [Q0, Q1, Q2][self.below(3) as usize]
    }
}

/// A message of the server to the client.
struct Outgoing {
    n: u32,
    qos: QoS,
    id: u16,
    sent: bool,
    released: bool,
}

/// What the server keeps over connections.
#[derive(Default)]
struct Kept {
    received: HashSet<u16>,
    outgoing: VecDeque<Outgoing>,
    subscribed: bool,
    next_id: u16,
    /// The client has had a CONNACK of it. A session that it never heard of is lost with the connection, as nobody could
    /// tell it from the one before.
    heard_of: bool,
}

struct Server {
    version: Version,
    kept: Option<Kept>,
    online: bool,
    receive_maximum: u16,
    refuses: bool,
    /// As mosquitto: QoS 2 messages of earlier connections that are not released count against Receive Maximum, which is the same
    /// on each connection.
    counts_held: bool,
    /// Those that have not come again on this connection.
    held: BTreeSet<u16>,
    /// PUBLISHes of this connection that are not completed.
    open: BTreeSet<u16>,
    /// QoS 1 and 2 messages that were sent on this connection and wait for their first ack, in order.
    unacked: [VecDeque<u16>; 2],
    /// Numbers of the client's messages as they came.
    arrived: Vec<(u32, u8)>,
    out: Vec<u8>,
}

impl Server {
    fn hear(&mut self, packet: Packet, rng: &mut Rng) {
        let version = self.version;
        let kept = self.kept.get_or_insert_default();
        match packet {
            Packet::Connect { clean, .. } => {
                let present = !clean && kept.next_id > 0;
                if !present {
                    *kept = Kept::default();
                }
                kept.next_id = kept.next_id.max(1);
                if self.counts_held {
                    self.held = kept.received.iter().copied().collect();
                } else {
                    self.receive_maximum = 1 + rng.below(8) as u16;
                }
                let properties = [0x21, 0, self.receive_maximum as u8, 0x22, 0, rng.below(3) as u8];
                self.out.extend(connack(version, present, 0, if version.is_v5() { &properties } else { &[] }));
                self.online = true;
                for outgoing in &mut kept.outgoing {
                    outgoing.released &= outgoing.sent;
                    if outgoing.released {
                        self.out.extend(ack(PUBREL, outgoing.id));
                    } else if outgoing.sent {
                        let (qos, id) = (outgoing.qos, outgoing.id);
                        self.unacked[qos as usize - 1].push_back(id);
                        self.out.extend(publish(version, "d/x", &outgoing.n.to_string(), qos, id, true));
                    }
                }
            }
            Packet::Publish { payload, qos, dup, id, .. } => {
                let n = payload.parse().unwrap();
                if qos > 0 {
                    assert!(self.open.insert(id), "{id} is sent again on a live connection");
                    self.held.remove(&id);
                    let limit = if version.is_v5() { self.receive_maximum.into() } else { usize::MAX };
                    assert!(self.open.len() + self.held.len() <= limit, "more than Receive Maximum");
                }
                let refuse = self.refuses && version.is_v5() && rng.one_in(6) && !dup;
                match qos {
                    0 => self.arrived.push((n, 0)),
                    1 | 2 if refuse && !kept.received.contains(&id) => {
                        self.open.remove(&id);
                        let kind = if qos == 1 { PUBACK } else { PUBREC };
                        self.out.extend(ack_with(kind, id, 0x97, &user("retry-after-ms", "50")));
                    }
                    1 => {
                        self.open.remove(&id);
                        self.arrived.push((n, 1));
                        self.out.extend(ack(PUBACK, id));
                    }
                    _ => {
                        if kept.received.insert(id) {
                            self.arrived.push((n, 2));
                        }
                        self.out.extend(ack(PUBREC, id));
                    }
                }
            }
            Packet::Ack(PUBREL, id, _) => {
                kept.received.remove(&id);
                self.held.remove(&id);
                self.open.remove(&id);
                self.out.extend(ack(PUBCOMP, id));
            }
            Packet::Ack(kind, id, reason) => {
                assert!(reason == 0 || (kind, reason) == (PUBCOMP, 0x92));
                if kind != PUBCOMP {
                    let first = self.unacked[usize::from(kind == PUBREC)].pop_front();
                    assert_eq!(first, Some(id), "acks leave in the order of the messages");
                }
                if kind == PUBREC {
                    let of = kept.outgoing.iter_mut().find(|outgoing| outgoing.id == id).unwrap();
                    of.released = true;
                    self.out.extend(ack(PUBREL, id));
                } else {
                    kept.outgoing.retain(|outgoing| outgoing.id != id);
                }
            }
            Packet::Subscribe { id, .. } => {
                kept.subscribed = true;
                self.out.extend(suback(version, id, &[2]));
            }
            Packet::Ping => self.out.extend([0xd0, 0]),
            other => panic!("{other:?}"),
        }
        self.send();
    }

    fn publish(&mut self, n: u32, qos: QoS) -> bool {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.subscribed && (qos != Q0 || self.online)) else {
            return false;
        };
        kept.next_id = kept.next_id % 50 + 1;
        if kept.outgoing.iter().any(|outgoing| outgoing.id == kept.next_id) {
            return false;
        }
        kept.outgoing.push_back(Outgoing { n, qos, id: kept.next_id, sent: false, released: false });
        self.send();
        true
    }

    fn send(&mut self) {
        let Some(kept) = self.kept.as_mut().filter(|_| self.online) else { return };
        let mut flying = kept.outgoing.iter().filter(|outgoing| outgoing.sent).count();
        for outgoing in &mut kept.outgoing {
            if !outgoing.sent && flying < usize::from(CLIENT_WINDOW) {
                outgoing.sent = true;
                if outgoing.qos != Q0 {
                    flying += 1;
                    self.unacked[outgoing.qos as usize - 1].push_back(outgoing.id);
                }
                let payload = outgoing.n.to_string();
                self.out.extend(publish(self.version, "d/x", &payload, outgoing.qos, outgoing.id, false));
            }
        }
        kept.outgoing.retain(|outgoing| outgoing.qos != Q0 || !outgoing.sent);
    }

    fn lost(&mut self) {
        self.online = false;
        self.kept.take_if(|kept| !kept.heard_of);
        self.open.clear();
        self.held.clear();
        self.unacked = Default::default();
        self.out.clear();
    }
}

const CLIENT_WINDOW: u16 = 5;

/// The file of a durable outbox.
#[derive(Default)]
struct Disk {
    on: bool,
    #[cfg(feature = "durable")]
    on_disk: crate::durable::disk::Disk,
    #[cfg(feature = "durable")]
    store: Option<crate::durable::Store>,
    #[cfg(feature = "durable")]
    backlog: crate::durable::backlog::Backlog,
    safe: OpNumber,
}

struct Run {
    rng: Rng,
    b: Bench,
    server: Server,
    disk: Disk,
    key: usize,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    tail: Vec<u8>,
    next: u32,
    /// Accepted, with the operation that makes that true.
    accepted: BTreeMap<u32, (QoS, OpNumber)>,
    /// Messages that the server has for the client.
    owed: BTreeMap<u32, QoS>,
    held: Vec<Received>,
    /// What the program is done with.
    done: Vec<u32>,
    /// QoS 2: it is given again after a crash unless the server or the disk knows.
    done_not_safe: Vec<u32>,
    sessions_lost: u32,
    connections_lost: u32,
    crashes: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let version = if rng.one_in(2) { V311 } else { V5 };
        let on = cfg!(feature = "durable") && rng.one_in(3);
        let server = Server {
            version,
            kept: None,
            online: false,
            receive_maximum: 1 + rng.below(8) as u16,
            refuses: rng.one_in(3),
            // A program without a file does not know what it left there.
            counts_held: on && rng.one_in(2),
            held: BTreeSet::new(),
            open: BTreeSet::new(),
            unacked: Default::default(),
            arrived: Vec::new(),
            out: Vec::new(),
        };
        let mut run = Self {
            b: Self::program(version, on),
            rng,
            server,
            disk: Disk { on, ..Disk::default() },
            key: 0,
            to_server: Vec::new(),
            to_client: Vec::new(),
            tail: Vec::new(),
            next: 0,
            accepted: BTreeMap::new(),
            owed: BTreeMap::new(),
            held: Vec::new(),
            done: Vec::new(),
            done_not_safe: Vec::new(),
            sessions_lost: 0,
            connections_lost: 0,
            crashes: 0,
        };
        run.disk.restart(&mut run.b, &mut run.rng);
        run.subscribe();
        run
    }

    fn program(version: Version, durable: bool) -> Bench {
        let outbox = crate::Outbox { max_messages: 40, ..crate::Outbox::default() };
        let options = options(version).outbox(outbox).receive_maximum(CLIENT_WINDOW).window(8);
        #[cfg(feature = "durable")]
        if durable {
            return Bench::with_journal(options, Journal::durable());
        }
        let _ = durable;
        Bench::new(options)
    }

    fn subscribe(&mut self) {
        self.key = self.b.subscribe(Subscribe::to("d/#").qos(Q2).manual_ack()).0;
    }

    fn step(&mut self, faults: bool) {
        match self.rng.below(if faults { 12 } else { 10 }) {
            0 | 1 if faults => self.publish(),
            2 if faults => self.server_publishes(),
            3 => self.take(),
            4 => self.program_acks(),
            5 => self.commit(),
            6 => drop(self.b.wait(Duration::from_millis(self.rng.below(100)))),
            10 if self.rng.one_in(4) => self.lose_connection(),
            11 if self.rng.one_in(30) => self.crash(),
            _ => self.carry(),
        }
    }

    fn publish(&mut self) {
        let (n, qos) = (self.next, self.rng.qos());
        self.next += 1;
        if let Ok((_ticket, op)) = self.b.try_publish(message("a/topic", n, qos)) {
            self.accepted.insert(n, (qos, op));
        }
    }

    fn server_publishes(&mut self) {
        let (n, qos) = (self.next, self.rng.qos());
        self.next += 1;
        if self.server.publish(n, qos) {
            self.owed.insert(n, qos);
        }
    }

    fn take(&mut self) {
        if let Some(received) = self.b.take(self.key) {
            if received.token.is_none() {
                self.done.push(number(&received));
            } else {
                self.held.push(received);
            }
        }
    }

    fn program_acks(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let received = self.held.swap_remove(self.rng.below(self.held.len() as u64) as usize);
        self.b.session.ack(received.token.unwrap(), ReasonCode::Success);
        let n = number(&received);
        if received.qos() == Q2 {
            self.done_not_safe.push(n);
        } else {
            self.done.push(n);
        }
    }

    fn commit(&mut self) {
        #[cfg(feature = "durable")]
        if self.disk.on {
            let (ops, number) = self.b.session.take_ops();
            let kept = self.disk.keep(ops, &mut self.rng);
            if let Some(kept) = kept {
                self.b.session.committed(number, kept);
            }
            if kept == Some(crate::session::journal::Committed::All) {
                self.disk.safe = number;
            }
        }
    }

    /// What the program was done with stays so when the server or the disk knows of it.
    fn crash_or_end(&mut self) {
        let seen = self.disk.restart(&mut self.b, &mut self.rng);
        let outgoing = self.server.kept.as_ref().map(|kept| &kept.outgoing);
        for n in std::mem::take(&mut self.done_not_safe) {
            let at_server = outgoing.and_then(|all| all.iter().find(|outgoing| outgoing.n == n));
            if at_server.is_none_or(|outgoing| outgoing.released || seen.contains(&outgoing.id)) {
                self.done.push(n);
            }
        }
    }

    /// Some bytes move, in both directions; a connection is made if there is none.
    fn carry(&mut self) {
        if !self.server.online && self.to_server.is_empty() && !self.connecting() {
            self.b.session.open(self.b.now).unwrap();
        }
        let mut out = Vec::new();
        self.b.session.fill(self.b.now, &mut out, &mut self.b.unwritten);
        self.to_server.extend(out);
        let unwritten = std::mem::take(&mut self.b.unwritten);
        self.b.session.settle_unwritten(unwritten, true);
        self.b.check();
        let some = self.rng.below(self.to_server.len() as u64 + 1) as usize;
        self.server_hears(some);
        self.to_client.append(&mut self.server.out);
        let some = self.rng.below(self.to_client.len() as u64 + 1) as usize;
        self.client_hears(some);
    }

    fn connecting(&self) -> bool {
        self.b.session.link != crate::session::Link::Offline
    }

    fn server_hears(&mut self, len: usize) {
        self.tail.extend(self.to_server.drain(..len));
        let whole = whole_packets(&self.tail);
        let bytes: Vec<u8> = self.tail.drain(..whole).collect();
        for packet in packets(self.server.version, &bytes) {
            self.server.hear(packet, &mut self.rng);
        }
    }

    fn client_hears(&mut self, len: usize) {
        let taken = self.b.session.receive(self.b.now, &self.to_client[..len]).unwrap();
        self.to_client.drain(..taken);
        if let Some(kept) = self.server.kept.as_mut().filter(|_| self.b.session.is_online()) {
            kept.heard_of = true;
        }
        self.b.check();
    }

    fn lose_connection(&mut self) {
        if !self.connecting() {
            return;
        }
        // What was on the way arrives, to some byte.
        let some = self.rng.below(self.to_server.len() as u64 + 1) as usize;
        self.server_hears(some);
        self.to_client.append(&mut self.server.out);
        let some = self.rng.below(self.to_client.len() as u64 + 1) as usize;
        self.client_hears(some);
        self.b.lose();
        self.pipes_end();
        self.connections_lost += 1;
        if self.rng.one_in(8) {
            self.server.kept = None;
            self.sessions_lost += 1;
            self.owed.clear();
        }
        assert!(self.b.wait(Duration::from_millis(1)).is_ok());
    }

    fn pipes_end(&mut self) {
        self.server.lost();
        self.to_server.clear();
        self.to_client.clear();
        self.tail.clear();
    }

    /// The program ends without a word, and comes back.
    fn crash(&mut self) {
        let some = self.rng.below(self.to_server.len() as u64 + 1) as usize;
        self.server_hears(some);
        self.pipes_end();
        self.crashes += 1;
        self.b = Self::program(self.server.version, self.disk.on);
        let safe = std::mem::take(&mut self.disk.safe);
        // Not accepted, or QoS 0; without a disk, all that the server does not have. What it has must not hide a message of
        // the next run that has the same packet identifier.
        let arrived: HashSet<u32> = self.server.arrived.iter().map(|(n, _)| *n).collect();
        let on = self.disk.on;
        self.accepted.retain(|n, (qos, op)| if on { *qos != Q0 && *op <= safe } else { arrived.contains(n) });
        self.accepted.values_mut().for_each(|(_, op)| *op = 0);
        self.held.clear();
        self.crash_or_end();
        self.subscribe();
    }

    fn finish(&mut self) {
        for _ in 0..20_000 {
            self.step(false);
            let kept = self.server.kept.as_ref();
            let idle = kept.is_some_and(|kept| kept.outgoing.is_empty() && kept.subscribed);
            if idle && self.b.session.is_drained() && self.held.is_empty() && self.to_client.is_empty() {
                self.commit();
                break;
            }
        }
        // One may fail, and one may have no room.
        for _ in 0..20 {
            self.commit();
        }
        assert!(self.server.kept.as_ref().is_some_and(|kept| kept.subscribed), "the server knows of no subscription");
        let stats = self.b.session.stats();
        assert!(self.b.session.is_drained(), "{stats:?}");
        assert_eq!(stats.outbox_messages, 0, "{stats:?}");
        while self.b.session.subscriptions.bytes() > 0 {
            self.take();
        }
        self.crash_or_end();
    }

    fn verify(&self) {
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        for (n, _) in &self.server.arrived {
            *times.entry(*n).or_default() += 1;
        }
        for (n, (qos, _)) in &self.accepted {
            let times = times.get(n).copied().unwrap_or(0);
            match qos {
                QoS::AtMostOnce => assert!(times <= 1, "{n} of QoS 0 came {times} times"),
                QoS::AtLeastOnce => assert!(times >= 1, "{n} of QoS 1 is lost"),
                QoS::ExactlyOnce if self.sessions_lost == 0 => assert_eq!(times, 1, "{n} of QoS 2"),
                QoS::ExactlyOnce => assert!(times >= 1, "{n} of QoS 2 is lost"),
            }
        }
        if !self.server.refuses {
            assert_in_order(self.server.arrived.iter().map(|(n, _)| *n), "to the server");
        }
        let mut times: BTreeMap<u32, u32> = BTreeMap::new();
        for n in &self.done {
            *times.entry(*n).or_default() += 1;
        }
        for (n, qos) in &self.owed {
            let times = times.get(n).copied().unwrap_or(0);
            match qos {
                QoS::AtMostOnce => assert!(times <= 1),
                QoS::AtLeastOnce => assert!(times >= 1, "{n} of QoS 1 is lost on its way to the program"),
                QoS::ExactlyOnce => assert_eq!(times, 1, "{n} of QoS 2 to the program"),
            }
        }
    }
}

impl Disk {
    /// The program ends without a word, and one that begins reads the file; the packet identifiers of QoS 2 messages in it.
    fn restart(&mut self, b: &mut Bench, rng: &mut Rng) -> HashSet<u16> {
        #[cfg(feature = "durable")]
        if self.on {
            self.backlog = Default::default();
            self.on_disk.program_ends();
            drop(self.store.take());
            self.on_disk.power_cut();
            self.disturb(rng);
            let place = Box::new(self.on_disk.clone());
            let (store, found) = crate::durable::Store::open(place, &b.session.options).unwrap();
            let stats = (found.unreadable_files, found.unreadable_messages);
            assert_eq!(stats, (0, 0), "the file is damaged");
            self.store = Some(store);
            let seen = found.seen.iter().map(|(id, _)| id.get()).collect();
            found.give_to(&mut b.session, b.now);
            return seen;
        }
        let _ = (b, rng);
        HashSet::new()
    }
}

#[cfg(feature = "durable")]
impl Disk {
    /// Something of the disk fails soon, for a moment.
    fn disturb(&self, rng: &mut Rng) {
        use crate::durable::disk::Fail;
        if rng.one_in(4) {
            let what = [Fail::Read, Fail::Write, Fail::Sync][rng.below(3) as usize];
            self.on_disk.fail(what, rng.below(12), 1);
        }
    }

    /// `None`: the commit has failed, and all of it is in the next one. Now and then there is no room for messages.
    fn keep(
        &mut self,
        ops: Vec<crate::session::journal::Op>,
        rng: &mut Rng,
    ) -> Option<crate::session::journal::Committed> {
        use crate::session::journal::Committed;
        self.backlog.extend(ops);
        self.disturb(rng);
        let store = self.store.as_mut()?;
        if rng.one_in(4) {
            return self.backlog.commit_acks(store).ok().map(|_| Committed::Acks);
        }
        let committed = if self.backlog.is_empty() { Ok(()) } else { self.backlog.commit(store) };
        committed.ok().map(|()| Committed::All)
    }
}

/// Each number's first time is after that of all smaller ones.
fn assert_in_order(numbers: impl Iterator<Item = u32>, what: &str) {
    let mut seen = HashSet::new();
    let mut last = None;
    for n in numbers.filter(|n| seen.insert(*n)) {
        assert!(last < Some(n), "{n} {what} after {last:?}");
        last = Some(n);
    }
}

fn number(received: &Received) -> u32 {
    String::from_utf8_lossy(received.payload()).parse().unwrap()
}

/// Bytes of all complete packets at the front.
pub(super) fn whole_packets(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some(frame)) = forebay_wire::frame::peek(&bytes[at..], u32::MAX) {
        if at + frame.total() > bytes.len() {
            break;
        }
        at += frame.total();
    }
    at
}

/// Says which run it was, when that fails.
pub(super) struct Said(pub(super) u64, pub(super) &'static str);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, test) = self;
            eprintln!("the run again: FOREBAY_SEED={seed} cargo test -p forebay-client --all-features {test}");
        }
    }
}

fn run(seed: u64) -> (u32, u32, u32, usize) {
    let _said = Said(seed, "simulation");
    let mut run = Run::new(seed);
    for _ in 0..1_500 {
        run.step(true);
    }
    run.finish();
    run.verify();
    (run.connections_lost, run.sessions_lost, run.crashes, run.accepted.len() + run.owed.len())
}

pub(super) fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[test]
fn simulation() {
    if let Some(seed) = number_from("FOREBAY_SEED") {
        eprintln!("{:?}", run(seed));
        return;
    }
    let mut sum = (0, 0, 0, 0);
    for seed in 0..number_from("FOREBAY_RUNS").unwrap_or(400) {
        let (connections, sessions, crashes, messages) = run(seed);
        sum = (sum.0 + connections, sum.1 + sessions, sum.2 + crashes, sum.3 + messages);
    }
    // A run in which nothing happened proves nothing.
    assert!(sum.0 > 5_000 && sum.1 > 500 && sum.3 > 10_000, "{sum:?}");
    assert!(sum.2 > 100, "{sum:?}");
}
