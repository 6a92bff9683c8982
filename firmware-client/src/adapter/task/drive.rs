//! The task that serves the connection.

use super::{Inner, Shared};
use crate::client::Client;
use crate::store::{Access, Store};
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use embassy_sync::blocking_mutex::raw::RawMutex;
use embedded_io_async::{Read, Write};

/// How long a connection may take to be made, or what is to be written to be taken.
const LIMIT_MS: u64 = 30_000;

/// How long a server that takes nothing any more is listened to.
const LAST_WORDS_MS: u64 = 1_000;

/// A clock in milliseconds that does not go back, and an alarm.
#[allow(async_fn_in_trait, reason = "whoever runs it knows whether its futures cross threads")]
pub trait Time {
    /// What it says now.
    fn now(&self) -> u64;

    /// Is ready when [`now`](Self::now) says `at` or more. May be dropped at any time.
    async fn wait_until(&self, at: u64);
}

/// Opens connections.
#[allow(async_fn_in_trait, reason = "whoever runs it knows whether its futures cross threads")]
pub trait Connector {
    /// Why there is none.
    type Error;
    /// A connection. It is closed when it is dropped.
    type Transport<'c>: Read + Write
    where
        Self: 'c;

    /// Opens one. The client waits between attempts; here nothing is tried twice. May be dropped at any time.
    ///
    /// # Errors
    /// There is none to be had.
    async fn connect(&mut self) -> Result<Self::Transport<'_>, Self::Error>;
}

/// The part of a [`Device`](super::Device) that serves the connection.
pub struct Runner<'d, 'a, M: RawMutex, T, S = ()> {
    shared: &'d Shared<'a, M, T>,
    scratch: &'d mut [u8],
    store: S,
}

/// The transport is of no use any more.
struct Broken;

/// Why the task goes on.
enum Woken<E> {
    /// Bytes came, so many; or the connection broke.
    Read(Result<usize, E>),
    Work,
    Time,
}

impl<'d, 'a, M: RawMutex, T: Time, S: Store> Runner<'d, 'a, M, T, S> {
    pub(super) fn new(shared: &'d Shared<'a, M, T>, scratch: &'d mut [u8], store: S) -> Self {
        Self { shared, scratch, store }
    }

    /// The store behind the outbox.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Serves the connection for ever: connects when it is time, and starts again when the connection ends.
    pub async fn run<C: Connector>(&mut self, connector: &mut C) -> Infallible {
        loop {
            self.drive(connector, None).await;
        }
    }

    /// For a device that sleeps: connects, sends what is there, and ends the connection in order when all of it is safe, or
    /// at `deadline`. Whether it was all. The session stays as it is, see [`Client::export`](crate::Client::export), and a
    /// time that the server has asked for is waited for.
    pub async fn drain_until<C: Connector>(&mut self, connector: &mut C, deadline: u64) -> bool {
        self.shared.with(|_, inner| inner.client.want_connection());
        self.drive(connector, Some(deadline)).await;
        self.shared.with(|_, inner| inner.client.is_drained()).unwrap_or(false)
    }

    /// One connection after the other; ends only at a deadline, or before it when all is safe.
    async fn drive<C: Connector>(&mut self, connector: &mut C, deadline: Option<u64>) {
        let shared = self.shared;
        loop {
            // What the store cannot keep stays in the outbox.
            let _ = self.store.settle(&mut Way(shared)).await;
            let state = shared.with(|now, inner| {
                events(now, inner);
                inner.waiters.wake();
                (now, inner.client.connect_at(), inner.client.next_timeout(), inner.client.is_drained())
            });
            let Some((now, connect_at, timeout, drained)) = state else { return };
            if deadline.is_some_and(|deadline| drained || now >= deadline) {
                return;
            }
            if connect_at.is_none_or(|at| at > now) {
                let next = [connect_at, timeout, deadline].into_iter().flatten().min();
                wait(shared, next, pending::<Infallible>()).await;
                continue;
            }
            let limit = now.saturating_add(LIMIT_MS);
            let limit = deadline.map_or(limit, |deadline| limit.min(deadline));
            let Ok(mut transport) = within(&shared.time, limit, connector.connect()).await else {
                shared.with(|now, inner| inner.client.disconnected(now));
                continue;
            };
            shared.with(|now, inner| {
                inner.input.clear();
                inner.client.hold_messages(true);
                inner.client.connected(now);
            });
            // Also when this future is dropped.
            let ended = Ended(shared);
            let _ = self.serve(&mut transport, deadline).await;
            drop(ended);
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, transport: &mut (impl Read + Write), deadline: Option<u64>) -> Result<(), Broken> {
        let shared = self.shared;
        let half = self.scratch.len() / 2;
        let store = &mut self.store;
        let (incoming, out) = self.scratch.split_at_mut_checked(half).ok_or(Broken)?;
        // What has come and has no room in the input yet.
        let (mut from, mut to) = (0usize, 0usize);
        let mut over = false;
        // A write has failed, as it does once the server has hung up. Why it did, and for how long it wants to be left alone,
        // may still come until then.
        let mut last_words: Option<u64> = None;
        loop {
            let mut written = false;
            loop {
                let _ = store.settle(&mut Way(shared)).await;
                let len = shared.with(|now, inner| {
                    if deadline.is_some_and(|deadline| now >= deadline || inner.client.is_drained()) {
                        inner.client.part(now);
                    }
                    take_in(now, inner, incoming.get(from..to).unwrap_or_default(), &mut from);
                    store.allow(&mut inner.client);
                    if last_words.is_some() { 0 } else { inner.client.poll_transmit(now, out) }
                });
                let Some(written_out) = len.filter(|len| *len > 0).and_then(|len| out.get(..len)) else { break };
                store.seal(&mut Way(shared)).await.map_err(|_| Broken)?;
                written = write(shared, transport, written_out).await.is_ok();
                if !written {
                    last_words = Some(shared.time.now().saturating_add(LAST_WORDS_MS));
                }
            }
            if written {
                let limit = shared.time.now().saturating_add(LIMIT_MS);
                if within(&shared.time, limit, transport.flush()).await.is_err() {
                    last_words = Some(shared.time.now().saturating_add(LAST_WORDS_MS));
                }
            }
            let state = shared.with(|now, inner| {
                inner.waiters.wake();
                (now, inner.client.should_close(), inner.client.next_timeout())
            });
            let Some((now, should_close, timeout)) = state else { return Err(Broken) };
            if should_close || (over && from == to) {
                return Ok(());
            }
            // What is due is not sent any more.
            let timeout = last_words.or(timeout);
            let next = [timeout, deadline].into_iter().flatten().min();
            if last_words.is_some() && next.is_some_and(|at| at <= now) {
                return Err(Broken);
            }
            // The server's last words come before its silence; what is not taken in yet is not read over.
            let woken = if over || from < to {
                wait(shared, next, pending()).await
            } else {
                wait(shared, next, transport.read(incoming)).await
            };
            match woken {
                Woken::Read(Ok(0)) => over = true,
                Woken::Read(Ok(len)) => (from, to) = (0, len),
                Woken::Read(Err(_)) => return Err(Broken),
                Woken::Work | Woken::Time => {}
            }
        }
    }
}

/// The way to the client for a store.
struct Way<'d, 'a, M: RawMutex, T>(&'d Shared<'a, M, T>);

impl<M: RawMutex, T: Time> Access for Way<'_, '_, M, T> {
    fn client<R>(&mut self, f: impl FnOnce(u64, &mut Client<'_>) -> R) -> Option<R> {
        self.0.with(|now, inner| f(now, &mut inner.client))
    }
}

/// The connection has ended, however.
struct Ended<'d, 'a, M: RawMutex, T: Time>(&'d Shared<'a, M, T>);

impl<M: RawMutex, T: Time> Drop for Ended<'_, '_, M, T> {
    fn drop(&mut self) {
        self.0.with(|now, inner| {
            inner.client.disconnected(now);
            inner.waiters.wake();
        });
    }
}

/// Moves what has come into the input and handles it, as far as it goes.
fn take_in(now: u64, inner: &mut Inner<'_>, mut bytes: &[u8], from: &mut usize) {
    loop {
        let taken = inner.input.fill(bytes);
        *from = from.saturating_add(taken);
        bytes = bytes.get(taken..).unwrap_or_default();
        events(now, inner);
        if taken == 0 {
            return;
        }
    }
}

/// Tells of what has happened, up to the next message.
fn events(now: u64, inner: &mut Inner<'_>) {
    while let Some(event) = inner.client.poll_event(now, &mut inner.input) {
        if let Some(on_event) = inner.on_event {
            on_event(&event);
        }
    }
}

async fn pending<E>() -> Result<usize, E> {
    core::future::pending().await
}

/// Waits until something is to be done.
async fn wait<E, M: RawMutex, T: Time>(
    shared: &Shared<'_, M, T>,
    until: Option<u64>,
    read: impl Future<Output = Result<usize, E>>,
) -> Woken<E> {
    let mut read = pin!(read);
    let mut alarm = pin!(async {
        match until {
            Some(at) => shared.time.wait_until(at).await,
            None => core::future::pending().await,
        }
    });
    poll_fn(|context| {
        let work = shared.with(|_, inner| {
            inner.task.register(context.waker());
            core::mem::take(&mut inner.work)
        });
        if work.unwrap_or(true) {
            return Poll::Ready(Woken::Work);
        }
        if let Poll::Ready(read) = read.as_mut().poll(context) {
            return Poll::Ready(Woken::Read(read));
        }
        alarm.as_mut().poll(context).map(|()| Woken::Time)
    })
    .await
}

/// A future that is given up at `limit`.
async fn within<R, E>(time: &impl Time, limit: u64, work: impl Future<Output = Result<R, E>>) -> Result<R, Broken> {
    let mut work = pin!(work);
    let mut alarm = pin!(time.wait_until(limit));
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done.map_err(|_| Broken));
        }
        alarm.as_mut().poll(context).map(|()| Err(Broken))
    })
    .await
}

async fn write<M: RawMutex, T: Time>(
    shared: &Shared<'_, M, T>,
    transport: &mut impl Write,
    mut bytes: &[u8],
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let limit = shared.time.now().saturating_add(LIMIT_MS);
        let len = within(&shared.time, limit, transport.write(bytes)).await?;
        bytes = bytes.get(len..).filter(|_| len > 0).ok_or(Broken)?;
    }
    Ok(())
}
