//! NATS JetStream: a message is there when the stream's leader has acknowledged it, and is known by its `Nats-Msg-Id` for as long
//! as the stream's duplicate window.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event as Happening, ServerError};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::marks::Headers;
use super::piped::{Pipe, Piped};
use super::remote::{Remote, because, login_refused, not_allowed};
use super::{Event, Kind, Outcome, Outgoing, Topics};
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("nats", false), ("tls", true)],
    keys: &["username", "token", "credentials_file", "refused_topic"],
    topics: Topics::Levels,
    check_url: |url| url.parse::<async_nats::ServerAddr>().map(drop).map_err(|error| error.to_string()),
    open: |setup| Box::new(Piped::to(setup, run).writing(write)),
};

const CONNECT: Duration = Duration::from_secs(10);
/// A server that is silent for two of these is given up.
const PING: Duration = Duration::from_secs(10);
/// An ack that does not come: a leader's death alone takes ten seconds.
const ACK: Duration = Duration::from_secs(20);
/// Things that happened to the connection and were not looked at yet; a window of messages may not be allowed.
const HAPPENINGS: usize = 1_024;
/// Bytes of a subject: with the reply's and the lengths it is one line, and at one of more than 4,096 bytes (`max_control_line`)
/// the server ends the connection.
const SUBJECT_MAX: usize = 3_900;
/// How the server begins when this side may not do something.
const VIOLATION: &str = "Permissions Violation";
/// The same, of a publication; its subject follows, in quotes.
const VIOLATION_OF_PUBLISH: &str = "Permissions Violation for Publish to ";
/// How the subjects begin at which answers are waited for.
const INBOX: &str = "\"_INBOX.";

/// A topic as a subject, as nats-server's own MQTT has it, so that its MQTT clients see the topic that it was: `/` is `.`, an
/// empty level is `/`, and `.` is `//`.
fn write(value: &str, subject: &mut String) {
    let start = subject.len();
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if subject.len() == start || subject.ends_with('.') => subject.push_str("/."),
            '/' if matches!(rest.peek(), None | Some('/')) => subject.push_str("./"),
            '/' => subject.push('.'),
            '.' => subject.push_str("//"),
            other => subject.push(other),
        }
    }
}

type Acked = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

/// What is sent and not acknowledged.
struct Flight {
    place: u64,
    subject: String,
    ack: Acked,
}

async fn run(remote: Arc<Remote>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    // What a server that was away said before is no proof.
    remote.refused.forget();
    let (happened, mut happenings) = mpsc::channel(HAPPENINGS);
    let context = connect(&remote, attempt, (happened, &mut happenings)).await?;
    pipe.say(Event::Connected).await;
    let mut flights: VecDeque<Flight> = VecDeque::new();
    loop {
        tokio::select! {
            out = pipe.messages.recv() => {
                let Some(out) = out else { return Ok(()) };
                if out.topic.len() > SUBJECT_MAX {
                    let why = format!("the subject has {} bytes, and a server takes {SUBJECT_MAX}", out.topic.len());
                    pipe.settled(out.place, Outcome::Refused(why, DropReason::TooLarge)).await;
                    continue;
                }
                if let Some(known) = remote.refused.known((&out.topic, out.place), Instant::now()) {
                    pipe.settled(out.place, known).await;
                    continue;
                }
                match publish(&remote, &context, &out).await {
                    Ok(ack) => {
                        let ack: Acked = Box::pin(ack.into_future());
                        flights.push_back(Flight { place: out.place, subject: out.topic, ack });
                    }
                    Err(error) => pipe.settled(out.place, judge(&context, &out.topic, error).await?).await,
                }
            }
            acked = first(&mut flights) => {
                let Some(flight) = flights.pop_front() else { continue };
                let outcome = match acked {
                    Ok(_) => {
                        remote.refused.taken(&flight.subject);
                        Outcome::Delivered
                    }
                    Err(error) => {
                        if error.kind() == PublishErrorKind::BrokenPipe {
                            pipe.say(Event::Ended).await;
                        }
                        judge(&context, &flight.subject, error).await?
                    }
                };
                pipe.settled(flight.place, outcome).await;
            }
            happening = happenings.recv() => {
                let happening = happening.unwrap_or_else(|| Happened::Ended("the connection is closed".to_owned()));
                if matches!(happening, Happened::Ended(_)) && !flights.is_empty() {
                    pipe.say(Event::Ended).await;
                }
                let (place, outcome) = happening.settles(&remote, &mut flights)?;
                pipe.settled(place, outcome).await;
            }
        }
    }
}

/// Something that the server said, or that became of the connection.
enum Happened {
    /// This side may not do something; the server's words.
    NotAllowed(String),
    /// The connection is of no more use, for this reason.
    Lost(String),
    /// The server has ended the connection: a message may be why.
    Ended(String),
}

impl Happened {
    fn of(event: Happening) -> Option<Self> {
        let lost = |why: &str| Some(Self::Lost(why.to_owned()));
        match event {
            Happening::Disconnected => Some(Self::Ended("the connection is lost".to_owned())),
            Happening::Closed => Some(Self::Ended("the connection is closed".to_owned())),
            Happening::LameDuckMode => lost("the server is about to end"),
            Happening::ServerError(ServerError::Other(words)) if words.starts_with(VIOLATION) => {
                // The inbox of a connection has a name of its own each time.
                let words = words.split_once(INBOX).map_or(words.clone(), |(before, _)| format!("{before}{INBOX}>\""));
                Some(Self::NotAllowed(words))
            }
            Happening::ServerError(ServerError::Other(words)) if is_of_a_message(&words) => {
                Some(Self::Ended(format!("the server says: {words}")))
            }
            Happening::ServerError(error) => Some(Self::Lost(format!("the server says: {error}"))),
            Happening::ClientError(error) => Some(Self::Lost(error.to_string())),
            Happening::Connected | Happening::Draining | Happening::SlowConsumer(_) => None,
        }
    }

    /// What it makes of a message in flight. Err: of the connection. A message that is not allowed gets no ack; the first of those to
    /// its subject is the one that is meant.
    fn settles(self, remote: &Remote, flights: &mut VecDeque<Flight>) -> Result<(u64, Outcome), String> {
        let words = match self {
            Self::Lost(why) | Self::Ended(why) => return Err(why),
            Self::NotAllowed(words) => words,
        };
        let subject = words.split_once(VIOLATION_OF_PUBLISH).map(|(_, subject)| subject.trim_matches('"'));
        let at = subject.and_then(|subject| flights.iter().position(|flight| flight.subject == subject));
        let flight = at.and_then(|at| flights.remove(at)).ok_or_else(|| not_allowed(&words))?;
        let at = (flight.subject.as_str(), flight.place);
        Ok((flight.place, remote.refused.refused(at, not_allowed(&words), Instant::now())))
    }

    fn why(self) -> String {
        match self {
            Self::Lost(why) | Self::Ended(why) => why,
            Self::NotAllowed(words) => not_allowed(&words),
        }
    }
}

/// Whether the server ends the connection with these words because of what was sent on it.
fn is_of_a_message(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["maximum control line", "maximum payload", "parser error", "protocol operation", "message header"]
        .into_iter()
        .any(|of_message| words.contains(of_message))
}

async fn connect(
    remote: &Remote,
    attempt: u32,
    (happened, happenings): (mpsc::Sender<Happened>, &mut mpsc::Receiver<Happened>),
) -> Result<Context, String> {
    let how = options(remote)?.event_callback(move |event| {
        let happened = happened.clone();
        async move {
            if let Some(what) = Happened::of(event) {
                let _ = happened.try_send(what);
            }
        }
    });
    let client = how.connect(remote.address(attempt)).await.map_err(|error| why_not(&error))?;
    let context = ContextBuilder::new().timeout(ACK).max_ack_inflight(remote.window.max(1) * 2).build(client);
    // Somebody answers who has JetStream. What else older servers say differs from newer ones'.
    let answer: Result<serde_json::Value, _> = tokio::select! {
        answer = context.request("INFO", &()) => answer,
        Some(what) = happenings.recv() => return Err(what.why()),
    };
    let answer = answer.map_err(|error| format!("JetStream does not answer: {}", because(&error)))?;
    match answer.pointer("/error/description") {
        Some(why) => Err(format!("JetStream: {why}")),
        None => Ok(context),
    }
}

fn why_not(error: &ConnectError) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "an error that needs no more words")]
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => login_refused(&error.kind().to_string()),
        ConnectErrorKind::Authentication => login_refused(&because(error)),
        _ => because(error),
    }
}

fn options(remote: &Remote) -> Result<ConnectOptions, String> {
    let mut how = ConnectOptions::new()
        .name(&remote.name)
        .connection_timeout(CONNECT)
        .ping_interval(PING)
        // The bridge connects again by itself, and knows by then what is to be repeated.
        .max_reconnects(1)
        .ignore_discovered_servers();
    if remote.ca_file.is_some() || remote.identity.is_some() {
        // The client says less of a file that does not hold what it should.
        remote.tls()?;
    }
    if let Some(file) = &remote.ca_file {
        how = how.add_root_certificates(file.clone());
    }
    if let Some(files) = &remote.identity {
        how = how.add_client_certificate(files.certificate.clone(), files.key.clone());
    }
    if let Some(file) = &remote.credentials_file {
        let text = |error: std::io::Error| format!("{}: {error}", file.display());
        let credentials = std::fs::read_to_string(file).map_err(text)?;
        return how.credentials(&credentials).map_err(text);
    }
    Ok(match (&remote.username, remote.password()?) {
        (Some(name), password) => how.user_and_password(name.clone(), password.unwrap_or_default()),
        (None, Some(token)) => how.token(token),
        (None, None) => how,
    })
}

async fn publish(remote: &Remote, context: &Context, out: &Outgoing) -> Result<PublishAckFuture, PublishError> {
    let headers = remote.marks.headers(out);
    let payload = Bytes::copy_from_slice(out.message.payload());
    let message = PublishMessage::build().payload(payload).headers(encode(&headers)).message_id(&headers.id);
    context.send_publish(out.topic.clone(), message).await
}

fn encode(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    let standard = [("content-type", &headers.content_type), ("response-topic", &headers.response_topic)];
    let standard = standard.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let all = headers.all.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in all.chain(standard) {
        // What would end a line is a space.
        let clean = |text: &str| text.replace(['\r', '\n'], " ");
        let name = clean(name).replace([':', ' '], "_");
        let Ok(name) = name.parse::<HeaderName>() else { continue };
        let Ok(value) = clean(value).parse::<HeaderValue>() else { continue };
        map.append(name, value);
    }
    map
}

async fn first(flights: &mut VecDeque<Flight>) -> Result<PublishAck, PublishError> {
    poll_fn(|cx| match flights.front_mut() {
        Some(flight) => flight.ack.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await
}

/// What an error makes of a message. Err: of the connection.
async fn judge(context: &Context, subject: &str, error: PublishError) -> Result<Outcome, String> {
    match error.kind() {
        PublishErrorKind::StreamNotFound => Ok(nobody(context, subject).await),
        PublishErrorKind::MaxPayloadExceeded => Ok(Outcome::Refused(because(&error), DropReason::TooLarge)),
        PublishErrorKind::MaxAckPending => Ok(Outcome::Retry(because(&error))),
        // It may have arrived. What is repeated is known by its identifier.
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Err(because(&error)),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            Ok(said(&error))
        }
    }
}

/// Nobody answers for the subject. It is final when JetStream says so: a stream that has no leader now, or a server that is
/// starting, is there again later.
async fn nobody(context: &Context, subject: &str) -> Outcome {
    let why = format!("no stream has the subject {subject}");
    match context.stream_by_subject(subject).await {
        Err(error) if error.kind() == jetstream::context::GetStreamByNameErrorKind::NotFound => {
            Outcome::Refused(why, DropReason::Refused)
        }
        _ => Outcome::Retry(why),
    }
}

/// What the stream itself says: see the table in docs/bridges.md.
fn said(error: &PublishError) -> Outcome {
    let reason = because(error);
    let source = std::error::Error::source(error);
    if let Some(from_stream) = source.and_then(|source| source.downcast_ref::<jetstream::Error>()) {
        return match from_stream.error_code() {
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
                Outcome::Refused(reason, DropReason::TooLarge)
            }
            ErrorCode::BAD_REQUEST | ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_SEALED => {
                Outcome::Refused(reason, DropReason::Refused)
            }
            _ => Outcome::Retry(reason),
        };
    }
    // A subject that is none.
    match source {
        Some(source) if source.to_string().contains("subject") => Outcome::Refused(reason, DropReason::Refused),
        _ => Outcome::Retry(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
    use super::super::remote::nowhere;
    use super::*;
    use crate::config::RefusedTopic;

    #[test]
    fn topics_become_subjects_as_the_server_has_them() {
        for (topic, subject) in [
            ("a/b", "a.b"),
            ("/a", "/.a"),
            ("a/", "a./"),
            ("a//b", "a./.b"),
            ("a///b", "a././.b"),
            ("v1.2/x", "v1//2.x"),
            ("/", "/."),
        ] {
            let mut written = "up.".to_owned();
            let start = written.len();
            write(topic, &mut written);
            assert_eq!(written.get(start..), Some(subject), "{topic}");
        }
    }

    #[test]
    fn headers_are_lines() {
        let headers = Headers {
            all: vec![("a b".to_owned(), "x\r\ny: z".to_owned()), ("seq".to_owned(), "7".to_owned())],
            content_type: Some("j".to_owned()),
            ..Headers::default()
        };
        let map = encode(&headers);
        let get = |name: &str| map.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(get("a_b").as_deref(), Some("x  y: z"));
        assert_eq!((get("seq").as_deref(), get("content-type").as_deref()), (Some("7"), Some("j")));
    }

    #[test]
    fn a_trace_goes_on() {
        let marks = nowhere(RefusedTopic::Wait).marks;
        let (said, trace) = traced();
        let header = |said: &[u8], name: &str| {
            let map = encode(&marks.headers(&outgoing("t", said)));
            map.get(name).map(|value| value.as_str().to_owned())
        };
        for (name, value) in trace {
            assert_eq!(header(&said, name).as_deref(), Some(value));
            assert_eq!(header(&[], name), None, "none is made up");
        }
    }

    #[test]
    fn what_the_client_says_is_classed() {
        let error = PublishError::with_source(PublishErrorKind::Other, std::io::Error::other("invalid subject"));
        assert!(matches!(said(&error), Outcome::Refused(..)));
        let error = PublishError::new(PublishErrorKind::Other);
        assert!(matches!(said(&error), Outcome::Retry(_)));
    }

    #[test]
    fn who_may_not_publish_is_told_from_who_has_lost_the_server() {
        let words = |said: &str| Happened::of(Happening::ServerError(ServerError::Other(said.to_owned())));
        let remote = nowhere(RefusedTopic::Wait);
        let flight =
            |place, subject: &str| Flight { place, subject: subject.to_owned(), ack: Box::pin(std::future::pending()) };
        let mut flights = VecDeque::from([flight(1, "a"), flight(2, "b"), flight(3, "b")]);
        let violation = "Permissions Violation for Publish to \"b\"";
        let outcome = words(violation).unwrap().settles(&remote, &mut flights);
        assert_eq!(outcome, Ok((2, Outcome::Retry(format!("not allowed: {violation}")))));
        assert_eq!(flights.iter().map(|flight| flight.place).collect::<Vec<_>>(), [1, 3]);
        let inbox = words("Permissions Violation for Subscription to \"_INBOX.x7.*\"").unwrap();
        assert_eq!(inbox.why(), "not allowed: Permissions Violation for Subscription to \"_INBOX.>\"");
        let other = words("Permissions Violation for Publish to \"$JS.API.STREAM.NAMES\"").unwrap();
        assert!(other.settles(&remote, &mut flights).is_err(), "it is of the connection");
        assert!(matches!(words("Stale Connection"), Some(Happened::Lost(_))));
        assert!(matches!(words("Maximum Control Line Exceeded"), Some(Happened::Ended(_))));
    }
}
