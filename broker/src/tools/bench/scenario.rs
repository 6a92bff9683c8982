//! The scenarios and their targets.

use std::time::{Duration, Instant};

use super::load::{Load, Shape};
use super::process::{Kind, Process};

/// A scenario: its name, its shape, and how many times less than mosquitto a message should cost.
pub struct Scenario {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What it does.
    pub shape: Shape,
    /// The target ratio, if there is one.
    pub target: Option<f64>,
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Processor time of the broker for each delivered message, in microseconds.
    pub cpu_us: f64,
    /// Bytes written to the disk for each of them.
    pub disk_bytes: f64,
    /// Delivered messages a second (acknowledged ones where subscribers are away).
    pub rate: f64,
    /// Median and 99th percentile of the time to a message's receipt in microseconds, where it was kept.
    pub latency_us: Option<(f64, f64)>,
    /// Median and 99th percentile of the time to its ack.
    pub ack_us: Option<(f64, f64)>,
    /// Where subscribers were away: messages a second when they have come back.
    pub drain_rate: Option<f64>,
    /// Messages lost, doubled or out of order.
    pub wrong: u64,
}

fn shape(publishers: usize, subscribers: usize, pairs: bool, qos: u8, window: u64) -> Shape {
    Shape { publishers, subscribers, pairs, qos, window, persistent: false, rate: None, away: false }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let one = |name, shape, target| Scenario { name, shape, target: Some(target) };
    let other = |name, shape| Scenario { name, shape, target: None };
    let pairs_5k = Shape { rate: Some(5_000), ..shape(50, 50, true, 1, 1000) };
    let persistent = Shape { persistent: true, ..pairs_5k.clone() };
    let hundred = Shape { persistent: true, ..shape(100, 100, true, 1, 20) };
    vec![
        one("q0-1-1", shape(1, 1, true, 0, 100), 14.0),
        one("q1-1-1", shape(1, 1, true, 1, 100), 16.0),
        one("q2-1-1", shape(1, 1, true, 2, 100), 18.0),
        one("q0-1-50", shape(1, 50, false, 0, 100), 30.0),
        one("q0-50-1", shape(50, 1, false, 0, 100), 15.0),
        one("q1-50-pairs", shape(50, 50, true, 1, 20), 14.0),
        one("q1-50-pairs-5k", pairs_5k, 1.2),
        one("durable-100-pairs", hundred.clone(), 10.0),
        other("durable-5k", persistent.clone()),
        other("durable-5k-away", Shape { away: true, ..persistent }),
        other("backlog-1", Shape { away: true, persistent: true, ..shape(1, 1, true, 1, 1000) }),
        other("backlog-100", Shape { away: true, ..hundred }),
    ]
}

/// Runs one scenario on one broker, freshly started.
pub fn measure(kind: &Kind, scenario: &Scenario, time: Duration) -> Figures {
    let broker = Process::start(kind);
    let shape = &scenario.shape;
    let online = Shape { away: false, ..shape.clone() };
    if shape.away {
        // The sessions are made, and left.
        drop(Load::new(broker.port, &online));
        std::thread::sleep(Duration::from_millis(300));
    }
    let mut load = Load::new(broker.port, shape);
    load.run(Duration::from_millis(500));
    load.reset();
    let (cpu, written, started) = (broker.cpu_ns(), broker.written_bytes(), Instant::now());
    load.run(time);
    let (cpu, written) = (broker.cpu_ns() - cpu, broker.written_bytes() - written);
    let elapsed = started.elapsed();
    let delivered = if shape.away { load.counts.acknowledged } else { load.counts.received };
    let counts = std::mem::take(&mut load.counts);
    let (drain_rate, missing) = if shape.away {
        let (rate, missing) = drain(&broker, load, &online);
        (Some(rate), missing)
    } else {
        (None, load.settle() + load.counts.wrong)
    };
    Figures {
        cpu_us: cpu as f64 / 1000.0 / delivered.max(1) as f64,
        disk_bytes: written as f64 / delivered.max(1) as f64,
        rate: delivered as f64 / elapsed.as_secs_f64(),
        latency_us: percentiles(counts.latencies_ns),
        ack_us: percentiles(counts.ack_latencies_ns),
        drain_rate,
        wrong: counts.wrong + missing,
    }
}

/// The subscribers come back: messages a second, and how many are missing or wrong.
fn drain(broker: &Process, mut load: Load, online: &Shape) -> (f64, u64) {
    let backlog = load.acknowledge_all();
    drop(load);
    std::thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    let mut load = Load::new(broker.port, online);
    load.expect_backlog(&backlog);
    let missing = load.settle();
    // The last turn waits for what does not come any more.
    (load.counts.received as f64 / started.elapsed().as_secs_f64(), missing + load.counts.wrong)
}

/// Median and 99th percentile in microseconds.
fn percentiles(mut ns: Vec<u64>) -> Option<(f64, f64)> {
    ns.sort_unstable();
    let at = |part: f64| Some(*ns.get((ns.len() as f64 * part) as usize)? as f64 / 1000.0);
    Some((at(0.5)?, at(0.99)?))
}
