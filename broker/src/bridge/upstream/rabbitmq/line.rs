//! The channel that messages go through. An error of one message ends its channel, with all that is in flight on it: the first
//! message to an exchange goes through a channel of its own, when nothing else is in flight.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::AMQPSoftError;
use lapin::{Channel, Confirmation, Connection, Error, ErrorKind, PublisherConfirm};

use super::{EXCHANGE, NAME_MAX, outcome, properties, soft, words};
use crate::bridge::upstream::remote::{Remote, not_allowed};
use crate::bridge::upstream::{Outcome, Outgoing};
use crate::store::DropReason;

/// Exchanges that are known to take messages; beyond it each is tried again.
const EXCHANGES_MAX: usize = 1_000;
/// How long what ended a channel is asked for.
const CLOSE: Duration = Duration::from_secs(1);

/// What is sent and not confirmed.
struct Flight {
    place: u64,
    size: usize,
    exchange: String,
    key: String,
    confirm: PublisherConfirm,
}

/// What became of the message at a place.
type Settled = (u64, Outcome);

/// A connection's channels.
pub(super) struct Line<'a> {
    remote: &'a Remote,
    connection: &'a Connection,
    channel: Channel,
    flights: VecDeque<Flight>,
    /// Exchanges that have taken a message through this connection.
    known: HashSet<String>,
    /// Waits until nothing is in flight.
    untried: Option<Outgoing>,
    /// The message of `untried` on its way, and its channel.
    trial: Option<(Channel, Flight)>,
}

/// Something was said of a message.
pub(super) enum Answer {
    /// It was first of those in flight.
    First(u64, lapin::Result<Confirmation>),
    /// It was the one to an exchange that was not known.
    Trial(lapin::Result<Confirmation>),
}

impl<'a> Line<'a> {
    pub(super) async fn open(remote: &'a Remote, connection: &'a Connection) -> Result<Self, Error> {
        let channel = channel(connection).await?;
        let (flights, known) = (VecDeque::new(), HashSet::new());
        Ok(Self { remote, connection, channel, flights, known, untried: None, trial: None })
    }

    /// Whether it takes a message now.
    pub(super) fn is_free(&self) -> bool {
        self.untried.is_none() && self.trial.is_none()
    }

    /// Sends a message. What is settled by that: this one, which will not be sent, or all, since the channel has ended.
    pub(super) async fn send(&mut self, out: Outgoing) -> Result<Vec<Settled>, Error> {
        let exchange = out.exchange.as_deref().unwrap_or(EXCHANGE);
        if let Some(outcome) = self.unsent(&out, exchange) {
            return Ok(vec![(out.place, outcome)]);
        }
        let refused = &self.remote.refused;
        if !self.known.contains(exchange) || refused.has_some() && refused.has(&of_topic(exchange, &out.topic)) {
            self.untried = Some(out);
            return Ok(Vec::new());
        }
        match publish(self.remote, &self.channel, &out).await {
            Ok(flight) => {
                self.flights.push_back(flight);
                Ok(Vec::new())
            }
            // The channel has ended, by a message before this one.
            Err(error) => {
                let mut settled = self.ended(error).await?;
                let why = settled.iter().find_map(|(_, outcome)| match outcome {
                    Outcome::Retry(why) | Outcome::Refused(why, _) => Some(why.clone()),
                    Outcome::Delivered | Outcome::Expired | Outcome::Stored => None,
                });
                settled.push((out.place, Outcome::Retry(why.unwrap_or_default())));
                Ok(settled)
            }
        }
    }

    /// What becomes of a message without asking the server.
    fn unsent(&self, out: &Outgoing, exchange: &str) -> Option<Outcome> {
        let names = [("routing key", out.topic.as_str()), ("name of the exchange", exchange)];
        if let Some((what, name)) = names.iter().find(|(_, name)| name.len() > NAME_MAX) {
            let why = format!("the {what} has {} bytes; {NAME_MAX} are possible", name.len());
            return Some(Outcome::Refused(why, DropReason::Refused));
        }
        let (refused, now) = (&self.remote.refused, Instant::now());
        if !refused.has_some() {
            return None;
        }
        let of_exchange = refused.known((exchange, out.place), now);
        of_exchange.or_else(|| refused.known((&of_topic(exchange, &out.topic), out.place), now))
    }

    /// Sends what waits for a channel of its own, if it is time for that.
    pub(super) async fn start_trial(&mut self) -> Result<(), Error> {
        if self.flights.is_empty()
            && let Some(out) = self.untried.take()
        {
            let channel = channel(self.connection).await?;
            let flight = publish(self.remote, &channel, &out).await?;
            self.trial = Some((channel, flight));
        }
        Ok(())
    }

    /// The next answer of the server. Nothing is lost when it is not waited for.
    pub(super) async fn answer(&mut self) -> Answer {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Some((_, flight)) = &mut self.trial {
            return Pin::new(&mut flight.confirm).poll(cx).map(Answer::Trial);
        }
        let Some(flight) = self.flights.front_mut() else { return Poll::Pending };
        Pin::new(&mut flight.confirm).poll(cx).map(|confirmed| Answer::First(flight.place, confirmed))
    }

    /// What an answer settles.
    pub(super) async fn settle(&mut self, answer: Answer) -> Result<Vec<Settled>, Error> {
        match answer {
            Answer::First(place, Ok(confirmation)) => {
                self.flights.pop_front();
                Ok(vec![(place, outcome(confirmation))])
            }
            Answer::First(_, Err(error)) => self.ended(error).await,
            Answer::Trial(answer) => self.tried(answer).await,
        }
    }

    async fn tried(&mut self, answer: lapin::Result<Confirmation>) -> Result<Vec<Settled>, Error> {
        let Some((channel, flight)) = self.trial.take() else { return Ok(Vec::new()) };
        let outcome = match answer {
            Ok(confirmation) => {
                self.remote.refused.taken(&flight.exchange);
                self.remote.refused.taken(&of_topic(&flight.exchange, &flight.key));
                channel.close(200, "".into()).await?;
                if self.known.len() >= EXCHANGES_MAX {
                    self.known.clear();
                }
                self.known.insert(flight.exchange);
                outcome(confirmation)
            }
            Err(error) => match soft(&error) {
                Some(AMQPSoftError::NOTFOUND) => Outcome::Refused(words(&error), DropReason::Refused),
                Some(AMQPSoftError::ACCESSREFUSED) => self.refused(&flight, &error),
                _ if size(&error) == Some(flight.size) => Outcome::Refused(words(&error), DropReason::TooLarge),
                _ => return Err(error),
            },
        };
        Ok(vec![(flight.place, outcome)])
    }

    /// The channel has ended. When it is by a message that is not allowed (any more), another one is opened, and all that was in flight
    /// comes again in order. Err: the connection is given up.
    async fn ended(&mut self, error: Error) -> Result<Vec<Settled>, Error> {
        let error = self.cause(error).await;
        let by = match soft(&error) {
            Some(AMQPSoftError::ACCESSREFUSED) => self.flights.iter().position(|flight| is_named(&error, flight)),
            _ => None,
        };
        let Some(by) = by else { return Err(error) };
        let mut settled = Vec::with_capacity(self.flights.len());
        for (at, mut flight) in std::mem::take(&mut self.flights).into_iter().enumerate() {
            let confirmed = poll_fn(|cx| Poll::Ready(Pin::new(&mut flight.confirm).poll(cx))).await;
            let becomes = match confirmed {
                _ if at == by => {
                    self.known.remove(&flight.exchange);
                    self.refused(&flight, &error)
                }
                Poll::Ready(Ok(confirmation)) => outcome(confirmation),
                Poll::Ready(Err(_)) | Poll::Pending => Outcome::Retry(not_allowed(&words(&error))),
            };
            settled.push((flight.place, becomes));
        }
        self.channel = channel(self.connection).await?;
        Ok(settled)
    }

    /// It says the same when it cannot ask who may do what: an LDAP server that is away, say.
    fn refused(&self, flight: &Flight, error: &Error) -> Outcome {
        let (why, topic) = (words(error), of_topic(&flight.exchange, &flight.key));
        let name = if why.contains("access to topic") { &topic } else { &flight.exchange };
        self.remote.refused.refused((name, flight.place), not_allowed(&why), Instant::now())
    }

    /// What ended the channel is what the first confirmation ends by; the calls behind it only say that it has ended.
    async fn cause(&mut self, error: Error) -> Error {
        let Some(first) = self.flights.front_mut() else { return error };
        match tokio::time::timeout(CLOSE, &mut first.confirm).await {
            // It was this confirmation that said so already.
            Ok(Err(cause)) if !matches!(cause.kind(), ErrorKind::FutureCompleted) => cause,
            _ => error,
        }
    }

    /// The message whose size is the reason of this error, if one's is. The server says the size, and not which message it was.
    pub(super) fn too_large(&self, error: &Error) -> Option<u64> {
        let size = size(error)?;
        self.flights.iter().find(|flight| flight.size == size).map(|flight| flight.place)
    }
}

async fn channel(connection: &Connection) -> Result<Channel, Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn publish(remote: &Remote, channel: &Channel, out: &Outgoing) -> Result<Flight, Error> {
    let exchange = out.exchange.as_deref().unwrap_or(EXCHANGE);
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (payload, properties) = (out.message.payload(), properties(&remote.marks, out));
    let confirm =
        channel.basic_publish(exchange.into(), out.topic.as_str().into(), mandatory, payload, properties).await?;
    let (exchange, key) = (exchange.to_owned(), out.topic.clone());
    Ok(Flight { place: out.place, size: payload.len(), exchange, key, confirm })
}

/// Permissions can be given to a user for an exchange, or for some of its routing keys.
fn of_topic(exchange: &str, key: &str) -> String {
    format!("{exchange} {key}")
}

/// Whether the server's refusal names where this message goes: `access to exchange 'E' in vhost …`, `access to topic 'K' in
/// exchange 'E' in vhost …`.
fn is_named(error: &Error, flight: &Flight) -> bool {
    let why = words(error);
    let exchange = why.contains(&format!("exchange '{}'", flight.exchange));
    exchange && (!why.contains("access to topic") || why.contains(&format!("topic '{}'", flight.key)))
}

/// The size that the server says a message has that it does not take.
fn size(error: &Error) -> Option<usize> {
    let text = words(error);
    let (_, from) = text.split_once("message size ")?;
    from.split(' ').next()?.parse().ok()
}
