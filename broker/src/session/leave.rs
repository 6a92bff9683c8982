//! The queue of a session that has ended. What came through shared subscriptions goes to other members: what is in memory
//! at once, what lies on disk page by page. A page leaves this queue in the commit in which it enters the others'.
//! Until the last page has gone the session leaves: it is in the store still, with a session expiry interval of 0 and
//! without a client, so that a broker that starts goes on with it.

use forebay_wire::topic;

use super::{Cx, Session, Urgency};
use crate::queue::{Ending, LeavingPage, Left, Orphan, PageWanted, give_up};
use crate::store::{DropReason, QueueEntry};

/// How far a session has come that leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// No page is read before this delta is committed: so at most one page is in memory twice, and a message that was
    /// on its way here by an old route is seen before the end.
    mark: u64,
    /// Nobody has room: it goes on when it is told to.
    waits: bool,
}

impl Session {
    /// Ends the session: its queue is dropped, and counted. Returns the messages that shared subscriptions gave it,
    /// which another member may take [MQTT5-4.8.2-5].
    pub fn end(&mut self) -> Vec<Orphan> {
        self.ended = true;
        self.retained = None;
        self.connected = false;
        self.return_lent();
        let mut orphans = Vec::new();
        if self.flights.is_made() {
            self.flights.give_up(&mut orphans);
        }
        self.queue.end(|entry, sent_qos2| give_up(entry.item, entry.awaiting, sent_qos2, &mut orphans));
        self.detach_inbound(false);
        self.out.clear();
        if self.persist.is_some() {
            self.want(Urgency::Lazy);
        }
        orphans
    }

    /// Begins to end a session that has something on disk which others may take. Returns what they may take at once;
    /// `None`: there is nothing like that, [`Session::end`] is all.
    pub fn leave(&mut self, cx: Cx<'_>) -> Option<Vec<Orphan>> {
        let shared = |filter: &str| topic::split_share(filter).is_some();
        if !self.durable() || !self.queue.on_disk() || !self.subscriptions.iter().any(|s| shared(&s.filter)) {
            return None;
        }
        self.detach();
        self.inbound.clear();
        // Whoever serves it has to go.
        self.epoch = self.epoch.wrapping_add(1);
        self.connected = false;
        self.disconnected_at.get_or_insert(cx.now);
        self.expiry_s = 0;
        self.record_changed(true);
        self.queue.begin_leaving();
        self.leaving = Some(Leaving { mark: 0, waits: false });
        self.leave_after_commit();
        // What was sent and not acknowledged is over here.
        let mut orphans = Vec::new();
        for (seq, size) in self.flights.give_up(&mut orphans) {
            self.queue.finish(seq, size as usize, Ending::Dropped(DropReason::SessionEnded));
        }
        Some(orphans)
    }

    /// Whether it is on its way out.
    #[must_use]
    pub fn leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Somebody may have room by now.
    pub fn leave_on(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.waits = false;
        }
    }

    fn leave_after_commit(&mut self) {
        let mark = self.persist.as_ref().map_or(0, |persist| persist.open);
        if let Some(leaving) = &mut self.leaving {
            leaving.mark = mark;
        }
        self.changed();
        self.want(Urgency::Now);
    }

    pub(super) fn wants_leaving_page(&mut self, leaving: Leaving) -> Option<PageWanted> {
        if self.ended || leaving.waits || !self.mark_committed(leaving.mark) {
            return None;
        }
        self.queue.wants_leaving_page()
    }

    /// What is to be done with the page that was asked for; [`Session::left`] follows. `None`: it was not asked for.
    pub fn leaving_page(&mut self, from: u64, page: Vec<QueueEntry>, cx: Cx<'_>) -> Option<LeavingPage> {
        if self.ended { None } else { self.queue.leaving_page(from, page, cx.rules()) }
    }

    /// The first `done` messages of the page are with others or gone. True: the queue is empty, the session can end.
    pub fn left(&mut self, page: &LeavingPage, done: usize) -> bool {
        let left = self.queue.left(page, done);
        if let Some(leaving) = &mut self.leaving {
            leaving.waits = left == Left::PartOfPage;
        }
        self.leave_after_commit();
        let over = self.queue.has_left();
        if over && self.queue.count_missing(&*self.flights) {
            self.changed();
        }
        over
    }
}
