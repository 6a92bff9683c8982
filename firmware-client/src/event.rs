//! What [`Client::poll_event`](crate::Client::poll_event) has to say.

use crate::message::Ticket;
use forebay_wire::ReasonCode;
use forebay_wire::property::{Place, Properties};
use forebay_wire::types::QoS;

/// What became of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Session {
    /// There was none, and none was expected.
    New,
    /// It goes on: what was not acknowledged is sent again.
    Resumed,
    /// The server has lost it. What was not acknowledged is sent again as new, and the subscriptions are made again; what
    /// the server had queued for this device is gone.
    Lost,
}

/// The end of a connection, in the server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Farewell<'i> {
    /// Why. MQTT 3.1.1: the reason code nearest to the return code.
    pub reason: ReasonCode,
    /// MQTT 5: the server to use instead.
    pub server_reference: Option<&'i str>,
    /// How long the server wants to be left alone, in milliseconds; the client does so, with jitter.
    pub retry_after_ms: Option<u32>,
}

/// A message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received<'i> {
    /// Topic name.
    pub topic: &'i str,
    /// QoS.
    pub qos: QoS,
    /// It was retained.
    pub retain: bool,
    /// It may have come before.
    pub dup: bool,
    /// Bytes of the whole payload.
    pub payload_len: u32,
    /// The payload; empty in [`Event::MessageStart`].
    pub payload: &'i [u8],
    pub(crate) properties: &'i [u8],
}

impl<'i> Received<'i> {
    /// MQTT 5: its properties, which are known to be valid.
    #[must_use]
    pub const fn properties(&self) -> Properties<'i> {
        Properties::new(self.properties, Place::Publish)
    }
}

/// Something that happened. A message is acknowledged when the next event is asked for: a device that crashes while it
/// handles one gets it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'i> {
    /// The server has accepted the connection.
    Connected {
        /// What became of the session.
        session: Session,
        /// MQTT 5: the client identifier that the server chose because `client_id` was empty.
        assigned_client_id: Option<&'i str>,
    },
    /// The server has refused the connection. Close it and say [`disconnected`](crate::Client::disconnected).
    Refused(Farewell<'i>),
    /// MQTT 5: the server ends the connection.
    Disconnected(Farewell<'i>),
    /// The connection is of no use any more, and why: the server broke the protocol (it is told, in MQTT 5), or does not
    /// answer (0x8D).
    Fault(ReasonCode),
    /// A message.
    Message(Received<'i>),
    /// A message that is larger than the receive buffer begins. Its payload follows. When the connection ends before
    /// [`MessageEnd`](Event::MessageEnd), forget it: with QoS 1 and 2 it comes again.
    MessageStart(Received<'i>),
    /// The next piece of its payload.
    MessageChunk(&'i [u8]),
    /// It is complete.
    MessageEnd,
    /// A message was larger than `payload_max`, or its topic name and properties were larger than the receive buffer: it was
    /// refused and is read past.
    MessageRefused {
        /// Bytes of its payload; with those of its properties where these do not fit the receive buffer.
        payload_len: u32,
    },
    /// A published message of QoS 1 or 2 is safe with the server.
    Acknowledged {
        /// Which.
        ticket: Ticket,
        /// The server's reason code: success, or no matching subscribers.
        reason: ReasonCode,
    },
    /// The server has refused a message for good; it is dropped.
    Rejected {
        /// Which.
        ticket: Ticket,
        /// Why.
        reason: ReasonCode,
    },
    /// The server cannot take a message now (0x97). It stays in the outbox.
    Postponed {
        /// Which.
        ticket: Ticket,
        /// How long its class waits, in milliseconds.
        retry_after_ms: u32,
    },
    /// The answer to a subscription: the QoS that was granted, or why not.
    Subscribed {
        /// Which.
        ticket: Ticket,
        /// The reason code.
        reason: ReasonCode,
    },
    /// The answer to the end of one.
    Unsubscribed {
        /// Which.
        ticket: Ticket,
        /// The reason code.
        reason: ReasonCode,
    },
}

/// How hard it is to get messages out. It follows how full the outbox is, and what the server says on
/// `$SYS/broker/pressure` when that is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Pressure {
    /// All is well.
    Normal,
    /// Five eighths of the outbox are full: send less.
    High,
    /// Seven eighths of the outbox are full: alarms only.
    Critical,
}
