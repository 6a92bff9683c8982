//! What the device decides before it connects. All of it may lie in flash.

use crate::message::{CLASSES, Dropped};
use forebay_wire::types::QoS;

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Protocol {
    /// MQTT 3.1.1.
    #[cfg(feature = "v3")]
    V311,
    /// MQTT 5.0.
    #[cfg(feature = "v5")]
    V5,
}

impl Protocol {
    #[cfg(feature = "v5")]
    const DEFAULT: Self = Self::V5;
    #[cfg(not(feature = "v5"))]
    const DEFAULT: Self = Self::V311;

    #[inline]
    pub(crate) const fn is_v5(self) -> bool {
        match self {
            #[cfg(feature = "v3")]
            Self::V311 => false,
            #[cfg(feature = "v5")]
            Self::V5 => true,
        }
    }
}

/// What the server publishes when the device is gone.
#[derive(Clone, Copy, Debug)]
pub struct Will<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload, at most 65,535 bytes.
    pub payload: &'a [u8],
    /// QoS.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
    /// MQTT 5: how long the server waits for the device to come back, in seconds.
    pub delay_s: u32,
}

/// How long to wait before the next attempt: decorrelated jitter, which is a random time between `base_ms` and three
/// times the last one, at most `cap_ms`. A thousand devices that lose their broker together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ladder {
    /// The shortest wait, in milliseconds.
    pub base_ms: u32,
    /// The longest wait, in milliseconds.
    pub cap_ms: u32,
}

/// What goes first when there is a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Order {
    /// As published, within a class.
    Published,
    /// What is published while connected goes before what waited for the connection, within a class.
    LiveFirst,
}

/// How the client behaves. Make one with [`Options::new`] and change what is not right for the device.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The protocol of the next connection.
    pub protocol: Protocol,
    /// Client identifier. Empty only with `session_expiry_s` 0.
    pub client_id: &'a str,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// The will.
    pub will: Option<Will<'a>>,
    /// Keep alive in seconds, 0 for none; a server of MQTT 5 may set another.
    pub keep_alive_s: u16,
    /// How long the server keeps the session without a connection, in seconds; `u32::MAX` is for ever. 0: no session
    /// outlives its connection. For MQTT 3.1.1 any other value is for ever.
    pub session_expiry_s: u32,
    /// After a start without [`import`](crate::Client::import): take over the session that the server still has, with
    /// what it queued. The device has lost its half of it, so a message of QoS 2 may be taken for an older one that had
    /// its packet identifier, and be lost; without this the server's half is discarded first.
    pub adopt_session: bool,
    /// How many messages of QoS 1 and 2 the server may send before they are acknowledged, 1 to
    /// [`INBOUND_MAX`](crate::INBOUND_MAX). MQTT 3.1.1 cannot say it: a server that has more than `INBOUND_MAX` of QoS 2
    /// open is disconnected from.
    pub receive_maximum: u8,
    /// The largest packet that the server may send, in bytes; 0 is any. MQTT 3.1.1 cannot say it.
    pub maximum_packet_size: u32,
    /// The largest packet that is sent, in bytes; 0 is any. A message that makes a larger one is dropped
    /// ([`DropReason::TooLarge`](crate::DropReason::TooLarge)). MQTT 5 servers say what they take, and the smaller of the two
    /// holds; a server of MQTT 3.1.1 ends the connection. Without the feature `undeliverable` it is any.
    pub largest_packet_sent: u32,
    /// How many connections in a row may end with the same message as the first on its way, and nothing acknowledged, before
    /// it is taken for one that the server will never take, and dropped
    /// ([`DropReason::Undeliverable`](crate::DropReason::Undeliverable)); 0 is never, and everything behind it waits. From the
    /// third of them on one message at a time is sent, and none is dropped before it was alone twice, without a
    /// request to subscribe beside it. A client cannot tell a
    /// server that hangs up from a line that fails: on a very bad line a larger number is right. MQTT 5: where the server says why
    /// it ends the connection, only reasons that may be about a message count (0x87, 0x95, 0x99 and the like), not that it is busy,
    /// stops, or has another connection with this identifier.
    /// Without the feature `undeliverable` it is never.
    pub losses_max: u8,
    /// The largest payload that the application takes, in bytes. A larger one is refused (MQTT 5: 0x97), and read past.
    pub payload_max: u32,
    /// How many messages may wait for their acknowledgement; the server's Receive Maximum may be lower. From 2 on the
    /// last place is kept for [`Class::Alarm`](crate::Class::Alarm).
    pub in_flight_max: u16,
    /// A server that owes an answer and says nothing for as long is asked (PINGREQ), and left when it does not answer for
    /// as long again.
    pub response_timeout_ms: u32,
    /// Bytes of the outbox that are kept for each class, by [`Class`](crate::Class). What is left is for everyone.
    pub reserve: [u32; CLASSES],
    /// Bytes of the outbox that are kept for subscriptions.
    pub subscription_reserve: u32,
    /// How many new messages are sent in a second, 0 is any. Acknowledgements and repeated messages are not counted.
    pub rate_per_s: u16,
    /// How many of them at once after a pause.
    pub burst: u16,
    /// What goes first.
    pub order: Order,
    /// When the network or the server cannot be reached, or the connection was lost.
    pub network: Ladder,
    /// When the server is busy and does not say for how long.
    pub busy: Ladder,
    /// When the server does not want this device: credentials, identifier, another connection with the same identifier.
    pub refused: Ladder,
    /// How long a connection has to hold before the waits start at their base again.
    pub stable_ms: u32,
    /// What makes the jitter of this device its own: a serial number will do.
    pub seed: u32,
    /// MQTT 5: topics that are worth a topic alias, the first 32 of them at most.
    pub topic_aliases: &'a [&'a str],
    /// MQTT 5: the next message says in a user property `lost` how many messages were dropped before it. MQTT 3.1.1 has
    /// no place for it; publish [`Counters`](crate::Counters) instead.
    pub tell_lost: bool,
    /// While the server says `critical` on `$SYS/broker/pressure` (when that is subscribed to), send alarms only.
    pub yield_to_pressure: bool,
    /// Called for each message that is dropped.
    pub on_drop: Option<fn(Dropped)>,
}

impl<'a> Options<'a> {
    /// What is right for most devices: a session of a day, a window of 8, no limit of the rate.
    #[must_use]
    pub const fn new(client_id: &'a str) -> Self {
        Self {
            protocol: Protocol::DEFAULT,
            client_id,
            user_name: None,
            password: None,
            will: None,
            keep_alive_s: 60,
            session_expiry_s: 86_400,
            adopt_session: false,
            receive_maximum: 8,
            maximum_packet_size: 0,
            largest_packet_sent: 0,
            losses_max: 8,
            payload_max: u32::MAX,
            in_flight_max: 8,
            response_timeout_ms: 10_000,
            reserve: [0; CLASSES],
            subscription_reserve: 0,
            rate_per_s: 0,
            burst: 1,
            order: Order::Published,
            network: Ladder { base_ms: 500, cap_ms: 120_000 },
            busy: Ladder { base_ms: 5_000, cap_ms: 300_000 },
            refused: Ladder { base_ms: 30_000, cap_ms: 3_600_000 },
            stable_ms: 60_000,
            seed: 0,
            topic_aliases: &[],
            tell_lost: false,
            yield_to_pressure: true,
            on_drop: None,
        }
    }

    /// Whether the session outlives the connection.
    pub(crate) const fn keeps_session(&self) -> bool {
        self.session_expiry_s != 0
    }
}
