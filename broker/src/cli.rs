//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{ListenUrl, LogLevel, Overrides};

/// A small, durable MQTT edge broker: an ack means that the message is on disk.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, about)]
pub struct Cli {
    /// The configuration file; without one, loopback only and the built-in limits
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where sessions, messages and development certificates are kept
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Listen here in place of the configured listeners: mqtt://127.0.0.1:1883 or mqtts://127.0.0.1:8883; may be
    /// given several times
    #[arg(long, value_name = "URL")]
    pub listen: Vec<ListenUrl>,
    /// How much to log
    #[arg(long, value_name = "LEVEL", value_enum, global = true)]
    pub log: Option<Log>,
    /// What to do instead of running the broker
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does when it does not run the broker.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at, copy out, fill or shrink a store that no broker holds
    #[command(subcommand)]
    Store(StoreCommand),
    /// Publish messages; `forebay pub --help` says more
    #[cfg(feature = "tools")]
    #[command(name = "pub", visible_alias = "publish")]
    Publish(crate::tools::rest::Rest),
    /// Subscribe and print what comes; `forebay sub --help` says more
    #[cfg(feature = "tools")]
    #[command(name = "sub", visible_alias = "subscribe")]
    Subscribe(crate::tools::rest::Rest),
    /// Put load on any MQTT broker and measure it; `forebay bench --help` says more
    #[cfg(feature = "tools")]
    Bench(crate::tools::rest::Rest),
    /// The whole story in a minute: devices, a burst, an upstream that is away, and nothing lost
    #[cfg(feature = "tools")]
    Demo(crate::tools::rest::Rest),
    /// Print a completion script for a shell
    #[cfg(feature = "tools")]
    Completions(crate::tools::shell::Completions),
    /// Write the manual pages
    #[cfg(feature = "tools")]
    Man(crate::tools::shell::Man),
}

/// What is done with the store of the data directory.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Read everything, say what is there and whether it is sound; exit code 1 when it is not
    Verify,
    /// Write everything as JSON lines
    Export {
        /// Here instead of to the standard output
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Fill an empty store from the lines of an export
    Import {
        /// From here instead of from the standard input
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Give room that the file does not need back to the file system
    Compact,
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Log {
    /// What the operator must act on
    Error,
    /// What the operator should know
    Warn,
    /// Start, stop and what happens rarely
    Info,
    /// Every connection
    Debug,
    /// Every packet
    Trace,
}

impl Cli {
    /// Itself, unless it says what makes no sense.
    ///
    /// # Errors
    /// An option of the broker beside a command that is no broker.
    pub fn checked(self) -> Result<Self, clap::Error> {
        if self.command.is_some() && !self.listen.is_empty() {
            let why = "--listen is for the broker; what it is given with does not listen";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(self)
    }

    /// What it says about the configuration.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data_dir: self.data_dir.clone(),
            listen: self.listen.clone(),
            log: self.log.map(|log| match log {
                Log::Error => LogLevel::Error,
                Log::Warn => LogLevel::Warn,
                Log::Info => LogLevel::Info,
                Log::Debug => LogLevel::Debug,
                Log::Trace => LogLevel::Trace,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_store_is_found_wherever_the_option_stands() {
        for line in ["--data-dir d store verify", "store --data-dir d verify", "store verify --data-dir d"] {
            let cli = Cli::try_parse_from(["forebay"].into_iter().chain(line.split(' '))).unwrap();
            assert!(matches!(cli.command, Some(Command::Store(StoreCommand::Verify))), "{line}");
            assert_eq!(cli.overrides().data_dir, Some(PathBuf::from("d")), "{line}");
        }
    }

    #[cfg(feature = "tools")]
    #[test]
    fn a_tool_reads_its_own_options() {
        for line in ["bench --url mqtt://h -q 1", "bench -h", "bench pairs --help", "bench -V 5", "bench"] {
            let cli = Cli::try_parse_from(["forebay"].into_iter().chain(line.split(' '))).unwrap();
            let Some(Command::Bench(rest)) = cli.command else { panic!("{line}") };
            assert!(rest.arguments.iter().eq(line.split(' ').skip(1)), "{line}: {rest:?}");
        }
    }

    #[test]
    fn without_a_command_it_is_the_broker() {
        let line = "forebay --data-dir d --listen mqtt://127.0.0.1:1883 --listen mqtt://127.0.0.1:1884 --log debug";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.overrides().listen.len(), 2);
        assert!(Cli::try_parse_from(["forebay", "store"]).is_err());
    }
}
