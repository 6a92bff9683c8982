//! How rows look on disk; docs/storage.md is the same in words. Each row is a version byte, a checksum over its table,
//! its key and its body, and the body. Every read is checked: damaged bytes give a [`Damage`], never a panic.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    ClockMark, DROP_REASONS, GroupId, Ledger, QueueEntry, QueueState, SessionRecord, Share, StoredSubscription,
    StoredWill,
};
use crate::message::{Message, Parts, Time};

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(pub(super) &'static str);

/// Version byte and checksum.
const HEAD: usize = 5;

/// Which table a row belongs to: part of its checksum, so that a row can never be taken for another table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Queue = 1,
    Shared,
    Refs,
    State,
    Session,
    Subscription,
    Retained,
    Meta,
    Ended,
    Keyed,
    Done,
    Ending,
    Owner,
}

impl Kind {
    /// The version of the bodies that this program writes; it reads those before it.
    fn version(self) -> u8 {
        match self {
            Self::State => 3,
            Self::Queue | Self::Meta | Self::Subscription => 2,
            Self::Shared
            | Self::Refs
            | Self::Session
            | Self::Retained
            | Self::Ended
            | Self::Keyed
            | Self::Done
            | Self::Ending
            | Self::Owner => 1,
        }
    }
}

/// The key of a row as its checksum sees it.
pub(super) trait Key {
    fn feed(&self, hasher: &mut crc32fast::Hasher);
}

impl Key for u64 {
    fn feed(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&self.to_be_bytes());
    }
}

impl Key for (u64, u64) {
    fn feed(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&self.0.to_be_bytes());
        hasher.update(&self.1.to_be_bytes());
    }
}

impl Key for &str {
    fn feed(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(self.as_bytes());
    }
}

impl Key for (u64, &str) {
    fn feed(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&self.0.to_be_bytes());
        hasher.update(self.1.as_bytes());
    }
}

impl Key for (u8, &[u8]) {
    fn feed(&self, hasher: &mut crc32fast::Hasher) {
        hasher.update(&[self.0]);
        hasher.update(self.1);
    }
}

fn checksum(version: u8, kind: Kind, key: &impl Key, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version, kind as u8]);
    key.feed(&mut hasher);
    hasher.update(body);
    hasher.finalize()
}

/// An empty row, to be filled and sealed.
pub(super) fn begin() -> Vec<u8> {
    vec![0; HEAD]
}

/// Completes a row that [`begin`] began.
pub(super) fn seal(mut row: Vec<u8>, kind: Kind, key: &impl Key) -> Vec<u8> {
    let version = kind.version();
    let sum = checksum(version, kind, key, row.get(HEAD..).unwrap_or_default()).to_le_bytes();
    for (to, from) in row.iter_mut().zip([version].into_iter().chain(sum)) {
        *to = from;
    }
    row
}

/// The body of a row, if it is what was written under this key.
pub(super) fn body<'a>(row: &'a [u8], kind: Kind, key: &impl Key) -> Result<&'a [u8], Damage> {
    versioned(row, kind, key).map(|(_, body)| body)
}

/// The same, with its version.
fn versioned<'a>(row: &'a [u8], kind: Kind, key: &impl Key) -> Result<(u8, &'a [u8]), Damage> {
    let Some((head, body)) = row.split_at_checked(HEAD) else { return Err(Damage("row too short")) };
    let mut head = Cursor(head);
    let version = head.u8()?;
    if version == 0 || version > kind.version() {
        return Err(Damage("unknown row version"));
    }
    let sum = head.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Damage("row too short"))?;
    if sum != checksum(version, kind, key, body) {
        return Err(Damage("checksum does not match"));
    }
    Ok((version, body))
}

/// What remains of a body.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Damage> {
        let Some((taken, rest)) = self.0.split_at_checked(n) else { return Err(Damage("ends too early")) };
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        let Some((first, rest)) = self.0.split_first() else { return Err(Damage("ends too early")) };
        self.0 = rest;
        Ok(*first)
    }

    /// Seven bits a byte, lowest first; at most ten bytes.
    pub(super) fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage("number too large"))
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Damage> {
        T::try_from(self.varint()?).map_err(|_| Damage("number too large"))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damage> {
        let len = self.number()?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Damage("not UTF-8"))
    }

    /// How many things follow, each of at least one byte: more than there are bytes is damage, not an allocation.
    pub(super) fn count(&mut self) -> Result<usize, Damage> {
        let count = self.number()?;
        if count > self.0.len() { Err(Damage("count too large")) } else { Ok(count) }
    }

    pub(super) fn end(&self) -> Result<(), Damage> {
        if self.0.is_empty() { Ok(()) } else { Err(Damage("bytes left over")) }
    }
}

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

const QOS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const FLAG_3: u8 = 1 << 3;
const FLAG_4: u8 = 1 << 4;
const HAS_IDS: u8 = 1 << 4;
const POINTS: u8 = 1 << 5;
const NAMES_GROUP: u8 = 1 << 6;

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Appends a message.
pub(super) fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.push((message.qos & QOS) | flag(message.retain, RETAIN) | flag(message.expires_at.is_some(), FLAG_3));
    put(out, message.accepted_at.0);
    if let Some(at) = message.expires_at {
        put(out, at.0);
    }
    put(out, message.topic_bytes().len() as u64);
    put(out, message.properties().len() as u64);
    put(out, message.payload().len() as u64);
    out.extend_from_slice(message.topic_bytes());
    out.extend_from_slice(message.properties());
    out.extend_from_slice(message.payload());
}

/// A message still in its row.
#[derive(Clone, Copy)]
pub(super) struct RawMessage<'a> {
    flags: u8,
    accepted_at: u64,
    expires_at: Option<u64>,
    topic: &'a [u8],
    properties: &'a [u8],
    payload: &'a [u8],
}

impl<'a> RawMessage<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Damage> {
        let flags = cursor.u8()?;
        let accepted_at = cursor.varint()?;
        let expires_at = if flags & FLAG_3 != 0 { Some(cursor.varint()?) } else { None };
        let (topic, properties, payload) = (cursor.number()?, cursor.number()?, cursor.number()?);
        Ok(Self {
            flags,
            accepted_at,
            expires_at,
            topic: cursor.take(topic)?,
            properties: cursor.take(properties)?,
            payload: cursor.take(payload)?,
        })
    }

    pub(super) fn build(&self) -> Result<Arc<Message>, Damage> {
        Ok(Arc::new(Message::new(
            &Parts {
                topic: std::str::from_utf8(self.topic).map_err(|_| Damage("topic is not UTF-8"))?,
                properties: self.properties,
                payload: self.payload,
                qos: self.flags & QOS,
                retain: self.flags & RETAIN != 0,
                expires_at: self.expires_at.map(Time),
                accepted_at: Time(self.accepted_at),
            },
            None,
        )))
    }
}

/// A retained row: the message alone.
pub(super) fn retained(topic: &str, message: &Message) -> Vec<u8> {
    let mut row = begin();
    put_message(&mut row, message);
    seal(row, Kind::Retained, &topic)
}

pub(super) fn read_retained(topic: &str, row: &[u8]) -> Result<Arc<Message>, Damage> {
    read_message(body(row, Kind::Retained, &topic)?)
}

/// A number for a keyed row's key, to tell rows apart where a collision costs nothing but a log line.
pub(super) fn key_sum(of: u8, key: &[u8]) -> u32 {
    checksum(Kind::Keyed.version(), Kind::Keyed, &(of, key), &[])
}

/// A keyed row: the value as it was given.
pub(super) fn keyed(key: (u8, &[u8]), value: &[u8]) -> Vec<u8> {
    let mut row = begin();
    row.extend_from_slice(value);
    seal(row, Kind::Keyed, &key)
}

pub(super) fn read_keyed<'r>(key: (u8, &[u8]), row: &'r [u8]) -> Result<&'r [u8], Damage> {
    body(row, Kind::Keyed, &key)
}

/// A message with nothing before or behind it.
pub(super) fn read_message(bytes: &[u8]) -> Result<Arc<Message>, Damage> {
    let mut cursor = Cursor(bytes);
    let message = RawMessage::read(&mut cursor)?;
    cursor.end()?;
    message.build()
}

/// The beginning of a queue row's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueHead {
    /// The last place in the row; the first is in its key.
    pub(super) last: u64,
    /// How many entries it has.
    pub(super) count: u64,
    /// The commit whose shared messages it points to.
    pub(super) shared: Option<u64>,
}

/// Where an entry's message is.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// In the row.
    Here(RawMessage<'a>),
    /// The so-manieth message shared in the row's commit.
    Shared(u64),
}

/// An entry still in its row.
pub(super) struct RawEntry<'a> {
    pub(super) seq: u64,
    flags: u8,
    shared: Option<Share>,
    ids: SmallVec<[u32; 1]>,
    pub(super) place: Place<'a>,
}

impl RawEntry<'_> {
    pub(super) fn with(self, message: Arc<Message>) -> QueueEntry {
        QueueEntry {
            seq: self.seq,
            qos: self.flags & QOS,
            retain: self.flags & RETAIN != 0,
            shared: self.shared,
            subscription_ids: self.ids,
            message,
        }
    }
}

/// The shared subscription of an entry with these flags. Row version 1 never says which one it is.
fn share(flags: u8, cursor: &mut Cursor<'_>) -> Result<Option<Share>, Damage> {
    if flags & FLAG_3 == 0 {
        return Ok(None);
    }
    if flags & NAMES_GROUP == 0 {
        return Ok(Some(Share::Unknown));
    }
    let id = cursor.take(4)?.try_into().map_err(|_| Damage("ends too early"))?;
    Ok(Some(Share::Group(GroupId(u32::from_le_bytes(id)))))
}

/// Appends an entry; `after` is the place of the entry before it (for the first: its own).
pub(super) fn put_entry(out: &mut Vec<u8>, after: u64, entry: &QueueEntry, shared: Option<u64>) {
    put(out, entry.seq.saturating_sub(after));
    out.push(
        (entry.qos & QOS)
            | flag(entry.retain, RETAIN)
            | flag(entry.shared.is_some(), FLAG_3)
            | flag(matches!(entry.shared, Some(Share::Group(_))), NAMES_GROUP)
            | flag(!entry.subscription_ids.is_empty(), HAS_IDS)
            | flag(shared.is_some(), POINTS),
    );
    if let Some(Share::Group(GroupId(id))) = entry.shared {
        out.extend_from_slice(&id.to_le_bytes());
    }
    if !entry.subscription_ids.is_empty() {
        put(out, entry.subscription_ids.len() as u64);
        for id in &entry.subscription_ids {
            put(out, u64::from(*id));
        }
    }
    match shared {
        Some(index) => put(out, index),
        None => put_message(out, &entry.message),
    }
}

/// A whole queue row from its head and its encoded entries.
pub(super) fn queue(key: (u64, u64), head: &QueueHead, entries: &[u8]) -> Vec<u8> {
    let mut row = begin();
    row.reserve(entries.len() + 24);
    put(&mut row, head.last.saturating_sub(key.1));
    put(&mut row, head.count);
    put(&mut row, head.shared.map_or(0, |commit| commit.saturating_add(1)));
    row.extend_from_slice(entries);
    seal(row, Kind::Queue, &key)
}

/// The entries of a queue row, one by one.
pub(super) struct QueueRow<'a> {
    pub(super) head: QueueHead,
    left: u64,
    after: u64,
    cursor: Cursor<'a>,
}

impl<'a> QueueRow<'a> {
    pub(super) fn read(key: (u64, u64), row: &'a [u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor(body(row, Kind::Queue, &key)?);
        let last = key.1.checked_add(cursor.varint()?).ok_or(Damage("place too large"))?;
        let count = cursor.varint()?;
        let shared = cursor.varint()?.checked_sub(1);
        Ok(Self { head: QueueHead { last, count, shared }, left: count, after: key.1, cursor })
    }

    /// The next entry; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<RawEntry<'a>>, Damage> {
        if self.left == 0 {
            return self.cursor.end().map(|()| None);
        }
        let cursor = &mut self.cursor;
        let seq = self.after.checked_add(cursor.varint()?).ok_or(Damage("place too large"))?;
        let flags = cursor.u8()?;
        let shared = share(flags, cursor)?;
        let mut ids = SmallVec::new();
        if flags & HAS_IDS != 0 {
            for _ in 0..cursor.count()? {
                ids.push(cursor.number()?);
            }
        }
        let place =
            if flags & POINTS != 0 { Place::Shared(cursor.varint()?) } else { Place::Here(RawMessage::read(cursor)?) };
        self.after = seq;
        self.left -= 1;
        Ok(Some(RawEntry { seq, flags, shared, ids, place }))
    }
}

pub(super) fn put_ledger(out: &mut Vec<u8>, ledger: &Ledger) {
    for value in [ledger.accepted, ledger.delivered, ledger.expired, DROP_REASONS as u64] {
        put(out, value);
    }
    for value in ledger.dropped {
        put(out, value);
    }
}

pub(super) fn read_ledger(cursor: &mut Cursor<'_>) -> Result<Ledger, Damage> {
    let mut ledger = Ledger {
        accepted: cursor.varint()?,
        delivered: cursor.varint()?,
        expired: cursor.varint()?,
        ..Ledger::default()
    };
    // Reasons are only ever appended: an older row has fewer.
    let reasons = cursor.count()?;
    if reasons > DROP_REASONS {
        return Err(Damage("unknown drop reason"));
    }
    for slot in ledger.dropped.iter_mut().take(reasons) {
        *slot = cursor.varint()?;
    }
    Ok(ledger)
}

pub(super) fn ended(ledger: &Ledger) -> Vec<u8> {
    let mut row = begin();
    put_ledger(&mut row, ledger);
    seal(row, Kind::Ended, &ENDED)
}

pub(super) fn read_ended(row: &[u8]) -> Result<Ledger, Damage> {
    let mut cursor = Cursor(body(row, Kind::Ended, &ENDED)?);
    let ledger = read_ledger(&mut cursor)?;
    cursor.end()?;
    Ok(ledger)
}

/// Ascending numbers as differences: a window of packet identifiers is a byte each.
fn put_list(out: &mut Vec<u8>, list: impl ExactSizeIterator<Item = u64>) {
    put(out, list.len() as u64);
    let mut before = 0;
    for value in list {
        put(out, value.wrapping_sub(before));
        before = value;
    }
}

fn read_list<T: TryFrom<u64>>(cursor: &mut Cursor<'_>) -> Result<Vec<T>, Damage> {
    let count = cursor.count()?;
    let mut list = Vec::with_capacity(count);
    let mut before = 0u64;
    for _ in 0..count {
        before = before.wrapping_add(cursor.varint()?);
        list.push(T::try_from(before).map_err(|_| Damage("number too large"))?);
    }
    Ok(list)
}

/// Without what is done above the floor: that has rows of its own ([`done`]).
pub(super) fn state(session: u64, state: &QueueState) -> Vec<u8> {
    let mut row = begin();
    for value in [state.next_seq, state.floor, state.sent, state.queued, state.queued_bytes] {
        put(&mut row, value);
    }
    put_ledger(&mut row, &state.ledger);
    put_list(&mut row, state.released.iter().copied());
    put_list(&mut row, state.inbound.iter().map(|id| u64::from(*id)));
    put(&mut row, state.promised);
    seal(row, Kind::State, &session)
}

pub(super) fn read_state(session: u64, row: &[u8]) -> Result<QueueState, Damage> {
    let (version, body) = versioned(row, Kind::State, &session)?;
    let mut cursor = Cursor(body);
    let mut state = QueueState {
        next_seq: cursor.varint()?,
        floor: cursor.varint()?,
        sent: cursor.varint()?,
        queued: cursor.varint()?,
        queued_bytes: cursor.varint()?,
        ledger: read_ledger(&mut cursor)?,
        ..QueueState::default()
    };
    let mut before = state.floor;
    let ranges = if version < 2 { cursor.count()? } else { 0 };
    for _ in 0..ranges {
        let start = before.wrapping_add(cursor.varint()?);
        before = start.wrapping_add(cursor.varint()?);
        state.done.push((start, before));
    }
    state.released = read_list(&mut cursor)?;
    state.inbound = read_list(&mut cursor)?;
    // Before there was a promise, what had been sent was all that was known.
    state.promised = if version < 3 { state.sent } else { cursor.varint()? };
    cursor.end()?;
    Ok(state)
}

/// Whether the row was written when states held what is done.
pub(super) fn is_old_state(row: &[u8]) -> bool {
    row.first().is_some_and(|version| *version < 2)
}

/// So many places have a row of table `done` in common.
pub(super) const CHUNK: u64 = 1024;

/// Which of a chunk's places are done: a bit each, the lowest bit of the first byte for the first place.
pub(super) type Bits = [u8; (CHUNK / 8) as usize];

/// What is done of the places from `key.1` on. Zeros at the end are left out.
pub(super) fn done(key: (u64, u64), bits: &Bits) -> Vec<u8> {
    let mut row = begin();
    let len = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    row.extend_from_slice(bits.get(..len).unwrap_or_default());
    seal(row, Kind::Done, &key)
}

pub(super) fn read_done(key: (u64, u64), row: &[u8]) -> Result<Bits, Damage> {
    let body = body(row, Kind::Done, &key)?;
    let mut bits = [0; (CHUNK / 8) as usize];
    let Some(to) = bits.get_mut(..body.len()) else { return Err(Damage("too many bits")) };
    to.copy_from_slice(body);
    if key.1.is_multiple_of(CHUNK) { Ok(bits) } else { Err(Damage("not where a row may begin")) }
}

/// The session has ended, and rows of it remain to be deleted.
pub(super) fn ending(session: u64) -> Vec<u8> {
    seal(begin(), Kind::Ending, &session)
}

const HAS_WILL: u8 = 1;
const IS_AWAY: u8 = 2;
const WILL_EXPIRES: u8 = 4;

pub(super) fn session(no: u64, record: &SessionRecord) -> Vec<u8> {
    let will_expires = record.will.as_ref().is_some_and(|will| will.expiry_s.is_some());
    let mut row = begin();
    row.push(record.protocol);
    row.push(
        flag(record.will.is_some(), HAS_WILL)
            | flag(record.disconnected_at.is_some(), IS_AWAY)
            | flag(will_expires, WILL_EXPIRES),
    );
    put(&mut row, u64::from(record.expiry_s));
    put_text(&mut row, &record.client_id);
    if let Some(at) = record.disconnected_at {
        put(&mut row, at.0);
    }
    if let Some(will) = &record.will {
        put(&mut row, u64::from(will.delay_s));
        if let Some(expiry_s) = will.expiry_s {
            put(&mut row, u64::from(expiry_s));
        }
        put_message(&mut row, &will.message);
    }
    seal(row, Kind::Session, &no)
}

pub(super) fn read_session(no: u64, row: &[u8]) -> Result<SessionRecord, Damage> {
    let mut cursor = Cursor(body(row, Kind::Session, &no)?);
    let protocol = cursor.u8()?;
    let flags = cursor.u8()?;
    let expiry_s = cursor.number()?;
    let client_id = cursor.text()?.to_owned();
    let disconnected_at = if flags & IS_AWAY != 0 { Some(Time(cursor.varint()?)) } else { None };
    let mut will = None;
    if flags & HAS_WILL != 0 {
        let delay_s = cursor.number()?;
        let expiry_s = if flags & WILL_EXPIRES != 0 { Some(cursor.number()?) } else { None };
        let message = RawMessage::read(&mut cursor)?.build()?;
        will = Some(StoredWill { message, expiry_s, delay_s });
    }
    cursor.end()?;
    Ok(SessionRecord { client_id, protocol, expiry_s, disconnected_at, will })
}

/// What of a session's record says whose it is.
pub(super) fn owner(no: u64, record: &SessionRecord) -> Vec<u8> {
    let mut row = begin();
    row.push(record.protocol);
    put(&mut row, u64::from(record.expiry_s));
    put_text(&mut row, &record.client_id);
    seal(row, Kind::Owner, &no)
}

pub(super) fn read_owner(no: u64, row: &[u8]) -> Result<SessionRecord, Damage> {
    let mut cursor = Cursor(body(row, Kind::Owner, &no)?);
    let (protocol, expiry_s, client_id) = (cursor.u8()?, cursor.number()?, cursor.text()?.to_owned());
    cursor.end()?;
    Ok(SessionRecord { client_id, protocol, expiry_s, disconnected_at: None, will: None })
}

pub(super) fn subscription(session: u64, subscription: &StoredSubscription) -> Vec<u8> {
    let mut row = begin();
    row.push(
        (subscription.qos & QOS)
            | flag(subscription.no_local, RETAIN)
            | flag(subscription.retain_as_published, FLAG_3)
            | flag(subscription.retained_behind.is_some(), FLAG_4),
    );
    put(&mut row, u64::from(subscription.subscription_id));
    if let Some(behind) = &subscription.retained_behind {
        put_text(&mut row, behind);
    }
    seal(row, Kind::Subscription, &(session, subscription.filter.as_str()))
}

pub(super) fn read_subscription(key: (u64, &str), row: &[u8]) -> Result<StoredSubscription, Damage> {
    let mut cursor = Cursor(body(row, Kind::Subscription, &key)?);
    let flags = cursor.u8()?;
    let subscription_id = cursor.number()?;
    // Row version 1 never has it.
    let retained_behind = if flags & FLAG_4 == 0 { None } else { Some(cursor.text()?.into()) };
    cursor.end()?;
    Ok(StoredSubscription {
        filter: key.1.to_owned(),
        qos: flags & QOS,
        no_local: flags & RETAIN != 0,
        retain_as_published: flags & FLAG_3 != 0,
        subscription_id,
        retained_behind,
    })
}

/// Keys of the `meta` table.
pub(super) const FORMAT: &str = "format";
pub(super) const MARK: &str = "mark";
pub(super) const ENDED: &str = "ended";

/// What is kept of the store itself, written with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) clock: ClockMark,
    pub(super) last_session: u64,
    /// The number of the last commit.
    pub(super) commit: u64,
    /// What the rows of queues and retained messages take, as [`super::apply::charge`] counts it.
    pub(super) live_bytes: u64,
    /// The journal that belongs to this store: the number in its head; 0 until there was one.
    pub(super) journal: u64,
    /// The last record of the journal that is contained in this commit.
    pub(super) folded: u64,
}

pub(super) fn mark(mark: &Mark) -> Vec<u8> {
    let mut row = begin();
    let Mark { clock, last_session, commit, live_bytes, journal, folded } = *mark;
    for value in [clock.time.0, clock.wall_ms, last_session, commit, live_bytes, journal, folded] {
        put(&mut row, value);
    }
    seal(row, Kind::Meta, &MARK)
}

pub(super) fn read_mark(row: &[u8]) -> Result<Mark, Damage> {
    let (version, body) = versioned(row, Kind::Meta, &MARK)?;
    let mut cursor = Cursor(body);
    let mut mark = Mark {
        clock: ClockMark { time: Time(cursor.varint()?), wall_ms: cursor.varint()? },
        last_session: cursor.varint()?,
        commit: cursor.varint()?,
        live_bytes: cursor.varint()?,
        ..Mark::default()
    };
    if version >= 2 {
        (mark.journal, mark.folded) = (cursor.varint()?, cursor.varint()?);
    }
    cursor.end()?;
    Ok(mark)
}

/// How many queue rows point to a commit's shared messages.
pub(super) fn refs(commit: u64, count: u64) -> Vec<u8> {
    let mut row = begin();
    put(&mut row, count);
    seal(row, Kind::Refs, &commit)
}

pub(super) fn read_refs(commit: u64, row: &[u8]) -> Result<u64, Damage> {
    let mut cursor = Cursor(body(row, Kind::Refs, &commit)?);
    let count = cursor.varint()?;
    cursor.end()?;
    Ok(count)
}

/// The format row, in the one encoding that no later format may change: the number and its complement, so that a
/// damaged one is not taken for a newer one.
pub(super) fn format(version: u32) -> [u8; 8] {
    (u64::from(version) | (u64::from(!version) << 32)).to_le_bytes()
}

pub(super) fn read_format(row: &[u8]) -> Result<u32, Damage> {
    let bytes = row.try_into().map_err(|_| Damage("format row has a wrong length"))?;
    let both = u64::from_le_bytes(bytes);
    let version = u32::try_from(both & u64::from(u32::MAX)).unwrap_or_default();
    if u64::from(!version) == both >> 32 { Ok(version) } else { Err(Damage("format row does not match itself")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn message() -> Arc<Message> {
        let parts = Parts {
            topic: "a/ü",
            properties: &[1, 2],
            payload: b"payload",
            qos: 2,
            retain: true,
            expires_at: Some(Time(70_000)),
            accepted_at: Time(u64::MAX),
        };
        Arc::new(Message::new(&parts, None))
    }

    fn entry(seq: u64, ids: &[u32]) -> QueueEntry {
        QueueEntry {
            seq,
            qos: 1,
            retain: true,
            shared: (seq != 9).then_some(if seq == 7 { Share::Unknown } else { Share::Group(GroupId(0xdead_beef)) }),
            subscription_ids: ids.into(),
            message: message(),
        }
    }

    fn queue_row() -> Vec<u8> {
        let mut encoded = Vec::new();
        put_entry(&mut encoded, 7, &entry(7, &[]), None);
        put_entry(&mut encoded, 7, &entry(9, &[1, 300_000]), Some(4));
        put_entry(&mut encoded, 9, &entry(300, &[9]), None);
        queue((3, 7), &QueueHead { last: 300, count: 3, shared: Some(0) }, &encoded)
    }

    fn read_queue(row: &[u8]) -> Result<Vec<(u64, String)>, Damage> {
        let mut read = Vec::new();
        let mut row = QueueRow::read((3, 7), row)?;
        while let Some(entry) = row.next()? {
            let place = match entry.place {
                Place::Here(message) => message.build()?,
                Place::Shared(index) => {
                    assert_eq!(index, 4);
                    message()
                }
            };
            let entry = entry.with(place);
            read.push((entry.seq, format!("{entry:?} {:?}", entry.message.payload())));
        }
        Ok(read)
    }

    #[test]
    fn a_queue_row_comes_back() {
        let row = queue_row();
        assert_eq!(QueueRow::read((3, 7), &row).unwrap().head, QueueHead { last: 300, count: 3, shared: Some(0) });
        let wanted = [entry(7, &[]), entry(9, &[1, 300_000]), entry(300, &[9])];
        let wanted = wanted.map(|entry| (entry.seq, format!("{entry:?} {:?}", entry.message.payload())));
        assert_eq!(read_queue(&row).unwrap(), wanted);
    }

    #[test]
    fn a_row_under_another_key_or_in_another_table_is_damage() {
        let row = queue_row();
        assert!(QueueRow::read((3, 8), &row).is_err());
        assert!(QueueRow::read((4, 7), &row).is_err());
        assert!(body(&row, Kind::Shared, &(3, 7)).is_err());
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let row = queue_row();
        for bit in 0..row.len() * 8 {
            let mut damaged = row.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_queue(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(read_queue(&row[..len]).is_err(), "{len} bytes");
        }
    }

    /// A row whose checksum is right and whose body is nonsense, as a bug elsewhere might write it: any result but a panic.
    #[test]
    fn nonsense_with_a_right_checksum_does_not_panic() {
        let mut seed = 1u64;
        let mut refused = 0;
        for len in 0..2000 {
            let mut row = begin();
            for _ in 0..len % 97 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                row.push((seed >> 56) as u8);
            }
            refused += usize::from(read_state(1, &seal(row.clone(), Kind::State, &1)).is_err());
            refused += usize::from(read_session(1, &seal(row.clone(), Kind::Session, &1)).is_err());
            refused += usize::from(read_retained("t", &seal(row.clone(), Kind::Retained, &"t")).is_err());
            refused += usize::from(read_ended(&seal(row.clone(), Kind::Ended, &ENDED)).is_err());
            refused += usize::from(read_mark(&seal(row.clone(), Kind::Meta, &MARK)).is_err());
            refused += usize::from(read_done((3, 7), &seal(row.clone(), Kind::Done, &(3, 7))).is_err());
            let row = seal(row, Kind::Queue, &(3, 7));
            let read = QueueRow::read((3, 7), &row).and_then(|mut row| {
                while row.next()?.is_some() {}
                Ok(())
            });
            refused += usize::from(read.is_err());
        }
        assert!(refused > 13_000, "{refused} of 14,000 refused");
    }

    /// The same with the version and the checksum of another.
    fn as_version(version: u8, mut row: Vec<u8>, kind: Kind, key: &impl Key) -> Vec<u8> {
        let sum = checksum(version, kind, key, &row[HEAD..]);
        row[0] = version;
        row[1..HEAD].copy_from_slice(&sum.to_le_bytes());
        row
    }

    #[test]
    fn rows_of_format_4_are_read() {
        let mut encoded = Vec::new();
        let old = QueueEntry { shared: Some(Share::Unknown), ..entry(7, &[5]) };
        put_entry(&mut encoded, 7, &old, None);
        let row = queue((3, 7), &QueueHead { last: 7, count: 1, shared: None }, &encoded);
        let row = as_version(1, row, Kind::Queue, &(3, 7));
        let wanted = format!("{old:?} {:?}", old.message.payload());
        assert_eq!(read_queue(&row).unwrap(), [(7, wanted)], "through a shared subscription, and nobody knows which");
        let state = QueueState { next_seq: 9, sent: 5, inbound: vec![4], ..QueueState::default() };
        let mut row = super::state(5, &state);
        assert_eq!(row.pop(), Some(0), "no promise");
        let row = as_version(2, row, Kind::State, &5);
        assert_eq!(read_state(5, &row).unwrap(), QueueState { promised: 5, ..state });
        assert!(!is_old_state(&row), "what is done has rows of its own since format 2");
    }

    #[test]
    fn bits_come_back() {
        let mut bits = [0; (CHUNK / 8) as usize];
        (bits[0], bits[100]) = (0x81, 1);
        for bits in [bits, [0; (CHUNK / 8) as usize], [255; (CHUNK / 8) as usize]] {
            assert_eq!(read_done((3, 2048), &done((3, 2048), &bits)).unwrap(), bits);
        }
        assert_eq!(done((3, 0), &bits).len(), HEAD + 101);
        assert!(read_done((3, 1024), &done((3, 2048), &bits)).is_err());
    }

    #[test]
    fn states_sessions_and_subscriptions_come_back() {
        let state = QueueState {
            next_seq: 1 << 40,
            floor: 10,
            done: Vec::new(),
            sent: 77,
            promised: 97,
            released: vec![11, 19],
            inbound: vec![9, 3, u16::MAX],
            queued: 5,
            queued_bytes: 6,
            ledger: Ledger { accepted: 1, delivered: 2, expired: 3, dropped: [1, 2, 3, 4, 5, 6, 7, 8, 9, u64::MAX] },
        };
        assert_eq!(read_state(5, &super::state(5, &state)).unwrap(), state);
        assert!(read_state(6, &super::state(5, &state)).is_err());
        let will = StoredWill { message: message(), expiry_s: Some(3), delay_s: 4 };
        for will in [None, Some(will)] {
            let record = SessionRecord {
                client_id: "naïve".to_owned(),
                protocol: 5,
                expiry_s: u32::MAX,
                disconnected_at: will.as_ref().map(|_| Time(12)),
                will,
            };
            assert_eq!(read_session(5, &session(5, &record)).unwrap(), record);
            let owner = SessionRecord { disconnected_at: None, will: None, ..record.clone() };
            assert_eq!(read_owner(5, &super::owner(5, &record)).unwrap(), owner);
        }
        for retained_behind in [None, Some("".into()), Some("a/b".into())] {
            let kept = StoredSubscription {
                filter: "a/+".to_owned(),
                qos: 2,
                no_local: true,
                retain_as_published: true,
                subscription_id: 268_435_455,
                retained_behind,
            };
            let key = (9, kept.filter.as_str());
            assert_eq!(read_subscription(key, &subscription(9, &kept)).unwrap(), kept);
        }
        assert_eq!(read_format(&format(7)).unwrap(), 7);
        assert!(read_format(&[7, 0, 0, 0, 1, 0, 0, 0]).is_err());
    }
}
