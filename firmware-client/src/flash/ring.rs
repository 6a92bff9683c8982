//! The ring of messages in flash, and what memory knows of it.
//!
//! Sectors are filled one after the other. A sector begins with its number in the order of filling, which is written after
//! it was erased, and is retired before it is erased again: so what an interrupted erase leaves is no sector. A record is
//! marked as ended in a place of its own that was never written; so nothing is written twice between two erases, and any
//! flash will do.
//!
//! ```text
//! sector:  retired (erased or not) | u32 magic, u32 number, u32 checksum | records
//! record:  ended (erased or not) | u16 length, u16 its bits turned, u32 checksum, bytes
//! ```

use super::sweep::{Act, Seen, parse};
use super::{Config, FRONT, READINGS, Tier, read_around};
use crate::client::{checksum, checksum_on, is_from};
use crate::message::Class;
use crate::store::StoreFailed;
use embedded_storage_async::nor_flash::NorFlash;

const MAGIC: u32 = 0x4642_5231;
/// Magic, number, checksum.
const TITLE: usize = 12;
/// A message is written to another place when it cannot be read again, so many times.
const PLACES_MAX: usize = 4;

/// What is known of the messages of one class in flash. They lie there in the order of their tickets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    /// The last one; 0 when there was none.
    pub(super) last: u32,
    /// From this ticket on they are only in flash; those before it are in the outbox too, or have ended.
    pub(super) cursor: u32,
    /// How many are only in flash.
    pub(super) away: u32,
    /// How many there are.
    pub(super) stored: u32,
}

impl Lane {
    pub(super) const fn new() -> Self {
        Self { last: 0, cursor: 0, away: 0, stored: 0 }
    }

    /// A message is there.
    pub(super) fn note_there(&mut self, ticket: u32) {
        self.stored = self.stored.wrapping_add(1);
        if !self.has(ticket) {
            self.last = ticket;
        }
    }

    /// Whether a ticket is not after the last one that was stored.
    pub(super) fn has(&self, ticket: u32) -> bool {
        self.last != 0 && is_from(self.last, ticket)
    }
}

/// What became of a message that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Done,
    /// There is no room now.
    Full,
    /// It never fits.
    TooLarge,
}

/// Where the next message goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    sector: u32,
    number: u32,
    at: u32,
}

/// The flash of the ring.
pub(super) struct Ring<'f, F> {
    flash: &'f mut F,
    start: u32,
    sectors: u32,
}

/// What a sector begins with. Of two readings that do not agree the greater one holds: the one that erases less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Title {
    /// Nothing, or a sector that is retired: it may be erased.
    None,
    /// It cannot be read, and the sector is not retired: records may be there.
    Unreadable,
    /// The sector's number.
    Number(u32),
}

/// What stands at a place in a sector. Of two readings that do not agree the greater one holds: the one that erases less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    /// Nothing that was written whole.
    Rubbish,
    /// A record of so many bytes that has ended.
    Ended(usize),
    /// A record of so many bytes that has not.
    Record(usize),
}

impl<'f, F: NorFlash> Ring<'f, F> {
    const SECTOR: u32 = F::ERASE_SIZE as u32;
    /// The unit of places: both what is written and what is read begins and ends there.
    const STEP: usize = {
        let step = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
        if step > 4 { step } else { 4 }
    };
    /// Where records begin.
    const FIRST: u32 = (Self::STEP + Self::stepped(TITLE)) as u32;

    const fn stepped(len: usize) -> usize {
        len.saturating_add(Self::STEP - 1) / Self::STEP * Self::STEP
    }

    pub(super) fn new(flash: &'f mut F, config: &Config) -> Result<Self, StoreFailed> {
        let area = &config.messages;
        let whole = area.start.is_multiple_of(Self::SECTOR) && area.end.is_multiple_of(Self::SECTOR);
        let sectors = area.end.saturating_sub(area.start) / Self::SECTOR;
        if whole && sectors >= 2 { Ok(Self { flash, start: area.start, sectors }) } else { Err(StoreFailed) }
    }

    const fn place(&self, sector: u32) -> u32 {
        self.start.saturating_add(sector.saturating_mul(Self::SECTOR))
    }

    const fn after(&self, sector: u32) -> u32 {
        if sector.saturating_add(1) >= self.sectors { 0 } else { sector.saturating_add(1) }
    }

    /// Reads into the beginning of the buffer. What cannot be read is zeros.
    async fn read<'b>(&mut self, at: u32, len: usize, buffer: &'b mut [u8]) -> Result<&'b mut [u8], StoreFailed> {
        let to = buffer.get_mut(..len).ok_or(StoreFailed)?;
        self.is_readable(at, to).await?;
        Ok(to)
    }

    /// The same; whether all could be read.
    async fn is_readable(&mut self, at: u32, to: &mut [u8]) -> Result<bool, StoreFailed> {
        let Self { start, sectors, .. } = *self;
        let elsewhere = (0..sectors).map(move |sector| start.saturating_add(sector.saturating_mul(Self::SECTOR)));
        read_around(self.flash, at, to, Self::STEP, elsewhere).await
    }

    async fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), StoreFailed> {
        self.flash.write(at, bytes).await.map_err(|_| StoreFailed)
    }

    /// What a sector begins with, as was read twice.
    async fn title(&mut self, sector: u32, buffer: &mut [u8]) -> Result<Title, StoreFailed> {
        let mut best = Title::None;
        for _ in 0..READINGS {
            best = best.max(self.title_once(sector, buffer).await?);
            if matches!(best, Title::Number(_)) {
                break;
            }
        }
        Ok(best)
    }

    async fn title_once(&mut self, sector: u32, buffer: &mut [u8]) -> Result<Title, StoreFailed> {
        let at = self.place(sector);
        let raw = buffer.get_mut(..Self::FIRST as usize).ok_or(StoreFailed)?;
        let (retired, title) = raw.split_at_mut_checked(Self::STEP).ok_or(StoreFailed)?;
        // Where it cannot be read whether a sector is retired, its records say whether they have ended.
        if self.is_readable(at, retired).await? && retired.iter().any(|byte| *byte != 0xff) {
            return Ok(Title::None);
        }
        if !self.is_readable(at.saturating_add(Self::STEP as u32), title).await? {
            return Ok(Title::Unreadable);
        }
        let Some([a, b, c, d, e, f, g, h, i, j, k, l]) = title.first_chunk::<TITLE>().copied() else {
            return Ok(Title::None);
        };
        let number = u32::from_le_bytes([e, f, g, h]);
        let right = u32::from_le_bytes([a, b, c, d]) == MAGIC
            && u32::from_le_bytes([i, j, k, l]) == checksum(&number.to_le_bytes());
        Ok(if right { Title::Number(number) } else { Title::None })
    }

    /// What stands at `at` in a sector that ends at `end`. A record that has not ended is then in the buffer from `STEP` on,
    /// if it fits. Whatever else stands there may be erased or written over, and was read twice.
    async fn find(&mut self, at: u32, end: u32, buffer: &mut [u8]) -> Result<Found, StoreFailed> {
        let mut best = Found::Nothing;
        for _ in 0..READINGS {
            best = best.max(self.find_once(at, end, buffer).await?);
            if matches!(best, Found::Record(_)) {
                break;
            }
        }
        Ok(best)
    }

    async fn find_once(&mut self, at: u32, end: u32, buffer: &mut [u8]) -> Result<Found, StoreFailed> {
        let rest = end.saturating_sub(at) as usize;
        let head = Self::STEP.saturating_add(Self::stepped(FRONT));
        if rest < head {
            let raw = self.read(at, rest, buffer).await?;
            return Ok(if raw.iter().all(|byte| *byte == 0xff) { Found::Nothing } else { Found::Rubbish });
        }
        let raw = self.read(at, head, buffer).await?;
        let empty = raw.iter().take(Self::STEP).all(|byte| *byte == 0xff);
        let Some([a, b, c, d, e, f, g, h]) = raw.get(Self::STEP..).and_then(|raw| raw.first_chunk::<FRONT>()).copied()
        else {
            return Ok(Found::Rubbish);
        };
        let nothing = if empty { Found::Nothing } else { Found::Rubbish };
        let len = u16::from_le_bytes([a, b]);
        let whole = Self::STEP.saturating_add(Self::stepped(FRONT.saturating_add(usize::from(len))));
        if len != !u16::from_le_bytes([c, d]) || whole > rest {
            return Ok(nothing);
        }
        let right = self.sum(at, whole, usize::from(len), buffer).await? == u32::from_le_bytes([e, f, g, h]);
        let len = usize::from(len);
        Ok(match (right, empty) {
            (false, _) => nothing,
            (true, true) => Found::Record(len),
            (true, false) => Found::Ended(len),
        })
    }

    /// The checksum of a record, piece by piece when the buffer is smaller than it is.
    async fn sum(&mut self, at: u32, whole: usize, len: usize, buffer: &mut [u8]) -> Result<u32, StoreFailed> {
        let piece = buffer.len() / Self::STEP * Self::STEP;
        let mut skip = Self::STEP.saturating_add(FRONT);
        let (mut sum, mut left, mut done) = (checksum(&[]), len, 0usize);
        while left > 0 && piece > 0 {
            let size = piece.min(whole.saturating_sub(done));
            let raw = self.read(at.saturating_add(done as u32), size, buffer).await?;
            let bytes = raw.get(skip.min(size)..).unwrap_or_default();
            let bytes = bytes.get(..left.min(bytes.len())).unwrap_or_default();
            sum = checksum_on(sum, bytes);
            left = left.saturating_sub(bytes.len());
            skip = skip.saturating_sub(size);
            done = done.saturating_add(size);
        }
        Ok(sum)
    }

    const fn length(len: usize) -> u32 {
        Self::STEP.saturating_add(Self::stepped(FRONT.saturating_add(len))) as u32
    }

    /// The sector that is being filled, and where it is free.
    async fn end(&mut self, buffer: &mut [u8]) -> Result<End, StoreFailed> {
        let mut last: Option<(u32, u32)> = None;
        for sector in 0..self.sectors {
            if let Title::Number(number) = self.title(sector, buffer).await?
                && last.is_none_or(|(_, before)| is_from(number, before))
            {
                last = Some((sector, number));
            }
        }
        let Some((sector, number)) = last else {
            // As if the last one were full.
            return Ok(End { sector: self.sectors.saturating_sub(1), number: 0, at: Self::SECTOR });
        };
        let next = self.after(sector);
        let goes_on = self.title(next, buffer).await? == Title::Unreadable && self.is_newer(next, buffer).await?;
        let (sector, number) = if goes_on { (next, number.wrapping_add(1)) } else { (sector, number) };
        let (start, mut at) = (self.place(sector), Self::FIRST);
        let mut free = at;
        while at < Self::SECTOR {
            let found = self.find(start.saturating_add(at), start.saturating_add(Self::SECTOR), buffer).await?;
            at = at.saturating_add(match found {
                Found::Record(len) | Found::Ended(len) => Self::length(len),
                Found::Rubbish | Found::Nothing => Self::STEP as u32,
            });
            if !matches!(found, Found::Nothing) {
                free = at;
            }
        }
        Ok(End { sector, number, at: free })
    }

    /// Whether what is in a sector whose title cannot be read is newer than what is in the others: messages of one class lie in
    /// the order of their tickets.
    async fn is_newer(&mut self, sector: u32, buffer: &mut [u8]) -> Result<bool, StoreFailed> {
        for class in Class::ALL {
            let Some(ticket) = self.first_ticket(sector, class, buffer).await? else { continue };
            for other in (0..self.sectors).filter(|other| *other != sector) {
                if self.title(other, buffer).await? == Title::None {
                    continue;
                }
                if let Some(other) = self.first_ticket(other, class, buffer).await? {
                    return Ok(is_from(ticket, other));
                }
            }
        }
        Ok(false)
    }

    /// The first ticket of a class in a sector, of those that have ended too.
    async fn first_ticket(&mut self, sector: u32, class: Class, buffer: &mut [u8]) -> Result<Option<u32>, StoreFailed> {
        let (start, mut at) = (self.place(sector), Self::FIRST);
        while at < Self::SECTOR {
            let found = self.find(start.saturating_add(at), start.saturating_add(Self::SECTOR), buffer).await?;
            let (Found::Record(len) | Found::Ended(len)) = found else {
                at = at.saturating_add(Self::STEP as u32);
                continue;
            };
            at = at.saturating_add(Self::length(len));
            let raw = buffer.get(Self::STEP.saturating_add(FRONT)..).and_then(|raw| raw.get(..len));
            match raw.and_then(parse) {
                Some((_, head, _)) if head.class() == class => return Ok(Some(head.ticket)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether all in a sector has ended.
    async fn is_over(&mut self, sector: u32, buffer: &mut [u8]) -> Result<bool, StoreFailed> {
        if self.title(sector, buffer).await? == Title::None {
            return Ok(true);
        }
        let (start, mut at) = (self.place(sector), Self::FIRST);
        while at < Self::SECTOR {
            let found = self.find(start.saturating_add(at), start.saturating_add(Self::SECTOR), buffer).await?;
            at = at.saturating_add(match found {
                Found::Record(_) => return Ok(false),
                Found::Ended(len) => Self::length(len),
                Found::Rubbish | Found::Nothing => Self::STEP as u32,
            });
        }
        Ok(true)
    }

    /// Makes a sector the one that is filled.
    async fn open(&mut self, sector: u32, number: u32, buffer: &mut [u8]) -> Result<(), StoreFailed> {
        let at = self.place(sector);
        if self.title(sector, buffer).await? != Title::None {
            let mark = buffer.get_mut(..Self::STEP).ok_or(StoreFailed)?;
            // One that cannot be read was written before.
            if self.is_readable(at, mark).await? {
                mark.fill(0);
                self.write(at, mark).await?;
            }
        }
        self.flash.erase(at, at.saturating_add(Self::SECTOR)).await.map_err(|_| StoreFailed)?;
        let title = buffer.get_mut(..Self::stepped(TITLE)).ok_or(StoreFailed)?;
        title.fill(0xff);
        let ([a, b, c, d], [e, f, g, h]) = (MAGIC.to_le_bytes(), number.to_le_bytes());
        let [i, j, k, l] = checksum(&number.to_le_bytes()).to_le_bytes();
        if let Some(to) = title.first_chunk_mut::<TITLE>() {
            *to = [a, b, c, d, e, f, g, h, i, j, k, l];
        }
        self.write(at.saturating_add(Self::STEP as u32), title).await
    }

    /// Writes the `len` bytes behind the front of `buffer` behind all that is there.
    async fn push(&mut self, end: &mut End, len: usize, buffer: &mut [u8]) -> Result<Pushed, StoreFailed> {
        let Ok(short) = u16::try_from(len) else { return Ok(Pushed::TooLarge) };
        let whole = Self::length(len);
        let padded = Self::stepped(FRONT.saturating_add(len));
        // Behind the message there is room to look around without losing it.
        let Some((record, scratch)) = buffer.split_at_mut_checked(padded) else { return Ok(Pushed::TooLarge) };
        if whole > Self::SECTOR.saturating_sub(Self::FIRST) {
            return Ok(Pushed::TooLarge);
        }
        let sum = checksum(record.get(FRONT..FRONT.saturating_add(len)).unwrap_or_default());
        let ([a, b], [c, d]) = (short.to_le_bytes(), (!short).to_le_bytes());
        let [e, f, g, h] = sum.to_le_bytes();
        if let Some(front) = record.first_chunk_mut::<FRONT>() {
            *front = [a, b, c, d, e, f, g, h];
        }
        record.iter_mut().skip(FRONT.saturating_add(len)).for_each(|byte| *byte = 0xff);
        for _ in 0..PLACES_MAX {
            if end.at.saturating_add(whole) > Self::SECTOR && !self.go_on(end, scratch).await? {
                return Ok(Pushed::Full);
            }
            let start = self.place(end.sector);
            let at = start.saturating_add(end.at);
            self.write(at.saturating_add(Self::STEP as u32), record).await?;
            end.at = end.at.saturating_add(whole);
            if self.find(at, start.saturating_add(Self::SECTOR), scratch).await? == Found::Record(len) {
                return Ok(Pushed::Done);
            }
        }
        Err(StoreFailed)
    }

    /// Goes on in the next sector. False: not all in it has ended.
    async fn go_on(&mut self, end: &mut End, buffer: &mut [u8]) -> Result<bool, StoreFailed> {
        for _ in 1..self.sectors {
            let sector = self.after(end.sector);
            if !self.is_over(sector, buffer).await? {
                return Ok(false);
            }
            let number = end.number.wrapping_add(1);
            self.open(sector, number, buffer).await?;
            *end = End { sector, number, at: Self::FIRST };
            // One whose title cannot be read would not be known again.
            if self.title(sector, buffer).await? == Title::Number(number) {
                return Ok(true);
            }
        }
        Err(StoreFailed)
    }

    /// Shows every message to `visit`, oldest first, and does with it what that says.
    pub(super) async fn walk(
        &mut self,
        buffer: &mut [u8],
        mut visit: impl FnMut(Seen<'_>) -> Act,
    ) -> Result<(), StoreFailed> {
        let end = self.end(buffer).await?;
        let mut sector = end.sector;
        for _ in 0..self.sectors {
            sector = self.after(sector);
            if self.title(sector, buffer).await? == Title::None {
                continue;
            }
            let (start, mut at) = (self.place(sector), Self::FIRST);
            while at < Self::SECTOR {
                let place = start.saturating_add(at);
                let found = self.find(place, start.saturating_add(Self::SECTOR), buffer).await?;
                at = at.saturating_add(match found {
                    Found::Record(len) | Found::Ended(len) => Self::length(len),
                    Found::Rubbish | Found::Nothing => Self::STEP as u32,
                });
                let Found::Record(len) = found else { continue };
                let from = Self::STEP.saturating_add(FRONT);
                let (mark, rest) = buffer.split_at_mut_checked(from).ok_or(StoreFailed)?;
                // Written by a device with a larger buffer.
                let Some(raw) = rest.get(..len) else { continue };
                let act = visit(Seen::There(raw));
                if act != Act::Keep {
                    let mark = mark.get_mut(..Self::STEP).unwrap_or_default();
                    mark.fill(0);
                    self.write(place, mark).await?;
                }
                if act == Act::Move {
                    visit(Seen::Taken(raw));
                }
            }
        }
        Ok(())
    }
}

impl<F: NorFlash> Tier<'_, F> {
    /// Writes the message of `len` bytes that lies behind the front of the buffer behind the others.
    pub(super) async fn push(&mut self, len: usize) -> Result<Pushed, StoreFailed> {
        let mut ring = Ring::new(&mut self.flash, &self.config)?;
        // Unknown from here until it is known again.
        let mut end = self.end.take().ok_or(StoreFailed)?;
        let pushed = ring.push(&mut end, len, self.buffer).await?;
        self.end = Some(end);
        Ok(pushed)
    }

    /// Finds the end of the ring, if it is not known. The buffer is used for it.
    pub(super) async fn find_end(&mut self) -> Result<(), StoreFailed> {
        if self.end.is_none() {
            self.end = Some(Ring::new(&mut self.flash, &self.config)?.end(self.buffer).await?);
        }
        Ok(())
    }
}
