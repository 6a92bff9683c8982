//! A bridge by AMQP 1.0, to ActiveMQ Artemis and Classic.

use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::messaging::{Body, Message as Came, Source};
use fe2o3_amqp::types::primitives::{Array, SimpleValue, Symbol, Value};
use fe2o3_amqp::{Connection, Receiver, Session};
use forebay_client::{Message, Properties, QoS};
use forebay_tests::server::Program;

use crate::upstreams::{
    Arrival, Arrived, Reader, Run, cutting, dead_letter, dead_letters, goes_on_without_what_ends_connections,
    through_everything, yardstick,
};
use crate::{Case, block_on, bridge_to, client, example, gateway, publish, soon, state};

pub(crate) fn trials() -> Vec<Case> {
    let (artemis, classic) = (Program::java_is_absent("artemis"), Program::java_is_absent("activemq"));
    vec![
        ("artemis_gets_what_is_published", artemis.clone(), || block_on(carries(Program::artemis(), true))),
        ("activemq_gets_what_is_published", classic.clone(), || block_on(carries(Program::activemq(), false))),
        ("artemis_over_tls_with_a_client_certificate", artemis.clone(), || block_on(tls())),
        ("artemis_whose_address_is_full_holds_up_what_is_for_it", artemis.clone(), || block_on(full())),
        ("artemis_that_is_frozen_is_given_up", artemis.clone(), || block_on(frozen())),
        ("artemis_through_everything", artemis.clone(), || {
            numbered(Program::artemis(), Arrival::Once, through_everything)
        }),
        ("activemq_through_everything", classic.clone(), || {
            numbered(Program::activemq(), Arrival::AtLeastOnce, through_everything);
        }),
        ("yardstick_to_artemis", artemis, || numbered(Program::artemis(), Arrival::Once, yardstick)),
        ("yardstick_to_activemq", classic, || numbered(Program::activemq(), Arrival::AtLeastOnce, yardstick)),
    ]
}

/// What reads an address.
struct There {
    _connection: ConnectionHandle<()>,
    _session: SessionHandle<()>,
    receiver: Receiver,
}

async fn there(port: u16, address: &str) -> There {
    let connecting = Connection::builder()
        .container_id(format!("reader of {address}"))
        .sasl_profile(SaslProfile::Anonymous)
        .open_with_stream(soon(tokio::net::TcpStream::connect(("127.0.0.1", port))).await.unwrap());
    let mut connection = soon(connecting).await.unwrap();
    let mut session = soon(Session::begin(&mut connection)).await.unwrap();
    let source = Source::builder().address(address).capabilities(Array::from(vec![Symbol::from("queue")])).build();
    let receiver = soon(Receiver::builder().name(address).source(source).attach(&mut session)).await.unwrap();
    There { _connection: connection, _session: session, receiver }
}

async fn next(there: &mut There) -> Option<Came<Body<Value>>> {
    let delivery = there.receiver.recv::<Body<Value>>().await.ok()?;
    there.receiver.accept(&delivery).await.ok()?;
    Some(delivery.into_message())
}

fn header(came: &Came<Body<Value>>, name: &str) -> Option<String> {
    let value = came.application_properties.as_ref()?.get(name)?;
    let SimpleValue::String(text) = value else { panic!("{name} is {value:?}") };
    Some(text.clone())
}

fn payload(came: &Came<Body<Value>>) -> Vec<u8> {
    match &came.body {
        Body::Data(parts) => parts.iter().flat_map(|part| part.0.to_vec()).collect(),
        Body::Empty => Vec::new(),
        other @ (Body::Value(_) | Body::Sequence(_)) => panic!("it is no data: {other:?}"),
    }
}

/// Headers, properties and durability; a message that is refused is a dead letter and stops nobody.
async fn carries(server: Program, refuses: bool) {
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up.{topic}'\nkey = '{topic/2}'";
    let mut broker = gateway(&bridge_to(&format!("amqp1://127.0.0.1:{}", server.port), "", rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    let here = client(broker.port(), "here").await;
    let user = vec![("traceparent".to_owned(), "00-7".to_owned())];
    let properties = Properties { user, content_type: Some("text/plain".to_owned()), ..Properties::default() };
    let message = Message::new("n/k/a.b", "one").qos(QoS::ExactlyOnce).properties(properties);
    soon(soon(here.publish(message)).await.unwrap()).await.unwrap();
    // Nobody has made the address before, and nobody reads it yet.
    let mut queue = there(server.port, "up.n.k.a/b").await;
    let came = soon(next(&mut queue)).await.unwrap();
    assert_eq!(payload(&came), b"one");
    assert!(came.header.as_ref().unwrap().durable);
    let standard = came.properties.as_ref().unwrap();
    assert_eq!((standard.content_type.clone(), standard.group_id.as_deref()), (Some("text/plain".into()), Some("k")));
    assert_eq!(header(&came, "traceparent").as_deref(), Some("00-7"));
    assert_eq!(header(&came, "mqtt-topic").as_deref(), Some("n/k/a.b"));
    let id = ["origin", "epoch", "seq"].map(|name| header(&came, name).expect("a mark")).join(".");
    assert_eq!(standard.message_id, Some(id.clone().into()));
    if refuses {
        let mut letters = dead_letters(broker.port()).await;
        let user = vec![("poison".to_owned(), "1".to_owned())];
        let poison =
            Message::new("n/k/a.b", "x").qos(QoS::AtLeastOnce).properties(Properties { user, ..Properties::default() });
        soon(soon(here.publish(poison)).await.unwrap()).await.unwrap();
        let (dead, why) = dead_letter(&mut letters).await;
        assert!(dead == "$dead/up/n/k/a.b" && why.contains("poison"), "{dead}: {why}");
    }
    publish(&here, "n/k/a.b", "").await;
    publish(&here, "n/k/a.b", &"x".repeat(300_000)).await;
    assert_eq!(payload(&soon(next(&mut queue)).await.unwrap()), b"");
    assert_eq!(payload(&soon(next(&mut queue)).await.unwrap()).len(), 300_000);
    if refuses {
        let url = format!("amqp1://127.0.0.1:{}", cutting(server.port));
        let mut cut = there(server.port, "up.n.cut").await;
        goes_on_without_what_ends_connections(&url, rules, async || payload(&soon(next(&mut cut)).await.unwrap()))
            .await;
    }
    let mut broker = gateway(&example("bridge-artemis.toml", "127.0.0.1:5672", server.port));
    broker.run();
    publish(&client(broker.port(), "here").await, "site/7/temperature", "21").await;
    let mut queue = there(server.port, "gateway.site").await;
    let came = soon(next(&mut queue)).await.unwrap();
    assert_eq!(payload(&came), b"21");
    assert_eq!(came.properties.as_ref().unwrap().group_id.as_deref(), Some("7"));
}

async fn tls() {
    let (server, port) = Program::artemis_with_tls();
    let folder = server.folder().display();
    let files =
        format!("ca_file = '{folder}/ca.pem'\ncertificate = '{folder}/client.pem'\nkey = '{folder}/client.key'");
    let own = format!("ca_file = '{folder}/ca.pem'");
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'all'";
    let [known, unknown] = [files, own].map(|more| bridge_to(&format!("amqp1s://localhost:{port}"), &more, rule));
    let mut broker = gateway(&known);
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    assert_eq!(payload(&soon(next(&mut there(server.port, "all").await)).await.unwrap()), b"x");
    let mut broker = gateway(&unknown);
    broker.run();
    state(broker.port(), "backing off").await;
}

/// An address at its limit takes nothing; what waits comes in order when there is room.
async fn full() {
    let server = Program::artemis();
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'small'";
    let mut broker = gateway(&bridge_to(&format!("amqp1://127.0.0.1:{}", server.port), "window = 1", rules));
    broker.run();
    let here = client(broker.port(), "here").await;
    for n in 0..20 {
        publish(&here, "n/1", &format!("{n:02000}")).await;
    }
    let why = state(broker.port(), "blocked").await;
    assert!(why.contains("not taken for now"), "{why}");
    let mut queue = there(server.port, "small").await;
    for n in 0..20 {
        assert_eq!(payload(&soon(next(&mut queue)).await.unwrap()), format!("{n:02000}").as_bytes());
    }
    assert_eq!(state(broker.port(), "connected").await, "connected");
}

/// A server that stands still is given up, and gets what it has not confirmed when it goes on.
async fn frozen() {
    let mut server = Program::artemis();
    let rules = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'all'";
    let mut broker = gateway(&bridge_to(&format!("amqp1://127.0.0.1:{}", server.port), "", rules));
    broker.run();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    server.freeze();
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    state(broker.port(), "backing off").await;
    server.thaw();
    assert_eq!(state(broker.port(), "connected").await, "connected");
    assert_eq!(payload(&soon(next(&mut there(server.port, "all").await)).await.unwrap()), b"x");
}

fn numbered(mut server: Program, arrival: Arrival, run: Run) {
    let rule = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'all'\nqos = 2";
    let config = bridge_to(&format!("amqp1://127.0.0.1:{}", server.port), "", rule);
    run(&mut server, &config, reader, arrival);
}

fn reader(server: &Program) -> Reader {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut queue = runtime.block_on(there(server.port, "all"));
    Box::new(move |patience: Duration| {
        let came = runtime.block_on(async { tokio::time::timeout(patience, next(&mut queue)).await }).ok()??;
        Some(Arrived::new(&payload(&came), |name| header(&came, name)))
    })
}
