//! The client: one session with a server, over as many connections as it takes.

#[cfg(feature = "flash")]
mod durable;
mod encode;
#[cfg(feature = "embedded-io-async")]
mod held;
mod outbox;
mod receive;
mod session;
mod snapshot;
mod spill;
mod subscribe;
mod suspect;
#[cfg(test)]
mod tests;
mod timer;
mod transmit;

use crate::arena::Arena;
use crate::backoff::{Backoff, Rung};
use crate::event::Pressure;
use crate::inbound::Inbound;
use crate::logging::say;
use crate::message::{CLASSES, Counters};
use crate::options::Options;
use forebay_wire::ReasonCode;
use receive::Stream;
use timer::Clock;
use transmit::Tx;

#[cfg(feature = "flash")]
pub(crate) use durable::is_from;
pub use outbox::ENDED_MAX;
pub use snapshot::{EXPORT_OVERHEAD, ImportError};
#[cfg(feature = "flash")]
pub(crate) use snapshot::{checksum, checksum_on};
pub use spill::Waiting;

pub(crate) const QOS2: bool = cfg!(feature = "qos2");
pub(crate) const NEVER: u64 = u64::MAX;

/// Where the connection is.
///
/// ```text
///  Down --connected()--> Connect --CONNECT sent--> ConnAck --CONNACK--> Up
///   ^                                                 |                 |  fault, disconnect()
///   |                                                 v                 v
///   +----------------disconnected()----------------- Done <--sent-- Leaving (DISCONNECT is to be sent)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    Connect,
    ConnAck,
    Up,
    Leaving,
    Done,
}

/// What this device has of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Nothing: it has just started, and does not know what the server has.
    Unknown,
    /// Neither has anything.
    Clean,
    /// Its half.
    Kept,
}

/// What the server has said it can do. New with each connection.
#[derive(Clone, Copy, Debug)]
struct Peer {
    receive_maximum: u16,
    topic_aliases: u16,
    maximum_packet_size: u32,
    keep_alive_s: u16,
    maximum_qos: u8,
    retains: bool,
    /// It says `critical` on `$SYS/broker/pressure`, or less.
    pressure: Pressure,
    /// The session may be another than the one that was left, see `Client::doubt`.
    doubtful: bool,
    /// Aliases that it has been told: a bit each.
    told: u32,
}

impl Peer {
    const UNKNOWN: Self = Self {
        receive_maximum: 0,
        topic_aliases: 0,
        maximum_packet_size: 0,
        keep_alive_s: 0,
        maximum_qos: 0,
        retains: false,
        pressure: Pressure::Normal,
        doubtful: false,
        told: 0,
    };

    /// What depends on the connection; the rest is said by each CONNACK.
    fn forget(&mut self) {
        self.pressure = Pressure::Normal;
        self.told = 0;
    }
}

/// How many messages were lost since the server was last told, and what is being told.
#[derive(Clone, Copy, Debug)]
struct Lost {
    untold: u32,
    ticket: u32,
    told: u32,
}

/// One session with a server. See the [crate's documentation](crate) for how it is driven.
pub struct Client<'a> {
    options: &'a Options<'a>,
    arena: Arena<'a>,
    clock: Clock,
    phase: Phase,
    memory: Memory,
    /// The application has asked for the end.
    stopped: bool,
    /// A CONNECT was sent that no CONNACK answered: if the server has lost the session, this device was not told, and the
    /// one that is present next is another.
    doubt: bool,
    /// The next connection follows at once.
    at_once: bool,
    /// Why DISCONNECT is sent.
    leave: ReasonCode,
    /// What is to be said of a connection that is of no use any more.
    fault: Option<ReasonCode>,
    peer: Peer,
    tx: Tx,
    stream: Stream,
    inbound: Inbound,
    next_id: u16,
    next_ticket: u32,
    backoff: Backoff,
    rung: Rung,
    retry_after_ms: Option<u32>,
    /// When to connect.
    connect_at: u64,
    /// When the server accepted the connection.
    up_at: u64,
    last_tx: u64,
    last_rx: u64,
    /// Since when the server owes an answer and has said nothing.
    asked_at: u64,
    /// When PINGREQ was sent that is not answered.
    ping_at: u64,
    /// Thousandths of messages that may be sent now, and since when.
    tokens: u32,
    tokens_at: u64,
    /// Until when a class is not sent.
    hold: [u64; CLASSES],
    /// When the next message expires, or earlier.
    next_expiry: u64,
    lost: Lost,
    suspect: suspect::Suspect,
    counters: Counters,
    ended: outbox::Ended,
    #[cfg(feature = "embedded-io-async")]
    held: held::Held,
    #[cfg(feature = "flash")]
    durable: durable::Durable,
}

/// What the documentation promises, in bytes; it holds on every target. What the flash tier needs to know of the client comes on
/// top, and what is known of a message that ends connections.
const SIZE_MAX: usize =
    512 + if cfg!(feature = "flash") { 32 } else { 0 } + if cfg!(feature = "undeliverable") { 16 } else { 0 };
const _: () = assert!(size_of::<Client<'_>>() <= SIZE_MAX);

impl<'a> Client<'a> {
    /// A client that has nothing yet. Messages live in `outbox`: 20 bytes each beside their topic, properties and payload,
    /// rounded up to 4; at most 16 MiB of it are used. It wants to connect at once.
    pub fn new(options: &'a Options<'a>, outbox: &'a mut [u8]) -> Self {
        Self {
            options,
            arena: Arena::new(outbox),
            clock: Clock::new(),
            phase: Phase::Down,
            memory: Memory::Unknown,
            stopped: false,
            doubt: false,
            at_once: false,
            leave: ReasonCode::Success,
            fault: None,
            peer: Peer::UNKNOWN,
            tx: Tx::nothing(),
            stream: Stream::nothing(),
            inbound: const { Inbound::new() },
            next_id: 1,
            next_ticket: 1,
            backoff: Backoff::new(options.seed),
            rung: Rung::Network,
            retry_after_ms: None,
            connect_at: 0,
            up_at: NEVER,
            last_tx: 0,
            last_rx: 0,
            asked_at: NEVER,
            ping_at: NEVER,
            tokens: 0,
            tokens_at: 0,
            hold: [0; CLASSES],
            next_expiry: NEVER,
            lost: Lost { untold: 0, ticket: 0, told: 0 },
            suspect: suspect::Suspect::new(),
            counters: Counters::default(),
            ended: outbox::Ended::new(),
            #[cfg(feature = "embedded-io-async")]
            held: held::Held::new(),
            #[cfg(feature = "flash")]
            durable: durable::Durable::new(),
        }
    }

    /// Other options, from the next connection on: another server's credentials, another protocol. Change neither
    /// `client_id` nor `session_expiry_s` to 0 while there is a session.
    pub fn set_options(&mut self, options: &'a Options<'a>) {
        self.options = options;
    }

    /// Whether the server has accepted the connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether the transport is to be closed: everything was said. Call [`disconnected`](Self::disconnected) then.
    #[must_use]
    pub fn should_close(&self) -> bool {
        self.phase == Phase::Done
    }

    /// What was taken and what became of it.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How hard it is to get messages out.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let eighth = self.arena.capacity() / 8;
        let used = self.arena.used_total();
        let own = if used >= eighth.wrapping_mul(7) {
            Pressure::Critical
        } else if used >= eighth.wrapping_mul(5) {
            Pressure::High
        } else {
            Pressure::Normal
        };
        own.max(self.peer.pressure)
    }

    #[inline]
    fn v5(&self) -> bool {
        self.options.protocol.is_v5()
    }

    /// CONNECT asks for a new session.
    fn starts_clean(&self) -> bool {
        !self.options.keeps_session() || (self.memory == Memory::Unknown && !self.options.adopt_session)
    }

    /// The connection is of no use: says so to the server, where there is a way.
    fn fail(&mut self, reason: ReasonCode) {
        say!(warn, "the server breaks the protocol: reason {}", reason as u8);
        self.fault = Some(reason);
        self.leave = reason;
        self.phase = if self.v5() && self.phase == Phase::Up { Phase::Leaving } else { Phase::Done };
    }
}
