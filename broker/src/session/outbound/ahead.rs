//! The oldest messages of an absent client's queue lie on disk. Where the policy lets them make room, their sizes are read
//! before the queue is full, so that it does not pass its limit while a page is on its way.

use std::collections::VecDeque;

use super::Outbound;
use crate::message::Time;
use crate::session::scan::expires;
use crate::session::{Cx, Policy, Session};
use crate::store::{DropReason, QueueEntry};

/// What is known of the oldest that may go.
#[derive(Default)]
pub(crate) struct Ahead {
    oldest: VecDeque<Oldest>,
    /// Places from here on have not been read.
    next: u64,
    /// The page that was asked for.
    asked: Option<u64>,
}

struct Oldest {
    seq: u64,
    size: usize,
    expires: Time,
}

impl Session {
    /// The page to read ahead, if the queue is nearly full and little is known of its oldest messages.
    pub(super) fn wants_ahead(&self, cx: Cx<'_>) -> Option<u64> {
        let (o, settings) = (&self.outbound, cx.settings);
        if self.connected || !matches!(settings.policy, Policy::DropOldest | Policy::KeepLast) {
            return None;
        }
        let messages = settings.memory_messages / 2;
        let near = o.queued + messages as u64 >= settings.max_messages
            || o.queued_bytes + settings.memory_bytes as u64 / 2 >= settings.max_bytes;
        let known = o.flow.ahead.as_ref().map_or(0, |ahead| ahead.oldest.len());
        let from = o.ahead_from();
        (near && known <= messages / 2 && from < o.flow.disk_to).then_some(from)
    }

    /// The store's answer.
    pub(super) fn ahead_page(&mut self, from: u64, page: Vec<QueueEntry>, cx: Cx<'_>) {
        let o = &mut self.outbound;
        let end = page.last().map_or(o.flow.disk_to, |last| (last.seq + 1).min(o.flow.disk_to));
        let here = o.flow.disk_from..end;
        let fresh = page.into_iter().filter(|item| here.contains(&item.seq)).map(|item| Oldest {
            seq: item.seq,
            size: item.message.size(),
            expires: expires(&item.message, cx),
        });
        let ahead = o.flow.ahead.get_or_insert_default();
        if ahead.asked.take() != Some(from) {
            return;
        }
        ahead.oldest.extend(fresh);
        ahead.next = end;
        let settings = cx.settings;
        while (o.queued > settings.max_messages || o.queued_bytes > settings.max_bytes) && o.drop_ahead(cx.now) {}
        self.changed();
    }
}

impl Outbound {
    /// What was sent before a restart stays until the client says what it knows of it.
    fn ahead_from(&self) -> u64 {
        let next = self.flow.ahead.as_ref().map_or(0, |ahead| ahead.next);
        next.max(self.flow.disk_from).max(self.flow.sent_before)
    }

    pub(super) fn ask_ahead(&mut self, from: u64) {
        self.flow.ahead.get_or_insert_default().asked = Some(from);
    }

    /// Drops the oldest message on disk. False: it is not known yet which that is.
    pub(super) fn drop_ahead(&mut self, now: Time) -> bool {
        while let Some(Oldest { seq, size, expires }) =
            self.flow.ahead.as_mut().and_then(|ahead| ahead.oldest.pop_front())
        {
            if seq < self.flow.disk_from || self.is_hole(seq) {
                continue;
            }
            self.make_hole(seq);
            self.gone(size);
            if expires <= now {
                self.ledger.expired += 1;
            } else {
                self.dropped(DropReason::Oldest, 1);
            }
            return true;
        }
        false
    }
}
