//! The figures of a snapshot, under the names that the outside knows them by. Each has a metric for Prometheus and a topic
//! below `$SYS/broker/`: one list, so that none is in one place and missing in the other. The snapshot is taken apart
//! field by field without `..`: a new field that is shown nowhere does not compile.

use super::bridges::of_bridges;
use super::histogram::Counted;
use super::process::Process;
use super::snapshot::{
    BrokerPart, CounterValue, DelayedPart, LedgerPart, ListenerPart, LogPart, MemoryPart, OriginsPart, QueuesPart,
    RetainedPart, SessionsPart, Snapshot, StorePart, SubscriptionsPart,
};

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start or since the store was made.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations by bucket; the samples are the buckets.
    Histogram,
}

/// What its samples count. Prometheus is told base units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Pieces, bytes, or yes (1) and no (0).
    One,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// One value of a figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What tells it from the others of its figure: a label's name and value.
    pub label: Option<(&'static str, String)>,
    /// In the figure's unit.
    pub value: u64,
    /// Topics below `$SYS/broker/` that say it: ours first, then the name that mosquitto has for the same.
    pub topics: Vec<String>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Its name in Prometheus, without `forebay_`.
    pub metric: String,
    /// What it says.
    pub help: String,
    /// How it moves.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Its values.
    pub samples: Vec<Sample>,
    /// A histogram's buckets.
    pub histogram: Option<Counted>,
}

#[derive(Default)]
pub(super) struct List(Vec<Figure>);

impl List {
    pub(super) fn add(&mut self, kind: Kind, unit: Unit, metric: &str, help: &str, samples: Vec<Sample>) {
        let (metric, help) = (metric.to_owned(), help.to_owned());
        self.0.push(Figure { metric, help, kind, unit, samples, histogram: None });
    }

    fn gauge(&mut self, metric: &str, help: &str, value: u64, topics: &[&str]) {
        self.add(Kind::Gauge, Unit::One, metric, help, vec![sample(None, value, topics)]);
    }

    fn counter(&mut self, metric: &str, help: &str, value: u64, topics: &[&str]) {
        self.add(Kind::Counter, Unit::One, metric, help, vec![sample(None, value, topics)]);
    }

    fn time(&mut self, kind: Kind, unit: Unit, metric: &str, help: &str, value: u64, topics: &[&str]) {
        self.add(kind, unit, metric, help, vec![sample(None, value, topics)]);
    }
}

fn sample(label: Option<(&'static str, String)>, value: u64, topics: &[&str]) -> Sample {
    Sample { label, value, topics: topics.iter().map(|topic| (*topic).to_owned()).collect() }
}

/// All figures of a snapshot. The first is the uptime; the counters are last.
#[must_use]
pub fn figures(snapshot: &Snapshot) -> Vec<Figure> {
    let Snapshot {
        broker,
        process,
        listeners,
        bridges,
        sessions,
        subscriptions,
        queues,
        retained,
        delayed,
        origins,
        ledger,
        store,
        memory,
        log,
        counters,
    } = snapshot;
    let mut list = List::default();
    of_broker(&mut list, broker);
    of_process(&mut list, process);
    of_listeners(&mut list, listeners);
    of_bridges(&mut list, bridges);
    of_sessions(&mut list, sessions, subscriptions);
    of_queues(&mut list, queues, retained);
    of_delayed(&mut list, delayed, origins);
    of_ledger(&mut list, ledger);
    of_store(&mut list, store);
    of_memory(&mut list, memory);
    of_log(&mut list, log);
    of_counters(&mut list, counters);
    list.0
}

fn of_broker(list: &mut List, part: &BrokerPart) {
    let BrokerPart { version, uptime_ms, pressure, stopping, connections, connections_max } = part;
    let uptime_s = uptime_ms / 1000;
    list.gauge("uptime_seconds", "Seconds since the start.", uptime_s, &["uptime"]);
    let build = vec![Sample { label: Some(("version", version.clone())), value: 1, topics: Vec::new() }];
    list.add(Kind::Gauge, Unit::One, "build_info", "1; the label says which version it is.", build);
    let level = match pressure.as_str() {
        "normal" => 0,
        "high" => 1,
        _ => 2,
    };
    let help = "How pressed the broker is: 0 normal, 1 high, 2 critical.";
    list.gauge("pressure", help, level, &["pressure level"]);
    list.gauge("stopping", "1 while the broker ends and refuses new connections.", u64::from(*stopping), &["stopping"]);
    list.gauge("connections", "Connections that are past their CONNECT.", *connections, &["clients/connected"]);
    let help = "The most connections at once since the start, as seen four times a second.";
    list.gauge("connections_max", help, *connections_max, &["clients/maximum"]);
}

fn of_process(list: &mut List, part: &Process) {
    let Process { resident_bytes, cpu_ms, open_files, storage_written_bytes } = part;
    let help = "Bytes of the process that are in memory.";
    list.gauge("process_resident_memory_bytes", help, *resident_bytes, &["process/resident bytes", "heap/current"]);
    let (name, help) = ("process_cpu_seconds_total", "Processor time of the process.");
    list.time(Kind::Counter, Unit::Milliseconds, name, help, *cpu_ms, &["process/cpu ms"]);
    list.gauge("process_open_fds", "Files and sockets that are open.", *open_files, &["process/open files"]);
    let help = "Bytes that the process caused to be written to storage.";
    let topics = ["process/storage written bytes"];
    list.counter("process_storage_written_bytes_total", help, *storage_written_bytes, &topics);
}

fn of_listeners(list: &mut List, listeners: &[ListenerPart]) {
    let each = |what: &str, value: fn(&ListenerPart) -> u64| {
        let one = |part: &ListenerPart| Sample {
            label: Some(("url", part.url.clone())),
            value: value(part),
            topics: vec![format!("listeners/{}/{what}", level(&part.url))],
        };
        listeners.iter().map(one).collect::<Vec<_>>()
    };
    let help = "Sockets that are open on a listener.";
    list.add(Kind::Gauge, Unit::One, "listener_sockets", help, each("sockets", |part| part.sockets));
    let help = "The most sockets that a listener may have.";
    list.add(Kind::Gauge, Unit::One, "listener_sockets_limit", help, each("sockets limit", |part| part.sockets_limit));
    let ends = |part: &ListenerPart| {
        let topics = vec![format!("listeners/{}/certificate ends", level(&part.url))];
        let sample = |value| Sample { label: Some(("url", part.url.clone())), value, topics };
        part.certificate_ends_s.map(sample)
    };
    let help = "When the first certificate of a listener ends, in seconds since 1970.";
    let samples = listeners.iter().filter_map(ends).collect();
    list.add(Kind::Gauge, Unit::One, "listener_certificate_ends_seconds", help, samples);
}

/// One level of a topic name, whatever the text has.
fn level(text: &str) -> String {
    text.replace("://", " ").replace(['/', '+', '#'], " ")
}

fn of_sessions(list: &mut List, part: &SessionsPart, subscriptions: &SubscriptionsPart) {
    let SessionsPart { total, connected, away, leaving, full } = part;
    list.gauge("sessions", "Sessions, connected or not.", *total, &["clients/total"]);
    let help = "Sessions whose client is connected.";
    list.gauge("sessions_connected", help, *connected, &["sessions/connected"]);
    let help = "Sessions whose client is away.";
    list.gauge("sessions_away", help, *away, &["sessions/away", "clients/disconnected"]);
    let help = "Sessions that have ended and still give shared messages to others.";
    list.gauge("sessions_leaving", help, *leaving, &["sessions/leaving"]);
    list.gauge("sessions_full", "Sessions whose queue refuses more.", *full, &["sessions/full"]);
    let SubscriptionsPart { count, groups, nodes } = subscriptions;
    list.gauge("subscriptions", "Subscriptions, members of shared ones included.", *count, &["subscriptions/count"]);
    let help = "Groups of shared subscriptions.";
    list.gauge("shared_groups", help, *groups, &["subscriptions/groups", "shared subscriptions/count"]);
    let help = "Nodes of the tree of topic filters.";
    list.gauge("filter_nodes", help, *nodes, &["subscriptions/nodes"]);
}

fn of_queues(list: &mut List, part: &QueuesPart, retained: &RetainedPart) {
    let QueuesPart { messages, bytes, in_flight, oldest_ms } = part;
    list.gauge("queued_messages", "Messages in queues.", *messages, &["queues/messages", "store/messages/count"]);
    list.gauge("queued_bytes", "Bytes of messages in queues.", *bytes, &["queues/bytes", "store/messages/bytes"]);
    let help = "Messages that were sent and are not acknowledged.";
    list.gauge("in_flight_messages", help, *in_flight, &["queues/in flight"]);
    let (name, help) = ("oldest_message_age_seconds", "How long the oldest message has waited, as far as it is known.");
    list.time(Kind::Gauge, Unit::Milliseconds, name, help, *oldest_ms, &["queues/oldest ms"]);
    let RetainedPart { messages, bytes } = retained;
    list.gauge("retained_messages", "Retained messages.", *messages, &["retained messages/count"]);
    list.gauge("retained_bytes", "Bytes of retained messages.", *bytes, &["retained messages/bytes"]);
}

fn of_delayed(list: &mut List, part: &DelayedPart, origins: &OriginsPart) {
    let DelayedPart { messages, bytes, sent, expired, cancelled } = part;
    list.gauge("delayed_messages", "Messages that wait for their time.", *messages, &["delayed/messages"]);
    list.gauge("delayed_bytes", "Bytes of messages that wait for their time.", *bytes, &["delayed/bytes"]);
    let help = "Delayed messages sent when they were due, since the store was made.";
    list.counter("delayed_sent_total", help, *sent, &["delayed/sent"]);
    let help = "Delayed messages that expired before they were due, since the store was made.";
    list.counter("delayed_expired_total", help, *expired, &["delayed/expired"]);
    let help = "Delayed messages that an operator cancelled, since the store was made.";
    list.counter("delayed_cancelled_total", help, *cancelled, &["delayed/cancelled"]);
    let OriginsPart { count, forgotten } = origins;
    list.gauge("origins", "Publishers whose repetitions are known.", *count, &["origins/count"]);
    let help = "Publishers forgotten because there were too many.";
    list.counter("origins_forgotten_total", help, *forgotten, &["origins/forgotten"]);
}

fn of_ledger(list: &mut List, part: &LedgerPart) {
    let LedgerPart { accepted, delivered, queued, expired, dropped } = part;
    let help = "Messages that entered a queue, since the store was made.";
    list.counter("ledger_accepted_total", help, *accepted, &["ledger/accepted"]);
    let help = "Messages acknowledged by their receiver, since the store was made.";
    list.counter("ledger_delivered_total", help, *delivered, &["ledger/delivered", "publish/messages/sent"]);
    list.gauge("ledger_queued", "Messages that wait, as the ledger counts them.", *queued, &["ledger/queued"]);
    let help = "Messages that expired in a queue, since the store was made.";
    list.counter("ledger_expired_total", help, *expired, &["ledger/expired"]);
    let by_reason = dropped.iter().map(|part| Sample {
        label: Some(("reason", part.reason.clone())),
        value: part.count,
        topics: vec![format!("ledger/dropped/{}", part.reason)],
    });
    let help = "Messages dropped from a queue, by reason, since the store was made.";
    list.add(Kind::Counter, Unit::One, "ledger_dropped_total", help, by_reason.collect());
}

fn of_store(list: &mut List, part: &StorePart) {
    let StorePart {
        failing,
        commits,
        failures,
        message_bytes,
        last_commit_us,
        commit_times,
        live_bytes,
        room_bytes,
        damaged_rows,
        journal_pending_bytes,
        folds,
        journal_written_bytes,
        file_written_bytes,
        device_bytes_per_kilobyte,
        gather_us,
        wear_bytes_per_year,
        wear_over,
    } = part;
    let help = "1 while the store cannot be written and durable messages are refused.";
    list.gauge("store_failing", help, u64::from(*failing), &["store/failing"]);
    list.counter("store_commits_total", "Commits.", *commits, &["store/commits"]);
    list.counter("store_commit_failures_total", "Commits that failed.", *failures, &["store/failures"]);
    let help = "Bytes of messages written to the store.";
    list.counter("store_message_bytes_total", help, *message_bytes, &["store/message bytes"]);
    let (name, help) = ("store_last_commit_seconds", "How long the last commit took.");
    list.time(Kind::Gauge, Unit::Microseconds, name, help, *last_commit_us, &["store/last commit us"]);
    let percentiles = [(50, "store/commit p50 us"), (99, "store/commit p99 us")];
    let samples = percentiles.map(|(percent, topic)| sample(None, commit_times.at_percent(percent), &[topic]));
    list.0.push(Figure {
        metric: "store_commit_duration_seconds".to_owned(),
        help: "How long commits took.".to_owned(),
        kind: Kind::Histogram,
        unit: Unit::Microseconds,
        samples: samples.to_vec(),
        histogram: Some(commit_times.clone()),
    });
    let help = "Bytes that queues and retained messages take in the store.";
    list.gauge("store_live_bytes", help, *live_bytes, &["store/live bytes"]);
    let help = "Room on the disk and inside the store's file, as of the last commit.";
    list.gauge("store_room_bytes", help, *room_bytes, &["store/room bytes"]);
    let help = "Rows of the store that could not be read.";
    list.counter("store_damaged_rows_total", help, *damaged_rows, &["store/damaged rows"]);
    let help = "Bytes in the journal that the store's file does not have yet.";
    list.gauge("store_journal_pending_bytes", help, *journal_pending_bytes, &["store/journal pending bytes"]);
    let help = "How often the journal was folded into the store's file.";
    list.counter("store_folds_total", help, *folds, &["store/folds"]);
    let help = "Bytes given to the device for the journal; beside store_message_bytes_total, what a payload byte costs the disk.";
    list.counter("store_journal_written_bytes_total", help, *journal_written_bytes, &["store/journal written bytes"]);
    let help = "Bytes given to the device for the store's file.";
    list.counter("store_file_written_bytes_total", help, *file_written_bytes, &["store/file written bytes"]);
    let help = "Bytes given to the device, for journal and file, for each 1,000 bytes of messages written.";
    let (name, topics) = ("store_device_bytes_per_kilobyte", ["store/device bytes per kilobyte"]);
    list.gauge(name, help, *device_bytes_per_kilobyte, &topics);
    let help = "How long a commit waits for company at the moment.";
    list.time(Kind::Gauge, Unit::Microseconds, "store_gather_seconds", help, *gather_us, &["store/gather us"]);
    let help = "What the device may be written in a year (store.wear); 0 for as much as it takes.";
    list.gauge("store_wear_bytes_per_year", help, *wear_bytes_per_year, &["store/wear bytes per year"]);
    let help = "1 while more was written than store.wear allows.";
    list.gauge("store_wear_over", help, u64::from(*wear_over), &["store/wear over"]);
}

fn of_memory(list: &mut List, part: &MemoryPart) {
    let MemoryPart { used, limit, wills } = part;
    list.gauge("memory_used_bytes", "Bytes that the program has from its allocator.", *used, &["memory/used"]);
    list.gauge("memory_limit_bytes", "Bytes that the program may have from its allocator.", *limit, &["memory/limit"]);
    list.gauge("wills_bytes", "Bytes of all wills.", *wills, &["wills/bytes"]);
}

fn of_log(list: &mut List, part: &LogPart) {
    let LogPart { lines_lost, lines_left_out } = part;
    list.counter("log_lines_lost_total", "Lines of the log that nobody could read.", *lines_lost, &["log/lines lost"]);
    let help = "Lines of the log left out because there were too many in a second.";
    list.counter("log_lines_left_out_total", help, *lines_left_out, &["log/lines left out"]);
}

/// What mosquitto calls some of the counters.
const MOSQUITTO: &[(&str, &str)] = &[
    ("bytes_received", "bytes/received"),
    ("bytes_sent", "bytes/sent"),
    ("publish_received", "publish/messages/received"),
    ("publish_refused", "publish/messages/dropped"),
    ("sessions_expired", "clients/expired"),
];

fn of_counters(list: &mut List, counters: &[CounterValue]) {
    for CounterValue { name, count } in counters {
        // `$SYS` and its readers know the counter's own name as the last: mosquitto's goes before it.
        let other = MOSQUITTO.iter().filter(|(ours, _)| ours == name).map(|(_, other)| (*other).to_owned());
        let topics = other.chain([format!("counters/{name}")]).collect();
        let (metric, help) = (format!("{name}_total"), super::Counters::help(name).to_owned());
        let samples = vec![Sample { label: None, value: *count, topics }];
        list.0.push(Figure { metric, help, kind: Kind::Counter, unit: Unit::One, samples, histogram: None });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::observe::{Counters, Histogram, prometheus};
    use crate::store::Ledger;

    fn snapshot() -> Snapshot {
        let url = "mqtts://0.0.0.0:8883".to_owned();
        let counters = Counters::default();
        Snapshot {
            broker: BrokerPart {
                version: "1.2.3".to_owned(),
                uptime_ms: 61_500,
                pressure: "high".to_owned(),
                stopping: false,
                connections: 2,
                connections_max: 5,
            },
            process: Process { resident_bytes: 4096, cpu_ms: 1_250, open_files: 9, storage_written_bytes: 8192 },
            listeners: vec![ListenerPart {
                url,
                sockets: 2,
                sockets_limit: 50,
                certificate_ends_s: Some(1_900_000_000),
            }],
            bridges: vec![crate::observe::bridges::example()],
            sessions: SessionsPart { total: 7, connected: 2, away: 5, leaving: 0, full: 1 },
            subscriptions: SubscriptionsPart { count: 3, groups: 1, nodes: 4 },
            queues: QueuesPart { messages: 30, bytes: 900, in_flight: 4, oldest_ms: 2_500 },
            retained: RetainedPart { messages: 6, bytes: 66 },
            delayed: DelayedPart { messages: 1, bytes: 20, sent: 3, expired: 4, cancelled: 5 },
            origins: OriginsPart { count: 2, forgotten: 0 },
            ledger: LedgerPart::new(&Ledger { accepted: 40, delivered: 9, expired: 1, ..Ledger::default() }, 30),
            store: StorePart {
                failing: true,
                commits: 12,
                failures: 1,
                message_bytes: 777,
                last_commit_us: 350,
                commit_times: Histogram::default().counted(),
                live_bytes: 1,
                room_bytes: 2,
                damaged_rows: 0,
                journal_pending_bytes: 3,
                folds: 4,
                journal_written_bytes: 5,
                file_written_bytes: 6,
                device_bytes_per_kilobyte: 7,
                gather_us: 8,
                wear_bytes_per_year: 9,
                wear_over: true,
            },
            memory: MemoryPart { used: 5000, limit: 9000, wills: 10 },
            log: LogPart { lines_lost: 0, lines_left_out: 3 },
            counters: counters.each().map(|(name, count)| CounterValue { name: name.to_owned(), count }).collect(),
        }
    }

    #[test]
    fn every_figure_has_a_topic_and_no_name_is_there_twice() {
        let (mut metrics, mut topics) = (BTreeSet::new(), BTreeSet::new());
        for figure in figures(&snapshot()) {
            assert!(metrics.insert(figure.metric.clone()), "{} is there twice", figure.metric);
            for sample in figure.samples {
                assert!(figure.metric == "build_info" || !sample.topics.is_empty(), "{} has no topic", figure.metric);
                for topic in sample.topics {
                    assert!(!topic.contains(['+', '#']), "{topic}");
                    assert!(topics.insert(topic.clone()), "{topic} is there twice");
                }
            }
        }
        let (first, last) = (figures(&snapshot()), figures(&snapshot()));
        assert_eq!(first.first().unwrap().samples[0].topics, ["uptime"]);
        let last = last.last().unwrap().samples[0].topics.last().cloned();
        assert!(last.unwrap().starts_with("counters/"), "the counters are last");
    }

    /// The rules of `promtool check metrics`.
    #[test]
    fn prometheus_finds_nothing_to_complain_of() {
        for figure in figures(&snapshot()) {
            let name = &figure.metric;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert_eq!(figure.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(figure.help.ends_with('.'), "{name}: {}", figure.help);
            let seconds = name.contains("_seconds");
            let whole = ["uptime_seconds", "listener_certificate_ends_seconds"].contains(&name.as_str());
            assert_eq!(figure.unit != Unit::One, seconds && !whole, "{name}");
            for other in ["_ms", "_us", "_millis", "_kb", "_percent", "_bucket", "_sum", "_count"] {
                assert!(!name.ends_with(other), "{name}");
            }
            assert_eq!(figure.kind == Kind::Histogram, figure.histogram.is_some(), "{name}");
        }
    }

    #[test]
    fn values_are_the_snapshots() {
        let text = prometheus::text(&figures(&snapshot()));
        for line in [
            "forebay_uptime_seconds 61",
            "forebay_build_info{version=\"1.2.3\"} 1",
            "forebay_pressure 1",
            "forebay_process_cpu_seconds_total 1.25",
            "forebay_listener_sockets{url=\"mqtts://0.0.0.0:8883\"} 2",
            "forebay_oldest_message_age_seconds 2.5",
            "forebay_ledger_dropped_total{reason=\"oldest\"} 0",
            "forebay_store_failing 1",
            "forebay_store_last_commit_seconds 0.00035",
            "forebay_log_lines_left_out_total 3",
            "forebay_sessions_expired_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }

    const BEGIN: &str = "<!-- figures: made by the test observe::figures, with FOREBAY_WRITE_DOCS=1 -->\n";
    const END: &str = "<!-- end of figures -->\n";

    fn table() -> String {
        let mut out = "| metric | kind | `$SYS/broker/…` | what it says |\n|---|---|---|---|\n".to_owned();
        for figure in figures(&snapshot()) {
            let kind = match figure.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let label = figure.samples[0].label.as_ref().map_or_else(String::new, |(name, _)| format!("{{{name}}}"));
            let (first, rest) = figure.samples.split_first().unwrap();
            // Samples of one label differ in it alone; a histogram's are percentiles of their own.
            let rest = if first.label.is_some() { &[][..] } else { rest };
            let topics: Vec<_> = std::iter::once(first).chain(rest).flat_map(|sample| &sample.topics).collect();
            let topics = topics.iter().map(|topic| match &first.label {
                Some((name, value)) => {
                    topic.replace(value.as_str(), &format!("<{name}>")).replace(&level(value), &format!("<{name}>"))
                }
                None => (*topic).clone(),
            });
            let topics = topics.map(|topic| format!("`{topic}`")).collect::<Vec<_>>().join(" ");
            out.push_str(&format!("| `forebay_{}{label}` | {kind} | {topics} | {} |\n", figure.metric, figure.help));
        }
        out
    }

    #[test]
    fn the_document_has_every_figure() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (written, after) = rest.split_once(END).unwrap();
        if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
            return;
        }
        assert_eq!(written, table(), "docs/metrics.md is old: run this test with FOREBAY_WRITE_DOCS=1");
    }
}
