//! Looking through what lies on disk of a queue, beside its delivery: what has expired makes room although nobody comes for
//! it, and `keep-last` finds after a restart what newer messages replace.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use super::outbound::Outbound;
use super::{Cx, Policy, Session};
use crate::message::{Message, Time};
use crate::store::{DropReason, QueueEntry};

/// Seeded by chance: nobody can choose a topic whose messages replace those of another.
static TOPICS: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);

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
pub(crate) fn expires(message: &Message, cx: Cx<'_>) -> Time {
    let by_age = cx.settings.max_age_ms.map(|age| Time(message.accepted_at.0.saturating_add(age)));
    [message.expires_at, by_age].into_iter().flatten().min().unwrap_or(Time(u64::MAX))
}

impl Outbound {
    /// A place that lies on disk is done.
    pub(crate) fn make_hole(&mut self, seq: u64) {
        let at = self.flow.holes.partition_point(|(_, end)| *end < seq);
        match self.flow.holes.get_mut(at) {
            Some((start, end)) if *start <= seq + 1 => {
                *start = (*start).min(seq);
                *end = (*end).max(seq + 1);
                let reaches = *end;
                if let Some((_, after)) = self.flow.holes.get(at + 1).copied().filter(|(start, _)| *start <= reaches) {
                    self.flow.holes.remove(at + 1);
                    if let Some((_, end)) = self.flow.holes.get_mut(at) {
                        *end = after;
                    }
                }
            }
            _ => self.flow.holes.insert(at, (seq, seq + 1)),
        }
        // A page that is on its way is known by where it begins.
        while !self.flow.paging
            && let Some((start, end)) = self.flow.holes.first().copied()
            && start <= self.flow.disk_from
        {
            self.flow.disk_from = self.flow.disk_from.max(end.min(self.flow.disk_to));
            self.flow.holes.remove(0);
        }
    }

    /// keep-last: the message that waits for the topic of place `seq`, if any, goes.
    pub(crate) fn replace(&mut self, topic: &[u8], seq: u64, size: usize) {
        let key = TOPICS.hash_one(topic);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let newest = self.flow.newest.get_or_insert_default();
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
        if self.on_disk() && (self.flow.disk_from..self.flow.disk_to).contains(&seq) && !self.is_hole(seq) {
            self.make_hole(seq);
            self.gone(size as usize);
            self.dropped(DropReason::Replaced, 1);
        }
    }

    /// Topics of messages that are gone must not stay for ever.
    fn forget_delivered(&mut self) {
        let queued = usize::try_from(self.queued).unwrap_or(usize::MAX);
        let oldest = self.oldest_waiting();
        if let Some(newest) = &mut self.flow.newest
            && newest.len() > queued.saturating_mul(2).saturating_add(64)
        {
            newest.retain(|_, (seq, _)| *seq >= oldest);
        }
    }
}

impl Session {
    /// After a restart: `keep-last` has to know what there is.
    pub fn index(&mut self, cx: Cx<'_>) {
        let o = &mut self.outbound;
        if !o.on_disk() {
            return;
        }
        // What it is that expires is not known either.
        o.flow.scan.due = Time(0);
        if cx.settings.policy == Policy::KeepLast {
            o.flow.scan.next = Some(o.flow.disk_from);
            o.flow.scan.indexing = true;
        }
    }

    /// Whether room is short and something of an absent client may have expired: [`Session::look_for_expired`] helps.
    #[must_use]
    pub fn may_have_expired(&self, cx: Cx<'_>) -> bool {
        let (o, settings) = (&self.outbound, cx.settings);
        let over = |part: u64, whole: u64| part >= whole - whole / 4;
        let short = over(o.queued, settings.max_messages) || over(o.queued_bytes, settings.max_bytes);
        !self.connected && short && o.on_disk() && o.flow.scan.next.is_none() && o.flow.scan.due <= cx.now
    }

    /// Begins a look; the pages follow.
    pub fn look_for_expired(&mut self, cx: Cx<'_>) {
        if self.may_have_expired(cx) {
            let o = &mut self.outbound;
            o.flow.scan.next = Some(o.flow.disk_from);
            // What joins from here on is noted, and what has not reached the disk is not seen.
            o.flow.scan.due = Time(u64::MAX);
            let pending = o.flow.pending.iter().map(|entry| expires(&entry.item.message, cx));
            o.flow.scan.found = pending.min().unwrap_or(Time(u64::MAX));
        }
    }

    /// The store's answer for a look.
    pub(crate) fn scan_page(&mut self, page: Result<Vec<QueueEntry>, ()>, cx: Cx<'_>) {
        let mut next = None;
        for item in page.unwrap_or_default() {
            let o = &mut self.outbound;
            next = Some(item.seq + 1);
            // What was sent before a restart stays until the client says what it knows of it.
            if item.seq >= o.flow.disk_to || item.seq < o.flow.disk_from.max(o.flow.sent_before) || o.is_hole(item.seq)
            {
                continue;
            }
            let expires = expires(&item.message, cx);
            if expires <= cx.now {
                o.make_hole(item.seq);
                o.gone(item.message.size());
                o.ledger.expired += 1;
            } else {
                o.flow.scan.found = o.flow.scan.found.min(expires);
                if cx.settings.policy == Policy::KeepLast {
                    o.replace(item.message.topic_bytes(), item.seq, item.message.size());
                }
            }
        }
        let o = &mut self.outbound;
        o.flow.scan.next = next.filter(|next| *next < o.flow.disk_to).map(|next| next.max(o.flow.disk_from));
        if o.flow.scan.next.is_none() {
            o.flow.scan.indexing = false;
            o.flow.scan.due =
                o.flow.scan.due.min(o.flow.scan.found).max(cx.now.plus_ms(PAUSE_MS + o.queued / MESSAGES_A_MS));
        }
        self.changed();
        self.pump(cx);
    }
}
