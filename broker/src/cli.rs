//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{ListenUrl, LogLevel, Overrides};

/// What the exit codes of the broker mean; its tools have more, which their own help lists.
const EXIT_CODES: &str = "Exit codes of the broker and of `forebay store`:
  0  it was asked to stop, and has; or the command is done
  1  failed: a port that is taken, a folder that cannot be written, a panic, a
     store that is not sound (`store verify`)
  2  the command line is wrong
  3  the configuration file is wrong";

/// A small, durable MQTT edge broker: an ack means that the message is on disk.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, about, after_help = EXIT_CODES, max_term_width = 80)]
pub struct Cli {
    /// The configuration file; without one, loopback only and the built-in limits
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where sessions, messages and development certificates are kept
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Listen here in place of the configured listeners: mqtt://127.0.0.1:1883, mqtts://, ws://, wss:// or
    /// unix:///PATH; may be given several times
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
    /// Say everything that is wrong with a configuration file, and with the files that it names
    Check {
        /// The file
        #[arg(required_unless_present = "store")]
        file: Option<PathBuf>,
        /// Say what this program would do to the store in this folder, instead or as well; nothing is changed
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Describe the configuration file, or say what is in force
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say what of this machine breaks a promise of the broker's, and how to mend it
    Doctor,
    /// Look at a running broker, and change it
    Ctl(crate::ctl::CtlArgs),
    /// Why a message on a topic reaches a client, or does not, in a running broker
    Why(crate::ctl::WhyArgs),
    /// Make and look after a CA of one's own, and certificates for servers and devices
    Certs(Certs),
    /// Make and change the password file that `password_file` of the configuration names
    Passwd(Passwd),
    /// Ask the ACL file that `acl_file` of the configuration names; hold what clients did against another one, or make one of it
    #[command(subcommand)]
    Acl(AclCommand),
    /// Try a bridge of a configuration, apart from the broker that runs by it
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Bridge(crate::tools::bridge::BridgeCommand),
    /// Try a rule of a configuration on sample messages
    #[cfg(feature = "tools")]
    #[command(subcommand)]
    Rule(crate::tools::rule::RuleCommand),
    /// Take over the configuration and the store of another broker
    #[command(subcommand)]
    Import(ImportCommand),
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

/// What is asked of the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what holds, key by key, and who says so: the file and its line, the environment, an option, or nobody
    Show,
    /// Print the JSON Schema of the file, with which editors complete keys and explain them
    Schema,
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

/// Whose is taken over.
#[derive(Clone, Debug, Subcommand)]
pub enum ImportCommand {
    /// Of mosquitto 1.6 and 2: listeners, TLS, passwords, ACL, dynamic security, limits, bridges; sessions, queues and retained
    /// messages. Stop mosquitto first: it writes its store when it ends. Prints what could not be taken
    Mosquitto {
        /// The folder of mosquitto.conf, mosquitto.db or both; or one of the two files
        from: PathBuf,
        /// The folder of the new forebay.toml and of the files that it names. The store is --data-dir, or `data` in here
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
        /// mosquitto's store, if it is not where its configuration says
        #[arg(long, value_name = "FILE")]
        database: Option<PathBuf>,
    },
}

/// `forebay certs`.
#[derive(Clone, Debug, Args)]
pub struct Certs {
    /// The folder of the CA and its certificates; keep it off the board, but for what a listener needs
    #[arg(long, value_name = "DIR", default_value = "certs", global = true)]
    pub dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: CertsCommand,
}

/// What is done with a CA.
#[derive(Clone, Debug, Subcommand)]
pub enum CertsCommand {
    /// Make the CA: ca.pem, ca.key and an empty revocation list, crl.pem
    Ca {
        /// Its name
        #[arg(long, default_value = "forebay site CA")]
        name: String,
        /// How long it is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Make a certificate for a server
    Server {
        /// The names and IP addresses that devices connect to; the first also names the files
        #[arg(required = true)]
        names: Vec<String>,
        /// How long it is valid
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Make a certificate for a device
    Device {
        /// Its name: the user name with `user_from = "cn"`, and that of the files
        name: String,
        /// How long it is valid
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Make a certificate anew, with a new key, for the same names
    Renew {
        /// The name of its files
        name: String,
        /// How long it is valid
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// Revoke all certificates of a name, and write the revocation list
    Revoke {
        /// The name of their files
        name: String,
    },
    /// Write the revocation list anew: before its time is over
    Crl {
        /// How long it is valid
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Print what there is
    List,
}

/// `forebay passwd`.
#[derive(Clone, Debug, Args)]
pub struct Passwd {
    /// The password file; without it the one that the configuration names
    #[arg(long, value_name = "FILE", global = true)]
    pub file: Option<PathBuf>,
    /// Read the password from the standard input instead of asking for it: its first line
    #[arg(long, global = true)]
    pub stdin: bool,
    /// Make a secret that SCRAM-SHA-256 can use instead of an argon2id hash
    #[arg(long, global = true)]
    pub scram: bool,
    /// What to do
    #[command(subcommand)]
    pub command: PasswdCommand,
}

/// What is done with a password file.
#[derive(Clone, Debug, Subcommand)]
pub enum PasswdCommand {
    /// Add a user; the file is made if it is not there
    Add {
        /// The user name
        user: String,
    },
    /// Give a user another password
    Change {
        /// The user name
        user: String,
    },
    /// Take a user out
    Delete {
        /// The user name
        user: String,
    },
    /// Print the names
    List,
}

/// What is asked of an ACL file.
#[derive(Clone, Debug, Subcommand)]
pub enum AclCommand {
    /// Say whether a client may do something, and which line says so; exit code 1 when it may not
    Test {
        /// Its user name; without it a client that has none
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Its client identifier
        #[arg(long, value_name = "ID", default_value = "")]
        client: String,
        /// A group it is in, beside those of the file; may be given several times
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// The address that it comes from
        #[arg(long, value_name = "ADDRESS")]
        address: Option<std::net::IpAddr>,
        /// The url of the listener that it comes by: its own ACL is asked if it has one
        #[arg(long, value_name = "URL")]
        listener: Option<String>,
        /// The QoS that it publishes with
        #[arg(long, default_value = "0", value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// What it publishes is retained
        #[arg(long)]
        retain: bool,
        /// Ask the broker that is running: what is in force there, with users made meanwhile
        #[arg(long)]
        running: bool,
        /// The running broker's `admin.socket`; without it what --config says, or /run/forebay/admin.sock
        #[arg(long, value_name = "PATH", env = "FOREBAY_SOCKET")]
        socket: Option<PathBuf>,
        /// What it does
        #[arg(value_enum)]
        action: AclAction,
        /// The topic, or the topic filter; none for `connect`
        topic: Option<String>,
    },
    /// Hold what clients of the running broker did lately against another ACL file, and say whose answers would change; exit
    /// code 1 when some would
    Replay {
        /// What is asked of the running broker
        #[command(flatten)]
        recent: RecentArgs,
        /// Print what would change as JSON
        #[arg(long)]
        json: bool,
        /// The file, in TOML if its name ends with .toml; without it the `acl_file` of --config
        file: Option<PathBuf>,
    },
    /// Write the smallest ACL that allows what clients of the running broker did lately: to be read before it is used
    Learn {
        /// What is asked of the running broker
        #[command(flatten)]
        recent: RecentArgs,
        /// How the file is written
        #[arg(long, value_enum, default_value_t = AclFormat::Mosquitto)]
        format: AclFormat,
        /// So many topics that differ in one level stay as they are; more become one, with a + there
        #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        alike: u16,
    },
}

/// What clients did lately: which of it.
#[derive(Clone, Debug, Args)]
pub struct RecentArgs {
    /// Only what they did in this time, such as 30m or 1h; without it all that is kept
    #[arg(long, value_name = "TIME", value_parser = crate::ctl::time_of)]
    pub since: Option<Duration>,
    /// Only what came by the listener with this url; without it listeners that have an ACL file of their own are left out
    #[arg(long, value_name = "URL")]
    pub listener: Option<String>,
    /// The running broker's `admin.socket`; without it what --config says, or /run/forebay/admin.sock
    #[arg(long, value_name = "PATH", env = "FOREBAY_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// How an ACL file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AclFormat {
    /// In mosquitto's syntax
    Mosquitto,
    /// In TOML
    Toml,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AclAction {
    /// It connects
    Connect,
    /// It publishes on the topic
    Publish,
    /// It subscribes to the topic filter
    Subscribe,
    /// It gets a message with the topic
    Receive,
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

    /// The whole command line, with those of the tools, which are else read only when they are asked for.
    #[cfg(feature = "tools")]
    #[must_use]
    pub fn whole() -> clap::Command {
        use crate::tools::{bench::cli::BenchCli, demo::DemoCli, publish::PubCli, subscribe::SubCli};
        Self::command()
            .mut_subcommand("pub", |_| PubCli::command().name("pub"))
            .mut_subcommand("sub", |_| SubCli::command().name("sub"))
            .mut_subcommand("demo", |_| DemoCli::command().name("demo"))
            .mut_subcommand("bench", |_| BenchCli::command().name("bench"))
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
        #[cfg(feature = "tools")]
        Cli::whole().debug_assert();
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
