//! What this device has from the debugger that it runs under (semihosting): what to do, a console, a way to end.
//! A real one has these from its flash, its serial port, and never.

#[cfg(feature = "tls")]
use cortex_m_semihosting::syscall;
use cortex_m_semihosting::{debug, syscall1};

/// Space for the command line.
pub const LINE_MAX: usize = 512;

/// The command line, as `name=value` words.
pub fn command_line(buffer: &mut [u8; LINE_MAX]) -> &str {
    let mut block = [buffer.as_mut_ptr() as usize, buffer.len()];
    // SAFETY: the debugger writes at most the given length into the buffer, and the length into the block.
    let failed = unsafe { syscall1!(GET_CMDLINE, &raw mut block) };
    let len = if failed == 0 { block[1] } else { 0 };
    let line = core::str::from_utf8(buffer.get(..len).unwrap_or_default()).unwrap_or_default();
    // QEMU counts the byte that ends it.
    line.trim_end_matches('\0')
}

/// Seconds since 1970.
pub fn time() -> u32 {
    // SAFETY: takes nothing and writes nothing.
    (unsafe { syscall1!(TIME, 0) }) as u32
}

/// Reads the beginning of a file of the host, as much as fits; empty when there is none. The name ends with a zero
/// byte.
#[cfg(feature = "tls")]
pub fn read_file<'b>(name: &[u8], buffer: &'b mut [u8]) -> &'b [u8] {
    const BINARY: usize = 1;
    // SAFETY: the debugger reads the name, which has this length beside its last byte.
    let file = unsafe { syscall!(OPEN, name.as_ptr(), BINARY, name.len() - 1) };
    if file == usize::MAX {
        return &[];
    }
    // SAFETY: the debugger writes at most the given length into the buffer; it answers how much it did not write.
    let missing = unsafe { syscall!(READ, file, buffer.as_mut_ptr(), buffer.len()) };
    // SAFETY: closes what was opened above.
    unsafe { syscall!(CLOSE, file) };
    buffer.get(..buffer.len().saturating_sub(missing)).unwrap_or_default()
}

/// Ends the emulation; its exit code is 0 or 1.
pub fn exit(success: bool) -> ! {
    debug::exit(if success { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}
