//! `forebay bridge rehearse`: a bridge's own configuration against a stand-in of its upstream, in real time.

use std::sync::Arc;
use std::time::Duration;

use forebay_client::{Client, Message, QoS};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::account::payload;
use super::site::Site;
use super::stand_in::{Mood, Scene, StandIn};
use super::{failed, say};
use crate::bridge::Open;
use crate::bridge::template::Rule;
use crate::bridge::wrap::Wrapping;
use crate::config::{Bridge, Config, QueuePolicy};
use crate::tools::block_on;
use crate::tools::exit::{Exit, Failure};

/// Before the first trouble and after each.
const WELL: Duration = Duration::from_secs(2);
/// Without a message that arrives the rest is given up.
const PATIENCE: Duration = Duration::from_secs(70);
/// Publishes that wait for their acknowledgement.
const WAITING_MAX: usize = 1_000;

const TROUBLES: [Mood; 4] = [Mood::Killed, Mood::Mute, Mood::Full, Mood::Slow];

pub(super) fn run(config: &Config, bridge: &Bridge, rate: u32, each: Duration) -> Result<Exit, Failure> {
    let Some(rule) = bridge.outs.first() else {
        return Err(Failure::usage(format!("{} carries nothing up: it has no bridges.out", bridge.name)));
    };
    let mut bridge = bridge.clone();
    bridge.ins.clear();
    // What arrives is counted by its payload.
    bridge.outs.iter_mut().for_each(|rule| rule.wrapping = Wrapping::Raw);
    // It is over in minutes.
    (bridge.drain_by_ms, bridge.bytes_per_day) = (None, None);
    let scene = Arc::new(Scene::new());
    let open: Open = Arc::new({
        let scene = scene.clone();
        move |_| Box::new(StandIn::new(scene.clone()))
    });
    let topic = topic_of(rule);
    say(&format!(
        "{}: {rate} messages a second on {topic}, to a stand-in of {}",
        bridge.name,
        bridge.urls.first().map_or("its upstream", String::as_str)
    ))?;
    let site = Site::start(config, &bridge, &open)?;
    let done = block_on(async {
        let client = site.client().await?;
        let player = Player { site: &site, scene: &scene, client, topic, qos: rule.qos, rate };
        let done = player.play(each).await;
        player.client.close().await;
        done
    });
    let dropped = site.bridge().map_or(0, |(bridge, queue)| bridge.part(&queue).dropped);
    site.stop();
    done?;
    judge(&bridge, &scene, dropped, rate)
}

/// A topic that the rule's filter matches.
fn topic_of(rule: &Rule) -> String {
    let levels = rule.filter.split('/').map(|level| if matches!(level, "+" | "#") { "rehearsal" } else { level });
    levels.collect::<Vec<_>>().join("/")
}

struct Player<'s> {
    site: &'s Site,
    scene: &'s Arc<Scene>,
    client: Client,
    topic: String,
    qos: u8,
    rate: u32,
}

impl Player<'_> {
    /// All troubles in turn; then waits until everything has arrived, or nothing moves any more.
    async fn play(&self, each: Duration) -> Result<(), Failure> {
        say(&format!("{:<14} {:>9} {:>9} {:>9}  the bridge says", "upstream", "published", "arrived", "waiting"))?;
        let mut waiting = JoinSet::new();
        let mut number = 0;
        let troubles = TROUBLES.iter().flat_map(|trouble| [(*trouble, each), (Mood::Well, WELL)]);
        for (mood, time) in std::iter::once((Mood::Well, WELL)).chain(troubles) {
            self.scene.set(mood);
            self.publish(&mut number, time, &mut waiting).await?;
            self.tell(mood)?;
        }
        let drain = Instant::now();
        let (mut there, mut moved) = (0, Instant::now());
        loop {
            while waiting.try_join_next().is_some() {}
            let (arrived, missing) = self.scene.account.lock().arrived_and_missing();
            let queued = self.site.bridge().map_or(0, |(bridge, queue)| bridge.part(&queue).queued);
            if waiting.is_empty() && (missing == 0 || queued == 0) {
                break say(&format!("drained in {:.1?}", drain.elapsed()));
            }
            if arrived > there {
                (there, moved) = (arrived, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                break say(&format!("nothing has arrived for {} s: given up", PATIENCE.as_secs()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Publishes at the rate for so long.
    async fn publish(&self, number: &mut u64, time: Duration, waiting: &mut JoinSet<()>) -> Result<(), Failure> {
        let until = Instant::now() + time;
        let mut ticks = interval(Duration::from_secs(1) / self.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while Instant::now() < until {
            ticks.tick().await;
            while waiting.try_join_next().is_some() {}
            if waiting.len() >= WAITING_MAX {
                // Its queue is full, and it holds its publishers back.
                continue;
            }
            let qos = if self.qos == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            let message = Message::new(&*self.topic, payload(*number)).qos(qos);
            let ticket = self.client.publish(message).await.map_err(|error| failed("a message", &error))?;
            let (scene, this) = (self.scene.clone(), *number);
            *number += 1;
            waiting.spawn(async move {
                if ticket.await.is_ok() {
                    scene.account.lock().acknowledged(this);
                }
            });
        }
        Ok(())
    }

    fn tell(&self, mood: Mood) -> Result<(), Failure> {
        let (state, queued) = match self.site.bridge() {
            Some((bridge, queue)) => (bridge.state().text(), bridge.part(&queue).queued),
            None => ("not running".to_owned(), 0),
        };
        let (published, (there, _)) = {
            let account = self.scene.account.lock();
            (account.published(), account.arrived_and_missing())
        };
        say(&format!("{:<14} {published:>9} {there:>9} {queued:>9}  {state}", mood.text()))
    }
}

/// What came of it, and what an hour away would be.
fn judge(bridge: &Bridge, scene: &Scene, dropped: u64, rate: u32) -> Result<Exit, Failure> {
    let account = scene.account.lock();
    let (arrived, missing) = account.arrived_and_missing();
    say(&format!(
        "acknowledged {}, arrived {}, lost {missing} ({dropped} dropped by the queue's policy), \
         repeated {} (all marked: {}), out of order {}",
        account.published(),
        arrived,
        account.marked + account.unmarked,
        if account.unmarked == 0 { "yes" } else { "no" },
        account.out_of_order,
    ))?;
    for line in estimate(bridge, u64::from(rate)) {
        say(&line)?;
    }
    let whole = missing == 0 && account.unmarked == 0 && account.out_of_order == 0;
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

/// How long the queue lasts without its upstream at this rate, and how long the backlog of an hour takes.
fn estimate(bridge: &Bridge, rate: u64) -> [String; 2] {
    let full = match bridge.queue.policy {
        QueuePolicy::Reject => "then publishers are held back",
        QueuePolicy::DropOldest | QueuePolicy::DropNewest | QueuePolicy::KeepLast => "then its policy drops messages",
    };
    let messages = bridge.queue.max_messages;
    let lasts = format!("the queue takes {messages} messages: {} without the upstream, {full}", time(messages / rate));
    let hour = rate.saturating_mul(3_600).min(messages);
    let drains = match bridge.rate.and_then(|limit| limit.messages_per_s) {
        None => format!("an hour without it leaves {hour} messages, which drain as quickly as it takes them"),
        Some(limit) if limit > rate => {
            format!(
                "an hour without it leaves {hour} messages, which drain in {} at {limit} a second",
                time(hour / (limit - rate))
            )
        }
        Some(limit) => format!("a backlog never drains: bridges.rate is {limit} a second, and {rate} come"),
    };
    [lasts, drains]
}

/// Seconds, for a person.
fn time(s: u64) -> String {
    match s {
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_made_from_a_filter() {
        for (filter, topic) in [("#", "rehearsal"), ("a/+/c/#", "a/rehearsal/c/rehearsal"), ("a/b", "a/b")] {
            let rule = Rule { filter: filter.to_owned(), ..Rule::default() };
            assert_eq!(topic_of(&rule), topic);
            assert!(forebay_wire::topic::matches(filter, topic));
        }
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!([119, 120, 7_200, 200_000].map(time), ["119 s", "2 min", "2 h", "2 days"]);
    }
}
