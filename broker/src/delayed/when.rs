//! What a publisher says of the time: in the topic (`$delayed/<seconds>/<topic>`, `$delayed/@<RFC 3339>/<topic>`), which every
//! client can, or in the user properties `deliver-after` (seconds) and `deliver-at` (RFC 3339) of MQTT 5.

use forebay_wire::property::{Place, Properties, Property, Spanned};
use forebay_wire::topic;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What topics of delayed messages begin with.
pub const PREFIX: &str = "$delayed/";
/// The user property for "in so many seconds".
pub const DELIVER_AFTER: &str = "deliver-after";
/// The user property for a date.
pub const DELIVER_AT: &str = "deliver-at";
/// The longest delay, in seconds: ten years.
pub const MAX_S: u64 = 10 * 365 * 86_400;

/// When a message is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In so many seconds.
    AfterS(u64),
    /// At this time, in milliseconds since 1970; the past means at once.
    AtMs(u64),
}

/// A publication that is to be delayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed<'a> {
    /// When it is to be sent.
    pub when: When,
    /// On which topic.
    pub topic: &'a str,
    /// With which properties, encoded: those that speak of the delay are left out, or the next broker would delay it again.
    /// `None`: with all of them.
    pub properties: Option<Vec<u8>>,
}

/// What is wrong with the time, or with the topic behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not `$delayed/<seconds>/<topic>`.
    #[error("a delayed topic is $delayed/<seconds>/<topic> or $delayed/@<RFC 3339 date>/<topic>")]
    Form,
    /// Neither a number of seconds nor a date.
    #[error("the delay is neither a whole number of seconds, at most ten years, nor @ and an RFC 3339 date")]
    Time,
    /// Topics of the broker's own cannot be published to, late or not.
    #[error("the topic of a delayed message is empty, has wildcards, or begins with $")]
    Topic,
}

/// What a publication says of its time: `None` if it is for now.
///
/// # Errors
/// It wants a delay, and it is not clear which, or for what topic.
pub fn read<'a>(topic: &'a str, properties: &[u8]) -> Result<Option<Delayed<'a>>, Wrong> {
    if let Some(rest) = topic.strip_prefix(PREFIX) {
        let (time, topic) = rest.split_once('/').ok_or(Wrong::Form)?;
        let when = match time.strip_prefix('@') {
            Some(date) => at(date)?,
            None => after(time)?,
        };
        check(topic)?;
        return Ok(Some(Delayed { when, topic, properties: None }));
    }
    let mut when = None;
    let mut kept = Vec::with_capacity(properties.len());
    for Spanned { property, bytes } in Properties::new(properties, Place::Publish).flatten() {
        if let Property::UserProperty(DELIVER_AFTER, seconds) = property {
            when = Some(after(seconds)?);
        } else if let Property::UserProperty(DELIVER_AT, date) = property {
            when = Some(at(date)?);
        } else {
            kept.extend_from_slice(bytes);
        }
    }
    let Some(when) = when else { return Ok(None) };
    check(topic)?;
    Ok(Some(Delayed { when, topic, properties: Some(kept) }))
}

fn after(seconds: &str) -> Result<When, Wrong> {
    let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = seconds.parse().ok().filter(|seconds| digits && *seconds <= MAX_S).ok_or(Wrong::Time)?;
    Ok(When::AfterS(seconds))
}

fn at(date: &str) -> Result<When, Wrong> {
    let date = OffsetDateTime::parse(date, &Rfc3339).map_err(|_| Wrong::Time)?;
    let ms = date.unix_timestamp_nanos() / 1_000_000;
    Ok(When::AtMs(u64::try_from(ms.max(0)).map_err(|_| Wrong::Time)?))
}

fn check(topic: &str) -> Result<(), Wrong> {
    if topic.starts_with('$') || topic::check_name(topic, usize::MAX).is_err() { Err(Wrong::Topic) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = vec![0x26];
        for text in [name, value] {
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn the_topic_says_when() {
        let read = |topic| read(topic, &[]).map(|delayed| delayed.map(|delayed| (delayed.when, delayed.topic)));
        assert_eq!(read("a/b"), Ok(None));
        assert_eq!(read("$delayed/5/a/b"), Ok(Some((When::AfterS(5), "a/b"))));
        assert_eq!(read("$delayed/0//"), Ok(Some((When::AfterS(0), "/"))));
        assert_eq!(read("$delayed/@1970-01-01T00:00:10Z/t"), Ok(Some((When::AtMs(10_000), "t"))));
        assert_eq!(read("$delayed/@1970-01-01T01:00:10.5-01:00/t"), Ok(Some((When::AtMs(7_210_500), "t"))));
        assert_eq!(read("$delayed/@1960-01-01T00:00:10Z/t"), Ok(Some((When::AtMs(0), "t"))));
        for (topic, wrong) in [
            ("$delayed/5", Wrong::Form),
            ("$delayed/", Wrong::Form),
            ("$delayed/+5/t", Wrong::Time),
            ("$delayed/5s/t", Wrong::Time),
            ("$delayed//t", Wrong::Time),
            ("$delayed/315360001/t", Wrong::Time),
            ("$delayed/99999999999999999999/t", Wrong::Time),
            ("$delayed/@tomorrow/t", Wrong::Time),
            ("$delayed/5/", Wrong::Topic),
            ("$delayed/5/$SYS/x", Wrong::Topic),
            ("$delayed/5/$delayed/5/x", Wrong::Topic),
        ] {
            assert_eq!(read(topic), Err(wrong), "{topic}");
        }
    }

    #[test]
    fn a_property_says_when_and_does_not_travel_on() {
        let mut properties = user("a", "b");
        properties.extend(user(DELIVER_AFTER, "7"));
        properties.extend([0x01, 1]);
        let delayed = read("t", &properties).unwrap().unwrap();
        assert_eq!((delayed.when, delayed.topic), (When::AfterS(7), "t"));
        assert_eq!(delayed.properties, Some([user("a", "b"), vec![0x01, 1]].concat()));
        assert_eq!(read("t", &user(DELIVER_AT, "soon")), Err(Wrong::Time));
        assert_eq!(read("$x/t", &user(DELIVER_AFTER, "7")), Err(Wrong::Topic));
        assert_eq!(read("t", &user("deliver-above", "7")), Ok(None));
    }
}
