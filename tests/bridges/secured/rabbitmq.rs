//! RabbitMQ.

use forebay_tests::broker::free_port;
use forebay_tests::server::Program;
use forebay_tests::server::secured::USER;
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use super::{Files, bridge, running, says, told_no_secret};
use crate::rabbitmq::{next, there};
use crate::{Case, block_on, client, publish, soon};

pub(super) fn trials() -> Vec<Case> {
    vec![("rabbitmq_with_tls_and_users", Program::rabbitmq_is_absent(), || block_on(users()))]
}

async fn users() {
    let (server, tls) = Program::rabbitmq_secured("^amq\\.topic$");
    server.rabbitmqctl(&["add_vhost", "other"]);
    let files = Files::of(server.folder());
    let mut there = there(server.port, "classic").await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    there.channel.exchange_declare("closed".into(), ExchangeKind::Topic, durable, FieldTable::default()).await.unwrap();
    there.bind("closed", "#").await;

    // The first address is nobody's.
    let nobodys = format!("amqps://localhost:{}", free_port());
    let urls = |path: &str| [nobodys.clone(), format!("amqps://localhost:{tls}{path}")];
    let (trusted, right) = (files.trusted(), files.user("right"));
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up.{topic}'\n\
                 [[bridges.out]]\nfilter = 'c/#'\nexchange = 'closed'\ntopic = '{topic}'";
    let other = "[[bridges.out]]\nfilter = 'x/#'\ntopic = 'up.{topic}'";
    let broker = running(&[
        bridge("known", &urls(""), &[&trusted, &right].map(String::as_str).concat(), rules),
        bridge("untrusted", &urls(""), &[files.distrusted(), right.clone()].concat(), other),
        bridge("wrong", &urls(""), &[trusted.clone(), files.user("wrong")].concat(), other),
        bridge("elsewhere", &urls("/other"), &[trusted.clone(), right.clone()].concat(), other),
    ]);
    let here = client(broker.port(), "here").await;
    publish(&here, "n/1", "first").await;
    assert_eq!(soon(next(&mut there.queue)).await.unwrap().data, b"first");
    for (name, state) in [
        ("known", "connected"),
        ("untrusted", "backing off: the server's certificate is not trusted: "),
        ("wrong", "backing off: the login is refused: ACCESS_REFUSED"),
        ("elsewhere", "backing off: not allowed: NOT_ALLOWED - access to vhost 'other' refused"),
    ] {
        says(&broker, name, state);
    }
    // What is not allowed waits, and does not hold up what is.
    publish(&here, "c/1", "one").await;
    says(&broker, "known", "blocked: not taken for now: not allowed: ACCESS_REFUSED - access to exchange 'closed'");
    publish(&here, "c/1", "two").await;
    publish(&here, "n/2", "goes on").await;
    assert_eq!(soon(next(&mut there.queue)).await.unwrap().data, b"goes on");
    server.rabbitmqctl(&["set_permissions", USER, "", ".*", ""]);
    for payload in ["one", "two"] {
        let came = soon(next(&mut there.queue)).await.unwrap();
        assert_eq!((came.exchange.as_str(), came.data.as_slice()), ("closed", payload.as_bytes()));
    }
    says(&broker, "known", "connected");
    // The same of a routing key, of an exchange that has taken messages before.
    server.rabbitmqctl(&["set_topic_permissions", USER, "amq.topic", "^up\\.n\\.open$", ""]);
    publish(&here, "n/shut", "three").await;
    says(&broker, "known", "blocked: not taken for now: not allowed: ACCESS_REFUSED - access to topic 'up.n.shut'");
    publish(&here, "n/open", "goes on").await;
    assert_eq!(soon(next(&mut there.queue)).await.unwrap().data, b"goes on");
    server.rabbitmqctl(&["clear_topic_permissions", USER]);
    assert_eq!(soon(next(&mut there.queue)).await.unwrap().data, b"three");
    says(&broker, "known", "connected");
    let log = broker.log();
    let is_lost = |line: &&str| line.contains("backing off") && line.contains("bridge=\"known\"");
    let lost: Vec<&str> = log.lines().filter(is_lost).collect();
    assert!(lost.len() == 1 && lost[0].contains(&nobodys), "what is refused costs no connection: {lost:?}");
    told_no_secret(&broker);
}
