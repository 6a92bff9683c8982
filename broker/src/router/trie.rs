//! Subscriptions by the levels of their filters.

use hashbrown::hash_map::{EntryRef, HashMap};
use smallvec::SmallVec;

use super::children::Children;
use super::members::Members;
use super::route::Shared;
use super::{Options, Stats, Subscriber};

/// What one filter holds; in the trie only while it holds something.
pub(super) struct Subscriptions<T> {
    pub(super) members: Members<T>,
    /// Shared subscriptions by group name.
    pub(super) groups: Option<Box<HashMap<Box<str>, Shared<T>>>>,
}

impl<T> Default for Subscriptions<T> {
    fn default() -> Self {
        Self { members: Members::default(), groups: None }
    }
}

impl<T: Subscriber> Subscriptions<T> {
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.groups.is_none()
    }
}

/// One beginning of filters.
struct Node<T> {
    children: Children<Node<T>>,
    /// The child for the level `+`.
    plus: Option<Box<Node<T>>>,
    /// Filters that end here.
    exact: Option<Box<Subscriptions<T>>>,
    /// Filters that go on from here with `#` and end.
    all: Option<Box<Subscriptions<T>>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: Children::default(), plus: None, exact: None, all: None }
    }
}

impl<T> Node<T> {
    /// How many things would be lost with this node.
    fn weight(&self) -> usize {
        self.children.len()
            + usize::from(self.plus.is_some())
            + usize::from(self.exact.is_some())
            + usize::from(self.all.is_some())
    }

    fn child(&self, level: &str) -> Option<&Self> {
        if level == "+" { self.plus.as_deref() } else { self.children.get(level) }
    }

    fn child_mut(&mut self, level: &str) -> Option<&mut Self> {
        if level == "+" { self.plus.as_deref_mut() } else { self.children.get_mut(level) }
    }

    fn child_or_made(&mut self, level: &str, made: &mut usize) -> &mut Self {
        if level == "+" {
            self.plus.get_or_insert_with(|| {
                *made += 1;
                Box::default()
            })
        } else {
            self.children.get_or_make(level, made)
        }
    }

    fn take_child(&mut self, level: &str) -> Option<Self> {
        if level == "+" { self.plus.take().map(|node| *node) } else { self.children.remove(level) }
    }

    /// Drops a node and all below it without recursion; the number of nodes dropped.
    fn dismantle(self) -> usize {
        let mut nodes = vec![self];
        let mut dropped = 0;
        while let Some(mut node) = nodes.pop() {
            dropped += 1;
            node.children.drain_into(&mut nodes);
            nodes.extend(node.plus.take().map(|plus| *plus));
        }
        dropped
    }
}

/// A filter, taken apart.
struct Parsed<'a> {
    group: Option<&'a str>,
    /// The filter without `$share/NAME/`.
    filter: &'a str,
    /// The filter's levels without a final `#`; none at all for the filter `#`.
    levels: Option<&'a str>,
    /// The filter ends with the level `#`.
    all: bool,
}

impl<'a> Parsed<'a> {
    fn new(whole: &'a str) -> Self {
        let shared = whole.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let (group, filter) = shared.map_or((None, whole), |(name, filter)| (Some(name), filter));
        let (levels, all) = match filter.strip_suffix('#') {
            Some("") => (None, true),
            Some(before) => before.strip_suffix('/').map_or((Some(filter), false), |levels| (Some(levels), true)),
            None => (Some(filter), false),
        };
        Self { group, filter, levels, all }
    }

    fn levels(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.levels.into_iter().flat_map(|levels| levels.split('/'))
    }
}

/// The filters' subscriptions that match a topic.
pub(super) type Matches<'a, T> = SmallVec<[&'a Subscriptions<T>; 8]>;

pub(super) struct Trie<T: Subscriber> {
    root: Node<T>,
    stats: Stats,
}

impl<T: Subscriber> Drop for Trie<T> {
    fn drop(&mut self) {
        std::mem::take(&mut self.root).dismantle();
    }
}

impl<T: Subscriber> Trie<T> {
    pub(super) fn new() -> Self {
        Self { root: Node::default(), stats: Stats::default() }
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    /// Adds or replaces; the handle that was there before is returned.
    pub(super) fn insert(&mut self, filter: &str, subscriber: T, options: Options) -> Option<T> {
        let parsed = Parsed::new(filter);
        let mut node = &mut self.root;
        for level in parsed.levels() {
            node = node.child_or_made(level, &mut self.stats.nodes);
        }
        let place = if parsed.all { &mut node.all } else { &mut node.exact };
        let subscriptions = place.get_or_insert_default();
        let replaced = match parsed.group {
            None => subscriptions.members.insert(subscriber, options),
            Some(name) => {
                let groups = subscriptions.groups.get_or_insert_default();
                let group = match groups.entry_ref(name) {
                    EntryRef::Occupied(entry) => entry.into_mut(),
                    EntryRef::Vacant(entry) => {
                        self.stats.groups += 1;
                        entry.insert_with_key(name.into(), Shared::new(name, parsed.filter))
                    }
                };
                group.insert(subscriber, options)
            }
        };
        self.stats.subscriptions += usize::from(replaced.is_none());
        replaced
    }

    /// Removes a subscription and every node that is of no more use.
    pub(super) fn remove(&mut self, filter: &str, key: u64) -> Option<T> {
        let parsed = Parsed::new(filter);
        let mut node = &mut self.root;
        for level in parsed.levels() {
            node = node.child_mut(level)?;
        }
        let place = if parsed.all { &mut node.all } else { &mut node.exact };
        let subscriptions = place.as_deref_mut()?;
        let removed = match parsed.group {
            None => subscriptions.members.remove(key)?,
            Some(name) => {
                let groups = subscriptions.groups.as_deref_mut()?;
                let group = groups.get_mut(name)?;
                let removed = group.remove(key)?;
                if group.is_empty() {
                    groups.remove(name);
                    self.stats.groups -= 1;
                    if groups.is_empty() {
                        subscriptions.groups = None;
                    }
                }
                removed
            }
        };
        self.stats.subscriptions -= 1;
        if subscriptions.is_empty() {
            *place = None;
            self.prune(&parsed);
        }
        Some(removed)
    }

    /// Cuts what is empty from the path of a filter whose subscriptions are gone.
    fn prune(&mut self, parsed: &Parsed<'_>) {
        // How many levels down is the deepest node that has to stay?
        let mut keep = 0;
        let mut node = &self.root;
        for (depth, level) in parsed.levels().enumerate() {
            if node.weight() > 1 {
                keep = depth;
            }
            let Some(child) = node.child(level) else { return };
            node = child;
        }
        if node.weight() > 0 {
            return;
        }
        let mut node = &mut self.root;
        for (depth, level) in parsed.levels().enumerate() {
            if depth == keep {
                let dropped = node.take_child(level).map_or(0, Node::dismantle);
                self.stats.nodes -= dropped;
                return;
            }
            let Some(child) = node.child_mut(level) else { return };
            node = child;
        }
    }

    /// Everything that matches a topic, and how many nodes were visited: those that match a beginning of it; memory is bounded
    /// by them.
    pub(super) fn matches(&self, topic: &str) -> (Matches<'_, T>, usize) {
        let mut found = Matches::new();
        let mut visited = 0;
        // Nodes to visit, each with the levels that are left for what is below it.
        let mut open: SmallVec<[(&Node<T>, Option<&str>); 16]> = SmallVec::new();
        open.push((&self.root, Some(topic)));
        // `$` topics are hidden from a wildcard at the first level [MQTT5-4.7.2-1], and only there.
        let mut wildcards = !topic.starts_with('$');
        while let Some((node, rest)) = open.pop() {
            visited += 1;
            if wildcards && let Some(all) = &node.all {
                // `#` includes the level above it: `sport/#` matches `sport`.
                found.push(all);
            }
            if let Some(rest) = rest {
                let (level, below) = rest.split_once('/').map_or((rest, None), |(level, below)| (level, Some(below)));
                if wildcards && let Some(plus) = &node.plus {
                    open.push((plus, below));
                }
                if let Some(child) = node.children.get(level) {
                    open.push((child, below));
                }
            } else if let Some(exact) = &node.exact {
                found.push(exact);
            }
            wildcards = true;
        }
        (found, visited)
    }

    /// Counts the nodes one by one, to check `stats`.
    #[cfg(test)]
    pub(super) fn count_nodes(&self) -> usize {
        let mut open = vec![&self.root];
        let mut count = 0;
        while let Some(node) = open.pop() {
            count += 1;
            open.extend(node.children.iter().map(|(_, child)| child));
            open.extend(node.plus.as_deref());
        }
        count - 1
    }
}
