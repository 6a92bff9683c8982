//! An MQTT client for microcontrollers: 3.1.1 and 5.0, QoS 0, 1 and 2, without a heap, without panics and without I/O.
//!
//! (to be written)
#![no_std]

#[cfg(not(any(feature = "v3", feature = "v5")))]
compile_error!("forebay-firmware needs a protocol: enable feature `v3` or `v5`");

mod arena;
mod backoff;
mod bytes;
mod client;
mod decode;
mod event;
mod inbound;
mod input;
pub mod mailbox;
mod message;
mod options;
mod write;

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
