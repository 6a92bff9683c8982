//! One line on a terminal, written again and again while a load runs; nothing where there is none.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::latency::Percentiles;
use super::words;
use crate::tools::{columns, say};

/// It is written again after this.
const EVERY: Duration = Duration::from_millis(250);

/// What a load has done so far.
#[derive(Debug)]
pub struct Snapshot {
    /// Messages.
    pub sent: u64,
    /// Deliveries.
    pub received: u64,
    /// How late they were.
    pub latency: Option<Percentiles>,
}

/// The line.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    what: String,
    started: Instant,
    last: Instant,
    before: (u64, u64),
    dirty: bool,
}

impl Progress {
    /// On the standard error, if that is a terminal.
    #[must_use]
    pub fn new(what: &str) -> Self {
        Self { shown: std::io::stderr().is_terminal(), what: what.to_owned(), ..Self::silent() }
    }

    /// Nowhere.
    #[must_use]
    pub fn silent() -> Self {
        let now = Instant::now();
        Self { shown: false, what: String::new(), started: now, last: now, before: (0, 0), dirty: false }
    }

    fn due(&mut self) -> Option<f64> {
        if !self.shown {
            return None;
        }
        let since = self.last.elapsed();
        (since >= EVERY).then(|| {
            self.last = Instant::now();
            since.as_secs_f64()
        })
    }

    /// Shows a text.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.due().is_some() {
            self.write(&text());
        }
    }

    /// Shows a load.
    pub fn load(&mut self, snapshot: impl FnOnce() -> Snapshot) {
        let Some(seconds) = self.due() else { return };
        let now = snapshot();
        let each_s = |now: u64, before: u64| words::rate(now.saturating_sub(before) as f64 / seconds);
        let (sent, received) = (each_s(now.sent, self.before.0), each_s(now.received, self.before.1));
        self.before = (now.sent, now.received);
        let late = now.latency.map_or_else(String::new, |l| format!(", p99 {}", words::time_us(l.p99_us)));
        let (all, time) = (words::count(now.received), self.started.elapsed().as_secs_f64());
        self.write(&format!("{time:.0} s, published {sent}, received {received} ({all} in all){late}"));
    }

    fn write(&mut self, text: &str) {
        self.dirty = true;
        let line = format!("{}: {text}", self.what);
        // The last column stays free: a cursor behind it may be on the next line.
        let line = columns::cut(&line, columns::of(&std::io::stderr()).saturating_sub(1));
        say::put(format!("\r{line}\x1b[K"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.dirty {
            say::put("\r\x1b[K".to_owned());
            // What comes to standard output next must not be wiped with it.
            say::flush();
        }
    }
}
