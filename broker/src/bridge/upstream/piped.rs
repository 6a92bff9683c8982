//! An upstream that is one future for each connection: messages come into it by a channel, and what happened leaves it by
//! another. Whoever writes a new kind writes that future and nothing else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::remote::{Remote, in_plain_words};
use super::{Event, Outcome, Outgoing, Setup, Upstream};
use crate::bridge::template::{Fill, Missing, Template};

/// Events that may wait, beside one for each message in flight.
const EVENTS: usize = 16;

/// One connection; it resolves to why it ended. The number counts attempts from 0.
pub type Connection = Pin<Box<dyn Future<Output = String> + Send>>;

/// Writes what comes from a message into the upstream's names.
pub type Write = fn(&str, &mut String);

/// The connection's ends of the channels.
pub struct Pipe {
    /// What is to be sent; `None`: the connection is given up, and is to be closed.
    pub messages: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Event>,
    resumes_at: Arc<AtomicU64>,
}

impl Pipe {
    /// Says that something happened. When nobody listens any more, [`Pipe::messages`] ends too.
    pub async fn say(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Says what became of a message.
    pub async fn settled(&self, place: u64, outcome: Outcome) {
        self.say(Event::Settled(place, outcome)).await;
    }

    /// Everything before this place is there already. To be said before [`Event::Connected`].
    pub fn resume_at(&self, place: u64) {
        self.resumes_at.store(place, Ordering::Relaxed);
    }
}

/// The upstream.
pub struct Piped {
    connection: Box<dyn FnMut(u32, Pipe) -> Connection + Send>,
    write: Write,
    window: usize,
    resumes_at: Arc<AtomicU64>,
    /// The bridge's ends of the channels.
    open: Option<(mpsc::Sender<Outgoing>, mpsc::Receiver<Event>)>,
    task: Option<JoinHandle<()>>,
}

impl Piped {
    /// Not connected yet. `window` messages may be in flight.
    pub fn new(window: u16, connection: impl FnMut(u32, Pipe) -> Connection + Send + 'static) -> Self {
        Self {
            connection: Box::new(connection),
            write: |value, text| text.push_str(value),
            window: usize::from(window),
            resumes_at: Arc::default(),
            open: None,
            task: None,
        }
    }

    /// The same for a kind that needs to know no more than every kind does. Err of `run`: why the connection is lost.
    pub fn to<F>(setup: Setup<'_>, run: impl Fn(Arc<Remote>, u32, Pipe) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let remote = Arc::new(Remote::of(setup));
        Self::new(setup.bridge.window, move |attempt, pipe| {
            let (connection, remote) = (run(remote.clone(), attempt, pipe), remote.clone());
            Box::pin(async move {
                match connection.await {
                    Err(why) if remote.urls.len() > 1 => format!("{why} ({})", remote.address(attempt)),
                    Err(why) => why,
                    Ok(()) => String::new(),
                }
            })
        })
    }

    /// Names of the upstream are written so.
    #[must_use]
    pub fn writing(mut self, write: Write) -> Self {
        self.write = write;
        self
    }
}

impl Upstream for Piped {
    fn connect(&mut self, attempt: u32) {
        if let Some(before) = self.task.take() {
            before.abort();
        }
        let (to_connection, messages) = mpsc::channel(self.window);
        // Each message has one outcome; the others are few.
        let (events, from_connection) = mpsc::channel(self.window + EVENTS);
        self.open = Some((to_connection, from_connection));
        self.resumes_at.store(0, Ordering::Relaxed);
        let last = events.clone();
        let pipe = Pipe { messages, events, resumes_at: self.resumes_at.clone() };
        let connection = (self.connection)(attempt, pipe);
        self.task = Some(tokio::spawn(async move {
            let why = connection.await;
            let _ = last.send(Event::Lost(in_plain_words(why))).await;
        }));
    }

    fn stored_up_to(&self) -> Option<u64> {
        self.resumes_at.load(Ordering::Relaxed).checked_sub(1)
    }

    fn destination(&self, template: &Template, from: Fill<'_>) -> Result<String, Missing> {
        template.fill_with(from, self.write)
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>> {
        let Some((messages, _)) = &self.open else { return Err(Box::new(message)) };
        messages.try_send(message).map_err(|error| Box::new(error.into_inner()))
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some((_, events)) = &mut self.open else { return Poll::Pending };
        let Poll::Ready(event) = events.poll_recv(cx) else { return Poll::Pending };
        // A connection that ends without a word has panicked.
        Poll::Ready(event.unwrap_or_else(|| {
            self.open = None;
            Event::Lost("the connection ended by a fault in this program".to_owned())
        }))
    }

    fn close(&mut self) {
        self.open = None;
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.task {
            Some(task) => Pin::new(task).poll(cx).map(|_| self.task = None),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::marks::outgoing;
    use super::*;

    /// Takes one message, confirms it, and ends; the second attempt panics.
    fn upstream() -> Piped {
        Piped::new(1, |attempt, mut pipe| {
            Box::pin(async move {
                assert_eq!(attempt, 0, "it is meant to");
                pipe.resume_at(7);
                pipe.say(Event::Connected).await;
                let Some(out) = pipe.messages.recv().await else { return "closed".to_owned() };
                pipe.settled(out.place, Outcome::Delivered).await;
                format!("{} came", out.topic)
            })
        })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_future_is_an_upstream() {
        let mut upstream = upstream();
        assert!(upstream.send(outgoing("t", &[])).is_err(), "it is not connected");
        upstream.connect(0);
        assert_eq!(poll_fn(|cx| upstream.poll_event(cx)).await, Event::Connected);
        assert_eq!(upstream.stored_up_to(), Some(6));
        assert!(upstream.send(outgoing("t", &[])).is_ok());
        assert_eq!(poll_fn(|cx| upstream.poll_event(cx)).await, Event::Settled(7, Outcome::Delivered));
        assert_eq!(poll_fn(|cx| upstream.poll_event(cx)).await, Event::Lost("t came".to_owned()));
        upstream.close();
        upstream.connect(1);
        assert_eq!(upstream.stored_up_to(), None, "what the connection before said is its own");
        let Event::Lost(why) = poll_fn(|cx| upstream.poll_event(cx)).await else { panic!("it is lost") };
        assert!(why.contains("fault"), "{why}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_that_is_given_up_may_close() {
        let mut upstream = upstream();
        upstream.connect(0);
        upstream.close();
        poll_fn(|cx| upstream.poll_closed(cx)).await;
        assert!(upstream.task.is_none());
    }
}
