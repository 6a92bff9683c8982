//! A worker: one thread, one current-thread runtime, and what its connections borrow from it.

use std::cell::RefCell;
use std::sync::Arc;

use crate::broker::{Budget, Slot, TURN};
use crate::router::RouteCache;

/// Bytes of one read at most.
const READ_BYTES: usize = 64 * 1024;

/// What the connections of one worker use in turn.
pub(crate) struct Scratch {
    pub(crate) read: Box<[u8]>,
    pub(crate) cache: RouteCache<Arc<Slot>>,
    round: Round,
    /// Connections that took all that they were given in the last round.
    flooding: usize,
}

/// What has been done since the woken connections were last asked for.
#[derive(Default)]
struct Round {
    /// Units of work.
    units: usize,
    /// Connections that took all that they were given.
    flooding: usize,
}

impl Scratch {
    fn new() -> Self {
        Self {
            read: vec![0; READ_BYTES].into_boxed_slice(),
            cache: RouteCache::default(),
            round: Round::default(),
            flooding: 0,
        }
    }

    /// What the next connection may do.
    pub(crate) fn budget(&self) -> Budget {
        Budget::shared_by(self.flooding)
    }

    /// A connection has had its turn.
    pub(crate) fn had(&mut self, budget: &Budget) {
        self.round.units += budget.spent();
        self.round.flooding += usize::from(budget.ends_reading());
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The worker's scratch. A connection's poll never runs inside another's.
pub(crate) fn with<R>(act: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(act)
}

/// A round over the woken connections is over. Whether it took as long as the sockets may wait.
pub(crate) fn round_was_long() -> bool {
    with(|scratch| {
        let round = std::mem::take(&mut scratch.round);
        scratch.flooding = round.flooding;
        round.units >= TURN / 2
    })
}

/// Forgets routes, so that an idle worker does not hold on to sessions that are gone.
pub(crate) fn tidy() {
    SCRATCH.with_borrow_mut(|scratch| scratch.cache.clear());
}
