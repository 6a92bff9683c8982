//! Sessions as connections come and go: found, made, resumed, taken over, ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;

use super::{Broker, Found, Slot};
use crate::message::{Message, Parts, Time};
use crate::router::Options;
use crate::session::{Authority, Cx, Durability, Link, Session, Urgency};
use crate::store::{NEVER_S, Recovered, StoredSubscription, StoredWill};

/// A session that a connection has opened.
pub struct Opened {
    /// The session.
    pub slot: Arc<Slot>,
    /// The number of this connection among the session's.
    pub epoch: u32,
    /// Session Present in CONNACK [MQTT5-3.2.2-3].
    pub session_present: bool,
}

/// How a connection ended, for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The will is to be published: there was no DISCONNECT, or one with 0x04 [MQTT-3.1.2-8], [MQTT5-3.1.2-8].
    pub with_will: bool,
    /// The session expiry interval that DISCONNECT gave.
    pub expiry_s: Option<u32>,
}

/// A session that goes on with a new connection.
struct Resumed {
    epoch: u32,
    /// Of the connection before, and due.
    will: Option<StoredWill>,
    authority_before: Option<Arc<dyn Authority>>,
}

impl Broker {
    /// Opens the client's session: the one that is there, unless it asks for a clean start, or a new one. A connection
    /// that serves it is told to go [MQTT-3.1.4-2], [MQTT5-3.1.4-3].
    pub fn open(self: &Arc<Self>, client_id: &str, clean_start: bool, link: Link, keep_alive_s: u16) -> Opened {
        let cx = self.cx();
        // A will that a take-over publishes leaves its session in the commit in which it enters queues.
        let one_commit = self.writer.gate();
        let mut sessions = self.sessions.lock();
        let before = sessions.get(client_id).cloned();
        let mut link = Some(link);
        // Whether it is still there is asked under its own lock.
        let resumed = before.as_ref().filter(|_| !clean_start).and_then(|slot| {
            let resumed = self.resume(slot, &mut link, keep_alive_s, cx)?;
            Some((slot.clone(), resumed))
        });
        if let Some((slot, Resumed { epoch, will, authority_before })) = resumed {
            drop(sessions);
            // The connection before is closed by the broker without DISCONNECT [MQTT-3.1.2-8], or it was over before and
            // nobody has had the time to publish its will.
            if let Some(will) = will {
                self.publish_will(&will, &slot, authority_before.as_deref());
            }
            drop(one_commit);
            // Its subscriptions may be from before the policy changed, or another user's.
            self.hold_against_policy(&slot);
            return Opened { slot, epoch, session_present: true };
        }
        let client_id: Arc<str> = client_id.into();
        let mut session = Session::new(self.session_no(), client_id.clone());
        let authority = link.as_ref().and_then(|link| link.authority.clone());
        if let Some(link) = link {
            session.connect(link, cx);
        }
        let epoch = session.epoch();
        let urgency = session.take_urgency();
        let slot = Slot::new(session);
        slot.set_authority(authority);
        slot.set_keep_alive(keep_alive_s, self.now_s());
        slot.set_online(true);
        sessions.insert(client_id, slot.clone());
        drop(sessions);
        drop(one_commit);
        if let Some(before) = before {
            if before.online() {
                self.counters.sessions_taken_over.add(1);
            }
            before.kick(ReasonCode::SessionTakenOver as u8);
            let (was_kept, queued) = before.look(|session| (session.durable(), session.ledger().1));
            self.end_session(&before);
            if was_kept && queued > 0 {
                let client = &**before.client_id();
                tracing::warn!(client, queued, "the client has begun anew; the messages in its queue are dropped");
            }
            // The answer says that it is gone: no crash may bring it back [MQTT-3.1.2-6], [MQTT5-3.1.2-4].
            if was_kept {
                self.writer.mark(&before, Urgency::Now);
            }
        }
        if urgency != Urgency::None {
            self.writer.mark(&slot, urgency);
        }
        Opened { slot, epoch, session_present: false }
    }

    /// Gives the session to a new connection, in one step; `None`: it cannot be resumed, and `link` is left.
    fn resume(&self, slot: &Arc<Slot>, link: &mut Option<Link>, keep_alive_s: u16, cx: Cx<'_>) -> Option<Resumed> {
        slot.with(self, |session| {
            let link = if resumable(session, cx.now) { link.take()? } else { return None };
            if session.connected() {
                self.counters.sessions_taken_over.add(1);
            }
            let (will, authority_before) = (due_will(session, cx.now), slot.authority());
            slot.clear_kick();
            // Before it is connected: routes that are known may be the former user's.
            if slot.set_authority(link.authority.clone()) {
                self.rights_changed();
            }
            slot.set_keep_alive(keep_alive_s, self.now_s());
            session.connect(link, cx);
            slot.set_connection(session.epoch());
            Some(Resumed { epoch: session.epoch(), will, authority_before })
        })
    }

    /// The connection `epoch` of the session is over.
    pub fn close(self: &Arc<Self>, slot: &Arc<Slot>, epoch: u32, ending: Ending) {
        let cx = self.cx();
        let left = slot.with(self, |session| {
            if session.epoch() != epoch || !session.connected() || session.ended() {
                return None;
            }
            if let Some(expiry_s) = ending.expiry_s {
                session.set_expiry(expiry_s);
            }
            let no_will = !ending.with_will && session.take_will().is_some() && session.durable();
            session.disconnect(epoch, cx);
            slot.set_keep_alive(0, 0);
            Some(no_will)
        });
        // A crash must not bring back a will that its client has taken back [MQTT-3.1.2-10], [MQTT5-3.1.2-10].
        if left == Some(true) {
            self.writer.mark(slot, Urgency::Now);
        }
        // A broker that stops leaves wills and expiries to its next start.
        if left.is_some() && !self.stopping.load(Ordering::Relaxed) {
            self.settle_away(slot);
        }
    }

    /// Does what is due for a session whose client is away, and plans what is due later.
    pub(crate) fn settle_away(self: &Arc<Self>, slot: &Arc<Slot>) {
        if slot.look(|session| session.leaving()) {
            slot.with(self, Session::leave_on);
            return;
        }
        let Some(Away { since, will_at, ends_at }) = slot.look(|session| away(session)) else { return };
        let now = self.clock.now();
        // Its client may have come back since, and with another will.
        let is_as_it_was = |session: &Session| !session.connected() && session.disconnected_at() == Some(since);
        let will_is_due = will_at.is_some_and(|at| at <= now);
        if will_is_due {
            let _one_commit = self.writer.gate();
            let authority = slot.authority();
            let will = slot.with(self, |session| is_as_it_was(session).then(|| session.take_will()).flatten());
            if let Some(will) = will {
                self.publish_will(&will, slot, authority.as_deref());
            }
        }
        match ends_at {
            Some(at) if at <= now => {
                let (client, queued) = slot.look(|session| (session.client_id().clone(), session.ledger().1));
                if !self.end_session_if(slot, is_as_it_was) {
                    return;
                }
                self.counters.sessions_expired.add(1);
                if queued > 0 {
                    tracing::warn!(
                        client = &*client,
                        queued,
                        "a session has expired with messages in its queue; they are dropped"
                    );
                }
            }
            _ => {
                let will_at = will_at.filter(|_| !will_is_due);
                if let Some(at) = [will_at, ends_at].into_iter().flatten().min() {
                    self.deadlines.lock().plan(at, slot);
                }
            }
        }
    }

    /// In the name of its session, for No Local [MQTT5-3.8.3-3], if the client that left it may publish it still. The caller is
    /// inside the writer's gate: the will leaves the session's record in the commit in which it enters queues, so that a crash
    /// finds it in one of the two.
    pub(super) fn publish_will(&self, will: &StoredWill, of: &Arc<Slot>, authority: Option<&dyn Authority>) {
        if authority.is_some_and(|authority| !authority.may_leave_will(&will.message)) {
            self.counters.publish_denied.add(1);
            tracing::info!(topic = will.message.topic(), "a will is not published: not allowed any more");
            return;
        }
        self.counters.wills_published.add(1);
        let now = self.clock.now();
        let message = &will.message;
        let parts = Parts {
            topic: message.topic(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain: message.retain,
            // It counts from the publication [MQTT5-3.1.3.2.4].
            expires_at: will.expiry_s.map(|s| now.plus_s(s)),
            accepted_at: now,
        };
        self.publish(&Arc::new(Message::new(&parts, None)), message.retain, Durability::Moved, Some(of));
    }

    /// Adds a subscription to the session and the router; true if it was there before. Where it names declared queues,
    /// [`Broker::join_queues`] is to follow.
    pub fn subscribe(&self, slot: &Arc<Slot>, subscription: StoredSubscription) -> bool {
        self.subscribe_if(slot, subscription, |_| true).unwrap_or(false)
    }

    /// The same for the connection `epoch`. `None`: another one has taken the session over, and nothing was done.
    pub(crate) fn subscribe_for(&self, slot: &Arc<Slot>, epoch: u32, subscription: StoredSubscription) -> Option<bool> {
        self.subscribe_if(slot, subscription, |session| session.epoch() == epoch)
    }

    fn subscribe_if(
        &self,
        slot: &Arc<Slot>,
        subscription: StoredSubscription,
        may: impl FnOnce(&Session) -> bool,
    ) -> Option<bool> {
        let kept = subscription.clone();
        let existed = slot.with(self, |session| may(session).then(|| session.subscribe(kept)))?;
        self.route_to(slot, &subscription);
        // Its end removes the routes that it knows of: one of the two sees the other.
        if slot.look(|session| session.ended() || session.leaving()) {
            self.unsubscribe(slot, &subscription.filter);
        }
        // At QoS 0 nobody waits for it any more, and a new member of a group may have room where the others have none.
        if existed || topic::split_share(&subscription.filter).is_some() {
            self.unpark_all();
        }
        Some(existed)
    }

    fn route_to(&self, slot: &Arc<Slot>, subscription: &StoredSubscription) {
        if let Found::Topics | Found::QueuesAndTopics(_) = self.find_queue(&subscription.filter) {
            self.router.subscribe(&subscription.filter, slot.clone(), options(subscription));
        }
    }

    /// Removes a subscription; true if it was there.
    pub fn unsubscribe(&self, slot: &Arc<Slot>, filter: &str) -> bool {
        self.unsubscribe_if(slot, filter, |_| true)
    }

    /// The same for the connection `epoch`: nothing is done when another one has taken the session over.
    pub(crate) fn unsubscribe_for(&self, slot: &Arc<Slot>, epoch: u32, filter: &str) -> bool {
        self.unsubscribe_if(slot, filter, |session| session.epoch() == epoch)
    }

    fn unsubscribe_if(&self, slot: &Arc<Slot>, filter: &str, may: impl FnOnce(&Session) -> bool) -> bool {
        let Some(existed) = slot.with(self, |session| may(session).then(|| session.unsubscribe(filter))) else {
            return false;
        };
        if let Found::Topics | Found::QueuesAndTopics(_) = self.leave_queues(slot, filter)
            && self.router.unsubscribe(filter, slot.no().0)
        {
            self.unpark_all();
        }
        // Who has taken over may have subscribed in between, and its route is gone.
        let again = |session: &mut Session| {
            let is_it = |known: &&StoredSubscription| known.filter == filter;
            session.subscriptions().iter().find(is_it).filter(|_| !session.ended() && !session.leaving()).cloned()
        };
        if let Some(subscription) = slot.look(again) {
            self.route_to(slot, &subscription);
            self.join_queues(slot, &subscription);
        }
        existed
    }

    /// Puts back what the store found.
    pub(crate) fn recover(self: &Arc<Self>, recovered: Recovered) {
        let now = self.clock.now();
        let mut before = Vec::new();
        for line in &recovered.lost {
            tracing::error!("{line}");
        }
        self.retained.recover(recovered.retained);
        for found in recovered.sessions {
            let Some(record) = &found.record else { continue };
            let session = Session::recover(&found, record, now);
            let client_id = session.client_id().clone();
            let slot = Slot::new(session);
            self.deadlines.lock().plan(now, &slot);
            if record.expiry_s == 0 {
                // It was to end with its connection, or is leaving: nobody comes for it, and its client may have another.
                self.leaving.lock().insert(slot.no(), slot);
                continue;
            }
            for subscription in &found.subscriptions {
                self.route_to(&slot, subscription);
                self.join_queues(&slot, subscription);
            }
            before.extend(self.sessions.lock().insert(client_id, slot.clone()));
            // It also tells how full the queue is, before anyone publishes.
            slot.with(self, |session| session.index(self.cx()));
        }
        // Their clients had begun anew when the broker stopped.
        for slot in before {
            self.end_session(&slot);
        }
    }

    /// Seconds since the broker was started.
    pub(crate) fn now_s(&self) -> u32 {
        u32::try_from(self.clock.uptime_ms() / 1000).unwrap_or(u32::MAX)
    }
}

fn options(subscription: &StoredSubscription) -> Options {
    Options {
        qos: subscription.qos,
        no_local: subscription.no_local,
        retain_as_published: subscription.retain_as_published,
        subscription_id: subscription.subscription_id,
    }
}

/// The will that is to be published when the client connects again: one whose delay is over [MQTT5-3.1.3-9].
/// Since when a client is away, and until when its will and its session wait.
struct Away {
    since: Time,
    will_at: Option<Time>,
    ends_at: Option<Time>,
}

fn away(session: &Session) -> Option<Away> {
    let since = session.disconnected_at().filter(|_| !session.connected() && !session.ended())?;
    let ends_at = (session.expiry_s() != NEVER_S).then(|| since.plus_s(session.expiry_s()));
    // The will goes when its delay is over or when the session ends, whichever is first [MQTT5-3.1.3.2.2].
    let will_at = session.will().map(|will| since.plus_s(will.delay_s)).map(|at| ends_at.map_or(at, |end| end.min(at)));
    Some(Away { since, will_at, ends_at })
}

fn due_will(session: &Session, now: Time) -> Option<StoredWill> {
    let over_since = session.disconnected_at().filter(|_| !session.connected());
    let due = |will: &&StoredWill| over_since.map_or(will.delay_s == 0, |since| since.plus_s(will.delay_s) <= now);
    session.will().filter(due).cloned()
}

/// Whether a CONNECT without clean start finds a session: one that outlives its connection, and whose time is not over.
fn resumable(session: &Session, now: Time) -> bool {
    let over = session
        .disconnected_at()
        .is_some_and(|since| session.expiry_s() != NEVER_S && since.plus_s(session.expiry_s()) <= now);
    !session.ended() && session.expiry_s() > 0 && !over
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand::{self, link, subscription};

    /// A connection that was taken over ends later than the one that took over began.
    #[test]
    fn a_connection_that_took_over_has_its_own_keep_alive() {
        let (broker, _store) = by_hand::broker();
        let first = broker.open("c", false, link(60), 10);
        let second = broker.open("c", false, link(60), 10);
        assert!(second.session_present && Arc::ptr_eq(&first.slot, &second.slot));
        broker.close(&first.slot, first.epoch, Ending { with_will: true, expiry_s: None });
        assert!(second.slot.silent(1_000), "nobody looks whether it still says something");
        broker.close(&second.slot, second.epoch, Ending { with_will: true, expiry_s: None });
        assert!(!second.slot.silent(1_000));
    }

    /// Another worker may end a session while its client subscribes.
    #[test]
    fn nothing_is_left_of_a_subscription_to_a_session_that_has_ended() {
        let (broker, _store) = by_hand::broker();
        let slot = broker.open("c", true, link(60), 0).slot;
        broker.end_session(&slot);
        broker.subscribe(&slot, subscription("t", 1));
        assert_eq!(broker.router.stats().subscriptions, 0);
    }

    /// What it asks for may be read before the take-over, and done after it.
    #[test]
    fn a_connection_that_was_taken_over_changes_no_subscription() {
        let (broker, _store) = by_hand::broker();
        let first = broker.open("c", false, link(60), 0);
        assert_eq!(broker.subscribe_for(&first.slot, first.epoch, subscription("kept", 1)), Some(false));
        let second = broker.open("c", false, link(60), 0);
        assert!(second.session_present);
        assert_eq!(broker.subscribe_for(&first.slot, first.epoch, subscription("late", 1)), None);
        assert!(!broker.unsubscribe_for(&first.slot, first.epoch, "kept"));
        let known = second.slot.look(|session| (session.is_subscribed("kept"), session.is_subscribed("late")));
        assert_eq!((known, broker.router.stats().subscriptions), ((true, false), 1));
        assert!(broker.unsubscribe_for(&second.slot, second.epoch, "kept"));
        assert_eq!(broker.router.stats().subscriptions, 0);
    }

    /// Nobody can be told that a will is refused.
    #[test]
    fn a_will_for_which_there_is_no_retained_room_is_sent() {
        let (broker, _store) = by_hand::broker_with("[limits]\nmax_retained_messages = 1\n");
        let retained = Arc::new(by_hand::message("a", &[]));
        broker.publish(&retained, true, Durability::Memory, None);
        let queue = by_hand::queue_of(&broker, "gone");
        let mut message = by_hand::message("gone", &[]);
        message.retain = true;
        let will = Some(StoredWill { message: Arc::new(message), expiry_s: None, delay_s: 0 });
        let opened = broker.open("c", true, Link { will, ..link(0) }, 0);
        broker.close(&opened.slot, opened.epoch, Ending { with_will: true, expiry_s: None });
        assert_eq!(queue.figures().messages, 1);
        assert!(broker.retained.matching("gone", broker.clock.now()).is_empty());
        assert_eq!(broker.counters.retained_refused.get(), 1);
    }

    /// Whoever found it away may come too late.
    #[test]
    fn a_session_whose_client_is_back_is_not_ended() {
        let (broker, _store) = by_hand::broker();
        let first = broker.open("c", false, link(60), 0);
        broker.close(&first.slot, first.epoch, Ending { with_will: true, expiry_s: None });
        let since = first.slot.look(|session| session.disconnected_at());
        let second = broker.open("c", false, link(60), 0);
        assert!(!broker.end_session_if(&second.slot, |session| session.disconnected_at() == since));
        assert!(second.slot.look(|session| session.connected() && !session.ended()));
    }
}
