//! `forebay bench compare`: brokers in turn, one table, one chart.

use forebay_tests::absence::of_program;
use forebay_tests::scratch::Scratch;
use serde_json::Value;

use crate::{Case, bench};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("it_compares_with_the_floor", None, floor),
        ("it_compares_with_mosquitto", of_program("mosquitto"), mosquitto),
        ("a_broker_that_does_not_start_is_said", None, does_not_start),
    ]
}

fn file(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn floor() {
    let scratch = Scratch::new("compare");
    let (svg, json) = (scratch.path().join("chart.svg"), scratch.path().join("figures.json"));
    let loads = "q0-1-1,q2-1-1,q0-50-1,backlog-1,reconnect-100";
    let ended = bench(&format!(
        "compare --with floor --scenarios {loads} --rounds 1 --seconds 0.2 --svg {} --json {}",
        svg.display(),
        json.display()
    ));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    let json: Value = serde_json::from_str(&file(&json)).unwrap();
    let rows = json["rows"].as_array().unwrap();
    // The floor keeps nothing for who is away.
    assert_eq!(rows.len(), 9, "{json:#}");
    for row in rows {
        assert!(row["times_first"].as_f64().unwrap() > 0.0 && row["figures"]["problems"] == Value::Array(Vec::new()));
        let (load, broker) = (row["load"].as_str().unwrap(), row["broker"].as_str().unwrap());
        assert!(ended.out.contains(&format!("| {load} | {broker} |")), "{}", ended.out);
        assert!(broker != "forebay" || row["times_first"] == 1.0);
    }
    let chart = file(&svg);
    assert!(chart.starts_with("<svg ") && chart.trim_end().ends_with("</svg>"), "{chart}");
    // A bar for each row; the chart's ground is a rectangle without a place.
    assert_eq!(chart.matches("<rect x=").count(), rows.len());
    assert_eq!(chart.matches("<text").count(), chart.matches("</text>").count());
}

fn mosquitto() {
    let ended = bench("compare --with mosquitto,nanomq --scenarios q1-1-1 --rounds 1 --seconds 0.2");
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("| q1-1-1 | mosquitto |") && !ended.out.contains("failed"), "{}", ended.out);
    // nanomq is named if it is not there.
    assert_eq!(ended.err.contains("left out: nanomq"), !ended.out.contains("| nanomq |"), "{}", ended.err);
}

fn does_not_start() {
    let ended = bench("compare --with nanomq=/bin/false --scenarios q0-1-1 --rounds 2 --seconds 0.2");
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.out.contains("| q0-1-1 | nanomq | failed: it ended with exit status: 1"), "{}", ended.out);
}
