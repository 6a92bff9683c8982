//! What there is at the first start: what the configuration names is taken over, or one user is made.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::commands::Work;
use super::{State, import};
use crate::access::AccessError;
use crate::access::reload::text_of;

/// The file with the first user's password, in the data directory.
const FIRST_PASSWORD: &str = "dynamic-security.pw";

/// The user `admin`, who may do all of this and see everything. Its password is in a file that only the broker's user can read.
pub(crate) fn first_user(folder: &Path) -> io::Result<Work> {
    let mut random = [0; 18];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other(AccessError::NoRandom))?;
    let password = URL_SAFE_NO_PAD.encode(random);
    let mut work = Work::new(State::default());
    let acl = |kind: &str, topic: &str| json!({"acltype": kind, "topic": topic, "allow": true});
    let control = "$CONTROL/dynamic-security/#";
    let acls = [
        acl("publishClientSend", control),
        acl("publishClientReceive", control),
        acl("subscribePattern", control),
        acl("publishClientReceive", "$SYS/#"),
        acl("subscribePattern", "$SYS/#"),
        acl("publishClientReceive", "#"),
        acl("subscribePattern", "#"),
        acl("unsubscribePattern", "#"),
    ];
    let commands = [
        json!({"command": "createRole", "rolename": "admin", "acls": acls}),
        json!({"command": "createClient", "username": "admin", "password": password, "roles": [{"rolename": "admin"}]}),
        json!({"command": "setDefaultACLAccess", "acls": []}),
    ];
    for command in commands {
        work.run(&command).map_err(io::Error::other)?;
    }
    let path = folder.join(FIRST_PASSWORD);
    write_private(&path, &format!("admin {password}\n"))?;
    tracing::info!("dynamic security: the first user is admin; its password is in {}", path.display());
    Ok(work)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let _ = std::fs::remove_file(path);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What mosquitto's plug-in has in its file, or `mosquitto_ctrl dynsec init` has made.
pub(crate) fn imported(path: &Path) -> Result<Work, AccessError> {
    let unusable = |why: String| AccessError::Unusable { path: path.to_owned(), why };
    let text = text_of(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })?;
    let whole: Value =
        serde_json::from_str(&text).map_err(|error| unusable(format!("is not JSON: line {}", error.line())))?;
    let work = import::work(&whole).map_err(unusable)?;
    let State { clients, groups, roles, .. } = &work.state;
    let (clients, groups, roles) = (clients.len(), groups.len(), roles.len());
    tracing::info!("dynamic security: {} taken over: {clients} users, {groups} groups, {roles} roles", path.display());
    Ok(work)
}
