//! The client's durable outbox: the program killed while it publishes, the broker too, a full disk, a damaged file.
//!
//! FOREBAY_KILLS=n for another number of kills, FOREBAY_SEED=n to make a run again (the moments, not the threads).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod disk;
mod file;
mod kills;

use std::path::Path;
use std::time::Duration;

use forebay_client::{Options, Reconnect, Version};
use forebay_tests::absence::panicking;
use libtest_mimic::Arguments;

/// How long something may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    // A program that is killed is this one, told so.
    if let Some(plan) = std::env::var_os(kills::CHILD) {
        return kills::child(&plan.into_string().unwrap());
    }
    let cases = [kills::trials(), disk::trials(), file::trials()].concat();
    let trials =
        cases.into_iter().map(|(name, absent, run)| panicking("outbox", name, absent.as_deref(), run)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Name, why it cannot be run here, and the test.
type Case = (&'static str, Option<String>, fn());

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes for ever")
}

fn options(port: u16, name: &str) -> Options {
    let quick = Reconnect { min: Duration::from_millis(5), max: Duration::from_millis(100), ..Reconnect::default() };
    let options = Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().version(Version::V5).client_id(name);
    options.session_expiry(Duration::from_secs(3600)).reconnect(quick)
}

fn durable(port: u16, file: &Path) -> Options {
    options(port, "durable").durable(file)
}
