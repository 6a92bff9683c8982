//! Streams: the messages of a filter, kept by age and bytes, and read again from any place. Without clock, store or sessions;
//! `broker/streams/` ties them to these.

mod log;
mod start;

pub use log::{Collected, Limits, Log, Now};
pub use start::{Start, Until, Wanted, Wrong};
