//! What must hold of a queue after every step. Tests ask it.

use std::collections::VecDeque;

use super::holder::{Held, Holder};
use super::places::{Entry, Queue};
use crate::store::Ledger;

impl Queue {
    /// What must hold after every step: the first that does not.
    pub(crate) fn check(&self, holder: &impl Holder) -> Result<(), &'static str> {
        let places = &*self.places;
        let must = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
        let held: Vec<Held<'_>> = holder.held().collect();
        let next = || places.next.iter().map(|entry| entry.item.seq);
        let pending = || places.pending.iter().map(|entry| entry.item.seq);
        let disk = self.on_disk().then(|| [places.disk_from, places.disk_to - 1]).into_iter().flatten();
        // A range of one place is written twice.
        let order: Vec<u64> = held.iter().map(|held| held.seq).chain(next()).chain(disk).chain(pending()).collect();
        must(order.is_sorted(), "places are in order: held, next, disk, pending")?;
        must(order.last().is_none_or(|last| *last < places.next_seq), "every place lies below the next one")?;
        must(pending().all(|seq| seq >= places.committed), "what is pending is not committed")?;
        must(places.committed <= places.given && places.collected <= places.given, "what is committed was given")?;
        must(places.given <= places.next_seq, "what was given has a place")?;
        let bytes = |list: &VecDeque<Entry>| list.iter().map(|entry| entry.item.message.size()).sum::<usize>();
        must(bytes(&places.next) == places.next_bytes, "the bytes in memory are counted")?;
        let here = (held.len() + places.next.len() + places.pending.len()) as u64 + u64::from(self.passing);
        let held_bytes: u64 = held.iter().map(|held| u64::from(held.size)).sum();
        let here_bytes = held_bytes + (bytes(&places.next) + bytes(&places.pending)) as u64;
        match self.queued.checked_sub(here) {
            None => must(false, "all that is in memory is counted as queued")?,
            Some(0) => {}
            Some(rest) => must(rest <= places.disk_to - places.disk_from, "what is not in memory lies on disk")?,
        }
        if self.on_disk() {
            must(here_bytes <= self.queued_bytes, "bytes in memory are bytes of the queue")?;
        } else {
            must(here_bytes == self.queued_bytes, "bytes of the queue are in memory")?;
        }
        let Ledger { accepted, delivered, expired, dropped } = &self.ledger;
        let sum = delivered + expired + dropped.iter().sum::<u64>() + self.queued;
        must(*accepted == sum, "accepted = delivered + expired + dropped + queued")
    }
}
