//! Answers about the broker as a whole, its store and its retained messages.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::answers::{Done, LogAnswer, RetainedMessage, RetainedPage, RetainedRow};
use super::routes::{Ask, Error, Outcome};
use crate::config::LogLevel;
use crate::logging;
use crate::message::{Message, Parts, Time};
use crate::observe::Snapshot;
use crate::session::Durability;

/// How long a request waits until what it published is on the disk, and between two looks.
const COMMIT_TIME: Duration = Duration::from_secs(10);
const COMMIT_LOOK: Duration = Duration::from_millis(2);
/// How long a client is watched, in seconds, if nobody says how long.
const WATCH_S: u64 = 300;
const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// An answer as JSON.
pub(super) fn json<T: Serialize>(answer: &T) -> Outcome {
    serde_json::to_value(answer).map_err(|error| Error::Failed(error.to_string()))
}

/// `limit` of a query.
pub(super) fn limit(ask: &Ask<'_>) -> Result<usize, Error> {
    let limit = ask.query.number("limit").map_err(Error::Wrong)?.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::Wrong(format!("limit must be 1 to {LIMIT_MAX}, is {limit}")));
    }
    usize::try_from(limit).map_err(|_| Error::Wrong("limit is too large".to_owned()))
}

/// A page out of all that match, in order: those behind `after`, and where the next page begins.
pub(super) fn page<T>(ask: &Ask<'_>, mut all: Vec<T>, key: impl Fn(&T) -> String) -> Result<Page<T>, Error> {
    let limit = limit(ask)?;
    let total = all.len() as u64;
    all.sort_by_cached_key(&key);
    let from = ask.query.text("after").map_or(0, |after| all.partition_point(|item| key(item).as_str() <= after));
    let mut items: Vec<T> = all.into_iter().skip(from).take(limit + 1).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(&key) } else { None };
    Ok(Page { total, items, next })
}

/// One page.
pub(super) struct Page<T> {
    pub(super) total: u64,
    pub(super) items: Vec<T>,
    pub(super) next: Option<String>,
}

pub(super) fn done(what: impl Into<String>) -> Outcome {
    json(&Done { done: what.into() })
}

pub(super) fn status(ask: &Ask<'_>) -> Outcome {
    json(&Snapshot::take(&ask.on.broker))
}

pub(super) fn ledger(ask: &Ask<'_>) -> Outcome {
    json(&Snapshot::take(&ask.on.broker).ledger)
}

pub(super) fn log(_: &Ask<'_>) -> Outcome {
    let level = logging::level().ok_or_else(|| Error::Failed("this broker has no log".to_owned()))?;
    let word = LogLevel::WORDS.iter().find(|(_, of)| *of == level).map_or("", |(word, _)| word);
    let watched = logging::watched();
    json(&LogAnswer {
        level: word.to_owned(),
        lines_lost: logging::lost(),
        lines_left_out: logging::suppressed(),
        client: watched.as_ref().map(|(client, _)| client.to_string()),
        client_for_s: watched.map(|(_, left)| left.as_secs()),
    })
}

pub(super) fn log_set(ask: &Ask<'_>) -> Outcome {
    let wanted = ask.query.text("level").unwrap_or_default();
    let level = LogLevel::WORDS.iter().find(|(word, _)| *word == wanted).map(|(_, level)| *level);
    let level = level.ok_or_else(|| Error::Wrong("level must be error, warn, info, debug or trace".to_owned()))?;
    if !logging::set_level(level) {
        return Err(Error::Failed("this broker has no log".to_owned()));
    }
    tracing::info!(level = wanted, "the level of the log is changed through the API");
    log(ask)
}

pub(super) fn log_watch(ask: &Ask<'_>) -> Outcome {
    let client = ask.query.text("client").unwrap_or_default();
    let seconds = ask.query.number("for_s").map_err(Error::Wrong)?.unwrap_or(WATCH_S);
    if client.is_empty() {
        return Err(Error::Wrong("client must be a client identifier".to_owned()));
    }
    if !(1..=logging::WATCH_MAX.as_secs()).contains(&seconds) {
        return Err(Error::Wrong("for_s must be 1 to 86400 seconds".to_owned()));
    }
    tracing::info!(client, seconds, "its packets are in the log from now on, somebody asks for it through the API");
    logging::watch(client, Duration::from_secs(seconds));
    log(ask)
}

pub(super) fn log_unwatch(ask: &Ask<'_>) -> Outcome {
    logging::unwatch();
    log(ask)
}

pub(super) fn shutdown(ask: &Ask<'_>) -> Outcome {
    tracing::info!("somebody asks for the end through the API");
    ask.on.shutdown.notify_one();
    done("the broker is stopping")
}

/// A payload as text, or in base64.
pub(super) fn payload(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn row(message: &Message, now: Time) -> RetainedRow {
    RetainedRow {
        topic: message.topic().to_owned(),
        qos: u64::from(message.qos),
        payload_bytes: message.payload().len() as u64,
        age_ms: now.since(message.accepted_at),
        expires_in_ms: message.expires_at.map(|at| at.since(now)),
    }
}

pub(super) fn retained(ask: &Ask<'_>) -> Outcome {
    let filter = ask.query.text("filter").unwrap_or("#");
    let broker = &ask.on.broker;
    forebay_wire::topic::check_filter(filter, broker.config.limits.max_topic_levels)
        .map_err(|why| Error::Wrong(format!("filter \"{filter}\": {why}")))?;
    let now = broker.clock.now();
    let page = page(ask, broker.retained.matching(filter, now), |message| message.topic().to_owned())?;
    json(&RetainedPage {
        total: page.total,
        retained: page.items.iter().map(|message| row(message, now)).collect(),
        next: page.next,
    })
}

fn retained_of(ask: &Ask<'_>) -> Result<Arc<Message>, Error> {
    let topic = &ask.name;
    check_topic(ask, topic)?;
    let found = ask.on.broker.retained.matching(topic, ask.on.broker.clock.now());
    found.into_iter().next().ok_or_else(|| Error::Missing(format!("there is no retained message on \"{topic}\"")))
}

/// Whether it is a topic name that could be published on.
pub(super) fn check_topic(ask: &Ask<'_>, topic: &str) -> Result<(), Error> {
    let levels = ask.on.broker.config.limits.max_topic_levels;
    forebay_wire::topic::check_name(topic, levels).map_err(|why| Error::Wrong(format!("topic \"{topic}\": {why}")))
}

pub(super) fn retained_get(ask: &Ask<'_>) -> Outcome {
    let message = retained_of(ask)?;
    let (text, base64) = payload(message.payload());
    json(&RetainedMessage { message: row(&message, ask.on.broker.clock.now()), text, base64 })
}

pub(super) fn retained_set(ask: &Ask<'_>) -> Outcome {
    let topic = &ask.name;
    check_topic(ask, topic)?;
    let qos = ask.query.number("qos").map_err(Error::Wrong)?.unwrap_or(1);
    let qos = u8::try_from(qos).ok().filter(|qos| *qos <= 2);
    let qos = qos.ok_or_else(|| Error::Wrong("qos must be 0, 1 or 2".to_owned()))?;
    if ask.body.is_empty() {
        return Err(Error::Wrong("the payload is empty; DELETE removes a retained message".to_owned()));
    }
    publish(ask, topic, qos)?;
    done(format!("published on {topic}"))
}

pub(super) fn retained_clear(ask: &Ask<'_>) -> Outcome {
    let message = retained_of(ask)?;
    publish(ask, message.topic(), message.qos)?;
    done(format!("removed from {}", message.topic()))
}

/// Publishes the body, or nothing, with the RETAIN flag.
fn publish(ask: &Ask<'_>, topic: &str, qos: u8) -> Result<(), Error> {
    if topic.starts_with('$') {
        return Err(Error::Wrong("topics that begin with $ are the broker's own".to_owned()));
    }
    let broker = &ask.on.broker;
    if broker.store_failing() {
        return Err(Error::Conflict("the store cannot be written".to_owned()));
    }
    let now = broker.clock.now();
    let parts =
        Parts { topic, properties: &[], payload: ask.body, qos, retain: true, expires_at: None, accepted_at: now };
    let message = Arc::new(Message::new(&parts, None));
    {
        let _one_commit = broker.writer.gate();
        broker.publish(&message, true, Durability::Commit, None);
    }
    // Answered when it is on the disk, as a publisher's ack is; this thread serves no device.
    let began = std::time::Instant::now();
    while !message.is_safe() {
        if began.elapsed() > COMMIT_TIME {
            return Err(Error::Conflict(
                "it is not on the disk yet: a queue that it is for waits, or the store".to_owned(),
            ));
        }
        std::thread::sleep(COMMIT_LOOK);
    }
    let found = broker.retained.matching(topic, now);
    if found.first().map_or(&[][..], |message| message.payload()) != ask.body {
        return Err(Error::Conflict("the limit of retained messages is reached".to_owned()));
    }
    Ok(())
}

/// As JSON, for whoever makes the description.
pub(super) fn text(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
