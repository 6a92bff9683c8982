//! Answers about bridges.

use std::sync::Arc;

use super::answers::BridgeList;
use super::handlers::{done, json};
use super::queues::asked_replay;
use super::routes::{Ask, Error, Outcome};
use crate::broker::Taker;
use crate::observe::OpenBridge;

pub(super) fn list(ask: &Ask<'_>) -> Outcome {
    json(&BridgeList { bridges: ask.on.broker.observed.bridges() })
}

pub(super) fn pause(ask: &Ask<'_>) -> Outcome {
    let (bridge, _) = open(ask)?;
    bridge.control().pause().map_err(|error| failed(ask, &error))?;
    tracing::info!(bridge = ask.name, "paused through the API");
    done(format!("{} sends nothing more until it is resumed", ask.name))
}

pub(super) fn resume(ask: &Ask<'_>) -> Outcome {
    let (bridge, _) = open(ask)?;
    bridge.control().resume().map_err(|error| failed(ask, &error))?;
    tracing::info!(bridge = ask.name, "resumed through the API");
    done(format!("{} sends again", ask.name))
}

pub(super) fn purge(ask: &Ask<'_>) -> Outcome {
    let (_, queue) = open(ask)?;
    let gone = queue.purge();
    tracing::info!(bridge = ask.name, messages = gone, "its queue is emptied through the API");
    done(format!("{gone} messages are dropped from the queue of {}", ask.name))
}

pub(super) fn replay(ask: &Ask<'_>) -> Outcome {
    let (bridge, _) = open(ask)?;
    let there = dead(ask, &bridge)?.figures().messages;
    bridge.control().replay(asked_replay(ask)?);
    tracing::info!(bridge = ask.name, "a replay of dead letters begins through the API");
    done(format!("of {there} dead letters those that match go back to the queue of {}", ask.name))
}

pub(super) fn purge_dead(ask: &Ask<'_>) -> Outcome {
    let (bridge, _) = open(ask)?;
    let gone = dead(ask, &bridge)?.purge();
    tracing::info!(bridge = ask.name, messages = gone, "its dead letters are dropped through the API");
    done(format!("{gone} dead letters of {} are dropped", ask.name))
}

fn dead(ask: &Ask<'_>, bridge: &OpenBridge) -> Result<Arc<Taker>, Error> {
    bridge.dead().ok_or_else(|| Error::Missing(format!("the bridge \"{}\" has ended", ask.name)))
}

fn open(ask: &Ask<'_>) -> Result<(Arc<OpenBridge>, Arc<Taker>), Error> {
    let there = ask.on.broker.observed.open_bridge(&ask.name);
    there.ok_or_else(|| Error::Missing(format!("there is no bridge \"{}\"", ask.name)))
}

fn failed(ask: &Ask<'_>, error: &std::io::Error) -> Error {
    Error::Failed(format!("bridges/{}.paused in the data directory: {error}", ask.name))
}
