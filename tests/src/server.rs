//! Servers as child processes on free ports of 127.0.0.1, their data in a scratch folder.

mod java;
pub mod secured;

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::broker::{free_port, program};
use crate::scratch::Scratch;

const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// RabbitMQ takes ten seconds, more on a busy machine: Java has taken more than two minutes where 25 processes shared two cores. A
/// server that never starts is ended.
const START_LIMIT: Duration = Duration::from_secs(300);

/// A server, and what it is started by.
pub struct Program {
    /// Where it listens.
    pub port: u16,
    line: Vec<String>,
    variables: Vec<(String, String)>,
    /// Erlang's port mapper. One that the node starts itself outlives it.
    epmd: Option<Child>,
    child: Option<Child>,
    /// The file that it makes when it can be used; without one it can be when it accepts connections.
    ready: Option<PathBuf>,
    scratch: Scratch,
}

impl Program {
    /// Starts the program that a command line and variables describe.
    pub fn start(scratch: Scratch, port: u16, line: Vec<String>, variables: Vec<(String, String)>) -> Self {
        let mut program = Self { port, line, variables, epmd: None, child: None, ready: None, scratch };
        program.run();
        program
    }

    /// This repository's broker.
    pub fn forebay() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        let line = vec![
            program().display().to_string(),
            "--data-dir".to_owned(),
            scratch.path().join("data").display().to_string(),
            "--listen".to_owned(),
            format!("mqtt://127.0.0.1:{port}"),
        ];
        Self::start(scratch, port, line, Vec::new())
    }

    /// Mosquitto without TLS.
    pub fn mosquitto() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        Self::mosquitto_with(scratch, port, &format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))
    }

    /// Mosquitto with these listeners.
    pub fn mosquitto_with(scratch: Scratch, port: u16, listeners: &str) -> Self {
        let folder = scratch.path().display();
        let text = format!(
            "user root\npersistence true\npersistence_location {folder}/\nmax_queued_messages 0\n\
             per_listener_settings true\n{listeners}"
        );
        let line = vec!["mosquitto".to_owned(), "-c".to_owned(), write(&scratch, "mosquitto.conf", &text)];
        Self::start(scratch, port, line, Vec::new())
    }

    /// nats-server; the port is that of its MQTT.
    pub fn nats() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        let text = format!(
            "server_name: test\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n\
             mqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
            free_port(),
            scratch.path().display()
        );
        let line = vec!["nats-server".to_owned(), "-c".to_owned(), write(&scratch, "nats.conf", &text)];
        Self::start(scratch, port, line, Vec::new())
    }

    /// nats-server with JetStream; the port is NATS's own. It takes 200,000 bytes at most.
    pub fn jetstream() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nmax_payload: 200000\njetstream {{ store_dir: \"{}\" }}\n",
            scratch.path().display()
        );
        let line = vec!["nats-server".to_owned(), "-c".to_owned(), write(&scratch, "nats.conf", &text)];
        Self::start(scratch, port, line, Vec::new())
    }

    /// Why there is no Kafka here, if there is none.
    pub fn kafka_is_absent() -> Option<String> {
        let absent = || (!java::libraries("kafka").is_dir()).then(|| "no Kafka".to_owned());
        crate::absence::of_program("java").or_else(absent)
    }

    /// One node of Kafka in KRaft mode. It makes no topic by itself, and takes messages of 100,000 bytes.
    pub fn kafka() -> Self {
        Self::kafka_with(Scratch::new("servers"), free_port(), "", "", &[])
    }

    /// The same, open to everybody at this port; with more listeners (`,NAME://ADDRESS`), lines, and words for the tool that formats
    /// its store.
    fn kafka_with(scratch: Scratch, port: u16, listeners: &str, more: &str, formatting: &[&str]) -> Self {
        let controller = free_port();
        let folder = scratch.path().display().to_string();
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={folder}/data\nauto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\nmessage.max.bytes=100000\n{more}"
        );
        let properties = write(&scratch, "server.properties", &text);
        let java = |class: &str, arguments: &[&str]| -> Vec<String> {
            let path = format!("{}/*", java::libraries("kafka").display());
            let line = ["java", "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-cp", &path, class];
            line.iter().chain(arguments).map(|word| (*word).to_owned()).collect()
        };
        let arguments = [&["format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", &properties], formatting].concat();
        let format = java("kafka.tools.StorageTool", &arguments);
        let formatted = Command::new(&format[0]).args(&format[1..]).output().unwrap();
        assert!(formatted.status.success(), "{formatted:?}");
        Self::start(scratch, port, java("kafka.Kafka", &[&properties]), Vec::new())
    }

    /// Why there is no RabbitMQ here, if there is none.
    pub fn rabbitmq_is_absent() -> Option<String> {
        (!Path::new(RABBITMQ).exists()).then(|| "no rabbitmq-server".to_owned())
    }

    /// RabbitMQ; the port is that of its MQTT.
    pub fn rabbitmq() -> Self {
        let port = free_port();
        let text = format!("listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\n");
        Self::rabbitmq_with(Scratch::new("servers"), port, &text, "[rabbitmq_mqtt].\n")
    }

    /// RabbitMQ with AMQP 0-9-1 at its port, and more lines of configuration.
    pub fn rabbitmq_amqp(more: &str) -> Self {
        let port = free_port();
        let text = format!("listeners.tcp.1 = 127.0.0.1:{port}\n{more}");
        Self::rabbitmq_with(Scratch::new("servers"), port, &text, "[].\n")
    }

    /// RabbitMQ with this configuration and these plug-ins.
    pub fn rabbitmq_with(scratch: Scratch, port: u16, text: &str, plugins: &str) -> Self {
        let epmd = free_port();
        let folder = scratch.path().display().to_string();
        let variables = [
            ("HOME", folder.clone()),
            ("RABBITMQ_NODENAME", format!("forebay{port}@localhost")),
            ("RABBITMQ_CONFIG_FILE", write(&scratch, "rabbitmq.conf", text)),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", write(&scratch, "plugins", plugins)),
            ("RABBITMQ_MNESIA_BASE", format!("{folder}/mnesia")),
            ("RABBITMQ_LOG_BASE", format!("{folder}/logs")),
            ("RABBITMQ_DIST_PORT", free_port().to_string()),
            ("RABBITMQ_PID_FILE", format!("{folder}/pid")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mapper = Command::new("epmd").args(["-address", "127.0.0.1", "-port", &epmd.to_string()]).spawn().unwrap();
        let line = vec![RABBITMQ.to_owned()];
        let mut program = Self { port, line, variables, epmd: Some(mapper), child: None, ready: None, scratch };
        program.run();
        program
    }

    /// Its scratch folder.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// RabbitMQ's own tool, on this server.
    pub fn rabbitmqctl(&self, arguments: &[&str]) {
        let tool = Path::new(RABBITMQ).with_file_name("rabbitmqctl");
        let node = self.variables.iter().find(|(name, _)| name == "RABBITMQ_NODENAME").map_or("", |(_, node)| node);
        let command = Command::new(tool).args(["--node", node]).args(arguments).envs(self.variables.clone()).output();
        let output = command.unwrap();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
    }

    /// Starts it, and waits until it can be used.
    pub fn run(&mut self) {
        if let Some(file) = &self.ready {
            let _ = std::fs::remove_file(file);
        }
        let log = File::options().create(true).append(true).open(self.folder().join("log")).unwrap();
        let mut command = Command::new(&self.line[0]);
        command.args(&self.line[1..]).envs(self.variables.clone()).stdin(Stdio::null());
        // A group of its own: some are scripts that start the server.
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap_or_else(|why| panic!("{}: {why}", self.line[0])));
        let start = Instant::now();
        while !self.is_usable() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let waits = ended.is_none() && start.elapsed() < START_LIMIT;
            assert!(waits, "{} did not start: {ended:?}\n{}", self.line[0], self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_usable(&self) -> bool {
        let is_ready = self.ready.as_ref().is_none_or(|file| file.exists());
        is_ready && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal("-9");
    }

    /// SIGTERM; it ends in its own time.
    pub fn terminate(&mut self) {
        self.signal("-15");
    }

    /// It stands still, and its sockets take what is sent.
    pub fn freeze(&mut self) {
        self.tell("-STOP");
    }

    /// It is to read its configuration again.
    pub fn reload(&self) {
        self.tell("-HUP");
    }

    /// It goes on.
    pub fn thaw(&mut self) {
        self.tell("-CONT");
    }

    fn tell(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let status = Command::new("kill").args([signal, "--", &format!("-{}", child.id())]).status();
        assert!(status.is_ok_and(|status| status.success()), "it has ended by itself\n{}", self.log());
    }

    fn signal(&mut self, signal: &str) {
        self.tell(signal);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log().into_bytes();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(3_000)..]).into_owned();
            println!(
                "--- the server's log ends with:
{tail}
---"
            );
        }
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
        }
        if let Some(mut epmd) = self.epmd.take() {
            let _ = epmd.kill();
            let _ = epmd.wait();
        }
    }
}

/// Writes a file into the folder; its path.
pub fn write(scratch: &Scratch, name: &str, text: &str) -> String {
    let file: PathBuf = scratch.path().join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// A CA, a certificate for localhost (`server.pem`) and one for a client (`client.pem`), each with its key.
pub fn make_certificates(folder: &Path) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    let ca_key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for name in ["server", "client"] {
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
