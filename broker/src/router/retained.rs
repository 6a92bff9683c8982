//! The retained message of each topic.

use std::fmt;

use super::children::{InOrder, Ordered};

/// How much a [`Retained`] may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Messages.
    pub messages_max: usize,
    /// The sum of the sizes that `set` was told.
    pub bytes_max: usize,
    /// Distinct beginnings of topics: what the tree of topics takes.
    pub nodes_max: usize,
}

/// A retained message was not stored, and what was there before it still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Full {
    /// There are as many as there may be.
    Messages,
    /// It would take more bytes than there are left.
    Bytes,
    /// Its topic would add more levels to the tree than there are left.
    Levels,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "the limit of retained messages is reached",
            Self::Bytes => "the limit of bytes in retained messages is reached",
            Self::Levels => "the limit of levels in the topics of retained messages is reached",
        })
    }
}

impl std::error::Error for Full {}

struct Stored<M> {
    message: M,
    size: usize,
}

struct Node<M> {
    children: Ordered<Node<M>>,
    stored: Option<Box<Stored<M>>>,
}

impl<M> Default for Node<M> {
    fn default() -> Self {
        Self { children: Ordered::default(), stored: None }
    }
}

impl<M> Node<M> {
    fn weight(&self) -> usize {
        self.children.len() + usize::from(self.stored.is_some())
    }

    /// Drops a node and all below it without recursion; the number of nodes dropped.
    fn dismantle(self) -> usize {
        let mut nodes = vec![self];
        let mut dropped = 0;
        while let Some(mut node) = nodes.pop() {
            dropped += 1;
            node.children.drain_into(&mut nodes);
        }
        dropped
    }
}

/// Retained messages by the levels of their topics, with the limits of all of them together.
///
/// Besides what `Limits` counts there are about 60 bytes for each message and for each distinct beginning of a topic.
/// It has no lock; whoever shares it has one.
pub struct Retained<M: Clone> {
    root: Node<M>,
    limits: Limits,
    messages: usize,
    bytes: usize,
    nodes: usize,
}

impl<M: Clone> Drop for Retained<M> {
    fn drop(&mut self) {
        std::mem::take(&mut self.root).dismantle();
    }
}

impl<M: Clone> Retained<M> {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self { root: Node::default(), limits, messages: 0, bytes: 0, nodes: 0 }
    }

    /// Messages held.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// True if no message is held.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The sum of the sizes of the messages held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Distinct beginnings of the topics held.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Stores a topic's message in place of the one it had, which is returned `[MQTT5-3.3.1-5]`. `size` is what the
    /// limit in bytes counts it for. When it does not fit nothing changes.
    pub fn set(&mut self, topic: &str, message: M, size: usize) -> Result<Option<M>, Full> {
        let bytes = self.check(topic, size)?;
        let mut node = &mut self.root;
        for level in topic.split('/') {
            node = node.children.get_or_make(level, &mut self.nodes);
        }
        let before = node.stored.replace(Box::new(Stored { message, size }));
        self.messages += usize::from(before.is_none());
        self.bytes = bytes;
        Ok(before.map(|stored| stored.message))
    }

    /// Whether a topic's message would fit; the bytes of all with it.
    pub fn check(&self, topic: &str, size: usize) -> Result<usize, Full> {
        let replaced = self.find(topic).map(|stored| stored.size);
        if replaced.is_none() && self.messages >= self.limits.messages_max {
            return Err(Full::Messages);
        }
        if replaced.is_none() {
            let levels = 1 + topic.bytes().filter(|byte| *byte == b'/').count();
            if self.nodes.saturating_add(levels) > self.limits.nodes_max
                && self.adds(topic) > self.limits.nodes_max - self.nodes
            {
                return Err(Full::Levels);
            }
        }
        let others = self.bytes - replaced.unwrap_or(0);
        others.checked_add(size).filter(|bytes| *bytes <= self.limits.bytes_max).ok_or(Full::Bytes)
    }

    /// Removes a topic's message, as a retained message without payload asks for `[MQTT5-3.3.1-6]`.
    pub fn remove(&mut self, topic: &str) -> Option<M> {
        let mut node = &mut self.root;
        for level in topic.split('/') {
            node = node.children.get_mut(level)?;
        }
        let stored = node.stored.take()?;
        self.messages -= 1;
        self.bytes -= stored.size;
        self.prune(topic);
        Some(stored.message)
    }

    /// A topic's message.
    pub fn get(&self, topic: &str) -> Option<&M> {
        self.find(topic).map(|stored| &stored.message)
    }

    /// Shows all messages whose topics match the filter, level by level in the order of names. Costs about the matches:
    /// `a/#` what is below `a`, `a/+/c` one look for each child of `a`. Memory is bounded by the levels of the filter and the
    /// topics.
    ///
    /// A topic that begins with `$` is not matched by a filter that begins with a wildcard `[MQTT5-4.7.2-1]`.
    /// A shared subscription's filter is not for here: retained messages are not sent when one is made.
    pub fn matching(&self, filter: &str, visit: &mut dyn FnMut(&str, &M)) {
        let mut visit = |topic: &str, message: &M| {
            visit(topic, message);
            Go::On
        };
        self.look(filter, &mut Place::default(), usize::MAX, &mut visit);
    }

    /// Shows every message, in no order.
    pub fn each(&self, visit: &mut dyn FnMut(&M)) {
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            if let Some(stored) = &node.stored {
                visit(&stored.message);
            }
            nodes.extend(node.children.iter_after(None).map(|(_, child)| child));
        }
    }

    /// As [`Retained::matching`], from a place on: until `visit` wants no more, or so many levels of topics have been looked
    /// at. The place is then behind the last one. What comes and goes meanwhile does not disturb it: a message that is there
    /// all the time is shown exactly once.
    pub fn look(
        &self,
        filter: &str,
        place: &mut Place,
        levels_max: usize,
        visit: &mut dyn FnMut(&str, &M) -> Go,
    ) -> Looked {
        let mut walk = Walk { path: String::new(), open: Vec::new() };
        walk.go_to(&self.root, filter, place.behind.as_deref());
        let mut levels = 0;
        while levels < levels_max {
            let Some((node, below)) = walk.next_node() else { return Looked { levels, end: true } };
            levels += 1;
            let matches = below.is_none_or(|below| below == "#");
            let shown = node.stored.as_ref().filter(|_| matches);
            if let Some(stored) = shown
                && visit(&walk.path, &stored.message) == Go::Stop
            {
                break;
            }
        }
        place.behind = Some(walk.path);
        Looked { levels, end: false }
    }

    /// Nodes that a topic would add.
    fn adds(&self, topic: &str) -> usize {
        let mut levels = topic.split('/');
        let mut node = &self.root;
        while let Some(level) = levels.next() {
            match node.children.get(level) {
                Some(child) => node = child,
                None => return 1 + levels.count(),
            }
        }
        0
    }

    fn find(&self, topic: &str) -> Option<&Stored<M>> {
        let mut node = &self.root;
        for level in topic.split('/') {
            node = node.children.get(level)?;
        }
        node.stored.as_deref()
    }

    /// Cuts what is empty from the path of a topic whose message is gone.
    fn prune(&mut self, topic: &str) {
        let mut keep = 0;
        let mut node = &self.root;
        for (depth, level) in topic.split('/').enumerate() {
            if node.weight() > 1 {
                keep = depth;
            }
            let Some(child) = node.children.get(level) else { return };
            node = child;
        }
        if node.weight() > 0 {
            return;
        }
        let mut node = &mut self.root;
        for (depth, level) in topic.split('/').enumerate() {
            if depth == keep {
                self.nodes -= node.children.remove(level).map_or(0, Node::dismantle);
                return;
            }
            let Some(child) = node.children.get_mut(level) else { return };
            node = child;
        }
    }
}

/// Where a look through retained messages has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Everything up to this beginning of a topic was looked at; `None`: nothing yet.
    behind: Option<String>,
}

impl Place {
    /// Behind the message of this topic.
    #[must_use]
    pub fn behind(topic: &str) -> Self {
        Self { behind: Some(topic.to_owned()) }
    }

    /// The topic, or the beginning of one, that it is behind; empty where nothing was looked at.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.behind.as_deref().unwrap_or_default()
    }

    /// Behind the message of this topic, with the memory that it has.
    pub fn move_behind(&mut self, topic: &str) {
        let behind = self.behind.get_or_insert_default();
        behind.clear();
        behind.push_str(topic);
    }
}

/// Whether a look goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Go {
    /// It goes on.
    On,
    /// It stops behind what was just shown.
    Stop,
}

/// What a look was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looked {
    /// Levels of topics that were looked at.
    pub levels: usize,
    /// There is nothing behind.
    pub end: bool,
}

/// Which children of a node are to be looked at, with the filter's levels for what is below them.
enum Next<'a, M> {
    /// The one that the filter names, once.
    One(Option<(&'a str, &'a Node<M>)>, Option<&'a str>),
    /// Those that a wildcard stands for.
    Each(InOrder<'a, Node<M>>, Option<&'a str>),
}

/// A node whose children are looked at one after the other.
struct Open<'a, M> {
    next: Next<'a, M>,
    at_root: bool,
    /// How much of the path is the node's own.
    path_len: usize,
}

/// The path is that of the node which was looked at last. Its children are next, then its siblings.
struct Walk<'a, M> {
    path: String,
    open: Vec<Open<'a, M>>,
}

impl<'a, M> Walk<'a, M> {
    /// Opens the nodes on the way to what was looked at last, as far as they are there still.
    fn go_to(&mut self, root: &'a Node<M>, filter: &'a str, behind: Option<&str>) {
        let (mut node, mut filter, mut at_root) = (root, filter, true);
        for level in behind.into_iter().flat_map(|behind| behind.split('/')) {
            self.open(node, filter, Some(level), at_root);
            let Some(child) = node.children.get(level) else { return };
            let Some(below) = below(filter) else { return };
            self.descend(level, at_root);
            (node, filter, at_root) = (child, below, false);
        }
        self.open(node, filter, None, at_root);
    }

    /// The children of a node are next, those behind one of them only.
    fn open(&mut self, node: &'a Node<M>, filter: &'a str, after: Option<&str>, at_root: bool) {
        let name = filter.split_once('/').map_or(filter, |(level, _)| level);
        let next = match name {
            "#" | "+" => Next::Each(node.children.iter_after(after), below(filter)),
            _ if after.is_some() => Next::One(None, None),
            _ => Next::One(node.children.get(name).map(|child| (name, child)), below(filter)),
        };
        self.open.push(Open { next, at_root, path_len: self.path.len() });
    }

    /// The next node that the filter leads to, and the filter's levels for what is below it.
    fn next_node(&mut self) -> Option<(&'a Node<M>, Option<&'a str>)> {
        while let Some(open) = self.open.last_mut() {
            let (at_root, path_len) = (open.at_root, open.path_len);
            let (found, below) = match &mut open.next {
                Next::One(child, below) => (child.take(), *below),
                Next::Each(children, below) => {
                    (children.find(|(level, _)| !(at_root && level.starts_with('$'))), *below)
                }
            };
            let Some((level, node)) = found else {
                self.open.pop();
                continue;
            };
            self.path.truncate(path_len);
            self.descend(level, at_root);
            if let Some(below) = below {
                self.open(node, below, None, false);
            }
            return Some((node, below));
        }
        None
    }

    fn descend(&mut self, level: &str, from_root: bool) {
        if !from_root {
            self.path.push('/');
        }
        self.path.push_str(level);
    }
}

/// The filter's levels below the first; `#` stands for all of them.
fn below(filter: &str) -> Option<&str> {
    if filter == "#" { Some(filter) } else { filter.split_once('/').map(|(_, below)| below) }
}
