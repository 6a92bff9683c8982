//! The client library against servers that others wrote, and against this repository's broker, over every transport.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod checks;
mod transports;

use std::time::Duration;

use forebay_client::{Options, QoS, Reconnect, Version};
use forebay_tests::absence::{of_program, panicking};
use forebay_tests::server::Program;
use libtest_mimic::{Arguments, Trial};

/// How long something may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let mut trials = transports::trials();
    for server in [FOREBAY, MOSQUITTO, NATS, RABBITMQ] {
        trials.extend(server.trials());
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// What a server is able to do.
#[derive(Clone, Copy)]
struct Server {
    name: &'static str,
    start: fn() -> Program,
    absent: fn() -> Option<String>,
    versions: &'static [Version],
    qos: QoS,
    /// What is acknowledged outlives `kill -9`.
    outlives_a_kill: bool,
    /// What it had not delivered when it ended comes before what is published later.
    resumes_in_order: bool,
    shared: bool,
}

const BOTH: &[Version] = &[Version::V311, Version::V5];
const FOREBAY: Server = Server {
    name: "forebay",
    start: Program::forebay,
    absent: || None,
    versions: BOTH,
    qos: QoS::ExactlyOnce,
    outlives_a_kill: true,
    resumes_in_order: true,
    shared: true,
};
const MOSQUITTO: Server = Server {
    name: "mosquitto",
    start: Program::mosquitto,
    absent: || of_program("mosquitto"),
    versions: BOTH,
    qos: QoS::ExactlyOnce,
    // It writes its state down when it ends.
    outlives_a_kill: false,
    resumes_in_order: true,
    shared: true,
};
const NATS: Server = Server {
    name: "nats-server",
    start: Program::nats,
    absent: || of_program("nats-server"),
    versions: &[Version::V311],
    qos: QoS::AtLeastOnce,
    outlives_a_kill: true,
    // What it took for delivered when it was killed, written to the socket or not, comes again when its wait for the ack is
    // over, 30 seconds later.
    resumes_in_order: false,
    shared: false,
};
const RABBITMQ: Server = Server {
    name: "rabbitmq",
    start: Program::rabbitmq,
    absent: Program::rabbitmq_is_absent,
    versions: &[Version::V311],
    qos: QoS::AtLeastOnce,
    outlives_a_kill: true,
    resumes_in_order: true,
    shared: false,
};

type Check = fn(&Server, &mut Program, Version);

impl Server {
    /// One trial for each server: some take ten seconds to start.
    fn trials(self) -> Vec<Trial> {
        let absent = (self.absent)();
        let trial = move || {
            let mut program = (self.start)();
            for version in self.versions {
                let mut all: Vec<Check> = vec![checks::exchange, checks::retained, checks::will, checks::resumed];
                if self.qos == QoS::ExactlyOnce {
                    all.push(checks::inherited);
                }
                if self.shared {
                    all.push(checks::shared);
                }
                if version.is_v5() {
                    all.extend([checks::no_local as Check, checks::request, checks::overlapping]);
                }
                for check in all {
                    check(&self, &mut program, *version);
                }
            }
        };
        vec![panicking("servers", self.name, absent.as_deref(), trial)]
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes for ever")
}

fn options(port: u16, version: Version, name: &str) -> Options {
    let quick = Reconnect { min: Duration::from_millis(20), max: Duration::from_millis(300), ..Reconnect::default() };
    let options = Options::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().version(version);
    options.client_id(format!("{name}{}", version.level())).reconnect(quick)
}
