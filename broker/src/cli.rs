//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

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
