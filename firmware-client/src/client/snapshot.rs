//! The session as bytes: for a sleep that keeps no memory.

use super::{Client, Memory};
use crate::arena::{LIVE, State};
use crate::inbound::{Entry, Owed};
use crate::write::Out;
use forebay_wire::ReasonCode;
use forebay_wire::read::Reader;

const MAGIC: u32 = 0x4642_4631;
/// Bytes that [`Client::export`] needs at most beside what is [used](Client::fill) of the outbox.
pub const EXPORT_OVERHEAD: usize = 160;
/// Magic and checksum.
const HEAD: usize = 8;

/// Why a session could not be taken over. The client is as new then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ImportError {
    /// These bytes are no session of this version of the crate, or are damaged.
    NotASession,
    /// The outbox is smaller than what is in it.
    NoRoom,
}

impl core::fmt::Display for ImportError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotASession => "not a session, or damaged",
            Self::NoRoom => "the outbox is too small for this session",
        })
    }
}

impl core::error::Error for ImportError {}

impl Client<'_> {
    /// Writes the session to `out`: what is in the outbox and in flight, subscriptions, packet identifiers, QoS 2 both ways,
    /// counters. How many bytes that took; `None` when there is no room for it. The connection is not part of it: end it
    /// first, and publish nothing after.
    pub fn export(&mut self, now: u64, out: &mut [u8]) -> Option<usize> {
        self.set_time(now);
        self.write(out, Entry::outlives_connection, |client, to| to.bytes(client.arena.image()))
    }

    /// What is kept of the messages that came is said by `keep`; the records are written by `records`.
    pub(super) fn write(
        &mut self,
        out: &mut [u8],
        keep: fn(&Entry) -> bool,
        records: impl FnOnce(&mut Self, &mut Out<'_>),
    ) -> Option<usize> {
        let (head, body) = out.split_at_mut_checked(HEAD)?;
        let room = body.len();
        let mut to = Out::new(body, 0);
        to.u32(self.clock.tick());
        to.u16(self.next_id);
        to.u32(self.next_ticket);
        let doubt = self.doubt || self.asked_in_vain();
        to.u8(self.memory as u8 | u8::from(doubt) << 2);
        to.u32(self.lost.untold);
        for count in self.counters.all() {
            to.u32(count);
        }
        for number in self.backoff.state() {
            to.u32(number);
        }
        to.u8(self.inbound.all().iter().filter(|entry| keep(entry)).count() as u8);
        for entry in self.inbound.all().iter().filter(|entry| keep(entry)) {
            to.u16(entry.id);
        }
        records(self, &mut to);
        let len = to.seen();
        if len > room {
            return None;
        }
        let mut to = Out::new(head, 0);
        to.u32(MAGIC);
        to.u32(checksum(body.get(..len)?));
        Some(HEAD.wrapping_add(len))
    }

    /// Takes over a session that [`export`](Self::export) wrote, on a new client. `slept_ms` is how long ago that was, as
    /// far as the device knows: messages have grown older by it.
    ///
    /// # Errors
    /// It could not; begin with nothing.
    pub fn import(&mut self, now: u64, slept_ms: u64, from: &[u8]) -> Result<(), ImportError> {
        self.set_time(now);
        let result = self.read(slept_ms, from);
        if result.is_err() {
            let _ = self.arena.load(&[]);
            self.inbound.clear();
        }
        result
    }

    fn read(&mut self, slept_ms: u64, from: &[u8]) -> Result<(), ImportError> {
        let damaged = |_| ImportError::NotASession;
        let mut reader = Reader::new(from);
        let (magic, sum) = (reader.u32().map_err(damaged)?, reader.u32().map_err(damaged)?);
        if magic != MAGIC || sum != checksum(reader.rest()) {
            return Err(ImportError::NotASession);
        }
        let then = reader.u32().map_err(damaged)?;
        let next_id = reader.u16().map_err(damaged)?;
        let next_ticket = reader.u32().map_err(damaged)?;
        let flags = reader.u8().map_err(damaged)?;
        let untold = reader.u32().map_err(damaged)?;
        let mut counts = self.counters.all();
        for count in &mut counts {
            *count = reader.u32().map_err(damaged)?;
        }
        let mut state = self.backoff.state();
        for number in &mut state {
            *number = reader.u32().map_err(damaged)?;
        }
        self.inbound.clear();
        for _ in 0..reader.u8().map_err(damaged)? {
            self.inbound.push(reader.u16().map_err(damaged)?, Owed::Nothing, ReasonCode::Success);
        }
        if reader.rest().len() > self.arena.capacity() as usize {
            return Err(ImportError::NoRoom);
        }
        self.arena.load(reader.rest()).ok_or(ImportError::NotASession)?;
        (self.next_id, self.next_ticket) = (next_id.max(1), next_ticket.max(1));
        self.memory = match flags & 3 {
            0 => Memory::Unknown,
            1 => Memory::Clean,
            _ => Memory::Kept,
        };
        self.doubt = flags & 4 != 0;
        self.lost.untold = untold;
        self.counters.set_all(&counts);
        self.backoff.set_state(&state);
        self.grow_older(then, slept_ms);
        self.forget_transport();
        Ok(())
    }

    fn grow_older(&mut self, then: u32, slept_ms: u64) {
        let slept = u32::try_from(slept_ms >> super::timer::TICK_SHIFT).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1);
        let now = self.clock.tick();
        let mut at = 0;
        while let Some((here, mut head)) = self.arena.find(at, LIVE) {
            at = here.wrapping_add(head.len);
            if head.expires != 0 {
                let left = (head.expires.wrapping_sub(then) as i32).max(0) as u32;
                // What is over is over at once, also where the clock begins at 0 again: 0 itself is never.
                head.expires = match left.saturating_sub(slept) {
                    0 if now == 1 => u32::MAX,
                    0 => now.wrapping_sub(1),
                    rest => now.wrapping_add(rest).max(1),
                };
                self.arena.set(here, &head);
            }
        }
        if self.arena.find(0, State::Queued.bit() | State::InFlight.bit()).is_some() {
            self.look_for_expiry();
        }
    }
}

/// FNV-1a: enough to know memory that did not keep what was in it.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    checksum_on(0x811c_9dc5, bytes)
}

/// That of what came before, and more.
pub(crate) fn checksum_on(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
