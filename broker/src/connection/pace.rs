//! The rate of one connection, in one direction: past it the socket is read, or written, later. Nothing is dropped here.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::Rate;

/// Two buckets that fill up over a second.
pub(crate) struct Pace {
    rate: Rate,
    messages: f64,
    bytes: f64,
    filled_at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        let mut pace = Self { rate, messages: 0.0, bytes: 0.0, filled_at: Instant::now(), sleep: None };
        pace.messages = pace.limit(rate.messages_per_s);
        pace.bytes = pace.limit(rate.bytes_per_s);
        pace
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate over 2^52 is no rate")]
    fn limit(&self, rate: Option<u64>) -> f64 {
        rate.map_or(f64::INFINITY, |rate| rate as f64)
    }

    #[allow(clippy::cast_precision_loss, reason = "a read is small")]
    pub(crate) fn bytes(&mut self, count: usize) {
        self.bytes -= count as f64;
    }

    #[allow(clippy::cast_precision_loss, reason = "a read is small")]
    pub(crate) fn messages(&mut self, count: usize) {
        self.messages -= count as f64;
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        for (level, rate) in [(&mut self.messages, self.rate.messages_per_s), (&mut self.bytes, self.rate.bytes_per_s)]
        {
            #[allow(clippy::cast_precision_loss, reason = "a rate over 2^52 is no rate")]
            if let Some(rate) = rate {
                *level = (*level + elapsed * rate as f64).min(rate as f64);
            }
        }
    }

    /// Seconds until both buckets are above zero.
    fn debt_s(&self) -> f64 {
        let owed = |level: f64, rate: Option<u64>| if level < 0.0 { -level / self.limit(rate) } else { 0.0 };
        owed(self.messages, self.rate.messages_per_s).max(owed(self.bytes, self.rate.bytes_per_s))
    }

    /// Whether the socket is to be left alone; the task is woken when that is over. Each time that it begins is counted.
    pub(crate) fn must_wait(&mut self, cx: &mut Context<'_>, count: impl FnOnce()) -> bool {
        if self.sleep.is_none() {
            let now = Instant::now();
            self.fill(now);
            let debt = self.debt_s();
            if debt <= 0.0 {
                return false;
            }
            count();
            self.sleep = Some(Box::pin(tokio::time::sleep_until(now + Duration::from_secs_f64(debt.min(3600.0)))));
        }
        let waiting = self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx) == Poll::Pending);
        if !waiting {
            self.sleep = None;
        }
        waiting
    }
}
