//! The broker of the story: this program, as a process of its own, with its store in a temporary folder.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use forebay_client::{Options, Tls};

use crate::tools::exit::Failure;

pub(super) struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Broker {
    pub(super) fn start() -> Result<Self, Failure> {
        let failed = |what: &str, error: std::io::Error| Failure::failed(format!("{what}: {error}"));
        let folder = tempfile::tempdir().map_err(|error| failed("no temporary folder", error))?;
        // It is free now, and again at once.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| failed("no free port", error))?.port();
        let config = format!("sys_interval = \"1s\"\n[[listeners]]\nurl = \"mqtts://127.0.0.1:{port}\"\n");
        std::fs::write(folder.path().join("demo.toml"), config).map_err(|error| failed("its configuration", error))?;
        let child = spawn(folder.path())?;
        Ok(Self { folder, port, child })
    }

    pub(super) fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.port)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client's options: its URL and its CA.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let ca = self.data().join("certs").join("ca.pem");
        let tls = Tls::new().ca_file(ca).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Options::new(&self.url()).map_err(|error| Failure::failed(error.to_string()))?.tls(tls))
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// As if its power had failed.
    pub(super) fn kill_and_start(&mut self) -> Result<(), Failure> {
        self.stop();
        self.child = spawn(self.folder.path())?;
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        // It may have ended by itself, which the account will show.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Memory of its process; `None` where the system does not tell.
    pub(super) fn resident_kb(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Size of its store.
    pub(super) fn store_kb(&self) -> u64 {
        std::fs::metadata(self.data().join("forebay.redb")).map_or(0, |store| store.len() / 1024)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts it, and waits until it says that it listens.
fn spawn(folder: &Path) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("the broker cannot be started: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--config").arg(folder.join("demo.toml")).arg("--data-dir").arg(folder.join("data"));
    command.args(["--log", "error"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    if !lines.map_while(Result::ok).any(|line| line.starts_with("try ")) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Failure::failed("the broker ended while it started; what it says stands above"));
    }
    Ok(child)
}
