//! Unix sockets: a file that says who may open it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::SocketFile;

/// A Unix socket that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixError {
    /// Somebody answers there.
    #[error("{} is in use by another program; stop it, or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("{} is there and is not a socket; move it away, or choose another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// No such user or group.
    #[error("{name} is no {kind} of this machine; write one of {file}, or a number")]
    NoSuch {
        /// What was written.
        name: String,
        /// `user` or `group`.
        kind: &'static str,
        /// Where they are.
        file: &'static str,
    },
    /// It cannot be made, or not with these rights.
    #[error("{} cannot be opened: {source}; its folder must be there, and the broker must be allowed to write to it", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The file of an open socket; it goes when this is dropped.
#[derive(Debug)]
pub struct OpenFile(PathBuf);

impl Drop for OpenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens a socket at the path. One that a broker left behind which was killed is replaced: nobody answers there.
///
/// # Errors
/// See [`UnixError`].
pub fn open(path: &Path, rules: &SocketFile) -> Result<(UnixListener, OpenFile), UnixError> {
    let failed = |source| UnixError::Io { path: path.to_owned(), source };
    let owner = rules.owner.as_deref().map(|name| id(name, "user", "/etc/passwd")).transpose()?;
    let group = rules.group.as_deref().map(|name| id(name, "group", "/etc/group")).transpose()?;
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(UnixError::NoSocket { path: path.to_owned() });
        }
        if UnixStream::connect(path).is_ok() {
            return Err(UnixError::InUse { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // Under another name until nobody may open it who should not.
    let mut made = path.as_os_str().to_owned();
    made.push(".new");
    let made = PathBuf::from(made);
    let _ = std::fs::remove_file(&made);
    let listener = UnixListener::bind(&made).map_err(failed)?;
    let beside = OpenFile(made.clone());
    let has = std::fs::symlink_metadata(&made).map_err(failed)?;
    // A system may forbid the call altogether, where nothing has to be changed as well.
    let (owner, group) = (owner.filter(|owner| *owner != has.uid()), group.filter(|group| *group != has.gid()));
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::chown(&made, owner, group).map_err(failed)?;
    }
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(rules.mode)).map_err(failed)?;
    std::fs::rename(&made, path).map_err(failed)?;
    std::mem::forget(beside);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, OpenFile(path.to_owned())))
}

/// The number of a user or group.
fn id(name: &str, kind: &'static str, file: &'static str) -> Result<u32, UnixError> {
    let named =
        || lookup(&std::fs::read_to_string(file).ok()?, |fields| fields.first() == Some(&name))?.get(2)?.parse().ok();
    let no_such = || UnixError::NoSuch { name: name.to_owned(), kind, file };
    name.parse().ok().or_else(named).ok_or_else(no_such)
}

/// The name of a user; its number when it has none.
pub(crate) fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = lookup(&passwd, |fields| fields.get(2) == Some(&number.as_str()));
    fields.and_then(|fields| fields.first().map(|name| (*name).to_owned())).unwrap_or(number)
}

fn lookup(text: &str, is_it: impl Fn(&[&str]) -> bool) -> Option<Vec<String>> {
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| is_it(fields)).map(|fields| fields.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mqtt.sock");
        let rules = SocketFile { mode: 0o640, ..SocketFile::default() };
        let first = open(&path, &rules).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(matches!(open(&path, &rules), Err(UnixError::InUse { .. })));
        // As after a kill: the file stays, and nobody listens.
        let left = folder.path().join("left.sock");
        std::fs::hard_link(&path, &left).unwrap();
        drop(first);
        assert!(!path.exists() && left.exists() && UnixStream::connect(&left).is_err());
        let again = open(&left, &rules).unwrap();
        assert!(UnixStream::connect(&left).is_ok());
        drop(again);
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(open(&path, &rules), Err(UnixError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(id("root", "user", "/etc/passwd").unwrap(), 0);
        assert_eq!(id("4711", "group", "/etc/group").unwrap(), 4711);
        assert!(matches!(id("nobody at all", "user", "/etc/passwd"), Err(UnixError::NoSuch { .. })));
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_000), "4000000000");
    }
}
