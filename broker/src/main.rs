//! The broker's program: arguments, signals, exit codes.

mod access_command;
mod certs_command;
mod config_command;
mod import_command;
mod machine;
mod store_command;

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use forebay::access::auth::Mechanisms;
use forebay::access::{Access, Entrance};
use forebay::admin::{self, Surroundings};
use forebay::broker::{Broker, ConfigSource};
use forebay::cli::{AclCommand, Cli, Command};
use forebay::config::{self, Config, ConfigError};
use forebay::contain::contain_quietly;
use forebay::logging;
use forebay::memory;
use forebay::start::{self, RunArgs};
use forebay::store::journal::store::JournaledStore;
use forebay::store::medium::make_folder;
use forebay::store::upkeep::Upkeep;
use forebay::store::{Known, Reader, Recovered};
use forebay::transport::{self, BoundListener};
use forebay::{doctor, systemd};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Something of this machine stands in the way.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// The configuration file is wrong.
const BAD_CONFIG: u8 = 3;
// 4 is a fault of the program: `logging::end_at_panic`.

fn main() -> ExitCode {
    let cli = Cli::parse().checked().unwrap_or_else(|error| error.exit());
    // A tool is no broker: it reads no configuration.
    #[cfg(feature = "tools")]
    match &cli.command {
        Some(Command::Bench(rest)) => return forebay::tools::bench::main(rest),
        Some(Command::Publish(rest)) => return forebay::tools::publish::main(rest),
        Some(Command::Subscribe(rest)) => return forebay::tools::subscribe::main(rest),
        Some(Command::Demo(rest)) => return forebay::tools::demo::main(rest),
        Some(Command::Completions(args)) => return forebay::tools::shell::completions(args, Cli::whole()),
        Some(Command::Man(args)) => return forebay::tools::shell::man(args, Cli::whole()),
        _ => {}
    }
    match &cli.command {
        Some(Command::Certs(args)) => return certs_command::run(args),
        Some(Command::Config(command)) => return config_command::run(command, &cli),
        Some(Command::Import(command)) => return import_command::run(command, cli.data_dir.as_deref()),
        Some(Command::Ctl(args)) => return forebay::ctl::main(args, cli.config.as_deref()),
        Some(Command::Acl(
            command @ (AclCommand::Test { running: true, .. } | AclCommand::Replay { .. } | AclCommand::Learn { .. }),
        )) => return forebay::ctl::acl(command, cli.config.as_deref()),
        Some(Command::Why(args)) => return forebay::ctl::why(args, cli.config.as_deref()),
        // A password file may be named without a configuration that is whole.
        Some(Command::Passwd(command)) if command.file.is_some() => return access_command::passwd(None, command),
        _ => {}
    }
    let file = match &cli.command {
        Some(Command::Check { file, .. }) => file.as_deref(),
        _ => cli.config.as_deref(),
    };
    let (config, settings) = match config::load_with_settings(file, &cli.overrides()) {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    match &cli.command {
        Some(Command::Check { file, store }) => {
            let outcomes = [file.as_ref().map(|file| check(file, &config)), store.as_deref().map(check_store)];
            // The first that is not fine.
            let outcomes = outcomes.into_iter().flatten().filter(|code| *code != ExitCode::SUCCESS);
            return outcomes.into_iter().next().unwrap_or(ExitCode::SUCCESS);
        }
        Some(Command::Doctor) => return examine(&config),
        _ => {}
    }
    if let Err(error) = logging::start(config.log, config.log_format, config.limits.log_lines_per_s) {
        complain(&error);
        return ExitCode::from(FAILED);
    }
    match &cli.command {
        Some(Command::Passwd(command)) => return access_command::passwd(Some(&config), command),
        Some(Command::Acl(command)) => return access_command::acl(&config, command),
        #[cfg(feature = "tools")]
        Some(Command::Rule(command)) => return forebay::tools::rule::main(command, &config, cli.config.as_deref()),
        #[cfg(feature = "tools")]
        Some(Command::Bridge(command)) => {
            return forebay::tools::bridge::main(command, &config, cli.config.as_deref());
        }
        _ => {}
    }
    if cli.command.is_none() {
        logging::end_at_panic();
    }
    contain_quietly();
    let source = ConfigSource::new(cli.config.clone(), cli.overrides(), settings);
    let done = match cli.command {
        Some(Command::Store(command)) => store_command::run(&config.data_dir, &command),
        // The tools have returned.
        _ => run(config, &source).map(|()| true),
    };
    logging::flush();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // It has said why.
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// There is no configuration.
fn refuse(error: &ConfigError) -> ExitCode {
    complain(error);
    ExitCode::from(if matches!(error, ConfigError::Usage(_)) {
        USAGE
    } else if matches!(error, ConfigError::Unreadable { .. }) {
        FAILED
    } else {
        BAD_CONFIG
    })
}

/// What the file names must be usable as well; all of it is said, not only the first.
fn check(file: &Path, config: &Config) -> ExitCode {
    let mut wrong: Vec<String> = transport::problems(&config.listeners).map(|error| error.to_string()).collect();
    wrong.extend(Access::problems(&config.access, &config.data_dir).iter().map(ToString::to_string));
    wrong.extend(admin::check(&config.admin).err().map(|error| error.to_string()));
    for error in &wrong {
        complain(error);
    }
    if !wrong.is_empty() {
        return ExitCode::from(BAD_CONFIG);
    }
    print(&format!("{}: fine\n", file.display()))
}

fn check_store(dir: &Path) -> ExitCode {
    match store_command::upgrade(dir) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn examine(config: &Config) -> ExitCode {
    let findings = doctor::examine(config);
    let printed = print(&doctor::report(&findings));
    let broken = findings.iter().any(|found| found.grade == doctor::Grade::Broken);
    if broken { ExitCode::from(FAILED) } else { printed }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn run(config: Config, source: &Arc<ConfigSource>) -> anyhow::Result<()> {
    memory::keep_little();
    // Before any thread is started: each of them inherits it.
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the store is opened: that may take minutes.
    let mut hangup = signals.block_on(async { Hangup::listen() })?;
    machine::own_files_only();
    machine::raise_descriptors(&config);
    let mut busy = Some(systemd::busy(Duration::MAX));
    make_folder(&config.data_dir).map_err(|error| {
        let dir = config.data_dir.display();
        anyhow::anyhow!("the data directory {dir} cannot be made: {error}; choose another --data-dir")
    })?;
    // Before anything is open: a broker that does not know who may come is not reached.
    let access = Access::load(&config.access)?;
    let mut config = Arc::new(config);
    let first = open_store(&config, Known::default())?;
    // Before the listeners: whoever finds those open can end it, and finds the API open as well.
    let mut stop = std::pin::pin!(signals.block_on(async { stop_signal() })?);
    let mut bound = admin::bind(&config.admin)?;
    let listeners = transport::bind(&config.listeners, &config.data_dir)?;
    let mut opening = Some(opening_lines(&config, &listeners, &first.1, bound.as_ref()));
    let mut opened = Some(first);
    let mut at_least = Duration::ZERO;
    let mut known = Known::default();
    loop {
        let (store, recovered) = match opened.take() {
            Some(opened) => opened,
            None => open_store(&config, std::mem::take(&mut known))?,
        };
        let args = RunArgs {
            config: config.clone(),
            listeners: listeners.iter().map(BoundListener::try_clone).collect::<Result<_, _>>()?,
            gauge: Some(store.gauge()),
            store: Box::new(store),
            recovered,
            mechanisms: Mechanisms::default(),
            access: access.clone(),
        };
        let (running, operators, anew) = signals.block_on(async {
            let running = start::start(args)?;
            running.broker().set_config_source(source.clone());
            let shutdown = Arc::new(tokio::sync::Notify::new());
            let start_admin = |bound| {
                let (broker, reader) = (running.broker().clone(), running.reader().clone());
                let upkeep = running.upkeep().cloned();
                admin::start(bound, Surroundings { broker, reader, upkeep, shutdown: shutdown.clone() })
            };
            let operators = bound.take().map(start_admin).transpose()?;
            drop(busy.take());
            if let Some(opening) = opening.take() {
                systemd::tell("READY=1");
                say(opening);
            }
            forebay::trim::start_up_code();
            let anew = tokio::select! {
                () = &mut stop => false,
                () = shutdown.notified() => false,
                () = watchdog(running.broker()) => false,
                () = begins_anew(&running, at_least) => true,
                never = hangup.reload(&running) => match never {},
            };
            anyhow::Ok((running, operators, anew))
        })?;
        tracing::info!("stopping");
        if !anew {
            systemd::tell("STOPPING=1");
        }
        let stops_within = config.shutdown_grace.saturating_add(STOPS_WITHIN);
        busy = Some(systemd::busy(if anew { ANEW_WITHIN } else { stops_within }));
        config = running.broker().live();
        let broker = anew.then(|| running.broker().clone());
        let users = (Arc::downgrade(running.reader()), running.upkeep().map(Arc::downgrade));
        running.stop();
        known = broker.map_or_else(Known::default, |broker| broker.known());
        // Operators see how it ends.
        if let Some(operators) = operators {
            operators.stop();
        }
        if !anew {
            return Ok(());
        }
        at_least = ANEW;
        let ended = signals.block_on(async {
            tokio::select! {
                () = &mut stop => true,
                () = is_let_go(users) => false,
            }
        });
        if ended {
            return Ok(());
        }
        // Devices are served without it.
        bound = admin::bind(&config.admin).unwrap_or_else(|error| {
            tracing::error!("operators cannot reach the broker until it is started again: {error}");
            None
        });
        tracing::error!("the broker begins anew, with what it knows and what its store has");
    }
}

/// A broker that began anew serves at least so long before it does so again: each time its clients lose their connections.
const ANEW: Duration = Duration::from_secs(30);
/// How long systemd is asked for patience then: operators' copies end first, and the store is opened.
const ANEW_WITHIN: Duration = Duration::from_secs(3600);
/// The same for the store when the broker ends, after `shutdown_grace`: a disk that hangs does not hold up the machine's end for ever.
const STOPS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// Between two looks at who still reads the store.
const LET_GO_LOOK: Duration = Duration::from_millis(20);

/// The store wants another broker, and this one has run for `at_least` so long.
async fn begins_anew(running: &start::Running, at_least: Duration) {
    let earliest = tokio::time::Instant::now() + at_least;
    running.broker().begin_anew.notified().await;
    tokio::time::sleep_until(earliest).await;
}

/// Nobody reads the store of the broker that was any more. A copy of it that an operator has begun may still be made: until that
/// is over, or a disk has answered, the folder cannot be opened again.
async fn is_let_go((reader, upkeep): (Weak<dyn Reader>, Option<Weak<dyn Upkeep>>)) {
    let mut said = false;
    while reader.strong_count() + upkeep.as_ref().map_or(0, Weak::strong_count) > 0 {
        if !said {
            tracing::warn!("the store is still being read for an operator: the broker begins anew when that has ended");
            said = true;
        }
        tokio::time::sleep(LET_GO_LOOK).await;
    }
}

fn open_store(config: &Config, known: Known) -> anyhow::Result<(JournaledStore, Recovered)> {
    let options = config.store.options();
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    Ok(JournaledStore::open_knowing(&config.data_dir, &options, wall_ms, known)?)
}

/// Tells systemd that the broker lives, for as long as it does; a broker whose threads hang is started anew.
async fn watchdog(broker: &Broker) {
    let Some(period) = systemd::watchdog() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(period).await;
        match admin::health::live(broker) {
            Ok(()) => systemd::tell("WATCHDOG=1"),
            Err(trouble) => tracing::error!("{}", trouble.text()),
        }
    }
}

/// Whoever started the broker may not read what it says, or not now: that is no reason to stop, or to wait.
fn say(text: String) {
    use std::io::Write;
    let written = std::thread::Builder::new().name("opening".to_owned()).spawn(move || {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    });
    if let Err(error) = written {
        tracing::warn!("the opening lines cannot be written: {error}");
    }
}

/// On the standard error, if somebody reads it.
fn complain(error: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "forebay: {error}");
}

/// SIGHUP: the configuration, the files of `[access]` and the certificates are read again.
#[cfg(unix)]
struct Hangup(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangup {
    /// From this call on a terminal that closes, a log rotation, or a habit from another broker does not end this one. A SIGHUP
    /// that comes during the start is answered after it.
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            let _ = signal(kind)?;
        }
        Ok(Self(signal(SignalKind::hangup())?))
    }

    async fn reload(&mut self, running: &start::Running) -> Infallible {
        while self.0.recv().await.is_some() {
            tracing::info!("SIGHUP: the configuration, the files of [access] and the certificates are read again");
            // It says what came of it.
            let _ = running.broker().reload_all();
        }
        std::future::pending().await
    }
}

#[cfg(not(unix))]
struct Hangup;

#[cfg(not(unix))]
impl Hangup {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn reload(&mut self, _: &start::Running) -> Infallible {
        std::future::pending().await
    }
}

/// Resolves at SIGINT or SIGTERM. Both are caught from this call on.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// What is open and to whom, where the data is, and a line to try.
fn opening_lines(
    config: &Config,
    listeners: &[BoundListener],
    recovered: &Recovered,
    operators: Option<&admin::Bound>,
) -> String {
    let mut lines = vec![format!("forebay {}", env!("CARGO_PKG_VERSION"))];
    let mut label = "listening";
    for bound in listeners {
        let to = if bound.is_local() { "this machine only" } else { "reachable from the network" };
        let ca = bound.config.tls.as_ref().and_then(|tls| transport::ca_of(tls, &config.data_dir));
        let ca = ca.map_or_else(String::new, |path| format!("; CA {}", path.display()));
        let who = Entrance::new(&bound.config, &config.access).who_decides();
        lines.push(format!("{label:<10} {:<26} {to}, {who}{ca}", bound.config.url));
        label = "";
    }
    if let Some(addr) = operators.and_then(admin::Bound::http_addr) {
        let how = if config.admin.token_file.is_some() { "with the token" } else { "this machine only, to look at" };
        lines.push(format!("operators  {:<26} {how}", format!("http://{addr}")));
    }
    if let Some(socket) = config.admin.socket.as_ref().filter(|_| operators.is_some()) {
        lines.push(format!("operators  forebay ctl --socket {}", socket.display()));
    }
    if let Some(acl) = &config.access.acl_file {
        let names = if config.access.sources.is_empty() { "; user names are believed without a password" } else { "" };
        lines.push(format!("access     {} says who may do what{names}", acl.display()));
    }
    let file = config.data_dir.join("forebay.redb");
    let (sessions, retained) = (recovered.sessions.len(), recovered.retained.len());
    lines.push(format!("data       {} ({sessions} sessions, {retained} retained messages)", file.display()));
    let mqtt = || listeners.iter().filter(|bound| bound.config.websocket.is_none() && bound.addr().is_some());
    if let Some((plain, addr)) = mqtt()
        .find(|bound| bound.tls.is_none())
        .or(mqtt().next())
        .and_then(|bound| bound.addr().map(|addr| (bound, addr)))
    {
        let ca = plain.config.tls.as_ref().and_then(|tls| transport::ca_of(tls, &config.data_dir));
        let ca = ca.map_or_else(String::new, |path| format!(" --cafile {}", path.display()));
        let host = if addr.ip().is_unspecified() { "127.0.0.1".to_owned() } else { addr.ip().to_string() };
        lines.push(format!("try        mosquitto_pub -h {host} -p {}{ca} -q 1 -t hello -m world", addr.port()));
    }
    lines.join("\n")
}
