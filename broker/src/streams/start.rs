//! From where, and how far, a reader wants a stream: `$stream/<name>/@…`, or the user properties of its SUBSCRIBE.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::config;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    Latest,
    /// With the oldest message that is kept.
    Earliest,
    /// With this offset.
    Offset(u64),
    /// With the last so many.
    Last(u64),
    /// With the first message from this time on, in milliseconds since 1970.
    Time(u64),
    /// With the messages of so many milliseconds until now.
    Ago(u64),
}

/// Where a reader ends: with the last message before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The message with this offset.
    Offset(u64),
    /// The first one from this time on, in milliseconds since 1970.
    Time(u64),
}

impl Until {
    /// Whether a message lies behind the end.
    #[must_use]
    pub fn is_over(self, offset: u64, time_ms: u64) -> bool {
        match self {
            Self::Offset(end) => offset >= end,
            Self::Time(end) => time_ms >= end,
        }
    }
}

/// What a reader wants of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it begins.
    pub start: Start,
    /// Where it ends; `None`: never.
    pub until: Option<Until>,
}

impl Wanted {
    /// What stands behind the stream's name and a slash: `@` and a place, and perhaps `..` and another.
    ///
    /// # Errors
    /// It is no part of a stream.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let Some((start, until)) = text.split_once("..") else {
            return Ok(Self { start: Start::parse(text)?, until: None });
        };
        let until = match Start::parse(&format!("@{until}"))? {
            Start::Offset(offset) => Until::Offset(offset),
            Start::Time(time) => Until::Time(time),
            Start::Latest | Start::Earliest | Start::Last(_) | Start::Ago(_) => return Err(Wrong),
        };
        Ok(Self { start: Start::parse(start)?, until: Some(until) })
    }

    /// The same as the user properties of a SUBSCRIBE say it: what is to stand behind the stream's name and a slash.
    /// `None`: they say nothing of it.
    #[must_use]
    pub fn of_properties(user: &[(String, String)]) -> Option<String> {
        let said = |name: &str| {
            let found = user.iter().find(|(known, _)| known == name);
            // What is longer is no place.
            found.map(|(_, value)| if value.len() > PLACE_MAX { "?".to_owned() } else { in_topic(value) })
        };
        match (said(OFFSET), said(UNTIL)) {
            (None, None) => None,
            (Some(start), None) => Some(format!("@{start}")),
            (start, Some(until)) => Some(format!("@{}..{until}", start.as_deref().unwrap_or("latest"))),
        }
    }
}

/// The user property that says where a reader begins.
const OFFSET: &str = "stream-offset";
/// The user property that says where it ends.
const UNTIL: &str = "stream-until";

/// Bytes of a place: a date in full has fewer.
const PLACE_MAX: usize = 64;

/// A topic filter cannot hold all that a date may: such a one is written in UTC.
fn in_topic(place: &str) -> String {
    let date =
        Some(place).filter(|place| place.contains('+')).and_then(|date| OffsetDateTime::parse(date, &Rfc3339).ok());
    date.and_then(|date| date.to_offset(UtcOffset::UTC).format(&Rfc3339).ok()).unwrap_or_else(|| place.to_owned())
}

/// It says none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong;

impl Start {
    /// What stands behind the stream's name and a slash.
    ///
    /// # Errors
    /// It is no place in a stream.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let place = text.strip_prefix('@').ok_or(Wrong)?;
        let number = |digits: &str| {
            let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|_| all)
        };
        match (place, place.strip_prefix('-')) {
            ("earliest", _) => Ok(Self::Earliest),
            ("latest", _) => Ok(Self::Latest),
            (_, Some(back)) => match number(back) {
                Some(count) => Ok(Self::Last(count)),
                None => Self::ago(back),
            },
            (_, None) => match number(place) {
                Some(offset) => Ok(Self::Offset(offset)),
                None => Self::at(place),
            },
        }
    }

    fn ago(text: &str) -> Result<Self, Wrong> {
        // Minutes are `m` for most people; the configuration writes `min`.
        let minutes = text.strip_suffix('m').map(|number| format!("{number}min"));
        let time = config::duration_of(minutes.as_deref().unwrap_or(text)).map_err(|_| Wrong)?;
        Ok(Self::Ago(u64::try_from(time.as_millis()).map_err(|_| Wrong)?))
    }

    fn at(date: &str) -> Result<Self, Wrong> {
        let date = OffsetDateTime::parse(date, &Rfc3339).map_err(|_| Wrong)?;
        u64::try_from((date.unix_timestamp_nanos() / 1_000_000).max(0)).map(Self::Time).map_err(|_| Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_stream() {
        for (text, is) in [
            ("@earliest", Ok(Start::Earliest)),
            ("@latest", Ok(Start::Latest)),
            ("@17", Ok(Start::Offset(17))),
            ("@-17", Ok(Start::Last(17))),
            ("@-10m", Ok(Start::Ago(600_000))),
            ("@-10min", Ok(Start::Ago(600_000))),
            ("@-90s", Ok(Start::Ago(90_000))),
            ("@2026-11-29T00:00:00Z", Ok(Start::Time(1_795_910_400_000))),
            ("@1960-01-01T00:00:00Z", Ok(Start::Time(0))),
            ("@", Err(Wrong)),
            ("@-", Err(Wrong)),
            ("@x", Err(Wrong)),
            ("17", Err(Wrong)),
            ("@18446744073709551616", Err(Wrong)),
        ] {
            assert_eq!(Start::parse(text), is, "{text}");
            assert_eq!(Wanted::parse(text).map(|wanted| wanted.start), is, "{text}");
        }
    }

    #[test]
    fn parts_of_a_stream() {
        let part = |start, until| Ok(Wanted { start, until: Some(until) });
        assert_eq!(Wanted::parse("@3..5"), part(Start::Offset(3), Until::Offset(5)));
        let until = Until::Time(1_795_910_400_000);
        assert_eq!(Wanted::parse("@earliest..2026-11-29T00:00:00Z"), part(Start::Earliest, until));
        for wrong in ["@3..", "@..5", "@3..latest", "@3..-5", "3..5", "@3..5..7"] {
            assert_eq!(Wanted::parse(wrong), Err(Wrong), "{wrong}");
        }
        assert!(until.is_over(0, 1_795_910_400_000) && !until.is_over(9, 1_795_910_399_999));
        assert!(Until::Offset(5).is_over(5, 0) && !Until::Offset(5).is_over(4, 0));
    }

    #[test]
    fn properties_say_the_same() {
        let user = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let said = |all| Wanted::of_properties(&user(all));
        assert_eq!(said(&[("other", "1")]), None);
        assert_eq!(said(&[("stream-offset", "-10m")]).as_deref(), Some("@-10m"));
        assert_eq!(said(&[("stream-offset", "3"), ("stream-until", "5")]).as_deref(), Some("@3..5"));
        assert_eq!(said(&[("stream-until", "5")]).as_deref(), Some("@latest..5"));
        let zone = said(&[("stream-offset", "2026-11-29T01:00:00+01:00")]);
        assert_eq!(zone.as_deref(), Some("@2026-11-29T00:00:00Z"));
    }
}
