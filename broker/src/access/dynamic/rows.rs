//! The rows of the store: a letter and a name, with JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AclEntry, AclType, Client, Defaults, Group, Link, Role, State, Text};
use crate::access::password::Stored;
use crate::store::{Keyed, KeyedChange};

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Client(Arc<str>),
    Group(Arc<str>),
    Role(Arc<str>),
    /// The defaults, and the group of clients without a user name.
    General,
}

#[derive(Serialize, Deserialize)]
struct LinkRow(String, i32);

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct ClientRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clientid: Option<String>,
    textname: String,
    textdescription: String,
    disabled: bool,
    roles: Vec<LinkRow>,
    groups: Vec<LinkRow>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct GroupRow {
    textname: String,
    textdescription: String,
    roles: Vec<LinkRow>,
}

#[derive(Serialize, Deserialize)]
struct AclRow {
    acltype: String,
    topic: String,
    priority: i32,
    allow: bool,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct RoleRow {
    textname: String,
    textdescription: String,
    acls: Vec<AclRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(default)]
struct GeneralRow {
    send: bool,
    receive: bool,
    subscribe: bool,
    unsubscribe: bool,
    anonymous: Option<String>,
}

impl Default for GeneralRow {
    fn default() -> Self {
        let Defaults { send, receive, subscribe, unsubscribe } = Defaults::default();
        Self { send, receive, subscribe, unsubscribe, anonymous: None }
    }
}

impl Key {
    fn encode(&self) -> Vec<u8> {
        let (letter, name) = match self {
            Self::Client(name) => (b'c', &**name),
            Self::Group(name) => (b'g', &**name),
            Self::Role(name) => (b'r', &**name),
            Self::General => (b'x', ""),
        };
        [&[letter], name.as_bytes()].concat()
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let (letter, name) = key.split_first()?;
        let name: Arc<str> = std::str::from_utf8(name).ok()?.into();
        Some(match letter {
            b'c' => Self::Client(name),
            b'g' => Self::Group(name),
            b'r' => Self::Role(name),
            b'x' => Self::General,
            _ => return None,
        })
    }
}

fn rows(links: &[Link]) -> Vec<LinkRow> {
    links.iter().map(|link| LinkRow(link.name.to_string(), link.priority)).collect()
}

fn links(rows: Vec<LinkRow>) -> Vec<Link> {
    rows.into_iter().map(|LinkRow(name, priority)| Link { name: name.into(), priority }).collect()
}

impl State {
    /// The row of something, or its removal if it is not there.
    pub(crate) fn change(&self, key: &Key) -> KeyedChange {
        let value = match key {
            Key::Client(name) => self.clients.get(name).map(|client| json(&client_row(client))),
            Key::Group(name) => self.groups.get(name).map(|group| {
                let Text { name: textname, description: textdescription } = group.text.clone();
                json(&GroupRow { textname, textdescription, roles: rows(&group.roles) })
            }),
            Key::Role(name) => self.roles.get(name).map(|role| json(&role_row(role))),
            Key::General => {
                let Defaults { send, receive, subscribe, unsubscribe } = self.defaults;
                let anonymous = self.anonymous.as_deref().map(str::to_owned);
                Some(json(&GeneralRow { send, receive, subscribe, unsubscribe, anonymous }))
            }
        };
        KeyedChange { of: Keyed::Dynamic, key: key.encode(), value }
    }

    /// Takes a row of the store; false if it is not one.
    pub(crate) fn recover(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.recovered(key, value).is_some()
    }

    fn recovered(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match Key::decode(key)? {
            Key::Client(name) => {
                let row: ClientRow = serde_json::from_slice(value).ok()?;
                let client = Client {
                    password: row.password.map(|text| Stored::read(&text).map(Arc::new)).transpose().ok()?,
                    client_id: row.clientid,
                    text: Text { name: row.textname, description: row.textdescription },
                    disabled: row.disabled,
                    roles: links(row.roles),
                    groups: links(row.groups),
                };
                self.clients.insert(name, Arc::new(client));
            }
            Key::Group(name) => {
                let row: GroupRow = serde_json::from_slice(value).ok()?;
                let text = Text { name: row.textname, description: row.textdescription };
                let group = Group { text, roles: links(row.roles), ..Group::default() };
                self.groups.insert(name, Arc::new(group));
            }
            Key::Role(name) => {
                let row: RoleRow = serde_json::from_slice(value).ok()?;
                let entry = |acl: AclRow| {
                    let AclRow { acltype, topic, priority, allow } = acl;
                    AclType::named(&acltype).map(|kind| AclEntry { kind, topic, priority, allow })
                };
                let text = Text { name: row.textname, description: row.textdescription };
                let acls = row.acls.into_iter().map(entry).collect::<Option<_>>()?;
                self.roles.insert(name, Arc::new(Role { text, acls }));
            }
            Key::General => {
                let row: GeneralRow = serde_json::from_slice(value).ok()?;
                let GeneralRow { send, receive, subscribe, unsubscribe, anonymous } = row;
                self.defaults = Defaults { send, receive, subscribe, unsubscribe };
                self.anonymous = anonymous.map(Into::into);
            }
        }
        Some(())
    }

    /// After all rows: who is in which group.
    pub(crate) fn gather(&mut self) {
        for (name, client) in &self.clients {
            for link in &client.groups {
                if let Some(group) = self.groups.get_mut(&link.name) {
                    Arc::make_mut(group).clients.insert(name.clone());
                }
            }
        }
    }
}

fn client_row(client: &Client) -> ClientRow {
    ClientRow {
        password: client.password.as_ref().map(|stored| stored.text().to_owned()),
        clientid: client.client_id.clone(),
        textname: client.text.name.clone(),
        textdescription: client.text.description.clone(),
        disabled: client.disabled,
        roles: rows(&client.roles),
        groups: rows(&client.groups),
    }
}

fn role_row(role: &Role) -> RoleRow {
    let acl = |entry: &AclEntry| AclRow {
        acltype: entry.kind.word().to_owned(),
        topic: entry.topic.clone(),
        priority: entry.priority,
        allow: entry.allow,
    };
    RoleRow {
        textname: role.text.name.clone(),
        textdescription: role.text.description.clone(),
        acls: role.acls.iter().map(acl).collect(),
    }
}

/// It has strings and numbers only: that cannot fail.
fn json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).unwrap_or_default()
}
