//! A node's children by level name, for the trie of subscriptions and that of retained messages.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use hashbrown::hash_map::{EntryRef, HashMap};

/// Up to this many children are searched one by one.
const FEW_MAX: usize = 8;
/// A map that has shrunk to this many becomes a list again; apart from `FEW_MAX`, so that one child that comes and
/// goes does not rebuild it each time.
const MANY_MIN: usize = 4;

/// Children that are only looked up.
pub(super) type Children<N> = Named<N, HashMap<Box<str>, N>>;
/// Children that are also gone through in the order of their names: a look that was interrupted goes on behind a name.
pub(super) type Ordered<N> = Named<N, BTreeMap<Box<str>, N>>;

/// Most nodes have no child or one, some have a hundred thousand.
pub(super) enum Named<N, M> {
    Few(Vec<(Box<str>, N)>),
    Many(Box<M>),
}

/// The map of a node with many children.
pub(super) trait Map<N>: Default + FromIterator<(Box<str>, N)> + IntoIterator<Item = (Box<str>, N)> {
    fn len(&self) -> usize;
    fn get(&self, name: &str) -> Option<&N>;
    fn get_mut(&mut self, name: &str) -> Option<&mut N>;
    /// The child, made if there is none; `made` is counted up then.
    fn get_or_make(&mut self, name: &str, made: &mut usize) -> &mut N;
    fn remove(&mut self, name: &str) -> Option<N>;
    /// Gives memory back after a removal, if it is worth it.
    fn tighten(&mut self);
}

impl<N: Default> Map<N> for HashMap<Box<str>, N> {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, name: &str) -> Option<&N> {
        self.get(name)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut N> {
        self.get_mut(name)
    }

    fn get_or_make(&mut self, name: &str, made: &mut usize) -> &mut N {
        match self.entry_ref(name) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => {
                *made += 1;
                entry.insert_with_key(name.into(), N::default())
            }
        }
    }

    fn remove(&mut self, name: &str) -> Option<N> {
        self.remove(name)
    }

    fn tighten(&mut self) {
        if self.len() * 4 < self.capacity() {
            self.shrink_to(self.len() * 2);
        }
    }
}

impl<N: Default> Map<N> for BTreeMap<Box<str>, N> {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, name: &str) -> Option<&N> {
        self.get(name)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut N> {
        self.get_mut(name)
    }

    fn get_or_make(&mut self, name: &str, made: &mut usize) -> &mut N {
        if !self.contains_key(name) {
            *made += 1;
        }
        self.entry(name.into()).or_default()
    }

    fn remove(&mut self, name: &str) -> Option<N> {
        self.remove(name)
    }

    fn tighten(&mut self) {}
}

impl<N, M> Default for Named<N, M> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<N: Default, M: Map<N>> Named<N, M> {
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
            Self::Many(map) => map.get_or_make(name, made),
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
                    *self = Self::Few(std::mem::take(&mut **map).into_iter().collect());
                } else {
                    map.tighten();
                }
                Some(node)
            }
        }
    }

    /// Moves all children out, to be dropped by the caller one by one: a chain of nodes that owned each other to
    /// the end would be dropped by recursion, as deep as the topic.
    pub(super) fn drain_into(&mut self, nodes: &mut Vec<N>) {
        match std::mem::take(self) {
            Self::Few(list) => nodes.extend(list.into_iter().map(|(_, node)| node)),
            Self::Many(map) => nodes.extend(map.into_iter().map(|(_, node)| node)),
        }
    }
}

#[cfg(test)]
impl<N> Children<N> {
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = (&str, &N)> + '_> {
        match self {
            Self::Few(list) => Box::new(list.iter().map(|(name, node)| (&**name, node))),
            Self::Many(map) => Box::new(map.iter().map(|(name, node)| (&**name, node))),
        }
    }
}

impl<N> Ordered<N> {
    /// The children in the order of their names, those behind `after` only.
    pub(super) fn iter_after<'a>(&'a self, after: Option<&str>) -> InOrder<'a, N> {
        match self {
            Self::Few(list) => {
                let mut few: Vec<&(Box<str>, N)> = list.iter().collect();
                few.retain(|(name, _)| after.is_none_or(|after| **name > *after));
                few.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
                InOrder::Few(few)
            }
            Self::Many(map) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                InOrder::Many(map.range::<str, _>((from, Bound::Unbounded)))
            }
        }
    }
}

/// See [`Ordered::iter_after`].
pub(super) enum InOrder<'a, N> {
    /// The next one is the last.
    Few(Vec<&'a (Box<str>, N)>),
    Many(btree_map::Range<'a, Box<str>, N>),
}

impl<'a, N> Iterator for InOrder<'a, N> {
    type Item = (&'a str, &'a N);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(list) => list.pop().map(|(name, node)| (&**name, node)),
            Self::Many(range) => range.next().map(|(name, node)| (&**name, node)),
        }
    }
}
