//! The configuration: what is wrong with one is said so that it can be put right, and the examples are right.

use std::collections::BTreeSet;

use forebay_tests::broker::{Broker, free_port};
use forebay_tests::scratch::Scratch;

use crate::{Case, config_folder, run};

pub(crate) fn trials() -> Vec<Case> {
    vec![
        ("bad_configuration_ends_with_3_file_line_key_and_nearest", None, mistakes),
        ("all_mistakes_are_said_at_once", None, all_at_once),
        ("example_configurations_are_accepted", None, examples_are_accepted),
        ("every_key_of_the_examples_has_a_comment", None, keys_have_comments),
        ("the_gateway_example_has_every_key", None, gateway_is_complete),
    ]
}

/// A line of a configuration, and what the complaint says: column, key, and a part of the message.
const MISTAKES: [(&str, u32, &str, &str); 16] = [
    ("wrokers = 2", 1, "wrokers", "did you mean `workers`?"),
    ("[limits]\nmax_conections = 5", 1, "limits.max_conections", "did you mean `max_connections`?"),
    ("[qeue]\nmax_messages = 5", 2, "qeue", "did you mean `queue`?"),
    ("listeners = [{ url = \"mqtt://[::1]\", kye = \"a\" }]", 38, "listeners[1].kye", "did you mean `key`?"),
    ("workers = \"two\"", 11, "workers", "whole number"),
    ("workers = 0", 11, "workers", "at least 1"),
    ("log = 3", 7, "log", "string"),
    ("log = \"wran\"", 7, "log", "did you mean `warn`?"),
    ("sys_interval = \"10 parsecs\"", 16, "sys_interval", "units: ms, s, min, h, d"),
    ("shutdown_grace = 5", 18, "shutdown_grace", "a duration in quotes, such as \"10s\""),
    ("[limits]\nmax_packet_size = \"1Mb\"", 19, "limits.max_packet_size", "MiB"),
    ("[limits]\nmax_packet_size = \"1GiB\"", 19, "limits.max_packet_size", "at most"),
    ("[[listeners]]\nurl = \"mqtt://1.2.3\"", 7, "listeners[1].url", "127.0.0.1 is this machine only"),
    ("[[listeners]]\nurl = \"mqtts://0.0.0.0:8883\"", 7, "listeners[1].url", "certificate"),
    ("[queue]\npolicy = \"drop-oldst\"", 10, "queue.policy", "did you mean `drop-oldest`?"),
    ("[[durability]]\nfilter = \"a/#/b\"\nmode = \"memory\"", 10, "durability[1].filter", "`#` before its last level"),
];

fn mistakes() {
    let scratch = Scratch::new("config");
    let file = scratch.path().join("forebay.toml");
    let name = file.display().to_string();
    for (text, column, key, message) in MISTAKES {
        std::fs::write(&file, format!("# A comment.\n\n{text}\n")).unwrap();
        let ended = run(&["--config", &name, "--data-dir", scratch.path().join("data").to_str().unwrap()]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""), "{text}: {ended:?}");
        // The mistake is on the first line, or on the one below the table's header.
        let header = text.starts_with('[') && !text.starts_with("[qeue");
        let place = format!("forebay: {name}:{}:{column}: {key}: ", if header { 4 } else { 3 });
        assert!(ended.err.starts_with(&place), "{text}: {place} in\n{}", ended.err);
        assert!(ended.err.contains(message), "{text}: {message} in\n{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{text}: one mistake is one line\n{}", ended.err);
        assert!(!scratch.path().join("data").exists(), "{text}: nothing is made before the configuration is right");
    }
}

fn all_at_once() {
    let scratch = Scratch::new("config");
    let file = scratch.path().join("forebay.toml");
    std::fs::write(&file, "wrokers = 2\nlog = 7\n\n[queue]\nmax_bytes = \"5 potatoes\"\npolicy = \"none\"\n").unwrap();
    let ended = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(3));
    for (line, at) in ended.err.lines().zip([":1:1: wrokers: ", ":2:7: log: ", ":5:13: queue.max_bytes: ", ":6:10: "]) {
        assert!(line.contains(&format!("{}{at}", file.display())), "{at} in {line}");
    }
    assert_eq!(ended.err.lines().count(), 4, "{}", ended.err);
    std::fs::write(&file, "workers = = 2\n").unwrap();
    let ended = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(3));
    assert!(ended.err.contains(&format!("{}:1:", file.display())), "an error of syntax has its line\n{}", ended.err);
}

fn examples() -> Vec<(String, String)> {
    let files = std::fs::read_dir(config_folder()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "toml"));
    let mut examples: Vec<_> =
        files.map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect();
    examples.sort();
    for name in ["minimal.toml", "gateway.toml", "bench.toml"] {
        assert!(examples.iter().any(|(path, _)| path.ends_with(name)), "{name} is there");
    }
    examples
}

fn examples_are_accepted() {
    for (path, text) in examples() {
        let mut broker = Broker::prepare(None);
        broker.plain_only();
        // What it names of the machine is somewhere else here.
        let here = Scratch::new("example");
        let (token, file) = (here.path().join("admin.token"), here.path().join("forebay.toml"));
        std::fs::write(&token, "0123456789abcdef").unwrap();
        for access in ["passwords", "acl"] {
            std::fs::write(here.path().join(access), "").unwrap();
        }
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(here.path().join("jwt-keys.pem"), key.public_key_pem()).unwrap();
        for secret in ["jwt-secret", "auth-token"] {
            std::fs::write(here.path().join(secret), "0123456789abcdef0123456789abcdef").unwrap();
        }
        std::fs::write(here.path().join("dynamic-security.json"), "{}").unwrap();
        let ca = rcgen::generate_simple_self_signed(["auth.example".to_owned()]).unwrap();
        std::fs::write(here.path().join("ca.pem"), ca.cert.pem()).unwrap();
        let text = text
            .replace("/etc/forebay/admin.token", token.to_str().unwrap())
            .replace("/etc/ssl/certs/ca-certificates.crt", here.path().join("ca.pem").to_str().unwrap())
            .replace("/run/forebay/admin.sock", here.path().join("admin.sock").to_str().unwrap())
            .replace("127.0.0.1:9883", &format!("127.0.0.1:{}", free_port()));
        std::fs::write(&file, text).unwrap();
        broker.add_arguments(&["--config", file.to_str().unwrap()]);
        broker.run();
        assert_eq!(broker.terminate(), Some(0), "{path}\n{}", broker.log());
    }
}

fn keys_have_comments() {
    for (path, text) in examples() {
        let mut before = "";
        for line in text.lines() {
            let key = line.split_once(" = ").map(|(key, _)| key).filter(|key| !key.starts_with('#'));
            if let Some(key) = key {
                assert!(before.starts_with('#'), "{path}: no comment above {key}");
            }
            before = line;
        }
    }
}

/// The program itself says which keys there are, when it meets one that it does not know.
fn gateway_is_complete() {
    let scratch = Scratch::new("config");
    let file = scratch.path().join("forebay.toml");
    let gateway = std::fs::read_to_string(config_folder().join("gateway.toml")).unwrap();
    let mut known = BTreeSet::new();
    for table in [
        "",
        "[[listeners]]",
        "[[durability]]",
        "[limits]",
        "[queue]",
        "[store]",
        "[access]",
        "[[bridges]]",
        "[[bridges]]\n[[bridges.out]]",
        "[admin]",
    ] {
        std::fs::write(&file, format!("{table}\nqqqqqqqq = 1\n")).unwrap();
        let err = run(&["--config", file.to_str().unwrap()]).err;
        let line = err.lines().find(|line| line.contains("qqqqqqqq")).unwrap_or_else(|| panic!("{table}: {err}"));
        let (_, keys) = line.split_once("valid are ").unwrap_or_else(|| panic!("{table}: {err}"));
        known.extend(keys.split(", ").map(str::to_owned));
    }
    assert!(known.len() > 30, "{known:?}");
    for key in known {
        let there = gateway.lines().any(|line| {
            line.starts_with(&format!("{key} = "))
                || line == format!("[{key}]")
                || line == format!("[[{key}]]")
                || line.ends_with(&format!(".{key}]"))
                || line.ends_with(&format!(".{key}]]"))
        });
        assert!(there, "gateway.toml has no {key}");
    }
}
