//! What is on its way when the disk becomes full: its commit is the first to meet it.

use std::path::PathBuf;

use forebay_tests::broker::Broker;
use forebay_tests::packet::{self, Ack, Version};
use forebay_tests::peer::{Came, Connect, Peer, publish};
use forebay_tests::sys::{Sys, figure};

use crate::full::{Disk, retain, start_with};
use crate::{Case, LIMIT, MOMENT, absent, accepted_again, code, payload, publisher, send, takes, tcp};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Disk::mount(1).is_none().then(|| "no right to mount a tmpfs".to_owned());
    vec![
        ("caught_at_qos_1_it_is_refused", absent.clone(), qos_1_is_refused),
        ("caught_in_3_1_1_its_ack_is_withheld", absent.clone(), withheld),
        ("caught_at_qos_2_it_is_refused_and_comes_once", absent.clone(), qos_2_is_refused),
        ("caught_at_qos_2_and_sent_already_it_waits", absent.clone(), qos_2_that_is_sent_waits),
        ("caught_with_a_journal_it_is_acknowledged_and_kept", absent, the_journal_has_its_room),
    ]
}

/// A broker that does not know yet that its disk is full. The file is what fills it. A commit is one of the store's file.
fn filled() -> (Broker, Disk, PathBuf) {
    filled_with(NO_JOURNAL)
}

const NO_JOURNAL: &str = "min_free_bytes = \"4MiB\"\njournal = \"0B\"\n";

fn filled_with(store: &str) -> (Broker, Disk, PathBuf) {
    let (broker, disk) = start_with(store);
    absent(&broker);
    retain(&broker);
    let other = disk.path().join("other");
    // More than there is: the system writes until it is full.
    let _ = std::fs::write(&other, vec![0; 64 << 20]);
    (broker, disk, other)
}

/// It was a commit that met the full disk.
fn a_commit_has_failed(broker: &Broker) {
    Sys::open(&tcp(broker)).until("a commit has failed", |f| figure(f, "store/failures") > 0);
}

/// The reason code and the identifier of the next PUBREC.
fn pubrec(device: &mut Peer) -> (u16, u8) {
    match device.within(LIMIT) {
        Some(Came::Ack(Ack::Pubrec, id, code, _)) => (id, code),
        other => panic!("instead of a PUBREC: {other:?}"),
    }
}

/// Takes a QoS 2 message to its end; its payload.
fn exactly_once(peer: &mut Peer) -> Vec<u8> {
    let Came::Publish(message) = peer.answer() else { panic!("not a PUBLISH") };
    assert_eq!(message.qos, 2);
    peer.send(&packet::ack(Ack::Pubrec, message.id));
    assert!(matches!(peer.answer(), Came::Ack(Ack::Pubrel, id, 0, _) if id == message.id));
    peer.send(&packet::ack(Ack::Pubcomp, message.id));
    message.payload
}

fn qos_1_is_refused() {
    let (broker, _disk, other) = filled();
    let mut device = publisher(&broker, "device", Version::V5);
    let mut retained = publish(Version::V5, 1, 9, "state", &[], b"not kept");
    retained[0] |= 1;
    // One after the other in one write: one commit.
    device.send(&[publish(Version::V5, 1, 1, "q", &[], &payload(0)), retained].concat());
    for id in [1, 9] {
        match device.within(LIMIT) {
            Some(Came::Ack(Ack::Puback, came, 0x97, more)) => {
                assert_eq!((came, more.retry_after_ms()), (id, Some(1000)))
            }
            came => panic!("{id} is not refused: {came:?}"),
        }
    }
    a_commit_has_failed(&broker);
    let (mut online, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V4, "online"));
    assert_eq!(online.subscribe(&[("state", 1)]), [1]);
    assert_eq!(online.message().payload, b"kept", "what was retained before is retained still");
    std::fs::remove_file(other).unwrap();
    accepted_again(&mut device, 1);
    let mut subscriber = takes(&broker, 1..2);
    assert_eq!(subscriber.drain(MOMENT), [], "what was refused was not kept");
}

/// The journal's room is its own from the beginning: what it took is acknowledged, and is there after a start on the full disk.
fn the_journal_has_its_room() {
    let (mut broker, _disk, other) = filled_with("min_free_bytes = \"4MiB\"\n");
    let mut device = publisher(&broker, "device", Version::V5);
    let (first, _) = device.publish(1, "q", &payload(0));
    assert_eq!(first, 0, "the broker did not know");
    let mut next = 1;
    while device.publish(next + 1, "q", &payload(u32::from(next))).0 == 0 {
        next += 1;
    }
    broker.kill();
    broker.run();
    let mut subscriber = takes(&broker, 0..u32::from(next));
    std::fs::remove_file(other).unwrap();
    let mut device = publisher(&broker, "device", Version::V5);
    accepted_again(&mut device, u32::from(next));
    crate::take(&mut subscriber, u32::from(next)..u32::from(next) + 1);
}

fn withheld() {
    let (broker, _disk, other) = filled();
    let mut old = publisher(&broker, "old", Version::V4);
    send(&mut old, Version::V4, 0);
    a_commit_has_failed(&broker);
    assert_eq!(code(&mut old, 0, MOMENT), None, "the ack is withheld");
    std::fs::remove_file(other).unwrap();
    assert_eq!(code(&mut old, 0, LIMIT), Some(0));
    takes(&broker, 0..1);
}

fn absent_at_qos_2(broker: &Broker) {
    let (mut subscriber, _) = Peer::open(&tcp(broker), &Connect::kept(Version::V5, "absent"));
    assert_eq!(subscriber.subscribe(&[("q", 2)]), [2]);
    subscriber.leave();
}

fn qos_2_is_refused() {
    let (mut broker, disk) = start_with(NO_JOURNAL);
    absent_at_qos_2(&broker);
    let other = disk.path().join("other");
    let _ = std::fs::write(&other, vec![0; 64 << 20]);
    // A session that is kept: its identifiers are on the disk as well.
    let (mut device, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "device"));
    device.send(&publish(Version::V5, 2, 1, "q", &[], b"once"));
    assert_eq!(pubrec(&mut device), (1, 0x97));
    a_commit_has_failed(&broker);
    std::fs::remove_file(other).unwrap();
    loop {
        device.send(&publish(Version::V5, 2, 1, "q", &[], b"once"));
        match pubrec(&mut device) {
            (1, 0) => break,
            again => assert_eq!(again, (1, 0x97)),
        }
        std::thread::sleep(MOMENT / 4);
    }
    device.send(&packet::ack(Ack::Pubrel, 1));
    assert!(matches!(device.answer(), Came::Ack(Ack::Pubcomp, 1, 0, _)));
    broker.kill();
    broker.run();
    let (mut subscriber, present) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    assert!(present);
    assert_eq!(exactly_once(&mut subscriber), b"once");
    assert_eq!(subscriber.within(MOMENT), None, "it came once");
}

/// It has gone to somebody who must have it exactly once: if it were refused its publisher would send it again.
fn qos_2_that_is_sent_waits() {
    let (broker, disk) = start_with(NO_JOURNAL);
    absent_at_qos_2(&broker);
    let (mut online, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "online"));
    assert_eq!(online.subscribe(&[("q", 2)]), [2]);
    let other = disk.path().join("other");
    let _ = std::fs::write(&other, vec![0; 64 << 20]);
    let mut device = publisher(&broker, "device", Version::V5);
    device.send(&publish(Version::V5, 2, 1, "q", &[], b"once"));
    assert_eq!(exactly_once(&mut online), b"once");
    a_commit_has_failed(&broker);
    assert_eq!(device.within(MOMENT), None, "neither taken nor refused");
    std::fs::remove_file(other).unwrap();
    assert_eq!(pubrec(&mut device), (1, 0));
    let (mut subscriber, _) = Peer::open(&tcp(&broker), &Connect::kept(Version::V5, "absent"));
    assert_eq!(exactly_once(&mut subscriber), b"once");
    assert_eq!(online.within(MOMENT), None);
}
