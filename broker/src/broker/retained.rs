//! Retained messages in memory, and which of them the store does not have yet.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::writer::{RetainedWork, Waiting};
use crate::message::{Message, Time};
use crate::router::{Go, Limits, Looked, Place, Retained};
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
    /// Nothing expires before.
    expires: Time,
    /// A message has found no room since the last look for expired ones.
    refused: bool,
}

/// See the module.
pub struct RetainedStore {
    state: Mutex<State>,
}

/// There is no room for another retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a retained message did to the room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is no more than before.
    Same,
    /// There is more: whoever waits for it is to be woken.
    More,
}

impl RetainedStore {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let messages = Retained::new(limits);
        let none = usize::MAX;
        let own = Retained::new(Limits { messages_max: none, bytes_max: none, nodes_max: none });
        Self {
            state: Mutex::new(State {
                messages,
                own,
                dirty: HashMap::new(),
                waiting: Vec::new(),
                expires: Time(u64::MAX),
                refused: false,
            }),
        }
    }

    /// What the store had.
    pub fn recover(&self, messages: Vec<Arc<Message>>) {
        let mut state = self.state.lock();
        for message in messages {
            // Limits that have become smaller do not lose what is there: it was checked when it came.
            let topic = message.topic().to_owned();
            state.note_expiry(&message);
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
    pub fn set(&self, message: &Arc<Message>, wait: bool) -> Result<Room, NoRoom> {
        let mut state = self.state.lock();
        let topic = message.topic();
        if topic.starts_with(OWN) {
            if message.payload().is_empty() {
                state.own.remove(topic);
                return Ok(Room::Same);
            }
            return state.own.set(topic, message.clone(), message.size()).map(|_| Room::Same).map_err(|_| NoRoom);
        }
        let (kept, replaced) = if message.payload().is_empty() {
            let Some(removed) = state.messages.remove(topic) else { return Ok(Room::Same) };
            (None, Some(removed))
        } else {
            let Ok(replaced) = state.messages.set(topic, message.clone(), message.size()) else {
                state.refused = true;
                return Err(NoRoom);
            };
            state.note_expiry(message);
            (Some(message.clone()), replaced)
        };
        let size = kept.as_ref().map_or(0, |kept| kept.size());
        let room = if replaced.as_ref().is_some_and(|gone| gone.size() > size) { Room::More } else { Room::Same };
        state.dirty.insert(topic.to_owned(), kept);
        if wait {
            message.await_one();
            state.waiting.push(Waiting { message: message.clone(), replaced });
        }
        Ok(room)
    }

    /// Whether one of this size would find room.
    pub(super) fn has_room(&self, topic: &str, size: usize) -> bool {
        self.state.lock().messages.check(topic, size).is_ok()
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

    /// All that clients have retained.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<Message>> {
        let mut all = Vec::new();
        self.state.lock().messages.each(&mut |message| all.push(message.clone()));
        all
    }

    /// Whether it is worth looking for expired ones before their time: there are some, and somebody was refused.
    #[must_use]
    pub fn wants_room(&self, now: Time) -> bool {
        let state = self.state.lock();
        state.refused && state.expires <= now
    }

    /// The next messages behind a place that match a filter and have not expired: so many at most, while looking at so many
    /// levels of topics. The place is moved on.
    pub(crate) fn next(
        &self,
        filter: &str,
        place: &mut Place,
        (messages_max, levels_max): (usize, usize),
        now: Time,
    ) -> (Vec<Arc<Message>>, Looked) {
        let mut found = Vec::with_capacity(messages_max);
        let mut visit = |_: &str, message: &Arc<Message>| {
            if !message.expired(now) {
                found.push(message.clone());
            }
            if found.len() >= messages_max { Go::Stop } else { Go::On }
        };
        let state = self.state.lock();
        let tree = if filter.starts_with(OWN) { &state.own } else { &state.messages };
        let looked = tree.look(filter, place, levels_max, &mut visit);
        drop(state);
        (found, looked)
    }

    /// Removes those that have expired.
    pub fn expire(&self, now: Time) -> usize {
        let mut state = self.state.lock();
        state.refused = false;
        if state.expires > now {
            return 0;
        }
        let mut gone = Vec::new();
        let mut next = Time(u64::MAX);
        state.messages.each(&mut |message| {
            if message.expired(now) {
                gone.push(message.topic().to_owned());
            } else if let Some(at) = message.expires_at {
                next = next.min(at);
            }
        });
        state.expires = next;
        for topic in &gone {
            state.messages.remove(topic);
            state.dirty.insert(topic.clone(), None);
        }
        gone.len()
    }

    /// What a commit is made of; true: something is left for the next. Messages of QoS 0, for which nobody waits, are so many
    /// that the commit has about `bytes_max`. All others must be in the commit of their publisher's state.
    pub(crate) fn collect(&self, bytes_max: usize) -> (RetainedWork, bool) {
        let mut state = self.state.lock();
        let mut bytes = 0_usize;
        let due = |topic: &String, message: &mut Option<Arc<Message>>| {
            let can_wait = message.as_ref().is_some_and(|message| message.qos == 0);
            let due = !can_wait || bytes < bytes_max;
            if due {
                bytes = bytes.saturating_add(message.as_ref().map_or(topic.len(), |message| message.size()));
            }
            due
        };
        let changes = state.dirty.extract_if(due).map(|(topic, message)| RetainedChange { topic, message }).collect();
        let left = !state.dirty.is_empty();
        if !left {
            state.dirty = HashMap::new();
        }
        ((changes, std::mem::take(&mut state.waiting)), left)
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
    fn note_expiry(&mut self, message: &Message) {
        if let Some(at) = message.expires_at {
            self.expires = self.expires.min(at);
        }
    }

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
            Some(before) => {
                self.note_expiry(before);
                drop(self.messages.set(topic, before.clone(), before.size()));
            }
            None => drop(self.messages.remove(topic)),
        }
        // Nobody knows which of the two the store has.
        self.dirty.insert(topic.to_owned(), replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Parts;

    fn message(topic: &str, qos: u8) -> Arc<Message> {
        let parts = Parts {
            topic,
            properties: &[],
            payload: &[b'x'; 1000],
            qos,
            retain: true,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    }

    /// No filter that begins with a wildcard is for a topic that begins with `$`, and a client may have some.
    #[test]
    fn what_has_expired_goes_whatever_its_topic() {
        let none = usize::MAX;
        let store = RetainedStore::new(Limits { messages_max: none, bytes_max: none, nodes_max: none });
        let expiring = |topic| {
            let mut message = message(topic, 1);
            Arc::get_mut(&mut message).unwrap().expires_at = Some(Time(10));
            message
        };
        for topic in ["a", "a/b", "$a", "$a/b", "$SYSTEM/a"] {
            store.set(&expiring(topic), false).unwrap();
        }
        store.set(&message("$a/stays", 1), false).unwrap();
        assert_eq!((store.all().len(), store.expire(Time(9))), (6, 0));
        assert_eq!((store.expire(Time(10)), store.count().0), (5, 1));
    }

    /// 200 MB of retained messages were one commit, and nobody's durable message was acknowledged meanwhile.
    #[test]
    fn a_flood_at_qos_0_is_many_commits_and_what_somebody_waits_for_is_in_the_first() {
        let none = usize::MAX;
        let store = RetainedStore::new(Limits { messages_max: none, bytes_max: none, nodes_max: none });
        for n in 0..100 {
            store.set(&message(&format!("flood/{n}"), 0), false).unwrap();
        }
        for n in 0..3 {
            store.set(&message(&format!("waits/{n}"), 1), true).unwrap();
        }
        let mut topics = Vec::new();
        loop {
            let ((changes, waiting), left) = store.collect(10_000);
            let late = changes.iter().filter(|change| change.topic.starts_with("flood")).count();
            assert!((1..=10).contains(&late), "{late} in one commit");
            assert_eq!(waiting.len(), if topics.is_empty() { 3 } else { 0 });
            assert!(!topics.is_empty() || changes.len() - late == 3, "they are in the first commit");
            topics.extend(changes.into_iter().map(|change| change.topic));
            if !left {
                break;
            }
        }
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 103, "each once");
    }
}
