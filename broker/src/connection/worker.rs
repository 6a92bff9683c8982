//! A worker: one thread, one current-thread runtime, and what its connections borrow from it.

use std::cell::RefCell;
use std::sync::Arc;

use crate::broker::Slot;
use crate::router::RouteCache;

/// Bytes of one read at most.
const READ_BYTES: usize = 64 * 1024;

/// What the connections of one worker use in turn.
pub(crate) struct Scratch {
    pub(crate) read: Box<[u8]>,
    pub(crate) cache: RouteCache<Arc<Slot>>,
}

impl Scratch {
    fn new() -> Self {
        Self { read: vec![0; READ_BYTES].into_boxed_slice(), cache: RouteCache::default() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The worker's scratch. A connection's poll never runs inside another's.
pub(crate) fn with<R>(act: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(act)
}

/// Forgets routes, so that an idle worker does not hold on to sessions that are gone.
pub(crate) fn tidy() {
    SCRATCH.with_borrow_mut(|scratch| scratch.cache.clear());
}
