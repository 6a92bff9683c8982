//! Where the outbox lies: a file, and beside it a mark that says that it has been one. A file that has come to nothing is
//! known by it, and so is an older copy.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::salvage::PAGE;

/// A read that the device fails is made again after each of these.
const READ_AGAIN: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(100)];
/// More pages than these that cannot be read, and nothing else, are a device that is gone.
const UNREADABLE_ALONE: usize = 16;

/// What has failed of a file, whoever of those who work on it was told so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Failed>);

#[derive(Debug, Default)]
struct Failed {
    writing: AtomicBool,
    reading: AtomicBool,
}

impl Failures {
    /// Whether the system may take for written what is not on the disk.
    pub(super) fn of_writing(&self) -> bool {
        self.0.writing.load(Ordering::Relaxed)
    }

    /// Whether something could not be read since this was asked the last time.
    pub(super) fn take_of_reading(&self) -> bool {
        self.0.reading.swap(false, Ordering::Relaxed)
    }

    fn noted<T>(&self, of: impl Fn(&Failed) -> &AtomicBool, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() {
            of(&self.0).store(true, Ordering::Relaxed);
        }
        done
    }
}

/// The disk, or a quota, is full. What was written before is as it was.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// A place for the file of an outbox.
pub(crate) trait Place: Send {
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Of the file that [`Place::open`] and [`Place::open_to_read`] open.
    fn failures(&self) -> &Failures;
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
    /// Makes an empty file beside it, which is to take its place.
    fn fresh(&self) -> io::Result<Backend>;
    /// Puts that one in its place, and sets the old one aside; gives the new name of that.
    fn put_fresh_in_place(&self) -> io::Result<String>;
    /// Takes a little room of the disk that only [`Place::give_up_reserve`] gives back, unless it has it.
    fn keep_reserve(&self) -> io::Result<()>;
    /// Whether there was some.
    fn give_up_reserve(&self) -> bool;
}

/// A file grows by far less while only small things are written to it.
pub(super) const RESERVE: usize = 64 * PAGE;

/// The file of the outbox, open.
#[derive(Debug)]
pub(crate) struct Backend(Box<dyn StorageBackend>, Failures);

impl Backend {
    pub(crate) fn new(backend: impl StorageBackend, failures: Failures) -> Self {
        Self(Box::new(backend), failures)
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
        // What cannot be read is not held by the system. What was never written has no room on the disk yet, and that may be
        // full.
        self.read_through(|at, piece| {
            let pages = (at..).step_by(PAGE).zip(piece.chunks(PAGE));
            let mut written = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            written.try_for_each(|(at, page)| self.0.write(at, page))
        })?;
        self.0.sync_data()?;
        self.1.0.writing.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn unless_full(&self, written: io::Result<()>) -> io::Result<()> {
        match written {
            Err(error) if is_full(&error) => Err(error),
            written => self.1.noted(|failed| &failed.writing, written),
        }
    }

    /// Shows what is in it, piece by piece, without the pages that cannot be read; how many those are. An error when none
    /// can.
    fn read_through(&self, mut show: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<usize> {
        const PIECE: usize = 16 * PAGE;
        let (len, mut at) = (self.len()?, 0);
        let (mut size_max, mut unreadable, mut any) = (PIECE, 0, false);
        let mut buffer = vec![0; PIECE];
        while at < len {
            let size = usize::try_from(len - at).map_or(size_max, |left| left.min(size_max));
            let Some(piece) = buffer.get_mut(..size) else { break };
            match self.read_patiently(at, piece, unreadable) {
                Ok(()) => {
                    show(at, piece)?;
                    any = true;
                    at += size as u64;
                }
                Err(error) if !is_eio(&error) || unreadable > UNREADABLE_ALONE && !any => return Err(error),
                // It is not known yet which of its pages it is.
                Err(_) if size_max > PAGE => size_max = PAGE,
                Err(_) => {
                    unreadable += 1;
                    at += size as u64;
                }
            }
        }
        if any || len == 0 { Ok(unreadable) } else { Err(ErrorKind::Other.into()) }
    }

    /// Where much cannot be read there is no time for pauses: it was read with them before.
    fn read_patiently(&self, at: u64, piece: &mut [u8], unreadable: usize) -> io::Result<()> {
        if unreadable > UNREADABLE_ALONE {
            return self.0.read(at, piece).or_else(|_| self.0.read(at, piece));
        }
        self.read(at, piece)
    }

    /// All of it in memory, with zeros where it cannot be read, and how many pages those are.
    pub(super) fn in_memory(&self) -> io::Result<(Vec<u8>, usize)> {
        let mut copy = vec![0; usize::try_from(self.len()?).map_err(|_| ErrorKind::OutOfMemory)?];
        let unreadable = self.read_through(|at, piece| {
            let to = usize::try_from(at).ok().and_then(|at| copy.get_mut(at..at + piece.len()));
            to.ok_or(ErrorKind::UnexpectedEof)?.copy_from_slice(piece);
            Ok(())
        })?;
        Ok((copy, unreadable))
    }
}

/// The device cannot read it.
pub(super) fn is_eio(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    cfg!(unix) && error.raw_os_error() == Some(EIO)
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    /// redb refuses the whole file after the first error, and one that is over at the next try is none.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        for pause in READ_AGAIN {
            match self.0.read(offset, out) {
                Err(error) if is_eio(&error) => std::thread::sleep(pause),
                read => return self.1.noted(|failed| &failed.reading, read),
            }
        }
        self.1.noted(|failed| &failed.reading, self.0.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.unless_full(self.0.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.noted(|failed| &failed.writing, self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.unless_full(self.0.write(offset, data))
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
pub(crate) struct Folder(PathBuf, Failures);

impl Folder {
    pub(crate) fn of(file: &Path) -> Self {
        Self(file.to_owned(), Failures::default())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// A name for what is set aside.
    fn free_name(&self) -> io::Result<PathBuf> {
        let mut names = (1..u32::MAX).map(|number| self.beside(&format!(".damaged-{number}")));
        names.find(|name| !name.exists()).ok_or(ErrorKind::AlreadyExists.into())
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

    fn failures(&self) -> &Failures {
        &self.1
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
        Ok(Backend::new(FileBackend::new(file).map_err(io::Error::other)?, self.1.clone()))
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        Ok(Backend::new(FileBackend::new(File::open(&self.0)?).map_err(io::Error::other)?, self.1.clone()))
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
        let to = self.free_name()?;
        std::fs::rename(&self.0, &to)?;
        self.sync_names()?;
        Ok(to.display().to_string())
    }

    fn fresh(&self) -> io::Result<Backend> {
        let path = self.beside(".new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_permissions(std::fs::metadata(&self.0)?.permissions())?;
        Ok(Backend::new(FileBackend::new(file).map_err(io::Error::other)?, Failures::default()))
    }

    fn put_fresh_in_place(&self) -> io::Result<String> {
        let to = self.free_name()?;
        // With a second name for the old one there is an outbox at each moment; not every file system has such names.
        if std::fs::hard_link(&self.0, &to).is_err() {
            std::fs::rename(&self.0, &to)?;
        }
        std::fs::rename(self.beside(".new"), &self.0)?;
        self.sync_names()?;
        Ok(to.display().to_string())
    }

    fn keep_reserve(&self) -> io::Result<()> {
        let path = self.beside(".reserve");
        if std::fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE as u64) {
            return Ok(());
        }
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&noise(RESERVE))?;
            file.sync_data()
        });
        if written.is_err() {
            self.give_up_reserve();
        }
        written
    }

    fn give_up_reserve(&self) -> bool {
        std::fs::remove_file(self.beside(".reserve")).is_ok()
    }
}

/// Bytes that no file system makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let random = RandomState::new();
    (0..len as u64).step_by(8).flat_map(|at| random.hash_one(at).to_ne_bytes()).collect()
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
