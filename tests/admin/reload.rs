//! A reload takes all of a right configuration or nothing of a wrong one, says what is other, and loses no message meanwhile.

use std::process::{Command, Output};

use forebay_tests::broker::program;

use crate::{Site, until};

/// The configuration of [`Site::start`] with other keys.
fn rewrite(site: &mut Site, more: &str) {
    let socket = site.socket_path();
    let admin = format!("[admin]\nhttp = \"127.0.0.1:{}\"\nsocket = \"{}\"\n", site.port, socket.display());
    site.broker.configure(&format!("{more}\n[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n{admin}"));
}

fn reload(site: &Site) -> Output {
    let socket = site.socket_path();
    Command::new(program()).args(["ctl", "--socket", socket.to_str().unwrap(), "reload"]).output().unwrap()
}

fn said(site: &Site) -> String {
    let output = reload(site);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_other_is_said_and_in_force() {
    let mut site = Site::start("sys_interval = \"1h\"\nworkers = 1\n", "");
    assert_eq!(said(&site), "nothing is different\n");
    rewrite(&mut site, "sys_interval = \"1s\"\nworkers = 2\nlog = \"debug\"\n[limits]\nmax_sessions = 1\n");
    let first = said(&site);
    for line in [
        "sys_interval: \"1h\" -> \"1s\"\n",
        "workers: 1 -> 2 (needs a restart)\n",
        "log: \"info\" -> \"debug\"\n",
        "limits.max_sessions: 100000 -> 1\n",
    ] {
        assert!(first.contains(line), "{line} is not in {first}");
    }
    assert_eq!(first.lines().count(), 4, "{first}");
    // What waits for a restart is named again; the rest is in force.
    assert_eq!(said(&site), "workers: 1 -> 2 (needs a restart)\n");
    let level = site.socket().get("/api/log").json()["level"].clone();
    assert_eq!(level, "debug");
    let _only = site.subscriber("only", "t");
    let connect = forebay_tests::peer::Connect::kept(forebay_tests::packet::Version::V5, "second");
    let (_, came) = forebay_tests::peer::Peer::connect(&site.tcp(), &connect);
    assert!(format!("{came:?}").contains("151"), "0x97 and not {came:?}");
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let mut site = Site::start("sys_interval = \"1h\"\n", "");
    rewrite(&mut site, "sys_interval = \"1s\"\n[limits]\nmax_sesions = 5\n");
    let output = reload(&site);
    assert!(!output.status.success());
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("nothing is changed: ") && why.contains("did you mean `max_sessions`?"), "{why}");
    let hangup = Command::new("kill").args(["-HUP", &site.broker.pid().unwrap().to_string()]).status().unwrap();
    assert!(hangup.success());
    until("SIGHUP is answered", || site.broker.log(), |log| log.matches("reload: nothing is changed: ").count() == 2);
    rewrite(&mut site, "sys_interval = \"1h\"\n");
    assert_eq!(said(&site), "nothing is different\n");
}

#[test]
fn a_reload_under_load_loses_no_message() {
    const MESSAGES: u16 = 2_000;
    let mut site = Site::start("sys_interval = \"1h\"\n", "");
    let mut subscriber = site.subscriber("s", "t");
    let mut publisher = site.publisher();
    let publishing = std::thread::spawn(move || {
        for n in 1..=MESSAGES {
            assert!(publisher.publish(n, "t", &n.to_be_bytes()).0 < 0x80);
        }
    });
    let mut reloads = 0_u32;
    let mut next = 1;
    while next <= MESSAGES {
        if next % 100 == 0 {
            reloads += 1;
            rewrite(&mut site, &format!("sys_interval = \"{}s\"\n", 1 + reloads));
            assert!(said(&site).starts_with("sys_interval: "));
        }
        let message = subscriber.message();
        assert_eq!(message.payload, next.to_be_bytes(), "in order, none missing, none twice");
        next += 1;
    }
    publishing.join().unwrap();
    assert_eq!(reloads, 20);
}
