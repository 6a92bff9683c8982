//! An MQTT 3.1.1 and 5.0 client for tokio.
//!
//! - [`Client::publish`] resolves when the message is accepted into a bounded outbox, connected or not; its [`Ticket`] when
//!   the server has it, or when it was dropped, with why. Nothing is dropped in silence.
//! - [`Client::subscribe`] gives a stream of the messages that its filters match. A message is acknowledged when the
//!   program reads it, or when it says that it is done with it.
//! - The client connects again by itself, resumes its session, repeats what was unacknowledged in order, and makes its
//!   subscriptions anew where the server has forgotten them.
//! - It slows down when the server asks for it (Receive Maximum, `retry-after-ms`), and the server when the program does
//!   not read.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay_client::{Message, Options, QoS, Subscribe};
//! let client = Options::new("mqtt://127.0.0.1:1883")?.connect().await?;
//! let mut alarms = client.subscribe(Subscribe::to("site/+/alarm").qos(QoS::AtLeastOnce)).await?;
//! client.publish(Message::new("site/7/alarm", "door open").qos(QoS::AtLeastOnce)).await?.await?;
//! if let Some(alarm) = alarms.recv().await {
//!     println!("{}: {}", alarm.topic(), String::from_utf8_lossy(alarm.payload()));
//! }
//! client.disconnect().await;
//! # Ok(())
//! # }
//! ```
//!
//! Inside, one state machine for both versions of the protocol, without I/O and without a clock, is driven by one tokio
//! task for each client. An idle client owns no buffer.

mod addresses;
mod auth;
mod backoff;
#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod coalesce;
mod codec;
mod driver;
#[cfg(feature = "durable")]
mod durable;
mod error;
mod event;
mod message;
mod options;
mod request;
mod session;
mod shared;
mod stats;
mod ticket;
mod timer;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod url;

pub use auth::Authenticator;
pub use client::{Client, Events, Subscription};
pub use error::{ConnectError, Dropped, EndReason, InvalidOptions, LostReason, PublishError, SubscribeError};
pub use event::{Connected, Event, PutOff};
pub use forebay_wire::WireError;
pub use forebay_wire::reason::ReasonCode;
pub use forebay_wire::types::{QoS, Version};
pub use message::{Message, Properties, Received, Restored};
pub use options::{Inbox, Options, Outbox, Reconnect, RetainHandling, Subscribe, WhenFull, WhenRefused, Will};
pub use request::{RequestError, Requester};
/// For the fuzzer.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use session::hostile::drive as fuzz_session;
pub use stats::Stats;
pub use ticket::{Acked, Ticket};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use transport::{Connecting, Connector, Io};
pub use url::{Scheme, Url};

/// The examples of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
