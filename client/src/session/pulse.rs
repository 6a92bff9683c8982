//! Keep alive: when PINGREQ is sent, and when a connection is given up.
//!
//! What was given to the socket may wait in the kernel's buffer, megabytes of it, and on a slow line for minutes. The server
//! hears packets all the while, so for it nothing is late [MQTT5-3.1.2-20]; but the answer to a PINGREQ comes only when all
//! before it is through. So one goes with every [`EVERY`] bytes: the answers show that the line moves. And a PINGREQ has as
//! much more time as the bytes between it and the one before take on the slowest line.

use std::time::{Duration, Instant};

/// Bytes after which the server is asked for a sign of life.
const EVERY: usize = 64 * 1024;
/// Bytes a second of a line that is not taken for a dead one: 16 kbit/s.
const SLOWEST: usize = 2 * 1024;
/// More than this is not waited for a single large message: TCP itself gives a dead line up in this time.
const PATIENCE_MAX: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug)]
pub(super) struct Pulse {
    /// Zero: for ever.
    pub(super) keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    /// The socket was full, and took something: the other end has acknowledged bytes.
    last_moved: Instant,
    /// PINGREQs without an answer, and when the first of them was sent.
    unanswered: u32,
    asked_at: Instant,
    /// Bytes since the last PINGREQ.
    since: usize,
    /// Most bytes before a PINGREQ that is not answered.
    before: usize,
}

impl Pulse {
    /// At CONNECT.
    pub(super) fn new(keep_alive: Duration, now: Instant) -> Self {
        Self {
            keep_alive,
            last_sent: now,
            last_received: now,
            last_moved: now,
            unanswered: 0,
            asked_at: now,
            since: 0,
            before: 0,
        }
    }

    pub(super) fn received(&mut self, now: Instant) {
        self.last_received = now;
    }

    pub(super) fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// So many bytes go to the socket.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        self.last_sent = now;
        self.since += bytes;
    }

    /// The socket takes bytes again.
    pub(super) fn moved(&mut self, now: Instant) {
        (self.last_sent, self.last_moved) = (now, now);
    }

    /// Whether it is time for a PINGREQ after so much output; the caller sends it.
    pub(super) fn wants_sign(&self) -> bool {
        self.since >= EVERY && !self.keep_alive.is_zero()
    }

    /// A PINGREQ goes to the socket.
    pub(super) fn asks(&mut self, now: Instant) {
        if self.unanswered == 0 {
            (self.asked_at, self.before) = (now, 0);
        }
        self.unanswered += 1;
        self.before = self.before.max(std::mem::take(&mut self.since));
        self.last_sent = now;
    }

    /// When the next PINGREQ is due. Without one on the way also when only this side talks: a connection that is dead on the
    /// way is noticed by the missing answer.
    fn ask_at(&self) -> Instant {
        let silent = if self.unanswered == 0 { self.last_sent.min(self.last_received) } else { self.last_sent };
        silent + self.keep_alive
    }

    /// When the connection is given up.
    fn end_at(&self) -> Option<Instant> {
        let alive = self.asked_at.max(self.last_received).max(self.last_moved);
        (self.unanswered > 0).then(|| alive + self.patience())
    }

    /// Half a keep alive for the answer to PINGREQ.
    fn patience(&self) -> Duration {
        let way = Duration::from_secs((self.before / SLOWEST) as u64).min(PATIENCE_MAX);
        (self.keep_alive / 2).max(Duration::from_secs(1)) + way
    }

    pub(super) fn deadline(&self) -> Instant {
        self.end_at().map_or(self.ask_at(), |end| end.min(self.ask_at()))
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.end_at().is_some_and(|at| now >= at)
    }

    pub(super) fn must_ask(&self, now: Instant) -> bool {
        now >= self.ask_at()
    }
}
