//! Where the outbox lies: a file, and beside it a mark that says that it has been one. A file that has come to nothing is
//! known by it, and so is an older copy.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{BackendError, StorageBackend};

/// A read that the device fails is made again after each of these.
const READ_AGAIN: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(100)];

/// A place for the file of an outbox.
pub(crate) trait Place: Send {
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Whether there is a file.
    fn exists(&self) -> bool;
    /// Opens the file; makes an empty one if there is none.
    fn open(&self) -> io::Result<Backend>;
    /// Opens a file that is there to read it and nothing else: one on a file system that takes no writes.
    fn open_to_read(&self) -> io::Result<Backend>;
    /// How often the outbox has been opened, as it was noted beside the file; `None`: nothing was noted.
    fn mark(&self) -> Option<u64>;
    /// Notes it.
    fn set_mark(&self, opened: u64) -> io::Result<()>;
    /// Moves the file out of the way; gives its new name.
    fn set_aside(&self) -> io::Result<String>;
}

/// The file of the outbox, open.
#[derive(Debug)]
pub(crate) struct Backend(Box<dyn StorageBackend>);

impl Backend {
    pub(crate) fn new(backend: impl StorageBackend) -> Self {
        Self(Box::new(backend))
    }

    /// Whether somebody has it open to write. If not, nobody else can until this is dropped.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.0.try_lock_range(Bound::Unbounded, Bound::Unbounded), Ok(false))
    }

    /// Writes all of it again, unless somebody else has it. After a failed write or sync the system may hold what is not on
    /// the disk, and take it for written.
    pub(super) fn write_again(&self) -> io::Result<()> {
        if self.is_in_use() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.copy_to(&*self.0)?;
        self.0.sync_data()
    }

    /// Writes what is in it to `other`, which is as long.
    fn copy_to(&self, other: &dyn StorageBackend) -> io::Result<()> {
        const PIECE: usize = 64 * 1024;
        let len = self.len()?;
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < len {
            let size = usize::try_from(len - at).map_or(PIECE, |left| left.min(PIECE));
            let Some(piece) = piece.get_mut(..size) else { break };
            self.read(at, piece)?;
            other.write(at, piece)?;
            at += size as u64;
        }
        Ok(())
    }

    /// The same in memory: a database can be opened there that cannot be where it lies.
    pub(super) fn in_memory(&self) -> io::Result<InMemoryBackend> {
        let copy = InMemoryBackend::new();
        copy.set_len(self.len()?)?;
        self.copy_to(&copy)?;
        Ok(copy)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    /// redb refuses the whole file after the first error, and one that is over at the next try is none.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        const EIO: i32 = 5;
        for pause in READ_AGAIN {
            match self.0.read(offset, out) {
                Err(error) if cfg!(unix) && error.raw_os_error() == Some(EIO) => std::thread::sleep(pause),
                read => return read,
            }
        }
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}

/// A path, and what lies beside it under names that begin with its own.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn of(file: &Path) -> Self {
        Self(file.to_owned())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()> {
        match self.0.parent().filter(|_| cfg!(unix)) {
            Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Digits of a mark: it is written in place, always as long.
const DIGITS: usize = 20;

fn line(opened: u64) -> String {
    format!("opened {opened:0DIGITS$} {:0DIGITS$}\n", !opened)
}

/// `None`: none, or one that a power cut has torn.
fn read_line(text: &str) -> Option<u64> {
    let opened = text.strip_prefix("opened ")?.get(..DIGITS)?.parse().ok()?;
    (text == line(opened)).then_some(opened)
}

impl Place for Folder {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }

    fn open(&self) -> io::Result<Backend> {
        let new = !self.0.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.0)?;
        if new {
            self.sync_names()?;
        }
        Ok(Backend::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        Ok(Backend::new(FileBackend::new(File::open(&self.0)?).map_err(io::Error::other)?))
    }

    fn mark(&self) -> Option<u64> {
        let mut text = String::new();
        let file = File::open(self.beside(".mark")).ok()?;
        file.take(line(0).len() as u64).read_to_string(&mut text).ok()?;
        read_line(&text)
    }

    fn set_mark(&self, opened: u64) -> io::Result<()> {
        let path = self.beside(".mark");
        let new = !path.exists();
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(line(opened).as_bytes())?;
        file.sync_data()?;
        if new { self.sync_names() } else { Ok(()) }
    }

    fn set_aside(&self) -> io::Result<String> {
        for number in 1..u32::MAX {
            let to = self.beside(&format!(".damaged-{number}"));
            if !to.exists() {
                std::fs::rename(&self.0, &to)?;
                self.sync_names()?;
                return Ok(to.display().to_string());
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_mark_is_none() {
        for opened in [0, 1, u64::MAX] {
            let whole = line(opened);
            assert_eq!(read_line(&whole), Some(opened));
            for end in 0..whole.len() {
                assert_eq!(whole.get(..end).and_then(read_line), None, "{end} bytes");
            }
            assert_eq!(read_line(&whole.replacen('0', "3", 1)).filter(|read| *read == opened), None);
        }
        // Half of it is of the one before.
        let (new, old) = (line(8), line(7));
        let torn: String = new.chars().take(27).chain(old.chars().skip(27)).collect();
        assert_eq!(read_line(&torn), None);
    }
}
