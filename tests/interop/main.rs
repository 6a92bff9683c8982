//! Others' clients, the real programs, against a broker: mosquitto_pub and _sub, paho-mqtt, MQTT.js,
//! rumqttc.
//!
//! BROKER=mosquitto tries the scenarios themselves on mosquitto. A client that is not installed is skipped with a line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod programs;
mod rumqttc;
mod scripts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_tests::broker::Broker;
use libtest_mimic::{Arguments, Failed, Trial};

/// What a scenario has to know about the broker.
#[derive(Debug, Clone)]
struct Target {
    port: u16,
    tls_port: u16,
    ca: PathBuf,
}

/// Where `tests/run` installs what comes from PyPI and npm, unless the environment says otherwise.
fn cache() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::env::var_os("FOREBAY_TESTS_CACHE").map_or_else(beside, PathBuf::from)
}

/// A trial of one scenario; `absent` says why its client cannot be run.
fn trial(name: String, absent: Option<&str>, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    forebay_tests::absence::trial("interop", name, absent, run)
}

fn main() {
    let arguments = Arguments::from_args();
    let broker = (!arguments.list).then(Broker::start);
    let target = Arc::new(Target {
        port: broker.as_ref().map_or(0, Broker::port),
        tls_port: broker.as_ref().map_or(0, Broker::tls_port),
        ca: broker.as_ref().map(Broker::ca).unwrap_or_default(),
    });
    let mut trials = programs::trials(&target);
    trials.extend(scripts::trials(&target));
    trials.extend(rumqttc::trials(&target));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let failed = conclusion.has_failed();
    if let Some(mut broker) = broker {
        let running = broker.is_running();
        if failed || !running {
            println!(
                "the broker {}; its log ends with:\n{}",
                if running { "runs on" } else { "is gone" },
                broker.log()
            );
        }
        assert!(running, "the broker did not live through the tests");
    }
    conclusion.exit();
}
