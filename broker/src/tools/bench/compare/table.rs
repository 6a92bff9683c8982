//! The comparison as tables of Markdown, which are readable as they are.

use std::fmt::Write as _;

use super::footprint::Footprint;
use super::{Comparison, Connections, Row, loads};
use crate::tools::bench::latency::Percentiles;
use crate::tools::bench::words::{count, digits};

/// The tables.
#[must_use]
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = messages(&mut out, comparison).and_then(|()| footprints(&mut out, comparison));
    out
}

fn messages(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    if comparison.rows.is_empty() {
        return Ok(());
    }
    let first = comparison.brokers.first().copied().unwrap_or_default();
    writeln!(
        out,
        "| scenario | broker | µs CPU a message | times {first} | a second | drained a second | receipt p50 / p99 µs | \
         ack p50 / p99 µs | disk bytes a message | MB |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in &comparison.rows {
        line(out, row)?;
    }
    Ok(())
}

fn line(out: &mut String, row: &Row) -> std::fmt::Result {
    let report = match &row.figures {
        Ok(report) => report,
        Err(why) => {
            return writeln!(out, "| {} | {} | failed: {} |||||||||", row.load, row.broker, why.replace('|', "/"));
        }
    };
    let wrong = if report.problems.is_empty() { String::new() } else { format!(" **{}**", report.problems.join(", ")) };
    let lost = report.messages.as_ref().map_or(0, |messages| messages.lost);
    // QoS 0 is promised nothing, and what it lost is no less to be seen.
    let wrong = if wrong.is_empty() && lost > 0 { format!(" ({} lost)", count(lost)) } else { wrong };
    let (m, b) = (&report.measured, report.broker.as_ref());
    let cpu = number(b.and_then(|b| b.cpu_us_each), |us| format!("{us:.3}"));
    let times = number(row.times_first, |times| format!("{times:.1}"));
    let away = m.drained_per_s.is_some();
    let per_s = match &report.connections {
        Some(connections) => connections.made_per_s,
        None if away => m.acknowledged_per_s,
        None => m.received_per_s,
    };
    let drained = number(m.drained_per_s, |rate| count(rate as u64));
    let (receipt, ack) = (
        pair(m.latency.as_ref().filter(|_| !away)),
        pair(m.ack_latency.as_ref().or(m.handshake.as_ref().filter(|_| report.connections.is_some()))),
    );
    let disk = number(b.and_then(|b| b.disk_bytes_each), |bytes| count(bytes as u64));
    let memory = number(b.and_then(|b| b.resident_kb_after), |kb| format!("{:.1}", kb as f64 / 1024.0));
    let per_s = count(per_s as u64);
    writeln!(
        out,
        "| {} | {}{wrong} | {cpu} | {times} | {per_s} | {drained} | {receipt} | {ack} | {disk} | {memory} |",
        row.load, row.broker
    )
}

fn number<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(String::new, show)
}

fn pair(latency: Option<&Percentiles>) -> String {
    number(latency, |p| format!("{} / {}", digits(p.p50_us), digits(p.p99_us)))
}

fn footprints(out: &mut String, comparison: &Comparison) -> std::fmt::Result {
    if comparison.footprints.is_empty() {
        return Ok(());
    }
    if !comparison.rows.is_empty() {
        writeln!(out)?;
    }
    writeln!(
        out,
        "| broker | idle MB | bytes an idle TCP connection | bytes an idle TLS connection | µs CPU a connect | \
         µs CPU a TLS connect |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|")?;
    for Connections { broker: name, figures } in &comparison.footprints {
        match figures {
            Err(why) => writeln!(out, "| {name} | {}: {} |||||", loads::FOOTPRINT, why.replace('|', "/"))?,
            Ok(Footprint { idle_kb, tcp_bytes, tls_bytes, connect_us, handshake_us }) => writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {} |",
                number(*idle_kb, |kb| format!("{:.1}", kb as f64 / 1024.0)),
                number(*tcp_bytes, |bytes| format!("{bytes:.0}")),
                number(*tls_bytes, |bytes| format!("{bytes:.0}")),
                number(*connect_us, |us| format!("{us:.1}")),
                number(*handshake_us, |us| format!("{us:.0}"))
            )?,
        }
    }
    Ok(())
}
