//! A disk in memory that keeps apart what was synced and what was only written, and can lose its power or fail.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::io::{self, Error, ErrorKind};
use std::sync::Arc;

use forebay::store::medium::{Backend, Medium};
use forebay::store::space::Space;
use parking_lot::Mutex;
use redb::StorageBackend;

use crate::Seed;

const SECTOR: u64 = 512;
/// What cannot be read alone: a page of the system's cache.
pub const PAGE: u64 = 4096;

/// What the disk does wrong, once, when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The power goes; what is under way is torn.
    Cut,
    /// The power goes within a sync.
    CutInSync,
    /// A sync fails with EIO. As on Linux, what was written is taken for clean from then on, and may never reach the disk.
    SyncFails,
    /// A write fails with ENOSPC.
    NoRoom,
    /// A read fails with EIO, and not again: a bus was reset.
    ReadFails,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(u64, Vec<u8>),
    Len(u64),
}

/// One file.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// What a power cut leaves for certain.
    synced: Vec<u8>,
    /// What reads see.
    seen: Vec<u8>,
    /// What was written since the last sync, in order.
    unsynced: Vec<Write>,
    /// The last of them was under way when the power went.
    torn: bool,
    /// Pages that cannot be read, whenever it is tried, until they are written.
    bad: BTreeSet<u64>,
}

impl Kept {
    fn of(bytes: Vec<u8>) -> Self {
        Self { synced: bytes.clone(), seen: bytes, ..Self::default() }
    }

    fn after_cut(&self, sector: u64, seed: &mut Seed) -> Self {
        let bytes = survivors(&self.synced, &self.unsynced, self.torn, sector, seed);
        Self { bad: self.bad.clone(), ..Self::of(bytes) }
    }

    fn is_bad(&self, offset: u64, len: usize) -> bool {
        self.bad.range(offset / PAGE..(offset + len as u64).div_ceil(PAGE)).next().is_some()
    }

    /// Where it is written the device takes other sectors.
    fn heal(&mut self, offset: u64, len: usize) {
        let (first, end) = (offset.div_ceil(PAGE), (offset + len as u64) / PAGE);
        self.bad.retain(|page| !(first..end).contains(page));
    }
}

/// The files of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Store,
    Journal,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    store: Kept,
    /// `None`: there is none.
    journal: Option<Kept>,
    /// What the device writes whole; 0 for the smallest there is.
    sector: u64,
    trouble: Option<(u64, Trouble)>,
    seed: u64,
    off: bool,
    /// It is not there, and may come back.
    unplugged: bool,
    suspect: bool,
    /// The medium does not say how large the file is, as a file that is too large to be checked whole at every start.
    large: bool,
    set_aside: u32,
    /// What was set aside and is being recovered.
    recovering: Option<Kept>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Contents>>);

/// The disk as a store's file is read and written through it. Each has its own sight of it: after a power cut the old one
/// stays dead.
#[derive(Debug)]
struct Device(Disk, Which);

impl Disk {
    /// A disk with this on it.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::with(Kept::of(bytes))
    }

    fn with(store: Kept) -> Self {
        let contents = Contents { store, ..Contents::default() };
        Self(Arc::new(Mutex::new(contents)))
    }

    /// A page of a file cannot be read from now on.
    pub fn spoil(&self, which: Which, page: u64) {
        self.0.lock().file(which).bad.insert(page);
    }

    /// What the journal has.
    pub fn journal_bytes(&self) -> Vec<u8> {
        self.0.lock().journal.as_ref().map(|journal| journal.seen.clone()).unwrap_or_default()
    }

    /// So many bytes are written whole or not at all.
    pub fn set_sector(&self, bytes: u64) {
        self.0.lock().sector = bytes;
    }

    /// What reads see.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().store.seen.clone()
    }

    /// The trouble comes at the so-manieth write or sync from now.
    pub fn expect(&self, after: u64, trouble: Trouble, seed: &mut Seed) {
        let mut contents = self.0.lock();
        contents.trouble = Some((after, trouble));
        contents.seed = seed.next();
    }

    /// No trouble any more; true if it came.
    pub fn calm(&self) -> bool {
        self.0.lock().trouble.take().is_none()
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    pub fn set_large(&self, large: bool) {
        self.0.lock().large = large;
    }

    pub fn was_set_aside(&self) -> bool {
        self.0.lock().set_aside > 0
    }

    /// The device is gone until [`Disk::plug_in`]: whatever is done with it fails, and changes nothing.
    pub fn unplug(&self) {
        self.0.lock().unplugged = true;
    }

    pub fn plug_in(&self) {
        self.0.lock().unplugged = false;
    }

    /// Another disk with the same on it.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// The power goes, now.
    pub fn cut(&self) {
        self.0.lock().off = true;
    }

    /// The program was killed, and the system goes on: what was written is there, and a power cut may still lose what was not
    /// synced. As [`Disk::power_on`], it returns a new one.
    pub fn killed(&self) -> Self {
        let mut contents = self.0.lock();
        let fresh = Contents { trouble: None, off: false, unplugged: false, ..contents.clone() };
        contents.off = true;
        Self(Arc::new(Mutex::new(fresh)))
    }

    /// The power is back: what was not synced is there, or not, or partly. The disk that is returned is a new one, so
    /// that what still holds the old one cannot touch it.
    pub fn power_on(&self, seed: &mut Seed) -> Self {
        let contents = self.0.lock();
        let (sector, suspect, set_aside) = (contents.sector, contents.suspect, contents.set_aside);
        let size = sector.max(SECTOR);
        let fresh = Contents {
            store: contents.store.after_cut(size, seed),
            journal: contents.journal.as_ref().map(|journal| journal.after_cut(size, seed)),
            sector,
            suspect,
            set_aside,
            recovering: contents.recovering.clone(),
            ..Contents::default()
        };
        Self(Arc::new(Mutex::new(fresh)))
    }
}

/// What is on the disk when any part of the writes has reached it: each sector for itself, in any order, and one write
/// that stopped within a sector.
fn survivors(synced: &[u8], unsynced: &[Write], last_is_torn: bool, sector: u64, seed: &mut Seed) -> Vec<u8> {
    let mut disk = synced.to_vec();
    // All or nothing or anything: each of them is likely in the field.
    let mood = seed.below(5);
    let torn = seed.one_in(3).then(|| seed.below(unsynced.len() as u64) as usize);
    for (at, write) in unsynced.iter().enumerate() {
        let keep = match mood {
            0 => false,
            1 => true,
            _ => seed.one_in(2),
        };
        if torn == Some(at) || (last_is_torn && at + 1 == unsynced.len()) {
            tear(&mut disk, write, sector, seed);
        } else if keep {
            apply(&mut disk, write);
        } else if mood == 4 {
            sectors(&mut disk, write, sector, seed);
        }
    }
    disk
}

fn apply(disk: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Len(len) => disk.resize(*len as usize, 0),
        Write::Bytes(offset, data) => put(disk, *offset, data),
    }
}

fn put(disk: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    // The change of the length was lost, and the write came through.
    if disk.len() < end {
        disk.resize(end, 0);
    }
    disk[start..end].copy_from_slice(data);
}

/// Any of a write's sectors.
fn sectors(disk: &mut Vec<u8>, write: &Write, sector: u64, seed: &mut Seed) {
    let Write::Bytes(offset, data) = write else { return };
    let mut at = 0;
    while at < data.len() {
        let here = offset + at as u64;
        let len = ((sector - here % sector) as usize).min(data.len() - at);
        if seed.one_in(2) {
            put(disk, here, &data[at..at + len]);
        }
        at += len;
    }
}

/// The write stops at a sector's boundary, within a sector, or before it began.
fn tear(disk: &mut Vec<u8>, write: &Write, sector: u64, seed: &mut Seed) {
    match write {
        Write::Len(_) if seed.one_in(2) => apply(disk, write),
        Write::Len(_) => {}
        Write::Bytes(offset, data) => match seed.below(3) {
            0 => sectors(disk, write, sector, seed),
            1 => put(disk, *offset, &data[..seed.below(data.len() as u64 + 1) as usize]),
            _ => {
                // Its end is there and its beginning is not.
                let from = seed.below(data.len() as u64 + 1) as usize;
                put(disk, offset + from as u64, &data[from..]);
            }
        },
    }
}

impl Contents {
    fn check(&self) -> io::Result<()> {
        match (self.off, self.unplugged) {
            (true, _) => Err(Error::other("the power is off")),
            (_, true) => Err(Error::from_raw_os_error(19)),
            _ => Ok(()),
        }
    }

    /// The trouble of this operation, if its time has come.
    fn trouble(&mut self, sync: bool) -> Option<Trouble> {
        let (left, trouble) = self.trouble.as_mut().filter(|(_, trouble)| *trouble != Trouble::ReadFails)?;
        *left = left.saturating_sub(1);
        let fits = match trouble {
            Trouble::Cut => true,
            Trouble::SyncFails | Trouble::CutInSync => sync,
            Trouble::NoRoom => !sync,
            Trouble::ReadFails => false,
        };
        let due = (*left == 0 && fits).then_some(*trouble);
        if due.is_some() {
            self.trouble = None;
        }
        self.off |= matches!(due, Some(Trouble::Cut | Trouble::CutInSync));
        due
    }

    fn file(&mut self, which: Which) -> &mut Kept {
        match which {
            Which::Store => &mut self.store,
            Which::Journal => self.journal.get_or_insert_default(),
        }
    }

    fn check_read(&mut self) -> io::Result<()> {
        self.check()?;
        let Some((left, Trouble::ReadFails)) = self.trouble.as_mut() else { return Ok(()) };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Ok(());
        }
        self.trouble = None;
        Err(Error::from_raw_os_error(5))
    }

    fn write(&mut self, which: Which, write: Write) -> io::Result<()> {
        self.check()?;
        let (trouble, seed, sector) = (self.trouble(false), self.seed, self.sector.max(SECTOR));
        let file = self.file(which);
        match trouble {
            None => {}
            Some(Trouble::NoRoom) => {
                // Some of it was written before the room ran out.
                tear(&mut file.seen, &write, sector, &mut Seed(seed));
                file.unsynced.push(write);
                return Err(ErrorKind::StorageFull.into());
            }
            Some(_) => {
                file.unsynced.push(write);
                file.torn = true;
                return Err(Error::other("the power went"));
            }
        }
        apply(&mut file.seen, &write);
        if let Write::Bytes(offset, data) = &write {
            file.heal(*offset, data.len());
        }
        file.unsynced.push(write);
        Ok(())
    }

    fn sync(&mut self, which: Which) -> io::Result<()> {
        self.check()?;
        let (trouble, seed, sector) = (self.trouble(true), self.seed, self.sector.max(SECTOR));
        let file = self.file(which);
        match trouble {
            None => {
                for write in std::mem::take(&mut file.unsynced) {
                    apply(&mut file.synced, &write);
                }
                Ok(())
            }
            Some(Trouble::SyncFails) => {
                let unsynced = std::mem::take(&mut file.unsynced);
                file.synced = survivors(&file.synced, &unsynced, false, sector, &mut Seed(seed));
                // The length is the file system's own, and it is written again.
                file.synced.resize(file.seen.len(), 0);
                Err(Error::from_raw_os_error(5))
            }
            Some(_) => Err(Error::other("the power went")),
        }
    }
}

impl StorageBackend for Device {
    fn len(&self) -> io::Result<u64> {
        let mut contents = self.0.0.lock();
        contents.check()?;
        Ok(contents.file(self.1).seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut contents = self.0.0.lock();
        contents.check_read()?;
        let file = contents.file(self.1);
        if file.is_bad(offset, out.len()) {
            return Err(Error::from_raw_os_error(5));
        }
        let bytes = file.seen.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.0.lock().write(self.1, Write::Len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.0.lock().sync(self.1)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.0.lock().write(self.1, Write::Bytes(offset, data.to_vec()))
    }
}

impl Medium for Disk {
    fn name(&self) -> String {
        "the disk".to_owned()
    }

    fn open(&self) -> io::Result<Backend> {
        self.0.lock().check()?;
        Ok(Backend::new(Device(self.clone(), Which::Store)))
    }

    fn set_aside(&self, _stamp: &str) -> io::Result<(String, Backend)> {
        let mut contents = self.0.lock();
        contents.check()?;
        contents.set_aside += 1;
        let old = std::mem::take(&mut contents.store);
        contents.recovering = Some(old.clone());
        Ok(("set aside".to_owned(), Backend::new(Device(Self::with(old), Which::Store))))
    }

    fn unrecovered(&self) -> io::Result<Option<(String, Backend)>> {
        let mut contents = self.0.lock();
        contents.check()?;
        let Some(old) = contents.recovering.clone() else { return Ok(None) };
        contents.store = Kept::default();
        Ok(Some(("set aside".to_owned(), Backend::new(Device(Self::with(old), Which::Store)))))
    }

    fn recovered(&self) -> io::Result<()> {
        let mut contents = self.0.lock();
        contents.check()?;
        contents.recovering = None;
        Ok(())
    }

    fn damaged_row(&self, _line: &str) -> io::Result<()> {
        self.0.lock().check()
    }

    fn set_suspect(&self, suspect: bool) -> io::Result<()> {
        let mut contents = self.0.lock();
        contents.check()?;
        contents.suspect = suspect;
        Ok(())
    }

    fn suspect(&self) -> bool {
        self.0.lock().suspect
    }

    fn space(&self) -> io::Result<Space> {
        let contents = self.0.lock();
        let file = if contents.large { 0 } else { contents.store.seen.len() as u64 };
        Ok(Space { free: u64::MAX, file })
    }

    fn open_journal(&self) -> io::Result<Option<Backend>> {
        let contents = self.0.lock();
        contents.check()?;
        Ok(contents.journal.is_some().then(|| Backend::new(Device(self.clone(), Which::Journal))))
    }

    /// Made beside and renamed: it is there whole, or not.
    fn make_journal(&self, size: u64, head: &[u8]) -> io::Result<Option<Backend>> {
        let mut contents = self.0.lock();
        contents.check()?;
        if contents.trouble(true).is_some() {
            return Err(Error::other("the device failed"));
        }
        let mut bytes = head.to_vec();
        bytes.resize(size as usize, 0);
        contents.journal = Some(Kept::of(bytes));
        drop(contents);
        self.open_journal()
    }

    fn set_journal_aside(&self, _stamp: &str) -> io::Result<String> {
        let mut contents = self.0.lock();
        contents.check()?;
        contents.set_aside += 1;
        contents.journal = None;
        Ok("the journal set aside".to_owned())
    }

    fn remove_journal(&self) -> io::Result<()> {
        let mut contents = self.0.lock();
        contents.check()?;
        contents.journal = None;
        Ok(())
    }
}
