//! The retained message of each topic.

use std::fmt;

use super::children::{Children, Iter};

/// How much a [`Retained`] may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Messages.
    pub messages_max: usize,
    /// The sum of the sizes that `set` was told.
    pub bytes_max: usize,
}

/// A retained message was not stored, and what was there before it still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Full {
    /// There are as many as there may be.
    Messages,
    /// It would take more bytes than there are left.
    Bytes,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "the limit of retained messages is reached",
            Self::Bytes => "the limit of bytes in retained messages is reached",
        })
    }
}

impl std::error::Error for Full {}

struct Stored<M> {
    message: M,
    size: usize,
}

struct Node<M> {
    children: Children<Node<M>>,
    stored: Option<Box<Stored<M>>>,
}

impl<M> Default for Node<M> {
    fn default() -> Self {
        Self { children: Children::default(), stored: None }
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
        let replaced = self.find(topic).map(|stored| stored.size);
        if replaced.is_none() && self.messages >= self.limits.messages_max {
            return Err(Full::Messages);
        }
        let others = self.bytes - replaced.unwrap_or(0);
        let bytes = others.checked_add(size).filter(|bytes| *bytes <= self.limits.bytes_max).ok_or(Full::Bytes)?;
        let mut node = &mut self.root;
        for level in topic.split('/') {
            node = node.children.get_or_make(level, &mut self.nodes);
        }
        let before = node.stored.replace(Box::new(Stored { message, size }));
        self.messages += usize::from(before.is_none());
        self.bytes = bytes;
        Ok(before.map(|stored| stored.message))
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

    /// Shows all messages whose topics match the filter, in no stated order. Costs about the matches: `a/#` what is
    /// below `a`, `a/+/c` one look for each child of `a`. Memory is bounded by the levels of the filter and the topics.
    ///
    /// A topic that begins with `$` is not matched by a filter that begins with a wildcard `[MQTT5-4.7.2-1]`.
    /// A shared subscription's filter is not for here: retained messages are not sent when one is made.
    pub fn matching(&self, filter: &str, visit: &mut dyn FnMut(&str, &M)) {
        let mut walk = Walk { path: String::new(), open: Vec::new() };
        let mut next = Some(Step { node: &self.root, filter: Some(filter), at_root: true });
        while let Some(step) = next.or_else(|| walk.next_child()) {
            next = walk.enter(step, visit);
        }
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

/// A node, and the filter's levels for what is below it.
struct Step<'a, M> {
    node: &'a Node<M>,
    filter: Option<&'a str>,
    at_root: bool,
}

/// A node whose children are visited one after the other.
struct Open<'a, M> {
    children: Iter<'a, Node<M>>,
    filter: Option<&'a str>,
    at_root: bool,
    /// How much of the path is the node's own.
    path_len: usize,
}

struct Walk<'a, M> {
    path: String,
    open: Vec<Open<'a, M>>,
}

impl<'a, M> Walk<'a, M> {
    /// Shows the node if it matches; the step below it if there is exactly one to look at.
    fn enter(&mut self, step: Step<'a, M>, visit: &mut dyn FnMut(&str, &M)) -> Option<Step<'a, M>> {
        let Step { node, filter, at_root } = step;
        let Some(filter) = filter else {
            self.show(node, visit);
            return None;
        };
        let (level, below) = filter.split_once('/').map_or((filter, None), |(level, below)| (level, Some(below)));
        let below = match level {
            "#" => {
                // `#` includes the level above it.
                self.show(node, visit);
                Some(filter)
            }
            "+" => below,
            _ => {
                let child = node.children.get(level)?;
                self.descend(level, at_root);
                return Some(Step { node: child, filter: below, at_root: false });
            }
        };
        let path_len = self.path.len();
        self.open.push(Open { children: node.children.iter(), filter: below, at_root, path_len });
        None
    }

    fn next_child(&mut self) -> Option<Step<'a, M>> {
        while let Some(open) = self.open.last_mut() {
            let (filter, at_root, path_len) = (open.filter, open.at_root, open.path_len);
            let Some((level, node)) = open.children.find(|(level, _)| !(at_root && level.starts_with('$'))) else {
                self.open.pop();
                continue;
            };
            self.path.truncate(path_len);
            self.descend(level, at_root);
            return Some(Step { node, filter, at_root: false });
        }
        None
    }

    fn descend(&mut self, level: &str, from_root: bool) {
        if !from_root {
            self.path.push('/');
        }
        self.path.push_str(level);
    }

    fn show(&self, node: &Node<M>, visit: &mut dyn FnMut(&str, &M)) {
        if let Some(stored) = &node.stored {
            visit(&self.path, &stored.message);
        }
    }
}
