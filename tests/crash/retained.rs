//! `kill -9` while a new subscription is being given its retained messages: a session that is kept gets the rest when it is
//! resumed.

use std::collections::BTreeSet;

use forebay_tests::broker::Broker;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::{Ack, Version, ack};
use forebay_tests::peer::{Came, Connect, Peer, frame, string, subscribe};

/// Retained messages.
const MESSAGES: usize = 600;

fn topic(number: usize) -> String {
    format!("r/{number:04}")
}

/// Retains them at QoS 1 or 2, each acknowledged.
fn retain_all(endpoint: &Endpoint) {
    let (mut publisher, _) = Peer::open(endpoint, &Connect::clean(Version::V4, "publisher"));
    for number in 0..MESSAGES {
        let mut body = string(&topic(number));
        body.extend(u16::try_from(number + 1).unwrap().to_be_bytes());
        body.extend([b'x'; 100]);
        publisher.send(&frame(0x33, &body));
    }
    for _ in 0..MESSAGES {
        publisher.answer();
    }
}

/// The client acknowledges so many before the kill, and what it has not got then comes afterwards.
fn killed_after(broker: &mut Broker, version: Version, acknowledged: usize) {
    let endpoint = Endpoint::tcp(broker.port());
    let kept = Connect::kept(version, &format!("kept-{version:?}-{acknowledged}"));
    let (mut subscriber, _) = Peer::open(&endpoint, &kept);
    subscriber.send(&subscribe(version, 1, &[("r/#", 1)]));
    let (mut came, mut granted) = (BTreeSet::new(), false);
    // Retained messages may come before SUBACK; those that are not acknowledged come again.
    while !granted || came.len() < acknowledged {
        match subscriber.answer() {
            Came::Suback(1, codes) => granted = codes == [1],
            Came::Publish(message) if came.len() < acknowledged => {
                subscriber.send(&ack(Ack::Puback, message.id));
                came.insert(message.topic);
            }
            Came::Publish(_) => {}
            other => panic!("instead of SUBACK or a message: {other:?}"),
        }
    }
    broker.kill();
    broker.run();
    let (mut subscriber, present) = Peer::open(&endpoint, &kept);
    assert!(present);
    while came.len() < MESSAGES {
        let message = subscriber.message();
        assert!(message.retain && message.qos == 1, "{message:?}");
        came.insert(message.topic);
    }
    subscriber.leave();
}

fn rounds(config: &str) {
    let mut broker = Broker::with_config(config);
    retain_all(&Endpoint::tcp(broker.port()));
    for (version, acknowledged) in [(Version::V4, 0), (Version::V5, 1), (Version::V4, 40), (Version::V5, 300)] {
        killed_after(&mut broker, version, acknowledged);
    }
}

#[test]
fn a_kept_session_gets_the_rest_of_the_retained_messages_after_a_kill() {
    rounds("");
}

#[test]
fn so_it_does_where_acks_do_not_wait_for_the_disk() {
    rounds("[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\ndurability = \"interval 1s\"\n");
}

/// Half of a queue is all that they may take: most are still to be put there.
#[test]
fn so_it_does_where_its_queue_has_room_for_a_few() {
    rounds("[queue]\nmax_messages = 100\n");
}
