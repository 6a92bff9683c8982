//! A node's children by level name, for the trie of subscriptions and that of retained messages.

use hashbrown::hash_map::{self, EntryRef, HashMap};

/// Up to this many children are searched one by one.
const FEW_MAX: usize = 8;
/// A map that has shrunk to this many becomes a list again; apart from `FEW_MAX`, so that one child that comes and
/// goes does not rebuild it each time.
const MANY_MIN: usize = 4;

/// Most nodes have no child or one, some have a hundred thousand.
pub(super) enum Children<N> {
    Few(Vec<(Box<str>, N)>),
    Many(Box<HashMap<Box<str>, N>>),
}

impl<N> Default for Children<N> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<N: Default> Children<N> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&N> {
        match self {
            Self::Few(list) => list.iter().find(|(n, _)| **n == *name).map(|(_, node)| node),
            Self::Many(map) => map.get(name),
        }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut N> {
        match self {
            Self::Few(list) => list.iter_mut().find(|(n, _)| **n == *name).map(|(_, node)| node),
            Self::Many(map) => map.get_mut(name),
        }
    }

    /// The child, made if there is none; `made` is counted up then.
    pub(super) fn get_or_make(&mut self, name: &str, made: &mut usize) -> &mut N {
        self.grow_for(name);
        match self {
            Self::Few(list) => Self::list_entry(list, name, made),
            Self::Many(map) => match map.entry_ref(name) {
                EntryRef::Occupied(entry) => entry.into_mut(),
                EntryRef::Vacant(entry) => {
                    *made += 1;
                    entry.insert_with_key(name.into(), N::default())
                }
            },
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the position is that of the child found, or of the one just pushed")]
    fn list_entry<'a>(list: &'a mut Vec<(Box<str>, N)>, name: &str, made: &mut usize) -> &'a mut N {
        let at = list.iter().position(|(n, _)| **n == *name).unwrap_or(list.len());
        if at == list.len() {
            *made += 1;
            if list.is_empty() {
                // The usual list stays at one; `push` alone would make room for four.
                list.reserve_exact(1);
            }
            list.push((name.into(), N::default()));
        }
        &mut list[at].1
    }

    fn grow_for(&mut self, name: &str) {
        if let Self::Few(list) = self
            && list.len() == FEW_MAX
            && list.iter().all(|(n, _)| **n != *name)
        {
            *self = Self::Many(Box::new(std::mem::take(list).into_iter().collect()));
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<N> {
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(n, _)| **n == *name)?;
                let (_, node) = list.swap_remove(at);
                if list.len() * 4 <= list.capacity() {
                    list.shrink_to_fit();
                }
                Some(node)
            }
            Self::Many(map) => {
                let node = map.remove(name)?;
                if map.len() <= MANY_MIN {
                    *self = Self::Few(map.drain().collect());
                } else if map.len() * 4 < map.capacity() {
                    map.shrink_to(map.len() * 2);
                }
                Some(node)
            }
        }
    }

    pub(super) fn iter(&self) -> Iter<'_, N> {
        match self {
            Self::Few(list) => Iter::Few(list.iter()),
            Self::Many(map) => Iter::Many(map.iter()),
        }
    }

    /// Moves all children out, to be dropped by the caller one by one: a chain of nodes that owned each other to
    /// the end would be dropped by recursion, as deep as the topic.
    pub(super) fn drain_into(&mut self, nodes: &mut Vec<N>) {
        match std::mem::take(self) {
            Self::Few(list) => nodes.extend(list.into_iter().map(|(_, node)| node)),
            Self::Many(map) => nodes.extend(map.into_values()),
        }
    }
}

pub(super) enum Iter<'a, N> {
    Few(std::slice::Iter<'a, (Box<str>, N)>),
    Many(hash_map::Iter<'a, Box<str>, N>),
}

impl<'a, N> Iterator for Iter<'a, N> {
    type Item = (&'a str, &'a N);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(list) => list.next().map(|(name, node)| (&**name, node)),
            Self::Many(map) => map.next().map(|(name, node)| (&**name, node)),
        }
    }
}
