//! Ways to give the client a transport. Each is a thin loop over the same calls.

#[cfg(feature = "embedded-io")]
pub mod blocking;
