//! A full disk makes `publish` wait, and goes on when there is room.

use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use forebay_client::{Client, Message, PublishError, QoS, Subscribe, Subscription, Ticket};
use forebay_tests::broker::Broker;
use forebay_tests::scratch::Scratch;

use crate::{Case, block_on, durable, options, soon};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Disk::mount().is_none().then(|| "no right to mount a tmpfs".to_owned());
    vec![
        ("a_full_disk_makes_publish_wait", absent.clone(), || block_on(full())),
        ("a_full_disk_needs_little_room_to_go_on", absent.clone(), || {
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                block_on(a_little_room(qos));
            }
        }),
        ("a_disk_that_stays_full_lets_what_it_has_come_to_its_end", absent, || {
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                block_on(no_room_at_all(qos));
            }
        }),
    ]
}

/// redb doubles its file when it grows.
const SIZE_MB: u32 = 48;

/// A small disk, gone when this is dropped.
struct Disk(Scratch);

impl Disk {
    fn mount() -> Option<Self> {
        let scratch = Scratch::new("outbox-disk");
        let size = format!("size={SIZE_MB}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(scratch.path()).output();
        status.is_ok_and(|output| output.status.success()).then_some(Self(scratch))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn message(n: u32, qos: QoS) -> Message {
    Message::new("full", format!("{n:<10000}")).qos(qos)
}

type Publishing = Pin<Box<dyn Future<Output = Result<Ticket, PublishError>>>>;

/// Publishes until it waits: how many, the last of which is the one that waits.
async fn publish_until_full(client: &Client, qos: QoS) -> (u32, Publishing) {
    let mut published = 0;
    let waiting = loop {
        assert!(published < 2_000, "the disk is never full");
        let of_publish = client.clone();
        let next = message(published, qos);
        let mut publishing: Publishing = Box::pin(async move { of_publish.publish(next).await });
        published += 1;
        if tokio::time::timeout(Duration::from_secs(2), &mut publishing).await.is_err() {
            break publishing;
        }
    };
    assert!(published > 50, "{published}");
    (published, waiting)
}

/// A broker that is away, and a subscriber that waits for what is published.
async fn away() -> (Broker, Client, Subscription) {
    let mut broker = Broker::start();
    let subscriber = soon(options(broker.port(), "subscriber").connect()).await.unwrap();
    let messages = soon(subscriber.subscribe(Subscribe::to("full").qos(QoS::ExactlyOnce))).await.unwrap();
    broker.kill();
    (broker, subscriber, messages)
}

/// So many messages come, in order.
async fn all_come(messages: &mut Subscription, published: u32) {
    for n in 0..published {
        let received = soon(messages.recv()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(received.payload()).trim(), n.to_string());
    }
}

async fn full() {
    let disk = Disk::mount().unwrap();
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 36 << 20]).unwrap();
    let (mut broker, _subscriber, mut messages) = away().await;
    // Nobody takes what is published.
    let client = durable(broker.port(), &disk.path().join("outbox.redb")).start().unwrap();
    let (mut published, mut waiting) = publish_until_full(&client, QoS::ExactlyOnce).await;
    assert!(tokio::time::timeout(Duration::from_secs(3), &mut waiting).await.is_err());
    std::fs::remove_file(&filler).unwrap();
    drop(soon(waiting).await.unwrap());
    drop(soon(client.publish(message(published, QoS::ExactlyOnce))).await.unwrap());
    published += 1;
    // It is all there for the next run of the program.
    soon(client.disconnect()).await;
    let stats = client.stats();
    assert_eq!(stats.outbox_messages, published as usize, "{stats:?}");
    broker.run();
    let client = durable(broker.port(), &disk.path().join("outbox.redb")).start().unwrap();
    assert_eq!(client.stats().restored, u64::from(published));
    all_come(&mut messages, published).await;
    soon(client.drained()).await;
    assert!(messages.try_recv().is_none());
}

/// The disk need not have room for all that the file has grown by, only for what is written.
async fn a_little_room(qos: QoS) {
    let disk = Disk::mount().unwrap();
    let little = disk.path().join("little");
    std::fs::write(disk.path().join("filler"), vec![1; 35 << 20]).unwrap();
    std::fs::write(&little, vec![1; 1 << 20]).unwrap();
    let (mut broker, _subscriber, mut messages) = away().await;
    let file = disk.path().join("outbox.redb");
    let client = durable(broker.port(), &file).start().unwrap();
    let (mut published, waiting) = publish_until_full(&client, qos).await;
    std::fs::remove_file(&little).unwrap();
    drop(soon(waiting).await.unwrap());
    broker.run();
    drop(soon(client.publish(message(published, qos))).await.unwrap());
    published += 1;
    all_come(&mut messages, published).await;
    soon(client.drained()).await;
    soon(client.disconnect()).await;
    let client = durable(broker.port(), &file).start().unwrap();
    let stats = client.stats();
    assert_eq!((stats.restored, stats.unreadable_files, stats.unreadable_messages), (0, 0, 0));
}

/// What is acknowledged makes room for the message that waits, though nobody else does.
async fn no_room_at_all(qos: QoS) {
    let disk = Disk::mount().unwrap();
    std::fs::write(disk.path().join("filler"), vec![1; 36 << 20]).unwrap();
    let (mut broker, _subscriber, mut messages) = away().await;
    let file = disk.path().join("outbox.redb");
    let client = durable(broker.port(), &file).start().unwrap();
    let (published, waiting) = publish_until_full(&client, qos).await;
    broker.run();
    all_come(&mut messages, published).await;
    drop(soon(waiting).await.unwrap());
    soon(client.drained()).await;
    soon(client.disconnect()).await;
    let stats = durable(broker.port(), &file).start().unwrap().stats();
    assert_eq!((stats.restored, stats.unreadable_files, stats.unreadable_messages), (0, 0, 0));
}
