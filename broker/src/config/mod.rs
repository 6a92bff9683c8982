//! The configuration: read into a raw form, checked, and only then seen by the rest of the broker.

mod address;
mod check;
mod checked;
mod defaults;
mod problem;
mod raw;
#[cfg(test)]
mod tests;
mod units;

use std::path::{Path, PathBuf};

use address::overlap;

pub use address::ListenUrl;
pub use checked::{
    Config, Durability, DurabilityRule, Limits, Listener, LogLevel, NEVER, QueueLimits, QueuePolicy, Rate, StoreConfig,
    Tls, TlsFiles,
};
pub use problem::{Complaint, ConfigError};

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

/// Reads and checks the configuration; without a file what is built in. All paths in it are absolute.
///
/// # Errors
/// The file cannot be read, or is wrong (everything that is wrong with it, not only the first), or the options do
/// not go together.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    let text = match file {
        None => String::new(),
        Some(path) => {
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?
        }
    };
    parse(&text, file.unwrap_or(Path::new("")), overrides)
}

/// Checks the text of a configuration file; `file` is its name in messages, and its folder is where paths start.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let raw = raw::parse(text, &mut problems);
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut config = check::check(raw, overrides, folder, &mut problems);
    if !problems.is_empty() {
        return Err(problem::complaints(file, text, problems));
    }
    if !overrides.listen.is_empty() {
        config.listeners = listen(&overrides.listen, &config)?;
    }
    make_absolute(&mut config);
    Ok(config)
}

/// The listeners that the command line asks for. One with TLS takes the first certificate of the file, if any.
fn listen(urls: &[ListenUrl], config: &Config) -> Result<Vec<Listener>, ConfigError> {
    let files = config.listeners.iter().find(|listener| matches!(listener.tls, Some(Tls::Files(_))));
    let tls = files.and_then(|listener| listener.tls.clone()).unwrap_or(Tls::Development);
    let mut listeners: Vec<Listener> = Vec::with_capacity(urls.len());
    for url in urls {
        if let Some(other) = listeners.iter().find(|other| overlap(other.addr, url.addr)) {
            return Err(ConfigError::Usage(format!(
                "--listen {}: {} is taken by --listen {} already",
                url.url, url.addr, other.url
            )));
        }
        listeners.push(Listener {
            url: url.url.clone(),
            addr: url.addr,
            tls: url.tls.then(|| tls.clone()),
            durability: Durability::Commit,
            max_connections: config.limits.max_connections,
            rate: None,
        });
    }
    Ok(listeners)
}

/// A relative path means something else after a change of the working directory, and nothing in a log.
fn make_absolute(config: &mut Config) {
    let absolute = |path: &mut PathBuf| {
        if let Ok(full) = std::path::absolute(&*path) {
            *path = full;
        }
    };
    absolute(&mut config.data_dir);
    for listener in &mut config.listeners {
        if let Some(Tls::Files(files)) = &mut listener.tls {
            absolute(&mut files.certificate);
            absolute(&mut files.key);
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
