//! The way down: what the upstream publishes, into the broker. It is acknowledged there when it is safe here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_client::{Client, QoS, Received, RetainHandling, Subscribe, SubscribeError, Subscription};
use forebay_wire::property::id;
use forebay_wire::topic;
use tokio::sync::Notify;

use super::outward::{HOPS_MAX, VIA};
use super::template::{Fill, Rule};
use super::upstream::InFigures;
use crate::broker::{Batch, Broker, Slot, Staged, Verdict};
use crate::message::{Message, Origin, Parts};
use crate::router::RouteCache;
use crate::session::Durability;

/// Messages that are published here and not safe yet; further ones wait at the upstream.
const PENDING_MAX: usize = 1_000;
/// After the upstream refused a subscription.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(10);
/// After a queue here had no room.
const ROOM_AGAIN: Duration = Duration::from_millis(100);
const CACHE_ENTRIES: usize = 64;

/// The broker, for one bridge.
pub struct Inward {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The bridge's name.
    pub name: Arc<str>,
    /// This gateway, in the user property `via`.
    pub gateway: Arc<str>,
    /// The bridge's queue: what it brings down does not go up again by itself.
    pub slot: Arc<Slot>,
    /// What has happened.
    pub figures: Arc<InFigures>,
}

struct Safe(Arc<Notify>);

impl Origin for Safe {
    fn message_safe(&self) {
        self.0.notify_one();
    }

    fn message_refused(&self, _: &Message) -> bool {
        // The upstream keeps it until it is safe.
        false
    }
}

impl Inward {
    /// Subscribes, and publishes what comes, until the client ends.
    pub async fn run(self: Arc<Self>, client: Client, rule: Rule) {
        while let Some(subscription) = self.subscribe(&client, &rule).await {
            if self.receive(&client, &rule, subscription).await.is_none() {
                return;
            }
            tokio::time::sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    async fn subscribe(&self, client: &Client, rule: &Rule) -> Option<Subscription> {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].get(usize::from(rule.qos)).copied();
        let what = Subscribe::to(rule.filter.as_str()).qos(qos.unwrap_or(QoS::ExactlyOnce)).no_local();
        let what = what.retain_as_published().retain_handling(RetainHandling::OnNewSubscribe).manual_ack();
        loop {
            match client.subscribe(what.clone()).await {
                Ok(subscription) => return Some(subscription),
                Err(SubscribeError::Ended(_)) => return None,
                Err(why) => {
                    tracing::warn!(bridge = &*self.name, filter = rule.filter, "cannot subscribe: {why}");
                    tokio::time::sleep(SUBSCRIBE_AGAIN).await;
                }
            }
        }
    }

    /// `None`: the client has ended.
    async fn receive(&self, client: &Client, rule: &Rule, mut subscription: Subscription) -> Option<()> {
        let safe = Arc::new(Notify::new());
        // Of what names itself or is delayed the broker makes another message, published in the queue's name.
        let mut safe_of_queue = self.slot.safe();
        let mut cache = RouteCache::new(CACHE_ENTRIES);
        let mut pending: VecDeque<(Received, Option<Arc<Message>>)> = VecDeque::new();
        loop {
            while let Some((received, message)) = pending.front()
                && message.as_ref().is_none_or(|message| message.is_safe())
            {
                client.ack(received);
                pending.pop_front();
            }
            tokio::select! {
                received = subscription.recv(), if pending.len() < PENDING_MAX => {
                    let Some(received) = received else { break };
                    let message = self.publish(&mut cache, rule, &received, &safe).await;
                    pending.push_back((received, message));
                }
                () = safe.notified(), if !pending.is_empty() => {}
                Ok(()) = safe_of_queue.changed(), if !pending.is_empty() => {}
            }
        }
        match subscription.ended() {
            Some(SubscribeError::Ended(_)) | None => None,
            Some(why) => {
                tracing::warn!(bridge = &*self.name, filter = rule.filter, "the subscription is over: {why}");
                Some(())
            }
        }
    }

    /// The message that must be safe before it is acknowledged; `None`: at once.
    async fn publish(
        &self,
        cache: &mut RouteCache<Arc<Slot>>,
        rule: &Rule,
        received: &Received,
        safe: &Arc<Notify>,
    ) -> Option<Arc<Message>> {
        let mut properties = received.properties();
        let via: Vec<String> = properties
            .user
            .iter()
            .filter(|(name, _)| name == VIA)
            .flat_map(|(_, value)| value.split(',').map(str::to_owned))
            .collect();
        if via.len() >= HOPS_MAX || via.iter().any(|gateway| **gateway == *self.gateway) {
            self.figures.looped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Who is a gateway to us may carry it on: what it came through is to be known there.
        let via = via.iter().map(String::as_str).chain([&*self.gateway]).collect::<Vec<_>>().join(",");
        properties.user.retain(|(name, _)| name != VIA);
        properties.user.push((VIA.to_owned(), via));
        say_what_is(&mut properties, received.payload());
        let encoded = encode(&properties);
        let fields = rule.fields(received.payload());
        let fill = Fill { bridge: &self.name, topic: received.topic(), properties: &encoded, fields: &fields };
        let limits = &self.broker.config.limits;
        let topic = rule.topic.fill(fill).map_err(|missing| missing.to_string()).and_then(|topic| {
            let own = topic.starts_with("$SYS/") || topic.starts_with("$share/");
            let checked = topic::check_name(&topic, limits.max_topic_levels).map_err(|why| why.to_string());
            checked.and(if own { Err("it is the broker's own".to_owned()) } else { Ok(topic) })
        });
        let topic = match topic {
            Ok(topic) => topic,
            Err(why) => {
                self.figures.unfit.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(bridge = &*self.name, topic = received.topic(), "not published here: {why}");
                return None;
            }
        };
        let now = self.broker.clock.now();
        let parts = Parts {
            topic: &topic,
            properties: &encoded,
            payload: received.payload(),
            qos: received.qos() as u8,
            retain: received.retain(),
            expires_at: received.expiry_s().map(|left| now.plus_s(left)),
            accepted_at: now,
        };
        let message = Arc::new(Message::new(&parts, Some(Arc::new(Safe(safe.clone())))));
        self.put(cache, &message).await
    }

    /// Into the broker, when there is room. The message that must be safe before it is acknowledged may be another one: the one that
    /// was made of it, or the first of a repetition. `None`: at once.
    async fn put(&self, cache: &mut RouteCache<Arc<Slot>>, message: &Arc<Message>) -> Option<Arc<Message>> {
        loop {
            let mut staged = Staged::of(message, message.retain, Durability::Commit);
            let batch = Batch { origin: Some(&self.slot), ..Batch::OWN };
            {
                // Its number and what it becomes go into one commit.
                let _one_commit = self.broker.writer.gate();
                self.broker.fan_out(cache, batch, std::slice::from_mut(&mut staged));
            }
            match staged.verdict {
                Verdict::Full => {}
                Verdict::Refused(why) => {
                    self.figures.unfit.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(bridge = &*self.name, topic = message.topic(), "not published here: {why:?}");
                    return None;
                }
                Verdict::Open | Verdict::Taken | Verdict::Nobody | Verdict::Duplicate => {
                    self.figures.received.fetch_add(1, Ordering::Relaxed);
                    return staged.message.filter(|_| staged.waits);
                }
            }
            tokio::time::sleep(ROOM_AGAIN).await;
        }
    }
}

/// A broker that looks at no payload lets pass what says that it is UTF-8 and is not. Who subscribes here may end the
/// connection for that [MQTT5-3.3.2.3.2], again and again.
fn say_what_is(properties: &mut forebay_client::Properties, payload: &[u8]) {
    properties.payload_is_utf8 &= std::str::from_utf8(payload).is_ok();
}

/// Properties as they are forwarded to subscribers.
pub(super) fn encode(from: &forebay_client::Properties) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(text) = &from.content_type {
        put(&mut out, id::CONTENT_TYPE, text.as_bytes());
    }
    if let Some(text) = &from.response_topic {
        put(&mut out, id::RESPONSE_TOPIC, text.as_bytes());
    }
    if let Some(data) = &from.correlation_data {
        put(&mut out, id::CORRELATION_DATA, data);
    }
    for (name, value) in &from.user {
        put(&mut out, id::USER_PROPERTY, name.as_bytes());
        put_data(&mut out, value.as_bytes());
    }
    if from.payload_is_utf8 {
        out.extend_from_slice(&[id::PAYLOAD_FORMAT_INDICATOR, 1]);
    }
    out
}

fn put(out: &mut Vec<u8>, id: u8, data: &[u8]) {
    out.push(id);
    put_data(out, data);
}

/// What came over the wire is not longer than 65,535 bytes.
fn put_data(out: &mut Vec<u8>, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data.get(..usize::from(length)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::broker::by_hand::{broker, commit, message, queue_of};
    use crate::broker::{TakerFilter, TakerOptions};
    use crate::properties::put_user;

    fn inward(broker: &Arc<Broker>) -> Inward {
        let filters = vec![TakerFilter { filter: "none".to_owned(), qos: 1, no_local: true }];
        let limits = broker.settings.queue.clone();
        let taker = broker.open_taker("up", &TakerOptions { filters, limits, window: 1, committed_only: false });
        Inward {
            broker: broker.clone(),
            name: "up".into(),
            gateway: "g".into(),
            slot: taker.slot().clone(),
            figures: Arc::default(),
        }
    }

    fn saying(pairs: &[(&str, &str)]) -> Arc<Message> {
        let mut properties = Vec::new();
        pairs.iter().for_each(|(name, value)| put_user(&mut properties, name, value));
        Arc::new(message("t", &properties))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_broker_makes_another_message_of_is_acknowledged_when_that_is_safe() {
        for said in [&[("origin", "d"), ("seq", "7")][..], &[("deliver-after", "60")]] {
            let (broker, mut store) = broker();
            let inward = inward(&broker);
            commit(&broker, &mut store);
            let mut heard = inward.slot.safe();
            let mut cache = RouteCache::new(CACHE_ENTRIES);
            let waits = inward.put(&mut cache, &saying(said)).await.expect("it is on no disk yet");
            assert!(!waits.is_safe(), "{said:?}");
            assert!(!heard.has_changed().unwrap());
            commit(&broker, &mut store);
            assert!(waits.is_safe() && heard.has_changed().unwrap(), "{said:?}");
            heard.mark_unchanged();
            assert_eq!(inward.figures.received.load(Ordering::Relaxed), 1);
        }
    }

    /// Woken in the middle of a publication: whether a commit could begin there.
    struct Middle {
        broker: Arc<Broker>,
        woken: AtomicBool,
        apart: AtomicBool,
    }

    impl Wake for Middle {
        fn wake(self: Arc<Self>) {
            self.woken.store(true, Ordering::Relaxed);
            self.apart.fetch_or(!self.broker.writer.is_held_off(), Ordering::Relaxed);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn no_commit_has_its_number_without_the_message() {
        let (broker, _store) = broker();
        let inward = inward(&broker);
        let queue = queue_of(&broker, "t");
        let (woken, apart) = (AtomicBool::new(false), AtomicBool::new(false));
        let middle = Arc::new(Middle { broker: broker.clone(), woken, apart });
        let waker = Waker::from(middle.clone());
        assert!(queue.poll_ready(&mut Context::from_waker(&waker)).is_pending());
        let said = saying(&[("origin", "d"), ("seq", "7")]);
        assert!(inward.put(&mut RouteCache::new(CACHE_ENTRIES), &said).await.is_some());
        assert!(middle.woken.load(Ordering::Relaxed) && !middle.apart.load(Ordering::Relaxed));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_repetition_waits_for_the_first() {
        let (broker, mut store) = broker();
        let inward = inward(&broker);
        let mut cache = RouteCache::new(CACHE_ENTRIES);
        let said = [("origin", "d"), ("seq", "7")];
        let first = inward.put(&mut cache, &saying(&said)).await.unwrap();
        let second = inward.put(&mut cache, &saying(&said)).await.unwrap();
        assert!(!second.is_safe());
        commit(&broker, &mut store);
        assert!(first.is_safe() && second.is_safe());
        assert!(inward.put(&mut cache, &saying(&said)).await.is_none(), "it is safe already");
    }

    #[test]
    fn a_payload_that_is_not_utf8_is_not_said_to_be() {
        for (payload, is_utf8) in [(&b"text"[..], true), (&[0xff], false)] {
            let mut properties = forebay_client::Properties { payload_is_utf8: true, ..Default::default() };
            say_what_is(&mut properties, payload);
            assert_eq!(properties.payload_is_utf8, is_utf8);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_refused_for_ever_is_unfit() {
        let (broker, _store) = broker();
        let inward = inward(&broker);
        let mut cache = RouteCache::new(CACHE_ENTRIES);
        assert!(inward.put(&mut cache, &saying(&[("origin", "d"), ("seq", "seven")])).await.is_none());
        let figures = [&inward.figures.unfit, &inward.figures.received].map(|figure| figure.load(Ordering::Relaxed));
        assert_eq!(figures, [1, 0]);
    }
}
