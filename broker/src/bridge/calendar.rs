//! Days and times of the day, by the wall clock and an offset from UTC that does not change: a gateway has no time zones' rules.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MINUTE_MS: u64 = 60_000;
/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// How far the local time is ahead of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// What is to be added to UTC, less than a day: an offset of -1 h is one of 23 h, on the day before.
    ahead_ms: u64,
    is_behind: bool,
}

/// Milliseconds since midnight of a text such as `06:00`.
///
/// # Errors
/// It is no time of the day.
pub fn time_of_day(text: &str) -> Result<u64, String> {
    let part = |text: &str, max: u64| {
        let fits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|n: &u64| fits && *n <= max)
    };
    let parts = text.split_once(':').and_then(|(hours, minutes)| Some((part(hours, 23)?, part(minutes, 59)?)));
    let (hours, minutes) = parts.ok_or_else(|| format!("\"{text}\" is no time of the day such as \"06:00\""))?;
    Ok((hours * 60 + minutes) * MINUTE_MS)
}

impl Calendar {
    /// Of an offset such as `+02:00`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no offset from UTC such as \"+02:00\" or \"-03:30\", at most 14 hours");
        let (is_behind, rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong()),
        };
        let offset = time_of_day(rest).ok().filter(|ms| *ms <= 14 * 60 * MINUTE_MS).ok_or_else(wrong)?;
        let is_behind = is_behind && offset > 0;
        Ok(Self { ahead_ms: if is_behind { DAY_MS - offset } else { offset }, is_behind })
    }

    /// The number of the day, and milliseconds of it that have passed.
    fn at(self, wall_ms: u64) -> (u64, u64) {
        let local = wall_ms.saturating_add(self.ahead_ms);
        let day = local / DAY_MS;
        (if self.is_behind { day.saturating_sub(1) } else { day }, local % DAY_MS)
    }

    /// The number of the day at this moment, milliseconds since 1970.
    #[must_use]
    pub fn day(self, wall_ms: u64) -> u64 {
        self.at(wall_ms).0
    }

    /// The first moment after this one at which it is this time of the day.
    #[must_use]
    pub fn next(self, time_of_day_ms: u64, wall_ms: u64) -> u64 {
        let (_, passed) = self.at(wall_ms);
        let until = (time_of_day_ms + DAY_MS - passed) % DAY_MS;
        wall_ms.saturating_add(if until == 0 { DAY_MS } else { until })
    }

    /// A moment in words, with the offset.
    #[must_use]
    pub fn words(self, wall_ms: u64) -> String {
        let behind_ms = if self.is_behind { DAY_MS } else { 0 };
        let Some(local_ms) = wall_ms.saturating_add(self.ahead_ms).checked_sub(behind_ms) else { return String::new() };
        let minutes = (i64::try_from(self.ahead_ms).unwrap_or(0) - i64::try_from(behind_ms).unwrap_or(0)) / 60_000;
        let date = i64::try_from(local_ms / 1_000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let utc = date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default();
        match minutes {
            0 => utc,
            _ => {
                let (sign, minutes) = if minutes < 0 { ('-', -minutes) } else { ('+', minutes) };
                format!("{}{sign}{:02}:{:02}", utc.trim_end_matches('Z'), minutes / 60, minutes % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-01-15T08:00:00Z
    const MORNING: u64 = 1_800_000_000_000;
    const HOUR: u64 = 60 * MINUTE_MS;

    #[test]
    fn what_is_no_time_is_refused() {
        assert_eq!((time_of_day("06:30"), time_of_day("23:59")), (Ok(13 * HOUR / 2), Ok(DAY_MS - MINUTE_MS)));
        for wrong in ["", "6:00", "24:00", "06:60", "06", "06:00:00", "+6:00", "06:0é"] {
            assert!(time_of_day(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "02:00", "+2", "+15:00", "Z", "--01:00"] {
            assert!(Calendar::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Calendar::parse("-00:00"), Ok(Calendar::default()));
    }

    #[test]
    fn days_begin_at_local_midnight() {
        let utc = Calendar::default();
        let (east, west) = (Calendar::parse("+05:30").unwrap(), Calendar::parse("-09:00").unwrap());
        let today = MORNING / DAY_MS;
        assert_eq!([utc, east, west].map(|calendar| calendar.day(MORNING)), [today, today, today - 1]);
        for (calendar, midnight) in [(utc, 16), (east, 10), (west, 1)] {
            let at = calendar.next(0, MORNING);
            let half = if calendar == east { HOUR / 2 } else { 0 };
            assert_eq!(at, MORNING + midnight * HOUR + half);
            assert_eq!((calendar.day(at - 1) + 1, calendar.day(MORNING)), (calendar.day(at), calendar.day(at - 1)));
        }
        assert_eq!(utc.next(8 * HOUR, MORNING), MORNING + DAY_MS, "the next one, not this one");
        assert_eq!(utc.next(8 * HOUR, MORNING - 1), MORNING);
        assert_eq!(west.next(23 * HOUR, 0), 8 * HOUR, "in the first hours of 1970 too");
        assert_eq!(west.day(0), 0);
    }

    #[test]
    fn a_moment_says_its_offset() {
        let words = |offset: &str| Calendar::parse(offset).unwrap().words(MORNING);
        assert_eq!(words("+00:00"), "2027-01-15T08:00:00Z");
        assert_eq!(words("+05:30"), "2027-01-15T13:30:00+05:30");
        assert_eq!(words("-09:00"), "2027-01-14T23:00:00-09:00");
    }
}
