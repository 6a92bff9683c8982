//! Queues that come back from disk.

use super::PageWanted;
use crate::session::{Cx, Session};
use crate::store::{DropReason, QueueEntry};

impl Session {
    /// The page that should be read now, if any: asked once, then [`Session::page_in`] follows.
    pub fn wants_page(&mut self, cx: Cx<'_>) -> Option<PageWanted> {
        if let Some(leaving) = self.leaving {
            return self.wants_leaving_page(leaving);
        }
        let o = &self.outbound;
        if !o.on_disk() || o.flow.paging {
            return None;
        }
        let low = self.connected && o.flow.queue.len() < cx.settings.memory_messages / 2 && !o.memory_full(cx);
        let scan = o.flow.scan.wants();
        let ahead = if scan.is_some() { None } else { self.wants_ahead(cx) };
        let from = scan.or(ahead).or_else(|| low.then_some(self.outbound.flow.disk_from))?;
        self.outbound.flow.paging = true;
        if ahead.is_some() {
            self.outbound.ask_ahead(from);
        }
        Some(PageWanted { from })
    }

    /// The store's answer to [`Session::wants_page`]: entries from `from` on, or why they cannot be read.
    pub fn page_in(&mut self, from: u64, page: Result<Vec<QueueEntry>, ()>, cx: Cx<'_>) {
        let scan = self.outbound.flow.scan.wants();
        let expected =
            if self.connected || scan.is_some() { scan.unwrap_or(self.outbound.flow.disk_from) } else { from };
        if !self.outbound.flow.paging || from != expected {
            return;
        }
        self.outbound.flow.paging = false;
        if scan.is_some() {
            return self.scan_page(page, cx);
        }
        if !self.connected {
            return self.ahead_page(from, page.unwrap_or_default(), cx);
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
            o.flow.disk_from = item.seq + 1;
            if hole {
                continue;
            }
            let entry = o.unread(item);
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
