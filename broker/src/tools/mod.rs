//! What people type: tools in the program that are not the broker.

pub mod bench;
pub mod exit;
