//! What the program subscribed to: what the server was told of it, and what came for it.

mod ask;
mod unclaimed;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use forebay_wire::types::PacketId;
use slab::Slab;

use crate::error::SubscribeError;
use crate::event::Event;
use crate::message::Received;
use crate::options::{Inbox, Subscribe};
use crate::ticket::Teller;
pub(crate) use ask::Asking;
use unclaimed::Unclaimed;

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
/// A request that is too large for one packet is made in several: it is wanted again between them.
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
    /// Filters of the packet that is not answered yet.
    sent: usize,
    /// What the server has said to the first filters while it is asked.
    reasons: Vec<ReasonCode>,
    /// What it said to all of them the last time.
    held: Vec<ReasonCode>,
    /// Why the stream ends.
    ended: Option<SubscribeError>,
    /// The server puts its identifier on what it sends for it.
    with_id: bool,
    /// Another has filters that match some of the same topics.
    overlaps: bool,
    /// It is asked for once more, for the identifier alone.
    again: bool,
}

impl Subscription {
    fn new(what: Subscribe) -> Self {
        Self {
            what,
            phase: Phase::Wanted,
            granted: None,
            left: None,
            queue: VecDeque::new(),
            waker: None,
            sent: 0,
            reasons: Vec::new(),
            held: Vec::new(),
            ended: None,
            with_id: false,
            overlaps: false,
            again: false,
        }
    }

    /// A shared subscription needs an identifier: the server sends its own copy for it, which nothing else tells from that of
    /// a plain subscription to the same topics. So do subscriptions that overlap, since many servers send a copy for each.
    /// Others do without: identifiers cost bytes in every message.
    fn needs_id(&self) -> bool {
        self.overlaps || !self.is_plain()
    }

    /// Whether a topic may match plain filters of both; one filter twice is one subscription for the server.
    fn overlaps(&self, other: &Self) -> bool {
        let pairs = self.plain().flat_map(|one| other.plain().map(move |two| (one, two)));
        pairs.into_iter().any(|(one, two)| one != two && overlap(one, two))
    }

    fn plain(&self) -> impl Iterator<Item = &str> {
        self.filters().filter(|filter| is_plain(filter))
    }

    /// All that it gets is a copy of its own, and is nobody else's.
    fn is_plain(&self) -> bool {
        self.filters().all(is_plain)
    }

    fn filters(&self) -> impl Iterator<Item = &str> {
        self.what.filters.iter().map(|filter| filter.filter.as_str())
    }

    /// Whether a message with this topic may be for it.
    fn takes(&self, topic: &str) -> bool {
        self.matches(topic) || self.phase.is_wanted() && self.filters().any(|filter| topics_of(filter).is_none())
    }

    /// Whether one of its filters says so.
    fn matches(&self, topic: &str) -> bool {
        self.phase.is_wanted() && self.filters().filter_map(topics_of).any(|filter| topic::matches(filter, topic))
    }
}

/// The filter of the topics that come for a subscription; `None`: it names a queue or a stream of forebay's, whose messages keep the
/// topics that they were published to.
fn topics_of(filter: &str) -> Option<&str> {
    if let Some(shared) = topic::split_share(filter) {
        return Some(shared.filter);
    }
    let has_name = ["$queue/", "$stream/"].iter().any(|names| filter.starts_with(names));
    if has_name { None } else { Some(filter.strip_prefix("$q/").unwrap_or(filter)) }
}

fn is_plain(filter: &str) -> bool {
    topics_of(filter) == Some(filter)
}

pub(crate) struct Subscriptions {
    all: Slab<Subscription>,
    /// Packet identifiers above those of PUBLISH that are in use, a bit each.
    requests: u16,
    /// Something is [`Phase::Wanted`] or [`Phase::Unwanted`].
    to_ask: bool,
    /// Bytes in all queues.
    bytes: usize,
    unclaimed: Unclaimed,
    /// Of those that have ended, for who listens.
    ends: VecDeque<Event>,
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
            ends: VecDeque::new(),
            last: (String::new(), Vec::new()),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn add(&mut self, what: Subscribe, granted: Teller<Granted>) -> usize {
        self.last.0.clear();
        self.to_ask = true;
        let key = self.all.insert(Subscription { granted: Some(granted), ..Subscription::new(what) });
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

    /// What waits for a subscription like this one.
    fn claim(&mut self, key: usize) {
        let Some(subscription) = self.all.get_mut(key) else { return };
        for (until, received) in self.unclaimed.take() {
            if subscription.takes(received.topic()) {
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
        self.unclaimed.deadline()
    }

    /// The program wants no more of it; the tokens of what it has not read, which are now done with, and how.
    pub(crate) fn remove(&mut self, key: usize, left: Option<Teller<()>>) -> (Vec<u64>, ReasonCode) {
        let Some(subscription) = self.all.get_mut(key) else { return (Vec::new(), ReasonCode::Success) };
        // Another member may have what this one has not read, where the server takes no for an answer.
        let reason = if subscription.is_plain() { ReasonCode::Success } else { ReasonCode::UnspecifiedError };
        if subscription.phase == Phase::Refused {
            let unread = self.detach(key);
            if let Some(left) = left {
                left.tell(());
            }
            return (unread.iter().filter_map(|received| received.token).collect(), reason);
        }
        self.last.0.clear();
        self.to_ask = true;
        subscription.phase = Phase::Unwanted;
        subscription.left = left;
        let unread = std::mem::take(&mut subscription.queue);
        self.bytes -= unread.iter().map(Received::size).sum::<usize>();
        (unread.iter().filter_map(|received| received.token).collect(), reason)
    }

    /// The stream is gone, the subscription stays with the server: its session outlives this program.
    pub(crate) fn detach(&mut self, key: usize) -> VecDeque<Received> {
        self.last.0.clear();
        let Some(subscription) = self.all.try_remove(key) else { return VecDeque::new() };
        self.bytes -= subscription.queue.iter().map(Received::size).sum::<usize>();
        subscription.queue
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
            && self.all.get(key).is_some_and(|subscription| subscription.takes(topic))
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
        if keys.is_empty() {
            keys.extend(self.all.iter().filter(|(_, subscription)| subscription.takes(topic)).map(|(key, _)| key));
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

    /// Whether no more comes than what there is.
    pub(crate) fn is_at_its_end(&self, key: usize) -> bool {
        self.all.get(key).is_none_or(|subscription| subscription.phase == Phase::Refused)
    }

    /// Why a stream ends, when the server is the reason.
    pub(crate) fn ended(&self, key: usize) -> Option<SubscribeError> {
        self.all.get(key)?.ended.clone()
    }

    /// What happened to one that was granted.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.ends.pop_front()
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
            subscription.reasons.clear();
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
            subscription.reasons.clear();
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
