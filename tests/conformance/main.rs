//! The protocol, statement by statement. Each test names the normative statements that it proves; the manifests list every
//! statement of the standards with its tests, or with why it has none. Tests and manifests are held against each other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm
)]

mod malformed;
mod manifest;
mod v311;
mod v5;

use std::path::PathBuf;
use std::sync::Arc;

use forebay_tests::broker::Broker;
use libtest_mimic::{Arguments, Trial};

/// Most tests wait more than they work.
const THREADS: usize = 12;

/// Tests of what the broker does not do yet, and why.
const NOT_YET: [(&str, &str); 0] = [];

/// The broker that the tests share: client identifiers and topics begin with the test's own name.
#[derive(Debug, Clone)]
pub struct Target {
    /// Plain TCP.
    pub port: u16,
    /// TLS.
    pub tls_port: u16,
    /// The certificate of its CA.
    pub ca: PathBuf,
}

/// One test.
pub struct Case {
    /// The path of its module and function below this crate, or of its file of bytes.
    pub name: String,
    /// The ids of the statements that it proves.
    pub proves: Vec<String>,
    /// Panics when they do not hold.
    pub run: Box<dyn Fn(&Target) + Send + Sync>,
}

impl Case {
    /// A test that is a function; [`case`] writes the name.
    pub fn new(path: &str, proves: &[&str], run: fn(&Target)) -> Self {
        let name = path.split_once("::").map_or(path, |(_, name)| name).to_owned();
        Self { name, proves: proves.iter().map(|s| (*s).to_owned()).collect(), run: Box::new(run) }
    }
}

/// `case!(function, "MQTT5-3.1.2-4", …)`: a [`Case`] named after the function.
#[macro_export]
macro_rules! case {
    ($run:ident $(, $id:literal)* $(,)?) => {
        $crate::Case::new(concat!(module_path!(), "::", stringify!($run)), &[$($id),*], $run)
    };
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let cases: Vec<Case> = [v311::cases(), v5::cases(), malformed::cases()].into_iter().flatten().collect();
    let manifests = manifest::load();
    for manifest in &manifests {
        println!("{}", manifest.summary());
    }
    let mut trials = manifest::trials(manifests, &cases);
    let broker = (!arguments.list).then(Broker::start);
    let target = Arc::new(Target {
        port: broker.as_ref().map_or(0, Broker::port),
        tls_port: broker.as_ref().map_or(0, Broker::tls_port),
        ca: broker.as_ref().map(Broker::ca).unwrap_or_default(),
    });
    trials.extend(cases.into_iter().map(|case| {
        let target = target.clone();
        let not_yet = NOT_YET.iter().find(|(name, _)| *name == case.name);
        if let Some((name, reason)) = not_yet {
            println!("SKIP conformance: {name}: {reason}");
        }
        let run = move || {
            (case.run)(&target);
            Ok(())
        };
        Trial::test(case.name, run).with_ignored_flag(not_yet.is_some())
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(mut broker) = broker {
        let running = broker.is_running();
        if conclusion.has_failed() || !running {
            println!("the broker {}; its log ends with:", if running { "runs on" } else { "is gone" });
            println!("{}", broker.log());
        }
        assert!(running, "the broker did not live through the tests");
    }
    conclusion.exit();
}
