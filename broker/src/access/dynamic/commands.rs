//! The commands of mosquitto's dynamic security, each on a copy of the state. Its words are theirs, since programs read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_wire::topic;
use serde_json::Value;

use super::rows::Key;
use super::{
    AclEntry, AclType, Client, ENTRIES_MAX, Group, LIST_MAX, Link, NAME_MAX, Role, State, Text, answers, insert,
};
use crate::access::password::Stored;

/// What is wrong with a command, for its answer.
pub(super) type Wrong = String;

/// A request at work: the copy, and what has changed in it.
pub(crate) struct Work {
    pub(crate) state: State,
    pub(crate) changed: BTreeSet<Key>,
}

/// A command's arguments.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a>(pub(super) &'a Value);

impl<'a> Arguments<'a> {
    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, Wrong> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("Invalid {key}")),
        }
    }

    fn needed(self, key: &str) -> Result<&'a str, Wrong> {
        let text = self.text(key)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("Invalid/missing {key}"))
    }

    fn name(self, key: &str) -> Result<Arc<str>, Wrong> {
        let name = self.needed(key)?;
        if name.len() > NAME_MAX || name.contains('\0') {
            return Err(format!("Invalid/missing {key}: it has more than {NAME_MAX} bytes"));
        }
        Ok(name.into())
    }

    /// That of a link is -1 if it is not said, that of an ACL 0.
    fn priority(self, unsaid: i32) -> Result<i32, Wrong> {
        match self.0.get("priority") {
            None | Some(Value::Null) => Ok(unsaid),
            Some(value) => {
                value.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| "Invalid priority".to_owned())
            }
        }
    }

    fn flag(self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    pub(super) fn list(self, key: &str) -> Result<Option<&'a [Value]>, Wrong> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) if list.len() <= LIST_MAX => Ok(Some(list)),
            Some(_) => Err(format!("Invalid {key}: not a list, or more than {LIST_MAX}")),
        }
    }

    /// Changes those of the two that are there.
    fn texts(self, text: &mut Text) -> Result<(), Wrong> {
        if let Some(name) = self.text("textname")? {
            text.name = name.to_owned();
        }
        if let Some(description) = self.text("textdescription")? {
            text.description = description.to_owned();
        }
        Ok(())
    }
}

fn not(kind: &str) -> Wrong {
    format!("{kind} not found")
}

impl Work {
    pub(crate) fn new(state: State) -> Self {
        Self { state, changed: BTreeSet::new() }
    }

    /// Does a command, whole or not at all. What it answers is `data` of its answer.
    pub(crate) fn run(&mut self, command: &Value) -> Result<Option<Value>, Wrong> {
        let name = command.get("command").and_then(Value::as_str).ok_or("Missing command")?;
        let before = (self.state.clone(), self.changed.clone());
        let done = self.dispatch(name, Arguments(command));
        if done.is_err() {
            (self.state, self.changed) = before;
        }
        done
    }

    fn dispatch(&mut self, name: &str, arguments: Arguments<'_>) -> Result<Option<Value>, Wrong> {
        let a = arguments;
        let done = match name {
            "setDefaultACLAccess" => self.set_defaults(a),
            "createClient" => self.create_client(a),
            "deleteClient" => self.delete_client(a),
            "modifyClient" => self.modify_client(a),
            "enableClient" => self.client(a, enable),
            "disableClient" => self.client(a, disable),
            "setClientId" => self.client(a, set_client_id),
            "setClientPassword" => self.client(a, set_password),
            "addClientRole" => self.role_must_exist(a).and_then(|()| self.client(a, add_role_of_client)),
            "removeClientRole" => self.role_must_exist(a).and_then(|()| self.client(a, remove_role_of_client)),
            "createGroup" => self.create_group(a),
            "deleteGroup" => self.delete_group(a),
            "modifyGroup" => self.modify_group(a),
            "addGroupClient" => self.add_group_client(a),
            "removeGroupClient" => self.remove_group_client(a),
            "addGroupRole" => self.role_must_exist(a).and_then(|()| self.group(a, add_role_of_group)),
            "removeGroupRole" => self.role_must_exist(a).and_then(|()| self.group(a, remove_role_of_group)),
            "setAnonymousGroup" => self.set_anonymous(a),
            "createRole" => self.create_role(a),
            "deleteRole" => self.delete_role(a),
            "modifyRole" => self.modify_role(a),
            "addRoleACL" => self.role(a, add_acl),
            "removeRoleACL" => self.role(a, remove_acl),
            _ => {
                return answers::answer(&self.state, name, a)
                    .unwrap_or_else(|| Err("Unknown command".to_owned()))
                    .map(Some);
            }
        };
        done.map(|()| None)
    }

    fn set_defaults(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        for acl in a.list("acls")?.ok_or("Missing/invalid acls array")? {
            // `access` is what mosquitto_ctrl 2.0 says, and mosquitto does not understand.
            let allow = match (Arguments(acl).flag("allow"), Arguments(acl).text("access")?) {
                (Some(allow), _) => allow,
                (None, Some(word @ ("allow" | "deny"))) => word == "allow",
                (None, _) => return Err("Invalid/missing allow".to_owned()),
            };
            let defaults = &mut self.state.defaults;
            let one = match Arguments(acl).text("acltype")?.unwrap_or_default() {
                "publishClientSend" => &mut defaults.send,
                "publishClientReceive" => &mut defaults.receive,
                "subscribe" => &mut defaults.subscribe,
                "unsubscribe" => &mut defaults.unsubscribe,
                other => return Err(format!("Invalid acltype {other:?}")),
            };
            *one = allow;
        }
        self.changed.insert(Key::General);
        Ok(())
    }

    fn create_client(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("username")?;
        if self.state.clients.contains_key(&name) {
            return Err("Client already exists".to_owned());
        }
        room(self.state.clients.len())?;
        let mut client = Client { client_id: client_id(a)?, ..Client::default() };
        a.texts(&mut client.text)?;
        client.password = a.text("password")?.filter(|password| !password.is_empty()).map(hash).transpose()?;
        client.roles = self.role_links(a)?.unwrap_or_default();
        let groups = self.group_links(a)?.unwrap_or_default();
        self.state.clients.insert(name.clone(), Arc::new(client));
        self.set_groups(&name, groups);
        self.changed.insert(Key::Client(name));
        Ok(())
    }

    fn delete_client(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("username")?;
        if !self.state.clients.contains_key(&name) {
            return Err(not("Client"));
        }
        self.set_groups(&name, Vec::new());
        self.state.clients.remove(&name);
        self.changed.insert(Key::Client(name));
        Ok(())
    }

    fn modify_client(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let (roles, groups) = (self.role_links(a)?, self.group_links(a)?);
        self.client(a, |client, a| {
            a.texts(&mut client.text)?;
            if a.0.get("clientid").is_some() {
                client.client_id = client_id(a)?;
            }
            if let Some(password) = a.text("password")?.filter(|password| !password.is_empty()) {
                client.password = Some(hash(password)?);
            }
            if let Some(disabled) = a.flag("disabled") {
                client.disabled = disabled;
            }
            if let Some(roles) = roles {
                client.roles = roles;
            }
            Ok(())
        })?;
        if let Some(groups) = groups {
            self.set_groups(&a.name("username")?, groups);
        }
        Ok(())
    }

    fn client(
        &mut self,
        a: Arguments<'_>,
        change: impl FnOnce(&mut Client, Arguments<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let name = a.name("username")?;
        let client = self.state.clients.get_mut(&name).ok_or_else(|| not("Client"))?;
        change(Arc::make_mut(client), a)?;
        self.changed.insert(Key::Client(name));
        Ok(())
    }

    fn group(
        &mut self,
        a: Arguments<'_>,
        change: impl FnOnce(&mut Group, Arguments<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let name = a.name("groupname")?;
        let group = self.state.groups.get_mut(&name).ok_or_else(|| not("Group"))?;
        change(Arc::make_mut(group), a)?;
        self.changed.insert(Key::Group(name));
        Ok(())
    }

    fn role(
        &mut self,
        a: Arguments<'_>,
        change: impl FnOnce(&mut Role, Arguments<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let name = a.name("rolename")?;
        let role = self.state.roles.get_mut(&name).ok_or_else(|| not("Role"))?;
        change(Arc::make_mut(role), a)?;
        self.changed.insert(Key::Role(name));
        Ok(())
    }

    /// The groups of a client, and the client in the groups.
    fn set_groups(&mut self, name: &Arc<str>, groups: Vec<Link>) {
        let Some(client) = self.state.clients.get_mut(name) else { return };
        let before = std::mem::replace(&mut Arc::make_mut(client).groups, groups.clone());
        for link in before {
            if let Some(group) = self.state.groups.get_mut(&link.name) {
                Arc::make_mut(group).clients.remove(name);
            }
        }
        for link in groups {
            if let Some(group) = self.state.groups.get_mut(&link.name) {
                Arc::make_mut(group).clients.insert(name.clone());
            }
        }
        self.changed.insert(Key::Client(name.clone()));
    }

    fn create_group(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("groupname")?;
        if self.state.groups.contains_key(&name) {
            return Err("Group already exists".to_owned());
        }
        room(self.state.groups.len())?;
        let mut group = Group { roles: self.role_links(a)?.unwrap_or_default(), ..Group::default() };
        a.texts(&mut group.text)?;
        self.state.groups.insert(name.clone(), Arc::new(group));
        self.changed.insert(Key::Group(name));
        Ok(())
    }

    fn delete_group(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("groupname")?;
        let group = self.state.groups.get(&name).cloned().ok_or_else(|| not("Group"))?;
        for client in &group.clients {
            self.leave(client, &name);
        }
        if self.state.anonymous.as_ref() == Some(&name) {
            self.state.anonymous = None;
            self.changed.insert(Key::General);
        }
        self.state.groups.remove(&name);
        self.changed.insert(Key::Group(name));
        Ok(())
    }

    fn leave(&mut self, client: &Arc<str>, group: &Arc<str>) {
        let Some(of) = self.state.clients.get(client) else { return };
        let rest = of.groups.iter().filter(|link| link.name != *group).cloned().collect();
        self.set_groups(client, rest);
    }

    fn modify_group(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let roles = self.role_links(a)?;
        self.group(a, |group, a| {
            a.texts(&mut group.text)?;
            if let Some(roles) = roles {
                group.roles = roles;
            }
            Ok(())
        })?;
        let name = a.name("groupname")?;
        let Some(list) = a.list("clients")? else { return Ok(()) };
        let mut clients = Vec::with_capacity(list.len());
        for client in list {
            let one = Arguments(client).name("username")?;
            if !self.state.clients.contains_key(&one) {
                return Err(not("Client"));
            }
            clients.push((one, Arguments(client).priority(-1)?));
        }
        let before: Vec<Arc<str>> =
            self.state.groups.get(&name).map(|group| group.clients.iter().cloned().collect()).unwrap_or_default();
        for client in before {
            self.leave(&client, &name);
        }
        for (client, priority) in clients {
            self.join(&client, Link { name: name.clone(), priority })?;
        }
        Ok(())
    }

    fn join(&mut self, client: &Arc<str>, link: Link) -> Result<(), Wrong> {
        let mut groups = self.state.clients.get(client).ok_or_else(|| not("Client"))?.groups.clone();
        if groups.len() >= LIST_MAX {
            return Err(format!("Client has {LIST_MAX} groups already"));
        }
        insert(&mut groups, link);
        self.set_groups(client, groups);
        Ok(())
    }

    fn add_group_client(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let (name, client) = (a.name("groupname")?, a.name("username")?);
        let group = self.state.groups.get(&name).ok_or_else(|| not("Group"))?;
        if group.clients.contains(&client) {
            return Err("Client is already in this group".to_owned());
        }
        self.join(&client, Link { name, priority: a.priority(-1)? })
    }

    fn remove_group_client(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let (name, client) = (a.name("groupname")?, a.name("username")?);
        if !self.state.groups.contains_key(&name) {
            return Err(not("Group"));
        }
        if !self.state.clients.contains_key(&client) {
            return Err(not("Client"));
        }
        self.leave(&client, &name);
        Ok(())
    }

    fn set_anonymous(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("groupname")?;
        if !self.state.groups.contains_key(&name) {
            return Err(not("Group"));
        }
        self.state.anonymous = Some(name);
        self.changed.insert(Key::General);
        Ok(())
    }

    fn create_role(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("rolename")?;
        if self.state.roles.contains_key(&name) {
            return Err("Role already exists".to_owned());
        }
        room(self.state.roles.len())?;
        let mut role = Role { acls: acls(a)?.unwrap_or_default(), ..Role::default() };
        a.texts(&mut role.text)?;
        self.state.roles.insert(name.clone(), Arc::new(role));
        self.changed.insert(Key::Role(name));
        Ok(())
    }

    fn delete_role(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("rolename")?;
        if self.state.roles.remove(&name).is_none() {
            return Err(not("Role"));
        }
        let has = |links: &[Link]| links.iter().any(|link| link.name == name);
        for (of, client) in &mut self.state.clients {
            if has(&client.roles) {
                Arc::make_mut(client).roles.retain(|link| link.name != name);
                self.changed.insert(Key::Client(of.clone()));
            }
        }
        for (of, group) in &mut self.state.groups {
            if has(&group.roles) {
                Arc::make_mut(group).roles.retain(|link| link.name != name);
                self.changed.insert(Key::Group(of.clone()));
            }
        }
        self.changed.insert(Key::Role(name));
        Ok(())
    }

    fn modify_role(&mut self, a: Arguments<'_>) -> Result<(), Wrong> {
        let acls = acls(a)?;
        self.role(a, |role, a| {
            a.texts(&mut role.text)?;
            if let Some(acls) = acls {
                role.acls = acls;
            }
            Ok(())
        })
    }

    fn role_must_exist(&self, a: Arguments<'_>) -> Result<(), Wrong> {
        let name = a.name("rolename")?;
        self.state.roles.contains_key(&name).then_some(()).ok_or_else(|| not("Role"))
    }

    fn role_links(&self, a: Arguments<'_>) -> Result<Option<Vec<Link>>, Wrong> {
        links(a, "roles", "rolename", |name| self.state.roles.contains_key(name), "Role")
    }

    fn group_links(&self, a: Arguments<'_>) -> Result<Option<Vec<Link>>, Wrong> {
        links(a, "groups", "groupname", |name| self.state.groups.contains_key(name), "Group")
    }
}

fn room(len: usize) -> Result<(), Wrong> {
    (len < ENTRIES_MAX).then_some(()).ok_or_else(|| format!("There are {ENTRIES_MAX} already"))
}

fn links(
    a: Arguments<'_>,
    list: &str,
    key: &str,
    known: impl Fn(&str) -> bool,
    kind: &str,
) -> Result<Option<Vec<Link>>, Wrong> {
    let Some(list) = a.list(list)? else { return Ok(None) };
    let mut links = Vec::with_capacity(list.len());
    for one in list {
        let name = Arguments(one).name(key)?;
        if !known(&name) {
            return Err(not(kind));
        }
        insert(&mut links, Link { name, priority: Arguments(one).priority(-1)? });
    }
    Ok(Some(links))
}

fn client_id(a: Arguments<'_>) -> Result<Option<String>, Wrong> {
    Ok(a.text("clientid")?.filter(|id| !id.is_empty()).map(str::to_owned))
}

fn hash(password: &str) -> Result<Arc<Stored>, Wrong> {
    Stored::of(password.as_bytes()).map(Arc::new).map_err(|error| error.to_string())
}

fn enable(client: &mut Client, _: Arguments<'_>) -> Result<(), Wrong> {
    client.disabled = false;
    Ok(())
}

fn disable(client: &mut Client, _: Arguments<'_>) -> Result<(), Wrong> {
    client.disabled = true;
    Ok(())
}

fn set_client_id(client: &mut Client, a: Arguments<'_>) -> Result<(), Wrong> {
    client.client_id = client_id(a)?;
    Ok(())
}

fn set_password(client: &mut Client, a: Arguments<'_>) -> Result<(), Wrong> {
    client.password = Some(hash(a.needed("password")?)?);
    Ok(())
}

fn add_link(links: &mut Vec<Link>, a: Arguments<'_>) -> Result<(), Wrong> {
    let link = Link { name: a.name("rolename")?, priority: a.priority(-1)? };
    if links.len() >= LIST_MAX {
        return Err(format!("There are {LIST_MAX} roles already"));
    }
    insert(links, link);
    Ok(())
}

fn remove_link(links: &mut Vec<Link>, a: Arguments<'_>) -> Result<(), Wrong> {
    let name = a.name("rolename")?;
    links.retain(|link| link.name != name);
    Ok(())
}

fn add_role_of_client(client: &mut Client, a: Arguments<'_>) -> Result<(), Wrong> {
    add_link(&mut client.roles, a)
}

fn remove_role_of_client(client: &mut Client, a: Arguments<'_>) -> Result<(), Wrong> {
    remove_link(&mut client.roles, a)
}

fn add_role_of_group(group: &mut Group, a: Arguments<'_>) -> Result<(), Wrong> {
    add_link(&mut group.roles, a)
}

fn remove_role_of_group(group: &mut Group, a: Arguments<'_>) -> Result<(), Wrong> {
    remove_link(&mut group.roles, a)
}

fn acl(a: Arguments<'_>) -> Result<AclEntry, Wrong> {
    let word = a.needed("acltype")?;
    let kind = AclType::named(word).ok_or_else(|| format!("Invalid acltype {word:?}"))?;
    let topic = a.needed("topic")?;
    if topic::check_filter(topic, usize::MAX).is_err() {
        return Err(format!("Invalid topic {topic:?}"));
    }
    let allow = a.flag("allow").ok_or("Invalid/missing allow")?;
    Ok(AclEntry { kind, topic: topic.to_owned(), priority: a.priority(0)?, allow })
}

fn acls(a: Arguments<'_>) -> Result<Option<Vec<AclEntry>>, Wrong> {
    let Some(list) = a.list("acls")? else { return Ok(None) };
    let mut acls = list.iter().map(|one| acl(Arguments(one))).collect::<Result<Vec<_>, _>>()?;
    acls.sort_by_key(|entry| std::cmp::Reverse(entry.priority));
    Ok(Some(acls))
}

fn add_acl(role: &mut Role, a: Arguments<'_>) -> Result<(), Wrong> {
    let entry = acl(a)?;
    if role.acls.iter().any(|other| (other.kind, &other.topic) == (entry.kind, &entry.topic)) {
        return Err("ACL with this topic already exists".to_owned());
    }
    if role.acls.len() >= LIST_MAX {
        return Err(format!("Role has {LIST_MAX} ACLs already"));
    }
    let place = role.acls.partition_point(|other| other.priority >= entry.priority);
    role.acls.insert(place, entry);
    Ok(())
}

fn remove_acl(role: &mut Role, a: Arguments<'_>) -> Result<(), Wrong> {
    let word = a.needed("acltype")?;
    let kind = AclType::named(word).ok_or_else(|| format!("Invalid acltype {word:?}"))?;
    let topic = a.needed("topic")?;
    let before = role.acls.len();
    role.acls.retain(|entry| (entry.kind, entry.topic.as_str()) != (kind, topic));
    (role.acls.len() < before).then_some(()).ok_or_else(|| not("ACL"))
}
