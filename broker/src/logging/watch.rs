//! One client whose packets are in the log for a while, whatever its level.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Looked at for each packet.
static WATCHES: AtomicBool = AtomicBool::new(false);
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);

/// The longest time.
pub const WATCH_MAX: Duration = Duration::from_secs(24 * 60 * 60);

struct Watched {
    client: Arc<str>,
    until: Instant,
}

/// From now on the packets of this client are in the log at level `info`, for so long and at most [`WATCH_MAX`]. One client at a
/// time: the one before is not watched any more.
pub fn watch(client: &str, time: Duration) {
    let until = Instant::now() + time.min(WATCH_MAX);
    *WATCHED.lock() = Some(Watched { client: client.into(), until });
    WATCHES.store(true, Ordering::Relaxed);
}

/// No client is watched from now on.
pub fn unwatch() {
    WATCHES.store(false, Ordering::Relaxed);
    *WATCHED.lock() = None;
}

/// Who is watched, and for how long still.
#[must_use]
pub fn watched() -> Option<(Arc<str>, Duration)> {
    let mut watched = WATCHED.lock();
    let now = Instant::now();
    match watched.as_ref() {
        Some(of) if now < of.until => Some((of.client.clone(), of.until - now)),
        Some(_) => {
            WATCHES.store(false, Ordering::Relaxed);
            *watched = None;
            None
        }
        None => None,
    }
}

/// Whether anybody may be watched: cheap.
#[inline]
pub fn watches() -> bool {
    WATCHES.load(Ordering::Relaxed)
}

/// Whether this client is.
#[must_use]
pub fn is_watched(client: &str) -> bool {
    watches() && watched().is_some_and(|(watched, _)| *watched == *client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_is_watched_for_its_time() {
        watch("a", Duration::from_secs(1000));
        assert!(is_watched("a") && !is_watched("b"));
        watch("b", Duration::from_secs(1000));
        assert!(is_watched("b") && !is_watched("a"));
        watch("b", Duration::ZERO);
        assert!(!is_watched("b") && !watches(), "its time has passed");
        watch("b", Duration::from_secs(1000));
        unwatch();
        assert!(!is_watched("b") && !watches());
    }
}
