//! The client over real transports. Each adapter is a feature; all of them drive the same [`Client`](crate::Client).

#[cfg(feature = "embedded-io")]
pub mod blocking;
#[cfg(feature = "embedded-nal-async")]
pub mod nal;
#[cfg(feature = "std")]
pub mod std;
#[cfg(feature = "embedded-io-async")]
pub mod task;
#[cfg(feature = "embassy-time")]
pub mod time;
