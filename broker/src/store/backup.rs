//! A copy of the store while the broker goes on: what one read transaction sees, which is what the last commit before it
//! left. The copy is a store file of its own, and is there under its name only when it is whole and on the disk.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use ::redb::{Builder, Database, Durability, Key, ReadTransaction, TableDefinition, TableError, TableHandle, Value};

use ::redb::backends::FileBackend;

use super::apply::{KEYED, META, QUEUE, REFS, RETAINED, SESSION, SHARED, STATE, SUBSCRIPTION};
use super::clean::{DONE, ENDING};
use super::owner::OWNER;
use super::redb::{Fault, contain};
use super::{BackupError, rows};

/// Bytes of rows in one transaction of the copy: they are in memory until its end.
const BYTES_A_TRANSACTION: usize = 4 << 20;
/// What the copy's pages may take in memory.
const CACHE_BYTES: usize = 4 << 20;

/// The copy, until it has its name.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Copies all that `txn` sees into a new file at `to`; the answer is its length.
pub(super) fn backup(txn: &ReadTransaction, to: &Path) -> Result<u64, BackupError> {
    let failed = |source| BackupError::Write { path: to.to_owned(), source };
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let file = create(&partial).map_err(failed)?;
    let mut guard = Partial(Some(partial.clone()));
    let fault = |fault: Fault| BackupError::Store { path: to.to_owned(), detail: fault.to_string() };
    contain(|| copy(txn, file)).map_err(fault)?;
    let file = File::open(&partial).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // Not over a file that has come meanwhile.
    std::fs::hard_link(&partial, to)
        .or_else(|error| match to.symlink_metadata() {
            Ok(_) => Err(error),
            // A file system without hard links, such as FAT of a memory stick.
            Err(_) => std::fs::rename(&partial, to).inspect(|()| guard.0 = None),
        })
        .map_err(failed)?;
    drop(guard);
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    file.metadata().map(|meta| meta.len()).map_err(failed)
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    // What devices have sent is nobody else's to read.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn copy(from: &ReadTransaction, file: File) -> Result<(), Fault> {
    let to = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
    let mut names = Vec::new();
    for table in from.list_tables()? {
        names.push(table.name().to_owned());
    }
    copy_table(from, &to, QUEUE, &mut names)?;
    copy_table(from, &to, SHARED, &mut names)?;
    copy_table(from, &to, REFS, &mut names)?;
    copy_table(from, &to, STATE, &mut names)?;
    copy_table(from, &to, SESSION, &mut names)?;
    copy_table(from, &to, SUBSCRIPTION, &mut names)?;
    copy_table(from, &to, RETAINED, &mut names)?;
    copy_table(from, &to, KEYED, &mut names)?;
    copy_table(from, &to, DONE, &mut names)?;
    copy_table(from, &to, ENDING, &mut names)?;
    copy_table(from, &to, OWNER, &mut names)?;
    copy_table(from, &to, META, &mut names)?;
    if !names.is_empty() {
        // A table that was added and is not copied here: a copy that lacks it is no copy.
        return Err(rows::Damage("there is a table that a backup does not know").into());
    }
    // Nothing of it need be on the disk before all of it is.
    let mut txn = to.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.commit()?;
    Ok(())
}

/// Copies one table row by row; takes its name from `names`.
fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    definition: TableDefinition<'_, K, V>,
    names: &mut Vec<String>,
) -> Result<(), Fault> {
    let source = match from.open_table(definition) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    names.retain(|name| name != definition.name());
    let mut rows = source.range::<K::SelfType<'_>>(..)?.peekable();
    loop {
        let mut txn = to.begin_write()?;
        txn.set_durability(Durability::None)?;
        {
            let mut table = txn.open_table(definition)?;
            let mut bytes = 0;
            while bytes < BYTES_A_TRANSACTION
                && let Some(row) = rows.next()
            {
                let (key, value) = row?;
                bytes += V::as_bytes(&value.value()).as_ref().len() + 64;
                table.insert(key.value(), value.value())?;
            }
        }
        txn.commit()?;
        if rows.peek().is_none() {
            return Ok(());
        }
    }
}
