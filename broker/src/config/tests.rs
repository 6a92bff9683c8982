#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::RawLimits;
use super::table::Table;
use super::*;
use crate::bridge::calendar::Calendar;
use crate::bridge::template::Template;
use crate::bridge::wrap::Wrapping;

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
    assert!(config.listeners.iter().all(|listener| listener.place.is_local()));
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
        "2:1: store.path: no such key; valid are cache_bytes, max_bytes, min_free_bytes, commit_wait, commit_gather, wear, journal",
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
            || key.contains("session_expiry")
            || key.starts_with("max_delayed");
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
fn checks_what_only_some_listeners_have() {
    let with = |url: &str, line: &str| format!("[[listeners]]\nurl = '{url}'\n{line}");
    let (tcp, ws, unix) = ("mqtt://127.0.0.1", "ws://127.0.0.1:80", "unix:///run/m.sock");
    refuses(
        &with(tcp, "origins = ['*']"),
        "3:11: listeners[1].origins: mqtt://127.0.0.1 is no WebSocket; write ws:// or wss:// or leave the key out",
    );
    refuses(
        &with(ws, "origins = ['panel.example']"),
        "3:12: listeners[1].origins[1]: \"panel.example\" is no origin, such as \"https://panel.example\"",
    );
    refuses(
        &with(tcp, "mode = '660'"),
        "3:8: listeners[1].mode: mqtt://127.0.0.1 is no Unix socket; write unix:///PATH or leave the key out",
    );
    refuses(&with(unix, "mode = '888'"), "3:8: listeners[1].mode: must be permissions such as \"660\", is \"888\"");
    refuses(
        &with(tcp, "user_from = 'peer'"),
        "3:13: listeners[1].user_from: only a Unix socket tells who is at its other end",
    );
    let tls = "mqtts://127.0.0.1";
    refuses(
        &with(tcp, "client_ca = 'ca.pem'"),
        "3:13: listeners[1].client_ca: mqtt://127.0.0.1 is not encrypted; write mqtts:// or wss:// or leave the key out",
    );
    refuses(&with(tls, "crl = 'c'"), "3:7: listeners[1].crl: says nothing without `client_ca`");
    refuses(
        &with(tls, "user_from = 'cn'"),
        "3:13: listeners[1].user_from: clients are not asked for certificates here: set `client_ca`",
    );
    refuses(
        &with(tls, "more_certificates = [{ key = 'k' }]"),
        "3:22: listeners[1].more_certificates[1]: needs `certificate` and `key`",
    );
    let wrong = refused(&with(tls, "cipher_suites = ['TLS13_AES_128_GCM_SHA255']"));
    assert!(wrong.ends_with("no such cipher suite; did you mean `TLS13_AES_128_GCM_SHA256`?"), "{wrong}");
    let config = read(&with("mqtts://0.0.0.0", "certificate = 'c'\nkey = 'k'\nclient_ca = 'ca'\ncrl = 'l'")).unwrap();
    let clients = config.listeners[0].tls_rules.clients.as_ref().unwrap();
    assert!(clients.required && !clients.refuse_after_crl, "{clients:?}");
    assert_eq!(config.listeners[0].tls_files(), ["c", "k", "ca", "l"].map(|file| Path::new("/etc").join(file)));
    let config = read(&with(unix, "mode = '606'\nowner = 'me'")).unwrap();
    assert_eq!(config.listeners[0].socket, SocketFile { mode: 0o606, owner: Some("me".to_owned()), group: None });
    assert!(config.listeners[0].anonymous, "only this machine reaches it");
    let config = read(&with(ws, "origins = ['https://a', '*']")).unwrap();
    let origins = Some(vec!["https://a".to_owned(), "*".to_owned()]);
    assert_eq!(config.listeners[0].websocket, Some(WebSocketRules { path: String::new(), origins }));
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
        "[[listeners]]\nurl = 'mqtt://0.0.0.0:1883'\nanonymous = true\n[[listeners]]\nurl = 'mqtt://127.0.0.1:1883'",
        "5:7: listeners[2].url: 127.0.0.1:1883 is taken by mqtt://0.0.0.0:1883 already",
    );
    let tls = "[[listeners]]\nurl = 'mqtts://0.0.0.0'\nanonymous = true\n";
    refuses(
        tls,
        "2:7: listeners[1].url: others can reach this address: set `certificate` and `key`, or certificate = \
         \"development\"",
    );
    refuses(&format!("{tls}key = 'k'"), "4:7: listeners[1].key: needs its certificate: set `certificate`");
    refuses(&format!("{tls}certificate = 'c'"), "4:15: listeners[1].certificate: needs its private key: set `key`");
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nkey = 'k'",
        "3:7: listeners[1].key: mqtt://127.0.0.1 is not encrypted; write mqtts:// or wss:// or leave the key out",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmount_point = 'a'",
        "3:15: listeners[1].mount_point: \"a\" must end with /, so that it is whole levels of a topic",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmount_point = '$SYS/'",
        "3:15: listeners[1].mount_point: \"$SYS/\" must not begin with $: those topics are the broker's own",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmin_keep_alive = '2min'\nmax_keep_alive = '1min'",
        "3:18: listeners[1].min_keep_alive: must be at most listeners[1].max_keep_alive (1min), is 2min",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmax_packet_size = '2MiB'",
        "3:19: listeners[1].max_packet_size: must be at most limits.max_packet_size (1048576 bytes)",
    );
    refuses(
        "[[listeners]]\nurl = 'mqtt://127.0.0.1'\nmax_session_expiry = 'never'",
        "3:22: listeners[1].max_session_expiry: must be at most limits.max_session_expiry (30d)",
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

/// By default nobody is let in from beyond this machine.
#[test]
fn says_who_may_connect() {
    let anonymous =
        |text: &str| read(text).map(|config| config.listeners.iter().map(|l| l.anonymous).collect::<Vec<_>>());
    let (here, everywhere) = ("[[listeners]]\nurl = 'mqtt://[::1]'\n", "[[listeners]]\nurl = 'mqtt://0.0.0.0'\n");
    let file = "[access]\npassword_file = 'p'\n";
    for (text, expected) in [
        ("", vec![true, true]),
        (file, vec![false, false]),
        (here, vec![true]),
        (&format!("{here}anonymous = true\n"), vec![true]),
        (&format!("{everywhere}anonymous = true\n"), vec![true]),
        (&format!("{file}{everywhere}"), vec![false]),
        (&format!("{file}{here}anonymous = true"), vec![true]),
        ("[access]\nacl_file = 'a'", vec![true, true]),
    ] {
        assert_eq!(anonymous(text).unwrap(), expected, "{text}");
    }
    refuses(
        everywhere,
        "2:7: listeners[1].url: others can reach this address, and nothing says who may connect: set `password_file` in \
         [access], or `anonymous = true` here to let everybody in",
    );
    refuses(
        &format!("{here}anonymous = false"),
        "3:13: listeners[1].anonymous: nobody could connect: set `password_file` in [access]",
    );
    refuses("[access]\npassword_file = ''", "2:17: access.password_file: must not be empty");
    refuses(
        "[access]\ndenied_publish = 'x'",
        "2:18: access.denied_publish: \"x\": no such answer; valid are discard, disconnect",
    );
    let open = Overrides { listen: vec!["mqtt://0.0.0.0".parse().unwrap()], ..Overrides::default() };
    let error = parse("", Path::new(""), &open).unwrap_err();
    assert!(matches!(&error, ConfigError::Usage(why) if why.contains("nothing says who may connect")), "{error}");
    let config = parse(file, Path::new("/etc/f.toml"), &open).unwrap();
    assert_eq!(config.access.password_file.as_deref(), Some(Path::new("/etc/p")));
    assert!(!config.listeners[0].anonymous);
}

#[test]
fn checks_the_sources() {
    let file = "[access]\npassword_file = 'p'\njwt = { key_file = 'k' }\n";
    let config =
        read(&format!("{file}[[listeners]]\nurl = 'mqtt://0.0.0.0'\nsources = ['jwt']\nacl_file = 'own.toml'"))
            .unwrap();
    assert_eq!(config.access.sources, [Source::Password, Source::Jwt]);
    assert_eq!(config.listeners[0].sources, Some(vec![Source::Jwt]));
    assert_eq!(config.listeners[0].acl_file.as_deref(), Some(Path::new("/etc/own.toml")));
    assert_eq!(config.access.listener_acl_files, [PathBuf::from("/etc/own.toml")]);
    assert!(!config.listeners[0].anonymous);
    let here = format!("{file}[[listeners]]\nurl = 'mqtt://[::1]'\n");
    refuses(
        &format!("{here}sources = ['http']"),
        "6:12: listeners[1].sources[1]: \"http\" is not configured: set `http` in [access]",
    );
    refuses(
        &format!("{here}sources = ['jwd']"),
        "6:12: listeners[1].sources[1]: \"jwd\": no such source; did you mean `jwt`?",
    );
    refuses(&format!("{here}sources = ['jwt', 'jwt']"), "6:19: listeners[1].sources[2]: \"jwt\" is there already");
    refuses(
        &format!("{here}sources = []\nanonymous = false"),
        "7:13: listeners[1].anonymous: nobody could connect: set `password_file` in [access]",
    );
    refuses("[access]\njwt = {}", "2:7: access.jwt: needs `key_file` (PEM or JWKS), `secret_file` or both");
    refuses("[access.http]\nformat = 'json'", "1:1: access.http: needs `url`, such as \"https://auth.example/mqtt\"");
    refuses(
        "[access.http]\nurl = 'auth.example'",
        "2:7: access.http.url: \"auth.example\" is not http:// or https:// with a host",
    );
    refuses(
        "[access.http]\nurl = 'http://h'\nca_file = 'c'",
        "3:11: access.http.ca_file: http://h is not encrypted; write https:// or leave the key out",
    );
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
    let text = "data_dir = 'd'\nlog = 'warn'\n[access]\npassword_file = 'p'\n\
                [[listeners]]\nurl = 'mqtts://[::]'\ncertificate = 'c'\nkey = 'k'";
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

#[test]
fn operators_reach_it_from_afar_with_a_token_only() {
    let admin = read("[admin]\nhttp = '127.0.0.1:9883'\nsocket = 'run/admin.sock'\n").unwrap().admin;
    assert_eq!(admin.http, Some("127.0.0.1:9883".parse().unwrap()));
    assert_eq!(admin.socket, Some(PathBuf::from("/etc/run/admin.sock")));
    assert_eq!(admin.token_file, None);
    assert!(read("[admin]\nhttp = '[::1]:9883'").is_ok());
    assert!(read("[admin]\nhttp = '0.0.0.0:9883'\ntoken_file = 'token'").is_ok());
    refuses(
        "[admin]\nhttp = '0.0.0.0:9883'",
        "2:8: admin.http: others can reach this address: set `token_file`, or write 127.0.0.1",
    );
    refuses(
        "[admin]\nhttp = '9883'",
        "2:8: admin.http: must be an address and a port, such as \"127.0.0.1:9883\", is \"9883\"",
    );
    refuses("[admin]\nsocket = ''", "2:10: admin.socket: must not be empty");
}

fn examples() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "toml"));
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
fn checks_queues() {
    let queue = |more: &str| format!("[[queues]]\nname = 'a'\nfilter = 'x/#'\n{more}\n");
    refuses("[[queues]]\nname = 'a'", "1:1: queues[1]: needs `filter`: the topics whose messages it keeps");
    refuses(&format!("{}{}", queue(""), queue("")), "6:8: queues[2].name: there is a queue \"a\" already");
    refuses(
        &queue("order_by = 'clients'"),
        "4:12: queues[1].order_by: \"clients\" is not \"topic\", \"client\", \"key\" or \"property:\" and the name of a user property",
    );
    refuses(
        &queue("dead_letters = ['refusd']"),
        "4:17: queues[1].dead_letters[1]: \"refusd\": no such reason; did you mean `refused`?",
    );
    refuses(
        "[[queues]]\nname = 'a'\nfilter = '$x/#'",
        "3:10: queues[1].filter: \"$x/#\" begins with $: such topics are the broker's own",
    );
    let config = read(&queue("max_age = '1h'\norder_by = 'property:line'\naccess = 'exclusive'")).unwrap();
    let [queue] = &config.queues[..] else { panic!("{:?}", config.queues) };
    assert_eq!(queue.limits.max_age, Some(Duration::from_secs(3600)));
    assert!(queue.exclusive && queue.limits.stall_limit.is_none());
}

#[cfg(feature = "rules")]
#[test]
fn checks_rules() {
    let says = |text: &str, why: &str| {
        let all = refused(text);
        assert!(all.starts_with(&format!("/etc/forebay.toml:{why}")), "{why}\n{all}");
    };
    let rule = |more: &str| format!("[[rules]]\nname = 'r'\nfilter = 's/#'\ntopic = 'out'\n{more}\n");
    says("[[rules]]\nname = 'r'\nfilter = 'f'", "1:1: rules[1]: needs `topic`: where what it makes is published");
    says("[[rules]]\nname = 'r'\ntopic = 't'", "1:1: rules[1]: needs `filter`: the topics whose messages it looks at");
    says(&rule("where = 'paylod.t > 3'"), "5:9: rules[1].where: \"paylod\" is not known here: there are topic, levels");
    says(&rule("where = 'payload.t >'"), "5:9: rules[1].where: is no expression: ");
    says(&rule("payload = 'mean(payload.t)'"), "5:11: rules[1].payload: has mean(), which is an aggregate");
    says(&rule("window = '1min'"), "5:10: rules[1].window: needs `payload`");
    says(&rule("window = '1ms'\npayload = 'count()'"), "5:10: rules[1].window: must be at least 1s, is 1ms");
    says(&rule("by = 'payload.x'"), "5:6: rules[1].by: is for a window");
    says(&rule("qos = 3"), "5:7: rules[1].qos: must be at most 2, is 3");
    says(&format!("{0}{0}", rule("")), "7:8: rules[2].name: there is a rule \"r\" already");
    for (topic, why) in [
        ("$SYS/x", "4:9: rules[1].topic: \"$SYS/x\" begins with $"),
        ("a/#", "4:9: rules[1].topic: \"a/#\" has a wildcard"),
        ("{bridge}", "4:9: rules[1].topic: has {bridge}"),
        ("{topik}", "4:9: rules[1].topic: \"{topik}\" has {topik}, which is not known"),
    ] {
        says(&rule("").replace("'out'", &format!("'{topic}'")), why);
    }
    let many: String = (0..65).map(|n| rule("").replace("'r'", &format!("'r{n}'"))).collect();
    says(&many, "321:1: rules[65]: there may be 64 rules at most");
    let config =
        read(&rule("window = '1min'\nby = 'client'\npayload = '{\"n\": count()}'\nqos = 2\nmax_keys = 7")).unwrap();
    let rule = config.rule("r").unwrap();
    let window = rule.window.as_ref().unwrap();
    assert_eq!((rule.qos, window.length, window.max_keys), (Some(2), Duration::from_secs(60), 7));
    assert_eq!((window.aggregates.len(), window.by.is_some()), (1, true));
}

#[test]
#[cfg(feature = "bridge-mqtt")]
fn checks_bridges() {
    let out = "[[bridges.out]]\nfilter = 't/#'\n";
    let bridge = |more: &str| format!("[[bridges]]\nname = 'b'\nurl = 'mqtt://h'\n{more}\n");
    let url = "needs `url`, such as \"mqtts://central.example:8883\", or `urls`";
    refuses("[[bridges]]\nurl = 'mqtt://h'", "1:1: bridges[1]: needs `name`");
    refuses("[[bridges]]\nname = 'b'", &format!("1:1: bridges[1]: {url}"));
    let own = bridge("out = [{ filter = '$dead/b/#' }]");
    refuses(
        &own,
        "1:1: bridges[1]: has the filter \"$dead/b/#\": what this bridge gave up does not come into its own queue; let another bridge carry it",
    );
    refuses(&bridge(""), "1:1: bridges[1]: carries nothing: it needs [[bridges.out]], [[bridges.in]] or both");
    refuses(
        &format!("[[bridges]]\nname = 'a/b'\nurl = 'mqtt://h'\n{out}"),
        "2:8: bridges[1].name: \"a/b\" is not 1 to 64 letters, digits, - and _",
    );
    refuses(
        &format!("[[bridges]]\nname = 'b'\nurl = 'mqt://h'\n{out}"),
        "3:7: bridges[1].url: \"mqt\": no such kind of upstream; did you mean `mqtt`?",
    );
    refuses(
        &format!("[[bridges]]\nname = 'b'\nurls = ['mqtt://h', 3]\n{out}"),
        "3:21: bridges[1].urls[2]: must be a string, is 3",
    );
    let lists = refused(&format!("[[bridges]]\nname = 'b'\nurls = 'mqtt://h'\n{out}"));
    assert!(lists.contains("3:8: bridges[1].urls: must be a list of strings, is \"mqtt://h\""), "{lists}");
    refuses(
        &format!("{}{out}{}{out}", bridge(""), bridge("")),
        "8:8: bridges[2].name: there is a bridge \"b\" already",
    );
    refuses(
        &bridge(&format!("delivery = 'exactly once'\n{out}")),
        "4:12: bridges[1].delivery: \"exactly once\": no such delivery; did you mean `exactly-once`?",
    );
    refuses(
        &bridge(&format!("delivery = 'exactly-once'\n{out}qos = 1")),
        "7:7: bridges[1].out[1].qos: must be 2 where the delivery is exactly-once, is 1",
    );
    refuses(
        &bridge(&format!("ca_file = 'ca.pem'\n{out}")),
        "4:11: bridges[1].ca_file: no address of this bridge is encrypted; write one with TLS, such as mqtts://, or leave the key out",
    );
    refuses(
        &bridge("[[bridges.in]]\nfilter = 'a/#/b'"),
        "5:10: bridges[1].in[1].filter: \"a/#/b\" has `#` before its last level",
    );
    refuses(
        &bridge("[[bridges.in]]\nfilter = 'a'\nexchange = 'x'"),
        "6:1: bridges[1].in[1].exchange: no such key; valid are filter, topic, qos",
    );
    refuses(
        &bridge(&format!("{out}topic = 'up/{{topik}}'")),
        "6:9: bridges[1].out[1].topic: \"up/{topik}\" has {topik}, which is not known: there are {topic}, {topic/1}, \
         {topic/2..}, {user.NAME}, {json.FIELD}, {json/FIELD} and {bridge}",
    );
    refuses(&bridge(&format!("{out}flter = 'x'")), "6:1: bridges[1].out[1].flter: no such key; did you mean `filter`?");
    refuses(&bridge(&format!("window = 1001\n{out}")), "4:10: bridges[1].window: must be at most 1000, is 1001");
    refuses(
        &bridge(&format!("{out}payload = 'cloudevent'")),
        "6:11: bridges[1].out[1].payload: \"cloudevent\": no such payload; did you mean `cloudevents`?",
    );
    refuses(
        &bridge(&format!("{out}payload = 'json'\nevent_type = 'x'")),
        "7:14: bridges[1].out[1].event_type: is of CloudEvents: set `payload = \"cloudevents\"`, or leave it out",
    );
    let config = read(&bridge(&format!("{out}payload = 'cloudevents'\nevent_type = 'x.{{topic/1}}'"))).unwrap();
    let rule = &config.bridges[0].outs[0];
    assert_eq!((rule.wrapping, rule.event_type.is_some()), (Wrapping::CloudEvents, true));
    refuses(
        &bridge(&format!("drain_by = '6:00'\n{out}")),
        "4:12: bridges[1].drain_by: \"6:00\" is no time of the day such as \"06:00\"",
    );
    refuses(
        &bridge(&format!("drain_by = '06:00'\nutc_offset = '2h'\n{out}")),
        "5:14: bridges[1].utc_offset: \"2h\" is no offset from UTC such as \"+02:00\" or \"-03:30\", at most 14 hours",
    );
    refuses(
        &bridge(&format!("utc_offset = '+02:00'\n{out}")),
        "4:14: bridges[1].utc_offset: is of `drain_by` and `bytes_per_day`; set one of them, or leave it out",
    );
    let config =
        read(&bridge(&format!("drain_by = '06:00'\nbytes_per_day = '200 MB'\nutc_offset = '-03:30'\n{out}"))).unwrap();
    let [bridged] = &config.bridges[..] else { panic!("{:?}", config.bridges) };
    assert_eq!((bridged.drain_by_ms, bridged.bytes_per_day), (Some(6 * 3_600_000), Some(200_000_000)));
    assert_eq!(bridged.calendar, Calendar::parse("-03:30").unwrap());
    let config = read(&bridge(&format!("queue = {{ max_messages = 5 }}\n{out}[[bridges.in]]\nfilter = 'c'"))).unwrap();
    let [bridge] = &config.bridges[..] else { panic!("{:?}", config.bridges) };
    assert_eq!((bridge.queue.max_messages, bridge.outs[0].qos, bridge.ins[0].qos, bridge.mqtt5), (5, 1, 1, true));
}

#[test]
#[cfg(all(feature = "bridge-mqtt", feature = "rabbitmq", feature = "kafka"))]
fn keys_of_other_upstreams_are_refused() {
    let bridge = |url: &str, more: &str, rule: &str| {
        format!("[[bridges]]\nname = 'b'\nurl = '{url}'\n{more}\n[[bridges.out]]\nfilter = 't'\n{rule}\n")
    };
    let means = |place: &str, scheme: &str| {
        format!("{place}: means nothing to an upstream of the kind {scheme}://; leave it out")
    };
    for (url, more, rule, place) in [
        ("mqtt://h", "compression = 'gzip'", "", "4:15: bridges[1].compression"),
        ("mqtt://h", "", "key = 'x'", "7:7: bridges[1].out[1].key"),
        ("amqp://h", "version = '5'", "", "4:11: bridges[1].version"),
        ("amqp://h", "delivery = 'exactly-once'", "", "4:12: bridges[1].delivery"),
        ("kafka://h:1", "", "exchange = 'x'\ntopic = 't'", "7:12: bridges[1].out[1].exchange"),
    ] {
        refuses(&bridge(url, more, rule), &means(place, url.split_once(':').unwrap().0));
    }
    refuses(
        &bridge("kafka://h", "", ""),
        "3:7: bridges[1].url: \"kafka://h\" is not kafka://HOST:PORT; several servers are several `urls`",
    );
    refuses(
        "[[bridges]]\nname = 'b'\nurls = ['mqtt://h', 'amqp://h']\n[[bridges.out]]\nfilter = 't'",
        "3:21: bridges[1].urls[2]: is of another kind than the first address; a bridge has one kind of upstream",
    );
    refuses(
        &bridge("kafka://h:1", "", ""),
        "5:1: bridges[1].out[1]: needs `topic`, the name of a topic there, which has no `/`",
    );
    refuses(
        &bridge("kafka://h:1", "", "topic = 't'\nkey = 'x'"),
        "8:7: bridges[1].out[1].key: \"x\" is the same for all messages, which all go to one partition; write a placeholder, such as \
         {topic/2}, or set `partition`",
    );
    #[cfg(feature = "rocketmq")]
    refuses_of_rocketmq(bridge);
    let good = "topic = 't'\nkey = '{topic/1}'\npartition = '0'";
    let config = read(&bridge("kafka://h:1", "compression = 'lz4'", good)).unwrap();
    let rule = &config.bridges[0].outs[0];
    assert!(rule.key.is_some() && rule.partition.is_some() && rule.exchange.is_none());
    let config = read(&bridge("amqp://h", "", "exchange = ''")).unwrap();
    assert_eq!(config.bridges[0].outs[0].exchange, Some(Template::default()), "the exchange without a name");
}

#[test]
#[cfg(all(feature = "bridge-mqtt", feature = "rabbitmq", feature = "kafka", feature = "nats"))]
fn a_bridge_says_once_who_it_is_and_never_in_its_address() {
    let bridge = |urls: &str, more: &str| {
        format!(
            "[[bridges]]\nname = 'b'\nurls = [{urls}]\n{more}\n[[bridges.out]]\nfilter = 't'\ntopic = 't'\nkey = '{{topic}}'\n"
        )
    };
    let of = |url: &str, more: &str| {
        let text = bridge(&format!("'{url}'"), more);
        if url.starts_with("kafka") { text } else { text.replace("key = '{topic}'\n", "") }
    };
    for url in ["amqp://u:hidden@h", "nats://hidden@h", "kafka://u:hid/den@h:1", "mqtt://u:hidden@h", "u:hidden@h"] {
        let said = refused(&of(url, ""));
        assert!(said.contains("has a user name or a password in it"), "{said}");
        assert!(!said.contains("hid"), "{said}");
    }
    let password = "password_file = 'p'";
    for url in ["amqp://h", "kafka://h:1"] {
        refuses(&of(url, password), "4:17: bridges[1].password_file: is the password of nobody: set `username`");
    }
    let both = "credentials_file = 'c'\nusername = 'u'";
    refuses(
        &of("nats://h", both),
        "4:20: bridges[1].credentials_file: says who this side is; leave `username` and `password_file` out",
    );
    refuses(
        &of("mqtt://h", "credentials_file = 'c'"),
        "4:20: bridges[1].credentials_file: means nothing to an upstream of the kind mqtt://; leave it out",
    );
    refuses(
        &bridge("'kafka://h:1', 'kafkas://h:2'", ""),
        "3:24: bridges[1].urls[2]: has TLS and the first address has none, or the reverse; a cluster is reached in one way",
    );
    let config = read(&of("nats://h", password)).unwrap();
    assert!(config.bridges[0].password_file.is_some(), "it is a token");
    let config = read(&of("nats://h", "credentials_file = 'c'")).unwrap();
    assert!(config.bridges[0].credentials_file.as_ref().unwrap().ends_with("c"));
}

#[cfg(all(feature = "bridge-mqtt", feature = "rabbitmq", feature = "kafka", feature = "rocketmq"))]
fn refuses_of_rocketmq(bridge: impl Fn(&str, &str, &str) -> String) {
    for (rule, what) in [
        ("tag = 'x'", "5:1: bridges[1].out[1]: needs `topic`, the name of a topic there, which has no `/`"),
        (
            "topic = 't'\nkey = 'x'",
            "8:7: bridges[1].out[1].key: \"x\" is the same for all messages, which all go to one partition; write a placeholder, \
             such as {topic/2}",
        ),
        (
            "topic = 't'\nkey = '{topic}'\ndelay_s = '5'",
            "9:11: bridges[1].out[1].delay_s: a message with a `key` is of a group and cannot be delayed; leave one of the two out",
        ),
        ("topic = 't'\ndelay_s = '5s'", "8:11: bridges[1].out[1].delay_s: \"5s\" is no number of seconds"),
        (
            "topic = 't'\npartition = '1'",
            "8:13: bridges[1].out[1].partition: means nothing to an upstream of the kind rocketmq://; leave it out",
        ),
    ] {
        refuses(&bridge("rocketmq://h", "", rule), what);
    }
    refuses(
        &bridge("rocketmq://h/x", "", "topic = 't'"),
        "3:7: bridges[1].url: \"rocketmq://h/x\" is not rocketmq://HOST or rocketmq://HOST:PORT",
    );
    refuses(
        &bridge("rocketmq://h", "username = 'x'", "topic = 't'"),
        "4:12: bridges[1].username: means nothing to an upstream of the kind rocketmq://; leave it out",
    );
    let good = read(&bridge("rocketmq://h", "", "topic = 't'\ntag = '{topic/1}'\ndelay_s = '5'")).unwrap();
    assert!(good.bridges[0].outs[0].tag.is_some() && good.bridges[0].outs[0].delay_s.is_some());
}

#[test]
fn the_gateway_example_states_the_defaults() {
    let (path, _) = examples().into_iter().find(|(path, _)| path.ends_with("gateway.toml")).unwrap();
    let config = load(Some(&path), &Overrides::default()).unwrap();
    let built_in = Config::built_in(PathBuf::new());
    assert_eq!(Limits { memory: None, ..config.limits }, built_in.limits);
    assert_eq!(config.queue, built_in.queue);
    assert_eq!(StoreConfig { max_bytes: None, ..config.store }, built_in.store);
    assert_eq!((config.log, config.sys_interval), (built_in.log, built_in.sys_interval));
    assert_eq!(config.shutdown_grace, built_in.shutdown_grace);
    let (jwt, http) = (config.access.jwt.unwrap(), config.access.http.unwrap());
    let (d, sources) = (JwtConfig::default(), [Source::Password, Source::Jwt, Source::Dynamic, Source::Http]);
    assert_eq!((&jwt.user_claim, &jwt.groups_claim, jwt.leeway), (&d.user_claim, &d.groups_claim, d.leeway));
    assert_eq!((jwt.require_expiry, config.access.sources.as_slice()), (d.require_expiry, &sources[..]));
    let http_defaults = (HttpFormat::Json, defaults::HTTP_TIMEOUT, defaults::HTTP_REQUESTS, Duration::ZERO);
    assert_eq!((http.format, http.timeout, http.max_requests, http.last_answer), http_defaults);
    let rest = AccessConfig {
        password_file: None,
        acl_file: None,
        jwt: None,
        http: None,
        sources: Vec::new(),
        dynamic_security: false,
        dynamic_security_import: None,
        ..config.access
    };
    assert_eq!(rest, built_in.access);
}
