//! Queues that come back from disk.

use super::PageWanted;
use crate::session::scan::expires;
use crate::session::{Cx, Policy, Session};
use crate::store::{DropReason, QueueEntry};

impl Session {
    /// The page that should be read now, if any: asked once, then [`Session::page_in`] follows.
    pub fn wants_page(&mut self, cx: Cx<'_>) -> Option<PageWanted> {
        if let Some(leaving) = self.leaving {
            return self.wants_leaving_page(leaving);
        }
        let o = &mut self.outbound;
        let over = !self.connected
            && !o.flow.head_stays
            && matches!(cx.settings.policy, Policy::DropOldest | Policy::KeepLast)
            && (o.queued > cx.settings.max_messages || o.queued_bytes > cx.settings.max_bytes);
        let low = self.connected && o.flow.queue.len() < cx.settings.memory_messages / 2 && !o.memory_full(cx);
        let scan = o.flow.scan.wants();
        if !o.on_disk() || o.flow.paging || !(low || over || scan.is_some()) {
            return None;
        }
        o.flow.paging = true;
        Some(PageWanted { from: scan.unwrap_or(o.flow.disk_from) })
    }

    /// The store's answer to [`Session::wants_page`]: entries from `from` on, or why they cannot be read.
    pub fn page_in(&mut self, from: u64, page: Result<Vec<QueueEntry>, ()>, cx: Cx<'_>) {
        let scan = self.outbound.flow.scan.wants();
        if !self.outbound.flow.paging || from != scan.unwrap_or(self.outbound.flow.disk_from) {
            return;
        }
        self.outbound.flow.paging = false;
        if scan.is_some() {
            return self.scan_page(page, cx);
        }
        let page = page.unwrap_or_default();
        if page.is_empty() {
            self.outbound.flow.disk_from = self.outbound.flow.disk_to;
        }
        for item in page {
            let o = &mut self.outbound;
            if item.seq < o.flow.disk_from || item.seq >= o.flow.disk_to {
                continue;
            }
            let hole = o.is_hole(item.seq);
            if !self.connected && !hole && !self.trims(&item, cx) {
                self.outbound.flow.head_stays = item.seq < self.outbound.flow.sent_before;
                break;
            }
            let o = &mut self.outbound;
            o.flow.disk_from = item.seq + 1;
            if hole {
                continue;
            }
            let entry = o.unread(item);
            if !self.connected {
                let expired = self.too_old(&entry, cx);
                self.outbound.discard(entry, (!expired).then_some(DropReason::Oldest));
                self.changed();
                continue;
            }
            o.flow.queue_bytes += entry.item.message.size();
            o.flow.queue.push_back(entry);
        }
        let o = &mut self.outbound;
        let from = o.flow.disk_from;
        o.flow.holes.retain(|(_, end)| *end > from);
        if !o.on_disk() {
            o.flow.holes.clear();
            self.miss();
        }
        self.pump(cx);
    }

    /// The page could not be read now; it will be asked for again.
    pub fn page_failed(&mut self) {
        self.outbound.flow.paging = false;
    }

    /// Whether an entry at the head of an absent client's queue should go: expired, or the queue is over its limit.
    fn trims(&self, item: &QueueEntry, cx: Cx<'_>) -> bool {
        let over =
            self.outbound.queued > cx.settings.max_messages || self.outbound.queued_bytes > cx.settings.max_bytes;
        let old = expires(&item.message, cx) <= cx.now;
        item.seq >= self.outbound.flow.sent_before
            && (old || over && matches!(cx.settings.policy, Policy::DropOldest | Policy::KeepLast))
    }

    /// The whole queue is in memory. What should be in it and was not on disk, between what was or behind it, is counted as
    /// damaged.
    pub(super) fn miss(&mut self) {
        let o = &mut self.outbound;
        let in_memory = o.flow.inflight.iter().filter(|f| f.live()).count() + o.flow.queue.len() + o.flow.pending.len();
        let lost = o.queued.saturating_sub(in_memory as u64 + u64::from(self.out.qos0));
        if lost == 0 {
            return;
        }
        o.queued -= lost;
        o.dropped(DropReason::Damaged, lost);
        o.queued_bytes = o.flow.inflight.iter().filter(|f| f.live()).map(|f| u64::from(f.size)).sum::<u64>()
            + o.flow.queue.iter().chain(&o.flow.pending).map(|e| e.item.message.size() as u64).sum::<u64>();
        self.changed();
    }
}
