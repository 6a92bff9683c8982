//! A line in virtual time: a socket that takes what its buffer has room for, a rate, and a server at the end that wants to
//! hear a packet in one and a half times the keep alive, and answers when it has.

use std::collections::VecDeque;

use super::peer::*;
use super::*;
use crate::LostReason;
use crate::session::tests::simulation::whole_packets;

struct Line {
    b: Bench,
    /// Bytes a second.
    rate: usize,
    /// What the socket takes at most.
    buffer: usize,
    /// What it has taken.
    kernel: VecDeque<u8>,
    /// What the driver holds, since the socket is full.
    out: Vec<u8>,
    stuck: bool,
    at_server: Vec<u8>,
    published: usize,
    pings: usize,
    heard_at: Instant,
    longest_silence: Duration,
    dead: bool,
}

const TICK: Duration = Duration::from_millis(100);

impl Line {
    fn new(keep_alive_s: u32, rate: usize, buffer: usize) -> Self {
        let outbox = crate::Outbox { max_bytes: 64 << 20, max_messages: 400_000, ..Default::default() };
        let mut b = Bench::new(options(V5).keep_alive(S * keep_alive_s).outbox(outbox));
        b.connect(false);
        let heard_at = b.now;
        let (kernel, out, at_server) = (VecDeque::new(), Vec::new(), Vec::new());
        let (longest_silence, dead) = (Duration::ZERO, false);
        let (stuck, published, pings) = (false, 0, 0);
        Self { b, rate, buffer, kernel, out, stuck, at_server, published, pings, heard_at, longest_silence, dead }
    }

    /// What the driver does.
    fn write(&mut self) {
        loop {
            if self.out.is_empty() {
                self.b.session.fill(self.b.now, &mut self.out, &mut self.b.unwritten);
                if self.out.is_empty() {
                    return;
                }
            }
            let room = self.buffer.saturating_sub(self.kernel.len()).min(self.out.len());
            // Linux wakes a writer when a third of the buffer is free.
            if room == 0 || self.stuck && room < (self.buffer / 3).min(self.out.len()) {
                self.stuck = true;
                return;
            }
            if std::mem::take(&mut self.stuck) {
                self.b.session.line_moves(self.b.now);
            }
            self.kernel.extend(self.out.drain(..room));
            if self.out.is_empty() {
                let unwritten = std::mem::take(&mut self.b.unwritten);
                self.b.session.settle_unwritten(unwritten, true);
            }
        }
    }

    fn tick(&mut self) -> Result<(), Over> {
        self.write();
        self.b.now += TICK;
        if !self.dead {
            let carried = (self.rate / 10).min(self.kernel.len());
            self.at_server.extend(self.kernel.drain(..carried));
            let whole = whole_packets(&self.at_server);
            let bytes: Vec<u8> = self.at_server.drain(..whole).collect();
            for packet in packets(V5, &bytes) {
                self.longest_silence = self.longest_silence.max(self.b.now - self.heard_at);
                self.heard_at = self.b.now;
                match packet {
                    Packet::Ping => {
                        self.pings += 1;
                        self.b.receive(&[0xd0, 0]);
                    }
                    Packet::Publish { .. } => self.published += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        self.b.session.tick(self.b.now)
    }

    fn publish(&mut self, size: usize, count: usize) {
        for _ in 0..count {
            drop(self.b.publish(message("t", "x".repeat(size), Q0)));
        }
    }
}

#[test]
fn a_slow_line_is_kept_and_the_server_hears_of_the_client_in_time() {
    for (keep_alive_s, rate, buffer, size) in [
        (60, 2_500, 16 << 10, 200),
        (60, 2_500, 4 << 20, 200),
        (60, 10_000, 4 << 20, 60_000),
        (10, 2_500, 4 << 20, 200),
        (10, 10_000, 16 << 10, 60_000),
        (10, 100_000, 4 << 20, 200),
        (5, 5_000, 256 << 10, 1_000),
    ] {
        let mut line = Line::new(keep_alive_s, rate, buffer);
        // Ten minutes of it, then nothing but the keep alive.
        let count = 600 * rate / (size + 10);
        line.publish(size, count);
        for _ in 0..(600 + 4 * keep_alive_s + 30) * 10 {
            let what = (keep_alive_s, rate, buffer, size);
            line.tick().unwrap_or_else(|over| panic!("{what:?}: {over:?} with {} through", line.published));
        }
        let what = (keep_alive_s, rate, buffer, size, line.pings);
        assert_eq!(line.published, count, "{what:?}");
        assert!(line.longest_silence <= S * keep_alive_s * 3 / 2, "{what:?}: {:?}", line.longest_silence);
        assert!(line.pings >= 3, "{what:?}");
    }
}

#[test]
fn a_message_of_minutes_is_waited_for() {
    for buffer in [16 << 10, 4 << 20] {
        let mut line = Line::new(60, 4_000, buffer);
        line.publish(2_000_000, 1);
        for _ in 0..700 * 10 {
            line.tick().unwrap_or_else(|over| panic!("{buffer}: {over:?}"));
        }
        assert_eq!(line.published, 1);
    }
}

#[test]
fn a_dead_line_is_noticed_however_much_was_given_to_it() {
    for (buffer, size) in [(16 << 10, 200), (4 << 20, 200), (256 << 10, 20_000)] {
        let mut line = Line::new(60, 20_000, buffer);
        line.publish(size, 4_000_000 / size);
        for _ in 0..60 * 10 {
            line.tick().unwrap();
        }
        line.dead = true;
        let mut ticks = 0;
        let over = loop {
            if let Err(over) = line.tick() {
                break over;
            }
            ticks += 1;
            assert!(ticks < 3 * 60 * 10, "{buffer}, {size}: it is not noticed");
        };
        assert!(matches!(over, Over::Lost(LostReason::KeepAlive, _)), "{over:?}");
    }
}

#[test]
fn an_idle_line_costs_no_more_than_before() {
    let mut line = Line::new(60, 1 << 20, 4 << 20);
    line.publish(100, 60_000);
    for _ in 0..60 * 10 {
        line.tick().unwrap();
    }
    // Six megabytes and a half: one in 64 KB or, since the socket is given 128 KB at once, 128.
    assert!((45..=110).contains(&line.pings), "{}", line.pings);
    let busy = line.pings;
    for _ in 0..600 * 10 {
        line.tick().unwrap();
    }
    assert!((9..=10).contains(&(line.pings - busy)), "one a minute");
}
