//! The outbox's file: damaged, in use, another's, given back.

use std::path::Path;

use forebay_client::{ConnectError, Event, Message, Options, Outbox, QoS, Version};
use forebay_tests::broker::Broker;
use forebay_tests::rng::Rng;
use forebay_tests::scratch::Scratch;

use crate::{Case, block_on, durable, soon};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("a_damaged_file_is_set_aside_if_it_was_an_outbox", None, || block_on(damaged())),
        ("a_file_that_has_come_to_nothing_is_not_taken_for_a_new_one", None, || block_on(come_to_nothing())),
        ("a_file_in_use_or_of_another_is_a_clear_error", None, || block_on(refused())),
        ("a_mark_is_on_disk_with_its_message", None, || block_on(marked())),
        ("what_no_server_takes_is_set_aside_after_a_restart", None, || block_on(set_aside())),
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

/// MQTT 3.1.1 has no answer to a message that is too large: it would stand before all others for ever, over restarts, too.
async fn set_aside() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    let broker = Broker::with_config("[limits]\nmax_packet_size = \"1MiB\"\n");
    let options = |port| durable(port, &file).version(Version::V311);
    let client = options(1).start().unwrap();
    let large = Message::new("large", vec![0; 2_000_000]).qos(QoS::AtLeastOnce);
    drop(soon(client.publish(large)).await.unwrap());
    drop(soon(client.publish(Message::new("small", "x").qos(QoS::AtLeastOnce))).await.unwrap());
    soon(client.disconnect()).await;
    let client = options(broker.port()).start().unwrap();
    let mut events = client.events();
    soon(client.drained()).await;
    let stats = client.stats();
    assert_eq!((stats.restored, stats.set_aside, stats.acked), (2, 1, 1));
    let told = async {
        while let Some(event) = events.next().await {
            if let Event::SetAside { topic, payload, .. } = event {
                return Some((topic, payload.len()));
            }
        }
        None
    };
    assert_eq!(soon(told).await, Some(("large".to_owned(), 2_000_000)));
    soon(client.disconnect()).await;
    let client = options(broker.port()).start().unwrap();
    assert_eq!(client.stats().restored, 0, "it is in the file still");
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
    let (mut aside, mut whole_ones) = (0, 0);
    for run in 0..100 {
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
            Ok(client) => {
                let stats = client.stats();
                aside += stats.unreadable_files;
                whole_ones += u64::from(stats.restored == 50);
                soon(client.disconnect()).await;
            }
            // What of it says whose it is may be damaged as well.
            Err(ConnectError::Store(text)) => assert!(text.contains("outbox"), "{text}"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(aside > 10 && whole_ones > 10, "{aside} set aside, {whole_ones} whole");
    assert_eq!(files_set_aside(scratch.path()), aside);
}

fn files_set_aside(folder: &Path) -> u64 {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("outbox.redb.damaged-")).count() as u64
}

async fn come_to_nothing() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    for (run, bytes) in [&b""[..], b"r", &[0; 69_632], b"hello"].into_iter().enumerate() {
        fill(&file, 5).await;
        std::fs::write(&file, bytes).unwrap();
        for unreadable in [1, 0] {
            let client = durable(1, &file).start().unwrap();
            let stats = client.stats();
            assert_eq!((stats.restored, stats.unreadable_files), (0, unreadable), "{} bytes", bytes.len());
            soon(client.disconnect()).await;
        }
        assert_eq!(files_set_aside(scratch.path()), run as u64 + 1);
    }
    std::fs::remove_file(&file).unwrap();
    let client = durable(1, &file).start().unwrap();
    assert_eq!(client.stats().unreadable_files, 1, "it is gone, and nobody says so");
    soon(client.disconnect()).await;
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

/// A mark is on disk with its message, never one without the other, and the last one holds.
async fn marked() {
    let scratch = Scratch::new("outbox");
    let file = scratch.path().join("outbox.redb");
    let message = || Message::new("t", "x").qos(QoS::ExactlyOnce);
    for run in 0..5_u64 {
        let client = durable(1, &file).start().unwrap();
        assert_eq!(client.mark(), run.checked_sub(1).map(|before| before * 10 + 9));
        assert_eq!(client.stats().restored, run * 10);
        for n in 0..10 {
            drop(client.try_publish_marked(message(), run * 10 + n).unwrap());
        }
        soon(client.stored()).await.unwrap();
        // As a kill leaves it: a copy of the file while it is open.
        let copy = scratch.path().join(format!("copy{run}.redb"));
        std::fs::copy(&file, &copy).unwrap();
        soon(client.disconnect()).await;
        let client = durable(1, &copy).start().unwrap();
        assert_eq!((client.mark(), client.stats().restored), (Some(run * 10 + 9), run * 10 + 10));
        soon(client.disconnect()).await;
    }
    let full = Options::new("mqtt://127.0.0.1:1").unwrap().outbox(Outbox { max_messages: 0, ..Outbox::default() });
    let client = full.start().unwrap();
    assert!(client.try_publish_marked(message(), 7).is_err());
    assert_eq!(client.mark(), None, "what was not accepted leaves no mark");
}
