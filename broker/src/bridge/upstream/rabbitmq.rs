//! RabbitMQ, by AMQP 0-9-1: publisher confirms, `mandatory`, persistent messages.

mod line;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AMQPUriTcpExt, RustlsConnector};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties, Error, ErrorKind, Event as Happening};
use tokio::time::timeout;

use self::line::Line;
use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::remote::{Remote, is_ended, login_refused, not_allowed};
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
/// Seconds between two heartbeats, when the address does not say; a server that misses two is given up.
const HEARTBEAT_S: u16 = 10;
/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;

async fn run(remote: Arc<Remote>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    // What a server that was away said before is no proof.
    remote.refused.forget();
    let connected = timeout(CONNECT, connect(&remote, attempt)).await;
    let connection = connected.map_err(|_| format!("no answer in {} s", CONNECT.as_secs()))??;
    let mut line = Line::open(&remote, &connection).await.map_err(|error| words(&error))?;
    pipe.say(Event::Connected).await;
    let Err(error) = serve(&connection, &mut line, &mut pipe).await else { return Ok(()) };
    if let Some(at) = line.too_large(&error) {
        pipe.settled(at, Outcome::Refused(words(&error), DropReason::TooLarge)).await;
    } else if is_by_the_server(&error) {
        pipe.say(Event::Ended).await;
    }
    Err(words(&error))
}

async fn connect(remote: &Remote, attempt: u32) -> Result<Connection, String> {
    let mut uri: AMQPUri = remote.address(attempt).parse()?;
    if let Some(name) = &remote.username {
        uri.authority.userinfo.username.clone_from(name);
        uri.authority.userinfo.password = remote.password()?.unwrap_or_default();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    let tls = match uri.scheme {
        AMQPScheme::AMQPS => Some(RustlsConnector::from(remote.tls()?)),
        AMQPScheme::AMQP => None,
    };
    let properties = ConnectionProperties::default().with_connection_name(remote.name.as_str().into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    let connect = Connection::connector(
        uri,
        runtime,
        async move |mut uri, runtime| {
            uri.scheme = AMQPScheme::AMQP;
            let socket = uri.connect_async(&runtime).await?;
            match &tls {
                Some(tls) => Ok(socket.into_rustls(tls, &uri.authority.host).await?),
                None => Ok(socket),
            }
        },
        properties,
    );
    connect.await.map_err(|error| match soft_or_hard(&error) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => login_refused(&words(&error)),
        // Of a virtual host; it says the same of one that is not there.
        Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) => not_allowed(&words(&error)),
        _ => words(&error),
    })
}

async fn serve(connection: &Connection, line: &mut Line<'_>, pipe: &mut Pipe) -> Result<(), Error> {
    let mut happenings = pin!(connection.events_listener());
    loop {
        line.start_trial().await?;
        let settled = tokio::select! {
            out = pipe.messages.recv(), if line.is_free() => match out {
                Some(out) => line.send(out).await?,
                None => return connection.close(200, "".into()).await,
            },
            answer = line.answer() => line.settle(answer).await?,
            happening = poll_fn(|cx| happenings.as_mut().poll_next(cx)) => match happening {
                Some(Happening::ConnectionBlocked(why)) => {
                    pipe.say(Event::Blocked(Some(format!("by the server: {why}")))).await;
                    continue;
                }
                Some(Happening::ConnectionUnblocked) => {
                    pipe.say(Event::Blocked(None)).await;
                    continue;
                }
                // Of a channel: what ended it is said to whoever waits for it.
                Some(Happening::Error(error)) if soft(&error).is_some() => continue,
                Some(Happening::Error(error)) => return Err(error),
                None => return Err(ErrorKind::MissingHeartbeatError.into()),
                Some(_) => continue,
            },
        };
        for (place, outcome) in settled {
            pipe.settled(place, outcome).await;
        }
    }
}

/// What the server says of an error that it has named; what the library says of any other.
fn words(error: &Error) -> String {
    if let ErrorKind::ProtocolError(error) = error.kind() {
        return error.get_message().to_string();
    }
    error.to_string()
}

/// Whether the server has ended the connection by itself, and a message may be why. What it says of itself, or of an operator, is not.
fn is_by_the_server(error: &Error) -> bool {
    if let ErrorKind::IOError(error) = error.kind() {
        return is_ended(error);
    }
    let Some(AMQPErrorKind::Hard(hard)) = soft_or_hard(error) else { return false };
    let is_of_itself = matches!(
        hard,
        AMQPHardError::CONNECTIONFORCED
            | AMQPHardError::INTERNALERROR
            | AMQPHardError::RESOURCEERROR
            | AMQPHardError::NOTALLOWED
    );
    !is_of_itself
}

fn soft_or_hard(error: &Error) -> Option<&AMQPErrorKind> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    Some(error.kind())
}

/// What the server calls an error that ends a channel alone.
fn soft(error: &Error) -> Option<AMQPSoftError> {
    match soft_or_hard(error)? {
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

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
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
    fn a_message_is_not_blamed_for_what_the_server_says_of_itself() {
        let of = |code: AMQPHardError| -> Error {
            ErrorKind::ProtocolError(lapin::protocol::AMQPError::new(AMQPErrorKind::Hard(code), "x".into())).into()
        };
        let io = |kind: std::io::ErrorKind| -> Error { std::io::Error::from(kind).into() };
        assert!(is_by_the_server(&of(AMQPHardError::FRAMEERROR)) && is_by_the_server(&of(AMQPHardError::SYNTAXERROR)));
        assert!(is_by_the_server(&io(std::io::ErrorKind::ConnectionReset)));
        assert!(!is_by_the_server(&of(AMQPHardError::CONNECTIONFORCED)));
        assert!(!is_by_the_server(&of(AMQPHardError::INTERNALERROR)));
        assert!(!is_by_the_server(&io(std::io::ErrorKind::TimedOut)));
        assert!(!is_by_the_server(&ErrorKind::MissingHeartbeatError.into()));
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
    fn a_trace_goes_on() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let (said, trace) = traced();
        let header = |said: &[u8], name: &str| {
            let made = properties(&marks, &outgoing("t/1", said));
            made.headers().as_ref().unwrap().inner().get(name).cloned()
        };
        for (name, value) in trace {
            assert_eq!(header(&said, name), Some(AMQPValue::LongString(value.into())));
            assert_eq!(header(&[], name), None, "none is made up");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    }
}
