//! What is over a rate comes later and is not lost; and the broker says how pressed it is.

use std::time::Instant;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::sys::{assert_balanced, dropped, figure};

use crate::{SYS, sys, tcp};

/// 200 messages of 1,000 bytes, 20 at a time: nothing is lost and order is kept; the answer is how many seconds it took.
fn seconds_with_rate(rate: &str) -> f64 {
    let broker = Broker::with_config(&format!("{SYS}[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\nrate = {rate}\n"));
    let mut sys = sys(&broker);
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "subscriber"));
    subscriber.subscribe(&[("t", 0)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    let begun = Instant::now();
    for burst in 0..10u16 {
        let ids = (1 + burst * 20)..(21 + burst * 20);
        for id in ids.clone() {
            let payload = [&id.to_be_bytes()[..], &[0; 998]].concat();
            publisher.send(&publish(Version::V5, 1, id, "t", &[], &payload));
        }
        for id in ids {
            let came = publisher.answer();
            assert!(matches!(came, Came::Ack(_, acked, 0, _) if acked == id), "{came:?}");
        }
    }
    let took = begun.elapsed().as_secs_f64();
    for id in 1..=200u16 {
        assert_eq!(subscriber.message().payload[..2], id.to_be_bytes());
    }
    let figures = sys.until("delays are counted", |f| figure(f, "counters/reads_delayed") > 0);
    assert_eq!(dropped(&figures), 0);
    took
}

#[test]
fn a_rate_of_messages_delays_and_loses_nothing() {
    // The bucket holds 50 and fills by 50 a second; the last burst may be over it by as much as it has.
    let took = seconds_with_rate("{ messages_per_s = 50 }");
    assert!(took >= f64::from(200 - 50 - 20) / 50.0, "200 messages at 50 a second took {took} s");
}

#[test]
fn a_rate_of_bytes_delays_and_loses_nothing() {
    let took = seconds_with_rate("{ bytes_per_s = \"50kB\" }");
    assert!(took >= f64::from(200 - 50 - 20) / 50.0, "200 kB at 50 kB a second took {took} s");
}

#[test]
fn pressure_follows_a_queue_that_fills_and_drains() {
    // More than the figures that come at once to whoever watches: they are in its queue until its socket has them.
    let broker = Broker::with_config(&format!("{SYS}[queue]\nmax_messages = 1000\n"));
    let mut sys = sys(&broker);
    sys.until_pressure("normal");
    let absent = Connect::kept(Version::V5, "absent");
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &absent);
    subscriber.subscribe(&[("t", 1)]);
    subscriber.leave();
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    (1..=800).for_each(|id| assert_eq!(publisher.publish(id, "t", b"").0, 0));
    assert!(!sys.until_pressure("high").contains(&"critical".to_owned()));
    (801..=1000).for_each(|id| assert_eq!(publisher.publish(id, "t", b"").0, 0));
    sys.until_pressure("critical");
    let (code, properties) = publisher.publish(1001, "t", b"");
    assert_eq!((code, properties.retry_after_ms()), (0x97, Some(1000)));
    // A late comer learns it at once: it is retained.
    let (mut late, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "late"));
    late.subscribe(&[("$SYS/broker/pressure", 0)]);
    let message = late.message();
    assert_eq!((message.retain, message.payload.as_slice()), (true, &b"critical"[..]));
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &absent);
    (1..=1000).for_each(|_| drop(subscriber.message()));
    sys.until_pressure("normal");
    let figures = sys.until("all are delivered", |f| figure(f, "ledger/queued") == 0);
    assert_balanced(&figures);
}
