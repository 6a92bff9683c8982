//! Who takes from a queue, as far as the queue must know.

use crate::store::QueueEntry;

/// What has been taken of a queue and is not over. It counts as queued, and is in what the store is told, until
/// [`super::Queue::finish`].
pub(crate) trait Holder {
    /// All of it, in the order of places. It lies before everything that waits.
    fn held(&self) -> impl Iterator<Item = Held<'_>>;

    /// The place behind the last one that was taken, as long as something is held.
    fn taken_to(&self) -> Option<u64>;
}

/// One message that is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    /// Its place.
    pub(crate) seq: u64,
    /// Its size, as [`crate::message::Message::size`] says.
    pub(crate) size: u32,
    /// The message, while it may be needed: to be stored, or to be sent again.
    pub(crate) item: Option<&'a QueueEntry>,
}
