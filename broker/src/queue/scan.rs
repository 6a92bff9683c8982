//! Looking through what lies on disk of a queue, beside its delivery: what has expired makes room although nobody comes for
//! it, and `keep-last` finds after a restart what newer messages replace.

use super::places::{Entry, Queue, Rules};
use super::{Policy, QueueLimits, Why};
use crate::message::{Message, Time};
use crate::store::QueueEntry;

/// Between two looks through the same queue: this, and a millisecond for so many messages in it.
const PAUSE_MS: u64 = 1_000;
const MESSAGES_A_MS: u64 = 100;

/// How far a look has come.
pub(crate) struct Scan {
    /// The next place to look at, while one is under way.
    next: Option<u64>,
    /// It is for `keep-last`: delivery waits for its end.
    indexing: bool,
    /// Nothing on disk expires before.
    due: Time,
    /// Nothing that this look has seen expires before.
    found: Time,
}

impl Default for Scan {
    fn default() -> Self {
        Self { next: None, indexing: false, due: Time(u64::MAX), found: Time(u64::MAX) }
    }
}

impl Scan {
    /// A message that expires at this time has joined the queue.
    pub(crate) fn note(&mut self, expires: Time) {
        self.due = self.due.min(expires);
    }

    /// The page that it wants, if it is under way.
    pub(crate) fn wants(&self) -> Option<u64> {
        self.next
    }

    /// A connection has come: it will find what has expired by itself.
    pub(crate) fn stop(&mut self) {
        if !self.indexing && self.next.take().is_some() {
            self.due = Time(0);
        }
    }
}

/// When a message leaves the queue undelivered, by what its publisher says or by the queue's limit.
pub(crate) fn expires(message: &Message, max_age_ms: Option<u64>) -> Time {
    let by_age = max_age_ms.map(|age| Time(message.accepted_at.0.saturating_add(age)));
    [message.expires_at, by_age].into_iter().flatten().min().unwrap_or(Time(u64::MAX))
}

impl Queue {
    /// After a restart: `keep-last` has to know what there is.
    pub(crate) fn index(&mut self, rules: Rules<'_>) {
        if !self.on_disk() {
            return;
        }
        let keep_last = self.limits(rules).policy == Policy::KeepLast;
        let places = &mut *self.places;
        // What it is that expires is not known either.
        places.scan.due = Time(0);
        if keep_last {
            places.scan.next = Some(places.disk_from);
            places.scan.indexing = true;
        }
    }

    /// Whether something on disk may have expired, and room is short or it is to be a dead letter.
    pub(crate) fn may_have_expired(&self, rules: Rules<'_>) -> bool {
        let scan = &self.places.scan;
        (self.keeps(Why::Expired) || self.nearly_full(rules))
            && self.on_disk()
            && scan.next.is_none()
            && scan.due <= rules.now
    }

    /// Begins a look; the pages follow.
    pub(crate) fn look_for_expired(&mut self, rules: Rules<'_>) {
        let max_age_ms = self.limits(rules).max_age_ms;
        let places = &mut *self.places;
        places.scan.next = Some(places.disk_from);
        // What joins from here on is noted, and what has not reached the disk is not seen.
        places.scan.due = Time(u64::MAX);
        let pending = places.pending.iter().map(|entry| expires(&entry.item.message, max_age_ms));
        places.scan.found = pending.min().unwrap_or(Time(u64::MAX));
    }

    /// The store's answer for a look; empty when it could not be read.
    pub(super) fn scan_page(&mut self, page: Vec<QueueEntry>, rules: Rules<'_>) {
        let QueueLimits { max_age_ms, policy, keep_last_by, .. } = self.limits(rules).clone();
        let mut next = None;
        for item in page {
            next = Some(item.seq + 1);
            // What was sent before a restart stays until the taker says what it knows of it.
            if !self.waits_on_disk(item.seq) || self.was_sent(&item) {
                continue;
            }
            let expires = expires(&item.message, max_age_ms);
            if expires <= rules.now {
                self.make_hole(item.seq);
                self.gone(item.message.size());
                self.ledger.expired += 1;
                self.fall(Entry { item, awaiting: false }, None, false);
            } else {
                self.places.scan.found = self.places.scan.found.min(expires);
                if policy == Policy::KeepLast {
                    let key = keep_last_by.hash_of(item.message.topic_bytes(), item.message.properties());
                    self.replace(key, item.seq, item.message.size());
                }
            }
        }
        let again = rules.now.plus_ms(PAUSE_MS + self.queued / MESSAGES_A_MS);
        let places = &mut *self.places;
        places.scan.next = next.filter(|next| *next < places.disk_to).map(|next| next.max(places.disk_from));
        if places.scan.next.is_none() {
            places.scan.indexing = false;
            places.scan.due = places.scan.due.min(places.scan.found).max(again);
        }
    }
}
