//! What the program takes from its machine and from its files, and what it says about them.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};
use forebay_tests::scratch::Scratch;

use crate::{Case, run};

/// How long a line of the log may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The beginning of a certificate of version 1, valid in 2024.
const VERSION_1: &str = "MCkwJwIBBTAAMAAwHhcNMjQwMTAxMDAwMDAwWhcNMjUwMTAxMDAwMDAwWg==";

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("signals_of_other_habits_end_nothing", None, signals),
        ("signals_of_other_habits_end_no_start", None, signals_during_the_start),
        ("the_store_is_for_its_user_alone", None, own_files),
        ("the_limit_of_open_files_is_raised", None, descriptors),
        ("too_few_open_files_are_said", None, too_few_descriptors),
        ("a_configuration_of_mosquitto_is_recognised", None, mosquitto_conf),
        ("a_tilde_is_refused", None, tilde),
        ("a_certificate_or_key_that_cannot_serve_is_said_in_its_own_words", None, certificates),
        ("an_expired_certificate_is_served_and_said", None, expired),
        ("the_log_names_who_connects_and_who_cannot", None, connections),
        ("trace_shows_packets", None, trace),
        ("the_log_is_json_where_that_is_wished", None, json),
        ("the_log_is_as_the_journal_takes_it", None, journald),
        ("a_full_queue_is_said_once", None, full_queue),
    ]
}

fn until_logged(broker: &Broker, words: &[&str]) {
    let begun = Instant::now();
    while !broker.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
        assert!(begun.elapsed() < LIMIT, "no line with {words:?}:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open(broker: &Broker, version: Version, client: &str) -> Peer {
    Peer::open(&Endpoint::tcp(broker.port()), &Connect::clean(version, client)).0
}

fn signals() {
    let mut broker = Broker::start();
    let mut there = open(&broker, Version::V5, "there");
    for signal in ["-HUP", "-USR1", "-USR2"] {
        let pid = broker.pid().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        // A signal may take a moment to be delivered, and this takes several.
        for id in 1..20 {
            assert!(there.publish(id, "a", b"x").0 < 0x80, "{signal}");
        }
        assert!(broker.is_running(), "{signal}");
    }
}

/// A start that waits for a file, as one does for minutes that repairs a large store. SIGHUP is answered after it.
fn signals_during_the_start() {
    const RULES: &[u8] = b"topic readwrite #\n";
    let folder = Scratch::new("start");
    let (rules, pid) = (folder.path().join("acl"), folder.path().join("pid"));
    assert!(Command::new("mkfifo").arg(&rules).status().unwrap().success());
    let mut broker = Broker::prepare(None);
    broker.configure(&format!("[access]\nacl_file = \"{}\"\n", rules.display()));
    broker.set_wrapper(&["sh", "-c", &format!("echo $$ > {}; exec \"$0\" \"$@\"", pid.display())]);
    let beside = std::thread::spawn(move || {
        // It is opened when the broker opens it.
        let mut waited_for = std::fs::File::options().write(true).open(&rules).unwrap();
        let pid = std::fs::read_to_string(pid).unwrap();
        for signal in ["-HUP", "-USR1", "-USR2"] {
            assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
        }
        // For whoever reads it again.
        std::fs::remove_file(&rules).unwrap();
        std::fs::write(&rules, RULES).unwrap();
        waited_for.write_all(RULES).unwrap();
    });
    broker.run();
    beside.join().unwrap();
    until_logged(&broker, &["SIGHUP"]);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn own_files() {
    let mut broker = Broker::prepare(None);
    broker.set_wrapper(&["sh", "-c", "umask 022; exec \"$0\" \"$@\""]);
    std::fs::remove_dir_all(broker.data()).unwrap();
    broker.run();
    assert_eq!(mode(broker.data()), 0o700);
    assert_eq!(mode(&broker.data().join("forebay.redb")), 0o600);
}

/// Soft and hard limit of open files of the process.
fn open_files(broker: &Broker) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid().unwrap())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn descriptors() {
    let mut broker = Broker::prepare(None);
    broker.set_wrapper(&["sh", "-c", "ulimit -Sn 256; ulimit -Hn 15000; exec \"$0\" \"$@\""]);
    broker.run();
    assert_eq!(open_files(&broker), ("15000".to_owned(), "15000".to_owned()));
    assert!(!broker.log().contains("open files"), "{}", broker.log());
}

fn too_few_descriptors() {
    let mut broker = Broker::prepare(None);
    broker.set_wrapper(&["sh", "-c", "ulimit -n 300; exec \"$0\" \"$@\""]);
    broker.run();
    until_logged(&broker, &["WARN", "300 open files are too few", "max_connections = 10000", "LimitNOFILE=10064"]);
}

fn mosquitto_conf() {
    let scratch = Scratch::new("config");
    let file = scratch.path().join("mosquitto.conf");
    for text in ["# A comment\n\nlistener 1883 127.0.0.1\nallow_anonymous true\n", "per_listener_settings true\n"] {
        std::fs::write(&file, text).unwrap();
        let ended = run(&["--config", file.to_str().unwrap()]);
        assert_eq!((ended.code, ended.err.lines().count()), (Some(3), 1), "{ended:?}");
        assert!(ended.err.contains("is a configuration of mosquitto"), "{}", ended.err);
        assert!(ended.err.contains("[[listeners]]"), "{}", ended.err);
    }
    std::fs::write(&file, "user = 5\n").unwrap();
    assert!(!run(&["--config", file.to_str().unwrap()]).err.contains("mosquitto;"));
}

fn tilde() {
    let scratch = Scratch::new("tilde");
    let file = scratch.path().join("forebay.toml");
    std::fs::write(&file, "data_dir = \"~/data\"\n").unwrap();
    let ended = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.err.contains(":1:12: data_dir: `~` is not expanded"), "{}", ended.err);
    let ended = run(&["--data-dir=~/data"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("--data-dir ~/data: `~` is not expanded"), "{}", ended.err);
    assert!(!Path::new("~").exists());
}

fn pem(label: &str, body: &str) -> String {
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// A configuration with a TLS listener on these files of the folder.
fn tls(folder: &Path, certificate: &str, key: &str) -> String {
    let file = folder.join("forebay.toml");
    let text = format!(
        "data_dir = \"data\"\n[[listeners]]\nurl = \"mqtts://127.0.0.1:{}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n",
        free_port()
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn certificates() {
    let scratch = Scratch::new("certificates");
    let folder = scratch.path();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("good.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("good.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("v1.pem"), pem("CERTIFICATE", VERSION_1)).unwrap();
    std::fs::write(folder.join("broken.pem"), pem("CERTIFICATE", "MAAwAA==")).unwrap();
    std::fs::write(folder.join("encrypted.key"), pem("ENCRYPTED PRIVATE KEY", "MAA=")).unwrap();
    let old = format!("Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n{}", "MAA=");
    std::fs::write(folder.join("old.key"), pem("RSA PRIVATE KEY", &old)).unwrap();
    for (certificate, key, words) in [
        ("v1.pem", "good.key", "is an X.509 certificate of version 1"),
        ("broken.pem", "good.key", "certificate 1 in it is damaged"),
        ("good.pem", "encrypted.key", "openssl pkey -in"),
        ("good.pem", "old.key", "is an encrypted private key"),
    ] {
        let ended = run(&["--config", &tls(folder, certificate, key)]);
        assert_eq!(ended.code, Some(1), "{certificate} {key}: {ended:?}");
        assert!(ended.err.contains(words), "{certificate} {key}: {words:?} in {}", ended.err);
    }
}

fn expired() {
    let scratch = Scratch::new("expired");
    let (certificate, key) = (scratch.path().join("old.pem"), scratch.path().join("old.key"));
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let pair = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    ));
    until_logged(&broker, &["WARN", "old.pem", "expired on 2002-01-01T00:00:00Z", "renew it"]);
    until_logged(&broker, &["WARN", "old.key", "can be read by every user", "chmod 600"]);
}

fn connections() {
    let broker = Broker::start();
    let _peer = open(&broker, Version::V4, "first");
    until_logged(&broker, &["INFO", "client=\"first\"", "from=127.0.0.1:", "version=\"3.1.1\"", "resumed=false"]);
    until_logged(&broker, &["INFO", "client=\"first\"", "keep_alive_s=0", "connected"]);
    let _again = open(&broker, Version::V5, "first");
    until_logged(&broker, &["INFO", "client=\"first\"", "version=\"5.0\""]);
    until_logged(&broker, &["INFO", "client=\"first\"", "taken over"]);
    let mut socket = TcpStream::connect(("127.0.0.1", broker.tls_port())).unwrap();
    let from = format!("from={}", socket.local_addr().unwrap());
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    until_logged(&broker, &["INFO", "TLS handshake failed", &from]);
    let mut socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    let from = format!("from={}", socket.local_addr().unwrap());
    socket.write_all(&[0x10, 0x80, 0x80, 0x80, 0x80]).unwrap();
    until_logged(&broker, &["INFO", "CONNECT refused", &from]);
}

fn trace() {
    let mut broker = Broker::prepare(None);
    broker.add_arguments(&["--log", "trace"]);
    broker.run();
    let mut peer = open(&broker, Version::V5, "traced");
    peer.subscribe(&[("t", 1)]);
    peer.publish(1, "nobody", b"x");
    until_logged(&broker, &["TRACE", "received SUBSCRIBE", "client=\"traced\""]);
    until_logged(&broker, &["TRACE", "sent SUBACK", "client=\"traced\""]);
    until_logged(&broker, &["TRACE", "received PUBLISH"]);
    until_logged(&broker, &["TRACE", "sent PUBACK"]);
}

/// Each line of standard error is an object of its own, whatever a client is called.
fn json() {
    let broker = Broker::with_config("log_format = \"json\"\nlimits.log_lines_per_s = 1000\n");
    let odd = "a \"quoted\" {name}";
    for client in [odd, "plain"] {
        open(&broker, Version::V5, client).leave();
    }
    until_logged(&broker, &["connected", "plain"]);
    let (mut connected, mut lines) = (0, 0);
    // What the start prints for people goes to standard output, which is in the same file here.
    for line in broker.log().lines().filter(|line| line.contains("timestamp") || line.contains("connected")) {
        let read: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert!(["timestamp", "level", "target", "message"].iter().all(|key| read[key].is_string()), "{line}");
        connected += usize::from(read["message"] == "connected" && read["client"] == odd && read["level"] == "INFO");
        lines += 1;
    }
    assert!(connected == 1 && lines > 1, "{}", broker.log());
}

/// `auto` knows the journal by what systemd says of standard error.
fn journald() {
    let mut broker = Broker::prepare(None);
    broker.set_wrapper(&["sh", "-c", "JOURNAL_STREAM=$(stat -L -c %d:%i /dev/stderr) exec \"$0\" \"$@\""]);
    broker.run();
    open(&broker, Version::V5, "there").leave();
    until_logged(&broker, &["<6>forebay::connection::handshake: connected", "client=\"there\""]);
    assert!(!broker.log().contains("INFO"), "{}", broker.log());
}

fn full_queue() {
    let broker = Broker::with_config("[queue]\nmax_messages = 3\n");
    let mut away = Peer::open(&Endpoint::tcp(broker.port()), &Connect::kept(Version::V5, "away")).0;
    away.subscribe(&[("t", 1)]);
    away.leave();
    let mut publisher = open(&broker, Version::V5, "publisher");
    let codes: Vec<u8> = (1..10).map(|id| publisher.publish(id, "t", b"x").0).collect();
    assert!(codes.contains(&0x97), "{codes:x?}");
    until_logged(&broker, &["WARN", "client=\"away\"", "its queue is full"]);
    assert_eq!(broker.log().matches("its queue is full").count(), 1);
}
