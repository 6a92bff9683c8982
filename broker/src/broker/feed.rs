//! Gives retained messages to those who have subscribed, a few at a time: as the socket and the queue take them, whatever was
//! subscribed. Each is read when its turn comes, under the lock of the session: what a publisher puts in its place after that
//! comes to the session later, so that no older value follows a newer one.

use forebay_wire::topic;

use super::Broker;
use super::budget::{Budget, copied, cost};
use crate::session::{Cx, Delivery, Durability, RetainedCursor, Session};
use crate::store::StoredSubscription;

/// Levels of topics that are looked at while the lock of the retained messages is held.
const LEVELS_AT_ONCE: usize = 256;

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// Nothing is left, or there is no room now: whoever makes some goes on.
    AsFarAsItGoes,
    /// The turn is over.
    NotYet,
}

impl Broker {
    /// Gives the session what its subscriptions have asked for, as far as there is room.
    pub(crate) fn feed_retained(&self, session: &mut Session, cx: Cx<'_>, budget: &Budget) -> Fed {
        while session.wants_retained() {
            if budget.is_spent() {
                return Fed::NotYet;
            }
            // The keeper wakes everybody when there is memory again.
            if self.memory_full() {
                return Fed::AsFarAsItGoes;
            }
            let Some((mut cursor, subscription)) = session.take_cursor() else { continue };
            match self.feed_some(session, &mut cursor, &subscription, cx, budget) {
                Some(true) => session.end_cursor(&cursor),
                Some(false) => session.keep_cursor(cursor),
                None => {
                    session.keep_cursor(cursor);
                    return Fed::AsFarAsItGoes;
                }
            }
        }
        Fed::AsFarAsItGoes
    }

    /// True: all of this subscription's have been given. `None`: there is no room for the next.
    fn feed_some(
        &self,
        session: &mut Session,
        cursor: &mut RetainedCursor,
        subscription: &StoredSubscription,
        cx: Cx<'_>,
        budget: &Budget,
    ) -> Option<bool> {
        let most = session.room_for_retained(subscription.qos, cx);
        if most == 0 {
            return None;
        }
        let mut place = cursor.place.clone();
        let (messages, looked) = self.retained.next(&cursor.filter, &mut place, (most, LEVELS_AT_ONCE), cx.now);
        budget.spend(looked.levels);
        for message in messages {
            let qos = message.qos.min(subscription.qos);
            if qos == 0 && !session.takes_retained_qos0(cx) {
                return None;
            }
            let topic = message.topic();
            if session.may_receive(topic) {
                if qos == 2 && !message.give_once() {
                    // What was retained before it will be again.
                    return Some(false);
                }
                let ids = [subscription.subscription_id];
                let delivery = Delivery {
                    topic: topic.as_bytes(),
                    properties: message.properties(),
                    payload: message.payload(),
                    qos,
                    // Retained messages of a new subscription carry RETAIN 1 [MQTT-3.3.1-8], [MQTT5-3.3.1-8].
                    retain: true,
                    shared: None,
                    subscription_ids: if ids == [0] { &[] } else { &ids },
                    expires_at: message.expires_at,
                    durability: Durability::Interval,
                };
                session.deliver(&delivery, &mut || message.clone(), cx);
                budget.spend(cost(1, copied(message.payload()), 1, false));
            }
            cursor.move_behind(topic);
        }
        cursor.place = place;
        Some(looked.end)
    }
}

/// Whether a subscription with this filter is given retained messages: never a shared one [MQTT5-4.8.2].
pub(crate) fn may_want_retained(filter: &str) -> bool {
    topic::split_share(filter).is_none()
}
