//! The broker's program: arguments, signals, exit codes.

mod store_command;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use forebay::auth::Mechanisms;
use forebay::cli::{Cli, Command};
use forebay::config::{self, Config, ConfigError, LogLevel};
use forebay::listener::{self, BoundListener};
use forebay::start::{self, RunArgs};
use forebay::store::Recovered;
use forebay::store::redb::{RedbStore, StoreOptions, contain_quietly};

/// Something of this machine stands in the way.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// The configuration file is wrong.
const BAD_CONFIG: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse().checked().unwrap_or_else(|error| error.exit());
    // A tool is no broker: it reads no configuration.
    #[cfg(feature = "tools")]
    match &cli.command {
        Some(Command::Bench(rest)) => return forebay::tools::bench::main(rest),
        Some(Command::Publish(rest)) => return forebay::tools::publish::main(rest),
        Some(Command::Subscribe(rest)) => return forebay::tools::subscribe::main(rest),
        Some(Command::Demo(rest)) => return forebay::tools::demo::main(rest),
        Some(Command::Completions(args)) => return forebay::tools::shell::completions(args),
        Some(Command::Man(args)) => return forebay::tools::shell::man(args),
        Some(Command::Store(_)) | None => {}
    }
    let config = match config::load(cli.config.as_deref(), &cli.overrides()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("forebay: {error}");
            return ExitCode::from(if matches!(error, ConfigError::Usage(_)) {
                USAGE
            } else if matches!(error, ConfigError::Unreadable { .. }) {
                FAILED
            } else {
                BAD_CONFIG
            });
        }
    };
    log_to_stderr(config.log);
    contain_quietly();
    let done = match cli.command {
        Some(Command::Store(command)) => store_command::run(&config.data_dir, &command),
        // The tools have returned.
        _ => run(config).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // It has said why.
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("forebay: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colours).init();
}

fn run(config: Config) -> anyhow::Result<()> {
    // Before any thread is started: each of them inherits it.
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::fs::create_dir_all(&config.data_dir).map_err(|error| {
        let dir = config.data_dir.display();
        anyhow::anyhow!("the data directory {dir} cannot be made: {error}; choose another --data-dir")
    })?;
    let options = StoreOptions {
        cache_bytes: config.store.cache_bytes,
        min_free_bytes: config.store.min_free_bytes,
        max_bytes: config.store.max_bytes.unwrap_or(u64::MAX),
    };
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    let (store, recovered) = RedbStore::open(&config.data_dir, &options, wall_ms)?;
    let listeners = listener::bind(&config.listeners, &config.data_dir)?;
    let opening = opening_lines(&config, &listeners, &recovered);
    let gauge = store.gauge();
    let running = signals.block_on(async {
        let stop = stop_signal()?;
        let running = start::start(RunArgs {
            config: Arc::new(config),
            listeners,
            store: Box::new(store),
            gauge: Some(gauge),
            recovered,
            mechanisms: Mechanisms::default(),
        })?;
        say(&opening);
        forebay::trim::start_up_code();
        stop.await;
        anyhow::Ok(running)
    })?;
    tracing::info!("stopping");
    running.stop();
    Ok(())
}

/// Whoever started the broker may not read what it says: that is no reason to stop.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
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
fn opening_lines(config: &Config, listeners: &[BoundListener], recovered: &Recovered) -> String {
    let mut lines = vec![format!("forebay {}", env!("CARGO_PKG_VERSION"))];
    let mut label = "listening";
    for bound in listeners {
        let to = if bound.config.addr.ip().is_loopback() { "this machine only" } else { "reachable from the network" };
        let ca = bound.config.tls.as_ref().and_then(|tls| listener::ca_of(tls, &config.data_dir));
        let ca = ca.map_or_else(String::new, |path| format!("; CA {}", path.display()));
        lines.push(format!("{label:<10} {:<26} {to}, anyone{ca}", bound.config.url));
        label = "";
    }
    let file = config.data_dir.join("forebay.redb");
    let (sessions, retained) = (recovered.sessions.len(), recovered.retained.len());
    lines.push(format!("data       {} ({sessions} sessions, {retained} retained messages)", file.display()));
    if let Some(plain) = listeners.iter().find(|bound| bound.tls.is_none()).or(listeners.first()) {
        let ca = plain.config.tls.as_ref().and_then(|tls| listener::ca_of(tls, &config.data_dir));
        let ca = ca.map_or_else(String::new, |path| format!(" --cafile {}", path.display()));
        let addr = plain.config.addr;
        let host = if addr.ip().is_unspecified() { "127.0.0.1".to_owned() } else { addr.ip().to_string() };
        lines.push(format!("try        mosquitto_pub -h {host} -p {}{ca} -q 1 -t hello -m world", addr.port()));
    }
    lines.join("\n")
}
