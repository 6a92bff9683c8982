//! Brokers as child processes, and what they cost.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A broker that runs.
pub struct Process {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Its port for TLS; the floor has none.
    pub tls_port: u16,
    dir: tempfile::TempDir,
}

/// Which broker.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Ours: the program, and its configuration.
    Forebay(PathBuf, PathBuf),
    /// Debian's mosquitto.
    Mosquitto,
    /// The relay that checks nothing: this program itself.
    Floor,
}

impl Kind {
    /// Its name in the tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Forebay(..) => "forebay",
            Self::Mosquitto => "mosquitto",
            Self::Floor => "floor",
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Process {
    /// Starts it and waits until it accepts.
    pub fn start(kind: &Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (child, port, tls_port) = match kind {
            Kind::Forebay(program, config) => forebay(program, config, dir.path()),
            Kind::Mosquitto => mosquitto(dir.path()),
            Kind::Floor => {
                let port = free_port();
                let mut command = Command::new(std::env::current_exe().unwrap());
                (command.args(["relay", &port.to_string()]).spawn().unwrap(), port, 0)
            }
        };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(100));
        Self { child, port, tls_port, dir }
    }

    /// The CA of its certificate.
    pub fn ca(&self) -> PathBuf {
        crate::certs::ca_path(self.dir.path())
    }

    /// Nanoseconds of processor time of all its threads.
    pub fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Bytes that it has given to the disk.
    pub fn written_bytes(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap()
    }

    /// Kilobytes of its own resident memory.
    pub fn resident_kb(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forebay(program: &Path, config: &Path, dir: &Path) -> (Child, u16, u16) {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).arg("--data-dir").arg(dir);
    command.args(["--listen", "mqtt://127.0.0.1:0", "--listen", "mqtts://127.0.0.1:0", "--log", "warn"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the broker's program; build it, or give --broker");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut port_after = |scheme: &str| {
        let rest = lines.find_map(|line| line.split_once(scheme).map(|(_, rest)| rest.to_owned()))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let (Some(port), Some(tls_port)) = (port_after("mqtt://127.0.0.1:"), port_after("mqtts://127.0.0.1:")) else {
        panic!("the broker did not start: {:?}", child.wait());
    };
    std::thread::spawn(move || lines.count());
    (child, port, tls_port)
}

fn mosquitto(dir: &Path) -> (Child, u16, u16) {
    let (port, tls_port) = (free_port(), free_port());
    // A key of the same kind as ours, made the same way.
    let files = crate::certs::development(dir).unwrap();
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
         set_tcp_nodelay true\npersistence false\nlog_type error\n\
         listener {tls_port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
        files.certificate.display(),
        files.key.display()
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("mosquitto").arg("-c").arg(&config).stderr(Stdio::null()).spawn();
    (child.expect("mosquitto is not installed"), port, tls_port)
}
