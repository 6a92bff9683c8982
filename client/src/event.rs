//! What happens to the connection.

use std::time::Duration;

use crate::codec::read::ConnAck;
use crate::error::{ConnectError, EndReason, LostReason, SubscribeError};
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::QoS;

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server accepted a connection.
    Connected(Connected),
    /// The connection is gone.
    Lost(LostReason),
    /// A connection could not be made.
    Failed(ConnectError),
    /// The next attempt is made after this time.
    Waiting(Duration),
    /// A subscription that the server had granted is over: it refuses what it had lost, or takes no packet that is large
    /// enough to ask for it. Its stream ends when what it has is read.
    SubscriptionEnded {
        /// All filters of the subscription.
        filters: Vec<String>,
        /// What the server refuses, and why.
        why: SubscribeError,
    },
    /// A message of the outbox is dropped, since the server ended so many connections in a row when it came, and acknowledged
    /// nothing ([`Outbox::max_losses`](crate::Outbox::max_losses)). Its ticket is told
    /// [`Dropped::SetAside`](crate::Dropped::SetAside); a message that an earlier run of the program left has only this.
    SetAside {
        /// Its topic.
        topic: String,
        /// Its payload, for a program that wants to keep it or to send it in another way.
        payload: bytes::Bytes,
        /// Connections that ended with it.
        connections: u32,
    },
    /// The server has refused a message, which stays at the head of the outbox since the program says so
    /// ([`Options::when_refused`](crate::Options::when_refused)); all behind it wait. It is sent again, alone, after 1 to 30 s, until it
    /// is taken.
    PutOff(PutOff),
    /// What was put off is taken, or was dropped: messages are sent as usual.
    GoesOn,
    /// The server sent a message that is larger than [`Options::maximum_packet_size`](crate::Options::maximum_packet_size).
    /// In MQTT 3.1.1, where the server cannot be told, it is skipped and acknowledged; otherwise it would come again with
    /// every connection.
    TooLarge {
        /// Its topic.
        topic: String,
        /// Bytes of the whole packet.
        size: usize,
    },
    /// The client has ended; nothing comes after this.
    Ended(EndReason),
}

/// A message that the server refuses, and that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutOff {
    /// Its topic.
    pub topic: String,
    /// What the server said.
    pub reason: ReasonCode,
}

/// What the server said in CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// The session of an earlier connection goes on: what was unacknowledged is repeated, subscriptions are still there.
    /// Otherwise messages are sent anew and subscriptions made anew.
    pub resumed: bool,
    /// The client identifier in use.
    pub client_id: String,
    /// QoS 1 and 2 messages that the server takes at once.
    pub receive_maximum: u16,
    /// Largest packet that it takes, in bytes.
    pub maximum_packet_size: u32,
    /// Highest QoS that it takes.
    pub maximum_qos: QoS,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Whether it takes filters with wildcards.
    pub wildcards_available: bool,
    /// Whether it takes shared subscriptions.
    pub shared_available: bool,
    /// Topic aliases that it takes.
    pub topic_alias_maximum: u16,
    /// How long it keeps the session, when that is not what was asked for.
    pub session_expiry_s: Option<u32>,
    /// The keep alive that it asked for instead.
    pub server_keep_alive_s: Option<u16>,
    /// Where answers to requests should go.
    pub response_information: Option<String>,
    /// User properties.
    pub user_properties: Vec<(String, String)>,
}

impl Connected {
    pub(crate) fn new(ack: ConnAck, client_id: &str) -> Self {
        Self {
            resumed: ack.session_present,
            client_id: client_id.to_owned(),
            receive_maximum: ack.receive_maximum,
            maximum_packet_size: ack.maximum_packet_size,
            maximum_qos: ack.maximum_qos,
            retain_available: ack.retain_available,
            wildcards_available: ack.wildcards_available,
            shared_available: ack.shared_available,
            topic_alias_maximum: ack.topic_alias_maximum,
            session_expiry_s: ack.session_expiry_s,
            server_keep_alive_s: ack.server_keep_alive_s,
            response_information: ack.response_information,
            user_properties: ack.user,
        }
    }
}
