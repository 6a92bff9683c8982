//! `forebay bridge test` and `forebay bridge rehearse`, the real program.

use std::process::{Command, Output};

use forebay_tests::broker::{Broker, free_port, program};

use crate::{Case, bridge};

pub fn trials() -> Vec<Case> {
    vec![
        ("trial::a_probe_goes_where_the_bridge_would_send_it", None, a_probe_goes_where_the_bridge_would_send_it),
        ("trial::what_is_wrong_is_said", None, what_is_wrong_is_said),
        ("trial::a_rehearsal_loses_nothing", None, a_rehearsal_loses_nothing),
        ("trial::a_rehearsal_shows_a_queue_that_is_too_small", None, a_rehearsal_shows_a_queue_that_is_too_small),
    ]
}

const OUT: &str = "[[bridges.out]]\nfilter = 't/#'\ntopic = 'up/{topic}'\nqos = 1";

/// `forebay bridge` with this configuration.
fn run(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    let Output { status, stdout, stderr } =
        Command::new(program()).args(["--config", file.to_str().unwrap(), "bridge"]).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{text}");
    (status.code(), text)
}

fn a_probe_goes_where_the_bridge_would_send_it() {
    let upstream = Broker::start();
    let config = bridge(upstream.port(), "", OUT);
    let (code, text) = run(&config, &["test", "up", "--topic", "t/1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("upstream   connected") && text.contains("t/1 -> up/t/1, QoS 1"), "{text}");
    assert!(text.contains("answer     taken"), "{text}");
    let (code, text) = run(&config, &["test", "up"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("sent "), "without a topic nothing is sent: {text}");
}

fn what_is_wrong_is_said() {
    let upstream = Broker::start();
    let config = bridge(upstream.port(), "", OUT);
    let (code, text) = run(&config, &["test", "down"]);
    assert!(code == Some(2) && text.contains("has no bridge \"down\"; it has up"), "{text}");
    let (code, text) = run(&config, &["test", "up", "--topic", "u/1"]);
    assert!(code == Some(2) && text.contains("nothing takes u/1 up: the filters of bridges.out are t/#"), "{text}");
    let wants = "[[bridges.out]]\nfilter = 't/#'\ntopic = 'up/{user.line}'\nqos = 1";
    let (code, text) = run(&bridge(upstream.port(), "", wants), &["test", "up", "--topic", "t/1"]);
    assert!(code == Some(5) && text.contains("the message has no user property line"), "{text}");
    let (code, text) = run(&bridge(free_port(), "", OUT), &["test", "up", "--wait", "1s"]);
    assert!(code == Some(4) && text.contains("backing off: "), "{text}");
}

/// What a line of the account says behind a word.
fn figure(text: &str, before: &str) -> u64 {
    let (_, from) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    from.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn a_rehearsal_loses_nothing() {
    let config = bridge(free_port(), "stalled_after = '1s'\nrate = { messages_per_s = 1000 }", OUT);
    let (code, text) = run(&config, &["rehearse", "up", "--each", "2s", "--rate", "100"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(figure(&text, "acknowledged ") > 1_000, "{text}");
    assert_eq!(figure(&text, "acknowledged "), figure(&text, ", arrived "), "{text}");
    assert_eq!((figure(&text, "lost "), figure(&text, "out of order ")), (0, 0), "{text}");
    assert!(text.contains("(all marked: yes)") && text.contains("backing off: connection refused"), "{text}");
    assert!(text.contains("blocked: nothing was confirmed for 1 s"), "{text}");
    assert!(text.contains("blocked: not taken for now: no room"), "{text}");
    assert!(text.contains("leaves 360000 messages, which drain in 6 min at 1000 a second"), "{text}");
}

fn a_rehearsal_shows_a_queue_that_is_too_small() {
    let small = "queue = { max_messages = 20, policy = 'drop-oldest' }\nrate = { messages_per_s = 50 }";
    let (code, text) = run(&bridge(free_port(), small, OUT), &["rehearse", "up", "--each", "1s", "--rate", "100"]);
    assert_eq!(code, Some(1), "{text}");
    let lost = figure(&text, "lost ");
    assert!(lost > 0 && text.contains(&format!("lost {lost} ({lost} dropped by the queue's policy)")), "{text}");
    assert!(text.contains("a backlog never drains: bridges.rate is 50 a second, and 100 come"), "{text}");
}
