//! `forebay ctl` and `forebay why`, the real program.

use std::process::{Command, Output};

use forebay_tests::broker::{Broker, program};
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Came, Connect, Peer, frame};

use crate::{Site, until};

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn ctl(site: &Site, arguments: &[&str]) -> String {
    let socket = site.socket_path();
    let output = run(&[&["ctl", "--socket", socket.to_str().unwrap()], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tables_for_people_and_json_for_scripts() {
    let site = Site::start("", "");
    for n in 0..3 {
        site.subscriber(&format!("away-{n}"), "t/#").leave();
    }
    let _here = site.subscriber("here", "u");
    let mut publisher = site.publisher();
    publisher.publish(1, "t/1", b"twenty degrees");
    let sessions = ctl(&site, &["sessions", "--state", "away"]);
    let lines: Vec<&str> = sessions.lines().collect();
    assert!(lines[0].starts_with("client  state  protocol"), "{sessions}");
    assert!(lines[1].starts_with("away-0  away   5"), "{sessions}");
    assert_eq!(*lines.last().unwrap(), "3 in all");
    assert_eq!(ctl(&site, &["sessions", "--away", "30d"]).lines().last(), Some("0 in all"));
    let json: serde_json::Value = serde_json::from_str(&ctl(&site, &["sessions", "--json", "--limit", "2"])).unwrap();
    assert_eq!((json["sessions"].as_array().unwrap().len(), &json["next"]), (2, &"away-1".into()));
    let shown = ctl(&site, &["show", "away-1"]);
    assert!(shown.contains("its client is away") && shown.contains("t/#"), "{shown}");
    assert!(ctl(&site, &["peek", "away-1"]).contains("twenty degrees"));
    assert!(ctl(&site, &["queues"]).contains("away-2"));
    assert!(ctl(&site, &["subscriptions", "--topic", "u"]).ends_with("1 in all\n"));
    let ledger = ctl(&site, &["ledger"]);
    assert!(ledger.lines().any(|line| line.split_whitespace().eq(["accepted", "3"])), "{ledger}");
    for arguments in [&["status"][..], &["store"], &["drops"]] {
        assert!(!ctl(&site, arguments).is_empty(), "{arguments:?}");
    }
    assert_eq!(ctl(&site, &["purge", "away-0"]), "1 messages are dropped from the queue of away-0\n");
    assert!(ctl(&site, &["peek", "away-0"]).ends_with("0 in all\n"));
    assert!(ctl(&site, &["drops"]).contains("purged"));
    ctl(&site, &["end", "away-2"]);
    assert!(ctl(&site, &["drops"]).contains("dropped: session_ended"));
}

#[test]
fn a_bridge_that_is_paused_stays_so_over_a_restart() {
    let upstream = Broker::start();
    let name_and_url = format!("name = 'up'\nurl = 'mqtt://127.0.0.1:{}'", upstream.port());
    let mut site = Site::start(&format!("[[bridges]]\n{name_and_url}\n[[bridges.out]]\nfilter = 't/#'"), "");
    let endpoint = Endpoint::tcp(upstream.port());
    let (mut there, _) = Peer::open(&endpoint, &Connect::clean(Version::V5, "there"));
    assert_eq!(there.subscribe(&[("t/#", 1)]), [1]);
    let state = |site: &Site, state: &'static str| {
        until(state, || ctl(site, &["bridges"]), |shown| shown.trim_end().ends_with(state))
    };
    state(&site, "connected");
    ctl(&site, &["bridges", "pause", "up"]);
    state(&site, "paused");
    let mut publisher = site.publisher();
    publisher.publish(1, "t/1", b"dropped");
    assert_eq!(ctl(&site, &["bridges", "purge", "up"]), "1 messages are dropped from the queue of up\n");
    publisher.publish(1, "t/2", b"kept");
    site.broker.kill();
    site.broker.run();
    state(&site, "paused");
    let bridges: serde_json::Value = serde_json::from_str(&ctl(&site, &["bridges", "--json"])).unwrap();
    let up = &bridges["bridges"][0];
    assert_eq!((&up["queued"], &up["sent"], &up["dropped"]), (&1.into(), &0.into(), &1.into()));
    ctl(&site, &["bridges", "resume", "up"]);
    state(&site, "connected");
    match there.answer() {
        Came::Publish(message) => assert_eq!(message.payload, b"kept"),
        other => panic!("{other:?}"),
    }
    let socket = site.socket_path();
    let unknown = run(&["ctl", "--socket", socket.to_str().unwrap(), "bridges", "pause", "down"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no bridge \"down\""));
}

#[test]
fn retained_messages_from_the_command_line() {
    let site = Site::start("", "");
    ctl(&site, &["retained", "set", "a/b c", "21.5"]);
    assert_eq!(ctl(&site, &["retained", "get", "a/b c"]), "21.5\n");
    assert!(ctl(&site, &["retained", "list", "a/#"]).starts_with("topic"));
    ctl(&site, &["retained", "clear", "a/b c"]);
    let output = run(&["ctl", "--socket", site.socket_path().to_str().unwrap(), "retained", "get", "a/b c"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "forebay ctl: there is no retained message on \"a/b c\"\n");
}

#[test]
fn all_pages_are_one_list() {
    let site = Site::start("", "");
    let socket = site.socket();
    for n in 0..1005 {
        assert_eq!(socket.ask("PUT", &format!("/api/retained/n%2F{n}"), &[], b"x").status, 200);
    }
    let listed = ctl(&site, &["retained", "list"]);
    assert_eq!(listed.lines().count(), 1007);
    assert!(listed.ends_with("1005 in all\n"));
}

#[test]
fn why_says_what_stands_in_the_way() {
    let site = Site::start("", "");
    site.subscriber("away", "t/#").leave();
    let socket = site.socket_path();
    let output = run(&["why", "--socket", socket.to_str().unwrap(), "away", "u"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("a message on u does not reach away now:\n- no match"), "{said}");
}

#[test]
fn a_broker_that_is_not_there_is_said() {
    let mut site = Site::start("", "");
    let socket = site.socket_path();
    let socket = socket.to_str().unwrap();
    site.broker.kill();
    let output = run(&["ctl", "--socket", socket, "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the broker is not running"));
    // What a kill left behind is in nobody's way.
    site.broker.run();
    assert!(ctl(&site, &["status"]).contains("pressure"));
    let output = run(&["ctl", "--socket", "/nowhere/admin.sock", "status"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not there"));
}

#[test]
fn ctl_ends_the_broker() {
    let mut site = Site::start("", "");
    assert_eq!(ctl(&site, &["shutdown"]), "the broker is stopping\n");
    assert_eq!(site.broker.ended(), Some(0));
}

#[test]
fn the_level_of_the_log_is_changed_while_it_runs() {
    let site = Site::start("log = \"warn\"", "");
    assert!(ctl(&site, &["log"]).starts_with("level           warn\n"));
    site.subscriber("before", "t").leave();
    ctl(&site, &["log", "info"]);
    site.subscriber("after", "t").leave();
    until("the log has the later one", || site.broker.log(), |log| log.contains("client=\"after\""));
    assert!(!site.broker.log().contains("client=\"before\""));
    let output = run(&["ctl", "--socket", site.socket_path().to_str().unwrap(), "log", "loud"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_packets_of_one_client_are_in_the_log_for_a_while() {
    let site = Site::start("", "");
    let mut other = site.subscriber("other", "t");
    let mut pump = site.subscriber("pump", "t");
    let shown = ctl(&site, &["log", "--client", "pump", "--for", "5m"]);
    assert!(
        shown.contains("packets of      pump for 4 min") || shown.contains("packets of      pump for 5 min"),
        "{shown}"
    );
    assert_eq!(site.publisher().publish(7, "t", b"the payload is nobody's business").0, 0);
    for peer in [&mut other, &mut pump] {
        assert!(matches!(peer.answer(), Came::Publish(_)));
    }
    assert_eq!(pump.publish(9, "pump/state", b"x").0, 0x10);
    until(
        "its packets are there",
        || site.broker.log(),
        |log| {
            let line = |words: [&str; 3]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            line(["sent PUBLISH", "client=\"pump\"", "topic=\"t\""])
                && line(["received PUBLISH", "topic=\"pump/state\"", "packet_id=9"])
                && line(["sent PUBACK", "client=\"pump\"", "packet_id=9"])
        },
    );
    let log = site.broker.log();
    assert!(!log.contains("nobody's business"), "{log}");
    assert!(!log.lines().any(|line| line.contains("PUBLISH") && line.contains("other")), "{log}");
    assert!(!ctl(&site, &["log", "--stop"]).contains("packets of"));
    assert_eq!(pump.publish(10, "pump/after", b"x").0, 0x10);
    site.subscriber("later", "t").leave();
    until("a later line is there", || site.broker.log(), |log| log.contains("client=\"later\""));
    assert!(!site.broker.log().contains("pump/after"));
    let output = run(&["ctl", "--socket", site.socket_path().to_str().unwrap(), "log", "--client", "x", "--for", "2d"]);
    assert_eq!(output.status.code(), Some(1), "a day at most");
}

#[test]
fn dead_letters_are_listed_go_back_and_are_dropped() {
    let queue = "[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"\nmax_deliveries = 1";
    let site = Site::start(queue, "");
    let mut publisher = site.publisher();
    let mut consumer = site.subscriber("consumer", "$queue/jobs");
    for (id, topic) in [(1, "job/a"), (2, "job/b"), (3, "job/a")] {
        assert_eq!(publisher.publish(id, topic, topic.as_bytes()).0, 0);
        let Came::Publish(message) = consumer.answer() else { panic!("no message") };
        let [high, low] = message.id.to_be_bytes();
        consumer.send(&frame(0x40, &[high, low, 0x80]));
    }
    let dead = |site: &Site| site.socket().get("/api/queues/declared").json()["queues"][1]["messages"].as_u64();
    until("all are dead", || dead(&site), |dead| *dead == Some(3));
    assert!(ctl(&site, &["declared"]).contains("jobs"));
    let list = ctl(&site, &["dead", "list", "jobs"]);
    assert_eq!(list.matches("$dead/jobs/job/a").count(), 2, "{list}");
    let said = ctl(&site, &["dead", "replay", "jobs", "--filter", "job/a", "--rate", "50"]);
    assert!(said.contains("of 3 dead letters"), "{said}");
    for _ in 0..2 {
        let message = consumer.message();
        assert_eq!((message.topic.as_str(), message.properties.user.len()), ("job/a", 0));
    }
    until("one is left", || dead(&site), |dead| *dead == Some(1));
    ctl(&site, &["dead", "purge", "jobs"]);
    until("none is left", || dead(&site), |dead| *dead == Some(0));
}
