//! What queues give up, and somebody wants to keep: each message is a dead letter in the commit in which it leaves its queue.
//! Declared queues have dead letters of their own; those of sessions go where the first `[[dead_letters]]` that fits says.

use std::sync::Arc;

use super::{DEAD_PREFIX, QUEUE_PREFIX};
use crate::broker::fanout::{Batch, Staged};
use crate::broker::{Broker, Slot};
use crate::config;
use crate::dead_letter::{Cause, Heir, dead_letter};
use crate::message::{Message, Origin};
use crate::queue::Why;
use crate::session::{Cx, Delivery, Durability, Outcome};

/// Where dead letters go.
pub(in crate::broker) struct DeadLetters {
    /// Of declared queues: the client identifier of the queue, or of one of its levels, and the name of the queue.
    of_queues: Vec<OfQueue>,
    /// Of sessions, in the order of the configuration.
    of_sessions: Vec<(config::DeadLetterRule, Arc<Slot>)>,
    /// Some of them want what nobody has subscribed to.
    of_nobody: bool,
}

/// Where the dead letters of a declared queue go.
pub(super) struct OfQueue {
    pub(super) client_id: Box<str>,
    pub(super) name: Box<str>,
    pub(super) dead: Arc<Slot>,
}

impl DeadLetters {
    pub(super) fn new(of_queues: Vec<OfQueue>, of_sessions: Vec<(config::DeadLetterRule, Arc<Slot>)>) -> Self {
        let of_nobody = of_sessions.iter().any(|(rule, _)| rule.reasons.has(Why::Undeliverable));
        Self { of_queues, of_sessions, of_nobody }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_queues.is_empty() && self.of_sessions.is_empty()
    }

    /// Whether it may be kept when nobody has subscribed to it. A retained message waits for those who come.
    fn may_want(&self, staged: &Staged<'_>) -> bool {
        self.of_nobody && staged.source.qos > 0 && !staged.source.retain
    }

    /// Whose queue keeps it, and the name of that; `None`: nobody's.
    fn find(&self, client_id: &str, topic: &str, why: Why) -> Option<(&Arc<Slot>, &str)> {
        if client_id.starts_with(QUEUE_PREFIX) {
            let found = self.of_queues.iter().find(|queue| *queue.client_id == *client_id);
            return found.map(|queue| (&queue.dead, &*queue.name));
        }
        // What is dead already, and what is the broker's own, dies once.
        if client_id.starts_with('$') || topic.starts_with('$') {
            return None;
        }
        let rule = self.of_sessions.iter().find(|(rule, _)| rule.keeps(client_id, topic, why));
        rule.map(|(rule, slot)| (slot, rule.name.as_str()))
    }
}

impl Broker {
    /// What has left the slot's queue becomes dead letters. Until then the store does not hear that it has left.
    pub(in crate::broker) fn keep_fallen(&self, slot: &Arc<Slot>) {
        let _one_commit = self.writer.gate_again();
        self.keep_fallen_inside(slot);
    }

    /// The same for a caller that is inside the writer's gate, or has closed it.
    pub(in crate::broker) fn keep_fallen_inside(&self, slot: &Arc<Slot>) {
        let Some(dead) = self.queues.dead.get() else { return };
        let (client_id, fallen) = slot.with(self, |session| (session.client_id().clone(), session.take_fallen()));
        for fallen in fallen {
            let message = &fallen.message;
            let to = dead.find(&client_id, message.topic(), fallen.why);
            // At QoS 2 a publisher that is being refused sends it again: then that one is the message.
            let kept = to.filter(|_| !fallen.awaited || message.qos < 2 || message.give_once());
            let Some((to, name)) = kept else {
                if fallen.awaited {
                    message.settle();
                }
                continue;
            };
            let from = if client_id.starts_with(QUEUE_PREFIX) { name } else { &*client_id };
            let cause = Cause {
                name,
                from,
                why: fallen.why.name(),
                detail: None,
                count: Some(u32::from(fallen.sent)),
                wall_ms: self.clock.wall_ms(),
            };
            let heir = fallen.awaited.then(|| Heir::of(message));
            self.bury_in(to, message, &cause, heir, Durability::Moved);
        }
    }

    /// A message of which its queue knows more: how often it was lent, say. It leaves the queue behind this call, in the same
    /// commit.
    pub(super) fn keep_given_up(&self, to: &Arc<Slot>, message: &Arc<Message>, cause: &Cause<'_>) {
        let awaited = !message.is_safe();
        if awaited {
            message.await_one();
        }
        self.bury_in(to, message, cause, awaited.then(|| Heir::of(message)), Durability::Moved);
    }

    /// Whether a message that nobody has subscribed to is kept.
    pub(in crate::broker) fn keeps_undeliverable(&self, staged: &Staged<'_>, origin: Option<&Arc<Slot>>) -> bool {
        let Some(dead) = self.queues.dead.get() else { return false };
        dead.may_want(staged) && dead.find(&client_of(origin), staged.source.topic, Why::Undeliverable).is_some()
    }

    /// Keeps a message that nobody has subscribed to, if that is wanted: then its publisher's ack waits for the commit.
    pub(in crate::broker) fn keep_undeliverable(&self, batch: Batch<'_>, staged: &mut Staged<'_>, cx: Cx<'_>) {
        let Some(dead) = self.queues.dead.get().filter(|dead| dead.may_want(staged)) else { return };
        let from = client_of(batch.origin);
        let Some((to, name)) = dead.find(&from, staged.source.topic, Why::Undeliverable) else { return };
        let why = Why::Undeliverable.name();
        let wall_ms = self.clock.wall_ms();
        let cause = Cause { name, from: &from, why, detail: None, count: Some(0), wall_ms };
        let awaited = staged.durability == Durability::Commit;
        self.bury_published(to, batch, staged, &cause, awaited, cx);
    }

    /// Keeps a message that a rule cannot be applied to, if that is wanted: then its publisher's ack waits for the commit. False: it is
    /// not wanted.
    pub(in crate::broker) fn keep_unfit(
        &self,
        batch: Batch<'_>,
        staged: &mut Staged<'_>,
        rule: &str,
        detail: &str,
        cx: Cx<'_>,
    ) -> bool {
        let Some(dead) = self.queues.dead.get() else { return false };
        // Of the broker's own publishers, such as bridges, as well: it is a message that came.
        let from = client_of(batch.origin);
        let found = dead.of_sessions.iter().find(|(kept, _)| kept.keeps(&from, staged.source.topic, Why::Rule));
        let Some((to, name)) = found.map(|(kept, slot)| (slot, kept.name.as_str())) else { return false };
        let (why, wall_ms) = (Why::Rule.name(), self.clock.wall_ms());
        let cause = Cause { name, from: rule, why, detail: Some(detail), count: Some(0), wall_ms };
        let awaited = staged.source.qos > 0 && staged.durability == Durability::Commit;
        self.bury_published(to, batch, staged, &cause, awaited, cx);
        true
    }

    /// A message on its way becomes a dead letter; `awaited`: its publisher's ack waits for that.
    fn bury_published(
        &self,
        to: &Arc<Slot>,
        batch: Batch<'_>,
        staged: &mut Staged<'_>,
        cause: &Cause<'_>,
        awaited: bool,
        cx: Cx<'_>,
    ) {
        let message = staged.shared(cx.now, batch.origin);
        if awaited {
            message.await_one();
        }
        let heir = awaited.then(|| Heir::of_only(&message));
        let outcome = self.bury_in(to, &message, cause, heir, staged.durability);
        staged.waits |= awaited && outcome == Outcome::Waiting;
    }

    fn bury_in(
        &self,
        to: &Arc<Slot>,
        message: &Arc<Message>,
        cause: &Cause<'_>,
        heir: Option<Arc<dyn Origin>>,
        durability: Durability,
    ) -> Outcome {
        self.counters.dead_letters.add(1);
        let waits = durability == Durability::Moved && heir.is_some();
        let durability = if waits { Durability::MovedAwaited } else { durability };
        let letter = dead_letter(message, cause, self.clock.now(), heir);
        self.put_into(to, &letter, durability)
    }

    /// Puts a message into the queue of one of the broker's own.
    pub(in crate::broker) fn put_into(
        &self,
        slot: &Arc<Slot>,
        message: &Arc<Message>,
        durability: Durability,
    ) -> Outcome {
        let delivery = Delivery {
            topic: message.topic_bytes(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain: false,
            shared: None,
            subscription_ids: &[],
            expires_at: None,
            durability,
        };
        let outcome = slot.with(self, |session| session.deliver(&delivery, &mut || message.clone(), self.cx()));
        slot.wake();
        outcome
    }
}

/// The client identifier of whoever published; empty for the broker itself.
fn client_of(origin: Option<&Arc<Slot>>) -> Arc<str> {
    origin.map_or_else(|| Arc::from(""), |slot| slot.client_id().clone())
}

/// The client identifier of the queue that keeps the dead letters of this name.
pub(super) fn dead_client_id(name: &str) -> String {
    format!("{DEAD_PREFIX}{name}")
}
