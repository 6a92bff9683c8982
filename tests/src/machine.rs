//! The device: the firmware is built, and QEMU runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::absence::of_program;
use crate::scratch::Scratch;

const TARGET: &str = "thumbv7m-none-eabi";
const QEMU: &str = "qemu-system-arm";

/// Why the firmware cannot be built or run here.
pub fn absent() -> Option<String> {
    of_program(QEMU).or_else(|| {
        let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        (!folder.is_dir()).then(|| format!("no Rust target {TARGET}"))
    })
}

/// Which firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS 1.3.
    Tls,
}

/// The program, which is built when it is first asked for.
fn firmware(transport: Transport) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    BUILT[transport as usize].get_or_init(|| {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let name = if transport == Transport::Tls { "metal-tls" } else { "metal" };
        let folder = repository.join("target").join(name);
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--target", TARGET, "--manifest-path"]);
        cargo.arg(repository.join("firmware-client/examples/metal/Cargo.toml")).arg("--target-dir").arg(&folder);
        if transport == Transport::Tls {
            cargo.args(["--features", "tls"]);
        }
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder.join(TARGET).join("release/forebay-firmware-metal")
    })
}

/// A running device; it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    scratch: Scratch,
    child: Child,
}

impl Machine {
    /// Switches it on; `task` is what it is to do.
    pub fn start(transport: Transport, task: &[(&str, String)]) -> Self {
        let scratch = Scratch::new("metal");
        let console = std::fs::File::create(scratch.path().join("console")).unwrap();
        let words: String = task.iter().map(|(name, value)| format!(",arg={name}={value}")).collect();
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "lm3s6965evb", "-nographic", "-nic", "user,id=n,model=stellaris"]);
        qemu.arg("-object").arg(format!("filter-dump,id=f,netdev=n,file={}", scratch.path().join("pcap").display()));
        // The first word is the program's name.
        qemu.args(["-semihosting-config", &format!("enable=on,target=native,arg=metal{words}")]);
        qemu.arg("-kernel").arg(firmware(transport));
        qemu.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let child = qemu.spawn().unwrap();
        Self { scratch, child }
    }

    /// What it has printed.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("console")).unwrap_or_default()
    }

    /// The rest of each line that begins so.
    pub fn printed(&self, beginning: &str) -> Vec<String> {
        self.console().lines().filter_map(|line| Some(line.strip_prefix(beginning)?.trim().to_owned())).collect()
    }

    /// Waits for a line that begins so.
    pub fn wait_for(&mut self, beginning: &str, limit: Duration) {
        let begun = Instant::now();
        while self.printed(beginning).is_empty() {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended before {beginning}");
            assert!(begun.elapsed() < limit, "it does not print {beginning}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < limit, "the device does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the device's console:\n{}\n---", self.console());
        }
    }
}
