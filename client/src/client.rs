//! The handle that programs hold.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use forebay_wire::reason::ReasonCode;
use tokio::sync::broadcast;

use crate::driver;
use crate::error::{ConnectError, EndReason, PublishError, SubscribeError};
use crate::event::{Event, PutOff};
use crate::message::{Message, Received, Restored};
use crate::options::{Options, Subscribe, WhenFull};
use crate::session::Session;
#[cfg(not(feature = "durable"))]
use crate::session::journal::Journal;
use crate::session::journal::OpNumber;
use crate::session::outbox::NoRoom;
use crate::shared::{Shared, Status, wall_time};
use crate::stats::Stats;
use crate::ticket::{Ticket, Told, pair};

/// How long [`Client::disconnect`] waits for acknowledgements of what was accepted.
const FLUSH: Duration = Duration::from_secs(5);

/// A client. Clones are cheap and are the same client; it ends when the last of them, and the last [`Subscription`], is
/// dropped (as [`Client::close`] does), or with [`Client::disconnect`]. Every future may be dropped at any point: nothing is lost by that.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(EndReason::Dropped, Some(ReasonCode::Success));
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.handle.shared.options).finish_non_exhaustive()
    }
}

impl Options {
    /// Starts a client that connects, and connects again, in the background. To be called within a tokio runtime.
    ///
    /// With a durable outbox this reads its file, and blocks the thread meanwhile: for as long as that takes, and for half a
    /// second more where the disk fails. [`Options::connect`] does not.
    ///
    /// # Errors
    /// What is wrong with the options, or with the file of the durable outbox.
    pub fn start(self) -> Result<Client, ConnectError> {
        self.check()?;
        Past::open(Arc::new(self))?.start()
    }

    /// Starts a client and waits for its first connection. When that fails the client is ended.
    ///
    /// # Errors
    /// Why the first connection failed.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        self.check()?;
        let client = Past::open_aside(Arc::new(self)).await?.start()?;
        let shared = &client.handle.shared;
        let mut status = shared.status.subscribe();
        // The sender lives as long as the client does.
        let _ = status.wait_for(|status| *status != Status::Starting).await;
        match shared.first_error.lock().take() {
            Some(error) => Err(error),
            None => Ok(client.clone()),
        }
    }
}

/// What a client begins with: what an earlier run of the program left in the durable outbox.
struct Past {
    options: Arc<Options>,
    session: Session,
    #[cfg(feature = "durable")]
    store: Option<crate::durable::Store>,
}

impl Past {
    #[cfg(feature = "durable")]
    fn open(options: Arc<Options>) -> Result<Self, ConnectError> {
        let (session, store) = crate::durable::open(&options)?;
        Ok(Self { options, session, store })
    }

    #[cfg(not(feature = "durable"))]
    fn open(options: Arc<Options>) -> Result<Self, ConnectError> {
        let session = Session::new(options.clone(), Journal::default(), Instant::now());
        Ok(Self { options, session })
    }

    /// The same; a file is read on a thread that may wait for it.
    async fn open_aside(options: Arc<Options>) -> Result<Self, ConnectError> {
        #[cfg(feature = "durable")]
        if options.durable.is_some() {
            let opened = tokio::task::spawn_blocking(|| Self::open(options)).await;
            return opened.unwrap_or_else(|error| Err(ConnectError::Store(error.to_string())));
        }
        Self::open(options)
    }

    fn start(self) -> Result<Client, ConnectError> {
        #[allow(unused_mut, reason = "the durable outbox has a thread to signal")]
        let mut shared = Shared::new(self.options, self.session);
        #[cfg(feature = "durable")]
        let shared = crate::durable::attach(shared, self.store)?;
        #[cfg(not(feature = "durable"))]
        let shared = Arc::new(shared);
        tokio::spawn(driver::run(shared.clone()));
        Ok(Client { handle: Arc::new(Handle { shared }) })
    }
}

impl Client {
    /// Publishes: resolves when the outbox has the message (with a durable outbox: when it is on disk), connected or not,
    /// and waits for room where the outbox's policy says so. The ticket resolves when it is acknowledged. When this future
    /// is dropped before it resolves, the message is either not accepted, or will be sent.
    ///
    /// # Errors
    /// The message cannot be sent, there is no room, or the client has ended.
    pub async fn publish(&self, message: Message) -> Result<Ticket, PublishError> {
        message.check().map_err(PublishError::Invalid)?;
        let shared = &self.handle.shared;
        let mut message = message;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.offer(message, None, true)? {
                Offered::Taken(ticket, op) => {
                    self.safe(op).await?;
                    return Ok(ticket);
                }
                Offered::Full(back) => message = back,
            }
            room.await;
        }
    }

    /// Publishes without waiting for room (nor for the disk).
    ///
    /// # Errors
    /// As for [`Client::publish`]; [`PublishError::Full`] gives the message back.
    pub fn try_publish(&self, message: Message) -> Result<Ticket, PublishError> {
        message.check().map_err(PublishError::Invalid)?;
        match self.offer(message, None, false)? {
            Offered::Taken(ticket, _) => Ok(ticket),
            Offered::Full(message) => Err(PublishError::Full(message)),
        }
    }

    /// As [`Client::try_publish`], and notes a mark of the program's own: a durable outbox writes both in one commit. A
    /// program that moves messages from a queue of its own into the outbox marks each with its place there, and knows after
    /// a crash, by [`Client::mark`], how far it had come: none is moved twice, and none is left out.
    ///
    /// # Errors
    /// As for [`Client::try_publish`]; the mark is not noted then.
    pub fn try_publish_marked(&self, message: Message, mark: u64) -> Result<Ticket, PublishError> {
        message.check().map_err(PublishError::Invalid)?;
        match self.offer(message, Some(mark), false)? {
            Offered::Taken(ticket, _) => Ok(ticket),
            Offered::Full(message) => Err(PublishError::Full(message)),
        }
    }

    /// The last mark; `None`: there never was one. See [`Client::try_publish_marked`].
    #[must_use]
    pub fn mark(&self) -> Option<u64> {
        self.handle.shared.with(|session| session.mark())
    }

    /// The message that the server refuses and for which all others wait, if there is one; see
    /// [`Options::when_refused`](crate::Options::when_refused).
    #[must_use]
    pub fn put_off(&self) -> Option<PutOff> {
        self.handle.shared.with(|session| session.put_off())
    }

    /// Messages that an earlier run of the program left in the durable outbox and that are still there, with tickets that say what
    /// becomes of them; in their order. Each is given once.
    #[must_use]
    pub fn restored(&self) -> Vec<Restored> {
        let left = self.handle.shared.with(|session| session.adopt());
        left.into_iter().map(|(frame, told)| Restored::new(frame.message(), Ticket { told })).collect()
    }

    /// Notes a mark without a message, for a program whose queue has begun anew.
    pub fn set_mark(&self, mark: u64) {
        self.handle.shared.with(|session| session.set_mark(mark));
    }

    /// Resolves when everything that was accepted or marked before this call is on disk; at once without a durable outbox. The future
    /// may outlive this handle, and dropping it changes nothing.
    ///
    /// # Errors
    /// The client has ended before it was.
    pub fn stored(&self) -> impl Future<Output = Result<(), PublishError>> + Send + 'static {
        let handle = self.handle.clone();
        async move {
            #[cfg(feature = "durable")]
            if let Some(store) = &handle.shared.store {
                return store.all_safe(&handle.shared).await;
            }
            drop(handle);
            Ok(())
        }
    }

    fn offer(&self, message: Message, mark: Option<u64>, may_wait: bool) -> Result<Offered, PublishError> {
        let shared = &self.handle.shared;
        let (teller, told) = pair();
        let size = message.topic.len() + message.payload.len();
        let may_wait = may_wait && shared.options.outbox.when_full == WhenFull::Wait;
        let taken = shared.with(|session| match session.ended() {
            Some(why) => Err(PublishError::Ended(why.clone())),
            None => {
                let taken = session.publish(Instant::now(), wall_time(), message, teller);
                Ok(taken.map(|op| mark.map_or(op, |mark| session.set_mark(mark))))
            }
        })?;
        match taken {
            Ok(op) => Ok(Offered::Taken(Ticket { told }, op)),
            Err((NoRoom::TooLarge, _)) => Err(PublishError::TooLarge { size, max: shared.options.outbox.max_bytes }),
            Err((NoRoom::Full(size), message)) if may_wait => {
                shared.lock().want_room(size);
                // Room may have come since it was looked for.
                shared.with(|_| ());
                Ok(Offered::Full(message))
            }
            Err((NoRoom::Full(_), message)) => Err(PublishError::Full(message)),
        }
    }

    #[cfg(not(feature = "durable"))]
    async fn safe(&self, _: OpNumber) -> Result<(), PublishError> {
        Ok(())
    }

    #[cfg(feature = "durable")]
    async fn safe(&self, op: OpNumber) -> Result<(), PublishError> {
        match &self.handle.shared.store {
            Some(store) => store.safe(&self.handle.shared, op).await,
            None => Ok(()),
        }
    }

    /// Subscribes: resolves when the server has answered. Connections that come and go meanwhile do not matter. Dropping
    /// this future takes the subscription back. The answer is behind all that the server has sent before: while it is waited
    /// for, other subscriptions are to be read when more comes for them than [`Inbox::max_bytes`](crate::Inbox::max_bytes).
    ///
    /// # Errors
    /// A filter is not valid, the server refused all of them, or the client has ended.
    pub async fn subscribe(&self, what: impl Into<Subscribe>) -> Result<Subscription, SubscribeError> {
        let what = what.into();
        what.check().map_err(SubscribeError::Invalid)?;
        let (teller, told) = pair();
        let filters = what.filters.len();
        let key = self.handle.shared.with(|session| match session.ended() {
            Some(why) => Err(SubscribeError::Ended(why.clone())),
            None => Ok(session.subscribe(what, teller)),
        })?;
        // From here on dropping the subscription takes it back.
        let mut subscription =
            Subscription { client: self.clone(), key: Some(key), granted: Vec::with_capacity(filters) };
        subscription.granted = poll_fn(|cx| told.poll(cx)).await?;
        Ok(subscription)
    }

    /// Says that the program is done with a message of a subscription with
    /// [`manual_ack`](crate::Subscribe::manual_ack). False: there is nothing to acknowledge, since it is QoS 0, or was
    /// acknowledged before, or the server has lost the session in which it came. Messages are acknowledged to the server in the order in which they came, so one that is never
    /// acknowledged holds back those after it.
    pub fn ack(&self, received: &Received) -> bool {
        received.token.is_some_and(|token| self.handle.shared.with(|session| session.ack(token, ReasonCode::Success)))
    }

    /// As [`Client::ack`], but says that the program cannot take the message; MQTT 5 tells the server why.
    pub fn refuse(&self, received: &Received, reason: ReasonCode) -> bool {
        received.token.is_some_and(|token| self.handle.shared.with(|session| session.ack(token, reason)))
    }

    /// What happens to the connection from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        let shared = &self.handle.shared;
        let receiver = shared.listen();
        // The status changes before the last event is sent.
        let ended = *shared.status.borrow() == Status::Ended;
        Events { receiver, ended }
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.handle.shared.status.borrow() == Status::Online
    }

    /// Resolves when nothing waits to be sent or acknowledged any more, or the client has ended.
    pub async fn drained(&self) {
        let shared = &self.handle.shared;
        loop {
            let drained = shared.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let mut locked = shared.lock();
                if locked.session.is_drained() || locked.session.ended().is_some() {
                    return;
                }
                locked.want_drain();
            }
            drained.await;
        }
    }

    /// Sends what was accepted, waits for its acknowledgements, and ends the client with DISCONNECT, which the server takes
    /// for its will not to be published. This waits for at most 5 s, for a connection as well when there is none; a durable
    /// outbox keeps its messages, so that nothing is waited for without a connection. What is not acknowledged after that time
    /// is dropped and its tickets are told so (a durable outbox keeps it for the next start): await [`Client::drained`]
    /// first to wait longer, or call [`Client::close`] not to wait. Resolves when the connection is closed on both sides: the
    /// server has another 5 s to take what is left, and 5 s to close.
    pub async fn disconnect(&self) {
        self.disconnect_with(ReasonCode::Success).await;
    }

    /// As [`Client::disconnect`], with a reason; [`ReasonCode::DisconnectWithWill`] has the will published.
    pub async fn disconnect_with(&self, reason: ReasonCode) {
        if self.is_connected() || !self.is_durable() {
            // What is late is dropped, or kept, and told so.
            let _ = tokio::time::timeout(FLUSH, self.drained()).await;
        }
        self.close_with(reason).await;
    }

    fn is_durable(&self) -> bool {
        #[cfg(feature = "durable")]
        return self.handle.shared.store.is_some();
        #[cfg(not(feature = "durable"))]
        false
    }

    /// Ends the client with DISCONNECT at once. Messages that are not written, or not acknowledged, yet are dropped and their
    /// tickets told so (a durable outbox keeps them for the next start). Resolves as [`Client::disconnect`] does.
    pub async fn close(&self) {
        self.close_with(ReasonCode::Success).await;
    }

    async fn close_with(&self, reason: ReasonCode) {
        let mut status = self.handle.shared.status.subscribe();
        self.handle.shared.end(EndReason::Disconnected, Some(reason));
        // An error means that the driver is gone.
        let _ = status.wait_for(|status| *status == Status::Ended).await;
        #[cfg(feature = "durable")]
        if let Some(store) = &self.handle.shared.store {
            store.closed().await;
        }
    }

    /// Starts a re-authentication. False without a connection or an authenticator.
    ///
    /// # Errors
    /// The authenticator's.
    pub fn reauthenticate(&self) -> Result<bool, String> {
        self.handle.shared.with(Session::reauthenticate)
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.shared.with(|session| session.stats())
    }

    /// The client identifier in use; empty until a server has given one.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.handle.shared.with(|session| session.client_id().to_owned())
    }

    /// What the server said about where answers should go.
    #[must_use]
    pub fn response_information(&self) -> Option<String> {
        self.handle.shared.with(|session| session.response_information().map(str::to_owned))
    }
}

enum Offered {
    Taken(Ticket, OpNumber),
    Full(Message),
}

/// Messages that match the filters of one [`Client::subscribe`]. They stay here, and unacknowledged, until they are read;
/// when much is unread the client reads no more from the server. Dropping it unsubscribes, unless the session outlives the
/// program ([`Options::session_expiry`]): then what was not read is kept
/// for the next who subscribes to it, see [`Inbox::unclaimed_for`](crate::Inbox::unclaimed_for).
pub struct Subscription {
    client: Client,
    /// `None` when the session does not know it any more.
    key: Option<usize>,
    granted: Vec<ReasonCode>,
}

impl Subscription {
    /// The next message; `None` when the stream has ended and all is read: the client has ended, or the server has lost the
    /// subscription and refuses it now. [`Subscription::ended`] says which, and why. A message is acknowledged as it is given out,
    /// unless the subscription acknowledges by hand. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Received> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message, if there is one.
    pub fn try_recv(&mut self) -> Option<Received> {
        let key = self.key?;
        self.client.handle.shared.with(|session| session.take(key))
    }

    /// [`Subscription::recv`] for those who poll.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        let Some(key) = self.key else { return Poll::Ready(None) };
        self.client.handle.shared.with(|session| match session.take(key) {
            Some(received) => Poll::Ready(Some(received)),
            None if session.ended().is_some() || session.subscriptions().is_at_its_end(key) => Poll::Ready(None),
            None => {
                session.subscriptions().wake_with(key, cx.waker());
                Poll::Pending
            }
        })
    }

    /// Why nothing comes any more but what is here; `None` while more may come.
    #[must_use]
    pub fn ended(&self) -> Option<SubscribeError> {
        let of_server = |session: &mut Session| self.key.and_then(|key| session.subscriptions().ended(key));
        self.client
            .handle
            .shared
            .with(|session| of_server(session).or_else(|| session.ended().cloned().map(SubscribeError::Ended)))
    }

    /// What the server said to each filter when it was asked first: the QoS granted, or why not.
    #[must_use]
    pub fn granted(&self) -> &[ReasonCode] {
        &self.granted
    }

    /// Unsubscribes, and resolves when the server has answered. What is unread is dropped. Other subscriptions are to be read
    /// meanwhile, as with [`Client::subscribe`].
    pub async fn unsubscribe(mut self) {
        let Some(key) = self.key.take() else { return };
        let (teller, told): (_, Told<()>) = pair();
        let asked = self.client.handle.shared.with(|session| {
            let alive = session.ended().is_none();
            if alive {
                session.unsubscribe(key, Some(teller));
            }
            alive
        });
        if asked {
            poll_fn(|cx| told.poll(cx)).await;
        }
    }

    /// The client that it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let shared = &self.client.handle.shared;
            let stays = shared.options.session_expiry.is_some_and(|expiry| !expiry.is_zero());
            // One that was never granted was cancelled.
            let stays = stays && !self.granted.is_empty();
            shared.with(
                |session| if stays { session.detach(Instant::now(), key) } else { session.unsubscribe(key, None) },
            );
        }
    }
}

impl futures_core::Stream for Subscription {
    type Item = Received;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        self.poll_recv(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("granted", &self.granted).finish_non_exhaustive()
    }
}

/// Events of a client, from when it was asked for. One who does not listen misses the oldest, never the newest.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    ended: bool,
}

impl Events {
    /// The next event; `None` after [`Event::Ended`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            match self.receiver.recv().await {
                Ok(event) => {
                    self.ended = matches!(event, Event::Ended(_));
                    return Some(event);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
        None
    }
}

/// Keeps the compiler honest: what programs spawn must be `Send`.
#[allow(dead_code, reason = "it is only compiled")]
fn is_send(client: &Client) -> impl Future<Output = Result<Ticket, PublishError>> + Send + '_ {
    client.publish(Message::new("t", ""))
}
