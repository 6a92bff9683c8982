//! RabbitMQ, by AMQP 0-9-1: publisher confirms, `mandatory`, persistent messages.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_core::Stream;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Error, ErrorKind, Event as Happening,
    ExchangeKind, PublisherConfirm,
};

use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::refused::RefusedTopics;
use super::remote::Remote;
use super::{Event, Kind, Outcome, Outgoing, Topics, swap_dots};
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("amqp", false), ("amqps", true)],
    keys: &["username", "exchange", "refused_topic"],
    topics: Topics::Levels,
    check_url: |url| url.parse::<AMQPUri>().map(drop),
    open: |setup| Box::new(Piped::to(setup, run).writing(swap_dots)),
};

/// Where messages go when the rule names no exchange.
const EXCHANGE: &str = "amq.topic";
/// Bytes of a routing key and of an exchange's name, by the protocol.
const NAME_MAX: usize = 255;
/// Exchanges that are known to be there; beyond it they are asked for again.
const EXCHANGES_MAX: usize = 1_000;
/// Seconds between two heartbeats, when the address does not say; a server that misses two is given up.
const HEARTBEAT_S: u16 = 10;
/// Milliseconds for a connection to be made.
const CONNECT_MS: u64 = 10_000;
/// How long what ended a channel is asked for.
const CLOSE: Duration = Duration::from_secs(1);
const PERSISTENT: u8 = 2;

/// What is sent and not confirmed.
struct Flight {
    place: u64,
    size: usize,
    confirm: PublisherConfirm,
}

async fn run(remote: Arc<Remote>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    // What a server that was away said before is no proof.
    remote.refused.forget();
    let connection = connect(&remote, attempt).await?;
    let mut flights = VecDeque::new();
    let Err(mut error) = serve(&remote, &connection, &mut pipe, &mut flights).await else { return Ok(()) };
    // What ended the channel is what the first confirmation ends by; the calls behind it only say that it has ended.
    if let Some(first) = flights.front_mut()
        && let Ok(Err(first)) = tokio::time::timeout(CLOSE, &mut first.confirm).await
        // It was not this confirmation that said so already.
        && !matches!(first.kind(), ErrorKind::FutureCompleted)
    {
        error = first;
    }
    if let Some(at) = too_large(&error, &flights) {
        pipe.settled(at, Outcome::Refused(error.to_string(), DropReason::TooLarge)).await;
    }
    Err(error.to_string())
}

async fn connect(remote: &Remote, attempt: u32) -> Result<Connection, String> {
    let mut uri: AMQPUri = remote.address(attempt).parse()?;
    if let Some(name) = &remote.username {
        uri.authority.userinfo.username.clone_from(name);
    }
    if let Some(password) = remote.password()? {
        uri.authority.userinfo.password = password;
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query.connection_timeout.get_or_insert(CONNECT_MS);
    let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
    let identity = match &remote.identity {
        Some(files) => Some(OwnedIdentity::PKCS8 { pem: read(&files.certificate)?, key: read(&files.key)? }),
        None => None,
    };
    let trusted = remote.ca_file.as_ref().map(read).transpose()?;
    let tls = OwnedTLSConfig {
        identity,
        cert_chain: trusted.map(String::from_utf8).transpose().map_err(|_| "`ca_file` is no PEM file".to_owned())?,
    };
    let properties = ConnectionProperties::default().with_connection_name(remote.name.as_str().into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    Connection::connect_uri_with_config(uri, properties, tls, runtime).await.map_err(|error| error.to_string())
}

async fn serve(
    remote: &Remote,
    connection: &Connection,
    pipe: &mut Pipe,
    flights: &mut VecDeque<Flight>,
) -> Result<(), Error> {
    let mut happenings = pin!(connection.events_listener());
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut exchanges = Exchanges { connection, refused: &remote.refused, known: HashSet::new() };
    pipe.say(Event::Connected).await;
    loop {
        tokio::select! {
            out = pipe.messages.recv() => {
                let Some(out) = out else { return connection.close(200, "".into()).await };
                match publish(&remote.marks, &channel, &mut exchanges, &out).await? {
                    Sent::Confirms(confirm) => {
                        let (place, size) = (out.place, out.message.payload().len());
                        flights.push_back(Flight { place, size, confirm: *confirm });
                    }
                    Sent::Not(outcome) => pipe.settled(out.place, outcome).await,
                }
            }
            (place, confirmation) = first(flights) => {
                let outcome = outcome(confirmation?);
                flights.pop_front();
                pipe.settled(place, outcome).await;
            }
            happening = poll_fn(|cx| happenings.as_mut().poll_next(cx)) => match happening {
                Some(Happening::ConnectionBlocked(why)) => pipe.say(Event::Blocked(Some(format!("by the server: {why}")))).await,
                Some(Happening::ConnectionUnblocked) => pipe.say(Event::Blocked(None)).await,
                Some(Happening::Error(error)) => return Err(error),
                None => return Err(ErrorKind::MissingHeartbeatError.into()),
                Some(_) => {}
            },
        }
    }
}

/// What the server says of the message that was sent first.
async fn first(flights: &mut VecDeque<Flight>) -> (u64, lapin::Result<Confirmation>) {
    poll_fn(|cx| match flights.front_mut() {
        Some(flight) => Pin::new(&mut flight.confirm).poll(cx).map(|confirmation| (flight.place, confirmation)),
        None => Poll::Pending,
    })
    .await
}

enum Sent {
    Confirms(Box<PublisherConfirm>),
    Not(Outcome),
}

async fn publish(
    marks: &Marks,
    channel: &Channel,
    exchanges: &mut Exchanges<'_>,
    out: &Outgoing,
) -> Result<Sent, Error> {
    let exchange = out.exchange.as_deref().unwrap_or(EXCHANGE);
    let names = [("routing key", out.topic.as_str()), ("name of the exchange", exchange)];
    if let Some((what, name)) = names.iter().find(|(_, name)| name.len() > NAME_MAX) {
        let why = format!("the {what} has {} bytes; {NAME_MAX} are possible", name.len());
        return Ok(Sent::Not(Outcome::Refused(why, DropReason::Refused)));
    }
    if let Some(outcome) = exchanges.refusal((exchange, out.place)).await? {
        return Ok(Sent::Not(outcome));
    }
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel
        .basic_publish(
            exchange.into(),
            out.topic.as_str().into(),
            mandatory,
            out.message.payload(),
            properties(marks, out),
        )
        .await?;
    Ok(Sent::Confirms(Box::new(confirm)))
}

/// A message to an exchange that is not there ends the channel, with all that is in flight: they are asked for before.
struct Exchanges<'a> {
    connection: &'a Connection,
    refused: &'a RefusedTopics,
    known: HashSet<String>,
}

impl Exchanges<'_> {
    /// What becomes of the message to this exchange at this place; `None`: it can be published.
    async fn refusal(&mut self, (name, place): (&str, u64)) -> Result<Option<Outcome>, Error> {
        // The one without a name is always there.
        if name.is_empty() || self.known.contains(name) {
            return Ok(None);
        }
        if let Some(outcome) = self.refused.known((name, place), Instant::now()) {
            return Ok(Some(outcome));
        }
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let asked = self.connection.create_channel().await?;
        let found = asked.exchange_declare(name.into(), ExchangeKind::Topic, passive, FieldTable::default()).await;
        if let Err(error) = found {
            return match soft(&error) {
                Some(AMQPSoftError::NOTFOUND) => Ok(Some(Outcome::Refused(error.to_string(), DropReason::Refused))),
                // It says the same when it cannot ask who may do what: an LDAP server that is away, say.
                Some(AMQPSoftError::ACCESSREFUSED) => {
                    Ok(Some(self.refused.refused((name, place), error.to_string(), Instant::now())))
                }
                Some(_) | None => Err(error),
            };
        }
        self.refused.taken(name);
        asked.close(200, "".into()).await?;
        if self.known.len() >= EXCHANGES_MAX {
            self.known.clear();
        }
        self.known.insert(name.to_owned());
        Ok(None)
    }
}

/// What the server calls an error that ends a channel alone.
fn soft(error: &Error) -> Option<AMQPSoftError> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    match error.kind() {
        AMQPErrorKind::Soft(soft) => Some(soft.clone()),
        AMQPErrorKind::Hard(_) => None,
    }
}

fn properties(marks: &Marks, out: &Outgoing) -> BasicProperties {
    let headers = marks.headers(out);
    let mut table = FieldTable::default();
    for (name, value) in headers.all {
        table.insert(short(&name), AMQPValue::LongString(LongString::from(value)));
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_headers(table)
        .with_message_id(short(&headers.id));
    if let Some(text) = &headers.content_type {
        properties = properties.with_content_type(short(text));
    }
    if let Some(data) = headers.correlation.and_then(|data| String::from_utf8(data).ok()) {
        properties = properties.with_correlation_id(short(&data));
    }
    if let Some(topic) = &headers.response_topic {
        let mut key = String::new();
        swap_dots(topic, &mut key);
        properties = properties.with_reply_to(short(&key));
    }
    if let Some(left_s) = out.expiry_s {
        properties = properties.with_expiration((u64::from(left_s) * 1_000).to_string().into());
    }
    properties
}

/// As much of a text as the protocol has room for.
fn short(text: &str) -> ShortString {
    let mut end = text.len().min(NAME_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().into()
}

fn outcome(confirmation: Confirmation) -> Outcome {
    match confirmation {
        Confirmation::Ack(None) => Outcome::Delivered,
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Outcome::Refused(format!("returned: {} {}", returned.reply_code, returned.reply_text), DropReason::Refused)
        }
        Confirmation::Nack(None) => Outcome::Retry("a queue does not take it (nack)".to_owned()),
        Confirmation::NotRequested => Outcome::Retry("the server does not confirm".to_owned()),
    }
}

/// The message whose size has ended the channel, if that was the reason. The server says the size, and not which message it was.
fn too_large(error: &Error, flights: &VecDeque<Flight>) -> Option<u64> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    let text = error.get_message().to_string();
    let (_, from) = text.split_once("message size ")?;
    let size: usize = from.split(' ').next()?.parse().ok()?;
    flights.iter().find(|flight| flight.size == size).map(|flight| flight.place)
}

#[cfg(test)]
mod tests {
    use super::super::marks::outgoing;
    use super::*;

    #[test]
    fn topics_and_routing_keys_change_into_each_other() {
        for (topic, key) in [("a/b", "a.b"), ("/a//b/", ".a..b."), ("v1.2/é", "v1/2.é")] {
            let (mut there, mut back) = (String::new(), String::new());
            swap_dots(topic, &mut there);
            swap_dots(&there, &mut back);
            assert_eq!((there.as_str(), back.as_str()), (key, topic));
        }
    }

    #[test]
    fn confirmations_are_classed() {
        assert_eq!(outcome(Confirmation::Ack(None)), Outcome::Delivered);
        assert!(matches!(outcome(Confirmation::Nack(None)), Outcome::Retry(_)));
    }

    #[test]
    fn an_exchange_that_is_not_allowed_is_told_from_one_that_is_missing() {
        let of = |code: AMQPSoftError| -> Error {
            ErrorKind::ProtocolError(lapin::protocol::AMQPError::new(AMQPErrorKind::Soft(code), "x".into())).into()
        };
        assert_eq!(soft(&of(AMQPSoftError::ACCESSREFUSED)), Some(AMQPSoftError::ACCESSREFUSED));
        assert_eq!(soft(&of(AMQPSoftError::NOTFOUND)), Some(AMQPSoftError::NOTFOUND));
        assert_eq!(soft(&ErrorKind::MissingHeartbeatError.into()), None);
    }

    #[test]
    fn a_message_is_persistent_and_named() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let mut out = outgoing("t/1", b"\x03\x00\x01j");
        out.expiry_s = Some(5);
        let properties = properties(&marks, &out);
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "g.up.3.7");
        assert_eq!(properties.expiration().as_ref().unwrap().as_str(), "5000");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "j");
        let headers = properties.headers().as_ref().unwrap();
        assert!(headers.contains_key("seq") && headers.contains_key("origin") && headers.contains_key("epoch"));
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    }
}
