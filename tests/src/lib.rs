//! The test harness: brokers as child processes, and a client that keeps its session.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm
)]

pub mod absence;
pub mod broker;
pub mod browser;
pub mod bulk;
pub mod device;
pub mod ended;
pub mod http;
pub mod line;
pub mod link;
pub mod machine;
pub mod numbered;
pub mod packet;
pub mod peer;
pub mod raw;
pub mod rng;
pub mod scratch;
pub mod server;
pub mod sys;
