//! A link for each address. The server gives credit to each by itself, so that one that is full holds up no other.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::delivery::DeliveryFut;
use fe2o3_amqp::link::{DetachError, ErrorRecovery, LinkStateError, SendError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::SenderSettleMode;
use fe2o3_amqp::types::messaging::{Outcome as Disposition, Target};
use fe2o3_amqp::types::primitives::{Array, Symbol};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CLOSE, CONNECT, Outcome, Outgoing, is_not_allowed, is_of_a_message, message, outcome, refusal};
use crate::bridge::suspect::{Loss, Suspect};
use crate::bridge::upstream::marks::Marks;
use crate::bridge::upstream::remote::Remote;
use crate::store::DropReason;

/// Addresses that have a link; at the limit all links are closed, and made anew as they are needed.
const LINKS_MAX: usize = 256;
/// How long a message waits for the server to give its link credit. A server may give none any more after it has rejected a
/// message, until the link is made anew.
const CREDIT: Duration = Duration::from_secs(10);
/// A node of that kind is made where there is none. Without it Artemis makes an address without a queue, and accepts what it
/// then drops.
const QUEUE: &str = "queue";

/// What became of the message at a place.
type Settled = mpsc::Sender<(u64, Outcome)>;

/// The links of a connection.
pub(super) struct Links {
    remote: Remote,
    settled: Settled,
    known: HashMap<String, mpsc::Sender<Outgoing>>,
    /// Of each address that had a link; forgotten with the links at the limit.
    suspects: HashMap<String, Arc<Mutex<Suspect>>>,
    begun: Instant,
    tasks: JoinSet<()>,
}

impl Links {
    pub(super) fn new(remote: Remote, settled: Settled) -> Self {
        let begun = Instant::now();
        Self { remote, settled, known: HashMap::new(), suspects: HashMap::new(), begun, tasks: JoinSet::new() }
    }

    /// Gives a message to the link of its address. Some: it was not sent. Err: of the connection.
    pub(super) async fn send(
        &mut self,
        session: &mut SessionHandle<()>,
        mut out: Outgoing,
    ) -> Result<Option<Outcome>, String> {
        while self.tasks.try_join_next().is_some() {}
        if let Some(link) = self.known.get(&out.topic) {
            // It has room for the whole window, so that there is an error only when it has ended.
            match link.try_send(out) {
                Ok(()) => return Ok(None),
                Err(back) => out = back.into_inner(),
            }
            self.known.remove(&out.topic);
        }
        if let Some(known) = self.remote.refused.known((&out.topic, out.place), Instant::now()) {
            return Ok(Some(known));
        }
        if self.known.len() >= LINKS_MAX {
            self.close(session).await?;
        }
        let attached = timeout(CONNECT, attach(session, &out.topic)).await;
        let sender = match attached.map_err(|_| format!("no answer in {} s", CONNECT.as_secs()))? {
            Ok(sender) => {
                self.remote.refused.taken(&out.topic);
                sender
            }
            Err(SenderAttachError::RemoteClosedWithError(error)) if is_not_allowed(&error) => {
                let at = (out.topic.as_str(), out.place);
                return Ok(Some(self.remote.refused.refused(at, format!("{error:?}"), Instant::now())));
            }
            Err(SenderAttachError::RemoteClosedWithError(error)) => return Ok(Some(refusal(&error))),
            Err(error @ (SenderAttachError::SessionStopped(_) | SenderAttachError::SessionNotMapped)) => {
                return Err(error.to_string());
            }
            Err(error) => return Ok(Some(Outcome::Retry(error.to_string()))),
        };
        let (to_link, messages) = mpsc::channel(self.remote.window);
        if self.suspects.len() >= LINKS_MAX {
            self.suspects.clear();
        }
        let link = Link {
            marks: self.remote.marks.clone(),
            settled: self.settled.clone(),
            flights: VecDeque::new(),
            suspect: self.suspects.entry(out.topic.clone()).or_default().clone(),
            begun: self.begun,
            is_lost: false,
        };
        self.tasks.spawn(link.run(sender, messages));
        let (address, place) = (out.topic.clone(), out.place);
        if to_link.try_send(out).is_err() {
            let _ = self.settled.send((place, Outcome::Retry("the link has ended".to_owned()))).await;
        }
        self.known.insert(address, to_link);
        Ok(None)
    }

    /// Closes all links, once what they have is settled: what comes later must not overtake it.
    async fn close(&mut self, session: &mut SessionHandle<()>) -> Result<(), String> {
        self.known.clear();
        self.suspects.clear();
        let tasks = &mut self.tasks;
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => Ok(()),
            _ = session.on_end() => Err("the connection is lost".to_owned()),
        }
    }
}

async fn attach(session: &mut SessionHandle<()>, address: &str) -> Result<Sender, SenderAttachError> {
    let target = Target::builder().address(address).capabilities(Array::from(vec![Symbol::from(QUEUE)])).build();
    Sender::builder().name(address).sender_settle_mode(SenderSettleMode::Unsettled).target(target).attach(session).await
}

type Answer = Result<Disposition, SendError>;

/// One link at work.
struct Link {
    marks: Marks,
    settled: Settled,
    /// What is sent and has no disposition yet.
    flights: VecDeque<(u64, DeliveryFut<Answer>)>,
    /// A server may end each link to the address at the same message.
    suspect: Arc<Mutex<Suspect>>,
    /// When the connection began.
    begun: Instant,
    /// The first in flight was told that the link is lost: those behind it are no cause.
    is_lost: bool,
}

impl Link {
    async fn run(mut self, mut sender: Sender, mut messages: mpsc::Receiver<Outgoing>) {
        let mut is_fed = true;
        let why = loop {
            tokio::select! {
                out = messages.recv(), if is_fed && !self.waits_to_be_alone() => {
                    let Some(out) = out else { is_fed = false; continue };
                    let Err(outcome) = self.send(&mut sender, &out).await else { continue };
                    let Some(outcome) = outcome else { break None };
                    let ends = if let Outcome::Retry(why) = &outcome { Some(why.clone()) } else { None };
                    self.settle(out.place, outcome).await;
                    if ends.is_some() {
                        break ends;
                    }
                }
                (place, answer) = first(&mut self.flights), if !self.flights.is_empty() => {
                    let is_of_link = answer.as_ref().err().map(|error| (!is_of_session(error)).then(|| error.to_string()));
                    self.answered(place, answer).await;
                    if let Some(why) = is_of_link { break why }
                }
                else => break None,
            }
        };
        if let Some(why) = why {
            messages.close();
            while let Some(out) = messages.recv().await {
                self.settle(out.place, Outcome::Retry(why.clone())).await;
            }
        }
        let _ = timeout(CLOSE, sender.close()).await;
        // Now that the sender is gone, what has had no answer gets none any more.
        while !self.flights.is_empty() {
            let (place, answer) = first(&mut self.flights).await;
            self.answered(place, answer).await;
        }
    }

    /// Sends a message as soon as there is credit; what was sent before is settled meanwhile. Err: what becomes of it, as [`judge`] says.
    async fn send(&mut self, sender: &mut Sender, out: &Outgoing) -> Result<(), Option<Outcome>> {
        let mut sending = pin!(timeout(CREDIT, sender.send_batchable(message(&self.marks, out))));
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                (place, answer) = first(&mut self.flights) => {
                    self.answered(place, answer).await;
                }
            }
        };
        let no_credit = |_| Some(Outcome::Retry(format!("{} gives no credit for {} s", out.topic, CREDIT.as_secs())));
        match sent.map_err(no_credit)? {
            Ok(flight) => {
                self.flights.push_back((out.place, flight));
                Ok(())
            }
            Err(error) => Err(judge(Err(error))),
        }
    }

    /// Says what became of the message that was sent first.
    async fn answered(&mut self, place: u64, answer: Answer) {
        self.flights.pop_front();
        let last = self.flights.back().map_or(place, |(last, _)| *last);
        let refused = match &answer {
            Ok(_) => {
                self.suspect.lock().answered();
                None
            }
            Err(_) if std::mem::replace(&mut self.is_lost, true) => None,
            Err(error) => {
                let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                blame(&mut self.suspect.lock(), (place, last), error, now_ms)
            }
        };
        if let Some(outcome) = refused.or_else(|| judge(answer)) {
            self.settle(place, outcome).await;
        }
    }

    /// Whether the next message has to wait until nothing is in flight.
    fn waits_to_be_alone(&self) -> bool {
        self.flights.front().is_some_and(|(first, _)| self.suspect.lock().is_careful(*first))
    }

    async fn settle(&self, place: u64, outcome: Outcome) {
        let _ = self.settled.send((place, outcome)).await;
    }
}

/// What the server says of the message that was sent first; for ever, when nothing was.
async fn first(flights: &mut VecDeque<(u64, DeliveryFut<Answer>)>) -> (u64, Answer) {
    poll_fn(|cx| match flights.front_mut() {
        Some((place, flight)) => Pin::new(flight).poll(cx).map(|answer| (*place, answer)),
        None => Poll::Pending,
    })
    .await
}

/// `None`: nobody knows. The session has ended, and whoever waits for that gives up the connection, with all that is in flight.
fn judge(answer: Answer) -> Option<Outcome> {
    let outcome = match answer {
        Ok(disposition) => outcome(disposition),
        Err(error @ SendError::MessageSizeExceeded(_)) => Outcome::Refused(error.to_string(), DropReason::TooLarge),
        Err(error @ SendError::MessageEncodeError) => Outcome::Refused(error.to_string(), DropReason::Refused),
        Err(error) if is_of_session(&error) => return None,
        // It may have arrived. What is repeated has the same marks.
        Err(error) => Outcome::Retry(error.to_string()),
    };
    Some(outcome)
}

/// The server has ended the link, and has answered nothing on it: what becomes of the first in flight, if it was so too often.
#[allow(deprecated, reason = "a detach without an error comes as nothing else")]
fn blame(suspect: &mut Suspect, in_flight: (u64, u64), error: &SendError, now_ms: u64) -> Option<Outcome> {
    let is_by_the_server = match error {
        SendError::LinkStateError(LinkStateError::RemoteDetached | LinkStateError::RemoteClosed)
        | SendError::Detached(DetachError::DetachedByRemote | DetachError::ClosedByRemote) => true,
        SendError::LinkStateError(
            LinkStateError::RemoteDetachedWithError(error) | LinkStateError::RemoteClosedWithError(error),
        )
        | SendError::Detached(
            DetachError::RemoteDetachedWithError(error) | DetachError::RemoteClosedWithError(error),
        ) => is_of_a_message(error),
        SendError::LinkStateError(_)
        | SendError::Detached(_)
        | SendError::NonTerminalDeliveryState
        | SendError::IllegalDeliveryState
        | SendError::MessageSizeExceeded(_)
        | SendError::MessageEncodeError => false,
    };
    let loss = if is_by_the_server { Loss::Ended } else { Loss::Other };
    let times = suspect.fruitless(in_flight, loss, now_ms)?;
    let why = format!("the server has ended {times} links in a row when this message came: {error}");
    Some(Outcome::Refused(why, DropReason::Refused))
}

fn is_of_session(error: &SendError) -> bool {
    matches!(error.recovery(), ErrorRecovery::ReconnectSession | ErrorRecovery::ReconnectConnection)
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp::types::definitions::{AmqpError, Error, ErrorCondition, LinkError};

    use super::*;

    fn detached(condition: impl Into<ErrorCondition>) -> SendError {
        let error = Error { condition: condition.into(), description: None, info: None };
        SendError::LinkStateError(LinkStateError::RemoteDetachedWithError(error))
    }

    #[test]
    fn a_message_at_which_the_server_ends_each_link_is_given_up() {
        let (mut suspect, error) = (Suspect::default(), detached(AmqpError::DecodeError));
        assert!((0..2).all(|n| blame(&mut suspect, (7, 9), &error, n * 20_000).is_none()));
        assert!(suspect.is_careful(7) && suspect.is_careful(9), "each of them is sent alone");
        assert!((2..4).all(|n| blame(&mut suspect, (7, 7), &error, n * 20_000).is_none()));
        let given_up = blame(&mut suspect, (7, 7), &SendError::Detached(DetachError::ClosedByRemote), 80_000);
        assert!(matches!(given_up, Some(Outcome::Refused(_, DropReason::Refused))), "{given_up:?}");
    }

    #[test]
    fn a_link_that_an_operator_ends_costs_no_message() {
        let mut suspect = Suspect::default();
        for error in [detached(AmqpError::ResourceDeleted), detached(LinkError::DetachForced)] {
            assert!((0..100).all(|n| blame(&mut suspect, (7, 7), &error, n * 20_000).is_none()), "{error}");
        }
    }
}
