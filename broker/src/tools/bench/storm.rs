//! Connections without messages: opened and then idle, or closed and opened again, over and over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::latency::Latency;
use super::load::ping_due;
use super::peer::{Fault, Peer, greeting, packet, poll_for};
use super::plan::Plan;
use super::progress::Progress;
use super::target::Endpoint;
use super::wire;
use crate::tools::exit::{Exit, Failure};
use crate::tools::stop;

/// Connections that are being made at once.
const HANDSHAKES_MAX: usize = 256;
/// A handshake that takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// So many failures in a row, and there is no server any more.
const FAILURES_MAX: u64 = 1000;
/// How long the loop sleeps if nothing happens.
const IDLE: Duration = Duration::from_millis(20);
/// One read: a CONNACK, or some of a TLS handshake.
const SCRATCH: usize = 16 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Handshakes that were begun.
    pub begun: u64,
    /// And answered with a CONNACK that accepts.
    pub made: u64,
    /// And not.
    pub failed: u64,
    /// Connections that the server ended while they were idle.
    pub ended: u64,
    /// Sessions that should have been there and were not.
    pub sessions_lost: u64,
    /// The first that failed.
    pub why: Option<String>,
}

/// The clients.
pub struct Storm<'a> {
    plan: &'a Plan,
    endpoint: Endpoint,
    poll: Poll,
    events: Events,
    peers: Vec<Option<Peer>>,
    /// When the handshake of a client was begun, or due.
    since_ns: Vec<Option<u64>>,
    /// Clients that may be connected, again.
    waiting: VecDeque<usize>,
    under_way: usize,
    started: Instant,
    greeted: bool,
    in_a_row: u64,
    scratch: Vec<u8>,
    /// They have a session from before.
    resuming: bool,
    removing: bool,
    /// How long the server lets a client be silent, where it says so.
    keep_alive_s: Option<u16>,
    pinged: Instant,
    /// So far.
    pub counts: Counts,
    /// From begin, or from when it was due, to CONNACK.
    pub handshakes: Latency,
}

impl<'a> Storm<'a> {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The server's name has no address; the system has no poll.
    pub fn new(plan: &'a Plan) -> Result<Self, Failure> {
        let endpoint = Endpoint::new(&plan.url, plan.tls.clone())?;
        let poll = Poll::new().map_err(|why| Failure::failed(format!("this system gives no poll: {why}")))?;
        Ok(Self {
            plan,
            endpoint,
            poll,
            events: Events::with_capacity(1024),
            peers: std::iter::repeat_with(|| None).take(plan.subscribers).collect(),
            since_ns: vec![None; plan.subscribers],
            waiting: (0..plan.subscribers).collect(),
            under_way: 0,
            started: Instant::now(),
            greeted: false,
            in_a_row: 0,
            scratch: vec![0; SCRATCH],
            resuming: false,
            removing: false,
            keep_alive_s: None,
            pinged: Instant::now(),
            counts: Counts::default(),
            handshakes: Latency::default(),
        })
    }

    /// Connects all of them, once.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the first, or speaks something else.
    pub fn connect_all(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let all = self.waiting.len() as u64;
        self.go(None, Some(all), false, progress)
    }

    /// Closes and opens until the time is over or the count reached.
    ///
    /// # Errors
    /// The server is gone.
    pub fn cycle(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        self.counts = Counts::default();
        self.handshakes.reset();
        self.resuming = self.plan.persistent;
        self.waiting = (0..self.plan.subscribers).filter(|n| matches!(self.peers.get(*n), Some(Some(_)))).collect();
        self.go(self.plan.time, self.plan.messages, true, progress)
    }

    fn go(
        &mut self,
        time: Option<Duration>,
        count: Option<u64>,
        again: bool,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let start_ns = self.now_ns();
        let mut begun = 0;
        let mut last = Instant::now();
        loop {
            let over = time.is_some_and(|time| started.elapsed() >= time) || count.is_some_and(|count| begun >= count);
            if over && (self.under_way == 0 || last.elapsed() > ANSWER_LIMIT) {
                break;
            }
            let now_ns = self.now_ns();
            while !over && count.is_none_or(|count| begun < count) && self.under_way < self.at_once() {
                let due_ns =
                    self.plan.connect_rate.map_or(now_ns, |rate| start_ns + (begun as f64 * 1e9 / rate) as u64);
                let Some(number) = (due_ns <= now_ns).then(|| self.waiting.pop_front()).flatten() else { break };
                self.begin(number, due_ns)?;
                begun += 1;
            }
            let before = self.counts.made + self.counts.failed;
            self.turn(if self.plan.connect_rate.is_some() && !over { Duration::from_millis(1) } else { IDLE }, again)?;
            if before != self.counts.made + self.counts.failed || self.under_way == 0 {
                last = Instant::now();
            } else if last.elapsed() > ANSWER_LIMIT && !over {
                let what = "takes connections, and does not answer CONNECT";
                return Err(Failure::new(Exit::Unreachable, format!("{} {what}", self.plan.url)));
            }
            progress.show(|| format!("{} connections made, {} under way", self.counts.made, self.under_way));
        }
        self.counts.failed += self.under_way as u64;
        if self.under_way > 0 {
            self.counts.why.get_or_insert_with(|| "no answer".to_owned());
        }
        Ok(())
    }

    /// The first goes alone: what it is told, all would be.
    fn at_once(&self) -> usize {
        if self.greeted { HANDSHAKES_MAX } else { 1 }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn begin(&mut self, number: usize, due_ns: u64) -> Result<(), Failure> {
        self.end(number);
        self.counts.begun += 1;
        // Each connection has its own port until the last one's is free again: addresses are taken in turn.
        let opened = Peer::open(&self.endpoint, self.counts.begun as usize, self.poll.registry(), Token(number));
        let mut peer = match opened {
            Ok(peer) => peer,
            Err(fault) => {
                self.under_way += 1;
                return self.failed(number, &fault, true);
            }
        };
        let persistent = self.plan.persistent && !self.removing;
        self.plan.connect(&mut peer.output, &format!("s{number}"), persistent);
        if let (Some(place), Some(since)) = (self.peers.get_mut(number), self.since_ns.get_mut(number)) {
            (*place, *since) = (Some(peer), Some(due_ns));
            self.under_way += 1;
        }
        Ok(())
    }

    fn end(&mut self, number: usize) {
        if let Some(mut peer) = self.peers.get_mut(number).and_then(Option::take) {
            wire::disconnect(&mut peer.output, self.plan.version, self.removing);
            peer.close(self.poll.registry());
        }
    }

    fn failed(&mut self, number: usize, fault: &Fault, again: bool) -> Result<(), Failure> {
        let failure = fault.failure(&self.plan.url.to_string(), self.plan.tls.is_some(), self.greeted);
        self.under_way -= 1;
        if let Some(since) = self.since_ns.get_mut(number) {
            *since = None;
        }
        if let Some(place) = self.peers.get_mut(number) {
            *place = None;
        }
        self.in_a_row += 1;
        if !self.greeted || self.in_a_row > FAILURES_MAX {
            return Err(failure);
        }
        self.counts.failed += 1;
        self.counts.why.get_or_insert(failure.what);
        if again {
            self.waiting.push_back(number);
        }
        Ok(())
    }

    fn turn(&mut self, wait: Duration, again: bool) -> Result<(), Failure> {
        if !self.removing {
            stop::check()?;
        }
        let Some(mut events) = poll_for(&mut self.poll, &mut self.events, wait)? else { return Ok(()) };
        let mut done = Ok(());
        for event in &events {
            let number = event.token().0;
            let connecting = self.since_ns.get(number).copied().flatten();
            match (self.ready(number, event.is_readable(), event.is_writable()), connecting) {
                (Ok(()), _) => {}
                (Err(fault), Some(_)) => done = self.failed(number, &fault, again),
                (Err(fault), None) => {
                    self.counts.ended += 1;
                    let failure = fault.failure(&self.plan.url.to_string(), self.plan.tls.is_some(), true);
                    self.counts.why.get_or_insert(failure.what);
                    if let Some(place) = self.peers.get_mut(number) {
                        *place = None;
                    }
                }
            }
            if connecting.is_some()
                && again
                && self.since_ns.get(number) == Some(&None)
                && matches!(self.peers.get(number), Some(Some(_)))
            {
                self.waiting.push_back(number);
            }
            if done.is_err() {
                break;
            }
        }
        std::mem::swap(&mut self.events, &mut events);
        done
    }

    fn ready(&mut self, number: usize, readable: bool, writable: bool) -> Result<(), Fault> {
        let Some(Some(peer)) = self.peers.get_mut(number) else { return Ok(()) };
        if writable && peer.blocked {
            peer.writable()?;
        }
        if !readable || !peer.connected {
            return Ok(());
        }
        let v5 = self.plan.version.is_v5();
        let mut connected = None;
        let connecting = self.since_ns.get(number).is_some_and(Option::is_some);
        peer.packets(&mut self.scratch, |_, bytes| {
            if !connecting || connected.is_some() {
                return Ok(bytes.len());
            }
            if bytes.first().is_some_and(|first| *first != 0x20) {
                return Err(Fault::NotMqtt(bytes.get(..bytes.len().min(40)).unwrap_or_default().to_vec()));
            }
            let Some(found) = packet(bytes)? else { return Ok(0) };
            connected = Some(greeting(v5, found.first, found.body)?);
            Ok(found.len)
        })?;
        if peer.wants_flush() {
            peer.flush()?;
        }
        if let Some(greeting) = connected {
            self.keep_alive_s = greeting.keep_alive_s.or(self.keep_alive_s);
            self.counts.sessions_lost += u64::from(self.resuming && !greeting.session_present);
            self.made(number);
        }
        Ok(())
    }

    fn made(&mut self, number: usize) {
        let now = self.now_ns();
        if let Some(since) = self.since_ns.get_mut(number).and_then(Option::take) {
            self.handshakes.record(now.saturating_sub(since));
        }
        self.greeted = true;
        self.in_a_row = 0;
        self.counts.made += 1;
        self.under_way -= 1;
    }

    /// Stays connected and does nothing.
    ///
    /// # Errors
    /// The system does not poll.
    pub fn idle(&mut self, time: Duration, progress: &mut Progress) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < time {
            if ping_due(self.keep_alive_s, &mut self.pinged) {
                for peer in self.peers.iter_mut().flatten() {
                    peer.output.extend_from_slice(&wire::PING);
                    // Whoever has lost its connection is told by its next event.
                    let _ = peer.flush();
                }
            }
            self.turn(IDLE.min(time), false)?;
            progress.show(|| {
                format!("{} connections, idle for {:.0} s", self.counts.made, started.elapsed().as_secs_f64())
            });
        }
        Ok(())
    }

    /// Disconnects all; sessions that outlive their connections are removed.
    pub fn close(&mut self) {
        self.removing = true;
        // In 3.1.1 only a clean connection removes one; what cannot be removed is the server's own to expire.
        if self.plan.persistent && !self.plan.version.is_v5() {
            self.waiting = (0..self.plan.subscribers).collect();
            self.resuming = false;
            let (counts, handshakes) = (std::mem::take(&mut self.counts), std::mem::take(&mut self.handshakes));
            let _ = self.go(None, Some(self.plan.subscribers as u64), false, &mut Progress::silent());
            (self.counts, self.handshakes) = (counts, handshakes);
        }
        (0..self.plan.subscribers).for_each(|number| self.end(number));
    }
}

/// A run that ends early leaves no session behind either.
impl Drop for Storm<'_> {
    fn drop(&mut self) {
        if !self.removing && self.greeted {
            self.close();
        }
    }
}
