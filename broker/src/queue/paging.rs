//! Queues that come back from disk.

use super::holder::Holder;
use super::places::{Entry, PageWanted, Paged, Presence, Queue, Rules};
use crate::store::{DropReason, QueueEntry};

impl Queue {
    /// The page that should be read now, if any: asked once, then [`Queue::page_in`] follows.
    pub(crate) fn wants_page(&mut self, presence: Presence, rules: Rules<'_>) -> Option<PageWanted> {
        if !self.on_disk() || self.places.paging {
            return None;
        }
        let places = &*self.places;
        let low = presence == Presence::There
            && places.next.len() < self.limits(rules).memory_messages / 2
            && !self.memory_full(rules);
        // What has expired is told to the store in pieces: no commit is larger for it than it must be.
        let scan = places.scan.wants().filter(|_| !places.untold.is_full());
        let ahead = if scan.is_some() || presence == Presence::There { None } else { self.wants_ahead(rules) };
        let from = scan.or(ahead).or_else(|| low.then_some(self.places.disk_from))?;
        self.places.paging = true;
        if ahead.is_some() {
            self.ask_ahead(from);
        }
        Some(PageWanted { from })
    }

    /// Whether nothing can be taken before the page that is being read has come.
    pub(crate) fn awaits_page(&self) -> bool {
        let places = &*self.places;
        self.on_disk() && places.paging && places.next.is_empty() && places.scan.wants().is_none()
    }

    /// The store's answer to [`Queue::wants_page`]: entries from `from` on, or why they cannot be read.
    pub(crate) fn page_in(
        &mut self,
        from: u64,
        page: Result<Vec<QueueEntry>, ()>,
        presence: Presence,
        holder: &impl Holder,
        rules: Rules<'_>,
    ) -> Paged {
        let scan = self.places.scan.wants();
        let expected =
            if presence == Presence::There || scan.is_some() { scan.unwrap_or(self.places.disk_from) } else { from };
        if !self.places.paging || from != expected {
            return Paged::NotAsked;
        }
        self.places.paging = false;
        let page = page.unwrap_or_default();
        if scan.is_some() {
            self.scan_page(page, rules);
            return Paged::Changed;
        }
        if presence == Presence::Away {
            return self.ahead_page(from, page, rules);
        }
        self.next_page(page);
        if self.on_disk() {
            return Paged::Unchanged;
        }
        self.places.holes.clear();
        if self.count_missing(holder) { Paged::Changed } else { Paged::Unchanged }
    }

    /// What is next comes from disk.
    fn next_page(&mut self, page: Vec<QueueEntry>) {
        let places = &mut *self.places;
        if page.is_empty() {
            places.untold.add(places.disk_from, places.disk_to);
            places.disk_from = places.disk_to;
        }
        for item in page {
            if item.seq < places.disk_from || item.seq >= places.disk_to {
                continue;
            }
            let hole = places.holes.contains(item.seq);
            places.disk_from = item.seq + 1;
            if hole {
                continue;
            }
            places.next_bytes += item.message.size();
            places.next.push_back(Entry { item, awaiting: false });
        }
        places.holes.forget_below(places.disk_from);
    }

    /// The page could not be read now; it will be asked for again.
    pub(crate) fn page_failed(&mut self) {
        self.places.paging = false;
    }

    /// The whole queue is in memory. What should be in it and was not on disk, between what was or behind it, is counted as
    /// damaged. True: there was such.
    pub(crate) fn count_missing(&mut self, holder: &impl Holder) -> bool {
        let places = &*self.places;
        let in_memory = holder.held().count() + places.next.len() + places.pending.len();
        let lost = self.queued.saturating_sub(in_memory as u64 + u64::from(self.passing));
        if lost == 0 {
            return false;
        }
        let waiting = places.next.iter().chain(&places.pending).map(|entry| entry.item.message.size() as u64);
        self.queued_bytes = holder.held().map(|held| u64::from(held.size)).sum::<u64>() + waiting.sum::<u64>();
        self.queued -= lost;
        self.dropped(DropReason::Damaged, lost);
        true
    }
}
