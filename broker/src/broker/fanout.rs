//! From one publisher to all who asked. Messages of one read are handled together: a target is locked and woken once
//! for all of them that have the same topic.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use forebay_wire::reason::ReasonCode;
use forebay_wire::types::{PacketId, Version};

use super::budget::{Budget, copied, cost};
use super::parking::Behind;
use super::retained::{NoRoom, Room};
use super::rules::Judging;
use super::special;
use super::{Broker, Slot};
use crate::codec::AckKind;
use crate::dead_letter::Heir;
use crate::message::{Message, Origin, Parts, Time};
use crate::properties::put_user;
use crate::queue::PUBLISHER;
use crate::router::{Group, Readiness, Route, RouteCache, Target, Terms};
use crate::session::{Cx, Delivery, Durability, Fill, Outcome, Session, Urgency};
use crate::store::{SessionNo, Share};

/// Members of shared subscriptions that may be looked at for each message without a look at the budget.
const MEMBERS_AT_ONCE: usize = 32;

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
    /// There is no room: refused (MQTT 5), or to be tried again (3.1.1). It went nowhere at all.
    Full,
    /// Its origin sent it before, and that one is safe, or is waited for.
    Duplicate,
    /// It cannot be what it says it is: refused for ever; in 3.1.1 acknowledged and dropped, which is counted.
    Refused(ReasonCode),
}

/// Where a frame lies in what was read.
pub type Span = std::ops::Range<usize>;

/// One PUBLISH between its parsing and its ack.
pub struct Staged<'a> {
    /// What it says.
    pub source: Source<'a>,
    /// Its frame, when a subscriber of the same protocol may be sent the very same bytes.
    pub frame: Option<Span>,
    /// The ack that it wants.
    pub ack: Option<(AckKind, PacketId)>,
    /// The shared message, once somebody must keep it.
    pub message: Option<Arc<Message>>,
    /// Somebody must have it safe before the ack.
    pub waits: bool,
    /// It has gone at QoS 2 to somebody who does not need it on disk.
    pub sent_once: bool,
    /// A rule makes something of it: it is not for nobody.
    pub used: bool,
    /// What became of it.
    pub verdict: Verdict,
    /// When its ack may leave.
    pub durability: Durability,
}

impl<'a> Staged<'a> {
    /// Freshly parsed.
    #[must_use]
    pub fn new(source: Source<'a>, durability: Durability) -> Self {
        let verdict = Verdict::Open;
        let (frame, ack, message) = (None, None, None);
        Self { source, frame, ack, message, waits: false, sent_once: false, used: false, verdict, durability }
    }

    /// A message that is shared already.
    #[must_use]
    pub fn of(message: &'a Arc<Message>, retain: bool, durability: Durability) -> Self {
        let source = Source {
            topic: message.topic(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos,
            retain,
            expires_at: message.expires_at,
        };
        Self { message: Some(message.clone()), ..Self::new(source, durability) }
    }

    /// The message that all queues share, made when the first asks.
    pub fn shared(&mut self, now: Time, origin: Option<&Arc<Slot>>) -> Arc<Message> {
        let source = &self.source;
        let message = self.message.get_or_insert_with(|| {
            let origin = origin.map(|slot| slot.clone() as Arc<dyn Origin>);
            let parts = Parts {
                topic: source.topic,
                properties: source.properties,
                payload: source.payload,
                qos: source.qos,
                retain: source.retain,
                expires_at: source.expires_at,
                accepted_at: now,
            };
            Arc::new(Message::new(&parts, origin))
        });
        message.clone()
    }

    /// Makes another message of this one, which `send` sends. Who waits for this one waits for both.
    pub(super) fn make_another<T>(
        &mut self,
        other: Source<'_>,
        origin: Option<&Arc<Slot>>,
        now: Time,
        send: impl FnOnce(&mut Staged<'_>) -> T,
    ) -> T {
        let awaited = self.source.qos > 0 && other.qos > 0 && self.durability == Durability::Commit;
        let heir = awaited.then(|| {
            let message = self.shared(now, origin);
            message.await_one();
            Heir::of_only(&message)
        });
        let Source { topic, properties, payload, qos, retain, expires_at } = other;
        let parts = Parts { topic, properties, payload, qos, retain, expires_at, accepted_at: now };
        let message = Arc::new(Message::new(&parts, heir));
        let mut made = Staged::of(&message, retain, self.durability);
        let sent = send(&mut made);
        if awaited {
            if !made.waits {
                self.shared(now, origin).settle();
            }
            self.waits |= made.waits;
            self.sent_once |= made.sent_once;
        }
        sent
    }

    /// The reason code of its ack.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self.verdict {
            Verdict::Nobody => ReasonCode::NoMatchingSubscribers,
            Verdict::Full => ReasonCode::QuotaExceeded,
            Verdict::Refused(reason) => reason,
            Verdict::Open | Verdict::Taken | Verdict::Duplicate => ReasonCode::Success,
        }
    }
}

/// What becomes of a message that is to be retained where there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unretained {
    /// It goes nowhere: whoever publishes it is told, or tries again.
    Refused,
    /// It is sent all the same: nobody can be told.
    Sent,
}

/// What one read brought, and from whom.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// The publisher's session; `None` for the broker itself.
    pub origin: Option<&'a Arc<Slot>>,
    /// The protocol of the frames.
    pub version: Version,
    /// What the spans of [`Staged::frame`] point into.
    pub bytes: &'a [u8],
    /// What may be done before the others have their turn: when it is spent, the rest stays `Open`. `None`: everything.
    pub budget: Option<&'a Budget>,
    /// What becomes of one that cannot be retained.
    pub unretained: Unretained,
    /// Whether rules look at it.
    pub judging: Judging,
}

impl Batch<'_> {
    /// Of the broker itself.
    pub const OWN: Self = Self {
        origin: None,
        version: Version::V311,
        bytes: &[],
        budget: None,
        unretained: Unretained::Refused,
        judging: Judging::Do,
    };
    /// The same, and no rule looks at it: a rule has made it, or has seen it before.
    pub const MADE: Self = Self { judging: Judging::Done, ..Self::OWN };

    /// Whether the publisher's next messages must wait behind this one: before MQTT 5 a message that finds no room cannot be
    /// refused, so it is tried again, and what overtook it meanwhile would arrive before it [MQTT-4.6.0].
    pub(super) fn stops_at(&self, staged: &Staged<'_>) -> bool {
        staged.verdict == Verdict::Full && staged.source.qos > 0 && self.origin.is_some() && !self.version.is_v5()
    }

    fn is_spent(&self) -> bool {
        self.budget.is_some_and(Budget::is_spent)
    }

    pub(super) fn spend(&self, units: usize) {
        if let Some(budget) = self.budget {
            budget.spend(units);
        }
    }

    /// A subscriber that has half a buffer to be written should have its turn before the publisher goes on.
    fn look_at(&self, session: &Session, cx: Cx<'_>) {
        if let Some(budget) = self.budget
            && session.out_len() >= cx.settings.outbound_buffer / 2
        {
            budget.press();
        }
    }

    /// How many of these messages are to go before the turn is over, and what they cost.
    fn affordable(&self, run: &[Staged<'_>], subscribers: usize) -> (usize, usize) {
        let bytes: usize = run.iter().map(|staged| copied(staged.source.payload)).sum();
        let cost = cost(run.len(), bytes, subscribers, whole_frames(self.bytes, run).is_some());
        let Some(budget) = self.budget.filter(|budget| budget.left() < cost) else { return (run.len(), cost) };
        let each = (cost / run.len().max(1)).max(1);
        let count = (budget.left() / each).max(1);
        (count, cost)
    }
}

/// What a message waits for.
pub(super) struct NoRoomIn {
    behind: Behind,
    queue: Weak<Slot>,
}

impl NoRoomIn {
    const ANYTHING: Self = Self { behind: Behind::Anything, queue: Weak::new() };

    fn queue(slot: &Arc<Slot>) -> Self {
        if !slot.full() {
            // Memory is what there is none of.
            return Self::ANYTHING;
        }
        Self { behind: Behind::Queue(slot.no()), queue: Arc::downgrade(slot) }
    }
}

/// A route, and the router's version before it was asked for.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) route: &'a Route<Arc<Slot>>,
    pub(super) version: u64,
}

impl Broker {
    /// Routes what one read brought, in order. Where a message of a publisher before MQTT 5 finds no room, it is `Full` and
    /// those behind it stay `Open`: they went nowhere. So do those for which the budget is not enough.
    pub fn fan_out(&self, cache: &mut RouteCache<Arc<Slot>>, batch: Batch<'_>, staged: &mut [Staged<'_>]) {
        let cx = self.cx();
        let mut rest = staged;
        while let Some(first) = rest.first() {
            if batch.is_spent() {
                return;
            }
            let topic = first.source.topic;
            // What is special costs what it turns out to be: it goes one by one.
            let special = is_special(first);
            let alike =
                |s: &&Staged<'_>| !special && s.source.topic == topic && !special::may_be_special(s.source.properties);
            let mut length = 1 + rest.iter().skip(1).take_while(alike).count();
            let run = rest.get(..length).unwrap_or_default();
            let version = self.router.version();
            let found = if special { None } else { Some(Found { route: cache.get(&self.router, topic), version }) };
            let subscribers = found.map_or(1, |found| found.route.targets.len() + found.route.groups.len());
            let (affordable, cost) = batch.affordable(run, subscribers);
            length = length.min(affordable);
            batch.spend(cost);
            let (run, after) = std::mem::take(&mut rest).split_at_mut(length);
            match found {
                Some(found) => self.run(found, batch, run, cx),
                None => self.run_special(batch, run, cx),
            }
            batch.spend(cache.take_visited());
            if run.iter().any(|staged| batch.stops_at(staged)) {
                return;
            }
            rest = after;
        }
    }

    /// Messages with one topic, in order. With little room somewhere they go one by one, so that each is refused or
    /// taken as a whole; with a large group too, since each may cost a look at all of its members.
    fn run(&self, found: Found<'_>, batch: Batch<'_>, run: &mut [Staged<'_>], cx: Cx<'_>) {
        let route = found.route;
        if let Some(rules) = run.first().and_then(|first| self.rules.of(batch, first.source.topic)) {
            self.run_judged(found, batch, run, &rules, cx);
            return;
        }
        let members = route.groups.iter().map(|group| group.members().len()).sum();
        batch.spend(members);
        let roomy = room(route) == Fill::Roomy && !self.store_failing() && !self.memory_full();
        if roomy && members <= MEMBERS_AT_ONCE {
            self.run_with_room(found, batch, run, cx);
            return;
        }
        for at in 0..run.len() {
            if at > 0 && batch.is_spent() {
                return;
            }
            let Some(one) = run.get_mut(at..=at) else { return };
            batch.spend(if roomy { 0 } else { members });
            let full = one.first().filter(|_| !roomy).and_then(|staged| self.no_room(route, staged, batch.origin));
            if let (Some(full), Some(staged)) = (full, one.first_mut()) {
                staged.verdict = Verdict::Full;
                self.wait_behind(batch, staged, full);
            } else {
                self.run_with_room(found, batch, one, cx);
            }
            if one.iter().any(|staged| batch.stops_at(staged)) {
                return;
            }
        }
    }

    /// Where its publisher waits, if it does, is known.
    pub(super) fn wait_behind(&self, batch: Batch<'_>, staged: &Staged<'_>, full: NoRoomIn) {
        if let Some(origin) = batch.origin.filter(|_| batch.stops_at(staged)) {
            self.park_behind(origin, full.behind, full.queue);
        }
    }

    /// Messages of which some may be for later, may have come before, or may be schedules.
    fn run_special(&self, batch: Batch<'_>, run: &mut [Staged<'_>], cx: Cx<'_>) {
        for staged in run {
            if !self.refuse_schedule(batch, staged) && !self.once(batch, staged, cx) && !self.delay(batch, staged, cx) {
                self.run_one(batch, staged, cx);
            }
            if batch.stops_at(staged) {
                return;
            }
        }
    }

    pub(super) fn run_one(&self, batch: Batch<'_>, staged: &mut Staged<'_>, cx: Cx<'_>) {
        let version = self.router.version();
        let (route, visited) = self.router.visit(staged.source.topic);
        let subscribers = route.targets.len() + route.groups.len();
        batch.spend(visited.saturating_add(cost(1, copied(staged.source.payload), subscribers, false)));
        self.run(Found { route: &route, version }, batch, std::slice::from_mut(staged), cx);
    }

    /// Publishes a message whose publisher had its answer long ago, unless a queue that must have it refuses: then its verdict
    /// is `Full`.
    pub(super) fn publish_if_room(&self, staged: &mut Staged<'_>) {
        self.run_one(Batch { unretained: Unretained::Sent, ..Batch::OWN }, staged, self.cx());
    }

    /// The same of one that rules have seen.
    pub(super) fn publish_again_if_room(&self, staged: &mut Staged<'_>) {
        self.run_one(Batch { unretained: Unretained::Sent, ..Batch::MADE }, staged, self.cx());
    }

    pub(super) fn run_with_room(&self, found: Found<'_>, batch: Batch<'_>, run: &mut [Staged<'_>], cx: Cx<'_>) {
        let nobody = found.route.is_nobody();
        let mut count = 0;
        for staged in run.iter_mut() {
            staged.verdict = if nobody && !staged.used { Verdict::Nobody } else { Verdict::Taken };
            if staged.source.retain {
                self.retain(staged, batch, cx.now);
            }
            if nobody && !staged.used {
                self.keep_undeliverable(batch, staged, cx);
            }
            if batch.stops_at(staged) {
                break;
            }
            count += 1;
        }
        let Some(run) = run.get_mut(..count).filter(|run| !run.is_empty()) else { return };
        let frames = whole_frames(batch.bytes, run);
        let newer = self.newer_route(found, run);
        let route = newer.as_deref().unwrap_or(found.route);
        for target in &route.targets {
            self.to_target(target, batch, run, frames, cx);
        }
        // A message that one session gets through several groups lies side by side in its queue.
        for at in 0..if route.groups.is_empty() { 0 } else { run.len() } {
            let Some(one) = run.get_mut(at..=at) else { return };
            let qos = one.first().map_or(0, |staged| staged.source.qos);
            for group in &route.groups {
                self.to_group(group, qos, batch, one, cx);
            }
        }
    }

    /// The route of what has been retained, if subscriptions have changed since it was found: who subscribed in between may have
    /// been given what was retained before.
    fn newer_route(&self, found: Found<'_>, run: &[Staged<'_>]) -> Option<Arc<Route<Arc<Slot>>>> {
        let retained = run.iter().find(|staged| staged.source.retain)?;
        (self.router.version() != found.version).then(|| self.router.route(retained.source.topic))
    }

    /// Whether a QoS 1 or 2 message must wait, and for what: a queue that refuses is full, or a durable queue cannot be written.
    pub(super) fn no_room(
        &self,
        route: &Route<Arc<Slot>>,
        staged: &Staged<'_>,
        origin: Option<&Arc<Slot>>,
    ) -> Option<NoRoomIn> {
        if staged.source.qos == 0 {
            return None;
        }
        if staged.durability == Durability::Commit && self.store_failing() {
            let durable = |t: &Target<Arc<Slot>>| t.options.qos > 0 && t.subscriber.look(|s| s.durable());
            if staged.source.retain
                || route.is_nobody() && !staged.used && self.keeps_undeliverable(staged, origin)
                || route.targets.iter().any(durable)
                || route.groups.iter().any(|g| g.members().iter().any(durable))
            {
                return Some(NoRoomIn::ANYTHING);
            }
        }
        let short = self.memory_full();
        if short && staged.source.retain && !staged.source.payload.is_empty() {
            return Some(NoRoomIn::ANYTHING);
        }
        let full = |t: &&Target<Arc<Slot>>| {
            t.options.qos > 0
                && (t.subscriber.full() || (short && Self::would_stay(&t.subscriber)))
                && t.subscriber.takes(staged.source.topic, staged.source.properties)
        };
        let mut found = None;
        // Each of them holds the publisher up.
        for target in route.targets.iter().filter(full) {
            found.get_or_insert_with(|| NoRoomIn::queue(&target.subscriber));
            target.subscriber.turn_away(self.now_s());
        }
        for group in route.groups.iter().filter(|group| is_full(group, |target| full(&target))) {
            found.get_or_insert(NoRoomIn { behind: Behind::Group, queue: Weak::new() });
            group.members().iter().filter(full).for_each(|member| member.subscriber.turn_away(self.now_s()));
        }
        found
    }

    fn retain(&self, staged: &mut Staged<'_>, batch: Batch<'_>, now: Time) {
        let message = staged.shared(now, batch.origin);
        let wait = staged.durability == Durability::Commit && staged.source.qos > 0;
        let own = message.topic_bytes().starts_with(b"$SYS/");
        let room = own || message.payload().is_empty() || !self.memory_full();
        let set = if room { self.retained.set(&message, wait) } else { Err(NoRoom) };
        if room && set.is_err() {
            self.short_of_retained(message.topic(), message.size());
        }
        if let Ok(room) = set {
            if room == Room::More {
                self.unpark();
            }
            staged.waits |= wait;
            if staged.verdict == Verdict::Nobody {
                staged.verdict = Verdict::Taken;
            }
            if !own {
                self.writer.mark_retained(if wait { Urgency::Now } else { Urgency::Lazy });
            }
        } else {
            self.counters.retained_refused.add(1);
            // Refused as a whole where it can be said; a QoS 0 message is delivered and not retained.
            if batch.unretained == Unretained::Sent {
                tracing::warn!(
                    topic = staged.source.topic,
                    "sent, but not retained: there is no room for it (limits.max_retained_*, limits.memory)"
                );
            } else if staged.source.qos > 0 {
                staged.verdict = Verdict::Full;
            }
        }
    }

    fn to_target(
        &self,
        target: &Target<Arc<Slot>>,
        batch: Batch<'_>,
        run: &mut [Staged<'_>],
        frames: Option<&[u8]>,
        cx: Cx<'_>,
    ) {
        let slot = &target.subscriber;
        let cx = self.within_memory(run, cx);
        let Some(terms) = target.terms(|| batch.origin.is_some_and(|o| Arc::ptr_eq(o, slot))) else { return };
        if let (Some(frames), true) = (frames, terms.subscription_ids.is_empty()) {
            let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
            let whole = |s: &mut Session| {
                let done = s.version().is_v5() == batch.version.is_v5() && s.deliver_frames(frames, count, cx);
                batch.look_at(s, cx);
                done
            };
            if slot.with(self, whole) {
                slot.wake();
                return;
            }
        }
        to_slot(self, slot, terms, batch, run, None, cx);
    }

    /// Publishes a message that no client is sending now: a will (then `origin` is its session, and nobody can be told what
    /// becomes of it), or `$SYS`.
    pub fn publish(&self, message: &Arc<Message>, retain: bool, durability: Durability, origin: Option<&Arc<Slot>>) {
        let mut staged = Staged::of(message, retain, durability);
        let version = self.router.version();
        let route = self.router.route(message.topic());
        let unretained = if origin.is_some() { Unretained::Sent } else { Unretained::Refused };
        let batch = Batch { origin, unretained, ..Batch::OWN };
        let found = Found { route: &route, version };
        match self.rules.of(batch, message.topic()) {
            Some(rules) => self.run_judged_at_once(found, batch, &mut staged, &rules, self.cx()),
            None => self.run_with_room(found, batch, std::slice::from_mut(&mut staged), self.cx()),
        }
    }

    /// Gives a message that another member had to one member of a shared subscription.
    pub(crate) fn move_to_group(&self, group: &Group<Arc<Slot>>, message: &Arc<Message>, durability: Durability) {
        let mut staged = Staged::of(message, message.retain, durability);
        self.to_group(group, message.qos, Batch::OWN, std::slice::from_mut(&mut staged), self.cx());
    }

    /// To one member of a shared subscription. A member may have ended since the route was found: then another gets it, one that
    /// has come since if nobody else is left.
    fn to_group(&self, group: &Group<Arc<Slot>>, qos: u8, batch: Batch<'_>, one: &mut [Staged<'_>], cx: Cx<'_>) {
        let mut gone = Vec::new();
        if self.to_member(group, qos, batch, one, &mut gone, cx) || gone.is_empty() {
            return;
        }
        let Some(topic) = one.first().map(|staged| staged.source.topic) else { return };
        let route = self.router.route(topic);
        if let Some(now) = route.groups.iter().find(|now| now.id == group.id) {
            self.to_member(now, qos, batch, one, &mut gone, cx);
        }
    }

    /// To one of the members that are not gone, which is never No Local [MQTT5-3.8.3-4]. False: there is none.
    fn to_member(
        &self,
        group: &Group<Arc<Slot>>,
        qos: u8,
        batch: Batch<'_>,
        one: &mut [Staged<'_>],
        gone: &mut Vec<SessionNo>,
        cx: Cx<'_>,
    ) -> bool {
        let cx = self.within_memory(one, cx);
        loop {
            let looked = Cell::new(0);
            let target = pick(group, qos, gone, &looked);
            batch.spend(looked.get());
            let Some(target) = target else { return false };
            let Some(terms) = target.terms(|| false) else { return true };
            let share = Some(Share::Group(group.id));
            if to_slot(self, &target.subscriber, terms, batch, one, share, cx) != Some(Outcome::Gone) {
                return true;
            }
            gone.push(target.subscriber.no());
        }
    }
}

/// Whether it may be for later, may have come before, or may be a schedule.
fn is_special(staged: &Staged<'_>) -> bool {
    special::is_special(staged.source.topic) || special::may_be_special(staged.source.properties)
}

/// The least room that any target has.
fn room(route: &Route<Arc<Slot>>) -> Fill {
    let members = route.groups.iter().flat_map(|group| group.members());
    route.targets.iter().chain(members).map(|t| t.subscriber.fill()).max().unwrap_or(Fill::Roomy)
}

/// Whether no member of the group has room: where one refuses, it is waited for before another drops something.
pub(super) fn none_has_room(group: &Group<Arc<Slot>>) -> bool {
    is_full(group, |target| target.options.qos > 0 && target.subscriber.full())
}

fn is_full(group: &Group<Arc<Slot>>, refuses: impl Fn(&Target<Arc<Slot>>) -> bool) -> bool {
    let drops = |target: &Target<Arc<Slot>>| target.options.qos > 0 && target.subscriber.drops();
    group.members().iter().any(&refuses) && group.members().iter().all(|target| refuses(target) || drops(target))
}

/// Whoever has room first; then one that drops something for it. A queue that refuses takes no more than it must. Members that
/// were looked at are counted.
fn pick<'g>(
    group: &'g Group<Arc<Slot>>,
    qos: u8,
    gone: &[SessionNo],
    looked: &Cell<usize>,
) -> Option<&'g Target<Arc<Slot>>> {
    let ready = |slot: &Arc<Slot>| match slot.online() {
        _ if gone.contains(&slot.no()) => Readiness::Never,
        true if slot.backed_up() => Readiness::Busy,
        true => Readiness::Ready,
        false => Readiness::Offline,
    };
    let unless = |passed_over: bool, slot: &Arc<Slot>| {
        looked.set(looked.get() + 1);
        if qos > 0 && passed_over { Readiness::Never } else { ready(slot) }
    };
    let with_room = group.pick(|slot| unless(slot.full() || slot.drops(), slot));
    with_room
        .or_else(|| group.pick(|slot| unless(slot.full(), slot)))
        .or_else(|| group.pick(|slot| unless(false, slot)))
}

/// The frames of a run, if all of them may be sent on as they are and lie side by side.
fn whole_frames<'b>(bytes: &'b [u8], run: &[Staged<'_>]) -> Option<&'b [u8]> {
    let first = run.first()?.frame.as_ref()?;
    let mut end = first.start;
    for staged in run {
        let span = staged.frame.as_ref().filter(|span| span.start == end)?;
        end = span.end;
    }
    bytes.get(first.start..end)
}

/// Returns what became of the last message that was for it.
fn to_slot(
    broker: &Broker,
    slot: &Arc<Slot>,
    terms: Terms<'_>,
    batch: Batch<'_>,
    run: &mut [Staged<'_>],
    share: Option<Share>,
    cx: Cx<'_>,
) -> Option<Outcome> {
    let publisher = batch.origin.filter(|_| slot.names_publisher()).map(|origin| &**origin.client_id());
    let mut last = None;
    slot.with(broker, |session| {
        let not_full = run.iter_mut().filter(|staged| staged.verdict != Verdict::Full);
        for staged in not_full.filter(|staged| slot.takes(staged.source.topic, staged.source.properties)) {
            last = Some(match publisher {
                Some(publisher) => deliver_named(session, terms, staged, batch.origin, publisher, cx),
                None => deliver(session, terms, staged, batch.origin, share, cx),
            });
        }
        batch.look_at(session, cx);
    });
    slot.wake();
    last
}

/// To a queue that is told who published the message: it is another message there, and the publisher waits for both.
fn deliver_named(
    session: &mut Session,
    terms: Terms<'_>,
    staged: &mut Staged<'_>,
    origin: Option<&Arc<Slot>>,
    publisher: &str,
    cx: Cx<'_>,
) -> Outcome {
    let mut properties = staged.source.properties.to_vec();
    put_user(&mut properties, PUBLISHER, publisher);
    let named = Source { properties: &properties, ..staged.source };
    staged.make_another(named, origin, cx.now, |named| deliver(session, terms, named, origin, None, cx))
}

fn deliver(
    session: &mut Session,
    terms: Terms<'_>,
    staged: &mut Staged<'_>,
    origin: Option<&Arc<Slot>>,
    share: Option<Share>,
    cx: Cx<'_>,
) -> Outcome {
    let source = staged.source;
    let delivery = Delivery {
        topic: source.topic.as_bytes(),
        properties: source.properties,
        payload: source.payload,
        qos: source.qos.min(terms.options.qos),
        // To an established subscription RETAIN is 0 [MQTT-3.3.1-9], unless it asks for the flag [MQTT5-3.3.1-13].
        retain: source.retain && terms.options.retain_as_published,
        shared: share,
        subscription_ids: terms.subscription_ids,
        expires_at: source.expires_at,
        durability: staged.durability,
    };
    let outcome = session.deliver(&delivery, &mut || staged.shared(cx.now, origin), cx);
    if outcome == Outcome::Waiting {
        staged.waits = true;
    }
    staged.sent_once |= delivery.qos == 2 && outcome != Outcome::Gone && !session.durable();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand::{self, link, subscription};

    /// A route is found, and then members end, and one more comes: each message goes to one that is there.
    #[test]
    fn what_is_for_a_member_that_has_ended_goes_to_another() {
        let (broker, _store) = by_hand::broker();
        let member = |name: &str| {
            let slot = broker.open(name, true, link(0), 0).slot;
            broker.subscribe(&slot, subscription("$share/g/t", 1));
            slot
        };
        let before = [member("a"), member("b"), member("c")];
        let version = broker.router.version();
        let route = broker.router.route("t");
        let publish = || {
            let message = Arc::new(by_hand::message("t", &[]));
            let mut staged = Staged::of(&message, false, Durability::Commit);
            let found = Found { route: &route, version };
            broker.run_with_room(found, Batch::OWN, std::slice::from_mut(&mut staged), broker.cx());
        };
        let accepted = |slot: &Arc<Slot>| slot.look(|session| session.ledger().0.accepted);
        let [a, b, c] = &before;
        [a, b].into_iter().for_each(|slot| broker.end_session(slot));
        (0..3).for_each(|_| publish());
        assert_eq!(before.each_ref().map(accepted), [0, 0, 3]);
        broker.end_session(c);
        let late = member("d");
        (0..3).for_each(|_| publish());
        assert_eq!(accepted(&late), 3);
    }

    /// Publishes 1,024 messages in one turn; returns how many went.
    fn in_one_turn(broker: &Broker, message: &Arc<Message>) -> usize {
        let budget = Budget::turn();
        let mut staged: Vec<_> = (0..1024).map(|_| Staged::of(message, message.retain, Durability::Memory)).collect();
        let batch = Batch { budget: Some(&budget), ..Batch::OWN };
        broker.fan_out(&mut RouteCache::default(), batch, &mut staged);
        staged.iter().filter(|staged| staged.verdict != Verdict::Open).count()
    }

    /// A name among its properties does not make a message cheaper.
    #[test]
    fn what_looks_special_has_the_same_turn_as_others() {
        let (broker, _store) = by_hand::broker();
        for n in 0..200 {
            let slot = broker.open(&format!("c{n}"), true, link(0), 0).slot;
            broker.subscribe(&slot, subscription("t", 0));
        }
        let went = |properties: &[u8]| in_one_turn(&broker, &Arc::new(by_hand::message("t", properties)));
        let mut seq = Vec::new();
        put_user(&mut seq, "seq", "1");
        let (plain, special) = (went(&[]), went(&seq));
        assert!((1..100).contains(&special) && special <= plain, "{special} of them, and {plain} of others");
    }

    /// Where nobody is there, all members of a group are looked at for each message.
    #[test]
    fn a_large_group_costs_the_members_that_are_looked_at() {
        let (broker, _store) = by_hand::broker();
        let went = |members: usize| {
            let topic = format!("t{members}");
            for n in 0..members {
                let opened = broker.open(&format!("{topic}/{n}"), false, link(60), 0);
                broker.subscribe(&opened.slot, subscription(&format!("$share/g/{topic}"), 1));
                broker.close(&opened.slot, opened.epoch, crate::broker::Ending { with_will: false, expiry_s: None });
            }
            in_one_turn(&broker, &Arc::new(by_hand::message(&topic, &[])))
        };
        let (small, large) = (went(2), went(2_000));
        assert!((1..40).contains(&large) && small > 10 * large, "{large} of them, and {small} for a small group");
    }

    /// Whether there is room for one more is asked of all that there are.
    #[test]
    fn a_schedule_costs_what_its_check_costs() {
        let (broker, _store) = by_hand::broker();
        let schedule = |topic: &str| {
            let payload = br#"{"cron":"* * * * *","topic":"a","payload":"x"}"#;
            let (properties, qos, retain, expires_at) = (&[][..], 1, true, None);
            let parts = Parts { topic, properties, payload, qos, retain, expires_at, accepted_at: Time(0) };
            Arc::new(Message::new(&parts, None))
        };
        for n in 0..broker.config.limits.max_schedules {
            broker.publish(&schedule(&format!("$schedule/{n}")), true, Durability::Memory, None);
        }
        let known = in_one_turn(&broker, &schedule("$schedule/0"));
        let new = in_one_turn(&broker, &schedule("$schedule/new"));
        assert!(new < known / 4, "{new} that are refused, and {known} that replace one");
        assert_eq!(broker.counters.retained_refused.get(), new as u64);
    }

    /// What is retained is read by those who subscribe, and what is published goes to those who have: one that subscribes between
    /// the two gets the message all the same.
    #[test]
    fn who_subscribes_while_a_message_is_retained_gets_it() {
        let (broker, _store) = by_hand::broker();
        let message = Arc::new(by_hand::message("state", &[]));
        let mut staged = Staged::of(&message, true, Durability::Memory);
        let version = broker.router.version();
        let route = broker.router.route("state");
        let late = broker.open("late", true, link(0), 0).slot;
        broker.subscribe(&late, subscription("state", 0));
        late.with(&broker, |session| {
            session.want_retained("state");
            broker.feed_retained(session, broker.cx(), &Budget::turn());
            assert!(session.take_all_out().is_empty(), "nothing is retained yet");
        });
        let found = Found { route: &route, version };
        broker.run_with_room(found, Batch::OWN, std::slice::from_mut(&mut staged), broker.cx());
        assert!(!late.with(&broker, |session| session.take_all_out()).is_empty(), "it did not come");
    }
}
