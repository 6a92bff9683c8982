//! A disk that does not let itself be read or written for a while, from the start on, by strace.

use std::time::Duration;

use forebay_tests::absence;
use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;

use crate::{Case, LIMIT, absent, accepted_again, code, publisher, send, take, takes};

/// More than are read back in one page.
const MESSAGES: u32 = 300;

pub(crate) fn trials() -> Vec<Case> {
    let absent = absence::of_program("strace");
    vec![
        ("a_read_that_fails_once_loses_nothing", absent.clone(), || reads_fail("10")),
        ("reads_that_fail_three_times_lose_nothing", absent.clone(), || reads_fail("24..26")),
        ("a_write_that_fails_once_at_the_start", absent.clone(), || start_fails("pwrite64", "EIO", "1")),
        ("a_sync_that_fails_once_at_the_start", absent.clone(), || start_fails("fdatasync", "EIO", "1")),
        ("a_store_that_cannot_be_written_at_the_start_is_served", absent, cannot_be_written),
    ]
}

/// A broker with messages for the absent one, stopped; it runs again with these calls failing. `when` counts the calls of
/// each thread.
fn prepared(call: &str, error: &str, when: &str) -> Broker {
    let mut broker = Broker::prepare(None);
    broker.run();
    absent(&broker);
    let mut device = publisher(&broker, "device", Version::V5);
    for next in 0..MESSAGES {
        send(&mut device, Version::V5, next);
        assert_eq!(code(&mut device, next, LIMIT), Some(0));
    }
    broker.kill();
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={when}"));
    broker.set_wrapper(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
    broker.run();
    broker
}

fn reads_fail(when: &str) {
    let broker = prepared("pread64", "EIO", when);
    drop(takes(&broker, 0..MESSAGES));
}

fn start_fails(call: &str, error: &str, when: &str) {
    let broker = prepared(call, error, when);
    let mut device = publisher(&broker, "device", Version::V5);
    accepted_again(&mut device, MESSAGES);
    let mut subscriber = takes(&broker, 0..MESSAGES + 1);
    drop(subscriber.drain(Duration::from_millis(200)));
}

fn cannot_be_written() {
    let broker = prepared("pwrite64", "EROFS", "1..3");
    let mut device = publisher(&broker, "device", Version::V5);
    send(&mut device, Version::V5, MESSAGES);
    assert_eq!(code(&mut device, MESSAGES, LIMIT), Some(0x97), "what must be durable is refused");
    // What is there is served, and QoS 0 goes through.
    let mut subscriber = takes(&broker, 0..MESSAGES);
    assert!(broker.log().contains("cannot be written"), "{}", broker.log());
    accepted_again(&mut device, MESSAGES);
    take(&mut subscriber, MESSAGES..MESSAGES + 1);
}
