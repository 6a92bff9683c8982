//! The filters by which a session becomes a member of a queue.

use forebay_wire::topic;
use smallvec::{SmallVec, smallvec};

use super::{DEAD_PREFIX, QUEUE_PREFIX};
use crate::config;

/// What a filter is to the declared queues. Queues are told by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is a filter of topics.
    Topics,
    /// It names queues.
    Queues(SmallVec<[usize; 1]>),
    /// It names queues, and topics as well.
    QueuesAndTopics(SmallVec<[usize; 1]>),
    /// It names a queue that there is not.
    Unknown,
}

/// A queue's name; that of its dead letters is behind it, those of sessions are at the end.
pub(super) struct Named {
    pub(super) name: Box<str>,
    filter: Box<str>,
    /// Levels of priority.
    levels: u8,
    pub(super) dead: bool,
}

impl Named {
    /// Whether it is this one's, or one of its levels: `NAME`, `NAME/1` and so on.
    fn has_lane(&self, name: &str) -> bool {
        let Some(rest) = name.strip_prefix(&*self.name) else { return false };
        let level = || rest.strip_prefix('/')?.parse::<u8>().ok();
        rest.is_empty() || !self.dead && level().is_some_and(|level| (1..self.levels).contains(&level))
    }
}

pub(super) struct Names(Vec<Named>);

impl Names {
    pub(super) fn new(declared: &[config::Queue], dead: &[config::DeadLetterRule]) -> Self {
        let both = |queue: &config::Queue| {
            let levels = queue.priorities.levels;
            let (name, filter) = (queue.name.as_str(), queue.filter.as_str());
            let named = |dead| Named { name: name.into(), filter: filter.into(), levels, dead };
            [named(false), named(true)]
        };
        let dead =
            dead.iter().map(|rule| Named { name: rule.name.as_str().into(), filter: "".into(), levels: 1, dead: true });
        Self(declared.iter().flat_map(both).chain(dead).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Named> {
        self.0.iter()
    }

    /// Whether there is such a queue, or a place for dead letters, of this client identifier.
    pub(super) fn declares(&self, client_id: &str) -> bool {
        self.of_client(client_id).is_some()
    }

    pub(super) fn of_client(&self, client_id: &str) -> Option<usize> {
        let name = |named: &Named| client_id.strip_prefix(if named.dead { DEAD_PREFIX } else { QUEUE_PREFIX });
        self.0.iter().position(|named| name(named).is_some_and(|name| named.has_lane(name)))
    }

    /// The declared queue of this name.
    pub(super) fn queue_of(&self, name: &str) -> Option<usize> {
        self.place(|queue| *queue.name == *name)
    }

    fn dead(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|named| named.dead && *named.name == *name)
    }

    fn place(&self, is_it: impl Fn(&Named) -> bool) -> Option<usize> {
        self.0.iter().position(|named| !named.dead && is_it(named))
    }

    pub(super) fn find(&self, filter: &str) -> Found {
        if !filter.starts_with('$') {
            return Found::Topics;
        }
        let found = |place: Option<usize>| place.map_or(Found::Unknown, |at| Found::Queues(smallvec![at]));
        if let Some(rest) = filter.strip_prefix(QUEUE_PREFIX) {
            let (name, of) = rest.split_once('/').map_or((rest, None), |(name, of)| (name, Some(of)));
            return found(self.place(|queue| *queue.name == *name && of.is_none_or(|of| *queue.filter == *of)));
        }
        if let Some(of) = filter.strip_prefix("$q/") {
            return found(self.place(|queue| *queue.filter == *of));
        }
        if let Some(shared) = topic::split_share(filter) {
            let place = self.place(|queue| *queue.name == *shared.name && *queue.filter == *shared.filter);
            return place.map_or(Found::Topics, |at| Found::Queues(smallvec![at]));
        }
        match filter.strip_prefix(DEAD_PREFIX) {
            // Bridges have dead letters that are topics.
            Some("#") => Found::QueuesAndTopics({
                let dead = self.0.iter().enumerate().filter(|(_, named)| named.dead);
                dead.map(|(at, _)| at).collect()
            }),
            Some(rest) => match (rest.split_once('/'), self.dead(rest.split('/').next().unwrap_or_default())) {
                (Some((_, "#")), Some(at)) => found(Some(at)),
                (_, Some(_)) => Found::Unknown,
                (_, None) => Found::Topics,
            },
            None => Found::Topics,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn filters_name_queues() {
        let text = "[[queues]]\nname = 'a'\nfilter = 'x/#'\n[[queues]]\nname = 'b'\nfilter = 'y'\n[[dead_letters]]\nname = 'c'\n";
        let config = config::parse(text, std::path::Path::new(""), &config::Overrides::default()).unwrap();
        let names = Names::new(&config.queues, &config.dead_letters);
        let one = |at: usize| Found::Queues(smallvec![at]);
        for (filter, is) in [
            ("$queue/a", one(0)),
            ("$queue/a/x/#", one(0)),
            ("$queue/a/x", Found::Unknown),
            ("$queue/c", Found::Unknown),
            ("$q/y", one(2)),
            ("$q/z", Found::Unknown),
            ("$share/b/y", one(2)),
            ("$share/b/z", Found::Topics),
            ("$dead/b/#", one(3)),
            ("$dead/b/y", Found::Unknown),
            ("$dead/c/#", one(4)),
            ("$dead/bridge/#", Found::Topics),
            ("$dead/#", Found::QueuesAndTopics(smallvec![1, 3, 4])),
            ("x/#", Found::Topics),
            ("$SYS/#", Found::Topics),
        ] {
            assert_eq!(names.find(filter), is, "{filter}");
        }
    }
}
