//! Reads out of a damaged redb file whatever can still be read, row by row.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use ::redb::backends::InMemoryBackend;
use ::redb::{
    BackendError, Builder, ConcurrencyMode, Database, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction,
    ReadableDatabase, StorageBackend, TableDefinition,
};
use parking_lot::Mutex;

use super::apply::{KEYED, META, QUEUE, RETAINED, SESSION, SHARED, STATE, SUBSCRIPTION};
use super::clean::{DONE, ENDING};
use super::leaves::{PAGE, Pages};
use super::medium::{Backend, is_unreadable};
use super::orphans::{self, Gaps, Trees};
use super::owner::OWNER;
use super::redb::{FORMAT_VERSION, Fault, contain};
use super::rows::{self, Damage, Kind};
use super::shared_memory::SharedMemory;

/// Rows are copied in pieces of this many bytes, a transaction each.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// How often the keys between two unreadable places are halved in search of a readable one between them.
const HALVINGS_MAX: u32 = 24;

/// Copies every row that is what was written into the fresh database. What could not be read is said in `lost`.
///
/// # Errors
/// The fresh database's; the device fails for now, and what it did not give may be all right.
pub(super) fn copy(old: &Arc<Backend>, fresh: &Database, lost: &mut Vec<String>) -> Result<(), Fault> {
    let around = Arc::new(Around { old: Arc::clone(old), bad: Mutex::default(), failed: Mutex::default() });
    let copied = copy_from(&Arc::new(Backend::new(AroundBad(Arc::clone(&around)))), fresh, lost);
    if let Some(error) = around.failed.lock().take() {
        return Err(error.into());
    }
    match around.bad.lock().len() {
        0 => {}
        1 => lost.push("a page of it could not be read".to_owned()),
        pages => lost.push(format!("{pages} pages of it could not be read")),
    }
    copied
}

fn copy_from(old: &Arc<Backend>, fresh: &Database, lost: &mut Vec<String>) -> Result<(), Fault> {
    let (mut gaps, trees) = (Gaps::default(), Pages::new(old, &healthy_head()?));
    let Some(source) = Source::open(old)? else {
        lost.push("neither of its two states has a readable beginning".to_owned());
        return trees.map_or(Ok(()), |pages| copy_without_redb(&pages, fresh, &mut gaps, lost));
    };
    if let Some(version) = source.format()
        && version > FORMAT_VERSION
    {
        return Err(Fault::Newer(version));
    }
    let of = source.trees;
    let copied = contain(|| copy_tables(source, fresh, &mut gaps, lost));
    let Some(pages) = trees else { return copied };
    match copied {
        // Some of it may be there; what is, is right.
        Err(fault) if fault.is_damage() => {
            lost.push(format!("its tables could not be read to their end: {fault}"));
            copy_without_redb(&pages, fresh, &mut gaps, lost)
        }
        Ok(()) if of == Trees::Older || !gaps.is_empty() => orphans::fill(&pages, fresh, &gaps, of, lost),
        copied => copied,
    }
}

/// What redb finds no beginning of, or gives up on. What has been copied already stays.
fn copy_without_redb(
    pages: &Pages<'_>,
    fresh: &Database,
    gaps: &mut Gaps,
    lost: &mut Vec<String>,
) -> Result<(), Fault> {
    orphans::copy_trees(pages, fresh, gaps, lost)?;
    orphans::fill(pages, fresh, gaps, Trees::Older, lost)
}

fn copy_tables(source: Source, fresh: &Database, gaps: &mut Gaps, lost: &mut Vec<String>) -> Result<(), Fault> {
    let mut copier = Copier { source, fresh, gaps, lost };
    copier.table::<u64>(SESSION, Kind::Session)?;
    copier.table::<u64>(OWNER, Kind::Owner)?;
    copier.table::<u64>(STATE, Kind::State)?;
    copier.table::<(u64, String)>(SUBSCRIPTION, Kind::Subscription)?;
    copier.table::<String>(RETAINED, Kind::Retained)?;
    copier.table::<(u64, u64)>(SHARED, Kind::Shared)?;
    copier.table::<(u64, u64)>(QUEUE, Kind::Queue)?;
    copier.table::<(u64, u64)>(DONE, Kind::Done)?;
    copier.table::<u64>(ENDING, Kind::Ending)?;
    copier.table::<(u8, Vec<u8>)>(KEYED, Kind::Keyed)?;
    copier.meta()
}

/// The damaged file, open at one of its two states.
pub(super) struct Source {
    pub(super) database: ReadOnlyDatabase,
    trees: Trees,
}

impl Source {
    /// The newer state if its beginning can be read, else the one before it. `None`: neither can be.
    ///
    /// # Errors
    /// The device fails for now: what could not be read may be all right.
    pub(super) fn open(old: &Arc<Backend>) -> Result<Option<Self>, Fault> {
        for trees in [Trees::Newest, Trees::Older] {
            match Self::at(old, trees) {
                Ok(source) => return Ok(Some(source)),
                Err(fault) if fault.is_of_device() => return Err(fault),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The newer state. In the one before it what came last is merely missing.
    pub(super) fn newest(old: &Arc<Backend>) -> Result<Self, Fault> {
        Self::at(old, Trees::Newest)
    }

    fn at(old: &Arc<Backend>, trees: Trees) -> Result<Self, Fault> {
        contain(|| {
            let before = trees == Trees::Older;
            let database = Builder::new()
                .set_cache_size(PIECE_BYTES)
                .set_concurrency_mode(ConcurrencyMode::SingleWriter)
                .open_read_only_with_backend(Overlay::new(Arc::clone(old), before)?)?;
            database.begin_read()?.open_table(META)?;
            Ok(Self { database, trees })
        })
    }

    fn format(&self) -> Option<u32> {
        contain(|| {
            let meta = self.database.begin_read()?.open_table(META)?;
            Ok(meta.get(rows::FORMAT)?.and_then(|row| rows::read_format(row.value()).ok()))
        })
        .ok()
        .flatten()
    }

    fn begin(&self) -> Result<ReadTransaction, Fault> {
        contain(|| Ok(self.database.begin_read()?))
    }
}

struct Copier<'a> {
    source: Source,
    fresh: &'a Database,
    gaps: &'a mut Gaps,
    lost: &'a mut Vec<String>,
}

type Rows<K> = Vec<(K, Vec<u8>)>;

impl Copier<'_> {
    fn table<K: SalvageKey>(
        &mut self,
        definition: TableDefinition<'static, K::Redb, &'static [u8]>,
        kind: Kind,
    ) -> Result<(), Fault> {
        let name = ::redb::TableHandle::name(&definition).to_owned();
        let txn = self.source.begin()?;
        let table = match contain(|| Ok(txn.open_table(definition)?)) {
            Ok(table) => table,
            // An older format had none, or it was not needed yet.
            Err(fault)
                if fault.is_no_table() && matches!(kind, Kind::Keyed | Kind::Done | Kind::Ending | Kind::Owner) =>
            {
                return Ok(());
            }
            Err(fault) => {
                self.lost.push(format!("table {name} could not be read: {fault}"));
                self.gaps.add(kind, None, None);
                return Ok(());
            }
        };
        let mut damaged = 0u64;
        let mut sink = |rows: Rows<K>| -> Result<(), Fault> {
            let txn = self.fresh.begin_write()?;
            {
                let mut to = txn.open_table(definition)?;
                for (key, row) in rows {
                    match key.check(&row, kind) {
                        Ok(()) => drop(to.insert(key.get(), row.as_slice())?),
                        Err(_) => damaged += 1,
                    }
                }
            }
            txn.commit()?;
            Ok(())
        };
        let gaps = copy_around_gaps::<K>(&table, &mut sink)?;
        for (from, to) in gaps {
            self.lost.push(format!("rows of table {name} could not be read, {} to {}", say(&from), say(&to)));
            self.gaps.add(kind, from.map(|key| key.any()), to.map(|key| key.any()));
        }
        if damaged > 0 {
            self.lost.push(format!("{damaged} rows of table {name} were damaged"));
        }
        Ok(())
    }

    fn meta(&mut self) -> Result<(), Fault> {
        let read = contain(|| {
            let meta = self.source.database.begin_read()?.open_table(META)?;
            let mark = meta.get(rows::MARK)?.map(|row| row.value().to_vec());
            let ended = meta.get(rows::ENDED)?.map(|row| row.value().to_vec());
            Ok((mark, ended))
        });
        let (mark, ended) = read.unwrap_or_else(|fault| {
            self.lost.push(format!("table meta could not be read: {fault}"));
            self.gaps.add(Kind::Meta, None, None);
            self.gaps.add(Kind::Ended, None, None);
            (None, None)
        });
        let txn = self.fresh.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            // Rows are as they were: those of an older format are changed as those of a whole file are.
            let format = self.source.format().unwrap_or(1);
            meta.insert(rows::FORMAT, rows::format(format).as_slice())?;
            if let Some(row) = mark.filter(|row| rows::read_mark(row).is_ok()) {
                meta.insert(rows::MARK, row.as_slice())?;
            }
            if let Some(row) = ended.filter(|row| rows::read_ended(row).is_ok()) {
                meta.insert(rows::ENDED, row.as_slice())?;
            }
        }
        txn.commit()?;
        Ok(())
    }
}

fn say(key: &impl Debug) -> String {
    format!("{key:?}")
}

/// A stretch of keys that could not be read: after the one, before the other.
type Gap<K> = (Option<K>, Option<K>);

/// Gives every readable row to the sink. Reads from both ends towards each other; between two places where it cannot go
/// on it tries the middle of the keys, again and again: a page that cannot be read hides its rows only.
fn copy_around_gaps<K: SalvageKey>(
    table: &ReadOnlyTable<K::Redb, &'static [u8]>,
    sink: &mut impl FnMut(Rows<K>) -> Result<(), Fault>,
) -> Result<Vec<Gap<K>>, Fault> {
    let mut gaps = Vec::new();
    let mut open = vec![(None, None, 0)];
    while let Some((from, to, depth)) = open.pop() {
        let (low, stopped) = walk::<K>(table, &from, &to, false, sink)?;
        if !stopped {
            continue;
        }
        let (high, _) = walk::<K>(table, &low, &to, true, sink)?;
        let middle = match (&low, &high) {
            (Some(low), Some(high)) if depth < HALVINGS_MAX => K::between(low, high),
            _ => None,
        };
        match middle {
            Some(middle) => {
                open.push((low, Some(middle.clone()), depth + 1));
                open.push((Some(middle), high, depth + 1));
            }
            None => gaps.push((low, high)),
        }
    }
    gaps.sort();
    // Neighbours found by halving are one stretch.
    let mut joined = Vec::<Gap<K>>::new();
    for (from, to) in gaps {
        match joined.last_mut() {
            Some(last) if last.1.is_some() && last.1 == from => last.1 = to,
            _ => joined.push((from, to)),
        }
    }
    Ok(joined)
}

/// Reads rows strictly between two keys in one direction until the end or until it cannot go on; gives the last key
/// that was read (or where it began) and whether it had to stop.
fn walk<K: SalvageKey>(
    table: &ReadOnlyTable<K::Redb, &'static [u8]>,
    from: &Option<K>,
    to: &Option<K>,
    backward: bool,
    sink: &mut impl FnMut(Rows<K>) -> Result<(), Fault>,
) -> Result<(Option<K>, bool), Fault> {
    let (mut from, mut to) = (from.clone(), to.clone());
    loop {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let read = contain(|| {
            let bound = |key: &Option<K>| key.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let (from, to) = (bound(&from), bound(&to));
            let mut range = table.range::<<K::Redb as ::redb::Value>::SelfType<'_>>((
                from.as_ref().map(SalvageKey::get),
                to.as_ref().map(SalvageKey::get),
            ))?;
            while bytes < PIECE_BYTES {
                let Some(row) = (if backward { range.next_back() } else { range.next() }) else {
                    return Ok(true);
                };
                let (key, row) = row?;
                let row = row.value().to_vec();
                bytes += row.len() + 64;
                rows.push((K::of(key.value()), row));
            }
            Ok(false)
        });
        let last = rows.last().map(|(key, _): &(K, _)| key.clone());
        sink(rows)?;
        let at = if backward { &mut to } else { &mut from };
        if last.is_some() {
            *at = last;
        }
        match read {
            Ok(true) => return Ok((at.clone(), false)),
            Ok(false) => {}
            Err(_) => return Ok((at.clone(), true)),
        }
    }
}

/// A key of a table, owned.
trait SalvageKey: Clone + Ord + Debug {
    type Redb: ::redb::Key + 'static;
    fn of(key: <Self::Redb as ::redb::Value>::SelfType<'_>) -> Self;
    fn get(&self) -> <Self::Redb as ::redb::Value>::SelfType<'_>;
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage>;
    /// As a key of any table.
    fn any(&self) -> orphans::Key;
    /// A key between the two, about in the middle, if there is one and it can be told.
    fn between(_low: &Self, _high: &Self) -> Option<Self> {
        None
    }
}

fn middle(low: u64, high: u64) -> Option<u64> {
    let middle = low.midpoint(high);
    (low < middle && middle < high).then_some(middle)
}

impl SalvageKey for u64 {
    fn any(&self) -> orphans::Key {
        orphans::Key::Id(*self)
    }
    type Redb = u64;
    fn of(key: u64) -> Self {
        key
    }
    fn get(&self) -> u64 {
        *self
    }
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage> {
        rows::body(row, kind, self).map(|_| ())
    }
    fn between(low: &Self, high: &Self) -> Option<Self> {
        middle(*low, *high)
    }
}

impl SalvageKey for (u64, u64) {
    fn any(&self) -> orphans::Key {
        orphans::Key::Pair(self.0, self.1)
    }
    type Redb = (u64, u64);
    fn of(key: (u64, u64)) -> Self {
        key
    }
    fn get(&self) -> (u64, u64) {
        *self
    }
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage> {
        rows::body(row, kind, self).map(|_| ())
    }
    fn between(low: &Self, high: &Self) -> Option<Self> {
        if low.0 == high.0 {
            return middle(low.1, high.1).map(|second| (low.0, second));
        }
        // The beginning of a session or commit between the two, or of the higher one.
        let first = low.0.midpoint(high.0).max(low.0 + 1);
        ((first, 0) < *high).then_some((first, 0)).or_else(|| middle(0, high.1).map(|second| (high.0, second)))
    }
}

impl SalvageKey for String {
    fn any(&self) -> orphans::Key {
        orphans::Key::Text(self.clone())
    }
    type Redb = &'static str;
    fn of(key: &str) -> Self {
        key.to_owned()
    }
    fn get(&self) -> &str {
        self
    }
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage> {
        rows::body(row, kind, &self.as_str()).map(|_| ())
    }
}

impl SalvageKey for (u64, String) {
    fn any(&self) -> orphans::Key {
        orphans::Key::Filter(self.0, self.1.clone())
    }
    type Redb = (u64, &'static str);
    fn of(key: (u64, &str)) -> Self {
        (key.0, key.1.to_owned())
    }
    fn get(&self) -> (u64, &str) {
        (self.0, &self.1)
    }
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage> {
        rows::body(row, kind, &self.get()).map(|_| ())
    }
    fn between(low: &Self, high: &Self) -> Option<Self> {
        middle(low.0, high.0).map(|first| (first, String::new()))
    }
}

impl SalvageKey for (u8, Vec<u8>) {
    fn any(&self) -> orphans::Key {
        orphans::Key::Keyed(self.0, self.1.clone())
    }
    type Redb = (u8, &'static [u8]);
    fn of(key: (u8, &[u8])) -> Self {
        (key.0, key.1.to_vec())
    }
    fn get(&self) -> (u8, &[u8]) {
        (self.0, &self.1)
    }
    fn check(&self, row: &[u8], kind: Kind) -> Result<(), Damage> {
        rows::body(row, kind, &self.get()).map(|_| ())
    }
}

/// The damaged file, with zeros where it cannot be read: redb refuses all of a file after one error.
struct Around {
    old: Arc<Backend>,
    /// Pages that cannot be read: each is tried once.
    bad: Mutex<BTreeSet<u64>>,
    /// The first error that says nothing of what the device has.
    failed: Mutex<Option<io::Error>>,
}

impl Around {
    /// Whether it was read; not: a part of it cannot be.
    fn try_read(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        match self.old.read(offset, out) {
            Ok(()) => Ok(true),
            Err(error) if is_unreadable(&error) => Ok(false),
            Err(error) => {
                let again = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                self.failed.lock().get_or_insert(error);
                Err(again)
            }
        }
    }

    fn has_bad(&self, offset: u64, len: usize) -> bool {
        let pages = offset / PAGE as u64..(offset + len as u64).div_ceil(PAGE as u64);
        self.bad.lock().range(pages).next().is_some()
    }
}

struct AroundBad(Arc<Around>);

impl Debug for AroundBad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AroundBad").finish_non_exhaustive()
    }
}

impl StorageBackend for AroundBad {
    fn len(&self) -> io::Result<u64> {
        self.0.old.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if !self.0.has_bad(offset, out.len()) && self.0.try_read(offset, out)? {
            return Ok(());
        }
        let mut at = offset;
        let (first, rest) = out.split_at_mut(out.len().min(PAGE - usize::try_from(offset).unwrap_or(0) % PAGE));
        for part in std::iter::once(first).chain(rest.chunks_mut(PAGE)) {
            if self.0.has_bad(at, part.len()) {
                part.fill(0);
            } else if !self.0.try_read(at, part)? {
                self.0.bad.lock().insert(at / PAGE as u64);
                part.fill(0);
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// The damaged file as a reader beside a living writer would see it: redb then takes the state as it is, without the
/// verification of the whole file that it has already failed. Reads nothing but what is asked for, writes nothing.
struct Overlay {
    old: Arc<Backend>,
    len: u64,
    /// The header, made readable.
    head: Vec<u8>,
}

impl Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("len", &self.len).finish_non_exhaustive()
    }
}

/// redb's header: the magic number, the byte of flags after it, and the geometry, which never changes, until here.
const HEAD_BYTES: usize = 64;
const FLAGS_AT: usize = 9;
/// Which of the two states is the newer one.
const PRIMARY: u8 = 1;

/// What the beginning of a healthy file looks like, for a file whose beginning is damaged.
fn healthy_head() -> Result<Vec<u8>, Fault> {
    let healthy = Arc::new(InMemoryBackend::new());
    drop(Builder::new().create_with_backend(SharedMemory(Arc::clone(&healthy)))?);
    let mut head = vec![0; HEAD_BYTES];
    healthy.read(0, &mut head)?;
    Ok(head)
}

impl Overlay {
    fn new(old: Arc<Backend>, before: bool) -> Result<Self, Fault> {
        let mut head = healthy_head()?;
        let len = old.len()?;
        let mut flags = [0];
        if len > HEAD_BYTES as u64 {
            old.read(FLAGS_AT as u64, &mut flags)?;
        }
        // Neither "needs recovery" nor "not flushed" nor "two phases": only which state is the newer one.
        let [flags] = flags;
        if let Some(to) = head.get_mut(FLAGS_AT) {
            *to = (flags & PRIMARY) ^ u8::from(before);
        }
        Ok(Self { old, len, head })
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.max(4096))
    }

    /// A file that was cut off reads as zeros beyond its end.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let there = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        if let Some(there) = out.get_mut(..there)
            && !there.is_empty()
        {
            self.old.read(offset, there)?;
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in out.iter_mut().zip(self.head.iter().skip(start)) {
            *to = *from;
        }
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    // Nobody else can have the file: it has been set aside.
    fn try_lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
