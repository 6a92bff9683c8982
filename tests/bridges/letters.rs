//! Dead letters of a bridge go back into its queue, and are dropped, because an operator says so.

use std::process::Command;
use std::time::Duration;

use forebay_client::{Client, Message, QoS, Subscription};
use forebay_tests::broker::{Broker, Kind, program};
use forebay_tests::rng::Rng;

use crate::secured::{configure, running};
use crate::{Case, PATIENCE, block_on, bridge, client, soon, subscribed};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("dead_letters_go_back_through_kills_of_the_gateway", None, || block_on(replayed())),
        ("dead_letters_that_do_not_match_stay_where_there_is_room_for_no_more", None, || block_on(full())),
    ]
}

/// Dead letters on each of two topics.
const MESSAGES: u64 = 100;
const KILLS: u32 = 4;
/// Templates: no message has what the first wants.
const NOTHING: &str = "up/{user.line}/{topic}";
const EVERYTHING: &str = "up/{topic}";

fn config(port: u16, topic: &str, more: &str) -> Vec<String> {
    let rules = format!("[[bridges.out]]\nfilter = 't/#'\ntopic = '{topic}'\nqos = 2");
    vec![bridge(port, &format!("delivery = 'exactly-once'\n{more}"), &rules)]
}

/// `forebay ctl bridges` on this gateway.
fn ctl(broker: &Broker, arguments: &[&str]) -> String {
    let socket = broker.data().join("admin.sock");
    let mut command = Command::new(program());
    command.args(["ctl", "--socket"]).arg(socket).arg("bridges").args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Topics of the dead letters that there are, in their order.
fn dead(broker: &Broker) -> Vec<String> {
    let text = ctl(broker, &["dead", "up", "--limit", "1000", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let topic = |message: &serde_json::Value| message["topic"].as_str().unwrap().to_owned();
    answer["messages"].as_array().unwrap().iter().map(topic).collect()
}

fn until(what: &str, is: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Numbers in each topic.
async fn publish(here: &Client, topics: &[&str], count: u64) {
    for n in 0..count {
        for topic in topics {
            let message = Message::new(*topic, n.to_string()).qos(QoS::ExactlyOnce);
            soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
        }
    }
}

/// What comes next, as its topic and its number.
async fn next(of: &mut Subscription) -> (String, u64) {
    let message = soon(of.recv()).await.expect("a message");
    let number = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
    (message.topic().to_owned(), number)
}

/// None is lost, none comes twice, and what matches comes in its order.
async fn replayed() {
    let seed = Rng::seed_from_environment();
    println!("FOREBAY_SEED={seed}");
    let mut rng = Rng::new(seed);
    let upstream = Broker::start_as(Kind::Forebay);
    let mut broker = running(&config(upstream.port(), NOTHING, ""));
    publish(&client(broker.port(), "here").await, &["t/a", "t/b"], MESSAGES).await;
    until("all are dead", || dead(&broker).len() as u64 == 2 * MESSAGES);
    broker.kill();
    configure(&mut broker, &config(upstream.port(), EVERYTHING, ""));
    broker.run();
    let there = client(upstream.port(), "there").await;
    let mut up = subscribed(&there, "up/#").await;
    for _ in 0..KILLS {
        let said = ctl(&broker, &["replay", "up", "--filter", "t/a", "--rate", "10/s"]);
        assert!(said.contains("dead letters those that match go back"), "{said}");
        tokio::time::sleep(Duration::from_millis(50 + rng.below(600))).await;
        broker.kill();
        broker.run();
    }
    assert!(dead(&broker).iter().any(|topic| topic == "$dead/up/t/a"), "it was killed under way");
    ctl(&broker, &["replay", "up", "--filter", "t/a"]);
    for n in 0..MESSAGES {
        assert_eq!(next(&mut up).await, ("up/t/a".to_owned(), n));
    }
    // The others are there still. Which of them is the first is open: replays that were broken off had put some behind.
    until("those that do not match are left", || dead(&broker) == vec!["$dead/up/t/b"; MESSAGES as usize]);
    ctl(&broker, &["replay", "up", "--limit", "30"]);
    let (_, first) = next(&mut up).await;
    for n in 1..30 {
        assert_eq!(next(&mut up).await, ("up/t/b".to_owned(), (first + n) % MESSAGES));
    }
    until("some are left", || dead(&broker).len() as u64 == MESSAGES - 30);
    let said = ctl(&broker, &["purge", "up", "--dead"]);
    assert!(said.contains(&format!("{} dead letters of up are dropped", MESSAGES - 30)), "{said}");
    assert!(dead(&broker).is_empty() && up.try_recv().is_none());
}

/// Each that does not match is put behind the others: where there is room for none more, that must not push out the oldest.
async fn full() {
    let upstream = Broker::start_as(Kind::Forebay);
    let broker = running(&config(upstream.port(), NOTHING, "dead_letters = 10"));
    publish(&client(broker.port(), "here").await, &["t/a"], 12).await;
    until("the oldest made room", || broker.log().matches("a message will not be taken").count() == 12);
    until("ten are there", || dead(&broker).len() == 10);
    ctl(&broker, &["replay", "up", "--filter", "other/#"]);
    until("it is done", || broker.log().contains("dead letters are back"));
    assert_eq!(dead(&broker).len(), 10);
}
