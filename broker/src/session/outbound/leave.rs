//! The queue of a session that has ended. What came through shared subscriptions goes to other members: what is in memory
//! at once, what lies on disk page by page. A page leaves this queue in the commit in which it enters the others'.
//! Until the last page has gone the session leaves: it is in the store still, with a session expiry interval of 0 and
//! without a client, so that a broker that starts goes on with it.

use std::sync::Arc;

use forebay_wire::topic;

use super::{Outbound, PageWanted};
use crate::message::Message;
use crate::session::scan::{Scan, expires};
use crate::session::{Cx, Session, Urgency};
use crate::store::{DropReason, QueueEntry};

/// A message that its session gives up.
#[derive(Debug)]
pub struct Orphan {
    /// The message.
    pub message: Arc<Message>,
    /// It is not on disk: its publisher's ack waits. Whoever takes it over settles it after that.
    pub awaiting: bool,
}

/// How far a session has come that leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// No page is read before this delta is committed: so at most one page is in memory twice, and a message that was
    /// on its way here by an old route is seen before the end.
    mark: u32,
    /// Nobody has room: it goes on when it is told to.
    waits: bool,
}

/// What is to be done with a message of a page.
#[derive(Debug)]
pub enum Fate {
    /// Another member may take it [MQTT5-4.8.2-5].
    Give(Arc<Message>),
    /// Its time is over.
    Expired,
    /// It ends with the session.
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

impl Session {
    /// Begins to end a session that has something on disk which others may take. Returns what they may take at once;
    /// `None`: there is nothing like that, [`Session::end`] is all.
    pub fn leave(&mut self, cx: Cx<'_>) -> Option<Vec<Orphan>> {
        let shared = |filter: &str| topic::split_share(filter).is_some();
        if !self.durable() || !self.outbound.on_disk() || !self.subscriptions.iter().any(|s| shared(&s.filter)) {
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
        self.outbound.flow.scan = Scan::default();
        self.outbound.flow.ahead = None;
        self.leaving = Some(Leaving { mark: 0, waits: false });
        self.leave_after_commit();
        Some(self.outbound.give_up_flights())
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
        let committed = self.mark_committed(leaving.mark);
        let flow = &mut *self.outbound.flow;
        if self.ended || leaving.waits || flow.paging || !committed {
            return None;
        }
        flow.paging = true;
        Some(PageWanted { from: flow.disk_from })
    }

    /// What is to be done with the page that was asked for; [`Session::left`] follows. `None`: it was not asked for.
    pub fn leaving_page(&mut self, from: u64, page: Vec<QueueEntry>, cx: Cx<'_>) -> Option<LeavingPage> {
        let o = &self.outbound;
        if !o.flow.paging || from != o.flow.disk_from || self.ended {
            return None;
        }
        let end = page.last().map_or(o.flow.disk_to, |last| (last.seq + 1).min(o.flow.disk_to));
        let here = |item: &QueueEntry| (o.flow.disk_from..end).contains(&item.seq) && !o.is_hole(item.seq);
        let messages = page.into_iter().filter(here).map(|item| (item.seq, item.message.size(), o.fate(item, cx)));
        Some(LeavingPage { messages: messages.collect(), end })
    }

    /// The first `done` messages of the page are with others or gone. True: the queue is empty, the session can end.
    pub fn left(&mut self, page: &LeavingPage, done: usize) -> bool {
        let o = &mut self.outbound;
        o.flow.paging = false;
        for (seq, size, fate) in page.messages.iter().take(done) {
            o.flow.disk_from = seq + 1;
            o.gone(*size);
            match fate {
                Fate::Expired => o.ledger.expired += 1,
                Fate::Give(_) | Fate::Dropped => o.dropped(DropReason::SessionEnded, 1),
            }
        }
        let whole = done >= page.messages.len();
        if whole {
            o.flow.disk_from = o.flow.disk_from.max(page.end);
        }
        let from = o.flow.disk_from;
        o.flow.holes.retain(|(_, end)| *end > from);
        if let Some(leaving) = &mut self.leaving {
            leaving.waits = !whole;
        }
        self.leave_after_commit();
        let over = !self.outbound.on_disk() && self.outbound.flow.pending.is_empty();
        if over {
            self.miss();
        }
        over
    }
}

impl Outbound {
    /// What was sent and not acknowledged is over here. At QoS 2 it is for nobody else [MQTT5-4.8.2-5].
    fn give_up_flights(&mut self) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for flight in std::mem::take(&mut self.flow.inflight) {
            if !flight.live() {
                continue;
            }
            self.gone(flight.size as usize);
            self.dropped(DropReason::SessionEnded, 1);
            if let Some(item) = flight.item {
                give_up(item, flight.awaiting, flight.qos == 2, &mut orphans);
            }
        }
        orphans
    }

    fn fate(&self, item: QueueEntry, cx: Cx<'_>) -> Fate {
        let sent_qos2 = item.qos == 2 && item.seq < self.flow.sent_before;
        if !item.shared || sent_qos2 || self.flow.released_before.contains(&item.seq) {
            Fate::Dropped
        } else if expires(&item.message, cx) <= cx.now {
            Fate::Expired
        } else {
            Fate::Give(item.message)
        }
    }
}

/// An entry that its session gives up is an orphan, unless it is for this session only.
pub(super) fn give_up(item: QueueEntry, awaiting: bool, sent_qos2: bool, orphans: &mut Vec<Orphan>) {
    if item.shared && !sent_qos2 {
        orphans.push(Orphan { message: item.message, awaiting });
    } else if awaiting {
        item.message.settle();
    }
}
