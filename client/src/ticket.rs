//! What becomes of a message, told once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use forebay_wire::reason::ReasonCode;
use parking_lot::Mutex;

use crate::error::Dropped;

enum State<T> {
    Waiting(Option<Waker>),
    Done(Option<T>),
}

/// The end that tells.
pub(crate) struct Teller<T>(Arc<Mutex<State<T>>>);

/// The end that is told.
pub(crate) struct Told<T>(Arc<Mutex<State<T>>>);

pub(crate) fn pair<T>() -> (Teller<T>, Told<T>) {
    let state = Arc::new(Mutex::new(State::Waiting(None)));
    (Teller(state.clone()), Told(state))
}

impl<T> Teller<T> {
    /// Tells, if anybody listens.
    pub(crate) fn tell(self, what: T) {
        if Arc::strong_count(&self.0) == 1 {
            return;
        }
        let before = std::mem::replace(&mut *self.0.lock(), State::Done(Some(what)));
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }

    /// Whether anybody may still listen.
    pub(crate) fn is_heard(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl<T> Told<T> {
    /// Ready once. Polling after that never ends.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Done(what) => what.take().map_or(Poll::Pending, Poll::Ready),
            State::Waiting(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    pub(crate) fn try_take(&self) -> Option<T> {
        match &mut *self.0.lock() {
            State::Done(what) => what.take(),
            State::Waiting(_) => None,
        }
    }
}

/// What the server, or the client, said in the end.
pub(crate) type Outcome = Result<Acked, Dropped>;

/// A message has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acked {
    /// What the server said of it, for example [`ReasonCode::NoMatchingSubscribers`]; success for QoS 0 and MQTT 3.1.1.
    pub reason: ReasonCode,
}

/// Resolves when the message is acknowledged (QoS 1: PUBACK; QoS 2: PUBCOMP; QoS 0: it is written to the socket), or when
/// it was dropped, with why. Dropping the ticket changes nothing for the message; awaiting may be cancelled and taken up
/// again with `&mut ticket`.
#[must_use = "the message is on its way; await the ticket to know that it arrived, or drop it"]
pub struct Ticket {
    pub(crate) told: Told<Outcome>,
}

impl Ticket {
    /// What became of it, if that is known; once.
    pub fn try_outcome(&mut self) -> Option<Result<Acked, Dropped>> {
        self.told.try_take()
    }
}

impl Future for Ticket {
    type Output = Result<Acked, Dropped>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.told.poll(cx)
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket")
    }
}
