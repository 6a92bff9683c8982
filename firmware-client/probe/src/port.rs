//! What a chip would have: a clock, and a serial port to a modem. What uses this is measured, not run.

use core::ptr::{read_volatile, write_volatile};

const CLOCK: *const u32 = 0x4000_0000 as *const u32;
const DATA: *mut u32 = 0x4000_0004 as *mut u32;
const STATE: *const u32 = 0x4000_0008 as *const u32;

fn register(at: *const u32) -> u32 {
    // SAFETY: registers of the chip.
    unsafe { read_volatile(at) }
}

/// Milliseconds.
pub fn clock() -> u32 {
    register(CLOCK)
}

/// Whether there is a connection.
#[allow(dead_code)]
pub fn up() -> bool {
    register(STATE) & 1 != 0
}

/// Whether a byte has come.
pub fn waiting() -> bool {
    register(STATE) & 2 != 0
}

/// The byte that has come.
pub fn take() -> u8 {
    register(DATA) as u8
}

/// Something for the application: what is computed has to be used.
pub fn report(value: u32) {
    // SAFETY: as above.
    unsafe { write_volatile(DATA, value) }
}

/// Sends a byte.
pub fn put(byte: u8) {
    report(byte.into());
}
