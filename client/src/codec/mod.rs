//! What a client reads and writes. A packet is checked by the wire crate first; SUBSCRIBE and UNSUBSCRIBE are written by
//! mqttbytes. CONNECT is written by hand, since mqttbytes knows no binary password; so are PUBLISH and the acks, which
//! are hot, and DISCONNECT and AUTH, which are three lines.

pub(crate) mod frame;
pub(crate) mod read;
pub(crate) mod write;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::PacketId;

/// The four acks of QoS 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

impl AckKind {
    pub(crate) const fn first_byte(self) -> u8 {
        match self {
            Self::Puback => 0x40,
            Self::Pubrec => 0x50,
            Self::Pubrel => 0x62,
            Self::Pubcomp => 0x70,
        }
    }
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) kind: AckKind,
    pub(crate) id: PacketId,
    pub(crate) reason: ReasonCode,
    /// The user property `retry-after-ms`.
    pub(crate) retry_after_ms: Option<u32>,
}

/// What goes with a refusal or a DISCONNECT of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) reason_string: Option<String>,
    pub(crate) server_reference: Option<String>,
    pub(crate) retry_after_ms: Option<u32>,
}
