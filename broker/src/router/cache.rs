//! Routes of the topics that a worker saw last.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;

use super::{Route, Router, Subscriber};

/// Entries of a cache, unless said otherwise.
pub const DEFAULT_CACHE_ENTRIES: usize = 1024;
/// The longest topic that is kept, in bytes. A longer one is routed each time.
pub const CACHED_TOPIC_BYTES_MAX: usize = 256;
/// Targets and groups of all kept routes together. A route that would go past it takes the place of all the others;
/// one that is larger still is kept alone.
pub const CACHED_TARGETS_MAX: usize = 65_536;

struct Entry<T> {
    hash: u64,
    /// Empty where nothing is kept: no topic name is empty `[MQTT5-4.7.3-1]`, and none is looked for.
    topic: Box<str>,
    route: Arc<Route<T>>,
}

/// A worker's own memory of routes, so that a topic that repeats costs a hash and a comparison, and no lock.
///
/// Each topic has one place; a topic that collides takes it over. When the router's version has changed everything
/// is forgotten at the next `get`; until then, or until `clear`, subscribers that are gone are kept alive by it.
/// Memory: 40 bytes and up to 256 of topic for each entry (296 KiB with 1024), and routes of at most 65,536 targets
/// of 24 bytes with an 8-byte handle (1.5 MiB), or one single larger route; besides, the last route that was not kept.
pub struct RouteCache<T> {
    entries: Box<[Entry<T>]>,
    mask: u64,
    hasher: DefaultHashBuilder,
    version: u64,
    /// Places that are taken, so that forgetting costs what was learnt since the last change.
    taken: Vec<usize>,
    targets: usize,
    nobody: Arc<Route<T>>,
    /// The last route that was not kept, to be lent to the caller.
    passing: Arc<Route<T>>,
    visited: usize,
}

impl<T: Subscriber> Default for RouteCache<T> {
    fn default() -> Self {
        Self::new(DEFAULT_CACHE_ENTRIES)
    }
}

impl<T: Subscriber> RouteCache<T> {
    /// A cache with `entries` places, rounded up to a power of two, at most 2^20.
    pub fn new(entries: usize) -> Self {
        let entries = entries.clamp(1, 1 << 20).next_power_of_two();
        let nobody = Arc::new(Route::nobody());
        let empty = || Entry { hash: 0, topic: Box::default(), route: Arc::clone(&nobody) };
        Self {
            entries: std::iter::repeat_with(empty).take(entries).collect(),
            mask: entries as u64 - 1,
            hasher: DefaultHashBuilder::default(),
            version: 0,
            taken: Vec::new(),
            targets: 0,
            passing: Arc::clone(&nobody),
            nobody,
            visited: 0,
        }
    }

    /// How many levels of filters were looked at for routes that were not here, since this was asked last.
    pub fn take_visited(&mut self) -> usize {
        std::mem::take(&mut self.visited)
    }

    /// The route of a topic, as `router` knew it when its version was read at the start of this call, or newer.
    /// A cache is for one router only.
    pub fn get(&mut self, router: &Router<T>, topic: &str) -> &Arc<Route<T>> {
        let version = router.version();
        if version != self.version {
            self.clear();
            self.version = version;
        }
        let mut hasher = self.hasher.build_hasher();
        hasher.write(topic.as_bytes());
        let hash = hasher.finish();
        let place = (hash & self.mask) as usize;
        let hit = self.entries.get(place).is_some_and(|entry| entry.hash == hash && *entry.topic == *topic);
        if !hit && !self.learn(router, topic, hash, place) {
            return &self.passing;
        }
        self.entries.get(place).map_or(&self.passing, |entry| &entry.route)
    }

    /// Asks the router. True if the route is at its place now, false if it is in `passing`.
    #[cold]
    fn learn(&mut self, router: &Router<T>, topic: &str, hash: u64, place: usize) -> bool {
        let (route, visited) = router.visit(topic);
        self.visited = self.visited.saturating_add(visited);
        if topic.is_empty() || topic.len() > CACHED_TOPIC_BYTES_MAX {
            self.passing = route;
            return false;
        }
        let freed = self.entries.get(place).map_or(0, |entry| entry.route.size());
        if self.targets - freed + route.size() > CACHED_TARGETS_MAX {
            self.clear();
        } else {
            self.targets -= freed;
        }
        let Some(entry) = self.entries.get_mut(place) else { return false };
        if entry.topic.is_empty() {
            self.taken.push(place);
        }
        self.targets += route.size();
        *entry = Entry { hash, topic: topic.into(), route };
        true
    }

    /// Forgets all routes, and lets go of their subscribers.
    pub fn clear(&mut self) {
        for place in self.taken.drain(..) {
            if let Some(entry) = self.entries.get_mut(place) {
                *entry = Entry { hash: 0, topic: Box::default(), route: Arc::clone(&self.nobody) };
            }
        }
        self.targets = 0;
        self.passing = Arc::clone(&self.nobody);
    }
}
