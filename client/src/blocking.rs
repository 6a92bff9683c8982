//! The same client for programs without tokio: every call blocks the thread that makes it.
//!
//! One thread, named `mqtt`, drives the client. Not to be used within a tokio runtime: a call panics there, as
//! [`tokio::runtime::Runtime::block_on`] does.
//!
//! ```no_run
//! use forebay_client::{Message, Options, blocking};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = blocking::Client::connect(Options::new("mqtt://127.0.0.1:1883")?)?;
//! let mut alarms = client.subscribe("site/+/alarm")?;
//! client.wait(client.publish(Message::new("site/7/alarm", "door open"))?)?;
//! if let Some(alarm) = alarms.recv() {
//!     println!("{}: {}", alarm.topic(), String::from_utf8_lossy(alarm.payload()));
//! }
//! client.disconnect();
//! # Ok(())
//! # }
//! ```

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{ConnectError, Dropped, PublishError, SubscribeError};
use crate::message::{Message, Received};
use crate::options::{Options, Subscribe};
use crate::ticket::{Acked, Ticket};

/// A client. Clones are cheap and are the same client; it ends, as [`Client::disconnect`] does, when the last of them and the
/// last [`Subscription`] is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    driven: Arc<Driven>,
}

/// The client and what drives it.
#[derive(Debug)]
struct Driven {
    client: crate::Client,
    /// Taken when it ends.
    runtime: Option<Runtime>,
}

impl Driven {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => unreachable!("it is taken when this is dropped, and there is nobody left"),
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if Handle::try_current().is_ok() {
            // Blocking would be a panic here.
            runtime.shutdown_background();
        } else {
            runtime.block_on(self.client.disconnect());
        }
    }
}

impl Client {
    /// Starts a client that connects, and connects again, in the background.
    ///
    /// # Errors
    /// What is wrong with the options, or with the file of the durable outbox; there is no thread to be had.
    pub fn start(options: Options) -> Result<Self, ConnectError> {
        Self::with(options, |options| async { options.start() })
    }

    /// Starts a client and waits for its first connection. When that fails the client is ended.
    ///
    /// # Errors
    /// Why the first connection failed.
    pub fn connect(options: Options) -> Result<Self, ConnectError> {
        Self::with(options, Options::connect)
    }

    fn with<F>(options: Options, start: impl FnOnce(Options) -> F) -> Result<Self, ConnectError>
    where
        F: Future<Output = Result<crate::Client, ConnectError>>,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("mqtt").enable_all().build();
        let no_thread = |error: io::Error| crate::InvalidOptions(format!("there is no thread to be had: {error}"));
        let runtime = runtime.map_err(no_thread)?;
        let client = runtime.block_on(start(options))?;
        Ok(Self { driven: Arc::new(Driven { client, runtime: Some(runtime) }) })
    }

    /// Publishes, and waits until the outbox has the message: see [`crate::Client::publish`].
    ///
    /// # Errors
    /// The message cannot be sent, there is no room, or the client has ended.
    pub fn publish(&self, message: Message) -> Result<Ticket, PublishError> {
        self.block_on(self.inner().publish(message))
    }

    /// Waits until a message is acknowledged, or was dropped.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn wait(&self, ticket: Ticket) -> Result<Acked, Dropped> {
        self.block_on(ticket)
    }

    /// Subscribes, and waits for the server's answer.
    ///
    /// # Errors
    /// The server refused a filter, or the client has ended.
    pub fn subscribe(&self, what: impl Into<Subscribe>) -> Result<Subscription, SubscribeError> {
        let subscription = self.block_on(self.inner().subscribe(what))?;
        Ok(Subscription { subscription, driven: self.driven.clone() })
    }

    /// Waits until nothing waits to be sent or acknowledged.
    pub fn drained(&self) {
        self.block_on(self.inner().drained());
    }

    /// Sends what was accepted, for at most 5 s, and ends the client with DISCONNECT: see [`crate::Client::disconnect`].
    pub fn disconnect(&self) {
        self.block_on(self.inner().disconnect());
    }

    /// Ends the client with DISCONNECT at once: see [`crate::Client::close`].
    pub fn close(&self) {
        self.block_on(self.inner().close());
    }

    /// The client beneath: acks, events, statistics. What it has of `async` is awaited by [`Client::block_on`].
    #[must_use]
    pub fn inner(&self) -> &crate::Client {
        &self.driven.client
    }

    /// Waits for a future of the client beneath.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.driven.block_on(future)
    }
}

/// Messages of a subscription; an iterator that ends with the client.
#[derive(Debug)]
pub struct Subscription {
    subscription: crate::Subscription,
    driven: Arc<Driven>,
}

impl Subscription {
    /// Waits for the next message; `None` when the client has ended.
    pub fn recv(&mut self) -> Option<Received> {
        self.driven.block_on(self.subscription.recv())
    }

    /// The same for a limited time; `None` when it is over, too.
    pub fn recv_timeout(&mut self, limit: Duration) -> Option<Received> {
        let receiving = async { tokio::time::timeout(limit, self.subscription.recv()).await };
        self.driven.block_on(receiving).ok().flatten()
    }

    /// A message that is there already.
    pub fn try_recv(&mut self) -> Option<Received> {
        self.subscription.try_recv()
    }

    /// Ends the subscription, and waits until the server has confirmed it.
    pub fn unsubscribe(self) {
        self.driven.block_on(self.subscription.unsubscribe());
    }
}

impl Iterator for Subscription {
    type Item = Received;

    fn next(&mut self) -> Option<Received> {
        self.recv()
    }
}
