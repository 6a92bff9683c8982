//! The client library against real servers: this repository's broker and others'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod examples;
mod request;

use std::time::Duration;

use forebay_client::{Message, Options, QoS, Subscribe, Version};
use forebay_tests::broker::Broker;

fn options(broker: &Broker, version: Version) -> Options {
    Options::new(&format!("mqtt://127.0.0.1:{}", broker.port())).unwrap().version(version)
}

#[tokio::test]
async fn what_is_published_arrives_in_order_at_every_qos() {
    let broker = Broker::start();
    for version in [Version::V311, Version::V5] {
        let subscriber = options(&broker, version).connect().await.unwrap();
        let publisher = options(&broker, version).connect().await.unwrap();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let filter = format!("order/{version:?}/{}", qos as u8);
            let mut messages = subscriber.subscribe(Subscribe::to(&filter).qos(qos)).await.unwrap();
            let mut tickets = Vec::new();
            for n in 0..1_000 {
                let message = Message::new(filter.as_str(), n.to_string()).qos(qos);
                tickets.push(publisher.publish(message).await.unwrap());
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
            for n in 0..1_000 {
                let received = tokio::time::timeout(Duration::from_secs(20), messages.recv()).await.unwrap().unwrap();
                assert_eq!((received.payload(), received.qos()), (n.to_string().as_bytes(), qos));
            }
            messages.unsubscribe().await;
        }
        publisher.disconnect().await;
        assert_eq!(publisher.stats().accepted, 3_000);
    }
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_gets_everything_once() {
    let mut broker = Broker::start();
    let reconnect = forebay_client::Reconnect { max: Duration::from_millis(500), ..Default::default() };
    let persistent = |name: &str| {
        let options = options(&broker, Version::V5).client_id(name).session_expiry(Duration::from_secs(3600));
        options.reconnect(reconnect.clone())
    };
    let subscriber = persistent("s").connect().await.unwrap();
    let mut messages = subscriber.subscribe(Subscribe::to("kill").qos(QoS::ExactlyOnce)).await.unwrap();
    let publisher = persistent("p").connect().await.unwrap();
    let mut sent = 0;
    for _ in 0..10 {
        let first = sent;
        while sent < first + 1_000 {
            let message = Message::new("kill", sent.to_string()).qos(QoS::ExactlyOnce);
            let _ticket = publisher.publish(message).await.unwrap();
            sent += 1;
            if sent == first + 700 {
                broker.kill();
                broker.run();
            }
        }
        for n in first..sent {
            let received = tokio::time::timeout(Duration::from_secs(60), messages.recv()).await.unwrap().unwrap();
            assert_eq!(received.payload(), n.to_string().as_bytes());
        }
    }
    publisher.drained().await;
    let stats = publisher.stats();
    assert!(stats.connections >= 10, "{stats:?}");
    assert_eq!((stats.accepted, stats.acked, stats.dropped()), (10_000, 10_000, 0));
    assert!(messages.try_recv().is_none());
}

#[tokio::test]
async fn a_durable_outbox_survives_the_program() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let to = options(&broker, Version::V5);
    let durable = || {
        let options = to.clone().client_id("durable").durable(folder.path().join("outbox.redb"));
        options.reconnect(forebay_client::Reconnect { max: Duration::from_millis(300), ..Default::default() })
    };
    let subscriber = options(&broker, Version::V5).client_id("d").session_expiry(Duration::from_secs(600));
    let subscriber = subscriber.connect().await.unwrap();
    let mut messages = subscriber.subscribe(Subscribe::to("durable/#").qos(QoS::ExactlyOnce)).await.unwrap();
    // Each run of the "program" publishes some and ends without waiting for its acks.
    let mut published = 0;
    for _ in 0..5 {
        let client = durable().start().unwrap();
        for _ in 0..100 {
            let message = Message::new("durable/x", published.to_string()).qos(QoS::ExactlyOnce);
            let _ticket = client.publish(message).await.unwrap();
            published += 1;
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(20)).await;
        broker.kill();
        broker.run();
    }
    let last = durable().connect().await.unwrap();
    last.drained().await;
    for n in 0..published {
        let received = tokio::time::timeout(Duration::from_secs(20), messages.recv()).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(received.payload()), n.to_string());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(messages.try_recv().is_none(), "a message came twice");
}
