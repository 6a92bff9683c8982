//! Priorities of declared queues: what is urgent overtakes a backlog on disk, and lower ones have their share, over a `kill -9`.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, Publish, number2, publish, user};
use forebay_tests::sys::{Sys, figure};

use crate::{committed, crash, publisher, settled, tcp};

/// So little is in memory that a backlog lies on disk.
fn with(queue: &str) -> Broker {
    Broker::with_config(&format!(
        "sys_interval = \"1s\"\n[limits]\nmemory_messages = 16\n[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"\n{queue}\n"
    ))
}

fn send(broker: &Broker, version: Version, topic: &str, count: u16, properties: &[u8]) {
    let mut peer = publisher(broker, version);
    for number in 0..count {
        peer.send(&publish(version, 1, number + 1, topic, properties, &number.to_be_bytes()));
        assert!(matches!(peer.answer(), Came::Ack(_, _, 0, _)));
    }
    peer.leave();
}

/// Takes one at a time: what comes next is decided when the one before is done.
fn consumer(broker: &Broker) -> Peer {
    let one = Connect::clean(Version::V5, "c").with(&number2(0x21, 1));
    let (mut peer, _) = Peer::open(&tcp(broker), &one);
    assert_eq!(peer.subscribe(&[("$queue/jobs", 1)]), [1]);
    peer
}

fn number(message: &Publish) -> u16 {
    u16::from_be_bytes([message.payload[0], message.payload[1]])
}

#[test]
fn what_is_urgent_overtakes_a_backlog() {
    let rules =
        "priority_share = 0\npriority_levels = 4\n[[queues.priorities]]\nfilter = \"job/alarm/#\"\npriority = 31";
    let mut broker = with(rules);
    send(&broker, Version::V4, "job/slow", 300, &[]);
    send(&broker, Version::V5, "job/slow", 20, &user("priority", "16"));
    // By the filter alone, as MQTT 3.1.1 has it.
    send(&broker, Version::V4, "job/alarm/1", 30, &[]);
    crash(&mut broker);
    settled(&broker, 350);
    let mut consumer = consumer(&broker);
    let came: Vec<Publish> = (0..100).map(|_| consumer.message()).collect();
    let order: Vec<(&str, u16)> = came.iter().map(|message| (&*message.topic, number(message))).collect();
    let wanted = (0..30).map(|n| ("job/alarm/1", n)).chain((0..20).map(|n| ("job/slow", n)));
    assert_eq!(order, wanted.chain((0..50).map(|n| ("job/slow", n))).collect::<Vec<_>>());
    // One that comes now is next, but for what the consumer has.
    send(&broker, Version::V4, "job/alarm/2", 1, &[]);
    let next: Vec<String> = (0..2).map(|_| consumer.message().topic).collect();
    assert!(next.contains(&"job/alarm/2".to_owned()), "{next:?}");
    drop(consumer);
    let rest = self::consumer(&broker).drain(Duration::from_millis(500));
    assert!(rest.len() >= 249, "{}", rest.len());
    settled(&broker, 0);
}

#[test]
fn lower_ones_have_their_share() {
    let broker = with("priority_share = 25\npriority_levels = 2");
    send(&broker, Version::V5, "job/low", 100, &[]);
    send(&broker, Version::V5, "job/high", 100, &user("priority", "31"));
    let mut consumer = consumer(&broker);
    let low = (0..80).map(|_| consumer.message()).filter(|message| message.topic == "job/low").count();
    assert_eq!(low, 20, "of 80");
}

/// Each level is full by itself, and what a full one drops is a dead letter of the queue.
#[test]
fn levels_have_limits_of_their_own_and_dead_letters_together() {
    let mut broker =
        with("priority_levels = 2\nmax_messages = 10\npolicy = \"drop-oldest\"\ndead_letters = [\"full\"]");
    send(&broker, Version::V5, "job/low", 15, &[]);
    send(&broker, Version::V5, "job/high", 12, &user("priority", "31"));
    Sys::open(&tcp(&broker)).until("they are dead", |f| figure(f, "counters/dead_letters") == 7);
    committed(&broker);
    crash(&mut broker);
    settled(&broker, 27);
    let (mut reader, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "reader"));
    assert_eq!(reader.subscribe(&[("$dead/jobs/#", 1)]), [1]);
    let mut dead: Vec<(String, u16)> =
        reader.drain(Duration::from_millis(500)).into_iter().map(|m| (m.topic.clone(), number(&m))).collect();
    dead.sort();
    let wanted = (0..2).map(|n| ("$dead/jobs/job/high".to_owned(), n));
    assert_eq!(dead, wanted.chain((0..5).map(|n| ("$dead/jobs/job/low".to_owned(), n))).collect::<Vec<_>>());
    // With fewer levels what is in the others is kept, and said.
    committed(&broker);
    broker.kill();
    broker.configure("sys_interval = \"1s\"\n[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"\n");
    broker.run();
    settled(&broker, 20);
    while !broker.log().contains("\"jobs/1\"") {
        std::thread::sleep(Duration::from_millis(20));
    }
}
