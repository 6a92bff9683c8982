//! The session in flash: one record after the other, the last one counts. The sector of the last one is erased only when
//! there is a later one in another, so a power cut leaves the last one or the one before.
//!
//! ```text
//! 0  u16  bytes of the session
//! 2  u16  the same, all bits turned
//! 4  u32  number of the record
//! 8  u32  checksum of both number and session
//! 12      the session
//! ```

use super::{READINGS, Tier, read_around};
use crate::client::checksum;
use crate::store::StoreFailed;
use embedded_storage_async::nor_flash::NorFlash;

const HEAD: usize = 12;

/// Where the next record goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    number: u32,
    at: u32,
}

/// The start of a record: bytes of the session, number, checksum.
fn parse(raw: &[u8]) -> Option<(usize, u32, u32)> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *raw.first_chunk::<HEAD>()?;
    let len = u16::from_le_bytes([a, b]);
    let numbers = (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([i, j, k, l]));
    (len == !u16::from_le_bytes([c, d]) && len > 0).then_some((usize::from(len), numbers.0, numbers.1))
}

fn sum(number: u32, session: &[u8]) -> u32 {
    checksum(session) ^ checksum(&number.to_le_bytes()).rotate_left(7)
}

impl<F: NorFlash> Tier<'_, F> {
    /// The unit of places: both what is written and what is read begins and ends there.
    const STEP: usize = {
        let step = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
        if step > 4 { step } else { 4 }
    };

    const fn stepped(len: usize) -> usize {
        len.saturating_add(Self::STEP - 1) / Self::STEP * Self::STEP
    }

    /// Finds the last record, and where the next one goes. The session is then in the buffer; how many bytes it has.
    pub(super) async fn load_session(&mut self) -> Result<Option<usize>, StoreFailed> {
        let area = self.config.session.clone();
        let sector = F::ERASE_SIZE as u32;
        let is_area = area.start.is_multiple_of(sector) && area.end.is_multiple_of(sector);
        if !is_area || area.end.saturating_sub(area.start) < sector.saturating_mul(2) {
            return Err(StoreFailed);
        }
        let mut best: Option<(u32, u32)> = None;
        // Behind everything that is not erased, in the sector of the last record.
        let mut free = area.start;
        let mut start = area.start;
        while start < area.end {
            let end = start.saturating_add(sector);
            let (found, used) = self.look_through(start, end).await?;
            let later =
                found.is_some_and(|(number, _)| best.is_none_or(|(before, _)| number.wrapping_sub(before) as i32 > 0));
            if later {
                (best, free) = (found, used);
            }
            start = end;
        }
        let Some((number, at)) = best else {
            // No room is known to be erased.
            self.place = Some(Place { number: 1, at: area.end });
            return Ok(None);
        };
        self.place = Some(Place { number: number.wrapping_add(1), at: free });
        // It was whole a moment ago.
        let len = self.read_again(at, number).await?.ok_or(StoreFailed)?;
        self.buffer.copy_within(HEAD..HEAD.saturating_add(len).min(self.buffer.len()), 0);
        Ok(Some(len))
    }

    /// The last record of a sector, as its number and place, and where its erased rest begins.
    async fn look_through(&mut self, start: u32, end: u32) -> Result<(Option<(u32, u32)>, u32), StoreFailed> {
        let (mut at, mut used, mut last) = (start, start, None);
        while at < end {
            let rest = end.saturating_sub(at) as usize;
            let head = Self::stepped(HEAD).min(rest);
            let (mut step, mut empty) = (Self::STEP, true);
            // Where a record is not seen the place is taken for free in the end.
            for _ in 0..READINGS {
                self.read_session(at, head).await?;
                let raw = self.buffer.get(..head).ok_or(StoreFailed)?;
                empty &= raw.iter().take(Self::STEP).all(|byte| *byte == 0xff);
                let record = parse(raw).filter(|(len, ..)| Self::stepped(HEAD.saturating_add(*len)) <= rest);
                if let Some((len, number, _)) = record
                    && self.read_record(at, number).await?.is_some()
                {
                    step = Self::stepped(HEAD.saturating_add(len));
                    last = Some((number, at));
                    break;
                }
            }
            at = at.saturating_add(step as u32);
            if !empty {
                used = at;
            }
        }
        Ok((last, used))
    }

    /// Reads into the beginning of the buffer. What cannot be read is zeros.
    async fn read_session(&mut self, at: u32, len: usize) -> Result<(), StoreFailed> {
        let to = self.buffer.get_mut(..len).ok_or(StoreFailed)?;
        let elsewhere = self.config.session.clone().step_by(F::ERASE_SIZE);
        read_around(&mut self.flash, at, to, Self::STEP, elsewhere).await.map(drop)
    }

    /// As [`Tier::read_record`]; what is not whole is read again.
    async fn read_again(&mut self, at: u32, number: u32) -> Result<Option<usize>, StoreFailed> {
        for _ in 0..READINGS {
            let len = self.read_record(at, number).await?;
            if len.is_some() {
                return Ok(len);
            }
        }
        Ok(None)
    }

    /// Reads a record into the buffer. `None`: it is not whole.
    async fn read_record(&mut self, at: u32, number: u32) -> Result<Option<usize>, StoreFailed> {
        self.read_session(at, Self::stepped(HEAD)).await?;
        let Some((len, _, expected)) = parse(self.buffer) else { return Ok(None) };
        let whole = HEAD.saturating_add(len);
        // What this device has written fits.
        if Self::stepped(whole) > self.buffer.len() {
            return Ok(None);
        }
        self.read_session(at, Self::stepped(whole)).await?;
        let session = self.buffer.get(HEAD..whole).unwrap_or_default();
        Ok((sum(number, session) == expected).then_some(len))
    }

    /// Where a session is put into the buffer before it is saved.
    pub(super) fn session_room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(HEAD..).unwrap_or_default()
    }

    /// Writes the session of `len` bytes that lies in its room.
    pub(super) async fn save_session(&mut self, len: usize) -> Result<(), StoreFailed> {
        let Place { number, mut at } = self.place.take().ok_or(StoreFailed)?;
        let area = self.config.session.clone();
        let sector = F::ERASE_SIZE as u32;
        let whole = HEAD.saturating_add(len);
        let padded = Self::stepped(whole);
        let short = u16::try_from(len).map_err(|_| StoreFailed)?;
        let raw = self.buffer.get_mut(..padded).filter(|_| padded <= F::ERASE_SIZE).ok_or(StoreFailed)?;
        let expected = sum(number, raw.get(HEAD..whole).unwrap_or_default());
        let ([a, b], [c, d]) = (short.to_le_bytes(), (!short).to_le_bytes());
        let ([e, f, g, h], [i, j, k, l]) = (number.to_le_bytes(), expected.to_le_bytes());
        if let Some(head) = raw.first_chunk_mut::<HEAD>() {
            *head = [a, b, c, d, e, f, g, h, i, j, k, l];
        }
        raw.iter_mut().skip(whole).for_each(|byte| *byte = 0xff);
        let mut is_erased = false;
        loop {
            let used = at.saturating_sub(area.start) % sector;
            if used == 0 || used.saturating_add(padded as u32) > sector {
                // The sector after that one is the last record's.
                if is_erased {
                    return Err(StoreFailed);
                }
                // The next sector, also when the last record has filled its own to the last byte.
                let next = if used == 0 { at } else { at.saturating_sub(used).saturating_add(sector) };
                at = if next >= area.end { area.start } else { next };
                self.flash.erase(at, at.saturating_add(sector)).await.map_err(|_| StoreFailed)?;
                is_erased = true;
            }
            let raw = self.buffer.get(..padded).ok_or(StoreFailed)?;
            self.flash.write(at, raw).await.map_err(|_| StoreFailed)?;
            let written = at;
            at = at.saturating_add(padded as u32);
            if self.is_there(written, padded).await? {
                self.place = Some(Place { number: number.wrapping_add(1), at });
                return Ok(());
            }
        }
    }

    /// Whether what the buffer begins with was written to a place and can be read there. Without room to look it is believed.
    async fn is_there(&mut self, at: u32, len: usize) -> Result<bool, StoreFailed> {
        let Some((raw, room)) = self.buffer.split_at_mut_checked(len) else { return Err(StoreFailed) };
        let Some(room) = room.get_mut(..Self::STEP) else { return Ok(true) };
        let mut at = at;
        for piece in raw.chunks(Self::STEP) {
            let mut same = false;
            for _ in 0..READINGS {
                let elsewhere = self.config.session.clone().step_by(F::ERASE_SIZE);
                same |= read_around(&mut self.flash, at, room, Self::STEP, elsewhere).await? && room == piece;
            }
            if !same {
                return Ok(false);
            }
            at = at.saturating_add(Self::STEP as u32);
        }
        Ok(true)
    }
}
