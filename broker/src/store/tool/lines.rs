//! The lines of an export: docs/storage.md is the same in words. What is not in a line has its default.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::message::{Message, Parts, Time};
use crate::store::{
    ClockMark, DropReason, GroupId, KEY_MAX, Keyed, KeyedChange, KeyedRow, Ledger, QueueEntry, QueueState, SessionNo,
    SessionRecord, Share, StoredSubscription, StoredWill,
};

/// The version of the lines.
pub(super) const EXPORT_VERSION: u32 = 1;

/// One line: an object with one key, which says what it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line.
    Export(Head),
    /// The second line.
    Store(StoreLine),
    Retained(MessageLine),
    Keyed(KeyedLine),
    /// Of a session come, in this order: this, its subscriptions, its state, its queue.
    Session(SessionLine),
    Subscription(SubscriptionLine),
    State(StateLine),
    Queued(QueuedLine),
    /// The last line.
    End(End),
}

impl Line {
    /// Its key.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Export(_) => "export",
            Self::Store(_) => "store",
            Self::Retained(_) => "retained",
            Self::Keyed(_) => "keyed",
            Self::Session(_) => "session",
            Self::Subscription(_) => "subscription",
            Self::State(_) => "state",
            Self::Queued(_) => "queued",
            Self::End(_) => "end",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreLine {
    /// The broker's clock.
    time_ms: u64,
    /// The wall clock at that time, since 1970.
    wall_ms: u64,
    pub(super) last_session: u64,
    /// Of queues that have ended.
    ended: LedgerLine,
}

impl StoreLine {
    pub(super) fn new(clock: ClockMark, last_session: u64, ended: &Ledger) -> Self {
        Self { time_ms: clock.time.0, wall_ms: clock.wall_ms, last_session, ended: LedgerLine::new(ended) }
    }

    pub(super) fn clock(&self) -> ClockMark {
        ClockMark { time: Time(self.time_ms), wall_ms: self.wall_ms }
    }

    pub(super) fn ended(&self) -> Result<Ledger, String> {
        self.ended.ledger()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerLine {
    accepted: u64,
    delivered: u64,
    expired: u64,
    /// By reason; those that never came are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<String, u64>,
}

impl LedgerLine {
    fn new(ledger: &Ledger) -> Self {
        let dropped = DropReason::ALL.into_iter().zip(ledger.dropped).filter(|(_, count)| *count > 0);
        Self {
            accepted: ledger.accepted,
            delivered: ledger.delivered,
            expired: ledger.expired,
            dropped: dropped.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
        }
    }

    fn ledger(&self) -> Result<Ledger, String> {
        let mut ledger =
            Ledger { accepted: self.accepted, delivered: self.delivered, expired: self.expired, ..Ledger::default() };
        for (name, count) in &self.dropped {
            let at = DropReason::ALL.into_iter().position(|reason| reason.name() == name);
            let slot = at.and_then(|at| ledger.dropped.get_mut(at));
            *slot.ok_or_else(|| format!("unknown reason for a drop: {name}"))? = *count;
        }
        Ok(ledger)
    }
}

/// A keyed row; key and value in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyedLine {
    of: String,
    key: String,
    value: String,
}

impl KeyedLine {
    pub(super) fn new(of: Keyed, (key, value): &KeyedRow) -> Self {
        Self { of: of.name().to_owned(), key: STANDARD.encode(key), value: STANDARD.encode(value) }
    }

    pub(super) fn change(&self) -> Result<KeyedChange, String> {
        let of = Keyed::ALL.into_iter().find(|of| of.name() == self.of);
        let of = of.ok_or_else(|| format!("unknown kind of keyed row: {}", self.of))?;
        let decode = |name: &str, text: &str| STANDARD.decode(text).map_err(|why| format!("{name}: {why}"));
        let key = decode("key", &self.key)?;
        if key.len() > KEY_MAX {
            return Err(format!("a key of {} bytes, at most {KEY_MAX} are allowed", key.len()));
        }
        Ok(KeyedChange { of, key, value: Some(decode("value", &self.value)?) })
    }
}

fn no(flag: &bool) -> bool {
    !flag
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageLine {
    pub(super) topic: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "no")]
    retain: bool,
    accepted_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    /// Encoded as in a PUBLISH, without their length; base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    properties: String,
    /// The payload if it is UTF-8 …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// … or else base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl MessageLine {
    pub(super) fn new(message: &Message) -> Self {
        let text = std::str::from_utf8(message.payload()).ok();
        Self {
            topic: message.topic().to_owned(),
            qos: message.qos,
            retain: message.retain,
            accepted_at_ms: message.accepted_at.0,
            expires_at_ms: message.expires_at.map(|at| at.0),
            properties: STANDARD.encode(message.properties()),
            payload: text.map(str::to_owned),
            payload_base64: text.is_none().then(|| STANDARD.encode(message.payload())),
        }
    }

    pub(super) fn message(&self) -> Result<Arc<Message>, String> {
        forebay_wire::topic::check_name(&self.topic, usize::MAX).map_err(|why| format!("topic: {why}"))?;
        let decode = |name: &str, text: &str| STANDARD.decode(text).map_err(|why| format!("{name}: {why}"));
        let payload = match (&self.payload, &self.payload_base64) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(text)) => decode("payload_base64", text)?,
            _ => return Err("either payload or payload_base64 is wanted".to_owned()),
        };
        let parts = Parts {
            topic: &self.topic,
            properties: &decode("properties", &self.properties)?,
            payload: &payload,
            qos: check_qos(self.qos)?,
            retain: self.retain,
            expires_at: self.expires_at_ms.map(Time),
            accepted_at: Time(self.accepted_at_ms),
        };
        Ok(Arc::new(Message::new(&parts, None)))
    }
}

fn check_qos(qos: u8) -> Result<u8, String> {
    if qos <= 2 { Ok(qos) } else { Err(format!("QoS {qos}")) }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionLine {
    pub(super) no: u64,
    pub(super) client_id: String,
    protocol: u8,
    expiry_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnected_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillLine>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WillLine {
    delay_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry_s: Option<u32>,
    message: MessageLine,
}

impl SessionLine {
    pub(super) fn new(no: SessionNo, record: &SessionRecord) -> Self {
        Self {
            no: no.0,
            client_id: record.client_id.clone(),
            protocol: record.protocol,
            expiry_s: record.expiry_s,
            disconnected_at_ms: record.disconnected_at.map(|at| at.0),
            will: record.will.as_ref().map(|will| WillLine {
                delay_s: will.delay_s,
                expiry_s: will.expiry_s,
                message: MessageLine::new(&will.message),
            }),
        }
    }

    pub(super) fn record(&self) -> Result<SessionRecord, String> {
        if self.client_id.len() > usize::from(u16::MAX) {
            return Err("the client identifier is longer than 65,535 bytes".to_owned());
        }
        if !(3..=5).contains(&self.protocol) {
            return Err(format!("protocol {} is none of 3, 4, 5", self.protocol));
        }
        let will = self.will.as_ref().map(|will| {
            let message = will.message.message().map_err(|why| format!("will: {why}"))?;
            Ok::<_, String>(StoredWill { message, expiry_s: will.expiry_s, delay_s: will.delay_s })
        });
        Ok(SessionRecord {
            client_id: self.client_id.clone(),
            protocol: self.protocol,
            expiry_s: self.expiry_s,
            disconnected_at: self.disconnected_at_ms.map(Time),
            will: will.transpose()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionLine {
    pub(super) session: u64,
    pub(super) filter: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "no")]
    no_local: bool,
    #[serde(default, skip_serializing_if = "no")]
    retain_as_published: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    subscription_id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retained_behind: Option<Box<str>>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl SubscriptionLine {
    pub(super) fn new(session: SessionNo, subscription: &StoredSubscription) -> Self {
        Self {
            session: session.0,
            filter: subscription.filter.clone(),
            qos: subscription.qos,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            subscription_id: subscription.subscription_id,
            retained_behind: subscription.retained_behind.clone(),
        }
    }

    pub(super) fn subscription(&self) -> Result<StoredSubscription, String> {
        forebay_wire::topic::check_filter(&self.filter, usize::MAX).map_err(|why| format!("filter: {why}"))?;
        Ok(StoredSubscription {
            filter: self.filter.clone(),
            qos: check_qos(self.qos)?,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            subscription_id: self.subscription_id,
            retained_behind: self.retained_behind.clone(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateLine {
    pub(super) session: u64,
    next_seq: u64,
    floor: u64,
    /// Pairs: from, to (the first that is not). Read only: older programs wrote it, and nothing of it has an entry.
    #[serde(default, skip_serializing)]
    done: Vec<(u64, u64)>,
    sent: u64,
    /// `None`: as `sent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promised: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    released: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inbound: Vec<u16>,
    queued: u64,
    queued_bytes: u64,
    ledger: LedgerLine,
}

impl StateLine {
    pub(super) fn new(session: SessionNo, state: &QueueState) -> Self {
        Self {
            session: session.0,
            next_seq: state.next_seq,
            floor: state.floor,
            done: Vec::new(),
            sent: state.sent,
            promised: Some(state.promised).filter(|promised| *promised != state.sent),
            released: state.released.clone(),
            inbound: state.inbound.clone(),
            queued: state.queued,
            queued_bytes: state.queued_bytes,
            ledger: LedgerLine::new(&state.ledger),
        }
    }

    pub(super) fn state(&self) -> Result<QueueState, String> {
        let mut before = self.floor;
        for (from, to) in &self.done {
            if *from < before || to <= from || *to > self.next_seq {
                return Err(format!("done {from} to {to} is out of order, or not between floor and next_seq"));
            }
            before = *to;
        }
        if self.floor > self.next_seq {
            return Err("floor is above next_seq".to_owned());
        }
        Ok(QueueState {
            next_seq: self.next_seq,
            floor: self.floor,
            done: self.done.clone(),
            sent: self.sent,
            promised: self.promised.unwrap_or(self.sent),
            released: self.released.clone(),
            inbound: self.inbound.clone(),
            queued: self.queued,
            queued_bytes: self.queued_bytes,
            ledger: self.ledger.ledger()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueuedLine {
    pub(super) session: u64,
    pub(super) seq: u64,
    qos: u8,
    #[serde(default, skip_serializing_if = "no")]
    retain: bool,
    #[serde(default, skip_serializing_if = "no")]
    shared: bool,
    /// Of the shared subscription, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscription_ids: Vec<u32>,
    message: MessageLine,
}

impl QueuedLine {
    pub(super) fn new(session: SessionNo, entry: &QueueEntry) -> Self {
        Self {
            session: session.0,
            seq: entry.seq,
            qos: entry.qos,
            retain: entry.retain,
            shared: entry.shared.is_some(),
            group: group_of(entry),
            subscription_ids: entry.subscription_ids.to_vec(),
            message: MessageLine::new(&entry.message),
        }
    }

    fn share(&self) -> Option<Share> {
        let group = self.group.map(|id| Share::Group(GroupId(id)));
        group.or(self.shared.then_some(Share::Unknown))
    }

    pub(super) fn entry(&self) -> Result<QueueEntry, String> {
        Ok(QueueEntry {
            seq: self.seq,
            qos: check_qos(self.qos)?,
            retain: self.retain,
            shared: self.share(),
            subscription_ids: self.subscription_ids.iter().copied().collect(),
            message: self.message.message()?,
        })
    }
}

fn group_of(entry: &QueueEntry) -> Option<u32> {
    match entry.shared {
        Some(Share::Group(GroupId(id))) => Some(id),
        Some(Share::Unknown) | None => None,
    }
}

/// What must have come before.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
    pub(super) queued: u64,
    pub(super) retained: u64,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) keyed: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}
