//! `forebay-bench`: brokers in turn, the same load, what each message costs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

pub mod footprint;
pub mod load;
pub mod process;
pub mod relay;
pub mod scenario;
pub mod wire;
