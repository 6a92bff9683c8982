//! A bridge to RocketMQ.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forebay_client::{Message, Properties, QoS};
use forebay_tests::server::Program;
use tokio::time::timeout;

use crate::upstreams::{Arrival, Arrived, Reader, Run, dead_letter, dead_letters, through_everything, yardstick};
use crate::{Case, PATIENCE, block_on, bridge_to, client, example, gateway, publish, soon, state, subscribed};

/// The bridge waits up to a minute before it tries again.
const LONG: Duration = Duration::from_secs(240);
const TOPICS: &str = "readings:NORMAL,site:FIFO,later:DELAY,numbered:FIFO";

pub(crate) fn trials() -> Vec<Case> {
    let absent = Program::java_is_absent("rocketmq");
    vec![
        ("rocketmq_gets_what_is_published", absent.clone(), || block_on(carries())),
        ("rocketmq_that_starts_late_gets_everything_in_order", absent.clone(), || block_on(late())),
        ("rocketmq_over_tls", absent.clone(), || block_on(tls())),
        ("rocketmq_that_is_frozen_is_given_up", absent.clone(), || block_on(frozen())),
        ("rocketmq_through_everything", absent.clone(), || numbered(through_everything)),
        ("yardstick_to_rocketmq", absent, || numbered(yardstick)),
    ]
}

/// What came.
struct Record {
    topic: String,
    payload: Vec<u8>,
    properties: BTreeMap<String, String>,
}

/// A consumer of RocketMQ's own, in a process that is ended with it.
struct There {
    child: Child,
    lines: Receiver<String>,
}

impl There {
    fn new(server: &Program, topics: &[&str]) -> Self {
        let mut child = server.rocketmq_reader(topics).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn next(&self, patience: Duration) -> Option<Record> {
        let line = match self.lines.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => panic!("the consumer has ended"),
        };
        let mut words = line.split(' ');
        let topic = words.next().unwrap().to_owned();
        let bytes = |word: &str| BASE64_STANDARD.decode(word).unwrap();
        let text = |word: &str| String::from_utf8(bytes(word)).unwrap();
        let payload = bytes(words.nth(1).unwrap());
        let mut properties = BTreeMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            properties.insert(text(name), text(value));
        }
        Some(Record { topic, payload, properties })
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Record {
    fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}

/// Topics, tags, keys, groups, delays and properties; what has no topic or the wrong type is a dead letter and stops nobody.
async fn carries() {
    let server = Program::rocketmq(TOPICS);
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings'\ntag = '{topic/2}'\n\
                 [[bridges.out]]\nfilter = 'later/#'\ntopic = 'later'\ndelay_s = '{user.delay}'\n\
                 [[bridges.out]]\nfilter = 'to/#'\ntopic = '{topic/2}'";
    let mut broker = gateway(&bridge_to(&format!("rocketmq://127.0.0.1:{}", server.port), "", rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let here = client(broker.port(), "here").await;
    let mut letters = dead_letters(broker.port()).await;
    let message = |topic: &str, payload: &str, user: (&str, &str)| {
        let user = vec![(user.0.to_owned(), user.1.to_owned())];
        Message::new(topic, payload.to_owned())
            .qos(QoS::ExactlyOnce)
            .properties(Properties { user, ..Properties::default() })
    };
    soon(soon(here.publish(message("n/a", "one", ("traceparent", "00-7")))).await.unwrap()).await.unwrap();
    soon(soon(here.publish(message("later/1", "two", ("delay", "2")))).await.unwrap()).await.unwrap();
    let readings = There::new(&server, &["readings"]);
    let came = readings.next(PATIENCE).expect("a message");
    assert_eq!((came.topic.as_str(), &came.payload[..]), ("readings", &b"one"[..]));
    assert_eq!((came.get("TAGS"), came.get("traceparent")), (Some("a"), Some("00-7")));
    assert_eq!(came.get("mqtt-topic"), Some("n/a"));
    let id = ["origin", "epoch", "seq"].map(|name| came.get(name).expect("a mark")).join(".");
    assert_eq!(came.get("KEYS"), Some(id.as_str()));
    for (topic, payload, reason) in [
        ("to/mis sing", "x", "40002"),
        // The topic takes messages with a group only.
        ("to/site", "x", "40014"),
        ("n/a|b", "x", "40004"),
        ("n/a", &"x".repeat(150_000), "41301"),
        // A removed retained message, say: the proxy takes none.
        ("n/a", "", "41302"),
    ] {
        publish(&here, topic, payload).await;
        let (dead, why) = dead_letter(&mut letters).await;
        assert!(dead == format!("$dead/up/{topic}") && why.contains(reason), "{dead}: {why}");
    }
    publish(&here, "n/b", "three").await;
    assert_eq!(readings.next(PATIENCE).expect("a message").payload, b"three");
    let later = There::new(&server, &["later"]);
    assert_eq!(later.next(PATIENCE).expect("a message, some time after").payload, b"two");
    let mut broker = gateway(&example("bridge-rocketmq.toml", "127.0.0.1:8081", server.port));
    broker.run();
    publish(&client(broker.port(), "here").await, "site/7/temperature", "21").await;
    let came = There::new(&server, &["site"]).next(PATIENCE).expect("a message");
    assert_eq!((&came.payload[..], came.get("__SHARDINGKEY")), (&b"21"[..], Some("7")));
}

/// The proxy answers for longer than anybody's patience before it knows the topic, and the gateway is killed meanwhile: nothing is
/// put aside, and all comes in order.
async fn late() {
    let mut server = Program::rocketmq("readings:NORMAL");
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'numbered'\nkey = '{topic}'";
    let mut broker = gateway(&bridge_to(&format!("rocketmq://127.0.0.1:{}", server.port), "", rules));
    broker.run();
    let here = client(broker.port(), "here").await;
    for number in 0..20 {
        publish(&here, "n/1", &number.to_string()).await;
    }
    state(broker.port(), "blocked: not taken for now").await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    another_try(broker.port()).await;
    broker.kill();
    broker.run();
    let why = state(broker.port(), "blocked: not taken for now").await;
    assert!(why.contains("40"), "{why}");
    let here = client(broker.port(), "here").await;
    for number in 20..40 {
        publish(&here, "n/1", &number.to_string()).await;
    }
    server.terminate();
    server.rocketmq_topics(TOPICS);
    server.run();
    let there = There::new(&server, &["numbered"]);
    let mut next = 0;
    while next < 40 {
        let came = there.next(LONG).expect("a message");
        let number: u64 = std::str::from_utf8(&came.payload).unwrap().parse().unwrap();
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
    // Nothing was put aside: the first dead letter is what comes now.
    let mut letters = dead_letters(broker.port()).await;
    publish(&client(broker.port(), "here").await, "n/1", "").await;
    let (dead, why) = dead_letter(&mut letters).await;
    assert!(dead == "$dead/up/n/1" && why.contains("41302"), "{dead}: {why}");
}

/// Until the bridge has sent again what was not taken.
async fn another_try(gateway: u16) {
    let client = client(gateway, "tries").await;
    let mut figures = subscribed(&client, "$SYS/broker/bridge/up/sent").await;
    let first = soon(figures.recv()).await.expect("a figure").payload().to_vec();
    while timeout(LONG, figures.recv()).await.expect("it takes for ever").expect("a figure").payload()[..] == first[..]
    {
    }
}

async fn tls() {
    let server = Program::rocketmq(TOPICS);
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings'";
    let url = format!("rocketmqs://localhost:{}", server.port);
    let trusted = format!("ca_file = '{}/ca.pem'", server.folder().display());
    let mut broker = gateway(&bridge_to(&url, &trusted, rule));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    assert_eq!(There::new(&server, &["readings"]).next(PATIENCE).expect("a message").payload, b"x");
    let mut broker = gateway(&bridge_to(&url, "", rule));
    broker.run();
    let why = state(broker.port(), "backing off").await;
    assert!(why.contains("certificate"), "{why}");
}

/// A server that stands still is given up, and gets what it has not confirmed when it goes on.
async fn frozen() {
    let mut server = Program::rocketmq(TOPICS);
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'readings'";
    let mut broker = gateway(&bridge_to(&format!("rocketmq://127.0.0.1:{}", server.port), "", rule));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    server.freeze();
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    state(broker.port(), "backing off").await;
    server.thaw();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    assert_eq!(There::new(&server, &["readings"]).next(PATIENCE).expect("a message").payload, b"x");
}

fn numbered(run: Run) {
    let mut server = Program::rocketmq(TOPICS);
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'numbered'\nkey = '{topic}'\nqos = 2";
    let config = bridge_to(&format!("rocketmq://127.0.0.1:{}", server.port), "", rule);
    run(&mut server, &config, reader, Arrival::AtLeastOnce);
}

fn reader(server: &Program) -> Reader {
    let there = There::new(server, &["numbered"]);
    Box::new(move |patience: Duration| {
        let came = there.next(patience)?;
        Some(Arrived::new(&came.payload, |name| came.get(name).map(str::to_owned)))
    })
}
