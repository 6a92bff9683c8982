//! The program, run until it ends by itself.

use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::broker;

/// What the program wrote, and its exit code.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ended {
    /// The JSON on its standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

/// Runs the program with these words; one that has not ended by itself after `limit` fails the test.
pub fn run(words: &[&str], limit: Duration) -> Ended {
    let mut command = Command::new(broker::program());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let id = child.id();
    let (done, waiting) = mpsc::channel();
    // It is read while it runs: what it writes may be more than a pipe holds.
    thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = waiting.recv_timeout(limit) else {
        let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        let written = waiting.recv().unwrap().unwrap().stderr;
        panic!("{words:?}: it does not end in {limit:?}; it wrote {}", String::from_utf8_lossy(&written));
    };
    let Output { status, stdout, stderr } = output.unwrap();
    Ended { code: status.code(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
}
