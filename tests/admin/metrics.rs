use std::collections::{BTreeMap, BTreeSet};

use forebay_tests::sys::Sys;

use crate::{Site, until};

/// Metrics by name and label.
fn metrics(site: &Site) -> BTreeMap<String, f64> {
    let answer = site.http().get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let read = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    });
    read.collect()
}

#[test]
fn prometheus_sys_and_the_api_say_the_same() {
    let site = Site::start("sys_interval = \"1s\"", "");
    let mut subscriber = site.subscriber("one", "a/#");
    let mut publisher = site.publisher();
    for id in 1..=5 {
        publisher.publish(id, "a/b", b"x");
        subscriber.message();
    }
    site.subscriber("two", "a/#").leave();
    publisher.publish(6, "a/b", b"x");
    subscriber.message();
    let mut sys = Sys::open(&site.tcp());
    let figures = sys.until("it has come", |figures| figures["counters/publish_received"] == 6);
    let (before, status) = (metrics(&site), site.http().get("/api/status").json());
    // What nobody changes while the figures themselves are published.
    for (topic, metric, field) in [
        ("clients/total", "sessions", "/sessions/total"),
        ("clients/connected", "connections", "/broker/connections"),
        ("clients/disconnected", "sessions_away", "/sessions/away"),
        ("subscriptions/count", "subscriptions", "/subscriptions/count"),
        ("ledger/dropped/oldest", "ledger_dropped_total{reason=\"oldest\"}", "/ledger/dropped/0/count"),
        ("store/failures", "store_commit_failures_total", "/store/failures"),
    ] {
        let value = *figures.get(topic).unwrap_or_else(|| panic!("{topic} is not in $SYS"));
        assert_eq!(before.get(&format!("forebay_{metric}")), Some(&(value as f64)), "{metric}");
        assert_eq!(status.pointer(field).and_then(|value| value.as_u64()), Some(value), "{field}");
    }
    assert_eq!(figures["publish/messages/received"], 6);
    for counter in status["counters"].as_array().unwrap() {
        let name = counter["name"].as_str().unwrap();
        assert!(figures.contains_key(&format!("counters/{name}")), "{name} is not in $SYS");
        assert!(before.contains_key(&format!("forebay_{name}_total")), "{name} is not in the metrics");
    }
    drop(sys);
    let (metrics, status) = until(
        "nobody is sent figures any more",
        || (metrics(&site), site.http().get("/api/status").json()),
        |(metrics, status)| {
            metrics["forebay_connections"] == 2.0 && status.pointer("/broker/connections") == Some(&2.into())
        },
    );
    assert_eq!(metrics["forebay_ledger_accepted_total"], status["ledger"]["accepted"].as_f64().unwrap());
    assert_eq!(metrics["forebay_ledger_delivered_total"], status["ledger"]["delivered"].as_f64().unwrap());
    assert_eq!(metrics["forebay_queued_messages"], 1.0, "for the one that is away");
    let listener = format!("forebay_listener_sockets{{url=\"mqtt://127.0.0.1:{}\"}}", site.broker.port());
    assert_eq!(metrics.get(&listener), Some(&2.0), "{metrics:?}");
    assert_eq!(metrics["forebay_store_commit_duration_seconds_count"], metrics["forebay_store_commits_total"]);
    assert!(metrics["forebay_process_resident_memory_bytes"] > 1e6);
}

#[test]
fn every_metric_has_its_help_and_type_once() {
    let site = Site::start("", "");
    let body = site.http().get("/metrics").body;
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(seen.insert(name), "{name} is there twice");
            assert!(body.contains(&format!("# HELP {name} ")), "{name} has no text");
        }
    }
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(seen.contains(name) || plain.is_some_and(|plain| seen.contains(plain)), "{line}");
    }
    assert!(seen.len() > 50, "{}", seen.len());
}
