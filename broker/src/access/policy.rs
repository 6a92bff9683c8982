//! One version of the rules: all that the files of `[access]` say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;

use super::acl::{Acl, Action, Answer, BadLine};
use super::http::Service;
use super::jwt::Keys;
use super::password::Passwords;
use super::reload::text_of;
use super::rules::{Ask, Rules};
use super::{AccessError, Principal};
use crate::config::AccessConfig;

/// An ACL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclFile {
    /// In mosquitto's syntax.
    Mosquitto(Acl),
    /// In TOML.
    Rules(Rules),
}

impl AclFile {
    /// Reads the text of a file; one whose name ends with `.toml` is TOML.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BadLine> {
        match path.extension().is_some_and(|kind| kind == "toml") {
            true => Rules::parse(text).map(Self::Rules),
            false => Acl::parse(text).map(Self::Mosquitto),
        }
    }

    /// What the file says.
    #[must_use]
    pub fn check(&self, who: &Principal, ask: Ask<'_>) -> Answer {
        match (self, ask) {
            (Self::Rules(rules), ask) => rules.check(who, ask),
            (Self::Mosquitto(_), Ask::Connect) => Answer { allowed: true, line: None },
            (Self::Mosquitto(acl), Ask::Publish { topic, .. } | Ask::Will { topic, .. }) => {
                acl.check(who, Action::Write, topic)
            }
            (Self::Mosquitto(acl), Ask::Receive { topic }) => acl.check(who, Action::Read, topic),
            (Self::Mosquitto(acl), Ask::Subscribe { filter, .. }) => acl.check_filter(who, filter),
        }
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Mosquitto(acl) => acl.len(),
            Self::Rules(rules) => rules.len(),
        }
    }

    /// Whether there are none: then nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One version of the rules.
#[derive(Debug, Default)]
pub struct Policy {
    passwords: Option<Passwords>,
    keys: Option<Keys>,
    http: Option<Arc<Service>>,
    /// By the files' paths.
    acls: HashMap<Box<Path>, AclFile>,
}

impl Policy {
    /// Reads all files that the configuration names.
    pub(super) fn read(config: &AccessConfig) -> Result<Self, AccessError> {
        Ok(Self {
            passwords: config.password_file.as_deref().map(passwords).transpose()?,
            keys: config
                .jwt
                .as_ref()
                .map(|jwt| keys(jwt.key_file.as_deref(), jwt.secret_file.as_deref()))
                .transpose()?,
            http: config.http.as_ref().map(|http| Service::new(http).map(Arc::new)).transpose()?,
            acls: acl_files(config)
                .map(|path| Ok((path.as_path().into(), acl(path)?)))
                .collect::<Result<_, AccessError>>()?,
        })
    }

    /// What is wrong with each of these files.
    pub(super) fn problems(config: &AccessConfig) -> Vec<AccessError> {
        let (public, secret) = config.jwt.as_ref().map(|jwt| (&jwt.key_file, &jwt.secret_file)).unzip();
        let parts = [
            config.password_file.as_deref().and_then(|path| passwords(path).err()),
            public.and_then(|path| keys(path.as_deref(), None).err()),
            secret.and_then(|path| keys(None, path.as_deref()).err()),
            config.http.as_ref().and_then(|http| Service::new(http).err()),
        ];
        let acls = acl_files(config).filter_map(|path| acl(path).err());
        parts.into_iter().flatten().chain(acls).collect()
    }

    /// Users, and no rules.
    #[must_use]
    pub fn with_passwords(passwords: Passwords) -> Self {
        Self { passwords: Some(passwords), ..Self::default() }
    }

    /// The ACL in this file.
    #[must_use]
    pub fn acl(&self, path: &Path) -> Option<&AclFile> {
        self.acls.get(path)
    }

    /// How many rules all ACLs have.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.acls.values().map(AclFile::len).sum()
    }

    /// The users, if a password file is configured.
    #[must_use]
    pub fn passwords(&self) -> Option<&Passwords> {
        self.passwords.as_ref()
    }

    /// The keys of tokens, if they are configured.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    pub(super) fn http(&self) -> Option<&Arc<Service>> {
        self.http.as_ref()
    }

    /// What changed to another policy, for the log.
    pub(super) fn difference(&self, after: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if let (Some(before), Some(after)) = (&self.passwords, &after.passwords) {
            let named = |verb, mut names: Vec<&str>| {
                names.sort_unstable();
                let shown = names.iter().take(20).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                let more = names.len().saturating_sub(20);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                (!names.is_empty()).then(|| format!("users {verb}: {shown}{more}"))
            };
            let added = after.names().filter(|name| before.get(name).is_none()).collect();
            let removed = before.names().filter(|name| after.get(name).is_none()).collect();
            let changed = after.names().filter(|n| before.get(n).is_some_and(|b| Some(b) != after.get(n))).collect();
            lines.extend(named("added", added));
            lines.extend(named("removed", removed));
            lines.extend(named("with another password", changed));
        }
        if let (Some(before), Some(after)) = (&self.keys, &after.keys)
            && before != after
        {
            lines.push(format!("the keys of tokens: {} before, {} now", before.len(), after.len()));
        }
        for (path, after) in &after.acls {
            if let Some(before) = self.acls.get(path).filter(|before| *before != after) {
                lines.push(format!("the ACL {}: {} rules before, {} now", path.display(), before.len(), after.len()));
            }
        }
        lines
    }
}

fn acl_files(config: &AccessConfig) -> impl Iterator<Item = &PathBuf> {
    config.acl_file.iter().chain(&config.listener_acl_files)
}

fn acl(path: &Path) -> Result<AclFile, AccessError> {
    parsed(path, |text| AclFile::parse(path, text))
}

fn passwords(path: &Path) -> Result<Passwords, AccessError> {
    parsed(path, Passwords::parse)
}

fn parsed<T>(path: &Path, parse: impl Fn(&str) -> Result<T, BadLine>) -> Result<T, AccessError> {
    let text = text_of(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| AccessError::Wrong { path: path.to_owned(), source })
}

fn keys(public: Option<&Path>, secret: Option<&Path>) -> Result<Keys, AccessError> {
    let read = |path: Option<&Path>, parse: fn(&str) -> Result<Keys, String>| {
        let Some(path) = path else { return Ok(Keys::default()) };
        let text = text_of(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })?;
        parse(&text).map_err(|why| AccessError::Unusable { path: path.to_owned(), why })
    };
    Ok(read(public, Keys::parse)?.with(read(secret, Keys::of_secret)?))
}
