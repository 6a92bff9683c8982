//! Dynamic security: users, groups and roles that are made while the broker runs. They are rows of the store, and are changed by the
//! requests of mosquitto's plug-in of that name, so that `mosquitto_ctrl dynsec` works as it is.
//!
//! ```text
//!   PUBLISH to $CONTROL/dynamic-security/v1 ──► a thread: commands on a copy ──► commit ──► the copy holds ──► answer, to who asked
//! ```

mod answers;
mod commands;
mod first;
mod import;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_wire::topic;

use super::Principal;
use super::acl::covers;
use super::password::Stored;
use super::rules::{Ask, fill};

pub(crate) use commands::Work;
pub(crate) use first::{first_user, imported};

/// Clients, groups and roles, of each at most so many.
const ENTRIES_MAX: usize = 100_000;
/// Roles of one client or group, groups of one client, ACLs of one role.
const LIST_MAX: usize = 10_000;
/// The longest name, in bytes: it is the key of a row.
const NAME_MAX: usize = 1_000;

/// A role or group, and how early it is looked at: the highest first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: Arc<str>,
    priority: i32,
}

/// What is said of each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Text {
    name: String,
    description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    /// Without one it cannot log in.
    password: Option<Arc<Stored>>,
    /// The only client identifier that it may have.
    client_id: Option<String>,
    text: Text,
    disabled: bool,
    /// By priority, then by name.
    roles: Vec<Link>,
    groups: Vec<Link>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    text: Text,
    roles: Vec<Link>,
    /// Those who name it in their `groups`.
    clients: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Role {
    text: Text,
    /// By priority.
    acls: Vec<AclEntry>,
}

/// What an ACL is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AclType {
    Send,
    Receive,
    SubscribeLiteral,
    SubscribePattern,
    UnsubscribeLiteral,
    UnsubscribePattern,
}

impl AclType {
    const WORDS: [(&'static str, Self); 6] = [
        ("publishClientSend", Self::Send),
        ("publishClientReceive", Self::Receive),
        ("subscribeLiteral", Self::SubscribeLiteral),
        ("subscribePattern", Self::SubscribePattern),
        ("unsubscribeLiteral", Self::UnsubscribeLiteral),
        ("unsubscribePattern", Self::UnsubscribePattern),
    ];

    fn named(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind)
    }

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AclEntry {
    kind: AclType,
    topic: String,
    priority: i32,
    allow: bool,
}

/// What holds where no ACL says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Defaults {
    send: bool,
    receive: bool,
    subscribe: bool,
    unsubscribe: bool,
}

impl Default for Defaults {
    /// As mosquitto has it.
    fn default() -> Self {
        Self { send: false, receive: true, subscribe: false, unsubscribe: true }
    }
}

/// One version of all of it. A copy costs a pointer for each entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    clients: BTreeMap<Arc<str>, Arc<Client>>,
    groups: BTreeMap<Arc<str>, Arc<Group>>,
    roles: BTreeMap<Arc<str>, Arc<Role>>,
    defaults: Defaults,
    /// The group of clients without a user name.
    anonymous: Option<Arc<str>>,
}

/// What is known of somebody who logs in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// With this password.
    Client(Arc<Stored>),
    /// Not with any: it is disabled, has none, or has another client identifier.
    Shut(&'static str),
    Unknown,
}

impl State {
    pub(super) fn find(&self, user: &str, client_id: &str) -> Found {
        let Some(client) = self.clients.get(user) else { return Found::Unknown };
        if client.disabled {
            return Found::Shut("the user is disabled");
        }
        if client.client_id.as_deref().is_some_and(|own| own != client_id) {
            return Found::Shut("the user has another client identifier");
        }
        client.password.clone().map_or(Found::Shut("the user has no password"), Found::Client)
    }

    pub(super) fn users(&self) -> usize {
        self.clients.len()
    }

    /// What a name that is not there is checked against.
    pub(super) fn decoy(&self) -> Option<Arc<Stored>> {
        self.clients.values().find_map(|client| client.password.clone())
    }

    /// Whether somebody who logged in with this password could do it again.
    pub(super) fn admits(&self, user: &str, client_id: &str, password: &Stored) -> bool {
        matches!(self.find(user, client_id), Found::Client(own) if *own == *password)
    }

    /// What its ACLs, or the defaults, say. `None`: nothing, the next is asked. Nothing by default is said of `$CONTROL`.
    pub(super) fn check(&self, who: &Principal, ask: Ask<'_>) -> Option<bool> {
        if let Some(entry) = self.links(who).find_map(|role| role.acls.iter().find(|entry| entry.matches(who, ask))) {
            return Some(entry.allow);
        }
        let (allowed, topic) = match ask {
            Ask::Connect => return None,
            Ask::Publish { topic, .. } | Ask::Will { topic, .. } => (self.defaults.send, topic),
            Ask::Receive { topic } => (self.defaults.receive, topic),
            Ask::Subscribe { filter, .. } => (self.defaults.subscribe, filter),
        };
        (allowed && !topic.starts_with("$CONTROL")).then_some(true)
    }

    /// Its roles, in the order in which they are asked: its own, then those of its groups.
    fn links(&self, who: &Principal) -> impl Iterator<Item = &Role> {
        let client = who.user.as_deref().and_then(|user| self.clients.get(user));
        let own = client.map_or(&[][..], |client| &client.roles);
        let groups = client.map_or(&[][..], |client| &client.groups).iter().map(|link| &link.name);
        let anonymous = self.anonymous.iter().filter(|_| who.user.is_none());
        let of_groups = groups.chain(anonymous).filter_map(|name| self.groups.get(name)).flat_map(|group| &group.roles);
        own.iter().chain(of_groups).filter_map(|link| self.roles.get(&link.name)).map(|role| &**role)
    }
}

impl AclEntry {
    fn matches(&self, who: &Principal, ask: Ask<'_>) -> bool {
        let filled = |found: &dyn Fn(&str) -> bool| fill(&self.topic, who, &[], &mut |filter| found(filter));
        match (self.kind, ask) {
            (AclType::Send, Ask::Publish { topic, .. } | Ask::Will { topic, .. })
            | (AclType::Receive, Ask::Receive { topic }) => filled(&|filter| topic::matches(filter, topic)),
            (AclType::SubscribeLiteral, Ask::Subscribe { filter, .. }) => filled(&|own| own == filter),
            (AclType::SubscribePattern, Ask::Subscribe { filter, .. }) => filled(&|own| covers(own, filter)),
            // Nobody is kept from an UNSUBSCRIBE.
            _ => false,
        }
    }
}

/// Puts a link in its place: the highest priority first, then by name.
fn insert(links: &mut Vec<Link>, link: Link) {
    links.retain(|other| other.name != link.name);
    let before = |other: &Link| {
        (std::cmp::Reverse(other.priority), &other.name) < (std::cmp::Reverse(link.priority), &link.name)
    };
    let place = links.partition_point(before);
    links.insert(place, link);
}
