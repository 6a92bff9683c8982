//! One bridge at work: its queue, its upstream, and what it says of itself.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::budget::Budget;
use super::control::Control;
use super::drain::{Backlog, Drain};
use super::identity::{self, Epoch};
use super::outward;
use super::outward::{DeadLetters, Outward, State, Terms};
use super::pace::{Pace, Pacing};
use super::replay::Replays;
use super::source::{Source, Taken};
use super::timeline::Timeline;
use super::upstream::{InFigures, Kind, Setup, Upstream};
use super::wrap::Wrapping;
use crate::broker::{Broker, DEAD_PREFIX, TAKER_PREFIX, Taker, TakerFigures, TakerFilter, TakerOptions, queue_limits};
use crate::clock::may_be_right;
use crate::config::{self, Bridge};
use crate::dead_letter::{Cause, dead_letter};
use crate::message::{Message, Time};
use crate::observe::{OpenBridge, Said};
use crate::queue::Why;
use crate::session::Durability;
use crate::store::DropReason;

/// How the name of a bridge's second queue ends: that of its dead letters.
pub(crate) const DEAD: &str = "/dead";
/// Bytes of dead letters.
const DEAD_BYTES: u64 = 64 << 20;
/// A bridge that cannot begin (its files cannot be written) tries again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);
/// How long the end waits for a connection to be closed.
const CLOSE: Duration = Duration::from_secs(6);

/// The broker's queue, for the machine.
struct Queue(Arc<Taker>);

impl Source for Queue {
    fn take(&mut self, messages_max: usize, bytes_max: usize) -> Vec<Taken> {
        let taken = self.0.take(messages_max, bytes_max);
        let taken = taken.into_iter();
        taken.map(|one| Taken { place: one.place, repeated: one.repeated, entry: one.entry }).collect()
    }

    fn confirm(&mut self, place: u64) {
        self.0.confirm(&[place]);
    }

    fn refuse(&mut self, place: u64, reason: DropReason) {
        self.0.refuse(place, reason);
    }

    fn is_too_old(&self, message: &Message, now: Time) -> bool {
        self.0.is_too_old(message, now)
    }

    fn expire(&mut self, place: u64) {
        self.0.expire(place);
    }

    fn give_back(&mut self) {
        self.0.give_back();
    }

    fn backlog(&self) -> Backlog {
        let TakerFigures { messages, oldest_ms, next_place, .. } = self.0.figures();
        Backlog { messages, oldest_ms, next_place }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_ready(cx)
    }
}

/// Publishes dead letters to `$dead/NAME/TOPIC`, where a queue of the broker's own keeps the last of them.
struct Dead {
    broker: Arc<Broker>,
    name: Arc<str>,
    /// The bridge publishes them in the name of its own queue, so that none comes into it.
    queue: Arc<Taker>,
}

impl DeadLetters for Dead {
    fn put(&mut self, message: &Message, reason: Why, detail: &str, leave: &mut dyn FnMut()) {
        tracing::warn!(bridge = &*self.name, topic = message.topic(), "a message will not be taken: {detail}");
        let cause = Cause {
            name: &self.name,
            from: &self.name,
            why: reason.name(),
            detail: Some(detail),
            count: None,
            wall_ms: self.broker.clock.wall_ms(),
        };
        // Its age counts from now on.
        let letter = dead_letter(message, &cause, self.broker.clock.now(), None);
        let _one_commit = self.broker.writer.gate();
        self.broker.publish(&letter, false, Durability::Commit, Some(self.queue.slot()));
        leave();
    }
}

/// A bridge whose queues are open: whatever is published from now on is kept for it.
pub(super) struct Prepared {
    bridge: Bridge,
    name: Arc<str>,
    queue_is_new: bool,
    epoch: io::Result<Epoch>,
    taker: Arc<Taker>,
    dead: Arc<Taker>,
    figures: Arc<InFigures>,
    open: Arc<OpenBridge>,
}

/// Opens the queues; to be called before anybody can publish. From here on operators see the bridge, whether it can begin or not.
pub(super) fn prepare(broker: &Arc<Broker>, bridge: &Bridge) -> Prepared {
    let name: Arc<str> = bridge.name.as_str().into();
    // Opening makes it.
    let queue_is_new = !broker.has_session(&format!("{TAKER_PREFIX}{name}"));
    let epoch = identity::epoch(&broker.config.data_dir, &name, queue_is_new);
    let limits = &broker.config.limits;
    let taker = broker.open_taker(&name, &options(bridge, limits));
    let dead = broker.open_taker(&format!("{name}{DEAD}"), &dead_options(bridge, limits));
    let figures = Arc::new(InFigures::default());
    let control = Control::of(&broker.config.data_dir, &name);
    let open = Arc::new(OpenBridge::new(name.clone(), figures.clone(), control, &dead));
    broker.observed.bridge(&open, &taker);
    Prepared { bridge: bridge.clone(), name, queue_is_new, epoch, taker, dead, figures, open }
}

/// Makes a bridge's upstream.
pub(crate) type Open = Arc<dyn Fn(Setup<'_>) -> Box<dyn Upstream> + Send + Sync>;

/// By the kind of its first address; `None`, which is said: this program has none of it.
pub(super) fn by_kind(bridge: &Bridge) -> Option<Open> {
    let kind = bridge.urls.first().and_then(|url| Kind::of(url));
    if kind.is_none() {
        tracing::error!(bridge = bridge.name, "this program has no upstream of its kind");
    }
    kind.map(|kind| Arc::new(kind.open) as Open)
}

/// Runs one bridge until it is told to stop.
pub(super) async fn run(
    broker: Arc<Broker>,
    prepared: Prepared,
    gateway: Arc<str>,
    open: Open,
    mut stop: watch::Receiver<bool>,
) {
    let Prepared { bridge, name, queue_is_new, epoch, taker, dead, figures, open: seen } = prepared;
    let data_dir = &broker.config.data_dir;
    let epoch = tried(&name, &mut stop, epoch, || identity::epoch(data_dir, &name, queue_is_new)).await;
    let Some(epoch) = epoch else { return };
    let budget = tried(&name, &mut stop, budget(data_dir, &bridge), || budget(data_dir, &bridge)).await;
    let Some(budget) = budget else { return };
    let setup = Setup { bridge: &bridge, gateway: &gateway, epoch, broker: &broker, taker: &taker, figures: &figures };
    let upstream = open(setup);
    let letters = Dead { broker: broker.clone(), name: name.clone(), queue: taker.clone() };
    let outward = Outward::new(terms(setup, &name, budget), Queue(taker.clone()), upstream, letters);
    let replays =
        Replays { broker: broker.clone(), name: name.clone(), queue: taker.clone(), dead, open: seen.clone() };
    let report = Report { broker, name, open: seen, said: None };
    tokio::select! {
        () = work(outward, report, stop) => {}
        () = replays.run() => {}
    }
}

/// What the first try or a later one made; `None`: it is to stop.
async fn tried<T>(
    name: &str,
    stop: &mut watch::Receiver<bool>,
    first: io::Result<T>,
    again: impl Fn() -> io::Result<T>,
) -> Option<T> {
    let mut made = first;
    loop {
        match made {
            Ok(made) => return Some(made),
            Err(error) => tracing::error!(bridge = name, "cannot begin: {error}"),
        }
        tokio::select! {
            () = tokio::time::sleep(BEGIN_AGAIN) => {}
            _ = stop.changed() => return None,
        }
        made = again();
    }
}

/// What it may send in a day, if that is bounded.
fn budget(data_dir: &Path, bridge: &Bridge) -> io::Result<Option<Budget>> {
    let of = |per_day| Budget::of(data_dir, &bridge.name, per_day, bridge.calendar);
    bridge.bytes_per_day.map(of).transpose()
}

async fn work(
    mut outward: Outward<Queue, Box<dyn Upstream>, Dead>,
    mut report: Report,
    mut stop: watch::Receiver<bool>,
) {
    let begun = Instant::now();
    let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
    let working = poll_fn(|cx| {
        loop {
            outward.set_paused(report.open.control().poll_paused(cx));
            let now_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (now, wall_ms) = (report.broker.clock.now(), report.broker.clock.wall_ms());
            let wall_ms = Some(wall_ms).filter(|wall_ms| may_be_right(*wall_ms));
            if let Err(error) = outward.look_at_clocks(now_ms, now, wall_ms) {
                tracing::warn!(bridge = &*report.name, "a clock that was set is not seen: {error}");
            }
            let again = outward.turn(now_ms, now, cx);
            report.tell(outward.state(now_ms), &outward.figures(), outward.in_flight(), outward.pacing());
            let again = again.map(|at_ms| begun + Duration::from_millis(at_ms));
            if !is_due(&mut sleep, again, cx) {
                return Poll::<()>::Pending;
            }
        }
    });
    tokio::select! {
        () = working => {}
        _ = stop.changed() => {}
    }
    outward.upstream().close();
    let closed = poll_fn(|cx| outward.upstream().poll_closed(cx));
    let _ = tokio::time::timeout(CLOSE, closed).await;
}

/// Sleeps until then; true: it is time already.
fn is_due(sleep: &mut Pin<Box<Sleep>>, wake: Option<Instant>, cx: &mut Context<'_>) -> bool {
    let Some(at) = wake else { return false };
    sleep.as_mut().reset(at);
    sleep.as_mut().poll(cx).is_ready()
}

/// Says how a bridge is: its state under `$SYS/broker/bridge/NAME/` at once, its figures to whoever looks.
struct Report {
    broker: Arc<Broker>,
    name: Arc<str>,
    open: Arc<OpenBridge>,
    said: Option<State>,
}

impl Report {
    fn tell(&mut self, state: State, out: &outward::Figures, in_flight: usize, pacing: Pacing) {
        if self.said.as_ref() != Some(&state) {
            tracing::info!(bridge = &*self.name, "{}", state.text());
            self.say("state", &state.text());
            self.said = Some(state.clone());
        }
        self.open.say(Said { state, out: *out, in_flight, pacing });
    }

    fn say(&self, what: &str, value: &str) {
        self.broker.say(&format!("bridge/{}/{what}", self.name), value);
    }
}

fn terms(setup: Setup<'_>, name: &Arc<str>, budget: Option<Budget>) -> Terms {
    let Setup { bridge, gateway, .. } = setup;
    let rate = bridge.rate;
    Terms {
        name: name.clone(),
        gateway: gateway.clone(),
        rules: bridge.outs.clone(),
        window: usize::from(bridge.window),
        stalled_ms: u64::try_from(bridge.stalled_after.as_millis()).unwrap_or(u64::MAX),
        pace: Pace::new(rate.and_then(|rate| rate.messages_per_s), rate.and_then(|rate| rate.bytes_per_s), 0)
            .with(bridge.drain_by_ms.map(|by_ms| Drain::new(by_ms, bridge.calendar)), budget),
        seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &*bridge.name),
        marks: setup.origin(),
        times: times(setup),
    }
}

/// When messages were published, where a rule says it of them.
fn times(setup: Setup<'_>) -> Option<Timeline> {
    let Setup { bridge, epoch, broker, .. } = setup;
    if bridge.outs.iter().all(|rule| rule.wrapping == Wrapping::Raw) {
        return None;
    }
    let times = Timeline::of(&broker.config.data_dir, &bridge.name, epoch.number);
    times.inspect_err(|error| tracing::error!(bridge = bridge.name, "messages go up without their time: {error}")).ok()
}

fn options(bridge: &Bridge, of_broker: &config::Limits) -> TakerOptions {
    let filters =
        bridge.outs.iter().map(|rule| TakerFilter { filter: rule.filter.clone(), qos: rule.qos, no_local: true });
    TakerOptions {
        filters: filters.collect(),
        limits: queue_limits(&bridge.queue, of_broker),
        window: bridge.window,
        committed_only: false,
    }
}

/// The newest dead letters are kept: the oldest make room.
fn dead_options(bridge: &Bridge, of_broker: &config::Limits) -> TakerOptions {
    let queue = config::QueueLimits {
        max_messages: bridge.dead_letters,
        max_bytes: DEAD_BYTES,
        max_age: None,
        policy: config::QueuePolicy::DropOldest,
        stall_limit: None,
        stall_limit_transient: None,
        queue_qos0: true,
    };
    let filter = TakerFilter { filter: format!("{DEAD_PREFIX}{}/#", bridge.name), qos: 1, no_local: false };
    TakerOptions { filters: vec![filter], limits: queue_limits(&queue, of_broker), window: 1, committed_only: false }
}
