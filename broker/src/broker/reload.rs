//! The configuration, the rules of access and the certificates are read again: all of them, or nothing changes.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Broker;
use crate::access::{AccessError, GuardLimits};
use crate::config::{Change, Config, ConfigError, Difference, Overrides, Setting, differences, load_with_settings};
use crate::logging;
use crate::transport::{BindError, TlsError, check};

/// Where the configuration comes from, and what of it is in force.
#[derive(Debug)]
pub struct ConfigSource {
    file: Option<PathBuf>,
    overrides: Overrides,
    /// Those of the start, with what a reload has changed. Held while one is under way.
    settings: Mutex<Vec<Setting>>,
}

/// Why nothing is changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of `[access]`.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A certificate that is in force, or its key.
    #[error("listener {url}: {error}")]
    Certificate {
        /// The listener.
        url: String,
        /// What is wrong.
        error: Box<TlsError>,
    },
    /// A certificate that the new configuration names.
    #[error(transparent)]
    Listener(#[from] BindError),
}

impl ConfigSource {
    /// As it was read at the start.
    #[must_use]
    pub fn new(file: Option<PathBuf>, overrides: Overrides, settings: Vec<Setting>) -> Arc<Self> {
        Arc::new(Self { file, overrides, settings: Mutex::new(settings) })
    }
}

impl Broker {
    /// To be called once: without it the configuration stays as it is.
    pub fn set_config_source(&self, source: Arc<ConfigSource>) {
        let _ = self.source.set(source);
    }

    /// The configuration with what reloads have changed. Only keys that the tables of config/raw/ mark so can change; what is
    /// asked for each message stands in [`Broker::config`].
    #[must_use]
    pub fn live(&self) -> Arc<Config> {
        self.live.read().clone()
    }

    /// Reads all again, and puts it in force when all of it is right. Says what is other, and what of it needs a restart.
    ///
    /// # Errors
    /// Something is wrong; then nothing is changed.
    pub fn reload_all(self: &Arc<Self>) -> Result<Vec<String>, ReloadError> {
        let outcome = self.read_all_again();
        match &outcome {
            Ok(lines) if lines.is_empty() => tracing::info!("reload: nothing is different"),
            Ok(lines) => lines.iter().for_each(|line| tracing::info!("reload: {line}")),
            Err(error) => tracing::error!("reload: nothing is changed: {error}"),
        }
        outcome
    }

    fn read_all_again(self: &Arc<Self>) -> Result<Vec<String>, ReloadError> {
        let mut settings = self.source.get().map(|source| source.settings.lock());
        let read = match self.source.get() {
            Some(source) => Some(load_with_settings(source.file.as_deref(), &source.overrides)?),
            None => None,
        };
        if let Some((config, _)) = &read {
            check(&config.listeners)?;
        }
        let policy = self.read_policy_again()?;
        let mut certificates = Vec::new();
        for tls in self.observed.tls() {
            match tls.read_again() {
                Ok(prepared) => certificates.push((tls, prepared)),
                Err(error) => {
                    self.say_not_reloaded(&tls, &error);
                    return Err(ReloadError::Certificate { url: tls.url().to_owned(), error: error.into() });
                }
            }
        }
        // From here on nothing can be wrong.
        let mut lines = Vec::new();
        if let (Some((config, new)), Some(old)) = (read, settings.as_mut()) {
            let found = differences(old, &new);
            self.put_keys_in_force(&config, &found);
            lines.extend(found.iter().map(line));
            keep(old, new, &found);
        }
        lines.extend(policy.map(|policy| self.put_policy_in_force(policy)).unwrap_or_default());
        for (tls, prepared) in certificates {
            tls.put_in_force(prepared);
            self.say_reloaded(&tls);
        }
        Ok(lines)
    }

    fn put_keys_in_force(&self, new: &Config, found: &[Difference]) {
        let live = with_reloaded(&self.live(), new);
        let access = &live.access;
        if let Some(running) = self.access() {
            let (max_failures, window, ban) = (access.max_failures, access.failure_window, access.ban);
            running.guard().set_limits(GuardLimits { max_failures, window, ban });
        }
        // An operator may have set another level meanwhile: it stays unless the file has changed.
        if found.iter().any(|difference| difference.key == "log") {
            logging::set_level(live.log);
        }
        *self.live.write() = Arc::new(live);
    }
}

/// The configuration that is in force, with those keys of `new` that can change while the broker runs.
pub(crate) fn with_reloaded(old: &Config, new: &Config) -> Config {
    let mut live = old.clone();
    live.log = new.log;
    live.server_reference.clone_from(&new.server_reference);
    live.sys_interval = new.sys_interval;
    live.shutdown_grace = new.shutdown_grace;
    live.limits.max_sessions = new.limits.max_sessions;
    live.limits.max_will_bytes = new.limits.max_will_bytes;
    live.limits.max_subscriptions = new.limits.max_subscriptions;
    live.limits.max_filter_levels = new.limits.max_filter_levels;
    live.access.max_failures = new.access.max_failures;
    live.access.failure_window = new.access.failure_window;
    live.access.ban = new.access.ban;
    live
}

fn line(difference: &Difference) -> String {
    match difference.change {
        Change::Reload => difference.to_string(),
        Change::Restart => format!("{difference} (needs a restart)"),
    }
}

/// What is in force now: a key that needs a restart is named at the next reload again.
fn keep(settings: &mut Vec<Setting>, new: Vec<Setting>, found: &[Difference]) {
    let changed = |key: &str| found.iter().any(|other| other.key == key && other.change == Change::Reload);
    settings.retain(|setting| !changed(&setting.key));
    settings.extend(new.into_iter().filter(|setting| changed(&setting.key)));
}
