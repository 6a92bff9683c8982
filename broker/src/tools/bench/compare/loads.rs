//! The loads that brokers are compared with. Each is a command line of `forebay bench`.

use clap::Parser;

use super::brokers::{Kind, Program, Running};
use crate::tools::bench::cli::{BenchCli, RunArgs};
use crate::tools::exit::Failure;

/// One of them.
#[derive(Debug)]
pub struct Load {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What stands behind `forebay bench`.
    pub line: &'static str,
    /// What it is.
    pub what: &'static str,
}

const fn load(name: &'static str, line: &'static str, what: &'static str) -> Load {
    Load { name, line, what }
}

/// All of them.
pub const ALL: [Load; 14] = [
    load("q0-1-1", "one-to-one -q 0", "QoS 0, one to one"),
    load("q1-1-1", "one-to-one -q 1", "QoS 1, one to one"),
    load("q2-1-1", "one-to-one -q 2", "QoS 2, one to one"),
    load("q0-1-50", "fan-out --subscribers 50", "QoS 0, one to fifty"),
    load("q0-50-1", "fan-in --publishers 50", "QoS 0, fifty to one"),
    load("q1-50-pairs", "pairs -c 50 -q 1 -w 20", "QoS 1, fifty pairs"),
    load("q1-50-pairs-5k", "pairs -c 50 -q 1 --rate 5000", "QoS 1, fifty pairs, 5,000 a second"),
    load("q1-shared", "shared -q 1", "QoS 1, ten to ten that share"),
    load("durable-100-pairs", "pairs -c 100 -q 1 -w 20 --persistent", "QoS 1, 100 pairs, persistent sessions"),
    load("durable-5k", "pairs -c 50 -q 1 --rate 5000 --persistent", "the same, fifty, 5,000 a second"),
    load("durable-5k-away", "backlog -c 50 -q 1 --rate 5000", "fifty away, 5,000 a second"),
    load("backlog-1", "backlog -c 1 -q 1 -w 1000", "one away"),
    load("backlog-100", "backlog -c 100 -q 1 -w 20", "100 away"),
    load("reconnect-100", "reconnect -c 100", "100 clients that connect again and again"),
];

/// The one that is not a load: memory, and connects.
pub const FOOTPRINT: &str = "footprint";

/// Those that were asked for, and whether the footprint is.
///
/// # Errors
/// A name is none of them.
pub fn chosen(names: &[String]) -> Result<(Vec<&'static Load>, bool), Failure> {
    for name in names {
        if name != FOOTPRINT && !ALL.iter().any(|load| load.name == name) {
            let known = ALL.map(|load| load.name).join(", ");
            return Err(Failure::usage(format!("--scenarios {name}: there is {FOOTPRINT}, {known}")));
        }
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    Ok((ALL.iter().filter(|load| wanted(load.name)).collect(), wanted(FOOTPRINT)))
}

/// For `--scenarios help`.
#[must_use]
pub fn help() -> String {
    let lines = ALL.iter().map(|load| format!("{:<18} {:<42} forebay bench {}\n", load.name, load.what, load.line));
    let footprint = "memory without and with idle connections, processor time of a connect";
    format!("{}{FOOTPRINT:<18} {footprint}\n", lines.collect::<String>())
}

impl Load {
    /// The floor keeps nothing for those who are away, and knows no shared subscriptions.
    #[must_use]
    pub fn fits(&self, kind: Kind) -> bool {
        kind != Kind::Floor || !(self.line.starts_with("backlog") || self.line.starts_with("shared"))
    }
}

/// The arguments of a line, on a broker.
///
/// # Errors
/// The line is wrong.
pub fn arguments(line: &str, broker: &Running, tls: Option<&Program>, seconds: f64) -> Result<RunArgs, Failure> {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let url = match (tls, broker.tls_port) {
        (Some(program), Some(port)) => {
            words.extend(["--cafile".to_owned(), broker.ca(program).display().to_string()]);
            format!("mqtts://localhost:{port}")
        }
        _ => format!("mqtt://127.0.0.1:{}", broker.port),
    };
    words.extend(["--url".to_owned(), url, "--pid".to_owned(), broker.pid().to_string()]);
    if !line.contains("-n ") {
        words.extend(["--seconds".to_owned(), seconds.to_string()]);
    }
    let cli = BenchCli::try_parse_from(std::iter::once("bench".to_owned()).chain(words));
    cli.map(|cli| cli.run).map_err(|why| Failure::failed(format!("{line}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::bench::plan::Plan;

    #[test]
    fn every_line_is_a_plan() {
        for load in &ALL {
            let cli = BenchCli::try_parse_from(std::iter::once("bench").chain(load.line.split(' '))).unwrap();
            Plan::new(&cli.run).unwrap();
        }
        assert!(chosen(&["q3".to_owned()]).unwrap_err().what.contains("there is footprint, q0-1-1"));
        assert_eq!(chosen(&["q0-1-1".to_owned()]).unwrap().0.len(), 1);
    }
}
