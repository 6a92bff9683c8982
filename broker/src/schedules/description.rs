//! What a schedule says: JSON in the payload of the retained message `$schedule/<name>`.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use forebay_wire::topic;
use serde::Deserialize;

use super::utc::Utc;

/// What topics of schedules begin with.
pub const PREFIX: &str = "$schedule/";
/// Bytes of a schedule's name.
const NAME_MAX: usize = 256;
/// Bytes of a cron line.
const CRON_MAX: usize = 256;

/// What is to be published, where, and when.
pub struct Description {
    cron: Cron,
    /// On which topic.
    pub topic: String,
    /// What the message says.
    pub body: Body,
    /// 0 to 2.
    pub qos: u8,
    /// Whether it is retained.
    pub retain: bool,
}

/// Where a payload comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The schedule has it.
    Text(String),
    /// It is that of the retained message of this topic, as it is when the schedule is due.
    RetainedOf(String),
}

/// Why it is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// `$schedule/` and nothing, or more than a name may have.
    #[error("a schedule's topic is $schedule/<name>, and the name has up to {NAME_MAX} bytes")]
    Name,
    /// Without RETAIN it would be gone at once.
    #[error("a schedule is a retained message: publish it with RETAIN, and an empty retained one to cancel it")]
    NotRetained,
    /// The payload is not the JSON that it should be.
    #[error(r#"a schedule is JSON such as {{"cron":"*/5 * * * *","topic":"a/b","payload":"x"}}: {0}"#)]
    Form(String),
    /// It has both payloads.
    #[error("a schedule has `payload` or `payload_from`, not both")]
    TwoPayloads,
    /// The cron line.
    #[error("the cron line \"{0}\" is not understood: {1}")]
    Cron(String, String),
    /// The cron line names times that never come.
    #[error("the cron line \"{0}\" is never due")]
    Never(String),
    /// The topic of the message, or that of its payload.
    #[error("\"{0}\" is not the name of a topic: it is empty, has wildcards, or begins with $")]
    Topic(String),
    /// The QoS.
    #[error("qos must be 0, 1 or 2, is {0}")]
    Qos(u8),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cron: String,
    topic: String,
    payload: Option<String>,
    payload_from: Option<String>,
    #[serde(default = "at_least_once")]
    qos: u8,
    #[serde(default)]
    retain: bool,
}

fn at_least_once() -> u8 {
    1
}

/// The name of the schedule that a topic is for; `None`: it is not for one.
///
/// # Errors
/// It has no name, or too long a one.
pub fn name_of(topic: &str) -> Option<Result<&str, Wrong>> {
    let name = topic.strip_prefix(PREFIX)?;
    Some(if name.is_empty() || name.len() > NAME_MAX { Err(Wrong::Name) } else { Ok(name) })
}

impl Description {
    /// Reads the payload of a schedule.
    ///
    /// # Errors
    /// It is none; the error says why.
    pub fn read(payload: &[u8]) -> Result<Self, Wrong> {
        let raw: Raw = serde_json::from_slice(payload).map_err(|error| Wrong::Form(error.to_string()))?;
        let body = match (raw.payload, raw.payload_from) {
            (Some(_), Some(_)) => return Err(Wrong::TwoPayloads),
            (text, None) => Body::Text(text.unwrap_or_default()),
            (None, Some(topic)) => Body::RetainedOf(named(topic)?),
        };
        if raw.qos > 2 {
            return Err(Wrong::Qos(raw.qos));
        }
        let (cron, topic) = (cron(&raw.cron)?, named(raw.topic)?);
        Ok(Self { cron, topic, body, qos: raw.qos, retain: raw.retain })
    }

    /// Its first due time after a moment; both in milliseconds since 1970. `None`: there is none.
    #[must_use]
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        next_after(&self.cron, ms)
    }

    pub(super) fn into_cron(self) -> Cron {
        self.cron
    }
}

pub(super) fn next_after(cron: &Cron, ms: u64) -> Option<u64> {
    cron.find_next_occurrence(&Utc::from_ms(ms)?, false).ok()?.ms()
}

fn cron(line: &str) -> Result<Cron, Wrong> {
    if line.len() > CRON_MAX {
        return Err(Wrong::Cron("...".to_owned(), format!("it is longer than {CRON_MAX} bytes")));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    let cron = parser.parse(line).map_err(|error| Wrong::Cron(line.to_owned(), error.to_string()))?;
    // 2000-01-01: every line that is ever due is due after it, unless it names a year that is over.
    if next_after(&cron, 946_684_800_000).is_none() {
        return Err(Wrong::Never(line.to_owned()));
    }
    Ok(cron)
}

fn named(name: String) -> Result<String, Wrong> {
    let wrong = name.starts_with('$') || topic::check_name(&name, usize::MAX).is_err();
    if wrong { Err(Wrong::Topic(name)) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Description, Wrong> {
        Description::read(json.as_bytes())
    }

    #[test]
    fn a_description_says_when_where_and_what() {
        let short = read(r#"{"cron":"*/5 * * * *","topic":"a/b"}"#).unwrap();
        assert_eq!((&*short.topic, short.qos, short.retain), ("a/b", 1, false));
        assert_eq!(short.body, Body::Text(String::new()));
        let long = read(r#"{"cron":"@daily","topic":"a","payload_from":"c","qos":2,"retain":true}"#).unwrap();
        assert_eq!((long.body, long.qos, long.retain), (Body::RetainedOf("c".to_owned()), 2, true));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (json, words) in [
            ("", "is JSON such as"),
            (r#"{"cron":"* * * * *"}"#, "missing field `topic`"),
            (r#"{"cron":"* * * * *","topic":"a","pay":"x"}"#, "unknown field `pay`"),
            (r#"{"cron":"* * * * *","topic":"a","payload":"x","payload_from":"b"}"#, "not both"),
            (r#"{"cron":"61 * * * *","topic":"a"}"#, "\"61 * * * *\" is not understood"),
            (r#"{"cron":"soon","topic":"a"}"#, "\"soon\" is not understood"),
            (r#"{"cron":"0 0 30 2 *","topic":"a"}"#, "never due"),
            (r#"{"cron":"* * * * *","topic":"a/#"}"#, "\"a/#\" is not the name of a topic"),
            (r#"{"cron":"* * * * *","topic":"$SYS/x"}"#, "\"$SYS/x\" is not the name of a topic"),
            (r#"{"cron":"* * * * *","topic":"a","payload_from":""}"#, "\"\" is not the name of a topic"),
            (r#"{"cron":"* * * * *","topic":"a","qos":3}"#, "is 3"),
        ] {
            let wrong = read(json).err().unwrap().to_string();
            assert!(wrong.contains(words), "{json}: {wrong}");
        }
        let long = format!(r#"{{"cron":"{}","topic":"a"}}"#, "1,".repeat(200));
        assert!(read(&long).err().unwrap().to_string().contains("longer than"));
    }

    /// 2027-01-31 23:59:30 UTC, a Sunday.
    const AT: u64 = 1_801_439_970_000;

    #[test]
    fn times_are_those_of_cron_in_utc() {
        let after = |line: &str| {
            let json = format!(r#"{{"cron":"{line}","topic":"a"}}"#);
            (read(&json).unwrap().next_after(AT).unwrap() - AT) / 1000
        };
        const DAY: u64 = 86_400;
        assert_eq!(after("* * * * *"), 30);
        assert_eq!(after("*/10 * * * * *"), 10);
        assert_eq!(after("@hourly"), 30);
        assert_eq!(after("0 0 * * MON"), 30);
        assert_eq!(after("0 0 * * SUN"), 30 + 6 * DAY);
        assert_eq!(after("0 0 31 * *"), 30 + 58 * DAY, "February has none");
        assert_eq!(after("0 0 29 2 *"), 30 + (28 + 365) * DAY, "2028 is a leap year");
        assert_eq!(after("30 59 23 * * *"), DAY, "now is not after now");
    }
}
