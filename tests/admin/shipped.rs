//! What is shipped beside the program names only metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;

use crate::Site;

fn shipped(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("forebay_")).map(str::to_owned).collect()
}

/// Names of metrics that there are, and the kinds that they have.
fn there(site: &Site) -> BTreeSet<String> {
    let body = site.http().get("/metrics").body;
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let site = Site::start("", "");
    let there = there(&site);
    for file in ["config/alerts.yaml", "config/grafana.json"] {
        let named = named(&shipped(file));
        assert!(named.len() >= 8, "{file}: {named:?}");
        let missing: Vec<_> = named.difference(&there).collect();
        assert!(missing.is_empty(), "{file} names {missing:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&shipped("config/grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 12);
}
