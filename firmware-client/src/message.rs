//! What is published, and what becomes of it.

use forebay_wire::types::QoS;

/// How many classes there are.
pub const CLASSES: usize = 4;

/// How much a message matters. Each class has its own share of the outbox, is only ever evicted by itself, and goes
/// before the classes below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Class {
    /// What somebody has to act on.
    Alarm = 0,
    /// What the device is, and what it was told to be.
    State = 1,
    /// Readings.
    Telemetry = 2,
    /// What can wait: logs, history.
    Bulk = 3,
}

impl Class {
    pub(crate) const ALL: [Self; CLASSES] = [Self::Alarm, Self::State, Self::Telemetry, Self::Bulk];

    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Alarm,
            1 => Self::State,
            2 => Self::Telemetry,
            _ => Self::Bulk,
        }
    }
}

/// What happens when a message comes and its class has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Policy {
    /// The oldest messages of its class that are not being sent make room.
    DropOldest,
    /// It is refused.
    DropNewest,
    /// It takes the place of any message with the same topic and class that is not being sent, whether there is room or
    /// not. When there is none even then, it is refused.
    KeepLast,
}

/// A property of MQTT 5 that travels with a message. MQTT 3.1.1 leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishProperty<'a> {
    /// The payload is UTF-8.
    Utf8,
    /// Content type.
    ContentType(&'a str),
    /// Response topic.
    ResponseTopic(&'a str),
    /// Correlation data.
    CorrelationData(&'a [u8]),
    /// User property.
    User(&'a str, &'a str),
}

/// A message without its payload.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// QoS.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// Class.
    pub class: Class,
    /// Policy.
    pub policy: Policy,
    /// How long it is worth sending, in milliseconds and in steps of 64; 0 is for ever. It runs offline too. MQTT 5 tells
    /// the server what is left of it.
    pub ttl_ms: u32,
    /// Properties, MQTT 5 only.
    pub properties: &'a [PublishProperty<'a>],
}

impl<'a> Message<'a> {
    /// A reading with QoS 1 that makes room for itself, and does not expire.
    #[must_use]
    pub const fn new(topic: &'a str) -> Self {
        Self {
            topic,
            qos: QoS::AtLeastOnce,
            retain: false,
            class: Class::Telemetry,
            policy: Policy::DropOldest,
            ttl_ms: 0,
            properties: &[],
        }
    }

    /// With another QoS.
    #[must_use]
    pub const fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Of another class.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// With another policy.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// With a time to live.
    #[must_use]
    pub const fn ttl_ms(mut self, ttl_ms: u32) -> Self {
        self.ttl_ms = ttl_ms;
        self
    }

    /// Retained or not.
    #[must_use]
    pub const fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }
}

/// Names a message of this client, or a request to subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ticket(pub(crate) u32);

impl Ticket {
    /// Its number: later messages have higher ones, until they wrap.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What has become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Status {
    /// In the outbox.
    Queued,
    /// Sent at least in part; QoS 1 and 2: not acknowledged yet.
    Sent,
    /// QoS 0: sent. QoS 1 and 2: acknowledged.
    Done,
    /// Dropped.
    Dropped(DropReason),
    /// It ended some time ago, or never was: the last [`ENDED_MAX`](crate::ENDED_MAX) ends are remembered.
    Unknown,
}

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
#[non_exhaustive]
pub enum DropReason {
    /// Its time to live was over.
    Expired = 0,
    /// A newer message of its class needed the room.
    Evicted = 1,
    /// A newer message with its topic took its place.
    Superseded = 2,
    /// There was no room, so it was refused: it has no ticket.
    Full = 3,
    /// The server refused it for good.
    Refused = 4,
    /// The server takes no packet of this size.
    TooLarge = 5,
    /// The server has no such QoS, or retains nothing.
    NotSupported = 6,
    /// QoS 0: the connection ended while it was being sent.
    ConnectionLost = 7,
    /// The application took it back.
    Cancelled = 8,
    /// The mailbox was full: it has no ticket.
    Mailbox = 9,
    /// Every connection ended with it, see [`Options::losses_max`](crate::Options::losses_max).
    Undeliverable = 10,
}

/// How many reasons there are.
pub(crate) const DROP_REASONS: usize = 11;
/// Counters in a snapshot.
const KEPT_COUNTERS: usize = 14;

impl DropReason {
    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Expired,
            1 => Self::Evicted,
            2 => Self::Superseded,
            3 => Self::Full,
            4 => Self::Refused,
            5 => Self::TooLarge,
            6 => Self::NotSupported,
            7 => Self::ConnectionLost,
            8 => Self::Cancelled,
            9 => Self::Mailbox,
            _ => Self::Undeliverable,
        }
    }
}

/// A message that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// Its class.
    pub class: Class,
    /// Its ticket; `None` when it was refused before it had one.
    pub ticket: Option<Ticket>,
}

/// Why a message or a subscription was not taken. It is counted as dropped where that makes sense of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PublishError {
    /// There is no room for it now; counted.
    Full,
    /// It is larger than the outbox; counted.
    TooLarge,
    /// The topic name or the topic filter is not one.
    Topic,
    /// A property is longer than 65,535 bytes, or QoS 2 is not built in.
    NotSupported,
}

impl core::fmt::Display for PublishError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "no room in the outbox",
            Self::TooLarge => "larger than the outbox",
            Self::Topic => "not a topic",
            Self::NotSupported => "not supported",
        })
    }
}

impl core::error::Error for PublishError {}

/// What was taken and what became of it, in messages since the client was made or imported:
/// `accepted = sent + acknowledged + dropped with a ticket + in the outbox + spilled`, at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Counters {
    /// Messages that were given a ticket.
    pub accepted: u32,
    /// QoS 0: handed to the transport.
    pub sent: u32,
    /// QoS 1 and 2: acknowledged.
    pub acknowledged: u32,
    /// Now in a store behind the outbox.
    pub spilled: u32,
    /// Messages that came and were refused, see [`Event::MessageRefused`](crate::Event::MessageRefused); a snapshot does not
    /// keep it.
    pub refused_inbound: u32,
    pub(crate) dropped: [u32; DROP_REASONS],
}

impl Counters {
    /// How many were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u32 {
        self.dropped.get(reason as usize).copied().unwrap_or_default()
    }

    /// How many were dropped after they had a ticket.
    #[must_use]
    pub fn dropped_with_ticket(&self) -> u32 {
        let refused = self.dropped(DropReason::Full).wrapping_add(self.dropped(DropReason::Mailbox));
        self.dropped.iter().fold(0, |sum: u32, count| sum.wrapping_add(*count)).wrapping_sub(refused)
    }

    /// Those that a snapshot keeps. Its format has no place for [`DropReason::Undeliverable`]: it is counted as refused there, so
    /// that the account adds up after a restart as well.
    pub(crate) fn all(&self) -> [u32; KEPT_COUNTERS] {
        let mut all = [self.accepted, self.sent, self.acknowledged, self.spilled, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (to, count) in all.iter_mut().skip(4).zip(self.dropped) {
            *to = count;
        }
        if let Some(refused) = all.get_mut(4 + DropReason::Refused as usize) {
            *refused = refused.wrapping_add(self.dropped(DropReason::Undeliverable));
        }
        all
    }

    pub(crate) fn set_all(&mut self, all: &[u32; KEPT_COUNTERS]) {
        [self.accepted, self.sent, self.acknowledged, self.spilled, ..] = *all;
        for (count, from) in self.dropped.iter_mut().zip(all.iter().skip(4).chain(&[0])) {
            *count = *from;
        }
    }
}
