//! MQTT 3.1, 3.1.1 and 5.0 on the wire, without allocation: frames, strings, topics, reason codes, properties, and
//! PUBLISH borrowed from a buffer. What a peer sends never panics.
//!
//! Feature `words` (on by default): errors carry the statement that was broken and words for a log. Without it they are
//! a reason code, which is what a microcontroller has room for.
#![no_std]

pub mod frame;
pub mod property;
pub mod publish;
pub mod read;
pub mod reason;
pub mod topic;
pub mod types;
pub mod varint;

pub use reason::ReasonCode;

/// What is wrong with a packet: the reason code that MQTT 5 has for it, the statement it breaks, and words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireError {
    /// The reason code for DISCONNECT, CONNACK or an ack.
    pub reason: ReasonCode,
    /// The normative statement, for example `MQTT5-2.2.2-2`.
    #[cfg(feature = "words")]
    pub statement: &'static str,
    /// What is wrong.
    #[cfg(feature = "words")]
    pub detail: &'static str,
}

impl WireError {
    /// Bytes that cannot be a packet.
    #[must_use]
    pub const fn malformed(statement: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, statement, detail)
    }

    /// A packet that may not be sent, or not now.
    #[must_use]
    pub const fn protocol(statement: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, statement, detail)
    }

    /// Any other reason.
    #[cfg(feature = "words")]
    #[must_use]
    pub const fn new(reason: ReasonCode, statement: &'static str, detail: &'static str) -> Self {
        Self { reason, statement, detail }
    }

    /// Any other reason.
    #[cfg(not(feature = "words"))]
    #[must_use]
    pub const fn new(reason: ReasonCode, _statement: &'static str, _detail: &'static str) -> Self {
        Self { reason }
    }
}

#[cfg(feature = "words")]
impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} ({} 0x{:02x}, [{}])", self.detail, self.reason.name(), self.reason as u8, self.statement)
    }
}

#[cfg(not(feature = "words"))]
impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.reason.name())
    }
}

impl core::error::Error for WireError {}

/// The examples of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
