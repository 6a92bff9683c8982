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

/// A queue's name; that of its dead letters is behind it.
pub(super) struct Named {
    pub(super) name: Box<str>,
    filter: Box<str>,
    pub(super) dead: bool,
}

pub(super) struct Names(Vec<Named>);

impl Names {
    pub(super) fn new(declared: &[config::Queue]) -> Self {
        let both = |queue: &config::Queue| {
            let named = |dead| Named { name: queue.name.as_str().into(), filter: queue.filter.as_str().into(), dead };
            [named(false), named(true)]
        };
        Self(declared.iter().flat_map(both).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Named> {
        self.0.iter()
    }

    pub(super) fn declares(&self, name: &str) -> bool {
        self.0.iter().any(|named| *named.name == *name)
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
            Some("#") => Found::QueuesAndTopics((0..self.0.len()).filter(|at| at % 2 == 1).collect()),
            Some(rest) => match (rest.split_once('/'), self.declares(rest.split('/').next().unwrap_or_default())) {
                (Some((name, "#")), true) => found(self.place(|queue| *queue.name == *name).map(|at| at + 1)),
                (_, true) => Found::Unknown,
                (_, false) => Found::Topics,
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
        let text = "[[queues]]\nname = 'a'\nfilter = 'x/#'\n[[queues]]\nname = 'b'\nfilter = 'y'\n";
        let config = config::parse(text, std::path::Path::new(""), &config::Overrides::default()).unwrap();
        let names = Names::new(&config.queues);
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
            ("$dead/bridge/#", Found::Topics),
            ("$dead/#", Found::QueuesAndTopics(smallvec![1, 3])),
            ("x/#", Found::Topics),
            ("$SYS/#", Found::Topics),
        ] {
            assert_eq!(names.find(filter), is, "{filter}");
        }
    }
}
