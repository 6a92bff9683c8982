//! A file that is written beside another and then takes its name, so that there is a whole one at any time.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Makes the file; one that an earlier try has left there is removed. What is no regular file (a link, a pipe, a device) is
/// somebody else's: it is not written through, and not removed. `mode` is that of Unix, before the umask.
///
/// # Errors
/// Those of the device; something else is there.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        std::fs::remove_file(path)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)
}

/// Links that are followed before it is taken for a circle; the system's own limit.
const LINKS_MAX: usize = 40;

/// Where a symbolic link leads to, through others, whether something is there or not.
///
/// # Errors
/// They lead in a circle, or one of them cannot be read.
pub fn followed(to: &Path) -> io::Result<PathBuf> {
    let mut path = to.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let link = std::fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(link);
            }
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_try_has_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.partial");
        std::fs::write(&path, "of before").unwrap();
        assert_eq!(create(&path, 0o600).unwrap().metadata().unwrap().len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x.partial"), dir.path().join("other"));
        std::fs::write(&other, "another's").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(create(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&other).unwrap(), b"another's");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(create(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
