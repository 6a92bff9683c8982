//! The ACL in TOML.

use std::fs;
use std::process::Command;

use forebay_tests::broker::program;
use forebay_tests::packet::build::{self, Connect, Publish, Will};
use forebay_tests::packet::{Ack, Version};
use forebay_tests::raw::Raw;
use forebay_tests::scratch::Scratch;

use crate::{Site, passwd};

pub const TESTS: &[(&str, fn())] = &[
    ("rules_hold_for_all_that_a_client_does", rules_hold_for_all_that_a_client_does),
    ("a_change_of_the_rules_reaches_who_is_connected", a_change_of_the_rules_reaches_who_is_connected),
    ("a_listener_has_its_own_rules", a_listener_has_its_own_rules),
    ("acl_test_says_the_rule", acl_test_says_the_rule),
];

const RULES: &str = r##"
[groups]
pumps = ["pump"]

[[rules]]
deny = ["connect"]
users = ["gone"]

[[rules]]
allow = ["connect"]

[[rules]]
deny = ["will"]
clients = ["nowill*"]
topics = ["#"]

[[rules]]
allow = ["publish"]
groups = ["pumps"]
topics = ["data/%u/#", "%g/all"]
qos = [0, 1]
retain = false

[[rules]]
deny = ["receive"]
topics = ["data/+/secret"]
groups = ["pumps"]

[[rules]]
allow = ["subscribe"]
groups = ["pumps"]
topics = ["data/#"]
shared = false

[[rules]]
allow = ["publish", "subscribe"]
users = ["admin"]
topics = ["#"]
"##;

/// The password file is there before the broker is.
fn site(rules: &str, listener: &str) -> Site {
    let scratch = Scratch::new("rules");
    let file = scratch.path().join("passwords");
    for user in ["pump", "admin", "gone"] {
        assert!(passwd(&file, &["add", user], user).status.success());
    }
    let passwords = fs::read_to_string(file).unwrap();
    let access = "[access]\npassword_file = \"DIR/passwords\"\nacl_file = \"DIR/acl.toml\"\n";
    Site::of_files(&[("passwords", &passwords), ("acl.toml", rules)], access, listener)
}

fn connect(client: &str, user: &str) -> Connect {
    Connect::new(Version::V5, client).user(user).password(user.as_bytes())
}

fn rules_hold_for_all_that_a_client_does() {
    let site = site(RULES, "");
    Raw::begin(site.port(), &connect("c", "gone")).expect_refused(0x87);
    Raw::begin(site.port(), &connect("nowill-1", "pump").will(Will::new("data/pump/x", b""))).expect_refused(0x87);
    Raw::begin(site.port(), &connect("c", "pump").will(Will::new("data/pump/x", b"").retain())).expect_refused(0x87);
    let (mut pump, ..) = Raw::open(site.port(), &connect("c", "pump").will(Will::new("data/pump/x", b"")));
    let (mut admin, ..) = Raw::open(site.port(), &connect("a", "admin"));
    let publish = |topic: &str, qos: u8| Publish::new(Version::V5, topic, b"x").qos(qos, 5);
    for (packet, reason) in [
        (publish("data/pump/a", 1), 0x10),
        (publish("pumps/all", 1), 0x10),
        (publish("data/other/a", 1), 0x87),
        (publish("data/pump/a", 1).retain(), 0x87),
    ] {
        pump.send(&packet.packet());
        pump.expect_ack(Ack::Puback, 5, reason);
    }
    pump.send(&publish("data/pump/a", 2).packet());
    pump.expect_ack(Ack::Pubrec, 5, 0x87);
    for (id, filter, code) in [(1, "data/#", 0), (2, "$share/g/data/#", 0x87), (3, "#", 0x87), (4, "data/x/secret", 0)]
    {
        pump.send(&build::Subscribe::new(Version::V5, id).filter(filter, 0).packet());
        pump.expect_suback(id, &[code]);
    }
    for topic in ["data/x/secret", "data/y"] {
        admin.publish(topic, 1, b"m");
    }
    assert_eq!(pump.take_any().topic, "data/y", "what may not be received is not delivered");
}

fn a_change_of_the_rules_reaches_who_is_connected() {
    let site = site(RULES, "");
    let (mut pump, ..) = Raw::open(site.port(), &connect("c", "pump"));
    let (mut admin, ..) = Raw::open(site.port(), &connect("a", "admin"));
    site.change("acl.toml", "[[rules]]\nallow = ['fly']\n");
    let log = site.until_logged("access not changed");
    assert!(log.contains("acl.toml: line 1: \"fly\" is neither"), "{log}");
    site.change("acl.toml", "[[rules]]\nallow = ['connect', 'publish']\nusers = ['admin']\ntopics = ['#']\n");
    site.until_logged("7 rules before, 1 now");
    pump.expect_disconnect(0x87);
    Raw::begin(site.port(), &connect("c", "pump")).expect_refused(0x87);
    admin.publish("a", 1, b"x");
}

fn a_listener_has_its_own_rules() {
    let own = "acl_file = \"DIR/own.toml\"\n[[listeners]]\nurl = \"mqtt://127.0.0.1:0\"\n";
    let scratch = Scratch::new("own");
    let file = scratch.path().join("passwords");
    assert!(passwd(&file, &["add", "pump"], "pump").status.success());
    let passwords = fs::read_to_string(file).unwrap();
    let access = "[access]\npassword_file = \"DIR/passwords\"\nacl_file = \"DIR/acl\"\n";
    let rules = "[[rules]]\nallow = ['publish']\ntopics = ['here']\n";
    let files = [("passwords", passwords.as_str()), ("acl", "topic there\n"), ("own.toml", rules)];
    let site = Site::of_files(&files, access, own);
    let (mut pump, ..) = Raw::open(site.port(), &connect("c", "pump"));
    for (topic, reason) in [("here", 0x10), ("there", 0x87)] {
        pump.send(&Publish::new(Version::V5, topic, b"x").qos(1, 5).packet());
        pump.expect_ack(Ack::Puback, 5, reason);
    }
    site.change("own.toml", "");
    site.until_logged("own.toml: 1 rules before, 0 now");
    pump.send(&Publish::new(Version::V5, "here", b"x").qos(1, 5).packet());
    pump.expect_ack(Ack::Puback, 5, 0x87);
}

fn acl_test_says_the_rule() {
    let scratch = Scratch::new("acl");
    let (config, acl) = (scratch.path().join("f.toml"), scratch.path().join("rules.toml"));
    fs::write(&config, "[access]\nacl_file = \"rules.toml\"\n").unwrap();
    fs::write(&acl, RULES).unwrap();
    let file = acl.display();
    for (words, code, said) in [
        ("--user gone connect", 1, format!("denied: {file}:5: [[rules]]\n")),
        ("--user pump publish data/pump/x", 0, format!("allowed: {file}:17: [[rules]]\n")),
        ("--user pump --qos 2 publish data/pump/x", 1, format!("denied: no line of {file} allows it\n")),
        ("--group pumps publish pumps/all", 0, format!("allowed: {file}:17: [[rules]]\n")),
        ("--user pump receive data/x/secret", 1, format!("denied: {file}:24: [[rules]]\n")),
        ("--user pump subscribe data/+", 0, format!("allowed: {file}:29: [[rules]]\n")),
        ("--listener mqtt://none connect", 2, String::new()),
    ] {
        let mut command = Command::new(program());
        let output = command.args(["acl", "test", "--config"]).arg(&config).args(words.split(' ')).output().unwrap();
        let is = (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap());
        assert_eq!(is, (code, said), "{words}");
    }
}
