//! A client, a model broker, the link between them, and a clock.

use crate::broker::Broker;
use crate::payload::{number_of, payload};
use crate::seed::Seed;
use forebay_firmware::{
    Class, Client, DropReason, Dropped, EXPORT_OVERHEAD, Event, Input, Message, Options, Policy, QoS, ReasonCode,
    Session, Ticket,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

thread_local! {
    static DROPS: RefCell<Vec<Dropped>> = const { RefCell::new(Vec::new()) };
}

fn on_drop(dropped: Dropped) {
    DROPS.with_borrow_mut(|drops| drops.push(dropped));
}

/// A message of the device, and what was heard of it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub number: u32,
    pub class: Class,
    pub qos: QoS,
    pub acknowledged: bool,
    pub dropped: Option<DropReason>,
}

pub struct Link {
    /// Bytes on their way to the broker, and to the client.
    pub up: VecDeque<u8>,
    pub down: VecDeque<u8>,
    /// Nothing arrives any more, and nobody says so.
    pub dead: bool,
}

pub struct World {
    pub now: u64,
    /// What the device's clock is off by.
    pub skew: u64,
    options: &'static Options<'static>,
    pub client: Client<'static>,
    pub input: Input<'static>,
    pub broker: Broker,
    pub link: Option<Link>,
    pub sent: BTreeMap<u32, Sent>,
    pub by_ticket: BTreeMap<Ticket, u32>,
    /// Numbers of the messages that came, with their QoS.
    pub received: Vec<(u32, QoS)>,
    /// The message that comes in pieces.
    pub partial: Option<(Vec<u8>, QoS)>,
    pub next: u32,
    pub sessions: Vec<Session>,
    pub faults: Vec<ReasonCode>,
    pub refusals: u32,
    pub postponed: u32,
    /// Lost sessions that the device knows of, and whether there was one that it was not told of: its CONNACK did not come.
    known_lost: u32,
    unheard: bool,
    /// How many more bytes may pass before the link is cut; counted in both directions.
    pub budget: Option<usize>,
    pub passed: usize,
    /// The transport takes and gives as many bytes at once.
    pub chunk: usize,
}

pub fn options(change: impl FnOnce(&mut Options<'static>)) -> &'static Options<'static> {
    let mut options = Options::new("device");
    options.on_drop = Some(on_drop);
    change(&mut options);
    Box::leak(Box::new(options))
}

impl World {
    pub fn new(v5: bool, options: &'static Options<'static>, outbox: usize, receive: usize) -> Self {
        DROPS.with_borrow_mut(Vec::clear);
        Self {
            now: 0,
            skew: 0,
            options,
            client: Client::new(options, vec![0xa5; outbox].leak()),
            input: Input::new(vec![0xa5; receive].leak()),
            broker: Broker::new(v5),
            link: None,
            sent: BTreeMap::new(),
            by_ticket: BTreeMap::new(),
            received: Vec::new(),
            partial: None,
            next: 1,
            sessions: Vec::new(),
            faults: Vec::new(),
            refusals: 0,
            postponed: 0,
            known_lost: 0,
            unheard: false,
            budget: None,
            passed: 0,
            chunk: 4096,
        }
    }

    pub fn device_now(&self) -> u64 {
        self.now.wrapping_add(self.skew)
    }

    /// Publishes a message with the next number. Whether the outbox took it.
    pub fn publish(&mut self, qos: QoS, class: Class, policy: Policy, ttl_ms: u32, len: usize) -> bool {
        let number = self.next;
        let topic = format!("up/{}", number % 5);
        let message = Message::new(&topic).qos(qos).class(class).policy(policy).ttl_ms(ttl_ms);
        let taken = self.client.publish(self.device_now(), &message, &payload(number, len));
        self.next += 1;
        self.note_drops();
        if let Ok(ticket) = taken {
            let sent = Sent { number, class, qos, acknowledged: false, dropped: None };
            self.by_ticket.insert(ticket, number);
            self.sent.insert(number, sent);
        }
        self.check();
        taken.is_ok()
    }

    pub fn note_drops(&mut self) {
        for dropped in DROPS.with_borrow_mut(std::mem::take) {
            let Some(ticket) = dropped.ticket else { continue };
            let sent = self.sent.get_mut(&self.by_ticket[&ticket]).unwrap();
            assert!(sent.dropped.is_none() && !sent.acknowledged, "a message ends once: {sent:?} {dropped:?}");
            assert_eq!(sent.class, dropped.class);
            sent.dropped = Some(dropped.reason);
        }
    }

    /// What holds at any moment.
    pub fn check(&mut self) {
        self.note_drops();
        let counters = *self.client.counters();
        let ended = counters.sent + counters.acknowledged + counters.dropped_with_ticket();
        assert_eq!(
            counters.accepted,
            ended + self.client.pending() as u32 + counters.spilled,
            "the ledger adds up: {counters:?}"
        );
        assert_eq!(counters.accepted as usize, self.sent.len());
        let dropped = self.sent.values().filter(|sent| sent.dropped.is_some()).count();
        assert_eq!(counters.dropped_with_ticket() as usize, dropped, "every drop was said");
        let (used, capacity) = self.client.fill();
        assert!(used <= capacity);
    }

    pub fn cut(&mut self) {
        if self.link.take().is_some() {
            self.unheard |= self.broker.sessions_lost > self.known_lost;
            self.known_lost = self.broker.sessions_lost;
            self.broker.cut();
            self.partial = None;
            let now = self.device_now();
            self.client.disconnected(now);
            self.check();
        }
    }

    /// The device sleeps without its memory, and wakes up with what it exported.
    pub fn sleep(&mut self, ms: u64) {
        self.cut();
        let before = (*self.client.counters(), self.client.pending(), self.client.subscriptions());
        let (used, capacity) = self.client.fill();
        let mut image = vec![0; used as usize + EXPORT_OVERHEAD];
        let len = self.client.export(self.device_now(), &mut image).expect("there is room for it");
        assert!(self.client.export(self.device_now(), &mut image[..len - 1]).is_none());
        self.now += ms;
        let mut client = Client::new(self.options, vec![0x5a; capacity as usize].leak());
        // Its clock begins again.
        self.skew = 0u64.wrapping_sub(self.now);
        client.import(0, ms, &image[..len]).unwrap();
        let after = (*client.counters(), client.pending(), client.subscriptions());
        self.client = client;
        self.note_drops();
        assert_eq!((before.0.accepted, before.2), (after.0.accepted, after.2));
        self.check();
    }

    /// Connects when it is time. `reachable`: somebody listens.
    pub fn try_connect(&mut self, reachable: bool) {
        let now = self.device_now();
        if self.client.connect_at().is_none_or(|at| at > now) {
            return;
        }
        assert!(self.link.is_none());
        if !reachable {
            self.client.disconnected(now);
            assert!(self.client.connect_at().is_none_or(|at| at > now), "a failure is waited for");
            return;
        }
        self.broker.accept();
        self.link = Some(Link { up: VecDeque::new(), down: VecDeque::new(), dead: false });
        self.input.clear();
        self.client.connected(now);
    }

    /// The client's own work, as an adapter does it.
    pub fn serve_client(&mut self) {
        let now = self.device_now();
        for _ in 0..100_000 {
            while let Some(event) = self.client.poll_event(now, &mut self.input) {
                let event = Seen::of(event);
                self.on_event(event);
            }
            let mut out = vec![0; self.chunk];
            let len = self.client.poll_transmit(now, &mut out);
            if let Some(link) = self.link.as_mut() {
                link.up.extend(&out[..len]);
            }
            if len == 0 {
                self.check();
                if self.client.should_close() {
                    self.flush_up();
                    self.cut();
                }
                return;
            }
        }
        panic!("the client never stops");
    }

    /// What was written before the end of the connection still arrives, if the budget allows.
    fn flush_up(&mut self) {
        let len = self.link.as_ref().map_or(0, |link| link.up.len());
        self.carry_up(len);
    }

    fn spend(&mut self, wanted: usize) -> usize {
        let len = self.budget.map_or(wanted, |left| left.min(wanted));
        self.budget = self.budget.map(|left| left - len);
        self.passed += len;
        len
    }

    pub fn carry_up(&mut self, most: usize) {
        let wanted = self.link.as_ref().map_or(0, |link| link.up.len().min(most));
        let len = self.spend(wanted);
        let Some(link) = self.link.as_mut() else { return };
        let bytes: Vec<u8> = link.up.drain(..len).collect();
        if !link.dead {
            self.broker.bytes(self.now, &bytes);
            link.down.extend(self.broker.out.drain(..));
        }
    }

    pub fn carry_down(&mut self, most: usize) {
        let Some(link) = self.link.as_mut() else { return };
        link.down.extend(self.broker.out.drain(..));
        let space = self.input.space().len();
        let wanted = link.down.len().min(most).min(space);
        let len = self.spend(wanted);
        let Some(link) = self.link.as_mut() else { return };
        let bytes: Vec<u8> = link.down.drain(..len).collect();
        if !link.dead {
            assert_eq!(self.input.fill(&bytes), bytes.len());
        }
    }

    /// One round: everything that can move moves, at most `most` bytes each way.
    pub fn turn(&mut self, most: usize) {
        self.try_connect(true);
        self.serve_client();
        self.carry_up(most);
        self.carry_down(most);
        self.serve_client();
        if self.budget == Some(0) {
            self.budget = None;
            self.cut();
        }
        let over = self.link.as_ref().is_some_and(|link| self.broker.hang_up && link.down.is_empty());
        if over {
            self.serve_client();
            self.cut();
        }
    }

    /// The time of the next thing that happens by itself.
    pub fn next_time(&self) -> Option<u64> {
        let at = [self.client.next_timeout(), self.client.connect_at()].into_iter().flatten().min()?;
        Some(at.wrapping_sub(self.skew).max(self.now))
    }

    fn is_busy(&self) -> bool {
        let moving = |link: &Link| !(link.dead || link.up.is_empty() && link.down.is_empty());
        self.link.as_ref().is_some_and(moving) || !self.broker.out.is_empty()
    }

    /// Goes on without trouble until nothing is left to do.
    pub fn settle(&mut self) {
        let mut still = 0;
        for _ in 0..20_000 {
            self.turn(4096);
            if self.is_busy() {
                continue;
            }
            if self.client.is_drained() && self.client.is_connected() && self.broker.is_idle() {
                return;
            }
            let next = self.next_time().expect("there is always a next time while something is left");
            still = if next == self.now { still + 1 } else { 0 };
            assert!(still < 50, "time stands still at {next}");
            self.now = next.max(self.now);
        }
        panic!("not drained: {:?} pending, {:?}", self.client.pending(), self.client.counters());
    }

    fn on_event(&mut self, event: Seen) {
        match event {
            Seen::Connected(session) => {
                self.known_lost = self.broker.sessions_lost;
                self.sessions.push(session);
            }
            Seen::Message(bytes, qos) => self.received.push((number_of(&bytes), qos)),
            Seen::Start(qos) => self.partial = Some((Vec::new(), qos)),
            Seen::Chunk(bytes) => self.partial.as_mut().unwrap().0.extend(bytes),
            Seen::End => {
                let (bytes, qos) = self.partial.take().unwrap();
                self.received.push((number_of(&bytes), qos));
            }
            Seen::Acknowledged(ticket) => {
                let sent = self.sent.get_mut(&self.by_ticket[&ticket]).unwrap();
                assert!(!sent.acknowledged && sent.dropped.is_none(), "acknowledged once: {sent:?}");
                sent.acknowledged = true;
            }
            Seen::Refused(retry_after_ms) => {
                self.refusals += 1;
                let asked = u64::from(retry_after_ms.unwrap_or_default());
                self.broker.refused_until = self.broker.refused_until.max(self.now + asked);
            }
            Seen::Postponed => self.postponed += 1,
            Seen::Fault(reason) => self.faults.push(reason),
            Seen::Other => {}
        }
    }

    /// At the end: what was promised for each message.
    pub fn verify(&mut self, exactly_once: bool, in_order: bool) {
        self.check();
        let mut arrived: BTreeMap<u32, u32> = BTreeMap::new();
        let mut last: BTreeMap<Class, u32> = BTreeMap::new();
        for taken in &self.broker.taken {
            let number = number_of(&taken.payload);
            let sent = &self.sent[&number];
            let times = arrived.entry(number).or_default();
            *times += 1;
            if *times == 1 && in_order && sent.qos != QoS::AtMostOnce {
                let before = last.insert(sent.class, number).unwrap_or_default();
                assert!(before < number, "{number} came after {before}");
            }
        }
        for sent in self.sent.values() {
            let times = arrived.get(&sent.number).copied().unwrap_or_default();
            match (sent.qos, sent.dropped) {
                (QoS::AtMostOnce, None) => assert!(times <= 1, "{sent:?} {times}"),
                (QoS::AtLeastOnce, None) => assert!(times >= 1, "{sent:?} is lost"),
                (QoS::ExactlyOnce, None) if exactly_once => assert_eq!(times, 1, "{sent:?}"),
                (QoS::ExactlyOnce, None) => assert!(times >= 1, "{sent:?} is lost"),
                (QoS::ExactlyOnce, Some(_)) if exactly_once => assert!(times <= 1, "{sent:?}"),
                (_, Some(_)) => {}
            }
        }
    }

    /// The same for what the broker sent: `numbers` with their QoS.
    pub fn verify_received(&self, numbers: &[(u32, QoS)], exactly_once: bool) {
        let mut last = 0;
        let mut first = std::collections::BTreeSet::new();
        for (number, _) in &self.received {
            if first.insert(*number) {
                assert!(*number > last, "{number} came after {last}");
                last = *number;
            }
        }
        for (number, qos) in numbers {
            let times = self.received.iter().filter(|(received, _)| received == number).count();
            let forgotten = self.broker.forgotten.contains(number);
            match qos {
                QoS::AtMostOnce => assert!(times <= 1),
                QoS::AtLeastOnce => assert!(times >= 1 || forgotten, "{number} never came"),
                QoS::ExactlyOnce if exactly_once => assert!(times == 1 || forgotten && times == 0, "{number}: {times}"),
                // An identifier of the session that is gone may be taken for one of the session that nobody spoke of.
                QoS::ExactlyOnce => assert!(times >= 1 || forgotten || self.unheard, "{number} never came"),
            }
        }
    }

    pub fn sprinkle(&mut self, seed: &mut Seed) {
        let class = [Class::Alarm, Class::State, Class::Telemetry, Class::Bulk][seed.below(4)];
        let policy = [Policy::DropOldest, Policy::DropNewest, Policy::KeepLast][seed.below(3)];
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][seed.below(3)];
        let ttl_ms = if seed.below(4) == 0 { 100 + seed.below(60_000) as u32 } else { 0 };
        self.publish(qos, class, policy, ttl_ms, 4 + seed.below(120));
    }
}

/// An event without its borrows.
enum Seen {
    Connected(Session),
    Message(Vec<u8>, QoS),
    Start(QoS),
    Chunk(Vec<u8>),
    End,
    Acknowledged(Ticket),
    Refused(Option<u32>),
    Postponed,
    Fault(ReasonCode),
    Other,
}

impl Seen {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Connected { session, .. } => Self::Connected(session),
            Event::Message(message) if message.topic.starts_with("$SYS/") => Self::Other,
            Event::Message(message) => {
                assert_eq!(message.topic, "down/x");
                Self::Message(message.payload.to_vec(), message.qos)
            }
            Event::MessageStart(message) => Self::Start(message.qos),
            Event::MessageChunk(bytes) => Self::Chunk(bytes.to_vec()),
            Event::MessageEnd => Self::End,
            Event::Acknowledged { ticket, .. } => Self::Acknowledged(ticket),
            Event::Refused(farewell) => Self::Refused(farewell.retry_after_ms),
            Event::Postponed { .. } => Self::Postponed,
            Event::Fault(reason) => Self::Fault(reason),
            _ => Self::Other,
        }
    }
}
