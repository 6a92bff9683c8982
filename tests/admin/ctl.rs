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
fn what_the_configuration_names_is_not_ended() {
    let declared = "[[queues]]\nname = 'jobs'\nfilter = 'jobs/#'\n[[streams]]\nname = 'log'\nfilter = 'log/#'\n\
                    [[dead_letters]]\nname = 'lost'\n[[bridges]]\nname = 'up'\nurl = 'mqtt://127.0.0.1:1'\n\
                    [[bridges.out]]\nfilter = 't/#'\n";
    let mut site = Site::start(declared, "");
    for own in ["$queue/jobs", "$dead/jobs", "$dead/lost", "$stream/log", "$bridge/up", "$bridge/up/dead"] {
        let socket = site.socket_path();
        let ended = run(&["ctl", "--socket", socket.to_str().unwrap(), "end", own]);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains("purge"), "{own}: {said}");
        assert!(ctl(&site, &["show", own]).contains(own), "{own} is there still");
    }
    site.publisher().publish(1, "jobs/1", b"x");
    site.publisher().publish(1, "t/1", b"x");
    // What it does not name any more may go.
    site.broker.kill();
    let file = site.broker.data().with_file_name("forebay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(declared, "")).unwrap();
    site.broker.run();
    for own in ["$queue/jobs", "$bridge/up"] {
        ctl(&site, &["end", own]);
    }
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
    let queue = "[[queues]]\nname = \"jobs\"\nfilter = \"job/#\"\nmax_deliveries = 1\nmax_dead_letters = 3";
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
    // Each that does not match is put behind the others, and must not push one out.
    ctl(&site, &["dead", "replay", "jobs", "--filter", "job/none"]);
    until("all were looked at", || site.broker.log(), |log| log.contains("dead letters are back"));
    assert_eq!(dead(&site), Some(3));
    let said = ctl(&site, &["dead", "replay", "jobs", "--filter", "job/a", "--rate", "50/s"]);
    assert!(said.contains("of 3 dead letters"), "{said}");
    for _ in 0..2 {
        let message = consumer.message();
        assert_eq!((message.topic.as_str(), message.properties.user.len()), ("job/a", 0));
    }
    until("one is left", || dead(&site), |dead| *dead == Some(1));
    ctl(&site, &["dead", "purge", "jobs"]);
    until("none is left", || dead(&site), |dead| *dead == Some(0));
}

/// What a session gave up goes back into it, what nobody wanted to whoever wants it by then; the rest stays.
#[test]
fn dead_letters_of_sessions_go_back() {
    let rules = "[queue]\nmax_messages = 2\npolicy = \"drop-newest\"\n[[dead_letters]]\nname = \"kept\"\n\
                 reasons = [\"full\", \"undeliverable\"]";
    let site = Site::start(rules, "");
    let mut publisher = site.publisher();
    let kept = Connect::kept(Version::V5, "kept");
    let endpoint = Endpoint::tcp(site.broker.port());
    let (mut subscriber, _) = Peer::open(&endpoint, &kept);
    assert_eq!(subscriber.subscribe(&[("s/#", 1)]), [1]);
    subscriber.leave();
    for (id, topic) in [(1, "s/1"), (2, "s/2"), (3, "s/3"), (4, "s/4"), (5, "nobody/1"), (6, "nobody/2")] {
        publisher.publish(id, topic, topic.as_bytes());
    }
    let dead = |site: &Site| site.socket().get("/api/queues/declared").json()["queues"][0]["messages"].as_u64();
    until("they are dead", || dead(&site), |dead| *dead == Some(4));
    assert_eq!(ctl(&site, &["dead", "list", "kept"]).matches("$dead/kept/").count(), 4);
    let (mut subscriber, _) = Peer::open(&endpoint, &kept);
    let topics = |peer: &mut Peer| -> Vec<String> { (0..2).map(|_| peer.message().topic).collect() };
    assert_eq!(topics(&mut subscriber), ["s/1", "s/2"]);
    let mut other = site.subscriber("other", "nobody/2");
    assert!(ctl(&site, &["dead", "replay", "kept"]).contains("of 4 dead letters"));
    assert_eq!(topics(&mut subscriber), ["s/3", "s/4"]);
    assert_eq!(other.message().topic, "nobody/2");
    until("one has nowhere to go", || dead(&site), |dead| *dead == Some(1));
    ctl(&site, &["dead", "purge", "kept"]);
    until("none is left", || dead(&site), |dead| *dead == Some(0));
}

#[test]
fn delayed_messages_are_listed_moved_and_cancelled() {
    let site = Site::start("", "");
    let mut publisher = site.publisher();
    let mut subscriber = site.subscriber("subscriber", "later/#");
    for (id, topic) in
        [(1, "$delayed/1000/later/a"), (2, "$delayed/2000/later/b"), (3, "$delayed/@2999-01-01T00:00:00Z/later/c")]
    {
        assert_eq!(publisher.publish(id, topic, b"x").0, 0);
    }
    let key = |topic: &str| -> String {
        let list = ctl(&site, &["delayed", "list"]);
        let line = list.lines().find(|line| line.contains(topic)).unwrap_or_else(|| panic!("{topic} in {list}"));
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert!(ctl(&site, &["delayed", "list"]).contains("3 in all"));
    assert!(ctl(&site, &["delayed", "list", "--limit", "1"]).contains("1 of 3"));
    assert!(ctl(&site, &["delayed", "cancel", &key("later/a")]).contains("is cancelled"));
    assert!(ctl(&site, &["delayed", "move", &key("later/c"), "--delay", "0"]).contains("from now on"));
    assert_eq!(subscriber.message().topic, "later/c");
    ctl(&site, &["delayed", "move", &key("later/b"), "--at", "2000-01-01T00:00:00Z"]);
    assert_eq!(subscriber.message().topic, "later/b");
    assert!(ctl(&site, &["delayed", "list"]).contains("0 in all"));
    let socket = site.socket_path();
    let output = run(&["ctl", "--socket", socket.to_str().unwrap(), "delayed", "cancel", "own-1-1"]);
    assert_eq!(output.status.code(), Some(1), "there is none");
}
