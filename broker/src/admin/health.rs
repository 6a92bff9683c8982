//! Whether the broker lives, and whether it can do its work.

use std::sync::atomic::Ordering;

use crate::broker::Broker;

/// The keeper's thread looks four times a second: it hangs when it has not for so long.
const BEAT_LATE_MS: u64 = 10_000;

/// Why it is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The keeper's thread does not come round.
    Hangs,
    /// It is ending.
    Stopping,
    /// The store cannot be written.
    Store,
}

impl Trouble {
    /// What is said of it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Hangs => "the broker's threads do not answer",
            Self::Stopping => "stopping",
            Self::Store => "the store cannot be written; durable messages are refused",
        }
    }
}

/// Whether it lives: a supervisor starts one that does not anew.
///
/// # Errors
/// It does not.
pub fn live(broker: &Broker) -> Result<(), Trouble> {
    let since = broker.clock.uptime_ms().saturating_sub(broker.observed.last_beat_ms());
    if since > BEAT_LATE_MS { Err(Trouble::Hangs) } else { Ok(()) }
}

/// Whether devices should be sent to it.
///
/// # Errors
/// They should not, and why.
pub fn ready(broker: &Broker) -> Result<(), Trouble> {
    live(broker)?;
    if broker.stopping.load(Ordering::Relaxed) {
        return Err(Trouble::Stopping);
    }
    if broker.store_failing() { Err(Trouble::Store) } else { Ok(()) }
}
