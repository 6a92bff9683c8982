//! Where the store's file lives: a folder, or, in tests, memory.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redb::backends::{FileBackend, InMemoryBackend};
use ::redb::{BackendError, StorageBackend};

use super::StoreError;
use super::generation;
use super::journal::device;
use super::space::Space;
use super::unsynced::Unsynced;

/// The store's file.
pub const FILE_NAME: &str = "forebay.redb";
/// What was committed since the store's file was written last.
pub const JOURNAL_NAME: &str = "forebay.journal";
/// Locked by whoever has the store; what is in it is of [`generation`].
const LOCK_NAME: &str = "forebay.lock";
const CHECK_NAME: &str = "forebay.check";
/// Its first line is the name of the file that is being recovered.
pub(super) const RECOVERING_NAME: &str = "forebay.recovering";
const DAMAGED_PREFIX: &str = "forebay-damaged-";
/// Rows that could not be read, one JSON object a line, for whoever wants to look at them.
const DAMAGED_ROWS_NAME: &str = "damaged-rows.jsonl";
/// A read that the device fails is tried again after each of these.
const READ_AGAIN: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(100)];
/// What [`Medium::damaged_row`] keeps at most: evidence must not fill the disk.
const DAMAGED_ROWS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A place for the store's file. It can be opened again after an error, and set aside when it is damaged.
pub trait Medium: Send + Sync + 'static {
    /// What to call it in messages.
    fn name(&self) -> String;

    /// Opens the file; makes an empty one if there is none.
    ///
    /// # Errors
    /// Those of the device.
    fn open(&self) -> io::Result<Backend>;

    /// Opens the file to look at it: no privilege to write is needed.
    ///
    /// # Errors
    /// Those of the device; there is none.
    fn open_to_read(&self) -> io::Result<Backend> {
        self.open()
    }

    /// Whether there is a file.
    fn exists(&self) -> bool {
        true
    }

    /// The number of a commit that the store has had for certain, as [`Medium::set_generation`] noted it outside of the file;
    /// `None`: nothing was noted.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Notes the number of a commit that is in the file.
    ///
    /// # Errors
    /// Those of the device.
    fn set_generation(&self, commit: u64) -> io::Result<()> {
        let _ = commit;
        Ok(())
    }

    /// Moves the file out of the way under a name that contains `stamp`; gives that name and what is in it. It is being
    /// recovered until [`Medium::recovered`], over restarts.
    ///
    /// # Errors
    /// Those of the device.
    fn set_aside(&self, stamp: &str) -> io::Result<(String, Backend)>;

    /// What was set aside and is still being recovered: by a program that came to an end meanwhile. What it had made is
    /// thrown away.
    ///
    /// # Errors
    /// Those of the device.
    fn unrecovered(&self) -> io::Result<Option<(String, Backend)>>;

    /// All that can be had of what was set aside is in the new file, durably.
    ///
    /// # Errors
    /// Those of the device.
    fn recovered(&self) -> io::Result<()>;

    /// Keeps a line about a row that could not be read.
    ///
    /// # Errors
    /// Those of the device.
    fn damaged_row(&self, line: &str) -> io::Result<()>;

    /// Notes that the file must be written again and checked whole at the next start, or that it has been.
    ///
    /// # Errors
    /// Those of the device.
    fn set_suspect(&self, suspect: bool) -> io::Result<()>;

    /// Whether [`Medium::set_suspect`] was called with `true` last, by this program or one before it.
    fn suspect(&self) -> bool;

    /// How much room there is.
    ///
    /// # Errors
    /// Those of the device.
    fn space(&self) -> io::Result<Space>;

    /// Opens the journal; `None`: there is none.
    ///
    /// # Errors
    /// Those of the device.
    fn open_journal(&self) -> io::Result<Option<Backend>> {
        Ok(None)
    }

    /// Makes a journal of so many bytes with this beginning, and opens it; all of it is on the disk then. `None`: this medium
    /// has no place for one.
    ///
    /// # Errors
    /// Those of the device.
    fn make_journal(&self, size: u64, head: &[u8]) -> io::Result<Option<Backend>> {
        let _ = (size, head);
        Ok(None)
    }

    /// Moves the journal out of the way under a name that contains `stamp`; gives that name.
    ///
    /// # Errors
    /// Those of the device.
    fn set_journal_aside(&self, stamp: &str) -> io::Result<String> {
        let _ = stamp;
        Err(ErrorKind::NotFound.into())
    }

    /// The journal is not needed any more.
    ///
    /// # Errors
    /// Those of the device.
    fn remove_journal(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Any storage backend: what [`Medium`] gives.
#[derive(Debug)]
pub struct Backend {
    on: Box<dyn StorageBackend>,
    watcher: Option<Arc<Unsynced>>,
    /// Set when a part of it could not be read, again and again.
    unreadable: Option<Arc<AtomicBool>>,
}

/// It is there, and the device cannot read it: no later try will have it.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

impl Backend {
    /// Of any kind.
    pub fn new(backend: impl StorageBackend) -> Self {
        Self { on: Box::new(backend), watcher: None, unreadable: None }
    }

    /// Notes that a part of it cannot be read.
    pub(super) fn noting(self, unreadable: &Arc<AtomicBool>) -> Self {
        Self { unreadable: Some(Arc::clone(unreadable)), ..self }
    }

    /// Tells the watcher of every write and sync.
    pub(super) fn watched_by(self, watcher: &Arc<Unsynced>) -> Self {
        Self { watcher: Some(Arc::clone(watcher)), ..self }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.on.len()
    }

    /// A sector that the device cannot read, again and again, is damage; the same error of a write or a sync is the
    /// device's. One that it can read at the next try (a bus that was reset, a cable) is nothing: redb would refuse the
    /// whole file after the first error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        const EIO: i32 = 5;
        let unreadable = |error: &io::Error| cfg!(unix) && error.raw_os_error() == Some(EIO);
        for pause in READ_AGAIN {
            match self.on.read(offset, out) {
                Err(error) if unreadable(&error) => {
                    tracing::warn!(
                        offset,
                        bytes = out.len(),
                        "the store could not be read ({error}); it is tried again"
                    );
                    std::thread::sleep(pause);
                }
                read => return read,
            }
        }
        self.on.read(offset, out).map_err(|error| match error {
            error if unreadable(&error) => {
                if let Some(noted) = &self.unreadable {
                    noted.store(true, Ordering::Relaxed);
                }
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            error => error,
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.on.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.on.sync_data();
        if let Some(watcher) = &self.watcher {
            watcher.syncs(&result);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(watcher) = &self.watcher {
            watcher.writes(offset, data.len());
        }
        self.on.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.on.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.on.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.on.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.on.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.on.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.on.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.on.query_lock_range(start, end)
    }
}

/// A folder that holds the store, and the lock that keeps a second broker out of it.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    file: PathBuf,
    /// Held until the store is dropped. The store's file has a lock as well, but it is let go when the file is
    /// reopened or set aside. `None`: there is nothing that could be locked.
    lock: Option<File>,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it. What stands in the way there (a folder that has the name of one of
    /// the store's files, a file of somebody else, a file system that cannot be written) is no reason to fail: what can be
    /// read is served.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another broker has it, [`StoreError::Io`] if it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |source: io::Error| StoreError::Io { path: dir.display().to_string(), source: source.into() };
        make_folder(dir).map_err(io)?;
        let lock = lock_file(dir);
        match lock.as_ref().map(File::try_lock) {
            Some(Ok(())) => {}
            Some(Err(std::fs::TryLockError::WouldBlock)) => {
                return Err(StoreError::InUse { path: dir.display().to_string() });
            }
            Some(Err(std::fs::TryLockError::Error(error))) => {
                tracing::error!("{} cannot be locked: {error}; see to it that no other broker uses it", dir.display());
            }
            None => tracing::error!(
                "{} has nothing that can be locked; see to it that no other broker uses it",
                dir.display()
            ),
        }
        let folder = Self { dir: dir.to_owned(), file: dir.join(FILE_NAME), lock };
        for name in [RECOVERING_NAME, CHECK_NAME] {
            folder.clear_way(name);
        }
        Ok(folder)
    }

    /// Makes the names in the folder durable: a file that was created or renamed is not, until this.
    fn sync(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    fn suspect_path(&self) -> PathBuf {
        self.dir.join(CHECK_NAME)
    }

    /// A folder where one of the store's files should be was made by somebody else: it is moved away, with what is in it.
    fn clear_way(&self, name: &str) {
        let path = self.dir.join(name);
        if path.is_dir() {
            self.move_away(name, "folder", "is a folder");
        }
    }

    /// A name that no damaged file has yet.
    fn free_name(&self, stamp: &str, ending: &str) -> PathBuf {
        let mut name = format!("{DAMAGED_PREFIX}{stamp}.{ending}");
        let mut again = 1;
        while self.dir.join(&name).exists() {
            again += 1;
            name = format!("{DAMAGED_PREFIX}{stamp}-{again}.{ending}");
        }
        self.dir.join(name)
    }

    /// Moves one of the store's files to a name of its own, and says so.
    fn move_away(&self, name: &str, kind: &str, why: &str) {
        let path = self.dir.join(name);
        let mut to = self.dir.join(format!("{name}-{kind}"));
        let mut again = 1;
        while to.exists() {
            again += 1;
            to = self.dir.join(format!("{name}-{kind}-{again}"));
        }
        match std::fs::rename(&path, &to) {
            Ok(()) => tracing::error!("{} {why}; it was moved to {}", path.display(), to.display()),
            Err(error) => tracing::error!("{} {why}, and it cannot be moved away: {error}", path.display()),
        }
    }

    /// Notes which file is about to be moved away and recovered.
    fn note_recovery(&self, name: &str) -> io::Result<()> {
        let mut note = File::create(self.dir.join(RECOVERING_NAME))?;
        note.write_all(format!("{name}\n").as_bytes())?;
        note.sync_all()?;
        self.sync()
    }

    /// What is noted of a recovery that is not done.
    fn recovering(&self) -> io::Result<Note> {
        let note = match std::fs::read(self.dir.join(RECOVERING_NAME)) {
            // A folder that could not be moved away says nothing.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
                return Ok(Note::None);
            }
            note => note?,
        };
        let note = String::from_utf8_lossy(&note);
        let name = note.lines().next().unwrap_or_default();
        // Cut off while it was written, which is before the file is moved.
        if DAMAGED_PREFIX.starts_with(&*note) || note.starts_with(DAMAGED_PREFIX) && !note.contains('\n') {
            return Ok(Note::TooEarly);
        }
        let is_name = name.starts_with(DAMAGED_PREFIX) && !name.contains(['/', '\\', '\0']);
        let from = self.dir.join(name);
        Ok(match is_name {
            true if from.exists() => Note::Of(from),
            true => Note::TooEarly,
            false => Note::Unreadable,
        })
    }
}

/// What `forebay.recovering` says.
enum Note {
    None,
    /// This file is being recovered.
    Of(PathBuf),
    /// It ended before the file was moved.
    TooEarly,
    /// No name of a file that was set aside.
    Unreadable,
}

/// Makes the folder of a store. Where the device does not let it be made it is left out: it may come back.
///
/// # Errors
/// It cannot be there: the path is wrong, or its owner is another.
pub fn make_folder(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir_all(dir) {
        Err(error) if is_of_device(&error) => {
            tracing::error!("{} cannot be made: {error}", dir.display());
            Ok(())
        }
        made => made,
    }
}

/// An error that goes away with its cause, and not with another configuration.
fn is_of_device(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        || cfg!(unix) && error.raw_os_error() == Some(EIO)
}

/// What is locked: the file for it, as it can be opened; else the folder itself.
fn lock_file(dir: &Path) -> Option<File> {
    let path = dir.join(LOCK_NAME);
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    if let Err(error) = &opened {
        tracing::error!("{} cannot be written: {error}", path.display());
    }
    opened.or_else(|_| File::open(&path)).or_else(|_| File::open(dir)).ok()
}

/// To look at: what is no file has nothing in it.
fn set_aside_backend(path: &Path) -> io::Result<Backend> {
    if path.is_dir() {
        return Ok(Backend::new(InMemoryBackend::new()));
    }
    read_backend(path)
}

fn read_backend(path: &Path) -> io::Result<Backend> {
    Ok(Backend::new(FileBackend::new(File::open(path)?).map_err(io::Error::other)?))
}

fn file_backend(path: &Path) -> io::Result<Backend> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(Backend::new(FileBackend::new(file).map_err(io::Error::other)?))
}

impl Medium for Folder {
    fn name(&self) -> String {
        self.file.display().to_string()
    }

    fn open(&self) -> io::Result<Backend> {
        let new = !self.file.exists();
        let backend = file_backend(&self.file)?;
        if new {
            self.sync()?;
        }
        Ok(backend)
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        match self.recovering()? {
            Note::Of(file) => read_backend(&file),
            Note::None | Note::TooEarly | Note::Unreadable => read_backend(&self.file),
        }
    }

    fn exists(&self) -> bool {
        self.file.exists()
    }

    fn generation(&self) -> Option<u64> {
        generation::read(self.lock.as_ref()?)
    }

    fn set_generation(&self, commit: u64) -> io::Result<()> {
        let Some(lock) = &self.lock else { return Err(ErrorKind::Unsupported.into()) };
        generation::write(lock, commit)
    }

    fn set_aside(&self, stamp: &str) -> io::Result<(String, Backend)> {
        let to = self.free_name(stamp, "redb");
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        if let Err(error) = self.note_recovery(&name) {
            // On a full disk nothing of it may remain either.
            let _ = std::fs::remove_file(self.dir.join(RECOVERING_NAME));
            return Err(error);
        }
        std::fs::rename(&self.file, &to)?;
        self.sync()?;
        Ok((to.display().to_string(), set_aside_backend(&to)?))
    }

    fn unrecovered(&self) -> io::Result<Option<(String, Backend)>> {
        let from = match self.recovering()? {
            Note::Of(from) => from,
            Note::None => return Ok(None),
            Note::TooEarly => {
                self.recovered()?;
                return Ok(None);
            }
            Note::Unreadable => {
                let why = "names no file that was set aside: the store is taken as it is";
                self.move_away(RECOVERING_NAME, "unreadable", why);
                return Ok(None);
            }
        };
        if self.file.exists() {
            std::fs::remove_file(&self.file)?;
            self.sync()?;
        }
        Ok(Some((from.display().to_string(), set_aside_backend(&from)?)))
    }

    fn recovered(&self) -> io::Result<()> {
        match std::fs::remove_file(self.dir.join(RECOVERING_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn damaged_row(&self, line: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.dir.join(DAMAGED_ROWS_NAME))?;
        if file.metadata()?.len() > DAMAGED_ROWS_BYTES_MAX {
            return Ok(());
        }
        file.write_all(format!("{line}\n").as_bytes())
    }

    fn set_suspect(&self, suspect: bool) -> io::Result<()> {
        if suspect == self.suspect() {
            return Ok(());
        }
        if suspect {
            File::create(self.suspect_path())?.sync_all()?;
        } else {
            std::fs::remove_file(self.suspect_path())?;
        }
        // A power cut must not make it unsaid.
        self.sync()
    }

    fn suspect(&self) -> bool {
        self.suspect_path().exists()
    }

    fn space(&self) -> io::Result<Space> {
        Space::of(&self.dir, &self.file)
    }

    fn open_journal(&self) -> io::Result<Option<Backend>> {
        match device::open(&self.dir.join(JOURNAL_NAME)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn make_journal(&self, size: u64, head: &[u8]) -> io::Result<Option<Backend>> {
        let path = self.dir.join(JOURNAL_NAME);
        device::make(&path, size, head)?;
        self.sync()?;
        device::open(&path).map(Some)
    }

    fn set_journal_aside(&self, stamp: &str) -> io::Result<String> {
        let to = self.free_name(stamp, "journal");
        std::fs::rename(self.dir.join(JOURNAL_NAME), &to)?;
        self.sync()?;
        Ok(to.display().to_string())
    }

    fn remove_journal(&self) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(JOURNAL_NAME))?;
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Its next reads fail with EIO, so many.
    #[derive(Clone, Debug, Default)]
    struct Flaky(Arc<AtomicUsize>);

    impl StorageBackend for Flaky {
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn read(&self, _offset: u64, out: &mut [u8]) -> io::Result<()> {
            let less = |left: usize| left.checked_sub(1);
            if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                return Err(io::Error::from_raw_os_error(5));
            }
            out.fill(7);
            Ok(())
        }

        fn set_len(&self, _len: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_read_that_fails_for_a_moment_is_made_again() {
        let flaky = Flaky::default();
        let backend = Backend::new(flaky.clone());
        for failures in 0..=READ_AGAIN.len() {
            flaky.0.store(failures, Ordering::Relaxed);
            let mut out = [0; 3];
            backend.read(0, &mut out).unwrap();
            assert_eq!(out, [7; 3], "{failures} failures");
        }
        flaky.0.store(READ_AGAIN.len() + 1, Ordering::Relaxed);
        let error = backend.read(0, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "a sector that cannot be read is damage");
    }
}
