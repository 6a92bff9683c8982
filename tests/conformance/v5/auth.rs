//! 4.12 and 3.15: enhanced authentication. The program offers no mechanism yet, so these run on the broker as a library
//! with one of their own: it asks for a word, then for another, and is content with "open" and "sesame".

use std::path::Path;
use std::sync::Arc;

use forebay::access::auth::{Exchange, Mechanism, Mechanisms, Step};
use forebay::config::{self, Overrides};
use forebay::start::{self, RunArgs, Running};
use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::transport;
use forebay_tests::scratch::Scratch;
use forebay_wire::reason::ReasonCode;

use super::*;

pub fn cases() -> Vec<Case> {
    vec![
        case!(an_exchange_goes_on_until_connack, "MQTT5-4.12.0-2", "MQTT5-4.12.0-5"),
        case!(a_wrong_answer_is_refused, "MQTT5-4.12.0-4"),
        case!(another_packet_during_the_exchange_is_refused, "MQTT5-4.12.0-4", "MQTT5-3.14.0-1"),
        case!(a_client_may_authenticate_again, "MQTT5-4.12.0-2", "MQTT5-4.12.0-5"),
        case!(failing_to_authenticate_again_ends_the_connection, "MQTT5-4.12.1-2"),
        case!(another_method_ends_the_connection),
    ]
}

struct Words;
struct Asking(usize);

impl Mechanism for Words {
    fn name(&self) -> &'static str {
        "WORDS"
    }

    fn begin(&self, _: &str) -> Box<dyn Exchange> {
        Box::new(Asking(0))
    }
}

impl Exchange for Asking {
    fn step(&mut self, data: &[u8]) -> Step {
        self.0 += 1;
        match (self.0, data) {
            (1, b"") => Step::Continue(b"first?".to_vec()),
            (2, b"open") => Step::Continue(b"second?".to_vec()),
            (3, b"sesame") => Step::Done(Some(b"welcome".to_vec())),
            _ => Step::Refused(ReasonCode::NotAuthorized),
        }
    }
}

/// A broker in this process.
struct Inside {
    running: Option<Running>,
    port: u16,
    _scratch: Scratch,
}

impl Inside {
    fn start() -> Self {
        let scratch = Scratch::new("auth");
        let listen = vec!["mqtt://127.0.0.1:0".parse().unwrap()];
        let overrides = Overrides { data_dir: Some(scratch.path().into()), listen, ..Overrides::default() };
        let config = config::parse("", Path::new(""), &overrides).unwrap();
        let (store, recovered) = RedbStore::open(scratch.path(), &StoreOptions::default(), 0).unwrap();
        let listeners = transport::bind(&config.listeners, scratch.path()).unwrap();
        let port = listeners[0].addr().unwrap().port();
        let mechanisms = Mechanisms::default().with(Arc::new(Words));
        let (config, store, gauge) = (Arc::new(config), Box::new(store), None);
        let running =
            start::start(RunArgs { config, listeners, store, gauge, recovered, mechanisms, access: None }).unwrap();
        Self { running: Some(running), port, _scratch: scratch }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

fn method() -> Property {
    Property::AuthMethod("WORDS".into())
}

fn says(data: &[u8]) -> Vec<Property> {
    vec![method(), Property::AuthData(data.to_vec())]
}

fn asks(client: &mut Raw, data: &[u8]) {
    assert_eq!(client.receive(), Packet::Auth(0x18, says(data)));
}

/// A client that has answered all but the last question.
fn nearly(broker: &Inside, me: &str) -> Raw {
    let mut client = Raw::begin(broker.port, &connect(me).with(method()));
    asks(&mut client, b"first?");
    client.send(&build::auth(0x18, &says(b"open")));
    asks(&mut client, b"second?");
    client
}

fn greeted(broker: &Inside, me: &str) -> Raw {
    let mut client = nearly(broker, me);
    client.send(&build::auth(0x18, &says(b"sesame")));
    let (_, properties) = client.expect_connack(0);
    for property in says(b"welcome") {
        assert!(properties.contains(&property), "{properties:?}");
    }
    client
}

fn an_exchange_goes_on_until_connack(_: &Target) {
    let broker = Inside::start();
    greeted(&broker, "an_exchange").expect_nothing();
    // Without a method nothing is asked.
    Raw::clean(broker.port, V5, "an_exchange-plain").expect_nothing();
}

fn a_wrong_answer_is_refused(_: &Target) {
    let broker = Inside::start();
    let mut client = Raw::begin(broker.port, &connect("a_wrong_answer").with(method()));
    asks(&mut client, b"first?");
    client.send(&build::auth(0x18, &says(b"shut")));
    client.expect_refused(0x87);
    let mut client = nearly(&broker, "a_wrong_answer");
    client.send(&build::auth(0x18, &says(b"oat")));
    client.expect_refused(0x87);
}

fn another_packet_during_the_exchange_is_refused(_: &Target) {
    let broker = Inside::start();
    let other = [Property::AuthMethod("OTHER".into()), Property::AuthData(b"sesame".to_vec())];
    for packet in [
        publish("t", b"").packet(),
        packet::PINGREQ.to_vec(),
        build::auth(0x19, &says(b"sesame")),
        build::auth(0x18, &other),
        build::auth(0x18, &[]),
    ] {
        let mut client = nearly(&broker, "another_packet");
        client.send(&packet);
        client.expect_refused(0x82);
    }
    let mut client = nearly(&broker, "another_packet");
    client.send(&packet::DISCONNECT);
    client.expect_closed();
}

fn a_client_may_authenticate_again(_: &Target) {
    let broker = Inside::start();
    let mut client = greeted(&broker, "a_client_may");
    client.subscribe("a_client_may", 0);
    for _ in 0..2 {
        client.send(&build::auth(0x19, &[method()]));
        asks(&mut client, b"first?");
        // All else goes on meanwhile.
        client.publish("a_client_may", 0, b"x");
        client.expect_message("a_client_may", b"x");
        client.send(&build::auth(0x18, &says(b"open")));
        asks(&mut client, b"second?");
        client.send(&build::auth(0x18, &says(b"sesame")));
        assert_eq!(client.receive(), Packet::Auth(0, says(b"welcome")));
    }
    client.expect_nothing();
}

fn failing_to_authenticate_again_ends_the_connection(_: &Target) {
    let broker = Inside::start();
    let mut client = greeted(&broker, "failing");
    client.send(&build::auth(0x19, &[method()]));
    asks(&mut client, b"first?");
    client.send(&build::auth(0x18, &says(b"shut")));
    client.expect_disconnect(0x87);
}

fn another_method_ends_the_connection(_: &Target) {
    let broker = Inside::start();
    for packet in [
        build::auth(0x19, &[Property::AuthMethod("OTHER".into())]),
        build::auth(0x19, &[]),
        // Nothing is under way that could go on.
        build::auth(0x18, &says(b"open")),
    ] {
        let mut client = greeted(&broker, "another_method");
        client.send(&packet);
        client.expect_disconnect(0x82);
    }
}
