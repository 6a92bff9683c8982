//! mosquitto.conf: a key, blanks and a value on each line; what follows `listener` or `connection` belongs to it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that one configuration may include; folders that include each other would never end.
const FILES_MAX: usize = 1_000;

/// What a listener may have of its own; before the first `listener` it is the default one's.
const OF_A_LISTENER: &[&str] = &[
    "accept_protocol_versions",
    "bind_interface",
    "capath",
    "cafile",
    "certfile",
    "ciphers",
    "ciphers_tls1.3",
    "crlfile",
    "dhparamfile",
    "enable_proxy_protocol",
    "http_dir",
    "keyfile",
    "max_connections",
    "max_qos",
    "max_topic_alias",
    "max_topic_alias_broker",
    "mount_point",
    "protocol",
    "psk_hint",
    "require_certificate",
    "socket_domain",
    "tls_engine",
    "tls_engine_kpass_sha1",
    "tls_keyform",
    "tls_version",
    "use_identity_as_username",
    "use_subject_as_username",
    "use_username_as_clientid",
    "websockets_headers_size",
    "websockets_origin",
];

/// What belongs to a listener with `per_listener_settings true`, and to all of them otherwise.
const OF_A_LISTENER_IF_ASKED: &[&str] = &[
    "acl_file",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "auth_plugin",
    "auto_id_prefix",
    "password_file",
    "plugin",
    "psk_file",
];

/// What belongs to a `connection`, beside what begins with `bridge_`.
const OF_A_BRIDGE: &[&str] = &[
    "address",
    "addresses",
    "cleansession",
    "clientid",
    "idle_timeout",
    "keepalive_interval",
    "local_cleansession",
    "local_clientid",
    "local_password",
    "local_username",
    "notification_topic",
    "notifications",
    "notifications_local_only",
    "password",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "restart_timeout",
    "round_robin",
    "start_type",
    "threshold",
    "topic",
    "try_private",
    "username",
];

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// `FILE:LINE`.
    pub(super) place: String,
    pub(super) key: String,
    pub(super) value: String,
}

impl Setting {
    /// `true`, or what mosquitto takes for it.
    pub(super) fn is_true(&self) -> bool {
        matches!(self.value.to_ascii_lowercase().as_str(), "true" | "1")
    }

    /// A line of the report.
    pub(super) fn left(&self, why: &str) -> String {
        // A password has no place in a report.
        let value = if self.key.contains("password") && !self.key.ends_with("_file") { "..." } else { &self.value };
        format!("{}: {} {value}: {why}", self.place, self.key)
    }
}

/// Settings that belong together. Whoever takes one removes it, so that what nobody takes is left at the end.
#[derive(Debug, Default)]
pub(super) struct Settings(pub(super) Vec<Setting>);

impl Settings {
    /// The last one with this key: it is the one that holds.
    pub(super) fn take(&mut self, key: &str) -> Option<Setting> {
        let at = self.0.iter().rposition(|setting| setting.key == key)?;
        let found = self.0.remove(at);
        self.0.retain(|setting| setting.key != key);
        Some(found)
    }

    /// All with this key, in order.
    pub(super) fn take_all(&mut self, key: &str) -> Vec<Setting> {
        let (taken, rest) = std::mem::take(&mut self.0).into_iter().partition(|setting| setting.key == key);
        self.0 = rest;
        taken
    }

    pub(super) fn is_true(&mut self, key: &str) -> bool {
        self.take(key).is_some_and(|setting| setting.is_true())
    }
}

/// A `listener` or a `connection`, and what follows it.
#[derive(Debug)]
pub(super) struct Group {
    /// The line that begins it; none for the default listener.
    pub(super) head: Option<Setting>,
    pub(super) settings: Settings,
}

/// All files of one configuration.
#[derive(Debug)]
pub(super) struct Conf {
    /// The folder that it is in.
    pub(super) folder: PathBuf,
    pub(super) whole: Settings,
    pub(super) listeners: Vec<Group>,
    pub(super) bridges: Vec<Group>,
    /// `per_listener_settings true`
    pub(super) per_listener: bool,
}

impl Conf {
    /// A file that the configuration names; one that is not there is looked for beside the configuration, since that may be a
    /// copy of another machine's.
    pub(super) fn file(&self, named: &str) -> PathBuf {
        file_beside(&self.folder, named)
    }

    /// Where mosquitto keeps its store, if it does and it is there.
    pub(super) fn database(&self) -> Option<PathBuf> {
        let last = |key: &str| self.whole.0.iter().rfind(|setting| setting.key == key);
        if !last("persistence").is_some_and(Setting::is_true) {
            return None;
        }
        let name = last("persistence_file").map_or(super::DATABASE_NAME, |setting| &setting.value);
        let location = last("persistence_location").map_or("", |setting| &setting.value);
        Some(self.file(&format!("{location}{name}"))).filter(|path| path.is_file())
    }
}

pub(super) fn file_beside(folder: &Path, named: &str) -> PathBuf {
    let named = Path::new(named);
    let beside = named.file_name().map(|name| folder.join(name));
    match beside {
        Some(beside) if !named.exists() && beside.exists() => beside,
        _ => named.to_owned(),
    }
}

/// Reads a configuration and what it includes. A file that it includes and that cannot be read is left, and said.
pub(super) fn read(path: &Path, left: &mut Vec<String>) -> io::Result<Conf> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut settings = Vec::new();
    let mut files = VecDeque::from([path.to_owned()]);
    let mut count = 0;
    while let Some(file) = files.pop_front() {
        count += 1;
        if count > FILES_MAX {
            left.push(format!("{}: more than {FILES_MAX} files: the rest is not read", path.display()));
            break;
        }
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if count > 1 => {
                left.push(format!("{}: {error}", file.display()));
                continue;
            }
            Err(error) => return Err(error),
        };
        for setting in lines(&file, &String::from_utf8_lossy(&text)) {
            if setting.key == "include_dir" {
                files.extend(included(&file_beside(&folder, &setting.value), &setting, left));
            } else {
                settings.push(setting);
            }
        }
    }
    Ok(grouped(folder, settings))
}

fn lines<'a>(file: &'a Path, text: &'a str) -> impl Iterator<Item = Setting> + 'a {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    text.lines().enumerate().filter_map(move |(at, line)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let place = format!("{name}:{}", at + 1);
        Some(Setting { place, key: key.to_owned(), value: value.trim().to_owned() })
    })
}

/// The files of a folder whose names end with `.conf`, by name.
fn included(folder: &Path, by: &Setting, left: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            left.push(by.left(&error.to_string()));
            return Vec::new();
        }
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
    paths.sort();
    paths
}

fn grouped(folder: PathBuf, settings: Vec<Setting>) -> Conf {
    enum In {
        Whole,
        Listener,
        Bridge,
    }
    let per_listener = settings.iter().any(|setting| setting.key == "per_listener_settings" && setting.is_true());
    let default = Group { head: None, settings: Settings::default() };
    let (mut whole, mut listeners, mut bridges) = (Settings::default(), vec![default], Vec::<Group>::new());
    let mut inside = In::Whole;
    for setting in settings {
        let key = setting.key.as_str();
        let of_listener = OF_A_LISTENER.contains(&key)
            || per_listener && (OF_A_LISTENER_IF_ASKED.contains(&key) || key.starts_with("plugin_opt_"));
        let of_bridge = key.starts_with("bridge_") || OF_A_BRIDGE.contains(&key);
        let group = match key {
            "per_listener_settings" => continue,
            "listener" | "connection" => {
                let group = Group { head: Some(setting.clone()), settings: Settings::default() };
                inside = if key == "listener" { In::Listener } else { In::Bridge };
                if key == "listener" {
                    listeners.push(group)
                } else {
                    bridges.push(group)
                }
                continue;
            }
            "port" | "bind_address" => listeners.first_mut(),
            _ if of_bridge && matches!(inside, In::Bridge) => bridges.last_mut(),
            _ if of_listener && matches!(inside, In::Listener) => listeners.last_mut(),
            _ if of_listener => listeners.first_mut(),
            _ => None,
        };
        group.map_or(&mut whole, |group| &mut group.settings).0.push(setting);
    }
    // `port` or `bind_address` makes the default listener; without any other it is there as well.
    let is_made = |group: &Group| group.settings.0.iter().any(|setting| setting.key == "port");
    if listeners.len() > 1 && !listeners.first().is_some_and(is_made) {
        let unmade = listeners.remove(0);
        whole.0.extend(unmade.settings.0);
    }
    Conf { folder, whole, listeners, bridges, per_listener }
}
