#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::access::principal;
use crate::certificate::Certificate;

const FILE: &str = r##"# A site.
[groups]
pumps = ["pump-1", "pump-2"]
ops = ["ann"]

[[rules]]
deny = ["connect"]
addresses = ["10.9.0.0/16", "2001:db8::/32"]

[[rules]]
allow = ["connect"]

[[rules]]
deny = ["receive"]
topics = ["site/secret/#"]
groups = ["pumps"]

[[rules]]
users = ["pump-1", "pump-2"]
allow = ["publish"]
topics = ["data/%u/#"]
qos = [0, 1]
retain = false

[[rules]]
groups = ["pumps"]
allow = ["subscribe"]
topics = ["site/#", "groups/%g/#"]

[[rules]]
clients = ["cam-*"]
deny = ["will"]
topics = ["#"]

[[rules]]
clients = ["cam-*"]
allow = ["publish"]
topics = ["cams/%c"]

[[rules]]
certificate = { cn = "dev*", serial = "0a" }
allow = ["publish", "subscribe"]
topics = ["certs/%{cn}/#"]

[[rules]]
users = ["ann"]
deny = ["subscribe"]
topics = ["#"]
wildcards = true

[[rules]]
groups = ["ops"]
allow = ["subscribe", "publish"]
topics = ["#", "$SYS/#"]
listeners = ["mqtts://*"]

[[rules]]
anonymous = true
allow = ["subscribe"]
topics = ["public/+"]
shared = false
"##;

fn who(user: Option<&str>, client: &str) -> Principal {
    Principal {
        addr: Some("192.0.2.1".parse().unwrap()),
        listener: "mqtts://0.0.0.0:8883".into(),
        ..principal::who(user, client)
    }
}

fn publish(topic: &str) -> Ask<'_> {
    Ask::Publish { topic, qos: 0, retain: false }
}

fn subscribe(filter: &str) -> Ask<'_> {
    Ask::Subscribe { filter, shared: false }
}

fn receive(topic: &str) -> Ask<'_> {
    Ask::Receive { topic }
}

#[test]
fn the_first_that_matches_says_it() {
    let rules = Rules::parse(FILE).unwrap();
    let (pump, cam, ann) = (who(Some("pump-1"), "c"), who(None, "cam-7"), who(Some("ann"), "x"));
    let certificate = Certificate { cn: Some("dev1".into()), serial: "0a".into(), ..Certificate::default() };
    let device = Principal { certificate: Some(Arc::new(certificate)), ..who(Some("dev1"), "d") };
    let other = Principal {
        certificate: Some(Arc::new(Certificate { cn: Some("dev1".into()), ..Certificate::default() })),
        ..device.clone()
    };
    let outside = Principal { listener: "mqtt://0.0.0.0:1883".into(), ..ann.clone() };
    for (who, ask, allowed, line) in [
        (&pump, Ask::Connect, true, Some(10)),
        (&pump, publish("data/pump-1/x"), true, Some(18)),
        (&pump, publish("data/pump-2/x"), false, None),
        (&pump, Ask::Publish { topic: "data/pump-1", qos: 2, retain: false }, false, None),
        (&pump, Ask::Publish { topic: "data/pump-1", qos: 1, retain: true }, false, None),
        (&pump, Ask::Will { topic: "data/pump-1", qos: 1, retain: false }, true, Some(18)),
        (&pump, subscribe("site/+/x"), true, Some(25)),
        (&pump, subscribe("site/secret/x"), true, Some(25)),
        (&pump, receive("site/a"), true, Some(25)),
        (&pump, receive("site/secret/x"), false, Some(13)),
        (&pump, subscribe("groups/pumps/a"), true, Some(25)),
        (&pump, subscribe("groups/ops/a"), false, None),
        (&pump, subscribe("#"), false, None),
        (&cam, publish("cams/cam-7"), true, Some(35)),
        (&cam, publish("cams/cam-8"), false, None),
        (&cam, Ask::Will { topic: "cams/cam-7", qos: 0, retain: false }, false, Some(30)),
        (&cam, subscribe("public/x"), true, Some(57)),
        (&cam, Ask::Subscribe { filter: "public/x", shared: true }, false, None),
        (&cam, receive("public/x"), true, Some(57)),
        (&pump, subscribe("public/x"), false, None),
        (&device, publish("certs/dev1/a"), true, Some(40)),
        (&device, receive("certs/dev1/a"), true, Some(40)),
        (&device, publish("certs/dev2/a"), false, None),
        (&other, publish("certs/dev1/a"), false, None),
        (&ann, subscribe("a/#"), false, Some(45)),
        (&ann, subscribe("a/b"), true, Some(51)),
        (&ann, receive("a/b"), true, Some(51)),
        (&ann, receive("$SYS/x"), true, Some(51)),
        (&outside, subscribe("a/b"), false, None),
    ] {
        assert_eq!(rules.check(who, ask), Answer { allowed, line }, "{:?} {ask:?}", who.user);
    }
    for addr in ["10.9.255.1", "::ffff:10.9.0.1", "2001:db8::5"] {
        let there = Principal { addr: Some(addr.parse().unwrap()), ..pump.clone() };
        assert_eq!(rules.check(&there, Ask::Connect).line, Some(6), "{addr}");
    }
}

/// A name that holds a level or a wildcard opens nothing by a pattern.
#[test]
fn names_open_their_own_place_only() {
    let rules =
        Rules::parse("rules = [{ allow = ['publish'], topics = ['d/%c/#', 'u/%u', 'g/%g', 'c/%{cn}'] }]").unwrap();
    for name in ["+", "#", "a/b", ""] {
        let certificate = Arc::new(Certificate { cn: Some(name.into()), ..Certificate::default() });
        let who = Principal { groups: vec![name.into()], certificate: Some(certificate), ..who(Some(name), name) };
        for topic in ["d/a/b", "d/a/b/c", "d//x", "u/a", "u/a/b", "u/", "g/a", "g/", "c/a", "c/"] {
            assert!(!rules.check(&who, publish(topic)).allowed, "{name:?} {topic}");
        }
    }
    assert!(rules.check(&who(Some("a"), "b%u"), publish("d/b%u/x")).allowed, "what is filled in is no pattern");
}

#[test]
fn an_empty_file_denies_and_lets_in() {
    let rules = Rules::parse("").unwrap();
    let who = who(None, "c");
    assert!(rules.is_empty() && rules.check(&who, Ask::Connect).allowed);
    assert!(!rules.check(&who, publish("a")).allowed && !rules.check(&who, receive("a")).allowed);
    assert!(!rules.check(&who, subscribe("a")).allowed);
    let rules = Rules::parse("[[rules]]\nallow = ['connect']\nusers = ['u']").unwrap();
    assert!(!rules.check(&who, Ask::Connect).allowed, "who is not named");
}

#[test]
fn says_what_is_wrong_and_where() {
    for (text, line, why) in [
        ("[[rules]]\nalow = []", 2, "unknown field"),
        ("# x\n[[rules]]\ntopics = ['a']", 2, "needs `allow` or `deny`"),
        ("[[rules]]\nallow = ['publish']\ndeny = ['will']\ntopics = ['a']", 1, "either"),
        (
            "[[rules]]\nallow = ['publish']\ntopics = ['a']\n[[rules]]\nallow = ['read']\ntopics = ['a']",
            4,
            "neither connect",
        ),
        ("[[rules]]\nallow = ['publish']", 1, "names no topics"),
        ("[[rules]]\nallow = ['connect']\ntopics = ['a']", 1, "mean nothing"),
        ("[[rules]]\nallow = ['publish']\ntopics = ['a/#/b']", 1, "not a topic filter"),
        ("[[rules]]\nallow = ['subscribe']\ntopics = ['$share/g/a']", 1, "not a topic filter"),
        ("[[rules]]\nallow = ['publish']\ntopics = ['a/%{cm}']", 1, "one of cn"),
        ("[[rules]]\nallow = ['connect']\ncertificate = { x = 'a' }", 1, "a certificate has no \"x\""),
        ("[[rules]]\nallow = ['connect']\naddresses = ['10.0.0.0/33']", 1, "neither an address"),
        ("[[rules]]\nallow = ['publish']\ntopics = ['a']\nqos = [3]", 1, "a list of 0, 1 and 2"),
        ("nonsense", 1, ""),
    ] {
        let error = Rules::parse(text).unwrap_err();
        assert!(error.line == line && error.why.contains(why), "{text}: {error}");
    }
}

#[test]
fn reads_the_acl_of_a_token() {
    let rules = Rules::of_claims(&json!([
        {"permission": "deny", "action": "publish", "topic": "a/secret"},
        {"permission": "allow", "action": "all", "topic": "a/${clientid}/#", "qos": [0, 1]},
        {"permission": "allow", "action": "subscribe", "topic": "b/%u", "retain": true, "qos": 1},
        {"permission": "allow", "topic": "a/secret"},
    ]))
    .unwrap();
    let who = who(Some("u"), "c");
    assert_eq!(rules.check(&who, publish("a/secret")), Answer { allowed: false, line: Some(1) });
    assert_eq!(rules.check(&who, subscribe("a/c/+")), Answer { allowed: true, line: Some(2) });
    assert!(rules.check(&who, publish("a/c/x")).allowed && !rules.check(&who, publish("a/d/x")).allowed);
    assert!(!rules.check(&who, Ask::Publish { topic: "a/c/x", qos: 2, retain: false }).allowed);
    assert!(rules.check(&who, subscribe("b/u")).allowed && !rules.check(&who, subscribe("b/v")).allowed);
    let lists = Rules::of_claims(&json!({"pub": ["p"], "sub": ["s/#"], "all": ["x"]})).unwrap();
    for (ask, allowed) in [
        (publish("p"), true),
        (subscribe("p"), false),
        (receive("s/a"), true),
        (publish("s"), false),
        (publish("x"), true),
        (subscribe("x"), true),
    ] {
        assert_eq!(lists.check(&who, ask).allowed, allowed, "{ask:?}");
    }
    for bad in [
        json!("x"),
        json!({"read": []}),
        json!({"pub": "x"}),
        json!({"pub": [1]}),
        json!([{"permission": "maybe", "topic": "a"}]),
        json!([{"permission": "allow"}]),
        json!([{"permission": "allow", "topic": "eq a/#"}]),
        json!([{"permission": "allow", "topic": "a", "action": "fly"}]),
        json!([{"permission": "allow", "topic": "a#"}]),
        json!([{"permission": "allow", "topic": "a", "qos": "x"}]),
        json!({"pub": vec!["a"; 1001]}),
    ] {
        assert!(Rules::of_claims(&bad).is_err(), "{bad}");
    }
}

#[test]
fn stars_stand_for_anything() {
    for (glob, name, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "a", true),
        ("a*", "ba", false),
        ("*a", "ba", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*a", "a", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "acb", false),
        ("**", "x", true),
        ("", "", true),
        ("*", "", true),
    ] {
        assert_eq!(pattern::glob(glob, name), expected, "{glob} {name}");
    }
}

/// 10,000 users and 50,000 rules, one of them asked often.
#[test]
fn many_rules_are_small_and_found() {
    let mut text = String::new();
    for user in 0..10_000 {
        for rule in 0..5 {
            text.push_str(&format!("[[rules]]\nusers = ['device-{user}']\nallow = ['publish', 'subscribe']\ntopics = ['site/{user}/sensor/{rule}/#']\n"));
        }
    }
    let begun = Instant::now();
    let rules = Rules::parse(&text).unwrap();
    let (took, bytes) = (begun.elapsed(), rules.bytes() / rules.len());
    assert_eq!(rules.len(), 50_000);
    println!("50000 rules of 10000 users, TOML: {took:?}, {bytes} bytes a rule");
    assert!(bytes < 200, "{bytes}");
    let last = who(Some("device-9999"), "c");
    for _ in 0..100_000 {
        assert!(rules.check(&last, publish("site/9999/sensor/4/x")).allowed);
    }
}
