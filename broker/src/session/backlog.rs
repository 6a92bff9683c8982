//! The session's queue, as others see it: how much room there is, which page it wants, what does not stay in it.

use super::{Cx, Session};
use crate::queue::{Fallen, Fill, Kept, PageWanted, Paged, Presence, QueueFigures, Refused, Turnover};
use crate::store::{DropReason, Ledger, QueueEntry};

impl Session {
    /// Where its queue is kept.
    pub(super) fn queue_kept(&self) -> Kept {
        if self.durable() { Kept::Stored } else { Kept::InMemory }
    }

    /// Whether its client is there, or who takes its messages as values.
    pub(super) fn presence(&self) -> Presence {
        if self.connected { Presence::There } else { Presence::Away }
    }

    /// Its ledger, and how many messages are queued.
    #[must_use]
    pub fn ledger(&self) -> (Ledger, u64) {
        self.queue.ledger()
    }

    /// Messages and bytes in the queue.
    #[must_use]
    pub fn fill(&self) -> (u64, u64) {
        self.queue.fill()
    }

    /// How far the queue has come; QoS 0 messages are not counted.
    pub(crate) fn turnover(&self) -> Turnover {
        self.queue.turnover()
    }

    /// How much room there is (policy `reject`; the others always have some).
    #[must_use]
    pub fn room(&self, cx: Cx<'_>) -> Fill {
        if self.leaving() { Fill::Roomy } else { self.queue.room(cx.rules(), self.queue_kept()) }
    }

    /// Whether its queue is full and drops something for what comes next, instead of refusing it.
    #[must_use]
    pub fn drops(&self, cx: Cx<'_>) -> bool {
        !self.leaving() && self.queue.drops(cx.rules(), self.queue_kept())
    }

    /// Whether three quarters of what the queue may hold are taken.
    #[must_use]
    pub fn nearly_full(&self, cx: Cx<'_>) -> bool {
        self.queue.nearly_full(cx.rules())
    }

    /// The queue has refused for as long as it may. A session that outlives its connection drops its oldest messages from
    /// now on; `false`: it ends with its connection, and is the caller's to disconnect.
    pub fn shed(&mut self) -> bool {
        self.queue.shed(self.queue_kept())
    }

    /// Milliseconds that the queue may refuse without a break.
    #[must_use]
    pub fn stall_limit_ms(&self, cx: Cx<'_>) -> Option<u64> {
        let limits = self.queue.limits(cx.rules());
        if self.durable() { limits.stall_ms } else { limits.stall_transient_ms }
    }

    /// Whether its oldest messages go because it has refused for too long.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.queue.sheds()
    }

    /// True once, when a queue that sheds has drained by half: it refuses again when it is full.
    pub fn shed_enough(&mut self, cx: Cx<'_>) -> bool {
        self.queue.shed_enough(cx.rules())
    }

    /// The page that should be read now, if any: asked once, then [`Session::page_in`] follows.
    pub fn wants_page(&mut self, cx: Cx<'_>) -> Option<PageWanted> {
        match self.leaving {
            Some(leaving) => self.wants_leaving_page(leaving),
            None => self.queue.wants_page(self.presence(), cx.rules()),
        }
    }

    /// The store's answer to [`Session::wants_page`]: entries from `from` on, or why they cannot be read.
    pub fn page_in(&mut self, from: u64, page: Result<Vec<QueueEntry>, ()>, cx: Cx<'_>) {
        match self.queue.page_in(from, page, self.presence(), &*self.flights, cx.rules()) {
            Paged::NotAsked => return,
            Paged::Unchanged => {}
            Paged::Changed => self.changed(),
        }
        self.pump(cx);
    }

    /// The page could not be read now; it will be asked for again.
    pub fn page_failed(&mut self) {
        self.queue.page_failed();
    }

    /// After a restart: `keep-last` has to know what there is.
    pub fn index(&mut self, cx: Cx<'_>) {
        self.queue.keep_fallen(self.queue.limits(cx.rules()).dead_letters);
        self.queue.index(cx.rules());
    }

    /// Whether something of an absent client may have expired, and room is short or it is to be a dead letter:
    /// [`Session::look_for_expired`] helps.
    #[must_use]
    pub fn may_have_expired(&self, cx: Cx<'_>) -> bool {
        !self.connected && self.queue.may_have_expired(cx.rules())
    }

    /// Begins a look; the pages follow.
    pub fn look_for_expired(&mut self, cx: Cx<'_>) {
        if self.may_have_expired(cx) {
            self.queue.look_for_expired(cx.rules());
        }
    }

    /// What has expired goes, as far as it waits in memory: its client is there, but does not read.
    pub fn discard_expired(&mut self, cx: Cx<'_>) {
        if !self.ended && self.queue.is_made() && self.queue.discard_expired(cx.rules()) {
            self.changed();
            self.pump(cx);
        }
    }

    /// Whether the client may get a message, now.
    pub(super) fn may_have(&self, item: &QueueEntry) -> bool {
        self.authority.is_none() || self.may_receive(item.message.topic())
    }

    /// Whether a message with this topic may go to its client.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.authority.as_ref().is_none_or(|authority| authority.may_receive(topic))
    }

    /// The policy has changed: what waits in memory and is not allowed any more goes. What lies on disk is asked about
    /// when it is to be sent.
    pub fn drop_revoked(&mut self, cx: Cx<'_>) {
        let Some(authority) = self.authority.clone() else { return };
        if self.ended || !self.queue.is_made() {
            return;
        }
        let flights = &self.flights;
        self.queue.keep_waiting(
            |entry| flights.was_released(entry.item.seq) || authority.may_receive(entry.item.message.topic()),
            DropReason::Revoked,
        );
        self.changed();
        self.pump(cx);
    }

    /// After [`Session::not_committed`]: what was refused is not kept. What was sent before the commit stays until the
    /// client acknowledges it.
    pub fn take_back(&mut self, refused: &Refused, cx: Cx<'_>) {
        if self.ended || refused.is_empty() || !self.queue.is_made() {
            return;
        }
        if self.flights.is_made() {
            self.flights.take_back(refused);
        }
        self.queue.take_back(refused);
        self.pump(cx);
    }

    /// Whether messages have left its queue that are to be dead letters.
    #[must_use]
    pub fn has_fallen(&self) -> bool {
        self.queue.has_fallen()
    }

    /// Takes them. The caller is inside the writer's gate: they leave the store in the commit that has their dead letters.
    pub fn take_fallen(&mut self) -> Vec<Fallen> {
        self.changed();
        self.queue.take_fallen()
    }

    /// Its queue in numbers.
    #[must_use]
    pub fn queue_figures(&self) -> QueueFigures {
        self.queue.figures(&*self.flights, self.window)
    }

    /// The first messages that are in memory before those on disk, at most `max`: what is in flight (where it is still
    /// known), then what is sent next.
    #[must_use]
    pub fn first_in_memory(&self, max: usize) -> Vec<QueueEntry> {
        let in_flight = self.flights.live().filter_map(|flight| flight.item.as_ref());
        in_flight.chain(self.queue.next_in_memory()).take(max).cloned().collect()
    }

    /// Messages that are in memory behind those on disk, at most `max`.
    #[must_use]
    pub fn last_in_memory(&self, max: usize) -> Vec<QueueEntry> {
        self.queue.last_in_memory().take(max).cloned().collect()
    }

    /// Whether a place on disk still holds a message that waits.
    #[must_use]
    pub fn waits_on_disk(&self, seq: u64) -> bool {
        self.queue.waits_on_disk(seq)
    }

    /// What must hold after every step: the first that does not. Tests ask it.
    ///
    /// # Errors
    ///
    /// What is wrong: always a fault of this program.
    pub fn check(&self) -> Result<(), &'static str> {
        self.queue.check(&*self.flights)?;
        if !self.connected || self.by_value() {
            return Ok(());
        }
        self.flights.check(super::lent::count(self.lent.as_deref()))
    }
}
