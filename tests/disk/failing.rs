//! A disk whose fdatasync fails, by strace.

use std::time::Duration;

use forebay_tests::absence;
use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;

use crate::{Case, LIMIT, absent, accepted_again, code, number, publisher, send, takes};

pub(crate) fn trials() -> Vec<Case> {
    let absent = absence::of_program("strace");
    vec![
        ("no_ack_leaves_for_what_is_not_synced", absent.clone(), never_again),
        ("a_disk_that_fails_for_a_while", absent, for_a_while),
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

/// Publishes until one is not acknowledged with success; its number.
fn until_failure(device: &mut forebay_tests::peer::Peer) -> u32 {
    for next in 0..1000 {
        send(device, Version::V5, next);
        match code(device, next, Duration::from_secs(2)) {
            Some(0) => {}
            Some(0x97) | None => return next,
            Some(other) => panic!("PUBACK {other:#x}"),
        }
    }
    panic!("fdatasync never fails");
}

fn never_again() {
    let mut broker = start("30+");
    absent(&broker);
    let mut device = publisher(&broker, "device", Version::V5);
    let first = until_failure(&mut device);
    assert!(first > 3, "some were synced before: {first}");
    // Nothing is synced from here on: nothing may be acknowledged, however long it is tried.
    for n in first + 1..first + 21 {
        send(&mut device, Version::V5, n);
        let came = device.within(Duration::from_millis(250));
        if let Some(came) = came {
            let refused = matches!(came, forebay_tests::peer::Came::Ack(_, _, 0x97, _));
            assert!(refused, "nothing is synced any more: {came:?}");
        }
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
    let first = until_failure(&mut device);
    // It may have been taken before the disk failed: then its ack comes when the disk is well.
    let mut next = first;
    if code(&mut device, first, LIMIT.min(Duration::from_secs(10))) == Some(0) {
        next += 1;
    }
    accepted_again(&mut device, next);
    assert!(broker.is_running());
    assert!(broker.log().contains("the store is writable again"), "{}", broker.log());
    let mut subscriber = takes(&broker, 0..next + 1);
    drop(subscriber.drain(Duration::from_secs(1)));
    broker.kill();
    broker.set_wrapper(&[]);
    broker.run();
    assert_eq!(takes(&broker, 0..0).drain(Duration::from_secs(1)), [], "all were delivered and acknowledged");
}
