//! Bridges between real programs: this repository's broker as the gateway; itself, mosquitto and clusters of other kinds as the
//! upstream. Killed, away, frozen, looped, over TLS; what arrives is counted.
//!
//! FOREBAY_KILLS=n for another number of kills, FOREBAY_SEED=n to make a run again (the moments, not the threads).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod amqp1;
mod kafka;
mod letters;
mod mqtt;
mod nats;
mod numbered;
mod post;
mod rabbitmq;
mod rocketmq;
mod secured;
mod trial;
mod upstreams;

use std::time::Duration;

use forebay_client::{Client, Message, Options, QoS, Reconnect, Subscribe, Subscription, Version};
use forebay_tests::absence::panicking;
use forebay_tests::broker::{Broker, Kind};
use libtest_mimic::Arguments;

/// How long something may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Name, why it cannot be run here, and the test.
type Case = (&'static str, Option<String>, fn());

fn main() {
    let cases = [
        letters::trials(),
        mqtt::trials(),
        numbered::trials(),
        rabbitmq::trials(),
        nats::trials(),
        kafka::trials(),
        amqp1::trials(),
        rocketmq::trials(),
        post::trials(),
        secured::trials(),
        trial::trials(),
    ]
    .concat();
    let trials =
        cases.into_iter().map(|(name, absent, run)| panicking("bridges", name, absent.as_deref(), run)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes for ever")
}

fn options(port: u16, name: &str) -> Options {
    let quick = Reconnect { min: Duration::from_millis(20), max: Duration::from_millis(300), ..Reconnect::default() };
    Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().client_id(name).version(Version::V5).reconnect(quick)
}

async fn client(port: u16, name: &str) -> Client {
    soon(options(port, name).connect()).await.unwrap()
}

async fn subscribed(client: &Client, filter: &str) -> Subscription {
    soon(client.subscribe(Subscribe::to(filter).qos(QoS::ExactlyOnce).retain_as_published())).await.unwrap()
}

/// Publishes at QoS 1, and waits for the ack.
async fn publish(client: &Client, topic: &str, payload: &str) {
    let message = Message::new(topic, payload.to_owned()).qos(QoS::AtLeastOnce);
    soon(soon(client.publish(message)).await.unwrap()).await.unwrap();
}

/// A file of config/, its address changed.
fn example(name: &str, address: &str, port: u16) -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(address), "{name} is for {address}");
    text.replace(address, &format!("127.0.0.1:{port}"))
}

/// A gateway with this configuration, not running yet.
fn gateway(config: &str) -> Broker {
    let mut broker = Broker::prepare_as(Kind::Forebay, None);
    broker.plain_only();
    broker.configure(&format!("sys_interval = '1s'\n{config}"));
    broker
}

/// `[[bridges]]` named `up` to this port, with more lines of it, and what it carries.
fn bridge(port: u16, more: &str, rules: &str) -> String {
    bridge_to(&format!("mqtt://127.0.0.1:{port}"), more, rules)
}

/// The same to this address.
fn bridge_to(url: &str, more: &str, rules: &str) -> String {
    format!("[[bridges]]\nname = 'up'\nurl = '{url}'\n{more}\n{rules}\n")
}

/// Waits until the bridge's state begins so; returns it.
async fn state(gateway: u16, begins: &str) -> String {
    let client = client(gateway, "state").await;
    let mut states = subscribed(&client, "$SYS/broker/bridge/up/state").await;
    loop {
        let message = soon(states.recv()).await.expect("the state is published");
        let text = String::from_utf8(message.payload().to_vec()).unwrap();
        if text.starts_with(begins) {
            return text;
        }
    }
}
