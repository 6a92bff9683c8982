//! The broker, as a library.

pub mod access;
pub mod admin;
pub mod auth;
pub mod bridge;
pub mod broker;
pub mod certs;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connection;
pub mod ctl;
pub mod dead_letter;
pub mod delayed;
pub mod doctor;
pub mod import;
mod lazy;
pub mod logging;
pub mod memory;
pub mod message;
pub mod observe;
pub mod origins;
pub mod properties;
pub mod queue;
pub mod router;
pub mod schedules;
pub mod session;
pub mod start;
pub mod store;
pub mod streams;
pub mod systemd;
#[cfg(feature = "tools")]
pub mod tools;
pub mod transport;
pub mod trim;
