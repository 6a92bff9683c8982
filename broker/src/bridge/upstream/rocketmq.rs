//! RocketMQ 5, by the gRPC of its proxy: a message is there when its send receipt says OK.

mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use hyper::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::remote::{self, Remote, Stream, because, host_and_port};
use super::{Event, Kind, Outcome, Outgoing, Setup, Topics, Upstream};
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("rocketmq", false), ("rocketmqs", true)],
    keys: &["message_key", "tag", "delay_s"],
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
/// How long a topic must be missing before that is believed: the brokers of a cluster that starts are known to it later than it
/// answers.
const MISSING: Duration = Duration::from_secs(30);
/// Topics that are remembered; beyond it all are forgotten.
const TOPICS_MAX: usize = 1_000;
/// The version of the protocol and of the client that it was made after.
const PROTOCOL: &str = "v2";
const VERSION: &str = "5.0.0";

/// A message on its way.
struct Sent {
    place: u64,
    group: Option<String>,
    /// Err: of the connection.
    outcome: Result<Outcome, String>,
}

fn open(setup: Setup<'_>) -> impl Upstream + 'static {
    let remote = Arc::new(Remote::of(setup));
    let seen: Arc<Mutex<Seen>> = Arc::default();
    Piped::new(setup.bridge.window, move |attempt, pipe| {
        let connection = run(remote.clone(), seen.clone(), attempt, pipe);
        Box::pin(async move { connection.await.err().unwrap_or_default() })
    })
}

/// What is known of topics, through all connections.
#[derive(Default)]
struct Seen {
    /// A message was taken: when they are missing later, their broker is away.
    there: HashSet<String>,
    /// Since when nobody knows them.
    missing: HashMap<String, Instant>,
}

impl Seen {
    fn is_there(&mut self, topic: &str) {
        self.missing.remove(topic);
        if !self.there.contains(topic) {
            if self.there.len() >= TOPICS_MAX {
                self.there.clear();
            }
            self.there.insert(topic.to_owned());
        }
    }

    /// What becomes of a message to a topic that is missing.
    fn is_missing(&mut self, topic: &str, why: String, now: Instant) -> Outcome {
        if self.there.contains(topic) {
            return Outcome::Retry(why);
        }
        if self.missing.len() >= TOPICS_MAX && !self.missing.contains_key(topic) {
            self.missing.clear();
        }
        let since = *self.missing.entry(topic.to_owned()).or_insert(now);
        if now.saturating_duration_since(since) < MISSING {
            return Outcome::Retry(why);
        }
        Outcome::Refused(why, DropReason::Refused)
    }
}

async fn run(remote: Arc<Remote>, seen: Arc<Mutex<Seen>>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    let proxy = Proxy { channel: connect(&remote, attempt).await?, remote, seen };
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
                let outcome = outcome?;
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
    seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    async fn send(self, out: Outgoing) -> Sent {
        let (place, group) = (out.place, out.key.clone());
        let outcome = match message(&self.remote.marks, &out, SystemTime::now()) {
            Ok(message) => self.request(&out.topic, message).await,
            Err(why) => Ok(Outcome::Refused(why, DropReason::Refused)),
        };
        Sent { place, group, outcome }
    }

    async fn request(self, topic: &str, message: wire::Message) -> Result<Outcome, String> {
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
            Ok(Ok(response)) => Ok(judge(&self.seen, topic, response.get_ref())),
            Ok(Err(status)) if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) => {
                Ok(Outcome::Refused(status.message().to_owned(), DropReason::TooLarge))
            }
            Ok(Err(status)) => Err(because(&status)),
            Err(_) => Err(format!("no receipt in {} s", RECEIPT.as_secs())),
        }
    }
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

/// What a receipt makes of a message to this topic.
fn judge(seen: &Mutex<Seen>, topic: &str, response: &wire::Response) -> Outcome {
    let entry = response.entries.first().and_then(|receipt| receipt.status.as_ref());
    let Some(status) = entry.or(response.status.as_ref()) else {
        return Outcome::Retry("the proxy answers without a status".to_owned());
    };
    let outcome = outcome(status);
    if outcome == Outcome::Delivered {
        seen.lock().is_there(topic);
    }
    if let Outcome::Refused(why, _) = &outcome
        && is_missing(status)
    {
        return seen.lock().is_missing(topic, why.clone(), Instant::now());
    }
    outcome
}

/// The proxy knows no such topic: it says so, or, before it has asked, that a topic of no type does not take this type.
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
    use super::super::marks::outgoing;
    use super::*;

    fn of_code(code: i32) -> Outcome {
        let status = Some(wire::Status { code, message: "x".to_owned() });
        judge(&Mutex::default(), "t", &wire::Response { status: None, entries: vec![wire::Receipt { status }] })
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
        assert!(matches!(judge(&Mutex::default(), "t", &wire::Response::default()), Outcome::Retry(_)));
    }

    #[test]
    fn a_topic_is_missing_when_it_stays_so() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        let missing = |seen: &mut Seen, topic: &str, after| seen.is_missing(topic, String::new(), begun + after);
        assert!(matches!(missing(&mut seen, "t", Duration::ZERO), Outcome::Retry(_)));
        assert!(matches!(missing(&mut seen, "t", MISSING), Outcome::Refused(..)));
        seen.is_there("u");
        assert!(matches!(missing(&mut seen, "u", Duration::ZERO), Outcome::Retry(_)));
        assert!(matches!(missing(&mut seen, "u", MISSING * 100), Outcome::Retry(_)), "its broker is away");
        let status = |message: &str| wire::Status { code: wire::OTHER_TYPE, message: message.to_owned() };
        assert!(
            is_missing(&status("the expected type is UNSPECIFIED, but"))
                && !is_missing(&status("the expected type is FIFO, but"))
        );
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
}
