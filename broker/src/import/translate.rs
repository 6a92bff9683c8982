//! mosquitto's settings as a forebay.toml.

use std::fs;
use std::path::{Path, PathBuf};

use super::conf::{Conf, Setting, Settings};
use super::toml::Section;
use super::{bridges, listeners};

/// Connections at once that are built in.
const CONNECTIONS: u64 = 10_000;
/// Sizes that a packet may have.
const PACKET_BYTES: std::ops::RangeInclusive<u64> = 128..=256 << 20;
/// What topic and properties may add to a payload.
const HEAD_BYTES: u64 = 65_535 + 1_024;
/// The least memory that the broker takes.
const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// Keys that need no counterpart, and why.
const NOT_NEEDED: &[(&[&str], &str)] = &[
    (
        &["persistence", "persistence_file", "persistence_location", "autosave_interval", "autosave_on_changes"],
        "the store is always on, and written before each ack",
    ),
    (
        &[
            "log_dest",
            "log_facility",
            "log_timestamp",
            "log_timestamp_format",
            "connection_messages",
            "websockets_log_level",
        ],
        "the log goes to the standard error; journald adds the time",
    ),
    (&["log_type"], "set `log` to error, warn, info, debug or trace"),
    (&["user", "pid_file"], "packaging/forebay.service sets the user; no PID file is needed"),
    (
        &[
            "set_tcp_nodelay",
            "check_retain_source",
            "max_inflight_bytes",
            "upgrade_outgoing_qos",
            "allow_duplicate_messages",
        ],
        "there is no such setting",
    ),
    (&["psk_file", "psk_hint"], "TLS with a pre-shared key is not supported: use certificates, or user and password"),
    (&["auth_plugin", "plugin"], "plug-ins are not supported; docs/access.md says what there is instead"),
    (
        &["capath", "bridge_capath"],
        "a folder of CAs is not read: join its files into one, and set `client_ca` or `ca_file`",
    ),
    (&["ciphers", "ciphers_tls1.3"], "suites have other names here: `cipher_suites`; all that are built in are sound"),
    (&["http_dir"], "files are not served"),
    (&["cleansession", "local_cleansession"], "a bridge keeps its sessions on both sides, and what waits in them"),
    (&["restart_timeout"], "a bridge connects again after 0.25 s, and after up to a minute where that fails"),
    (&["idle_timeout"], "a bridge stays connected"),
    (
        &["try_private"],
        "the other broker is not told that a bridge comes; with MQTT 5 it sends nothing back (No Local)",
    ),
    (&["bridge_attempt_unsubscribe"], "a bridge does not unsubscribe from what it only sends"),
    (&["global_max_connections"], "there is a limit always, of 10,000 where nothing is said: limits.max_connections"),
];

/// A file that goes beside the new configuration.
pub(super) struct File {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// A new configuration.
pub(super) struct Translated {
    pub(super) text: String,
    pub(super) files: Vec<File>,
}

/// What is written, and what is said.
pub(super) struct Out<'a> {
    pub(super) conf_folder: PathBuf,
    pub(super) files: Vec<File>,
    copied: Vec<(PathBuf, String)>,
    pub(super) left: &'a mut Vec<String>,
}

impl Out<'_> {
    /// Copies a file that the configuration names, once; its new name. One that cannot be read is named all the same: without it
    /// the broker must not start.
    pub(super) fn copy(&mut self, path: &Path, setting: &Setting, name: &str) -> String {
        if let Some((_, name)) = self.copied.iter().find(|(known, _)| known == path) {
            return name.clone();
        }
        let same = self.files.iter().filter(|file| file.name.starts_with(name)).count();
        let name = if same == 0 { name.to_owned() } else { format!("{name}-{}", same + 1) };
        match fs::read(path) {
            Ok(content) => self.files.push(File { name: name.clone(), content }),
            Err(error) => {
                let what =
                    format!("{error}; put the file in its place as {name}, without which the broker does not start");
                self.left.push(setting.left(&what));
            }
        }
        self.copied.push((path.to_owned(), name.clone()));
        name
    }

    /// What nobody has taken of a group of settings.
    pub(super) fn leave(&mut self, settings: Settings) {
        for setting in settings.0 {
            let known = NOT_NEEDED.iter().find(|(keys, _)| keys.contains(&setting.key.as_str()));
            self.left.push(setting.left(known.map_or("no counterpart", |(_, why)| *why)));
        }
    }
}

/// Makes the new configuration. What has no counterpart, or another meaning, goes to `left`.
pub(super) fn translate(conf: Conf, data_dir: &Path, left: &mut Vec<String>) -> Translated {
    let Conf { folder, mut whole, listeners, bridges, per_listener } = conf;
    let mut out = Out { conf_folder: folder, files: Vec::new(), copied: Vec::new(), left };
    let mut head = Section::new("");
    head.text("data_dir", &data_dir.display().to_string());
    general(&mut whole, &mut head);
    let (mut limits, mut queue) = (Section::new("[limits]"), Section::new("[queue]"));
    let connections_max = positive(&mut whole, "global_max_connections");
    limit_settings(&mut whole, &mut limits, &mut out);
    queue_settings(&mut whole, &mut queue, &mut out);
    let entries = listeners::Entries { per_listener, listeners, connections_max };
    let translated = listeners::translate(entries, &mut whole, &mut out);
    let of_listeners = Some(translated.max_connections).filter(|most| *most > CONNECTIONS);
    if let Some(most) = connections_max.or(of_listeners) {
        limits.raw("max_connections", &most.to_string());
    }
    let bridges = bridges::translate(bridges, &mut out);
    out.leave(whole);
    let mut text = String::from(
        "# Made of a mosquitto.conf by `forebay import mosquitto`. Each key is explained in config/gateway.toml.\n",
    );
    let sections = [&head, &translated.access].into_iter().chain(&translated.listeners).chain([&limits, &queue]);
    for section in sections.chain(bridges.iter()) {
        section.write(&mut text);
    }
    Translated { text, files: out.files }
}

fn general(whole: &mut Settings, head: &mut Section) {
    let types = whole.0.iter().filter(|setting| setting.key == "log_type");
    if types.clone().any(|setting| matches!(setting.value.as_str(), "all" | "debug")) {
        whole.take("log_type");
        head.text("log", "debug");
    }
    if let Some(seconds) = whole.take("sys_interval").and_then(|setting| setting.value.parse::<u64>().ok()) {
        head.text("sys_interval", &format!("{seconds}s"));
    }
}

/// A number, unless the setting says something else: then it stays, and is left.
fn number(settings: &mut Settings, key: &str) -> Option<(u64, Setting)> {
    let setting = settings.take(key)?;
    match setting.value.parse() {
        Ok(number) => Some((number, setting)),
        Err(_) => {
            settings.0.push(setting);
            None
        }
    }
}

/// The same for what is 1 at least here.
fn positive(settings: &mut Settings, key: &str) -> Option<u64> {
    let (number, setting) = number(settings, key)?;
    if number == 0 {
        settings.0.push(setting);
    }
    Some(number).filter(|number| *number > 0)
}

fn limit_settings(whole: &mut Settings, limits: &mut Section, out: &mut Out<'_>) {
    let packet = number(whole, "max_packet_size");
    let message = number(whole, "message_size_limit")
        .map(|(bytes, setting)| (bytes + u64::from(bytes > 0) * HEAD_BYTES, setting));
    match packet.or(message).filter(|(bytes, _)| *bytes > 0) {
        Some((bytes, _)) => {
            limits.text("max_packet_size", &format!("{}B", bytes.clamp(*PACKET_BYTES.start(), *PACKET_BYTES.end())));
        }
        None => out.left.push(
            "mosquitto takes messages of up to 256 MB where nothing is said; here it is 1 MiB (limits.max_packet_size)"
                .to_owned(),
        ),
    }
    if let Some((count, _)) = number(whole, "max_inflight_messages") {
        limits.raw("max_inflight", &count.min(65_535).to_string());
    }
    if let Some((seconds, _)) = number(whole, "max_keepalive") {
        limits.text("max_keep_alive", &format!("{}s", seconds.min(65_535)));
    }
    if let Some((count, _)) = number(whole, "max_topic_alias") {
        limits.raw("topic_alias_maximum", &count.min(65_535).to_string());
    }
    if let Some((bytes, setting)) = number(whole, "memory_limit").filter(|(bytes, _)| *bytes > 0) {
        if bytes < MEMORY_BYTES_MIN {
            out.left.push(setting.left("at least 16 MiB are needed: limits.memory"));
        } else {
            limits.text("memory", &format!("{bytes}B"));
        }
    }
    // mosquitto keeps a session for ever where nothing is said.
    let kept = match whole.take("persistent_client_expiration") {
        None => "never".to_owned(),
        Some(setting) => expiration(&setting.value).unwrap_or_else(|| {
            out.left.push(setting.left("not a time, such as 14d; sessions never end"));
            "never".to_owned()
        }),
    };
    limits.text("max_session_expiry", "never");
    limits.text("session_expiry_v3", &kept);
}

/// mosquitto's `h`, `d`, `w`, `m` and `y`.
fn expiration(value: &str) -> Option<String> {
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 24 * 7,
        "m" => 24 * 30,
        "y" => 24 * 365,
        _ => return None,
    };
    Some(format!("{}h", number.checked_mul(hours)?))
}

fn queue_settings(whole: &mut Settings, queue: &mut Section, out: &mut Out<'_>) {
    let messages = number(whole, "max_queued_messages").filter(|(count, _)| *count > 0);
    if let Some((count, setting)) = messages {
        queue.raw("max_messages", &count.to_string());
        out.left.push(setting.left(
            "taken, but a full queue holds its publishers up instead of dropping what comes: queue.policy = \"drop-newest\" is \
             mosquitto's way",
        ));
    }
    if let Some((bytes, _)) = number(whole, "max_queued_bytes").filter(|(bytes, _)| *bytes > 0) {
        queue.text("max_bytes", &format!("{bytes}B"));
    }
    if whole.is_true("queue_qos0_messages") {
        queue.raw("queue_qos0", "true");
    }
}
