//! `forebay ctl users`: users made while the broker runs, by the commands of dynamic security.

use std::io::BufRead;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Request, change};

/// The longest password, in bytes: what MQTT can say.
const PASSWORD_MAX: u64 = 65_535;

/// What is done with users made while the broker runs.
#[derive(Clone, Debug, Subcommand)]
pub enum UsersCommand {
    /// Their names
    List,
    /// One of them: roles and groups
    Show {
        /// The user name
        user: String,
    },
    /// Make one; the password is the first line of the standard input
    Add {
        /// The user name
        user: String,
        /// The only client identifier that it may have
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// A role; may be given several times
        #[arg(long, value_name = "NAME")]
        role: Vec<String>,
        /// A group; may be given several times
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
    },
    /// Give one another password, the first line of the standard input; who is connected by the old one is disconnected
    Password {
        /// The user name
        user: String,
    },
    /// Shut one out, and disconnect it
    Disable {
        /// The user name
        user: String,
    },
    /// Let one in again
    Enable {
        /// The user name
        user: String,
    },
    /// Delete one, and disconnect it
    Delete {
        /// The user name
        user: String,
    },
    /// Any command of dynamic security, as JSON: {"command": "createRole", "rolename": "r"}
    Run {
        /// The command
        command: String,
    },
}

/// The request, or why there is none.
pub(super) fn request(command: &UsersCommand) -> Result<Request, String> {
    let of = |name: &str, user: &str| json!({ "command": name, "username": user });
    let command = match command {
        UsersCommand::List => json!({ "command": "listClients" }),
        UsersCommand::Show { user } => of("getClient", user),
        UsersCommand::Disable { user } => of("disableClient", user),
        UsersCommand::Enable { user } => of("enableClient", user),
        UsersCommand::Delete { user } => of("deleteClient", user),
        UsersCommand::Password { user } => {
            json!({ "command": "setClientPassword", "username": user, "password": password()? })
        }
        UsersCommand::Add { user, client, role, group } => {
            let roles: Vec<Value> = role.iter().map(|name| json!({ "rolename": name })).collect();
            let groups: Vec<Value> = group.iter().map(|name| json!({ "groupname": name })).collect();
            json!({
                "command": "createClient", "username": user, "password": password()?, "clientid": client,
                "roles": roles, "groups": groups,
            })
        }
        UsersCommand::Run { command } => {
            serde_json::from_str(command).map_err(|error| format!("the command is not JSON: {error}"))?
        }
    };
    let body = json!({ "commands": [command] }).to_string().into_bytes();
    Ok(Request { body, show, ..change("POST", "/api/access/dynamic".to_owned()) })
}

/// The first line of the standard input.
fn password() -> Result<String, String> {
    use std::io::Read;
    let mut line = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_MAX + 2).read_line(&mut line);
    read.map_err(|error| format!("standard input: {error}"))?;
    let password = line.trim_end_matches(['\r', '\n']);
    match password.is_empty() {
        true => Err("the password is empty: give it as the first line of the standard input".to_owned()),
        false => Ok(password.to_owned()),
    }
}

/// Names one a line, an object as it is, nothing for what was done.
fn show(answer: &Value) -> String {
    let first = answer.get("responses").and_then(|responses| responses.get(0)).cloned().unwrap_or_default();
    let name = first.get("command").and_then(Value::as_str).unwrap_or("the command");
    if let Some(why) = first.get("error").and_then(Value::as_str) {
        return format!("{name}: not done: {why}\n");
    }
    let Some(data) = first.get("data") else { return format!("{name}: done\n") };
    let names = ["clients", "groups", "roles"].iter().find_map(|key| data.get(key)).and_then(Value::as_array);
    match names {
        Some(names) => names.iter().map(|name| format!("{}\n", name.as_str().unwrap_or(&name.to_string()))).collect(),
        None => format!("{data:#}\n"),
    }
}
