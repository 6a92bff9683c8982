//! The file of mosquitto's plug-in: its entries are nearly its commands.

use std::sync::Arc;

use serde_json::{Value, json};

use super::State;
use super::commands::Work;
use crate::access::password::Stored;

/// All of a file, or what is wrong with it.
pub(super) fn work(whole: &Value) -> Result<Work, String> {
    let mut work = Work::new(State::default());
    let list = |key: &str| whole.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(defaults) = whole.get("defaultACLAccess").and_then(Value::as_object) {
        let acls: Vec<Value> = defaults.iter().map(|(kind, allow)| json!({"acltype": kind, "allow": allow})).collect();
        run(&mut work, "setDefaultACLAccess", &json!({ "acls": acls }))?;
    }
    for (command, entries) in [("createRole", list("roles")), ("createGroup", list("groups"))] {
        for entry in entries {
            run(&mut work, command, entry)?;
        }
    }
    for entry in list("clients") {
        client(&mut work, entry)?;
    }
    for group in list("groups") {
        for member in group.get("clients").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            let mut member = member.clone();
            if let (Some(member), Some(name)) = (member.as_object_mut(), group.get("groupname")) {
                member.insert("groupname".to_owned(), name.clone());
            }
            // The client may have said so itself.
            let _ = work.run(&command("addGroupClient", &member));
        }
    }
    if let Some(name) = whole.get("anonymousGroup").filter(|name| name.as_str().is_some_and(|name| !name.is_empty())) {
        run(&mut work, "setAnonymousGroup", &json!({ "groupname": name }))?;
    }
    Ok(work)
}

fn command(name: &str, entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(object) = entry.as_object_mut() {
        object.insert("command".to_owned(), json!(name));
    }
    entry
}

fn run(work: &mut Work, name: &str, entry: &Value) -> Result<(), String> {
    work.run(&command(name, entry)).map(|_| ()).map_err(|why| format!("{name} {}: {why}", name_of(entry)))
}

fn name_of(entry: &Value) -> String {
    let name = ["username", "groupname", "rolename"].iter().find_map(|key| entry.get(key));
    name.map_or_else(String::new, Value::to_string)
}

/// Its password is there as a hash.
fn client(work: &mut Work, entry: &Value) -> Result<(), String> {
    let mut bare = entry.clone();
    if let Some(object) = bare.as_object_mut() {
        object.remove("password");
    }
    run(work, "createClient", &bare)?;
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let name = text("username").unwrap_or_default();
    let Some(client) = work.state.clients.get_mut(name).map(Arc::make_mut) else { return Ok(()) };
    client.disabled = entry.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    if let (Some(hash), Some(salt), Some(iterations)) = (text("password"), text("salt"), entry.get("iterations")) {
        let stored = Stored::read(&format!("$7${iterations}${salt}${hash}"));
        client.password = Some(Arc::new(stored.map_err(|_| format!("the password of {name:?} is not one"))?));
    } else if let Some(encoded) = text("encoded_password") {
        let stored = Stored::read(encoded);
        client.password = Some(Arc::new(stored.map_err(|_| format!("the password of {name:?} is not one"))?));
    }
    Ok(())
}
