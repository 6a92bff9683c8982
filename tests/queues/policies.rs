//! A queue that is full: what each policy does, and that it does so again after a `kill -9`.

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::sys::{dropped, figure};

use crate::{absent, broker, crash, drained, numbers, payload, publisher, settled};

/// Ten messages, in messages and in bytes.
const LIMITS: [&str; 2] = ["max_messages = 10", "max_bytes = \"10kB\""];

/// Publishes messages to `q/t`; the reason code of each PUBACK.
fn publish(broker: &Broker, numbers: std::ops::RangeInclusive<u16>) -> Vec<u8> {
    let mut publisher = publisher(broker, Version::V5);
    let codes = numbers.map(|n| {
        let (code, properties) = publisher.publish(n, "q/t", &payload(n));
        assert_eq!(properties.retry_after_ms(), (code == 0x97).then_some(1000));
        code
    });
    let codes = codes.collect();
    publisher.leave();
    codes
}

fn up_to(last: u16) -> Vec<u16> {
    (1..=last).collect()
}

#[test]
fn reject_refuses_with_quota_exceeded_and_a_time_to_wait() {
    for limit in LIMITS {
        let mut broker = broker(&format!("{limit}\npolicy = \"reject\""));
        absent(&broker);
        assert_eq!(publish(&broker, 1..=12), [vec![0; 10], vec![0x97; 2]].concat(), "{limit}");
        let figures = settled(&broker, 10);
        assert_eq!((dropped(&figures), figure(&figures, "counters/publish_refused")), (0, 2));
        crash(&mut broker);
        settled(&broker, 10);
        assert_eq!(publish(&broker, 13..=13), [0x97], "{limit}: it is as full as before");
        assert_eq!(numbers(&drained(&broker)), up_to(10), "{limit}");
        assert_eq!(publish(&broker, 14..=14), [0], "{limit}: there is room again");
        assert_eq!(dropped(&settled(&broker, 1)), 0);
    }
}

#[test]
fn drop_oldest_keeps_the_newest() {
    for limit in LIMITS {
        let mut broker = broker(&format!("{limit}\npolicy = \"drop-oldest\""));
        absent(&broker);
        assert_eq!(publish(&broker, 1..=15), [0; 15], "{limit}");
        assert_eq!(figure(&settled(&broker, 10), "ledger/dropped/oldest"), 5, "{limit}");
        crash(&mut broker);
        settled(&broker, 10);
        assert_eq!(publish(&broker, 16..=20), [0; 5]);
        settled(&broker, 10);
        crash(&mut broker);
        settled(&broker, 10);
        assert_eq!(numbers(&drained(&broker)), (11..=20).collect::<Vec<_>>(), "{limit}");
        settled(&broker, 0);
    }
}

#[test]
fn drop_newest_keeps_the_oldest() {
    for limit in LIMITS {
        let mut broker = broker(&format!("{limit}\npolicy = \"drop-newest\""));
        absent(&broker);
        assert_eq!(publish(&broker, 1..=15), [0; 15], "{limit}");
        assert_eq!(figure(&settled(&broker, 10), "ledger/dropped/newest"), 5, "{limit}");
        crash(&mut broker);
        settled(&broker, 10);
        assert_eq!(publish(&broker, 16..=16), [0]);
        assert_eq!(numbers(&drained(&broker)), up_to(10), "{limit}");
        settled(&broker, 0);
    }
}

#[test]
fn keep_last_keeps_one_for_each_topic() {
    let mut broker = broker("policy = \"keep-last\"");
    absent(&broker);
    let round = |broker: &Broker, numbers: std::ops::RangeInclusive<u16>| {
        let mut publisher = publisher(broker, Version::V5);
        for n in numbers {
            for topic in ["q/a", "q/b", "q/c"] {
                assert_eq!(publisher.publish(n, topic, &payload(n)).0, 0);
            }
        }
        publisher.leave();
    };
    let each = |number: u16| ["q/a", "q/b", "q/c"].map(|topic| (topic.to_owned(), number)).to_vec();
    round(&broker, 1..=5);
    assert_eq!(figure(&settled(&broker, 3), "ledger/dropped/replaced"), 12);
    crash(&mut broker);
    settled(&broker, 3);
    // What was there before the crash is replaced as well.
    round(&broker, 6..=7);
    settled(&broker, 3);
    crash(&mut broker);
    settled(&broker, 3);
    assert_eq!(drained(&broker), each(7));
    settled(&broker, 0);
    round(&broker, 8..=8);
    assert_eq!(drained(&broker), each(8), "a topic that was delivered begins anew");
}

#[test]
fn keep_last_at_its_limit_drops_the_oldest() {
    for limit in LIMITS {
        let mut broker = broker(&format!("{limit}\npolicy = \"keep-last\""));
        absent(&broker);
        let mut publisher = publisher(&broker, Version::V5);
        for n in 0..15 {
            let topic = format!("q/{}", char::from(b'a' + n));
            assert_eq!(publisher.publish(u16::from(n) + 1, &topic, &payload(n.into())).0, 0);
        }
        publisher.leave();
        assert_eq!(figure(&settled(&broker, 10), "ledger/dropped/oldest"), 5, "{limit}");
        crash(&mut broker);
        settled(&broker, 10);
        assert_eq!(numbers(&drained(&broker)), (5..15).collect::<Vec<_>>(), "{limit}");
    }
}
