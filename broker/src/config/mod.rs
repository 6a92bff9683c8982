//! The configuration: read into a raw form, checked, and only then seen by the rest of the broker.

mod address;
mod check;
mod checked;
mod defaults;
mod key;
mod layers;
mod listener;
mod problem;
mod raw;
#[cfg(test)]
mod reference;
mod schema;
mod settings;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod units;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use layers::Layers;

pub use address::{ListenUrl, Place};
pub(crate) use check::why_no_mount_point;
pub use checked::{
    AccessConfig, AdminConfig, Bridge, Compression, Config, DeadLetterRule, DeniedPublish, Durability, DurabilityRule,
    HttpConfig, HttpFormat, JwtConfig, Limits, LogFormat, LogLevel, NEVER, Queue, QueueLimits, QueuePolicy, Rate,
    RefusedTopic, Sasl, Source, StoreConfig, Stream,
};
pub use key::Change;
pub use listener::{
    Admission, Bounds, ClientCertificates, Listener, SocketFile, Tls, TlsFiles, TlsRules, UserFrom, WebSocketRules,
};
pub use problem::{Complaint, ConfigError};
pub use schema::schema;
pub use settings::{Difference, Origin, Setting, differences, listing};
pub use sources::{Place as TextPlace, TextSource};

/// What the command line says about the configuration; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// Listeners in place of the file's; empty for the file's.
    pub listen: Vec<ListenUrl>,
    /// The log's level.
    pub log: Option<LogLevel>,
}

/// Reads and checks the configuration: the file and what it includes, the environment above it, the command line above both;
/// without a file what is built in. All paths in it are absolute.
///
/// # Errors
/// The file cannot be read, or is wrong (everything that is wrong with it, not only the first), or the options do
/// not go together.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    Ok(load_with_settings(file, overrides)?.0)
}

/// As [`load`], and what holds key by key.
///
/// # Errors
/// As [`load`].
pub fn load_with_settings(file: Option<&Path>, overrides: &Overrides) -> Result<(Config, Vec<Setting>), ConfigError> {
    let text = match file {
        None => String::new(),
        Some(path) => {
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?
        }
    };
    checked(text, file.unwrap_or(Path::new("")), std::env::vars_os().collect(), overrides)
}

/// Checks the text of a configuration file; `file` is its name in messages, and its folder is where paths start. The environment
/// says nothing.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    Ok(checked(text.to_owned(), file, Vec::new(), overrides)?.0)
}

fn checked(
    text: String,
    file: &Path,
    variables: Vec<(OsString, OsString)>,
    overrides: &Overrides,
) -> Result<(Config, Vec<Setting>), ConfigError> {
    let of_mosquitto = is_of_mosquitto(&text);
    let layers = Layers::read(file, text, variables);
    let settings = settings::settings(&layers, overrides);
    let Layers { sources, raw, mut problems } = layers;
    let mut config = check::check(raw, overrides, &sources, &mut problems);
    if !problems.is_empty() && of_mosquitto {
        return Err(ConfigError::Mosquitto { path: file.to_owned() });
    }
    if !problems.is_empty() {
        return Err(problem::complaints(&sources, problems));
    }
    if let Some(dir) = overrides.data_dir.as_ref().filter(|dir| dir.starts_with("~")) {
        let dir = dir.display();
        return Err(ConfigError::Usage(format!("--data-dir {dir}: `~` is not expanded here; write the whole path")));
    }
    if !overrides.listen.is_empty() {
        config.listeners = listen(&overrides.listen, &config)?;
    }
    make_absolute(&mut config);
    Ok((config, settings))
}

/// Whether its first line that says something has a key of mosquitto's, a blank and a value.
fn is_of_mosquitto(text: &str) -> bool {
    const KEYS: [&str; 22] = [
        "acl_file",
        "allow_anonymous",
        "allow_zero_length_clientid",
        "autosave_interval",
        "bind_address",
        "cafile",
        "certfile",
        "connection",
        "include_dir",
        "keyfile",
        "listener",
        "log_dest",
        "log_type",
        "max_inflight_messages",
        "max_queued_messages",
        "password_file",
        "per_listener_settings",
        "persistence",
        "persistence_location",
        "pid_file",
        "port",
        "user",
    ];
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let Some((key, value)) = lines.next().and_then(|line| line.split_once(' ')) else { return false };
    KEYS.contains(&key) && !value.trim_start().starts_with('=')
}

/// The listeners that the command line asks for. One with TLS takes the first certificate of the file, if any.
fn listen(urls: &[ListenUrl], config: &Config) -> Result<Vec<Listener>, ConfigError> {
    let files = config.listeners.iter().find(|listener| matches!(listener.tls, Some(Tls::Files(_))));
    let tls = files.and_then(|listener| listener.tls.clone()).unwrap_or(Tls::Development);
    let mut listeners: Vec<Listener> = Vec::with_capacity(urls.len());
    for url in urls {
        if let Some(other) = listeners.iter().find(|other| other.place.overlaps(&url.place)) {
            return Err(ConfigError::Usage(format!(
                "--listen {}: {} is taken by --listen {} already",
                url.url, url.place, other.url
            )));
        }
        let authenticated = !config.access.sources.is_empty();
        if !authenticated && !url.place.is_local() {
            return Err(ConfigError::Usage(format!(
                "--listen {}: others can reach this address, and nothing says who may connect; set `password_file` in \
                 [access] of a --config file, or write the listener there with `anonymous = true` to let everybody in",
                url.url
            )));
        }
        listeners.push(Listener {
            anonymous: !authenticated,
            tls: url.tls.then(|| tls.clone()),
            ..Listener::at(url, config.limits.max_connections)
        });
    }
    Ok(listeners)
}

/// A duration as it is written in a configuration file, such as `30d`.
///
/// # Errors
/// It is not one.
pub fn duration_of(text: &str) -> Result<std::time::Duration, String> {
    units::duration(text)
}

/// A relative path means something else after a change of the working directory, and nothing in a log.
fn make_absolute(config: &mut Config) {
    let absolute = |path: &mut PathBuf| {
        if let Ok(full) = std::path::absolute(&*path) {
            *path = full;
        }
    };
    absolute(&mut config.data_dir);
    let AdminConfig { http: _, socket, token_file } = &mut config.admin;
    [socket, token_file].into_iter().flatten().for_each(absolute);
    for bridge in &mut config.bridges {
        bridge.password_file.iter_mut().chain(&mut bridge.ca_file).for_each(absolute);
        if let Some(files) = &mut bridge.identity {
            absolute(&mut files.certificate);
            absolute(&mut files.key);
        }
    }
    let AccessConfig { password_file, acl_file, dynamic_security_import, jwt, http, listener_acl_files, .. } =
        &mut config.access;
    [password_file, acl_file, dynamic_security_import]
        .into_iter()
        .flatten()
        .chain(listener_acl_files)
        .for_each(absolute);
    jwt.iter_mut().flat_map(|jwt| [&mut jwt.key_file, &mut jwt.secret_file]).flatten().for_each(absolute);
    http.iter_mut().flat_map(|http| [&mut http.ca_file, &mut http.token_file]).flatten().for_each(absolute);
    for listener in &mut config.listeners {
        listener.acl_file.iter_mut().for_each(absolute);
        let own = match &mut listener.tls {
            Some(Tls::Files(files)) => Some(files),
            Some(Tls::Development) | None => None,
        };
        for files in own.into_iter().chain(&mut listener.tls_rules.more) {
            absolute(&mut files.certificate);
            absolute(&mut files.key);
        }
        if let Some(clients) = &mut listener.tls_rules.clients {
            absolute(&mut clients.ca);
            clients.crl.iter_mut().for_each(absolute);
        }
    }
}

/// Where data is kept when nobody says where: the platform's folder for a user's data; `/var/lib/forebay` for a
/// service, which has no home.
#[must_use]
pub fn default_data_dir() -> PathBuf {
    data_dir_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn data_dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    // A relative XDG_DATA_HOME is to be ignored, says its specification.
    if let Some(xdg) = var("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return xdg.join("forebay");
    }
    if cfg!(windows)
        && let Some(local) = var("LOCALAPPDATA")
    {
        return local.join("forebay");
    }
    match var("HOME") {
        Some(home) if cfg!(target_os = "macos") => home.join("Library/Application Support/forebay"),
        Some(home) => home.join(".local/share/forebay"),
        None => PathBuf::from("/var/lib/forebay"),
    }
}
