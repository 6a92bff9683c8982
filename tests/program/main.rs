//! The program from outside: arguments, configuration, exit codes, opening lines, signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm)]

mod arguments;
mod configs;
mod log;
mod machine;
mod opening;
mod refusals;
mod stopping;

use std::path::PathBuf;
use std::time::Duration;

use forebay_tests::absence::panicking;
use forebay_tests::ended::{self, Ended};
use libtest_mimic::{Arguments, Trial};

/// How long the program may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    let suites = [
        arguments::trials(),
        configs::trials(),
        refusals::trials(),
        opening::trials(),
        log::trials(),
        machine::trials(),
        stopping::trials(),
    ];
    for (name, absent, run) in suites.concat() {
        trials.push(panicking("program", name, absent.as_deref(), run));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A name, why it cannot be run here, and what it does.
type Case = (&'static str, Option<String>, fn());

/// Runs the program until it ends by itself.
fn run(arguments: &[&str]) -> Ended {
    ended::run(arguments, END_LIMIT)
}

/// The repository's folder of example configurations.
fn config_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}
