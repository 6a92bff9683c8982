//! How the tools end: with DISCONNECT, without a session left behind, and with nothing acknowledged that was not written.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::sys::Sys;

use super::{Subscriber, forebay, publish};

/// How long a condition may take.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A server for one connection: answers CONNECT and SUBSCRIBE, and hands out the first byte of each packet that came, and the
/// seconds of session expiry in CONNECT (MQTT 5).
fn server() -> (String, mpsc::Receiver<u8>, mpsc::Receiver<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let ((packets, came), (expiry, asked)) = (mpsc::channel(), mpsc::channel());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 2];
        while stream.read_exact(&mut head).is_ok() {
            let mut body = vec![0; usize::from(head[1])];
            stream.read_exact(&mut body).unwrap();
            let answer = match head[0] >> 4 {
                1 => {
                    let properties = &body[11..11 + usize::from(body[10])];
                    let seconds = properties
                        .strip_prefix(&[0x11])
                        .map_or(0, |rest| u32::from_be_bytes(rest[..4].try_into().unwrap()));
                    expiry.send(seconds).unwrap();
                    vec![0x20, 3, 0, 0, 0]
                }
                8 => vec![0x90, 4, body[0], body[1], 0, 0],
                _ => Vec::new(),
            };
            std::io::Write::write_all(&mut stream, &answer).unwrap();
            packets.send(head[0]).unwrap();
        }
    });
    (port, came, asked)
}

fn wait_for(came: &mpsc::Receiver<u8>, packet: u8) {
    while came.recv_timeout(LIMIT).unwrap() != packet {}
}

pub(super) fn signals_and_time_end_with_disconnect() {
    for (tool, name, code) in [
        (&["sub", "-t", "t", "-q", "1"][..], "-TERM", 0),
        (&["sub", "-t", "t"], "-INT", 0),
        (&["sub", "-t", "t", "-C", "1"], "-INT", 8),
        (&["sub", "-t", "t", "-W", "1"], "", 0),
        (&["pub", "-t", "t", "-l"], "-TERM", 0),
        (&["pub", "-t", "t", "-m", "x", "--repeat", "1000", "--repeat-delay", "9"], "-INT", 1),
    ] {
        let (port, came, asked) = server();
        let mut child = forebay(&[tool, &["-p", &port]].concat()).stdin(Stdio::piped()).spawn().unwrap();
        // Nothing is kept for who does not come back.
        assert_eq!(asked.recv_timeout(LIMIT).unwrap(), 0, "{tool:?}");
        match tool {
            ["sub", ..] => wait_for(&came, 0x82),
            ["pub", .., "9"] => wait_for(&came, 0x30),
            _ => wait_for(&came, 0x10),
        }
        if !name.is_empty() {
            signal(&child, name);
        }
        wait_for(&came, 0xe0);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{tool:?} {name}");
    }
}

/// Waits until the broker knows so many sessions beside the one that asks.
fn wait_for_sessions(sys: &mut Sys, wanted: u64) {
    let begun = Instant::now();
    loop {
        let figures = sys.figures();
        let sessions = figures["clients/total"] - 1;
        if sessions == wanted {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{sessions} sessions, not {wanted}: {figures:?}");
    }
}

fn broker_with_figures() -> (Broker, Sys) {
    let mut broker = Broker::prepare(None);
    broker.configure("sys_interval = \"1s\"\n");
    broker.run();
    let sys = Sys::open(&Endpoint::tcp(broker.port()));
    (broker, sys)
}

pub(super) fn sub_leaves_no_session_behind() {
    let (broker, mut sys) = broker_with_figures();
    for (version, name) in [("5", "-KILL"), ("5", "-TERM"), ("3.1.1", "-KILL"), ("3.1.1", "-INT")] {
        let mut subscriber = Subscriber::start(broker.port(), &["-t", "x", "-q", "1", "-V", version, "-i", "me"]);
        wait_for_sessions(&mut sys, 1);
        signal(&subscriber.child, name);
        subscriber.child.wait().unwrap();
        wait_for_sessions(&mut sys, 0);
    }
}

pub(super) fn bench_leaves_no_session_behind() {
    let (broker, mut sys) = broker_with_figures();
    let port = broker.port();
    for version in ["5", "3.1.1"] {
        let url = format!("mqtt://127.0.0.1:{port}");
        let line = ["bench", "pairs", "--url", &url, "-V", version, "-q", "1", "--persistent", "-d", "60"];
        let mut child = forebay(&line).spawn().unwrap();
        let begun = Instant::now();
        while sys.figures()["clients/total"] < 3 {
            assert!(begun.elapsed() < LIMIT && child.try_wait().unwrap().is_none(), "bench does not connect");
        }
        signal(&child, "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        wait_for_sessions(&mut sys, 0);
    }
}

/// A full disk and a pipe that nobody reads: the exit code says it, and the server has the message still.
pub(super) fn what_sub_cannot_write_comes_again() {
    let broker = Broker::start();
    let port = broker.port().to_string();
    for (version, output) in [("5", "full"), ("5", "pipe"), ("3.1.1", "full"), ("3.1.1", "pipe")] {
        let session = ["sub", "-p", &port, "-V", version, "-i", "writer", "-c", "-t", "w", "-q", "1", "-W", "60"];
        let with = |more: &[&str]| forebay(&[&session[..], more].concat());
        assert!(with(&["-E"]).status().unwrap().success());
        publish(broker.port(), &["-t", "w", "-q", "1", "-m", "kept", "--repeat", "3"]);
        let mut failing = with(&[]);
        let mut child = if output == "full" {
            failing.stdout(File::options().write(true).open("/dev/full").unwrap()).spawn().unwrap()
        } else {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            failing.stdout(writer).spawn().unwrap()
        };
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
        assert!(said.contains("the output cannot be written"), "{said}");
        let later = with(&["-C", "3"]).output().unwrap();
        assert_eq!((later.status.code(), later.stdout), (Some(0), b"kept\n".repeat(3)), "{version} {output}");
    }
}

/// The time in which a tool that is asked to stop has ended.
const SOON: Duration = Duration::from_secs(10);

fn exit_code_soon(child: &mut Child, of: &str) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if begun.elapsed() > SOON {
            child.kill().unwrap();
            panic!("{of}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The reader of the output, or of the errors, has stopped reading. SIGTERM and SIGINT end it all the same, with DISCONNECT,
/// and what was not written has not been acknowledged.
pub(super) fn sub_ends_while_nobody_reads_what_it_writes() {
    let (broker, mut sys) = broker_with_figures();
    let port = broker.port().to_string();
    for (stuck, name) in [("output", "-TERM"), ("output", "-INT"), ("errors", "-TERM")] {
        let session = ["sub", "-p", &port, "-i", stuck, "-c", "-t", "x", "-q", "1", "-F", "%p"];
        assert!(forebay(&[&session[..], &["-E"]].concat()).status().unwrap().success());
        // A will says that it ended without DISCONNECT.
        let will = ["--will-topic", "gone", "--will-payload", "gone"];
        let mut command = forebay(&[&session[..], &will, &["-d"]].concat());
        let (unread, writer) = std::io::pipe().unwrap();
        let mut child = if stuck == "output" {
            command.stdout(writer).stderr(Stdio::null()).spawn().unwrap()
        } else {
            command.stdout(Stdio::null()).stderr(writer).spawn().unwrap()
        };
        // It holds the writing end open.
        drop(command);
        let wills = Subscriber::start(broker.port(), &["-t", "gone", "-C", "1"]);
        let line = "x".repeat(1_000);
        publish(broker.port(), &["-t", "x", "-q", "1", "-m", &line, "--repeat", "300"]);
        // Until nothing moves any more.
        let mut before = u64::MAX;
        loop {
            let stored = sys.figures()["queues/messages"];
            if stored == before {
                break;
            }
            before = stored;
            std::thread::sleep(Duration::from_millis(1_100));
        }
        signal(&child, name);
        assert_eq!(exit_code_soon(&mut child, stuck), Some(0), "{stuck} {name}");
        publish(broker.port(), &["-t", "gone", "-m", "no will"]);
        assert_eq!(wills.lines(), ["no will"], "{stuck} {name}: it ended without DISCONNECT");
        let mut written = Vec::new();
        let mut unread = unread;
        unread.read_to_end(&mut written).unwrap();
        if stuck == "output" {
            let later = forebay(&[&session[..], &["-W", "2"]].concat()).output().unwrap().stdout;
            let whole = written.iter().filter(|byte| **byte == b'\n').count();
            let again = later.iter().filter(|byte| **byte == b'\n').count();
            assert!(whole < 300 && whole + again >= 300, "{whole} were written, {again} came again");
        }
    }
}

/// Nobody reads the errors: the exit code is what it would be.
pub(super) fn exit_codes_without_a_reader_of_the_errors() {
    let broker = Broker::start();
    let (port, nobody) = (broker.port().to_string(), forebay_tests::broker::free_port().to_string());
    let url = format!("mqtt://127.0.0.1:{nobody}");
    for (line, code) in [
        (&["pub", "-p", &nobody, "-t", "t", "-m", "x"][..], 4),
        (&["pub", "-p", &port, "-t", "t", "-m", "x", "-q", "1", "-d"], 0),
        (&["sub", "-p", &nobody, "-t", "t"], 4),
        (&["sub", "-p", &port, "-t", "t", "-W", "1", "-d"], 0),
        (&["sub", "-p", &port, "-t", "t", "-W", "1", "-C", "1"], 8),
        (&["bench", "pairs", "--url", &url, "-d", "1"], 4),
        (&["completions", "nonsense"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = forebay(line).stdout(Stdio::null()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{line:?}");
    }
}

pub(super) fn the_demo_takes_its_folder_away() {
    let scratch = forebay_tests::scratch::Scratch::new("demo");
    let mut command = forebay(&["demo", "--devices", "5", "--seconds", "60"]);
    let mut child = command.env("TMPDIR", scratch.path()).spawn().unwrap();
    let folders = || std::fs::read_dir(scratch.path()).unwrap().count();
    let begun = Instant::now();
    while folders() == 0 {
        assert!(begun.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(folders(), 0, "its folder is still there");
}

/// A line that is drawn again must not take two: the next drawing would begin in the middle of it.
pub(super) fn the_demo_fits_its_terminal() {
    let demo = format!(
        "stty cols 50; exec {} demo --devices 5 --seconds 5 --no-kill",
        forebay_tests::broker::program().display()
    );
    let output = std::process::Command::new("script").args(["-qec", &demo, "/dev/null"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    // Between two drawings the cursor goes back to the first line.
    let drawings: Vec<&str> = shown.split("\x1b[J").skip(1).collect();
    assert!(drawings.len() > 5, "{shown}");
    for line in drawings.iter().flat_map(|drawing| drawing.lines().take(8)) {
        assert!(line.chars().count() <= 50, "{line:?}");
    }
    assert!(drawings.iter().any(|drawing| drawing.contains("so far")), "{shown}");
}
