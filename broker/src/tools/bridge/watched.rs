//! An upstream, and somebody who hears what is given to it and what becomes of it.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::bridge::template::{Fill, Missing, Template};
use crate::bridge::upstream::{Event, Outcome, Outgoing, Upstream};

/// What was heard.
pub(super) enum Heard {
    /// A message was given to it.
    Sent { topic: String, key: Option<String>, partition: Option<String>, exchange: Option<String>, qos: u8 },
    /// And this became of it.
    Became(Outcome),
}

pub(super) struct Watched {
    upstream: Box<dyn Upstream>,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Watched {
    /// The receiver may be gone: then nobody hears. What is heard is no more than the trial publishes.
    pub(super) fn new(upstream: Box<dyn Upstream>, heard: mpsc::UnboundedSender<Heard>) -> Self {
        Self { upstream, heard }
    }
}

impl Upstream for Watched {
    fn connect(&mut self, attempt: u32) {
        self.upstream.connect(attempt);
    }

    fn stored_up_to(&self) -> Option<u64> {
        self.upstream.stored_up_to()
    }

    fn destination(&self, template: &Template, from: Fill<'_>) -> Result<String, Missing> {
        self.upstream.destination(template, from)
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Box<Outgoing>> {
        let sent = Heard::Sent {
            topic: message.topic.clone(),
            key: message.key.clone(),
            partition: message.partition.clone(),
            exchange: message.exchange.clone(),
            qos: message.qos,
        };
        self.upstream.send(message)?;
        let _ = self.heard.send(sent);
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = self.upstream.poll_event(cx);
        let became = match &event {
            Poll::Ready(Event::Settled(_, outcome)) => Some(outcome.clone()),
            Poll::Ready(Event::Blocked(Some(why))) => Some(Outcome::Retry(why.clone())),
            Poll::Ready(_) | Poll::Pending => None,
        };
        if let Some(outcome) = became {
            let _ = self.heard.send(Heard::Became(outcome));
        }
        event
    }

    fn close(&mut self) {
        self.upstream.close();
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.poll_closed(cx)
    }
}
