//! The one place where a socket meets a session. A connection is polled by the worker that owns it (see `crew`); while it is
//! idle it owns no buffer.
//!
//! ```text
//!   socket ─► scratch of the worker ─► frames ─► session, fan-out ─► acks
//!   session's buffer ─► socket                    (whenever the session has something, woken by its slot)
//! ```

mod control;
mod crew;
mod end;
pub(crate) mod handshake;
mod input;
mod pace;
mod parked;
pub(crate) mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use forebay_wire::types::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::auth::Authentication;
use crate::broker::{Broker, Slot};
use crate::codec;
use crate::config;
use crate::session::Durability;

pub use crew::drive;

use end::End;
use pace::Pace;
use parked::Parked;
use worker::Scratch;

/// Reads of one connection before the others of its worker have their turn.
const READS_A_TURN: usize = 4;

/// Serves a transport that is neither TCP nor TLS, on the current runtime. False: no connection came of it.
pub async fn serve_stream<S: Stream>(stream: S, on: &Arc<Shared>) -> bool {
    on.sockets.fetch_add(1, Ordering::Relaxed);
    let begun = handshake::begin(stream, on).await;
    if !begun {
        on.sockets.fetch_sub(1, Ordering::Relaxed);
    }
    begun
}

/// A transport: TCP, or TLS on it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What all connections of one listener share.
pub struct Shared {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The listener's configuration.
    pub listener: config::Listener,
    /// How to do TLS on it.
    pub tls: Option<tokio_rustls::TlsAcceptor>,
    /// Sockets of this listener that are open.
    pub sockets: AtomicUsize,
    /// Limits of packets.
    pub limits: codec::Limits,
    durability: Durability,
}

impl Shared {
    /// For one listener.
    #[must_use]
    pub fn new(broker: &Arc<Broker>, listener: config::Listener, tls: Option<Arc<rustls::ServerConfig>>) -> Arc<Self> {
        let limits = &broker.config.limits;
        Arc::new(Self {
            broker: broker.clone(),
            tls: tls.map(tokio_rustls::TlsAcceptor::from),
            sockets: AtomicUsize::new(0),
            limits: codec::Limits {
                max_user_properties: limits.max_user_properties,
                max_filters_per_packet: limits.max_filters_per_packet,
                max_topic_levels: limits.max_topic_levels,
                max_client_id_len: limits.max_client_id_len,
            },
            durability: durability(listener.durability),
            listener,
        })
    }

    /// When a publish on the topic is acknowledged: the first rule that matches, or the listener's.
    fn durability(&self, topic: &str) -> Durability {
        let rules = &self.broker.config.durability;
        if rules.is_empty() {
            return self.durability;
        }
        let rule = rules.iter().find(|rule| forebay_wire::topic::matches(&rule.filter, topic));
        rule.map_or(self.durability, |rule| durability(rule.durability))
    }
}

fn durability(of: config::Durability) -> Durability {
    match of {
        config::Durability::Commit => Durability::Commit,
        config::Durability::Interval(_) => Durability::Interval,
        config::Durability::Memory => Durability::Memory,
    }
}

/// A connection that is past its CONNECT.
pub(crate) struct Connection<S: Stream> {
    stream: S,
    on: Arc<Shared>,
    slot: Arc<Slot>,
    epoch: u32,
    version: Version,
    problem_information: bool,
    /// The session has been told that this connection is over.
    over: bool,
    /// TLS holds written bytes that the socket did not take.
    unflushed: bool,
    /// The tail holds packets that have not been looked at.
    tail_is_fresh: bool,
    written: u32,
    /// Bytes of a packet that is not complete.
    tail: Vec<u8>,
    /// Bytes that the socket did not take; the first `written` of them it did.
    out: Vec<u8>,
    pace: Option<Box<Pace>>,
    parked: Option<Box<Parked>>,
    /// Enhanced authentication: the method, and the exchange that is under way.
    auth: Option<Box<Authentication>>,
}

impl<S: Stream> Connection<S> {
    /// Does what there is to do; ready when the connection is over.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match worker::with(|scratch| self.turn(scratch, cx)) {
            Ok(()) => Poll::Pending,
            Err(end) => {
                self.finish(end, cx);
                Poll::Ready(())
            }
        }
    }

    fn turn(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Result<(), End> {
        // Before anything else: what it is notified of is for the connection that has taken the session over [MQTT5-3.1.4-3].
        if self.slot.connection() != self.epoch {
            return Err(End::TakenOver);
        }
        let notified = self.slot.looked();
        if let Some(reason) = self.slot.kicked() {
            return Err(End::Kicked(reason));
        }
        if notified || !self.out.is_empty() || self.unflushed {
            self.retry_parked(scratch)?;
            self.write(cx)?;
        }
        if self.tail_is_fresh {
            self.tail_is_fresh = false;
            self.process_tail(scratch)?;
            self.write(cx)?;
        }
        for _ in 0..READS_A_TURN {
            if !self.read(scratch, cx)? {
                return Ok(());
            }
            self.write(cx)?;
        }
        // The others' turn; this one goes on after them.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once and handles what came. False: there is nothing, or it is not to be read now.
    fn read(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.must_not_read(cx) {
            return Ok(false);
        }
        let mut read = std::mem::take(&mut scratch.read);
        let mut buf = ReadBuf::new(&mut read);
        let result = match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::Transport(error)),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => Err(End::Closed),
            Poll::Ready(Ok(())) => self.received(scratch, buf.filled()).map(|()| true),
        };
        scratch.read = read;
        result
    }

    fn received(&mut self, scratch: &mut Scratch, bytes: &[u8]) -> Result<(), End> {
        let broker = &self.on.broker;
        broker.counters.bytes_received.add(bytes.len() as u64);
        self.slot.heard(broker.now_s());
        if let Some(pace) = &mut self.pace {
            pace.bytes(bytes.len());
        }
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(bytes);
            return self.process_tail(scratch);
        }
        let used = self.process(scratch, bytes)?;
        if let Some(rest) = bytes.get(used..)
            && !rest.is_empty()
        {
            self.tail = rest.to_vec();
        }
        Ok(())
    }

    fn process_tail(&mut self, scratch: &mut Scratch) -> Result<(), End> {
        let mut tail = std::mem::take(&mut self.tail);
        let used = self.process(scratch, &tail)?;
        if used < tail.len() {
            tail.drain(..used);
            self.tail = tail;
        }
        Ok(())
    }

    /// Past its rate, too much parked, or a peer that does not read what it is sent: the socket is left alone.
    fn must_not_read(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(pace) = &mut self.pace
            && pace.must_wait(cx, &self.on.broker.counters)
        {
            return true;
        }
        if self.parked.as_ref().is_some_and(|parked| parked.full(&self.on.broker)) {
            return true;
        }
        !self.out.is_empty()
            && self.slot.look(|session| session.out_len()) >= self.on.broker.settings.outbound_buffer / 2
    }

    /// Takes what the session has for the socket and writes it, as far as the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            if self.out.is_empty() && !self.take_out()? {
                break;
            }
            if !self.write_out(cx)? {
                return Ok(());
            }
            self.out = Vec::new();
            self.written = 0;
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(End::Transport(error)),
            }
        }
        Ok(())
    }

    /// False: the session has nothing.
    fn take_out(&mut self) -> Result<bool, End> {
        let (epoch, broker) = (self.epoch, &self.on.broker);
        let taken = self.slot.with(broker, |session| {
            if session.epoch() != epoch || session.ended() {
                return Err(End::TakenOver);
            }
            session.release_acks();
            // Acks that were just read have opened the window for what waits.
            session.pump(broker.cx());
            if session.out_len() == 0 {
                return Ok(None);
            }
            Ok(Some(session.take_out(Vec::new())))
        })?;
        let Some(taken) = taken else { return Ok(false) };
        self.out = taken;
        Ok(true)
    }

    /// False: the socket takes no more now.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        while let Some(rest) = self.out.get(self.written as usize..)
            && !rest.is_empty()
        {
            match ready_or(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                None => return Ok(false),
                Some(Ok(0)) => return Err(End::Closed),
                Some(Ok(n)) => {
                    self.on.broker.counters.bytes_sent.add(n as u64);
                    self.written += u32::try_from(n).unwrap_or(0);
                    self.unflushed = self.on.tls.is_some();
                }
                Some(Err(error)) => return Err(End::Transport(error)),
            }
        }
        Ok(true)
    }
}

fn ready_or<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Forgets the routes that this thread remembers: for a thread that serves one broker after another.
pub fn forget_routes() {
    worker::tidy();
}
