//! The command line, checked: what is run, with everything decided. Nothing has been connected to yet.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_client::Url;
use forebay_wire::topic;
use forebay_wire::types::Version;
use rustls::ClientConfig;

use super::check::Layout;
use super::cli::{Protocol, RunArgs, Scenario};
use super::target::{self, TlsFiles};
use super::wire;
use crate::tools::exit::Failure;

/// The protocol's own limit of a packet, less what is around a payload.
const SIZE_MAX: usize = 268_435_455 - 70_000;
/// Packet identifiers.
const WINDOW_MAX: u64 = 65_535;
/// Publishers times receivers: each takes 48 bytes.
const STREAMS_MAX: usize = 4_000_000;
const CLIENTS_MAX: usize = 1_000_000;
/// A session that is left behind by a run that was killed is gone after this.
const EXPIRY_S: u32 = 3600;
/// Files beside connections.
const OTHER_FILES: u64 = 64;

/// When messages are published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// As many as may be unacknowledged; `None`: as many as the sockets take.
    Closed {
        /// Of one publisher.
        window: Option<u64>,
    },
    /// On time.
    Open {
        /// Messages a second in all.
        per_s: f64,
        /// Of one publisher; more than that wait.
        window: u64,
    },
}

/// One load, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who sends to whom.
    pub scenario: Scenario,
    /// The server.
    pub url: Url,
    /// How to speak TLS to it.
    pub tls: Option<Arc<ClientConfig>>,
    /// 3.1.1 or 5.0.
    pub version: Version,
    /// User name and password.
    pub login: (Option<String>, Option<String>),
    /// Of publishers and subscribers.
    pub qos: u8,
    /// Bytes of a payload.
    pub size: usize,
    /// When messages are published.
    pub pacing: Pacing,
    /// Publishers.
    pub publishers: usize,
    /// Subscribers; of connect and reconnect: connections.
    pub subscribers: usize,
    /// Who is to get what.
    pub layout: Layout,
    /// Connections a second.
    pub connect_rate: Option<f64>,
    /// Sessions outlive their connections.
    pub persistent: bool,
    /// What topics begin with, this run's own.
    pub topics: String,
    /// How long.
    pub time: Option<Duration>,
    /// How many messages in all.
    pub messages: Option<u64>,
    /// Before measuring.
    pub warmup: Duration,
    /// Until what has not come is lost.
    pub patience: Duration,
    /// The server's process.
    pub pid: Option<u32>,
    /// Which run: part of topics, client identifiers and payloads.
    pub run: u32,
}

impl Plan {
    /// Checks what the command line says, reads the certificates, and raises the limit of open files.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn new(args: &RunArgs) -> Result<Self, Failure> {
        let (publishers, subscribers) = counts(args)?;
        check_load(args, publishers, subscribers)?;
        topic::check_name(&args.topic, usize::from(u16::MAX)).map_err(|_| {
            Failure::usage(format!(
                "--topic \"{}\": a prefix of topic names has no +, # or U+0000, and is not empty; sensors/test is one",
                args.topic.escape_debug()
            ))
        })?;
        if args.topic.len() > 1024 {
            return Err(Failure::usage("--topic is longer than 1024 bytes"));
        }
        let tls = tls(args)?;
        let login = (
            args.username.clone().or_else(|| args.url.username().map(str::to_owned)),
            args.password.clone().or_else(|| args.url.password().map(str::to_owned)),
        );
        // [MQTT-3.1.2-22]
        if login.1.is_some() && login.0.is_none() && args.protocol == Protocol::V311 {
            return Err(Failure::usage(
                "--password without --username: MQTT 3.1.1 has no such thing; give both, or -V 5",
            ));
        }
        if login.0.iter().chain(&login.1).any(|text| text.len() > usize::from(u16::MAX)) {
            return Err(Failure::usage("--username and --password have at most 65535 bytes"));
        }
        if let Some(pid) = args.pid.filter(|pid| !Path::new(&format!("/proc/{pid}/stat")).exists()) {
            return Err(Failure::usage(format!("--pid {pid}: no such process on this machine")));
        }
        allow_files(publishers + subscribers)?;
        let run = run_id();
        let layout = match args.scenario {
            Scenario::OneToOne | Scenario::Pairs | Scenario::Backlog => Layout::Pairs,
            Scenario::Shared => Layout::Shared,
            Scenario::FanIn | Scenario::FanOut | Scenario::Connect | Scenario::Reconnect => Layout::All,
        };
        let time = match (args.seconds, args.messages) {
            (None, None) => Some(Duration::from_secs(10)),
            (seconds, _) => seconds.map(Duration::from_secs_f64),
        };
        let warmup = args.warmup.unwrap_or(if args.messages.is_some() { 0.0 } else { 0.5 });
        let persistent = args.persistent || args.scenario == Scenario::Backlog;
        Ok(Self {
            scenario: args.scenario,
            url: args.url.clone(),
            tls,
            version: if args.protocol == Protocol::V5 { Version::V5 } else { Version::V311 },
            login,
            qos: args.qos,
            size: args.size,
            pacing: pacing(args),
            publishers,
            subscribers,
            layout,
            connect_rate: args.connect_rate,
            persistent,
            topics: format!("{}/{run:08x}", args.topic.trim_end_matches('/')),
            time,
            messages: args.messages,
            warmup: Duration::from_secs_f64(warmup),
            patience: Duration::from_secs_f64(args.patience),
            pid: args.pid,
            run,
        })
    }

    /// CONNECT of a client; `name` is its own.
    pub fn connect(&self, out: &mut Vec<u8>, name: &str, persistent: bool) {
        let client_id = self.client_id(name);
        let packet = wire::Connect {
            version: self.version,
            client_id: &client_id,
            clean: !persistent,
            expiry_s: if persistent { EXPIRY_S } else { 0 },
            username: self.login.0.as_deref(),
            password: self.login.1.as_deref(),
        };
        wire::connect(out, &packet);
    }

    /// At most the 23 characters that every server takes [MQTT-3.1.3-5].
    fn client_id(&self, name: &str) -> String {
        format!("bench{:08x}{name}", self.run)
    }

    /// The topic of a publisher.
    #[must_use]
    pub fn topic(&self, publisher: usize) -> String {
        format!("{}/{publisher}", self.topics)
    }

    /// What a subscriber asks for.
    #[must_use]
    pub fn filter(&self, subscriber: usize) -> String {
        match self.layout {
            Layout::Pairs => self.topic(subscriber),
            Layout::All if self.publishers == 1 => self.topic(0),
            Layout::All => format!("{}/+", self.topics),
            Layout::Shared => format!("$share/bench/{}/+", self.topics),
        }
    }
}

/// Publishers and subscribers.
fn counts(args: &RunArgs) -> Result<(usize, usize), Failure> {
    let no = |given: Option<usize>, flag: &str, instead: &str| match given {
        Some(_) => Err(Failure::usage(format!("{} has no {flag}; {instead}", name(args.scenario)))),
        None => Ok(()),
    };
    let clients = |default: usize| -> Result<usize, Failure> {
        no(args.publishers, "--publishers", "its size is --clients")?;
        no(args.subscribers, "--subscribers", "its size is --clients")?;
        Ok(args.clients.unwrap_or(default))
    };
    let sides = |publishers: usize, subscribers: usize| -> Result<(usize, usize), Failure> {
        no(args.clients, "--clients", "it has --publishers and --subscribers")?;
        Ok((args.publishers.unwrap_or(publishers), args.subscribers.unwrap_or(subscribers)))
    };
    let counts = match args.scenario {
        Scenario::OneToOne => {
            no(args.clients, "--clients", "pairs has")?;
            no(args.publishers, "--publishers", "fan-in has")?;
            no(args.subscribers, "--subscribers", "fan-out has")?;
            (1, 1)
        }
        Scenario::FanIn => sides(50, 1)?,
        Scenario::FanOut => sides(1, 50)?,
        Scenario::Shared => sides(10, 10)?,
        Scenario::Pairs | Scenario::Backlog => clients(50).map(|count| (count, count))?,
        Scenario::Connect | Scenario::Reconnect => (0, clients(1000)?),
    };
    let idle = matches!(args.scenario, Scenario::Connect | Scenario::Reconnect);
    if (counts.0 == 0 && !idle) || counts.1 == 0 || counts.0 + counts.1 > CLIENTS_MAX {
        return Err(Failure::usage(format!("the number of clients is from 1 to {CLIENTS_MAX}")));
    }
    Ok(counts)
}

/// A scenario's name on the command line.
#[must_use]
pub fn name(scenario: Scenario) -> String {
    use clap::ValueEnum;
    scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn check_load(args: &RunArgs, publishers: usize, subscribers: usize) -> Result<(), Failure> {
    let wrong = |what: String| Err(Failure::usage(what));
    let positive = |value: Option<f64>, flag: &str, max: f64| match value {
        Some(value) if !(value > 0.0 && value <= max) => {
            Err(Failure::usage(format!("{flag} {value}: a number above 0, at most {max}")))
        }
        _ => Ok(()),
    };
    positive(args.rate, "--rate", 1e9)?;
    positive(args.connect_rate, "--connect-rate", 1e6)?;
    positive(args.seconds, "--seconds", 1e7)?;
    positive(Some(args.patience), "--patience", 1e5)?;
    if args.warmup.is_some_and(|warmup| !(0.0..=1e5).contains(&warmup)) {
        return wrong("--warmup: seconds, 0 or more".to_owned());
    }
    if args.size < wire::STAMP || args.size > SIZE_MAX {
        let least = wire::STAMP;
        return wrong(format!("--size {}: from {least} (which message it is) to {SIZE_MAX} bytes", args.size));
    }
    if let Some(window) = args.window.filter(|window| *window > WINDOW_MAX || (*window == 0 && args.qos > 0)) {
        let least = u8::from(args.qos > 0);
        return wrong(format!("--window {window}: from {least} to {WINDOW_MAX} messages at QoS {}", args.qos));
    }
    if args.messages == Some(0) {
        return wrong("--messages 0: there is nothing to do; 1 or more".to_owned());
    }
    if args.qos == 0 && args.scenario == Scenario::Backlog {
        return wrong("backlog at QoS 0: a server need not keep those for who is away; give --qos 1 or 2".to_owned());
    }
    if publishers.saturating_mul(subscribers) > STREAMS_MAX
        && !matches!(args.scenario, Scenario::Pairs | Scenario::Backlog)
    {
        return wrong(format!(
            "{publishers} publishers times {subscribers} subscribers are more than {STREAMS_MAX}; pairs has one for each"
        ));
    }
    if matches!(args.scenario, Scenario::Connect | Scenario::Reconnect) {
        let flags = [("--rate", args.rate.is_some()), ("--window", args.window.is_some())];
        if let Some((flag, _)) = flags.iter().find(|(_, given)| *given) {
            return wrong(format!(
                "{} publishes nothing and has no {flag}; --connect-rate is its pace",
                name(args.scenario)
            ));
        }
    }
    if args.scenario == Scenario::Connect && args.messages.is_some() {
        return wrong(
            "connect has no --messages; its size is --clients, and --seconds is how long they are idle".to_owned(),
        );
    }
    Ok(())
}

fn tls(args: &RunArgs) -> Result<Option<Arc<ClientConfig>>, Failure> {
    let given = [("--cafile", args.cafile.is_some()), ("--cert", args.cert.is_some()), ("--insecure", args.insecure)];
    if !args.url.scheme().is_tls() {
        return match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::usage(format!("{flag} is for TLS; use an mqtts:// URL, or leave it out"))),
            None => Ok(None),
        };
    }
    let client = args.cert.clone().zip(args.key.clone());
    target::client_config(&TlsFiles { ca: args.cafile.clone(), client, insecure: args.insecure }).map(Some)
}

fn pacing(args: &RunArgs) -> Pacing {
    match args.rate {
        Some(per_s) => Pacing::Open { per_s, window: args.window.filter(|window| *window > 0).unwrap_or(WINDOW_MAX) },
        None => Pacing::Closed { window: Some(args.window.unwrap_or(100)).filter(|window| *window > 0) },
    }
}

/// Time and process, stirred: two runs at once are told apart.
fn run_id() -> u32 {
    let ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mixed = (ns ^ u64::from(std::process::id()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// Raises the limit of open files as far as it goes.
///
/// # Errors
/// That is not enough for so many connections.
#[cfg(unix)]
pub fn allow_files(connections: usize) -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let (wanted, allowed) = (connections as u64 + OTHER_FILES, getrlimit(Resource::Nofile).current);
    match allowed.filter(|allowed| *allowed < wanted) {
        Some(allowed) => Err(Failure::usage(format!(
            "{connections} connections need {wanted} open files, and {allowed} are allowed; raise it (ulimit -n {wanted}), or take fewer"
        ))),
        None => Ok(()),
    }
}

/// The system has no such limit.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn allow_files(_: usize) -> Result<(), Failure> {
    Ok(())
}
