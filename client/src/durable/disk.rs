//! A disk for tests: it fails, forgets what was not synced, and is started again.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

use super::place::{Backend, Failures, Place, RESERVE};

const PAGE: u64 = super::salvage::PAGE as u64;

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fail {
    Read,
    Write,
    Sync,
}

#[derive(Debug, Default)]
struct State {
    /// As a program reads it.
    live: Vec<u8>,
    /// As it is after a power cut.
    safe: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    exists: bool,
    mark: Option<u64>,
    aside: Vec<Vec<u8>>,
    /// What fails, after how many of its kind, and how often.
    fails: Option<(Fail, u64, u64)>,
    failed: u64,
    /// Pages that were written: those have room on the disk.
    used: BTreeSet<u64>,
    /// How many pages may be, with those of the reserve.
    room: Option<usize>,
    reserve: usize,
    /// Bytes that were read, and written.
    carried: (u64, u64),
    /// Pages that cannot be read, for good, until they are written.
    bad_pages: BTreeSet<u64>,
    /// The file that is to take the place of this one.
    fresh: Option<Disk>,
    /// The program has ended: what it still wants to write is not written.
    dead: bool,
    dice: u64,
}

/// The disk; clones are the same one, for another program.
#[derive(Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>, Failures);

impl Clone for Disk {
    fn clone(&self) -> Self {
        Self(self.0.clone(), Failures::default())
    }
}

impl Disk {
    pub(crate) fn fail(&self, what: Fail, after: u64, times: u64) {
        self.0.lock().fails = Some((what, after, times));
    }

    /// The page at a place cannot be read from now on.
    pub(crate) fn break_page(&self, at: u64) {
        self.0.lock().bad_pages.insert(at / PAGE);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        (state.fails, state.room) = (None, None);
    }

    /// From now on there is room for so many bytes more than there are.
    pub(crate) fn fills_after(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.room = Some(state.used.len() + state.reserve + (bytes / PAGE) as usize);
    }

    /// Bytes that were read, and written, since this was asked the last time.
    pub(crate) fn carried(&self) -> (u64, u64) {
        std::mem::take(&mut self.0.lock().carried)
    }

    /// How often something has failed.
    pub(crate) fn failed(&self) -> u64 {
        self.0.lock().failed
    }

    /// From now on nothing is written any more: for a program that is about to be dropped.
    pub(crate) fn program_ends(&self) {
        self.0.lock().dead = true;
    }

    /// The power is cut: some of what was not synced is there, some is not.
    pub(crate) fn power_cut(&self) {
        let mut state = self.0.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        for (at, data) in unsynced {
            if state.chance(2) {
                put(&mut state.safe, at, &data);
            }
        }
        state.live = state.safe.clone();
        state.dead = false;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().live.clone()
    }

    pub(crate) fn set_bytes(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        (state.live, state.safe) = (bytes.to_vec(), bytes.to_vec());
        state.unsynced.clear();
        state.used = (0..(bytes.len() as u64).div_ceil(PAGE)).collect();
        state.exists = true;
    }

    pub(crate) fn remove(&self) {
        self.set_bytes(&[]);
        self.0.lock().exists = false;
    }

    pub(crate) fn set_aside_count(&self) -> usize {
        self.0.lock().aside.len()
    }
}

fn put(file: &mut [u8], at: u64, data: &[u8]) {
    // It may have been made shorter since.
    for (to, from) in file.iter_mut().skip(at as usize).zip(data) {
        *to = *from;
    }
}

impl State {
    fn chance(&mut self, of: u64) -> bool {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33).is_multiple_of(of)
    }

    /// Whether the disk has room for what is written to a place. If not, it is full then.
    fn has_room(&mut self, pages: std::ops::RangeInclusive<u64>) -> bool {
        for page in pages {
            if self.room.is_some_and(|room| self.used.len() + self.reserve >= room) && !self.used.contains(&page) {
                return false;
            }
            self.used.insert(page);
        }
        true
    }

    fn fails(&mut self, what: Fail) -> bool {
        match &mut self.fails {
            Some((kind, after, times)) if *kind == what && *times > 0 => {
                if *after > 0 {
                    *after -= 1;
                    return false;
                }
                *times -= 1;
                self.failed += 1;
                true
            }
            _ => false,
        }
    }
}

/// The pages of so many bytes at a place.
fn pages(at: u64, bytes: usize) -> std::ops::RangeInclusive<u64> {
    at / PAGE..=(at + bytes.max(1) as u64 - 1) / PAGE
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.carried.0 += out.len() as u64;
        let pages = pages(offset, out.len());
        if state.fails(Fail::Read) || state.bad_pages.range(pages).next().is_some() {
            return Err(eio());
        }
        let at = offset as usize;
        let from = state.live.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.dead {
            return Err(eio());
        }
        state.used.retain(|page| *page < len.div_ceil(PAGE));
        state.live.resize(len as usize, 0);
        state.safe.resize(len as usize, 0);
        Ok(())
    }

    /// After one that failed the system takes for written what is not.
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.dead {
            return Err(eio());
        }
        let fails = state.fails(Fail::Sync);
        let unsynced = std::mem::take(&mut state.unsynced);
        for (at, data) in unsynced {
            if !fails || state.chance(2) {
                put(&mut state.safe, at, &data);
            }
        }
        if fails { Err(eio()) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.dead || state.fails(Fail::Write) {
            return Err(eio());
        }
        if !state.has_room(pages(offset, data.len())) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.carried.1 += data.len() as u64;
        put(&mut state.live, offset, data);
        // Devices put another place there.
        let (first, end) = (offset.div_ceil(PAGE), (offset + data.len() as u64) / PAGE);
        state.bad_pages.retain(|page| !(first..end).contains(page));
        state.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}

impl Place for Disk {
    fn name(&self) -> String {
        "in memory".to_owned()
    }

    fn failures(&self) -> &Failures {
        &self.1
    }

    fn exists(&self) -> bool {
        self.0.lock().exists
    }

    fn open(&self) -> io::Result<Backend> {
        self.0.lock().exists = true;
        Ok(Backend::new(self.clone(), self.1.clone()))
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        Ok(Backend::new(self.clone(), self.1.clone()))
    }

    fn mark(&self) -> Option<u64> {
        self.0.lock().mark
    }

    fn set_mark(&self, opened: u64) -> io::Result<()> {
        self.0.lock().mark = Some(opened);
        Ok(())
    }

    fn set_aside(&self) -> io::Result<String> {
        let bytes = self.bytes();
        self.remove();
        let mut state = self.0.lock();
        state.aside.push(bytes);
        // They are the other file's.
        state.bad_pages.clear();
        Ok("aside".to_owned())
    }

    fn fresh(&self) -> io::Result<Backend> {
        let fresh = Self::default();
        let mut state = self.0.lock();
        fresh.0.lock().fails = state.fails;
        state.fresh = Some(fresh.clone());
        Ok(Backend::new(fresh, Failures::default()))
    }

    fn put_fresh_in_place(&self) -> io::Result<String> {
        let fresh = self.0.lock().fresh.take().ok_or(io::ErrorKind::NotFound)?;
        let aside = self.set_aside()?;
        self.set_bytes(&fresh.0.lock().safe);
        Ok(aside)
    }

    fn keep_reserve(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let pages = RESERVE / PAGE as usize;
        if state.room.is_some_and(|room| state.used.len() + pages > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.reserve = pages;
        Ok(())
    }

    fn give_up_reserve(&self) -> bool {
        std::mem::take(&mut self.0.lock().reserve) > 0
    }
}
