//! One thread, one epoll loop, raw packets: publishers and subscribers of one scenario.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::wire;

/// Who does what.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Publishers.
    pub publishers: usize,
    /// Subscribers.
    pub subscribers: usize,
    /// Publisher n sends to subscriber n alone; otherwise all to all.
    pub pairs: bool,
    /// QoS of both.
    pub qos: u8,
    /// Messages of one publisher not yet acknowledged (QoS 0: not yet received).
    pub window: u64,
    /// Subscribers have persistent sessions.
    pub persistent: bool,
    /// Messages a second in all; `None` for as many as the window allows.
    pub rate: Option<u64>,
    /// Subscribers are away while publishing.
    pub away: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Messages published and, at QoS 1 and 2, acknowledged.
    pub acknowledged: u64,
    /// Messages received by subscribers.
    pub received: u64,
    /// Received out of order or twice, or numbers left out.
    pub wrong: u64,
    /// Nanoseconds from publish to receipt.
    pub latencies_ns: Vec<u64>,
    /// Nanoseconds from publish to its last ack.
    pub ack_latencies_ns: Vec<u64>,
}

/// After this long something is wrong with the broker, and the figures will say so.
const GIVE_UP: Duration = Duration::from_secs(60);

struct Peer {
    socket: mio::net::TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: u64,
    acknowledged: u64,
    /// When each unacknowledged message was published, where latencies are kept.
    sent_ns: VecDeque<u64>,
    writable_wanted: bool,
    topic: String,
    /// For a subscriber: the next number of each publisher.
    expected: Vec<u64>,
    greeted: u32,
}

/// The load of one scenario on one broker.
pub struct Load {
    shape: Shape,
    poll: Poll,
    events: Events,
    peers: Vec<Peer>,
    started: Instant,
    /// Counted since the last [`Load::reset`].
    pub counts: Counts,
    received_by_pair: Vec<u64>,
    scratch: Vec<u8>,
    due: f64,
    last: Instant,
    /// Latencies are kept.
    pub keep_latencies: bool,
}

impl Load {
    /// Connects and subscribes.
    pub fn new(port: u16, shape: &Shape) -> Self {
        let poll = Poll::new().unwrap();
        let count = shape.publishers + if shape.away { 0 } else { shape.subscribers };
        let mut load = Self {
            shape: shape.clone(),
            poll,
            events: Events::with_capacity(1024),
            peers: Vec::with_capacity(count),
            started: Instant::now(),
            counts: Counts::default(),
            received_by_pair: vec![0; shape.publishers],
            scratch: vec![0; 256 * 1024],
            due: 0.0,
            last: Instant::now(),
            keep_latencies: shape.rate.is_some(),
        };
        for number in 0..count {
            load.add(port, number);
        }
        while load.peers.iter().enumerate().any(|(at, peer)| peer.greeted < 1 + u32::from(at >= shape.publishers)) {
            load.turn(Duration::from_millis(100));
        }
        load
    }

    fn add(&mut self, port: u16, number: usize) {
        let socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut socket = mio::net::TcpStream::from_std(socket);
        self.poll.registry().register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE).unwrap();
        let publisher = number < self.shape.publishers;
        let channel = if self.shape.pairs { number % self.shape.publishers.max(1) } else { 0 };
        let topic = format!("bench/site/{channel:04}/temperature");
        let mut output = Vec::new();
        let clean = publisher || !self.shape.persistent;
        wire::connect(&mut output, &format!("{}{number}", if publisher { "p" } else { "s" }), clean);
        if !publisher {
            wire::subscribe(&mut output, &topic, self.shape.qos);
        }
        self.peers.push(Peer {
            socket,
            input: Vec::new(),
            output,
            sent: 0,
            acknowledged: 0,
            sent_ns: VecDeque::new(),
            writable_wanted: true,
            topic,
            expected: vec![0; self.shape.publishers],
            greeted: 0,
        });
        self.flush(number);
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Counts from here on.
    pub fn reset(&mut self) {
        self.counts = Counts::default();
    }

    /// Publishes and receives for a time.
    pub fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.last = Instant::now();
        while Instant::now() < until {
            self.produce();
            let wait = if self.shape.rate.is_some() { Duration::from_micros(500) } else { Duration::from_millis(20) };
            self.turn(wait);
        }
    }

    /// Waits until everything that was published is acknowledged; returns how many messages that were, of each publisher.
    pub fn acknowledge_all(&mut self) -> Vec<u64> {
        let started = Instant::now();
        while started.elapsed() < GIVE_UP && self.peers.iter().any(|peer| peer.acknowledged < peer.sent) {
            self.turn(Duration::from_millis(20));
        }
        self.peers.iter().map(|peer| peer.acknowledged).collect()
    }

    /// Messages that subscribers who were away must be given, of each publisher.
    pub fn expect_backlog(&mut self, backlog: &[u64]) {
        for (peer, count) in self.peers.iter_mut().zip(backlog) {
            peer.sent = *count;
        }
    }

    /// Receives until nothing is missing, or nothing has come for a while; returns what is missing.
    pub fn settle(&mut self) -> u64 {
        let mut quiet = Instant::now();
        let mut seen = self.counts.received;
        loop {
            self.turn(Duration::from_millis(20));
            let missing = self.missing();
            if missing == 0 || quiet.elapsed() > Duration::from_secs(3) {
                return missing;
            }
            if seen != self.counts.received {
                (seen, quiet) = (self.counts.received, Instant::now());
            }
        }
    }

    fn missing(&self) -> u64 {
        let (publishers, subscribers) = self.peers.split_at(self.shape.publishers);
        let sent = |n: usize| publishers[n].sent;
        let of = |(s, peer): (usize, &Peer)| -> u64 {
            let from =
                (0..publishers.len()).filter(|n| !self.shape.pairs || n % publishers.len() == s % publishers.len());
            from.map(|n| sent(n) - peer.expected[n]).sum()
        };
        subscribers.iter().enumerate().map(of).sum()
    }

    fn produce(&mut self) {
        let mut allowance = u64::MAX;
        if let Some(rate) = self.shape.rate {
            let now = Instant::now();
            self.due += rate as f64 * now.duration_since(self.last).as_secs_f64();
            self.last = now;
            allowance = self.due as u64;
            self.due -= allowance as f64;
        }
        let now = self.now_ns();
        let fan = if self.shape.pairs { 1 } else { self.shape.subscribers as u64 };
        let start = if self.shape.rate.is_some() { (now as usize / 1000) % self.shape.publishers } else { 0 };
        let mut left = allowance;
        // With a rate, publishers take turns; without, each fills its window.
        for step in 0.. {
            if left == 0 || (self.shape.rate.is_none() && step >= self.shape.publishers) || step > 100_000 {
                break;
            }
            let number = (start + step) % self.shape.publishers;
            let done = match (self.shape.qos, self.shape.pairs) {
                (0, true) => self.received_by_pair[number],
                (0, false) => self.received_by_pair[number] / fan,
                _ => self.peers[number].acknowledged,
            };
            let peer = &mut self.peers[number];
            let before = peer.output.len();
            let burst = if self.shape.rate.is_some() { 1 } else { u64::MAX };
            let room = (self.shape.window.saturating_sub(peer.sent - done)).min(burst);
            for _ in 0..room {
                let id = (peer.sent % 65_535) as u16 + 1;
                let topic = &peer.topic;
                wire::publish(&mut peer.output, topic, self.shape.qos, id, number as u32, peer.sent, now);
                peer.sent += 1;
                if self.keep_latencies && self.shape.qos > 0 {
                    peer.sent_ns.push_back(now);
                }
            }
            left = left.saturating_sub(1);
            if before == 0 && !self.peers[number].output.is_empty() {
                self.flush(number);
            }
        }
    }

    /// One look at the sockets.
    pub fn turn(&mut self, wait: Duration) {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            other => other.unwrap(),
        }
        let ready: Vec<(usize, bool, bool)> =
            self.events.iter().map(|e| (e.token().0, e.is_readable(), e.is_writable())).collect();
        for (number, readable, writable) in ready {
            if readable {
                self.read(number);
            }
            if writable && self.peers[number].writable_wanted {
                self.peers[number].writable_wanted = false;
                self.flush(number);
            }
        }
    }

    fn read(&mut self, number: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            match self.peers[number].socket.read(&mut scratch) {
                Ok(0) => panic!("the broker closed connection {number}"),
                Ok(n) => {
                    self.received(number, &scratch[..n]);
                    if n < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("connection {number}: {error}"),
            }
        }
        self.scratch = scratch;
        if !self.peers[number].output.is_empty() {
            self.flush(number);
        }
    }

    fn received(&mut self, number: usize, bytes: &[u8]) {
        let mut kept = std::mem::take(&mut self.peers[number].input);
        let used = if kept.is_empty() {
            self.packets(number, bytes)
        } else {
            kept.extend_from_slice(bytes);
            let used = self.packets(number, &kept);
            kept.drain(..used);
            self.peers[number].input = kept;
            return;
        };
        kept.extend_from_slice(&bytes[used..]);
        self.peers[number].input = kept;
    }

    fn packets(&mut self, number: usize, bytes: &[u8]) -> usize {
        let mut at = 0;
        let now = self.now_ns();
        while let Some((first, body, len)) = wire::packet(&bytes[at..]) {
            let peer = &mut self.peers[number];
            match first >> 4 {
                2 | 9 => peer.greeted += 1,
                3 => {
                    let (publisher, seq, sent_ns, id) = wire::stamp(first, body);
                    let publisher = publisher as usize;
                    if seq == peer.expected[publisher] {
                        peer.expected[publisher] += 1;
                    } else {
                        self.counts.wrong += 1;
                        peer.expected[publisher] = peer.expected[publisher].max(seq + 1);
                    }
                    self.counts.received += 1;
                    self.received_by_pair[publisher] += 1;
                    if self.keep_latencies {
                        self.counts.latencies_ns.push(now.saturating_sub(sent_ns));
                    }
                    match first >> 1 & 3 {
                        1 => wire::ack(&mut peer.output, 0x40, id),
                        2 => wire::ack(&mut peer.output, 0x50, id),
                        _ => {}
                    }
                }
                4 | 7 => {
                    peer.acknowledged += 1;
                    self.counts.acknowledged += 1;
                    if let Some(sent_ns) = peer.sent_ns.pop_front() {
                        self.counts.ack_latencies_ns.push(now.saturating_sub(sent_ns));
                    }
                }
                5 => wire::ack(&mut peer.output, 0x62, [body[0], body[1]]),
                6 => wire::ack(&mut peer.output, 0x70, [body[0], body[1]]),
                _ => {}
            }
            at += len;
        }
        at
    }

    fn flush(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        let mut written = 0;
        while written < peer.output.len() {
            match peer.socket.write(&peer.output[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    peer.writable_wanted = true;
                    break;
                }
                Err(error) => panic!("connection {number}: {error}"),
            }
        }
        peer.output.drain(..written);
    }
}
