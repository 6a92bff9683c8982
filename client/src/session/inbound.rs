//! QoS 1 and 2 messages of the server, until they are acknowledged: in the order in which they came [MQTT-4.6.0-2],
//! [MQTT-4.6.0-3], and when the program is done with them.

use std::collections::{HashMap, VecDeque};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, QoS, Version};

use super::journal::{Journal, Op, OpNumber};
use crate::codec::{AckKind, write};

/// Tells one message from another under the same packet identifier: a fingerprint of topic and payload. DUP does not: a
/// server that comes back from a crash may not know that it has sent a message, and one that has given a message up, since it
/// expired, for example, uses its identifier for the next.
pub(crate) type Mark = u64;

pub(crate) fn mark(topic: &str, payload: &[u8]) -> Mark {
    let mut mark = topic.len() as u64;
    for bytes in [topic.as_bytes(), payload] {
        for chunk in bytes.chunks(8) {
            let mut eight = [0; 8];
            for (to, from) in eight.iter_mut().zip(chunk) {
                *to = *from;
            }
            mark = (mark ^ u64::from_le_bytes(eight)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
    }
    mark ^ payload.len() as u64
}

struct Entry {
    token: u64,
    id: PacketId,
    qos: QoS,
    mark: Mark,
    /// Subscriptions that have it and are not done with it.
    holders: u32,
    reason: ReasonCode,
}

/// What is to be done with a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new: the program gets it, and acknowledges it under this token.
    New(u64),
    /// The program has it already, or had it.
    Repeated,
    /// The server sends more than Receive Maximum allows [MQTT5-3.3.4-9].
    TooMany,
}

#[derive(Default)]
pub(crate) struct Inbound {
    /// Of this connection, in the order of their coming.
    current: VecDeque<Entry>,
    /// Of an earlier connection of this session: the server will send them again, the program has them already.
    earlier: Vec<Entry>,
    /// QoS 2: acknowledged with PUBREC, not released with PUBREL.
    seen: HashMap<PacketId, Mark>,
    /// The same of earlier connections: they do not count against the Receive Maximum of this one [MQTT5-4.9.0-1].
    seen_earlier: HashMap<PacketId, Mark>,
    /// PUBRECs and PUBCOMPs that wait for the journal.
    unsafe_yet: VecDeque<(OpNumber, AckKind, PacketId, ReasonCode)>,
    next_token: u64,
}

impl Inbound {
    /// PUBLISH came; the caller calls [`Inbound::acknowledge`] then.
    pub(crate) fn arrived(
        &mut self,
        id: PacketId,
        qos: QoS,
        dup: bool,
        mark: Mark,
        receive_maximum: u16,
        journal: &mut Journal,
    ) -> Arrival {
        if self.seen_earlier.get(&id).is_some_and(|earlier| *earlier != mark || qos != QoS::ExactlyOnce) {
            tracing::debug!(id = id.get(), "the server has given up a QoS 2 message that it had not released");
            self.seen_earlier.remove(&id);
            journal.log(|| Op::Forget { id });
        }
        if qos == QoS::ExactlyOnce && (self.seen.contains_key(&id) || self.seen_earlier.contains_key(&id)) {
            // The PUBREC was lost [MQTT5-4.3.3-10]; unless it still waits for the disk.
            if !self.unsafe_yet.iter().any(|(_, kind, other, _)| (*kind, *other) == (AckKind::Pubrec, id)) {
                self.unsafe_yet.push_back((journal.last(), AckKind::Pubrec, id, ReasonCode::Success));
            }
            return Arrival::Repeated;
        }
        if let Some(at) = self.earlier.iter().position(|entry| entry.id == id) {
            let entry = self.earlier.remove(at);
            if (entry.qos, entry.mark) == (qos, mark) {
                self.current.push_back(entry);
                return Arrival::Repeated;
            }
        }
        // On a live connection only 3.1.1 repeats, and with DUP: others need no search.
        if dup && self.current.iter().any(|entry| entry.id == id) {
            return Arrival::Repeated;
        }
        if self.current.len() + self.seen.len() >= usize::from(receive_maximum) {
            return Arrival::TooMany;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.current.push_back(Entry { token, id, qos, mark, holders: 1, reason: ReasonCode::Success });
        Arrival::New(token)
    }

    /// How many subscriptions got it; 1 when this is not called.
    pub(crate) fn held_by(&mut self, token: u64, holders: u32) {
        if let Some(entry) = self.entry(token) {
            entry.holders = holders;
        }
    }

    /// Entries of all kinds.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> usize {
        let entries = self.current.len() + self.earlier.len() + self.unsafe_yet.len();
        entries + self.seen.len() + self.seen_earlier.len()
    }

    /// How many are not done with it.
    pub(crate) fn holders(&mut self, token: u64) -> u32 {
        self.entry(token).map_or(0, |entry| entry.holders)
    }

    /// A holder is done with it; false when that is not known of (any more).
    pub(crate) fn done(&mut self, token: u64, reason: ReasonCode) -> bool {
        let Some(entry) = self.entry(token) else { return false };
        entry.holders = entry.holders.saturating_sub(1);
        if !reason.is_success() {
            entry.reason = reason;
        }
        true
    }

    fn entry(&mut self, token: u64) -> Option<&mut Entry> {
        let guess = self.current.front().map(|front| token.wrapping_sub(front.token));
        if let Some(at) = guess.and_then(|at| usize::try_from(at).ok())
            && self.current.get(at).is_some_and(|entry| entry.token == token)
        {
            return self.current.get_mut(at);
        }
        self.current.iter_mut().chain(&mut self.earlier).find(|entry| entry.token == token)
    }

    /// Acknowledges all at the front that are done with.
    pub(crate) fn acknowledge(&mut self, version: Version, journal: &mut Journal, out: &mut Vec<u8>) {
        while let Some(entry) = self.current.pop_front_where(|entry| entry.holders == 0) {
            match entry.qos {
                QoS::ExactlyOnce if entry.reason.is_success() => {
                    self.seen.insert(entry.id, entry.mark);
                    let op = journal.log(|| Op::Seen { id: entry.id, mark: entry.mark });
                    self.unsafe_yet.push_back((op, AckKind::Pubrec, entry.id, entry.reason));
                }
                // Refused: the identifier is free again [MQTT5-4.3.3-9].
                QoS::ExactlyOnce => write::ack(version, AckKind::Pubrec, entry.id, entry.reason, out),
                QoS::AtLeastOnce | QoS::AtMostOnce => {
                    write::ack(version, AckKind::Puback, entry.id, entry.reason, out);
                }
            }
        }
        self.send_safe(version, journal, out);
    }

    /// PUBRECs whose identifiers are on disk, and PUBCOMPs whose are off it.
    pub(crate) fn send_safe(&mut self, version: Version, journal: &Journal, out: &mut Vec<u8>) {
        while let Some((_, kind, id, reason)) = self.unsafe_yet.pop_front_where(|(op, ..)| journal.is_ack_safe(*op)) {
            write::ack(version, kind, id, reason, out);
        }
    }

    /// PUBREL. With PUBCOMP the server may use the identifier for another message, which a program that comes back and
    /// still has it on disk would take for this one.
    pub(crate) fn released(&mut self, id: PacketId, version: Version, journal: &mut Journal, out: &mut Vec<u8>) {
        let known = self.seen.remove(&id).is_some() || self.seen_earlier.remove(&id).is_some();
        if known {
            journal.log(|| Op::Forget { id });
        }
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        self.unsafe_yet.push_back((journal.last(), AckKind::Pubcomp, id, reason));
        self.send_safe(version, journal, out);
    }

    /// The connection is over; the session may go on.
    pub(crate) fn disconnected(&mut self) {
        self.earlier.extend(self.current.drain(..));
        self.seen_earlier.extend(self.seen.drain());
        self.unsafe_yet.clear();
    }

    /// The server has a new session: what it sent in the old one is never sent again.
    pub(crate) fn forget(&mut self, journal: &mut Journal) {
        journal.log(|| Op::ForgetAll);
        self.current.clear();
        self.earlier.clear();
        self.seen.clear();
        self.seen_earlier.clear();
        self.unsafe_yet.clear();
    }

    #[cfg(feature = "durable")]
    pub(crate) fn restore(&mut self, id: PacketId, mark: Mark) {
        self.seen_earlier.insert(id, mark);
    }
}

/// `VecDeque::pop_front_if` (Rust 1.93) is newer than the oldest Rust that this crate supports.
trait PopFrontWhere<T> {
    fn pop_front_where(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T>;
}

impl<T> PopFrontWhere<T> for VecDeque<T> {
    fn pop_front_where(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.front().is_some_and(wanted) { self.pop_front() } else { None }
    }
}
