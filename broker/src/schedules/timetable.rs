//! When each schedule is due next. It is made from the retained messages that describe the schedules, and from what the store
//! remembers of the times that have been.
//!
//! A due time comes once: a wall clock that steps back a little shows no time again, and one that steps forward, or was not
//! seen for a while, gives the last of the due times that were passed over; the others are counted as missed.

use std::sync::Arc;

use croner::Cron;
use hashbrown::HashMap;

use super::description::{Description, name_of, next_after};
use crate::message::Message;

/// Due times that are looked through in one go, and counted: a wall clock that was wrong by years passes over millions.
const MISSED_AT_ONCE: u64 = 10_000;
/// A wall clock that is behind by more than this has been wrong before, milliseconds: schedules begin anew.
const BACK_MAX_MS: u64 = 24 * 3_600_000;

/// What the store remembers of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Everything up to this time has been seen to, milliseconds since 1970.
    pub until_ms: u64,
    /// Of the description that this was said of.
    pub checksum: u32,
}

impl Mark {
    /// As it lies in the store.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        [self.until_ms.to_be_bytes().as_slice(), &self.checksum.to_be_bytes()].concat()
    }

    /// What was encoded.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (until_ms, rest) = bytes.split_first_chunk()?;
        let checksum = u32::from_be_bytes(rest.try_into().ok()?);
        Some(Self { until_ms: u64::from_be_bytes(*until_ms), checksum })
    }
}

/// A schedule whose time has come.
pub struct Due {
    /// Its topic.
    pub name: Arc<str>,
    /// The message that describes it.
    pub described_by: Arc<Message>,
    /// The due time, milliseconds since 1970.
    pub at_ms: u64,
}

struct Entry {
    message: Arc<Message>,
    checksum: u32,
    /// `None`: what the message says is no schedule.
    cron: Option<Box<Cron>>,
    next_ms: Option<u64>,
    /// The last look that found it there.
    seen: u64,
}

/// All schedules, by their topics.
#[derive(Default)]
pub struct Timetable {
    entries: HashMap<Arc<str>, Entry>,
    marks: HashMap<Arc<str>, Mark>,
    looks: u64,
    wall_ms: u64,
    missed: u64,
}

impl Timetable {
    /// What the store remembers; before the first look.
    pub fn recover(&mut self, name: &str, mark: Mark) {
        self.marks.insert(name.into(), mark);
    }

    /// How many schedules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.values().filter(|entry| entry.cron.is_some()).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Due times that were passed over since the last call.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// A look at the wall clock and at the messages that describe schedules now; `accepted_ms` says when such a message came,
    /// by the wall clock as it is now. Returns the names whose marks are over, for the store.
    pub fn look(
        &mut self,
        wall_ms: u64,
        described: &[Arc<Message>],
        accepted_ms: impl Fn(&Message) -> u64,
    ) -> Vec<Arc<str>> {
        self.looks += 1;
        let before = std::mem::replace(&mut self.wall_ms, wall_ms);
        if wall_ms.saturating_add(BACK_MAX_MS) < before {
            self.begin_anew();
        }
        for message in described {
            self.describe(message, accepted_ms(message));
        }
        let (entries, looks) = (&mut self.entries, self.looks);
        entries.retain(|_, entry| entry.seen == looks);
        let over: Vec<_> = self.marks.keys().filter(|name| !entries.contains_key(*name)).cloned().collect();
        for name in &over {
            self.marks.remove(name);
        }
        over
    }

    /// The wall clock was wrong by far when the due times were found.
    fn begin_anew(&mut self) {
        for entry in self.entries.values_mut() {
            entry.next_ms = entry.cron.as_ref().and_then(|cron| next_after(cron, self.wall_ms));
        }
    }

    fn describe(&mut self, message: &Arc<Message>, accepted_ms: u64) {
        let looks = self.looks;
        let checksum = crc32fast::hash(message.payload());
        if let Some(entry) = self.entries.get_mut(message.topic()) {
            entry.seen = looks;
            let same = entry.checksum == checksum && entry.message.payload() == message.payload();
            if same || Arc::ptr_eq(&entry.message, message) {
                // Said again: nothing that is due may be forgotten.
                entry.message = message.clone();
                return;
            }
        }
        let Some(name) = name_of(message.topic()) else { return };
        let cron = match name.and_then(|_| Description::read(message.payload())) {
            Ok(description) => Some(Box::new(description.into_cron())),
            Err(wrong) => {
                tracing::warn!(topic = message.topic(), "a retained message is no schedule: {wrong}");
                None
            }
        };
        let mark = self.marks.get(message.topic()).filter(|mark| mark.checksum == checksum);
        let mark = mark.filter(|mark| mark.until_ms <= self.wall_ms.saturating_add(BACK_MAX_MS));
        let from_ms = mark.map_or(accepted_ms.min(self.wall_ms), |mark| mark.until_ms);
        let next_ms = cron.as_ref().and_then(|cron| next_after(cron, from_ms));
        let entry = Entry { message: message.clone(), checksum, cron, next_ms, seen: looks };
        self.entries.insert(message.topic().into(), entry);
    }

    /// Those that are due, in order of their due times. Of several due times of one that are over the last is given.
    pub fn due(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        for (name, entry) in &mut self.entries {
            let (Some(cron), Some(next_ms)) = (&entry.cron, entry.next_ms.filter(|next| *next <= self.wall_ms)) else {
                continue;
            };
            let (at_ms, missed) = last_until(cron, next_ms, self.wall_ms);
            self.missed += missed;
            entry.next_ms = Some(at_ms);
            due.push(Due { name: name.clone(), described_by: entry.message.clone(), at_ms });
        }
        due.sort_unstable_by(|a, b| (a.at_ms, &a.name).cmp(&(b.at_ms, &b.name)));
        due
    }

    /// Whether a due time has not been seen to, and no later one has come since.
    #[must_use]
    pub fn is_due(&self, due: &Due) -> bool {
        self.entries.get(&due.name).is_some_and(|entry| entry.next_ms == Some(due.at_ms))
    }

    /// A due time has been seen to. Returns its mark, for the store.
    pub fn done(&mut self, due: &Due) -> Option<Mark> {
        let entry = self.entries.get_mut(&due.name)?;
        entry.next_ms = entry.cron.as_ref().and_then(|cron| next_after(cron, due.at_ms));
        let mark = Mark { until_ms: due.at_ms, checksum: entry.checksum };
        self.marks.insert(due.name.clone(), mark);
        Some(mark)
    }
}

/// The last due time that is not after `wall_ms`, and how many are before it. `first_ms` is one.
fn last_until(cron: &Cron, first_ms: u64, wall_ms: u64) -> (u64, u64) {
    let (mut at_ms, mut missed) = (first_ms, 0);
    while let Some(next) = next_after(cron, at_ms).filter(|next| *next <= wall_ms) {
        at_ms = next;
        missed += 1;
        if missed >= MISSED_AT_ONCE {
            // There are more than anybody counts: this one is the moment itself.
            return (wall_ms, missed);
        }
    }
    (at_ms, missed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Parts, Time};

    /// 2027-01-15 08:00:00 UTC.
    const START: u64 = 1_800_000_000_000;
    const MINUTE: u64 = 60_000;
    const NONE: [u64; 0] = [];

    fn described(topic: &str, payload: &str) -> Arc<Message> {
        let parts = Parts {
            topic,
            properties: &[],
            payload: payload.as_bytes(),
            qos: 1,
            retain: true,
            expires_at: None,
            accepted_at: Time(0),
        };
        Arc::new(Message::new(&parts, None))
    }

    fn each_minute() -> Arc<Message> {
        described("$schedule/m", r#"{"cron":"* * * * *","topic":"a"}"#)
    }

    /// A look at this time; the due times, all of them seen to.
    fn look(table: &mut Timetable, wall_ms: u64, messages: &[Arc<Message>]) -> Vec<u64> {
        table.look(wall_ms, messages, |_| START);
        let due = table.due();
        let done = due.iter().filter(|due| table.done(due).is_some()).map(|due| due.at_ms - START);
        done.collect()
    }

    #[test]
    fn each_due_time_comes_once_and_what_was_passed_over_is_counted() {
        let (mut table, all) = (Timetable::default(), [each_minute()]);
        assert_eq!(look(&mut table, START, &all), NONE, "the time at which it was made is not due");
        assert_eq!(look(&mut table, START + MINUTE - 1, &all), NONE);
        assert_eq!(look(&mut table, START + MINUTE, &all), [MINUTE]);
        assert_eq!(look(&mut table, START + MINUTE + 1, &all), NONE);
        assert_eq!(table.take_missed(), 0);
        assert_eq!(look(&mut table, START + 5 * MINUTE + 7, &all), [5 * MINUTE]);
        assert_eq!(table.take_missed(), 3);
        assert_eq!(look(&mut table, START + 3 * MINUTE, &all), NONE, "the clock stepped back");
        assert_eq!(look(&mut table, START + 5 * MINUTE, &all), NONE);
        assert_eq!(look(&mut table, START + 6 * MINUTE, &all), [6 * MINUTE]);
    }

    #[test]
    fn what_could_not_be_seen_to_is_due_until_the_next_is() {
        let (mut table, all) = (Timetable::default(), [each_minute()]);
        for seconds in [60, 61, 119] {
            table.look(START + seconds * 1000, &all, |_| START);
            assert_eq!(table.due().iter().map(|due| due.at_ms).collect::<Vec<_>>(), [START + MINUTE]);
        }
        assert_eq!(look(&mut table, START + 2 * MINUTE, &all), [2 * MINUTE]);
        assert_eq!(table.take_missed(), 1);
    }

    #[test]
    fn a_clock_that_was_wrong_by_years_holds_nothing_up_and_costs_little() {
        let (mut table, all) =
            (Timetable::default(), [described("$schedule/s", r#"{"cron":"* * * * * *","topic":"a"}"#)]);
        let far = 10 * 365 * 24 * 60 * MINUTE;
        assert_eq!(look(&mut table, START + far, &all), [far], "once, not a hundred million times");
        assert_eq!(table.take_missed(), MISSED_AT_ONCE);
        assert_eq!(look(&mut table, START, &all), NONE);
        assert_eq!(look(&mut table, START + 1000, &all), [1000]);
    }

    #[test]
    fn marks_are_for_the_description_they_were_made_of() {
        let all = [each_minute()];
        let mut table = Timetable::default();
        table.look(START + MINUTE, &all, |_| START);
        let due = table.due();
        let mark = table.done(&due[0]).unwrap();
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[0; 11]), None);

        let mut next_life = Timetable::default();
        next_life.recover("$schedule/m", mark);
        next_life.recover("$schedule/gone", mark);
        let over = next_life.look(START + 3 * MINUTE, &all, |_| START);
        assert_eq!(over, ["$schedule/gone".into()]);
        assert_eq!(next_life.due().iter().map(|due| due.at_ms).collect::<Vec<_>>(), [START + 3 * MINUTE]);
        assert_eq!(next_life.take_missed(), 1);

        let mut changed = Timetable::default();
        changed.recover("$schedule/m", mark);
        let other = [described("$schedule/m", r#"{"cron":"* * * * *","topic":"b"}"#)];
        changed.look(START + 3 * MINUTE, &other, |_| START + 3 * MINUTE - 1);
        assert_eq!(changed.due().iter().map(|due| due.at_ms).collect::<Vec<_>>(), [START + 3 * MINUTE]);
        assert_eq!(changed.take_missed(), 0, "what it was before is over");

        let mut ahead = Timetable::default();
        ahead.recover("$schedule/m", Mark { until_ms: START + 400 * 24 * 60 * MINUTE, ..mark });
        assert_eq!(look(&mut ahead, START + MINUTE, &all), [MINUTE], "made by a clock that was wrong by a year");
    }

    #[test]
    fn it_is_as_the_retained_messages_are() {
        let mut table = Timetable::default();
        assert_eq!(look(&mut table, START, &[each_minute()]), NONE);
        // Said again, as a device does whenever it starts: the due time stays.
        assert_eq!(look(&mut table, START + MINUTE + 5, &[each_minute()]), [MINUTE]);
        let none = [described("$schedule/m", "often"), described("$schedule/", "{}")];
        assert_eq!(look(&mut table, START + 2 * MINUTE, &none), NONE);
        assert!(table.is_empty());
        assert_eq!(look(&mut table, START + 3 * MINUTE, &[each_minute()]), [3 * MINUTE]);
        assert_eq!(table.len(), 1);
        assert_eq!(table.look(START + 4 * MINUTE, &[], |_| START), ["$schedule/m".into()]);
        assert!(table.due().is_empty() && table.is_empty());
    }
}
