//! What came of a run: for a person, and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::latency::Percentiles;
use super::words::{count, digits, rate, time_us};
use crate::tools::exit::Exit;

/// Everything of one run. What was not measured is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `forebay bench`, and its version.
    pub tool: &'static str,
    /// What was done.
    pub load: LoadInfo,
    /// Messages of the whole run.
    pub messages: Option<Messages>,
    /// Connections.
    pub connections: Option<Connections>,
    /// What was measured after the warm-up.
    pub measured: Measured,
    /// What the server's process cost.
    pub broker: Option<Broker>,
    /// What this program cost.
    pub generator: Generator,
    /// What is wrong; each makes the exit code 1.
    pub problems: Vec<String>,
    /// What should be known to read the figures.
    pub notes: Vec<String>,
    /// As the program ends.
    pub exit_code: u8,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct LoadInfo {
    pub scenario: String,
    pub url: String,
    pub protocol: &'static str,
    pub tls: bool,
    pub qos: u8,
    pub payload_bytes: usize,
    pub publishers: usize,
    pub subscribers: usize,
    pub persistent: bool,
    /// Messages a second in all, of an open loop.
    pub rate_per_s: Option<f64>,
    /// Unacknowledged messages of a publisher.
    pub window: Option<u64>,
    pub connect_rate_per_s: Option<f64>,
    pub run: String,
}

/// Where all messages of the run are. published = acknowledged + unacknowledged (QoS 1 and 2); acknowledged = accepted + refused;
/// expected = (published - refused) × receivers = delivered + lost; received = delivered + duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Messages {
    pub published: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unacknowledged: u64,
    /// Due in an open loop, and never published.
    pub overdue: u64,
    /// Deliveries that there must be.
    pub expected: u64,
    /// Deliveries that there were, repetitions among them.
    pub received: u64,
    /// Different ones.
    pub delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    /// Came after a later one of the same publisher.
    pub reordered: u64,
    /// Of this run, and never published, or not for who got it.
    pub impossible: u64,
    /// Of somebody else.
    pub foreign: u64,
    /// Acks for no message that waits for one.
    pub unexpected_acks: u64,
}

/// What came of the connections.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Connections {
    pub attempted: u64,
    pub made: u64,
    pub failed: u64,
    /// Ended by the server while they were idle.
    pub ended: u64,
    pub sessions_lost: u64,
    pub seconds: f64,
    pub made_per_s: f64,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Measured {
    pub seconds: f64,
    pub published: u64,
    pub acknowledged: u64,
    pub received: u64,
    pub published_per_s: f64,
    pub acknowledged_per_s: f64,
    pub received_per_s: f64,
    /// Payload bytes.
    pub received_bytes_per_s: f64,
    /// Backlog: deliveries a second once the subscribers were back.
    pub drained_per_s: Option<f64>,
    /// Whether latencies count from when a message was due.
    pub corrected_for_coordinated_omission: bool,
    /// From publish to receipt.
    pub latency: Option<Percentiles>,
    /// From publish to the last ack.
    pub ack_latency: Option<Percentiles>,
    /// How late an open loop published.
    pub publish_delay: Option<Percentiles>,
    /// From the begin of a connection to CONNACK.
    pub handshake: Option<Percentiles>,
}

/// What the server's process cost while it was measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Broker {
    pub pid: u32,
    pub cpu_s: Option<f64>,
    /// Processor cores in use.
    pub cores: Option<f64>,
    /// Microseconds for each delivered message; of a backlog, for each acknowledged one; without messages, for each connection.
    pub cpu_us_each: Option<f64>,
    /// Bytes given to the disk, for each of them.
    pub disk_bytes_each: Option<f64>,
    pub resident_kb_before: Option<u64>,
    pub resident_kb_after: Option<u64>,
    /// Of `connect`: how much more memory each idle connection took.
    pub bytes_a_connection: Option<f64>,
}

/// What this program cost while it measured.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Generator {
    pub cpu_s: Option<f64>,
    pub cores: Option<f64>,
}

/// It has one thread: past this it was what limits.
const BUSY: f64 = 0.95;

impl Report {
    /// Says what is wrong, and how the program ends.
    pub fn judge(&mut self) -> Exit {
        if let Some(messages) = self.messages.clone() {
            self.judge_messages(&messages);
        }
        if let Some(made) = self.connections.clone() {
            let bad = [
                (made.failed, "connections failed"),
                (made.ended, "idle connections were ended"),
                (made.sessions_lost, "sessions were forgotten"),
            ];
            let bad = bad.iter().filter(|(n, _)| *n > 0);
            self.problems.extend(bad.map(|(n, what)| format!("{} {what}", count(*n))));
        }
        if self.generator.cores.is_some_and(|cores| cores > BUSY) {
            self.notes.push(
                "this program was busy all the time: the server may be faster than it was asked to be".to_owned(),
            );
        }
        let exit = if self.problems.is_empty() { Exit::Done } else { Exit::Failed };
        self.exit_code = exit as u8;
        exit
    }

    fn judge_messages(&mut self, m: &Messages) {
        let shared = self.load.scenario == "shared";
        let mut bad = |n: u64, what: &str, fails: bool| {
            if n > 0 {
                let list = if fails { &mut self.problems } else { &mut self.notes };
                list.push(format!("{} {what}", count(n)));
            }
        };
        let qos = self.load.qos;
        bad(m.lost, "lost", qos > 0);
        bad(m.duplicates, "received again", qos == 2);
        // Members of a shared subscription are promised no order [MQTT5-4.6.0-6]; QoS 0 is promised nothing.
        bad(m.reordered, "received out of order", qos > 0 && !shared);
        bad(m.refused, "refused by the server", true);
        bad(m.unacknowledged, "never acknowledged", true);
        bad(m.impossible, "received that were never published, or not for whom they were received by", true);
        bad(m.unexpected_acks, "acks for no message that waits for one", true);
        bad(m.overdue, "due and not published in time: the rate was not reached", false);
        bad(m.foreign, "of somebody else received, and not counted", false);
    }

    /// For a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let l = &self.load;
        let tls = if l.tls { ", TLS" } else { "" };
        writeln!(out, "{:<12} {} at {} (MQTT {}{tls})", "load", l.scenario, l.url, l.protocol)?;
        if let Some(m) = &self.messages {
            let session = if l.persistent { ", persistent sessions" } else { "" };
            let loop_ = match (l.rate_per_s, l.window) {
                (Some(per_s), _) => format!("open loop, {} in all", rate(per_s)),
                (None, Some(window)) => format!("closed loop, window {window}"),
                (None, None) => "closed loop, no window".to_owned(),
            };
            writeln!(
                out,
                "{:<12} {} to {}, QoS {}, {} bytes{session}; {loop_}",
                "", l.publishers, l.subscribers, l.qos, l.payload_bytes
            )?;
            self.write_messages(out, m)?;
        } else {
            writeln!(
                out,
                "{:<12} {} clients{}",
                "",
                l.subscribers,
                if l.persistent { ", persistent sessions" } else { "" }
            )?;
        }
        if let Some(c) = &self.connections {
            writeln!(out, "{:<12} {:>14} {:>14}", "made", count(c.made), rate(c.made_per_s))?;
            writeln!(
                out,
                "{:<12} {:>14}   ended while idle {}, sessions forgotten {}",
                "failed",
                count(c.failed),
                count(c.ended),
                count(c.sessions_lost)
            )?;
        }
        self.write_latencies(out)?;
        self.write_costs(out)?;
        for note in &self.notes {
            writeln!(out, "{:<12} {note}", "note")?;
        }
        for problem in &self.problems {
            writeln!(out, "{:<12} {problem}", "FAILED")?;
        }
        Ok(())
    }

    fn write_messages(&self, out: &mut String, m: &Messages) -> std::fmt::Result {
        let measured = &self.measured;
        let row = |out: &mut String, what: &str, n: u64, per_s: f64, more: &str| {
            writeln!(out, "{what:<12} {:>14} {:>14}{more}", count(n), rate(per_s))
        };
        let seconds = format!("   in {:.1} s", measured.seconds);
        row(out, "published", measured.published, measured.published_per_s, &seconds)?;
        if self.load.qos > 0 {
            row(out, "acknowledged", measured.acknowledged, measured.acknowledged_per_s, "")?;
        }
        match measured.drained_per_s {
            Some(drained) => row(out, "drained", m.delivered, drained, "   when the subscribers came back")?,
            None => {
                let bytes = format!("   {} MB/s", digits(measured.received_bytes_per_s / 1e6));
                row(out, "received", measured.received, measured.received_per_s, &bytes)?;
            }
        }
        let (lost, again, late) = (count(m.lost), count(m.duplicates), count(m.reordered));
        let (delivered, expected) = (count(m.delivered), count(m.expected));
        writeln!(out, "{:<12} {delivered} of {expected}: {lost} lost, {again} again, {late} out of order", "whole run")
    }

    fn write_latencies(&self, out: &mut String) -> std::fmt::Result {
        let m = &self.measured;
        let rows = [
            ("to receipt", &m.latency),
            ("to ack", &m.ack_latency),
            ("to CONNACK", &m.handshake),
            ("published", &m.publish_delay),
        ];
        if rows.iter().all(|(_, row)| row.is_none()) {
            return Ok(());
        }
        let head = |what: &str| format!("{what:>11}");
        let titles = ["p50", "p90", "p99", "p99.9", "max"].map(head).concat();
        writeln!(out, "{:<12}{titles}", "time")?;
        for (what, row) in rows {
            let Some(p) = row else { continue };
            let times = [p.p50_us, p.p90_us, p.p99_us, p.p99_9_us, p.max_us].map(|us| head(&time_us(us))).concat();
            let late = if what == "published" { "   late" } else { "" };
            writeln!(out, "{what:<12}{times}{late}")?;
        }
        let (messages, rate) = (self.messages.is_some(), self.load.rate_per_s.is_some());
        let words = match (messages, rate, self.load.connect_rate_per_s.is_some()) {
            (true, true, _) | (false, _, true) => "counted from when each was due",
            (true, false, _) => "closed loop: not corrected for coordinated omission; --rate measures it",
            (false, _, false) => "closed loop: not corrected for coordinated omission; --connect-rate measures it",
        };
        writeln!(out, "{:<12} {words}", "")
    }

    fn write_costs(&self, out: &mut String) -> std::fmt::Result {
        let cores = |cores: Option<f64>| {
            cores.map_or("processor time not measured".to_owned(), |cores| format!("{cores:.2} cores"))
        };
        match &self.broker {
            None => writeln!(out, "{:<12} not measured (--pid)", "server")?,
            Some(b) => {
                let each = if self.messages.is_some() { "message" } else { "connection" };
                let us = b.cpu_us_each.map_or(String::new(), |us| format!(", {} µs CPU a {each}", digits(us)));
                let mb = |kb: u64| kb as f64 / 1024.0;
                let memory = b.resident_kb_before.zip(b.resident_kb_after);
                let memory = memory.map_or("memory not measured".to_owned(), |(before, after)| {
                    format!("{:.1} MB of memory ({:.1} before)", mb(after), mb(before))
                });
                let each =
                    b.bytes_a_connection.map_or(String::new(), |bytes| format!(", {bytes:.0} bytes a connection"));
                writeln!(out, "{:<12} {}{us}; {memory}{each}", "server", cores(b.cores))?;
            }
        }
        writeln!(out, "{:<12} {}", "this program", cores(self.generator.cores))
    }
}
