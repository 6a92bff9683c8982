//! Logging in, and not.

use std::process::Command;

use forebay_tests::packet::Version;
use forebay_tests::packet::build::{Connect, Will};
use forebay_tests::raw::Raw;

use crate::{Site, passwd};

pub const TESTS: &[(&str, fn())] = &[
    ("a_wrong_password_is_refused_and_logged_without_it", a_wrong_password_is_refused_and_logged_without_it),
    ("guessing_is_banned", guessing_is_banned),
    ("a_user_who_goes_is_disconnected", a_user_who_goes_is_disconnected),
    ("a_file_that_is_wrong_changes_nothing", a_file_that_is_wrong_changes_nothing),
    ("a_will_that_may_not_be_published_is_refused", a_will_that_may_not_be_published_is_refused),
    ("wills_of_those_who_cannot_log_in_take_no_room", wills_of_those_who_cannot_log_in_take_no_room),
];

fn login(version: Version, client: &str, user: &str, password: &str) -> Connect {
    Connect::new(version, client).user(user).password(password.as_bytes())
}

fn a_wrong_password_is_refused_and_logged_without_it() {
    let site = Site::start(&[("pump", "right-secret")], None, "");
    Raw::open(site.port(), &login(Version::V5, "c1", "pump", "right-secret"));
    Raw::open(site.port(), &login(Version::V4, "c2", "pump", "right-secret"));
    Raw::begin(site.port(), &login(Version::V5, "evil\n", "pump", "wrong-secret")).expect_refused(0x86);
    Raw::begin(site.port(), &login(Version::V4, "c3", "nobody", "wrong-secret")).expect_refused(4);
    Raw::begin(site.port(), &Connect::new(Version::V5, "c4")).expect_refused(0x87);
    Raw::begin(site.port(), &Connect::new(Version::V4, "c5")).expect_refused(5);
    let log = site.until_logged("\"c5\"");
    for (what, client, user) in [
        ("wrong password", "\"evil\\n\"", "Some(\"pump\")"),
        ("no such user", "\"c3\"", "Some(\"nobody\")"),
        ("no user name", "\"c4\"", "None"),
    ] {
        let line =
            log.lines().find(|line| line.contains(&format!("client={client}"))).unwrap_or_else(|| panic!("{log}"));
        let address = line.split_once("from=127.0.0.1:").map(|(before, _)| before);
        assert!(address.is_some_and(|before| before.contains(&format!("log-in refused: {what} listener="))), "{line}");
        assert!(line.contains(&format!("user={user}")) && line.contains("source="), "{line}");
        assert_eq!(
            log.lines().filter(|line| line.contains(&format!("client={client}"))).count(),
            1,
            "one line:\n{log}"
        );
    }
    for secret in ["right-secret", "wrong-secret", "$argon2id"] {
        assert!(!log.contains(secret), "{log}");
    }
}

fn guessing_is_banned() {
    let site = Site::start(&[("pump", "secret")], None, "max_failures = 3\nban = \"2s\"\n");
    for guess in ["a", "b", "c"] {
        Raw::begin(site.port(), &login(Version::V5, "c", "pump", guess)).expect_refused(0x86);
    }
    Raw::begin(site.port(), &login(Version::V5, "c", "pump", "secret")).expect_refused(0x8A);
    site.until_logged("the address is banned");
    site.until_logged("source=\"ban list\"");
    // It ends by itself.
    let begun = std::time::Instant::now();
    loop {
        let mut raw = Raw::begin(site.port(), &login(Version::V4, "c", "pump", "secret"));
        match raw.receive_bytes().as_deref() {
            Some([0x20, 2, 0, 0]) => break,
            Some([0x20, 2, 0, 5]) => assert!(begun.elapsed().as_secs() < 20, "the ban never ends"),
            other => panic!("{other:?}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn a_user_who_goes_is_disconnected() {
    let site = Site::start(&[("pump", "one"), ("valve", "two")], None, "");
    let (mut pump, ..) = Raw::open(site.port(), &login(Version::V5, "p", "pump", "one"));
    let (mut valve, ..) = Raw::open(site.port(), &login(Version::V5, "v", "valve", "two"));
    let (mut changed, ..) = Raw::open(site.port(), &login(Version::V4, "v4", "valve", "two"));
    assert!(passwd(&site.passwords(), &["delete", "pump"], "").status.success());
    pump.expect_disconnect(0x87);
    pump.expect_closed();
    site.until_logged("users removed: \"pump\"");
    valve.send(&[0xC0, 0]);
    valve.expect(&[0xD0, 0]);
    Raw::begin(site.port(), &login(Version::V5, "p", "pump", "one")).expect_refused(0x86);

    assert!(passwd(&site.passwords(), &["change", "valve"], "three").status.success());
    valve.expect_disconnect(0x87);
    changed.expect_closed();
    Raw::begin(site.port(), &login(Version::V5, "v", "valve", "two")).expect_refused(0x86);
    Raw::open(site.port(), &login(Version::V5, "v", "valve", "three"));
}

/// Whole or not at all, at SIGHUP as well; and SIGHUP ends nothing.
fn a_file_that_is_wrong_changes_nothing() {
    let site = Site::start(&[("pump", "one")], None, "");
    let (mut pump, ..) = Raw::open(site.port(), &login(Version::V5, "p", "pump", "one"));
    let before = std::fs::read_to_string(site.passwords()).unwrap();
    std::fs::write(site.passwords(), "valve:$6$AAAA$AAAA\npump:plain\n").unwrap();
    let hangup = Command::new("kill").args(["-HUP", &site.broker.pid().unwrap().to_string()]).status().unwrap();
    assert!(hangup.success());
    let log = site.until_logged("changed: ");
    assert!(log.contains("line 2") && !log.contains("plain") && !log.contains("users added"), "{log}");
    pump.send(&[0xC0, 0]);
    pump.expect(&[0xD0, 0]);
    Raw::open(site.port(), &login(Version::V5, "q", "pump", "one"));
    // What is right again is taken.
    std::fs::write(site.passwords(), before + "valve:$6$AAAA$AAAA\n").unwrap();
    site.until_logged("users added: \"valve\"");
}

fn a_will_that_may_not_be_published_is_refused() {
    let site = Site::start(&[("pump", "one")], Some("user pump\ntopic write mine\n"), "");
    let will = |topic: &str| login(Version::V5, "c", "pump", "one").will(Will::new(topic, b"gone"));
    Raw::begin(site.port(), &will("others")).expect_refused(0x87);
    Raw::open(site.port(), &will("mine"));
    let v4 = login(Version::V4, "c", "pump", "one").will(Will::new("others", b"gone"));
    Raw::begin(site.port(), &v4).expect_refused(5);
}

/// With a file that mosquitto's own tool made.
pub fn mosquittos_clients_log_in() {
    let site = Site::start(&[("ours", "one")], None, "");
    // mosquitto's tool takes no file with comments or other hashes: it makes one of its own.
    let theirs = site.passwords().with_extension("mosquitto");
    std::fs::write(&theirs, "").unwrap();
    for form in ["sha512", "sha512-pbkdf2"] {
        let mut command = Command::new("mosquitto_passwd");
        command.args(["-H", form, "-b"]).arg(&theirs).args([form, "two"]);
        assert!(command.status().unwrap().success());
    }
    let both = [site.passwords(), theirs].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(site.passwords(), both).unwrap();
    site.until_logged("users added");
    let publish = |user: &str, password: &str| {
        let port = site.port().to_string();
        let line = ["-h", "127.0.0.1", "-p", &port, "-u", user, "-P", password, "-q", "1", "-t", "a", "-m", "x"];
        Command::new("mosquitto_pub").args(line).output().unwrap().status.success()
    };
    let begun = std::time::Instant::now();
    while !publish("sha512-pbkdf2", "two") {
        assert!(begun.elapsed().as_secs() < 20);
    }
    assert!(publish("ours", "one") && publish("sha512", "two"));
    assert!(!publish("ours", "two") && !publish("sha512", "one") && !publish("sha512-pbkdf2", ""));
}

/// The filter that is shipped, on the log that is written: each refusal, the address it came from, and no other.
pub fn fail2ban_finds_who_guesses() {
    let site = Site::start(&[("pump", "right-secret")], None, "");
    let liar = "log-in refused: x listener=\"a\" from=192.0.2.99:1 client=";
    for client in ["c1", liar] {
        Raw::begin(site.port(), &login(Version::V5, client, "pump", "wrong-secret")).expect_refused(0x86);
    }
    Raw::open(site.port(), &login(Version::V5, "c3", "pump", "right-secret"));
    site.until_logged("client=\"c3\"");
    let log = site.until_logged("192.0.2.99");
    let file = site.passwords().with_extension("log");
    std::fs::write(&file, log).unwrap();
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/fail2ban/forebay.conf");
    let output = Command::new("fail2ban-regex").args(["--out", "ip"]).arg(&file).arg(filter).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), ["127.0.0.1", "127.0.0.1"], "{found}");
}

/// Refused once as often as wills would fit: who comes then has all of the room.
fn wills_of_those_who_cannot_log_in_take_no_room() {
    let users = [("pump", "one")];
    let site = Site::start(&users, None, "max_failures = 1000\n[limits]\nmax_will_bytes = \"4KiB\"\n");
    let will = |password| login(Version::V5, "c", "pump", password).will(Will::new("w", &[0; 3000]));
    for _ in 0..4 {
        Raw::begin(site.port(), &will("wrong")).expect_refused(0x86);
    }
    Raw::open(site.port(), &will("one"));
}
