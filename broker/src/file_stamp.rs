//! Whether a file is still the one that was read.

use std::path::Path;
use std::time::SystemTime;

/// What tells that a file is another one. Links are followed: a mounted folder swaps a link to a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    modified: Option<SystemTime>,
    len: u64,
    place: (u64, u64),
}

/// Of several files; `None` for one that cannot be looked at.
pub(crate) type Stamps = Vec<Option<FileStamp>>;

/// Which files something was read from: what is put in force, or refused, is told apart from what has changed since.
#[derive(Debug)]
pub(crate) struct ReadFrom {
    in_force: Stamps,
    refused: Option<Stamps>,
}

impl ReadFrom {
    /// What is in force was read from these.
    pub(crate) fn new(in_force: Stamps) -> Self {
        Self { in_force, refused: None }
    }

    /// These were wrong. It is complained of once, not at each look.
    pub(crate) fn refuse(&mut self, stamps: Stamps) {
        self.refused = Some(stamps);
    }

    /// Whether these are neither what is in force nor what was refused.
    pub(crate) fn is_not(&self, now: &Stamps) -> bool {
        self.in_force != *now && self.refused.as_ref() != Some(now)
    }
}

/// Of the file as it is now; `None` if it cannot be looked at.
pub(crate) fn file_stamp(path: &Path) -> Option<FileStamp> {
    let meta = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let place = {
        use std::os::unix::fs::MetadataExt;
        (meta.dev(), meta.ino())
    };
    #[cfg(not(unix))]
    let place = (0, 0);
    Some(FileStamp { modified: meta.modified().ok(), len: meta.len(), place })
}
