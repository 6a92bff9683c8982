//! How the tools end: one list of exit codes for all of them.

use std::fmt;
use std::process::ExitCode;

use super::say;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was told, and nothing is wrong.
    Done = 0,
    /// It could not, or what it measured or counted is wrong.
    Failed = 1,
    /// The command line is wrong; no connection was opened.
    Usage = 2,
    /// The server cannot be reached, or says nothing.
    Unreachable = 4,
    /// The server speaks MQTT and refuses.
    Refused = 5,
    /// What answers speaks something else than MQTT.
    NotMqtt = 6,
    /// No TLS session: certificate, name, protocol.
    Tls = 7,
    /// It ended, by its time or by a signal, before all had come that was asked for.
    TimedOut = 8,
}

/// For `--help`. 3 is the broker's own: its configuration file is wrong.
pub const HELP: &str = "Exit codes:
  0  done, and nothing is wrong
  1  failed: messages lost, or what else the last lines say
  2  the command line is wrong; nothing was connected to
  4  the server cannot be reached, or says nothing
  5  the server refuses: credentials, client identifier, subscription, limits
  6  what answers there speaks something else than MQTT
  7  TLS failed: certificate, name, protocol
  8  ended by its time, or by a signal, before all messages of -C had come";

/// The end of a tool: what is wrong is said.
#[must_use]
pub fn of(tool: &str, done: Result<Exit, Failure>) -> ExitCode {
    let exit = match done {
        Ok(exit) => exit,
        Err(failure) => {
            say::line(format!("{tool}: {failure}"));
            failure.exit
        }
    };
    say::flush();
    exit.into()
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a tool stops: the exit code, and one line for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of end it is.
    pub exit: Exit,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Failure {
    /// The command line is wrong.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, what: what.into() }
    }

    /// Something of this machine, or what was counted.
    pub fn failed(what: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, what: what.into() }
    }

    /// Any other end.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}
