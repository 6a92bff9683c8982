//! Publications that say which they are (origin, epoch, sequence number), so that a repetition is known as one, over
//! reconnects, sessions that were lost, and restarts of both sides. The windows are committed with what was accepted.

mod name;
mod window;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

pub use name::{EPOCH, Named, ORIGIN, PREFIX, SEQ, Wrong, read};
pub use window::{Gap, REORDER, SPAN, Window};

use crate::message::Message;
use crate::store::SessionNo;

/// One publication of one origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Who made it.
    pub origin: Arc<str>,
    /// Which of its epochs.
    pub epoch: u64,
    /// Its number in that epoch.
    pub seq: u64,
}

/// What an origin's publication is.
#[derive(Clone, Debug)]
pub enum Seen {
    /// It has not come before; its number is taken now.
    New(Option<Gap>),
    /// It is safe already.
    Duplicate,
    /// It came before, from this session, and is not committed: its message is being waited for.
    Underway(Arc<Message>),
    /// It came before and it is not known yet what becomes of it: to be tried again.
    Busy,
}

/// Two epochs: a device that was started anew may repeat what it had sent before.
struct Origin {
    newer: Window,
    older: Option<Window>,
    /// When it was last heard of, in publications of all origins.
    used: u64,
}

impl Origin {
    fn window(&mut self, epoch: u64) -> Option<&mut Window> {
        if self.newer.epoch == epoch { Some(&mut self.newer) } else { self.older.as_mut().filter(|w| w.epoch == epoch) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * window::WINDOW_BYTES);
        self.newer.encode(&mut out);
        if let Some(older) = &self.older {
            older.encode(&mut out);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (newer, rest) = bytes.split_at_checked(window::WINDOW_BYTES)?;
        let older = if rest.is_empty() { None } else { Some(Window::decode(rest)?) };
        Some(Self { newer: Window::decode(newer)?, older, used: 0 })
    }
}

/// What waits for a commit.
struct Pending {
    /// `None`: nobody waits for it, or it is still being routed.
    message: Option<Arc<Message>>,
    by: SessionNo,
    routed: bool,
}

/// What one commit takes with it.
#[derive(Debug, Default)]
pub struct Collected {
    /// Rows to be set, or removed with `None`: an origin and its windows.
    pub rows: Vec<(Arc<str>, Option<Vec<u8>>)>,
    /// Whose numbers are in them for the first time.
    pub accepted: Vec<Id>,
    /// Messages of those whose publishers wait.
    pub messages: Vec<Arc<Message>>,
}

/// All origins.
#[derive(Default)]
pub struct Origins {
    max: usize,
    known: HashMap<Arc<str>, Origin>,
    pending: HashMap<Id, Pending>,
    fresh: Vec<Id>,
    dirty: HashSet<Arc<str>>,
    uses: u64,
    /// Origins whose windows were given up for others, ever.
    pub forgotten: u64,
}

impl Origins {
    /// None yet; `max` of them are remembered, then the one that was silent longest is forgotten.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), ..Self::default() }
    }

    /// One that the store has. False: the row is none.
    pub fn recover(&mut self, name: &str, row: &[u8]) -> bool {
        let origin = Origin::decode(row);
        let found = origin.is_some();
        if let Some(origin) = origin {
            self.known.insert(name.into(), origin);
        }
        found
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// A publication has come; if it is new, its number is taken, until [`Origins::routed`] or [`Origins::give_back`].
    pub fn take(&mut self, id: &Id, by: SessionNo) -> Seen {
        if let Some(pending) = self.pending.get(id) {
            return match &pending.message {
                Some(message) if pending.by == by => Seen::Underway(message.clone()),
                _ => Seen::Busy,
            };
        }
        self.uses += 1;
        let uses = self.uses;
        let gap = match self.known.get_mut(&id.origin) {
            None => {
                self.make_room();
                let newer = Window::new(id.epoch, id.seq);
                self.known.insert(id.origin.clone(), Origin { newer, older: None, used: uses });
                None
            }
            Some(origin) => {
                origin.used = uses;
                if origin.window(id.epoch).is_some_and(|window| window.has(id.seq)) {
                    return Seen::Duplicate;
                }
                if id.epoch > origin.newer.epoch {
                    let older = std::mem::replace(&mut origin.newer, Window::new(id.epoch, id.seq));
                    origin.older = Some(older);
                    None
                } else {
                    // Of an epoch before the last two nothing is known: better twice than never.
                    origin.window(id.epoch).and_then(|window| window.take(id.seq))
                }
            }
        };
        self.pending.insert(id.clone(), Pending { message: None, by, routed: false });
        Seen::New(gap)
    }

    /// It went nowhere: its number is free again.
    pub fn give_back(&mut self, id: &Id) {
        self.pending.remove(id);
        self.forget(id);
    }

    /// It has been routed; with a message its publisher waits for the commit, and the message counts as unsafe until then.
    pub fn routed(&mut self, id: Id, message: Option<Arc<Message>>) {
        if let Some(message) = &message {
            message.await_one();
        }
        if let Some(pending) = self.pending.get_mut(&id) {
            (pending.message, pending.routed) = (message, true);
        }
        self.dirty.insert(id.origin.clone());
        self.fresh.push(id);
    }

    fn forget(&mut self, id: &Id) {
        if let Some(window) = self.known.get_mut(&id.origin).and_then(|origin| origin.window(id.epoch)) {
            window.forget(id.seq);
        }
    }

    fn make_room(&mut self) {
        if self.known.len() < self.max {
            return;
        }
        let busy: HashSet<&Arc<str>> = self.pending.keys().map(|id| &id.origin).collect();
        let silent = self.known.iter().filter(|(name, _)| !busy.contains(name)).min_by_key(|(_, origin)| origin.used);
        if let Some(name) = silent.map(|(name, _)| name.clone()) {
            self.known.remove(&name);
            self.dirty.insert(name);
            self.forgotten += 1;
        }
    }

    /// Whether there is something that [`Origins::collect`] would give.
    #[must_use]
    pub fn has_new(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What the next commit is to write.
    pub fn collect(&mut self) -> Collected {
        let rows = self.dirty.drain().map(|name| {
            let row = self.known.get(&name).map(Origin::encode);
            (name, row)
        });
        let rows = rows.collect();
        let accepted = std::mem::take(&mut self.fresh);
        let messages = accepted.iter().filter_map(|id| self.pending.get(id)?.message.clone()).collect();
        Collected { rows, accepted, messages }
    }

    /// The commit is done.
    pub fn committed(&mut self, collected: Collected) {
        for id in collected.accepted {
            if let Some(message) = self.pending.remove(&id).and_then(|pending| pending.message) {
                message.settle();
            }
        }
    }

    /// The commit failed. `refused`: their publishers have them back, so their numbers are free again.
    pub fn not_committed(&mut self, collected: Collected, refused: impl Fn(&Arc<Message>) -> bool) {
        self.dirty.extend(collected.rows.into_iter().map(|(name, _)| name));
        for id in collected.accepted {
            let message = self.pending.get(&id).and_then(|pending| pending.message.clone());
            let Some(message) = message.filter(|message| refused(message)) else {
                self.fresh.push(id);
                continue;
            };
            self.give_back(&id);
            message.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Parts, Time};

    fn id(origin: &str, epoch: u64, seq: u64) -> Id {
        Id { origin: origin.into(), epoch, seq }
    }

    fn message() -> Arc<Message> {
        let parts = Parts {
            topic: "t",
            properties: &[],
            payload: &[],
            qos: 1,
            retain: false,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    }

    const ME: SessionNo = SessionNo(1);

    /// Accepts and commits.
    fn accept(origins: &mut Origins, id: Id) {
        assert!(matches!(origins.take(&id, ME), Seen::New(_)), "{id:?}");
        origins.routed(id, None);
        let collected = origins.collect();
        origins.committed(collected);
    }

    #[test]
    fn a_repetition_is_known_when_the_first_is_safe() {
        let mut origins = Origins::new(10);
        let first = id("a", 1, 5);
        assert!(matches!(origins.take(&first, ME), Seen::New(None)));
        assert!(matches!(origins.take(&first, ME), Seen::Busy), "it is being routed");
        let message = message();
        origins.routed(first.clone(), Some(message.clone()));
        assert!(matches!(origins.take(&first, ME), Seen::Underway(of) if Arc::ptr_eq(&of, &message)));
        assert!(matches!(origins.take(&first, SessionNo(2)), Seen::Busy), "another session is not woken");
        let collected = origins.collect();
        assert!(!message.is_safe());
        origins.committed(collected);
        assert!(message.is_safe());
        assert!(matches!(origins.take(&first, SessionNo(2)), Seen::Duplicate));
        assert!(matches!(origins.take(&id("b", 1, 5), ME), Seen::New(None)), "another origin");
    }

    #[test]
    fn what_is_refused_after_all_may_come_again() {
        let mut origins = Origins::new(10);
        let (kept, lost) = (message(), message());
        for (seq, message) in [(1, &kept), (2, &lost)] {
            assert!(matches!(origins.take(&id("a", 1, seq), ME), Seen::New(_)));
            origins.routed(id("a", 1, seq), Some(message.clone()));
        }
        let collected = origins.collect();
        origins.not_committed(collected, |message| Arc::ptr_eq(message, &lost));
        assert!(matches!(origins.take(&id("a", 1, 2), ME), Seen::New(_)));
        origins.give_back(&id("a", 1, 2));
        let collected = origins.collect();
        assert_eq!((collected.accepted.len(), collected.rows.len()), (1, 1));
        origins.committed(collected);
        assert!(kept.is_safe() && lost.is_safe());
        assert!(matches!(origins.take(&id("a", 1, 1), ME), Seen::Duplicate));
        assert!(matches!(origins.take(&id("a", 1, 2), ME), Seen::New(_)));
    }

    #[test]
    fn two_epochs_are_known_and_come_back_from_the_store() {
        let mut origins = Origins::new(10);
        accept(&mut origins, id("a", 1, 9));
        accept(&mut origins, id("a", 2, 0));
        assert!(matches!(origins.take(&id("a", 1, 9), ME), Seen::Duplicate));
        assert!(matches!(origins.take(&id("a", 2, 1), ME), Seen::New(None)));
        origins.routed(id("a", 2, 1), None);
        let rows = origins.collect().rows;
        let mut again = Origins::new(10);
        for (name, row) in &rows {
            assert!(again.recover(name, row.as_deref().unwrap()));
        }
        for (epoch, seq) in [(1, 9), (2, 0), (2, 1)] {
            assert!(matches!(again.take(&id("a", epoch, seq), ME), Seen::Duplicate));
        }
        assert!(!again.recover("x", b"no window"));
    }

    #[test]
    fn the_one_that_was_silent_longest_is_forgotten() {
        let mut origins = Origins::new(2);
        for name in ["a", "b", "a", "c"] {
            let seq = origins.uses;
            accept(&mut origins, id(name, 1, seq));
        }
        assert_eq!((origins.len(), origins.forgotten), (2, 1));
        assert!(origins.known.contains_key("a") && origins.known.contains_key("c"));
    }
}
