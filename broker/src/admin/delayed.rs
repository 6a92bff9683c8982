//! Answers about messages that wait for their time.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answers::{DelayedPage, DelayedRow};
use super::handlers::{done, json, limit};
use super::routes::{Ask, Error, Outcome};
use crate::delayed::{Key, Line, MAX_S};

pub(super) fn list(ask: &Ask<'_>) -> Outcome {
    let broker = &ask.on.broker;
    let limit = limit(ask)?;
    let after = ask.query.text("after").map(key_of).transpose()?;
    let from = after.map(|key| Key { arrival: key.arrival.saturating_add(1), ..key });
    let mut found = broker.delayed_from(from, limit + 1).map_err(|error| failed(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let rows: Vec<DelayedRow> = found
        .iter()
        .map(|pending| DelayedRow {
            key: text_of(pending.key),
            topic: pending.message.topic().to_owned(),
            qos: u64::from(pending.message.qos),
            payload_bytes: pending.message.payload().len() as u64,
            due_in_ms: broker.delayed_due_in_ms(pending.key),
            by_wall_clock: pending.key.line == Line::Wall,
        })
        .collect();
    let next = if more { rows.last().map(|row| row.key.clone()) } else { None };
    json(&DelayedPage { total: broker.delayed.totals().messages, delayed: rows, next })
}

pub(super) fn cancel(ask: &Ask<'_>) -> Outcome {
    match ask.on.broker.cancel_delayed(key_of(&ask.name)?).map_err(|error| failed(&error))? {
        true => {
            tracing::info!(key = ask.name, "a delayed message is cancelled through the API");
            done(format!("{} is cancelled", ask.name))
        }
        false => Err(missing(&ask.name)),
    }
}

pub(super) fn move_to(ask: &Ask<'_>) -> Outcome {
    let broker = &ask.on.broker;
    let after_s = ask.query.number("after_s").map_err(Error::Wrong)?;
    let (line, due_ms) = match (after_s, ask.query.text("at")) {
        (Some(seconds), None) if seconds <= MAX_S => {
            (Line::Own, broker.clock.now().0.saturating_add(seconds.saturating_mul(1000)))
        }
        (Some(_), None) => return Err(Error::Wrong(format!("after_s must be {MAX_S} at most"))),
        (None, Some(date)) => (Line::Wall, wall_ms(date)?),
        (None, None) | (Some(_), Some(_)) => return Err(Error::Wrong("say one of after_s and at".to_owned())),
    };
    let moved = broker.move_delayed(key_of(&ask.name)?, line, due_ms).map_err(|error| failed(&error))?;
    let key = moved.map(text_of).ok_or_else(|| missing(&ask.name))?;
    tracing::info!(key = ask.name, new = key, "a delayed message is moved through the API");
    done(format!("{} is {key} from now on", ask.name))
}

fn wall_ms(date: &str) -> Result<u64, Error> {
    let wrong = || Error::Wrong(format!("at is \"{date}\", which is no date such as 2027-01-01T06:00:00Z"));
    let date = OffsetDateTime::parse(date, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from((date.unix_timestamp_nanos() / 1_000_000).max(0)).map_err(|_| wrong())
}

fn failed(error: &crate::store::StoreError) -> Error {
    Error::Failed(error.to_string())
}

fn missing(name: &str) -> Error {
    Error::Missing(format!("there is no delayed message \"{name}\", or not any more"))
}

/// Whose clock, when, and which of those.
fn text_of(key: Key) -> String {
    let line = match key.line {
        Line::Own => "own",
        Line::Wall => "wall",
    };
    format!("{line}-{}-{}", key.due_ms, key.arrival)
}

fn key_of(text: &str) -> Result<Key, Error> {
    let read = || {
        let mut parts = text.split('-');
        let line = match parts.next()? {
            "own" => Line::Own,
            "wall" => Line::Wall,
            _ => return None,
        };
        let (due_ms, arrival) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Key { line, due_ms, arrival })
    };
    read().ok_or_else(|| Error::Wrong(format!("\"{text}\" is not the key of a delayed message")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for line in Line::ALL {
            let key = Key { line, due_ms: 17, arrival: u64::MAX };
            assert_eq!(key_of(&text_of(key)).unwrap(), key);
        }
        for wrong in ["", "own", "own-1", "own-1-2-3", "other-1-2", "own--1-2", "own-1-18446744073709551616"] {
            assert!(key_of(wrong).is_err(), "{wrong}");
        }
    }
}
