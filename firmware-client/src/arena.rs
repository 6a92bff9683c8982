//! The memory of the outbox: records, one after the other.
//!
//! A record is a header, a topic, properties and a payload, and its length is a multiple of 4:
//!
//! ```text
//!  0  u32  length of the record | padding << 24 | state << 26
//!  4  u32  ticket
//!  8  u32  when it expires, in ticks; 0 never
//! 12  u16  packet identifier; 0 none
//! 14  u16  bytes of the topic
//! 16  u16  bytes of the properties
//! 18  u16  flags
//! 20       topic, properties, payload
//! ```
//!
//! It is what both versions send, in the order in which they send it, without what is only known then: packet identifier,
//! DUP, topic alias, what is left of the expiry. So a payload is written once, and a message that was published before
//! the device knew which version its server speaks is no other message.
//!
//! Records are appended. One that is done is marked, and stays until room is needed; then those behind it are moved
//! down. A ring would not have to move them, but could not give back room in its middle: acknowledgements, evictions and
//! expiries come in any order, and one alarm that waits for its ack would hold the room of all telemetry behind it. Moving
//! costs at most one pass over the memory each time as much as is free has been used (8 KB: some 20 µs at 64 MHz a pass),
//! leaves no hole, and needs no other bookkeeping. It is never done in an interrupt, see
//! [`Mailbox`](crate::mailbox::Mailbox).

use crate::bytes;
use crate::message::{Class, PublishProperty};
use crate::write::Out;
use forebay_wire::property::id;
use forebay_wire::types::QoS;

/// Bytes of a record's header.
pub(crate) const HEAD: usize = 20;
/// No record is longer.
const LEN_MAX: usize = 0x00ff_ffff;
/// The account of subscriptions, behind those of the classes.
pub(crate) const SUBSCRIPTIONS: usize = 4;
/// How many accounts there are.
pub(crate) const ACCOUNTS: usize = 5;

/// Where a record is on its way.
///
/// ```text
/// Queued -> InFlight -> (gone)                    QoS 1; QoS 0 is gone when it is sent
/// Queued -> InFlight -> Released -> (gone)        QoS 2; Released is the header alone, for PUBREL
/// SubWanted -> SubSent -> SubGranted              kept, to be made again when the session is lost
/// UnsubWanted -> UnsubSent -> (gone)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Dead = 0,
    Queued = 1,
    InFlight = 2,
    Released = 3,
    SubWanted = 4,
    SubSent = 5,
    SubGranted = 6,
    UnsubWanted = 7,
    UnsubSent = 8,
}

impl State {
    const fn from_bits(bits: u32) -> Self {
        match bits & 15 {
            1 => Self::Queued,
            2 => Self::InFlight,
            3 => Self::Released,
            4 => Self::SubWanted,
            5 => Self::SubSent,
            6 => Self::SubGranted,
            7 => Self::UnsubWanted,
            8 => Self::UnsubSent,
            _ => Self::Dead,
        }
    }

    /// A set of states.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// Every state but `Dead`.
pub(crate) const LIVE: u16 = 0x01fe;
/// Those that hold a packet identifier.
pub(crate) const NUMBERED: u16 =
    State::InFlight.bit() | State::Released.bit() | State::SubSent.bit() | State::UnsubSent.bit();
/// Subscriptions.
pub(crate) const SUBS: u16 = 0x01f0;

const QOS: u16 = 3;
/// RETAIN.
pub(crate) const RETAIN: u16 = 1 << 2;
const CLASS_SHIFT: u16 = 3;
/// It was published while there was no connection.
pub(crate) const BACKLOG: u16 = 1 << 5;
/// In flight before this connection, and not sent again yet; or a PUBREL that is to be sent.
pub(crate) const DUE: u16 = 1 << 6;
/// It is a subscription, and accounted as one.
const ACCOUNT_SUB: u16 = 1 << 7;

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) len: usize,
    pub(crate) state: State,
    pad: u8,
    pub(crate) ticket: u32,
    pub(crate) expires: u32,
    pub(crate) id: u16,
    pub(crate) topic_len: u16,
    pub(crate) properties_len: u16,
    pub(crate) flags: u16,
}

impl Head {
    /// Of no record.
    pub(crate) const NONE: Self = Self::subscription(0, State::Dead);

    pub(crate) const fn message(ticket: u32, qos: QoS, retain: bool, class: Class) -> Self {
        let flags = qos as u16 | (class as u16) << CLASS_SHIFT | if retain { RETAIN } else { 0 };
        Self { flags, ..Self::subscription(ticket, State::Queued) }
    }

    pub(crate) const fn subscription(ticket: u32, state: State) -> Self {
        Self { len: 0, state, pad: 0, ticket, expires: 0, id: 0, topic_len: 0, properties_len: 0, flags: ACCOUNT_SUB }
    }

    /// Without topic, properties and payload.
    #[cfg(feature = "flash")]
    pub(crate) const fn stripped(&self) -> Self {
        Self { len: HEAD, pad: 0, topic_len: 0, properties_len: 0, ..*self }
    }

    pub(crate) const fn qos(&self) -> u8 {
        (self.flags & QOS) as u8
    }

    pub(crate) const fn class(&self) -> Class {
        Class::from_bits((self.flags >> CLASS_SHIFT) as u8)
    }

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    const fn account(&self) -> usize {
        if self.has(ACCOUNT_SUB) { SUBSCRIPTIONS } else { self.class() as usize }
    }

    fn read(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = *bytes;
        let word = u32::from_le_bytes([a, b, c, d]);
        Self {
            len: word as usize & LEN_MAX,
            state: State::from_bits(word >> 26),
            pad: (word >> 24 & 3) as u8,
            ticket: u32::from_le_bytes([e, f, g, h]),
            expires: u32::from_le_bytes([i, j, k, l]),
            id: u16::from_le_bytes([m, n]),
            topic_len: u16::from_le_bytes([o, p]),
            properties_len: u16::from_le_bytes([q, r]),
            flags: u16::from_le_bytes([s, t]),
        }
    }

    fn write(&self) -> [u8; HEAD] {
        let [a, b, c, d] = word(self.len, self.pad, self.state).to_le_bytes();
        let [e, f, g, h] = self.ticket.to_le_bytes();
        let [i, j, k, l] = self.expires.to_le_bytes();
        let ([m, n], [o, p]) = (self.id.to_le_bytes(), self.topic_len.to_le_bytes());
        let ([q, r], [s, t]) = (self.properties_len.to_le_bytes(), self.flags.to_le_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }
}

const fn word(len: usize, pad: u8, state: State) -> u32 {
    len as u32 | (pad as u32) << 24 | (state as u32) << 26
}

/// The parts of a record.
#[derive(Clone, Copy, Default)]
pub(crate) struct Parts<'m> {
    pub(crate) topic: &'m [u8],
    pub(crate) properties: &'m [u8],
    pub(crate) payload: &'m [u8],
}

/// Room for a message, and how it is accounted.
pub(crate) struct Arena<'m> {
    memory: &'m mut [u8],
    tail: usize,
    /// Bytes of dead records below `tail`.
    dead: usize,
    /// Bytes of live records, by account.
    used: [u32; ACCOUNTS],
}

impl<'m> Arena<'m> {
    pub(crate) fn new(memory: &'m mut [u8]) -> Self {
        let len = memory.len().min(LEN_MAX) & !3;
        let memory = memory.get_mut(..len).unwrap_or_default();
        Self { memory, tail: 0, dead: 0, used: [0; ACCOUNTS] }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.memory.len() as u32
    }

    pub(crate) fn used(&self) -> &[u32; ACCOUNTS] {
        &self.used
    }

    /// Bytes of live records.
    pub(crate) fn used_total(&self) -> u32 {
        self.tail.wrapping_sub(self.dead) as u32
    }

    fn head(&self, at: usize) -> Option<Head> {
        let rest = self.memory.get(at..self.tail)?;
        let word = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        let head = match State::from_bits(word >> 26) {
            // What is left of a record may be shorter than a header.
            State::Dead => Head { len: word as usize & LEN_MAX, ..Head::NONE },
            State::Queued
            | State::InFlight
            | State::Released
            | State::SubWanted
            | State::SubSent
            | State::SubGranted
            | State::UnsubWanted
            | State::UnsubSent => Head::read(rest.first_chunk::<HEAD>()?),
        };
        // Never true for what was written here, but what was imported must not hang the walk.
        if head.len == 0 { None } else { Some(head) }
    }

    /// The next record at or after `at` that is in one of `states`.
    #[inline(never)]
    pub(crate) fn find(&self, at: usize, states: u16) -> Option<(usize, Head)> {
        let mut at = at;
        loop {
            let head = self.head(at)?;
            if head.state.bit() & states & LIVE != 0 {
                return Some((at, head));
            }
            at = at.wrapping_add(head.len);
        }
    }

    /// The record with a packet identifier, in one of `states`.
    #[inline(never)]
    pub(crate) fn find_id(&self, id: u16, states: u16) -> Option<(usize, Head)> {
        let mut at = 0;
        loop {
            let (here, head) = self.find(at, states)?;
            if head.id == id {
                return Some((here, head));
            }
            at = here.wrapping_add(head.len);
        }
    }

    /// The record with a ticket.
    #[inline(never)]
    pub(crate) fn find_ticket(&self, ticket: u32) -> Option<(usize, Head)> {
        let mut at = 0;
        loop {
            let (here, head) = self.find(at, LIVE)?;
            if head.ticket == ticket {
                return Some((here, head));
            }
            at = here.wrapping_add(head.len);
        }
    }

    /// The parts of a record.
    #[inline(never)]
    pub(crate) fn parts(&self, at: usize, head: &Head) -> Parts<'_> {
        let body = self.memory.get(at.wrapping_add(HEAD)..).unwrap_or_default();
        let len = head.len.saturating_sub(HEAD).saturating_sub(usize::from(head.pad));
        let body = body.get(..len).unwrap_or_default();
        let (topic, rest) = body.split_at_checked(usize::from(head.topic_len)).unwrap_or_default();
        let (properties, payload) = rest.split_at_checked(usize::from(head.properties_len)).unwrap_or_default();
        Parts { topic, properties, payload }
    }

    /// A whole record as it lies in memory.
    pub(crate) fn raw(&self, at: usize, head: &Head) -> &[u8] {
        self.memory.get(at..at.wrapping_add(head.len)).unwrap_or_default()
    }

    /// Writes a changed header back. Length and account must be what they were.
    #[inline(never)]
    pub(crate) fn set(&mut self, at: usize, head: &Head) {
        if let Some(to) = self.memory.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *to = head.write();
        }
    }

    fn set_dead(&mut self, at: usize, len: usize) {
        if let Some(to) = self.memory.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *to = word(len, 0, State::Dead).to_le_bytes();
        }
        self.dead = self.dead.wrapping_add(len);
    }

    fn account(&mut self, head: &Head, by: u32) {
        if let Some(used) = self.used.get_mut(head.account()) {
            *used = used.wrapping_add(by);
        }
    }

    /// The record is done.
    #[inline(never)]
    pub(crate) fn kill(&mut self, at: usize, head: &Head) {
        self.account(head, (head.len as u32).wrapping_neg());
        self.set_dead(at, head.len);
        if self.dead == self.tail {
            self.dead = 0;
            self.tail = 0;
        }
    }

    /// Only the header is needed any more.
    #[inline(never)]
    pub(crate) fn strip(&mut self, at: usize, head: &mut Head) {
        let rest = head.len.saturating_sub(HEAD);
        if rest > 0 {
            self.account(head, (rest as u32).wrapping_neg());
            self.set_dead(at.wrapping_add(HEAD), rest);
        }
        head.len = HEAD;
        head.pad = 0;
        head.topic_len = 0;
        head.properties_len = 0;
        self.set(at, head);
    }

    /// Moves every live record down to where no dead one is.
    pub(crate) fn compact(&mut self) {
        let (mut from, mut to) = (0usize, 0usize);
        while let Some(head) = self.head(from) {
            if head.state != State::Dead {
                if from != to {
                    bytes::shift(self.memory, from, to, head.len);
                }
                to = to.wrapping_add(head.len);
            }
            from = from.wrapping_add(head.len);
        }
        self.tail = to;
        self.dead = 0;
    }

    /// Room behind the last record, where a record of at most `len` bytes can be written. Nothing is taken until
    /// [`commit`](Self::commit).
    pub(crate) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.memory.len().wrapping_sub(self.tail) < len {
            self.compact();
        }
        let end = self.tail.checked_add(len)?;
        self.memory.get_mut(self.tail..end)
    }

    /// Takes the room: topic and properties are in it, then `payload_len` bytes of payload.
    #[inline(never)]
    pub(crate) fn commit(&mut self, head: &mut Head, payload_len: usize) {
        let exact = HEAD
            .wrapping_add(usize::from(head.topic_len))
            .wrapping_add(usize::from(head.properties_len))
            .wrapping_add(payload_len);
        head.len = rounded(exact);
        head.pad = head.len.wrapping_sub(exact) as u8;
        let at = self.tail;
        self.set(at, head);
        self.tail = at.wrapping_add(head.len);
        self.account(head, head.len as u32);
    }

    /// Puts a record of another arena before the first one that is in one of `states` and has a later ticket. The caller
    /// has made room.
    pub(crate) fn insert(&mut self, head: &Head, raw: &[u8], states: u16) {
        if self.room(head.len).is_none() {
            return;
        }
        let mut at = 0;
        let place = loop {
            match self.find(at, states) {
                Some((here, other)) if (other.ticket.wrapping_sub(head.ticket) as i32) > 0 => break here,
                Some((here, other)) => at = here.wrapping_add(other.len),
                None => break self.tail,
            }
        };
        bytes::shift(self.memory, place, place.wrapping_add(head.len), self.tail.wrapping_sub(place));
        if let Some(to) = self.memory.get_mut(place..) {
            bytes::copy(to, raw);
        }
        self.set(place, head);
        self.tail = self.tail.wrapping_add(head.len);
        self.account(head, head.len as u32);
    }

    /// All records, without holes.
    pub(crate) fn image(&mut self) -> &[u8] {
        self.compact();
        self.memory.get(..self.tail).unwrap_or_default()
    }

    /// Takes an image. `None`: it is not one, or there is no room for it; the arena is then empty.
    pub(crate) fn load(&mut self, image: &[u8]) -> Option<()> {
        bytes::copy(self.memory.get_mut(..image.len())?, image);
        (self.dead, self.used) = (0, [0; ACCOUNTS]);
        self.tail = image.len();
        let mut at = 0;
        while at < image.len() {
            match self.head(at).filter(|head| parse_fits(head, image.len().wrapping_sub(at))) {
                Some(head) => {
                    self.account(&head, head.len as u32);
                    at = at.wrapping_add(head.len);
                }
                None => {
                    (self.tail, self.used) = (0, [0; ACCOUNTS]);
                    return None;
                }
            }
        }
        Some(())
    }
}

/// A record of an image or of a backing store, if it is one.
pub(crate) fn parse(raw: &[u8]) -> Option<Head> {
    let head = Head::read(raw.first_chunk::<HEAD>()?);
    (parse_fits(&head, raw.len()) && head.len == raw.len()).then_some(head)
}

/// Writes a changed header into a record that lies elsewhere.
pub(crate) fn rewrite(raw: &mut [u8], head: &Head) {
    bytes::copy(raw, &head.write());
}

fn parse_fits(head: &Head, room: usize) -> bool {
    let parts = HEAD
        .wrapping_add(usize::from(head.topic_len))
        .wrapping_add(usize::from(head.properties_len))
        .wrapping_add(usize::from(head.pad));
    head.state != State::Dead && head.len & 3 == 0 && head.len <= room && head.len >= parts && head.qos() < 3
}

/// Bytes of a record whose parts have `parts` bytes together.
pub(crate) const fn record_len(parts: usize) -> usize {
    rounded(HEAD.saturating_add(parts))
}

const fn rounded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// Properties of a message as they stand in PUBLISH.
pub(crate) fn write_properties(properties: &[PublishProperty<'_>], out: &mut Out<'_>) {
    for property in properties {
        let (id, first, second) = match *property {
            PublishProperty::Utf8 => {
                out.bytes(&[id::PAYLOAD_FORMAT_INDICATOR, 1]);
                continue;
            }
            PublishProperty::ContentType(text) => (id::CONTENT_TYPE, text.as_bytes(), None),
            PublishProperty::ResponseTopic(text) => (id::RESPONSE_TOPIC, text.as_bytes(), None),
            PublishProperty::CorrelationData(data) => (id::CORRELATION_DATA, data, None),
            PublishProperty::User(key, value) => (id::USER_PROPERTY, key.as_bytes(), Some(value.as_bytes())),
        };
        out.u8(id);
        out.field(first);
        if let Some(second) = second {
            out.field(second);
        }
    }
}

#[cfg(test)]
mod tests;
