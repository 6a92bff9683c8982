//! The client over real sockets, against a server that does what a test tells it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm, reason = "what is not looked for is wrong here")]

#[cfg(feature = "blocking")]
mod blocking;
mod cancel;
mod cuts;
mod driver;
mod errors;
#[path = "../../src/session/tests/peer.rs"]
#[allow(dead_code, reason = "the session's tests use all of it")]
mod peer;
mod refused;
mod server;
mod slow;
mod streams;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use forebay_client::{Message, Options, QoS, Reconnect, Version};

/// How long a test waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

fn options(port: u16, version: Version) -> Options {
    let quick = Reconnect { min: Duration::from_millis(1), max: Duration::from_millis(20), ..Reconnect::default() };
    let options = Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().version(version).client_id("c");
    options.session_expiry(Duration::from_secs(3600)).reconnect(quick)
}

fn message(payload: impl ToString, qos: QoS) -> Message {
    Message::new("out/topic", payload.to_string()).qos(qos)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes for ever")
}

/// Polls a future so many times, then drops it; `None` when it was not ready by then.
async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    soon(poll_fn(|cx| {
        if left > 0 {
            left -= 1;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
        }
        if left == 0 { Poll::Ready(None) } else { Poll::Pending }
    }))
    .await
}
