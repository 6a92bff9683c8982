//! A batch as the bytes of a record, from the same pieces as the rows of redb.

use std::sync::Arc;

use super::super::rows::{self, Cursor, Damage, Place, QueueHead, QueueRow, RawMessage, put, put_text};
use super::super::shared::SharedMessages;
use super::super::{
    Batch, ClockMark, Keyed, KeyedChange, Message, QueueEntry, RetainedChange, SessionDelta, SessionNo,
};
use crate::message::Time;

const ENDED: u8 = 1;
const RECORD: u8 = 1 << 1;
const STATE: u8 = 1 << 2;
const QUEUED: u8 = 1 << 3;

/// What stands before the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    /// The last record that redb contained when this one was appended.
    pub(super) folded: u64,
    /// The last record that was durable then: numbers between it and this one were given to appends that failed.
    pub(super) previous: u64,
}

/// The content of a record, and how many bytes of it are messages; `None`: it would be larger than `max`.
pub(super) fn encode(before: Before, batch: &Batch, max: usize) -> Option<(Vec<u8>, u64)> {
    let mut out = Vec::with_capacity(512);
    put(&mut out, before.folded);
    put(&mut out, before.previous);
    put(&mut out, batch.clock.time.0);
    put(&mut out, batch.clock.wall_ms);
    match &batch.ended_ledger {
        None => out.push(0),
        Some(ledger) => {
            out.push(1);
            rows::put_ledger(&mut out, ledger);
        }
    }
    let shared = SharedMessages::find(batch);
    put(&mut out, shared.list().len() as u64);
    for message in shared.list() {
        rows::put_message(&mut out, message);
        if out.len() > max {
            return None;
        }
    }
    let mut message_bytes: u64 = shared.list().iter().map(|message| message.size() as u64).sum();
    put(&mut out, batch.sessions.len() as u64);
    for delta in &batch.sessions {
        let alone = delta.enqueued.iter().filter(|entry| shared.index(&entry.message).is_none());
        message_bytes += alone.map(|entry| entry.message.size() as u64).sum::<u64>();
        put_session(&mut out, delta, &shared, max)?;
    }
    put(&mut out, batch.retained.len() as u64);
    for RetainedChange { topic, message } in &batch.retained {
        put_text(&mut out, topic);
        out.push(u8::from(message.is_some()));
        if let Some(message) = message {
            rows::put_message(&mut out, message);
            message_bytes += message.size() as u64;
        }
        if out.len() > max {
            return None;
        }
    }
    put(&mut out, batch.keyed.len() as u64);
    for KeyedChange { of, key, value } in &batch.keyed {
        out.push(*of as u8);
        put_bytes(&mut out, key);
        out.push(u8::from(value.is_some()));
        if let Some(value) = value {
            put_bytes(&mut out, value);
        }
    }
    (out.len() <= max).then_some((out, message_bytes))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_session(out: &mut Vec<u8>, delta: &SessionDelta, shared: &SharedMessages<'_>, max: usize) -> Option<()> {
    let no = delta.no.0;
    put(out, no);
    if delta.ended {
        out.push(ENDED);
        return Some(());
    }
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(delta.record.is_some(), RECORD)
            | flag(delta.state.is_some(), STATE)
            | flag(!delta.enqueued.is_empty(), QUEUED),
    );
    if let Some(record) = &delta.record {
        put_bytes(out, &rows::session(no, record));
    }
    put(out, delta.unsubscribed.len() as u64);
    for filter in &delta.unsubscribed {
        put_text(out, filter);
    }
    put(out, delta.subscribed.len() as u64);
    for subscription in &delta.subscribed {
        put_text(out, &subscription.filter);
        put_bytes(out, &rows::subscription(no, subscription));
    }
    if let Some(first) = delta.enqueued.first() {
        let mut head = QueueHead { last: first.seq, count: 0, shared: Some(0) };
        let mut entries = Vec::new();
        for entry in &delta.enqueued {
            rows::put_entry(&mut entries, head.last, entry, shared.index(&entry.message));
            head = QueueHead { last: entry.seq, count: head.count + 1, ..head };
            if out.len() + entries.len() > max {
                return None;
            }
        }
        put(out, first.seq);
        put_bytes(out, &rows::queue((no, first.seq), &head, &entries));
    }
    put(out, delta.done.len() as u64);
    let mut before = 0;
    for (start, end) in &delta.done {
        put(out, start.wrapping_sub(before));
        put(out, end.wrapping_sub(*start));
        before = *end;
    }
    if let Some(state) = &delta.state {
        put_bytes(out, &rows::state(no, state));
    }
    (out.len() <= max).then_some(())
}

/// The batch of a record, and what stood before it.
pub(super) fn decode(bytes: &[u8]) -> Result<(Before, Batch), Damage> {
    let mut cursor = Cursor(bytes);
    let before = Before { folded: cursor.varint()?, previous: cursor.varint()? };
    let clock = ClockMark { time: Time(cursor.varint()?), wall_ms: cursor.varint()? };
    let ended_ledger = if cursor.u8()? == 0 { None } else { Some(rows::read_ledger(&mut cursor)?) };
    let mut batch = Batch { clock, ended_ledger, ..Batch::default() };
    let mut shared = Vec::new();
    for _ in 0..cursor.count()? {
        shared.push(RawMessage::read(&mut cursor)?.build()?);
    }
    for _ in 0..cursor.count()? {
        batch.sessions.push(session(&mut cursor, &shared)?);
    }
    for _ in 0..cursor.count()? {
        let topic = cursor.text()?.to_owned();
        let message = if cursor.u8()? == 0 { None } else { Some(RawMessage::read(&mut cursor)?.build()?) };
        batch.retained.push(RetainedChange { topic, message });
    }
    for _ in 0..cursor.count()? {
        let number = cursor.u8()?;
        let of = Keyed::ALL.into_iter().find(|of| *of as u8 == number).ok_or(Damage("unknown kind of keyed row"))?;
        let key = bytes_of(&mut cursor)?.to_vec();
        let value = if cursor.u8()? == 0 { None } else { Some(bytes_of(&mut cursor)?.to_vec()) };
        batch.keyed.push(KeyedChange { of, key, value });
    }
    cursor.end()?;
    Ok((before, batch))
}

fn bytes_of<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Damage> {
    let len = cursor.number()?;
    cursor.take(len)
}

fn session(cursor: &mut Cursor<'_>, shared: &[Arc<Message>]) -> Result<SessionDelta, Damage> {
    let no = cursor.varint()?;
    let flags = cursor.u8()?;
    let mut delta = SessionDelta { no: SessionNo(no), ended: flags & ENDED != 0, ..SessionDelta::default() };
    if delta.ended {
        return Ok(delta);
    }
    if flags & RECORD != 0 {
        delta.record = Some(rows::read_session(no, bytes_of(cursor)?)?);
    }
    for _ in 0..cursor.count()? {
        delta.unsubscribed.push(cursor.text()?.to_owned());
    }
    for _ in 0..cursor.count()? {
        let filter = cursor.text()?;
        delta.subscribed.push(rows::read_subscription((no, filter), bytes_of(cursor)?)?);
    }
    if flags & QUEUED != 0 {
        let first = cursor.varint()?;
        delta.enqueued = entries(QueueRow::read((no, first), bytes_of(cursor)?)?, shared)?;
    }
    let mut before = 0u64;
    for _ in 0..cursor.count()? {
        let start = before.wrapping_add(cursor.varint()?);
        before = start.wrapping_add(cursor.varint()?);
        delta.done.push((start, before));
    }
    if flags & STATE != 0 {
        delta.state = Some(rows::read_state(no, bytes_of(cursor)?)?);
    }
    Ok(delta)
}

fn entries(mut row: QueueRow<'_>, shared: &[Arc<Message>]) -> Result<Vec<QueueEntry>, Damage> {
    let mut entries = Vec::new();
    while let Some(entry) = row.next()? {
        let message = match entry.place {
            Place::Here(message) => message.build()?,
            Place::Shared(index) => {
                let message = usize::try_from(index).ok().and_then(|index| shared.get(index));
                Arc::clone(message.ok_or(Damage("there is no such shared message"))?)
            }
        };
        entries.push(entry.with(message));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::message::Parts;
    use crate::store::{GroupId, Ledger, QueueState, SessionRecord, Share, StoredSubscription};

    fn message(payload: &[u8]) -> Arc<Message> {
        let parts = Parts {
            topic: "a/b",
            properties: &[1],
            payload,
            qos: 1,
            retain: false,
            expires_at: Some(Time(9)),
            accepted_at: Time(3),
        };
        Arc::new(Message::new(&parts, None))
    }

    fn entry(seq: u64, message: &Arc<Message>) -> QueueEntry {
        let subscription_ids = [7].into_iter().collect();
        let shared = Some(Share::Group(GroupId::of("g", "a/+")));
        QueueEntry { seq, qos: 1, retain: false, shared, subscription_ids, message: Arc::clone(message) }
    }

    fn batch() -> Batch {
        let both = message(b"both");
        let record =
            SessionRecord { client_id: "one".to_owned(), protocol: 5, expiry_s: 60, disconnected_at: None, will: None };
        let subscription = StoredSubscription {
            filter: "a/+".to_owned(),
            qos: 1,
            no_local: true,
            retain_as_published: false,
            subscription_id: 7,
            retained_behind: Some("a/b".into()),
        };
        let first = SessionDelta {
            no: SessionNo(3),
            record: Some(record),
            subscribed: vec![subscription],
            unsubscribed: vec!["x/#".to_owned()],
            enqueued: vec![entry(1000, &message(b"alone")), entry(1002, &both)],
            done: vec![(990, 995), (997, 998)],
            state: Some(QueueState {
                next_seq: 1003,
                floor: 988,
                promised: 1001,
                inbound: vec![4],
                ..QueueState::default()
            }),
            ..SessionDelta::default()
        };
        let second = SessionDelta { no: SessionNo(4), enqueued: vec![entry(0, &both)], ..SessionDelta::default() };
        let ended = SessionDelta { no: SessionNo(5), ended: true, ..SessionDelta::default() };
        Batch {
            sessions: vec![first, second, ended],
            retained: vec![
                RetainedChange { topic: "r".to_owned(), message: Some(message(b"kept")) },
                RetainedChange { topic: "s".to_owned(), message: None },
            ],
            keyed: vec![
                KeyedChange { of: Keyed::Delayed, key: vec![1], value: Some(vec![2, 3]) },
                KeyedChange { of: Keyed::Origins, key: vec![9], value: None },
            ],
            clock: ClockMark { time: Time(17), wall_ms: 1 << 41 },
            ended_ledger: Some(Ledger { accepted: 4, delivered: 4, ..Ledger::default() }),
        }
    }

    #[test]
    fn a_batch_comes_back() {
        let before = Before { folded: 4, previous: 8 };
        let (bytes, messages) = encode(before, &batch(), usize::MAX).unwrap();
        assert_eq!(messages, 3 * 4 + 5 + 4 + 4);
        let (found, read) = decode(&bytes).unwrap();
        assert_eq!(found, before);
        assert_eq!(format!("{read:?}"), format!("{:?}", batch()));
        assert_eq!(read.sessions[0].enqueued[1].message.payload(), b"both");
        assert!(Arc::ptr_eq(&read.sessions[0].enqueued[1].message, &read.sessions[1].enqueued[0].message));
        assert_eq!(encode(found, &read, bytes.len()).unwrap().0, bytes, "a message of several queues is there once");
        assert!((0..bytes.len()).all(|max| encode(found, &read, max).is_none()), "what is too large is left");
        assert_eq!(bytes.windows(4).filter(|four| four == b"both").count(), 1);
    }

    #[test]
    fn what_is_cut_or_changed_never_panics() {
        let (bytes, _) = encode(Before::default(), &batch(), usize::MAX).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let _ = decode(&changed);
            }
        }
    }
}
