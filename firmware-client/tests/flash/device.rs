//! A device with flash, a model broker, the link between them, and power cuts.

use crate::broker::Broker;
use crate::mock::{Flash, SECTOR};
use crate::payload::{number_of, payload};
use crate::seed::Seed;
use forebay_firmware::flash::{Config, Recovered, Tier};
use forebay_firmware::store::{Now, Store};
use forebay_firmware::{Class, Client, Dropped, Event, Input, Message, Options, Policy, Protocol, QoS, Status, Ticket};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

thread_local! {
    static DROPS: RefCell<Vec<Dropped>> = const { RefCell::new(Vec::new()) };
}

fn on_drop(dropped: Dropped) {
    DROPS.with_borrow_mut(|drops| drops.push(dropped));
}

/// The mock is never busy, so nothing ever waits.
pub fn now<R>(future: impl Future<Output = R>) -> R {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// As little as is promised to do.
const BUFFER: usize = 640;

#[derive(Clone, Debug)]
pub struct Sent {
    pub number: u32,
    pub class: Class,
    pub qos: QoS,
    ticket: Ticket,
    /// It is known to be in flash, or was.
    pub stored: bool,
    pub acknowledged: bool,
    pub dropped: bool,
    /// The power was cut since it was published.
    pub cut: bool,
}

pub struct Shape {
    pub v5: bool,
    pub sectors: u32,
    pub outbox: usize,
    pub high: u32,
    pub low: u32,
    pub safe: [bool; 4],
    pub in_flight_max: u16,
}

impl Shape {
    fn config(&self) -> Config {
        let split = self.sectors * SECTOR as u32;
        Config {
            messages: 0..split,
            session: split..split + 2 * SECTOR as u32,
            high: self.high,
            low: self.low,
            largest: 200,
            safe: self.safe,
        }
    }

    fn options(&self) -> &'static Options<'static> {
        let mut options = Options::new("device");
        options.protocol = if self.v5 { Protocol::V5 } else { Protocol::V311 };
        options.in_flight_max = self.in_flight_max;
        options.subscription_reserve = 64;
        options.network.cap_ms = 5_000;
        options.on_drop = Some(on_drop);
        Box::leak(Box::new(options))
    }
}

pub struct Device {
    pub shape: Shape,
    options: &'static Options<'static>,
    pub client: Client<'static>,
    input: Input<'static>,
    pub tier: Option<Tier<'static, Flash>>,
    pub broker: Broker,
    link: Option<(VecDeque<u8>, VecDeque<u8>)>,
    /// Of the world, and when the device was started.
    pub now: u64,
    started: u64,
    pub sent: BTreeMap<u32, Sent>,
    by_ticket: BTreeMap<Ticket, u32>,
    pub received: Vec<u32>,
    /// Those that were handled and of which flash knows so.
    sealed: BTreeSet<u32>,
    /// Those that came since flash last knew of any.
    fresh: Vec<u32>,
    pub cuts: u32,
    off_ms: u64,
    /// Flash may fail to be read for a while.
    pub unreadable: bool,
    pub recovered: Vec<Recovered>,
    next: u32,
    /// How many of the taken messages were looked at.
    checked: usize,
}

impl Device {
    pub fn new(shape: Shape) -> Self {
        DROPS.with_borrow_mut(Vec::clear);
        let options = shape.options();
        let flash = Flash::new(shape.sectors as usize + 2);
        let broker = Broker::new(shape.v5);
        let tier = Tier::new(flash, shape.config(), vec![0; BUFFER].leak());
        let mut device = Self {
            client: Client::new(options, vec![0; shape.outbox].leak()),
            input: Input::new(vec![0; 256].leak()),
            tier: Some(tier),
            shape,
            options,
            broker,
            link: None,
            now: 1_000,
            started: 1_000,
            sent: BTreeMap::new(),
            by_ticket: BTreeMap::new(),
            received: Vec::new(),
            sealed: BTreeSet::new(),
            fresh: Vec::new(),
            cuts: 0,
            off_ms: 500,
            unreadable: false,
            recovered: Vec::new(),
            next: 1,
            checked: 0,
        };
        device.recover();
        device
    }

    fn device_now(&self) -> u64 {
        self.now - self.started
    }

    fn recover(&mut self) {
        let device_now = self.device_now();
        let recovered = now(self.tier.as_mut().unwrap().recover(&mut self.client, device_now, self.off_ms));
        match recovered {
            Ok(recovered) => {
                self.recovered.push(recovered);
                self.client.subscribe("down/#", QoS::ExactlyOnce).unwrap();
                self.check();
            }
            Err(_) => self.power_cut(),
        }
    }

    /// Everything but the flash is gone. What was on its way may still arrive.
    pub fn power_cut(&mut self) {
        self.off(usize::MAX, 500);
    }

    /// The same, for so long; so many bytes of what was on its way still arrive.
    pub fn off(&mut self, arrive: usize, off_ms: u64) {
        self.off_ms = off_ms;
        self.cuts += 1;
        // Whoever was handling them begins again.
        self.fresh.clear();
        if let Some((up, _)) = self.link.take() {
            let bytes: Vec<u8> = up.into_iter().take(arrive).collect();
            self.broker.bytes(self.now, &bytes);
            self.broker.out.clear();
            self.broker.cut();
        }
        self.note_drops();
        for sent in self.sent.values_mut() {
            sent.cut = true;
        }
        DROPS.with_borrow_mut(Vec::clear);
        let mut flash = self.tier.take().unwrap().into_flash();
        flash.power_on();
        self.now += off_ms;
        self.started = self.now;
        self.client = Client::new(self.options, vec![0; self.shape.outbox].leak());
        self.input = Input::new(vec![0; 256].leak());
        self.tier = Some(Tier::new(flash, self.shape.config(), vec![0; BUFFER].leak()));
        self.recover();
    }

    pub fn flash(&mut self) -> &mut Flash {
        self.tier.as_mut().unwrap().flash()
    }

    pub fn publish(&mut self, qos: QoS, class: Class, len: usize, ttl_ms: u32) {
        let number = self.next;
        self.next += 1;
        let message = Message::new("up/0").qos(qos).class(class).policy(Policy::DropOldest).ttl_ms(ttl_ms);
        let taken = self.client.publish(self.device_now(), &message, &payload(number, len));
        self.note_drops();
        if let Ok(ticket) = taken {
            let sent =
                Sent { number, class, qos, ticket, stored: false, acknowledged: false, dropped: false, cut: false };
            self.by_ticket.insert(ticket, number);
            self.sent.insert(number, sent);
        }
        self.check();
    }

    fn note_drops(&mut self) {
        for dropped in DROPS.with_borrow_mut(std::mem::take) {
            let Some(ticket) = dropped.ticket else { continue };
            self.sent.get_mut(&self.by_ticket[&ticket]).unwrap().dropped = true;
        }
    }

    /// The ledger adds up at any moment.
    fn check(&mut self) {
        self.note_drops();
        let counters = *self.client.counters();
        let ended = counters.sent + counters.acknowledged + counters.dropped_with_ticket();
        let there = self.client.pending() as u32 + counters.spilled;
        assert_eq!(counters.accepted, ended + there, "{counters:?} {}", self.client.pending());
        assert!(counters.spilled <= self.tier.as_ref().unwrap().stored(), "{counters:?}");
    }

    /// Marks what is safe now.
    fn note_stored(&mut self) {
        let tier = self.tier.as_ref().unwrap();
        for sent in self.sent.values_mut().filter(|sent| !sent.stored && !sent.cut) {
            let precious =
                sent.qos == QoS::ExactlyOnce || sent.qos == QoS::AtLeastOnce && self.shape.safe[sent.class as usize];
            let here = matches!(self.client.status(sent.ticket), Status::Queued | Status::Sent);
            let away = !here && !sent.acknowledged && !sent.dropped && sent.qos != QoS::AtMostOnce;
            sent.stored |= away || precious && tier.is_stored(sent.class, sent.ticket);
        }
    }

    /// The client's own work, as an adapter does it. False: the power was cut.
    fn work(&mut self) -> bool {
        loop {
            let device_now = self.device_now();
            let tier = self.tier.as_mut().unwrap();
            let settled = now(tier.settle(&mut Now(device_now, &mut self.client)));
            if self.flash().dead {
                self.power_cut();
                return false;
            }
            // What could not be read is left, and is read again.
            assert!(settled.is_ok() || self.unreadable, "{settled:?}");
            self.note_drops();
            self.note_stored();
            self.check();
            self.events(device_now);
            let mut out = [0; 300];
            let len = self.client.poll_transmit(device_now, &mut out);
            if len > 0 {
                let tier = self.tier.as_mut().unwrap();
                let sealed = now(tier.seal(&mut Now(device_now, &mut self.client)));
                if self.flash().dead {
                    self.power_cut();
                    return false;
                }
                if sealed.is_err() {
                    assert!(self.unreadable);
                    self.cut(0);
                    return true;
                }
                self.sealed.extend(self.fresh.drain(..));
                self.link.as_mut().unwrap().0.extend(&out[..len]);
            }
            self.check();
            if len == 0 {
                if self.client.should_close() {
                    self.cut(usize::MAX);
                }
                return true;
            }
        }
    }

    fn events(&mut self, device_now: u64) {
        let mut acknowledged = Vec::new();
        while let Some(event) = self.client.poll_event(device_now, &mut self.input) {
            match event {
                Event::Message(message) => {
                    let number = number_of(message.payload);
                    if message.qos == QoS::ExactlyOnce {
                        assert!(!self.sealed.contains(&number), "{number} came again after its PUBREC");
                    }
                    self.received.push(number);
                    self.fresh.push(number);
                }
                Event::Acknowledged { ticket, .. } => acknowledged.push(ticket),
                _ => {}
            }
        }
        for ticket in acknowledged {
            self.sent.get_mut(&self.by_ticket[&ticket]).unwrap().acknowledged = true;
        }
        self.note_drops();
    }

    /// The link breaks; so many bytes of what was written still arrive.
    pub fn cut(&mut self, arrive: usize) {
        if let Some((up, _)) = self.link.take() {
            let bytes: Vec<u8> = up.into_iter().take(arrive).collect();
            self.broker.bytes(self.now, &bytes);
            self.broker.out.clear();
            self.broker.cut();
            let device_now = self.device_now();
            self.client.disconnected(device_now);
            self.check();
        }
    }

    /// One round; at most `most` bytes each way.
    pub fn turn(&mut self, most: usize, reachable: bool) {
        let device_now = self.device_now();
        if reachable && self.client.connect_at().is_some_and(|at| at <= device_now) {
            self.broker.accept();
            self.link = Some((VecDeque::new(), VecDeque::new()));
            self.input.clear();
            self.client.connected(device_now);
        }
        if !self.work() {
            return;
        }
        if let Some((up, down)) = self.link.as_mut() {
            let bytes: Vec<u8> = up.drain(..up.len().min(most)).collect();
            self.broker.bytes(self.now, &bytes);
            down.extend(self.broker.out.drain(..));
            let len = down.len().min(most).min(self.input.space().len());
            let bytes: Vec<u8> = down.drain(..len).collect();
            assert_eq!(self.input.fill(&bytes), bytes.len());
        }
        self.check_taken();
        if self.work() && self.broker.hang_up && self.link.as_ref().is_some_and(|(_, down)| down.is_empty()) {
            self.cut(usize::MAX);
        }
    }

    /// Bytes that are on their way to the broker.
    pub fn on_the_way(&self) -> usize {
        self.link.as_ref().map_or(0, |(up, _)| up.len())
    }

    /// Whether a message has arrived.
    pub fn has_arrived(&self, number: u32) -> bool {
        self.broker.taken.iter().any(|taken| number_of(&taken.payload) == number)
    }

    /// Goes on without trouble until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            self.turn(4_096, true);
            let busy = self.link.as_ref().is_some_and(|(up, down)| !(up.is_empty() && down.is_empty()));
            if busy || !self.broker.out.is_empty() {
                continue;
            }
            if self.client.is_connected() && self.client.is_drained() && self.broker.is_idle() {
                return;
            }
            self.now += 50;
        }
        panic!("not drained: {:?} of {:?}", self.client.pending(), self.client.counters());
    }

    pub fn disturb(&mut self, seed: &mut Seed) {
        match seed.below(50) {
            0 | 1 => self.cut(seed.below(60)),
            2 => self.power_cut(),
            3..=6 => {
                let left = seed.below(60) as u64;
                self.flash().left = Some(left);
            }
            49 if self.unreadable => self.flash().outage = 1 + seed.below(30) as u32,
            7 if self.shape.v5 => self.broker.mood.full_until = self.now + seed.below(3_000) as u64,
            8..=12 => {
                let number = 1_000_000 + self.now as u32;
                let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][seed.below(2)];
                self.broker.send(number, payload(number, 4 + seed.below(100)), qos);
            }
            13..=32 => {
                let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce][seed.below(4)];
                let class = [Class::Alarm, Class::State, Class::Telemetry, Class::Bulk][seed.below(4)];
                let ttl_ms = if seed.below(8) == 0 { 100 + seed.below(60_000) as u32 } else { 0 };
                self.publish(qos, class, 4 + seed.below(120), ttl_ms);
            }
            _ => {}
        }
    }

    /// What is sent with QoS 2 was stored before.
    fn check_taken(&mut self) {
        for taken in &self.broker.taken[self.checked..] {
            let sent = &self.sent[&number_of(&taken.payload)];
            let safe = sent.stored || sent.cut || self.tier.as_ref().unwrap().has_failed();
            assert!(taken.qos != QoS::ExactlyOnce || safe, "{sent:?} was not stored");
        }
        self.checked = self.broker.taken.len();
    }

    /// At the end: what was promised for each message.
    pub fn verify(&self, in_order: bool) {
        let mut arrived: BTreeMap<u32, u32> = BTreeMap::new();
        let mut last: BTreeMap<Class, u32> = BTreeMap::new();
        for taken in &self.broker.taken {
            let number = number_of(&taken.payload);
            let sent = &self.sent[&number];
            let times = arrived.entry(number).or_default();
            *times += 1;
            // What was dropped shortly before a cut may still arrive, at any time.
            if *times == 1 && in_order && sent.qos != QoS::AtMostOnce && !sent.dropped {
                let before = last.insert(sent.class, number).unwrap_or_default();
                assert!(
                    before < number,
                    "{number} came after {before}: {:?} {:?}",
                    self.sent[&before],
                    self.sent[&number]
                );
            }
        }
        for sent in self.sent.values() {
            let times = arrived.get(&sent.number).copied().unwrap_or_default();
            let safe = (sent.stored || !sent.cut) && !sent.dropped;
            match sent.qos {
                QoS::AtMostOnce => assert!(times <= 1, "{sent:?} {times}"),
                QoS::AtLeastOnce => assert!(!safe || times >= 1, "{sent:?} is lost"),
                QoS::ExactlyOnce => {
                    assert!(times <= 1, "{sent:?} came {times} times");
                    assert!(!safe || times == 1, "{sent:?} is lost");
                }
            }
            assert!(!sent.acknowledged || times >= 1, "{sent:?}");
        }
    }
}
