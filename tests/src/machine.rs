//! The device: the firmware is built, and QEMU runs it.

use std::collections::BTreeMap;
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
    /// Goes away with it.
    _scratch: Scratch,
    console: Console,
    transport: Transport,
    child: Child,
}

/// What a device has printed. What it prints is here before it goes on.
#[derive(Debug, Clone)]
pub struct Console(PathBuf);

impl Console {
    /// All of it.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// The rest of each line that begins so.
    pub fn printed(&self, beginning: &str) -> Vec<String> {
        self.text().lines().filter_map(|line| Some(line.strip_prefix(beginning)?.trim().to_owned())).collect()
    }
}

/// A device's account of itself, from its last message.
pub fn account(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, count)| (name.to_owned(), count.parse().unwrap())).collect()
}

impl Machine {
    /// Switches it on; `task` is what it is to do.
    pub fn start(transport: Transport, task: &[(&str, String)]) -> Self {
        let scratch = Scratch::new("metal");
        let console = Console(scratch.path().join("console"));
        let output = std::fs::File::create(&console.0).unwrap();
        let words: String = task.iter().map(|(name, value)| format!(",arg={name}={value}")).collect();
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "lm3s6965evb", "-nographic", "-nic", "user,id=n,model=stellaris"]);
        qemu.arg("-object").arg(format!("filter-dump,id=f,netdev=n,file={}", scratch.path().join("pcap").display()));
        // The first word is the program's name.
        qemu.args(["-semihosting-config", &format!("enable=on,target=native,arg=metal{words}")]);
        qemu.arg("-kernel").arg(firmware(transport));
        qemu.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = qemu.spawn().unwrap();
        Self { _scratch: scratch, console, transport, child }
    }

    /// What it has printed, also for another thread.
    pub fn console(&self) -> Console {
        self.console.clone()
    }

    /// The rest of each line that begins so.
    pub fn printed(&self, beginning: &str) -> Vec<String> {
        self.console.printed(beginning)
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

    /// Waits until it has done what it was to do. There is nothing below the stack that would stop it, so some of it has to
    /// be left.
    pub fn succeeds(&mut self, limit: Duration) {
        assert!(self.ended(limit).success(), "the device failed");
        let [line] = &self.printed("stack ")[..] else { panic!("it says nothing of its stack") };
        let (used, size) = line.split_once(" of ").unwrap();
        let (used, size): (u32, u32) = (used.parse().unwrap(), size.parse().unwrap());
        println!("stack, {:?}: {used} of {size} bytes", self.transport);
        assert!(used + 1_024 <= size, "{line}");
    }

    /// Waits until it ends by itself.
    fn ended(&mut self, limit: Duration) -> ExitStatus {
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
            eprintln!("--- the device's console:\n{}\n---", self.console.text());
        }
    }
}
