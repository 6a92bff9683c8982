//! The outbox's file: damaged, in use, another's, given back.

use std::path::Path;

use forebay_client::{ConnectError, Message, Options, QoS, Version};
use forebay_tests::rng::Rng;
use forebay_tests::scratch::Scratch;

use crate::{Case, block_on, durable, soon};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("a_damaged_file_is_a_clear_error", None, || block_on(damaged())),
        ("a_file_in_use_or_of_another_is_a_clear_error", None, || block_on(refused())),
        ("the_file_is_free_when_disconnect_resolves", None, || block_on(given_back())),
    ]
}

/// Why the file cannot be used.
fn error(options: Options) -> String {
    match options.start() {
        Err(ConnectError::Store(text)) => text,
        other => panic!("{other:?}"),
    }
}

async fn fill(file: &Path, messages: u32) {
    let client = durable(1, file).start().unwrap();
    for n in 0..messages {
        let message = Message::new("t", format!("{n} {}", "x".repeat(100))).qos(QoS::ExactlyOnce);
        drop(soon(client.publish(message)).await.unwrap());
    }
    soon(client.disconnect()).await;
}

async fn damaged() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    std::fs::write(&file, b"this is no database").unwrap();
    assert!(error(durable(1, &file)).contains("outbox.redb"));
    assert!(error(durable(1, scratch.path())).contains("outbox"));
    std::fs::remove_file(&file).unwrap();
    fill(&file, 50).await;
    let whole = std::fs::read(&file).unwrap();
    let mut rng = Rng::new(1);
    let mut refused = 0;
    for run in 0..200 {
        let mut bytes = whole.clone();
        if run % 4 == 0 {
            bytes.truncate(rng.below(bytes.len() as u64) as usize);
        } else {
            for _ in 0..1 << (run % 10) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.below(256) as u8;
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        match durable(1, &file).start() {
            Ok(client) => soon(client.disconnect()).await,
            Err(ConnectError::Store(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 20, "{refused}");
}

async fn refused() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    let client = durable(1, &file).start().unwrap();
    drop(soon(client.publish(Message::new("t", "x").qos(QoS::AtLeastOnce))).await.unwrap());
    assert!(error(durable(1, &file)).contains("open"), "{}", error(durable(1, &file)));
    soon(client.disconnect()).await;
    assert!(error(durable(1, &file).client_id("other")).contains("another client identifier"));
    assert!(error(durable(1, &file).version(Version::V311)).contains("another protocol version"));
    let error = durable(1, &file).client_id("").start().unwrap_err();
    assert!(matches!(error, ConnectError::Options(_)), "{error}");
}

async fn given_back() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    for n in 0..30 {
        let client = durable(1, &file).start().unwrap();
        assert_eq!(client.stats().restored, n);
        drop(soon(client.publish(Message::new("t", "x").qos(QoS::AtLeastOnce))).await.unwrap());
        soon(client.disconnect()).await;
    }
}
