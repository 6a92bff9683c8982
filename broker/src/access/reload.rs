//! The files are read again: whole or not at all. What changed is said, and everybody who is connected is held against it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use forebay_wire::reason::ReasonCode;

use super::{AccessError, FILE_MAX, Policy};
use crate::broker::{Broker, Slot};
use crate::config::AccessConfig;
use crate::message::Message;
use crate::session::Authority;

/// What tells that a file is another one. Links are followed: a mounted folder swaps a link to a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    place: (u64, u64),
}

pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let place = {
        use std::os::unix::fs::MetadataExt;
        (meta.dev(), meta.ino())
    };
    #[cfg(not(unix))]
    let place = (0, 0);
    Some(Stamp { modified: meta.modified().ok(), len: meta.len(), place })
}

/// Of all files that the configuration names.
pub(super) fn stamps(config: &AccessConfig) -> Vec<Option<Stamp>> {
    let AccessConfig { password_file, acl_file, listener_acl_files, jwt, http, .. } = config;
    let jwt = jwt.iter().flat_map(|jwt| [&jwt.key_file, &jwt.secret_file]);
    let http = http.iter().flat_map(|http| [&http.ca_file, &http.token_file]);
    let files = [password_file, acl_file].into_iter().chain(jwt).chain(http).flatten().chain(listener_acl_files);
    files.map(|path| stamp(path)).collect()
}

/// The text of a file that is not unreasonably large.
pub(super) fn text_of(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 MiB"));
    }
    Ok(text)
}

impl Broker {
    /// Reads the files of `[access]` again. Says what changed; nothing changes when one of them is wrong.
    ///
    /// # Errors
    /// A file cannot be read, or is wrong: the rules stay as they were.
    pub fn reload(self: &Arc<Self>) -> Result<Vec<String>, AccessError> {
        let policy = self.read_policy_again()?;
        Ok(policy.map(|policy| self.put_policy_in_force(policy)).unwrap_or_default())
    }

    /// Reads the files of `[access]` again; nothing is in force yet. `None` if there are none.
    pub(crate) fn read_policy_again(&self) -> Result<Option<Policy>, AccessError> {
        let Some(access) = self.access() else { return Ok(None) };
        *access.stamps.lock() = stamps(&access.config);
        Policy::read(&access.config).map(Some)
    }

    /// Says what is other with these rules.
    pub(crate) fn put_policy_in_force(self: &Arc<Self>, policy: Policy) -> Vec<String> {
        let Some(access) = self.access() else { return Vec::new() };
        let lines = access.policy().difference(&policy);
        *access.policy.write() = Arc::new(policy);
        if !lines.is_empty() {
            self.policy_changed();
        }
        lines
    }

    /// The rules are others: everybody who is there is held against them.
    pub(super) fn policy_changed(self: &Arc<Self>) {
        if let Some(access) = self.access() {
            access.version.fetch_add(1, Ordering::AcqRel);
        }
        // From here on no route goes to somebody who may not have the message.
        self.router.bump();
        for slot in self.all_slots() {
            self.hold_against_policy(&slot);
        }
        self.unpark();
    }

    /// [`Broker::reload`], with what came of it in the log.
    pub fn reload_and_say(self: &Arc<Self>) {
        match self.reload() {
            Ok(lines) => lines.iter().for_each(|line| tracing::info!("access changed: {line}")),
            Err(error) => tracing::error!("access not changed: {error}"),
        }
    }

    /// Ends what has expired, and reloads if a file has changed and has stopped changing: `seen` is what was seen the last time.
    pub(crate) fn watch_access(self: &Arc<Self>, seen: &mut AccessSeen) {
        let Some(access) = self.access() else { return };
        self.end_expired(SystemTime::now());
        let now = stamps(&access.config);
        let changed = *access.stamps.lock() != now;
        if changed && seen.0.as_ref() == Some(&now) {
            self.reload_and_say();
        }
        seen.0 = Some(now);
    }

    /// What the session's client may not do any more ends: its connection, its subscriptions, what is queued for it.
    pub(crate) fn hold_against_policy(self: &Arc<Self>, slot: &Arc<Slot>) {
        let Some(authority) = slot.authority() else { return };
        if !authority.is_valid() && slot.online() {
            self.counters.connections_revoked.add(1);
            let client = slot.look(|session| session.client_id().clone());
            tracing::info!(client = &*client, user = ?authority.user(), "disconnected: its user or password is not valid any more");
            slot.kick(ReasonCode::NotAuthorized as u8);
        }
        let filters = slot.look(|session| session.subscriptions().iter().map(|s| s.filter.clone()).collect::<Vec<_>>());
        for filter in filters.iter().filter(|filter| !authority.may_subscribe(filter)) {
            self.counters.subscriptions_revoked.add(1);
            let client = slot.look(|session| session.client_id().clone());
            tracing::info!(client = &*client, filter, "subscription removed: not allowed any more");
            self.unsubscribe(slot, filter);
        }
        let cx = self.cx();
        slot.with(self, |session| session.drop_revoked(cx));
    }
}

/// What the files were when they were looked at last.
#[derive(Debug, Default)]
pub(crate) struct AccessSeen(Option<Vec<Option<Stamp>>>);

impl Authority for super::Rights {
    fn user(&self) -> Option<&str> {
        self.who().user.as_deref()
    }

    fn may_receive(&self, topic: &str) -> bool {
        Self::may_receive(self, topic)
    }

    fn may_leave_will(&self, will: &Message) -> bool {
        Self::may_leave_will(self, will.topic(), will.qos, will.retain)
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        Self::may_subscribe(self, filter)
    }

    fn is_valid(&self) -> bool {
        Self::is_valid(self)
    }

    fn expires(&self) -> Option<SystemTime> {
        Self::expires(self)
    }
}
