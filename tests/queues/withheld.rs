//! 3.1.1 has no word for a refusal: the ack is withheld until there is room.

use std::time::Duration;

use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::sys::{dropped, figure};

use crate::{absent, broker, crash, payload, publisher, settled, tcp};

const MOMENT: Duration = Duration::from_millis(500);

fn send(publisher: &mut Peer, numbers: std::ops::RangeInclusive<u16>) {
    numbers.for_each(|n| publisher.send(&publish(Version::V4, 1, n, "q/t", &[], &payload(n))));
}

fn acked(publisher: &mut Peer, numbers: std::ops::RangeInclusive<u16>) {
    for n in numbers {
        let came = publisher.answer();
        assert!(matches!(came, Came::Ack(Ack::Puback, id, 0, _) if id == n), "the PUBACK of {n}: {came:?}");
    }
}

#[test]
fn the_ack_is_withheld_until_there_is_room() {
    let mut broker = broker("max_messages = 10\npolicy = \"reject\"");
    absent(&broker);
    let mut first = publisher(&broker, Version::V4);
    send(&mut first, 1..=13);
    acked(&mut first, 1..=10);
    assert_eq!(first.within(MOMENT), None, "the queue is full");
    first.send(&forebay_tests::packet::PINGREQ);
    assert_eq!(first.answer(), Came::Other(0xD0), "the connection lives on meanwhile");
    assert_eq!(figure(&settled(&broker, 10), "counters/publish_parked"), 3);

    // What was not acknowledged is the publisher's still, and comes again after a crash.
    crash(&mut broker);
    assert_eq!(first.answer(), Came::Closed);
    let mut publisher = publisher(&broker, Version::V4);
    send(&mut publisher, 11..=13);
    assert_eq!(publisher.within(MOMENT), None, "it is as full as before");
    let (mut subscriber, present) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    assert!(present);
    for n in 1..=13u16 {
        assert_eq!(subscriber.message().payload, payload(n), "in order");
    }
    acked(&mut publisher, 11..=13);
    assert_eq!(dropped(&settled(&broker, 0)), 0);
}

/// Of QoS 2 the PUBREC is withheld, and the identifier is not taken before it.
#[test]
fn the_pubrec_is_withheld_as_well() {
    let mut broker = broker("max_messages = 1\npolicy = \"reject\"");
    absent(&broker);
    let mut first = publisher(&broker, Version::V4);
    (1..=2).for_each(|n| first.send(&publish(Version::V4, 2, n, "q/t", &[], &payload(n))));
    assert!(matches!(first.answer(), Came::Ack(Ack::Pubrec, 1, 0, _)));
    assert_eq!(first.within(MOMENT), None);
    crash(&mut broker);
    let mut publisher = publisher(&broker, Version::V4);
    publisher.send(&publish(Version::V4, 2, 2, "q/t", &[], &payload(2)));
    assert_eq!(publisher.within(MOMENT), None);
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    assert_eq!(subscriber.message().payload, payload(1));
    assert!(matches!(publisher.answer(), Came::Ack(Ack::Pubrec, 2, 0, _)));
    assert_eq!(subscriber.message().payload, payload(2));
    settled(&broker, 0);
}
