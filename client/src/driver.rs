//! The task of a client: connects, moves bytes between socket and session, and connects again.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::addresses::Addresses;
use crate::backoff::Backoff;
use crate::coalesce::Coalesce;
use crate::error::{ConnectError, EndReason, LostReason};
use crate::event::Event;
use crate::session::{Hint, Over};
use crate::shared::{Shared, Status};
use crate::ticket::{Outcome, Teller};
use crate::timer::Timer;
use crate::transport::{self, Stream};
use crate::url::Address;

/// What one read takes at most. Shared by all clients of a thread: an idle one has no buffer.
const SCRATCH: usize = 64 * 1024;
/// Reads and writes before others on the same thread have their turn.
const ROUNDS: usize = 16;
/// How long a client that has ended waits for a socket that takes nothing, and then for the server to close.
const LINGER: Duration = Duration::from_secs(5);
/// How long what a server said before it left is waited for, when its end is noticed by a write.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A buffer larger than this is given back when it is empty.
const KEPT: usize = 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    /// An empty buffer for whoever writes next; only a client whose socket is full keeps its own.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs until the client ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(shared.options.reconnect.clone());
    let mut addresses = Addresses::new(&shared.options.addresses);
    loop {
        if shared.lock().session.ended().is_some() {
            break;
        }
        let address = addresses.next(Instant::now());
        let over = attempt(&shared, &address, &mut backoff).await;
        shared.with_driver(|locked| locked.closed(over.ended_by()));
        // Who waits for the first connection waits until every address was tried.
        if *shared.status.borrow() != Status::Starting || !addresses.has_untried(Instant::now()) {
            if let (Over::NotConnected(error, _), Status::Starting) = (&over, *shared.status.borrow()) {
                *shared.first_error.lock() = Some(error.clone());
            }
            shared.status.send_replace(Status::Offline);
        }
        if shared.lock().session.ended().is_some() {
            break;
        }
        let Some(wait) = after(&shared, over, &address, &mut backoff, &mut addresses) else { break };
        pause(&shared, wait).await;
    }
    shared.status.send_replace(Status::Ended);
    let why = shared.lock().session.ended().cloned().unwrap_or(EndReason::Dropped);
    shared.tell(Event::Ended(why));
    shared.room.notify_waiters();
    shared.drained.notify_waiters();
}

/// Waits, unless the client ends meanwhile. Messages expire meanwhile, too.
async fn pause(shared: &Shared, wait: Duration) {
    let until = Instant::now() + wait;
    let mut timer = Timer::default();
    poll_fn(|cx| {
        loop {
            let now = Instant::now();
            if now >= until {
                return Poll::Ready(());
            }
            let (ended, deadline) = shared.with_driver(|locked| {
                // It is not connected: there is nothing that could be wrong with the connection.
                let _ = locked.session.tick(now);
                let ended = locked.session.ended().is_some() || !locked.sleep(cx.waker(), false);
                (ended, locked.session.deadline())
            });
            if ended {
                return Poll::Ready(());
            }
            if timer.poll(cx, Some(deadline.map_or(until, |at| at.min(until)))).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// One connection, from the first byte to the last.
async fn attempt(shared: &Arc<Shared>, address: &Address, backoff: &mut Backoff) -> Over {
    let limit = shared.options.connect_timeout;
    let timed_out = || {
        let error = ConnectError::TimedOut { address: address.to_string(), seconds: limit.as_secs() };
        Over::NotConnected(error, Hint::default())
    };
    let started = Instant::now();
    // It is large, and done with soon: boxed, so that the task is small.
    let connecting = Box::pin(ended_first(shared, transport::connect(address, &shared.options)));
    let stream = match tokio::time::timeout(limit, connecting).await {
        Err(_) => return timed_out(),
        Ok(None) => return Over::Lost(LostReason::Ended, Hint::default()),
        Ok(Some(Err(error))) => return Over::NotConnected(error, Hint::default()),
        Ok(Some(Ok(stream))) => stream,
    };
    if let Err(error) = shared.with_driver(|locked| locked.session.open(Instant::now())) {
        return Over::NotConnected(error, Hint::default());
    }
    let mut connection = Connection {
        address: address.to_string(),
        stream,
        tail: Vec::new(),
        out: Vec::new(),
        written: 0,
        unwritten: Vec::new(),
        unflushed: false,
        coalesce: Coalesce::new(),
        acknowledges: false,
        stuck: false,
        timer: Timer::default(),
        connect_by: started.checked_add(limit),
        end_by: None,
        broken: None,
        online: false,
    };
    let over = poll_fn(|cx| connection.poll(shared, backoff, cx)).await;
    let unwritten = std::mem::take(&mut connection.unwritten);
    shared.with_driver(|locked| locked.session.settle_unwritten(unwritten, false));
    connection.close(matches!(over, Some(Over::Lost(LostReason::Ended, _)))).await;
    match over {
        Some(over) => over,
        None => timed_out(),
    }
}

/// `None` when the client ended before.
async fn ended_first<F: Future>(shared: &Shared, future: F) -> Option<F::Output> {
    tokio::pin!(future);
    poll_fn(|cx| {
        let awake = shared.with_driver(|locked| {
            // Messages that are accepted meanwhile wake nobody: there is no connection yet.
            let ended = locked.session.ended().is_some();
            locked.sleep(cx.waker(), false);
            ended
        });
        if awake { Poll::Ready(None) } else { future.as_mut().poll(cx).map(Some) }
    })
    .await
}

/// Tells what happened and how long to wait; `None`: the client has ended.
fn after(
    shared: &Shared,
    over: Over,
    address: &Address,
    backoff: &mut Backoff,
    addresses: &mut Addresses,
) -> Option<Duration> {
    let now = Instant::now();
    let was_online = matches!(over, Over::Lost(..));
    let (event, hint, for_good) = match over {
        Over::NotConnected(error, hint) => {
            tracing::debug!(%address, "not connected: {error}");
            let for_good = is_for_good(&error);
            (Event::Failed(error), hint, for_good)
        }
        Over::Lost(reason, hint) => {
            tracing::debug!(%address, "connection lost: {reason}");
            (Event::Lost(reason), hint, false)
        }
    };
    let what = match &event {
        Event::Failed(error) => error.to_string(),
        Event::Lost(reason) => format!("the connection was lost: {reason}"),
        Event::Connected(_)
        | Event::Waiting(_)
        | Event::SubscriptionEnded { .. }
        | Event::SetAside { .. }
        | Event::PutOff(_)
        | Event::GoesOn
        | Event::TooLarge { .. }
        | Event::Ended(_) => String::new(),
    };
    addresses.refer(hint.server_reference.as_deref(), address);
    if let Some(asked) = hint.retry_after {
        addresses.hold(address, now + backoff.patience(asked));
    }
    // Another address is tried at once; but all clients of a server that has gone would be at the next one together.
    let at_once = !was_online && !for_good && addresses.has_untried(now);
    shared.with_driver(|locked| locked.session.event(event));
    if at_once && shared.options.reconnect.max_attempts != Some(0) {
        return Some(Duration::ZERO);
    }
    let give_up = for_good && shared.options.reconnect.give_up_when_refused;
    let Some(wait) = backoff.next(now, for_good).filter(|_| !give_up) else {
        shared.end(EndReason::GaveUp(what), None);
        return None;
    };
    let wait = wait.max(addresses.wait(now));
    shared.with_driver(|locked| locked.session.event(Event::Waiting(wait)));
    Some(wait)
}

/// A refusal that the next attempt will get as well.
fn is_for_good(error: &ConnectError) -> bool {
    use forebay_wire::ReasonCode as R;
    if let ConnectError::Refused { reason, .. } = error {
        return matches!(
            reason,
            R::UnsupportedProtocolVersion
                | R::ClientIdentifierNotValid
                | R::BadUserNameOrPassword
                | R::NotAuthorized
                | R::Banned
                | R::BadAuthenticationMethod
        );
    }
    matches!(error, ConnectError::Authentication(_))
}

struct Connection {
    address: String,
    stream: Stream,
    /// An incomplete packet.
    tail: Vec<u8>,
    out: Vec<u8>,
    /// How much of `out` the socket has taken.
    written: usize,
    /// QoS 0 messages in `out` whose sender waits.
    unwritten: Vec<Teller<Outcome>>,
    unflushed: bool,
    coalesce: Coalesce,
    /// What comes is acknowledged at once by TCP: nothing was written since that was asked for.
    acknowledges: bool,
    /// The socket was full.
    stuck: bool,
    timer: Timer,
    /// CONNACK must have come by then.
    connect_by: Option<Instant>,
    /// The client has ended, and the socket must have taken the rest by then.
    end_by: Option<Instant>,
    /// Writing has failed: what that comes to, and until when it is read on.
    broken: Option<(Over, Instant)>,
    online: bool,
}

/// What a read or a write came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Progress,
    Blocked,
}

impl Connection {
    /// Ready when the connection is over; `None`: CONNACK did not come in time.
    fn poll(&mut self, shared: &Shared, backoff: &mut Backoff, cx: &mut Context<'_>) -> Poll<Option<Over>> {
        for _ in 0..ROUNDS {
            let read = match self.read(shared, cx) {
                Ok(step) => step,
                Err(over) => {
                    self.last_words(shared, cx);
                    return Poll::Ready(Some(self.which_says_more(over)));
                }
            };
            let write = self.write(shared, cx).unwrap_or_else(|over| {
                // What the server said before it left may be there still: why, and when to come back.
                self.coalesce.stop();
                self.broken = Some((over, Instant::now() + LAST_WORDS));
                Step::Progress
            });
            self.notice_online(shared, backoff);
            if read == Step::Progress || write == Step::Progress {
                continue;
            }
            let blocked = !self.out.is_empty() || self.broken.is_some();
            let (asleep, ended, deadline, holds_back) = shared.with_driver(|locked| {
                let session = &locked.session;
                let (ended, deadline, holds_back) =
                    (session.ended().is_some(), session.deadline(), session.holds_back());
                (locked.sleep(cx.waker(), blocked), ended, deadline, holds_back)
            });
            if holds_back && !self.acknowledges {
                self.acknowledges = true;
                self.stream.acknowledge_at_once();
            }
            if ended && !blocked {
                return Poll::Ready(Some(Over::Lost(LostReason::Ended, Hint::default())));
            }
            if ended && self.end_by.is_none() {
                self.end_by = Some(Instant::now() + LINGER);
            }
            if !asleep {
                continue;
            }
            let broken_by = self.broken.as_ref().map(|(_, by)| *by);
            let at = deadline.into_iter().chain(self.connect_by).chain(self.end_by).chain(broken_by).min();
            if self.timer.poll(cx, at).is_pending() {
                return Poll::Pending;
            }
            if let Some(over) = self.due(shared) {
                return Poll::Ready(over);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn notice_online(&mut self, shared: &Shared, backoff: &mut Backoff) {
        if !self.online && shared.lock().session.is_online() {
            self.online = true;
            self.connect_by = None;
            backoff.connected(Instant::now());
        }
    }

    fn due(&mut self, shared: &Shared) -> Option<Option<Over>> {
        let now = Instant::now();
        if let Some((over, _)) = self.broken.take_if(|(_, by)| now >= *by) {
            return Some(Some(over));
        }
        if self.connect_by.is_some_and(|by| now >= by) {
            return Some(None);
        }
        if self.end_by.is_some_and(|by| now >= by) {
            return Some(Some(Over::Lost(LostReason::Ended, Hint::default())));
        }
        shared.with_driver(|locked| locked.session.tick(now)).err().map(Some)
    }

    /// Reading has come to an end. A write may have before, and whoever closes a connection says less than whoever says why.
    fn which_says_more(&mut self, read: Over) -> Over {
        let says_nothing = match &read {
            Over::Lost(reason, _) => matches!(reason, LostReason::Closed | LostReason::Io(_)),
            Over::NotConnected(error, _) => matches!(error, ConnectError::Closed | ConnectError::Unreachable { .. }),
        };
        match self.broken.take() {
            Some((write, _)) if says_nothing => write,
            _ => read,
        }
    }

    fn read(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Result<Step, Over> {
        READ.with_borrow_mut(|scratch| {
            if shared.with_driver(|locked| {
                locked.paused = locked.session.inbox_is_full();
                locked.paused || locked.session.is_choked()
            }) {
                return Ok(Step::Blocked);
            }
            if self.coalesce.poll(cx).is_pending() {
                return Ok(Step::Blocked);
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.coalesce.nothing();
                    Ok(Step::Blocked)
                }
                Poll::Ready(Err(error)) => Err(self.lost(LostReason::Io(Arc::new(error)))),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(self.lost(LostReason::Closed)),
                Poll::Ready(Ok(())) => self.received(shared, buffer.filled()).map(|()| Step::Progress),
            }
        })
    }

    fn received(&mut self, shared: &Shared, bytes: &[u8]) -> Result<(), Over> {
        let now = Instant::now();
        if shared.options.coalesce {
            self.coalesce.read(now, bytes.len());
        }
        if self.tail.is_empty() {
            let taken = shared.with_driver(|locked| locked.session.receive(now, bytes))?;
            self.tail.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        } else {
            self.tail.extend_from_slice(bytes);
            let taken = shared.with_driver(|locked| locked.session.receive(now, &self.tail))?;
            self.tail.drain(..taken);
        }
        if self.tail.is_empty() && self.tail.capacity() > KEPT {
            self.tail = Vec::new();
        }
        Ok(())
    }

    fn write(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Result<Step, Over> {
        if self.broken.is_some() {
            return Ok(Step::Blocked);
        }
        let now = Instant::now();
        if self.out.is_empty() {
            self.out = SPARE.take();
            let (out, unwritten) = (&mut self.out, &mut self.unwritten);
            let spoke = shared.with_driver(|locked| {
                let sent = locked.session.sent();
                locked.session.fill(now, out, unwritten);
                locked.session.sent() > sent && !locked.session.is_saturated()
            });
            if spoke {
                self.coalesce.stop();
            }
        }
        self.push(shared, cx)
    }

    /// Gives the socket what there is.
    fn push(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Result<Step, Over> {
        let mut step = Step::Blocked;
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => {
                    self.stuck = true;
                    return Ok(step);
                }
                Poll::Ready(Ok(0)) => return Err(self.lost(LostReason::Closed)),
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    if std::mem::take(&mut self.stuck) {
                        shared.with_driver(|locked| locked.session.line_moves(Instant::now()));
                    }
                    (self.unflushed, self.acknowledges) = (true, false);
                    step = Step::Progress;
                }
                Poll::Ready(Err(error)) => return Err(self.lost(LostReason::Io(Arc::new(error)))),
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => return Ok(step),
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(self.lost(LostReason::Io(Arc::new(error)))),
            }
            self.all_written(shared);
        } else if self.out.is_empty() {
            SPARE.replace(std::mem::take(&mut self.out));
        }
        Ok(step)
    }

    fn all_written(&mut self, shared: &Shared) {
        self.out.clear();
        self.written = 0;
        SPARE.replace(std::mem::take(&mut self.out));
        let unwritten = std::mem::take(&mut self.unwritten);
        shared.with_driver(|locked| locked.session.settle_unwritten(unwritten, true));
    }

    fn lost(&self, reason: LostReason) -> Over {
        if self.online {
            return Over::Lost(reason, Hint::default());
        }
        let error = match reason {
            LostReason::Io(error) => self.not_connected(error),
            LostReason::Closed
            | LostReason::KeepAlive
            | LostReason::Server { .. }
            | LostReason::Protocol(_)
            | LostReason::Authentication(_)
            | LostReason::Ended => ConnectError::Closed,
        };
        Over::NotConnected(error, Hint::default())
    }

    fn not_connected(&self, error: Arc<io::Error>) -> ConnectError {
        use io::ErrorKind as Kind;
        let address = self.address.clone();
        match error.kind() {
            // This is how some servers refuse.
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                ConnectError::Closed
            }
            // With TLS 1.3 a server refuses the client's certificate when for the client all is well already.
            #[cfg(feature = "tls")]
            Kind::InvalidData if address.starts_with("mqtts:") || address.starts_with("wss:") => {
                ConnectError::Tls { address, detail: crate::tls::explain(&error) }
            }
            _ => ConnectError::Unreachable { address, error },
        }
    }

    /// DISCONNECT with what the server did wrong, if the socket takes it. No message more: it would be lost.
    fn last_words(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        if self.broken.is_some() {
            return;
        }
        shared.with_driver(|locked| locked.session.last_words(&mut self.out));
        let _ = self.push(shared, cx);
    }

    /// Closes. At the `end` of the client it waits for the server to close as well: TCP throws away what the other side has not
    /// got yet, DISCONNECT included, when something comes for a socket that is gone (RFC 1122, 4.2.2.13).
    async fn close(mut self, end: bool) {
        let closing = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        let closed = tokio::time::timeout(Duration::from_millis(200), closing).await;
        if end && matches!(closed, Ok(Ok(()))) {
            let _ = tokio::time::timeout(LINGER, poll_fn(|cx| self.poll_end(cx))).await;
        }
    }

    /// Reads to the end, for nobody.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        READ.with_borrow_mut(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
        })
    }
}
