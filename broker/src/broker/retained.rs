//! Retained messages in memory, and which of them the store does not have yet.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::writer::{RetainedWork, Waiting};
use crate::message::{Message, Time};
use crate::router::{Limits, Retained};
use crate::session::Refused;
use crate::store::RetainedChange;

/// Topics of the broker's own: no client publishes to them, they count for no limit, and are in no store.
const OWN: &str = "$SYS/";

struct State {
    messages: Retained<Arc<Message>>,
    /// Those on topics of the broker's own; there are as many as it makes.
    own: Retained<Arc<Message>>,
    dirty: HashMap<String, Option<Arc<Message>>>,
    waiting: Vec<Waiting>,
}

/// See the module.
pub struct RetainedStore {
    state: Mutex<State>,
}

/// There is no room for another retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl RetainedStore {
    /// An empty one.
    #[must_use]
    pub fn new(messages_max: usize, bytes_max: usize) -> Self {
        let messages = Retained::new(Limits { messages_max, bytes_max });
        let own = Retained::new(Limits { messages_max: usize::MAX, bytes_max: usize::MAX });
        Self { state: Mutex::new(State { messages, own, dirty: HashMap::new(), waiting: Vec::new() }) }
    }

    /// What the store had.
    pub fn recover(&self, messages: Vec<Arc<Message>>) {
        let mut state = self.state.lock();
        for message in messages {
            // Limits that have become smaller do not lose what is there: it was checked when it came.
            let topic = message.topic().to_owned();
            if state.messages.set(&topic, message.clone(), message.size()).is_err() {
                tracing::warn!("retained message on {topic} is over the limit; it stays on disk until it is replaced");
            }
        }
    }

    /// A message with the RETAIN flag: the newest of its topic; an empty payload removes [MQTT-3.3.1-6], [MQTT-3.3.1-10]. With
    /// `wait` the message counts as unsafe until the change is committed.
    ///
    /// # Errors
    /// `NoRoom` when a limit is reached.
    pub fn set(&self, message: &Arc<Message>, wait: bool) -> Result<(), NoRoom> {
        let mut state = self.state.lock();
        let topic = message.topic();
        if topic.starts_with(OWN) {
            return state.own.set(topic, message.clone(), message.size()).map(drop).map_err(|_| NoRoom);
        }
        let (kept, replaced) = if message.payload().is_empty() {
            let Some(removed) = state.messages.remove(topic) else { return Ok(()) };
            (None, Some(removed))
        } else {
            let replaced = state.messages.set(topic, message.clone(), message.size()).map_err(|_| NoRoom)?;
            (Some(message.clone()), replaced)
        };
        state.dirty.insert(topic.to_owned(), kept);
        if wait {
            message.await_one();
            state.waiting.push(Waiting { message: message.clone(), replaced });
        }
        Ok(())
    }

    /// How many there are that count for the limits, and their bytes.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.messages.len(), state.messages.bytes())
    }

    /// All that match a filter and have not expired.
    #[must_use]
    pub fn matching(&self, filter: &str, now: Time) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        let state = self.state.lock();
        let mut add = |_: &str, message: &Arc<Message>| {
            if !message.expired(now) {
                found.push(message.clone());
            }
        };
        state.messages.matching(filter, &mut add);
        if filter.starts_with(OWN) {
            state.own.matching(filter, &mut add);
        }
        drop(state);
        found
    }

    /// Removes those that have expired.
    pub fn expire(&self, now: Time) -> usize {
        let mut state = self.state.lock();
        let mut gone = Vec::new();
        // `#` is for no topic that begins with `$`; a client's own may.
        for filter in ["#", "$SYS"] {
            state.messages.matching(filter, &mut |topic, message| {
                if message.expired(now) {
                    gone.push(topic.to_owned());
                }
            });
        }
        for topic in &gone {
            state.messages.remove(topic);
            state.dirty.insert(topic.clone(), None);
        }
        gone.len()
    }

    pub(crate) fn collect(&self) -> RetainedWork {
        let mut state = self.state.lock();
        let changes =
            std::mem::take(&mut state.dirty).into_iter().map(|(topic, message)| RetainedChange { topic, message });
        (changes.collect(), std::mem::take(&mut state.waiting))
    }

    /// The commit failed. What was refused is not retained: what was there before it is again.
    pub(crate) fn uncollect(&self, changes: Vec<RetainedChange>, mut waiting: Vec<Waiting>, refused: &Refused) {
        let mut state = self.state.lock();
        for change in changes {
            state.dirty.entry(change.topic).or_insert(change.message);
        }
        waiting.append(&mut state.waiting);
        let (gone, kept) = waiting.into_iter().partition(|waiting| refused.holds(&waiting.message));
        state.waiting = kept;
        let mut gone: Vec<Waiting> = gone;
        // The newest first: it may have replaced another that was refused.
        while let Some(waiting) = gone.pop() {
            waiting.message.settle();
            state.put_back(waiting);
        }
    }
}

impl State {
    fn put_back(&mut self, Waiting { message, replaced }: Waiting) {
        let is_it = |other: &Arc<Message>| Arc::ptr_eq(other, &message);
        for newer in &mut self.waiting {
            if newer.replaced.as_ref().is_some_and(is_it) {
                newer.replaced.clone_from(&replaced);
            }
        }
        let topic = message.topic();
        if !self.messages.get(topic).map_or(message.payload().is_empty(), is_it) {
            return;
        }
        match &replaced {
            // It was there, so there is room, unless others have taken it meanwhile.
            Some(before) => drop(self.messages.set(topic, before.clone(), before.size())),
            None => drop(self.messages.remove(topic)),
        }
        // Nobody knows which of the two the store has.
        self.dirty.insert(topic.to_owned(), replaced);
    }
}
