//! Delayed messages and what surrounds them: publishers, the clock, the store.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use forebay_wire::reason::ReasonCode;
use parking_lot::Mutex;

use super::Broker;
use super::fanout::{Batch, Source, Staged, Verdict};
use crate::delayed::{self, Collected, Gone, Index, Key, Line, Totals, When};
use crate::message::{Message, Origin, Parts};
use crate::session::{Cx, Durability, Refused, Urgency};
use crate::store::{Keyed, KeyedChange, Reader, StoreError, message_of, message_value};

/// The key of the totals: behind those of all messages.
const TOTALS: [u8; 1] = [0xff];
/// Messages that are sent in one go, before whoever else needs the writer's gate has a turn.
const SENT_AT_ONCE: usize = 64;
/// Pages of a [`Walk`] in one look.
const PAGES_AT_ONCE: usize = 4;
/// Topics without room that a walk knows at most: then it begins anew.
const BLOCKED_MAX: usize = 16_384;

/// Topics that found no room, as hashes: what has the same hash waits with them.
type Blocked = HashSet<u64>;

/// A way through what is due on disk, behind what is in memory, while topics of that wait for room: others must not wait for
/// them. It goes over several looks, so that each of them is short.
#[derive(Default)]
struct Walk {
    /// Where it goes on; `None`: it begins.
    at: Option<Key>,
    /// What it has passed: later messages of these topics must not overtake those.
    blocked: Blocked,
}

/// The delayed messages of a broker.
pub struct DelayedMessages {
    index: Mutex<Index>,
    /// Held by who sends, cancels or moves a message, from the look whether it is there to its end. Inside the writer's gate.
    ending: Mutex<()>,
    reader: OnceLock<Arc<dyn Reader>>,
    /// What the store has of them is known. Until then nothing is taken: there is no room.
    loaded: AtomicBool,
    /// Of each line.
    walks: Mutex<[Walk; 2]>,
    /// Of topics.
    hasher: RandomState,
}

/// A message that waits for its time.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its name, for [`Broker::cancel_delayed`].
    pub key: Key,
    /// The message.
    pub message: Arc<Message>,
}

impl DelayedMessages {
    pub(crate) fn new() -> Self {
        let nothing = delayed::Limits { max_messages: 0, max_bytes: 0 };
        let index = Mutex::new(Index::new(nothing, Totals::default()));
        let (reader, loaded) = (OnceLock::new(), AtomicBool::new(false));
        Self { index, ending: Mutex::new(()), reader, loaded, walks: Mutex::default(), hasher: RandomState::new() }
    }

    /// What there is.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.index.lock().totals()
    }

    /// Whether one of this size finds room.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.index.lock().has_room(size)
    }

    fn read(&self, from: Key, (rows, bytes): (usize, usize)) -> Result<Vec<(Key, Arc<Message>)>, StoreError> {
        let Some(reader) = self.reader.get() else { return Ok(Vec::new()) };
        let rows = reader.keyed(Keyed::Delayed, &from.encode(), rows, bytes)?;
        let message = |(key, value): (Vec<u8>, Vec<u8>)| Some((Key::decode(&key)?, message_of(&value)?));
        Ok(rows.into_iter().filter_map(message).collect())
    }
}

impl DelayedMessages {
    fn read_one(&self, key: Key) -> Result<Option<Arc<Message>>, StoreError> {
        let found = self.read(key, (1, 1))?.into_iter().find(|(found, _)| *found == key);
        Ok(found.map(|(_, message)| message))
    }

    /// Whether it is committed, and no commit is about to remove it.
    fn is_there(&self, key: Key) -> bool {
        // Read under the lock, as in `cancel_delayed`.
        let index = self.index.lock();
        index.holds(&key) || index.is_settled(&key) && self.read_one(key).is_ok_and(|found| found.is_some())
    }
}

/// What a commit has of delayed messages.
pub(crate) struct DelayedWork(Collected);

impl DelayedWork {
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.0.set.iter().map(|(_, message)| message)
    }
}

impl Broker {
    /// From where keyed rows are read: delayed messages when there are more than fit into memory, windows of origins at the
    /// start. To be called once. Until the store has been read, both are refused as if there were no room; a store that
    /// cannot be read is tried again.
    pub fn read_keyed_from(&self, reader: Arc<dyn Reader>) {
        self.streams.read_from(reader.clone());
        let _ = self.delayed.reader.set(reader);
        self.load_delayed();
    }

    fn load_delayed(&self) -> bool {
        let Some(reader) = self.delayed.reader.get() else { return false };
        if self.delayed.loaded.load(Ordering::Acquire) {
            return true;
        }
        if !self.load_origins(&**reader) || !self.load_schedules(&**reader) {
            return false;
        }
        let found = match reader.keyed(Keyed::Delayed, &TOTALS, 1, 1) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!("delayed messages cannot be read; it is tried again: {error}");
                return false;
            }
        };
        let totals = found.first().map(|(_, value)| Totals::decode(value)).unwrap_or_default();
        let limits = &self.config.limits;
        let limits = delayed::Limits { max_messages: limits.max_delayed_messages, max_bytes: limits.max_delayed_bytes };
        *self.delayed.index.lock() = Index::new(limits, totals);
        self.delayed.loaded.store(true, Ordering::Release);
        self.unpark();
        true
    }

    /// A publication that may want to be delayed. False: it is for now.
    pub(super) fn delay(&self, batch: Batch<'_>, staged: &mut Staged<'_>, cx: Cx<'_>) -> bool {
        let delayed = match delayed::read(staged.source.topic, staged.source.properties) {
            Ok(None) => return false,
            Ok(Some(delayed)) => delayed,
            Err(wrong) => {
                tracing::warn!(topic = staged.source.topic, "a delayed message is refused: {wrong}");
                staged.verdict = Verdict::Refused(ReasonCode::TopicNameInvalid);
                return true;
            }
        };
        if staged.verdict == Verdict::Full {
            return true;
        }
        let Source { properties, payload, qos, retain, expires_at, .. } = staged.source;
        let properties = delayed.properties.as_deref().unwrap_or(properties);
        let size = delayed.topic.len() + properties.len() + payload.len();
        let awaited = qos > 0 && staged.durability == Durability::Commit;
        let mut index = self.delayed.index.lock();
        let has_room = index.has_room(size);
        if !has_room || awaited && self.store_failing() {
            drop(index);
            if !has_room && self.delayed.loaded.load(Ordering::Acquire) {
                self.short_of_delayed(delayed.topic, size);
            }
            // At QoS 0 nobody can be told.
            if qos == 0 {
                self.counters.delayed_refused.add(1);
            }
            staged.verdict = Verdict::Full;
            return true;
        }
        let topic = delayed.topic;
        let parts = Parts { topic, properties, payload, qos, retain, expires_at, accepted_at: cx.now };
        let origin = batch.origin.map(|slot| slot.clone() as Arc<dyn Origin>);
        let message = Arc::new(Message::new(&parts, origin));
        let (line, due_ms) = match delayed.when {
            When::AfterS(seconds) => (Line::Own, cx.now.0.saturating_add(seconds.saturating_mul(1000))),
            When::AtMs(ms) => (Line::Wall, ms),
        };
        index.insert(line, due_ms, message.clone(), awaited);
        drop(index);
        self.writer.mark_retained(if awaited { Urgency::Now } else { Urgency::Lazy });
        staged.message = Some(message);
        staged.waits = awaited;
        staged.verdict = Verdict::Taken;
        true
    }

    /// Sends what is due.
    pub(super) fn send_delayed(&self) {
        if !self.load_delayed() {
            return;
        }
        for line in Line::ALL {
            let now_ms = match line {
                Line::Own => self.clock.now().0,
                Line::Wall => self.clock.wall_ms(),
            };
            let blocked = self.send_from_memory(line, now_ms);
            self.send_from_disk(line, now_ms, &blocked);
        }
    }

    /// Sends what is due of what is in memory; returns topics that have no room.
    fn send_from_memory(&self, line: Line, now_ms: u64) -> Blocked {
        let mut blocked = Blocked::new();
        let mut after = None;
        loop {
            self.refill_delayed(line);
            let due = self.delayed.index.lock().due(line, now_ms, after, SENT_AT_ONCE);
            let Some((last, _)) = due.last() else { return blocked };
            after = Some(*last);
            for (key, message) in &due {
                self.send_one(*key, message, &mut blocked);
            }
        }
    }

    /// Goes on with the walk of this line. Without topics that wait for room there is none: what is on disk comes into memory.
    fn send_from_disk(&self, line: Line, now_ms: u64, blocked: &Blocked) {
        let mut walks = self.delayed.walks.lock();
        let [own, wall] = &mut *walks;
        let walk = if line == Line::Own { own } else { wall };
        let behind = self.delayed.index.lock().behind_head(line, now_ms);
        let Some((begin, end)) = behind.filter(|_| !blocked.is_empty()) else {
            *walk = Walk::default();
            return;
        };
        walk.blocked.extend(blocked);
        for _ in 0..PAGES_AT_ONCE {
            let from = walk.at.unwrap_or(begin).max(begin);
            let page = self.delayed.read(from, Index::page_limits());
            let Ok(page) = page.inspect_err(|error| tracing::error!("delayed messages cannot be read now: {error}"))
            else {
                return;
            };
            let is_due = |key: &Key| key.line == line && key.due_ms <= now_ms && end.is_none_or(|end| *key < end);
            for (key, message) in page.iter().take_while(|(key, _)| is_due(key)) {
                self.send_one(*key, message, &mut walk.blocked);
                walk.at = Some(key.next());
            }
            let is_over = page.last().is_none_or(|(key, _)| !is_due(key));
            if is_over || walk.blocked.len() >= BLOCKED_MAX {
                *walk = Walk::default();
                return;
            }
        }
    }

    /// A message that finds no room waits, and those behind it with the same topic.
    fn send_one(&self, key: Key, message: &Arc<Message>, blocked: &mut Blocked) {
        let topic = self.delayed.hasher.hash_one(message.topic());
        let expired = message.expired(self.clock.now());
        if !expired && blocked.contains(&topic) {
            return;
        }
        // The message enters the queues and leaves here in one commit.
        let gate = self.writer.gate();
        let ending = self.delayed.ending.lock();
        // Since it was found, another may have sent it, cancelled it or moved it.
        if !self.delayed.is_there(key) {
            return;
        }
        let gone = if expired { Gone::Expired } else { Gone::Sent };
        if gone == Gone::Sent {
            let source = Source {
                topic: message.topic(),
                properties: message.properties(),
                payload: message.payload(),
                qos: message.qos,
                retain: message.retain,
                expires_at: message.expires_at,
            };
            let mut staged = Staged::new(source, Durability::Moved);
            self.publish_if_room(&mut staged);
            if staged.verdict == Verdict::Full {
                blocked.insert(topic);
                return;
            }
        }
        self.delayed.index.lock().remove(key, message.size(), gone);
        drop(ending);
        drop(gate);
        self.writer.mark_retained(Urgency::Now);
        self.unpark();
    }

    fn refill_delayed(&self, line: Line) {
        let Some(from) = self.delayed.index.lock().refill(line) else { return };
        let page = self.delayed.read(from, Index::page_limits());
        let page = page.inspect_err(|error| tracing::error!("delayed messages cannot be read now: {error}")).ok();
        self.delayed.index.lock().refilled(line, from, page);
    }

    /// Messages that wait for their time, in order, from a key on; those of the broker's own clock first. What has not been
    /// committed yet is not among them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn delayed_from(&self, from: Option<Key>, most: usize) -> Result<Vec<Pending>, StoreError> {
        let from = from.unwrap_or(Key { line: Line::Own, due_ms: 0, arrival: 0 });
        let rows = self.delayed.read(from, (most, usize::MAX))?;
        let index = self.delayed.index.lock();
        let there = rows.into_iter().filter(|(key, _)| !index.is_removed(key));
        Ok(there.map(|(key, message)| Pending { key, message }).collect())
    }

    /// Cancels one. False: there is none, or not any more.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn cancel_delayed(&self, key: Key) -> Result<bool, StoreError> {
        let _gate = self.writer.gate();
        let _ending = self.delayed.ending.lock();
        // Read under the lock: what the store shows now, and is not leaving, is there.
        let mut index = self.delayed.index.lock();
        let Some(message) = self.delayed.read_one(key)? else { return Ok(false) };
        let cancelled = index.remove(key, message.size(), Gone::Cancelled);
        drop(index);
        self.writer.mark_retained(Urgency::Now);
        self.unpark();
        Ok(cancelled)
    }

    /// Gives one another time; it stays one message, in one commit. The new key, or `None`: there is no such message.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn move_delayed(&self, key: Key, line: Line, due_ms: u64) -> Result<Option<Key>, StoreError> {
        let _gate = self.writer.gate();
        let _ending = self.delayed.ending.lock();
        let mut index = self.delayed.index.lock();
        let Some(message) = self.delayed.read_one(key)? else { return Ok(None) };
        let moved = index.reschedule(key, line, due_ms, message);
        drop(index);
        self.writer.mark_retained(Urgency::Now);
        Ok(moved)
    }

    pub(super) fn collect_delayed(&self, changes: &mut Vec<KeyedChange>) -> DelayedWork {
        let collected = self.delayed.index.lock().collect();
        if !collected.is_empty() {
            let of = Keyed::Delayed;
            let set = collected.set.iter().map(|(key, m)| (key.encode(), Some(message_value(m))));
            let removed = collected.removed.iter().map(|key| (key.encode(), None));
            let totals = (TOTALS.to_vec(), Some(collected.totals.encode()));
            // Removals first: a message that was taken back and one that is set never share a key.
            let all = removed.chain(set).chain([totals]);
            changes.extend(all.map(|(key, value)| KeyedChange { of, key, value }));
        }
        DelayedWork(collected)
    }

    pub(super) fn delayed_committed(&self, work: DelayedWork) {
        self.delayed.index.lock().committed(work.0);
    }

    pub(super) fn delayed_not_committed(&self, work: DelayedWork, refused: &Refused) {
        self.delayed.index.lock().not_committed(work.0, |message| refused.holds(message));
    }

    /// Milliseconds until a message is due: 0 when it is.
    #[must_use]
    pub fn delayed_due_in_ms(&self, key: Key) -> u64 {
        let now_ms = match key.line {
            Line::Own => self.clock.now().0,
            Line::Wall => self.clock.wall_ms(),
        };
        key.due_ms.saturating_sub(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Taker;
    use crate::broker::by_hand;
    use crate::router::RouteCache;
    use crate::store::memory::MemoryStore;

    /// A message that is due now, as a look at what is due finds it, and the queue that it is for.
    fn due_now(broker: &Arc<Broker>, store: &mut MemoryStore, retain: bool) -> (Key, Arc<Message>, Arc<Taker>) {
        let queue = by_hand::queue_of(broker, "a");
        let delayed = by_hand::message("$delayed/0/a", &[]);
        let delayed = Arc::new(delayed);
        let mut staged = [Staged::of(&delayed, retain, Durability::Commit)];
        broker.fan_out(&mut RouteCache::default(), Batch::OWN, &mut staged);
        by_hand::commit(broker, store);
        let due = broker.delayed.index.lock().due(Line::Own, u64::MAX, None, 1);
        let (key, message) = due.first().expect("it is committed");
        (*key, message.clone(), queue)
    }

    #[test]
    fn two_that_find_a_message_due_send_it_once() {
        let (broker, mut store) = by_hand::broker();
        let (key, message, queue) = due_now(&broker, &mut store, false);
        for _ in 0..2 {
            broker.send_one(key, &message, &mut Blocked::new());
        }
        by_hand::commit(&broker, &mut store);
        broker.send_one(key, &message, &mut Blocked::new());
        assert_eq!(queue.figures().messages, 1);
        assert_eq!(broker.delayed.totals().sent, 1);
    }

    /// Its publisher had its answer long ago.
    #[test]
    fn what_is_due_and_finds_no_retained_room_is_sent() {
        let (broker, mut store) = by_hand::broker_with("[limits]\nmax_retained_messages = 1\n");
        broker.publish(&Arc::new(by_hand::message("b", &[])), true, Durability::Memory, None);
        let (key, message, queue) = due_now(&broker, &mut store, true);
        broker.send_one(key, &message, &mut Blocked::new());
        assert_eq!((queue.figures().messages, broker.delayed.totals().sent), (1, 1));
        assert_eq!(broker.counters.retained_refused.get(), 1);
    }

    #[test]
    fn what_is_cancelled_when_it_has_been_found_due_is_not_sent() {
        let (broker, mut store) = by_hand::broker();
        let (key, message, queue) = due_now(&broker, &mut store, false);
        assert!(broker.cancel_delayed(key).is_ok_and(|cancelled| cancelled));
        broker.send_one(key, &message, &mut Blocked::new());
        assert_eq!(queue.figures().messages, 0);
    }
}
