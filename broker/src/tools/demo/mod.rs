//! `forebay demo`: a broker, hundreds of devices, an upstream that fails them, and an account of every message.

mod broker;
mod devices;
mod screen;
mod story;
mod tally;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgAction, Parser};
use tokio::time::sleep;

use super::WIDTH;
use super::exit::{self, Exit, Failure};
use super::rest::Rest;
use super::stop::Stop;
use broker::Broker;
use devices::Devices;
use screen::{Figures, Screen};
use story::{Story, Upstream as Mood};
use tally::Tally;
use upstream::Upstream;

/// How long the backlog may take to drain at the end without any message moving, before that counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Show in a minute what this broker is for.
///
/// One screen tells the story: a broker with its store in a temporary folder, devices that publish
/// real temperatures over TLS at QoS 1 and 2, an upstream that slows down and goes away, a burst of ten times the normal
/// rate, a `kill -9` of the broker, and at the end an account of every message. The exit code is 1 if one was lost, or one
/// of QoS 2 came twice, or one came out of order.
#[derive(Debug, Parser)]
#[command(name = "forebay demo", bin_name = "forebay demo", after_help = exit::HELP, disable_help_flag = true)]
#[command(max_term_width = WIDTH)]
pub struct DemoCli {
    /// Devices
    #[arg(long, value_name = "DEVICES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    devices: u32,
    /// Seconds from the first reading to the last; the backlog drains after it
    #[arg(long, value_name = "SECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: u64,
    /// Readings a second of all devices together, outside the burst
    #[arg(long, value_name = "MESSAGES", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Leave the broker alone: no kill -9
    #[arg(long)]
    no_kill: bool,
    /// Print help
    #[arg(long, short = 'h', action = ArgAction::Help)]
    help: Option<bool>,
}

/// Runs it.
#[must_use]
pub fn main(rest: &Rest) -> ExitCode {
    let cli: DemoCli = rest.parse("forebay demo");
    super::exit::of("forebay demo", super::block_on(run(cli)))
}

/// A signal ends it early: what it started and its folder are gone then, too.
async fn run(cli: DemoCli) -> Result<Exit, Failure> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        done = story(cli) => done,
        () = stop.wanted() => Err(Failure::failed("stopped by a signal; its broker and its folder are removed")),
    }
}

async fn story(cli: DemoCli) -> Result<Exit, Failure> {
    let mut screen = Screen::new();
    let mut broker = Broker::start()?;
    screen.say(&format!("a broker on {}, its store in {}", broker.url(), broker.folder().display()));
    let tally = Arc::new(Tally::new(cli.devices));
    let upstream = Upstream::start(&broker, tally.clone()).await?;
    screen.say(&format!("{} devices connect over TLS", cli.devices));
    let devices = Devices::connect(&broker, cli.devices, &tally).await?;
    let story = Story::new(Duration::from_secs(cli.seconds), cli.rate, !cli.no_kill);
    tell(&story, &mut broker, &devices, &upstream, &tally, &mut screen).await?;
    devices.set_rate(0);
    drain(&story, &broker, &devices, &upstream, &tally, &mut screen).await;
    let ledger = upstream.ledger().await;
    devices.disconnect().await;
    upstream.disconnect().await;
    screen.finish();
    let account = tally.account(devices.acked());
    screen.say(&account.text(&ledger));
    broker.stop();
    Ok(if account.is_right() { Exit::Done } else { Exit::Failed })
}

/// From the first reading to the last.
async fn tell(
    story: &Story,
    broker: &mut Broker,
    devices: &Devices,
    upstream: &Upstream,
    tally: &Tally,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut killed = false;
    loop {
        let at = begun.elapsed();
        let Some(scene) = story.at(at) else { return Ok(()) };
        devices.set_rate(scene.rate);
        upstream.set_mood(scene.upstream);
        if scene.kill && !std::mem::replace(&mut killed, true) {
            broker.kill_and_start()?;
        }
        screen.show(&figures(at, scene.says, broker, devices, upstream, tally));
        sleep(Duration::from_millis(200)).await;
    }
}

/// Until every message has arrived, or nothing moves any more.
async fn drain(
    story: &Story,
    broker: &Broker,
    devices: &Devices,
    upstream: &Upstream,
    tally: &Tally,
    screen: &mut Screen,
) {
    upstream.set_mood(Mood::Quick);
    let begun = Instant::now();
    let mut last = (0, Instant::now());
    while devices.waiting() > 0 || tally.received() < tally.published() {
        let seen = tally.received() + devices.acked();
        if seen != last.0 {
            last = (seen, Instant::now());
        }
        if last.1.elapsed() > PATIENCE {
            return;
        }
        let at = story.length() + begun.elapsed();
        screen.show(&figures(
            at,
            "the devices are silent; what is left of the backlog drains",
            broker,
            devices,
            upstream,
            tally,
        ));
        sleep(Duration::from_millis(200)).await;
    }
}

fn figures(
    at: Duration,
    says: &'static str,
    broker: &Broker,
    devices: &Devices,
    upstream: &Upstream,
    tally: &Tally,
) -> Figures {
    Figures {
        at,
        says,
        devices_connected: devices.connected(),
        devices: devices.count(),
        upstream: upstream.state(),
        published: tally.published(),
        acked: devices.acked(),
        received: tally.received(),
        repeated: tally.repeated(),
        waiting_in_devices: devices.waiting(),
        asked_to_slow_down: devices.asked_to_slow_down(),
        broker_kb: broker.resident_kb(),
        store_kb: broker.store_kb(),
    }
}
