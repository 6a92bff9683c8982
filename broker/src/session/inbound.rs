//! From the client: QoS 2 identifiers and the acks that wait until what they acknowledge is safe.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Weak};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;
use hashbrown::HashSet;

use super::alias::Aliases;
use super::{Session, Urgency};
use crate::codec::encode::AckNote;
use crate::codec::{AckKind, encode};
use crate::lazy::Blank;
use crate::message::Message;

/// Acks that a client may be owed before no more is read from it: what it sends without waiting for them must not grow, and
/// nobody is owed so many by a disk that works.
const OWED_MAX: usize = 8 * 1024;
/// SUBACKs and UNSUBACKs among them: each may be as long as its packet, and what it changes is as long in the commit.
const PACKETS_MAX: usize = 64;
/// Bytes of the messages that they wait for: whoever publishes behind them waits for these as well.
const AWAITED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A message that an ack waits for.
#[derive(Debug)]
pub struct Awaited {
    /// The message.
    pub message: Arc<Message>,
    /// It may be refused instead, after all. Not when it is gone already to somebody who must have it exactly once: its
    /// publisher would send it again, as another message.
    pub refusable: bool,
}

/// A message whose QoS 2 identifier is taken, and whose PUBREC was owed to a connection that is over: the PUBREC of its
/// repetition waits for it as well. Nobody holds a message that is gone: it is safe, or the queues have dropped it.
struct Unsafe {
    packet_id: PacketId,
    message: Weak<Message>,
    refusable: bool,
}

/// What is owed to the client. Acks leave in the order of what they acknowledge [MQTT-4.6.0-2], [MQTT-4.6.0-3].
#[derive(Debug)]
struct Owed {
    what: What,
    /// Not before this message is safe.
    message: Option<Awaited>,
    /// Not before this session's own delta of this number is committed; 0 for no wait.
    mark: u64,
}

#[derive(Debug)]
enum What {
    Ack {
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
        note: Option<AckNote>,
    },
    /// A SUBACK or UNSUBACK, encoded.
    Packet(Box<[u8]>),
}

/// What an inbound QoS 1 or 2 PUBLISH is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// To be routed.
    New,
    /// A QoS 2 identifier that is already taken: acknowledge, do not route [MQTT-4.3.3-10].
    Duplicate,
    /// More unacknowledged messages than our Receive Maximum [MQTT5-3.3.4-9].
    TooMany,
}

#[derive(Default)]
pub(crate) struct Inbound {
    acks: VecDeque<Owed>,
    /// How many of them give the client a place of its Receive Maximum back.
    places: usize,
    /// How many of them are a SUBACK or an UNSUBACK.
    packets: usize,
    /// Bytes of the messages that they wait for.
    awaited_bytes: usize,
    pub(crate) ids: HashSet<u16, foldhash::fast::FixedState>,
    /// At most one for each of these identifiers.
    not_safe: Vec<Unsafe>,
    /// Identifiers among them whose message is being routed: it is not known yet whether they stay.
    undecided: usize,
    /// Own deltas up to this number are committed.
    pub(crate) committed_mark: u64,
}

impl Blank for Inbound {
    fn blank() -> &'static Self {
        static BLANK: LazyLock<Inbound> = LazyLock::new(Inbound::default);
        &BLANK
    }
}

impl Inbound {
    fn push(&mut self, ack: Owed) {
        self.places += usize::from(ack.what.gives_back());
        self.packets += usize::from(matches!(ack.what, What::Packet(_)));
        self.awaited_bytes += ack.awaited_bytes();
        self.acks.push_back(ack);
    }

    /// The first, if its wait is over.
    fn pop_ready(&mut self) -> Option<Owed> {
        if !self.ready(self.acks.front()?) {
            return None;
        }
        let ack = self.acks.pop_front()?;
        self.places -= usize::from(ack.what.gives_back());
        self.packets -= usize::from(matches!(ack.what, What::Packet(_)));
        self.awaited_bytes -= ack.awaited_bytes();
        Some(ack)
    }

    fn ready(&self, ack: &Owed) -> bool {
        ack.mark <= self.committed_mark && ack.message.as_ref().is_none_or(|awaited| awaited.message.is_safe())
    }
}

impl Owed {
    /// What the PUBREC of a repetition is to wait for, if this is the PUBREC of the first.
    fn not_safe(self) -> Option<Unsafe> {
        let What::Ack { kind: AckKind::Pubrec, packet_id, .. } = self.what else { return None };
        Unsafe::new(packet_id, &self.message?)
    }

    fn awaited_bytes(&self) -> usize {
        self.message.as_ref().map_or(0, |awaited| awaited.message.size())
    }
}

impl Unsafe {
    /// `None`: it is safe.
    fn new(packet_id: PacketId, awaited: &Awaited) -> Option<Self> {
        let Awaited { message, refusable } = awaited;
        let unsafe_yet = || Self { packet_id, message: Arc::downgrade(message), refusable: *refusable };
        (!message.is_safe()).then(unsafe_yet)
    }
}

impl What {
    /// PUBACK, PUBCOMP and a PUBREC that refuses give a place of the Receive Maximum back [MQTT5-4.9.0-1]. A PUBREC that
    /// does not refuse goes for an identifier that is taken, which counts itself.
    fn gives_back(&self) -> bool {
        match self {
            Self::Ack { kind: AckKind::Pubrec, reason, .. } => !reason.is_success(),
            Self::Ack { kind: AckKind::Puback | AckKind::Pubcomp, .. } => true,
            Self::Ack { kind: AckKind::Pubrel, .. } | Self::Packet(_) => false,
        }
    }
}

impl Session {
    /// QoS 1 and 2 messages of the client whose exchange is not over.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.inbound.places + self.inbound.ids.len()
    }

    /// Whether a SUBACK or an UNSUBACK waits to be sent.
    pub(super) fn owes_packet(&self) -> bool {
        self.inbound.packets > 0
    }

    /// Whether so much waits to be safe that no more should be read from the client until some of it is.
    #[must_use]
    pub fn owes_much(&self) -> bool {
        let Inbound { acks, packets, awaited_bytes, .. } = &*self.inbound;
        acks.len() >= OWED_MAX || *packets >= PACKETS_MAX || *awaited_bytes >= AWAITED_BYTES_MAX
    }

    /// A QoS 1 PUBLISH has come.
    #[must_use]
    pub fn receive_qos1(&mut self, limit: usize) -> Received {
        if self.unacknowledged() >= limit { Received::TooMany } else { Received::New }
    }

    /// A QoS 2 PUBLISH has come: its identifier is taken from here on [MQTT-4.3.3-8].
    #[must_use]
    pub fn receive_qos2(&mut self, packet_id: PacketId, limit: usize) -> Received {
        if self.inbound.ids.contains(&packet_id.get()) {
            return Received::Duplicate;
        }
        if self.unacknowledged() >= limit {
            return Received::TooMany;
        }
        self.inbound.ids.insert(packet_id.get());
        Received::New
    }

    /// The connection is gone: acks that wait are not owed any more (the client repeats); identifiers stay for a
    /// session that outlives its connection.
    pub(super) fn detach_inbound(&mut self, keep_ids: bool) {
        if !keep_ids {
            self.inbound.clear();
        } else if !self.inbound.acks.is_empty() {
            let inbound = &mut *self.inbound;
            inbound.not_safe.retain(|one| one.message.upgrade().is_some_and(|message| !message.is_safe()));
            inbound.not_safe.extend(std::mem::take(&mut inbound.acks).into_iter().filter_map(Owed::not_safe));
            (inbound.places, inbound.packets, inbound.awaited_bytes) = (0, 0, 0);
        }
    }

    /// So many QoS 2 PUBLISHes are being routed, or tried again.
    pub fn begin_qos2(&mut self, count: usize) {
        if count > 0 {
            self.inbound.undecided += count;
        }
    }

    /// What became of so many of them is known to the session.
    pub fn end_qos2(&mut self, count: usize) {
        if count > 0 {
            self.inbound.undecided = self.inbound.undecided.saturating_sub(count);
        }
    }

    /// Whether a repetition cannot be told from a message that goes nowhere yet: a connection that was taken over is routing.
    #[must_use]
    pub fn has_undecided(&self) -> bool {
        self.inbound.undecided > 0
    }

    /// A QoS 2 PUBLISH was routed for a connection that has been taken over: its identifier is taken, and nothing is owed before its
    /// client repeats it.
    pub fn keep_qos2(&mut self, packet_id: PacketId, message: Option<&Awaited>) {
        self.inbound.ids.insert(packet_id.get());
        self.inbound.not_safe.extend(message.and_then(|awaited| Unsafe::new(packet_id, awaited)));
        self.mark();
    }

    /// Acknowledges a QoS 2 PUBLISH that is repeated, when the first one is safe.
    pub fn acknowledge_repeated(&mut self, packet_id: PacketId) {
        let not_safe = &mut self.inbound.not_safe;
        let first = not_safe.iter().position(|one| one.packet_id == packet_id).map(|at| not_safe.swap_remove(at));
        let message = first.and_then(|Unsafe { message, refusable, .. }| {
            let message = message.upgrade()?;
            Some(Awaited { message, refusable })
        });
        self.acknowledge(AckKind::Pubrec, packet_id, ReasonCode::Success, message);
    }

    /// Whether the client's QoS 2 identifier is taken.
    #[must_use]
    pub fn has_received(&self, packet_id: PacketId) -> bool {
        self.inbound.ids.contains(&packet_id.get())
    }

    /// A QoS 2 PUBLISH was refused after all: its identifier is free again.
    pub fn forget_qos2(&mut self, packet_id: PacketId) {
        self.inbound.ids.remove(&packet_id.get());
        self.inbound.not_safe.retain(|one| one.packet_id != packet_id);
    }

    /// The identifier of a QoS 2 PUBLISH that had to wait for room is taken.
    pub fn take_qos2(&mut self, packet_id: PacketId) {
        self.inbound.ids.insert(packet_id.get());
    }

    /// The number of the delta that will hold what changes now, for acks that wait for it; 0 where nothing is kept.
    fn mark(&mut self) -> u64 {
        if !self.durable() {
            return 0;
        }
        self.want(Urgency::Now);
        self.persist.as_mut().map_or(0, |persist| {
            persist.changed = true;
            persist.open
        })
    }

    /// Acknowledges a PUBLISH when `message` (if any) is safe. PUBREC waits for its identifier's commit as well: a
    /// repeated PUBLISH after a crash would be a second message otherwise.
    pub fn acknowledge(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode, message: Option<Awaited>) {
        let mark = if kind == AckKind::Pubrec && reason.is_success() { self.mark() } else { 0 };
        self.owe(Owed { what: What::Ack { kind, packet_id, reason, note: None }, message, mark });
    }

    /// Acknowledges a PUBLISH that its origin had sent before, when that one (`message`, if it is not yet) is safe.
    pub fn acknowledge_duplicate(&mut self, kind: AckKind, packet_id: PacketId, message: Option<Awaited>) {
        let mark = if kind == AckKind::Pubrec { self.mark() } else { 0 };
        let what = What::Ack { kind, packet_id, reason: ReasonCode::Success, note: Some(AckNote::Duplicate) };
        self.owe(Owed { what, message, mark });
    }

    /// Refuses a PUBLISH; MQTT 5 only.
    pub fn refuse(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode, retry_after_ms: Option<u32>) {
        if kind == AckKind::Pubrec {
            self.forget_qos2(packet_id);
        }
        let note = retry_after_ms.map(AckNote::RetryAfterMs);
        self.owe(Owed { what: What::Ack { kind, packet_id, reason, note }, message: None, mark: 0 });
    }

    /// Refuses a PUBLISH whose ack waits for the message to be safe: it will not be. MQTT 5 only; in 3.1.1 the ack waits
    /// on. False: nothing was done.
    pub fn refuse_waiting(&mut self, message: &Message, retry_ms: u32) -> bool {
        if !self.version.is_v5() || self.inbound.acks.is_empty() {
            return false;
        }
        let is_it =
            |owed: &&mut Owed| owed.message.as_ref().is_some_and(|a| std::ptr::eq(&raw const *a.message, message));
        let Some(owed) = self.inbound.acks.iter_mut().find(is_it) else { return false };
        let What::Ack { kind, packet_id, reason, note } = &mut owed.what else { return false };
        let Some(refused) = owed.message.take_if(|awaited| awaited.refusable) else { return false };
        (*reason, *note, owed.mark) = (ReasonCode::QuotaExceeded, Some(AckNote::RetryAfterMs(retry_ms)), 0);
        let (kind, packet_id) = (*kind, *packet_id);
        self.inbound.awaited_bytes -= refused.message.size();
        if kind == AckKind::Pubrec {
            // It counted as a taken identifier until now.
            self.inbound.places += 1;
            self.forget_qos2(packet_id);
            self.changed();
        }
        true
    }

    /// PUBREL: the identifier is released, and PUBCOMP owed [MQTT-4.3.3-11]. PUBCOMP waits for the commit: the client may
    /// use the identifier again as soon as it has it.
    pub fn receive_pubrel(&mut self, packet_id: PacketId) {
        let known = self.inbound.ids.remove(&packet_id.get());
        self.inbound.not_safe.retain(|one| one.packet_id != packet_id);
        if self.inbound.ids.is_empty() {
            self.inbound.ids.shrink_to(16);
        }
        let (reason, mark) = if known {
            (ReasonCode::Success, self.mark())
        } else if self.resumed {
            // A repetition: its PUBCOMP was lost with the connection. There are clients that take 0x92 for a failure, and
            // publish the message once more. The first one's commit may still be under way.
            (ReasonCode::Success, self.mark())
        } else {
            (ReasonCode::PacketIdentifierNotFound, 0)
        };
        let what = What::Ack { kind: AckKind::Pubcomp, packet_id, reason, note: None };
        self.owe(Owed { what, message: None, mark });
    }

    /// A SUBACK or UNSUBACK: it leaves when what it says is committed, after the acks before it.
    pub fn owe_packet(&mut self, packet: &[u8]) {
        let mark = self.mark();
        self.owe(Owed { what: What::Packet(packet.into()), message: None, mark });
    }

    fn owe(&mut self, ack: Owed) {
        if self.inbound.acks.is_empty() && self.inbound.ready(&ack) {
            self.write_ack(&ack);
        } else {
            self.inbound.push(ack);
        }
    }

    /// Writes the acks whose wait is over, in order.
    pub fn release_acks(&mut self) {
        if self.inbound.acks.is_empty() {
            return;
        }
        while let Some(ack) = self.inbound.pop_ready() {
            self.write_ack(&ack);
        }
        if self.inbound.acks.is_empty() {
            self.inbound.acks.shrink_to(64);
        }
    }

    fn write_ack(&mut self, owed: &Owed) {
        match &owed.what {
            What::Ack { kind, packet_id, reason, note: None } => {
                encode::ack(&mut self.out.buf, self.version, *kind, *packet_id, *reason);
            }
            What::Ack { kind, packet_id, reason, note } => {
                let (note, told, max) = (*note, self.problem_information, self.maximum_packet_size());
                encode::ack_with_note(&mut self.out.buf, self.version, *kind, *packet_id, *reason, note, told, max);
            }
            What::Packet(packet) => self.out.buf.extend_from_slice(packet),
        }
    }

    /// Binds a topic alias of the client. False: its aliases' topics would be too long together.
    #[must_use]
    pub fn bind_alias(&mut self, alias: u16, topic: &str) -> bool {
        self.aliases.get_or_insert_with(Aliases::inbound_only).bind(alias, topic)
    }

    /// The topic behind an alias of the client.
    #[must_use]
    pub fn resolve_alias(&self, alias: u16) -> Option<Arc<str>> {
        self.aliases.as_ref()?.resolve(alias)
    }
}
