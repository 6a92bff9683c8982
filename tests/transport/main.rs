//! Every way in, with those who use it: the client library, paho, MQTT.js in Node and in Chromium, openssl, haproxy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::print_stdout)]

mod certs;
mod names;
mod pki;
mod proxy;
mod tls;
mod unix;
mod websocket;

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use forebay_client::{ConnectError, Message, Options, QoS, Reconnect, Subscribe};
use forebay_tests::broker::Broker;
use libtest_mimic::{Arguments, Trial};

/// How long anything may take before the test gives up on it.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> =
        [websocket::trials(), unix::trials(), names::trials(), tls::trials(), certs::trials(), proxy::trials()]
            .into_iter()
            .flatten()
            .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it takes too long")
}

/// One message there and back, of each QoS, and larger than a frame of TLS.
async fn talk(options: Options) {
    let client = soon(options.reconnect(Reconnect::never()).connect()).await.unwrap();
    let mut messages = soon(client.subscribe(Subscribe::to("talk").qos(QoS::ExactlyOnce))).await.unwrap();
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let payload = n.to_string().repeat(70_000);
        let message = Message::new("talk", payload.clone()).qos(qos);
        soon(soon(client.publish(message)).await.unwrap()).await.unwrap();
        let received = soon(messages.recv()).await.unwrap();
        assert!(received.payload() == payload.as_bytes() && received.qos() == qos);
    }
    soon(client.disconnect()).await;
}

async fn refused(options: Options) -> ConnectError {
    soon(options.reconnect(Reconnect::never()).connect()).await.unwrap_err()
}

/// Waits until the broker's log has all of these in one line.
fn logged(broker: &Broker, parts: &[&str]) -> String {
    let begun = Instant::now();
    loop {
        let log = broker.log();
        if let Some(line) = log.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
            return line.to_owned();
        }
        assert!(begun.elapsed() < LIMIT, "{parts:?} is not in the log:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where others' clients are.
fn cache() -> PathBuf {
    std::env::var_os("FOREBAY_TESTS_CACHE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join("target").join("clients"),
        PathBuf::from,
    )
}

/// Runs it; what it wrote, unless it failed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}
