//! The subscribers of one filter.

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{Options, Subscriber};

/// Up to this many members are searched one by one.
const SCAN_MAX: usize = 8;
/// An index is given up at this many, apart from `SCAN_MAX` so that one member that comes and goes does not build
/// it anew each time.
const INDEX_MIN: usize = 4;

pub(super) struct Member<T> {
    pub(super) subscriber: T,
    pub(super) options: Options,
}

/// A list in no stated order, with an index by key once it is long: inserting, finding and removing cost the same
/// for one member and for a hundred thousand.
pub(super) struct Members<T> {
    list: SmallVec<[Member<T>; 1]>,
    index: Option<Box<HashMap<u64, u32>>>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { list: SmallVec::new(), index: None }
    }
}

impl<T: Subscriber> Members<T> {
    pub(super) fn as_slice(&self) -> &[Member<T>] {
        &self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Where the subscriber stands in `as_slice`.
    pub(super) fn position(&self, key: u64) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&key).map(|at| *at as usize),
            None => self.list.iter().position(|member| member.subscriber.key() == key),
        }
    }

    /// Adds or replaces; what was there is returned.
    pub(super) fn insert(&mut self, subscriber: T, options: Options) -> Option<T> {
        let key = subscriber.key();
        if let Some(member) = self.position(key).and_then(|at| self.list.get_mut(at)) {
            member.options = options;
            return Some(std::mem::replace(&mut member.subscriber, subscriber));
        }
        self.list.push(Member { subscriber, options });
        match &mut self.index {
            Some(index) => {
                index.insert(key, self.list.len() as u32 - 1);
            }
            None if self.list.len() > SCAN_MAX => {
                let keys = self.list.iter().map(|member| member.subscriber.key());
                self.index = Some(Box::new(keys.zip(0..).collect()));
            }
            None => {}
        }
        None
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let at = self.position(key)?;
        let removed = self.list.swap_remove(at);
        if self.list.len() <= INDEX_MIN {
            self.index = None;
        } else if let Some(index) = &mut self.index {
            index.remove(&key);
            if let Some(moved) = self.list.get(at) {
                index.insert(moved.subscriber.key(), at as u32);
            }
            if self.list.len() * 4 < index.capacity() {
                index.shrink_to(self.list.len() * 2);
            }
        }
        self.give_room_back();
        Some(removed.subscriber)
    }

    fn give_room_back(&mut self) {
        if self.list.spilled() && self.list.len() * 4 <= self.list.capacity() {
            // A smaller copy, with room for as many again.
            let mut list = SmallVec::with_capacity(if self.list.len() <= 1 { 0 } else { self.list.len() * 2 });
            list.extend(self.list.drain(..));
            self.list = list;
        }
    }
}
