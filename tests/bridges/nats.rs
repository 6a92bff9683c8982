//! A bridge to NATS JetStream.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config as Pull, Stream as Messages};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{self, Context, Message as Delivery};
use forebay_client::{Message, QoS};
use forebay_tests::absence::of_program;
use forebay_tests::server::Program;
use futures_core::Stream;

use crate::upstreams::{Arrival, Arrived, Reader, Run, dead_letter, dead_letters, through_everything, yardstick};
use crate::{Case, block_on, bridge_to, client, example, gateway, publish, soon, state};

pub(crate) fn trials() -> Vec<Case> {
    let absent = of_program("nats-server");
    vec![
        ("nats_gets_what_is_published", absent.clone(), || block_on(carries())),
        ("nats_stream_that_is_full_is_waited_for", absent.clone(), || block_on(full())),
        ("nats_through_everything", absent.clone(), || numbered(through_everything)),
        ("yardstick_to_nats", absent, || numbered(yardstick)),
    ]
}

async fn context(port: u16) -> Context {
    jetstream::new(soon(async_nats::connect(format!("127.0.0.1:{port}"))).await.unwrap())
}

async fn stream(context: &Context, more: Config) -> Messages {
    let config = Config { name: "ALL".to_owned(), subjects: vec!["up.>".to_owned()], ..more };
    soon(context.get_or_create_stream(config)).await.unwrap();
    messages(context).await
}

/// What the stream `ALL` has, and what comes.
pub(crate) async fn messages(context: &Context) -> Messages {
    let stream = soon(context.get_stream("ALL")).await.unwrap();
    let consumer = soon(stream.create_consumer(Pull::default())).await.unwrap();
    soon(consumer.messages()).await.unwrap()
}

pub(crate) async fn next(messages: &mut Messages) -> Option<Delivery> {
    let delivery = poll_fn(|cx| Pin::new(&mut *messages).poll_next(cx)).await?.ok()?;
    delivery.ack().await.ok()?;
    Some(delivery)
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    Some(delivery.headers.as_ref()?.get(name)?.as_str().to_owned())
}

fn config(port: u16) -> String {
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up.{topic}'\nqos = 2\n\
                 [[bridges.out]]\nfilter = 'lost/#'\ntopic = 'nobody.{topic}'";
    bridge_to(&format!("nats://127.0.0.1:{port}"), "", rules)
}

/// Headers and subjects; what no stream has, or is too large, is a dead letter and stops nobody.
async fn carries() {
    let server = Program::jetstream();
    let context = context(server.port).await;
    let mut messages = stream(&context, Config { max_message_size: 4_000, ..Config::default() }).await;
    let mut broker = gateway(&config(server.port));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let here = client(broker.port(), "here").await;
    let mut letters = dead_letters(broker.port()).await;
    let message = Message::new("n//a.b/", "one").qos(QoS::ExactlyOnce);
    soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
    let came = soon(next(&mut messages)).await.unwrap();
    assert_eq!((came.subject.as_str(), &came.payload[..]), ("up.n./.a//b./", &b"one"[..]));
    let [origin, epoch, seq] = ["origin", "epoch", "seq"].map(|name| header(&came, name).expect("a mark"));
    assert_eq!(header(&came, "Nats-Msg-Id"), Some(format!("{origin}.{epoch}.{seq}")));
    for (topic, payload, reason) in [
        ("lost/1", "x", "no stream has the subject nobody.lost.1"),
        ("n/2", &"x".repeat(4_001), "message size exceeds maximum allowed"),
        ("n/3", &"x".repeat(300_000), "payload"),
        ("n/a b", "x", "subject"),
    ] {
        publish(&here, topic, payload).await;
        let (dead, why) = dead_letter(&mut letters).await;
        assert!(dead == format!("$dead/up/{topic}") && why.contains(reason), "{dead}: {why}");
    }
    publish(&here, "n/4", "two").await;
    assert_eq!(&soon(next(&mut messages)).await.unwrap().payload[..], b"two");
    let more = Config { name: "SITE".to_owned(), subjects: vec!["gateway.>".to_owned()], ..Config::default() };
    let stream = soon(context.get_or_create_stream(more)).await.unwrap();
    let mut broker = gateway(&example("bridge-nats.toml", "127.0.0.1:4222", server.port));
    broker.run();
    publish(&client(broker.port(), "here").await, "site/7/temperature", "21").await;
    let consumer = soon(stream.create_consumer(Pull::default())).await.unwrap();
    let came = soon(next(&mut soon(consumer.messages()).await.unwrap())).await.unwrap();
    assert_eq!((came.subject.as_str(), &came.payload[..]), ("gateway.site.7.temperature", &b"21"[..]));
}

/// A stream at its limit takes nothing; what waits comes in order when there is room.
async fn full() {
    let server = Program::jetstream();
    let context = context(server.port).await;
    // What is acknowledged makes room.
    let (retention, discard) = (RetentionPolicy::WorkQueue, DiscardPolicy::New);
    let limits = Config { max_messages: 2, discard, retention, ..Config::default() };
    let mut messages = stream(&context, limits).await;
    let mut broker = gateway(&config(server.port));
    broker.run();
    let here = client(broker.port(), "here").await;
    for n in 0..6 {
        publish(&here, "n/1", &n.to_string()).await;
    }
    let why = state(broker.port(), "blocked").await;
    assert!(why.contains("not taken for now") && why.contains("maximum messages"), "{why}");
    for n in 0..6 {
        let came = soon(next(&mut messages)).await.unwrap();
        assert_eq!(&came.payload[..], n.to_string().as_bytes());
    }
    assert_eq!(state(broker.port(), "connected").await, "connected");
}

fn numbered(run: Run) {
    let mut server = Program::jetstream();
    // The stream itself drops what it knows: what is repeated does not arrive twice within its window of two minutes.
    block_on(async { drop(stream(&context(server.port).await, Config::default()).await) });
    let config = config(server.port);
    run(&mut server, &config, reader, Arrival::Once);
}

fn reader(server: &Program) -> Reader {
    let port = server.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut messages = runtime.block_on(async { stream(&context(port).await, Config::default()).await });
    Box::new(move |patience: Duration| {
        let came = runtime.block_on(async { tokio::time::timeout(patience, next(&mut messages)).await }).ok()??;
        Some(Arrived::new(&came.payload, |name| header(&came, name)))
    })
}
