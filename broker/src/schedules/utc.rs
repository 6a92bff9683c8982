//! A moment in UTC, as the cron library wants to count with it.

use std::cmp::Ordering;

use croner::errors::CronError;
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use time::{Date, Month, OffsetDateTime, Time};

/// A moment with a resolution of a second.
#[derive(Clone)]
pub(super) struct Utc(OffsetDateTime);

impl Utc {
    /// Milliseconds since 1970, rounded down to a second. `None`: behind the year 9999.
    pub(super) fn from_ms(ms: u64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).ok()?).ok().map(Self)
    }

    /// Milliseconds since 1970; `None` before that.
    pub(super) fn ms(&self) -> Option<u64> {
        u64::try_from(self.0.unix_timestamp()).ok()?.checked_mul(1000)
    }
}

/// A number of the calendar for the other library, which has it in another type.
fn part<T: TryFrom<u32>>(number: u32) -> Result<T, CronError> {
    T::try_from(number).map_err(|_| CronError::InvalidDate)
}

impl CronDateTime for Utc {
    fn to_civil(&self) -> CivilDateTime {
        let Self(at) = self;
        let date = CivilDate::from_parts_unchecked(at.year(), u32::from(u8::from(at.month())), u32::from(at.day()));
        let (hour, minute, second) = at.time().as_hms();
        let time = CivilTime::from_parts_unchecked(u32::from(hour), u32::from(minute), u32::from(second));
        CivilDateTime::new(date, time)
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::from(self.0.weekday().number_days_from_sunday()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let month = Month::try_from(part::<u8>(civil.month())?).map_err(|_| CronError::InvalidDate)?;
        let date = Date::from_calendar_date(civil.year(), month, part(civil.day())?);
        let date = date.map_err(|_| CronError::InvalidDate)?;
        let time = Time::from_hms(part(civil.hour())?, part(civil.minute())?, part(civil.second())?);
        let time = time.map_err(|_| CronError::InvalidTime)?;
        Ok(Resolution::Single(Self(OffsetDateTime::new_utc(date, time))))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(time::Duration::seconds(seconds)).map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
