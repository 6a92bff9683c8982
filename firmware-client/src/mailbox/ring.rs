//! The ring itself: bytes between one writer and one reader. `loom/` tries every interleaving of the two on this file.

use super::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// How far both are.
#[derive(Debug)]
pub(super) struct Ends {
    /// Where the receiver reads; only it writes this.
    pub(super) read: AtomicUsize,
    /// Where the sender writes; only it writes this.
    pub(super) written: AtomicUsize,
    /// How many messages of each class had no room; only the sender writes this.
    pub(super) lost: [AtomicU32; 4],
}

/// Writes a message if there is room for all of it; otherwise counts it. For the sender alone.
pub(super) fn put(bytes: &[AtomicU8], ends: &Ends, class: usize, parts: [&[u8]; 3]) -> bool {
    let size = bytes.len();
    let read = ends.read.load(Ordering::Acquire);
    let written = ends.written.load(Ordering::Relaxed);
    let used = if written >= read { written.wrapping_sub(read) } else { written.wrapping_add(size).wrapping_sub(read) };
    let len = parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.len()));
    if len >= size.wrapping_sub(used) {
        if let Some(lost) = ends.lost.get(class) {
            lost.store(lost.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        }
        return false;
    }
    let mut at = written;
    for byte in parts.into_iter().flatten() {
        if let Some(to) = bytes.get(at) {
            to.store(*byte, Ordering::Relaxed);
        }
        at = next(at, size);
    }
    // What was written is seen by whoever sees this.
    ends.written.store(at, Ordering::Release);
    true
}

/// Where the next message begins. For the receiver alone, as the rest is.
pub(super) fn pending(ends: &Ends) -> Option<usize> {
    let at = ends.read.load(Ordering::Relaxed);
    (at != ends.written.load(Ordering::Acquire)).then_some(at)
}

/// The byte at a place of a message that is there.
pub(super) fn byte(bytes: &[AtomicU8], at: &mut usize) -> u8 {
    let byte = bytes.get(*at).map_or(0, |byte| byte.load(Ordering::Relaxed));
    *at = next(*at, bytes.len());
    byte
}

/// What lies before `at` may be written over.
pub(super) fn done(ends: &Ends, at: usize) {
    ends.read.store(at, Ordering::Release);
}

/// How many messages of a class had no room so far.
pub(super) fn lost(ends: &Ends, class: usize) -> u32 {
    ends.lost.get(class).map_or(0, |lost| lost.load(Ordering::Acquire))
}

pub(super) fn next(at: usize, size: usize) -> usize {
    let next = at.wrapping_add(1);
    if next == size { 0 } else { next }
}
