//! The broker and its machine: systemd, `forebay check`, `forebay doctor`.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use forebay_tests::broker::{Broker, program};
use forebay_tests::scratch::Scratch;

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

#[test]
fn systemd_hears_of_start_life_and_end() {
    let scratch = Scratch::new("systemd");
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut text = [0; 64];
        let n = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let mut broker = Broker::prepare(None);
    broker.plain_only();
    broker.set_wrapper(&["env", &format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=200000"]);
    broker.run();
    // A store that is opened, or closed, may take longer than systemd waits.
    let patience = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000";
    assert_eq!(heard(), patience);
    while heard() != "READY=1" {}
    assert_eq!([heard(), heard(), heard()], ["WATCHDOG=1"; 3]);
    assert_eq!(broker.terminate(), Some(0));
    while heard() != "STOPPING=1" {}
    assert_eq!(heard(), patience);
}

#[test]
fn a_file_is_checked_with_all_that_it_names() {
    let scratch = Scratch::new("check");
    let file = scratch.path().join("forebay.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = run(&["check", file.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(check("workers = 2\n"), (Some(0), format!("{}: fine\n", file.display())));
    let (code, said) = check("wokers = 2\n[queue]\npolicy = 'x'\n");
    assert_eq!((code, said.lines().count()), (Some(3), 2), "{said}");
    let both = "[[listeners]]\nurl = 'mqtts://127.0.0.1:8883'\ncertificate = 'none.pem'\nkey = 'none.key'\n\
        [admin]\nhttp = '127.0.0.1:9883'\ntoken_file = 'none.token'\n";
    let (code, said) = check(both);
    assert_eq!(code, Some(3));
    assert!(said.contains("none.pem") && said.contains("none.token"), "{said}");
    std::fs::write(scratch.path().join("none.token"), "short").unwrap();
    assert!(check(both).1.contains("at least 16"));
    let more = "[[listeners]]\nurl = 'mqtts://127.0.0.1:8884'\ncertificate = 'other.pem'\nkey = 'other.key'\nacl_file = 'own.acl'\n\
        [access]\npassword_file = 'none.passwords'\nacl_file = 'none.acl'\ndynamic_security = true\n\
        dynamic_security_import = 'none.json'\n[access.jwt]\nkey_file = 'none.jwk'\nsecret_file = 'none.secret'\n";
    let (code, said) = check(&format!("data_dir = 'none'\n{both}{more}"));
    assert_eq!((code, said.lines().count()), (Some(3), 9), "{said}");
    for file in ["none.pem", "other.pem", "own.acl", "passwords", "none.acl", "none.json", "none.jwk", "none.secret"] {
        assert!(said.contains(file), "{file}: {said}");
    }
    // Nothing is made by it.
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2);
    assert_eq!(run(&["check", "/nowhere/forebay.toml"]).status.code(), Some(1));
}

#[test]
fn the_doctor_finds_a_store_in_memory() {
    let there = std::path::Path::new("/dev/shm");
    if !there.is_dir() {
        eprintln!("no /dev/shm here: nothing to look at");
        return;
    }
    let output = run(&["doctor", "--data-dir", "/dev/shm/forebay-doctor"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.contains("file system")).unwrap();
    assert!(line.starts_with("broken") && line.contains("in memory"), "{said}");
    for what in ["room", "open files", "clock", "swap", "certificates"] {
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
    assert!(!there.join("forebay-doctor").exists(), "it makes nothing");
}
