//! What survives a crash: the store in memory, which fails as it is told to, or the broker's own store, a journal and redb, on a
//! disk that fails and loses its power.

use std::sync::Arc;

use forebay::store::journal::store::{Folding, JournaledStore};
use forebay::store::memory::{Failure, MemoryStore};
use forebay::store::redb::StoreOptions;
use forebay::store::{Batch, Reader, Recovered, Store, StoreError};

use crate::Seed;
use crate::disk::{Disk, Trouble};
use crate::remote::Log;

/// A store that outlives the broker.
pub enum Kept {
    /// All of it in memory.
    Memory(MemoryStore),
    /// As in the program.
    Journaled(Box<Journaled>),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Memory(MemoryStore::default())
    }
}

/// The journal and redb on a disk.
pub struct Journaled {
    disk: Disk,
    /// `None` between a crash and the start after it.
    store: Option<JournaledStore>,
    journal_bytes: u64,
    /// The journal is no file on the disk: it completes late, may fail with its outcome open, and loses nothing in a power cut.
    log: Option<Log>,
}

impl Kept {
    /// A new disk; the journal is small, so that it is folded after a few commits.
    pub fn journaled(seed: &mut Seed) -> Self {
        let disk = Disk::default();
        disk.set_sector([512, 4096][usize::try_from(seed.below(2)).unwrap()]);
        let journal_bytes = [64, 128, 256][usize::try_from(seed.below(3)).unwrap()] * 1024;
        let log = seed.one_in(3).then(|| Log::new(journal_bytes));
        Self::Journaled(Box::new(Journaled { disk, store: None, journal_bytes, log }))
    }

    /// The broker is gone, and perhaps the power was: what the next one finds.
    pub fn restart(&mut self, seed: &mut Seed) -> Recovered {
        match self {
            Self::Memory(store) => store.crash(),
            Self::Journaled(journaled) => {
                journaled.crash(seed);
                journaled.start(seed)
            }
        }
    }

    /// What a broker that starts now finds and reads, once all is deleted that nobody needs.
    pub fn found(&self) -> (Recovered, Arc<dyn Reader>) {
        match self {
            Self::Memory(store) => (store.crash(), store.reader()),
            Self::Journaled(journaled) => journaled.found(),
        }
    }

    /// What commits go to.
    pub fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Journaled(journaled) => journaled.store.as_mut().unwrap(),
        }
    }

    pub fn is_journaled(&self) -> bool {
        matches!(self, Self::Journaled(_))
    }

    pub fn reader(&self) -> Arc<dyn Reader> {
        match self {
            Self::Memory(store) => store.reader(),
            Self::Journaled(journaled) => journaled.store.as_ref().unwrap().reader(),
        }
    }

    /// The next commit fails, or may: so it is until [`Kept::calm`].
    pub fn disturb(&mut self, seed: &mut Seed) -> String {
        match self {
            Self::Memory(store) => {
                let failures = [Failure::Lost, Failure::Unknown, Failure::Full];
                let failure = failures[usize::try_from(seed.below(3)).unwrap()];
                store.fail(failure);
                format!("commit fails: {failure:?}")
            }
            Self::Journaled(journaled) => journaled.disturb(seed),
        }
    }

    /// The next commit fails as it is told to; in memory alone.
    pub fn fail(&mut self, failure: Failure) {
        match self {
            Self::Memory(store) => store.fail(failure),
            Self::Journaled(_) => assert_eq!(failure, Failure::None, "a disk fails in its own ways"),
        }
    }

    /// Nothing fails any more. Not if the power is gone: then false.
    pub fn calm(&mut self) -> bool {
        match self {
            Self::Memory(store) => {
                store.fail(Failure::None);
                true
            }
            Self::Journaled(journaled) => {
                journaled.disk.calm();
                journaled.disk.plug_in();
                journaled.be_unsure(false);
                !journaled.disk.is_off()
            }
        }
    }

    /// Moves what is in the journal, if there is one, to redb; this may fail, and then it stays there.
    pub fn fold(&mut self) {
        if let Self::Journaled(journaled) = self {
            let _ = journaled.store.as_mut().unwrap().fold();
        }
    }
}

impl Journaled {
    fn options(&self) -> StoreOptions {
        let cache_bytes = 256 * 1024;
        StoreOptions { min_free_bytes: 0, cache_bytes, journal_bytes: self.journal_bytes, ..StoreOptions::default() }
    }

    fn open(&self, disk: &Disk, seed: u64) -> Result<(JournaledStore, Recovered), StoreError> {
        let (disk, options) = (disk.clone(), self.options());
        match &self.log {
            Some(log) => {
                JournaledStore::open_over(disk, Box::new(log.connect(seed)), Log::ID, &options, Folding::Within)
            }
            None => JournaledStore::open_on(disk, &options, 0, Folding::Within),
        }
    }

    fn be_unsure(&self, unsure: bool) {
        if let Some(log) = &self.log {
            log.set_unsure(unsure);
        }
    }

    fn disturb(&mut self, seed: &mut Seed) -> String {
        self.be_unsure(seed.one_in(2));
        let troubles =
            [Trouble::SyncFails, Trouble::NoRoom, Trouble::ReadFails, Trouble::Cut, Trouble::Cut, Trouble::CutInSync];
        match troubles.get(usize::try_from(seed.below(7)).unwrap()) {
            Some(trouble) => {
                let after = 1 + seed.below(12);
                self.disk.expect(after, *trouble, seed);
                format!("{trouble:?} at operation {after}")
            }
            None => {
                self.disk.unplug();
                "the device is gone".to_owned()
            }
        }
    }

    /// The broker ends: in order, killed, or with the power.
    fn crash(&mut self, seed: &mut Seed) {
        let store = self.store.take();
        if self.disk.is_off() || seed.one_in(2) {
            self.disk.cut();
            self.disk = self.disk.power_on(seed);
        } else if seed.one_in(3) {
            drop(store);
        } else {
            self.disk = self.disk.killed();
        }
    }

    fn start(&mut self, seed: &mut Seed) -> Recovered {
        loop {
            self.disk.set_large(seed.one_in(3));
            let trouble = seed.one_in(4).then_some(if seed.one_in(2) { Trouble::Cut } else { Trouble::SyncFails });
            if let Some(trouble) = trouble {
                self.disk.expect(1 + seed.below(12), trouble, seed);
            }
            let opened = self.open(&self.disk, seed.next());
            if self.disk.is_off() {
                drop(opened);
                self.disk = self.disk.power_on(seed);
                continue;
            }
            let failed = self.disk.calm() && trouble.is_some();
            let (store, recovered) = match opened {
                Err(StoreError::Io { .. }) if failed => continue,
                opened => opened.unwrap(),
            };
            assert!(!self.disk.was_set_aside() && recovered.lost.is_empty(), "lost: {:?}", recovered.lost);
            self.store = Some(store);
            return recovered;
        }
    }

    /// On a copy.
    fn found(&self) -> (Recovered, Arc<dyn Reader>) {
        let disk = self.disk.copy();
        let open = || self.open(&disk, 0).unwrap();
        let (mut store, recovered) = open();
        let nothing = Batch { clock: recovered.clock.unwrap_or_default(), ..Batch::default() };
        while store.commit(&nothing).unwrap().more {}
        drop(store);
        let (store, recovered) = open();
        (recovered, store.reader())
    }
}
