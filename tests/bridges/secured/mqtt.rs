//! MQTT: mosquitto with rules that somebody mends, or does not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use forebay_client::{Client, Message, QoS, Subscription};
use forebay_tests::absence::of_program;
use forebay_tests::broker::free_port;
use forebay_tests::numbered::Seen;
use forebay_tests::scratch::Scratch;
use forebay_tests::server::Program;

use super::{running, says};
use crate::{Case, block_on, bridge, client, publish, soon, subscribed};

pub(super) fn trials() -> Vec<Case> {
    let absent = of_program("mosquitto");
    vec![
        ("mosquitto_does_not_allow_a_topic_until_it_does", absent.clone(), || block_on(mended("at-least-once"))),
        ("mosquitto_does_not_allow_a_topic_until_it_does_exactly_once", absent.clone(), || {
            block_on(mended("exactly-once"));
        }),
        ("mosquitto_never_allows_a_topic", absent, || block_on(given_up())),
    ]
}

/// Messages on each topic, before and after the gateway is killed.
const MESSAGES: u64 = 40;

/// Mosquitto with rules in a file.
struct Upstream {
    server: Program,
    rules: PathBuf,
}

impl Upstream {
    fn start() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        let rules = scratch.path().join("rules");
        std::fs::write(&rules, "topic read up/#\ntopic write up/open/#\n").unwrap();
        let listener = format!(
            "max_queued_messages 100000\nlistener {port} 127.0.0.1\nallow_anonymous true\nacl_file {}\n",
            rules.display()
        );
        Self { server: Program::mosquitto_with(scratch, port, &listener), rules }
    }

    /// Everything is allowed from now on.
    fn mend(&self) {
        std::fs::write(&self.rules, "topic readwrite up/#\n").unwrap();
        self.server.reload();
    }
}

/// Publishes the next numbers to these topics.
async fn publish_more(here: &Client, topics: &[(&str, QoS)], numbers: std::ops::Range<u64>) {
    for n in numbers {
        for (topic, qos) in topics {
            soon(soon(here.publish(Message::new(*topic, n.to_string()).qos(*qos))).await.unwrap()).await.unwrap();
        }
    }
}

/// Reads until so many of each topic have come, and nothing more comes.
async fn numbers(of: &mut Subscription, counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut seen = Seen::default();
    while !counts.iter().all(|(topic, count)| seen.has_reached(topic, count - 1)) {
        let message = soon(of.recv()).await.expect("a message");
        let number = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
        seen.note(message.topic(), number, true);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(of.try_recv().is_none(), "more than was published");
    seen.faults(counts)
}

const RULES: &str = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up/{topic/2..}'\nqos = 2";
const BLOCKED: &str = "blocked: not taken for now: not allowed: up/closed/2: Not authorized (0x87)";

/// The gateway is killed while it waits. Nothing is lost, doubled or out of order when the rules are mended.
async fn mended(delivery: &str) {
    let upstream = Upstream::start();
    let port = upstream.server.port;
    let mut broker = running(&[bridge(port, &format!("delivery = '{delivery}'\nstalled_after = '1s'"), RULES)]);
    let there = client(port, "there").await;
    let mut up = subscribed(&there, "up/#").await;
    let topics = [("n/closed/2", QoS::ExactlyOnce), ("n/closed/1", QoS::AtLeastOnce), ("n/open/2", QoS::ExactlyOnce)];
    let open = [("n/open/1", QoS::AtLeastOnce)];
    let here = client(broker.port(), "here").await;
    publish_more(&here, &open, 0..10).await;
    let before = BTreeMap::from([("up/open/1".to_owned(), 10)]);
    assert_eq!(numbers(&mut up, &before).await, Vec::<String>::new());
    publish_more(&here, &topics, 0..MESSAGES).await;
    says(&broker, "up", BLOCKED);
    // It stays so, and does not become "nothing was confirmed".
    tokio::time::sleep(Duration::from_secs(2)).await;
    says(&broker, "up", BLOCKED);
    broker.kill();
    broker.run();
    says(&broker, "up", BLOCKED);
    let mut dead = subscribed(&client(broker.port(), "dead").await, "$dead/#").await;
    publish_more(&here, &topics, MESSAGES..2 * MESSAGES).await;
    upstream.mend();
    let counts = topics.map(|(topic, _)| (topic.replacen("n/", "up/", 1), 2 * MESSAGES)).into();
    assert_eq!(numbers(&mut up, &counts).await, Vec::<String>::new());
    says(&broker, "up", "connected");
    assert!(dead.try_recv().is_none());
}

/// With `refused_topic = 'dead-letter'` what is not allowed for 30 s makes way, also what an earlier run had moved into the outbox.
async fn given_up() {
    let upstream = Upstream::start();
    let port = upstream.server.port;
    let how = "refused_topic = 'dead-letter'\ndelivery = 'exactly-once'";
    let mut broker = running(&[bridge(port, how, RULES)]);
    let there = client(port, "there").await;
    let mut up = subscribed(&there, "up/#").await;
    let here = client(broker.port(), "here").await;
    publish_more(&here, &[("n/closed/2", QoS::ExactlyOnce)], 0..MESSAGES).await;
    says(&broker, "up", BLOCKED);
    broker.kill();
    broker.run();
    let mut dead = subscribed(&client(broker.port(), "dead").await, "$dead/up/#").await;
    says(&broker, "up", BLOCKED);
    publish(&here, "n/open/1", "goes on").await;
    let (mut before, mut numbers) = (0, Vec::new());
    while numbers.len() < MESSAGES as usize {
        let letter = soon(dead.recv()).await.expect("a dead letter");
        let properties = letter.properties();
        let why = properties.user.iter().find(|(name, _)| name == "dead-detail").map(|(_, value)| value.as_str());
        assert_eq!(why, Some("refused by the server: Not authorized (0x87)"));
        match letter.topic() {
            "$dead/up/n/closed/2" => {}
            // It had left the queue before the kill.
            "$dead/up/up/closed/2" => before += 1,
            other => panic!("{other}"),
        }
        numbers.push(std::str::from_utf8(letter.payload()).unwrap().parse::<u64>().unwrap());
    }
    assert!(before > 0);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "each is a dead letter once");
    let came = soon(up.recv()).await.unwrap();
    assert_eq!((came.topic(), came.payload()), ("up/open/1", &b"goes on"[..]));
}
