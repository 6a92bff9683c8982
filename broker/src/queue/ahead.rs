//! The oldest messages of an absent client's queue lie on disk. Where the policy lets them make room, their sizes are read
//! before the queue is full, so that it does not pass its limit while a page is on its way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::places::{Paged, Queue, Rules};
use super::scan::expires;
use super::{Policy, QueueLimits, Why};
use crate::message::{Message, Time};
use crate::store::{DropReason, QueueEntry};

/// What is known of the oldest that may go.
#[derive(Default)]
pub(super) struct Ahead {
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
    /// Where it is a dead letter when it goes.
    message: Option<Arc<Message>>,
}

impl Queue {
    /// The page to read ahead, if the queue of an absent taker is nearly full and little is known of its oldest messages.
    pub(super) fn wants_ahead(&self, rules: Rules<'_>) -> Option<u64> {
        let limits = self.limits(rules);
        if !matches!(self.policy(rules), Policy::DropOldest | Policy::KeepLast) {
            return None;
        }
        let messages = limits.memory_messages / 2;
        let near = self.queued + messages as u64 >= limits.max_messages
            || self.queued_bytes + limits.memory_bytes as u64 / 2 >= limits.max_bytes;
        let known = self.places.ahead.as_ref().map_or(0, |ahead| ahead.oldest.len());
        let from = self.ahead_from();
        (near && known <= messages / 2 && from < self.places.disk_to).then_some(from)
    }

    /// The store's answer.
    pub(super) fn ahead_page(&mut self, from: u64, page: Vec<QueueEntry>, rules: Rules<'_>) -> Paged {
        let places = &*self.places;
        let end = page.last().map_or(places.disk_to, |last| (last.seq + 1).min(places.disk_to));
        let here = places.disk_from..end;
        let QueueLimits { max_messages, max_bytes, max_age_ms, .. } = *self.limits(rules);
        let fresh = page.into_iter().filter(|item| here.contains(&item.seq) && !self.was_sent(item));
        let wanted = self.keeps(Why::Full) || self.keeps(Why::Expired);
        let oldest = |item: QueueEntry| {
            let expires = expires(&item.message, max_age_ms);
            let message = (item.qos > 0 && wanted).then(|| item.message.clone());
            Oldest { seq: item.seq, size: item.message.size(), expires, message }
        };
        let fresh: Vec<Oldest> = fresh.map(oldest).collect();
        let ahead = self.places.ahead.get_or_insert_default();
        if ahead.asked.take() != Some(from) {
            return Paged::NotAsked;
        }
        ahead.oldest.extend(fresh);
        ahead.next = end;
        while (self.queued > max_messages || self.queued_bytes > max_bytes) && self.drop_ahead(rules.now) {}
        Paged::Changed
    }

    fn ahead_from(&self) -> u64 {
        let next = self.places.ahead.as_ref().map_or(0, |ahead| ahead.next);
        next.max(self.places.disk_from)
    }

    pub(super) fn ask_ahead(&mut self, from: u64) {
        self.places.ahead.get_or_insert_default().asked = Some(from);
    }

    /// Drops the oldest message on disk. False: it is not known yet which that is.
    pub(super) fn drop_ahead(&mut self, now: Time) -> bool {
        while let Some(Oldest { seq, size, expires, message }) =
            self.places.ahead.as_mut().and_then(|ahead| ahead.oldest.pop_front())
        {
            if seq < self.places.disk_from || self.is_hole(seq) {
                continue;
            }
            self.make_hole(seq);
            self.gone(size);
            let why = if expires <= now {
                self.ledger.expired += 1;
                Why::Expired
            } else {
                self.dropped(DropReason::Oldest, 1);
                Why::Full
            };
            if let Some(message) = message.filter(|_| self.keeps(why)) {
                self.keep(message, why, false);
            }
            return true;
        }
        false
    }
}
