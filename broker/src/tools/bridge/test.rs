//! `forebay bridge test`: connects to the real upstream, and says what it answers.

use std::sync::Arc;
use std::time::Duration;

use forebay_client::{Message, QoS};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::site::Site;
use super::watched::{Heard, Watched};
use super::{failed, say};
use crate::bridge::Open;
use crate::bridge::outward::State;
use crate::bridge::upstream::{Kind, Outcome};
use crate::config::{Bridge, Config};
use crate::tools::block_on;
use crate::tools::exit::{Exit, Failure};

/// Between two looks at the state.
const LOOK: Duration = Duration::from_millis(20);

/// A message that is sent.
pub(super) struct Probe<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a str,
}

pub(super) fn run(config: &Config, bridge: &Bridge, probe: Option<Probe<'_>>, wait: Duration) -> Result<Exit, Failure> {
    let url = bridge.urls.first().cloned().unwrap_or_default();
    let kind = Kind::of(&url).ok_or_else(|| Failure::usage(format!("this program has no upstream for {url}")))?;
    if let Some(probe) = &probe {
        let matches = |filter: &str| forebay_wire::topic::matches(filter, probe.topic);
        if !bridge.outs.iter().any(|rule| matches(&rule.filter)) {
            let filters: Vec<_> = bridge.outs.iter().map(|rule| rule.filter.as_str()).collect();
            return Err(Failure::usage(format!(
                "nothing takes {} up: the filters of bridges.out are {}",
                probe.topic,
                filters.join(", ")
            )));
        }
    }
    let mut bridge = bridge.clone();
    // What comes down may be taken away from the broker that runs.
    bridge.ins.clear();
    let (hear, heard) = mpsc::unbounded_channel();
    let open: Open = Arc::new(move |setup| Box::new(Watched::new((kind.open)(setup), hear.clone())));
    say(&format!("bridge     {}, {}", bridge.name, bridge.urls.join(", ")))?;
    let site = Site::start(config, &bridge, &open)?;
    let done = block_on(async {
        let deadline = Instant::now() + wait;
        let connected = connects(&site, deadline).await?;
        match probe {
            Some(probe) if connected => sends(&site, &probe, heard, deadline).await,
            _ if connected => Ok(Exit::Done),
            _ => Ok(Exit::Unreachable),
        }
    });
    site.stop();
    done
}

/// Says each state until it is connected; false: it is not within the time.
async fn connects(site: &Site, deadline: Instant) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut said = None;
    loop {
        let state = site.state();
        if said.as_ref() != Some(&state) {
            say(&format!("upstream   {} ({:.2?})", state.text(), begun.elapsed()))?;
            said = Some(state.clone());
        }
        if state == State::Connected || Instant::now() > deadline {
            return Ok(state == State::Connected);
        }
        sleep(LOOK).await;
    }
}

/// Sends the message, and says where it goes and what becomes of it.
async fn sends(
    site: &Site,
    probe: &Probe<'_>,
    heard: mpsc::UnboundedReceiver<Heard>,
    deadline: Instant,
) -> Result<Exit, Failure> {
    let client = site.client().await?;
    let message = Message::new(probe.topic, probe.payload.to_owned()).qos(QoS::ExactlyOnce);
    let ticket = client.publish(message).await.map_err(|error| failed("the message", &error))?;
    ticket.await.map_err(|error| failed("the message", &error))?;
    let done = tokio::select! {
        done = answer(probe, heard) => done,
        () = is_dead(site) => {
            say("answer     none: a template wants something that the message has not; it would be a dead letter")?;
            Ok(Exit::Refused)
        }
        () = tokio::time::sleep_until(deadline) => {
            say(&format!("answer     none; the bridge is {}", site.state().text()))?;
            Ok(Exit::TimedOut)
        }
    };
    client.close().await;
    done
}

/// Waits for a message that was not given to the upstream, and has become a dead letter.
async fn is_dead(site: &Site) {
    while site.bridge().is_none_or(|(bridge, queue)| {
        let part = bridge.part(&queue);
        part.dead_letters == 0 || part.sent > 0
    }) {
        sleep(LOOK).await;
    }
}

async fn answer(probe: &Probe<'_>, mut heard: mpsc::UnboundedReceiver<Heard>) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let mut said = String::new();
    while let Some(heard) = heard.recv().await {
        match heard {
            Heard::Sent { topic, key, partition, exchange, qos } => {
                let parts = [("exchange", exchange), ("key", key), ("partition", partition)];
                let parts = parts.into_iter().filter_map(|(name, value)| Some(format!(", {name} {}", value?)));
                say(&format!("sent       {} -> {topic}, QoS {qos}{}", probe.topic, parts.collect::<String>()))?;
            }
            Heard::Became(Outcome::Delivered) => {
                say(&format!("answer     taken ({:.2?})", begun.elapsed()))?;
                return Ok(Exit::Done);
            }
            Heard::Became(Outcome::Refused(why, _)) => {
                say(&format!("answer     refused: {why}"))?;
                return Ok(Exit::Refused);
            }
            Heard::Became(Outcome::Retry(why)) if why == said => {}
            Heard::Became(Outcome::Retry(why)) => {
                say(&format!("answer     not now: {why}"))?;
                said = why;
            }
            Heard::Became(Outcome::Stored | Outcome::Expired) => {}
        }
    }
    Err(Failure::failed("the bridge has ended"))
}
