//! Answers about declared queues and their dead letters.

use super::answers::{DeclaredList, DeclaredRow};
use super::handlers::{done, json};
use super::routes::{Ask, Error, Outcome};
use crate::broker::{QUEUE_PREFIX, Replay};

/// Messages a second that may be asked for.
const RATE_MAX: u64 = 1_000_000;

pub(super) fn declared(ask: &Ask<'_>) -> Outcome {
    let queues = ask.on.broker.queue_figures().into_iter().map(|queue| DeclaredRow {
        name: queue.name,
        dead_letters: queue.dead_letters,
        messages: queue.messages,
        bytes: queue.bytes,
        consumers: queue.members as u64,
        connected: queue.online as u64,
        in_flight: queue.in_flight as u64,
        aside: queue.aside as u64,
        not_allowed: queue.not_allowed as u64,
    });
    json(&DeclaredList { queues: queues.collect() })
}

pub(super) fn replay(ask: &Ask<'_>) -> Outcome {
    let found = ask.on.broker.replay_dead(&ask.name, asked_replay(ask)?);
    let there = found.ok_or_else(|| Error::Missing(format!("there is no queue \"{}\"", ask.name)))?;
    tracing::info!(queue = ask.name, "a replay of dead letters begins through the API");
    done(format!("of {there} dead letters those that match go back to {QUEUE_PREFIX}{}", ask.name))
}

/// Which dead letters are to go back, and how quickly.
pub(super) fn asked_replay(ask: &Ask<'_>) -> Result<Replay, Error> {
    let filter = ask.query.text("filter").unwrap_or("#").to_owned();
    forebay_wire::topic::check_filter(&filter, usize::MAX)
        .map_err(|_| Error::Wrong(format!("filter is \"{filter}\", which is not a topic filter")))?;
    let number = |name| ask.query.number(name).map_err(Error::Wrong);
    let messages_max = number("limit")?.unwrap_or(u64::MAX);
    let per_s = number("rate")?;
    if per_s.is_some_and(|rate| !(1..=RATE_MAX).contains(&rate)) {
        return Err(Error::Wrong(format!("rate must be 1 to {RATE_MAX} messages a second")));
    }
    Ok(Replay { filter, messages_max, per_s })
}
