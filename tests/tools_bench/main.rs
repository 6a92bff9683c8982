//! `forebay bench`: every scenario on our broker and on mosquitto, what it counts, what it says of a bad command line or server,
//! and that loss, repetition and disorder are found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm)]

mod comparison;
mod faults;
mod refusals;
mod relay;
mod scenarios;
mod usage;

use std::time::Duration;

use forebay_tests::absence::panicking;
use forebay_tests::ended::{self, Ended};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

/// How long the program may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    let all =
        [scenarios::trials(), faults::trials(), refusals::trials(), usage::trials(), comparison::trials()].concat();
    for (name, absent, run) in all {
        trials.push(panicking("tools_bench", name, absent.as_deref(), run));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A name, why it cannot be run here, and what it does.
type Case = (&'static str, Option<String>, fn());

/// Runs `forebay bench` with these words until it ends by itself.
fn bench(line: &str) -> Ended {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    bench_words(&words)
}

fn bench_words(words: &[&str]) -> Ended {
    ended::run(&[&["bench"], words].concat(), END_LIMIT)
}

/// A number in JSON.
fn number(json: &Value, path: &str) -> u64 {
    json.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} is no number in {json:#}"))
}
