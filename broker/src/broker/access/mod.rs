//! What a change of the rules does to those who are there: rules that are read again, users that are made while the broker runs, and
//! logins that expire. Everybody who is connected is held against the rules that are in force.

mod dynamic;
mod expiry;

use std::sync::Arc;
use std::time::SystemTime;

use forebay_wire::reason::ReasonCode;

use super::{Broker, Slot};
use crate::access::{AccessError, AccessSeen, ReadPolicy};

pub(crate) use dynamic::{DynamicSecurity, DynamicWork};

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
    pub(crate) fn read_policy_again(&self) -> Result<Option<ReadPolicy>, AccessError> {
        self.access().map(|access| access.read_again()).transpose()
    }

    /// Says what is other with these rules.
    pub(crate) fn put_policy_in_force(self: &Arc<Self>, policy: ReadPolicy) -> Vec<String> {
        let Some(access) = self.access() else { return Vec::new() };
        let lines = access.put_in_force(policy);
        if !lines.is_empty() {
            self.policy_changed();
        }
        lines
    }

    /// The rules are others: everybody who is there is held against them.
    pub(super) fn policy_changed(self: &Arc<Self>) {
        if let Some(access) = self.access() {
            access.advance();
        }
        // From here on no route goes to somebody who may not have the message.
        self.router.bump();
        for slot in self.all_slots() {
            self.hold_against_policy(&slot);
        }
        self.unpark_all();
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
        if let Some(recent) = access.recent() {
            recent.set_now(self.clock.now().0);
        }
        self.end_expired(SystemTime::now());
        if access.has_changed(seen) {
            self.reload_and_say();
        }
    }

    /// Subscriptions that stand are among what clients did lately, however long ago they were asked for.
    pub(crate) fn note_standing(&self) {
        for slot in self.all_slots() {
            let Some(authority) = slot.authority() else { continue };
            let filters =
                slot.look(|session| session.subscriptions().iter().map(|s| s.filter.clone()).collect::<Vec<_>>());
            authority.note_standing(&filters);
        }
    }

    /// What a client may do is other than it was: routes that are remembered are asked for again.
    pub(crate) fn rights_changed(&self) {
        self.router.bump();
        self.unpark_all();
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
        for filter in filters.iter().filter(|filter| !authority.may_keep(filter)) {
            self.counters.subscriptions_revoked.add(1);
            let client = slot.look(|session| session.client_id().clone());
            tracing::info!(client = &*client, filter, "subscription removed: not allowed any more");
            self.unsubscribe(slot, filter);
        }
        let cx = self.cx();
        slot.with(self, |session| session.drop_revoked(cx));
    }
}
