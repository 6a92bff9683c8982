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

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence::panicking;
use forebay_tests::broker;
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

/// What the program wrote, and its exit code.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// The JSON on its standard output.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

/// Runs `forebay bench` with these words until it ends by itself.
fn bench(line: &str) -> Ended {
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    bench_words(&words)
}

fn bench_words(words: &[&str]) -> Ended {
    let mut command = Command::new(broker::program());
    command.arg("bench").args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.spawn().unwrap(), words)
}

fn ended(child: Child, words: &[&str]) -> Ended {
    let (id, begun) = (child.id(), Instant::now());
    let (done, waiting) = std::sync::mpsc::channel();
    // It is read while it runs: what it writes may be more than a pipe holds.
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = waiting.recv_timeout(END_LIMIT) else {
        let _ = Command::new("kill").arg(id.to_string()).status();
        panic!("{words:?}: it does not end in {:?}", begun.elapsed());
    };
    let Output { status, stdout, stderr } = output.unwrap();
    Ended { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}

/// A number in JSON.
fn number(json: &Value, path: &str) -> u64 {
    json.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} is no number in {json:#}"))
}
