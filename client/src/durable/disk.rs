//! A disk for tests: it fails, forgets what was not synced, and is started again.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

use super::place::{Backend, Place};

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
    /// The program has ended: what it still wants to write is not written.
    dead: bool,
    dice: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub(crate) fn fail(&self, what: Fail, after: u64, times: u64) {
        self.0.lock().fails = Some((what, after, times));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().fails = None;
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

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.fails(Fail::Read) {
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
        put(&mut state.live, offset, data);
        state.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}

impl Place for Disk {
    fn name(&self) -> String {
        "in memory".to_owned()
    }

    fn exists(&self) -> bool {
        self.0.lock().exists
    }

    fn open(&self) -> io::Result<Backend> {
        self.0.lock().exists = true;
        Ok(Backend::new(self.clone()))
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        Ok(Backend::new(self.clone()))
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
        self.0.lock().aside.push(bytes);
        Ok("aside".to_owned())
    }
}
