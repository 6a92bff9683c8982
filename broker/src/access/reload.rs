//! The files are read again: whole or not at all.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Access, AccessError, FILE_MAX, Policy};
use crate::config::AccessConfig;
use crate::file_stamp::{ReadFrom, Stamps, file_stamp};

/// Of all files that the configuration names.
pub(super) fn stamps(config: &AccessConfig) -> Stamps {
    let AccessConfig { password_file, acl_file, listener_acl_files, jwt, http, .. } = config;
    let jwt = jwt.iter().flat_map(|jwt| [&jwt.key_file, &jwt.secret_file]);
    let http = http.iter().flat_map(|http| [&http.ca_file, &http.token_file]);
    let files = [password_file, acl_file].into_iter().chain(jwt).chain(http).flatten().chain(listener_acl_files);
    files.map(|path| file_stamp(path)).collect()
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

impl Access {
    /// Reads the files again; nothing is in force yet.
    ///
    /// # Errors
    /// One of them cannot be read, or is wrong.
    pub(crate) fn read_again(&self) -> Result<ReadPolicy, AccessError> {
        let stamps = stamps(&self.config);
        match Policy::read(&self.config) {
            Ok(policy) => Ok(ReadPolicy { policy, stamps }),
            Err(error) => {
                self.read_from.lock().refuse(stamps);
                Err(error)
            }
        }
    }

    /// From now on these rules hold. Says what is other; [`Access::advance`] is to follow if something is.
    pub(crate) fn put_in_force(&self, ReadPolicy { policy, stamps }: ReadPolicy) -> Vec<String> {
        *self.read_from.lock() = ReadFrom::new(stamps);
        let lines = self.policy().difference(&policy);
        *self.policy.write() = Arc::new(policy);
        lines
    }

    /// What was decided by the rules before is asked again.
    pub(crate) fn advance(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a file is another one than was read, and has stopped changing: `seen` is what was seen the last time.
    pub(crate) fn has_changed(&self, seen: &mut AccessSeen) -> bool {
        let now = stamps(&self.config);
        let settled = seen.0.as_ref() == Some(&now);
        let changed = settled && self.read_from.lock().is_not(&now);
        seen.0 = Some(now);
        changed
    }
}

/// A policy that was read, and what its files were then.
pub(crate) struct ReadPolicy {
    policy: Policy,
    stamps: Stamps,
}

/// What the files were when they were looked at last.
#[derive(Debug, Default)]
pub(crate) struct AccessSeen(Option<Stamps>);
