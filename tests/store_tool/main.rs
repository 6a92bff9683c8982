//! `forebay store verify`, `export`, `import` and `compact` on the store of a broker that ran: what it held for clients that
//! were away, another broker delivers from a copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use forebay_tests::broker::{Broker, program};
use forebay_tests::device::{Identity, Publisher, Subscriber};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::rng::Rng;
use forebay_tests::scratch::Scratch;

/// Messages that wait for each client.
const QUEUED: usize = 300;
/// A subscriber that has heard nothing for so many polls of 20 ms has lost what is missing.
const PATIENCE: u32 = 1500;

fn store(data: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program());
    command.args(["store", "--data-dir"]).arg(data).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that refuses at once does not read it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Its standard output, when it did what it was told and said so in one line.
fn done(output: &Output, says: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert!(stderr.lines().count() == 1 && stderr.contains(says), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// One line says why it was not done.
fn refused(output: &Output, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.lines().count() == 1 && stderr.contains(says), "{stderr}");
}

fn subscriber(port: u16, version: Version) -> Subscriber {
    let client = format!("subscriber {version:?}");
    Subscriber::new(Identity { endpoint: Endpoint::tcp(port), version, client }, "tool/#", 2)
}

/// Publishes for clients that are away, some of it not UTF-8; returns the payloads.
fn fill(broker: &Broker) -> Vec<Vec<u8>> {
    for version in [Version::V4, Version::V5] {
        let mut away = subscriber(broker.port(), version);
        away.connect().unwrap();
        away.leave(true);
    }
    let identity =
        Identity { endpoint: Endpoint::tcp(broker.port()), version: Version::V5, client: "publisher".into() };
    let mut publisher = Publisher::new(identity, "tool/numbers", 2);
    publisher.connect().unwrap();
    let payloads: Vec<Vec<u8>> = (0..QUEUED)
        .map(|number| if number % 3 == 0 { vec![0xff, number as u8] } else { number.to_string().into_bytes() })
        .collect();
    for payload in &payloads {
        publisher.publish(payload.clone());
        while publisher.in_flight() > 10 {
            publisher.poll().unwrap();
        }
    }
    while publisher.in_flight() > 0 {
        publisher.poll().unwrap();
    }
    payloads
}

fn receive(broker: &Broker, version: Version, count: usize) -> Vec<Vec<u8>> {
    let mut subscriber = subscriber(broker.port(), version);
    // It has to be known: it does not subscribe again.
    subscriber.resume();
    subscriber.connect().unwrap();
    let mut received = Vec::new();
    while received.len() < count && subscriber.idle < PATIENCE {
        if let Some(message) = subscriber.poll().unwrap() {
            received.push(message.payload);
        }
    }
    received
}

#[test]
fn another_broker_delivers_what_was_exported_and_imported() {
    let mut broker = Broker::start();
    let payloads = fill(&broker);
    for command in ["verify", "export", "compact", "import"] {
        refused(&store(broker.data(), &[command], b""), "in use by another broker; stop it");
    }
    // A broker that is killed leaves a store that must be recovered first; looking at it does not do that.
    broker.kill();
    let file = broker.data().join("forebay.redb");
    let before = std::fs::read(&file).unwrap();
    let found = done(&store(broker.data(), &["verify"], b""), "is sound");
    assert!(found.contains(&format!("queued         {} messages", 2 * QUEUED)), "{found}");
    let exported = done(&store(broker.data(), &["export"], b""), "exported");
    assert_eq!(exported.lines().filter(|line| line.starts_with("{\"queued\"")).count(), 2 * QUEUED);
    assert!(std::fs::read(&file).unwrap() == before, "looking at the store has changed it");

    // What a newer program would do to it.
    let check = |data: &Path| Command::new(program()).args(["check", "--store"]).arg(data).output().unwrap();
    let said = done(&check(broker.data()), "has the format of this program");
    assert!(said.contains(&format!("queued         {} messages", 2 * QUEUED)), "{said}");
    assert!(std::fs::read(&file).unwrap() == before, "checking the store has changed it");

    // The same by files, and the folder named by a configuration.
    let scratch = Scratch::new("store-tool");
    let (lines, config) = (scratch.path().join("lines"), scratch.path().join("forebay.toml"));
    std::fs::write(&config, "data_dir = \"copy\"\n").unwrap();
    let lines_name = lines.to_str().unwrap();
    done(&store(broker.data(), &["export", "--to", lines_name], b""), "exported");
    assert!(std::fs::read(&lines).unwrap() == exported.as_bytes());
    let mut command = Command::new(program());
    command.args(["store", "import", "--from", lines_name, "--config"]).arg(&config);
    done(&command.output().unwrap(), "imported");
    let copy = scratch.path().join("copy");
    assert!(done(&store(&copy, &["export"], b""), "exported") == exported, "the export of the import differs");
    refused(&store(&copy, &["import"], exported.as_bytes()), "is not empty");
    done(&store(&copy, &["verify"], b""), "is sound");
    done(&store(&copy, &["compact"], b""), "bytes before");

    let mut second = Broker::prepare(Some(&copy));
    second.run();
    for version in [Version::V4, Version::V5] {
        assert!(receive(&second, version, payloads.len()) == payloads, "{version:?}");
    }
    assert_eq!(second.terminate(), Some(0));
    done(&store(&copy, &["verify"], b""), "is sound");
}

/// Whatever redb makes of it, one line says that it is damaged, and nothing is changed.
#[test]
fn a_damaged_store_is_told_from_a_crash() {
    let mut broker = Broker::start();
    fill(&broker);
    assert_eq!(broker.terminate(), Some(0));
    let healthy = std::fs::read(broker.data().join("forebay.redb")).unwrap();
    let scratch = Scratch::new("store-tool");
    let file = scratch.path().join("forebay.redb");
    let mut rng = Rng::new(1);
    for _ in 0..12 {
        let mut bytes = healthy.clone();
        for page in bytes.chunks_mut(4096).skip(1) {
            if rng.below(2) == 0 {
                page[..64].fill_with(|| rng.next_u64() as u8);
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        refused(&store(scratch.path(), &["verify"], b""), "is not sound");
        refused(&store(scratch.path(), &["export"], b""), "is damaged");
        assert!(std::fs::read(&file).unwrap() == bytes);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let scratch = Scratch::new("store-tool");
    let empty = scratch.path().join("empty");
    refused(&store(&empty, &["verify"], b""), "there is no store");
    refused(&store(&empty, &["export"], b""), "there is no store");
    refused(&store(&empty, &["import"], b"{}\n"), "line 1: ");
    done(&store(&empty, &["verify"], b""), "is sound");
    assert_eq!(store(&empty, &["mend"], b"").status.code(), Some(2));
    let damaged = scratch.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join("forebay.redb"), vec![b'x'; 100_000]).unwrap();
    let output = store(&damaged, &["verify"], b"");
    refused(&output, "is not sound");
    assert!(String::from_utf8_lossy(&output.stdout).contains("wrong          "));
    refused(&store(&damaged, &["export"], b""), "start the broker on it");
    refused(&store(&damaged, &["compact"], b""), "start the broker on it");
    assert_eq!(Command::new(program()).args(["check", "--store"]).arg(&damaged).status().unwrap().code(), Some(1));
    assert!(std::fs::read(damaged.join("forebay.redb")).unwrap() == vec![b'x'; 100_000]);
}

/// A store that an earlier program wrote: what is changed is said, and nothing is.
#[test]
fn a_check_says_what_an_upgrade_does() {
    let scratch = Scratch::new("upgrade");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/tests/formats/2.redb");
    let file = scratch.path().join("forebay.redb");
    std::fs::copy(golden, &file).unwrap();
    let before = std::fs::read(&file).unwrap();
    let output = Command::new(program()).args(["check", "--store"]).arg(scratch.path()).output().unwrap();
    let said = done(&output, "the first start makes format 2 into");
    assert!(said.contains("format         2"), "{said}");
    assert!(std::fs::read(&file).unwrap() == before);
}

/// Only a regular file is replaced: a link stays and its target is written, a FIFO gives what is written to its reader.
#[cfg(unix)]
#[test]
fn an_export_leaves_links_and_fifos_what_they_are() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    let mut broker = Broker::prepare(None);
    broker.run();
    fill(&broker);
    assert_eq!(broker.terminate(), Some(0));
    let scratch = Scratch::new("export");
    let path = |name: &str| scratch.path().join(name);
    let export = |name: &str| store(broker.data(), &["export", "--to", path(name).to_str().unwrap()], b"");
    let text = done(&store(broker.data(), &["export"], b""), "exported");

    std::fs::create_dir(path("elsewhere")).unwrap();
    for target in ["elsewhere/old", "elsewhere/new"] {
        let _ = std::fs::remove_file(path("link"));
        symlink(target, path("link")).unwrap();
        if target.ends_with("old") {
            std::fs::write(path(target), "old").unwrap();
            std::fs::set_permissions(path(target), PermissionsExt::from_mode(0o640)).unwrap();
        }
        done(&export("link"), "exported");
        assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink(), "the link was replaced");
        assert_eq!(std::fs::read_to_string(path(target)).unwrap(), text);
    }
    assert_eq!(std::fs::metadata(path("elsewhere/old")).unwrap().permissions().mode() & 0o777, 0o640);

    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = path("fifo");
        move || std::fs::read_to_string(fifo).unwrap()
    });
    done(&export("fifo"), "exported");
    assert!(std::fs::symlink_metadata(path("fifo")).unwrap().file_type().is_fifo(), "the FIFO was replaced");
    assert_eq!(reader.join().unwrap(), text);

    // The name beside it is somebody's: nothing is written through it.
    std::fs::write(path("victim"), "mine").unwrap();
    symlink("victim", path("file.partial")).unwrap();
    refused(&export("file"), "cannot be written");
    assert_eq!(std::fs::read_to_string(path("victim")).unwrap(), "mine");
    refused(&export("elsewhere"), "cannot be written");
}
