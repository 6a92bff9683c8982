//! The broker, as a library.

pub mod message;
pub mod router;
pub mod store;
