//! Bytes that a bridge may send in a day, for a link that is metered.
//!
//! What was used outlives the gateway: a file says it, in steps. A step is written before it is used, so that a gateway that is killed
//! has used at most what the file says.
//!
//! A day ends at local midnight by the wall clock; where that cannot be right, 24 hours after it began by the broker's own clock, so that
//! a board whose clock is never set does not wait for ever. A clock that is set back begins no new day: what was used stays used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::calendar::{Calendar, DAY_MS};
use super::identity;
use crate::message::Time;

/// Steps of a day's budget.
const STEPS: u64 = 64;
/// How often the clocks are looked at while the day's bytes are used up.
const LOOK_MS: u64 = 60_000;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    per_day: u64,
    calendar: Calendar,
    file: PathBuf,
    /// The number of the day, if a clock has said it.
    day: Option<u64>,
    since: Time,
    used: u64,
    /// What the file says.
    written: u64,
    /// When the day ends, by the wall clock; `None`: nobody knows.
    ends_ms: Option<u64>,
    /// And in which time.
    left_ms: Option<u64>,
}

impl Budget {
    /// Goes on as it was left.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(data_dir: &Path, bridge: &str, per_day: u64, calendar: Calendar) -> io::Result<Self> {
        let file = identity::folder(data_dir).join(format!("{bridge}.budget"));
        let text = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let known = parse(&String::from_utf8_lossy(&text));
        let (day, since, used) = known.unwrap_or((None, None, 0));
        let since = since.unwrap_or(Time(0));
        Ok(Self {
            per_day: per_day.max(1),
            calendar,
            file,
            day,
            since,
            used,
            written: used,
            ends_ms: None,
            left_ms: None,
        })
    }

    /// Looks at the clocks: a new day may have begun. `wall_ms`: `None` where the wall clock cannot be right.
    pub fn look(&mut self, now: Time, wall_ms: Option<u64>) {
        let today = wall_ms.map(|wall_ms| self.calendar.day(wall_ms));
        self.ends_ms = wall_ms.map(|wall_ms| self.calendar.next(0, wall_ms));
        self.left_ms = wall_ms.zip(self.ends_ms).map(|(wall_ms, ends_ms)| ends_ms - wall_ms);
        // The store was lost, and the broker's clock with it.
        if now < self.since || self.since == Time(0) {
            self.since = now;
        }
        let is_new = match (self.day, today) {
            (Some(known), Some(today)) => today > known,
            (None, Some(_)) => false,
            (_, None) => now.since(self.since) >= DAY_MS,
        };
        self.day = today.or(self.day);
        if is_new {
            (self.used, self.written, self.since) = (0, 0, now);
        }
    }

    /// Whether a message of this size may leave. The first of a day may be larger than the day's bytes: it would wait for ever.
    #[must_use]
    pub fn allows(&self, size: u64) -> bool {
        self.used == 0 || self.used.saturating_add(size) <= self.per_day
    }

    /// A message of this size is about to leave: the file is to say so before.
    pub fn reserve(&mut self, size: u64) {
        let used = self.used.saturating_add(size);
        if used > self.written {
            self.written = used.saturating_add(self.per_day / STEPS);
            self.write(self.written);
        }
    }

    /// A message has left.
    pub fn sent(&mut self, size: u64) {
        self.used = self.used.saturating_add(size);
    }

    /// Milliseconds until the day may have ended: a clock that was set is seen by then.
    #[must_use]
    pub fn wait_ms(&self) -> u64 {
        self.left_ms.unwrap_or(LOOK_MS).clamp(1, LOOK_MS)
    }

    /// Bytes of a day, and those of them that are used.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        (self.per_day, self.used)
    }

    /// When the day ends, in words.
    #[must_use]
    pub fn until(&self) -> String {
        let unknown = || "24 hours after the first of it, since the wall clock is not set".to_owned();
        self.ends_ms.map_or_else(unknown, |at| self.calendar.words(at))
    }

    /// A gateway that is killed after the file could not be written counts less than it used.
    fn write(&self, used: u64) {
        let day = self.day.map_or("-".to_owned(), |day| day.to_string());
        if let Err(error) = identity::write(&self.file, &format!("{day} {} {used}", self.since.0)) {
            tracing::warn!("{}: what is used of the day's bytes cannot be written: {error}", self.file.display());
        }
    }
}

impl Drop for Budget {
    /// What was not used of the last step is there again after a start.
    fn drop(&mut self) {
        if self.written != self.used {
            self.write(self.used);
        }
    }
}

/// The day, when it began and what of it is used; `None`: there is nothing, or it is damaged.
fn parse(text: &str) -> Option<(Option<u64>, Option<Time>, u64)> {
    let mut parts = text.split_whitespace();
    let (day, since, used) = (parts.next()?, parts.next()?, parts.next()?);
    Some((day.parse().ok(), since.parse().ok().map(Time), used.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-01-15T00:00:00Z
    const MIDNIGHT: u64 = 1_800_000_000_000 - 8 * HOUR;
    const HOUR: u64 = 3_600_000;

    fn open(scratch: &Path) -> Budget {
        fs::create_dir_all(identity::folder(scratch)).unwrap();
        Budget::of(scratch, "up", 6_400, Calendar::default()).unwrap()
    }

    /// How many messages of 100 bytes leave.
    fn leave(budget: &mut Budget, most: u64) -> u64 {
        let mut count = 0;
        while count < most && budget.allows(100) {
            budget.reserve(100);
            budget.sent(100);
            count += 1;
        }
        count
    }

    #[test]
    fn a_day_has_its_bytes_and_no_more() {
        let scratch = tempfile::tempdir().unwrap();
        let mut budget = open(scratch.path());
        for day in 0..3 {
            let begins = MIDNIGHT + day * DAY_MS;
            budget.look(Time(1 + day * DAY_MS), Some(begins));
            assert_eq!((leave(&mut budget, 1_000), budget.figures()), (64, (6_400, 6_400)));
            budget.look(Time(day * DAY_MS + DAY_MS), Some(begins + DAY_MS - 1));
            assert_eq!(leave(&mut budget, 1_000), 0);
            assert_eq!(budget.wait_ms(), 1);
        }
        assert_eq!(budget.until(), "2027-01-18T00:00:00Z");
        budget.look(Time(3 * DAY_MS), Some(MIDNIGHT + 2 * DAY_MS + HOUR));
        assert_eq!(budget.wait_ms(), LOOK_MS);
    }

    #[test]
    fn a_message_larger_than_a_day_goes_first_on_one() {
        let scratch = tempfile::tempdir().unwrap();
        let mut budget = open(scratch.path());
        budget.look(Time(1), Some(MIDNIGHT));
        assert_eq!(leave(&mut budget, 1), 1);
        assert!(!budget.allows(10_000));
        budget.look(Time(DAY_MS), Some(MIDNIGHT + DAY_MS));
        assert!(budget.allows(10_000));
        budget.sent(10_000);
        assert!(!budget.allows(1));
    }

    #[test]
    fn a_gateway_that_is_killed_has_used_at_most_what_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let mut all = 0;
        for kill in 0..200 {
            let mut budget = open(scratch.path());
            budget.look(Time(1_000 + kill), Some(MIDNIGHT + kill));
            all += leave(&mut budget, 2);
            std::mem::forget(budget);
        }
        assert!((20..=64).contains(&all), "{all}");
        // One that ends counts what it used.
        let scratch = tempfile::tempdir().unwrap();
        let ended: u64 = (0..200)
            .map(|n| {
                let mut budget = open(scratch.path());
                budget.look(Time(1_000 + n), Some(MIDNIGHT + n));
                leave(&mut budget, 2)
            })
            .sum();
        assert_eq!(ended, 64);
        let mut next = open(scratch.path());
        next.look(Time(DAY_MS), Some(MIDNIGHT + DAY_MS));
        assert_eq!(leave(&mut next, 1_000), 64);
    }

    #[test]
    fn a_clock_that_is_set_begins_a_day_only_forwards() {
        let scratch = tempfile::tempdir().unwrap();
        let mut budget = open(scratch.path());
        budget.look(Time(1_000), Some(MIDNIGHT));
        assert_eq!(leave(&mut budget, 1_000), 64);
        budget.look(Time(2_000), Some(MIDNIGHT - 5 * DAY_MS));
        assert_eq!(leave(&mut budget, 1_000), 0);
        // That was right: the next day is the one after it, and not five days later.
        budget.look(Time(3_000), Some(MIDNIGHT - 4 * DAY_MS));
        assert_eq!(leave(&mut budget, 1_000), 64);
    }

    #[test]
    fn without_a_clock_a_day_has_24_hours() {
        let scratch = tempfile::tempdir().unwrap();
        let mut budget = open(scratch.path());
        budget.look(Time(1_000), None);
        assert_eq!(leave(&mut budget, 1_000), 64);
        assert!(budget.until().contains("not set"));
        drop(budget);
        let mut budget = open(scratch.path());
        for (at, left) in [(DAY_MS, 0), (DAY_MS + 1_000, 64), (DAY_MS + 2_000, 0), (2 * DAY_MS + 1_000, 64)] {
            budget.look(Time(at), None);
            assert_eq!(leave(&mut budget, 1_000), left, "at {at}");
        }
        // The clock is set: what was used is of that day.
        budget.look(Time(2 * DAY_MS + 2_000), Some(MIDNIGHT));
        assert_eq!(leave(&mut budget, 1_000), 0);
        budget.look(Time(2 * DAY_MS + 3_000), Some(MIDNIGHT + DAY_MS));
        assert_eq!(leave(&mut budget, 1_000), 64);
    }

    #[test]
    fn what_is_damaged_or_of_a_store_that_was_lost_does_no_harm() {
        let scratch = tempfile::tempdir().unwrap();
        let mut budget = open(scratch.path());
        budget.look(Time(5 * DAY_MS), None);
        assert_eq!(leave(&mut budget, 1_000), 64);
        drop(budget);
        let mut budget = open(scratch.path());
        for (at, left) in [(1_000, 0), (DAY_MS + 1_000, 64)] {
            budget.look(Time(at), None);
            assert_eq!(leave(&mut budget, 1_000), left, "its clock began anew: at {at}");
        }
        drop(budget);
        fs::write(identity::folder(scratch.path()).join("up.budget"), "\0\u{1}").unwrap();
        let mut budget = open(scratch.path());
        budget.look(Time(1_000), None);
        assert_eq!(leave(&mut budget, 1_000), 64);
    }
}
