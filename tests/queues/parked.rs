//! A publisher before MQTT 5 whose message finds no room: what it sends next never overtakes it, and whatever makes room
//! wakes it.

use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::packet::{Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, frame, number4, publish, string};
use forebay_tests::sys::{Sys, figure};

use crate::tcp;

/// A broker that retains two messages, both there already.
fn full_of_retained() -> (Broker, Peer) {
    let broker = Broker::with_config("sys_interval = \"1s\"\n[limits]\nmax_retained_messages = 2\n");
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(retain(&mut other, 1, "r/1", &[], b"x"), 0);
    assert_eq!(retain(&mut other, 2, "r/2", &[], b"x"), 0);
    (broker, other)
}

/// A retained message at QoS 1 in MQTT 5; the code of its PUBACK.
fn retain(peer: &mut Peer, id: u16, topic: &str, properties: &[u8], payload: &[u8]) -> u8 {
    let mut packet = publish(Version::V5, 1, id, topic, properties, payload);
    packet[0] |= 1;
    peer.send(&packet);
    match peer.answer() {
        Came::Ack(Ack::Puback, came, code, _) if came == id => code,
        other => panic!("instead of PUBACK {id}: {other:?}"),
    }
}

fn send(publisher: &mut Peer, qos: u8, id: u16, retain: bool, payload: &str) {
    let mut packet = publish(Version::V4, qos, id, "r/new", &[], payload.as_bytes());
    packet[0] |= u8::from(retain);
    publisher.send(&packet);
}

/// Waits until so many publications wait for room.
fn parked(broker: &Broker, count: u64) {
    Sys::open(&tcp(broker)).until(&format!("{count} wait"), |f| figure(f, "counters/publish_parked") == count);
}

fn puback(publisher: &mut Peer, id: u16) {
    let came = publisher.answer();
    assert!(matches!(came, Came::Ack(Ack::Puback, acked, 0, _) if acked == id), "the PUBACK of {id}: {came:?}");
}

#[test]
fn what_comes_after_a_message_that_waits_does_not_overtake_it() {
    let (broker, mut other) = full_of_retained();
    let (mut watcher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "watcher"));
    watcher.subscribe(&[("r/new", 1)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    // In one packet of the network, and in several: with and without RETAIN, at QoS 0, 1 and 2.
    send(&mut publisher, 1, 1, true, "one");
    parked(&broker, 1);
    send(&mut publisher, 0, 0, false, "two");
    send(&mut publisher, 1, 3, false, "three");
    send(&mut publisher, 0, 0, true, "four");
    send(&mut publisher, 2, 5, true, "five");
    parked(&broker, 5);
    publisher.send(&forebay_tests::packet::PINGREQ);
    assert_eq!(publisher.answer(), Came::Other(0xD0), "no ack before there is room, but the connection lives");
    assert_eq!(retain(&mut other, 3, "r/1", &[], b""), 0);
    let came: Vec<String> = (0..5).map(|_| String::from_utf8(watcher.message().payload).unwrap()).collect();
    assert_eq!(came, ["one", "two", "three", "four", "five"]);
    puback(&mut publisher, 1);
    puback(&mut publisher, 3);
    assert!(matches!(publisher.answer(), Came::Ack(Ack::Pubrec, 5, 0, _)));
    let (mut late, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "late"));
    late.subscribe(&[("r/new", 1)]);
    assert_eq!(late.message().payload, b"five", "the retained value is the newest");
}

#[test]
fn a_batch_stops_at_the_message_that_finds_no_room() {
    let (broker, mut other) = full_of_retained();
    let (mut watcher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "watcher"));
    watcher.subscribe(&[("r/new", 0)]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    let mut bytes = Vec::new();
    for n in 1..=20u16 {
        let mut packet = publish(Version::V4, (n % 2) as u8, n, "r/new", &[], &n.to_be_bytes());
        packet[0] |= u8::from(n % 3 == 0);
        bytes.extend(packet);
    }
    publisher.send(&bytes);
    // The third is the first that is to be retained and asks for an ack.
    parked(&broker, 18);
    assert_eq!(retain(&mut other, 3, "r/2", &[], b""), 0);
    let came: Vec<u16> = (0..20)
        .map(|_| watcher.message().payload)
        .map(|payload| u16::from_be_bytes([payload[0], payload[1]]))
        .collect();
    assert!(came.iter().copied().eq(1..=20), "{came:?}");
}

#[test]
fn the_expiry_of_a_retained_message_wakes() {
    let (broker, mut other) = full_of_retained();
    assert_eq!(retain(&mut other, 3, "r/1", &number4(0x02, 1), b"for a second"), 0);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    send(&mut publisher, 1, 1, true, "one");
    puback(&mut publisher, 1);
}

#[test]
fn a_smaller_retained_message_wakes() {
    let broker = Broker::with_config("sys_interval = \"1s\"\n[limits]\nmax_retained_bytes = \"1KiB\"\n");
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(retain(&mut other, 1, "r/1", &[], &[b'x'; 900]), 0);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    send(&mut publisher, 1, 1, true, &"y".repeat(500));
    parked(&broker, 1);
    assert_eq!(retain(&mut other, 2, "r/1", &[], b"x"), 0);
    puback(&mut publisher, 1);
}

/// A session with one message in its queue, which is then full; its client is there and acknowledges nothing.
fn full_queue() -> (Broker, Peer, Peer) {
    let broker = crate::broker("max_messages = 1\npolicy = \"reject\"");
    let (mut stuck, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "stuck"));
    assert_eq!(stuck.subscribe(&[("r/#", 1)]), [1]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    send(&mut publisher, 1, 1, false, "one");
    puback(&mut publisher, 1);
    send(&mut publisher, 1, 2, false, "two");
    parked(&broker, 1);
    (broker, stuck, publisher)
}

#[test]
fn unsubscribe_wakes() {
    let (_broker, mut stuck, mut publisher) = full_queue();
    let body = [&[0, 9, 0][..], &string("r/#")].concat();
    stuck.send(&frame(0xA2, &body));
    puback(&mut publisher, 2);
}

#[test]
fn a_subscription_at_qos_0_wakes() {
    let (_broker, mut stuck, mut publisher) = full_queue();
    stuck.send(&forebay_tests::peer::subscribe(Version::V5, 9, &[("r/#", 0)]));
    puback(&mut publisher, 2);
}

#[test]
fn the_end_of_the_session_wakes() {
    let (broker, stuck, mut publisher) = full_queue();
    drop(stuck);
    let (_again, present) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "stuck"));
    assert!(!present);
    puback(&mut publisher, 2);
}

/// A second member of a group has room where the first has none.
#[test]
fn a_new_member_of_a_group_wakes() {
    let broker = crate::broker("max_messages = 1\npolicy = \"reject\"");
    let (mut stuck, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "stuck"));
    assert_eq!(stuck.subscribe(&[("$share/g/r/#", 1)]), [1]);
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    send(&mut publisher, 1, 1, false, "one");
    puback(&mut publisher, 1);
    send(&mut publisher, 1, 2, false, "two");
    parked(&broker, 1);
    let (mut member, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "member"));
    member.send(&forebay_tests::peer::subscribe(Version::V5, 9, &[("$share/g/r/#", 1)]));
    puback(&mut publisher, 2);
    // Either may be first.
    let came = [member.answer(), member.answer()];
    assert!(came.iter().any(|came| matches!(came, Came::Publish(message) if message.payload == b"two")), "{came:?}");
}

/// The messages of a queue expire while its client is there and takes none.
#[test]
fn what_expires_behind_a_client_that_takes_nothing_wakes() {
    let broker = crate::broker("max_messages = 2\npolicy = \"reject\"");
    let connect = Connect::kept(Version::V5, "stuck").with(&forebay_tests::peer::number2(0x21, 1));
    let (mut stuck, _) = Peer::open(&tcp(&broker), &connect);
    assert_eq!(stuck.subscribe(&[("r/#", 1)]), [1]);
    let (mut other, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "other"));
    assert_eq!(other.publish(1, "r/a", b"in flight").0, 0);
    other.send(&publish(Version::V5, 1, 2, "r/b", &number4(0x02, 1), b"for a second"));
    assert!(matches!(other.answer(), Came::Ack(Ack::Puback, 2, 0, _)));
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "publisher"));
    send(&mut publisher, 1, 1, false, "one");
    puback(&mut publisher, 1);
    assert_eq!(stuck.within(Duration::from_secs(30)).map(|came| matches!(came, Came::Publish(_))), Some(true));
}
