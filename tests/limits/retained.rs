//! Retained messages for whoever subscribes: all of them come, whatever the buffer, and what they take in the broker is
//! bounded, whatever is subscribed.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::{self, Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, Publish, number2, publish, subscribe};
use forebay_tests::sys::{assert_balanced, dropped, figure};

use crate::{SYS, sys, tcp};

/// Retains so many messages on `r/N`, of `size` bytes that begin with `value`.
fn retain(broker: &Broker, count: u16, size: usize, value: u8, qos: u8) {
    let (mut publisher, _) = Peer::open(&tcp(broker), &Connect::clean(Version::V5, "publisher"));
    let payload = vec![value; size];
    for first in (0..count).step_by(200) {
        let here = first..count.min(first + 200);
        let one = |n: u16| {
            let mut packet = publish(Version::V5, qos, n + 1, &format!("r/{n}"), &[], &payload);
            packet[0] |= 1;
            packet
        };
        publisher.send(&here.clone().flat_map(one).collect::<Vec<u8>>());
        for n in here.filter(|_| qos > 0) {
            assert!(matches!(publisher.answer(), Came::Ack(Ack::Puback, id, 0, _) if id == n + 1));
        }
    }
    publisher.send(&packet::PINGREQ);
    assert_eq!(publisher.answer(), Came::Other(0xD0));
}

/// Takes messages, and acknowledges them, until each of so many topics has come; SUBACKs are skipped.
fn take(peer: &mut Peer, topics: usize) -> Vec<Publish> {
    let (mut all, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
    while seen.len() < topics {
        match peer.answer() {
            Came::Publish(message) => {
                if message.qos == 1 {
                    peer.send(&packet::ack(Ack::Puback, message.id));
                }
                seen.insert(message.topic.clone());
                all.push(message);
            }
            Came::Suback(..) => {}
            other => panic!("among messages: {other:?}"),
        }
    }
    all
}

#[test]
fn all_come_at_qos_0_though_they_are_many_times_the_buffer() {
    let broker = Broker::with_config(&format!("{SYS}[limits]\noutbound_buffer = \"64KiB\"\n"));
    retain(&broker, 3000, 4000, b'x', 1);
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "subscriber"));
    assert_eq!(subscriber.subscribe(&[("r/#", 0)]), [0]);
    let all = take(&mut subscriber, 3000);
    assert_eq!(all.len(), 3000, "each of them once");
    assert!(all.iter().all(|message| message.retain && message.payload.len() == 4000));
    let figures = sys(&broker).figures();
    assert_eq!(dropped(&figures), 0);
    assert_balanced(&figures);
}

#[test]
fn the_same_filter_twice_in_a_packet_is_one() {
    let broker = Broker::with_config(SYS);
    retain(&broker, 100, 10, b'x', 0);
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "subscriber"));
    assert_eq!(subscriber.subscribe(&[("r/#", 0), ("r/#", 1), ("r/#", 0)]), [0, 1, 0]);
    assert_eq!(subscriber.drain(Duration::from_secs(1)).len(), 100);
    // A SUBSCRIBE after that gives them again [MQTT-3.8.4-3].
    assert_eq!(subscriber.subscribe(&[("r/#", 0)]), [0]);
    assert_eq!(subscriber.drain(Duration::from_secs(1)).len(), 100);
}

/// 50 SUBSCRIBEs with 100 filters each, by a client that takes one message at a time and reads none.
fn amplify(broker: &Broker, connect: &Connect) -> Peer {
    let (mut greedy, _) = Peer::open(&tcp(broker), &connect.clone().with(&number2(0x21, 1)));
    for id in 1..=50 {
        greedy.send(&subscribe(Version::V5, id, &[("#", 1); 100]));
    }
    greedy.send(&packet::PINGREQ);
    loop {
        match greedy.answer() {
            Came::Other(0xD0) => return greedy,
            Came::Suback(..) | Came::Publish(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn subscribing_again_and_again_does_not_pass_the_limits() {
    let broker = Broker::with_config(&format!("{SYS}[queue]\nmax_messages = 10000\n"));
    retain(&broker, 4000, 1000, b'x', 1);
    let mut sys = sys(&broker);
    let before = broker.resident_kb();
    let _transient = amplify(&broker, &Connect::clean(Version::V5, "transient"));
    let figures = sys.until("some are queued", |f| figure(f, "ledger/queued") > 1000);
    assert!(figure(&figures, "ledger/queued") < 2500, "limits.memory_messages, and a few: {figures:?}");
    let _durable = amplify(&broker, &Connect::kept(Version::V5, "durable"));
    let figures = sys.until("half a queue", |f| figure(f, "ledger/queued") > 6000);
    assert!(figure(&figures, "ledger/queued") < 7700, "half a queue, and the others: {figures:?}");
    let grown = broker.resident_kb().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KB more in memory");
    assert_eq!(dropped(&figures), 0);
    // The rest of the queue is for what is published.
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(other.publish(1, "other", b"x").0, 0);
}

/// What a client that reads late has missed comes as what it is by then, and never as what it was before.
#[test]
fn what_changes_meanwhile_is_never_followed_by_what_it_was() {
    const COUNT: u16 = 2000;
    for qos in [0, 1] {
        let limits = "[limits]\noutbound_buffer = \"64KiB\"\nmemory_messages = 100\n";
        let broker = Broker::with_config(&format!("{SYS}{limits}"));
        // More than sockets take at QoS 0; at QoS 1 the window holds it up.
        let size = if qos == 0 { 4000 } else { 400 };
        retain(&broker, COUNT, size, 1, qos);
        let connect = Connect::clean(Version::V5, "subscriber").with(&number2(0x21, 10));
        let (mut subscriber, _) = Peer::open(&tcp(&broker), &connect);
        assert_eq!(subscriber.subscribe(&[("r/#", qos)]), [qos]);
        for value in 2..=4 {
            retain(&broker, COUNT, size, value, qos);
        }
        let mut last: BTreeMap<String, u8> = BTreeMap::new();
        // At QoS 0 a change may have been dropped after its topic had come.
        while last.len() < usize::from(COUNT) || qos > 0 && last.values().any(|value| *value < 4) {
            for message in take(&mut subscriber, 1) {
                let before = last.insert(message.topic.clone(), message.payload[0]);
                assert!(before.is_none_or(|before| before <= message.payload[0]), "{}: {before:?}", message.topic);
            }
        }
    }
}

#[test]
fn a_session_that_is_kept_gets_the_rest_on_its_next_connection() {
    let broker = Broker::with_config(&format!("{SYS}[queue]\nmax_messages = 100\n"));
    retain(&broker, 1000, 100, b'x', 1);
    let (mut first, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "kept").with(&number2(0x21, 10)));
    first.send(&subscribe(Version::V5, 1, &[("r/#", 1)]));
    let some = take(&mut first, 20);
    drop(first);
    let (mut second, present) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "kept"));
    assert!(present);
    let mut topics: std::collections::BTreeSet<String> = some.into_iter().map(|message| message.topic).collect();
    while topics.len() < 1000 {
        topics.extend(take(&mut second, 1).into_iter().map(|message| message.topic));
    }
}

#[test]
fn unsubscribe_ends_them() {
    let broker = Broker::with_config(SYS);
    retain(&broker, 4000, 4000, b'x', 0);
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "subscriber"));
    subscriber.send(&subscribe(Version::V4, 1, &[("r/#", 0)]));
    let body = [&[0, 2][..], &packet_string("r/#")].concat();
    subscriber.send(&forebay_tests::peer::frame(0xA2, &body));
    let mut came = 0;
    loop {
        match subscriber.within(Duration::from_secs(1)) {
            Some(Came::Publish(_)) => came += 1,
            Some(_) => {}
            None => break,
        }
    }
    assert!(came < 4000, "what was in the buffers, and no more: {came}");
}

fn packet_string(text: &str) -> Vec<u8> {
    forebay_tests::peer::string(text)
}
