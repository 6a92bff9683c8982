//! A disk whose fdatasync fails, by strace.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use forebay_tests::absence;
use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{self, Connect, Peer};

use crate::{Case, LIMIT, absent, accepted_again, code, number, publisher, send, takes, tcp};

pub(crate) fn trials() -> Vec<Case> {
    let absent = absence::of_program("strace");
    vec![
        ("no_ack_leaves_for_what_is_not_synced", absent.clone(), never_again),
        ("a_disk_that_fails_for_a_while", absent.clone(), for_a_while),
        ("acks_that_wait_for_a_disk_that_fails_are_bounded", absent, waiting_acks),
    ]
}

/// A broker whose calls of fdatasync fail with EIO; `when` counts those of one thread, and commits have a thread of
/// their own.
fn start(when: &str) -> Broker {
    let mut broker = Broker::prepare(None);
    // -D: the broker is this process's child, strace its grandchild.
    let inject = format!("inject=fdatasync:error=EIO:when={when}");
    broker.set_wrapper(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject]);
    broker.run();
    broker
}

/// Publishes until one is refused; its number. Each has an answer.
fn until_refused(device: &mut Peer) -> u32 {
    for next in 0..1000 {
        send(device, Version::V5, next);
        match code(device, next, LIMIT) {
            Some(0) => {}
            Some(0x97) => return next,
            other => panic!("PUBACK {other:?}"),
        }
    }
    panic!("fdatasync never fails");
}

fn never_again() {
    let mut broker = start("30+");
    absent(&broker);
    let mut device = publisher(&broker, "device", Version::V5);
    let first = until_refused(&mut device);
    assert!(first > 3, "some were synced before: {first}");
    // Nothing is synced from here on: nothing may be acknowledged, however long it is tried.
    for n in first + 1..first + 21 {
        send(&mut device, Version::V5, n);
        assert_eq!(code(&mut device, n, LIMIT), Some(0x97), "nothing is synced any more");
    }
    assert!(broker.is_running());
    assert!(broker.log().contains("new durable messages are refused"), "{}", broker.log());
    broker.kill();
    broker.set_wrapper(&[]);
    broker.run();
    let mut subscriber = takes(&broker, 0..first);
    // Of what was not acknowledged nothing is promised; what does come is what was sent.
    for message in subscriber.drain(Duration::from_secs(1)) {
        assert!((first..first + 21).contains(&number(&message.payload)));
    }
}

fn for_a_while() {
    let mut broker = start("30..36");
    absent(&broker);
    let mut device = publisher(&broker, "device", Version::V5);
    let first = until_refused(&mut device);
    accepted_again(&mut device, first);
    assert!(broker.is_running());
    assert!(broker.log().contains("the store is writable again"), "{}", broker.log());
    let mut subscriber = takes(&broker, 0..first + 1);
    drop(subscriber.drain(Duration::from_secs(1)));
    broker.kill();
    broker.set_wrapper(&[]);
    broker.run();
    assert_eq!(takes(&broker, 0..0).drain(Duration::from_secs(1)), [], "all were delivered and acknowledged");
}

/// Nobody acknowledges what cannot be synced; whoever goes on all the same is not read any more, and others are served.
fn waiting_acks() {
    let mut broker = start("30+");
    absent(&broker);
    let mut device = publisher(&broker, "device", Version::V5);
    until_refused(&mut device);
    let mut hostile = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    hostile.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    hostile.write_all(&Connect::kept(Version::V5, "hostile").packet()).unwrap();
    let unsubscribe = [0xA2, 6, 0, 1, 0, 0, 1, b'x'];
    let flood = unsubscribe.repeat(8192);
    let mut taken = 0;
    while hostile.write_all(&flood).is_ok() {
        taken += flood.len();
        assert!(taken < 64 << 20, "it is read for ever");
    }
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(other.subscribe(&[("q0", 0)]), [0]);
    other.send(&peer::publish(Version::V5, 0, 0, "q0", &[], b"on"));
    assert_eq!(other.message().payload, b"on");
    assert!(broker.is_running());
}
