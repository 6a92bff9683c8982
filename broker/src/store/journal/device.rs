//! The journal's file on a real disk: written past the system's cache where the file system lets it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

use super::super::medium::Backend;
use super::file::BLOCK;

/// What is written at once when a file is made.
const PIECE: usize = 1024 * 1024;

/// Makes the file with this beginning, and zeros up to `size`: all of it is on the disk before it has its name, so that an
/// append later changes nothing but blocks that are there.
///
/// # Errors
/// Those of the device; nothing is left then.
pub fn make(path: &Path, size: u64, head: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let made = fill(&partial, size, head).and_then(|()| std::fs::rename(&partial, path));
    if made.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    made
}

fn fill(path: &Path, size: u64, head: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    // What devices have sent is nobody else's to read.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
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

/// Opens the file. One that cannot be written is opened to be read, and each write fails.
///
/// # Errors
/// It cannot be read.
pub fn open(path: &Path) -> io::Result<Backend> {
    let direct = open_direct(path);
    let (write, how) = match direct {
        Ok(file) => (Some(file), "past the system's cache"),
        Err(_) => (OpenOptions::new().write(true).open(path).ok(), "through the system's cache"),
    };
    tracing::debug!("the journal {} is written {how}", path.display());
    let read = FileBackend::new(File::open(path)?).map_err(io::Error::other)?;
    Ok(Backend::new(JournalFile { read, write }))
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
    write: Option<File>,
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
        self.write.as_ref().ok_or(ErrorKind::ReadOnlyFilesystem)?.sync_data()
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.write.as_ref().ok_or(ErrorKind::ReadOnlyFilesystem)?.write_all_at(data, offset)
    }

    #[cfg(not(unix))]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut file = self.write.as_ref().ok_or(ErrorKind::ReadOnlyFilesystem)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(data)
    }
}
