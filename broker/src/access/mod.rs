//! Who is it, and what may it do: users and passwords, the ACL, the policy's version.
//!
//! ```text
//!   CONNECT ──► banned? ──► sources, in their order ──► Rights ──► PUBLISH, SUBSCRIBE, routes, queues
//!   files ──► policy (whole or not at all) ──► version + 1 ──► decisions are asked anew
//! ```

pub mod acl;
pub mod auth;
mod command;
pub(crate) mod dynamic;
mod enhanced;
mod expiry;
mod guard;
mod http;
pub mod jwt;
pub mod password;
mod policy;
mod principal;
pub(crate) mod recent;
mod reload;
mod rights;
pub mod rules;
pub mod scram;
mod sources;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};
use ring::{hmac, rand};
use tokio::sync::Semaphore;

use crate::config::{AccessConfig, DeniedPublish};
use crate::file_stamp::ReadFrom;
use crate::store::medium::FILE_NAME;
use crate::{delayed, origins};

use acl::BadLine;
use expiry::Expiry;
use guard::Guard;
pub(crate) use guard::GuardLimits;
use http::LastAnswers;
use password::Stored;
use recent::Recent;

pub use command::{AclAsk, AclTest, CommandError, HashForm, PasswdCommand, acl_test, passwd};
pub(crate) use command::{line_of, read_acl, show};
pub use guard::Consequence;
pub use policy::{AclFile, Policy};
pub use principal::Principal;
pub(crate) use reload::{AccessSeen, ReadPolicy};
pub use rights::Rights;
pub use sources::{Claim, Denied, Entrance, Identity};

/// Passwords that were right are remembered (as a keyed hash), so that ten thousand devices that come back at once are
/// not hashed again. Beyond this all are forgotten.
const VERIFIED_MAX: usize = 20_000;
/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}{}", path.display(), hint(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("{}: {source}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where, and what.
        source: BadLine,
    },
    /// It is readable, and of no use.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file, or what the configuration names.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No random numbers.
    #[error("this machine gives no random numbers")]
    NoRandom,
}

/// Whose the file is, and what to do.
fn hint(path: &Path) -> String {
    #[cfg(unix)]
    if let Ok(meta) = std::fs::metadata(path) {
        use std::os::unix::fs::MetadataExt;
        return format!(
            " (it belongs to user {} and group {}, mode {:03o}; make it readable for the user that the broker runs as)",
            meta.uid(),
            meta.gid(),
            meta.mode() & 0o777
        );
    }
    String::new()
}

/// The authority of one broker.
pub struct Access {
    config: AccessConfig,
    policy: RwLock<Arc<Policy>>,
    version: AtomicU64,
    guard: Guard,
    hashing: Arc<Semaphore>,
    key: hmac::Key,
    verified: Mutex<HashSet<[u8; 32]>>,
    last_answers: LastAnswers,
    read_from: Mutex<ReadFrom>,
    expiry: Expiry,
    recent: Option<Recent>,
    dynamic: Option<RwLock<Arc<dynamic::State>>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the files that the configuration names. `None` if it names none, and nothing is to be learned: then everybody may do
    /// everything.
    ///
    /// # Errors
    /// A file cannot be read, or is wrong.
    pub fn load(config: &AccessConfig) -> Result<Option<Arc<Self>>, AccessError> {
        let no_source =
            config.password_file.is_none() && config.jwt.is_none() && config.http.is_none() && !config.dynamic_security;
        if no_source && config.acl_file.is_none() && config.listener_acl_files.is_empty() && !config.learn {
            return Ok(None);
        }
        let stamps = reload::stamps(config);
        let policy = Policy::read(config)?;
        let limits = GuardLimits { max_failures: config.max_failures, window: config.failure_window, ban: config.ban };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        Ok(Some(Arc::new(Self {
            policy: RwLock::new(Arc::new(policy)),
            version: AtomicU64::new(1),
            guard: Guard::new(limits),
            hashing: Arc::new(Semaphore::new(config.max_hashing)),
            key: key.map_err(|_| AccessError::NoRandom)?,
            verified: Mutex::default(),
            last_answers: LastAnswers::new(config.http.as_ref().map_or(Duration::ZERO, |http| http.last_answer)),
            read_from: Mutex::new(ReadFrom::new(stamps)),
            expiry: Expiry::default(),
            recent: (config.recent_memory > 0).then(|| Recent::new(config.recent_memory)),
            dynamic: config.dynamic_security.then(RwLock::default),
            config: config.clone(),
        })))
    }

    /// What is wrong with the files that a start with this configuration reads: all of it. Nothing but them is looked at.
    #[must_use]
    pub fn problems(config: &AccessConfig, data_dir: &Path) -> Vec<AccessError> {
        let mut wrong = Policy::problems(config);
        // The first start takes it over; afterwards it may be gone.
        let is_read = |path: &&Path| path.exists() || !data_dir.join(FILE_NAME).exists();
        let import = config.dynamic_security_import.as_deref().filter(|_| config.dynamic_security).filter(is_read);
        wrong.extend(import.and_then(|path| dynamic::imported(path).err()));
        wrong
    }

    /// The rules as they are now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().clone()
    }

    /// Grows with each change of the rules.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether an MQTT 3.1.1 client is disconnected for a PUBLISH that it may not make.
    #[must_use]
    pub fn disconnects(&self) -> bool {
        self.config.denied_publish == DeniedPublish::Disconnect
    }

    /// Users, groups and roles that are made while the broker runs, if there may be any.
    pub(crate) fn dynamic_state(&self) -> Option<Arc<dynamic::State>> {
        self.dynamic.as_ref().map(|state| state.read().clone())
    }

    /// Whether there may be any.
    pub(crate) fn has_dynamic(&self) -> bool {
        self.dynamic.is_some()
    }

    /// From now on these are the ones.
    pub(crate) fn set_dynamic_state(&self, state: dynamic::State) {
        if let Some(known) = &self.dynamic {
            *known.write() = Arc::new(state);
        }
    }

    /// What the configuration says of access.
    pub(crate) fn config(&self) -> &AccessConfig {
        &self.config
    }

    /// What clients did lately, if it is kept.
    pub(crate) fn recent(&self) -> Option<&Recent> {
        self.recent.as_ref()
    }

    /// When logins expire.
    pub(crate) fn expiry(&self) -> &Expiry {
        &self.expiry
    }

    /// How many users were made while the broker ran.
    #[must_use]
    pub fn dynamic_users(&self) -> usize {
        self.dynamic_state().map_or(0, |state| state.users())
    }

    /// The addresses that failed too often.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// On a thread of its own; as many at once as the configuration says.
    async fn verify(&self, claim: &Claim<'_>, user: &str, stored: &Arc<Stored>) -> bool {
        let password = claim.password.unwrap_or_default();
        let known = self.digest(&[user.as_bytes(), stored.text().as_bytes(), password]);
        if self.verified.lock().contains(&known) {
            return true;
        }
        let Ok(permit) = self.hashing.clone().acquire_owned().await else { return false };
        // Guesses that waited here while their address was banned do not hold up those behind them.
        if self.not_banned(claim).is_err() {
            return false;
        }
        let (stored, password) = (stored.clone(), password.to_vec());
        let verified = tokio::task::spawn_blocking(move || {
            let right = stored.verify(&password);
            drop(permit);
            right
        });
        let right = verified.await.unwrap_or(false);
        if right {
            let mut verified = self.verified.lock();
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(known);
        }
        right
    }

    /// Of all that a right answer depends on, under a key that lives as long as this process.
    fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }
}

/// The topic that a message is delivered with: what it says of its delay and its origin is left out.
fn destination(topic: &str) -> &str {
    let mut topic = topic;
    while topic.starts_with('$') {
        let inner = match (topic.strip_prefix(delayed::PREFIX), topic.strip_prefix(origins::PREFIX)) {
            (Some(rest), _) => rest.split_once('/').map(|(_, topic)| topic),
            (_, Some(rest)) => rest.split_once('/').and_then(|(_, rest)| rest.split_once('/')).map(|(_, topic)| topic),
            (None, None) => None,
        };
        let Some(inner) = inner else { break };
        topic = inner;
    }
    topic
}
