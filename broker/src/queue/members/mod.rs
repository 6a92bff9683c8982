//! How the messages of one queue are dealt to its members: by turns or to who has the fewest, in order for each key, to one
//! member only; what was refused, held for too long or given back is dealt again, later and not for ever.
//!
//! ```text
//!   put ──► ready ──deal──► with a member ──confirmed──► over
//!             ▲ ▲               │ returned
//!             │ └───────────────┤
//!             └──── set aside ◄─┘ refused, or held for too long: back-off
//!                                 (more than `max_deliveries`: dead)
//! ```
//!
//! What no member that is there may have is set aside as well, offered again now and then, and given up after a time, or when it
//! takes half of the room or more.
//!
//! With an order a key has one message with a member at most: the oldest. So a key changes its member only after its
//! messages are acknowledged.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::Why;

/// The level of a place is in its bits from here on: 0 is dealt first.
pub const LEVEL_SHIFT: u32 = 56;

/// Milliseconds until a message that no member may have is offered again: members come, and rights change.
const NOT_ALLOWED_AGAIN_MS: u64 = 1_000;

/// Names a member: its session's number.
pub type MemberNo = u64;

/// How members take their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// By turns.
    RoundRobin,
    /// Whoever holds the fewest messages of the queue.
    LeastInFlight,
}

/// What a queue promises its members.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How members take their share.
    pub share: Share,
    /// Only the first member that is there gets messages; the others stand by.
    pub exclusive: bool,
    /// Milliseconds that a member may hold a message.
    pub ack_timeout_ms: Option<u64>,
    /// Times that a message is given to a member before it is dead, 1 at least.
    pub max_deliveries: u32,
    /// Milliseconds until a message that was refused is dealt again: doubled each time, from the first to the second.
    pub backoff_ms: (u64, u64),
    /// Milliseconds after which a message that no member may have is given up; `None`: never.
    pub not_allowed_ms: Option<u64>,
    /// Levels of places, 1 at least, see [`LEVEL_SHIFT`].
    pub levels: u8,
    /// Each so-manieth message that is dealt is of a lower level, if there is one; `None`: only when no higher one can be.
    pub lower_each: Option<u64>,
}

/// What a member made of a message that it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It has it.
    Taken,
    /// It has no room now: [`Members::room`] follows, or it goes.
    Busy,
    /// It may not have this message.
    NotAllowed,
    /// The message is larger than what it takes.
    TooLarge,
    /// The message's time is over.
    Expired,
}

/// What became of a message that a member had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done with.
    Confirmed,
    /// Not by this member, not now. It may say when.
    Refused {
        /// Milliseconds until it is to be dealt again.
        after_ms: Option<u64>,
    },
    /// The member is gone.
    Returned,
}

/// What is to be done with a message in its queue.
#[derive(Debug)]
pub enum Fate<T> {
    /// The message at this place was confirmed.
    Confirmed(u64, T),
    /// It is dealt no more.
    Over {
        /// Its place.
        place: u64,
        /// The message.
        item: T,
        /// Why.
        why: Why,
        /// How often a member had it.
        deliveries: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be dealt, or behind an older message of its key.
    Waiting,
    /// Set aside until then.
    Aside(u64),
    /// With a member.
    Held { member: MemberNo, lending: u64, until: Option<u64> },
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    key: Option<u64>,
    deliveries: u32,
    /// Since when no member may have it.
    not_allowed_ms: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    no: MemberNo,
    online: bool,
    busy: bool,
    held: usize,
}

/// The members of one queue and what they have of it.
#[derive(Debug)]
pub struct Members<T> {
    terms: Terms,
    entries: BTreeMap<u64, Entry<T>>,
    /// Places that may be dealt now.
    ready: BTreeSet<u64>,
    /// Those set aside, by the time at which they are dealt again.
    aside: BTreeSet<(u64, u64)>,
    /// Of each level, places that no member may have.
    not_allowed: Vec<BTreeSet<u64>>,
    /// Places of each key that are not over, in order.
    keys: HashMap<u64, VecDeque<u64>>,
    /// By its number: the place of what a member holds.
    lendings: HashMap<u64, u64>,
    /// By the time until which a member may hold it.
    timeouts: BTreeSet<(u64, u64)>,
    members: Vec<Member>,
    next_lending: u64,
    turn: usize,
    /// Messages dealt.
    dealt: u64,
    /// Of each level, whether more of it is on its way here.
    coming: Vec<bool>,
    fates: Vec<Fate<T>>,
}

impl<T> Members<T> {
    /// Nobody, and nothing to deal.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let levels = usize::from(terms.levels);
        let (not_allowed, coming) = (vec![BTreeSet::new(); levels], vec![false; levels]);
        Self {
            terms,
            not_allowed,
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            aside: BTreeSet::new(),
            keys: HashMap::new(),
            lendings: HashMap::new(),
            timeouts: BTreeSet::new(),
            members: Vec::new(),
            next_lending: 0,
            turn: 0,
            dealt: 0,
            coming,
            fates: Vec::new(),
        }
    }

    /// Messages that are here and not over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no message here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Members, and how many of them are there.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.members.len(), self.members.iter().filter(|member| member.online).count())
    }

    /// Messages with members, and messages set aside.
    #[must_use]
    pub fn held_and_aside(&self) -> (usize, usize) {
        (self.lendings.len(), self.aside.len())
    }

    /// Messages that no member may have: set aside, or about to be offered again.
    #[must_use]
    pub fn not_allowed(&self) -> usize {
        self.not_allowed.iter().map(BTreeSet::len).sum()
    }

    /// A level is full, with so many messages. Of what no member may have the older half is given up, if it, and what waits behind
    /// it with the same key, is half of them or more: the others must not stand still for it.
    pub fn make_room(&mut self, level: usize, messages: usize) {
        let Some(places) = self.not_allowed.get(level).filter(|places| !places.is_empty()) else { return };
        let with_those_behind = |place: &u64| {
            let key = self.entries.get(place).and_then(|entry| entry.key);
            key.and_then(|key| self.keys.get(&key)).map_or(1, VecDeque::len)
        };
        let stand_still: usize = places.iter().map(with_those_behind).sum();
        if self.terms.not_allowed_ms.is_none() || stand_still * 2 < messages {
            return;
        }
        let older: Vec<u64> = places.iter().take(places.len().div_ceil(2)).copied().collect();
        older.into_iter().for_each(|place| self.end(place, Why::NotAllowed));
    }

    /// One more member, or one that is known.
    pub fn join(&mut self, no: MemberNo, online: bool) {
        match self.members.iter_mut().find(|member| member.no == no) {
            Some(known) => known.online = online,
            None => self.members.push(Member { no, online, busy: false, held: 0 }),
        }
    }

    /// A member that gets no more. What it holds is its own until it is settled.
    pub fn leave(&mut self, no: MemberNo) {
        self.members.retain(|member| member.no != no);
    }

    /// A member has come or gone. With it goes its place before those that stand by.
    pub fn set_online(&mut self, no: MemberNo, online: bool) {
        let Some(at) = self.members.iter().position(|member| member.no == no) else { return };
        let mut member = self.members.remove(at);
        let was = std::mem::replace(&mut member.online, online);
        member.busy = false;
        let at = if was && !online { self.members.len() } else { at };
        self.members.insert(at, member);
    }

    /// A member that was busy may have room.
    pub fn room(&mut self, no: MemberNo) {
        if let Some(member) = self.members.iter_mut().find(|member| member.no == no) {
            member.busy = false;
        }
    }

    /// A message of the queue. Places come in ascending order. `key`: it must not overtake an older one with the same.
    pub fn put(&mut self, place: u64, key: Option<u64>, item: T) {
        let first = key.is_none_or(|key| {
            let places = self.keys.entry(key).or_default();
            places.push_back(place);
            places.len() == 1
        });
        if first {
            self.ready.insert(place);
        }
        self.entries.insert(place, Entry { item, key, deliveries: 0, not_allowed_ms: None, state: State::Waiting });
    }

    /// Gives up the oldest message that no member has and that waits for nothing.
    pub fn withdraw(&mut self) -> Option<(u64, T)> {
        let place = self.ready.first().or_else(|| self.not_allowed.iter().find_map(BTreeSet::first)).copied()?;
        self.remove(place).map(|entry| (place, entry.item))
    }

    /// Gives up whatever no member has; returns it with the places.
    pub fn withdraw_all(&mut self) -> Vec<(u64, T)> {
        let nobody_has = |(place, entry): (&u64, &Entry<T>)| {
            let held = matches!(entry.state, State::Held { .. });
            (!held).then_some(*place)
        };
        let places: Vec<u64> = self.entries.iter().filter_map(nobody_has).collect();
        places.into_iter().filter_map(|place| self.remove(place).map(|entry| (place, entry.item))).collect()
    }

    /// Whether more of a level is on its way here: if it has nothing else, lower ones wait for it.
    pub fn set_coming(&mut self, level: usize, coming: bool) {
        if let Some(known) = self.coming.get_mut(level) {
            *known = coming;
        }
    }

    /// Deals what can be dealt: `give` offers a message to a member, under the number that [`Members::settle`] takes.
    pub fn deal(&mut self, now_ms: u64, mut give: impl FnMut(MemberNo, u64, &T) -> Given) {
        self.end_waits(now_ms);
        let mut from: Vec<u64> = (0..self.terms.levels).map(|level| u64::from(level) << LEVEL_SHIFT).collect();
        while let Some(place) = self.next_ready(&mut from) {
            let candidates = self.candidates();
            if candidates.is_empty() {
                return;
            }
            self.offer(place, &candidates, now_ms, &mut give);
        }
    }

    /// The next place to be offered: the oldest of the highest level, or, when it is their turn, of a lower one. `from`: of each
    /// level, what was not offered yet. `None`: there is none, or what is next is on its way.
    fn next_ready(&self, from: &mut [u64]) -> Option<u64> {
        let first = |at: &u64| {
            let level = *at >> LEVEL_SHIFT;
            self.ready.range(*at..).next().copied().filter(|place| place >> LEVEL_SHIFT == level)
        };
        let levels = from.iter().zip(&self.coming).enumerate();
        let mut levels = levels
            .map(|(level, (at, coming))| (level, first(at), *coming))
            .filter(|(_, ready, coming)| ready.is_some() || *coming);
        let mut next = levels.next()?;
        if let Some(each) = self.terms.lower_each
            && self.dealt % each == each - 1
        {
            // Each of them in turn, so that none waits for ever.
            let lower: Vec<_> = levels.collect();
            let turn = usize::try_from(self.dealt / each).unwrap_or(0).checked_rem(lower.len());
            next = turn.and_then(|turn| lower.get(turn).copied()).unwrap_or(next);
        }
        let (level, place, _) = next;
        let place = place?;
        *from.get_mut(level)? = place + 1;
        Some(place)
    }

    fn offer(
        &mut self,
        place: u64,
        candidates: &[MemberNo],
        now_ms: u64,
        give: &mut impl FnMut(MemberNo, u64, &T) -> Given,
    ) {
        let (mut too_large, mut not_allowed) = (0, 0);
        for no in candidates {
            let Some(entry) = self.entries.get(&place) else { return };
            match give(*no, self.next_lending, &entry.item) {
                Given::Taken => return self.lend(place, *no, now_ms),
                Given::Busy => {
                    if let Some(member) = self.members.iter_mut().find(|member| member.no == *no) {
                        member.busy = true;
                    }
                }
                Given::NotAllowed => not_allowed += 1,
                Given::TooLarge => too_large += 1,
                Given::Expired => return self.end(place, Why::Expired),
            }
        }
        // Of an exclusive queue one is asked for all. Of others who is busy may take it later.
        let all = if self.terms.exclusive { candidates.len() } else { self.count().1 };
        if too_large == all {
            self.end(place, Why::TooLarge);
        } else if too_large + not_allowed == all {
            self.set_not_allowed_aside(place, now_ms);
        }
    }

    fn set_not_allowed_aside(&mut self, place: u64, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        let since_ms = *entry.not_allowed_ms.get_or_insert(now_ms);
        if self.terms.not_allowed_ms.is_some_and(|most| now_ms.saturating_sub(since_ms) >= most) {
            return self.end(place, Why::NotAllowed);
        }
        let at = now_ms.saturating_add(NOT_ALLOWED_AGAIN_MS);
        entry.state = State::Aside(at);
        self.ready.remove(&place);
        self.aside.insert((at, place));
        if let Some(places) = self.not_allowed_of(place) {
            places.insert(place);
        }
    }

    /// Those of the level that this place is in.
    fn not_allowed_of(&mut self, place: u64) -> Option<&mut BTreeSet<u64>> {
        self.not_allowed.get_mut(usize::try_from(place >> LEVEL_SHIFT).ok()?)
    }

    /// Whom to ask, in this order.
    fn candidates(&self) -> Vec<MemberNo> {
        let online = || self.members.iter().filter(|member| member.online);
        if self.terms.exclusive {
            return online().take(1).filter(|member| !member.busy).map(|member| member.no).collect();
        }
        let free = || online().filter(|member| !member.busy);
        match self.terms.share {
            Share::LeastInFlight => {
                let mut all: Vec<&Member> = free().collect();
                all.sort_by_key(|member| member.held);
                all.into_iter().map(|member| member.no).collect()
            }
            Share::RoundRobin => {
                let mut all: Vec<MemberNo> = free().map(|member| member.no).collect();
                let at = self.turn.checked_rem(all.len()).unwrap_or(0);
                all.rotate_left(at);
                all
            }
        }
    }

    fn lend(&mut self, place: u64, no: MemberNo, now_ms: u64) {
        let lending = self.next_lending;
        self.next_lending += 1;
        self.dealt += 1;
        let until = self.terms.ack_timeout_ms.map(|ms| now_ms.saturating_add(ms));
        let Some(entry) = self.entries.get_mut(&place) else { return };
        entry.deliveries += 1;
        entry.state = State::Held { member: no, lending, until };
        let was_not_allowed = entry.not_allowed_ms.take().is_some();
        if was_not_allowed && let Some(places) = self.not_allowed_of(place) {
            places.remove(&place);
        }
        self.ready.remove(&place);
        self.lendings.insert(lending, place);
        self.timeouts.extend(until.map(|at| (at, lending)));
        // The turn is that of whoever follows.
        let free: Vec<MemberNo> =
            self.members.iter().filter(|member| member.online && !member.busy).map(|member| member.no).collect();
        self.turn = free.iter().position(|free| *free == no).map_or(0, |at| at + 1);
        if let Some(member) = self.members.iter_mut().find(|member| member.no == no) {
            member.held += 1;
        }
    }

    /// What became of a lending. One that is not known was taken back meanwhile, and is nobody's any more.
    pub fn settle(&mut self, lending: u64, outcome: Outcome, now_ms: u64) {
        let Some(place) = self.take_back(lending) else { return };
        match outcome {
            Outcome::Confirmed => {
                let Some(entry) = self.remove(place) else { return };
                self.fates.push(Fate::Confirmed(place, entry.item));
            }
            Outcome::Refused { after_ms } => self.again(place, Why::Refused, Some((now_ms, after_ms))),
            Outcome::Returned => self.again(place, Why::TooOften, None),
        }
    }

    /// The member has it no more.
    fn take_back(&mut self, lending: u64) -> Option<u64> {
        let place = self.lendings.remove(&lending)?;
        let entry = self.entries.get_mut(&place)?;
        if let State::Held { member, until, .. } = std::mem::replace(&mut entry.state, State::Waiting) {
            self.timeouts.remove(&(until.unwrap_or(0), lending));
            if let Some(member) = self.members.iter_mut().find(|known| known.no == member) {
                member.held = member.held.saturating_sub(1);
                member.busy = false;
            }
        }
        Some(place)
    }

    /// It is dealt again, now or after a pause, unless it was dealt too often.
    fn again(&mut self, place: u64, why: Why, pause: Option<(u64, Option<u64>)>) {
        let Some(entry) = self.entries.get_mut(&place) else { return };
        if entry.deliveries >= self.terms.max_deliveries {
            return self.end(place, why);
        }
        let Some((now_ms, after_ms)) = pause else {
            self.ready.insert(place);
            return;
        };
        let (first, most) = self.terms.backoff_ms;
        let doubled = first.saturating_mul(1 << entry.deliveries.saturating_sub(1).min(32)).min(most);
        let at = now_ms.saturating_add(after_ms.map_or(doubled, |after| after.min(most)));
        entry.state = State::Aside(at);
        self.aside.insert((at, place));
    }

    fn end(&mut self, place: u64, why: Why) {
        let Some(Entry { item, deliveries, .. }) = self.remove(place) else { return };
        self.fates.push(Fate::Over { place, item, why, deliveries });
    }

    /// It is over: the next of its key may go.
    fn remove(&mut self, place: u64) -> Option<Entry<T>> {
        let entry = self.entries.remove(&place)?;
        self.ready.remove(&place);
        if let State::Aside(at) = entry.state {
            self.aside.remove(&(at, place));
        }
        if let Some(places) = self.not_allowed_of(place) {
            places.remove(&place);
        }
        if let Some(key) = entry.key
            && let Some(places) = self.keys.get_mut(&key)
        {
            places.retain(|other| *other != place);
            match places.front() {
                Some(next) => {
                    self.ready.insert(*next);
                }
                None => {
                    self.keys.remove(&key);
                }
            }
        }
        Some(entry)
    }

    /// Those whose pause is over are dealt again; what members have held for too long is taken from them.
    fn end_waits(&mut self, now_ms: u64) {
        while let Some((at, place)) = self.aside.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.aside.remove(&(at, place));
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.state = State::Waiting;
                self.ready.insert(place);
            }
        }
        while let Some((_, lending)) = self.timeouts.first().copied().filter(|(at, _)| *at <= now_ms) {
            let Some(place) = self.take_back(lending) else { return };
            self.again(place, Why::TooOften, Some((now_ms, None)));
        }
    }

    /// When [`Members::deal`] has something to do by the clock.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let aside = self.aside.first().map(|(at, _)| *at);
        let timeout = self.timeouts.first().map(|(at, _)| *at);
        aside.into_iter().chain(timeout).min()
    }

    /// What is to be done in the queue.
    pub fn take_fates(&mut self) -> Vec<Fate<T>> {
        std::mem::take(&mut self.fates)
    }

    /// What must hold after every step.
    #[cfg(test)]
    fn check(&self) {
        let in_state = |wanted: fn(&State) -> bool| self.entries.values().filter(|entry| wanted(&entry.state)).count();
        assert_eq!(in_state(|state| matches!(state, State::Held { .. })), self.lendings.len());
        assert_eq!(in_state(|state| matches!(state, State::Aside(_))), self.aside.len());
        let not_allowed =
            self.entries.iter().filter(|(_, entry)| entry.not_allowed_ms.is_some()).map(|(place, _)| place);
        assert!(not_allowed.eq(self.not_allowed.iter().flatten()));
        assert!(self.ready.iter().all(|place| self.entries[place].state == State::Waiting));
        for (place, entry) in &self.entries {
            let first = entry.key.is_none_or(|key| self.keys[&key].front() == Some(place));
            assert!(first || entry.state == State::Waiting && !self.ready.contains(place), "{place} overtakes");
            assert!(!first || entry.state != State::Waiting || self.ready.contains(place), "{place} is stuck");
        }
    }
}
