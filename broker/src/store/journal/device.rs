//! The journal's file on a real disk: written past the system's cache where the file system lets it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

use super::super::medium::Backend;
use super::file::BLOCK;
use crate::beside;

/// What is written at once when a file is made.
const PIECE: usize = 1024 * 1024;

/// Makes the file with this beginning, and zeros up to `size`: all of it is on the disk before it has its name, so that an
/// append later changes nothing but blocks that are there.
///
/// # Errors
/// Those of the device; nothing is left then.
pub fn make(path: &Path, size: u64, head: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    // What devices have sent is nobody else's to read.
    let file = beside::create(&partial, 0o600)?;
    let made = fill(file, size, head).and_then(|()| std::fs::rename(&partial, path));
    if made.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    made
}

fn fill(mut file: File, size: u64, head: &[u8]) -> io::Result<()> {
    file.write_all(head)?;
    let zeros = vec![0; PIECE];
    let mut left = size.saturating_sub(head.len() as u64);
    while left > 0 {
        let piece = zeros.get(..usize::try_from(left).unwrap_or(PIECE)).unwrap_or(&zeros);
        file.write_all(piece)?;
        left -= piece.len() as u64;
    }
    file.sync_all()
}

/// Opens the file. One that cannot be written is opened to be read, and each write tries anew whether it can be.
///
/// # Errors
/// It cannot be read.
pub fn open(path: &Path) -> io::Result<Backend> {
    let file = JournalFile::to_read(path)?;
    if let Err(error) = file.writable() {
        tracing::debug!("the journal {} cannot be written for now: {error}", path.display());
    }
    Ok(Backend::new(file))
}

fn open_to_write(path: &Path) -> io::Result<File> {
    match open_direct(path) {
        Ok(file) => {
            tracing::debug!("the journal {} is written past the system's cache", path.display());
            Ok(file)
        }
        Err(error) => {
            let file = OpenOptions::new().write(true).open(path)?;
            // Each commit is slower for it.
            tracing::info!(
                "the journal {} is written through the system's cache: its file system does no direct writes ({error})",
                path.display()
            );
            Ok(file)
        }
    }
}

#[cfg(unix)]
fn is_same(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(target_os = "linux")]
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();

/// Tried by a read: some file systems open a file so and then refuse.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open(path)?;
    let mut memory = vec![0; 2 * BLOCK];
    let from = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
    let block = memory.get_mut(from..from + BLOCK).unwrap_or_default();
    if file.read_at(block, 0)? < BLOCK { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(file) }
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

#[derive(Debug)]
struct JournalFile {
    /// Reading happens at the start: the cache may help.
    read: FileBackend,
    /// The same, to be compared.
    file: File,
    /// Not there until it can be opened: the file system may become writable later.
    write: OnceLock<File>,
    path: PathBuf,
}

impl JournalFile {
    fn to_read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let read = FileBackend::new(file.try_clone()?).map_err(io::Error::other)?;
        Ok(Self { read, file, write: OnceLock::new(), path: path.to_owned() })
    }

    fn writable(&self) -> io::Result<&File> {
        match self.write.get() {
            Some(file) => Ok(file),
            None => {
                let file = open_to_write(&self.path)?;
                if !is_same(&self.file, &file)? {
                    return Err(io::Error::other("another file has its name now"));
                }
                Ok(self.write.get_or_init(|| file))
            }
        }
    }
}

impl StorageBackend for JournalFile {
    fn len(&self) -> io::Result<u64> {
        self.read.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read.read(offset, out)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?.sync_data()
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.writable()?.write_all_at(data, offset)
    }

    #[cfg(not(unix))]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut file = self.writable()?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As after a start on a file system that was read-only then.
    #[test]
    fn a_file_that_could_not_be_written_is_written_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        make(&path, 4 * BLOCK as u64, &[]).unwrap();
        let file = JournalFile::to_read(&path).unwrap();
        let away = dir.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        let memory = vec![7; 2 * BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK);
        let block = memory.get(from..from + BLOCK).unwrap();
        assert!(file.write(0, block).is_err());
        std::fs::copy(&away, &path).unwrap();
        assert!(file.write(0, block).is_err(), "it is another file");
        std::fs::rename(&away, &path).unwrap();
        file.write(0, block).unwrap();
        file.sync_data().unwrap();
        let mut read = vec![0; BLOCK];
        file.read(0, &mut read).unwrap();
        assert_eq!(read, block);
    }
}
