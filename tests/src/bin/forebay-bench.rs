//! Measures this repository's broker beside mosquitto and the floor, in turn in one run.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use forebay::tools::bench::footprint;
use forebay::tools::bench::process::Kind;
use forebay::tools::bench::scenario::{self, Figures};

/// Measures the broker beside mosquitto and the floor.
#[derive(Parser)]
struct Arguments {
    /// Scenarios, `footprint` among them; all if none is named
    scenarios: Vec<String>,
    /// Brokers: forebay, mosquitto, floor
    #[arg(long, value_delimiter = ',', default_value = "forebay,mosquitto,floor")]
    brokers: Vec<String>,
    /// Our program
    #[arg(long, default_value = "target/release/forebay")]
    broker: PathBuf,
    /// Its configuration
    #[arg(long, default_value = "config/bench.toml")]
    config: PathBuf,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements of each broker in each scenario; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == "relay") {
        forebay::tools::bench::relay::run(arguments[2].parse().unwrap());
        return;
    }
    let arguments = Arguments::parse();
    let kinds: Vec<Kind> = arguments
        .brokers
        .iter()
        .map(|name| match name.as_str() {
            "mosquitto" => Kind::Mosquitto,
            "floor" => Kind::Floor,
            _ => Kind::Forebay(arguments.broker.clone(), arguments.config.clone()),
        })
        .collect();
    let wanted = |name: &str| arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|s| s == name);
    if wanted("footprint") {
        print_footprint(&kinds);
    }
    println!(
        "| scenario | broker | µs CPU a message | disk bytes a message | messages a second | drained a second | received p50 / p99 µs | \
         acknowledged p50 / p99 µs | times less than mosquitto | target |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for scenario in scenario::all().iter().filter(|s| wanted(s.name)) {
        let mut all: Vec<Vec<Figures>> = vec![Vec::new(); kinds.len()];
        for _ in 0..arguments.rounds {
            for (kind, figures) in kinds.iter().zip(&mut all) {
                // The relay keeps nothing for those who are away.
                if scenario.shape.away && matches!(kind, Kind::Floor) {
                    continue;
                }
                figures.push(scenario::measure(kind, scenario, Duration::from_secs_f64(arguments.seconds)));
            }
        }
        let medians: Vec<Option<Figures>> = all.into_iter().map(median).collect();
        let mosquitto = kinds.iter().zip(&medians).find(|(kind, _)| matches!(kind, Kind::Mosquitto));
        let mosquitto = mosquitto.and_then(|(_, figures)| figures.as_ref()).map(|figures| figures.cpu_us);
        for (kind, figures) in kinds.iter().zip(&medians) {
            let Some(figures) = figures else { continue };
            let latency =
                |us: Option<(f64, f64)>| us.map_or(String::new(), |(p50, p99)| format!("{p50:.0} / {p99:.0}"));
            let (received, acknowledged) = (latency(figures.latency_us), latency(figures.ack_us));
            let drained = figures.drain_rate.map_or(String::new(), |rate| format!("{rate:.0}"));
            let ratio = mosquitto.map_or(String::new(), |m| format!("{:.1}", m / figures.cpu_us));
            let target = scenario.target.map_or(String::new(), |target| format!("{target}"));
            let wrong = if figures.wrong > 0 { format!(" **{} WRONG**", figures.wrong) } else { String::new() };
            println!(
                "| {} | {}{wrong} | {:.3} | {:.0} | {:.0} | {drained} | {received} | {acknowledged} | {ratio} | {target} |",
                scenario.name,
                kind.name(),
                figures.cpu_us,
                figures.disk_bytes,
                figures.rate
            );
        }
    }
}

fn print_footprint(kinds: &[Kind]) {
    println!(
        "| broker | idle MB | bytes an idle TCP connection | bytes an idle TLS connection | µs CPU a connect | \
         µs CPU a TLS connect |"
    );
    println!("|---|---|---|---|---|---|");
    for kind in kinds.iter().filter(|kind| !matches!(kind, Kind::Floor)) {
        let f = footprint::measure(kind);
        let idle_mb = f.idle_kb as f64 / 1024.0;
        println!(
            "| {} | {idle_mb:.1} | {:.0} | {:.0} | {:.1} | {:.0} |",
            kind.name(),
            f.tcp_bytes,
            f.tls_bytes,
            f.connect_us,
            f.handshake_us
        );
    }
    println!();
}

fn median(mut figures: Vec<Figures>) -> Option<Figures> {
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    let wrong = figures.iter().map(|f| f.wrong).sum();
    let middle = figures.get(figures.len() / 2)?.clone();
    Some(Figures { wrong, ..middle })
}
