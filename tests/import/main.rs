//! `forebay import mosquitto`: a real mosquitto with sessions, queues and retained messages is stopped and imported; its clients go on
//! at the broker as if nothing had happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence;
use forebay_tests::broker::{free_port, program};
use forebay_tests::packet::build::{Connect, Publish, Subscribe};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{self, Ack, Version};
use forebay_tests::raw::Raw;
use forebay_tests::scratch::Scratch;
use libtest_mimic::Arguments;

/// How long a broker may take until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A program that listens on a port.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, port: u16) -> Self {
        let started = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < START_LIMIT, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        started
    }

    /// Asks it to end, and waits.
    fn stop(mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with a mosquitto's configuration, and what becomes of it.
struct Site {
    scratch: Scratch,
    port: u16,
}

impl Site {
    fn new(more: &str) -> Self {
        let (scratch, port) = (Scratch::new("import"), free_port());
        let folder = scratch.path().display();
        let text = format!(
            "user root\npersistence true\npersistence_location {folder}/\nlistener {port} 127.0.0.1\nqueue_qos0_messages true\n{more}"
        );
        fs::write(scratch.path().join("mosquitto.conf"), text).unwrap();
        Self { scratch, port }
    }

    fn mosquitto(&self) -> Running {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.scratch.path().join("mosquitto.conf")).stderr(Stdio::null());
        Running::start(&mut command, self.port)
    }

    fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    fn import(&self) -> Output {
        let mut command = Command::new(program());
        command.args(["import", "mosquitto"]).arg(self.scratch.path()).arg("--to").arg(self.out()).output().unwrap()
    }

    /// The broker on what was imported; `check` has accepted it.
    fn forebay(&self) -> Running {
        let config = self.out().join("forebay.toml");
        let checked = Command::new(program()).arg("check").arg(&config).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let mut command = Command::new(program());
        Running::start(command.arg("--config").arg(&config).stderr(Stdio::null()), self.port)
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Lines that a program of mosquitto's prints.
fn mosquitto_sub(port: u16, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("mosquitto_sub");
    let output = command.args(["-p", &port.to_string(), "-u", "u1", "-P", "secret"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// Users, an ACL, a queue of 40 messages of three kinds of QoS for a client that is away, and retained messages.
fn everything_goes_on() {
    let site = Site::new("allow_anonymous false\npassword_file PASSWORDS\nacl_file ACL\nmax_inflight_messages 0\n");
    let folder = site.scratch.path();
    let [passwords, acl] = ["pw", "acl"].map(|name| folder.join(name).display().to_string());
    let conf = folder.join("mosquitto.conf");
    let text = fs::read_to_string(&conf).unwrap().replace("PASSWORDS", &passwords).replace("ACL", &acl);
    fs::write(&conf, text).unwrap();
    fs::write(&acl, "user u1\ntopic readwrite a/#\n").unwrap();
    run("mosquitto_passwd", &["-c", "-b", &passwords, "u1", "secret"]);

    let mosquitto = site.mosquitto();
    let port = site.port.to_string();
    for (client, version) in [("away 3.1.1", "311"), ("away 5", "5")] {
        let filter = ["-E", "-c", "-i", client, "-q", "2", "-V", version, "-t", "a/#"];
        let expiry: &[&str] = if version == "5" { &["-x", "3600"] } else { &[] };
        mosquitto_sub(site.port, &[&filter, expiry].concat());
    }
    let publish = |arguments: &[&str]| {
        run("mosquitto_pub", &[&["-p", &port, "-u", "u1", "-P", "secret", "-V", "5"], arguments].concat());
    };
    let mut sent = Vec::new();
    for number in 0..40 {
        let (qos, text) = ((number % 3).to_string(), format!("number {number}"));
        publish(&["-t", "a/b", "-q", &qos, "-m", &text, "-D", "publish", "user-property", "n", &text]);
        sent.push(text);
    }
    publish(&["-t", "a/kept", "-q", "1", "-r", "-m", "kept"]);
    sent.push("kept".to_owned());
    mosquitto.stop();

    let report = said(&site.import());
    assert!(report.contains("2 sessions, 2 subscriptions, 82 queued messages"), "{report}");
    assert!(report.contains("1 retained messages"), "{report}");
    let forebay = site.forebay();
    // They do not subscribe: what comes is what was kept for them.
    let count = sent.len().to_string();
    for (client, version) in [("away 3.1.1", "311"), ("away 5", "5")] {
        let resume = ["-c", "-i", client, "-q", "2", "-V", version, "-t", "a/never", "-C", &count, "-W", "60"];
        let expiry: &[&str] = if version == "5" { &["-x", "3600"] } else { &[] };
        let mut came = mosquitto_sub(site.port, &[&resume, expiry].concat());
        // mosquitto_sub shows a message of QoS 2 when it is released, behind others that were sent later.
        came.sort();
        sent.sort();
        assert_eq!(came, sent, "{client}");
    }
    assert_eq!(mosquitto_sub(site.port, &["-t", "a/+", "-C", "1", "-W", "60", "-v"]), ["a/kept kept"]);
    let wrong = Connect::new(Version::V5, "stranger").user("u1").password(b"guess");
    Raw::begin(site.port, &wrong).expect_refused(0x86);
    drop(forebay);
    not_twice(&site);
}

/// What was imported once is not overwritten.
fn not_twice(site: &Site) {
    let again = site.import();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"), "{again:?}");
}

fn resume(port: u16, version: Version, client: &str) -> (Raw, bool) {
    let connect = Connect::new(version, client).resume();
    let connect = if version == Version::V5 { connect.with(Property::SessionExpiry(3_600)) } else { connect };
    let (raw, present, _) = Raw::open(port, &connect);
    (raw, present)
}

/// A QoS 2 exchange that mosquitto began ends here, in both directions, under the same packet identifier.
fn half_an_exchange_is_ended(version: Version) {
    let site = Site::new("allow_anonymous true\n");
    let mosquitto = site.mosquitto();
    let (mut taker, _) = resume(site.port, version, "taker");
    taker.send(&Subscribe::new(version, 1).filter("a/#", 2).packet());
    taker.expect_suback(1, &[2]);
    let (mut giver, _) = resume(site.port, version, "giver");
    giver.publish("a/1", 2, b"received");
    giver.publish("a/2", 2, b"sent");
    let received = taker.expect_message("a/1", b"received");
    let sent = taker.expect_message("a/2", b"sent");
    taker.send(&packet::ack(Ack::Pubrec, received.id));
    taker.expect_ack(Ack::Pubrel, received.id, 0);
    // It has been acknowledged, and is published when it is released.
    giver.send(&Publish::new(version, "a/3", b"unreleased").qos(2, 77).packet());
    giver.expect_ack(Ack::Pubrec, 77, 0);
    giver.drop_connection();
    taker.drop_connection();
    mosquitto.stop();

    said(&site.import());
    let _forebay = site.forebay();
    let (mut taker, present) = resume(site.port, version, "taker");
    assert!(present);
    taker.expect_ack(Ack::Pubrel, received.id, 0);
    taker.send(&packet::ack(Ack::Pubcomp, received.id));
    let again = taker.take_message("a/2", b"sent");
    assert_eq!((again.id, again.dup), (sent.id, true));
    taker.take_message("a/3", b"unreleased");
    let (mut giver, present) = resume(site.port, version, "giver");
    assert!(present);
    giver.send(&Publish::new(version, "a/3", b"unreleased").qos(2, 77).dup().packet());
    giver.expect_ack(Ack::Pubrec, 77, 0);
    giver.send(&packet::ack(Ack::Pubrel, 77));
    giver.expect_ack(Ack::Pubcomp, 77, 0);
    taker.expect_nothing();
}

/// Listeners, limits and bridges; what cannot be taken is named with its line. No password is in the report.
fn a_configuration_is_taken_or_named() {
    let scratch = Scratch::new("import-conf");
    let folder = scratch.path();
    let text = "max_queued_messages 500\nmax_inflight_messages 20\npersistent_client_expiration 2w\nmessage_size_limit 1000\n\
                psk_file /etc/psk\nlistener 21884\nallow_anonymous true\nlistener 0 /run/m.sock\n\
                listener 21885 ::1\nprotocol websockets\nmount_point x/\n\
                connection up.link\naddress central.example:1884 other.example\ntopic # out 1 \"\" gw7/\n\
                topic cmd/# in 1 \"\" gw7/\ntopic x/y out 0 ab cd\nremote_username me\nremote_password geheim\nbridge_insecure true\n";
    fs::write(folder.join("mosquitto.conf"), text).unwrap();
    let output = import(folder);
    let report = said(&output);
    for named in ["mosquitto.conf:5: psk_file", "mosquitto.conf:16: topic", ":19: bridge_insecure"] {
        assert!(report.contains(named), "{named}: {report}");
    }
    assert!(!report.contains("geheim"), "{report}");
    let made = fs::read_to_string(folder.join("out/forebay.toml")).unwrap();
    for line in [
        "url = \"mqtt://[::]:21884\"",
        "url = \"unix:///run/m.sock\"",
        "url = \"ws://[::1]:21885\"",
        "mount_point = \"x/\"",
        "max_messages = 500",
        "max_inflight = 20",
        "session_expiry_v3 = \"336h\"",
        "urls = [\"mqtt://central.example:1884\", \"mqtt://other.example:1883\"]",
        "topic = \"gw7/{topic}\"",
        "filter = \"gw7/cmd/#\"\ntopic = \"{topic/2..}\"",
        "password_file = \"up-link.password\"",
    ] {
        assert!(made.contains(line), "{line}: {made}");
    }
    let checked = Command::new(program()).arg("check").arg(folder.join("out/forebay.toml")).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// A listener where others than with mosquitto could connect, or reach other topics, is left out and named.
fn nobody_is_let_in_who_was_not() {
    let scratch = Scratch::new("import-closed");
    let folder = scratch.path();
    let tls = "certfile /c.pem\nkeyfile /k.pem\n";
    let groups = [
        (format!("{tls}require_certificate true\ncapath /certs"), "require_certificate needs cafile"),
        ("require_certificate true\ncafile /ca.pem".to_owned(), "require_certificate needs TLS"),
        (format!("{tls}use_identity_as_username true\ncafile /ca.pem"), "nobody could connect there"),
        ("certfile /c.pem".to_owned(), "TLS needs both"),
        ("psk_hint site".to_owned(), "pre-shared key"),
        ("mount_point tenant".to_owned(), "must end with /"),
        ("mount_point a/+/".to_owned(), "without wildcards"),
    ];
    let groups = groups.iter().zip(22_001..).map(|((text, why), port)| (port, text, why));
    let mut conf = String::from("allow_anonymous true\nlistener 22000\n");
    conf.extend(groups.clone().map(|(port, text, _)| format!("listener {port}\n{text}\n")));
    fs::write(folder.join("mosquitto.conf"), conf).unwrap();
    let report = said(&import(folder));
    let made = fs::read_to_string(folder.join("out/forebay.toml")).unwrap();
    assert!(made.contains(":22000"), "{made}");
    for (port, text, why) in groups {
        let named = |line: &str| line.contains(&format!("listener {port}: ")) && line.contains(why);
        assert!(report.lines().any(named), "{text}: {report}");
        assert!(!made.contains(&port.to_string()), "{text}: {made}");
    }
}

/// What a bridge or the broker as a whole does otherwise here.
fn no_setting_is_lost_without_a_line() {
    let scratch = Scratch::new("import-named");
    let folder = scratch.path();
    let otherwise = [
        "restart_timeout 5 30",
        "idle_timeout 60",
        "cleansession true",
        "local_cleansession true",
        "try_private true",
        "bridge_attempt_unsubscribe false",
    ];
    let conf = format!(
        "global_max_connections 50\nallow_anonymous true\nlistener 22000\nmax_connections 80\nconnection up\n\
         address central.example\ntopic # out\nstart_type automatic\n{}\n",
        otherwise.join("\n")
    );
    fs::write(folder.join("mosquitto.conf"), &conf).unwrap();
    let report = said(&import(folder));
    for line in otherwise {
        assert!(report.contains(line), "{line}: {report}");
    }
    assert!(!report.contains("start_type"), "{report}");
    let made = fs::read_to_string(folder.join("out/forebay.toml")).unwrap();
    assert_eq!(made.matches("max_connections = 50").count(), 2, "{made}");
    fs::remove_dir_all(folder.join("out")).unwrap();
    fs::write(folder.join("mosquitto.conf"), conf.replace("connections 50", "connections -1")).unwrap();
    let report = said(&import(folder));
    assert!(report.contains("global_max_connections -1: there is a limit always"), "{report}");
}

fn import(folder: &Path) -> Output {
    let mut command = Command::new(program());
    command.args(["import", "mosquitto"]).arg(folder).arg("--to").arg(folder.join("out")).output().unwrap()
}

fn main() {
    let arguments = Arguments::from_args();
    let absent = absence::of_program("mosquitto").or_else(|| absence::of_program("mosquitto_sub"));
    let absent = absent.as_deref();
    let trial = |name: &str, absent, run: fn()| absence::panicking("import", name, absent, run);
    let trials = vec![
        trial("everything_goes_on", absent, everything_goes_on),
        trial("half_an_exchange_is_ended_3_1_1", absent, || half_an_exchange_is_ended(Version::V4)),
        trial("half_an_exchange_is_ended_5", absent, || half_an_exchange_is_ended(Version::V5)),
        trial("a_configuration_is_taken_or_named", None, a_configuration_is_taken_or_named),
        trial("nobody_is_let_in_who_was_not", None, nobody_is_let_in_who_was_not),
        trial("no_setting_is_lost_without_a_line", None, no_setting_is_lost_without_a_line),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
