//! The messages that several queues of one batch hold: a commit writes each of them once.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::{Batch, Message, SessionDelta};

/// The messages that are in more than one queue of a batch, and their places in the list of them.
pub(super) struct SharedMessages<'b> {
    /// By the message's address: `None` while one queue is known to hold it, then its place in the list. Empty when the batch
    /// fills one queue.
    at: HashMap<usize, Option<u64>>,
    list: Vec<&'b Message>,
}

impl<'b> SharedMessages<'b> {
    pub(super) fn find(batch: &'b Batch) -> Self {
        let mut shared = Self { at: HashMap::new(), list: Vec::new() };
        let filled = |delta: &&SessionDelta| !delta.ended && !delta.enqueued.is_empty();
        if batch.sessions.iter().filter(filled).nth(1).is_none() {
            return shared;
        }
        for entry in batch.sessions.iter().filter(filled).flat_map(|delta| &delta.enqueued) {
            match shared.at.entry(address(&entry.message)) {
                Entry::Vacant(new) => {
                    new.insert(None);
                }
                Entry::Occupied(mut known) if known.get().is_none() => {
                    known.insert(Some(shared.list.len() as u64));
                    shared.list.push(&entry.message);
                }
                Entry::Occupied(_) => {}
            }
        }
        shared
    }

    /// Its place in the list; `None` if it is in one queue only.
    pub(super) fn index(&self, message: &Message) -> Option<u64> {
        self.at.get(&address(message)).copied().flatten()
    }

    pub(super) fn list(&self) -> &[&'b Message] {
        &self.list
    }
}

fn address(message: &Message) -> usize {
    std::ptr::from_ref(message).addr()
}
