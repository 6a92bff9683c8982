//! Sessions that end, and what others take over of their queues.

use std::sync::Arc;

use forebay_wire::topic;

use super::fanout::none_has_room;
use super::{Broker, Slot};
use crate::message::Message;
use crate::router::{Group, RouteCache, Router};
use crate::session::{Durability, Fate, LeavingPage, Orphan, Session};
use crate::store::{QueueEntry, Share};

/// Milliseconds until a session that leaves tries again to find room for its messages.
const RETRY_MS: u64 = 250;

/// What finds the groups that messages of a dead member go to.
struct Inheritance<'f> {
    /// What the member was subscribed to.
    filters: &'f [String],
    routes: RouteCache<Arc<Slot>>,
    /// The message of an unknown group that was looked at last, and which of the member's groups got it.
    last: Option<(Arc<Message>, usize)>,
}

impl Broker {
    /// Ends a session: its will is published if there is one, its shared messages go to other members, the rest of its
    /// queue is dropped and counted. With shared messages on disk it leaves first: it has no client from here on, and
    /// ends when the last of them has gone.
    pub(crate) fn end_session(self: &Arc<Self>, slot: &Arc<Slot>) {
        self.end_session_if(slot, |_| true);
    }

    /// The same, if this still holds for it; false: it does not, or it has ended.
    pub(super) fn end_session_if(self: &Arc<Self>, slot: &Arc<Slot>, holds: impl Fn(&Session) -> bool) -> bool {
        let _one_commit = self.writer.gate();
        let cx = self.cx();
        let ending = slot.with(self, |session| {
            if session.ended() || session.leaving() || !holds(session) {
                return None;
            }
            let will = session.take_will();
            let filters: Vec<String> = session.subscriptions().iter().map(|s| s.filter.clone()).collect();
            let orphans = session.leave(cx).unwrap_or_else(|| session.end());
            slot.set_connection(session.epoch());
            Some((will, filters, orphans, session.client_id().clone(), session.ended()))
        });
        let Some((will, filters, orphans, client_id, over)) = ending else { return false };
        for filter in &filters {
            self.leave_queues(slot, filter);
        }
        self.router.remove_all(slot.no().0, &mut filters.iter().map(String::as_str));
        self.unpark_all();
        {
            let mut sessions = self.sessions.lock();
            if sessions.get(&client_id).is_some_and(|current| Arc::ptr_eq(current, slot)) {
                sessions.remove(&client_id);
            }
            // A storm of clients must not keep its table for ever.
            if sessions.capacity() > 1024 && sessions.len() < sessions.capacity() / 8 {
                sessions.shrink_to_fit();
            }
            if !over {
                self.leaving.lock().insert(slot.no(), slot.clone());
            }
        }
        if over {
            self.forget(slot);
        }
        slot.wake();
        if let Some(will) = will {
            self.publish_will(&will, slot, slot.authority().as_deref());
        }
        self.hand_over(&filters, orphans);
        true
    }

    /// The session has ended altogether: what it counted is counted with those before it.
    fn forget(&self, slot: &Arc<Slot>) {
        self.bury(&slot.look(|session| session.ledger().0));
        let mut leaving = self.leaving.lock();
        leaving.remove(&slot.no());
        if leaving.is_empty() {
            leaving.shrink_to(64);
        }
    }

    /// What a dead member of shared subscriptions had in memory goes to other members [MQTT5-4.8.2].
    fn hand_over(&self, filters: &[String], orphans: Vec<Orphan>) {
        let mut inheritance = Inheritance::new(filters);
        for Orphan { message, awaiting, share } in orphans {
            let durability = if awaiting { Durability::Commit } else { Durability::Moved };
            if let Some(group) = inheritance.group(&self.router, &message, share) {
                self.move_to_group(&group, &message, durability);
            }
            if awaiting {
                // Only now: its publisher's ack must not find it safe in between.
                message.settle();
            }
        }
    }

    /// A page of a session that leaves: its shared messages go to others, as far as they have room.
    pub(crate) fn lead_out(self: &Arc<Self>, slot: &Arc<Slot>, from: u64, page: Vec<QueueEntry>) {
        let _one_commit = self.writer.gate();
        let cx = self.cx();
        let found = slot.look(|session| {
            let filters: Vec<String> = session.subscriptions().iter().map(|s| s.filter.clone()).collect();
            Some((session.leaving_page(from, page, cx)?, filters))
        });
        let Some((page, filters)) = found else { return };
        let done = self.give_page(&page, &filters);
        let over = slot.with(self, |session| {
            let over = session.left(&page, done);
            if over {
                session.end();
            }
            over
        });
        if over {
            self.forget(slot);
        } else if done < page.messages.len() {
            self.deadlines.lock().plan(cx.now.plus_ms(RETRY_MS), slot);
        }
    }

    /// How many messages of the page need not be looked at again.
    fn give_page(&self, page: &LeavingPage, filters: &[String]) -> usize {
        let mut inheritance = Inheritance::new(filters);
        let waits = page.messages.iter().position(|(_, _, fate)| match fate {
            Fate::Give(message, share) => !self.give(&mut inheritance, message, *share),
            Fate::Expired | Fate::Dropped => false,
        });
        waits.unwrap_or(page.messages.len())
    }

    /// Gives a message to another member of its group, if there is one. False: there is one, but with no room.
    fn give(&self, inheritance: &mut Inheritance<'_>, message: &Arc<Message>, share: Share) -> bool {
        let Some(group) = inheritance.group(&self.router, message, share) else { return true };
        if message.qos > 0 && (self.store_failing() || none_has_room(&group)) {
            return false;
        }
        self.move_to_group(&group, message, Durability::Moved);
        true
    }
}

impl<'f> Inheritance<'f> {
    fn new(filters: &'f [String]) -> Self {
        Self { filters, routes: RouteCache::default(), last: None }
    }

    /// The group that the message came through, if somebody is in it.
    fn group(
        &mut self,
        router: &Router<Arc<Slot>>,
        message: &Arc<Message>,
        share: Share,
    ) -> Option<Arc<Group<Arc<Slot>>>> {
        let turn = self.turn(message, share);
        let route = self.routes.get(router, message.topic());
        let Some(turn) = turn else {
            return route.groups.iter().find(|group| Share::Group(group.id) == share).cloned();
        };
        let mut groups = route.groups.iter().filter(|group| is_member(self.filters, group));
        let count = groups.clone().count();
        turn.checked_rem(count).and_then(|turn| groups.nth(turn)).cloned()
    }

    /// For a message of an unknown group: one that came through several groups is there once for each of them, one after the
    /// other.
    fn turn(&mut self, message: &Arc<Message>, share: Share) -> Option<usize> {
        if share != Share::Unknown {
            return None;
        }
        let turn = match &self.last {
            Some((last, turn)) if same(last, message) => turn + 1,
            _ => 0,
        };
        self.last = Some((message.clone(), turn));
        Some(turn)
    }
}

/// Whether the subscriptions make their owner a member of the group.
fn is_member(filters: &[String], group: &Group<Arc<Slot>>) -> bool {
    let mut shares = filters.iter().filter_map(|filter| topic::split_share(filter));
    shares.any(|share| share.name == &*group.name && share.filter == &*group.filter)
}

/// What comes from a disk is another copy each time.
fn same(one: &Message, other: &Message) -> bool {
    std::ptr::eq(one, other)
        || one.accepted_at == other.accepted_at
            && one.topic_bytes() == other.topic_bytes()
            && one.payload() == other.payload()
            && one.properties() == other.properties()
}
