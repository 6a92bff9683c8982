//! Brokers as child processes: this repository's, and mosquitto to try a test itself on.

use std::fs::{File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::scratch::Scratch;

/// Which program is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This repository's broker: FOREBAY_BIN, or the newest build.
    Forebay,
    /// Debian's mosquitto; it syncs nothing, so the crash tests are not for it.
    Mosquitto,
}

impl Kind {
    /// What the environment variable BROKER asks for; `forebay` when it is not set.
    pub fn from_environment() -> Self {
        match std::env::var("BROKER").as_deref() {
            Ok("mosquitto") => Self::Mosquitto,
            Ok("forebay") | Err(_) => Self::Forebay,
            Ok(other) => panic!("BROKER={other}: it is forebay or mosquitto"),
        }
    }
}

/// A broker that listens on two ports of 127.0.0.1, and that is killed when this is dropped.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    data: PathBuf,
    scratch: Scratch,
    port: u16,
    tls_port: u16,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    /// The ports that it is to listen on.
    ports: Vec<u16>,
    /// Its addresses are in its configuration, not on its command line.
    configured: bool,
    child: Option<Child>,
}

/// How long a broker may take until it accepts connections, before the test gives up on it.
const START_LIMIT: Duration = Duration::from_secs(30);

impl Broker {
    /// Starts the broker that the environment names, with its data in a new temporary folder.
    pub fn start() -> Self {
        let mut broker = Self::prepare(None);
        broker.run();
        broker
    }

    /// Starts this one, whatever the environment names.
    pub fn start_as(kind: Kind) -> Self {
        let mut broker = Self::prepare_as(kind, None);
        broker.run();
        broker
    }

    /// The broker that the environment names, not yet running; `data` is its data directory if it is given.
    pub fn prepare(data: Option<&Path>) -> Self {
        Self::prepare_as(Kind::from_environment(), data)
    }

    /// This one, not yet running.
    pub fn prepare_as(kind: Kind, data: Option<&Path>) -> Self {
        let scratch = Scratch::new("broker");
        let data = data.map_or_else(|| scratch.path().join("data"), Path::to_path_buf);
        std::fs::create_dir_all(&data).unwrap();
        let (port, tls_port) = (free_port(), free_port());
        if kind == Kind::Mosquitto {
            mosquitto::prepare(scratch.path(), &data, port, tls_port);
        }
        let (wrapper, arguments, ports) = (Vec::new(), Vec::new(), vec![port, tls_port]);
        Self { kind, data, scratch, port, tls_port, wrapper, arguments, ports, configured: false, child: None }
    }

    /// Starts this repository's broker with a configuration file, see [`Broker::configure`].
    pub fn with_config(text: &str) -> Self {
        let mut broker = Self::prepare(None);
        broker.configure(text);
        broker.run();
        broker
    }

    /// Gives it a configuration file; `PORT` and `TLS_PORT` in it are replaced by its ports. With listeners in it, those are
    /// the ones that it has.
    pub fn configure(&mut self, text: &str) {
        assert_eq!(self.kind, Kind::Forebay, "the configuration is for forebay");
        self.ports = vec![self.port, self.tls_port];
        self.configured = text.contains("[[listeners]]");
        if self.configured {
            let named = [(text.contains(":PORT"), self.port), (text.contains(":TLS_PORT"), self.tls_port)];
            self.ports = named.into_iter().filter(|(there, _)| *there).map(|(_, port)| port).collect();
        }
        let text =
            text.replace(":TLS_PORT", &format!(":{}", self.tls_port)).replace(":PORT", &format!(":{}", self.port));
        let file = self.scratch.path().join("forebay.toml");
        std::fs::write(&file, text).unwrap();
        self.arguments.retain(|argument| !argument.starts_with("--config="));
        self.arguments.push(format!("--config={}", file.display()));
    }

    /// Puts a program and its arguments before the broker's own, such as `strace`.
    pub fn set_wrapper(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|s| (*s).to_owned()).collect();
    }

    /// It listens for plain TCP only.
    pub fn plain_only(&mut self) {
        self.ports = vec![self.port];
    }

    /// Adds arguments to the broker's command line.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|s| (*s).to_owned()));
    }

    /// Starts the program on the same data and the same ports, and waits until it accepts connections.
    pub fn run(&mut self) {
        self.spawn();
        if let Err(why) = self.wait_until_ready() {
            panic!("the broker did not start: {why}\n{}", self.log());
        }
    }

    /// Starts the program, which is to end by itself, and waits for it; the answer is its exit code.
    pub fn run_to_end(&mut self) -> Option<i32> {
        self.spawn();
        self.ended()
    }

    /// The same, with its standard output and standard error going there.
    pub fn run_with_log_to(&mut self, log: std::io::PipeWriter) {
        self.spawn_with(log.try_clone().unwrap().into(), log.into());
        if let Err(why) = self.wait_until_ready() {
            panic!("the broker did not start: {why}");
        }
    }

    fn spawn(&mut self) {
        let log = self.log_file();
        self.spawn_with(log.try_clone().unwrap().into(), log.into());
    }

    fn spawn_with(&mut self, out: Stdio, err: Stdio) {
        assert!(self.child.is_none(), "it runs already");
        let mut line: Vec<String> = self.wrapper.clone();
        match self.kind {
            Kind::Mosquitto => {
                let config = self.scratch.path().join("mosquitto.conf");
                line.extend(["mosquitto".into(), "-c".into(), config.display().to_string()]);
            }
            Kind::Forebay => {
                line.extend([program().display().to_string(), "--data-dir".into(), self.data.display().to_string()]);
                if !self.configured {
                    line.extend(["--listen".into(), format!("mqtt://127.0.0.1:{}", self.port)]);
                    if self.ports.contains(&self.tls_port) {
                        line.extend(["--listen".into(), format!("mqtts://127.0.0.1:{}", self.tls_port)]);
                    }
                }
            }
        }
        line.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(out).stderr(err);
        self.child = Some(command.spawn().unwrap_or_else(|why| panic!("{}: {why}", line[0])));
    }

    fn log_file(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.scratch.path().join("log")).unwrap()
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        for port in self.ports.clone() {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                if let Some(status) = self.child.as_mut().unwrap().try_wait().map_err(|e| e.to_string())? {
                    self.child = None;
                    return Err(format!("it ended with {status}"));
                }
                if begun.elapsed() > START_LIMIT {
                    return Err(format!("nothing listens on port {port}"));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Ends it with SIGKILL, as a power switch would, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it with SIGTERM and waits; the answer is its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let _ = Command::new("kill").arg(self.pid()?.to_string()).status();
        self.ended()
    }

    /// Waits until it has ended by itself; the answer is its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.take()?.wait().ok()?.code()
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Its process's number while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kilobytes of it that are in memory, as Linux tells.
    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The port for plain TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The certificate of the CA that signed the broker's, made by the broker at its first start.
    pub fn ca(&self) -> PathBuf {
        self.data.join("certs").join("ca.pem")
    }

    /// All that it wrote: what a test waits for may be followed by much else.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    fn log_bytes(&self) -> Vec<u8> {
        std::fs::read(self.scratch.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log_bytes();
            let tail = &log[log.len().saturating_sub(4000)..];
            eprintln!("--- the broker's log ends with:\n{}\n---", String::from_utf8_lossy(tail));
        }
    }
}

/// The broker's program: FOREBAY_BIN, or the newest one among the profiles' folders.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_BIN") {
        return path.into();
    }
    // This test runs from target/PROFILE/deps.
    let here = std::env::current_exe().unwrap();
    let target = here.ancestors().nth(3).unwrap();
    let newest = ["quick", "debug", "release"]
        .map(|profile| target.join(profile).join("forebay"))
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    newest
        .map(|(_, path)| path)
        .unwrap_or_else(|| panic!("no broker in {}: `cargo build -p forebay`, or set FOREBAY_BIN", target.display()))
}

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A free port below the system's range for outgoing connections, so that it is still free at a restart.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    loop {
        let n = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(37) as u16;
        let port = FIRST + n.wrapping_add(spread) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

mod mosquitto {
    use std::path::Path;
    use std::process::Command;

    /// Writes its configuration and a CA with a server certificate (openssl's program makes them).
    pub(super) fn prepare(scratch: &Path, data: &Path, port: u16, tls_port: u16) {
        let certs = data.join("certs");
        std::fs::create_dir_all(&certs).unwrap();
        make_certificates(&certs);
        let (data, certs) = (data.display(), certs.display());
        let text = format!(
            "user root\nallow_anonymous true\npersistence true\npersistence_location {data}/\nlog_type all\n\
             max_queued_messages 0\nlistener {port} 127.0.0.1\nlistener {tls_port} 127.0.0.1\n\
             cafile {certs}/ca.pem\ncertfile {certs}/server.pem\nkeyfile {certs}/server.key\n"
        );
        std::fs::write(scratch.join("mosquitto.conf"), text).unwrap();
    }

    fn make_certificates(folder: &Path) {
        let script = "set -e\n\
            new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'\n\
            $new -x509 -keyout ca.key -out ca.pem -subj '/CN=test CA'\n\
            $new -keyout server.key -out server.csr -subj '/CN=localhost'\n\
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext\n\
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem\n";
        let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
}
