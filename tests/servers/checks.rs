//! What is checked on every server that can do it.

use std::collections::BTreeSet;
use std::time::Duration;

use forebay_client::{Client, Message, Properties, QoS, ReasonCode, Subscribe, Subscription, Version, Will};
use forebay_tests::link::Endpoint;
use forebay_tests::packet;
use forebay_tests::peer::{self, Came, Connect, Peer};
use forebay_tests::server::Program;

use crate::{Server, block_on, options, soon};

async fn connect(program: &Program, version: Version, name: &str) -> Client {
    soon(options(program.port, version, name).connect()).await.unwrap()
}

async fn publish(client: &Client, message: Message) {
    soon(soon(client.publish(message)).await.unwrap()).await.unwrap();
}

async fn text(messages: &mut Subscription) -> String {
    String::from_utf8(soon(messages.recv()).await.expect("the client has ended").payload().to_vec()).unwrap()
}

/// Nothing more comes.
async fn is_quiet(messages: &mut Subscription) {
    let more = tokio::time::timeout(Duration::from_millis(500), messages.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

/// Messages at each QoS, in order.
pub(crate) fn exchange(server: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let (subscriber, publisher) = (connect(program, version, "sub").await, connect(program, version, "pub").await);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            if qos > server.qos {
                continue;
            }
            let topic = format!("exchange/{}", qos as u8);
            let mut messages = soon(subscriber.subscribe(Subscribe::to(topic.as_str()).qos(qos))).await.unwrap();
            let mut tickets = Vec::new();
            for n in 0..200 {
                let message = Message::new(topic.as_str(), n.to_string()).qos(qos);
                tickets.push(soon(publisher.publish(message)).await.unwrap());
            }
            for ticket in tickets {
                soon(ticket).await.unwrap();
            }
            for n in 0..200 {
                let received = soon(messages.recv()).await.unwrap();
                assert_eq!((received.payload(), received.qos()), (n.to_string().as_bytes(), qos), "{}", server.name);
            }
            soon(messages.unsubscribe()).await;
        }
        soon(publisher.disconnect()).await;
        soon(subscriber.disconnect()).await;
    });
}

pub(crate) fn retained(_: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let client = connect(program, version, "ret").await;
        let topic = format!("retained/{}", version.level());
        publish(&client, Message::new(topic.as_str(), "kept").qos(QoS::AtLeastOnce).retain(true)).await;
        let mut messages = soon(client.subscribe(Subscribe::to(topic.as_str()).qos(QoS::AtLeastOnce))).await.unwrap();
        let received = soon(messages.recv()).await.unwrap();
        assert_eq!((received.topic(), received.payload(), received.retain()), (topic.as_str(), &b"kept"[..], true));
        publish(&client, Message::new(topic.as_str(), "").qos(QoS::AtLeastOnce).retain(true)).await;
        soon(client.disconnect()).await;
    });
}

pub(crate) fn will(_: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let watcher = connect(program, version, "watch").await;
        let mut messages = soon(watcher.subscribe(Subscribe::to("will").qos(QoS::AtLeastOnce))).await.unwrap();
        let with_will = || {
            let will = Will::new(Message::new("will", "gone").qos(QoS::AtLeastOnce));
            soon(options(program.port, version, "dying").will(will).connect())
        };
        soon(with_will().await.unwrap().disconnect()).await;
        is_quiet(&mut messages).await;
        soon(with_will().await.unwrap().disconnect_with(ReasonCode::DisconnectWithWill)).await;
        assert_eq!(text(&mut messages).await, "gone");
        soon(watcher.disconnect()).await;
    });
}

/// The server ends and comes back while messages are on the way; what it has acknowledged arrives.
pub(crate) fn resumed(server: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let hour = Duration::from_secs(3600);
        let qos = server.qos;
        let subscriber = soon(options(program.port, version, "ressub").session_expiry(hour).connect()).await.unwrap();
        let mut messages = soon(subscriber.subscribe(Subscribe::to("resumed").qos(qos))).await.unwrap();
        let publisher = soon(options(program.port, version, "respub").session_expiry(hour).connect()).await.unwrap();
        let mut tickets = Vec::new();
        for n in 0..600 {
            let message = Message::new("resumed", n.to_string()).qos(qos);
            tickets.push(soon(publisher.publish(message)).await.unwrap());
            if n == 300 {
                soon(tickets.remove(0)).await.unwrap();
                if server.outlives_a_kill {
                    program.kill()
                } else {
                    program.terminate()
                }
                program.run();
            }
        }
        for ticket in tickets {
            soon(ticket).await.unwrap();
        }
        let mut seen = BTreeSet::new();
        while seen.len() < 600 {
            let n: u32 = text(&mut messages).await.parse().unwrap();
            let new = seen.insert(n);
            assert!(new || qos != QoS::ExactlyOnce, "{n} came twice from {}", server.name);
            assert!(!new || seen.last() == Some(&n) || !server.resumes_in_order, "{n} of {} came late", server.name);
        }
        assert!(publisher.stats().connections > 1 && subscriber.stats().connections > 1);
        soon(publisher.disconnect()).await;
        soon(subscriber.disconnect()).await;
    });
}

/// A program without a file ends with QoS 2 messages half way, and comes back: none of the next run is taken for one of
/// those, though they are the same to the byte.
pub(crate) fn inherited(server: &Server, program: &mut Program, version: Version) {
    const LEFT: u16 = 3;
    let name = format!("heir{}", version.level());
    let of_raw = if version.is_v5() { packet::Version::V5 } else { packet::Version::V4 };
    let (mut earlier, _) = Peer::open(&Endpoint::tcp(program.port), &Connect::kept(of_raw, &name));
    for id in 1..=LEFT {
        earlier.send(&peer::publish(of_raw, 2, id, "inherited", &[], b"on"));
        assert!(matches!(earlier.answer(), Came::Ack(packet::Ack::Pubrec, ..)));
    }
    drop(earlier);
    block_on(async {
        let watcher = connect(program, version, "watch").await;
        let mut messages = soon(watcher.subscribe(Subscribe::to("inherited").qos(QoS::ExactlyOnce))).await.unwrap();
        let hour = Duration::from_secs(3600);
        let client = soon(options(program.port, version, "heir").session_expiry(hour).connect()).await.unwrap();
        for _ in 0..100 {
            publish(&client, Message::new("inherited", "on").qos(QoS::ExactlyOnce)).await;
        }
        // A server may publish on PUBREC's side or on PUBREL's [MQTT5-4.3.3]: what was left has been published before, or is now.
        let mut came = 0;
        while let Ok(received) = tokio::time::timeout(Duration::from_secs(1), messages.recv()).await {
            assert_eq!(received.unwrap().payload(), b"on");
            came += 1;
        }
        assert!(came == 100 || came == 100 + u64::from(LEFT), "{came} of 100 from {}", server.name);
        soon(client.disconnect()).await;
        soon(watcher.disconnect()).await;
    });
}

pub(crate) fn shared(_: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let (one, two) = (connect(program, version, "one").await, connect(program, version, "two").await);
        let filter = || Subscribe::to("$share/group/shared/+").qos(QoS::AtLeastOnce);
        let (mut of_one, mut of_two) =
            (soon(one.subscribe(filter())).await.unwrap(), soon(two.subscribe(filter())).await.unwrap());
        let publisher = connect(program, version, "pub").await;
        for n in 0..100 {
            publish(&publisher, Message::new(format!("shared/{n}"), n.to_string()).qos(QoS::AtLeastOnce)).await;
        }
        let (mut seen, mut first) = (BTreeSet::new(), 0);
        while seen.len() < 100 {
            let received = tokio::select! {
                received = soon(of_one.recv()) => { first += 1; received }
                received = soon(of_two.recv()) => received,
            };
            assert!(seen.insert(received.unwrap().topic().to_owned()), "both got it");
        }
        assert!((1..100).contains(&first), "one got {first} of 100");
        for client in [one, two, publisher] {
            soon(client.disconnect()).await;
        }
    });
}

pub(crate) fn no_local(_: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let (one, two) = (connect(program, version, "one").await, connect(program, version, "two").await);
        let mut messages = soon(one.subscribe(Subscribe::to("local").no_local())).await.unwrap();
        publish(&one, Message::new("local", "own").qos(QoS::AtLeastOnce)).await;
        publish(&two, Message::new("local", "other").qos(QoS::AtLeastOnce)).await;
        assert_eq!(text(&mut messages).await, "other");
        is_quiet(&mut messages).await;
        soon(one.disconnect()).await;
        soon(two.disconnect()).await;
    });
}

pub(crate) fn request(_: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let (asker, answerer) = (connect(program, version, "one").await, connect(program, version, "two").await);
        let mut questions = soon(answerer.subscribe("question")).await.unwrap();
        let mut answers = soon(asker.subscribe("answer/here")).await.unwrap();
        let properties = Properties {
            response_topic: Some("answer/here".to_owned()),
            correlation_data: Some("42".into()),
            content_type: Some("text/plain".to_owned()),
            payload_is_utf8: true,
            user: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())],
        };
        let question = Message::new("question", "é?").qos(QoS::AtLeastOnce).properties(properties.clone());
        publish(&asker, question.expires_after(Duration::from_secs(100))).await;
        let question = soon(questions.recv()).await.unwrap();
        assert_eq!(question.properties(), properties);
        assert!(question.expiry_s().is_some_and(|s| (98..=100).contains(&s)), "{:?}", question.expiry_s());
        let back = Properties { correlation_data: Some("42".into()), ..Properties::default() };
        publish(&answerer, Message::new("answer/here", "!").qos(QoS::AtLeastOnce).properties(back)).await;
        let answer = soon(answers.recv()).await.unwrap();
        assert_eq!((answer.correlation_data(), answer.payload()), (Some(&b"42"[..]), &b"!"[..]));
        soon(asker.disconnect()).await;
        soon(answerer.disconnect()).await;
    });
}

/// Two subscriptions to the same message get it once each, however many copies the server sends.
pub(crate) fn overlapping(server: &Server, program: &mut Program, version: Version) {
    block_on(async {
        let client = connect(program, version, "over").await;
        let mut wide = soon(client.subscribe(Subscribe::to("over/#").qos(QoS::AtLeastOnce))).await.unwrap();
        let mut narrow = soon(client.subscribe(Subscribe::to("over/it").qos(QoS::AtLeastOnce))).await.unwrap();
        publish(&client, Message::new("over/it", "x").qos(QoS::AtLeastOnce)).await;
        assert_eq!(
            (text(&mut wide).await, text(&mut narrow).await),
            ("x".to_owned(), "x".to_owned()),
            "{}",
            server.name
        );
        is_quiet(&mut wide).await;
        is_quiet(&mut narrow).await;
        soon(client.disconnect()).await;
    });
}
