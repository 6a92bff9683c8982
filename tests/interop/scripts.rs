//! Scenarios that are scripts in the client's own language: paho-mqtt and MQTT.js.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use crate::{Target, cache, trial};

const SCENARIOS: [&str; 8] = ["qos0", "qos1", "qos2", "will", "retained", "resume", "shared", "tls"];

/// How a script is run, or why it cannot be.
struct Runner {
    name: &'static str,
    program: PathBuf,
    script: &'static str,
    environment: Option<(&'static str, PathBuf)>,
    absent: Option<String>,
}

pub(crate) fn trials(target: &Arc<Target>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for runner in [paho(), mqttjs()].map(Arc::new) {
        for version in ["311", "5"] {
            // Shared subscriptions are MQTT 5's.
            for scenario in SCENARIOS.into_iter().filter(|s| *s != "shared" || version == "5") {
                let (own, target) = (runner.clone(), target.clone());
                let name = format!("{}::v{version}::{scenario}", runner.name);
                let run = move || run(&own, &target, version, scenario);
                trials.push(trial(name, runner.absent.as_deref(), run));
            }
        }
    }
    trials
}

fn paho() -> Runner {
    let program = cache().join("venv").join("bin").join("python");
    let works = is_there(Command::new(&program).args(["-c", "import paho.mqtt"]));
    let absent = (!works).then(|| format!("no paho-mqtt for {}", program.display()));
    Runner { name: "paho", program, script: "paho_client.py", environment: None, absent }
}

fn mqttjs() -> Runner {
    let modules = cache().join("node").join("node_modules");
    let environment = ("NODE_PATH", modules.clone());
    let works = is_there(Command::new("node").args(["-e", "require('mqtt')"]).env("NODE_PATH", &modules));
    let absent = (!works).then(|| format!("no node, or no mqtt in {}", modules.display()));
    Runner {
        name: "mqttjs",
        program: "node".into(),
        script: "mqttjs_client.js",
        environment: Some(environment),
        absent,
    }
}

fn is_there(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn run(runner: &Runner, target: &Target, version: &str, scenario: &str) -> Result<(), Failed> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(runner.script);
    let tls = scenario == "tls";
    let port = if tls { target.tls_port } else { target.port };
    let ca = if tls { target.ca.clone() } else { "-".into() };
    let prefix = format!("{}-{version}-{scenario}", runner.name);
    let mut command = Command::new(&runner.program);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script).args([scenario, version, &port.to_string()]);
    command.arg(ca).arg(prefix).envs(runner.environment.clone()).stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&text)).into())
}
