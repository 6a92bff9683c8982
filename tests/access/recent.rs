//! What clients did lately: `/api/access/recent`, `forebay acl replay` and `forebay acl learn`.

use std::fs;
use std::process::Command;

use forebay_tests::broker::program;
use forebay_tests::http::Api;
use forebay_tests::packet::build::{Connect, Publish};
use forebay_tests::packet::{Ack, Version};
use forebay_tests::raw::Raw;
use serde_json::Value;

use crate::Site;

pub const TESTS: &[(&str, fn())] = &[
    ("what_clients_did_is_listed_in_pages", what_clients_did_is_listed_in_pages),
    ("acl_replay_says_whose_answers_would_change", acl_replay_says_whose_answers_would_change),
    (
        "acl_replay_needs_a_file_and_a_broker_that_keeps_something",
        acl_replay_needs_a_file_and_a_broker_that_keeps_something,
    ),
    ("a_learned_file_allows_what_was_seen_and_nothing_else", a_learned_file_allows_what_was_seen_and_nothing_else),
    ("before_there_is_an_acl_one_can_be_learned", before_there_is_an_acl_one_can_be_learned),
];

const ADMIN: &str = "\n[admin]\nsocket = \"DIR/admin.sock\"";

/// Names are believed: there are rules, and no passwords.
fn site(acl: &str, access: &str) -> Site {
    let access = format!("[access]\nacl_file = \"DIR/acl\"\n{access}{ADMIN}");
    Site::of_files(&[("acl", acl)], &access, "anonymous = true")
}

fn open(site: &Site, user: &str, client: &str) -> Raw {
    Raw::open(site.port(), &Connect::new(Version::V5, client).user(user)).0
}

/// Publishes with QoS 1; the answer is awaited.
fn publish(raw: &mut Raw, topic: &str, reason: u8) {
    raw.send(&Publish::new(Version::V5, topic, b"secret payload").qos(1, 9).packet());
    raw.expect_ack(Ack::Puback, 9, reason);
}

/// Exit code, standard output, standard error.
fn run(site: &Site, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(program());
    command.arg("acl").args(words);
    if !words.contains(&"test") {
        command.arg("--socket").arg(site.folder.path().join("admin.sock"));
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn what_clients_did_is_listed_in_pages() {
    let site = site("user pump\ntopic write up/#\ntopic read down\n", "");
    let mut pump = open(&site, "pump", "c1");
    for _ in 0..3 {
        publish(&mut pump, "up/1", 0x10);
    }
    publish(&mut pump, "other", 0x87);
    pump.subscribe("down", 1);
    let api = Api::socket(&site.folder.path().join("admin.sock"));
    let mut rows: Vec<Value> = Vec::new();
    let mut path = "/api/access/recent?since_s=3600&limit=2".to_owned();
    loop {
        let page = api.get(&path).json();
        assert!(page["total"] == 4 && !page.to_string().contains("secret"), "{page}");
        rows.extend(page["recent"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/access/recent?since_s=3600&limit=2&after={}", encoded(next));
    }
    let found: Vec<_> =
        rows.iter().map(|row| (row["action"].as_str().unwrap(), row["topic"].as_str().unwrap())).collect();
    assert_eq!(found, [("connect", ""), ("publish", "other"), ("publish", "up/1"), ("subscribe", "down")]);
    let counts: Vec<_> = rows.iter().map(|row| row["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 1, 3, 1]);
    assert_eq!((&rows[1]["allowed"], &rows[2]["allowed"]), (&Value::Bool(false), &Value::Bool(true)));
    let row = &rows[2];
    assert!(row["user"] == "pump" && row["client_id"] == "c1" && row["qos"] == 1 && row["by"] == "acl", "{row}");
    assert!(row["address"] == "127.0.0.1" && row["own_acl"] == false, "{row}");
    assert_eq!(api.get("/api/access/recent?since_s=x").status, 400);
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn acl_replay_says_whose_answers_would_change() {
    let site = site("user pump\ntopic write up/#\ntopic read down/#\n", "");
    let mut pump = open(&site, "pump", "c1");
    for _ in 0..2 {
        publish(&mut pump, "up/1", 0x10);
    }
    publish(&mut pump, "up/2", 0x10);
    publish(&mut pump, "wanted", 0x87);
    pump.subscribe("down/#", 1);
    let file = |name: &str, text: &str| {
        let path = site.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let new = file("new", "user pump\ntopic write up/#\ntopic deny up/1\ntopic write wanted\n");
    let (code, said, _) = run(&site, &["replay", "--since", "1h", &new]);
    assert_eq!(code, 1, "{said}");
    for line in [
        "publish \"up/1\" (QoS 1): allowed 2 times, ".to_owned(),
        format!("s ago; would be denied: {new}:3: topic deny up/1\n"),
        "publish \"wanted\" (QoS 1): denied once, ".to_owned(),
        format!("would be allowed: {new}:4: topic write wanted\n"),
        "subscribe \"down/#\": allowed once, ".to_owned(),
        format!("would be denied: no line of {new} allows it\n"),
        "user \"pump\", client \"c1\": ".to_owned(),
        "3 of 5 would change: 2 allowed would be denied, 1 denied would be allowed\n".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} is missing:\n{said}");
    }
    assert!(!said.contains("up/2"), "{said}");

    let toml = file("new.toml", "[[rules]]\nallow = [\"publish\"]\ntopics = [\"up/#\"]\nqos = [0]\n");
    let (code, said, _) = run(&site, &["replay", "--json", &toml]);
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &answer["asked"], &answer["newly_denied"]), (1, &5.into(), &3.into()), "{said}");
    assert!(answer["changed"][0]["qos"] == 1 && answer["changed"][0]["allowed"] == false, "{said}");

    let same = file("same", "user pump\ntopic write up/+\ntopic read down/#\n");
    let (code, said, _) = run(&site, &["replay", &same]);
    let summary = "0 of 5 would change: 0 allowed would be denied, 0 denied would be allowed\n";
    assert_eq!((code, &*said), (0, summary));
}

fn acl_replay_needs_a_file_and_a_broker_that_keeps_something() {
    let site = site("user pump\ntopic write up/#\n", "recent_memory = \"0B\"\n");
    let acl = site.folder.path().join("acl").display().to_string();
    let (code, _, why) = run(&site, &["replay", &acl]);
    assert!(code == 1 && why.contains("recent_memory"), "{why}");
    let (code, _, why) = run(&site, &["replay"]);
    assert!(code == 2 && why.contains("acl_file"), "{why}");
    let (code, _, why) = run(&site, &["replay", "--since", "soon", &acl]);
    assert!(code == 2 && why.contains("--since"), "{why}");
    fs::write(site.folder.path().join("wrong"), "user pump\ntopick a\n").unwrap();
    let (code, _, why) = run(&site, &["replay", &site.folder.path().join("wrong").display().to_string()]);
    assert!(code == 1 && why.contains("line 2"), "{why}");
}

/// Asks `forebay acl test`, which reads the file as the broker does.
fn may(site: &Site, file: &str, words: &[&str]) -> bool {
    let config = site.folder.path().join("learned.toml");
    fs::write(&config, format!("[access]\nacl_file = \"{file}\"\n")).unwrap();
    let config = config.display().to_string();
    let (code, said, why) = run(site, &[&["test", "--config", &config][..], words].concat());
    assert!(code < 2, "{said}{why}");
    code == 0
}

fn a_learned_file_allows_what_was_seen_and_nothing_else() {
    let rules = "topic read public/#\nuser pump-1\ntopic #\nuser pump-2\ntopic #\ntopic deny rooms/9/door\n";
    let site = site(rules, "");
    let mut guest = Raw::open(site.port(), &Connect::new(Version::V5, "guest")).0;
    guest.subscribe("public/+", 0);
    for (user, client) in [("pump-1", "c1"), ("pump-2", "c2")] {
        let mut pump = open(&site, user, client);
        pump.subscribe(&format!("commands/{user}/#"), 1);
        publish(&mut pump, &format!("data/{user}/temp"), 0x10);
        publish(&mut pump, &format!("state/{client}"), 0x10);
        for room in 1..=5 {
            publish(&mut pump, &format!("rooms/{room}/door"), 0x10);
        }
        if user == "pump-2" {
            publish(&mut pump, "rooms/9/door", 0x87);
        }
        pump.leave();
    }
    for (format, name) in [("mosquitto", "learned"), ("toml", "learned-rules.toml")] {
        let (code, text, why) = run(&site, &["learn", "--since", "1h", "--format", format]);
        assert_eq!(code, 0, "{why}");
        assert!(text.contains("rooms/+/door") && text.contains("commands/%u/#") && text.contains("state/%c"), "{text}");
        let file = site.folder.path().join(name).display().to_string();
        fs::write(&file, &text).unwrap();
        let (code, said, _) = run(&site, &["replay", &file]);
        assert!(code == 0 && said.starts_with("0 of "), "{said}\n{text}");
        for (words, allowed) in [
            ("--user pump-1 --client c1 publish data/pump-1/temp", true),
            ("--user pump-1 --client c1 publish rooms/7/door", true),
            ("--user pump-1 --client c1 publish data/pump-2/temp", false),
            ("--user pump-1 --client c1 publish commands/pump-1/x", false),
            ("--user pump-1 --client c1 subscribe commands/pump-1/#", true),
            ("--user pump-1 --client c1 subscribe commands/pump-2/#", false),
            ("--user pump-2 --client c2 publish rooms/5/door", true),
            ("--user pump-2 --client c2 publish rooms/9/door", false),
            ("--client any receive public/x", true),
            ("--client any receive public/x/y", false),
            ("--client any publish public/x", false),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(may(&site, &file, &words), allowed, "{words:?}\n{text}");
        }
    }
    let (_, text, _) = run(&site, &["learn", "--alike", "9"]);
    assert!(!text.contains("rooms/+"), "{text}");
}

fn before_there_is_an_acl_one_can_be_learned() {
    let start = |learn: &str| Site::of_files(&[], &format!("[access]\n{learn}{ADMIN}"), "");
    let site = start("learn = true\n");
    let mut pump = open(&site, "pump", "c1");
    publish(&mut pump, "up/1", 0x10);
    let (code, text, _) = run(&site, &["learn"]);
    assert!(code == 0 && text.ends_with("user pump\ntopic write up/1\n"), "{text}");
    let site = start("");
    publish(&mut open(&site, "pump", "c1"), "up/1", 0x10);
    let (code, _, why) = run(&site, &["learn"]);
    assert!(code == 1 && why.contains("learn = true"), "{why}");
}
