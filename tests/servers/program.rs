//! Servers as child processes on free ports of 127.0.0.1, their data in a scratch folder.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::broker::{free_port, program};
use forebay_tests::scratch::Scratch;

const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// RabbitMQ takes ten seconds, more on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Program {
    pub(crate) port: u16,
    line: Vec<String>,
    variables: Vec<(String, String)>,
    /// Erlang's port mapper. One that the node starts itself outlives it.
    epmd: Option<Child>,
    child: Option<Child>,
    scratch: Scratch,
}

impl Program {
    /// Starts the program that a command line and variables describe.
    pub(crate) fn start(scratch: Scratch, port: u16, line: Vec<String>, variables: Vec<(String, String)>) -> Self {
        let mut program = Self { port, line, variables, epmd: None, child: None, scratch };
        program.run();
        program
    }

    pub(crate) fn forebay() -> Self {
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

    pub(crate) fn mosquitto() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        Self::mosquitto_with(scratch, port, &format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))
    }

    pub(crate) fn mosquitto_with(scratch: Scratch, port: u16, listeners: &str) -> Self {
        let folder = scratch.path().display();
        let text = format!(
            "user root\npersistence true\npersistence_location {folder}/\nmax_queued_messages 0\n\
             per_listener_settings true\n{listeners}"
        );
        let line = vec!["mosquitto".to_owned(), "-c".to_owned(), write(&scratch, "mosquitto.conf", &text)];
        Self::start(scratch, port, line, Vec::new())
    }

    pub(crate) fn nats() -> Self {
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

    pub(crate) fn rabbitmq_is_absent() -> Option<String> {
        (!Path::new(RABBITMQ).exists()).then(|| "no rabbitmq-server".to_owned())
    }

    pub(crate) fn rabbitmq() -> Self {
        let (scratch, port, epmd) = (Scratch::new("servers"), free_port(), free_port());
        let text = format!("listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\n");
        let folder = scratch.path().display().to_string();
        let variables = [
            ("HOME", folder.clone()),
            ("RABBITMQ_NODENAME", format!("forebay{port}@localhost")),
            ("RABBITMQ_CONFIG_FILE", write(&scratch, "rabbitmq.conf", &text)),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", write(&scratch, "plugins", "[rabbitmq_mqtt].\n")),
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
        let (line, child) = (vec![RABBITMQ.to_owned()], None);
        let mut program = Self { port, line, variables, epmd: Some(mapper), child, scratch };
        program.run();
        program
    }

    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts it, and waits until it accepts connections.
    pub(crate) fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder().join("log")).unwrap();
        let mut command = Command::new(&self.line[0]);
        command.args(&self.line[1..]).envs(self.variables.clone()).stdin(Stdio::null());
        // A group of its own: some are scripts that start the server.
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap_or_else(|why| panic!("{}: {why}", self.line[0])));
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let waits = ended.is_none() && start.elapsed() < START_LIMIT;
            assert!(waits, "{} did not start: {ended:?}\n{}", self.line[0], self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.signal("-9");
    }

    pub(crate) fn terminate(&mut self) {
        self.signal("-15");
    }

    fn signal(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let group = format!("-{}", child.id());
        let status = Command::new("kill").args([signal, "--", &group]).status();
        assert!(status.is_ok_and(|status| status.success()), "it has ended by itself\n{}", self.log());
        child.wait().unwrap();
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
pub(crate) fn write(scratch: &Scratch, name: &str, text: &str) -> String {
    let file: PathBuf = scratch.path().join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}
