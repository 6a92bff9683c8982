//! MQTT 5.0, by chapter of the standard. Each test has client identifiers and topics that begin with its own name.

mod auth;
mod connack;
mod connect;
mod disconnect;
mod flow;
mod limits;
mod ping;
mod properties;
mod publish;
mod qos;
mod retain;
mod session;
mod shared;
mod strings;
mod subscribe;
mod topics;
mod unsubscribe;
mod will;

use forebay_tests::packet::build::{self, Connect, Publish, Subscribe, Will};
use forebay_tests::packet::property::Property;
use forebay_tests::packet::{self, Ack, Message, Packet, Version::V5};
use forebay_tests::raw::Raw;

use crate::{Case, Target, case};

pub fn cases() -> Vec<Case> {
    [
        strings::cases(),
        connect::cases(),
        connack::cases(),
        will::cases(),
        publish::cases(),
        properties::cases(),
        retain::cases(),
        qos::cases(),
        flow::cases(),
        subscribe::cases(),
        unsubscribe::cases(),
        shared::cases(),
        topics::cases(),
        ping::cases(),
        session::cases(),
        disconnect::cases(),
        auth::cases(),
        limits::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn connect(client: &str) -> Connect {
    Connect::new(V5, client)
}

/// A CONNECT for a session that outlives its connection by an hour, and is found again.
fn lasting(client: &str) -> Connect {
    connect(client).resume().with(Property::SessionExpiry(3600))
}

fn clean(target: &Target, client: &str) -> Raw {
    Raw::clean(target.port, V5, client)
}

fn open(target: &Target, connect: &Connect) -> Raw {
    Raw::open(target.port, connect).0
}

fn publish(topic: &str, payload: &[u8]) -> Publish {
    Publish::new(V5, topic, payload)
}

fn subscribe(id: u16) -> Subscribe {
    Subscribe::new(V5, id)
}

/// The session of [`lasting`] subscribes to the topic `me`, and nothing waits in it: what is published now comes first.
#[track_caller]
fn resumes_with_nothing(target: &Target, me: &str) {
    let (mut client, present, _) = Raw::open(target.port, &lasting(me));
    assert!(present);
    clean(target, &format!("{me}-marker")).publish(me, 1, b"the next");
    client.take_message(me, b"the next");
    client.leave();
}

/// A subscriber to one filter with a session of its own, and a client that publishes.
fn pair(target: &Target, me: &str, filter: &str, options: u8) -> (Raw, Raw) {
    let mut subscriber = clean(target, &format!("{me}-subscriber"));
    subscriber.subscribe(filter, options);
    (subscriber, clean(target, &format!("{me}-publisher")))
}
