//! An MQTT client for microcontrollers that buffers, retries and slows down: MQTT 3.1.1 and 5.0, QoS 0, 1 and 2, without a
//! heap, without panics, and without I/O.
//!
//! - **Publishing needs no connection.** A message goes into an outbox in memory of yours, its payload written once, where
//!   it is sent from. It is sent when that is possible, in order, and repeated only where the standard wants it: after a
//!   resumed session, with DUP, before anything new.
//! - **Nothing is lost in silence.** The outbox is bounded. Each [`Class`] of messages has its own share, so telemetry
//!   never costs an alarm; each [`Message`] has a [`Policy`] for a full outbox and a time to live that runs offline too. What
//!   is dropped has a [`DropReason`], a [counter](Counters) and a call-back, and a [`Ticket`] tells what became of a message.
//! - **It slows down.** Waits have jitter and are per device; a server that refuses credentials is tried more rarely than
//!   one that is busy, and that one more rarely than a network that is away. It waits as long as the server asks
//!   (`retry-after-ms`), drains a backlog at a rate, and says how [hard](Pressure) it is to get messages out.
//! - **It keeps its session** over lost connections, and [over a sleep without memory](Client::export).
//!
//! # How it is driven
//!
//! The client does no I/O and reads no clock. Every call gets `now`, in milliseconds of a clock that does not go back (if it
//! does, time goes on from where it was). Bytes from the transport go into an [`Input`], bytes for it come out of
//! [`Client::poll_transmit`], and what has happened out of [`Client::poll_event`]:
//!
//! 1. When [`Client::connect_at`] says so, open a connection, clear the input, call [`Client::connected`]; or
//!    [`Client::disconnected`] when there was none to be had.
//! 2. Ask for events until there is none, then transmit until there is nothing (and flush). If anything was transmitted, ask
//!    for events again.
//! 3. If [`Client::should_close`], or the transport has ended, close it and call [`Client::disconnected`].
//! 4. Wait until something comes, something is published, or [`Client::next_timeout`]; then go on with 2.
//!
//! ```
//! use forebay_firmware::{Class, Client, Event, Input, Message, Options, Policy, QoS, Status};
//!
//! # // A server, as far as this example needs one.
//! # #[derive(Default)]
//! # struct Socket { incoming: Vec<u8>, closed: bool }
//! # impl Socket {
//! #     fn write(&mut self, mut bytes: &[u8]) {
//! #         while let [first, len, rest @ ..] = bytes {
//! #             let (body, rest) = rest.split_at(usize::from(*len));
//! #             self.incoming.extend(match first >> 4 {
//! #                 1 if body[6] == 5 => vec![0x20, 3, 0, 0, 0],
//! #                 1 => vec![0x20, 2, 0, 0],
//! #                 3 => { let at = 2 + usize::from(body[1]); vec![0x40, 2, body[at], body[at + 1]] }
//! #                 8 if body[2] == 0 && body[3] == 0 => vec![0x90, 4, body[0], body[1], 0, 1],
//! #                 8 => vec![0x90, 3, body[0], body[1], 1],
//! #                 _ => { self.closed = true; vec![] }
//! #             });
//! #             bytes = rest;
//! #         }
//! #     }
//! #     fn read(&mut self, to: &mut [u8]) -> usize {
//! #         let len = self.incoming.len().min(to.len());
//! #         to[..len].copy_from_slice(&self.incoming[..len]);
//! #         self.incoming.drain(..len);
//! #         len
//! #     }
//! # }
//! let options = Options {
//!     seed: 0x1234_5678,
//!     // Alarms always find 256 bytes, however much telemetry there is.
//!     reserve: [256, 0, 0, 0],
//!     ..Options::new("sensor-17")
//! };
//! let mut outbox = [0; 2048];
//! let mut receive = [0; 256];
//! let mut client = Client::new(&options, &mut outbox);
//! let mut input = Input::new(&mut receive);
//!
//! // Long before there is a network.
//! client.subscribe("sensor-17/set/#", QoS::AtLeastOnce)?;
//! let reading = Message::new("sensor-17/temperature").ttl_ms(600_000);
//! client.publish(0, &reading, b"21.5")?;
//! let alarm = Message::new("sensor-17/alarm").class(Class::Alarm).policy(Policy::DropNewest);
//! let ticket = client.try_publish(0, &alarm, 16, |room| {
//!     // Written where it is sent from.
//!     let text = b"door open";
//!     room[..text.len()].copy_from_slice(text);
//!     text.len()
//! })?;
//!
//! let mut now = 1_000;
//! let mut socket = None;
//! let mut connected = false;
//! while client.status(ticket) != Status::Done {
//!     if client.connect_at().is_some_and(|at| at <= now) {
//!         socket = Some(Socket::default());
//!         input.clear();
//!         client.connected(now);
//!     }
//!     if let Some(socket) = &mut socket {
//!         let len = socket.read(input.space());
//!         input.commit(len);
//!         while let Some(event) = client.poll_event(now, &mut input) {
//!             match event {
//!                 Event::Connected { .. } => connected = true,
//!                 Event::Message(message) => println!("{} {:?}", message.topic, message.payload),
//!                 _ => {}
//!             }
//!         }
//!         let mut out = [0; 128];
//!         loop {
//!             let len = client.poll_transmit(now, &mut out);
//!             if len == 0 {
//!                 break;
//!             }
//!             socket.write(&out[..len]);
//!         }
//! #       let _ = socket.closed;
//!     }
//!     if client.should_close() {
//!         socket = None;
//!         client.disconnected(now);
//!     }
//!     now += 10;
//! }
//! assert!(connected);
//! # Ok::<(), forebay_firmware::PublishError>(())
//! ```
//!
//! # Memory
//!
//! [`Client`] itself takes at most 512 bytes (32 more with `flash`, 16 with `undeliverable`), on every target. A message takes 20 bytes of the outbox beside topic,
//! properties and payload, rounded up to 4; a subscription 21 beside its filter. What connects, pings and acknowledges takes
//! nothing from the outbox, so no backlog can be in its way: CONNECT is written from the [`Options`], acknowledgements from a
//! table in the client, and PUBREL from what is left of a message of QoS 2, which is its header.
//!
//! # What is promised
//!
//! - QoS 1 arrives at least once, QoS 2 exactly once, both ways, over any number of lost connections and sleeps.
//! - Messages of one class are sent in the order of publishing. A message that the server has refused for now (0x97) goes
//!   before all that were published after it, but not before those that were already on their way: with
//!   [`Options::in_flight_max`] 1 there are none.
//! - When the server has lost the session, what was not acknowledged is sent again as new: QoS 2 may then arrive twice, since
//!   nobody knows any more whether it had arrived. When it has lost the session *and* the CONNACK that says so was lost too,
//!   the standard has no way to tell; subscriptions are then made again.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `v3`, `v5` | MQTT 3.1.1 and 5.0; with both, [`Options::protocol`] chooses for each connection. Both are on by default |
//! | `qos2` | QoS 2, both ways; on by default |
//! | `log`, `defmt` | connections, drops and faults are logged; off by default |
//! | `embedded-io` | `adapter::blocking`: a loop over a blocking transport; off by default |
//! | `embedded-io-async` | `adapter::task`: a task and a handle for others, every future of which may be dropped; off by default |
//! | `embedded-nal-async` | a connector for the task over `embedded-nal-async`; brings `embedded-io-async` |
//! | `embassy-time` | a clock for the task; brings `embedded-io-async` |
//! | `flash` | `flash`: a store behind the outbox that survives power cuts, over `embedded-storage`; off by default |
//! | `std` | `adapter::std`: the client over `std`'s sockets, for Linux and for tests; off by default |
#![no_std]

#[cfg(not(any(feature = "v3", feature = "v5")))]
compile_error!("forebay-firmware needs a protocol: enable feature `v3` or `v5`");

#[cfg(any(feature = "std", feature = "embedded-io", feature = "embedded-io-async"))]
pub mod adapter;
mod arena;
mod backoff;
mod bytes;
mod client;
mod decode;
mod event;
#[cfg(feature = "flash")]
pub mod flash;
mod inbound;
mod input;
mod logging;
pub mod mailbox;
mod message;
mod options;
mod sizing;
mod write;

#[cfg(any(feature = "embedded-io-async", feature = "flash"))]
pub mod store;

pub use client::{Client, ENDED_MAX, EXPORT_OVERHEAD, ImportError, Waiting};
pub use event::{Event, Farewell, Pressure, Received, Session};
pub use forebay_wire::ReasonCode;
pub use forebay_wire::property::{Properties, Property};
pub use forebay_wire::types::QoS;
pub use inbound::INBOUND_MAX;
pub use input::Input;
pub use message::{
    CLASSES, Class, Counters, DropReason, Dropped, Message, Policy, PublishError, PublishProperty, Status, Ticket,
};
pub use options::{Ladder, Options, Order, Protocol, Will};
pub use sizing::Sizing;

/// The page for newcomers: its code compiles.
#[cfg(all(doctest, feature = "embedded-nal-async"))]
#[doc = include_str!("../../docs/firmware.md")]
struct Page;

/// The examples of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
