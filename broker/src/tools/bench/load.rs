//! One thread, one poll loop, raw packets: the publishers and subscribers of one plan.

use std::ops::Range;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::alarm::Alarm;
use super::clients::{Clients, Stage};
use super::peer::{Fault, Peer, poll_for};
use super::plan::{Pacing, Plan};
use super::progress::Progress;
use super::publisher::Schedule;
use super::target::Endpoint;
use super::wire;
use crate::tools::exit::{Exit, Failure};
use crate::tools::stop;

/// Connections that are being made at once.
const HANDSHAKES_MAX: usize = 256;
/// A server that answers nothing for so long will not.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// A closed loop at QoS 0 that has received nothing for so long has lost what it waits for.
const STALL: Duration = Duration::from_secs(1);
/// How long the loop sleeps if nothing happens.
const IDLE: Duration = Duration::from_millis(20);
/// Messages that become due in one turn.
const DUE_MAX: u64 = 100_000;
/// One read.
const SCRATCH: usize = 256 * 1024;

/// The load of one plan on one server.
pub struct Load<'a> {
    plan: &'a Plan,
    endpoint: Endpoint,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    peers: Vec<Option<Peer>>,
    /// What they are to MQTT.
    pub clients: Clients,
    scratch: Vec<u8>,
    schedule: Option<Schedule>,
    issued: u64,
    /// How often a window was given up for lost.
    pub written_off: u64,
    /// Whether a refusal means that the load could not begin.
    opening: bool,
    /// The run is over, and its sessions are being removed.
    closing: bool,
    moved: Instant,
    pinged: Instant,
}

impl<'a> Load<'a> {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The server's name has no address; the system has no poll.
    pub fn new(plan: &'a Plan) -> Result<Self, Failure> {
        let system = |why: std::io::Error| Failure::failed(format!("this system gives no poll or timer: {why}"));
        let endpoint = Endpoint::new(&plan.url, plan.tls.clone())?;
        let poll = Poll::new().map_err(system)?;
        let count = plan.publishers + plan.subscribers;
        let alarm = Alarm::new(poll.registry(), Token(count)).map_err(system)?;
        Ok(Self {
            plan,
            endpoint,
            poll,
            events: Events::with_capacity(1024),
            alarm,
            peers: std::iter::repeat_with(|| None).take(count).collect(),
            clients: Clients::new(plan),
            scratch: vec![0; SCRATCH],
            schedule: None,
            issued: 0,
            written_off: 0,
            opening: true,
            closing: false,
            moved: Instant::now(),
            pinged: Instant::now(),
        })
    }

    /// The numbers of the publishers.
    #[must_use]
    pub fn publishers(&self) -> Range<usize> {
        0..self.plan.publishers
    }

    /// The numbers of the subscribers.
    #[must_use]
    pub fn subscribers(&self) -> Range<usize> {
        self.plan.publishers..self.peers.len()
    }

    /// Connects, and subscribes who is a subscriber. The first goes alone: what it is told, all would be.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or speaks something else.
    pub fn open(&mut self, who: Range<usize>, progress: &mut Progress) -> Result<(), Failure> {
        self.opening = true;
        let started = Instant::now();
        let (mut next, goal) = (who.start, self.clients.ready + who.len());
        let (mut seen, mut quiet) = (0, Instant::now());
        while self.clients.ready < goal {
            let at_once = if self.clients.greeted { HANDSHAKES_MAX } else { 1 };
            let allowed =
                self.plan.connect_rate.map_or(usize::MAX, |rate| (started.elapsed().as_secs_f64() * rate) as usize + 1);
            while next < who.end && next - who.start < allowed && next - who.start < at_once + self.clients.answered {
                self.open_one(next)?;
                next += 1;
            }
            let paced = self.plan.connect_rate.is_some() && next < who.end;
            self.turn(if paced { Duration::from_millis(1) } else { IDLE })?;
            let now = self.clients.answered + self.clients.ready;
            if now != seen || paced {
                (seen, quiet) = (now, Instant::now());
            } else if quiet.elapsed() > ANSWER_LIMIT {
                let server = &self.plan.url.to_string();
                let what =
                    format!("{server} takes connections, and has answered nothing for {} s", ANSWER_LIMIT.as_secs());
                return Err(Failure::new(Exit::Unreachable, what));
            }
            progress.show(|| format!("connecting: {} of {}", next - who.start, who.len()));
        }
        self.clients.answered = 0;
        self.opening = false;
        Ok(())
    }

    fn open_one(&mut self, number: usize) -> Result<(), Failure> {
        let opened = Peer::open(&self.endpoint, number, self.poll.registry(), Token(number));
        let mut peer = opened.map_err(|fault| self.failure(number, &fault))?;
        self.clients.connect(number, &mut peer.output);
        if let Some(place) = self.peers.get_mut(number) {
            *place = Some(peer);
        }
        Ok(())
    }

    fn failure(&self, number: usize, fault: &Fault) -> Failure {
        let server = &self.plan.url.to_string();
        let running = self.clients.stage(number) == Stage::Ready;
        match fault {
            Fault::Closed | Fault::Io(_) if running || !self.opening => {
                let why = if let Fault::Io(why) = fault { format!(": {why}") } else { String::new() };
                let hint = if self.plan.qos > 0 && number < self.plan.publishers {
                    "; if it limits unacknowledged messages, a smaller --window is right"
                } else {
                    ""
                };
                let name = self.clients.name(number);
                Failure::failed(format!("{server} has ended the connection of {name}{why}{hint}"))
            }
            Fault::Closed | Fault::Io(_) | Fault::Tls(_) | Fault::NotMqtt(_) | Fault::Refused(_) => {
                fault.failure(server, self.plan.tls.is_some(), self.clients.greeted)
            }
        }
    }

    /// Publishes and receives until the time is over, or until all messages of the plan are published.
    ///
    /// # Errors
    /// A connection has ended.
    pub fn run(&mut self, time: Option<Duration>, progress: &mut Progress) -> Result<(), Failure> {
        let started = Instant::now();
        if self.schedule.is_none() {
            if let Pacing::Open { per_s, .. } = self.plan.pacing {
                self.schedule = Some(Schedule::new(per_s, self.plan.publishers, self.clients.now_ns()));
            }
            self.clients.mark_all();
        }
        let (mut moved, mut stalled, mut seen) = (Instant::now(), Instant::now(), 0);
        while time.is_none_or(|time| started.elapsed() < time) && !self.clients.finished() {
            self.issue();
            self.publish()?;
            let wait = self.wait()?;
            self.turn(wait)?;
            let now = self.clients.moved();
            if now != seen {
                (seen, moved, stalled) = (now, Instant::now(), Instant::now());
            } else if stalled.elapsed() > STALL {
                self.written_off += u64::from(self.clients.write_off());
                stalled = Instant::now();
            }
            // Without an end, and without a way to it.
            if time.is_none() && moved.elapsed() > self.plan.patience.max(2 * STALL) && self.clients.overdue() > 0 {
                break;
            }
            progress.load(|| self.clients.snapshot());
        }
        self.publish()
    }

    /// Open loop: says which messages are due.
    fn issue(&mut self) {
        if let Some(schedule) = self.schedule {
            let due = schedule.due(self.clients.now_ns()).min(self.issued + DUE_MAX);
            self.clients.due(self.issued..due);
            self.issued = due;
        }
    }

    /// How long there is nothing to do.
    fn wait(&mut self) -> Result<Duration, Failure> {
        if self.clients.has_marked() {
            return Ok(Duration::ZERO);
        }
        let Some(schedule) = self.schedule else { return Ok(IDLE) };
        match schedule.time_of(self.issued + 1).saturating_sub(self.clients.now_ns()) {
            0 => Ok(Duration::ZERO),
            ns if ns >= IDLE.as_nanos() as u64 => Ok(IDLE),
            ns => {
                let set = self.alarm.set(ns);
                let set = set.map_err(|why| Failure::failed(format!("the timer cannot be set: {why}")))?;
                Ok(set.unwrap_or(IDLE))
            }
        }
    }

    /// Lets those publish who may.
    fn publish(&mut self) -> Result<(), Failure> {
        for number in self.clients.take_marked() {
            let Some(Some(peer)) = self.peers.get_mut(number) else { continue };
            let more = self.clients.publish(number, &mut peer.output, self.schedule.as_ref());
            if let Err(fault) = peer.flush() {
                return Err(self.failure(number, &fault));
            }
            // If its socket takes no more, it goes on when it does.
            if more && !peer.blocked {
                self.clients.mark(number);
            }
        }
        Ok(())
    }

    /// One look at the sockets.
    ///
    /// # Errors
    /// A connection has ended.
    pub fn turn(&mut self, wait: Duration) -> Result<(), Failure> {
        if !self.closing {
            stop::check()?;
        }
        // A server that sets its own keep alive wants to hear from subscribers [MQTT5-3.2.2-21].
        if ping_due(self.clients.keep_alive_s, &mut self.pinged) {
            for number in 0..self.peers.len() {
                let Some(Some(peer)) = self.peers.get_mut(number) else { continue };
                peer.output.extend_from_slice(&wire::PING);
                if let Err(fault) = peer.flush() {
                    return Err(self.failure(number, &fault));
                }
            }
        }
        let Some(mut events) = poll_for(&mut self.poll, &mut self.events, wait)? else { return Ok(()) };
        let mut done = Ok(());
        for event in &events {
            let number = event.token().0;
            if let Err(fault) = self.ready(number, event.is_readable(), event.is_writable()) {
                done = Err(self.failure(number, &fault));
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
            if !peer.blocked {
                self.clients.mark(number);
            }
        }
        if readable && peer.connected {
            let clients = &mut self.clients;
            peer.packets(&mut self.scratch, |peer, bytes| clients.handle(number, &mut peer.output, bytes))?;
            if peer.wants_flush() {
                peer.flush()?;
            }
        }
        Ok(())
    }

    /// Waits until everything that was published is acknowledged.
    ///
    /// # Errors
    /// A connection has ended.
    pub fn acknowledge_all(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        self.wait_until(progress, Clients::all_acknowledged)
    }

    /// Receives until nothing is missing, or nothing has come for the plan's patience.
    ///
    /// # Errors
    /// A connection has ended.
    pub fn settle(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        self.wait_until(progress, |clients| clients.all_acknowledged() && clients.missing() == 0)
    }

    /// When the last message or ack came.
    #[must_use]
    pub fn last_moved(&self) -> Instant {
        self.moved
    }

    fn wait_until(&mut self, progress: &mut Progress, done: impl Fn(&Clients) -> bool) -> Result<(), Failure> {
        let (mut quiet, mut seen) = (Instant::now(), 0);
        loop {
            let now = self.clients.moved();
            if now != seen {
                (seen, quiet) = (now, Instant::now());
                self.moved = quiet;
            }
            let waiting = self.peers.iter().flatten().any(|peer| peer.waiting() > 0);
            if (done(&self.clients) && !waiting) || quiet.elapsed() > self.plan.patience {
                return Ok(());
            }
            self.turn(IDLE)?;
            progress.load(|| self.clients.snapshot());
        }
    }

    /// Disconnects; with `forget`, sessions that outlive their connections are removed.
    pub fn close(&mut self, who: Range<usize>, forget: bool) {
        self.closing |= forget;
        for number in who.clone() {
            let Some(mut peer) = self.peers.get_mut(number).and_then(Option::take) else { continue };
            wire::disconnect(&mut peer.output, self.plan.version, forget);
            peer.close(self.poll.registry());
            self.clients.closed(number);
        }
        // In 3.1.1 only a clean connection removes one.
        if forget && self.plan.persistent && !self.plan.version.is_v5() {
            self.clients.persistent = false;
            let subscribers = who.start.max(self.plan.publishers)..who.end;
            self.clients.silent = true;
            // What cannot be removed any more is the server's own to expire.
            if self.open(subscribers.clone(), &mut Progress::silent()).is_ok() {
                self.close(subscribers, false);
            }
        }
    }
}

/// A run that ends early leaves no session behind either.
impl Drop for Load<'_> {
    fn drop(&mut self) {
        if !self.closing && self.clients.greeted {
            self.close(0..self.peers.len(), true);
        }
    }
}

/// Half of a keep alive is over, and begins again.
pub fn ping_due(keep_alive_s: Option<u16>, pinged: &mut Instant) -> bool {
    let half = keep_alive_s.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()) / 2);
    let due = half.is_some_and(|half| pinged.elapsed() > half);
    if due {
        *pinged = Instant::now();
    }
    due
}
