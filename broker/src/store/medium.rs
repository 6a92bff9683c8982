//! Where the store's file lives: a folder, or, in tests, memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};

use super::StoreError;
use super::space::Space;
use super::unsynced::Unsynced;

/// The store's file.
pub const FILE_NAME: &str = "forebay.redb";
const LOCK_NAME: &str = "forebay.lock";
/// Its first line is the name of the file that is being recovered.
pub(super) const RECOVERING_NAME: &str = "forebay.recovering";
const DAMAGED_PREFIX: &str = "forebay-damaged-";
/// Rows that could not be read, one JSON object a line, for whoever wants to look at them.
const DAMAGED_ROWS_NAME: &str = "damaged-rows.jsonl";
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
}

/// Any storage backend: what [`Medium`] gives.
#[derive(Debug)]
pub struct Backend {
    on: Box<dyn StorageBackend>,
    watcher: Option<Arc<Unsynced>>,
}

impl Backend {
    /// Of any kind.
    pub fn new(backend: impl StorageBackend) -> Self {
        Self { on: Box::new(backend), watcher: None }
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

    /// A sector that the device cannot read any more is damage; the same error of a write or a sync is the device's.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        const EIO: i32 = 5;
        self.on.read(offset, out).map_err(|error| match error.raw_os_error() {
            Some(EIO) if cfg!(unix) => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
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
    /// reopened or set aside.
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another broker has it, [`StoreError::Io`] if it cannot be made or written.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |source: io::Error| StoreError::Io { path: dir.display().to_string(), source: source.into() };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK_NAME)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { path: dir.display().to_string() });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(Self { dir: dir.to_owned(), file: dir.join(FILE_NAME), _lock: lock })
    }

    /// Makes the names in the folder durable: a file that was created or renamed is not, until this.
    fn sync(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    fn suspect_path(&self) -> PathBuf {
        self.dir.join("forebay.check")
    }
}

fn file_backend(path: &Path, create: bool) -> io::Result<Backend> {
    let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
    Ok(Backend::new(FileBackend::new(file).map_err(io::Error::other)?))
}

impl Medium for Folder {
    fn name(&self) -> String {
        self.file.display().to_string()
    }

    fn open(&self) -> io::Result<Backend> {
        let new = !self.file.exists();
        let backend = file_backend(&self.file, true)?;
        if new {
            self.sync()?;
        }
        Ok(backend)
    }

    fn set_aside(&self, stamp: &str) -> io::Result<(String, Backend)> {
        let mut name = format!("{DAMAGED_PREFIX}{stamp}.redb");
        let mut again = 1;
        while self.dir.join(&name).exists() {
            again += 1;
            name = format!("{DAMAGED_PREFIX}{stamp}-{again}.redb");
        }
        let mut note = File::create(self.dir.join(RECOVERING_NAME))?;
        note.write_all(format!("{name}\n").as_bytes())?;
        note.sync_all()?;
        self.sync()?;
        let to = self.dir.join(name);
        std::fs::rename(&self.file, &to)?;
        self.sync()?;
        Ok((to.display().to_string(), file_backend(&to, false)?))
    }

    fn unrecovered(&self) -> io::Result<Option<(String, Backend)>> {
        let note = match std::fs::read_to_string(self.dir.join(RECOVERING_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            note => note?,
        };
        let name = note.lines().next().unwrap_or_default();
        let from = self.dir.join(name);
        if !name.starts_with(DAMAGED_PREFIX) || !from.exists() {
            // It ended before the file was moved.
            self.recovered()?;
            return Ok(None);
        }
        if self.file.exists() {
            std::fs::remove_file(&self.file)?;
            self.sync()?;
        }
        Ok(Some((from.display().to_string(), file_backend(&from, false)?)))
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
        if suspect {
            File::create(self.suspect_path())?;
        } else if self.suspect() {
            std::fs::remove_file(self.suspect_path())?;
        }
        Ok(())
    }

    fn suspect(&self) -> bool {
        self.suspect_path().exists()
    }

    fn space(&self) -> io::Result<Space> {
        Space::of(&self.dir, &self.file)
    }
}
