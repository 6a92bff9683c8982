//! One run: connect, warm up, measure, wait for what is under way, and count.

use std::time::{Duration, Instant};

use forebay_wire::types::Version;

use super::cli::Scenario;
use super::load::Load;
use super::meter::{Meter, Used};
use super::plan::{self, Pacing, Plan};
use super::progress::Progress;
use super::report::{Broker, Connections, Generator, LoadInfo, Measured, Messages, Report};
use super::storm::Storm;
use super::words;
use crate::tools::exit::Failure;

/// Until the server has seen that its subscribers are gone.
const LEAVE: Duration = Duration::from_millis(300);

/// Runs a plan.
///
/// # Errors
/// It did not come to figures: the server cannot be reached, refuses, or has gone.
pub fn run(plan: &Plan, progress: &mut Progress) -> Result<Report, Failure> {
    match plan.scenario {
        Scenario::Connect | Scenario::Reconnect => connections(plan, progress),
        Scenario::OneToOne | Scenario::FanIn | Scenario::FanOut | Scenario::Pairs | Scenario::Shared => {
            messages(plan, progress)
        }
        Scenario::Backlog => backlog(plan, progress),
    }
}

/// What is running when measuring begins.
struct Before {
    broker: Option<(Meter, Used, Option<u64>)>,
    own: Used,
    started: Instant,
    counted: [u64; 3],
}

impl Before {
    fn new(plan: &Plan, counted: [u64; 3]) -> Self {
        let broker = plan.pid.map(Meter::new).map(|meter| (meter, meter.used(), meter.resident_kb()));
        Self { broker, own: Meter::own().used(), started: Instant::now(), counted }
    }
}

/// What was used until measuring ended.
struct Span {
    broker: Option<Broker>,
    generator: Generator,
    seconds: f64,
    counted: [u64; 3],
}

impl Before {
    /// Measuring ends; `each`: which of the counts the costs are for.
    fn end(self, now: [u64; 3], each: usize) -> Span {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut counted = now;
        counted.iter_mut().zip(self.counted).for_each(|(now, before)| *now -= before);
        let each = counted.get(each).copied().filter(|each| *each > 0).map(|each| each as f64);
        let in_s = |ns: u64| ns as f64 / 1e9;
        let broker = self.broker.map(|(meter, before, resident)| {
            let used = meter.used().since(&before);
            Broker {
                pid: meter.pid(),
                cpu_s: used.cpu_ns.map(in_s),
                cores: used.cpu_ns.map(|ns| in_s(ns) / seconds),
                cpu_us_each: used.cpu_ns.zip(each).map(|(ns, each)| ns as f64 / 1000.0 / each),
                disk_bytes_each: used.written_bytes.zip(each).map(|(bytes, each)| bytes as f64 / each),
                resident_kb_before: resident,
                resident_kb_after: meter.resident_kb(),
                bytes_a_connection: None,
            }
        });
        let own = Meter::own().used().since(&self.own).cpu_ns.map(in_s);
        Span { broker, generator: Generator { cpu_s: own, cores: own.map(|s| s / seconds) }, seconds, counted }
    }
}

fn counted(load: &Load<'_>) -> [u64; 3] {
    [load.clients.sent, load.clients.acknowledged, load.clients.check.counts.received]
}

fn messages(plan: &Plan, progress: &mut Progress) -> Result<Report, Failure> {
    let mut load = Load::new(plan)?;
    load.open(load.subscribers(), progress)?;
    load.open(load.publishers(), progress)?;
    if !plan.warmup.is_zero() {
        load.run(Some(plan.warmup), progress)?;
    }
    load.clients.reset();
    let before = Before::new(plan, counted(&load));
    load.run(plan.time, progress)?;
    // So many messages: the last one's receipt ends it. So much time: that ends it.
    if plan.messages.is_some() {
        load.settle(progress)?;
    }
    let span = before.end(counted(&load), 2);
    let mut measured = measured(plan, &span);
    take_latencies(&mut load, &mut measured);
    let overdue = overdue(plan, &load);
    load.settle(progress)?;
    Ok(finish(plan, load, span, measured, overdue))
}

/// Subscribers are away while their messages are published, and come back for them.
fn backlog(plan: &Plan, progress: &mut Progress) -> Result<Report, Failure> {
    let mut load = Load::new(plan)?;
    load.open(load.subscribers(), progress)?;
    load.close(load.subscribers(), false);
    std::thread::sleep(LEAVE);
    load.open(load.publishers(), progress)?;
    if !plan.warmup.is_zero() {
        load.run(Some(plan.warmup), progress)?;
    }
    load.clients.reset();
    load.clients.untimed = true;
    let before = Before::new(plan, counted(&load));
    load.run(plan.time, progress)?;
    let span = before.end(counted(&load), 1);
    let mut measured = measured(plan, &span);
    let overdue = overdue(plan, &load);
    load.acknowledge_all(progress)?;
    take_latencies(&mut load, &mut measured);
    let (started, waiting) = (Instant::now(), load.clients.expected());
    load.open(load.subscribers(), progress)?;
    load.settle(progress)?;
    let moved = load.last_moved().saturating_duration_since(started).as_secs_f64();
    measured.drained_per_s = Some((waiting - load.clients.missing()) as f64 / moved.max(1e-6));
    Ok(finish(plan, load, span, measured, overdue))
}

/// What an open loop has not come to; without one nothing is due.
fn overdue(plan: &Plan, load: &Load<'_>) -> u64 {
    if matches!(plan.pacing, Pacing::Open { .. }) { load.clients.overdue() } else { 0 }
}

fn measured(plan: &Plan, span: &Span) -> Measured {
    let [published, acknowledged, received] = span.counted;
    let per_s = |count: u64| count as f64 / span.seconds;
    Measured {
        seconds: span.seconds,
        published,
        acknowledged,
        received,
        published_per_s: per_s(published),
        acknowledged_per_s: per_s(acknowledged),
        received_per_s: per_s(received),
        received_bytes_per_s: per_s(received) * plan.size as f64,
        corrected_for_coordinated_omission: matches!(plan.pacing, Pacing::Open { .. }),
        ..Measured::default()
    }
}

fn take_latencies(load: &mut Load<'_>, measured: &mut Measured) {
    measured.latency = load.clients.measured.latency.percentiles();
    measured.ack_latency = load.clients.measured.ack_latency.percentiles();
    measured.publish_delay = load.clients.measured.late.percentiles();
    measured.handshake = load.clients.handshakes.percentiles();
}

fn finish(plan: &Plan, mut load: Load<'_>, span: Span, measured: Measured, overdue: u64) -> Report {
    let (all, clients) = (0..plan.publishers + plan.subscribers, &load.clients);
    let found = clients.check.counts;
    let acknowledged = if plan.qos == 0 { 0 } else { clients.acknowledged };
    let messages = Messages {
        published: clients.sent,
        acknowledged,
        refused: clients.refused,
        unacknowledged: if plan.qos == 0 { 0 } else { clients.sent - acknowledged },
        overdue,
        expected: clients.expected(),
        received: found.received,
        delivered: clients.check.unique(),
        lost: clients.missing(),
        duplicates: found.duplicates,
        reordered: found.reordered,
        impossible: found.impossible,
        foreign: clients.foreign,
        unexpected_acks: clients.odd_acks,
    };
    let mut report = report(plan, span, measured);
    report.messages = Some(messages);
    if load.written_off > 0 {
        let what = "times nothing came for a second, and what was under way was given up";
        report.notes.push(format!("{} {what}", words::count(load.written_off)));
    }
    if let Some(code) = clients.refusal {
        report.notes.push(format!("the first refusal: {}", super::peer::reason_words(code)));
    }
    if let Some(maximum) = clients.limited() {
        report.notes.push(format!("the server takes {maximum} unacknowledged messages of a client (Receive Maximum)"));
    }
    load.close(all, true);
    report
}

fn connections(plan: &Plan, progress: &mut Progress) -> Result<Report, Failure> {
    let mut storm = Storm::new(plan)?;
    let mut before = Before::new(plan, [0; 3]);
    let cycle = plan.scenario == Scenario::Reconnect;
    storm.connect_all(progress)?;
    if cycle {
        before = Before::new(plan, [0; 3]);
        storm.cycle(progress)?;
    }
    let resident = before.broker.as_ref().and_then(|(_, _, resident)| *resident);
    let mut span = before.end([storm.counts.made; 3], 0);
    if !cycle {
        storm.idle(plan.time.unwrap_or_default(), progress)?;
        if let Some(broker) = &mut span.broker {
            broker.resident_kb_after = Meter::new(broker.pid).resident_kb();
            let more = broker.resident_kb_after.zip(resident).map(|(after, before)| after.saturating_sub(before));
            broker.bytes_a_connection = more.map(|kb| kb as f64 * 1024.0 / storm.counts.made.max(1) as f64);
        }
    }
    let handshake = storm.handshakes.percentiles();
    let corrected_for_coordinated_omission = plan.connect_rate.is_some();
    let measured =
        Measured { seconds: span.seconds, handshake, corrected_for_coordinated_omission, ..Measured::default() };
    let connections = Connections {
        attempted: storm.counts.begun,
        made: storm.counts.made,
        failed: storm.counts.failed,
        ended: storm.counts.ended,
        sessions_lost: storm.counts.sessions_lost,
        seconds: span.seconds,
        made_per_s: storm.counts.made as f64 / span.seconds,
    };
    let mut report = report(plan, span, measured);
    report.connections = Some(connections);
    report.notes.extend(storm.counts.why.take().map(|why| format!("the first that failed: {why}")));
    storm.close();
    Ok(report)
}

fn report(plan: &Plan, span: Span, measured: Measured) -> Report {
    let (rate_per_s, window) = match plan.pacing {
        Pacing::Closed { window } => (None, window),
        Pacing::Open { per_s, window } => (Some(per_s), Some(window)),
    };
    Report {
        tool: concat!("forebay bench ", env!("CARGO_PKG_VERSION")),
        load: LoadInfo {
            scenario: plan::name(plan.scenario),
            url: plan.url.to_string(),
            protocol: if plan.version == Version::V5 { "5.0" } else { "3.1.1" },
            tls: plan.tls.is_some(),
            qos: plan.qos,
            payload_bytes: plan.size,
            publishers: plan.publishers,
            subscribers: plan.subscribers,
            persistent: plan.persistent,
            rate_per_s,
            window,
            connect_rate_per_s: plan.connect_rate,
            run: format!("{:08x}", plan.run),
        },
        messages: None,
        connections: None,
        measured,
        broker: span.broker,
        generator: span.generator,
        problems: Vec::new(),
        notes: Vec::new(),
        exit_code: 0,
    }
}
