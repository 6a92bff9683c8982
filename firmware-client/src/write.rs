//! Writes packets into whatever room there is.

use crate::bytes;

/// A packet may be longer than the room that the transport has: it is written again from its beginning, and what was
/// taken before is skipped. So every packet, however long, needs no other state than how much of it is gone; and a
/// writer that has no room counts.
pub(crate) struct Out<'o> {
    room: &'o mut [u8],
    skip: usize,
    seen: usize,
}

impl<'o> Out<'o> {
    pub(crate) fn new(room: &'o mut [u8], skip: usize) -> Self {
        Self { room, skip, seen: 0 }
    }

    /// Counts only.
    pub(crate) fn counting() -> Self {
        Self { room: &mut [], skip: 0, seen: 0 }
    }

    /// Bytes of the packet so far, written or not.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Bytes that were put into the room.
    pub(crate) fn written(&self) -> usize {
        self.seen.saturating_sub(self.skip).min(self.room.len())
    }

    #[inline(never)]
    pub(crate) fn bytes(&mut self, from: &[u8]) {
        let before = self.skip.saturating_sub(self.seen);
        let at = self.seen.saturating_sub(self.skip);
        self.seen = self.seen.wrapping_add(from.len());
        if let (Some(room), Some(from)) = (self.room.get_mut(at..), from.get(before..)) {
            bytes::copy(room, from);
        }
    }

    #[inline(never)]
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[inline(never)]
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(never)]
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// A variable byte integer.
    #[inline(never)]
    pub(crate) fn varint(&mut self, value: usize) {
        let mut left = value as u32;
        loop {
            let low = (left & 0x7f) as u8;
            left >>= 7;
            if left == 0 {
                return self.u8(low);
            }
            self.u8(low | 0x80);
        }
    }

    /// A string or binary data with its length. What is longer than 65,535 bytes was refused before it came here.
    #[inline(never)]
    pub(crate) fn field(&mut self, field: &[u8]) {
        self.u16(field.len() as u16);
        self.bytes(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn packet(out: &mut Out<'_>) {
        out.u8(0x30);
        out.varint(300);
        out.field(b"topic");
        out.u32(0x0102_0304);
    }

    #[test]
    fn any_split_gives_the_same_bytes() {
        let mut whole = [0; 32];
        let mut out = Out::new(&mut whole, 0);
        packet(&mut out);
        let len = out.written();
        let mut count = Out::counting();
        packet(&mut count);
        assert_eq!((len, count.seen(), count.written()), (14, 14, 0));
        for step in 1..=len {
            let mut taken = Vec::new();
            while taken.len() < len {
                let mut room = [0; 32];
                let mut out = Out::new(&mut room[..step], taken.len());
                packet(&mut out);
                let written = out.written();
                taken.extend_from_slice(&room[..written]);
            }
            assert_eq!(taken, whole[..len], "in steps of {step}");
        }
    }
}
