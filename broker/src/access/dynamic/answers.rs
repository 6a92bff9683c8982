//! The commands that ask, and their answers.

use serde_json::{Map, Value, json};

use super::commands::{Arguments, Wrong};
use super::{Client, Defaults, Group, Link, Role, State, Text};

/// The data of the answer; `None` for a command that is not known.
pub(super) fn answer(state: &State, command: &str, a: Arguments<'_>) -> Option<Result<Value, Wrong>> {
    Some(match command {
        "getDefaultACLAccess" => Ok(defaults(state.defaults)),
        "getAnonymousGroup" => Ok(json!({"group": {"groupname": state.anonymous.as_deref().unwrap_or("")}})),
        "getClient" => one(a, "username", "Client", |name| {
            state.clients.get(name).map(|found| json!({"client": client(name, found)}))
        }),
        "getGroup" => one(a, "groupname", "Group", |name| {
            state.groups.get(name).map(|found| json!({"group": group(name, found)}))
        }),
        "getRole" => {
            one(a, "rolename", "Role", |name| state.roles.get(name).map(|found| json!({"role": role(name, found)})))
        }
        "listClients" => {
            list(a, "clients", state.clients.iter().map(|(name, found)| (&**name, move || client(name, found))))
        }
        "listGroups" => {
            list(a, "groups", state.groups.iter().map(|(name, found)| (&**name, move || group(name, found))))
        }
        "listRoles" => list(a, "roles", state.roles.iter().map(|(name, found)| (&**name, move || role(name, found)))),
        _ => return None,
    })
}

fn one(a: Arguments<'_>, key: &str, kind: &str, found: impl FnOnce(&str) -> Option<Value>) -> Result<Value, Wrong> {
    let name = a.text(key)?.ok_or_else(|| format!("Invalid/missing {key}"))?;
    found(name).ok_or_else(|| format!("{kind} not found"))
}

/// `count` of them from `offset` on; whole with `verbose`, else their names.
fn list<'a, F: FnOnce() -> Value>(
    a: Arguments<'_>,
    key: &str,
    all: impl ExactSizeIterator<Item = (&'a str, F)>,
) -> Result<Value, Wrong> {
    let number = |key: &str| a.0.get(key).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok());
    let verbose = a.0.get("verbose").and_then(Value::as_bool).unwrap_or(false);
    let (total, count) = (all.len(), number("count").unwrap_or(usize::MAX));
    let page = all.skip(number("offset").unwrap_or(0)).take(count);
    let page: Vec<Value> = page.map(|(name, whole)| if verbose { whole() } else { json!(name) }).collect();
    Ok(json!({"totalCount": total, key: page}))
}

fn texts(object: &mut Map<String, Value>, text: &Text) {
    for (key, value) in [("textname", &text.name), ("textdescription", &text.description)] {
        if !value.is_empty() {
            object.insert(key.to_owned(), json!(value));
        }
    }
}

/// Links, with their priority where it is not the usual one.
fn links(links: &[Link], key: &str) -> Value {
    let one = |link: &Link| {
        let mut object = Map::new();
        object.insert(key.to_owned(), json!(&*link.name));
        if link.priority != -1 {
            object.insert("priority".to_owned(), json!(link.priority));
        }
        Value::Object(object)
    };
    links.iter().map(one).collect()
}

/// Never the password.
fn client(name: &str, client: &Client) -> Value {
    let mut object = Map::new();
    object.insert("username".to_owned(), json!(name));
    if let Some(id) = &client.client_id {
        object.insert("clientid".to_owned(), json!(id));
    }
    texts(&mut object, &client.text);
    if client.disabled {
        object.insert("disabled".to_owned(), json!(true));
    }
    object.insert("roles".to_owned(), links(&client.roles, "rolename"));
    object.insert("groups".to_owned(), links(&client.groups, "groupname"));
    Value::Object(object)
}

fn group(name: &str, group: &Group) -> Value {
    let mut object = Map::new();
    object.insert("groupname".to_owned(), json!(name));
    texts(&mut object, &group.text);
    object.insert("roles".to_owned(), links(&group.roles, "rolename"));
    object.insert("clients".to_owned(), group.clients.iter().map(|name| json!({"username": &**name})).collect());
    Value::Object(object)
}

fn role(name: &str, role: &Role) -> Value {
    let mut object = Map::new();
    object.insert("rolename".to_owned(), json!(name));
    texts(&mut object, &role.text);
    // By kind, as mosquitto keeps them.
    let mut sorted: Vec<_> = role.acls.iter().collect();
    sorted.sort_by_key(|entry| entry.kind);
    let acls = sorted.into_iter().map(|entry| {
        json!({"acltype": entry.kind.word(), "topic": entry.topic, "priority": entry.priority, "allow": entry.allow})
    });
    object.insert("acls".to_owned(), acls.collect());
    Value::Object(object)
}

fn defaults(defaults: Defaults) -> Value {
    let Defaults { send, receive, subscribe, unsubscribe } = defaults;
    let all = [
        ("publishClientSend", send),
        ("publishClientReceive", receive),
        ("subscribe", subscribe),
        ("unsubscribe", unsubscribe),
    ];
    json!({"acls": all.map(|(kind, allow)| json!({"acltype": kind, "allow": allow}))})
}
