//! `kill -9` and shared subscriptions: what a member had goes to the others of its groups when its session ends, once to each
//! group, and what was sent to it at QoS 2 to nobody.

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{Ack, Version, ack};
use forebay_tests::peer::{Came, Connect, Peer, number2, publish};

fn text(message: &forebay_tests::peer::Publish) -> String {
    String::from_utf8(message.payload.clone()).unwrap()
}

fn member(endpoint: &Endpoint, name: &str, filters: &[(&str, u8)]) -> Peer {
    let (mut peer, _) = Peer::open(endpoint, &Connect::kept(Version::V5, name));
    assert_eq!(peer.subscribe(filters), vec![2; filters.len()]);
    peer
}

/// Publishes at QoS 2, to the end.
fn publish_once(publisher: &mut Peer, id: u16, payload: &str) {
    publisher.send(&publish(Version::V5, 2, id, "t", &[], payload.as_bytes()));
    assert!(matches!(publisher.answer(), Came::Ack(Ack::Pubrec, _, 0, _)));
    publisher.send(&ack(Ack::Pubrel, id));
    assert!(matches!(publisher.answer(), Came::Ack(Ack::Pubcomp, _, 0, _)));
}

/// Its session ends: a clean start, and no session behind it.
fn end(endpoint: &Endpoint, name: &str) {
    let (peer, present) = Peer::open(endpoint, &Connect::clean(Version::V5, name));
    assert!(!present);
    peer.leave();
}

/// It was sent after the last commit: nothing that was written since says so.
#[test]
fn what_was_sent_at_qos_2_before_a_kill_goes_to_no_other_member() {
    const MESSAGES: u16 = 12;
    let mut broker = Broker::start();
    let endpoint = Endpoint::tcp(broker.port());
    let one = Connect::kept(Version::V5, "one").with(&number2(0x21, 1));
    let (mut first, _) = Peer::open(&endpoint, &one);
    assert_eq!(first.subscribe(&[("$share/g/t", 2)]), [2]);
    // All of it waits on disk: no commit but that of the connection comes before the first is sent, and none after it.
    first.leave();
    let (mut publisher, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "publisher"));
    for id in 1..=MESSAGES {
        publish_once(&mut publisher, id, &id.to_string());
    }
    let (mut first, _) = Peer::open(&endpoint, &one);
    assert_eq!(text(&first.message()), "1", "it has been sent, and nobody has said that it came");
    broker.kill();
    broker.run();
    let mut other = member(&endpoint, "other", &[("$share/g/t", 2)]);
    end(&endpoint, "one");
    let mut came = Vec::new();
    while came.last() != Some(&MESSAGES.to_string()) {
        came.push(text(&other.message()));
    }
    assert!(!came.contains(&"1".to_owned()), "{came:?}");
    // As many more may have been promised to the first as it may have in flight.
    let expected: Vec<String> = (1..=MESSAGES).map(|id| id.to_string()).collect();
    assert!(came == expected[1..] || came == expected[2..], "{came:?}");
}

/// It has one message of each group alone: neither goes to the other.
#[test]
fn a_member_of_two_groups_leaves_each_what_is_its_own() {
    let mut broker = Broker::start();
    let endpoint = Endpoint::tcp(broker.port());
    member(&endpoint, "both", &[("$share/g/t", 2), ("$share/h/t", 2)]).leave();
    let (mut publisher, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "publisher"));
    for (id, here, other) in [(1, "$share/h/t", "of g"), (2, "$share/g/t", "of h")] {
        let (mut passer_by, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "passer-by"));
        assert_eq!(passer_by.subscribe(&[(here, 2)]), [2]);
        publish_once(&mut publisher, id, other);
        // Its group's copy: sent at QoS 2, and so for nobody else when it goes.
        assert_eq!(text(&passer_by.message()), other);
        passer_by.leave();
    }
    broker.kill();
    broker.run();
    let mut of_g = member(&endpoint, "of-g", &[("$share/g/t", 2)]);
    let mut of_h = member(&endpoint, "of-h", &[("$share/h/t", 2)]);
    end(&endpoint, "both");
    let came = (text(&of_g.message()), text(&of_h.message()));
    assert_eq!(came, ("of g".to_owned(), "of h".to_owned()));
}
