//! Connections that end when what their clients logged in with does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// When the next connection ends, in milliseconds since 1970. It may have ended or been renewed since: then the look finds nothing.
pub(crate) struct Expiry(AtomicU64);

impl Default for Expiry {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Expiry {
    /// A connection ends then.
    pub(crate) fn at_most(&self, at: SystemTime) {
        self.0.fetch_min(since_1970(at), Ordering::AcqRel);
    }

    /// Whether a connection's time may have come. Then all are to be looked at, and say again when they end; those that come
    /// meanwhile say so themselves.
    pub(crate) fn take_due(&self, now: SystemTime) -> bool {
        let due = self.0.load(Ordering::Acquire) <= since_1970(now);
        if due {
            self.0.store(u64::MAX, Ordering::Release);
        }
        due
    }
}

fn since_1970(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
