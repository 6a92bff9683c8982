//! Queues of the members of a shared subscription: who takes what when one is full, and when one is dead.

use forebay_tests::broker::Broker;
use forebay_tests::bulk;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer, publish};
use forebay_tests::sys::{Sys, figure};

use crate::{broker, crash, settled, tcp};

const COUNT: u64 = 200_000;
const SIZE: usize = 200;
/// Kilobytes of resident memory that it may take.
const GROWTH_KB: u64 = 16 * 1024;

fn member(broker: &Broker, client: &str) {
    let (mut member, _) = Peer::open(&tcp(broker), &Connect::kept(Version::V4, client));
    assert_eq!(member.subscribe(&[("$share/group/dead", 1)]), [1]);
    member.leave();
}

/// All of it goes to another member, in order, with little in memory, and over a `kill -9` in the middle.
#[test]
fn a_long_queue_of_a_dead_member() {
    let mut broker = Broker::with_config("sys_interval = \"1s\"\n");
    member(&broker, "dead");
    bulk::publish(broker.port(), "dead", 0..COUNT, SIZE);
    settled(&broker, COUNT);
    member(&broker, "heir");
    let before = broker.resident_kb();
    // Usable at once, while the old queue goes its way.
    let (mut anew, present) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "dead"));
    assert!(!present);
    assert_eq!(anew.subscribe(&[("other", 1)]), [1]);
    anew.send(&publish(Version::V5, 0, 0, "other", &[], b"x"));
    assert_eq!(anew.message().payload, b"x");
    let moved = |figures: &_| figure(figures, "ledger/dropped/session_ended");
    let figures = Sys::open(&tcp(&broker)).until("some have moved", |f| moved(f) > 0);
    println!("{} of {COUNT} have moved when the broker is killed", moved(&figures));
    crash(&mut broker);
    Sys::open(&tcp(&broker)).until("all have moved", |f| moved(f) == COUNT);
    let grown = broker.resident_kb().saturating_sub(before);
    println!("{before} KB + {grown} KB in memory");
    assert!(grown < GROWTH_KB, "{grown} KB more in memory");
    settled(&broker, COUNT);
    bulk::drain(broker.port(), "heir", 0..COUNT);
    settled(&broker, 0);
}

#[test]
fn the_queue_of_the_last_member() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n");
    member(&broker, "dead");
    bulk::publish(broker.port(), "dead", 0..5000, SIZE);
    settled(&broker, 5000);
    Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "dead")).0.leave();
    let figures = settled(&broker, 0);
    assert_eq!(figure(&figures, "ledger/dropped/session_ended"), 5000, "nobody is left to take them");
}

/// One is there and acknowledges nothing, the other is away: both limits hold, and then it is refused.
#[test]
fn a_full_member_is_passed_over() {
    let broker = broker("max_messages = 10");
    member(&broker, "away");
    let (mut slow, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "slow"));
    assert_eq!(slow.subscribe(&[("$share/group/dead", 1)]), [1]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    for n in 0..20 {
        assert_eq!(publisher.publish(n + 1, "dead", b"x").0, 0, "message {n}");
    }
    assert_eq!(publisher.publish(21, "dead", b"x").0, 0x97);
    settled(&broker, 20);
}
