//! A bridge to RabbitMQ.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use forebay_client::{Message, Properties, QoS};
use forebay_tests::broker::free_port;
use forebay_tests::scratch::Scratch;
use forebay_tests::server::{Program, make_certificates};
use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};

use crate::upstreams::{
    Arrival, Arrived, Reader, Run, cutting, dead_letter, dead_letters, goes_on_without_what_ends_connections,
    through_everything, yardstick,
};
use crate::{Case, block_on, bridge_to, client, example, gateway, publish, soon, state};

pub(crate) fn trials() -> Vec<Case> {
    let absent = Program::rabbitmq_is_absent();
    vec![
        ("rabbitmq_gets_what_is_published", absent.clone(), || block_on(carries())),
        ("rabbitmq_over_tls_with_a_client_certificate", absent.clone(), || block_on(tls())),
        ("rabbitmq_that_is_low_on_memory_is_left_alone", absent.clone(), || block_on(blocked())),
        ("rabbitmq_through_everything", absent.clone(), || numbered(through_everything)),
        ("yardstick_to_rabbitmq", absent, || numbered(yardstick)),
    ]
}

/// A connection to the server, and what reads the queue `all`: declared so, bound to `up.#`.
pub(crate) struct There {
    _connection: Connection,
    pub(crate) channel: Channel,
    pub(crate) queue: Consumer,
}

impl There {
    /// What has this key at this exchange comes to the queue, too.
    pub(crate) async fn bind(&self, exchange: &str, key: &str) {
        let (none, bind) = (FieldTable::default(), QueueBindOptions::default());
        self.channel.queue_bind("all".into(), exchange.into(), key.into(), bind, none).await.unwrap();
    }
}

pub(crate) async fn there(port: u16, kind: &str) -> There {
    let url = format!("amqp://127.0.0.1:{port}");
    let connection = soon(Connection::connect(&url, ConnectionProperties::default())).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    declare(&channel, kind, FieldTable::default()).await;
    let (none, options) = (FieldTable::default(), BasicConsumeOptions::default());
    let queue = channel.basic_consume("all".into(), "reader".into(), options, none).await.unwrap();
    There { _connection: connection, channel, queue }
}

async fn declare(channel: &Channel, kind: &str, mut arguments: FieldTable) {
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from(kind)));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("all".into(), durable, arguments).await.unwrap();
    let none = FieldTable::default();
    channel
        .queue_bind("all".into(), "amq.topic".into(), "up.#".into(), QueueBindOptions::default(), none)
        .await
        .unwrap();
}

pub(crate) async fn next(queue: &mut Consumer) -> Option<Delivery> {
    let delivery = poll_fn(|cx| Pin::new(&mut *queue).poll_next(cx)).await?.ok()?;
    delivery.ack(BasicAckOptions::default()).await.ok()?;
    Some(delivery)
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let value = delivery.properties.headers().as_ref()?.inner().get(name)?.clone();
    let AMQPValue::LongString(text) = value else { panic!("{name} is {value:?}") };
    Some(text.to_string())
}

fn rule(topic: &str) -> String {
    format!("[[bridges.out]]\nfilter = 'n/#'\ntopic = '{topic}'")
}

/// Headers, routing keys, exchanges; what is returned, has no exchange or is too large is a dead letter and stops nobody.
async fn carries() {
    let server = Program::rabbitmq_amqp("max_message_size = 5000\n");
    let mut there = there(server.port, "quorum").await;
    let exchange = |name: &str| {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        there.channel.exchange_declare(name.into(), ExchangeKind::Topic, durable, FieldTable::default())
    };
    exchange("other").await.unwrap();
    there.bind("other", "#").await;
    let rules = format!(
        "{}\n[[bridges.out]]\nfilter = 'to/#'\nexchange = '{{topic/2}}'\ntopic = '{{topic/3..}}'\n\
         [[bridges.out]]\nfilter = 'lost/#'\ntopic = 'nobody'\n\
         [[bridges.out]]\nfilter = 'queue/#'\nexchange = ''\ntopic = '{{topic/2}}'",
        rule("up.{topic}")
    );
    let mut broker = gateway(&bridge_to(&format!("amqp://127.0.0.1:{}", server.port), "", &rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let here = client(broker.port(), "here").await;
    let mut letters = dead_letters(broker.port()).await;
    let user = vec![("traceparent".to_owned(), "00-7".to_owned())];
    let properties = Properties { user, content_type: Some("text/plain".to_owned()), ..Properties::default() };
    let message = Message::new("n/1/a.b", "one").qos(QoS::ExactlyOnce).properties(properties);
    soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
    let came = soon(next(&mut there.queue)).await.unwrap();
    assert_eq!((came.routing_key.as_str(), came.data.as_slice()), ("up.n.1.a/b", &b"one"[..]));
    assert_eq!(*came.properties.delivery_mode(), Some(2));
    assert_eq!(came.properties.content_type().as_ref().unwrap().as_str(), "text/plain");
    assert_eq!(header(&came, "traceparent").as_deref(), Some("00-7"));
    assert_eq!(header(&came, "mqtt-topic").as_deref(), Some("n/1/a.b"));
    let [origin, epoch, seq] = ["origin", "epoch", "seq"].map(|name| header(&came, name).expect("a mark"));
    assert!(origin.ends_with(".up"), "{origin}");
    assert_eq!(came.properties.message_id().as_ref().unwrap().as_str(), format!("{origin}.{epoch}.{seq}"));
    for (topic, payload, reason) in [
        ("lost/1", "x", "returned: 312 NO_ROUTE"),
        ("to/nowhere/1", "x", "no exchange 'nowhere'"),
        ("n/2", &"x".repeat(5_001), "message size 5001"),
    ] {
        publish(&here, topic, payload).await;
        let (dead, why) = dead_letter(&mut letters).await;
        assert!(dead == format!("$dead/up/{topic}") && why.contains(reason), "{dead}: {why}");
    }
    publish(&here, "to/other/key", "two").await;
    let came = soon(next(&mut there.queue)).await.unwrap();
    let went = (came.exchange.as_str(), came.routing_key.as_str(), came.data.as_slice());
    assert_eq!(went, ("other", "key", &b"two"[..]));
    publish(&here, "queue/all", "three").await;
    let came = soon(next(&mut there.queue)).await.unwrap();
    assert_eq!((came.exchange.as_str(), came.data.as_slice()), ("", &b"three"[..]));
    let url = format!("amqp://127.0.0.1:{}", cutting(server.port));
    let queue = &mut there.queue;
    goes_on_without_what_ends_connections(&url, &rule("up.{topic}"), async || soon(next(queue)).await.unwrap().data)
        .await;
    let mut broker = gateway(&example("bridge-rabbitmq.toml", "127.0.0.1:5672", server.port));
    broker.run();
    let here = client(broker.port(), "here").await;
    there.bind("amq.topic", "#").await;
    publish(&here, "site/7/temperature", "21").await;
    let came = soon(next(&mut there.queue)).await.unwrap();
    assert_eq!((came.routing_key.as_str(), came.data.as_slice()), ("gateway.site.7.temperature", &b"21"[..]));
}

async fn tls() {
    let (scratch, port) = (Scratch::new("bridges"), free_port());
    make_certificates(scratch.path());
    let folder = scratch.path().display();
    let text = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nlisteners.tcp.1 = 127.0.0.1:{}\nssl_options.cacertfile = {folder}/ca.pem\n\
         ssl_options.certfile = {folder}/server.pem\nssl_options.keyfile = {folder}/server.key\n\
         ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        free_port()
    );
    let plain = text.split("listeners.tcp.1 = 127.0.0.1:").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let files =
        format!("ca_file = '{folder}/ca.pem'\ncertificate = '{folder}/client.pem'\nkey = '{folder}/client.key'");
    let own = format!("ca_file = '{folder}/ca.pem'");
    let [known, unknown] =
        [files, own].map(|more| bridge_to(&format!("amqps://localhost:{port}"), &more, &rule("up.{topic}")));
    let _server = Program::rabbitmq_with(Scratch::new("servers"), port, &text, "[].\n");
    let mut there = there(plain, "classic").await;
    let mut broker = gateway(&known);
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    assert_eq!(soon(next(&mut there.queue)).await.unwrap().routing_key.as_str(), "up.n.1");
    let mut broker = gateway(&unknown);
    broker.run();
    state(broker.port(), "backing off").await;
}

/// A server that asks for a pause gets one, and says so.
async fn blocked() {
    let server = Program::rabbitmq_amqp("");
    let mut there = there(server.port, "classic").await;
    let mut broker = gateway(&bridge_to(&format!("amqp://127.0.0.1:{}", server.port), "", &rule("up.{topic}")));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    server.rabbitmqctl(&["set_vm_memory_high_watermark", "0"]);
    let here = client(broker.port(), "here").await;
    publish(&here, "n/1", "one").await;
    let why = state(broker.port(), "blocked").await;
    assert!(why.starts_with("blocked: by the server:") && why.contains("memory"), "{why}");
    publish(&here, "n/2", "two").await;
    server.rabbitmqctl(&["set_vm_memory_high_watermark", "0.9"]);
    assert_eq!(state(broker.port(), "connected").await, "connected");
    for payload in ["one", "two"] {
        assert_eq!(soon(next(&mut there.queue)).await.unwrap().data, payload.as_bytes());
    }
}

fn numbered(run: Run) {
    let mut server = Program::rabbitmq_amqp("");
    block_on(async {
        let url = format!("amqp://127.0.0.1:{}", server.port);
        let connection = soon(Connection::connect(&url, ConnectionProperties::default())).await.unwrap();
        declare(&connection.create_channel().await.unwrap(), "classic", FieldTable::default()).await;
    });
    let url = format!("amqp://127.0.0.1:{}", server.port);
    let config = bridge_to(&url, "", &format!("{}\nqos = 2", rule("up.{topic}")));
    run(&mut server, &config, reader, Arrival::AtLeastOnce);
}

fn reader(server: &Program) -> Reader {
    let port = server.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut there = runtime.block_on(there(port, "classic"));
    Box::new(move |patience: Duration| {
        let came = runtime.block_on(async { tokio::time::timeout(patience, next(&mut there.queue)).await }).ok()??;
        Some(Arrived::new(&came.data, |name| header(&came, name)))
    })
}
