//! A bridge to Kafka.

use std::collections::VecDeque;
use std::time::Duration;

use forebay_client::{Message, QoS};
use forebay_tests::server::Program;
use krafka::Kafka;
use krafka::admin::NewTopic;
use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerRecord, IsolationLevel};
use tokio::time::timeout;

use crate::upstreams::{Arrival, Arrived, Reader, Run, dead_letter, dead_letters, through_everything, yardstick};
use crate::{Case, block_on, bridge_to, client, example, gateway, publish, soon, state};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Program::kafka_is_absent();
    vec![
        ("kafka_gets_what_is_published", absent.clone(), || block_on(carries())),
        ("kafka_idempotent_waits_for_a_topic_that_is_missing", absent.clone(), || block_on(missing("at-least-once"))),
        ("kafka_exactly_once_waits_for_a_topic_that_is_missing", absent.clone(), || block_on(missing("exactly-once"))),
        ("kafka_idempotent_through_everything", absent.clone(), || numbered("at-least-once", through_everything)),
        ("kafka_exactly_once_through_everything", absent.clone(), || numbered("exactly-once", through_everything)),
        ("yardstick_to_kafka_idempotent", absent.clone(), || numbered("at-least-once", yardstick)),
        ("yardstick_to_kafka_exactly_once", absent, || numbered("exactly-once", yardstick)),
    ]
}

/// Topics that have so many partitions; and what reads them.
async fn there(port: u16, topics: &[(&str, i32)]) -> Consumer {
    let kafka = soon(Kafka::builder(format!("127.0.0.1:{port}")).connect()).await.unwrap();
    let new = topics.iter().map(|(name, partitions)| NewTopic::new(*name, *partitions, 1).unwrap());
    // They may be there.
    let made = soon(kafka.admin().create_topics(new, Default::default())).await.unwrap();
    assert_eq!(made.len(), topics.len());
    let consumer = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest);
    let consumer = consumer.isolation_level(IsolationLevel::ReadCommitted).build().await.unwrap();
    consumer.subscribe(topics.iter().map(|(name, _)| *name)).await.unwrap();
    consumer
}

async fn next(consumer: &Consumer) -> ConsumerRecord {
    soon(consumer.recv()).await.unwrap().expect("a record")
}

fn header(record: &ConsumerRecord, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(known, _)| known == name)?;
    Some(String::from_utf8(value.as_ref()?.to_vec()).unwrap())
}

fn texts(record: &ConsumerRecord) -> (i32, Option<&str>, Option<&str>) {
    let [key, value] = [&record.key, &record.value].map(|bytes| Some(std::str::from_utf8(bytes.as_deref()?).unwrap()));
    (record.partition, key, value)
}

/// Keys, partitions, headers, tombstones; what has no topic or is too large is a dead letter and stops nobody.
async fn carries() {
    let server = Program::kafka();
    let consumer = there(server.port, &[("readings", 3), ("forebay-progress", 1)]).await;
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings'\nkey = '{topic/2}'\npartition = '{topic/3}'\n\
                 [[bridges.out]]\nfilter = 'to/#'\ntopic = '{topic/2}'";
    let config = bridge_to(&format!("kafka://127.0.0.1:{}", server.port), "", rules);
    let mut broker = gateway(&config);
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let here = client(broker.port(), "here").await;
    let mut letters = dead_letters(broker.port()).await;
    publish(&here, "n/k/2", "one").await;
    let came = next(&consumer).await;
    assert_eq!(texts(&came), (2, Some("k"), Some("one")));
    assert_eq!(header(&came, "mqtt-topic").as_deref(), Some("n/k/2"));
    for mark in ["origin", "epoch", "seq"] {
        assert!(header(&came, mark).is_some(), "{mark}");
    }
    for (topic, payload, reason) in [
        ("to/mis sing", "x", ""),
        ("n/k/2", &"x".repeat(150_000), "TooLarge"),
        ("n/k/two", "x", "\"two\" is not the number of a partition"),
    ] {
        publish(&here, topic, payload).await;
        let (dead, why) = dead_letter(&mut letters).await;
        assert!(dead == format!("$dead/up/{topic}") && why.contains(reason), "{dead}: {why}");
    }
    let removed = Message::new("n/k/1", "").qos(QoS::AtLeastOnce).retain(true);
    soon(soon(here.publish(removed)).await.unwrap()).await.unwrap();
    assert_eq!(texts(&next(&consumer).await), (1, Some("k"), None));
    let mut broker = gateway(&example("bridge-kafka.toml", "127.0.0.1:9092", server.port));
    broker.run();
    publish(&client(broker.port(), "here").await, "site/7/temperature", "21").await;
    let came = next(&consumer).await;
    assert_eq!((texts(&came).1, texts(&came).2), (Some("7"), Some("21")));
}

/// A topic that is missing may be there in a moment: what is for it waits, in order, whatever the delivery.
async fn missing(delivery: &str) {
    let server = Program::kafka();
    drop(there(server.port, &[("forebay-progress", 1)]).await);
    let rules = "[[bridges.out]]\nfilter = 'to/#'\ntopic = '{topic/2}'\nkey = '{topic}'\nqos = 2";
    let url = format!("kafka://127.0.0.1:{}", server.port);
    let mut broker = gateway(&bridge_to(&url, &format!("delivery = '{delivery}'"), rules));
    broker.run();
    let here = client(broker.port(), "here").await;
    for number in 0..20 {
        publish(&here, "to/late", &number.to_string()).await;
    }
    let why = state(broker.port(), if delivery == "exactly-once" { "backing off" } else { "blocked" }).await;
    assert!(why.contains("late"), "{why}");
    broker.kill();
    broker.run();
    let consumer = there(server.port, &[("late", 1)]).await;
    for number in 0..20 {
        let came = timeout(LONG, consumer.recv()).await.expect("it takes for ever").unwrap().expect("a record");
        assert_eq!(texts(&came).2, Some(number.to_string().as_str()));
    }
}

/// The bridge waits up to a minute before it tries again, and as long for its consumer group.
const LONG: Duration = Duration::from_secs(240);
const TOPICS: &[(&str, i32)] = &[("readings", 3), ("forebay-progress", 1)];

fn numbered(delivery: &str, run: Run) {
    let arrival = if delivery == "exactly-once" { Arrival::Once } else { Arrival::AtLeastOnce };
    let mut server = Program::kafka();
    block_on(async { drop(there(server.port, TOPICS).await) });
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings'\nkey = '{topic}'\nqos = 2";
    let url = format!("kafka://127.0.0.1:{}", server.port);
    let config = bridge_to(&url, &format!("delivery = '{delivery}'\nwindow = 1000\ncompression = 'lz4'"), rule);
    run(&mut server, &config, reader, arrival);
}

fn reader(server: &Program) -> Reader {
    let port = server.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let consumer = runtime.block_on(there(port, TOPICS));
    let mut came = VecDeque::new();
    Box::new(move |patience: Duration| {
        if came.is_empty() {
            came.extend(runtime.block_on(consumer.poll(patience)).unwrap());
        }
        let record: ConsumerRecord = came.pop_front()?;
        Some(Arrived::new(record.value.as_deref().unwrap(), |name| header(&record, name)))
    })
}
