//! What stands in for an upstream in a rehearsal: it is well, killed, mute, full or slow, as it is told.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::account::Account;
use crate::bridge::upstream::{Event, Outcome, Outgoing, Upstream};

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// It confirms at once.
    Well,
    /// It cannot be reached. What it was sent has arrived; that is not said any more.
    Killed,
    /// It can be reached, takes what it is sent, and says nothing.
    Mute,
    /// It takes nothing for now, and says so.
    Full,
    /// It takes a hundred times as long as a healthy one.
    Slow,
}

/// From a message to its confirmation, on a good line.
const LATENCY: Duration = Duration::from_millis(2);

impl Mood {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Killed => "killed",
            Self::Mute => "mute",
            Self::Full => "full",
            Self::Slow => "slow (200 ms)",
        }
    }

    fn latency(self) -> Duration {
        if self == Self::Slow { LATENCY * 100 } else { LATENCY }
    }
}

/// What the rehearsal and the stand-in share.
pub(super) struct Scene {
    mood: Mutex<Mood>,
    waker: Mutex<Option<Waker>>,
    pub(super) account: Mutex<Account>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { mood: Mutex::new(Mood::Well), waker: Mutex::new(None), account: Mutex::new(Account::default()) }
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }
}

enum Link {
    Closed,
    Connecting,
    Open,
}

pub(super) struct StandIn {
    scene: Arc<Scene>,
    link: Link,
    /// What was sent on this connection and is not answered: when it is to be, its place, and whether it was taken.
    open: VecDeque<(Instant, u64, bool)>,
    sleep: Pin<Box<Sleep>>,
    waker: Option<Waker>,
}

impl StandIn {
    /// To be called on a runtime.
    pub(super) fn new(scene: Arc<Scene>) -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { scene, link: Link::Closed, open: VecDeque::new(), sleep, waker: None }
    }
}

impl Upstream for StandIn {
    fn connect(&mut self, _: u32) {
        self.link = Link::Connecting;
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>> {
        let mood = *self.scene.mood.lock();
        let taken = mood != Mood::Full;
        if taken {
            self.scene.account.lock().arrives(message.message.payload(), message.repeated);
        }
        self.open.push_back((Instant::now() + mood.latency(), message.place, taken));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.scene.waker.lock().replace(cx.waker().clone());
        self.waker = Some(cx.waker().clone());
        let mood = *self.scene.mood.lock();
        match self.link {
            Link::Closed => return Poll::Pending,
            _ if mood == Mood::Killed => {
                self.close();
                return Poll::Ready(Event::Lost("connection refused".to_owned()));
            }
            Link::Connecting => {
                self.link = Link::Open;
                return Poll::Ready(Event::Connected);
            }
            Link::Open => {}
        }
        let Some((due, place, taken)) = self.open.front().copied().filter(|_| mood != Mood::Mute) else {
            return Poll::Pending;
        };
        self.sleep.as_mut().reset(due);
        std::task::ready!(self.sleep.as_mut().poll(cx));
        self.open.pop_front();
        let outcome = if taken { Outcome::Delivered } else { Outcome::Retry("no room".to_owned()) };
        Poll::Ready(Event::Settled(place, outcome))
    }

    fn close(&mut self) {
        self.link = Link::Closed;
        self.open.clear();
    }
}
