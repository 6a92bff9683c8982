//! From where a reader wants a stream: `$stream/<name>/@…`.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
        }
    }
}
