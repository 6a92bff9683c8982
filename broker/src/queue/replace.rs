//! `keep-last`: a newer message replaces the one that waits under the same key.

use std::collections::VecDeque;

use super::places::{Entry, Queue};
use crate::store::DropReason;

impl Queue {
    /// The message that waits under the key (by its hash) of place `seq`, if any, goes.
    pub(super) fn replace(&mut self, key: Option<u64>, seq: u64, size: usize) {
        let Some(key) = key else { return };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let newest = self.places.newest.get_or_insert_default();
        let other = newest.get(&key).copied();
        if other.is_none_or(|(other, _)| other < seq) {
            newest.insert(key, (seq, size));
        }
        match other {
            Some((newer, _)) if newer > seq => self.replaced(seq, size),
            Some((older, size)) if older < seq => self.replaced(older, size),
            Some(_) => {}
            None => self.forget_delivered(),
        }
    }

    fn replaced(&mut self, seq: u64, size: u32) {
        if self.remove_waiting(seq) {
            return;
        }
        // Its QoS is not known here, so whatever a taker may have been sent stays.
        let sent = !self.by_value() && seq < self.places.sent_before.max(self.places.maybe_sent_before);
        if !sent && self.waits_on_disk(seq) {
            self.make_hole(seq);
            self.gone(size as usize);
            self.dropped(DropReason::Replaced, 1);
        }
    }

    /// The message at this place goes, if it waits in memory and was not sent. False: it does not wait in memory.
    fn remove_waiting(&mut self, seq: u64) -> bool {
        let find = self.places.next.binary_search_by(|e| e.item.seq.cmp(&seq)).ok();
        if find.and_then(|at| self.places.next.get(at)).is_some_and(|entry| self.was_sent(&entry.item)) {
            return true;
        }
        let remove = |list: &mut VecDeque<Entry>| {
            list.binary_search_by(|e| e.item.seq.cmp(&seq)).ok().and_then(|at| list.remove(at))
        };
        let places = &mut *self.places;
        let entry = if let Some(entry) = remove(&mut places.next) {
            places.next_bytes = places.next_bytes.saturating_sub(entry.item.message.size());
            Some(entry)
        } else {
            remove(&mut places.pending)
        };
        let Some(entry) = entry else { return false };
        self.discard(entry, Some(DropReason::Replaced));
        true
    }

    /// Keys of messages that are gone must not stay for ever.
    fn forget_delivered(&mut self) {
        let queued = usize::try_from(self.queued).unwrap_or(usize::MAX);
        let oldest = self.oldest_waiting();
        if let Some(newest) = &mut self.places.newest
            && newest.len() > queued.saturating_mul(2).saturating_add(64)
        {
            newest.retain(|_, (seq, _)| *seq >= oldest);
        }
    }
}
