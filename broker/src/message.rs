//! One published message, shared by every queue that it is in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Milliseconds on the broker's own clock: monotonic while the broker runs, carried over restarts by the store
/// (see `clock`). Never compared with a wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `ms` milliseconds later; saturates.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The moment `s` seconds later; saturates.
    #[must_use]
    pub fn plus_s(self, s: u32) -> Self {
        self.plus_ms(u64::from(s).saturating_mul(1000))
    }

    /// Milliseconds from `earlier` until now, or zero.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whoever published a message and waits for it to be safe.
pub trait Origin: Send + Sync {
    /// The last durable target has the message on disk or has acknowledged it: the publisher's ack may leave.
    fn message_safe(&self);

    /// The message cannot be kept: the publisher is told so, if it can be. False: it waits for the message to be safe, or
    /// waits no more.
    fn message_refused(&self, message: &Message) -> bool;
}

/// Of a message of QoS 2, before its publisher's ack has left: it is given to somebody to whom it was not routed, or it
/// is refused. Both would make the publisher's second try another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Promise {
    /// Neither.
    None,
    /// Somebody has it, and must have it exactly once.
    Given,
    /// Its publisher is told that it is not kept.
    Refused,
}

/// A message as the queues hold it. The body is one allocation: topic, properties to forward, payload.
pub struct Message {
    body: Box<[u8]>,
    topic_len: u16,
    properties_len: u32,
    /// The QoS at which it was published, 0 to 2.
    pub qos: u8,
    /// The RETAIN flag of the publisher.
    pub retain: bool,
    /// When it expires [MQTT5-3.3.2-5], if it does.
    pub expires_at: Option<Time>,
    /// When the broker accepted it.
    pub accepted_at: Time,
    /// Durable targets that have it neither on disk nor acknowledged.
    unsafe_targets: AtomicU32,
    /// A [`Promise`].
    promise: AtomicU8,
    origin: Option<Arc<dyn Origin>>,
}

/// What a message is made of.
pub struct Parts<'a> {
    /// The topic name.
    pub topic: &'a str,
    /// Encoded MQTT 5 properties to forward: without topic alias, message expiry and subscription identifier.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// 0 to 2.
    pub qos: u8,
    /// The RETAIN flag of the publisher.
    pub retain: bool,
    /// When it expires, if it does.
    pub expires_at: Option<Time>,
    /// When the broker accepted it.
    pub accepted_at: Time,
}

impl Message {
    /// Copies the parts into one allocation. A topic longer than 65,535 bytes cannot come from the wire; it is cut, see [`cut_topic`].
    #[must_use]
    pub fn new(parts: &Parts<'_>, origin: Option<Arc<dyn Origin>>) -> Self {
        let topic = cut_topic(parts.topic);
        let mut body = Vec::with_capacity(topic.len() + parts.properties.len() + parts.payload.len());
        body.extend_from_slice(topic.as_bytes());
        body.extend_from_slice(parts.properties);
        body.extend_from_slice(parts.payload);
        Self {
            body: body.into_boxed_slice(),
            topic_len: u16::try_from(topic.len()).unwrap_or(u16::MAX),
            properties_len: u32::try_from(parts.properties.len()).unwrap_or(u32::MAX),
            qos: parts.qos,
            retain: parts.retain,
            expires_at: parts.expires_at,
            accepted_at: parts.accepted_at,
            unsafe_targets: AtomicU32::new(0),
            promise: AtomicU8::new(Promise::None as u8),
            origin,
        }
    }

    /// The topic's bytes; they are valid UTF-8.
    #[must_use]
    pub fn topic_bytes(&self) -> &[u8] {
        self.body.get(..usize::from(self.topic_len)).unwrap_or_default()
    }

    /// The topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        std::str::from_utf8(self.topic_bytes()).unwrap_or_default()
    }

    /// Encoded properties to forward.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.topic_len);
        self.body.get(start..start + self.properties_len as usize).unwrap_or_default()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.body.get(usize::from(self.topic_len) + self.properties_len as usize..).unwrap_or_default()
    }

    /// Bytes of topic, properties and payload: what the queue limits count.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// Whole seconds that remain, rounded up, at least 1; `None` if it never expires [MQTT5-3.3.2-6].
    #[must_use]
    pub fn remaining_s(&self, now: Time) -> Option<u32> {
        let at = self.expires_at?;
        Some(u32::try_from(at.since(now).div_ceil(1000)).unwrap_or(u32::MAX).max(1))
    }

    /// Whether its time is over.
    #[must_use]
    pub fn expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// One more durable target must have it before the publisher's ack may leave.
    pub fn await_one(&self) {
        self.unsafe_targets.fetch_add(1, Ordering::Relaxed);
    }

    /// One durable target has it on disk, or has acknowledged it. Tells the origin when it was the last.
    pub fn settle(&self) {
        if self.unsafe_targets.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(origin) = &self.origin
        {
            origin.message_safe();
        }
    }

    /// It is to be kept no more, if its publisher is content with that, and nobody has been given it who must have it
    /// exactly once.
    #[must_use]
    pub fn refuse(&self) -> bool {
        let Some(origin) = &self.origin else { return false };
        if self.qos == 2 && self.promise(Promise::Refused).is_err() {
            return false;
        }
        let refused = origin.message_refused(self);
        if !refused {
            self.promise.store(Promise::None as u8, Ordering::Release);
        }
        refused
    }

    /// Somebody to whom it was not routed is to have it exactly once: from now on it cannot be refused. False: it is
    /// being refused.
    #[must_use]
    pub fn give_once(&self) -> bool {
        let before = self.promise(Promise::Given);
        before.is_ok() || before == Err(Promise::Given as u8)
    }

    /// Whether its publisher was told that it is not kept, at QoS 2.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.promise.load(Ordering::Acquire) == Promise::Refused as u8
    }

    /// Or what was promised before.
    fn promise(&self, promise: Promise) -> Result<u8, u8> {
        let none = Promise::None as u8;
        self.promise.compare_exchange(none, promise as u8, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Whether the publisher's ack may leave.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.unsafe_targets.load(Ordering::Acquire) == 0
    }
}

/// As much of a topic as a message can have: 65,535 bytes, and no part of a character.
#[must_use]
pub fn cut_topic(topic: &str) -> &str {
    let max = usize::from(u16::MAX);
    if topic.len() <= max {
        return topic;
    }
    let end = (0..=max).rfind(|at| topic.is_char_boundary(*at)).unwrap_or(0);
    topic.get(..end).unwrap_or_default()
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("topic", &self.topic()).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}
