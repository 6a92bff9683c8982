#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{RawConfig, RawLimits, RawListener, RawQueue, RawRate, RawRule, RawStore, Table};
use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/forebay.toml"), &Overrides::default())
}

/// The messages for `text`, which must be wrong, one a line.
fn refused(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[track_caller]
fn refuses(text: &str, message: &str) {
    assert_eq!(refused(text), format!("/etc/forebay.toml:{message}"));
}

#[test]
fn nothing_said_is_what_is_built_in() {
    let config = parse("", Path::new(""), &Overrides::default()).unwrap();
    assert_eq!(config, Config::built_in(std::path::absolute(default_data_dir()).unwrap()));
    assert!(config.listeners.iter().all(|listener| listener.addr.ip().is_loopback()));
}

#[test]
fn names_an_unknown_key_and_the_nearest() {
    refuses("wokers = 2", "1:1: wokers: no such key; did you mean `workers`?");
    refuses(
        "[limits]\n  max_conections = 5\n",
        "2:3: limits.max_conections: no such key; did you mean `max_connections`?",
    );
    refuses(
        "[store]\npath = 'x'",
        "2:1: store.path: no such key; valid are cache_bytes, max_bytes, min_free_bytes, commit_wait",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nrate = { messages_per_sec = 5, bytes_per_s = '1B' }",
        "3:10: listeners[1].rate.messages_per_sec: no such key; did you mean `messages_per_s`?",
    );
}

#[test]
fn says_everything_that_is_wrong_at_once_in_order() {
    let text = "workers = 0\nlog = 'inf'\n[limits]\nconnect_timeout = 10\nmax_packet_size = '1M'\n";
    let lines = [
        "1:11: workers: must be at least 1, is 0",
        "2:7: log: \"inf\": no such log level; did you mean `info`?",
        "4:19: limits.connect_timeout: must be a duration in quotes, such as \"10s\", is 10",
        "5:19: limits.max_packet_size: \"M\" is not a unit (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)",
    ];
    assert_eq!(refused(text), lines.map(|line| format!("/etc/forebay.toml:{line}")).join("\n"));
}

#[test]
fn counts_columns_in_characters() {
    refuses(
        "durability = [{ filter = 'é/#', mod = 'commit', mode = 'commit' }]",
        "1:33: durability[1].mod: no such key; did you mean `mode`?",
    );
}

#[test]
fn points_at_an_error_of_syntax() {
    let message = refused("workers = 2\nlog = info\n");
    assert!(message.starts_with("/etc/forebay.toml:2:7: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn refuses_values_of_the_wrong_type() {
    refuses("workers = '2'", "1:11: workers: must be a whole number, not negative, is \"2\"");
    refuses("workers = -2", "1:11: workers: must be a whole number, not negative, is -2");
    refuses("workers = 2.5", "1:11: workers: must be a whole number, not negative, is 2.5");
    refuses("log = 3", "1:7: log: must be a string, is 3");
    refuses("queue = 3", "1:9: queue: must be a table, is 3");
    refuses("listeners = {}", "1:13: listeners: must be a list of tables, is a table");
    refuses("[queue]\nqueue_qos0 = 'yes'", "2:14: queue.queue_qos0: must be true or false, is \"yes\"");
}

#[test]
fn refuses_what_is_out_of_bounds() {
    for key in RawLimits::KEYS {
        let may_be_zero = ["max_inflight", "topic_alias_maximum", "outbound_topic_alias_maximum"].contains(key)
            || key.ends_with("keep_alive")
            || key.contains("session_expiry");
        let zeros = ["0", "'0s'", "'0B'"].map(|zero| format!("[limits]\n{key} = {zero}"));
        let accepted = zeros.iter().filter(|text| read(text).is_ok()).count();
        assert_eq!(accepted, usize::from(may_be_zero), "{key}");
        let bounds = zeros.iter().filter_map(|text| read(text).err()).filter(|e| e.to_string().contains("at least"));
        assert_eq!(bounds.count(), usize::from(!may_be_zero), "{key}");
    }
    refuses("[limits]\nmax_client_id_len = 22", "2:21: limits.max_client_id_len: must be at least 23, is 22");
    refuses("[limits]\nreceive_maximum = 65536", "2:19: limits.receive_maximum: must be at most 65535, is 65536");
    refuses("[limits]\nmax_keep_alive = '1d'", "2:18: limits.max_keep_alive: must be at most 65535s, is 1d");
    refuses("[limits]\nmax_keep_alive = '1500ms'", "2:18: limits.max_keep_alive: must be whole seconds, is 1500ms");
    refuses("[limits]\nmax_packet_size = '1GiB'", "2:19: limits.max_packet_size: must be at most 268435460B, is 1GiB");
    refuses("[queue]\nmax_age = '500ms'", "2:11: queue.max_age: must be at least 1s, is 500ms");
    refuses("[queue]\npolicy = 'rejct'", "2:10: queue.policy: \"rejct\": no such policy; did you mean `reject`?");
    refuses("sys_interval = '5ms'", "1:16: sys_interval: must be at least 1s, is 5ms");
    assert_eq!(read("sys_interval = '0s'").unwrap().sys_interval, Duration::ZERO);
    assert_eq!(read("[queue]\nmax_age = 'never'").unwrap().queue.max_age, None);
    assert_eq!(read("[limits]\nmax_session_expiry = 'never'").unwrap().limits.max_session_expiry, NEVER);
}

#[test]
fn checks_limits_against_each_other() {
    refuses(
        "[limits]\nmax_connections = 10\nmax_handshakes = 20",
        "3:18: limits.max_handshakes: must be at most limits.max_connections (10), is 20",
    );
    refuses(
        "[limits]\nmax_session_expiry = '1h'\nsession_expiry_v3 = '2h'",
        "3:21: limits.session_expiry_v3: must be at most limits.max_session_expiry (1h), is 2h",
    );
    refuses(
        "[limits]\nmax_connections = 10\n[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmax_connections = 11",
        "5:19: listeners[1].max_connections: must be at most limits.max_connections (10), is 11",
    );
    let limits = read("[limits]\nmax_connections = 10\nmax_session_expiry = '1h'").unwrap().limits;
    assert_eq!((limits.max_handshakes, limits.session_expiry_v3), (10, Duration::from_secs(3600)));
    let limits = read("[limits]\nmax_session_expiry = '1h'\nsession_expiry_v3 = '30min'").unwrap().limits;
    assert_eq!(limits.session_expiry_v3, Duration::from_secs(1800));
}

#[test]
fn checks_listeners() {
    refuses("listeners = []", "1:13: listeners: there must be at least one; leave the key out for the built-in ones");
    refuses("[[listeners]]\nmax_connections = 1", "1:1: listeners[1]: needs `url`, such as \"mqtt://127.0.0.1:1883\"");
    refuses(
        "[[listeners]]\nurl = 'mqtt://0.0.0.0:1883'\n[[listeners]]\nurl = 'mqtt://127.0.0.1:1883'",
        "4:7: listeners[2].url: 127.0.0.1:1883 is taken by mqtt://0.0.0.0:1883 already",
    );
    let tls = "[[listeners]]\nurl = 'mqtts://0.0.0.0'\n";
    refuses(
        tls,
        "2:7: listeners[1].url: others can reach this address: set `certificate` and `key`, or certificate = \
         \"development\"",
    );
    refuses(&format!("{tls}key = 'k'"), "3:7: listeners[1].key: needs its certificate: set `certificate`");
    refuses(&format!("{tls}certificate = 'c'"), "3:15: listeners[1].certificate: needs its private key: set `key`");
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nkey = 'k'",
        "3:7: listeners[1].key: mqtt://127.0.0.1 is not encrypted; write mqtts:// or leave the key out",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nrate = {}",
        "3:8: listeners[1].rate: needs `messages_per_s`, `bytes_per_s` or both",
    );
    let files = TlsFiles { certificate: PathBuf::from("/etc/c"), key: PathBuf::from("/k") };
    let config = read(&format!("{tls}certificate = 'c'\nkey = '/k'")).unwrap();
    assert_eq!(config.listeners[0].tls, Some(Tls::Files(files)));
    let config = read(&format!("{tls}certificate = 'development'")).unwrap();
    assert_eq!(config.listeners[0].tls, Some(Tls::Development));
}

#[test]
fn checks_durability() {
    let mode = |text: &str| read(&format!("[[durability]]\nfilter = 'a/+/#'\nmode = '{text}'"));
    for (text, durability) in [
        ("commit", Durability::Commit),
        ("memory", Durability::Memory),
        ("interval", Durability::Interval(Duration::from_secs(1))),
        ("interval 250ms", Durability::Interval(Duration::from_millis(250))),
    ] {
        assert_eq!(mode(text).unwrap().durability, [DurabilityRule { filter: "a/+/#".to_owned(), durability }]);
    }
    let at = "/etc/forebay.toml:3:8: durability[1].mode:";
    for (text, message) in [
        ("comit", "\"comit\": no such durability; did you mean `commit`?"),
        ("interval 0s", "the interval must be 1ms to 1h"),
        ("interval 5", "\"5\" has no unit (units: ms, s, min, h, d)"),
        ("none", "\"none\": no such durability; valid are commit, interval, memory"),
    ] {
        assert_eq!(mode(text).unwrap_err().to_string(), format!("{at} {message}"));
    }
    for (filter, message) in [
        ("", "\"\" is not a topic filter"),
        ("a/#/b", "\"a/#/b\" has `#` before its last level"),
        ("a+/b", "\"a+/b\" has a wildcard that is not a whole level"),
        ("$share/g/a", "\"$share/g/a\" is a shared subscription; write the filter behind the share's name"),
    ] {
        let text = format!("[[durability]]\nfilter = '{filter}'\nmode = 'commit'");
        refuses(&text, &format!("2:10: durability[1].filter: {message}"));
    }
    refuses("[[durability]]\nfilter = 'a'", "1:1: durability[1]: needs `filter` and `mode`");
}

#[test]
fn the_command_line_wins() {
    let overrides = Overrides {
        data_dir: Some(PathBuf::from("/data")),
        listen: vec!["mqtt://127.0.0.1:0".parse().unwrap(), "mqtts://0.0.0.0:8883".parse().unwrap()],
        log: Some(LogLevel::Debug),
    };
    let text = "data_dir = 'd'\nlog = 'warn'\n[[listeners]]\nurl = 'mqtts://[::]'\ncertificate = 'c'\nkey = 'k'";
    let config = parse(text, Path::new("/etc/forebay.toml"), &overrides).unwrap();
    assert_eq!((config.data_dir.as_path(), config.log), (Path::new("/data"), LogLevel::Debug));
    let urls: Vec<&str> = config.listeners.iter().map(|listener| listener.url.as_str()).collect();
    assert_eq!(urls, ["mqtt://127.0.0.1:0", "mqtts://0.0.0.0:8883"]);
    assert!(config.listeners[0].tls.is_none());
    assert!(matches!(&config.listeners[1].tls, Some(Tls::Files(files)) if files.key == Path::new("/etc/k")));

    let twice = Overrides { listen: vec!["mqtt://127.0.0.1".parse().unwrap(); 2], ..Overrides::default() };
    let error = parse("", Path::new(""), &twice).unwrap_err();
    assert!(matches!(error, ConfigError::Usage(_)));
    assert_eq!(
        error.to_string(),
        "--listen mqtt://127.0.0.1: 127.0.0.1:1883 is taken by --listen mqtt://127.0.0.1 already"
    );
}

#[test]
fn an_unreadable_file_is_named() {
    let error = load(Some(Path::new("/no/such.toml")), &Overrides::default()).unwrap_err().to_string();
    assert!(error.starts_with("/no/such.toml: cannot be read: "), "{error}");
}

#[test]
fn finds_the_platforms_data_directory() {
    let dir = |set: &[(&str, &str)]| {
        data_dir_from(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| PathBuf::from(value)))
    };
    assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), ("HOME", "/home/pi")]), Path::new("/x/forebay"));
    assert_eq!(dir(&[]), Path::new("/var/lib/forebay"));
    if cfg!(target_os = "linux") {
        let home = Path::new("/home/pi/.local/share/forebay");
        assert_eq!(dir(&[("HOME", "/home/pi")]), home);
        assert_eq!(dir(&[("XDG_DATA_HOME", "x"), ("HOME", "/home/pi")]), home);
    }
}

fn examples() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn every_example_loads_and_explains_each_of_its_keys() {
    let files = examples();
    assert!(files.len() >= 3);
    for (path, text) in files {
        if let Err(error) = load(Some(&path), &Overrides::default()) {
            panic!("{error}");
        }
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            if !line.starts_with('#') && line.contains(" = ") {
                assert!(
                    n > 0 && lines[n - 1].starts_with('#'),
                    "{}:{}: no comment above {line}",
                    path.display(),
                    n + 1
                );
            }
        }
    }
}

#[test]
fn the_gateway_example_has_every_key() {
    let (_, text) = examples().into_iter().find(|(path, _)| path.ends_with("gateway.toml")).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let mut missing = Vec::new();
    let mut look = |name: &str, table: &toml::Value, keys: &[&str]| {
        missing.extend(keys.iter().filter(|key| table.get(key).is_none()).map(|key| format!("{name}.{key}")));
    };
    let root = toml::Value::Table(file);
    look("", &root, RawConfig::KEYS);
    look("listeners", &root["listeners"][0], RawListener::KEYS);
    look("rate", &root["listeners"][0]["rate"], RawRate::KEYS);
    look("limits", &root["limits"], RawLimits::KEYS);
    look("queue", &root["queue"], RawQueue::KEYS);
    look("durability", &root["durability"][0], RawRule::KEYS);
    look("store", &root["store"], RawStore::KEYS);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_gateway_example_states_the_defaults() {
    let (path, _) = examples().into_iter().find(|(path, _)| path.ends_with("gateway.toml")).unwrap();
    let config = load(Some(&path), &Overrides::default()).unwrap();
    let built_in = Config::built_in(PathBuf::new());
    assert_eq!(config.limits, built_in.limits);
    assert_eq!(config.queue, built_in.queue);
    assert_eq!(StoreConfig { max_bytes: None, ..config.store }, built_in.store);
    assert_eq!((config.log, config.sys_interval), (built_in.log, built_in.sys_interval));
    assert_eq!(config.shutdown_grace, built_in.shutdown_grace);
}
