//! Every scenario on real brokers: the figures are there, and they add up.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence::of_program;
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::scratch::Scratch;
use serde_json::Value;

use crate::{Case, bench, number};

/// Messages of each run.
const SENT: u64 = 1500;
/// How long a broker may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Case> {
    let mosquitto = || of_program("mosquitto");
    vec![
        ("every_scenario_on_our_broker", None, || every_scenario(&Server::own())),
        ("every_scenario_on_mosquitto", mosquitto(), || every_scenario(&Server::mosquitto())),
        ("connections_on_our_broker", None, || connections(&Server::own())),
        ("connections_on_mosquitto", mosquitto(), || connections(&Server::mosquitto())),
        ("tls_on_our_broker", None, tls),
        ("persistent_sessions_are_removed_at_the_end", None, sessions_are_removed),
        ("a_rate_is_kept", None, rate),
        ("a_payload_has_the_size_that_was_asked_for", None, sizes),
        ("the_time_that_was_asked_for", None, time),
        ("a_receive_maximum_is_obeyed", None, receive_maximum),
        ("a_keep_alive_of_the_server_is_obeyed", None, keep_alive),
        ("the_process_is_measured_if_it_is_named", None, process),
        ("a_table_for_people_and_nothing_on_the_standard_error", None, table),
        ("a_line_of_progress_on_a_terminal", of_program("script"), progress),
    ]
}

enum Server {
    Own(Broker),
    Mosquitto { child: Child, port: u16, _scratch: Scratch },
}

impl Server {
    fn own() -> Self {
        Self::Own(Broker::start())
    }

    fn mosquitto() -> Self {
        let (scratch, port) = (Scratch::new("mosquitto"), free_port());
        let config = scratch.path().join("mosquitto.conf");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n"
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto").arg("-c").arg(config).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < START_LIMIT, "mosquitto does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self::Mosquitto { child, port, _scratch: scratch }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Own(broker) => broker.port(),
            Self::Mosquitto { port, .. } => *port,
        }
    }

    /// Runs a load on it that has to go well.
    fn load(&self, line: &str) -> Value {
        let ended = bench(&format!("{line} --url mqtt://127.0.0.1:{} --json -", self.port()));
        assert_eq!(ended.code, Some(0), "{line}: {}", ended.err);
        let json = ended.json();
        assert_eq!((number(&json, "/exit_code"), &json["problems"]), (0, &Value::Array(Vec::new())), "{line}");
        json
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Mosquitto { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn every_scenario(server: &Server) {
    let all = [
        ("one-to-one", 1, 1),
        ("fan-in --publishers 7", 1, 1),
        ("fan-in --publishers 3 --subscribers 2", 2, 2),
        ("fan-out --subscribers 6", 6, 6),
        ("pairs -c 5", 1, 5),
        ("pairs -c 5 --persistent", 1, 5),
        ("shared --publishers 3 --subscribers 4", 1, 4),
        ("backlog -c 4", 1, 4),
    ];
    for (scenario, fan, subscribers) in all {
        for qos in 0..3 {
            for version in ["3.1.1", "5"] {
                if scenario.starts_with("backlog") && qos == 0 {
                    continue;
                }
                let json = server.load(&format!("{scenario} -q {qos} -V {version} -n {SENT}"));
                adds_up(&json, qos, fan);
                assert_eq!(number(&json, "/load/subscribers"), subscribers, "{scenario}");
                assert_eq!(json["load"]["protocol"], if version == "5" { "5.0" } else { "3.1.1" });
            }
        }
    }
}

/// Nothing is lost, and every sum that can be made holds.
fn adds_up(json: &Value, qos: u64, fan: u64) {
    let of = |what: &str| number(json, &format!("/messages/{what}"));
    assert_eq!(of("published"), SENT, "{json:#}");
    let acknowledged = if qos > 0 { SENT } else { 0 };
    assert_eq!((of("acknowledged"), of("unacknowledged"), of("refused")), (acknowledged, 0, 0));
    assert_eq!(of("expected"), fan * SENT);
    assert_eq!(of("delivered") + of("lost"), of("expected"));
    assert_eq!(of("received"), of("delivered") + of("duplicates"));
    assert_eq!(["lost", "duplicates", "impossible", "foreign", "unexpected_acks", "overdue"].map(of), [0; 6]);
    let measured = &json["measured"];
    assert_eq!(number(measured, "/published"), SENT);
    if json["load"]["scenario"] == "backlog" {
        assert!(measured["latency"].is_null() && measured["drained_per_s"].as_f64().unwrap() > 0.0);
    } else {
        assert_eq!((number(measured, "/received"), number(measured, "/latency/count")), (fan * SENT, fan * SENT));
        in_order(&measured["latency"]);
    }
    if qos > 0 {
        assert_eq!(number(measured, "/ack_latency/count"), SENT);
        in_order(&measured["ack_latency"]);
    } else {
        assert!(measured["ack_latency"].is_null());
    }
    let (rate, seconds) = (measured["published_per_s"].as_f64().unwrap(), measured["seconds"].as_f64().unwrap());
    assert!((rate * seconds - SENT as f64).abs() < 1.0, "{rate} for {seconds}");
}

fn in_order(latency: &Value) {
    let names = ["min_us", "p50_us", "p90_us", "p99_us", "p99.9_us", "max_us"];
    let values: Vec<f64> = names.iter().map(|name| latency[*name].as_f64().unwrap()).collect();
    assert!(values[0] > 0.0 && values.is_sorted(), "{latency:#}");
}

fn connections(server: &Server) {
    for version in ["3.1.1", "5"] {
        let json = server.load(&format!("connect -c 300 -d 0.2 -V {version}"));
        let of = |json: &Value, what: &str| number(json, &format!("/connections/{what}"));
        assert_eq!(
            (of(&json, "made"), of(&json, "attempted"), of(&json, "failed"), of(&json, "ended")),
            (300, 300, 0, 0)
        );
        assert_eq!(number(&json, "/measured/handshake/count"), 300);
        for persistent in ["", "--persistent"] {
            let json = server.load(&format!("reconnect -c 20 -n 500 -V {version} {persistent}"));
            assert_eq!((of(&json, "made"), of(&json, "failed"), of(&json, "sessions_lost")), (500, 0, 0));
            assert_eq!(number(&json, "/measured/handshake/count"), 500);
        }
    }
    let json = server.load("connect -c 40 --connect-rate 200 -d 0.1");
    let seconds = json["connections"]["seconds"].as_f64().unwrap();
    assert!(seconds >= 39.0 / 200.0, "40 connections at 200 a second took {seconds} s");
    let json = server.load("reconnect -c 10 --connect-rate 400 -n 100 -d 20");
    let seconds = json["connections"]["seconds"].as_f64().unwrap();
    assert!(seconds >= 99.0 / 400.0, "100 connections at 400 a second took {seconds} s");
    assert_eq!(json["measured"]["corrected_for_coordinated_omission"], true);
}

fn tls() {
    let broker = Broker::start();
    let url = format!("--url mqtts://localhost:{} --json -", broker.tls_port());
    let ca = broker.ca().display().to_string();
    for scenario in ["one-to-one -q 0", "pairs -c 3 -q 1", "fan-out --subscribers 3 -q 2 -s 40000", "backlog -c 2 -q 1"]
    {
        for trust in [format!("--cafile {ca}"), "--insecure".to_owned()] {
            let ended = bench(&format!("{scenario} -n {SENT} {trust} {url}"));
            assert_eq!(ended.code, Some(0), "{scenario}: {}", ended.err);
            assert_eq!((number(&ended.json(), "/messages/lost"), ended.json()["load"]["tls"] == true), (0, true));
        }
    }
    let ended = bench(&format!("reconnect -c 5 -n 50 --cafile {ca} {url}"));
    assert_eq!((ended.code, number(&ended.json(), "/connections/made")), (Some(0), 50), "{}", ended.err);
    let other = Broker::start();
    let ended = bench(&format!("-n 1 --cafile {} {url}", other.ca().display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(7), ""), "{}", ended.err);
    assert!(ended.err.contains("--cafile") && ended.err.lines().count() == 1, "{}", ended.err);
    let ended = bench(&format!("-n 1 --cafile {ca} --url mqtts://127.0.0.2:{}", broker.tls_port()));
    assert!(matches!(ended.code, Some(4 | 7)), "nothing listens there, or under another name: {}", ended.err);
}

fn sessions_are_removed() {
    let mut broker = Broker::start();
    let server = format!("--url mqtt://127.0.0.1:{}", broker.port());
    for version in ["3.1.1", "5"] {
        for load in
            ["pairs -c 3 -q 1 -n 100 --persistent", "backlog -c 3 -q 1 -n 100", "reconnect -c 5 -n 50 --persistent"]
        {
            let ended = bench(&format!("{load} -V {version} {server}"));
            assert_eq!(ended.code, Some(0), "{}", ended.err);
        }
    }
    assert_eq!(broker.terminate(), Some(0));
    assert_eq!(sessions(broker.data()), 0);
}

/// Sessions in a store.
fn sessions(data: &Path) -> usize {
    let program = forebay_tests::broker::program();
    let output = Command::new(program).args(["store", "export", "--data-dir"]).arg(data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() > 0, "an export has a first line");
    text.lines().filter(|line| line.contains("\"session\"")).count()
}

fn rate() {
    let server = Server::own();
    let json = server.load("pairs -c 4 -q 1 --rate 800 -d 2 --warmup 0");
    let published = number(&json, "/messages/published");
    let (seconds, overdue) = (json["measured"]["seconds"].as_f64().unwrap(), number(&json, "/messages/overdue"));
    // As many as were due: never more, and what is less is said.
    assert!(published as f64 <= 800.0 * seconds + 1.0, "{published} in {seconds} s");
    // One of each connection may be due at the very end.
    assert!((published + overdue) as f64 >= 800.0 * 2.0 - 4.0, "{published} and {overdue} in {seconds} s");
    assert_eq!(json["measured"]["corrected_for_coordinated_omission"], true);
    assert_eq!(number(&json, "/measured/publish_delay/count"), published);
    let json = server.load("pairs -c 4 -q 1 -n 100");
    assert_eq!(json["measured"]["corrected_for_coordinated_omission"], false);
}

fn sizes() {
    let server = Server::own();
    for (size, count) in [(24, 100), (127, 100), (128, 100), (16_384, 50), (700_000, 10)] {
        let json = server.load(&format!("one-to-one -q 1 -s {size} -n {count}"));
        assert_eq!(number(&json, "/messages/delivered"), count);
        let (rate, bytes) = (&json["measured"]["received_per_s"], &json["measured"]["received_bytes_per_s"]);
        let ratio = bytes.as_f64().unwrap() / rate.as_f64().unwrap();
        assert!((ratio - f64::from(size)).abs() < 0.01 * f64::from(size), "{ratio} bytes a message of {size}");
    }
}

fn time() {
    let json = Server::own().load("fan-in --publishers 3 -d 1.5");
    let seconds = json["measured"]["seconds"].as_f64().unwrap();
    assert!(seconds >= 1.5, "{seconds} s");
    assert!(number(&json, "/messages/published") > number(&json, "/measured/published"), "the warm-up is not measured");
}

fn receive_maximum() {
    let broker = Broker::with_config("[limits]\nreceive_maximum = 7\n");
    let url = format!("--url mqtt://127.0.0.1:{} --json -", broker.port());
    let ended = bench(&format!("one-to-one -q 1 -V 5 -w 100 -n 500 {url}"));
    assert_eq!((ended.code, number(&ended.json(), "/messages/lost")), (Some(0), 0), "{}", ended.err);
    assert!(ended.err.contains("takes 7 unacknowledged messages"), "{}", ended.err);
}

/// It would end who is silent for 1.5 times this.
fn keep_alive() {
    let broker = Broker::with_config("[limits]\nmax_keep_alive = \"1s\"\n");
    let url = format!("--url mqtt://127.0.0.1:{} --json -", broker.port());
    for load in ["connect -c 20 -d 5", "one-to-one -q 0 --rate 10 -d 5"] {
        let ended = bench(&format!("{load} -V 5 {url}"));
        assert_eq!(ended.code, Some(0), "{load}: {}", ended.err);
    }
}

fn process() {
    let broker = Broker::start();
    let url = format!("--url mqtt://127.0.0.1:{} --json -", broker.port());
    let json = bench(&format!("one-to-one -q 1 -d 0.5 --pid {} {url}", broker.pid().unwrap())).json();
    let each = json["broker"]["cpu_us_each"].as_f64().unwrap();
    let (cpu_s, received) = (json["broker"]["cpu_s"].as_f64().unwrap(), number(&json, "/measured/received"));
    assert!(cpu_s > 0.0 && (each * received as f64 / 1e6 - cpu_s).abs() < 0.01 * cpu_s, "{json:#}");
    assert!(number(&json, "/broker/resident_kb_after") > 1000);
    let json = bench(&format!("one-to-one -n 10 {url}")).json();
    assert!(json["broker"].is_null());
    let json = bench(&format!("connect -c 500 -d 0.2 --pid {} {url}", broker.pid().unwrap())).json();
    assert!(
        json["broker"]["bytes_a_connection"].as_f64().unwrap() >= 0.0
            && json["broker"]["cpu_us_each"].as_f64().unwrap() > 0.0
    );
}

fn table() {
    let (broker, scratch) = (Broker::start(), Scratch::new("bench"));
    let file = scratch.path().join("figures.json");
    let url = format!("--url mqtt://127.0.0.1:{}", broker.port());
    let ended = bench(&format!("run pairs -c 2 -q 1 -n 200 {url} --json {}", file.display()));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    for words in [
        "2 to 2, QoS 1, 64 bytes",
        "200 of 200: 0 lost, 0 again, 0 out of order",
        "p99.9",
        "to ack",
        "not measured (--pid)",
        "not corrected for coordinated omission",
    ] {
        assert!(ended.out.contains(words), "{words:?} in\n{}", ended.out);
    }
    let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(number(&json, "/messages/delivered"), 200);
    let ended = bench(&format!("-q 0 -n 200 {url} --rate 1000"));
    assert!(ended.out.contains("counted from when each was due"), "{}", ended.out);
}

fn progress() {
    let broker = Broker::start();
    let program = forebay_tests::broker::program();
    let line = format!("{} bench -d 1.5 --url mqtt://127.0.0.1:{}", program.display(), broker.port());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\rone-to-one: ") && text.contains("published ") && text.contains(" in all)"), "{text:?}");
    // It is wiped before the table comes.
    let (_, table) = text.rsplit_once("\r\x1b[K").unwrap();
    assert!(table.contains("whole run") && !table.contains("in all)"), "{table:?}");
}
