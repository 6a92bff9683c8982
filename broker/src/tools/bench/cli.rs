//! The command line of `forebay bench`. It is built when it is asked for, since the broker pays for what its own holds.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay_client::Url;

use super::target;
use crate::tools::{WIDTH, exit};

/// Put load on any MQTT broker: what gets through, how fast, how late, and what was lost, repeated or out of order.
#[derive(Debug, Parser)]
#[command(name = "forebay bench", bin_name = "forebay bench", after_help = exit::HELP, max_term_width = WIDTH)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct BenchCli {
    /// Without one it is `run`
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Of `run`
    #[command(flatten)]
    pub run: RunArgs,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put one load on one broker (what `forebay bench` does by itself)
    #[command(after_help = exit::HELP)]
    Run(Box<RunArgs>),
    /// Start brokers of this machine in turn, put the same loads on each, and compare what a message costs them
    #[command(after_help = exit::HELP)]
    Compare(CompareArgs),
    /// A relay that checks nothing: the least that a message can cost
    #[command(hide = true)]
    Floor {
        /// On 127.0.0.1
        port: u16,
    },
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One publisher, one subscriber
    OneToOne,
    /// Many publishers, each with its topic, one subscriber to all of them
    FanIn,
    /// One publisher, many subscribers
    FanOut,
    /// Many publishers, each with its topic and its subscriber
    Pairs,
    /// Many publishers, and subscribers that share one subscription ($share)
    Shared,
    /// Pairs whose subscribers are away while their messages are published, and come back for them
    Backlog,
    /// Connections that are opened, and then idle
    Connect,
    /// Clients that disconnect and connect again, over and over
    Reconnect,
}

/// Which MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// MQTT 3.1.1
    #[value(name = "3.1.1", aliases = ["311", "4", "mqttv311"])]
    V311,
    /// MQTT 5.0
    #[value(name = "5", aliases = ["5.0", "mqttv5"])]
    V5,
}

/// One load.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Who sends to whom
    #[arg(value_enum, default_value = "one-to-one")]
    pub scenario: Scenario,
    /// The server: mqtt://HOST:PORT, or mqtts:// for TLS; USER:PASSWORD@ may stand before the host
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", help_heading = "Server")]
    #[arg(value_parser = target::url)]
    pub url: Url,
    /// The version of MQTT
    #[arg(short = 'V', long, value_name = "VERSION", value_enum, default_value = "3.1.1", help_heading = "Server")]
    pub protocol: Protocol,
    /// User name
    #[arg(short, long, value_name = "NAME", help_heading = "Server")]
    pub username: Option<String>,
    /// Password
    #[arg(short = 'P', long, value_name = "PASSWORD", help_heading = "Server")]
    pub password: Option<String>,
    /// The CA that signed the server's certificate (PEM); without it the system's are trusted
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub cafile: Option<PathBuf>,
    /// The client's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Server")]
    pub cert: Option<PathBuf>,
    /// The client certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Server")]
    pub key: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, conflicts_with = "cafile", help_heading = "Server")]
    pub insecure: bool,

    /// QoS of publishers and subscribers
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), help_heading = "Load")]
    pub qos: u8,
    /// Bytes of a payload; the first 24 say which message it is
    #[arg(short, long, value_name = "BYTES", default_value_t = 64, help_heading = "Load")]
    pub size: usize,
    /// Open loop: messages a second in all, published on time whatever the server does; latency counts from the time that
    /// a message was due
    #[arg(short, long, value_name = "PER_SECOND", help_heading = "Load")]
    pub rate: Option<f64>,
    /// Closed loop: messages of one publisher that may be unacknowledged (QoS 0: not yet received; 0 for as many as the
    /// server takes). With --rate the most that may be [default: 100, with --rate 65535]
    #[arg(short, long, value_name = "MESSAGES", help_heading = "Load")]
    pub window: Option<u64>,
    /// Connections of connect and reconnect [default: 1000], pairs of pairs and backlog [default: 50]
    #[arg(short, long, value_name = "N", help_heading = "Load")]
    pub clients: Option<usize>,
    /// Publishers of fan-in [default: 50] and shared [default: 10]; fan-out may have several
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub publishers: Option<usize>,
    /// Subscribers of fan-out [default: 50] and shared [default: 10]; fan-in may have several
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub subscribers: Option<usize>,
    /// Connections opened (reconnect: opened again) a second; without it as fast as the server answers
    #[arg(long, value_name = "PER_SECOND", help_heading = "Load")]
    pub connect_rate: Option<f64>,
    /// Subscribers, and the clients of connect and reconnect, have sessions that outlive their connections; they are removed
    /// at the end
    #[arg(long, help_heading = "Load")]
    pub persistent: bool,
    /// Topics are PREFIX/RUN/NUMBER
    #[arg(short, long, value_name = "PREFIX", default_value = "forebay-bench", help_heading = "Load")]
    pub topic: String,

    /// How long to measure [default: 10, or until --messages are through]
    #[arg(short = 'd', long, value_name = "SECONDS", help_heading = "Measure")]
    pub seconds: Option<f64>,
    /// How many messages to publish in all (reconnect: how many times to connect again)
    #[arg(short = 'n', long, value_name = "N", help_heading = "Measure")]
    pub messages: Option<u64>,
    /// Seconds of load before measuring [default: 0.5, with --messages 0]
    #[arg(long, value_name = "SECONDS", help_heading = "Measure")]
    pub warmup: Option<f64>,
    /// What has not come after so many seconds without any message or ack is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, help_heading = "Measure")]
    pub patience: f64,
    /// The server's process on this machine: its processor time and memory are measured
    #[arg(long, value_name = "PROCESS", help_heading = "Measure")]
    pub pid: Option<u32>,
    /// Write everything as JSON to a file, or with - to the standard output
    #[arg(long, value_name = "FILE", help_heading = "Measure")]
    pub json: Option<PathBuf>,
}

/// The comparison.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Brokers beside this program's own: mosquitto, nanomq, rumqttd, rmqttd, nats-server, floor (a relay that checks
    /// nothing); NAME=PATH for one that is not on PATH
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[arg(default_value = "mosquitto,nanomq,rumqttd,rmqttd,nats-server,floor")]
    pub with: Vec<String>,
    /// Loads, `footprint` (memory and connects) among them; `--scenarios help` lists them [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Measurements of each broker with each load; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub seconds: f64,
    /// This program's own broker runs with this configuration instead of one without limits
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Draw a bar chart
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write everything as JSON to a file, or with - to the standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn is_well_formed() {
        BenchCli::command().debug_assert();
    }

    #[test]
    fn run_is_what_it_does_by_itself() {
        for line in ["bench pairs -q 1", "bench run pairs -q 1"] {
            let cli = BenchCli::try_parse_from(line.split(' ')).unwrap();
            let run = match cli.command {
                Some(Command::Run(run)) => *run,
                None => cli.run,
                other => panic!("{other:?}"),
            };
            assert_eq!((run.scenario, run.qos), (Scenario::Pairs, 1));
        }
        let cli = BenchCli::try_parse_from(["bench", "compare", "--with", "mosquitto,floor"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Compare(compare)) if compare.with == ["mosquitto", "floor"]));
    }
}
