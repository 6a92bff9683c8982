//! Kafka. At least once: an idempotent producer, `acks=all`. Exactly once: transactions.

mod transactions;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use krafka::auth::{AuthConfig, TlsConfig};
use krafka::error::{ErrorCode, KrafkaError};
use krafka::producer::{Acks, DeliveryHandle, Producer, ProducerBuilder, RecordMetadata};

use krafka::{Compression as Codec, Kafka, Record};

use super::marks::Marks;
use super::piped::{Connection, Pipe, Piped};
use super::remote::{Remote, is_ended, login_refused, not_allowed};
use super::{Event, Kind, Outcome, Outgoing, Setup, Topics, Upstream};
use crate::config::{Compression, Sasl};
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("kafka", false), ("kafkas", true)],
    keys: &[
        "username",
        "compression",
        "message_key",
        "partition",
        "exactly-once",
        "sasl",
        "progress_topic",
        "refused_topic",
    ],
    topics: Topics::Names,
    check_url: |url| host(url).map(drop),
    open: |setup| Box::new(open(setup)),
};

const CONNECT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(10);
/// The client sends a record again for this long; then the connection is given up, and the bridge repeats.
const DELIVERY: Duration = Duration::from_secs(60);
/// How long records wait for others to go with them.
const LINGER: Duration = Duration::from_millis(5);
/// How the client ends its words about a record that it could not deliver, when the server has ended the last connection.
const LAST_ENDED: &str = "last error: network error: connection closed";
/// How long a topic that nobody knows is asked for.
const TOPIC: Duration = Duration::from_secs(5);

struct Options {
    remote: Remote,
    servers: String,
    sasl: Sasl,
    tls: bool,
    compression: Codec,
    exactly_once: bool,
    progress_topic: String,
}

fn open(setup: Setup<'_>) -> impl Upstream + 'static {
    let bridge = setup.bridge;
    let hosts: Vec<&str> = bridge.urls.iter().filter_map(|url| host(url).ok()).collect();
    let options = Arc::new(Options {
        remote: Remote::of(setup),
        servers: hosts.join(","),
        sasl: bridge.sasl,
        tls: bridge.urls.first().is_some_and(|url| url.starts_with("kafkas:")),
        compression: match bridge.compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
        },
        exactly_once: bridge.exactly_once,
        progress_topic: bridge.progress_topic.clone(),
    });
    Piped::new(bridge.window, move |_, pipe| -> Connection {
        let options = options.clone();
        Box::pin(async move { run(&options, pipe).await.err().unwrap_or_default() })
    })
}

async fn run(options: &Options, pipe: Pipe) -> Result<(), String> {
    // What a cluster that is away said before is no proof of what it knows when it is back.
    let kafka = connect(options).await.inspect_err(|_| options.remote.refused.forget())?;
    match options.exactly_once {
        true => transactions::run(options, &kafka, pipe).await,
        false => idempotent(options, &kafka, pipe).await,
    }
}

/// `host:port` of an address; the cluster's other servers are learnt from it.
fn host(url: &str) -> Result<&str, String> {
    let host = url.split_once("://").map_or("", |(_, host)| host.trim_end_matches('/'));
    let port =
        host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if host.contains(['/', '?', '@', ',']) || port.is_none() {
        return Err(format!("\"{url}\" is not kafka://HOST:PORT; several servers are several `urls`"));
    }
    Ok(host)
}

async fn connect(options: &Options) -> Result<Kafka, String> {
    let mut how = match (&options.remote.username, options.remote.password()?) {
        (Some(name), password) => {
            let password = password.unwrap_or_default();
            match options.sasl {
                Sasl::Plain => AuthConfig::sasl_plain(name, password),
                Sasl::ScramSha256 => AuthConfig::sasl_scram_sha256(name, password),
                Sasl::ScramSha512 => AuthConfig::sasl_scram_sha512(name, password),
            }
        }
        (None, _) => AuthConfig::plaintext(),
    };
    if options.tls {
        let mut tls = TlsConfig::new();
        if let Some(file) = &options.remote.ca_file {
            tls = tls.with_ca_cert(file.display().to_string());
        }
        if let Some(files) = &options.remote.identity {
            tls = tls.with_client_cert(files.certificate.display().to_string(), files.key.display().to_string());
        }
        how = match options.remote.username {
            Some(_) => how.with_tls(tls),
            None => AuthConfig::ssl(tls),
        };
    }
    let kafka = Kafka::builder(options.servers.as_str())
        .client_id(options.remote.name.as_str())
        .security(how)
        .connect_timeout(CONNECT)
        .request_timeout(REQUEST)
        .allow_auto_create_topics(false);
    kafka.connect().await.map_err(|error| reason(&options.remote, &error))
}

fn producer(options: &Options, kafka: &Kafka) -> ProducerBuilder {
    kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .compression(options.compression)
        .linger(LINGER)
        .delivery_timeout(DELIVERY)
        .max_block(TOPIC)
}

async fn idempotent(options: &Options, kafka: &Kafka, mut pipe: Pipe) -> Result<(), String> {
    let producer = producer(options, kafka).build().await.map_err(|error| reason(&options.remote, &error))?;
    pipe.say(Event::Connected).await;
    let mut flights: VecDeque<Flight> = VecDeque::new();
    loop {
        tokio::select! {
            out = pipe.messages.recv() => {
                let Some(out) = out else { return Ok(()) };
                match enqueue(options, &producer, &out).await? {
                    Ok(delivery) => flights.push_back(Flight { place: out.place, topic: out.topic, delivery }),
                    Err(refused) => pipe.settled(out.place, refused).await,
                }
            }
            delivered = first(&mut flights) => {
                let Some(Flight { place, topic, .. }) = flights.pop_front() else { continue };
                let outcome = match delivered {
                    Ok(_) => {
                        options.remote.refused.taken(&topic);
                        Outcome::Delivered
                    }
                    Err(error) => match in_flight(&options.remote, (&topic, place), &error) {
                        Ok(outcome) => outcome,
                        Err(why) => {
                            say_if_ended(&pipe, &error).await;
                            return Err(why);
                        }
                    },
                };
                pipe.settled(place, outcome).await;
            }
        }
    }
}

/// Says so, if the server has ended the connection on which something was sent.
async fn say_if_ended(pipe: &Pipe, error: &KrafkaError) {
    if is_by_the_server(error) {
        pipe.say(Event::Ended).await;
    }
}

/// Whether the server has ended the connection by itself, and a message may be why. The client has sent it again for [`DELIVERY`] then,
/// and says of that only what came last; a server that was silent, or could not be reached in the end, is none that ends connections.
fn is_by_the_server(error: &KrafkaError) -> bool {
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever comes new is tried again until it is looked at")]
    match error {
        KrafkaError::Network(error) => is_ended(error),
        KrafkaError::DeliveryTimeout { possibly_written: true, message } => message.ends_with(LAST_ENDED),
        _ => false,
    }
}

/// What is sent and not acknowledged.
struct Flight {
    place: u64,
    topic: String,
    delivery: DeliveryHandle,
}

async fn first(flights: &mut VecDeque<Flight>) -> krafka::Result<RecordMetadata> {
    poll_fn(|cx| match flights.front_mut() {
        Some(flight) => Pin::new(&mut flight.delivery).poll(cx),
        None => Poll::Pending,
    })
    .await
}

/// Err: of the connection. The inner one: what becomes of a message that cannot be sent.
async fn enqueue(
    options: &Options,
    producer: &Producer,
    out: &Outgoing,
) -> Result<Result<DeliveryHandle, Outcome>, String> {
    let record = match record(&options.remote.marks, out) {
        Ok(record) => record,
        Err(why) => return Ok(Err(Outcome::Refused(why, DropReason::Refused))),
    };
    let (refused, at) = (&options.remote.refused, (out.topic.as_str(), out.place));
    if let Some(known) = refused.known(at, Instant::now()) {
        return Ok(Err(known));
    }
    match producer.enqueue(record).await {
        Ok(handle) => Ok(Ok(handle)),
        Err(error) => refusal(&options.remote, at, &error).map(Err).ok_or_else(|| reason(&options.remote, &error)),
    }
}

/// What an error makes of a message that is in flight. Err: of the connection. Messages behind it may have been taken, so that one
/// that waits has to be sent again with all of them.
fn in_flight(remote: &Remote, at: (&str, u64), error: &KrafkaError) -> Result<Outcome, String> {
    let final_one = |outcome: &Outcome| !matches!(outcome, Outcome::Retry(_));
    refusal(remote, at, error).filter(final_one).ok_or_else(|| reason(remote, error))
}

/// What an error makes of the message to this topic at this place; `None`: it can pass, or is of more than this message. The table is in
/// docs/bridges.md.
fn refusal(remote: &Remote, at: (&str, u64), error: &KrafkaError) -> Option<Outcome> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever comes new is tried again until it is looked at")]
    let why = match error {
        // A server that is starting says so before it knows the cluster's topics and permissions.
        KrafkaError::UnknownTopic { .. } | KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. } => {
            return Some(remote.refused.refused(at, error.to_string(), Instant::now()));
        }
        KrafkaError::Broker { code: code @ ErrorCode::TopicAuthorizationFailed, .. } => {
            let why = not_allowed(&format!("to write to the topic {} ({code:?})", at.0));
            return Some(remote.refused.refused(at, why, Instant::now()));
        }
        KrafkaError::Broker { code, .. } => match code {
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => DropReason::TooLarge,
            ErrorCode::InvalidTopic | ErrorCode::InvalidRecord => DropReason::Refused,
            _ => return None,
        },
        KrafkaError::Config { .. } | KrafkaError::Serialization { .. } => DropReason::Refused,
        _ => return None,
    };
    Some(Outcome::Refused(error.to_string(), why))
}

/// Why there is no connection, or no way for a message: what is refused is named, where the client names only the error.
fn reason(remote: &Remote, error: &KrafkaError) -> String {
    if let KrafkaError::Auth { message, .. } = error
        && !message.contains("TLS")
    {
        return login_refused(message);
    }
    let KrafkaError::Broker { code, .. } = error else { return error.to_string() };
    #[allow(clippy::wildcard_enum_match_arm, reason = "an error that needs no more words")]
    match code {
        ErrorCode::ClusterAuthorizationFailed => {
            not_allowed(&format!("there is no topic that it may write to ({code:?})"))
        }
        ErrorCode::TransactionalIdAuthorizationFailed => {
            not_allowed(&format!("to write by the transactional id {} ({code:?})", remote.name))
        }
        ErrorCode::GroupAuthorizationFailed => {
            not_allowed(&format!("to read by the consumer group {} ({code:?})", group(remote)))
        }
        ErrorCode::TopicAuthorizationFailed => not_allowed(&error.to_string()),
        _ => error.to_string(),
    }
}

/// The consumer group whose offset is the bridge's progress.
fn group(remote: &Remote) -> String {
    format!("{}-{}", remote.name, remote.marks.epoch)
}

fn record(marks: &Marks, out: &Outgoing) -> Result<Record, String> {
    let payload = Bytes::copy_from_slice(out.message.payload());
    // The removal of a retained message is what compaction calls a tombstone.
    let mut record = match &out.key {
        Some(key) if out.retain && payload.is_empty() => Record::tombstone(out.topic.as_str(), key.clone()),
        Some(key) => Record::new(out.topic.as_str(), payload).key(key.clone()),
        None => Record::new(out.topic.as_str(), payload),
    };
    if let Some(text) = &out.partition {
        let partition = text.parse().ok().filter(|n: &i32| *n >= 0);
        record = record.partition(partition.ok_or_else(|| format!("\"{text}\" is not the number of a partition"))?);
    }
    let headers = marks.headers(out);
    let standard = [("content-type", headers.content_type), ("response-topic", headers.response_topic)];
    let standard = standard.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    for (name, value) in headers.all.into_iter().chain(standard) {
        record = record.header(name, value);
    }
    if let Some(data) = headers.correlation {
        record = record.header("correlation-data", data);
    }
    record.validate().map_err(|error| error.to_string())?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
    use super::super::remote::nowhere;
    use super::*;
    use crate::config::RefusedTopic;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(host("kafka://a.example:9092"), Ok("a.example:9092"));
        for wrong in ["kafka://a.example", "kafka://:9092", "kafka://a:9,b:9", "kafka://a:9092/topic", "kafka://"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_are_classed() {
        let remote = nowhere(RefusedTopic::Wait);
        let of = |code| KrafkaError::Broker { code, message: String::new() };
        let broker = |code| refusal(&remote, ("t", 7), &of(code));
        assert!(matches!(broker(ErrorCode::MessageTooLarge), Some(Outcome::Refused(_, DropReason::TooLarge))));
        assert!(matches!(broker(ErrorCode::InvalidTopic), Some(Outcome::Refused(_, DropReason::Refused))));
        for code in [ErrorCode::UnknownTopicOrPartition, ErrorCode::TopicAuthorizationFailed] {
            assert!(matches!(broker(code), Some(Outcome::Retry(_))), "a server that starts says {code:?}");
            assert!(in_flight(&remote, ("t", 7), &of(code)).is_err(), "it is sent again with what is behind it");
        }
        let unknown = KrafkaError::UnknownTopic { topic: "t".to_owned() };
        assert!(matches!(refusal(&remote, ("t", 7), &unknown), Some(Outcome::Retry(_))));
        assert_eq!(broker(ErrorCode::NotLeaderForPartition), None);
        assert_eq!(refusal(&remote, ("t", 7), &KrafkaError::Timeout { operation: String::new() }), None);
    }

    #[test]
    fn a_server_that_ends_connections_is_told_from_one_that_is_silent_or_away() {
        let delivery = |is_written, last: &str| {
            let words = format!("not acknowledged within delivery_timeout after 9 attempt(s); last error: {last}");
            KrafkaError::delivery_timeout(is_written, words)
        };
        let closed =
            KrafkaError::network(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection closed"));
        assert!(is_by_the_server(&closed));
        assert!(is_by_the_server(&delivery(true, &closed.to_string())), "these are the client's words: {closed}");
        let silent =
            "network error: connection closed: request 7 timed out after 10s, and responses behind it cannot arrive";
        for error in [delivery(true, silent), delivery(true, "network error: connection refused")] {
            assert!(!is_by_the_server(&error), "{error}");
        }
        assert!(!is_by_the_server(&delivery(false, &closed.to_string())), "nothing was sent");
        assert!(!is_by_the_server(&KrafkaError::timeout("a request")));
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let remote = nowhere(RefusedTopic::Wait);
        let of = |code| reason(&remote, &KrafkaError::Broker { code, message: String::new() });
        assert!(of(ErrorCode::ClusterAuthorizationFailed).starts_with("not allowed: there is no topic"));
        assert!(of(ErrorCode::GroupAuthorizationFailed).contains("consumer group forebay-g-up-3 "));
        assert!(of(ErrorCode::TransactionalIdAuthorizationFailed).contains("transactional id forebay-g-up "));
        let why = refusal(
            &remote,
            ("t", 7),
            &KrafkaError::Broker { code: ErrorCode::TopicAuthorizationFailed, message: String::new() },
        );
        assert_eq!(why, Some(Outcome::Retry("not allowed: to write to the topic t (TopicAuthorizationFailed)".into())));
    }

    #[test]
    fn a_message_is_a_record() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let mut out = outgoing("readings", &[]);
        (out.key, out.partition) = (Some("k".to_owned()), Some("2".to_owned()));
        let made = record(&marks, &out).unwrap();
        assert_eq!((made.key_str(), made.partition, made.value_str()), (Some("k"), Some(2), Some("x")));
        assert!(made.headers.iter().any(|(name, value)| name == "seq" && value.as_deref() == Some(b"7")));
        out.partition = Some("-1".to_owned());
        assert!(record(&marks, &out).is_err());
    }

    #[test]
    fn a_trace_goes_on() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let (said, trace) = traced();
        let header = |said: &[u8], wanted: &str| {
            let made = record(&marks, &outgoing("readings", said)).unwrap();
            made.headers.iter().find(|(name, _)| *name == wanted).and_then(|(_, value)| value.clone())
        };
        for (name, value) in trace {
            assert_eq!(header(&said, name).as_deref(), Some(value.as_bytes()));
            assert_eq!(header(&[], name), None, "none is made up");
        }
    }
}
