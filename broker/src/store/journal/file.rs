//! The journal in a file of fixed size, used round and round. Its first block says whose it is; each record begins at a
//! block. A block that holds a record is not written again before that record was forgotten.

use std::collections::VecDeque;
use std::io;

use ::redb::StorageBackend;

use super::super::medium::{Backend, is_unreadable};
use super::{AppendError, Journal, Replay};

/// What a device writes whole, or a multiple of it: 512 bytes on some, 4 KiB on most.
pub const BLOCK: usize = 4096;
const BLOCK_64: u64 = BLOCK as u64;
const MAGIC: &[u8; 16] = b"forebay journal\0";
const VERSION: u32 = 1;
const RECORD_MAGIC: [u8; 4] = *b"FJR1";
/// Magic number, number, length, checksum.
const RECORD_HEAD: usize = 4 + 8 + 4 + 4;
/// What is read at once when records are looked for.
const WINDOW: usize = 64 * BLOCK;
/// The smallest that is of use, and the largest: what a start must read.
pub const SIZE_MIN: u64 = 64 * 1024;
/// See [`SIZE_MIN`].
pub const SIZE_MAX: u64 = 256 * 1024 * 1024;

/// The first block.
#[must_use]
pub fn head(id: u64, size: u64) -> Vec<u8> {
    head_of(VERSION, id, size)
}

/// The first block of any version has its checksum in the same place.
fn head_of(version: u32, id: u64, size: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(version.to_le_bytes());
    head.extend(id.to_le_bytes());
    head.extend(size.to_le_bytes());
    head.extend(crc32fast::hash(&head).to_le_bytes());
    head.resize(BLOCK, 0);
    head
}

/// The number of the journal and its size, as the first block has them.
fn read_head(device: &Backend, len: u64) -> Result<(u64, u64), HeadError> {
    let mut block = vec![0; BLOCK];
    if len < BLOCK_64 {
        return Err(HeadError::Damaged);
    }
    match device.read(0, &mut block) {
        Err(error) if is_unreadable(&error) => return Err(HeadError::Damaged),
        read => read?,
    }
    let number = |at: usize| block.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let version = u32::try_from(number(16) & u64::from(u32::MAX)).unwrap_or_default();
    let (id, size) = (number(20), number(28));
    if block != head_of(version, id, size) {
        return Err(HeadError::Damaged);
    }
    if version == VERSION { Ok((id, size)) } else { Err(HeadError::Newer(version)) }
}

/// Why a file is no journal that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its first block is not what was written.
    #[error("its first block is damaged")]
    Damaged,
    /// A newer program wrote it.
    #[error("its version is {0}, and this program reads {VERSION}")]
    Newer(u32),
}

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
struct Span {
    number: u64,
    /// Its first block.
    first: u64,
    blocks: u64,
}

/// The journal in one file.
pub struct FileJournal {
    device: Backend,
    id: u64,
    wrong: Option<String>,
    /// Blocks of the file, the first one included.
    blocks: u64,
    /// Records that are needed, oldest first.
    live: VecDeque<Span>,
    /// Where the next record goes, if there is room.
    next: u64,
    written: u64,
    buffer: Aligned,
}

impl FileJournal {
    /// The journal of a file that [`head`] and zeros were written to. `known` is its number as the store has it, 0 for none: each
    /// record's checksum covers that number, so that the records can be told without the first block. [`FileJournal::wrong`]
    /// says what was found.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn open(device: Backend, known: u64) -> Result<Self, HeadError> {
        let len = device.len()?;
        // What is called damaged was read twice.
        let read = match read_head(&device, len) {
            Err(HeadError::Damaged) => read_head(&device, len),
            read => read,
        };
        let (id, size, wrong) = match read {
            Ok((id, size)) if size > len => (id, len, Some(format!("it was cut: it has {len} bytes of {size}"))),
            Ok((id, size)) => (id, size, None),
            Err(error @ HeadError::Damaged) if known != 0 => (known, len.min(SIZE_MAX), Some(error.to_string())),
            Err(error) => return Err(error),
        };
        Ok(Self {
            device,
            id,
            wrong,
            blocks: (size / BLOCK_64).max(1),
            live: VecDeque::new(),
            next: 1,
            written: 0,
            buffer: Aligned::default(),
        })
    }

    /// What is wrong with the file, though what can be read of it is read.
    #[must_use]
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Whose it is: the number in its first block.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where a record of so many blocks goes.
    fn place(&self, blocks: u64) -> Option<u64> {
        let fits = |from: u64, to: u64| (from + blocks <= to).then_some(from);
        match self.live.front() {
            None => fits(self.next, self.blocks).or_else(|| fits(1, self.blocks)),
            Some(oldest) if self.next > oldest.first => fits(self.next, self.blocks).or_else(|| fits(1, oldest.first)),
            Some(oldest) => fits(self.next, oldest.first),
        }
    }

    fn checksum(&self, number: u64, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.id.to_le_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(&(body.len() as u64).to_le_bytes());
        hasher.update(body);
        hasher.finalize()
    }

    /// After a failure: nothing of it shall be found later. Whether that is certain.
    fn erase(&mut self, first: u64) -> bool {
        let block = self.buffer.zeros(BLOCK);
        self.device.write(first * BLOCK_64, block).and_then(|()| self.device.sync_data()).is_ok()
    }

    /// The record that begins at the block, if one does.
    fn record_at(&self, window: &mut Window, first: u64) -> io::Result<Option<(Span, Vec<u8>)>> {
        let head = window.get(&self.device, first * BLOCK_64, RECORD_HEAD)?;
        let Some((magic, head)) = head.split_first_chunk::<4>() else { return Ok(None) };
        let (Some((number, head)), true) = (head.split_first_chunk::<8>(), *magic == RECORD_MAGIC) else {
            return Ok(None);
        };
        let Some((len, sum)) = head.split_first_chunk::<4>() else { return Ok(None) };
        let number = u64::from_le_bytes(*number);
        let len = u32::from_le_bytes(*len) as usize;
        let sum = sum.try_into().map_or(0, u32::from_le_bytes);
        let blocks = blocks_of(len);
        if first + blocks > self.blocks {
            return Ok(None);
        }
        let mut body = vec![0; len];
        self.device.read(first * BLOCK_64 + RECORD_HEAD as u64, &mut body)?;
        Ok((self.checksum(number, &body) == sum).then_some((Span { number, first, blocks }, body)))
    }
}

/// Blocks that a record with a content of so many bytes takes.
fn blocks_of(len: usize) -> u64 {
    (RECORD_HEAD + len).div_ceil(BLOCK) as u64
}

impl Journal for FileJournal {
    fn append(&mut self, number: u64, record: &[u8]) -> Result<(), AppendError> {
        let blocks = blocks_of(record.len());
        let Some(first) = self.place(blocks) else { return Err(AppendError::Full) };
        let Ok(len) = u32::try_from(record.len()) else { return Err(AppendError::Full) };
        let sum = self.checksum(number, record);
        let parts = [&RECORD_MAGIC[..], &number.to_le_bytes(), &len.to_le_bytes(), &sum.to_le_bytes(), record];
        let bytes = self.buffer.of(&parts);
        let written = bytes.len() as u64;
        let done = self.device.write(first * BLOCK_64, bytes).and_then(|()| self.device.sync_data());
        self.written += written;
        match done {
            Ok(()) => {
                self.live.push_back(Span { number, first, blocks });
                self.next = first + blocks;
                Ok(())
            }
            // Its blocks are free still: the next one goes there.
            Err(source) => Err(AppendError::Failed { source, left_nothing: self.erase(first) }),
        }
    }

    fn settle(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Looks at every block: where the records are, and which was the last, is known from nothing else.
    fn after(&mut self, number: u64) -> io::Result<Replay> {
        let mut found = Vec::new();
        let mut window = Window::default();
        let mut unreadable = Vec::new();
        let mut at = 1;
        while at < self.blocks {
            match self.record_at(&mut window, at) {
                Ok(Some((span, body))) => {
                    at += span.blocks;
                    // Of what is folded already it is enough to know where it lies.
                    found.push((span, if span.number > number { body } else { Vec::new() }));
                }
                Ok(None) => at += 1,
                Err(error) if is_unreadable(&error) => {
                    unreadable.push((at, error));
                    at += 1;
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by_key(|(span, _)| span.number);
        if let Some((last, _)) = found.last() {
            self.next = last.first + last.blocks;
        }
        found.retain(|(span, _)| span.number > number);
        self.live = found.iter().map(|(span, _)| *span).collect();
        let records = found.into_iter().map(|(span, body)| (span.number, body)).collect();
        Ok(Replay { records, lost: unreadable_lines(&unreadable) })
    }

    fn forget(&mut self, number: u64) {
        while self.live.front().is_some_and(|span| span.number <= number) {
            self.live.pop_front();
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.place(blocks_of(bytes)).is_some()
    }

    fn size(&self) -> u64 {
        self.blocks * BLOCK_64
    }

    fn used_percent(&self) -> u64 {
        let used: u64 = match (self.live.front(), self.live.back()) {
            (Some(oldest), Some(_)) if self.next > oldest.first => self.next - oldest.first,
            (Some(oldest), Some(_)) => self.blocks - 1 - (oldest.first - self.next),
            _ => 0,
        };
        used * 100 / (self.blocks - 1).max(1)
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }
}

/// Neighbours are one line.
fn unreadable_lines(blocks: &[(u64, io::Error)]) -> Vec<String> {
    blocks
        .chunk_by(|(one, _), (other, _)| one + 1 == *other)
        .filter_map(|run| {
            let ((first, error), (last, _)) = (run.first()?, run.last()?);
            Some(match first == last {
                true => format!("block {first} of the journal cannot be read: {error}"),
                false => format!("blocks {first} to {last} of the journal cannot be read: {error}"),
            })
        })
        .collect()
}

/// A piece of the file, so that not every block is a read of its own.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// Up to here blocks are read one by one: one of them cannot be read, and hides no other.
    single_to: u64,
}

impl Window {
    fn get(&mut self, device: &Backend, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside = |window: &Self| {
            let at = usize::try_from(offset.checked_sub(window.start)?).ok()?;
            (at + len <= window.bytes.len()).then_some(at)
        };
        if inside(self).is_none() {
            let left = usize::try_from(device.len()?.saturating_sub(offset)).unwrap_or(WINDOW);
            let whole = if offset < self.single_to { BLOCK } else { WINDOW };
            match self.fill(device, offset, whole.min(left)) {
                Err(error) if is_unreadable(&error) && offset >= self.single_to => {
                    self.single_to = offset + WINDOW as u64;
                    self.fill(device, offset, BLOCK.min(left))?;
                }
                filled => filled?,
            }
        }
        let at = inside(self).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.bytes.get(at..at + len).unwrap_or_default())
    }

    fn fill(&mut self, device: &Backend, offset: u64, len: usize) -> io::Result<()> {
        self.start = offset;
        self.bytes.clear();
        self.bytes.resize(len, 0);
        device.read(offset, &mut self.bytes).inspect_err(|_| self.bytes.clear())
    }
}

/// Memory that begins where a block may: writes past the system's cache want it so.
#[derive(Default)]
struct Aligned(Vec<u8>);

/// What a large record took is not kept.
const KEPT: usize = 64 * 1024;

impl Aligned {
    /// The parts one behind the other, with zeros up to a whole block.
    fn of(&mut self, parts: &[&[u8]]) -> &[u8] {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let padded = len.next_multiple_of(BLOCK);
        let (from, all) = self.reserve(padded);
        let mut at = 0;
        for part in parts {
            if let Some(to) = all.get_mut(at..at + part.len()) {
                to.copy_from_slice(part);
            }
            at += part.len();
        }
        if let Some(rest) = all.get_mut(at..) {
            rest.fill(0);
        }
        self.0.get(from..from + padded).unwrap_or_default()
    }

    fn zeros(&mut self, len: usize) -> &[u8] {
        self.of(&[&vec![0; len]])
    }

    fn reserve(&mut self, len: usize) -> (usize, &mut [u8]) {
        if self.0.len() > KEPT && len < KEPT {
            self.0 = Vec::new();
        }
        if self.0.len() < len + BLOCK {
            self.0.resize(len + BLOCK, 0);
        }
        let from = self.0.as_ptr().align_offset(BLOCK).min(BLOCK);
        (from, self.0.get_mut(from..from + len).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::Arc;

    use ::redb::backends::InMemoryBackend;

    use super::*;
    use crate::store::shared_memory::SharedMemory;

    const SIZE: u64 = 16 * BLOCK_64;

    fn disk(id: u64) -> Arc<InMemoryBackend> {
        let disk = Arc::new(InMemoryBackend::new());
        disk.set_len(SIZE).unwrap();
        disk.write(0, &head(id, SIZE)).unwrap();
        disk
    }

    fn open(disk: &Arc<InMemoryBackend>) -> FileJournal {
        FileJournal::open(Backend::new(SharedMemory(Arc::clone(disk))), 0).unwrap()
    }

    fn body(number: u64, len: usize) -> Vec<u8> {
        vec![number as u8; len]
    }

    fn numbers(disk: &Arc<InMemoryBackend>, after: u64) -> Vec<u64> {
        open(disk).after(after).unwrap().records.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn records_come_back_round_and_round() {
        let disk = disk(7);
        let mut journal = open(&disk);
        let lens = [0, 1, BLOCK - RECORD_HEAD, BLOCK - RECORD_HEAD + 1, 3 * BLOCK, 100];
        for number in 1..200u64 {
            let len = lens[number as usize % lens.len()];
            while !journal.has_room(len) {
                let oldest = journal.live.front().unwrap().number;
                journal.forget(oldest);
            }
            journal.append(number, &body(number, len)).unwrap();
            let oldest = journal.live.front().unwrap().number;
            assert_eq!(numbers(&disk, oldest - 1), (oldest..=number).collect::<Vec<_>>());
            if number.is_multiple_of(17) {
                // A restart finds the same, and goes on behind it.
                let mut again = open(&disk);
                let replay = again.after(oldest - 1).unwrap();
                assert!(replay.records.iter().all(|(number, found)| *found == body(*number, found.len())));
                assert_eq!((again.next, again.live.len()), (journal.next, journal.live.len()));
                journal = again;
            }
        }
    }

    #[test]
    fn a_full_journal_takes_nothing_and_loses_nothing() {
        let disk = disk(7);
        let mut journal = open(&disk);
        for number in 1..=15 {
            journal.append(number, b"x").unwrap();
        }
        assert_eq!(journal.used_percent(), 100);
        assert!(matches!(journal.append(16, b"x"), Err(AppendError::Full)));
        assert_eq!(numbers(&disk, 0).len(), 15);
        journal.forget(3);
        assert!(journal.has_room(2 * BLOCK));
        assert!(!journal.has_room(3 * BLOCK));
        assert_eq!(journal.used_percent(), 80);
    }

    /// Blocks that the device cannot read, at any time.
    #[derive(Debug)]
    struct BadBlocks(Arc<InMemoryBackend>, Vec<u64>);

    impl StorageBackend for BadBlocks {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let blocks = offset / BLOCK_64..(offset + out.len() as u64).div_ceil(BLOCK_64);
            if self.1.iter().any(|bad| blocks.contains(bad)) {
                // As a `Backend` says it of a sector that it has tried again and again.
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    #[test]
    fn a_block_that_cannot_be_read_hides_no_other() {
        let disk = disk(7);
        let mut journal = open(&disk);
        for number in 1..=9 {
            journal.append(number, b"x").unwrap();
        }
        // Of two blocks, and one.
        journal.append(10, &body(10, BLOCK)).unwrap();
        journal.append(11, b"x").unwrap();
        for (bad, wanted, lines) in [
            (vec![7], vec![1, 2, 3, 4, 5, 6, 8, 9, 10, 11], 1),
            (vec![1, 2, 9], vec![3, 4, 5, 6, 7, 8, 10, 11], 2),
            (vec![11], vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 11], 1),
        ] {
            let device = Backend::new(BadBlocks(Arc::clone(&disk), bad.clone()));
            let found = FileJournal::open(device, 0).unwrap().after(0).unwrap();
            let numbers: Vec<u64> = found.records.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, wanted, "blocks {bad:?} cannot be read");
            assert_eq!(found.lost.len(), lines, "{:?}", found.lost);
        }
    }

    /// Another store's journal, or an earlier round's record under another number, is nothing.
    #[test]
    fn only_its_own_records_are_found() {
        let disk = disk(7);
        let mut journal = open(&disk);
        journal.append(1, b"mine").unwrap();
        disk.write(0, &head(8, SIZE)).unwrap();
        assert!(numbers(&disk, 0).is_empty());
        disk.write(0, &head(7, SIZE)).unwrap();
        assert_eq!(numbers(&disk, 0), [1]);
        for at in 0..RECORD_HEAD as u64 + 4 {
            let mut byte = [0];
            disk.read(BLOCK_64 + at, &mut byte).unwrap();
            disk.write(BLOCK_64 + at, &[byte[0] ^ 1]).unwrap();
            assert!(numbers(&disk, 0).is_empty(), "byte {at}");
            disk.write(BLOCK_64 + at, &byte).unwrap();
        }
    }

    #[test]
    fn a_head_that_is_wrong_is_said() {
        let disk = disk(7);
        disk.write(20, &[9]).unwrap();
        let open = || FileJournal::open(Backend::new(SharedMemory(Arc::clone(&disk))), 0).map(|_| ());
        assert!(matches!(open(), Err(HeadError::Damaged)));
        disk.write(0, &head(7, SIZE)).unwrap();
        disk.write(16, &[2]).unwrap();
        assert!(matches!(open(), Err(HeadError::Damaged)), "a bit of its version has flipped");
        disk.write(0, &head_of(2, 7, SIZE)).unwrap();
        assert!(matches!(open(), Err(HeadError::Newer(2))));
    }

    /// Whose the journal is, the store knows as well, and how large it is, the file does.
    #[test]
    fn records_are_found_without_the_first_block() {
        let disk = disk(7);
        let mut journal = open(&disk);
        for number in 1..=15 {
            journal.append(number, &body(number, 100)).unwrap();
        }
        let found = |device: Backend, wanted: u64| {
            let mut journal = FileJournal::open(device, 7).unwrap();
            let found = journal.after(0).unwrap();
            assert_eq!(found.records.len() as u64, wanted);
            assert!(found.records.iter().all(|(number, bytes)| *bytes == body(*number, 100)));
            journal.wrong().unwrap().to_owned()
        };
        let memory = || Backend::new(SharedMemory(Arc::clone(&disk)));
        disk.write(0, &[0; BLOCK]).unwrap();
        assert_eq!(found(memory(), 15), "its first block is damaged");
        assert!(FileJournal::open(memory(), 8).unwrap().after(0).unwrap().records.is_empty(), "of another store");
        disk.write(0, &head(7, SIZE)).unwrap();
        assert_eq!(found(Backend::new(BadBlocks(Arc::clone(&disk), vec![0])), 15), "its first block is damaged");
        disk.set_len(9 * BLOCK_64 + 20).unwrap();
        assert!(found(memory(), 8).contains("it was cut"));
    }
}
