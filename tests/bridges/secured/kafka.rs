//! Kafka.

use forebay_client::{Message, QoS};
use forebay_tests::broker::free_port;
use forebay_tests::server::Program;
use forebay_tests::server::secured::USER;
use krafka::Kafka;
use krafka::admin::{AclBinding, AclOperation, AclPatternType, AclPermissionType, AclResourceType, NewTopic};
use krafka::consumer::{AutoOffsetReset, Consumer};

use super::{Files, bridge, running, says, told_no_secret};
use crate::{Case, block_on, client, publish, soon};

pub(super) fn trials() -> Vec<Case> {
    vec![("kafka_with_tls_and_users", Program::kafka_is_absent(), || block_on(users()))]
}

/// Whoever has this certificate, whose name is rcgen's.
const CERTIFICATE: &str = "CN=rcgen self signed cert";

async fn allow(kafka: &Kafka, topic: &str, who: &str) {
    allow_to(kafka, (AclResourceType::Topic, topic), AclOperation::Write, who).await;
}

async fn allow_to(kafka: &Kafka, (kind, name): (AclResourceType, &str), what: AclOperation, who: &str) {
    let may = AclBinding::new(kind, name, format!("User:{who}"), "*", what, AclPermissionType::Allow);
    // The client's number for a prefix is the server's for the whole name.
    let may = may.with_pattern_type(AclPatternType::Prefixed);
    let made = soon(kafka.admin().create_acls(vec![may], Default::default())).await.unwrap();
    assert!(made.iter().all(|(_, made)| made.is_ok()), "{made:?}");
}

async fn next(consumer: &Consumer) -> (String, String) {
    let record = soon(consumer.recv()).await.unwrap().expect("a record");
    let value = String::from_utf8(record.value.expect("a value").to_vec()).unwrap();
    (record.topic.to_string(), value)
}

async fn users() {
    let (server, [password, certificate]) = Program::kafka_secured();
    let files = Files::of(server.folder());
    let kafka = soon(Kafka::builder(format!("127.0.0.1:{}", server.port)).connect()).await.unwrap();
    let topics = ["readings", "closed", "forebay-progress"];
    let new = topics.map(|name| NewTopic::new(name, 1, 1).unwrap());
    soon(kafka.admin().create_topics(new, Default::default())).await.unwrap();
    allow(&kafka, "readings", USER).await;
    allow(&kafka, "readings", CERTIFICATE).await;
    let there = kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest).build().await.unwrap();
    there.subscribe(topics).await.unwrap();

    // The first address is nobody's.
    let urls = |port: u16| [free_port(), port].map(|port| format!("kafkas://127.0.0.1:{port}"));
    let rule = |filter: &str, topic: &str| {
        format!("[[bridges.out]]\nfilter = '{filter}/#'\ntopic = '{topic}'\nkey = '{{topic}}'\n")
    };
    let (of_password, of_certificate) = (urls(password), urls(certificate));
    let (trusted, right, none) = (files.trusted(), files.user("right"), String::new());
    let line = |name: &str, urls: &[String], parts: &[&str], rules: &str| bridge(name, urls, &parts.concat(), rules);
    let eo = "delivery = 'exactly-once'\n";
    let both = [rule("n", "readings"), rule("c", "closed")].concat();
    let broker = running(&[
        line("scram512", &of_password, &[&trusted, &right], &both),
        line("scram256", &of_password, &[&trusted, &right, "sasl = 'scram-sha-256'\n"], &rule("s", "readings")),
        line("plain", &of_password, &[&trusted, &right, "sasl = 'plain'\n"], &rule("p", "readings")),
        line("shown", &of_certificate, &[&trusted, &files.certificate()], &rule("t", "readings")),
        line("untrusted", &of_password, &[&files.distrusted(), &right], &rule("x", "readings")),
        line("wrong", &of_password, &[&trusted, &files.user("wrong")], &rule("x", "readings")),
        line("wrongplain", &of_password, &[&trusted, &files.user("wrong"), "sasl = 'plain'\n"], &rule("x", "readings")),
        line("bare", &of_certificate, &[&trusted, &none], &rule("x", "readings")),
        line("groups", &of_password, &[&trusted, &right, eo], &rule("g", "readings")),
    ]);
    let here = client(broker.port(), "here").await;
    for topic in ["n/1", "s/1", "p/1", "t/1"] {
        publish(&here, topic, topic).await;
        assert_eq!(next(&there).await, ("readings".to_owned(), topic.to_owned()));
    }
    for (name, state) in [
        ("scram512", "connected"),
        ("untrusted", "backing off: the server's certificate is not trusted: "),
        ("wrong", "backing off: the login is refused: "),
        ("wrongplain", "backing off: the login is refused: "),
        ("bare", "backing off: the server does not take this side's certificate: "),
        ("groups", "backing off: not allowed: to read by the consumer group forebay-"),
    ] {
        says(&broker, name, state);
    }
    // What is not allowed waits, and does not hold up what is.
    publish(&here, "c/1", "one").await;
    says(&broker, "scram512", "blocked: not taken for now: not allowed: to write to the topic closed");
    publish(&here, "c/1", "two").await;
    publish(&here, "n/2", "goes on").await;
    assert_eq!(next(&there).await, ("readings".to_owned(), "goes on".to_owned()));
    allow(&kafka, "closed", USER).await;
    for payload in ["one", "two"] {
        assert_eq!(next(&there).await, ("closed".to_owned(), payload.to_owned()));
    }
    says(&broker, "scram512", "connected");
    // What exactly-once needs beside that.
    for (resource, what) in [
        ((AclResourceType::Group, "*"), AclOperation::Read),
        ((AclResourceType::TransactionalId, "*"), AclOperation::Write),
        ((AclResourceType::Topic, "forebay-progress"), AclOperation::Read),
    ] {
        allow_to(&kafka, resource, what, USER).await;
    }
    says(&broker, "groups", "connected");
    let once = Message::new("g/1", "once").qos(QoS::ExactlyOnce);
    soon(soon(here.publish(once)).await.unwrap()).await.unwrap();
    assert_eq!(next(&there).await, ("readings".to_owned(), "once".to_owned()));
    told_no_secret(&broker);
}
