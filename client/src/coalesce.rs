//! Reads in fewer, larger pieces what comes in many small ones.
//!
//! A server that writes each message, or each ack, alone costs the reader a wake-up, a read and a write for each: many times
//! what the message itself costs. After a row of reads that were small and close together the socket is left alone for
//! [`PAUSE`] after each read, as network cards do with their interrupts; what came meanwhile is read and answered at once.
//! A program that answers what it receives, or that waits for each ack, never makes such a row: it loses no time.
//! What this brings, and what it costs, is in docs/decisions/0006-coalesced-reads.md.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long the socket is left alone. A server with no more than 20 messages in flight, as mosquitto is set up, is not held
/// up by it.
const PAUSE: Duration = Duration::from_micros(200);
/// So many small reads make a row, when they are a quarter of a pause apart or less on average.
const ROW: u32 = 16;
/// What a row has to have where pauses brought nothing again and again.
const ROW_MAX: u32 = 4096;
/// A read of more is no small one.
const SMALL: usize = 1024;

/// Decides for one connection.
pub(crate) struct Coalesce {
    timer: Option<Timer>,
    last: Option<Instant>,
    /// Small reads in a row, the time of the first, and their bytes.
    row: u32,
    since: Option<Instant>,
    bytes: usize,
    /// How long a row has to be.
    needed: u32,
    /// Bytes of one small read, while there are pauses.
    piece: Option<usize>,
    /// Reads after a pause that brought no more than two without it: those in a row, and all the others.
    poor: u32,
    good: u32,
}

impl Coalesce {
    pub(crate) fn new() -> Self {
        Self { timer: None, last: None, row: 0, since: None, bytes: 0, needed: ROW, piece: None, poor: 0, good: 0 }
    }

    /// Ready when the socket may be read.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (self.piece, self.last, &mut self.timer) {
            (Some(_), Some(last), Some(timer)) => timer.poll(cx, last + PAUSE),
            (_, _, _) => Poll::Ready(()),
        }
    }

    /// So much was read.
    pub(crate) fn read(&mut self, now: Instant, bytes: usize) {
        let gap = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        match self.piece {
            Some(piece) => self.paid(bytes > 2 * piece),
            None if bytes > SMALL || gap.is_none_or(|gap| gap > PAUSE) => self.begin(),
            None => self.small(now, bytes),
        }
    }

    fn small(&mut self, now: Instant, bytes: usize) {
        self.row += 1;
        self.bytes += bytes;
        if self.row < self.needed {
            return;
        }
        if self.since.is_some_and(|since| now.saturating_duration_since(since) <= PAUSE * self.row / 4) {
            self.timer = self.timer.take().or_else(Timer::new);
            self.piece = self.timer.as_ref().map(|_| self.bytes / self.row as usize);
            (self.poor, self.good) = (0, 0);
        }
        self.begin();
    }

    /// Where every message waits for the answer to the last one, pauses bring nothing: it takes ever more to try again.
    fn paid(&mut self, paid: bool) {
        if paid {
            (self.poor, self.good) = (0, self.good.saturating_add(1));
            return;
        }
        self.poor += 1;
        // One may be what a server with Nagle's algorithm lets go at first.
        if self.poor > 1 {
            self.needed = if self.good < ROW { (self.needed * 2).min(ROW_MAX) } else { ROW };
            self.stop();
        }
    }

    /// There was nothing to read.
    pub(crate) fn nothing(&mut self) {
        if self.piece.is_some() {
            self.stop();
        }
    }

    /// The program said something, and may be waiting for the answer.
    pub(crate) fn stop(&mut self) {
        self.piece = None;
        self.begin();
    }

    fn begin(&mut self) {
        (self.row, self.since, self.bytes) = (0, self.last, 0);
    }
}

/// tokio's timers have milliseconds, which is too long by far.
#[allow(unsafe_code, reason = "tokio has no other way to wait for a descriptor that is no socket")]
#[cfg(any(target_os = "linux", target_os = "android"))]
mod timer {
    use super::*;
    use std::os::fd::OwnedFd;

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(super) struct Timer {
        fd: Box<AsyncFd<OwnedFd>>,
        armed: bool,
    }

    impl Timer {
        /// `None` where there is none to be had: nothing is coalesced then.
        pub(super) fn new() -> Option<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
            // SAFETY: `OwnedFd` owns its descriptor, which is open, and the same, until it is dropped: after the `AsyncFd` that
            // it moves into has ended its registration, and here nothing moves it out.
            let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()?;
            Some(Self { fd: Box::new(fd), armed: false })
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
            if !self.armed {
                let wait = at.saturating_duration_since(Instant::now());
                if wait.is_zero() || !self.arm(wait) {
                    return Poll::Ready(());
                }
            }
            match self.fd.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(_)) => {}
            }
            self.armed = false;
            Poll::Ready(())
        }

        fn arm(&mut self, wait: Duration) -> bool {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
            let timer = Itimerspec { it_interval: zero, it_value: value };
            self.armed = rustix::time::timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &timer).is_ok();
            self.armed
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod timer {
    use super::*;

    /// There is none here: nothing is coalesced.
    pub(super) enum Timer {}

    impl Timer {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn poll(&mut self, _: &mut Context<'_>, _: Instant) -> Poll<()> {
            match *self {}
        }
    }
}

use timer::Timer;

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    /// Reads of so many bytes, so far apart.
    fn reads(coalesce: &mut Coalesce, at: &mut Instant, count: u32, gap_us: u64, bytes: usize) {
        for _ in 0..count {
            *at += Duration::from_micros(gap_us);
            coalesce.read(*at, bytes);
        }
    }

    fn pauses(coalesce: &Coalesce) -> bool {
        coalesce.piece.is_some()
    }

    #[tokio::test]
    async fn only_a_row_of_small_reads_close_together_brings_pauses() {
        for (gap_us, bytes, expected) in [(20, 80, true), (49, 1024, true), (60, 80, false), (20, 1025, false)] {
            let (mut coalesce, mut at) = (Coalesce::new(), Instant::now());
            reads(&mut coalesce, &mut at, 1 + ROW - 1, gap_us, bytes);
            assert!(!pauses(&coalesce), "{gap_us} {bytes}: one less than a row");
            reads(&mut coalesce, &mut at, 1, gap_us, bytes);
            assert_eq!(pauses(&coalesce), expected, "{gap_us} {bytes}");
        }
        let (mut coalesce, mut at) = (Coalesce::new(), Instant::now());
        for _ in 0..10 {
            reads(&mut coalesce, &mut at, ROW / 2, 20, 80);
            coalesce.stop();
        }
        assert!(!pauses(&coalesce), "a program that speaks makes no row");
    }

    #[tokio::test]
    async fn pauses_end_when_they_bring_nothing_and_it_takes_more_to_try_again() {
        let (mut coalesce, mut at) = (Coalesce::new(), Instant::now());
        reads(&mut coalesce, &mut at, 1, 20, 80);
        let mut row = ROW;
        for _ in 0..12 {
            reads(&mut coalesce, &mut at, row - 1, 20, 80);
            assert!(!pauses(&coalesce), "{row}");
            reads(&mut coalesce, &mut at, 1, 20, 80);
            assert!(pauses(&coalesce), "{row}");
            reads(&mut coalesce, &mut at, 1, 200, 160);
            assert!(pauses(&coalesce), "one poor read is none too many");
            reads(&mut coalesce, &mut at, 1, 200, 160);
            assert!(!pauses(&coalesce));
            row = (row * 2).min(ROW_MAX);
        }
        reads(&mut coalesce, &mut at, row, 20, 80);
        reads(&mut coalesce, &mut at, ROW, 200, 800);
        assert!(pauses(&coalesce));
        coalesce.nothing();
        assert!(!pauses(&coalesce));
        assert_eq!(coalesce.needed, ROW_MAX, "it ended for want of anything to read, not because it did not pay");
        reads(&mut coalesce, &mut at, row, 20, 80);
        reads(&mut coalesce, &mut at, ROW, 200, 800);
        reads(&mut coalesce, &mut at, 2, 200, 80);
        assert_eq!(coalesce.needed, ROW, "it paid: the next try comes soon");
    }

    #[tokio::test]
    async fn the_socket_is_left_alone_for_the_pause() {
        let (mut coalesce, mut at) = (Coalesce::new(), Instant::now());
        reads(&mut coalesce, &mut at, 1 + ROW, 20, 80);
        for _ in 0..5 {
            let last = Instant::now();
            coalesce.read(last, 800);
            std::future::poll_fn(|cx| coalesce.poll(cx)).await;
            assert!(last.elapsed() >= PAUSE);
        }
        coalesce.stop();
        let ready = std::future::poll_fn(|cx| Poll::Ready(coalesce.poll(cx))).await;
        assert!(ready.is_ready());
    }
}
