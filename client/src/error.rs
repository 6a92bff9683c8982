//! What can go wrong, and whose fault it is.

use std::io;

use forebay_wire::WireError;
use forebay_wire::reason::ReasonCode;

use crate::message::Message;

/// Options that cannot work: what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOptions(pub(crate) String);

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No server could take it.
    #[error("the message cannot be sent: {0}")]
    Invalid(#[source] WireError),
    /// It alone is larger than the outbox.
    #[error("the message of {size} bytes is larger than the outbox ({max} bytes)")]
    TooLarge {
        /// Bytes.
        size: usize,
        /// `Outbox::max_bytes`.
        max: usize,
    },
    /// The outbox is full.
    #[error("the outbox is full")]
    Full(Message),
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(#[source] EndReason),
}

/// Why a message that was accepted did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Dropped {
    /// Its time was over before it could be sent.
    #[error("expired before it was sent")]
    Expired,
    /// The outbox was full and its policy is to drop the oldest.
    #[error("dropped to make room in the outbox")]
    Evicted,
    /// A later message of the same topic replaced it.
    #[error("replaced by a later message of the same topic")]
    Replaced,
    /// The server refused it.
    #[error("refused by the server: {} (0x{:02x})", .0.name(), *.0 as u8)]
    Refused(ReasonCode),
    /// The server does not take packets as large, this QoS, or retained messages.
    #[error("the server does not take it: {} (0x{:02x})", .0.name(), *.0 as u8)]
    NotTaken(ReasonCode),
    /// The server ended so many connections in a row when this message came, and acknowledged nothing: it will never take it
    /// ([`Outbox::max_losses`](crate::Outbox::max_losses)).
    #[error("set aside: the server ended {connections} connections when it came")]
    SetAside {
        /// Connections that ended with it.
        connections: u32,
    },
    /// The connection ended before a message of QoS 0 was written.
    #[error("the connection was lost before it was written")]
    ConnectionLost,
    /// The client ended first.
    #[error("the client has ended: {0}")]
    Ended(#[source] EndReason),
}

/// Why a client has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndReason {
    /// The program said so.
    #[error("it was disconnected by the program")]
    Disconnected,
    /// Every handle is dropped.
    #[error("all its handles are gone")]
    Dropped,
    /// Connecting failed for the last time.
    #[error("{0}")]
    GaveUp(String),
}

/// Why a subscription was not made, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// A filter that is not one.
    #[error("the filter cannot be subscribed to: {0}")]
    Invalid(#[source] WireError),
    /// The server refused every filter.
    #[error("refused by the server: {}{}", .reasons.first().map_or_else(String::new, shown), said(.reason_string))]
    Refused {
        /// One for each filter.
        reasons: Vec<ReasonCode>,
        /// The server's words.
        reason_string: Option<String>,
    },
    /// The server had granted it, has lost it, and refuses now. One filter of several is enough: the others are unsubscribed
    /// from, since a stream that misses a part of what it is for would look healthy.
    #[error("no longer granted by the server: {}{}", filters(.refused), said(.reason_string))]
    Revoked {
        /// The filters that were granted before and are refused now, and why.
        refused: Vec<(String, ReasonCode)>,
        /// The server's words.
        reason_string: Option<String>,
    },
    /// The server does not take packets as large as this filter needs, with the user properties of the subscription.
    #[error("a packet that subscribes to {filter} has {size} bytes, and the server takes {max} at most")]
    TooLarge {
        /// The filter.
        filter: String,
        /// Bytes.
        size: usize,
        /// What the server takes.
        max: usize,
    },
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(#[source] EndReason),
}

/// Why there is no connection. What a program can do differs: an address that cannot be reached, a server that refuses, and
/// one that does not speak MQTT are told apart.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Name resolution, TCP or the Unix socket failed.
    #[error("{address} cannot be reached: {error}")]
    Unreachable {
        /// Where.
        address: String,
        /// The system's error.
        #[source]
        error: std::sync::Arc<io::Error>,
    },
    /// TLS failed.
    #[error("TLS with {address}: {detail}")]
    Tls {
        /// Where.
        address: String,
        /// What rustls said.
        detail: String,
    },
    /// WebSocket failed.
    #[error("WebSocket with {address}: {detail}")]
    WebSocket {
        /// Where.
        address: String,
        /// What went wrong.
        detail: String,
    },
    /// The time for connecting was over.
    #[error("{address} did not answer in {seconds} s")]
    TimedOut {
        /// Where.
        address: String,
        /// `Options::connect_timeout`.
        seconds: u64,
    },
    /// The server refused.
    #[error("refused by the server: {} (0x{:02x}){}", .reason.name(), *.reason as u8, said(.reason_string))]
    Refused {
        /// Why.
        reason: ReasonCode,
        /// The server's words.
        reason_string: Option<String>,
        /// Where to go instead.
        server_reference: Option<String>,
    },
    /// The answer is not MQTT, or breaks its rules.
    #[error("the server does not speak MQTT as it should: {0}")]
    Protocol(#[source] WireError),
    /// The server closed the connection instead of answering.
    #[error("the server closed the connection before CONNACK")]
    Closed,
    /// Enhanced authentication failed on this side.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(#[source] EndReason),
    /// The options cannot work.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// The durable outbox cannot be opened.
    #[error("the outbox cannot be opened: {0}")]
    Store(String),
}

fn shown(reason: &ReasonCode) -> String {
    format!("{} (0x{:02x})", reason.name(), *reason as u8)
}

fn filters(refused: &[(String, ReasonCode)]) -> String {
    let each: Vec<String> = refused.iter().map(|(filter, reason)| format!("{filter}: {}", shown(reason))).collect();
    each.join(", ")
}

fn said(reason_string: &Option<String>) -> String {
    reason_string.as_ref().map_or_else(String::new, |text| format!(": {text}"))
}

/// Why a connection was lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostReason {
    /// The server closed it without a word.
    #[error("closed by the server")]
    Closed,
    /// The system reported an error.
    #[error("{0}")]
    Io(#[source] std::sync::Arc<io::Error>),
    /// Nothing came from the server for one and a half times the keep alive.
    #[error("the server did not answer")]
    KeepAlive,
    /// The server said DISCONNECT.
    #[error("ended by the server: {} (0x{:02x}){}", .reason.name(), *.reason as u8, said(.reason_string))]
    Server {
        /// Why.
        reason: ReasonCode,
        /// The server's words.
        reason_string: Option<String>,
        /// Where to go instead.
        server_reference: Option<String>,
    },
    /// The server broke the protocol; it was told why.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[source] WireError),
    /// A re-authentication failed on this side.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// The program ended it.
    #[error("ended by the program")]
    Ended,
}
