//! Any sequence of calls on a session: nothing panics, its ledger's sum holds after each, packet identifiers in flight
//! differ and are within the client's window, and nothing is sent that the protocol forbids.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay::codec::AckKind;
use forebay::message::{Message, Parts, Time};
use forebay::session::{Collected, Cx, Delivery, Durability, Link, Policy, QueueLimits, Received, Session, Settings};
use forebay::store::{
    GroupId, NEVER_S, QueueEntry, QueueState, RecoveredSession, SessionDelta, SessionNo, SessionRecord, Share,
    StoredSubscription,
};
use forebay_wire::frame;
use forebay_wire::publish::{From, Publish};
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};
use libfuzzer_sys::fuzz_target;

/// Messages that one page holds.
const PAGE: usize = 3;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let settings = settings(&mut input);
    let mut world = World::new(&settings);
    while !input.0.is_empty() {
        world.step(&mut input);
        world.check();
    }
});

/// The bytes that choose; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

fn settings(input: &mut Input<'_>) -> Settings {
    Settings {
        queue: QueueLimits {
            max_messages: u64::from(1 + input.below(12)),
            max_bytes: 1 << 12,
            max_transient_bytes: 200,
            max_age_ms: input.bit().then_some(500),
            policy: [Policy::Reject, Policy::DropOldest, Policy::DropNewest, Policy::KeepLast]
                [usize::from(input.below(4))],
            keep_last_by: forebay::queue::KeyOf::Topic,
            queue_qos0: input.bit(),
            stall_ms: None,
            stall_transient_ms: None,
            dead_letters: forebay::queue::Reasons::default(),
            memory_messages: usize::from(1 + input.below(6)),
            memory_bytes: 300,
        },
        outbound_buffer: 400,
        max_inflight: u16::from(input.below(4)),
        receive_maximum: 10,
        outbound_topic_alias_maximum: u16::from(input.below(3)),
    }
}

/// One session, its disk, and what its client knows.
struct World<'s> {
    settings: &'s Settings,
    now: Time,
    session: Session,
    /// What a commit under way will have written.
    under_way: Option<Collected>,
    disk: BTreeMap<u64, QueueEntry>,
    record: Option<SessionRecord>,
    state: QueueState,
    subscriptions: Vec<StoredSubscription>,
    window: u16,
    maximum_packet_size: u32,
    /// QoS of the messages that the client has not acknowledged to the end, by packet identifier.
    in_flight: BTreeMap<u16, u8>,
}

impl<'s> World<'s> {
    fn new(settings: &'s Settings) -> Self {
        Self {
            settings,
            now: Time(10_000),
            session: Session::new(SessionNo(1), "c"),
            under_way: None,
            disk: BTreeMap::new(),
            record: None,
            state: QueueState::default(),
            subscriptions: Vec::new(),
            window: 0,
            maximum_packet_size: u32::MAX,
            in_flight: BTreeMap::new(),
        }
    }

    fn cx(&self) -> Cx<'s> {
        Cx { now: self.now, settings: self.settings }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0 => self.connect(input),
            1 => self.disconnect(input),
            2..=5 => self.deliver(input),
            6 => self.answer(input),
            7 => self.any_ack(input),
            8 => self.publish(input),
            9 => self.session.receive_pubrel(id(input)),
            10 => self.collect(input),
            11 => self.commit(input),
            12 => self.page(input),
            13 => self.now = Time(self.now.0 + u64::from(input.byte()) * 8),
            14 => self.subscribe(input),
            _ => self.rest(input),
        }
        self.session.release_acks();
        self.session.pump(self.cx());
        self.take();
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        self.take();
        if self.session.expiry_s() == 0 {
            // Never connected, or it ends with its connection: the broker resumes no such session.
            self.end();
        }
        self.window = u16::from(1 + input.below(5));
        self.maximum_packet_size = if input.bit() { u32::MAX } else { 20 };
        let version = if input.bit() { Version::V5 } else { Version::V311 };
        let link = Link {
            version,
            expiry_s: [0, NEVER_S][usize::from(input.below(2))],
            receive_maximum: self.window,
            maximum_packet_size: self.maximum_packet_size,
            topic_alias_maximum: if version.is_v5() { u16::from(input.below(3)) } else { 0 },
            problem_information: input.bit(),
            will: None,
            authority: None,
            egress: None,
        };
        self.in_flight.clear();
        self.session.connect(link, self.cx());
        assert!(self.session.connected());
    }

    fn disconnect(&mut self, input: &mut Input<'_>) {
        let connected = std::mem::take(&mut self.window) > 0;
        if connected && input.bit() {
            self.session.set_expiry(0);
        }
        assert_eq!(self.session.disconnect(self.session.epoch(), self.cx()), connected);
        self.in_flight.clear();
        if connected && self.session.expiry_s() == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        self.session.end();
        assert_eq!(self.session.ledger().1, 0, "nothing is queued in a session that has ended");
        self.check();
        let now = self.now;
        *self = World { now, ..World::new(self.settings) };
    }

    fn deliver(&mut self, input: &mut Input<'_>) {
        let topic = ["t", "t/long/er", "é"][usize::from(input.below(3))];
        let payload = vec![b'p'; usize::from(input.below(40))];
        let qos = input.below(3);
        let expires_at = input.bit().then(|| self.now.plus_ms(300));
        let parts =
            Parts { topic, properties: &[], payload: &payload, qos, retain: false, expires_at, accepted_at: self.now };
        let shared = Arc::new(Message::new(&parts, None));
        let delivery = Delivery {
            topic: topic.as_bytes(),
            properties: &[],
            payload: &payload,
            qos,
            retain: input.bit(),
            shared: input.bit().then(|| Share::Group(GroupId::of("g", "t"))),
            subscription_ids: if input.bit() { &[7] } else { &[] },
            expires_at,
            durability: [Durability::Commit, Durability::Interval, Durability::Memory][usize::from(input.below(3))],
        };
        self.session.deliver(&delivery, &mut || shared.clone(), self.cx());
    }

    /// The right answer to the oldest message, or a refusal.
    fn answer(&mut self, input: &mut Input<'_>) {
        let nth = usize::from(input.below(4));
        let Some((&number, &qos)) = self.in_flight.iter().nth(nth) else { return };
        let id = PacketId::new(number).expect("identifiers are not 0");
        let reason = if input.below(4) == 0 { ReasonCode::UnspecifiedError } else { ReasonCode::Success };
        if qos == 1 {
            assert!(self.session.receive_puback(id, reason), "PUBACK of what was sent");
            self.in_flight.remove(&number);
        } else {
            self.session.receive_pubrec(id, reason);
            self.take();
            if self.session.receive_pubcomp(id) {
                self.in_flight.remove(&number);
            } else if !reason.is_success() {
                // Refused, and over; or after a resume PUBREC had come before and the refusal says nothing.
                self.in_flight.remove(&number);
            }
        }
    }

    /// Any ack at all. What it ends is not in flight any more.
    fn any_ack(&mut self, input: &mut Input<'_>) {
        let id = id(input);
        let done = match input.below(3) {
            0 => self.session.receive_puback(id, ReasonCode::Success),
            1 => {
                self.session.receive_pubrec(id, ReasonCode::Success);
                false
            }
            _ => self.session.receive_pubcomp(id),
        };
        if done {
            self.in_flight.remove(&id.get());
        }
    }

    /// A QoS 1 or 2 PUBLISH of the client.
    fn publish(&mut self, input: &mut Input<'_>) {
        let id = id(input);
        let limit = usize::from(self.settings.receive_maximum);
        if input.bit() {
            if self.session.receive_qos1(limit) == Received::New {
                self.session.acknowledge(AckKind::Puback, id, ReasonCode::Success, None);
            }
            return;
        }
        let taken = self.session.has_received(id);
        match self.session.receive_qos2(id, limit) {
            Received::New if input.below(4) == 0 => {
                self.session.refuse(AckKind::Pubrec, id, ReasonCode::QuotaExceeded, Some(100));
                assert!(!self.session.has_received(id));
            }
            Received::New => {
                assert!(!taken);
                self.session.acknowledge(AckKind::Pubrec, id, ReasonCode::Success, None);
            }
            Received::Duplicate => {
                assert!(taken);
                self.session.acknowledge(AckKind::Pubrec, id, ReasonCode::Success, None);
            }
            Received::TooMany => assert!(self.session.unacknowledged() >= limit),
        }
    }

    fn collect(&mut self, input: &mut Input<'_>) {
        if self.under_way.is_some() {
            return;
        }
        let cutoff = if input.bit() { Time(u64::MAX) } else { Time(self.now.0.saturating_sub(50)) };
        let (collected, _) = self.session.collect(cutoff);
        if let Some(state) = collected.as_ref().and_then(|c| c.delta.state.as_ref()) {
            let dropped: u64 = state.ledger.dropped.iter().sum();
            let l = &state.ledger;
            assert_eq!(l.accepted, l.delivered + state.queued + l.expired + dropped, "what is written: {state:?}");
            assert!(state.floor <= state.next_seq && state.done.is_sorted());
        }
        self.under_way = collected;
    }

    fn commit(&mut self, input: &mut Input<'_>) {
        let Some(collected) = self.under_way.take() else { return };
        if input.below(8) == 0 {
            self.session.not_committed(collected);
            return;
        }
        for entry in &collected.delta.enqueued {
            self.disk.insert(entry.seq, entry.clone());
        }
        self.write_rest(&collected.delta);
        self.disk.retain(|seq, _| *seq >= self.state.floor && !self.state.is_done(*seq));
        self.session.committed(&collected, self.cx());
    }

    fn write_rest(&mut self, delta: &SessionDelta) {
        self.record = delta.record.clone().or(self.record.take());
        // What is done is told once, and found whole at a start.
        let mut done: BTreeSet<u64> =
            self.state.done.iter().chain(&delta.done).flat_map(|(from, to)| *from..*to).collect();
        self.state = delta.state.clone().unwrap_or(std::mem::take(&mut self.state));
        done.retain(|seq| (self.state.floor..self.state.next_seq).contains(seq));
        self.state.done = done.into_iter().map(|seq| (seq, seq + 1)).collect();
        for filter in &delta.unsubscribed {
            self.subscriptions.retain(|s| s.filter != *filter);
        }
        for subscription in &delta.subscribed {
            self.subscriptions.retain(|s| s.filter != subscription.filter);
            self.subscriptions.push(subscription.clone());
        }
    }

    fn page(&mut self, input: &mut Input<'_>) {
        let Some(wanted) = self.session.wants_page(self.cx()) else { return };
        if input.below(8) == 0 {
            self.session.page_failed();
            return;
        }
        let page = self.disk.range(wanted.from..).take(PAGE).map(|(_, entry)| entry.clone()).collect();
        self.session.page_in(wanted.from, Ok(page), self.cx());
    }

    fn subscribe(&mut self, input: &mut Input<'_>) {
        let filter = ["a", "b/#", "+"][usize::from(input.below(3))].to_owned();
        let was = self.session.subscriptions().iter().any(|s| s.filter == filter);
        if input.bit() {
            assert_eq!(self.session.unsubscribe(&filter), was);
        } else {
            let subscription = StoredSubscription {
                filter,
                qos: 1,
                no_local: false,
                retain_as_published: false,
                subscription_id: 0,
                retained_behind: None,
            };
            assert_eq!(self.session.subscribe(subscription), was);
        }
        assert!(self.session.subscriptions().is_sorted_by(|a, b| a.filter < b.filter));
    }

    fn rest(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => self.end(),
            1 => self.restart(),
            2 => self.session.owe_packet(&[0xb0, 2, 0, 1]),
            _ => {
                self.session.take_urgency();
            }
        }
    }

    /// The broker crashes, and starts with what was committed.
    fn restart(&mut self) {
        let Some(record) = self.record.clone().filter(|record| record.expiry_s > 0) else { return };
        let (no, subscriptions) = (SessionNo(1), self.subscriptions.clone());
        let found = RecoveredSession { no, record: Some(record.clone()), subscriptions, state: self.state.clone() };
        self.session = Session::recover(&found, &record, self.now);
        (self.under_way, self.window) = (None, 0);
        self.in_flight.clear();
    }

    /// The client reads all that there is.
    fn take(&mut self) {
        let version = self.session.version();
        let out = self.session.take_all_out();
        let mut rest = &out[..];
        while let Some(frame) = frame::peek(rest, u32::MAX).expect("what is sent has a valid header") {
            frame.check(version).expect("what is sent has valid flags");
            let (packet, after) = rest.split_at(frame.total());
            if frame.packet_type() == frame::PUBLISH {
                self.sent(version, frame.first_byte, &packet[frame.header_len..], packet.len());
            }
            rest = after;
        }
        assert!(rest.is_empty(), "half a packet");
    }

    fn sent(&mut self, version: Version, first: u8, body: &[u8], len: usize) {
        let publish = Publish::parse(version, From::Server, first, body, 10).expect("what is sent is valid");
        assert!(len <= self.maximum_packet_size as usize, "larger than the client takes");
        let Some(id) = publish.packet_id else { return };
        let before = self.in_flight.insert(id.get(), publish.qos as u8);
        assert!(before.is_none(), "an identifier in flight is used again");
        assert!(self.in_flight.len() <= usize::from(self.window), "more in flight than the Receive Maximum");
    }

    fn check(&self) {
        let (ledger, queued) = self.session.ledger();
        let dropped: u64 = ledger.dropped.iter().sum();
        let sum = ledger.delivered + queued + ledger.expired + dropped;
        assert_eq!(ledger.accepted, sum, "{ledger:?}, {queued} queued");
        let (messages, bytes) = self.session.fill();
        assert_eq!(messages, queued);
        assert!(messages > 0 || bytes == 0, "{bytes} bytes in an empty queue");
    }
}

fn id(input: &mut Input<'_>) -> PacketId {
    PacketId::new(u16::from(1 + input.below(12))).expect("not 0")
}
