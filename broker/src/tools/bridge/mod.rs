//! `forebay bridge`: tries a bridge of a configuration, apart from the broker that runs by it. The broker of the trial has a
//! store in a temporary folder and a name of its own, so that neither the real queue nor the real session is touched.

mod account;
mod rehearse;
mod site;
mod stand_in;
mod test;
mod watched;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::exit::{self, Exit, Failure};
use crate::config::{self, Bridge, Config};

/// What is tried.
#[derive(Clone, Debug, Subcommand)]
pub enum BridgeCommand {
    /// Connect to a bridge's upstream and say what it answers; with --topic one message is sent as well
    Test {
        /// The bridge's name
        bridge: String,
        /// Publish a message on this topic here, and say where it goes and what becomes of it
        #[arg(long)]
        topic: Option<String>,
        /// Its payload
        #[arg(long, default_value = "forebay bridge test")]
        payload: String,
        /// How long the upstream may take
        #[arg(long, value_name = "TIME", default_value = "20s", value_parser = config::duration_of)]
        wait: Duration,
    },
    /// Run a bridge's configuration against a stand-in of its upstream that is killed, mute, full and slow, and count
    Rehearse {
        /// The bridge's name
        bridge: String,
        /// Messages a second that devices publish
        #[arg(long, value_name = "MESSAGES", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// How long each trouble lasts
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = config::duration_of)]
        each: Duration,
    },
}

/// Runs it.
#[must_use]
pub fn main(command: &BridgeCommand, config: &Config, file: Option<&Path>) -> ExitCode {
    let done = match command {
        BridgeCommand::Test { bridge, topic, payload, wait } => named(config, file, bridge).and_then(|bridge| {
            let probe = topic.as_deref().map(|topic| test::Probe { topic, payload });
            test::run(config, bridge, probe, *wait)
        }),
        BridgeCommand::Rehearse { bridge, rate, each } => {
            named(config, file, bridge).and_then(|bridge| rehearse::run(config, bridge, *rate, *each))
        }
    };
    exit::of("forebay bridge", done)
}

fn named<'c>(config: &'c Config, file: Option<&Path>, name: &str) -> Result<&'c Bridge, Failure> {
    let Some(file) = file else {
        return Err(Failure::usage("which configuration? Give it with --config FILE"));
    };
    config.bridges.iter().find(|bridge| bridge.name == name).ok_or_else(|| {
        let names: Vec<_> = config.bridges.iter().map(|bridge| bridge.name.as_str()).collect();
        let known = if names.is_empty() { "no bridges".to_owned() } else { names.join(", ") };
        Failure::usage(format!("{} has no bridge \"{name}\"; it has {known}", file.display()))
    })
}

/// How the tools of this folder print.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| Failure::failed(format!("output: {error}")))
}

/// Of a trial that could not be set up.
fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure { exit: Exit::Failed, what: format!("{what}: {error}") }
}
