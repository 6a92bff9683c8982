//! A copy of the store while the broker goes on: what one read transaction sees, which is what the last commit before it
//! left. The copy is a store file of its own, and is there under its name only when it is whole and on the disk.

use std::fs::File;
use std::path::{Path, PathBuf};

use ::redb::{Builder, Database, Durability, Key, ReadTransaction, TableDefinition, TableError, TableHandle};

use ::redb::backends::FileBackend;

use super::apply::{KEYED, META, QUEUE, REFS, RETAINED, SESSION, SHARED, STATE, SUBSCRIPTION};
use super::clean::{DONE, ENDING};
use super::owner::OWNER;
use super::redb::{Fault, contain};
use super::rows::{self, Damage, Kind};
use super::{BackupError, Copied};
use crate::beside;

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

/// Copies all that `txn` sees into a new file at `to`.
pub(super) fn backup(txn: &ReadTransaction, to: &Path) -> Result<Copied, BackupError> {
    let failed = |source| BackupError::Write { path: to.to_owned(), source };
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    // What devices have sent is nobody else's to read.
    let file = beside::create(&partial, 0o600).map_err(failed)?;
    let mut guard = Partial(Some(partial.clone()));
    let fault = |fault: Fault| BackupError::Store { path: to.to_owned(), detail: fault.to_string() };
    let damaged = contain(|| copy(txn, file)).map_err(fault)?;
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
    let bytes = file.metadata().map(|meta| meta.len()).map_err(failed)?;
    Ok(Copied { bytes, damaged })
}

#[derive(Default)]
struct Found {
    /// Tables that have not been copied.
    names: Vec<String>,
    damaged: Vec<String>,
}

/// Gives the rows that are not what was written; they are in the copy as they are.
fn copy(from: &ReadTransaction, file: File) -> Result<Vec<String>, Fault> {
    let to = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
    let mut found = Found::default();
    for table in from.list_tables()? {
        found.names.push(table.name().to_owned());
    }
    copy_table(from, &to, QUEUE, &mut found, |key, row| rows::body(row, Kind::Queue, key).map(drop))?;
    copy_table(from, &to, SHARED, &mut found, |key, row| rows::body(row, Kind::Shared, key).map(drop))?;
    copy_table(from, &to, REFS, &mut found, |key, row| rows::body(row, Kind::Refs, key).map(drop))?;
    copy_table(from, &to, STATE, &mut found, |key, row| rows::body(row, Kind::State, key).map(drop))?;
    copy_table(from, &to, SESSION, &mut found, |key, row| rows::body(row, Kind::Session, key).map(drop))?;
    copy_table(from, &to, SUBSCRIPTION, &mut found, |key, row| rows::body(row, Kind::Subscription, key).map(drop))?;
    copy_table(from, &to, RETAINED, &mut found, |key, row| rows::body(row, Kind::Retained, key).map(drop))?;
    copy_table(from, &to, KEYED, &mut found, |key, row| rows::body(row, Kind::Keyed, key).map(drop))?;
    copy_table(from, &to, DONE, &mut found, |key, row| rows::body(row, Kind::Done, key).map(drop))?;
    copy_table(from, &to, ENDING, &mut found, |key, row| rows::body(row, Kind::Ending, key).map(drop))?;
    copy_table(from, &to, OWNER, &mut found, |key, row| rows::body(row, Kind::Owner, key).map(drop))?;
    copy_table(from, &to, META, &mut found, |key, row| match *key {
        rows::FORMAT => rows::read_format(row).map(drop),
        rows::MARK => rows::read_mark(row).map(drop),
        rows::ENDED => rows::read_ended(row).map(drop),
        _ => Ok(()),
    })?;
    if !found.names.is_empty() {
        // A table that was added and is not copied here: a copy that lacks it is no copy.
        return Err(Damage("there is a table that a backup does not know").into());
    }
    // Nothing of it need be on the disk before all of it is.
    let mut txn = to.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.commit()?;
    Ok(found.damaged)
}

/// Copies one table row by row, and looks at each with `check`; takes its name from `names`.
fn copy_table<K: Key + 'static>(
    from: &ReadTransaction,
    to: &Database,
    definition: TableDefinition<'_, K, &'static [u8]>,
    found: &mut Found,
    check: impl for<'a> Fn(&K::SelfType<'a>, &[u8]) -> Result<(), Damage>,
) -> Result<(), Fault> {
    let source = match from.open_table(definition) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    found.names.retain(|name| name != definition.name());
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
                let (key, value) = (key.value(), value.value());
                bytes += value.len() + 64;
                if let Err(damage) = check(&key, value) {
                    found.damaged.push(format!("row {key:?} of table {} is damaged ({damage})", definition.name()));
                }
                table.insert(key, value)?;
            }
        }
        txn.commit()?;
        if rows.peek().is_none() {
            return Ok(());
        }
    }
}
