//! MQTT 3.1.1, and 3.1 where it differs, by chapter. Each test has client identifiers and topics that begin with its own
//! name. Packets that are wrong in themselves are in the files of `malformed/`.

mod connect;
mod limits;
mod publish;
mod qos;
mod retain;
mod session;
mod subscribe;
mod topics;
mod unsubscribe;
mod v31;
mod will;

use forebay_tests::packet::build::{Connect, Publish, Subscribe, Will};
use forebay_tests::packet::{self, Ack, Message, Packet, Version, Version::V4};
use forebay_tests::raw::Raw;

use crate::{Case, Target, case};

pub fn cases() -> Vec<Case> {
    [
        connect::cases(),
        session::cases(),
        will::cases(),
        publish::cases(),
        qos::cases(),
        retain::cases(),
        subscribe::cases(),
        unsubscribe::cases(),
        topics::cases(),
        limits::cases(),
        v31::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn connect(client: &str) -> Connect {
    Connect::new(V4, client)
}

/// A CONNECT for a session that outlives its connection.
fn lasting(client: &str) -> Connect {
    connect(client).resume()
}

fn clean(target: &Target, client: &str) -> Raw {
    Raw::clean(target.port, V4, client)
}

/// Connects; the second value is session present.
#[track_caller]
fn open(target: &Target, connect: &Connect) -> (Raw, bool) {
    let (raw, present, _) = Raw::open(target.port, connect);
    (raw, present)
}

fn publish(topic: &str, payload: &[u8]) -> Publish {
    Publish::new(V4, topic, payload)
}

fn subscribe(id: u16) -> Subscribe {
    Subscribe::new(V4, id)
}

/// Publishes with RETAIN, QoS 1.
#[track_caller]
fn retain(raw: &mut Raw, topic: &str, payload: &[u8]) {
    raw.publish_packet(1, 9, &publish(topic, payload).qos(1, 9).retain().packet());
}

/// A subscriber to one filter with a session of its own, and a client that publishes.
fn pair(target: &Target, me: &str, filter: &str, qos: u8) -> (Raw, Raw) {
    let mut subscriber = clean(target, &format!("{me}-subscriber"));
    subscriber.subscribe(filter, qos);
    (subscriber, clean(target, &format!("{me}-publisher")))
}

/// The next packet is a message; it is not answered.
#[track_caller]
fn message(raw: &mut Raw) -> Message {
    match raw.receive() {
        Packet::Publish(message) => message,
        other => panic!("instead of a message: {other:?}"),
    }
}
