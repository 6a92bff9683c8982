//! The broker, as a library.

pub mod auth;
pub mod broker;
pub mod certs;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connection;
pub mod listener;
pub mod message;
pub mod observe;
pub mod router;
pub mod session;
pub mod start;
pub mod store;
#[cfg(feature = "tools")]
pub mod tools;
pub mod trim;
