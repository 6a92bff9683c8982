//! AMQP 1.0: ActiveMQ Artemis and Classic, and others. A message is there when its disposition says `accepted`.

mod link;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::connection::{ConnectionHandle, Error as ConnectionError};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{Error as SessionError, SessionHandle};
use fe2o3_amqp::transport::Error as TransportError;
use fe2o3_amqp::types::definitions::{AmqpError, ConnectionError as Closing, Error, ErrorCondition, LinkError};
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Data, Header, Message, Outcome as Disposition, Priority, Properties,
};
use fe2o3_amqp::types::primitives::{Binary, Symbol};
use fe2o3_amqp::{Connection, Session};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::link::Links;
use super::marks::Marks;
use super::piped::{Pipe, Piped};
use super::remote::{Remote, connect, host_and_port, is_ended};
use super::{Event, Kind, Outcome, Outgoing, Topics, swap_dots};
use crate::store::DropReason;

/// See [`super::KINDS`].
pub const KIND: Kind = Kind {
    schemes: &[("amqp1", false), ("amqp1s", true)],
    keys: &["username", "message_key", "refused_topic"],
    topics: Topics::Levels,
    check_url: |url| server(url).map(drop),
    open: |setup| Box::new(Piped::to(setup, run).writing(swap_dots)),
};

/// For a connection to be made, and for a link to an address.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that is silent for so long is given up; it is asked to say something more often.
const IDLE_MS: u32 = 20_000;
/// For the server to answer that the connection is closed.
const CLOSE: Duration = Duration::from_secs(1);
/// The property by which Artemis knows a repetition.
const DUPLICATE_ID: &str = "_AMQ_DUPL_ID";

async fn run(remote: Arc<Remote>, attempt: u32, mut pipe: Pipe) -> Result<(), String> {
    // What a server that was away said before is no proof.
    remote.refused.forget();
    let opened = timeout(CONNECT, open(&remote, attempt)).await;
    let (mut connection, mut session) = opened.map_err(|_| format!("no answer in {} s", CONNECT.as_secs()))??;
    pipe.say(Event::Connected).await;
    match serve(&remote, &mut session, &mut pipe).await {
        Ok(()) => {
            let _ = timeout(CLOSE, connection.close()).await;
            Ok(())
        }
        Err(why) => match timeout(CLOSE, connection.on_close()).await {
            Ok(Err(error)) => {
                if is_by_the_server(&error) {
                    pipe.say(Event::Ended).await;
                }
                Err(error.to_string())
            }
            _ => Err(why),
        },
    }
}

/// Whether the server has ended the connection by itself, and a message may be why.
fn is_by_the_server(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TransportError(TransportError::Io(error)) => is_ended(error),
        ConnectionError::RemoteClosed => true,
        ConnectionError::RemoteClosedWithError(error) => is_of_a_message(error),
        ConnectionError::TransportError(_)
        | ConnectionError::IllegalState
        | ConnectionError::NotImplemented(_)
        | ConnectionError::NotFound(_)
        | ConnectionError::NotAllowed(_)
        | ConnectionError::JoinError(_) => false,
    }
}

/// Whether an error by which the server ends a connection or a session can be of a message: neither of itself, nor of an operator, nor
/// of what this bridge may do.
fn is_of_a_message(error: &Error) -> bool {
    match &error.condition {
        ErrorCondition::AmqpError(error) => matches!(
            error,
            AmqpError::DecodeError
                | AmqpError::InvalidField
                | AmqpError::NotImplemented
                | AmqpError::NotAllowed
                | AmqpError::FrameSizeTooSmall
        ),
        ErrorCondition::ConnectionError(error) => matches!(error, Closing::FramingError),
        ErrorCondition::SessionError(_) => true,
        ErrorCondition::LinkError(error) => matches!(error, LinkError::MessageSizeExceeded),
        ErrorCondition::Custom(_) => false,
    }
}

/// Host and port.
fn server(url: &str) -> Result<(String, u16), String> {
    host_and_port(url, if is_encrypted(url) { 5671 } else { 5672 })
}

fn is_encrypted(url: &str) -> bool {
    url.starts_with("amqp1s:")
}

async fn open(remote: &Remote, attempt: u32) -> Result<(ConnectionHandle<()>, SessionHandle<()>), String> {
    let url = remote.address(attempt);
    let (host, port) = server(url)?;
    let tls: Option<&[&[u8]]> = is_encrypted(url).then_some(&[]);
    let stream = connect(remote, (&host, port), tls).await?;
    let account = match (&remote.username, remote.password()?) {
        (Some(username), password) => {
            SaslProfile::Plain { username: username.clone(), password: password.unwrap_or_default() }
        }
        (None, _) => SaslProfile::Anonymous,
    };
    // A server refuses a second connection of the same container while it has not noticed that the first one is gone.
    let container = format!("{}-{:08x}", remote.name, RandomState::new().hash_one(attempt) >> 32);
    let mut connection = Connection::builder()
        .container_id(container)
        .hostname(host.as_str())
        .idle_time_out(IDLE_MS)
        .sasl_profile(account)
        .open_with_stream(stream)
        .await
        .map_err(|error| error.to_string())?;
    let session = Session::begin(&mut connection).await.map_err(|error| error.to_string())?;
    Ok((connection, session))
}

async fn serve(remote: &Remote, session: &mut SessionHandle<()>, pipe: &mut Pipe) -> Result<(), String> {
    // One outcome for each message in flight: a link never waits for its reader.
    let (settled, mut outcomes) = mpsc::channel(remote.window);
    let mut links = Links::new(remote.clone(), settled);
    loop {
        tokio::select! {
            out = pipe.messages.recv() => {
                let Some(out) = out else { return Ok(()) };
                let place = out.place;
                if let Some(outcome) = links.send(session, out).await? {
                    pipe.settled(place, outcome).await;
                }
            }
            Some((place, outcome)) = outcomes.recv() => pipe.settled(place, outcome).await,
            ended = session.on_end() => {
                if let Err(SessionError::RemoteEndedWithError(error)) = &ended
                    && is_of_a_message(error)
                {
                    pipe.say(Event::Ended).await;
                }
                return Err(ended.map_or_else(|error| error.to_string(), |()| "the connection is lost".to_owned()));
            }
        }
    }
}

fn message(marks: &Marks, out: &Outgoing) -> Message<Data> {
    let headers = marks.headers(out);
    let mut properties = ApplicationProperties::builder();
    for (name, value) in headers.all {
        properties = properties.insert(name, value);
    }
    let properties = properties.insert(DUPLICATE_ID, headers.id.clone()).build();
    let standard = Properties {
        message_id: Some(headers.id.into()),
        content_type: headers.content_type.map(Symbol::from),
        correlation_id: headers.correlation.map(|data| Binary::from(data).into()),
        reply_to: headers.response_topic.map(|topic| {
            let mut address = String::new();
            swap_dots(&topic, &mut address);
            address
        }),
        group_id: out.key.clone(),
        ..Properties::default()
    };
    let header = Header {
        durable: true,
        priority: Priority::default(),
        ttl: out.expiry_s.map(|left_s| left_s.saturating_mul(1_000)),
        first_acquirer: false,
        delivery_count: 0,
    };
    Message::builder()
        .header(header)
        .properties(standard)
        .application_properties(properties)
        .data(Binary::from(out.message.payload().to_vec()))
        .build()
}

/// What a disposition makes of a message.
fn outcome(disposition: Disposition) -> Outcome {
    match disposition {
        Disposition::Accepted(_) => Outcome::Delivered,
        Disposition::Rejected(rejected) => match rejected.error {
            Some(error) => refusal(&error),
            None => Outcome::Refused("rejected".to_owned(), DropReason::Refused),
        },
        Disposition::Modified(modified) if modified.undeliverable_here == Some(true) => {
            Outcome::Refused("undeliverable here".to_owned(), DropReason::Refused)
        }
        Disposition::Modified(_) | Disposition::Released(_) => {
            Outcome::Retry("the server does not take it (released)".to_owned())
        }
    }
}

/// The server does not let this bridge write to an address; or it cannot ask who may do what, an LDAP server that is away, say.
fn is_not_allowed(error: &Error) -> bool {
    matches!(error.condition, ErrorCondition::AmqpError(AmqpError::UnauthorizedAccess))
}

/// What an error that the server names makes of a message. The table is in docs/bridges.md.
fn refusal(error: &Error) -> Outcome {
    let condition = format!("{:?}", error.condition);
    let why = error.description.clone().filter(|text| !text.is_empty()).unwrap_or(condition);
    match &error.condition {
        ErrorCondition::AmqpError(
            AmqpError::ResourceLimitExceeded
            | AmqpError::ResourceLocked
            | AmqpError::InternalError
            | AmqpError::IllegalState,
        ) => Outcome::Retry(why),
        ErrorCondition::LinkError(LinkError::MessageSizeExceeded) => Outcome::Refused(why, DropReason::TooLarge),
        ErrorCondition::AmqpError(_) | ErrorCondition::Custom(_) => Outcome::Refused(why, DropReason::Refused),
        ErrorCondition::ConnectionError(_) | ErrorCondition::SessionError(_) | ErrorCondition::LinkError(_) => {
            Outcome::Retry(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::marks::{outgoing, traced};
    use super::*;
    use fe2o3_amqp::types::messaging::{Accepted, Modified, Rejected, Released};

    fn rejected(condition: impl Into<ErrorCondition>) -> Outcome {
        let error = Error { condition: condition.into(), description: None, info: None };
        outcome(Disposition::Rejected(Rejected { error: Some(error) }))
    }

    #[test]
    fn dispositions_are_classed() {
        assert_eq!(outcome(Disposition::Accepted(Accepted {})), Outcome::Delivered);
        assert!(matches!(outcome(Disposition::Released(Released {})), Outcome::Retry(_)));
        assert!(matches!(rejected(AmqpError::ResourceLimitExceeded), Outcome::Retry(_)));
        assert!(matches!(rejected(AmqpError::UnauthorizedAccess), Outcome::Refused(_, DropReason::Refused)));
        assert!(matches!(rejected(LinkError::MessageSizeExceeded), Outcome::Refused(_, DropReason::TooLarge)));
        let modified = |undeliverable_here| {
            let delivery_failed = Some(true);
            outcome(Disposition::Modified(Modified { delivery_failed, undeliverable_here, message_annotations: None }))
        };
        assert!(matches!(modified(Some(true)), Outcome::Refused(..)));
        assert!(matches!(modified(None), Outcome::Retry(_)));
    }

    #[test]
    fn what_is_not_allowed_may_be_later() {
        let of = |condition: ErrorCondition| Error { condition, description: None, info: None };
        assert!(is_not_allowed(&of(AmqpError::UnauthorizedAccess.into())));
        assert!(!is_not_allowed(&of(AmqpError::NotFound.into())));
    }

    #[test]
    fn a_message_is_durable_and_named() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let mut out = outgoing("t/1", b"\x03\x00\x01j");
        (out.expiry_s, out.key) = (Some(5), Some("k".to_owned()));
        let made = message(&marks, &out);
        let header = made.header.unwrap();
        assert!(header.durable && header.ttl == Some(5_000));
        let standard = made.properties.unwrap();
        assert_eq!(standard.message_id, Some("g.up.3.7".to_owned().into()));
        assert_eq!((standard.content_type, standard.group_id.as_deref()), (Some(Symbol::from("j")), Some("k")));
        let properties = made.application_properties.unwrap();
        for name in ["origin", "epoch", "seq", "mqtt-topic", DUPLICATE_ID] {
            assert!(properties.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_trace_goes_on() {
        let marks = Marks { origin: "g.up".into(), epoch: 3 };
        let (said, trace) = traced();
        let property = |said: &[u8], name: &str| {
            let made = message(&marks, &outgoing("t/1", said));
            made.application_properties.unwrap().get(name).cloned()
        };
        for (name, value) in trace {
            assert_eq!(property(&said, name), Some(value.to_owned().into()));
            assert_eq!(property(&[], name), None, "none is made up");
        }
    }
}
