//! The client over real transports. Each adapter is a feature; all of them drive the same [`Client`](crate::Client).

#[cfg(feature = "std")]
pub mod std;

#[cfg(feature = "embedded-io")]
pub mod blocking;
