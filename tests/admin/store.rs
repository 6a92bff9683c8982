//! The store of a running broker: its journal, its room, how much it writes, and what a kill leaves of all that.

use forebay_tests::broker::program;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};
use forebay_tests::scratch::Scratch;

use crate::{Site, until};

fn number(site: &Site, path: &str, field: &str) -> u64 {
    site.socket().get(path).json()[field].as_u64().unwrap()
}

fn back(site: &Site, client: &str) -> Peer {
    let (peer, present) = Peer::open(&site.tcp(), &Connect::kept(Version::V5, client));
    assert!(present);
    peer
}

#[test]
fn the_journal_is_seen_and_folded() {
    let site = Site::start("", "");
    site.subscriber("away", "t/#").leave();
    let mut publisher = site.publisher();
    for id in 1..=20 {
        publisher.publish(id, "t/1", &[b'x'; 1000]);
    }
    let socket = site.socket();
    let journal = socket.get("/api/store/journal").json();
    assert_eq!(journal["bytes"], 8 << 20);
    assert!(journal["pending_bytes"].as_u64().unwrap() >= 20_000, "{journal}");
    assert!(journal["last_record"].as_u64() > journal["folded_record"].as_u64(), "{journal}");
    let folded = socket.ask("POST", "/api/store/fold", &[], b"").json();
    assert!(folded["records"].as_u64().unwrap() > 0 && folded["bytes"].as_u64().unwrap() >= 20_000, "{folded}");
    let journal = socket.get("/api/store/journal").json();
    assert_eq!((&journal["pending_bytes"], &journal["last_record"]), (&0.into(), &journal["folded_record"]));
}

#[test]
fn room_is_given_back_while_acks_go_on() {
    let mut site = Site::start("", "");
    site.subscriber("drains", "t/#").leave();
    site.subscriber("away", "u/#").leave();
    let mut publisher = site.publisher();
    for id in 1..=2000 {
        publisher.publish(id, "t/1", &[b'x'; 8000]);
    }
    let socket = site.socket();
    assert_eq!(socket.ask("POST", "/api/store/fold", &[], b"").status, 200);
    let length = || std::fs::metadata(site.broker.data().join("forebay.redb")).unwrap().len();
    let full = length();
    let mut drains = back(&site, "drains");
    for _ in 1..=2000 {
        drains.message();
    }
    let mut sent = 0;
    let compacting = std::thread::spawn(move || socket.ask("POST", "/api/store/compact", &[], b""));
    while !compacting.is_finished() || sent == 0 {
        sent += 1;
        assert_eq!(publisher.publish(sent, &format!("u/{sent}"), b"meanwhile").0, 0);
    }
    let answer = compacting.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (before, after) = (answer.json()["before"].as_u64().unwrap(), answer.json()["after"].as_u64().unwrap());
    eprintln!("{} acks while {before} bytes became {after} in {} ms", sent, answer.json()["took_ms"]);
    // Commits may have given some of it back before.
    assert!(
        full > 8_000_000 && after <= before && after < full / 8,
        "{full} bytes, {before} when it began, became {after}"
    );
    let file = length();
    assert!(file < full / 2, "{file} bytes of {full}");
    site.broker.kill();
    site.broker.run();
    let mut away = back(&site, "away");
    for id in 1..=sent {
        assert_eq!(away.message().topic, format!("u/{id}"));
    }
}

/// Killed at any moment of a copy: what was acknowledged is there, and the copy is whole or not there.
#[test]
fn a_kill_in_a_copy_costs_nothing() {
    let mut site = Site::start("", "");
    site.subscriber("away", "t/#").leave();
    let mut publisher = site.publisher();
    let mut sent = 0;
    let mut publish = |publisher: &mut Peer, count: u16| {
        for _ in 0..count {
            sent += 1;
            publisher.publish(sent, &format!("t/{sent}"), &[b'x'; 4000]);
        }
        sent
    };
    publish(&mut publisher, 1500);
    for more in [1, 10, 50, 200] {
        let folder = Scratch::new("copy");
        let file = folder.path().join("forebay.redb");
        let copying = std::thread::spawn({
            let (socket, target) = (site.socket(), format!("/api/store/backup?to={}", file.display()));
            // The connection ends with the broker: what it answers, if it does, is of no interest.
            move || std::panic::catch_unwind(|| socket.ask("POST", &target, &[], b""))
        });
        publish(&mut publisher, more);
        site.broker.kill();
        let _ = copying.join();
        if file.exists() {
            let mut verify = std::process::Command::new(program());
            verify.args(["store", "verify", "--data-dir"]).arg(folder.path());
            let output = verify.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        site.broker.run();
        publisher = site.publisher();
    }
    let sent = publish(&mut publisher, 1);
    let mut away = back(&site, "away");
    for id in 1..=sent {
        assert_eq!(away.message().topic, format!("t/{id}"));
    }
}

/// The nearer the line, the longer commits wait; beyond it that is said.
#[test]
fn commits_wait_as_the_device_has_been_written() {
    let site = Site::start("[store]\nwear = \"2 GB/year\"", "");
    let opening = "It cannot be kept if durable messages come all the time";
    until("the start says what it comes to", || site.broker.log(), |log| log.contains(opening));
    site.subscriber("away", "t/#").leave();
    let mut publisher = site.publisher();
    let store = site.socket().get("/api/store").json();
    assert_eq!((&store["wear_bytes_per_year"], &store["gather_us"]), (&2_000_000_000u64.into(), &0.into()));
    let (mut id, mut gathers) = (0, vec![0]);
    while number(&site, "/api/store", "gather_us") < 500_000 {
        id += 1;
        publisher.publish(id, "t/1", &[b'x'; 100_000]);
        let gather = number(&site, "/api/store", "gather_us");
        assert!(gather >= gathers[gathers.len() - 1], "{gathers:?}, then {gather}");
        gathers.push(gather);
    }
    until("it is said", || site.broker.log(), |log| log.contains("store.wear cannot be kept"));
    let look = || site.socket().get("/api/store").json();
    let store = until("it is known", look, |store| store["wear_over"] == true);
    assert!(store["device_bytes_per_kilobyte"].as_u64().unwrap() > 1000, "{store}");
}
