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
    /// Delivered messages a second (acknowledged ones where subscribers are away).
    pub rate: f64,
    /// Median and 99th percentile of the latency in microseconds, where it was kept.
    pub latency_us: Option<(f64, f64)>,
    /// Messages lost, doubled or out of order.
    pub wrong: u64,
}

fn shape(publishers: usize, subscribers: usize, pairs: bool, qos: u8, window: u64) -> Shape {
    Shape { publishers, subscribers, pairs, qos, window, persistent: false, rate: None, away: false }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let one = |name, shape, target| Scenario { name, shape, target: Some(target) };
    vec![
        one("q0-1-1", shape(1, 1, true, 0, 100), 14.0),
        one("q1-1-1", shape(1, 1, true, 1, 100), 16.0),
        one("q2-1-1", shape(1, 1, true, 2, 100), 18.0),
        one("q0-1-50", shape(1, 50, false, 0, 100), 30.0),
        one("q0-50-1", shape(50, 1, false, 0, 100), 15.0),
        one("q1-50-pairs", shape(50, 50, true, 1, 20), 14.0),
        one("q1-50-pairs-5k", Shape { rate: Some(5_000), ..shape(50, 50, true, 1, 1000) }, 1.2),
        one("durable-100-pairs", Shape { persistent: true, ..shape(100, 100, true, 1, 20) }, 10.0),
        Scenario {
            name: "backlog-100",
            shape: Shape { persistent: true, away: true, ..shape(100, 100, true, 1, 20) },
            target: None,
        },
    ]
}

/// Runs one scenario on one broker, freshly started.
pub fn measure(kind: &Kind, scenario: &Scenario, time: Duration) -> Figures {
    let broker = Process::start(kind);
    if scenario.shape.away {
        // The sessions are made, and left.
        drop(Load::new(broker.port, &Shape { away: false, ..scenario.shape.clone() }));
        std::thread::sleep(Duration::from_millis(300));
    }
    let mut load = Load::new(broker.port, &scenario.shape);
    load.run(Duration::from_millis(500));
    load.reset();
    let (cpu, started) = (broker.cpu_ns(), Instant::now());
    load.run(time);
    let (cpu, elapsed) = (broker.cpu_ns() - cpu, started.elapsed());
    let delivered = if scenario.shape.away { load.counts.acknowledged } else { load.counts.received };
    let mut latencies = std::mem::take(&mut load.counts.latencies_ns);
    let wrong = load.counts.wrong + if scenario.shape.away { 0 } else { load.settle() };
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map_or(0.0, |ns| *ns as f64 / 1000.0);
    Figures {
        cpu_us: cpu as f64 / 1000.0 / delivered.max(1) as f64,
        rate: delivered as f64 / elapsed.as_secs_f64(),
        latency_us: (!latencies.is_empty()).then(|| (at(0.5), at(0.99))),
        wrong,
    }
}
