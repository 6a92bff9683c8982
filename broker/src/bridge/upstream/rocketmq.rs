//! RocketMQ 5, by the gRPC of its proxy: a message is there when its send receipt says OK.

mod wire;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use hyper::Uri;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::refused::RefusedTopics;
use super::remote::{self, Remote, Stream, because, host_and_port};
use super::{Event, Kind, Outcome, Outgoing, Setup, Topics, Upstream};
use crate::bridge::suspect::Loss;
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("rocketmq", false), ("rocketmqs", true)],
    keys: &["message_key", "tag", "delay_s", "refused_topic"],
    topics: Topics::Names,
    check_url: |url| host_and_port(url, PORT).map(drop),
    open: |setup| Box::new(open(setup)),
};

/// The proxy's, when the address does not say.
const PORT: u16 = 8081;
const CONNECT: Duration = Duration::from_secs(10);
/// A receipt that does not come.
const RECEIPT: Duration = Duration::from_secs(10);
/// Between two pings; a proxy that does not answer one for as long is given up.
const PING: Duration = Duration::from_secs(10);
/// The version of the protocol and of the client that it was made after.
const PROTOCOL: &str = "v2";
const VERSION: &str = "5.0.0";

/// A message on its way.
struct Sent {
    place: u64,
    group: Option<String>,
    /// Err: of the connection.
    outcome: Result<Outcome, Broken>,
}

/// Why the connection is of no use any more.
struct Broken {
    why: String,
    loss: Loss,
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self { why, loss: Loss::Other }
    }
}

fn open(setup: Setup<'_>) -> impl Upstream + 'static {
    let remote = Arc::new(Remote::of(setup));
    Piped::new(setup.bridge.window, move |attempt, pipe| {
        let connection = run(remote.clone(), attempt, pipe);
        Box::pin(async move { connection.await.err().unwrap_or_default() })
    })
}

async fn run(remote: Arc<Remote>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    // A proxy that was away may have to learn again which topics there are.
    remote.refused.forget();
    let proxy = Proxy { channel: connect(&remote, attempt).await?, remote };
    pipe.say(Event::Connected).await;
    let mut groups = Groups::default();
    let mut flights = JoinSet::new();
    loop {
        tokio::select! {
            out = pipe.messages.recv() => {
                let Some(out) = out else { return Ok(()) };
                if let Some(out) = groups.enter(out) {
                    flights.spawn(proxy.clone().send(out));
                }
            }
            Some(sent) = flights.join_next() => {
                let Sent { place, group, outcome } = sent.map_err(|error| error.to_string())?;
                let outcome = match outcome {
                    Ok(outcome) => outcome,
                    Err(Broken { why, loss }) => {
                        if loss == Loss::Ended {
                            pipe.say(Event::Ended).await;
                        }
                        return Err(why);
                    }
                };
                let waits = matches!(outcome, Outcome::Retry(_));
                pipe.settled(place, outcome.clone()).await;
                let Some(group) = group else { continue };
                if waits {
                    // What is behind it in its group must not overtake it.
                    for out in groups.leave(&group) {
                        pipe.settled(out.place, outcome.clone()).await;
                    }
                } else if let Some(next) = groups.next(&group) {
                    flights.spawn(proxy.clone().send(next));
                }
            }
        }
    }
}

/// The proxy answers requests in any order: of a group one message is under way, and the others wait here. At most as many as the
/// window has.
#[derive(Default)]
struct Groups(HashMap<String, VecDeque<Outgoing>>);

impl Groups {
    /// The message, if it may be sent now.
    fn enter(&mut self, out: Outgoing) -> Option<Outgoing> {
        let Some(group) = &out.key else { return Some(out) };
        match self.0.get_mut(group) {
            Some(waiting) => {
                waiting.push_back(out);
                None
            }
            None => {
                self.0.insert(group.clone(), VecDeque::new());
                Some(out)
            }
        }
    }

    /// The next of a group, now that none is under way.
    fn next(&mut self, group: &str) -> Option<Outgoing> {
        let next = self.0.get_mut(group)?.pop_front();
        if next.is_none() {
            self.0.remove(group);
        }
        next
    }

    /// All that waits in a group, now that none is under way.
    fn leave(&mut self, group: &str) -> VecDeque<Outgoing> {
        self.0.remove(group).unwrap_or_default()
    }
}

async fn connect(remote: &Arc<Remote>, attempt: u32) -> Result<Channel, String> {
    let url = remote.address(attempt);
    let (host, port) = host_and_port(url, PORT)?;
    let connector =
        Connector { remote: remote.clone(), host: host.clone(), port, is_encrypted: url.starts_with("rocketmqs:") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| because(&error))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| because(&error))
}

/// What makes the channel's connections.
struct Connector {
    remote: Arc<Remote>,
    host: String,
    port: u16,
    is_encrypted: bool,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (remote, host, port) = (self.remote.clone(), self.host.clone(), self.port);
        let tls: Option<&[&[u8]]> = self.is_encrypted.then_some(&[b"h2"]);
        Box::pin(async move {
            let stream = remote::connect(&remote, (&host, port), tls).await;
            stream.map(TokioIo::new).map_err(std::io::Error::other)
        })
    }
}

#[derive(Clone)]
struct Proxy {
    channel: Channel,
    remote: Arc<Remote>,
}

impl Proxy {
    async fn send(self, out: Outgoing) -> Sent {
        let (place, group) = (out.place, out.key.clone());
        let outcome = match message(&self.remote.marks, &out, SystemTime::now()) {
            Ok(message) => self.request((&out.topic, place), message).await,
            Err(why) => Ok(Outcome::Refused(why, DropReason::Refused)),
        };
        Sent { place, group, outcome }
    }

    async fn request(self, at: (&str, u64), message: wire::Message) -> Result<Outcome, Broken> {
        let mut request = Request::new(wire::Request { messages: vec![message] });
        request.set_timeout(RECEIPT);
        let id = MetadataValue::try_from(self.remote.name.as_str()).map_err(|error| because(&error))?;
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", id);
        metadata.insert("x-mq-language", MetadataValue::from_static("RUST"));
        metadata.insert("x-mq-client-version", MetadataValue::from_static(VERSION));
        metadata.insert("x-mq-protocol-version", MetadataValue::from_static(PROTOCOL));
        let mut client = Grpc::new(self.channel);
        client.ready().await.map_err(|error| because(&error))?;
        let codec = ProstCodec::<wire::Request, wire::Response>::default();
        let answered = client.unary(request, PathAndQuery::from_static(wire::SEND_MESSAGE), codec);
        match tokio::time::timeout(RECEIPT, answered).await {
            Ok(Ok(response)) => Ok(judge(&self.remote.refused, at, response.get_ref())),
            Ok(Err(status)) if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) => {
                Ok(Outcome::Refused(status.message().to_owned(), DropReason::TooLarge))
            }
            Ok(Err(status)) => Err(Broken { why: because(&status), loss: loss(&status) }),
            Err(_) => Err(format!("no receipt in {} s", RECEIPT.as_secs()).into()),
        }
    }
}

/// How the connection was lost, as the error of a request says: a message may be why the proxy has ended it. One that answers no
/// ping, or a network that is away, is a time-out, in the words of the system as well.
fn loss(status: &Status) -> Loss {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            let is_silent = error.is_timeout() || because(error).contains("timed out");
            return if is_silent || error.is_user() { Loss::Other } else { Loss::Ended };
        }
        next = error.source();
    }
    Loss::Other
}

fn message(marks: &Marks, out: &Outgoing, now: SystemTime) -> Result<wire::Message, String> {
    let headers = marks.headers(out);
    let delay =
        out.delay_s.as_ref().map(|text| text.parse().map_err(|_| format!("\"{text}\" is no number of seconds")));
    let delay: Option<u32> = delay.transpose()?;
    let message_type = match (&out.key, delay) {
        (Some(_), _) => wire::FIFO,
        (None, Some(_)) => wire::DELAY,
        (None, None) => wire::NORMAL,
    };
    let id: String = headers.id.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect();
    let standard = [("content-type", headers.content_type), ("response-topic", headers.response_topic)];
    let standard = standard.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    // Control characters are what the server itself puts between properties.
    let clean = |text: String| text.replace(char::is_control, " ");
    let all = headers.all.into_iter().chain(standard);
    let system = wire::SystemProperties {
        tag: out.tag.clone().filter(|tag| !tag.is_empty()),
        keys: vec![id.clone()],
        message_id: id,
        body_encoding: wire::IDENTITY,
        message_type,
        born_timestamp: Some(timestamp(now)),
        born_host: "forebay".to_owned(),
        delivery_timestamp: delay.map(|delay_s| timestamp(now + Duration::from_secs(delay_s.into()))),
        message_group: out.key.clone(),
    };
    Ok(wire::Message {
        topic: Some(wire::Resource { name: out.topic.clone() }),
        user_properties: all.map(|(name, value)| (clean(name), clean(value))).collect(),
        system_properties: Some(system),
        body: out.message.payload().to_vec(),
    })
}

fn timestamp(at: SystemTime) -> wire::Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = i32::try_from(since.subsec_nanos()).unwrap_or_default();
    wire::Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos }
}

/// What a receipt makes of the message to this topic at this place.
fn judge(refused: &RefusedTopics, at: (&str, u64), response: &wire::Response) -> Outcome {
    let entry = response.entries.first().and_then(|receipt| receipt.status.as_ref());
    let Some(status) = entry.or(response.status.as_ref()) else {
        return Outcome::Retry("the proxy answers without a status".to_owned());
    };
    let outcome = outcome(status);
    match outcome {
        Outcome::Refused(why, _) if is_missing(status) => return refused.refused(at, why, Instant::now()),
        Outcome::Delivered => refused.taken(at.0),
        Outcome::Refused(..) | Outcome::Retry(_) | Outcome::Stored | Outcome::Expired => {}
    }
    outcome
}

/// The proxy knows no such topic: it says so, or, before it has asked, that a topic of no type does not take this type. It says the
/// same while its name server does not know yet, or has forgotten, the broker that has the topic.
fn is_missing(status: &wire::Status) -> bool {
    status.code == wire::TOPIC_NOT_FOUND || status.code == wire::OTHER_TYPE && status.message.contains("UNSPECIFIED")
}

/// The class of a receipt's code: see the table in docs/bridges.md.
fn outcome(status: &wire::Status) -> Outcome {
    let why = format!("{} ({})", status.message, status.code);
    match status.code {
        wire::OK => Outcome::Delivered,
        // Too large: its body, its properties.
        41_300..=41_301 | 43_100..=43_101 => Outcome::Refused(why, DropReason::TooLarge),
        // Who may send is changed by an operator, while the messages wait; a time-out, a precondition, too many requests pass.
        40_100..=40_399 | 40_800..=40_899 | 42_800..=42_999 => Outcome::Retry(why),
        40_000..=49_999 => Outcome::Refused(why, DropReason::Refused),
        _ => Outcome::Retry(why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
    use super::super::remote::nowhere;
    use super::*;
    use crate::config::RefusedTopic;
    use crate::message::{Parts, Time};
    use std::future::poll_fn;

    fn answer(code: i32, message: &str) -> wire::Response {
        let status = Some(wire::Status { code, message: message.to_owned() });
        wire::Response { status: None, entries: vec![wire::Receipt { status }] }
    }

    fn of_code(code: i32) -> Outcome {
        judge(&RefusedTopics::new(RefusedTopic::Wait), ("t", 7), &answer(code, "x"))
    }

    #[test]
    fn codes_are_classed() {
        assert_eq!(of_code(20_000), Outcome::Delivered);
        for code in [40_002, 40_004, 40_014, 41_302] {
            assert!(matches!(of_code(code), Outcome::Refused(_, DropReason::Refused)), "{code}");
        }
        assert!(matches!(of_code(41_301), Outcome::Refused(_, DropReason::TooLarge)));
        for code in [40_100, 40_300, 40_800, 42_900, 50_001, 50_401, 0] {
            assert!(matches!(of_code(code), Outcome::Retry(_)), "{code}");
        }
        let none = judge(&RefusedTopics::new(RefusedTopic::Wait), ("t", 7), &wire::Response::default());
        assert!(matches!(none, Outcome::Retry(_)));
    }

    /// A proxy that ends the connection when this comes, or is frozen then. What the bridge says when the connection is over.
    async fn events_of(then: impl Fn(std::net::TcpStream) + Send + 'static) -> Vec<Event> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = std::thread::spawn(move || {
            let (mut stream, mut seen, mut part) = (listener.accept().unwrap().0, Vec::new(), [0; 512]);
            while !seen.windows(6).any(|window| window == b"poison") {
                let length = std::io::Read::read(&mut stream, &mut part).unwrap();
                seen.extend_from_slice(&part[..length]);
            }
            then(stream);
        });
        let mut remote = nowhere(RefusedTopic::Wait);
        remote.urls = vec![format!("rocketmq://127.0.0.1:{port}")];
        let remote = Arc::new(remote);
        let mut upstream = Piped::new(1, move |attempt, pipe| {
            let connection = run(remote.clone(), attempt, pipe);
            Box::pin(async move { connection.await.err().unwrap_or_default() })
        });
        upstream.connect(0);
        let mut out = outgoing("t", b"");
        let parts = Parts {
            topic: "t",
            properties: &[],
            payload: b"poison",
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        out.message = Arc::new(crate::message::Message::new(&parts, None));
        let mut events = vec![poll_fn(|cx| upstream.poll_event(cx)).await];
        upstream.send(out).unwrap();
        while !matches!(events.last(), Some(Event::Lost(_))) {
            events.push(poll_fn(|cx| upstream.poll_event(cx)).await);
        }
        proxy.join().unwrap();
        events
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_proxy_that_ends_the_connection_at_a_message_says_so() {
        let events = events_of(drop).await;
        assert!(matches!(&events[..], [Event::Connected, Event::Ended, Event::Lost(_)]), "{events:?}");
    }

    #[test]
    fn what_is_for_a_topic_that_is_missing_waits() {
        let refused = RefusedTopics::new(RefusedTopic::Wait);
        let judged = |code, message: &str| judge(&refused, ("t", 7), &answer(code, message));
        assert!(matches!(judged(wire::TOPIC_NOT_FOUND, "No topic route info"), Outcome::Retry(_)));
        assert!(matches!(judged(wire::OTHER_TYPE, "the expected type is UNSPECIFIED, but"), Outcome::Retry(_)));
        assert!(matches!(judged(wire::OTHER_TYPE, "the expected type is FIFO, but"), Outcome::Refused(..)));
    }

    #[test]
    fn of_a_group_one_is_under_way() {
        let mut groups = Groups::default();
        let message = |place, key: Option<&str>| Outgoing { place, key: key.map(str::to_owned), ..outgoing("t", &[]) };
        assert!(groups.enter(message(1, Some("a"))).is_some());
        assert!(groups.enter(message(2, Some("a"))).is_none());
        assert!(groups.enter(message(3, Some("b"))).is_some());
        assert!(groups.enter(message(4, None)).is_some());
        assert_eq!(groups.next("a").map(|out| out.place), Some(2));
        assert!(groups.next("a").is_none() && groups.next("b").is_none() && groups.0.is_empty());
        groups.enter(message(5, Some("a")));
        groups.enter(message(6, Some("a")));
        assert_eq!(groups.leave("a").len(), 1);
        assert!(groups.enter(message(7, Some("a"))).is_some());
    }

    #[test]
    fn a_message_has_a_type_keys_and_properties() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let mut out = outgoing("readings", &[]);
        out.delay_s = Some("5".to_owned());
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let system = |out: &Outgoing| message(&marks, out, at).unwrap().system_properties.unwrap();
        let made = system(&out);
        assert_eq!((made.message_type, made.keys), (wire::DELAY, vec!["g.up.3.7".to_owned()]));
        assert_eq!(made.delivery_timestamp.unwrap().seconds, 1_005);
        (out.delay_s, out.key) = (None, Some("k".to_owned()));
        let made = system(&out);
        assert_eq!((made.message_type, made.message_group.as_deref()), (wire::FIFO, Some("k")));
        out.delay_s = Some("soon".to_owned());
        assert!(message(&marks, &out, at).is_err());
    }

    #[test]
    fn a_trace_goes_on() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let (said, trace) = traced();
        let property = |said: &[u8], name: &str| {
            let made = message(&marks, &outgoing("t", said), SystemTime::UNIX_EPOCH).unwrap();
            made.user_properties.get(name).cloned()
        };
        for (name, value) in trace {
            assert_eq!(property(&said, name).as_deref(), Some(value));
            assert_eq!(property(&[], name), None, "none is made up");
        }
    }
}
