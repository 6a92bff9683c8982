//! How much room there is.

use std::path::Path;

/// Room as the store sees it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free on the disk, for a program without privileges.
    pub free: u64,
    /// What the store's file takes on the disk, holes apart.
    pub file: u64,
}

impl Space {
    /// Never a reason to refuse: where the system does not say.
    pub const UNKNOWN: Self = Self { free: u64::MAX, file: 0 };

    /// Asks the file system.
    ///
    /// # Errors
    /// What the system says; a file that is not there yet takes nothing.
    #[cfg(unix)]
    pub fn of(dir: &Path, file: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let disk = rustix::fs::statvfs(dir)?;
        let file = std::fs::metadata(file).map_or(0, |meta| meta.blocks().saturating_mul(512));
        Ok(Self { free: disk.f_bavail.saturating_mul(disk.f_frsize), file })
    }

    /// Not known on this system: a full disk is noticed when a write fails.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn of(_dir: &Path, file: &Path) -> std::io::Result<Self> {
        Ok(Self { free: u64::MAX, file: std::fs::metadata(file).map_or(0, |meta| meta.len()) })
    }
}
