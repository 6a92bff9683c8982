//! The broker, as a library.

pub mod config;
pub mod listener;
pub mod message;
pub mod router;
pub mod store;
