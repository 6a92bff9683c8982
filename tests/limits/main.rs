//! The named limits: what is met at each of them, that it is counted, and that the others notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::wildcard_enum_match_arm)]

mod connections;
mod listener;
mod loris;
mod memory;
mod pace;
mod packets;
mod retained;
mod slow;
mod tls;
mod wide;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::sys::Sys;

/// `$SYS` often enough to look at it.
const SYS: &str = "sys_interval = \"1s\"\n";

fn tcp(broker: &Broker) -> Endpoint {
    Endpoint::tcp(broker.port())
}

fn sys(broker: &Broker) -> Sys {
    Sys::open(&tcp(broker))
}
