//! Without a configuration: what the opening lines say is true, and nobody but this machine is let in.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use forebay_tests::absence;
use forebay_tests::broker;
use forebay_tests::device::Wire;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{self, Packet, Version};
use forebay_tests::scratch::Scratch;

use crate::Case;

pub(crate) fn trials() -> Vec<Case> {
    let taken = [1883, 8883].into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err());
    let absent = taken.map(|_| "port 1883 or 8883 is in use".to_owned());
    let absent = absent.or_else(|| absence::of_program("mosquitto_pub"));
    vec![("without_a_configuration_the_opening_lines_are_true", absent, opening_lines)]
}

struct Opened {
    child: Child,
    lines: Vec<String>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program as a newcomer does, with a home of its own, and reads until the line that is to be tried.
fn open(home: &Path) -> Opened {
    let mut command = Command::new(broker::program());
    command.env("HOME", home).env_remove("XDG_DATA_HOME").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    for line in out.lines() {
        lines.push(line.unwrap());
        if lines.last().is_some_and(|line| line.starts_with("try")) {
            break;
        }
    }
    Opened { child, lines }
}

fn opening_lines() {
    let scratch = Scratch::new("home");
    let opened = open(scratch.path());
    let lines = &opened.lines;
    assert_eq!(lines[0], "forebay 0.1.0", "{lines:?}");
    let line =
        |with: &str| lines.iter().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with}: {lines:?}"));
    assert!(line("mqtt://127.0.0.1:1883").contains("this machine only"), "{lines:?}");
    assert!(line("mqtts://127.0.0.1:8883").contains("this machine only"), "{lines:?}");
    loopback_only(opened.child.id());

    let (_, ca) = line("mqtts://").split_once("CA ").expect("the CA's file is named");
    let (_, data) = line("data  ").split_once('/').expect("the store's file is named");
    let data = PathBuf::from(format!("/{}", data.split(" (").next().unwrap()));
    assert!(data.starts_with(scratch.path()) && data.is_file(), "{}", data.display());
    for endpoint in [Endpoint::tcp(1883), Endpoint::tls(8883, Path::new(ca))] {
        greets(&endpoint);
    }
    try_line(line("try  "));
}

fn greets(endpoint: &Endpoint) {
    Wire::open(endpoint, Version::V5, "newcomer").unwrap_or_else(|why| panic!("{endpoint:?}: {why}"));
}

/// The printed line works, as it was printed: a subscriber sees its message.
fn try_line(line: &str) {
    let command = line.trim_start_matches("try").trim();
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words[0], "mosquitto_pub", "{line}");
    let after = |flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1];
    let (mut wire, _) = Wire::open(&Endpoint::tcp(1883), Version::V4, "watcher").unwrap();
    wire.send(&packet::subscribe(Version::V4, 1, after("-t"), 1)).unwrap();
    assert!(matches!(wire.answer().unwrap(), Packet::Suback(1, ..)));
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    match wire.answer().unwrap() {
        Packet::Publish(packet::Message { topic, payload, .. }) => {
            assert_eq!((topic.as_str(), payload.as_slice()), (after("-t"), after("-m").as_bytes()));
        }
        other => panic!("{command}: {other:?} came"),
    }
}

/// All addresses that the process listens on, by Linux's tables.
fn loopback_only(pid: u32) {
    let mut own = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        if let Some(inode) = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')) {
            own.insert(inode.to_owned());
        }
    }
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields[3] == "0A" || table.starts_with("udp");
            if listens && own.contains(fields[9]) {
                listening.push(format!("{table} {}", fields[1]));
            }
        }
    }
    listening.sort();
    // 127.0.0.1, as the kernel prints it on a little-endian machine.
    let addresses = ["127.0.0.1:1883", "127.0.0.1:8883"].map(|a| a.parse::<SocketAddr>().unwrap());
    let wanted = addresses.map(|a| format!("tcp 0100007F:{:04X}", a.port()));
    assert_eq!(listening, wanted, "it listens on loopback and nowhere else");
}
