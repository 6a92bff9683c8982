//! A worker: one thread, one current-thread runtime, and what its connections borrow from it.

use std::cell::RefCell;
use std::sync::Arc;

use crate::broker::Slot;
use crate::router::RouteCache;

/// Bytes of one read at most.
const READ_BYTES: usize = 64 * 1024;
/// Buffers kept for the next write.
const SPARE_BUFFERS: usize = 8;
/// Larger ones are given back to the system.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// What the connections of one worker use in turn.
pub(crate) struct Scratch {
    pub(crate) read: Box<[u8]>,
    pub(crate) cache: RouteCache<Arc<Slot>>,
    spare: Vec<Vec<u8>>,
}

impl Scratch {
    fn new() -> Self {
        Self { read: vec![0; READ_BYTES].into_boxed_slice(), cache: RouteCache::default(), spare: Vec::new() }
    }

    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
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
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.cache.clear();
        scratch.spare.clear();
    });
}
