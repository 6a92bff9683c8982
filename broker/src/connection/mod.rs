//! The one place where a socket meets a session. A connection is polled by the worker that owns it (see `executor`); while it
//! is idle it owns no buffer.
//!
//! ```text
//!   socket ─► scratch of the worker ─► frames ─► session, fan-out ─► acks
//!   session's buffer ─► socket                    (whenever the session has something, woken by its slot)
//! ```

mod control;
mod end;
mod executor;
pub(crate) mod handshake;
mod input;
mod login;
mod mount;
mod pace;
mod parked;
mod shown;
mod trace;
pub(crate) mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::Version;
use tokio::io::ReadBuf;

use crate::access::auth::Authentication;
use crate::access::{Entrance, Rights};
use crate::broker::{Broker, Budget, Fed, Slot};
use crate::codec;
use crate::config;
use crate::session::{Durability, Encoded};

pub use crate::transport::Stream;
use crate::transport::{LiveTls, Seat, Seats};
pub use executor::drive;

use end::End;
use pace::Pace;
use parked::Parked;
use shown::Shown;
use worker::Scratch;

/// Reads of one connection before the others of its worker have their turn.
const READS_A_TURN: usize = 4;

/// Serves a stream that came from no listener, on the current runtime. False: no connection came of it.
pub async fn serve_stream<S: Stream>(stream: S, on: &Arc<Shared>) -> bool {
    on.sockets.fetch_add(1, Ordering::Relaxed);
    let begun = handshake::begin(stream, &handshake::Origin::unknown(), on).await;
    if !begun {
        on.sockets.fetch_sub(1, Ordering::Relaxed);
    }
    begun
}

/// What all connections of one listener share.
pub struct Shared {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The listener's configuration.
    pub listener: config::Listener,
    /// How to do TLS on it.
    pub tls: Option<Arc<LiveTls>>,
    /// Its streams keep what is written until they are flushed: TLS does.
    buffers: bool,
    /// Sockets of this listener that are open.
    pub sockets: Arc<AtomicUsize>,
    /// Limits of packets.
    pub limits: codec::Limits,
    /// What it says of access.
    pub entrance: Arc<Entrance>,
    durability: Durability,
    /// Connections of each address, if they are limited.
    seats: Option<Arc<Seats>>,
    /// Bytes of the largest packet that is accepted.
    max_packet_size: u32,
}

impl Shared {
    /// For one listener.
    #[must_use]
    pub fn new(broker: &Arc<Broker>, listener: config::Listener, tls: Option<Arc<LiveTls>>) -> Arc<Self> {
        let limits = &broker.config.limits;
        let sockets = Arc::new(AtomicUsize::new(0));
        broker.observed.listener(&listener.url, listener.max_connections, &sockets, tls.as_ref());
        Arc::new(Self {
            broker: broker.clone(),
            buffers: tls.is_some(),
            tls,
            sockets,
            limits: codec::Limits {
                max_user_properties: limits.max_user_properties,
                max_filters_per_packet: limits.max_filters_per_packet,
                max_topic_levels: limits.max_topic_levels,
                max_client_id_len: limits.max_client_id_len,
            },
            entrance: Arc::new(Entrance::new(&listener, &broker.config.access)),
            durability: durability(listener.durability),
            seats: listener.bounds.connections_per_address.map(Seats::new),
            max_packet_size: listener.bounds.packet_size(limits),
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

/// Who keeps a socket from being read.
enum HeldUpBy {
    /// The broker: what the client says meanwhile is not heard.
    Broker,
    /// The client, which does not take what it is sent.
    Client,
}

/// A connection that is past its CONNECT.
pub(crate) struct Connection<S: Stream> {
    stream: S,
    on: Arc<Shared>,
    slot: Arc<Slot>,
    epoch: u32,
    version: Version,
    problem_information: bool,
    /// The client is another broker's bridge.
    bridge: bool,
    /// The session has been told that this connection is over.
    over: bool,
    /// The turn was over before everything was done: the next one goes on.
    goes_on: bool,
    /// So much of what it sent waits to be safe that no more is read until some of it is.
    is_owed_much: bool,
    /// PUBLISHes of one batch, from what the last one has cost.
    batch_max: usize,
    /// TLS holds written bytes that the socket did not take.
    unflushed: bool,
    /// The tail holds packets that have not been looked at.
    tail_is_fresh: bool,
    written: u32,
    /// The socket took something since the last look.
    has_taken: bool,
    /// Bytes of a packet that is not complete.
    tail: Vec<u8>,
    /// Bytes that the socket did not take; the first `written` of them it did.
    out: Encoded,
    pace: Option<Box<Pace>>,
    /// Of what it is sent.
    pace_out: Option<Box<Pace>>,
    /// One of those of its address; given back with the connection.
    _seat: Option<Box<Seat>>,
    parked: Option<Box<Parked>>,
    /// Enhanced authentication: the method, and the exchange that is under way.
    auth: Option<Box<Authentication>>,
    /// What the client may do; `None`: everything.
    rights: Option<Arc<Rights>>,
    /// The certificate that it showed.
    shown: Option<Box<Shown>>,
}

impl<S: Stream> Connection<S> {
    /// Does what there is to do; ready when the connection is over.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let turn = worker::with(|scratch| {
            let budget = scratch.budget();
            let turn = self.turn(scratch, cx, &budget);
            scratch.had(&budget);
            turn
        });
        match turn {
            Ok(()) => Poll::Pending,
            Err(end) => {
                self.finish(end, cx);
                Poll::Ready(())
            }
        }
    }

    fn turn(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>, budget: &Budget) -> Result<(), End> {
        // Before anything else: what it is notified of is for the connection that has taken the session over [MQTT5-3.1.4-3].
        if self.slot.connection() != self.epoch {
            return Err(End::TakenOver);
        }
        let notified = self.slot.looked();
        if self.shown.as_mut().is_some_and(|shown| !shown.still_good(&self.slot)) {
            self.on.broker.counters.connections_revoked.add(1);
            return Err(End::Kicked(ReasonCode::NotAuthorized as u8));
        }
        if let Some(reason) = self.slot.kicked() {
            return Err(End::Kicked(reason));
        }
        let waited = self.pace_out.is_some();
        if std::mem::take(&mut self.goes_on) || notified || waited || !self.out.is_empty() || self.unflushed {
            self.retry_parked(scratch, budget)?;
            self.write(cx, budget)?;
        }
        if self.tail_is_fresh && !self.is_parked_full() {
            self.tail_is_fresh = false;
            self.process_tail(scratch, budget)?;
            self.write(cx, budget)?;
        }
        for _ in 0..READS_A_TURN {
            if budget.ends_reading() {
                break;
            }
            if !self.read(scratch, cx, budget)? {
                if self.goes_on {
                    cx.waker().wake_by_ref();
                }
                return Ok(());
            }
            self.write(cx, budget)?;
        }
        // The others' turn; this one goes on after them.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once and handles what came. False: there is nothing, or it is not to be read now.
    fn read(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>, budget: &Budget) -> Result<bool, End> {
        if self.tail_is_fresh {
            self.slot.leave_unread();
            return Ok(false);
        }
        if self.must_not_read(cx) {
            return Ok(false);
        }
        if self.slot.is_unread() {
            // What it says from here on is heard.
            self.slot.heard(self.on.broker.now_s());
        }
        let mut read = std::mem::take(&mut scratch.read);
        let mut buf = ReadBuf::new(&mut read);
        let result = match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::Transport(error)),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => Err(End::Closed),
            Poll::Ready(Ok(())) => {
                // Who fills the buffer sends faster than it is read: packets of two bytes are many in it.
                if buf.remaining() == 0 {
                    budget.press();
                }
                self.received(scratch, buf.filled(), budget).map(|()| true)
            }
        };
        scratch.read = read;
        result
    }

    fn received(&mut self, scratch: &mut Scratch, bytes: &[u8], budget: &Budget) -> Result<(), End> {
        let broker = &self.on.broker;
        broker.counters.bytes_received.add(bytes.len() as u64);
        self.slot.heard(broker.now_s());
        // Once for each byte: a packet that comes in many parts must not cost more than a turn has each time.
        budget.spend_on_reading(bytes.len());
        if let Some(pace) = &mut self.pace {
            pace.bytes(bytes.len());
        }
        if !self.tail.is_empty() {
            if !broker.room_for_part(self.tail.len()) {
                return Err(End::Peer(no_memory("no memory is left for a packet of this size")));
            }
            self.tail.extend_from_slice(bytes);
            return self.process_tail(scratch, budget);
        }
        let used = self.process(scratch, bytes, budget)?;
        if let Some(rest) = bytes.get(used..)
            && !rest.is_empty()
        {
            self.tail = rest.to_vec();
            if !self.tail_is_fresh {
                self.slot.packet_began(self.on.broker.now_s());
            }
        }
        Ok(())
    }

    fn process_tail(&mut self, scratch: &mut Scratch, budget: &Budget) -> Result<(), End> {
        let mut tail = std::mem::take(&mut self.tail);
        let used = self.process(scratch, &tail, budget)?;
        let left = used < tail.len();
        if left {
            tail.drain(..used);
            self.tail = tail;
        }
        if self.tail_is_fresh || !left {
            // What lies there is whole, and waits for us.
            self.slot.packet_ended();
        } else if used > 0 {
            self.slot.packet_began(self.on.broker.now_s());
        }
        Ok(())
    }

    /// Past its rate, too much parked or not safe yet, or a peer that does not read what it is sent: the socket is left alone.
    fn must_not_read(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(by) = self.held_up(cx) else { return false };
        let now_s = self.on.broker.now_s();
        if !self.tail.is_empty() {
            // What comes late now is not the peer's fault.
            self.slot.packet_began(now_s);
        }
        match by {
            HeldUpBy::Broker => self.slot.leave_unread(),
            // One that takes something now and then is there. What nobody takes keeps no connection open.
            HeldUpBy::Client if std::mem::take(&mut self.has_taken) || self.slot.is_unread() => self.slot.heard(now_s),
            HeldUpBy::Client => {}
        }
        true
    }

    fn held_up(&mut self, cx: &mut Context<'_>) -> Option<HeldUpBy> {
        if let Some(pace) = &mut self.pace
            && pace.must_wait(cx, || self.on.broker.counters.reads_delayed.add(1))
        {
            return Some(HeldUpBy::Broker);
        }
        if self.is_parked_full() {
            return Some(HeldUpBy::Broker);
        }
        let by = if self.out.is_empty() { HeldUpBy::Broker } else { HeldUpBy::Client };
        if self.is_owed_much {
            return Some(by);
        }
        let out_max = self.on.broker.settings.outbound_buffer / 2;
        let is_behind = (!self.out.is_empty() || self.pace_out.is_some())
            && self.slot.look(|session| session.out_len() >= out_max || session.owes_much());
        is_behind.then_some(by)
    }

    /// Takes what the session has for the socket and writes it, as far as the socket takes it and the turn has time.
    fn write(&mut self, cx: &mut Context<'_>, budget: &Budget) -> Result<(), End> {
        loop {
            if self.out.is_empty() && !self.take_out(cx, budget)? {
                break;
            }
            if !self.write_out(cx)? {
                return Ok(());
            }
            budget.spend_on_copying(self.out.len());
            self.out = Encoded::default();
            self.written = 0;
            if budget.is_spent() {
                self.goes_on = true;
                break;
            }
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

    /// False: the session has nothing, or not yet.
    fn take_out(&mut self, cx: &mut Context<'_>, budget: &Budget) -> Result<bool, End> {
        if let Some(pace) = &mut self.pace_out
            && pace.must_wait(cx, || self.on.broker.counters.writes_delayed.add(1))
        {
            return Ok(false);
        }
        let (epoch, broker, goes_on) = (self.epoch, &self.on.broker, &mut self.goes_on);
        let is_owed_much = &mut self.is_owed_much;
        let taken = self.slot.with(broker, |session| {
            if session.epoch() != epoch || session.ended() {
                return Err(End::TakenOver);
            }
            session.release_acks();
            *is_owed_much = session.owes_much();
            // Acks that were just read have opened the window for what waits.
            if let Some(cx) = broker.may_encode() {
                session.pump(cx);
                *goes_on |= broker.feed_retained(session, cx, budget) == Fed::NotYet;
            }
            if session.out_len() == 0 {
                session.drained();
                return Ok(None);
            }
            Ok(Some(session.take_out()))
        })?;
        let Some(taken) = taken else { return Ok(false) };
        trace::sent(&self.slot, &taken);
        if let Some(pace) = &mut self.pace_out {
            pace.bytes(taken.len());
            pace.messages(taken.messages as usize);
        }
        self.out = taken;
        Ok(true)
    }

    /// False: the socket takes no more now.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            let rest = self.out.rest(self.written as usize);
            if rest.is_empty() {
                return Ok(true);
            }
            match ready_or(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                None => return Ok(false),
                Some(Ok(0)) => return Err(End::Closed),
                Some(Ok(n)) => {
                    self.on.broker.counters.bytes_sent.add(n as u64);
                    self.written += u32::try_from(n).unwrap_or(0);
                    self.has_taken = true;
                    self.unflushed = self.on.buffers;
                }
                Some(Err(error)) => return Err(End::Transport(error)),
            }
        }
    }
}

/// What would add to memory when there is none left.
fn no_memory(detail: &'static str) -> codec::CodecError {
    codec::CodecError::new(ReasonCode::QuotaExceeded, "MQTT5-4.13.2", detail)
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
