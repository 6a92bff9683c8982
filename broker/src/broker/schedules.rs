//! Schedules and what surrounds them: the retained messages that describe them, the wall clock, the store.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::Broker;
use super::fanout::{Batch, Source, Staged, Verdict};
use crate::message::Message;
use crate::properties::put_user;
use crate::schedules::{Body, Description, Due, Mark, PREFIX, Timetable, Wrong, name_of};
use crate::session::{Durability, Urgency};
use crate::store::{Keyed, KeyedChange, Reader};

/// All schedules, as a filter.
const ALL: &str = "$schedule/#";
/// Marks that are read at once at the start.
const PAGE_ROWS: usize = 1024;
/// Bytes of them.
const PAGE_BYTES: usize = 1024 * 1024;

/// The schedules of a broker.
#[derive(Default)]
pub struct Schedules {
    inside: Mutex<Inside>,
    /// Held from the look whether a due time has been seen to until it has. Inside the writer's gate.
    publishing: Mutex<()>,
}

#[derive(Default)]
struct Inside {
    timetable: Timetable,
    /// What the store does not have yet.
    dirty: HashMap<Arc<str>, Option<Mark>>,
    /// What the store has is known. Until then none is due.
    loaded: bool,
}

/// What a commit has of schedules.
pub(crate) struct ScheduleWork(HashMap<Arc<str>, Option<Mark>>);

impl Schedules {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inside.lock().timetable.len()
    }
}

impl Broker {
    /// Reads what the store remembers. False: it could not be read, and is tried again.
    pub(super) fn load_schedules(&self, reader: &dyn Reader) -> bool {
        let mut inside = self.schedules.inside.lock();
        let mut from = Vec::new();
        while !inside.loaded {
            let page = match reader.keyed(Keyed::Schedules, &from, PAGE_ROWS, PAGE_BYTES) {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!("what is known of schedules cannot be read; it is tried again: {error}");
                    return false;
                }
            };
            let Some((last, _)) = page.last() else {
                inside.loaded = true;
                break;
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in &page {
                if let (Ok(name), Some(mark)) = (std::str::from_utf8(key), Mark::decode(value)) {
                    inside.timetable.recover(name, mark);
                }
            }
        }
        true
    }

    /// A publication on a schedule's topic. True: it is no schedule, or there is no room for one; that is its verdict.
    pub(super) fn refuse_schedule(&self, batch: Batch<'_>, staged: &mut Staged<'_>) -> bool {
        let Source { topic, payload, retain, .. } = staged.source;
        let Some(name) = name_of(topic) else { return false };
        let read = match name {
            Err(wrong) => Err(wrong),
            Ok(_) if !retain => Err(Wrong::NotRetained),
            Ok(_) if payload.is_empty() => return false,
            Ok(_) => Description::read(payload),
        };
        if let Err(wrong) = read {
            // As a field: what a client writes must not look like another line.
            tracing::warn!(topic, why = ?wrong.to_string(), "a schedule is refused");
            let reason =
                if retain { ReasonCode::PayloadFormatInvalid } else { ReasonCode::ImplementationSpecificError };
            staged.verdict = Verdict::Refused(reason);
            return true;
        }
        if !self.retained.matching(topic, self.clock.now()).is_empty() {
            return false;
        }
        let all = self.retained_schedules();
        batch.spend(all);
        let full = all >= self.config.limits.max_schedules;
        if full {
            self.short_of_schedules(topic);
            self.counters.retained_refused.add(1);
            staged.verdict = Verdict::Full;
        }
        full
    }

    pub(super) fn retained_schedules(&self) -> usize {
        self.retained.matching(ALL, self.clock.now()).len()
    }

    /// Publishes what is due by schedules.
    pub(super) fn run_schedules(&self) {
        if !self.clock.may_be_right() {
            return;
        }
        let now = self.clock.now();
        let wall_ms = self.clock.wall_ms();
        let described = self.retained.matching(ALL, now);
        let mut inside = self.schedules.inside.lock();
        if !inside.loaded {
            return;
        }
        let accepted_ms = |message: &Message| wall_ms.saturating_sub(now.since(message.accepted_at));
        let over = inside.timetable.look(wall_ms, &described, accepted_ms);
        let some_over = !over.is_empty();
        inside.dirty.extend(over.into_iter().map(|name| (name, None)));
        let due = inside.timetable.due();
        let missed = inside.timetable.take_missed();
        drop(inside);
        self.counters.schedule_missed.add(missed);
        if some_over {
            self.writer.mark_retained(Urgency::Lazy);
        }
        for due in due {
            self.run_schedule(&due);
        }
    }

    fn run_schedule(&self, due: &Due) {
        let Ok(description) = Description::read(due.described_by.payload()) else { return };
        // The message enters its queues and the due time is over in one commit.
        let _gate = self.writer.gate();
        let _publishing = self.schedules.publishing.lock();
        if !self.schedules.inside.lock().timetable.is_due(due) {
            // Another has seen to it.
            return;
        }
        let kept;
        let payload = match &description.body {
            Body::Text(text) => text.as_bytes(),
            Body::RetainedOf(topic) => {
                kept = self.retained.matching(topic, self.clock.now());
                let Some(message) = kept.first() else {
                    tracing::warn!(
                        schedule = &*due.name,
                        payload_from = topic,
                        "not published: there is no retained message"
                    );
                    self.counters.schedule_missed.add(1);
                    self.note_done(due);
                    return;
                };
                message.payload()
            }
        };
        let mut properties = due.described_by.properties().to_vec();
        put_user(&mut properties, "schedule", due.name.strip_prefix(PREFIX).unwrap_or(&due.name));
        put_user(&mut properties, "due", &due.at_ms.to_string());
        let Description { topic, qos, retain, .. } = &description;
        let (qos, retain) = (*qos, *retain);
        let source = Source { topic, properties: &properties, payload, qos, retain, expires_at: None };
        let mut staged = Staged::new(source, Durability::Moved);
        self.publish_if_room(&mut staged);
        if staged.verdict == Verdict::Full {
            // It is tried again until the next due time has come.
            return;
        }
        self.counters.schedule_published.add(1);
        self.note_done(due);
    }

    fn note_done(&self, due: &Due) {
        let mut inside = self.schedules.inside.lock();
        if let Some(mark) = inside.timetable.done(due) {
            inside.dirty.insert(due.name.clone(), Some(mark));
        }
        drop(inside);
        self.writer.mark_retained(Urgency::Now);
    }

    pub(super) fn collect_schedules(&self, changes: &mut Vec<KeyedChange>) -> ScheduleWork {
        let dirty = std::mem::take(&mut self.schedules.inside.lock().dirty);
        changes.extend(dirty.iter().map(|(name, mark)| KeyedChange {
            of: Keyed::Schedules,
            key: name.as_bytes().to_vec(),
            value: mark.map(Mark::encode),
        }));
        ScheduleWork(dirty)
    }

    pub(super) fn schedules_not_committed(&self, work: ScheduleWork) {
        let mut inside = self.schedules.inside.lock();
        for (name, mark) in work.0 {
            inside.dirty.entry(name).or_insert(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::by_hand;
    use crate::message::{Parts, Time};

    #[test]
    fn two_that_find_a_schedule_due_publish_it_once() {
        let (broker, _store) = by_hand::broker();
        let queue = by_hand::queue_of(&broker, "a");
        let parts = Parts {
            topic: "$schedule/m",
            properties: &[],
            payload: br#"{"cron":"* * * * *","topic":"a","qos":1,"payload":"x"}"#,
            qos: 1,
            retain: true,
            expires_at: None,
            accepted_at: Time(0),
        };
        let described = [Arc::new(Message::new(&parts, None))];
        let due = {
            let mut inside = broker.schedules.inside.lock();
            inside.timetable.look(120_000, &described, |_| 0);
            inside.timetable.due()
        };
        for _ in 0..2 {
            due.iter().for_each(|due| broker.run_schedule(due));
        }
        assert_eq!((due.len(), queue.figures().messages), (1, 1));
    }
}
