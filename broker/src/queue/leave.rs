//! A queue that is given up, page by page: what others may take goes to them, the rest is dropped.

use std::sync::Arc;

use super::places::{PageWanted, Queue, Rules};
use super::scan::{Scan, expires};
use crate::message::Message;
use crate::store::{DropReason, QueueEntry, Share};

/// A message that its queue gives up.
#[derive(Debug)]
pub struct Orphan {
    /// The message.
    pub message: Arc<Message>,
    /// It is not on disk: its publisher's ack waits. Whoever takes it over settles it after that.
    pub awaiting: bool,
    /// The shared subscription that it came through.
    pub share: Share,
}

/// What is to be done with a message of a page.
#[derive(Debug)]
pub enum Fate {
    /// Another member of the group may take it [MQTT5-4.8.2-5].
    Give(Arc<Message>, Share),
    /// Its time is over.
    Expired,
    /// It ends with the queue.
    Dropped,
}

/// A page of a queue that is given up.
#[derive(Debug, Default)]
pub struct LeavingPage {
    /// Place, size and fate of each message.
    pub messages: Vec<(u64, usize, Fate)>,
    /// Places below are done with this page.
    end: u64,
}

/// How far a page of a queue that is given up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it is gone.
    Page,
    /// Others have no room for the rest of it.
    PartOfPage,
}

impl Queue {
    /// It will be given up: nothing else is read of it.
    pub(crate) fn begin_leaving(&mut self) {
        self.places.scan = Scan::default();
        self.places.ahead = None;
    }

    /// The page to be given up next.
    pub(crate) fn wants_leaving_page(&mut self) -> Option<PageWanted> {
        if std::mem::replace(&mut self.places.paging, true) {
            return None;
        }
        Some(PageWanted { from: self.places.disk_from })
    }

    /// What is to be done with the page that was asked for; [`Queue::left`] follows. `None`: it was not asked for.
    pub(crate) fn leaving_page(&self, from: u64, page: Vec<QueueEntry>, rules: Rules<'_>) -> Option<LeavingPage> {
        let places = &*self.places;
        if !places.paging || from != places.disk_from {
            return None;
        }
        let end = page.last().map_or(places.disk_to, |last| (last.seq + 1).min(places.disk_to));
        let here = |item: &QueueEntry| (places.disk_from..end).contains(&item.seq) && !self.is_hole(item.seq);
        let messages =
            page.into_iter().filter(here).map(|item| (item.seq, item.message.size(), self.fate(item, rules)));
        Some(LeavingPage { messages: messages.collect(), end })
    }

    /// The first `done` messages of the page are with others or gone.
    pub(crate) fn left(&mut self, page: &LeavingPage, done: usize) -> Left {
        self.places.paging = false;
        for (seq, size, fate) in page.messages.iter().take(done) {
            self.places.disk_from = seq + 1;
            self.gone(*size);
            match fate {
                Fate::Expired => self.ledger.expired += 1,
                Fate::Give(..) | Fate::Dropped => self.dropped(DropReason::SessionEnded, 1),
            }
        }
        let whole = done >= page.messages.len();
        let places = &mut *self.places;
        if whole {
            places.disk_from = places.disk_from.max(page.end);
        }
        places.holes.forget_below(places.disk_from);
        if whole { Left::Page } else { Left::PartOfPage }
    }

    /// Whether nothing is left to be given up.
    pub(crate) fn has_left(&self) -> bool {
        !self.on_disk() && self.places.pending.is_empty()
    }

    fn fate(&self, item: QueueEntry, rules: Rules<'_>) -> Fate {
        let share = item.shared.filter(|_| !self.places.promise.was_sent(&item));
        let Some(share) = share else { return Fate::Dropped };
        if expires(&item.message, self.limits(rules).max_age_ms) <= rules.now {
            Fate::Expired
        } else {
            Fate::Give(item.message, share)
        }
    }
}

/// A message that its queue gives up is an orphan, unless it is for this queue only.
pub(crate) fn give_up(item: QueueEntry, awaiting: bool, sent_qos2: bool, orphans: &mut Vec<Orphan>) {
    if let Some(share) = item.shared.filter(|_| !sent_qos2) {
        orphans.push(Orphan { message: item.message, awaiting, share });
    } else if awaiting {
        item.message.settle();
    }
}
