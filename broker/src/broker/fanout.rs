//! From one publisher to all who asked. Messages of one read are handled together: a target is locked and woken once
//! for all of them that have the same route.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};

use super::{Broker, Slot};
use crate::config;
use crate::message::{Message, Origin, Parts, Time};
use crate::router::{Readiness, Route, RouteCache, Target};
use crate::session::{AckKind, Cx, Delivery, Durability, Outcome, Policy, Urgency};

/// The borrowed parts of a message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Properties to forward, encoded.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// QoS of the publication.
    pub qos: u8,
    /// RETAIN flag of the publication.
    pub retain: bool,
    /// When it expires.
    pub expires_at: Option<Time>,
}

/// What is to be told to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet routed.
    Open,
    /// Some session took it.
    Taken,
    /// Nobody asked for it.
    Nobody,
    /// There is no room: refused (MQTT 5), or to be tried again (3.1.1).
    Full,
}

/// One PUBLISH between its parsing and its ack.
pub struct Staged<'a> {
    /// What it says.
    pub source: Source<'a>,
    /// Its frame, when a subscriber of the same protocol may be sent the very same bytes.
    pub frame: Option<&'a [u8]>,
    /// The protocol that the frame is in.
    pub version: Version,
    /// The ack that it wants.
    pub ack: Option<(AckKind, PacketId)>,
    /// The shared message, once somebody must keep it.
    pub message: Option<Arc<Message>>,
    /// Somebody must have it safe before the ack.
    pub waits: bool,
    /// What became of it.
    pub verdict: Verdict,
    /// When its ack may leave.
    pub durability: Durability,
}

impl<'a> Staged<'a> {
    /// Freshly parsed.
    #[must_use]
    pub fn new(source: Source<'a>, durability: Durability) -> Self {
        Self {
            source,
            frame: None,
            version: Version::V311,
            ack: None,
            message: None,
            waits: false,
            verdict: Verdict::Open,
            durability,
        }
    }

    /// The message that all queues share, made when the first asks.
    pub fn shared(&mut self, now: Time, origin: Option<&Arc<Slot>>) -> Arc<Message> {
        let source = &self.source;
        let message = self.message.get_or_insert_with(|| {
            let origin = origin.map(|slot| slot.clone() as Arc<dyn Origin>);
            Arc::new(Message::new(
                &Parts {
                    topic: source.topic,
                    properties: source.properties,
                    payload: source.payload,
                    qos: source.qos,
                    retain: source.retain,
                    expires_at: source.expires_at,
                    accepted_at: now,
                },
                origin,
            ))
        });
        message.clone()
    }

    /// The reason code of its ack.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self.verdict {
            Verdict::Nobody => ReasonCode::NoMatchingSubscribers,
            Verdict::Full => ReasonCode::QuotaExceeded,
            Verdict::Open | Verdict::Taken => ReasonCode::Success,
        }
    }
}

/// Turns the configuration's durability into the session's.
pub(crate) fn durability(of: config::Durability) -> Durability {
    match of {
        config::Durability::Commit => Durability::Commit,
        config::Durability::Interval(_) => Durability::Interval,
        config::Durability::Memory => Durability::Memory,
    }
}

impl Broker {
    /// Routes what one read brought, in order. Messages with [`Verdict::Full`] went nowhere at all.
    pub fn fan_out(&self, cache: &mut RouteCache<Arc<Slot>>, origin: Option<&Arc<Slot>>, staged: &mut [Staged<'_>]) {
        let cx = self.cx();
        let mut rest = staged;
        while let Some(first) = rest.first() {
            let topic = first.source.topic;
            let length = rest.iter().take_while(|s| s.source.topic == topic).count();
            let (run, after) = rest.split_at_mut(length);
            let route = cache.get(&self.router, topic);
            self.fan_out_run(route, origin, run, cx);
            rest = after;
        }
    }

    fn fan_out_run(&self, route: &Route<Arc<Slot>>, origin: Option<&Arc<Slot>>, run: &mut [Staged<'_>], cx: Cx<'_>) {
        let nobody = route.targets.is_empty() && route.groups.is_empty();
        for staged in run.iter_mut() {
            staged.verdict = if self.no_room(route, staged) {
                Verdict::Full
            } else if nobody {
                Verdict::Nobody
            } else {
                Verdict::Taken
            };
            if staged.source.retain && staged.verdict != Verdict::Full {
                self.retain(staged, origin, cx.now);
            }
        }
        let frames = whole_frames(run);
        for target in &route.targets {
            self.to_target(target, origin, run, frames, cx);
        }
        for group in &route.groups {
            for at in 0..run.len() {
                let ready = |slot: &Arc<Slot>| match (slot.online(), slot.full()) {
                    (true, false) => Readiness::Ready,
                    (true, true) => Readiness::Busy,
                    (false, _) => Readiness::Offline,
                };
                if let (Some(target), Some(one)) = (group.pick(ready), run.get_mut(at..=at)) {
                    self.to_shared(target, origin, one, cx);
                }
            }
        }
    }

    /// Whether a QoS 1 or 2 message must wait: a queue that refuses is full, or a durable queue cannot be written.
    fn no_room(&self, route: &Route<Arc<Slot>>, staged: &Staged<'_>) -> bool {
        if staged.source.qos == 0 {
            return false;
        }
        if staged.durability == Durability::Commit && self.store_failing() {
            let durable = |t: &Target<Arc<Slot>>| t.options.qos > 0 && t.subscriber.look(|s| s.durable());
            if staged.source.retain
                || route.targets.iter().any(durable)
                || route.groups.iter().any(|g| g.members().iter().any(durable))
            {
                return true;
            }
        }
        self.settings.policy == Policy::Reject && route.targets.iter().any(|t| t.options.qos > 0 && t.subscriber.full())
    }

    fn retain(&self, staged: &mut Staged<'_>, origin: Option<&Arc<Slot>>, now: Time) {
        let message = staged.shared(now, origin);
        let wait = staged.durability == Durability::Commit && staged.source.qos > 0;
        match self.retained.set(&message, wait) {
            Ok(()) => {
                staged.waits |= wait;
                if staged.verdict == Verdict::Nobody {
                    staged.verdict = Verdict::Taken;
                }
                self.writer.mark_retained(if wait { Urgency::Now } else { Urgency::Lazy });
            }
            Err(_) => {
                self.counters.retained_refused.add(1);
                // Refused as a whole where it can be said; a QoS 0 message is delivered and not retained.
                if staged.source.qos > 0 {
                    staged.verdict = Verdict::Full;
                }
            }
        }
    }

    fn to_target(
        &self,
        target: &Target<Arc<Slot>>,
        origin: Option<&Arc<Slot>>,
        run: &mut [Staged<'_>],
        frames: Option<&[u8]>,
        cx: Cx<'_>,
    ) {
        let slot = &target.subscriber;
        let own = origin.is_some_and(|o| Arc::ptr_eq(o, slot));
        if own && target.options.no_local {
            return;
        }
        slot.with(self, |session| {
            if let (Some(frames), Some(first)) = (frames, run.first())
                && target.subscription_ids.is_empty()
                && session.version().is_v5() == first.version.is_v5()
                && session.deliver_frames(frames, u32::try_from(run.len()).unwrap_or(u32::MAX), cx)
            {
                return;
            }
            for staged in run.iter_mut().filter(|s| s.verdict != Verdict::Full) {
                deliver(session, target, staged, origin, false, cx);
            }
        });
        slot.wake();
    }

    fn to_shared(&self, target: &Target<Arc<Slot>>, origin: Option<&Arc<Slot>>, one: &mut [Staged<'_>], cx: Cx<'_>) {
        let slot = &target.subscriber;
        slot.with(self, |session| {
            for staged in one.iter_mut().filter(|s| s.verdict != Verdict::Full) {
                deliver(session, target, staged, origin, true, cx);
            }
        });
        slot.wake();
    }

    /// Publishes a message of the broker's own: a will, `$SYS`, or one that a shared subscription's member left.
    pub fn publish(&self, message: &Arc<Message>, retain: bool) {
        let source = Source {
            topic: message.topic(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain,
            expires_at: message.expires_at,
        };
        let mut staged = Staged::new(source, Durability::Interval);
        staged.message = Some(message.clone());
        let route = self.router.route(message.topic());
        self.fan_out_run(&route, None, std::slice::from_mut(&mut staged), self.cx());
    }
}

/// The frames of a run, if they lie side by side and may be sent on as they are.
fn whole_frames<'a>(run: &[Staged<'a>]) -> Option<&'a [u8]> {
    // Contiguity is known to the stager: it hands out one slice to the first of a run. A single frame is the plain case.
    match run {
        [one] => one.frame,
        _ => None,
    }
}

fn deliver(
    session: &mut crate::session::Session,
    target: &Target<Arc<Slot>>,
    staged: &mut Staged<'_>,
    origin: Option<&Arc<Slot>>,
    shared: bool,
    cx: Cx<'_>,
) {
    let source = staged.source;
    let delivery = Delivery {
        topic: source.topic.as_bytes(),
        properties: source.properties,
        payload: source.payload,
        qos: source.qos.min(target.options.qos),
        // To an established subscription RETAIN is 0 [MQTT-3.3.1-9], unless it asks for the flag [MQTT5-3.3.1-13].
        retain: source.retain && target.options.retain_as_published,
        shared,
        subscription_ids: &target.subscription_ids,
        expires_at: source.expires_at,
        durability: staged.durability,
    };
    let outcome = session.deliver(&delivery, &mut || staged.shared(cx.now, origin), cx);
    if outcome == Outcome::Waiting {
        staged.waits = true;
    }
}
