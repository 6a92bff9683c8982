//! How long a message may wait: the queue's limit, and what its publisher says.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, number4, publish};
use forebay_tests::sys::{Sys, assert_balanced, figure};

use crate::{absent, broker, crash, drained, numbers, payload, publisher, settled, tcp};

/// Waits until the broker's clock has gone on by more than two seconds.
fn two_seconds() {
    std::thread::sleep(Duration::from_millis(2500));
}

/// Publishes messages that expire `expiry_s` seconds later; the codes of their PUBACKs.
fn send(broker: &Broker, numbers: std::ops::RangeInclusive<u16>, expiry_s: Option<u32>) -> Vec<u8> {
    let mut publisher = publisher(broker, Version::V5);
    let expiry = expiry_s.map(|s| number4(0x02, s)).unwrap_or_default();
    let codes = numbers.map(|n| {
        publisher.send(&publish(Version::V5, 1, n, "q/t", &expiry, &payload(n)));
        match publisher.answer() {
            Came::Ack(Ack::Puback, id, code, _) if id == n => code,
            other => panic!("{other:?}"),
        }
    });
    let codes = codes.collect();
    publisher.leave();
    codes
}

#[test]
fn what_is_too_old_is_not_delivered_and_counts_as_expired() {
    for policy in ["reject", "drop-oldest", "drop-newest", "keep-last"] {
        let broker = broker(&format!("max_age = \"2s\"\npolicy = \"{policy}\""));
        absent(&broker);
        send(&broker, 1..=5, None);
        two_seconds();
        send(&broker, 6..=6, None);
        assert_eq!(numbers(&drained(&broker)), [6], "{policy}");
        let figures = settled(&broker, 0);
        let expired = figure(&figures, "ledger/expired");
        let replaced = figure(&figures, "ledger/dropped/replaced");
        assert_eq!(expired + replaced, 5, "{policy}");
        assert_eq!(replaced > 0, policy == "keep-last");
    }
}

#[test]
fn age_goes_on_while_the_broker_is_down() {
    let mut broker = broker("max_age = \"2s\"");
    absent(&broker);
    send(&broker, 1..=5, None);
    settled(&broker, 5);
    broker.kill();
    two_seconds();
    broker.run();
    send(&broker, 6..=6, None);
    assert_eq!(numbers(&drained(&broker)), [6]);
    settled(&broker, 0);
}

/// Nobody has to come for it: what is too old makes room by itself.
#[test]
fn what_is_too_old_makes_room_in_a_full_queue() {
    for (age, expiry_s) in [("max_age = \"2s\"\n", None), ("", Some(2))] {
        for policy in ["reject", "drop-newest"] {
            let mut broker = broker(&format!("max_messages = 5\n{age}policy = \"{policy}\""));
            absent(&broker);
            let full = if policy == "reject" { 0x97 } else { 0 };
            assert_eq!(send(&broker, 1..=6, expiry_s), [0, 0, 0, 0, 0, full]);
            two_seconds();
            // It is looked for as long as room is short.
            let mut sys = Sys::open(&tcp(&broker));
            let figures = sys.until("there is room", |f| figure(f, "ledger/queued") <= 3);
            assert_balanced(&figures);
            assert_eq!(send(&broker, 7..=8, None), [0, 0], "{policy} {age}");
            crash(&mut broker);
            assert_eq!(numbers(&drained(&broker)), [7, 8], "{policy} {age}");
            assert_eq!(figure(&settled(&broker, 0), "ledger/expired"), 5);
        }
    }
}
