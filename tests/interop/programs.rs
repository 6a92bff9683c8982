//! mosquitto_pub and mosquitto_sub: what a newcomer types first.

use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::{Target, trial};

pub(crate) fn trials(target: &Arc<Target>) -> Vec<Trial> {
    let there = |program: &str| Command::new(program).arg("--help").output().is_ok();
    let absent = (!there("mosquitto_pub") || !there("mosquitto_sub")).then_some("no mosquitto_pub or mosquitto_sub");
    let mut trials = Vec::new();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            for tls in [false, true] {
                let target = target.clone();
                let name = format!("mosquitto::{version}::qos{qos}{}", if tls { "::tls" } else { "" });
                trials.push(trial(name, absent, move || one_message(&target, version, qos, tls)));
            }
        }
        let clone = target.clone();
        trials.push(trial(format!("mosquitto::{version}::retained"), absent, move || retained(&clone, version)));
        let clone = target.clone();
        trials.push(trial(format!("mosquitto::{version}::resume"), absent, move || resume(&clone, version)));
        let clone = target.clone();
        trials.push(trial(format!("mosquitto::{version}::will"), absent, move || will(&clone, version)));
    }
    trials
}

fn command(program: &str, target: &Target, version: &str, tls: bool) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-V", version]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if tls {
        command.args(["-p", &target.tls_port.to_string(), "--cafile"]).arg(&target.ca);
    } else {
        command.args(["-p", &target.port.to_string()]);
    }
    command
}

fn finished(output: Output) -> Result<String, Failed> {
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn expect(came: &str, wanted: &str) -> Result<(), Failed> {
    if came == wanted { Ok(()) } else { Err(format!("{wanted:?} was published, {came:?} came").into()) }
}

/// A subscriber that has its SUBACK: it prints a retained message of a topic of its own first.
fn subscriber(target: &Target, version: &str, qos: &str, tls: bool, topic: &str, count: &str) -> Result<Child, Failed> {
    let ready = format!("{topic}/ready");
    finished(
        command("mosquitto_pub", target, version, tls).args(["-r", "-q", "1", "-t", &ready, "-m", "ready"]).output()?,
    )?;
    let mut sub = command("mosquitto_sub", target, version, tls);
    let child = sub.args(["-q", qos, "-W", "20", "-C", count, "-t", &ready, "-t", topic]).spawn()?;
    // Its first line shows that it is subscribed; it is read with the rest, so a moment must do.
    std::thread::sleep(Duration::from_millis(300));
    Ok(child)
}

fn one_message(target: &Target, version: &str, qos: &str, tls: bool) -> Result<(), Failed> {
    let topic = format!("programs/{version}/{qos}/{tls}");
    let sub = subscriber(target, version, qos, tls, &topic, "2")?;
    finished(command("mosquitto_pub", target, version, tls).args(["-q", qos, "-t", &topic, "-m", "hello"]).output()?)?;
    expect(&finished(sub.wait_with_output()?)?, "ready\nhello\n")
}

fn retained(target: &Target, version: &str) -> Result<(), Failed> {
    let topic = format!("programs/{version}/retained");
    let publish = |message: &str| -> Result<String, Failed> {
        finished(
            command("mosquitto_pub", target, version, false)
                .args(["-r", "-q", "1", "-t", &topic, "-m", message])
                .output()?,
        )
    };
    publish("first")?;
    publish("second")?;
    let mut sub = command("mosquitto_sub", target, version, false);
    expect(&finished(sub.args(["-W", "20", "-C", "1", "-F", "%r %p", "-t", &topic]).output()?)?, "1 second\n")
}

fn resume(target: &Target, version: &str) -> Result<(), Failed> {
    let (topic, client) = (format!("programs/{version}/resume"), format!("resume-{version}"));
    let session = |more: &[&str]| -> Result<Output, Failed> {
        let mut sub = command("mosquitto_sub", target, version, false);
        sub.args(["-c", "-i", &client, "-q", "2", "-t", &topic, "-W", "20"]).args(more);
        Ok(sub.output()?)
    };
    session(&["-E"])?;
    for number in 0..10 {
        let (qos, message) = ((1 + number % 2).to_string(), number.to_string());
        let mut publish = command("mosquitto_pub", target, version, false);
        finished(publish.args(["-q", &qos, "-t", &topic, "-m", &message]).output()?)?;
    }
    let came = finished(session(&["-C", "10"])?)?;
    let numbers: Vec<u32> = came.lines().filter_map(|line| line.parse().ok()).collect();
    // QoS 2 is handed on at PUBREL: order is kept within a QoS, not across them.
    let of = |rest: u32| numbers.iter().copied().filter(|n| n % 2 == rest).collect::<Vec<_>>();
    expect(&format!("{:?} {:?}", of(0), of(1)), "[0, 2, 4, 6, 8] [1, 3, 5, 7, 9]")
}

fn will(target: &Target, version: &str) -> Result<(), Failed> {
    let topic = format!("programs/{version}/will");
    let sub = subscriber(target, version, "1", false, &topic, "2")?;
    let mut dying = command("mosquitto_sub", target, version, false);
    let mut dying =
        dying.args(["-t", "nothing", "--will-topic", &topic, "--will-payload", "gone", "--will-qos", "1"]).spawn()?;
    std::thread::sleep(Duration::from_millis(300));
    dying.kill()?;
    dying.wait()?;
    expect(&finished(sub.wait_with_output()?)?, "ready\ngone\n")
}
