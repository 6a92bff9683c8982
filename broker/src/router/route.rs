//! The answer for one topic: the subscribers, each once, and the groups that share it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::members::{Member, Members};
use super::trie::Subscriptions;
use super::{Options, Subscriber};
use crate::store::GroupId;

/// Up to this many subscribers that are not in the longest list are searched one by one when lists are merged.
const MERGE_SCAN_MAX: usize = 8;

/// Who gets the messages of one topic, at one version of the router.
pub struct Route<T> {
    /// Subscribers on their own account. Each is here once, in no stated order.
    pub targets: Box<[Target<T>]>,
    /// Shared subscriptions; each gets the message once, besides `targets`.
    pub groups: Box<[Arc<Group<T>>]>,
}

impl<T> Route<T> {
    /// Whether no subscriber has asked for it.
    pub fn is_nobody(&self) -> bool {
        self.targets.is_empty() && self.groups.is_empty()
    }
}

/// A subscriber and what it asked for.
#[derive(Clone, Debug)]
pub struct Target<T> {
    /// Who.
    pub subscriber: T,
    /// Merged over all its subscriptions that match: the highest QoS `[MQTT5-3.3.4-2]`, no_local only if all of them
    /// ask for it, retain_as_published if one does. The identifier is that of one of them; see [`Terms`].
    pub options: Options,
    /// What few targets have.
    more: Option<Box<More>>,
}

/// What a target has in whose subscriptions some overlap.
#[derive(Clone, Debug)]
struct More {
    subscription_ids: SmallVec<[u32; 2]>,
    /// What applies to the subscriber's own messages, if that is not all or nothing.
    local: Option<Local>,
}

#[derive(Clone, Debug)]
struct Local {
    options: Options,
    subscription_ids: SmallVec<[u32; 2]>,
}

/// On which terms a subscriber gets one message.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'t> {
    /// As in [`Target`].
    pub options: &'t Options,
    /// The identifiers of all matching subscriptions that have one `[MQTT5-3.3.4-4]`, in no stated order. An
    /// identifier that several of them share is here several times.
    pub subscription_ids: &'t [u32],
}

impl<T> Target<T> {
    /// The terms for a message of anybody's, or for one of its `own`: of that, subscriptions with No Local know nothing,
    /// so that neither their QoS nor their identifier is with it `[MQTT5-3.8.3-3]`. `None`: it does not get it.
    pub fn terms(&self, own: impl Fn() -> bool) -> Option<Terms<'_>> {
        let local = self.more.as_deref().and_then(|more| more.local.as_ref());
        match local {
            None if self.options.no_local && own() => None,
            Some(Local { options, subscription_ids }) if own() => Some(Terms { options, subscription_ids }),
            None | Some(_) => Some(Terms { options: &self.options, subscription_ids: self.subscription_ids() }),
        }
    }

    fn subscription_ids(&self) -> &[u32] {
        match &self.more {
            Some(more) => &more.subscription_ids,
            None if self.options.subscription_id == 0 => &[],
            None => std::slice::from_ref(&self.options.subscription_id),
        }
    }
}

impl<T: Subscriber> Target<T> {
    fn new(member: &Member<T>) -> Self {
        Self { subscriber: member.subscriber.clone(), options: member.options, more: None }
    }

    fn merge(&mut self, new: Options) {
        let mixed = new.no_local != self.options.no_local;
        let two_ids = new.subscription_id != 0 && self.options.subscription_id != 0;
        if mixed || two_ids || self.more.is_some() {
            let old = self.options;
            let more = self.more.get_or_insert_with(|| Box::new(More { subscription_ids: ids(old), local: None }));
            match &mut more.local {
                Some(local) if !new.no_local => {
                    merge(&mut local.options, new);
                    local.subscription_ids.extend(ids(new));
                }
                None if mixed && new.no_local => {
                    let subscription_ids = more.subscription_ids.clone();
                    more.local = Some(Local { options: old, subscription_ids });
                }
                None if mixed => more.local = Some(Local { options: new, subscription_ids: ids(new) }),
                None | Some(_) => {}
            }
            more.subscription_ids.extend(ids(new));
        }
        merge(&mut self.options, new);
    }
}

fn ids(options: Options) -> SmallVec<[u32; 2]> {
    [options.subscription_id].into_iter().filter(|id| *id != 0).collect()
}

fn merge(options: &mut Options, new: Options) {
    options.qos = options.qos.max(new.qos);
    options.no_local &= new.no_local;
    options.retain_as_published |= new.retain_as_published;
    if new.subscription_id != 0 {
        options.subscription_id = new.subscription_id;
    }
}

impl<T: Subscriber> Route<T> {
    pub(super) fn nobody() -> Self {
        Self { targets: Box::default(), groups: Box::default() }
    }

    /// True if nobody asked for the topic.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.groups.is_empty()
    }

    /// Targets and groups.
    pub(super) fn size(&self) -> usize {
        self.targets.len() + self.groups.len()
    }

    pub(super) fn collect(matches: &[&Subscriptions<T>], topic: &str) -> Self {
        let groups = matches.iter().filter_map(|found| found.groups.as_deref()).flat_map(HashMap::values);
        let mut targets = merged(matches);
        targets.retain(|target| target.subscriber.may_receive(topic));
        let groups = groups.filter_map(|shared| shared.group().of_those_who_may_receive(topic));
        Self { targets: targets.into_boxed_slice(), groups: groups.collect() }
    }
}

/// Each subscriber once. The longest list is taken as it is and asked by its own index, so that a hundred thousand
/// subscribers who overlap with one other filter are not hashed for it.
fn merged<T: Subscriber>(matches: &[&Subscriptions<T>]) -> Vec<Target<T>> {
    let longest = matches.iter().enumerate().max_by_key(|(_, found)| found.members.len());
    let Some((longest, base)) = longest.map(|(at, found)| (at, &found.members)) else { return Vec::new() };
    let total = matches.iter().map(|found| found.members.len()).sum();
    let mut targets = Vec::with_capacity(total);
    targets.extend(base.as_slice().iter().map(Target::new));

    // Where in `targets` those stand that are not in the longest list, once they are too many to look through.
    let mut others: Option<HashMap<u64, usize>> = None;
    let rest = matches.iter().enumerate().filter(|(at, _)| *at != longest);
    for member in rest.flat_map(|(_, found)| found.members.as_slice()) {
        let key = member.subscriber.key();
        let known = base.position(key).or_else(|| position_after(&targets, base.len(), key, others.as_ref()));
        if let Some(target) = known.and_then(|at| targets.get_mut(at)) {
            target.merge(member.options);
            continue;
        }
        targets.push(Target::new(member));
        if let Some(others) = &mut others {
            others.insert(key, targets.len() - 1);
        } else if targets.len() - base.len() > MERGE_SCAN_MAX {
            let keys = targets.iter().map(|target| target.subscriber.key());
            others = Some(keys.zip(0..).skip(base.len()).collect());
        }
    }
    targets
}

fn position_after<T: Subscriber>(
    targets: &[Target<T>],
    start: usize,
    key: u64,
    index: Option<&HashMap<u64, usize>>,
) -> Option<usize> {
    match index {
        Some(index) => index.get(&key).copied(),
        None => targets.iter().skip(start).position(|target| target.subscriber.key() == key).map(|at| at + start),
    }
}

/// What a member of a group can do with a message now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// Connected, and would be sent the message at once.
    Ready,
    /// Connected, but the message would wait: its window or its socket is full.
    Busy,
    /// Not connected; its session keeps the message for it.
    Offline,
    /// Not to be chosen: it is ending, or its queue is full.
    Never,
}

/// A shared subscription's group as a route sees it: the members of one version, and a cursor that all versions share.
pub struct Group<T> {
    /// The share name.
    pub name: Box<str>,
    /// The topic filter, without `$share/NAME/`.
    pub filter: Box<str>,
    /// As queues name it.
    pub id: GroupId,
    members: Box<[Target<T>]>,
    cursor: Arc<AtomicUsize>,
}

impl<T> Group<T> {
    /// The members, in no stated order.
    pub fn members(&self) -> &[Target<T>] {
        &self.members
    }

    /// The member that gets the next message.
    ///
    /// The policy: members that are `Ready` take turns. If none is, those that are `Busy` take turns; if none is,
    /// those that are `Offline`, since their sessions keep it. `None` if there is none of these either.
    /// A member that is passed over does not hand its turn to the next one: the turn moves on to whoever follows the
    /// member chosen, so that the rest share evenly. With several threads in `pick` at once turns are even on
    /// average, not one by one.
    ///
    /// Asks about each member once at most, and about one if it is ready.
    pub fn pick(&self, usable: impl Fn(&T) -> Readiness) -> Option<&Target<T>> {
        let turn = self.cursor.fetch_add(1, Ordering::Relaxed).checked_rem(self.members.len())?;
        let (before, from) = self.members.split_at_checked(turn)?;
        let mut busy = None;
        let mut offline = None;
        for candidate in from.iter().chain(before).enumerate() {
            match usable(&candidate.1.subscriber) {
                Readiness::Ready => return Some(self.chosen(candidate)),
                Readiness::Busy => busy = busy.or(Some(candidate)),
                Readiness::Offline => offline = offline.or(Some(candidate)),
                Readiness::Never => {}
            }
        }
        busy.or(offline).map(|candidate| self.chosen(candidate))
    }

    /// Moves the turn past the `skipped` members as well.
    fn chosen<'a>(&self, (skipped, target): (usize, &'a Target<T>)) -> &'a Target<T> {
        if skipped > 0 {
            self.cursor.fetch_add(skipped, Ordering::Relaxed);
        }
        target
    }
}

impl<T: Subscriber> Group<T> {
    /// The same group without the members that may not have a message with this topic; `None` if nobody is left.
    fn of_those_who_may_receive(self: Arc<Self>, topic: &str) -> Option<Arc<Self>> {
        let may = |target: &&Target<T>| target.subscriber.may_receive(topic);
        if self.members.iter().all(|target| may(&target)) {
            return Some(self);
        }
        let members: Box<[Target<T>]> = self.members.iter().filter(may).cloned().collect();
        (!members.is_empty()).then(|| {
            let (name, filter, cursor) = (self.name.clone(), self.filter.clone(), Arc::clone(&self.cursor));
            Arc::new(Self { name, filter, id: self.id, members, cursor })
        })
    }
}

/// A shared subscription's group as the trie holds it.
pub(super) struct Shared<T> {
    name: Box<str>,
    filter: Box<str>,
    members: Members<T>,
    cursor: Arc<AtomicUsize>,
    /// Made when first routed to after a change, so that joining costs the same in a large group.
    group: OnceLock<Arc<Group<T>>>,
}

impl<T: Subscriber> Shared<T> {
    pub(super) fn new(name: &str, filter: &str) -> Self {
        Self {
            name: name.into(),
            filter: filter.into(),
            members: Members::default(),
            cursor: Arc::default(),
            group: OnceLock::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn insert(&mut self, subscriber: T, options: Options) -> Option<T> {
        self.group.take();
        self.members.insert(subscriber, options)
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let removed = self.members.remove(key)?;
        self.group.take();
        Some(removed)
    }

    fn group(&self) -> Arc<Group<T>> {
        let group = self.group.get_or_init(|| {
            Arc::new(Group {
                name: self.name.clone(),
                filter: self.filter.clone(),
                id: GroupId::of(&self.name, &self.filter),
                members: self.members.as_slice().iter().map(Target::new).collect(),
                cursor: Arc::clone(&self.cursor),
            })
        });
        Arc::clone(group)
    }
}
