//! What the program subscribed to: what the server was told of it, and what came for it.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use forebay_wire::WireError;
use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::types::{PacketId, Version};
use slab::Slab;

use super::outbox::PUBLISH_IDS;
use crate::codec::read::SubAck;
use crate::codec::write;
use crate::error::SubscribeError;
use crate::message::Received;
use crate::options::{Inbox, RetainHandling, Subscribe};
use crate::ticket::Teller;

/// Unacknowledged SUBSCRIBEs and UNSUBSCRIBEs at most.
const REQUESTS_MAX: u16 = u16::MAX - PUBLISH_IDS;

/// What the server said to each filter.
pub(crate) type Granted = Result<Vec<ReasonCode>, SubscribeError>;

/// Where a subscription stands.
///
/// ```text
///  Wanted ──SUBSCRIBE──▶ Asked ──SUBACK──▶ Held ──unsubscribe──▶ Unwanted ──UNSUBSCRIBE──▶ Leaving ──UNSUBACK──▶ gone
///    ▲                     │                 │
///    └── connection lost ──┴── session lost ─┘
/// ```
///
/// One that was refused keeps its place until the program has heard of it: its key is nobody else's meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Wanted,
    Asked(PacketId),
    Held,
    Unwanted,
    Leaving(PacketId),
    Refused,
}

impl Phase {
    fn is_wanted(self) -> bool {
        matches!(self, Self::Wanted | Self::Asked(_) | Self::Held)
    }
}

struct Subscription {
    what: Subscribe,
    phase: Phase,
    granted: Option<Teller<Granted>>,
    left: Option<Teller<()>>,
    queue: VecDeque<Received>,
    waker: Option<Waker>,
    /// The server puts its identifier on what it sends for it.
    with_id: bool,
    /// Another has filters that match some of the same topics.
    overlaps: bool,
    /// It is asked for once more, for the identifier alone.
    again: bool,
}

impl Subscription {
    /// A shared subscription needs an identifier: the server sends its own copy for it, which nothing else tells from that of
    /// a plain subscription to the same topics. So do subscriptions that overlap, since many servers send a copy for each.
    /// Others do without: identifiers cost bytes in every message.
    fn needs_id(&self) -> bool {
        self.overlaps || self.what.filters.iter().any(|filter| topic::split_share(&filter.filter).is_some())
    }

    /// Whether a topic may match plain filters of both; one filter twice is one subscription for the server.
    fn overlaps(&self, other: &Self) -> bool {
        let pairs = self.plain().flat_map(|one| other.plain().map(move |two| (one, two)));
        pairs.into_iter().any(|(one, two)| one != two && overlap(one, two))
    }

    fn plain(&self) -> impl Iterator<Item = &str> {
        let filters = self.what.filters.iter().map(|filter| filter.filter.as_str());
        filters.filter(|filter| topic::split_share(filter).is_none())
    }

    fn matches(&self, topic: &str) -> bool {
        self.phase.is_wanted()
            && self.what.filters.iter().any(|filter| {
                let plain = topic::split_share(&filter.filter).map_or(filter.filter.as_str(), |shared| shared.filter);
                topic::matches(plain, topic)
            })
    }
}

pub(crate) struct Subscriptions {
    all: Slab<Subscription>,
    /// Packet identifiers above [`PUBLISH_IDS`] that are in use, a bit each.
    requests: u16,
    /// Something is [`Phase::Wanted`] or [`Phase::Unwanted`].
    to_ask: bool,
    /// Bytes in all queues.
    bytes: usize,
    unclaimed: Unclaimed,
    /// The topic of the last message, and who got it; emptied when a subscription changes.
    last: (String, Vec<usize>),
}

impl Subscriptions {
    pub(crate) fn new() -> Self {
        Self {
            all: Slab::new(),
            requests: 0,
            to_ask: false,
            bytes: 0,
            unclaimed: Unclaimed::default(),
            last: (String::new(), Vec::new()),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn add(&mut self, what: Subscribe, granted: Teller<Granted>) -> usize {
        self.last.0.clear();
        self.to_ask = true;
        let (queue, waker, left) = (VecDeque::new(), None, None);
        let key = self.all.insert(Subscription {
            what,
            phase: Phase::Wanted,
            granted: Some(granted),
            left,
            queue,
            waker,
            with_id: false,
            overlaps: false,
            again: false,
        });
        self.mark_overlaps(key);
        self.claim(key);
        key
    }

    /// Those that overlap with a new one are asked for again, with an identifier.
    fn mark_overlaps(&mut self, key: usize) {
        let Some(new) = self.all.get(key) else { return };
        let others = self.all.iter().filter(|(other, subscription)| *other != key && subscription.phase.is_wanted());
        let overlapping: Vec<usize> =
            others.filter(|(_, subscription)| subscription.overlaps(new)).map(|(other, _)| other).collect();
        for other in &overlapping {
            if let Some(subscription) = self.all.get_mut(*other) {
                subscription.overlaps = true;
            }
        }
        if let Some(new) = self.all.get_mut(key) {
            new.overlaps = !overlapping.is_empty();
        }
    }

    /// Has one that is held asked for again, when it lacks an identifier that it needs by now.
    fn identify(&mut self, with_ids: bool) {
        for (_, subscription) in &mut self.all {
            if with_ids && subscription.phase == Phase::Held && subscription.needs_id() && !subscription.with_id {
                (subscription.phase, subscription.again) = (Phase::Wanted, true);
            }
        }
    }

    /// What waits for a subscription like this one.
    fn claim(&mut self, key: usize) {
        let Some(subscription) = self.all.get_mut(key) else { return };
        for (until, received) in self.unclaimed.take() {
            if subscription.matches(received.topic()) {
                self.bytes += received.size();
                subscription.queue.push_back(received);
            } else {
                self.unclaimed.push(until, received);
            }
        }
    }

    /// Keeps a message that nobody has for who subscribes later.
    pub(crate) fn keep(&mut self, received: Received, limits: &Inbox, now: Instant) {
        self.unclaimed.push(now.checked_add(limits.unclaimed_for), received);
    }

    /// A message for which there is no room, or no time, any more.
    pub(crate) fn give_up(&mut self, limits: &Inbox, now: Instant) -> Option<Received> {
        self.unclaimed.give_up(limits, now)
    }

    /// When [`Subscriptions::give_up`] has something to give up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.unclaimed.queue.front().and_then(|(until, _)| *until)
    }

    /// The program wants no more of it; the tokens of what it has not read, which are now done with.
    pub(crate) fn remove(&mut self, key: usize, left: Option<Teller<()>>) -> Vec<u64> {
        let Some(subscription) = self.all.get_mut(key) else { return Vec::new() };
        if subscription.phase == Phase::Refused {
            self.all.remove(key);
            return Vec::new();
        }
        self.last.0.clear();
        self.to_ask = true;
        subscription.phase = Phase::Unwanted;
        subscription.left = left;
        let unread = std::mem::take(&mut subscription.queue);
        self.bytes -= unread.iter().map(Received::size).sum::<usize>();
        unread.iter().filter_map(|received| received.token).collect()
    }

    /// The stream is gone, the subscription stays with the server: its session outlives this program.
    pub(crate) fn detach(&mut self, key: usize) -> VecDeque<Received> {
        self.last.0.clear();
        let Some(subscription) = self.all.try_remove(key) else { return VecDeque::new() };
        self.bytes -= subscription.queue.iter().map(Received::size).sum::<usize>();
        subscription.queue
    }

    /// Whether [`Subscriptions::ask`] has something to say.
    pub(crate) fn wants_to_ask(&self) -> bool {
        self.to_ask && self.requests.count_ones() < u32::from(REQUESTS_MAX)
    }

    /// SUBSCRIBE and UNSUBSCRIBE.
    pub(crate) fn ask(&mut self, version: Version, with_ids: bool, out: &mut Vec<u8>) {
        if !self.wants_to_ask() {
            return;
        }
        self.to_ask = false;
        self.identify(with_ids);
        // What is to go goes first: it may be wanted again.
        for leave in [true, false] {
            for key in 0..self.all.capacity() {
                let phase = self.all.get(key).map(|subscription| subscription.phase);
                if phase != Some(if leave { Phase::Unwanted } else { Phase::Wanted }) {
                    continue;
                }
                let Some(id) = free_id(self.requests) else {
                    self.to_ask = true;
                    return;
                };
                let said =
                    if leave { self.leave(key, id, version, out) } else { self.want(key, id, version, with_ids, out) };
                if said {
                    self.requests |= bit(id);
                }
            }
        }
    }

    fn want(&mut self, key: usize, id: PacketId, version: Version, with_ids: bool, out: &mut Vec<u8>) -> bool {
        let Some(subscription) = self.all.get_mut(key) else { return false };
        subscription.phase = Phase::Asked(id);
        subscription.with_id = with_ids && subscription.needs_id();
        let subscription_id = subscription.with_id.then_some(key as u32 + 1);
        let what = &subscription.what;
        if !std::mem::take(&mut subscription.again) {
            return write::subscribe(version, id, subscription_id, &what.filters, &what.user_properties, out);
        }
        // Retained messages have come.
        let mut filters = what.filters.clone();
        filters.iter_mut().for_each(|filter| filter.retain_handling = RetainHandling::Never);
        write::subscribe(version, id, subscription_id, &filters, &what.user_properties, out)
    }

    /// For the server there is one subscription for a filter: what another of the program's stands on stays.
    fn leave(&mut self, key: usize, id: PacketId, version: Version, out: &mut Vec<u8>) -> bool {
        let Some(subscription) = self.all.get(key) else { return false };
        let filters: Vec<String> = subscription.what.filters.iter().map(|filter| filter.filter.clone()).collect();
        let filters: Vec<String> = filters.into_iter().filter(|filter| !self.is_wanted(filter)).collect();
        if filters.is_empty() {
            if let Some(left) = self.all.remove(key).left {
                left.tell(());
            }
            return false;
        }
        if let Some(subscription) = self.all.get_mut(key) {
            subscription.phase = Phase::Leaving(id);
        }
        write::unsubscribe(version, id, &filters, out)
    }

    fn is_wanted(&self, filter: &str) -> bool {
        let wanted = self.all.iter().filter(|(_, subscription)| subscription.phase.is_wanted());
        wanted.flat_map(|(_, subscription)| &subscription.what.filters).any(|wanted| wanted.filter == filter)
    }

    /// SUBACK or UNSUBACK; the tokens of what nobody will read.
    ///
    /// # Errors
    /// A SUBACK that does not have a reason code for each filter.
    pub(crate) fn answered(&mut self, ack: SubAck) -> Result<Vec<u64>, WireError> {
        let asked = |phase: Phase| match phase {
            Phase::Asked(id) => !ack.of_unsubscribe && id == ack.id,
            Phase::Leaving(id) => ack.of_unsubscribe && id == ack.id,
            Phase::Wanted | Phase::Held | Phase::Unwanted | Phase::Refused => false,
        };
        let Some(key) = self.all.iter().find(|(_, subscription)| asked(subscription.phase)).map(|(key, _)| key) else {
            // The answer to a request whose subscription is gone.
            if ack.id.get() > PUBLISH_IDS {
                self.requests &= !bit(ack.id);
            }
            return Ok(Vec::new());
        };
        self.requests &= !bit(ack.id);
        let asks = |s: &Subscription| match s.phase {
            Phase::Wanted | Phase::Unwanted => true,
            // The answer that comes now may find it in need of an identifier.
            Phase::Held | Phase::Asked(_) => s.overlaps && !s.with_id,
            Phase::Leaving(_) | Phase::Refused => false,
        };
        self.to_ask |= self.all.iter().any(|(_, subscription)| asks(subscription));
        if ack.of_unsubscribe {
            if let Some(left) = self.all.remove(key).left {
                left.tell(());
            }
            return Ok(Vec::new());
        }
        let filters = self.all.get(key).map_or(0, |subscription| subscription.what.filters.len());
        if ack.reasons.len() != filters {
            return Err(WireError::protocol("MQTT-3.8.4-5", "SUBACK without a reason code for each filter"));
        }
        let all_refused = !ack.reasons.iter().any(|reason| reason.is_success());
        let Some(subscription) = self.all.get_mut(key) else { return Ok(Vec::new()) };
        subscription.phase = Phase::Held;
        let teller = subscription.granted.take();
        if !all_refused {
            if let Some(teller) = teller {
                teller.tell(Ok(ack.reasons));
            }
            return Ok(Vec::new());
        }
        tracing::warn!(filters = ?subscription.what.filters, reasons = ?ack.reasons, "a subscription was refused");
        let Some(teller) = teller else { return Ok(Vec::new()) };
        subscription.phase = Phase::Refused;
        let unread = std::mem::take(&mut subscription.queue);
        self.bytes -= unread.iter().map(Received::size).sum::<usize>();
        self.last.0.clear();
        teller.tell(Err(SubscribeError::Refused { reasons: ack.reasons, reason_string: ack.reason_string }));
        Ok(unread.iter().filter_map(|received| received.token).collect())
    }

    /// Gives a message to those whom it is for.
    pub(crate) fn deliver(&mut self, received: Received, id_of: Option<u32>) -> Delivered {
        if self.last.0.is_empty() || self.last.0 != received.topic() || id_of.is_some() {
            self.find(received.topic(), id_of);
        }
        let Some((last, others)) = self.last.1.split_last() else {
            self.last.0.clear();
            return Delivered { holders: 0, unread: Some(received) };
        };
        let holders = self.last.1.len() as u32;
        for key in others {
            give(&mut self.all, &mut self.bytes, *key, received.clone());
        }
        give(&mut self.all, &mut self.bytes, *last, received);
        Delivered { holders, unread: None }
    }

    fn find(&mut self, topic: &str, id_of: Option<u32>) {
        let (name, keys) = &mut self.last;
        keys.clear();
        name.clear();
        // An identifier of an earlier run of the program may be another subscription's by now: its filter must match.
        if let Some(key) = id_of.map(|id| id as usize - 1)
            && self.all.get(key).is_some_and(|subscription| subscription.matches(topic))
        {
            keys.push(key);
            return;
        }
        name.push_str(topic);
        let matching = || self.all.iter().filter(|(_, subscription)| subscription.matches(topic));
        keys.extend(matching().filter(|(_, subscription)| !subscription.with_id).map(|(key, _)| key));
        if keys.is_empty() {
            // Sent before the server knew of the identifier.
            keys.extend(matching().map(|(key, _)| key));
        }
    }

    /// The next message of a subscription, and whether it is acknowledged by that.
    pub(crate) fn take(&mut self, key: usize) -> Option<(Received, bool)> {
        let subscription = self.all.get_mut(key)?;
        let received = subscription.queue.pop_front()?;
        self.bytes -= received.size();
        Some((received, !subscription.what.manual))
    }

    /// Whom to wake when the next message comes.
    pub(crate) fn wake_with(&mut self, key: usize, waker: &Waker) {
        if let Some(subscription) = self.all.get_mut(key) {
            match &mut subscription.waker {
                Some(known) => known.clone_from(waker),
                None => subscription.waker = Some(waker.clone()),
            }
        }
    }

    pub(crate) fn exists(&self, key: usize) -> bool {
        self.all.contains(key)
    }

    /// The connection is over: what was asked is to be asked again.
    pub(crate) fn disconnected(&mut self) {
        self.requests = 0;
        for (_, subscription) in &mut self.all {
            match subscription.phase {
                Phase::Asked(_) => subscription.phase = Phase::Wanted,
                Phase::Leaving(_) => subscription.phase = Phase::Unwanted,
                Phase::Wanted | Phase::Held | Phase::Unwanted | Phase::Refused => {}
            }
        }
        self.to_ask = true;
    }

    /// Whether the server knows of them is in doubt: asking for what is there changes nothing but that retained messages may
    /// come once more.
    pub(crate) fn ask_again(&mut self) {
        for (_, subscription) in &mut self.all {
            if subscription.phase == Phase::Held {
                subscription.phase = Phase::Wanted;
            }
        }
        self.to_ask = true;
    }

    /// The server knows of no subscription: those that are held are made anew, those that were to go are gone.
    pub(crate) fn forgotten(&mut self) {
        self.all.retain(|_, subscription| {
            if subscription.phase == Phase::Held {
                subscription.phase = Phase::Wanted;
            }
            subscription.again = false;
            let gone = subscription.phase == Phase::Unwanted;
            if gone && let Some(left) = subscription.left.take() {
                left.tell(());
            }
            !gone
        });
        self.to_ask = true;
    }

    /// The client ends: streams end when what they have is read.
    pub(crate) fn end(&mut self, error: &SubscribeError) {
        for (_, subscription) in &mut self.all {
            if let Some(teller) = subscription.granted.take() {
                teller.tell(Err(error.clone()));
            }
            if let Some(left) = subscription.left.take() {
                left.tell(());
            }
            if let Some(waker) = subscription.waker.take() {
                waker.wake();
            }
        }
    }
}

/// QoS 1 and 2 messages that nobody has.
#[derive(Default)]
struct Unclaimed {
    /// Until when each is kept; `None`: for ever.
    queue: VecDeque<(Option<Instant>, Received)>,
    bytes: usize,
}

impl Unclaimed {
    fn push(&mut self, until: Option<Instant>, received: Received) {
        self.bytes += received.size();
        self.queue.push_back((until, received));
    }

    fn take(&mut self) -> VecDeque<(Option<Instant>, Received)> {
        self.bytes = 0;
        std::mem::take(&mut self.queue)
    }

    fn give_up(&mut self, limits: &Inbox, now: Instant) -> Option<Received> {
        let (until, _) = self.queue.front()?;
        let over = self.queue.len() > limits.max_unclaimed || self.bytes > limits.max_bytes;
        if !over && until.is_none_or(|until| now < until) {
            return None;
        }
        let (_, received) = self.queue.pop_front()?;
        self.bytes -= received.size();
        Some(received)
    }
}

/// Who has a message now.
pub(crate) struct Delivered {
    pub(crate) holders: u32,
    /// A message that nobody has.
    pub(crate) unread: Option<Received>,
}

fn give(all: &mut Slab<Subscription>, bytes: &mut usize, key: usize, received: Received) {
    if let Some(subscription) = all.get_mut(key) {
        *bytes += received.size();
        subscription.queue.push_back(received);
        if let Some(waker) = subscription.waker.take() {
            waker.wake();
        }
    }
}

/// Whether there is a topic that both filters match.
fn overlap(one: &str, two: &str) -> bool {
    let (mut one, mut two) = (one.split('/'), two.split('/'));
    loop {
        match (one.next(), two.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(one), Some(two)) if one == two => {}
            (Some(_), Some(_) | None) | (None, Some(_)) => return false,
        }
    }
}

fn bit(id: PacketId) -> u16 {
    1u16.checked_shl(u32::from(id.get().wrapping_sub(PUBLISH_IDS + 1))).unwrap_or(0)
}

fn free_id(used: u16) -> Option<PacketId> {
    let free = used.trailing_ones() as u16;
    (free < REQUESTS_MAX).then(|| PacketId::new(PUBLISH_IDS + 1 + free)).flatten()
}
