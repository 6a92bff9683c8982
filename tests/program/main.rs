//! The program from outside: arguments, configuration, exit codes, opening lines, signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm)]

mod arguments;
mod configs;
mod opening;
mod refusals;
mod stopping;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence::panicking;
use forebay_tests::broker;
use libtest_mimic::{Arguments, Trial};

/// How long the program may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    for (name, absent, run) in
        [arguments::trials(), configs::trials(), refusals::trials(), opening::trials(), stopping::trials()].concat()
    {
        trials.push(panicking("program", name, absent.as_deref(), run));
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

/// Runs the program until it ends by itself.
fn run(arguments: &[&str]) -> Ended {
    let mut command = Command::new(broker::program());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.spawn().unwrap(), arguments)
}

fn ended(mut child: Child, arguments: &[&str]) -> Ended {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > END_LIMIT {
            let _ = child.kill();
            let output = child.wait_with_output().unwrap();
            panic!("{arguments:?}: it does not end; it wrote {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ended { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}

/// The repository's folder of example configurations.
fn config_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}
