//! One message for very many sessions that are away: all of them have it when its publisher is told so, and the others are
//! served meanwhile. `FOREBAY_SESSIONS=n` for another number of sessions; it prints how long another client had to wait.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::broker::{Broker, program};
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, frame, string};
use forebay_tests::scratch::Scratch;
use forebay_tests::sys::{Sys, figure};

use crate::{SYS, tcp};

const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: u8 = 0xD0;

/// A store with so many sessions, all of them subscribed to `wide`: the lines of an export.
fn lines(sessions: u64) -> String {
    let ledger = r#"{"accepted":0,"delivered":0,"expired":0,"dropped":{}}"#;
    let mut all = format!(
        "{{\"export\":{{\"version\":1}}}}\n{{\"store\":{{\"time_ms\":1,\"wall_ms\":1,\"last_session\":{sessions},\"ended\":{ledger}}}}}\n"
    );
    for no in 1..=sessions {
        all += &format!(
            "{{\"session\":{{\"no\":{no},\"client_id\":\"away-{no}\",\"protocol\":5,\"expiry_s\":4294967295,\"disconnected_at_ms\":1}}}}\n\
             {{\"subscription\":{{\"session\":{no},\"filter\":\"wide\",\"qos\":1}}}}\n\
             {{\"state\":{{\"session\":{no},\"next_seq\":0,\"floor\":0,\"sent\":0,\"queued\":0,\"queued_bytes\":0,\"ledger\":{ledger}}}}}\n"
        );
    }
    all + &format!("{{\"end\":{{\"sessions\":{sessions},\"subscriptions\":{sessions},\"queued\":0,\"retained\":0}}}}\n")
}

fn import(data: &std::path::Path, lines: &str) {
    let mut command = Command::new(program());
    command.args(["store", "--data-dir"]).arg(data).arg("import").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{written:?}, {}", String::from_utf8_lossy(&output.stderr));
}

/// Asks for an answer again and again; the longest wait.
fn longest_wait(mut peer: Peer, more: &AtomicBool, mut ask: impl FnMut(&mut Peer)) -> Duration {
    let mut longest = Duration::ZERO;
    while more.load(Ordering::Relaxed) {
        let asked = Instant::now();
        ask(&mut peer);
        longest = longest.max(asked.elapsed());
    }
    longest
}

#[test]
fn one_message_for_very_many_sessions_that_are_away_leaves_the_others_served() {
    let sessions = std::env::var("FOREBAY_SESSIONS").map_or(20_000, |n| n.parse().expect("a number"));
    let data = Scratch::new("wide");
    import(data.path(), &lines(sessions));
    let mut broker = Broker::prepare(Some(data.path()));
    broker.configure(&format!("{SYS}[limits]\nmax_sessions = {}\n", sessions + 100));
    broker.run();
    let endpoint = tcp(&broker);
    let more = Arc::new(AtomicBool::new(true));
    let watch = |name: &str, ask: fn(&mut Peer)| {
        let (peer, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, name));
        let more = Arc::clone(&more);
        std::thread::spawn(move || longest_wait(peer, &more, ask))
    };
    let pings = watch("pings", |peer| {
        peer.send(&PINGREQ);
        assert_eq!(peer.answer(), Came::Other(PINGRESP));
    });
    let acks = watch("acks", |peer| assert_eq!(peer.publish(1, "nobody", b"x").0, 0x10));
    let commits = watch("commits", |peer| {
        let retained = [string("retained"), vec![0, 1, 0], b"x".to_vec()].concat();
        peer.send(&frame(0x33, &retained));
        assert!(matches!(peer.answer(), Came::Ack(Ack::Puback, 1, 0, _)));
    });
    let (mut publisher, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "publisher"));
    let asked = Instant::now();
    assert_eq!(publisher.publish(1, "wide", &[b'x'; 90]).0, 0);
    let took = asked.elapsed();
    // What nobody waits for comes after it.
    std::thread::sleep(Duration::from_millis(300));
    more.store(false, Ordering::Relaxed);
    let [pings, acks, commits] = [pings, acks, commits].map(|thread| thread.join().unwrap());
    eprintln!(
        "{sessions} sessions: PUBACK after {took:?}; longest wait of others for PINGRESP {pings:?}, for PUBACK {acks:?}, for \
         PUBACK after a commit {commits:?}"
    );
    broker.kill();
    broker.run();
    let mut sys = Sys::open(&endpoint);
    // What has not left for the reader of these figures yet waits, too.
    sys.until("every session has it once", |f| figure(f, "ledger/queued") == sessions);
}
