//! Flash that loses its power at a chosen operation, is read wrongly now and then, and counts.

use crate::seed::Seed;
use embedded_storage_async::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use std::collections::BTreeSet;

pub const SECTOR: usize = 1024;
const WORD: usize = 4;

/// What the last operation before the cut has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    Nothing,
    Some,
    All,
}

#[derive(Clone)]
pub struct Flash {
    pub bytes: Vec<u8>,
    /// Writes and erases until the power is cut.
    pub left: Option<u64>,
    pub torn: Torn,
    pub dead: bool,
    pub operations: u64,
    pub erases: Vec<u32>,
    /// Some readings are wrong or fail; the next one of the same place is right.
    pub misreads: Option<Seed>,
    /// How many of them were.
    pub misread: u64,
    /// Readings that are right for certain.
    right: u32,
    /// So many readings fail from now on.
    pub outage: u32,
    /// Nothing works.
    pub broken: bool,
    /// The word at which a write is broken off cannot be read until it is erased: flash that checks what it reads.
    pub checked: bool,
    unreadable: BTreeSet<usize>,
    /// Words that cannot be read, for good.
    pub worn: BTreeSet<usize>,
    dice: Seed,
}

/// After a wrong reading so many are right: enough to read any record again.
const RIGHT: u32 = 12;

#[derive(Clone, Copy, Debug)]
pub struct NoPower;

impl NorFlashError for NoPower {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl Flash {
    pub fn new(sectors: usize) -> Self {
        Self {
            bytes: vec![0xff; sectors * SECTOR],
            left: None,
            torn: Torn::Some,
            dead: false,
            operations: 0,
            erases: vec![0; sectors],
            misreads: None,
            misread: 0,
            right: 0,
            outage: 0,
            broken: false,
            checked: false,
            unreadable: BTreeSet::new(),
            worn: BTreeSet::new(),
            dice: Seed::new(1),
        }
    }

    /// Whether this operation is the last one.
    fn is_last(&mut self) -> Result<bool, NoPower> {
        if self.dead || self.broken {
            return Err(NoPower);
        }
        self.operations += 1;
        let last = self.left == Some(0);
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.dead |= last;
        Ok(last)
    }

    fn misread(&mut self, bytes: &mut [u8]) -> Result<(), NoPower> {
        let Some(dice) = self.misreads.as_mut() else { return Ok(()) };
        self.right = self.right.saturating_sub(1);
        if self.right > 0 || dice.below(25) > 0 {
            return Ok(());
        }
        (self.right, self.misread) = (RIGHT, self.misread + 1);
        match dice.below(5) {
            0 => return Err(NoPower),
            1 => bytes.fill(0xff),
            2 => bytes.fill(0),
            3 => bytes.iter_mut().for_each(|byte| *byte = dice.next() as u8),
            _ => bytes[dice.below(bytes.len())] ^= 1 << dice.below(8),
        }
        Ok(())
    }

    pub fn power_on(&mut self) {
        self.dead = false;
        self.left = None;
    }
}

impl ErrorType for Flash {
    type Error = NoPower;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NoPower> {
        if self.dead || self.broken {
            return Err(NoPower);
        }
        let at = offset as usize;
        let words = at / WORD..=(at + bytes.len().max(1) - 1) / WORD;
        if self.unreadable.range(words.clone()).chain(self.worn.range(words)).next().is_some() {
            return Err(NoPower);
        }
        bytes.copy_from_slice(&self.bytes[at..at + bytes.len()]);
        if self.outage > 0 {
            self.outage -= 1;
            return Err(NoPower);
        }
        self.misread(bytes)
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = SECTOR;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), NoPower> {
        assert!((from as usize).is_multiple_of(SECTOR) && (to as usize).is_multiple_of(SECTOR) && from < to);
        for sector in from as usize / SECTOR..to as usize / SECTOR {
            let last = self.is_last()?;
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            self.erases[sector] += 1;
            if !last || self.torn != Torn::Nothing {
                self.unreadable.retain(|word| !range.contains(&(word * WORD)));
            }
            if !last || self.torn == Torn::All {
                self.bytes[range].fill(0xff);
            } else if self.torn == Torn::Some {
                // Few words are erased already, or some bits, or most words.
                let share = [1, 0, 19][self.dice.below(3)];
                for word in self.bytes[range].chunks_mut(WORD) {
                    if self.dice.below(20) < share {
                        word.fill(0xff);
                    } else if share == 0 {
                        word.iter_mut().for_each(|byte| *byte |= self.dice.next() as u8);
                    }
                }
            }
            if last {
                return Err(NoPower);
            }
        }
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NoPower> {
        let at = offset as usize;
        assert!(at.is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        let last = self.is_last()?;
        let words = bytes.len() / WORD;
        let whole = match (last, self.torn) {
            (false, _) | (true, Torn::All) => words,
            (true, Torn::Nothing) => 0,
            (true, Torn::Some) => self.dice.below(words),
        };
        for (word, from) in bytes.chunks(WORD).enumerate() {
            for (index, from) in from.iter().enumerate() {
                let to = &mut self.bytes[at + word * WORD + index];
                if word < whole {
                    assert_eq!(*to, 0xff, "nothing is written twice");
                    *to &= from;
                } else if word == whole && self.torn == Torn::Some {
                    *to &= from | self.dice.next() as u8;
                    if self.checked {
                        self.unreadable.insert(at / WORD + word);
                    }
                }
            }
        }
        if last { Err(NoPower) } else { Ok(()) }
    }
}
