//! When messages were published, by the wall clock: a message has the broker's own time, which no step of the wall clock changes.
//!
//! What is said of a message once is said of it again, after a restart too, whatever the wall clock shows by then: what lies between the
//! two clocks is written to a file before it is used, and holds for what is published from then on. Where the wall clock cannot be
//! right, nothing is said of what is published.

use std::collections::VecDeque;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::identity;
use crate::message::Time;

/// The wall clock was set when it has moved by more than this against the broker's.
const STEP_MS: u64 = 1_000;
/// A wall clock that is set again and again is looked at so often.
const LOOK_MS: u64 = 60_000;
/// Spans that are remembered; of what is older than the first nothing is said.
const SPANS_MAX: usize = 256;

/// How far the wall clock was ahead of the broker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    since: Time,
    ahead_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Timeline {
    file: PathBuf,
    /// Of which queue's life: another one's times are others.
    epoch: u64,
    spans: VecDeque<Span>,
    /// Nothing was said of any message of this epoch.
    is_new: bool,
    /// When the file could not be written: it is tried again after a while.
    failed_at: Option<Time>,
}

impl Timeline {
    /// Goes on as it was left.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(data_dir: &Path, bridge: &str, epoch: u64) -> io::Result<Self> {
        let file = identity::folder(data_dir).join(format!("{bridge}.times"));
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            other => Some(other?),
        };
        let known = text.and_then(|text| parse(&text, epoch));
        Ok(Self { file, epoch, is_new: known.is_none(), spans: known.unwrap_or_default(), failed_at: None })
    }

    /// Looks at the clocks. `wall_ms`: `None` where the wall clock cannot be right.
    ///
    /// # Errors
    /// The file cannot be written: what held holds, and it is tried again after a minute.
    pub fn look(&mut self, now: Time, wall_ms: Option<u64>) -> io::Result<()> {
        let ahead_ms = wall_ms.and_then(|wall_ms| wall_ms.checked_sub(now.0));
        let span = match (ahead_ms, self.spans.back()) {
            (None, _) if !self.is_new => return Ok(()),
            (None, _) => None,
            (Some(ahead_ms), Some(last))
                if last.ahead_ms.abs_diff(ahead_ms) <= STEP_MS || now.since(last.since) < LOOK_MS =>
            {
                return Ok(());
            }
            // What waits since before is taken to be of this clock too.
            (Some(ahead_ms), None) if self.is_new => Some(Span { since: Time(0), ahead_ms }),
            (Some(ahead_ms), _) => Some(Span { since: now, ahead_ms }),
        };
        if self.failed_at.is_some_and(|at| now.since(at) < LOOK_MS) {
            return Ok(());
        }
        let mut spans = self.spans.clone();
        spans.extend(span);
        while spans.len() > SPANS_MAX {
            spans.pop_front();
        }
        self.failed_at = Some(now);
        identity::write(&self.file, &text(&spans, self.epoch))?;
        (self.spans, self.is_new, self.failed_at) = (spans, false, None);
        Ok(())
    }

    /// Milliseconds since 1970 at this time; `None`: it is not known, and never will be.
    #[must_use]
    pub fn wall_ms(&self, at: Time) -> Option<u64> {
        let span = self.spans.iter().rev().find(|span| span.since <= at)?;
        Some(span.ahead_ms.saturating_add(at.0))
    }
}

fn text(spans: &VecDeque<Span>, epoch: u64) -> String {
    let mut text = format!("{epoch}\n");
    for Span { since, ahead_ms } in spans {
        let _ = writeln!(text, "{} {ahead_ms}", since.0);
    }
    text
}

/// `None`: it is of another epoch, or damaged.
fn parse(text: &str, epoch: u64) -> Option<VecDeque<Span>> {
    let mut lines = text.lines();
    lines.next()?.parse().ok().filter(|known: &u64| *known == epoch)?;
    let span = |line: &str| {
        let (since, ahead_ms) = line.split_once(' ')?;
        Some(Span { since: Time(since.parse().ok()?), ahead_ms: ahead_ms.parse().ok()? })
    };
    lines.map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn open(data_dir: &Path) -> Timeline {
        fs::create_dir_all(identity::folder(data_dir)).unwrap();
        Timeline::of(data_dir, "up", 7).unwrap()
    }

    #[test]
    fn what_was_said_once_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let mut times = open(scratch.path());
        times.look(Time(1_000), Some(DAY)).unwrap();
        assert_eq!(times.wall_ms(Time(400)), Some(DAY - 600));
        // The clock is set, drifts, and is set again.
        times.look(Time(100_000), Some(9 * DAY)).unwrap();
        times.look(Time(200_000), Some(9 * DAY + 100_900)).unwrap();
        times.look(Time(300_000), Some(2 * DAY)).unwrap();
        let all =
            |times: &Timeline| [400, 99_999, 100_000, 299_999, 300_000].map(|at| times.wall_ms(Time(at)).unwrap());
        let said = all(&times);
        assert_eq!(said, [DAY - 600, DAY + 98_999, 9 * DAY, 9 * DAY + 199_999, 2 * DAY]);
        assert_eq!(all(&open(scratch.path())), said, "after a restart");
        let other = Timeline::of(scratch.path(), "up", 8).unwrap();
        assert_eq!(other.wall_ms(Time(400)), None, "another queue's times are others");
    }

    #[test]
    fn a_clock_that_is_not_set_says_nothing_and_never_will() {
        let scratch = tempfile::tempdir().unwrap();
        let mut times = open(scratch.path());
        times.look(Time(1_000), None).unwrap();
        assert_eq!(times.wall_ms(Time(500)), None);
        for mut times in [times, open(scratch.path())] {
            times.look(Time(2_000), Some(DAY)).unwrap();
            assert_eq!((times.wall_ms(Time(500)), times.wall_ms(Time(2_000))), (None, Some(DAY)));
        }
    }

    #[test]
    fn a_clock_that_jumps_is_bounded_and_a_damaged_file_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let mut times = open(scratch.path());
        for n in 1..2_000_u64 {
            times.look(Time(n * LOOK_MS / 4), Some(DAY * n)).unwrap();
        }
        assert_eq!(times.spans.len(), SPANS_MAX);
        assert_eq!(times.wall_ms(Time(5)), None, "it is forgotten");
        fs::write(&times.file, "7\n\0").unwrap();
        assert!(open(scratch.path()).is_new);
    }

    #[test]
    fn what_cannot_be_written_is_not_said() {
        let scratch = tempfile::tempdir().unwrap();
        let mut times = Timeline::of(scratch.path(), "up", 7).unwrap();
        times.look(Time(1_000), Some(DAY)).unwrap_err();
        assert_eq!(times.wall_ms(Time(1_000)), None);
        times.look(Time(LOOK_MS), Some(DAY)).unwrap();
        times.look(Time(LOOK_MS + 1_000), Some(DAY)).unwrap_err();
        fs::create_dir_all(identity::folder(scratch.path())).unwrap();
        times.look(Time(2 * LOOK_MS + 1_000), Some(DAY)).unwrap();
        assert_eq!(times.wall_ms(Time(1_000)), Some(DAY - 2 * LOOK_MS));
    }
}
