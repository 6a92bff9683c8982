//! Brokers of this machine as child processes on loopback, their limits raised so that none is met.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tools::exit::Failure;

/// What this program's own broker is measured with.
const OWN_CONFIG: &str = include_str!("../../../../../config/bench.toml");
/// A broker that does not accept connections after this does not start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the programs' names")]
pub enum Kind {
    Forebay,
    Mosquitto,
    Nanomq,
    Rumqttd,
    Rmqttd,
    NatsServer,
    /// The relay that checks nothing: this program itself.
    Floor,
}

const KINDS: [(&str, Kind); 7] = [
    ("forebay", Kind::Forebay),
    ("mosquitto", Kind::Mosquitto),
    ("nanomq", Kind::Nanomq),
    ("rumqttd", Kind::Rumqttd),
    ("rmqttd", Kind::Rmqttd),
    ("nats-server", Kind::NatsServer),
    ("floor", Kind::Floor),
];

/// A broker that can be started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Which one it is.
    pub kind: Kind,
    /// Its name in the tables.
    pub name: &'static str,
    path: PathBuf,
    config: Option<PathBuf>,
}

/// Finds the programs: this one's own broker first, then those that were asked for; and the names of those that are not there.
///
/// # Errors
/// A name is none of the known ones, or a path is no file.
pub fn find(names: &[String], config: Option<&Path>) -> Result<(Vec<Program>, Vec<String>), Failure> {
    let own = std::env::current_exe().map_err(|why| Failure::failed(format!("this program's own path: {why}")))?;
    let config = config.map(Path::to_path_buf);
    let mut found = vec![Program { kind: Kind::Forebay, name: "forebay", path: own.clone(), config }];
    let mut missing = Vec::new();
    for asked in names.iter().filter(|name| !name.is_empty() && *name != "forebay") {
        let (name, path) = asked.split_once('=').map_or((asked.as_str(), None), |(name, path)| (name, Some(path)));
        let Some((name, kind)) = KINDS.into_iter().find(|(known, _)| *known == name) else {
            let known = KINDS.map(|(known, _)| known).join(", ");
            return Err(Failure::usage(format!("--with {name}: this program cannot start it; it knows {known}")));
        };
        if found.iter().any(|program| program.kind == kind) {
            continue;
        }
        let path = match (kind, path) {
            (Kind::Floor, _) => Some(own.clone()),
            (_, Some(path)) if Path::new(path).is_file() => Some(PathBuf::from(path)),
            (_, Some(path)) => return Err(Failure::usage(format!("--with {asked}: {path} is no file"))),
            (_, None) => on_path(name),
        };
        match path {
            Some(path) => found.push(Program { kind, name, path, config: None }),
            None => missing.push(name.to_owned()),
        }
    }
    Ok((found, missing))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A broker that runs; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// On 127.0.0.1.
    pub port: u16,
    /// With TLS, where it has that.
    pub tls_port: Option<u16>,
    dir: TempDir,
}

impl Program {
    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// It does not start; with the end of what it wrote.
    pub fn start(&self) -> Result<Running, String> {
        let dir = tempfile::Builder::new().prefix("forebay-bench-").tempdir().map_err(|why| why.to_string())?;
        let (child, port, tls_port) = match self.kind {
            Kind::Forebay => self.start_own(dir.path())?,
            Kind::Floor => {
                let port = free_port()?;
                (self.spawn(dir.path(), &["bench".into(), "floor".into(), port.to_string()])?, port, None)
            }
            Kind::Mosquitto | Kind::Nanomq | Kind::Rumqttd | Kind::Rmqttd | Kind::NatsServer => {
                let (port, tls_port) = (free_port()?, free_port()?);
                let arguments = self.configure(dir.path(), port, tls_port).map_err(|why| why.to_string())?;
                let tls_port = (self.kind == Kind::Mosquitto).then_some(tls_port);
                (self.spawn(dir.path(), &arguments)?, port, tls_port)
            }
        };
        let mut running = Running { child, port, tls_port, dir };
        running.wait_until_ready()?;
        Ok(running)
    }

    fn spawn(&self, dir: &Path, arguments: &[String]) -> Result<Child, String> {
        let log = fs::File::create(dir.join("log")).map_err(|why| why.to_string())?;
        let other = log.try_clone().map_err(|why| why.to_string())?;
        let mut command = Command::new(&self.path);
        // Where it panics, what it says last is to be why.
        command.args(arguments).env("RUST_BACKTRACE", "0").current_dir(dir);
        command.stdin(Stdio::null()).stdout(log).stderr(other);
        command.spawn().map_err(|why| format!("{}: {why}", self.path.display()))
    }

    /// It says on which ports it listens.
    fn start_own(&self, dir: &Path) -> Result<(Child, u16, Option<u16>), String> {
        let io = |why: std::io::Error| why.to_string();
        let config = dir.join("bench.toml");
        match &self.config {
            Some(path) => fs::copy(path, &config).map(drop).map_err(|why| format!("{}: {why}", path.display()))?,
            None => fs::write(&config, OWN_CONFIG).map_err(io)?,
        }
        let log = fs::File::create(dir.join("log")).map_err(io)?;
        let mut command = Command::new(&self.path);
        command.arg("--config").arg(config).arg("--data-dir").arg(dir.join("data"));
        command.args(["--listen", "mqtt://127.0.0.1:0", "--listen", "mqtts://127.0.0.1:0", "--log", "warn"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().map_err(io)?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut port_after = |scheme: &str| -> Option<u16> {
            let rest = lines.find_map(|line| line.split_once(scheme).map(|(_, rest)| rest.to_owned()))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let ports = (port_after("mqtt://127.0.0.1:"), port_after("mqtts://127.0.0.1:"));
        std::thread::spawn(move || lines.count());
        match ports {
            (Some(port), Some(tls_port)) => Ok((child, port, Some(tls_port))),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("it does not start: {}", log_of(dir)))
            }
        }
    }

    /// Writes its configuration; what its command line is.
    fn configure(&self, dir: &Path, port: u16, tls_port: u16) -> std::io::Result<Vec<String>> {
        let (name, before) = match self.kind {
            Kind::Mosquitto => ("mosquitto.conf", vec!["-c"]),
            Kind::Nanomq => ("nanomq.conf", vec!["start", "--conf"]),
            Kind::Rumqttd => ("rumqttd.toml", vec!["-c"]),
            Kind::Rmqttd => ("rmqtt.toml", vec!["-f"]),
            Kind::NatsServer => ("nats.conf", vec!["-c"]),
            Kind::Forebay | Kind::Floor => ("none", vec![]),
        };
        let text = match self.kind {
            Kind::Mosquitto => mosquitto(dir, port, tls_port)?,
            Kind::Nanomq => nanomq(port),
            Kind::Rumqttd => rumqttd(port),
            Kind::Rmqttd => rmqttd(dir, port, tls_port),
            Kind::NatsServer => nats_server(dir, port, tls_port),
            Kind::Forebay | Kind::Floor => String::new(),
        };
        let file = dir.join(name);
        fs::write(&file, text)?;
        Ok(before.into_iter().map(str::to_owned).chain([file.display().to_string()]).collect())
    }
}

/// It syncs nothing and keeps nothing on disk: its best case.
fn mosquitto(dir: &Path, port: u16, tls_port: u16) -> std::io::Result<String> {
    // A key of the same kind as ours, made the same way.
    let files = crate::certs::development(dir).map_err(std::io::Error::other)?;
    let (certificate, key) = (files.certificate.display(), files.key.display());
    Ok(format!(
        "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
         set_tcp_nodelay true\npersistence false\nlog_type error\n\
         listener {tls_port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n"
    ))
}

fn nanomq(port: u16) -> String {
    format!(
        "listeners.tcp {{\n  bind = \"127.0.0.1:{port}\"\n}}\n\
         mqtt {{\n  max_packet_size = 260MB\n  max_mqueue_len = 65535\n  max_inflight_window = 65535\n}}\n\
         auth {{\n  allow_anonymous = true\n  no_match = allow\n}}\nlog {{\n  to = [console]\n  level = error\n}}\n"
    )
}

fn rumqttd(port: u16) -> String {
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 100000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 268435455\nmax_inflight_count = 65535\n\
         dynamic_filters = true\n"
    )
}

fn rmqttd(dir: &Path, port: u16, rpc_port: u16) -> String {
    let dir = dir.display();
    format!(
        "node.id = 1\nrpc.server_addr = \"127.0.0.1:{rpc_port}\"\nlog.to = \"console\"\nlog.level = \"warn\"\n\
         log.dir = \"{dir}\"\nplugins.dir = \"{dir}\"\nplugins.default_startups = [\"rmqtt-retainer\", \"rmqtt-shared-subscription\"]\n\
         plugins.disabled_default_startups = [\"rmqtt-http-api\"]\n\
         listener.tcp.external.addr = \"127.0.0.1:{port}\"\nlistener.tcp.external.max_connections = 1024000\n\
         listener.tcp.external.max_handshaking_limit = 100000\nlistener.tcp.external.max_packet_size = \"256m\"\n\
         listener.tcp.external.allow_anonymous = true\nlistener.tcp.external.max_inflight = 65535\n\
         listener.tcp.external.max_mqueue_len = 100000000\n\
         listener.tcp.external.mqueue_rate_limit = \"4294967295,1s\"\n\
         listener.tcp.external.session_expiry_interval = \"2h\"\nlistener.tcp.external.shared_subscription = true\n"
    )
}

fn nats_server(dir: &Path, port: u16, nats_port: u16) -> String {
    let dir = dir.join("jetstream");
    format!(
        "server_name = bench\nlisten = \"127.0.0.1:{nats_port}\"\nmax_pending = 1GB\nmax_payload = 60MB\n\
         jetstream {{\n  store_dir = \"{}\"\n}}\n\
         mqtt {{\n  listen = \"127.0.0.1:{port}\"\n  max_ack_pending = 65535\n}}\n",
        dir.display()
    )
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|addr| addr.port()).map_err(|why| why.to_string())
}

fn log_of(dir: &Path) -> String {
    let text = fs::read(dir.join("log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

impl Running {
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended with {status}: {}", log_of(self.dir.path())));
            }
            if begun.elapsed() > START_LIMIT {
                return Err(format!("nothing listens: {}", log_of(self.dir.path())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The CA of its certificate.
    #[must_use]
    pub fn ca(&self, program: &Program) -> PathBuf {
        let data =
            if program.kind == Kind::Forebay { self.dir.path().join("data") } else { self.dir.path().to_owned() };
        crate::certs::ca_path(&data)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_broker_is_the_first() {
        let names = ["floor", "forebay", "floor"].map(str::to_owned);
        let (found, missing) = find(&names, None).unwrap();
        assert_eq!(found.iter().map(|program| program.name).collect::<Vec<_>>(), ["forebay", "floor"]);
        assert!(missing.is_empty());
        assert!(find(&["emqx".to_owned()], None).unwrap_err().what.contains("it knows forebay, mosquitto"));
        assert!(find(&["mosquitto=/nowhere".to_owned()], None).unwrap_err().what.contains("/nowhere is no file"));
    }
}
