//! Who gets a message: subscriptions by topic filter, shared subscriptions, and the store of retained messages.
//!
//! Nothing here reads a clock, a socket or a disk. Filters and topic names are validated before they arrive (a level
//! count that the caller bounds, wildcards only where they are allowed); an invalid one matches something odd, and
//! harms nothing. No function recurses, so the depth of a topic costs heap and never stack.

mod cache;
mod children;
mod members;
mod retained;
mod route;
mod trie;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use smallvec::SmallVec;

pub use cache::{CACHED_TARGETS_MAX, CACHED_TOPIC_BYTES_MAX, DEFAULT_CACHE_ENTRIES, RouteCache};
pub use retained::{Full, Go, Limits, Looked, Place, Retained};
pub use route::{Group, Readiness, Route, Target, Terms};

use trie::Trie;

/// What a subscription asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The highest quality of service that the subscriber wants, 0 to 2.
    pub qos: u8,
    /// The subscriber's own messages are not sent back to it `[MQTT5-3.8.3-3]`.
    pub no_local: bool,
    /// The retain flag is passed on as the publisher set it `[MQTT5-3.3.1-13]`.
    pub retain_as_published: bool,
    /// The subscription identifier, 0 for none.
    pub subscription_id: u32,
}

/// What a filter can cost a publication that another one with the same beginning does not: its levels from the first `+`
/// on. Filters without `+` share the one path of the topic.
#[must_use]
pub fn branching(filter: &str) -> usize {
    let mut levels = filter.split('/').skip_while(|level| *level != "+");
    levels.next().map_or(0, |_| 1 + levels.count())
}

/// A handle to a subscriber. Two handles with one key are the same subscriber.
pub trait Subscriber: Clone + Send + Sync + 'static {
    /// Who this is; cheap, and constant for the life of the subscriber.
    fn key(&self) -> u64;

    /// Whether it may have a message with this topic. Asked when a route is made, not for each message: who changes the
    /// answer calls [`Router::bump`].
    fn may_receive(&self, topic: &str) -> bool {
        let _ = topic;
        true
    }
}

/// How much a router holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Subscriptions, members of shared subscriptions included.
    pub subscriptions: usize,
    /// Nodes of the trie: distinct leading parts of all filters (a final `#` needs none).
    pub nodes: usize,
    /// Groups of shared subscriptions that have a member.
    pub groups: usize,
}

/// All subscriptions of the broker.
///
/// Changing a subscription takes the lock for writing and costs about the filter's length, however many
/// subscribers share that filter. Routing takes it for reading; a [`RouteCache`] avoids even that.
pub struct Router<T: Subscriber> {
    trie: RwLock<Trie<T>>,
    version: AtomicU64,
    /// Handed out for every topic that nobody asked for.
    nobody: Arc<Route<T>>,
}

impl<T: Subscriber> Default for Router<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Subscriber> Router<T> {
    /// A router without subscriptions.
    pub fn new() -> Self {
        Self { trie: RwLock::new(Trie::new()), version: AtomicU64::new(1), nobody: Arc::new(Route::nobody()) }
    }

    /// A number, never 0, that grows whenever any route may have changed.
    ///
    /// It has grown before the call that made the change returns, so a route that was asked for after reading a
    /// version is at least as new as that version.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Adds a subscription, or replaces the subscriber's subscription with the same filter `[MQTT5-3.8.4-3]`;
    /// true if there was one. `$share/NAME/FILTER` makes the subscriber a member of the group `NAME` of `FILTER`
    /// `[MQTT5-4.8.2-1]`.
    pub fn subscribe(&self, filter: &str, subscriber: T, options: Options) -> bool {
        let replaced = {
            let mut trie = self.trie.write();
            let replaced = trie.insert(filter, subscriber, options);
            self.changed();
            replaced
        };
        // A handle that was replaced ends here, outside the lock: its drop may be somebody else's code.
        replaced.is_some()
    }

    /// Removes a subscription; true if there was one. The filter must be the same, character by character
    /// `[MQTT5-3.10.4-1]`.
    pub fn unsubscribe(&self, filter: &str, key: u64) -> bool {
        let removed = {
            let mut trie = self.trie.write();
            let removed = trie.remove(filter, key);
            if removed.is_some() {
                self.changed();
            }
            removed
        };
        removed.is_some()
    }

    /// Removes a subscriber's subscriptions under one lock. Filters that it is not subscribed to are ignored.
    pub fn remove_all(&self, key: u64, filters: &mut dyn Iterator<Item = &str>) {
        let mut removed: SmallVec<[T; 8]> = SmallVec::new();
        let mut trie = self.trie.write();
        removed.extend(filters.filter_map(|filter| trie.remove(filter, key)));
        if !removed.is_empty() {
            self.changed();
        }
        // The lock goes before the handles do, see `subscribe`.
        drop(trie);
    }

    /// Everybody who gets a message on `topic`. Costs about the trie's nodes that match some beginning of the
    /// topic, and the matching subscriptions.
    ///
    /// A topic that begins with `$` is not matched by a filter that begins with a wildcard `[MQTT5-4.7.2-1]`.
    pub fn route(&self, topic: &str) -> Arc<Route<T>> {
        self.visit(topic).0
    }

    /// The same, and how many levels of filters were looked at.
    pub(crate) fn visit(&self, topic: &str) -> (Arc<Route<T>>, usize) {
        let trie = self.trie.read();
        let (matches, visited) = trie.matches(topic);
        let found =
            if matches.is_empty() { Arc::clone(&self.nobody) } else { Arc::new(Route::collect(&matches, topic)) };
        (found, visited)
    }

    /// Makes all routes that are remembered be asked for again: what subscribers may receive has changed.
    pub fn bump(&self) {
        let _changing = self.trie.write();
        self.changed();
    }

    /// How much there is.
    pub fn stats(&self) -> Stats {
        self.trie.read().stats()
    }

    /// To be called with the lock held for writing, after the change.
    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }
}
