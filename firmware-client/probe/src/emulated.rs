//! The same for QEMU, with a server in memory: it accepts, grants, acknowledges, sends a command, and hangs up once
//! where that can be borne. It takes little stack, so that what is measured is the client's.

// It has the critical section that the console needs.
use cortex_m as _;

use core::cell::UnsafeCell;
use core::ptr::read_volatile;
use cortex_m_semihosting::{debug, hprintln};

/// Messages of the client until the end, and after how many of them the server hangs up, and sends a command.
const ENOUGH: u32 = 8;
const HANG_UP: u32 = 2;
const COMMAND: u32 = 4;

struct Server {
    now: u32,
    packet: [u8; 160],
    len: usize,
    answers: [u8; 1_024],
    read: usize,
    written: usize,
    v5: bool,
    connects: u32,
    published: u32,
    hangs_up: bool,
    obeyed: bool,
}

struct Only(UnsafeCell<Server>);

// SAFETY: there is one thread and no interrupt.
unsafe impl Sync for Only {}

static SERVER: Only = Only(UnsafeCell::new(Server {
    now: 0,
    packet: [0; 160],
    len: 0,
    answers: [0; 1_024],
    read: 0,
    written: 0,
    v5: false,
    connects: 0,
    published: 0,
    hangs_up: false,
    obeyed: false,
}));

fn server() -> &'static mut Server {
    // SAFETY: there is one thread, and no function here calls another while it has this.
    unsafe { &mut *SERVER.0.get() }
}

/// Milliseconds, which go by the calls.
pub fn clock() -> u32 {
    let server = server();
    server.now += 1;
    server.now
}

/// Whether there is a connection; the next call finds a new one.
#[allow(dead_code)]
pub fn up() -> bool {
    let server = server();
    let hangs_up = core::mem::take(&mut server.hangs_up);
    if hangs_up {
        (server.len, server.read, server.written) = (0, 0, 0);
    }
    !hangs_up
}

/// Whether a byte has come.
pub fn waiting() -> bool {
    let server = server();
    server.read < server.written
}

/// The byte that has come.
pub fn take() -> u8 {
    let server = server();
    let byte = server.answers[server.read];
    server.read += 1;
    if server.read == server.written {
        (server.read, server.written) = (0, 0);
    }
    byte
}

/// Nobody wants to know.
#[allow(dead_code)]
pub fn report(_: u32) {}

/// Sends a byte.
pub fn put(byte: u8) {
    let server = server();
    if server.hangs_up {
        return;
    }
    server.packet[server.len] = byte;
    server.len += 1;
    // No packet of the probe is longer than 127 bytes.
    if server.len >= 2 && server.len == 2 + usize::from(server.packet[1]) {
        server.handle();
        server.len = 0;
    }
}

impl Server {
    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.answers[self.written] = *byte;
            self.written += 1;
        }
    }

    #[inline(never)]
    fn handle(&mut self) {
        let (a, b) = (self.packet[2], self.packet[3]);
        match self.packet[0] >> 4 {
            1 => {
                self.v5 = self.packet[8] == 5;
                let present = u8::from(self.connects > 0 && self.packet[9] & 2 == 0);
                self.connects += 1;
                let answer = [0x20, 2 + u8::from(self.v5), present, 0, 0];
                self.answer(&answer[..4 + usize::from(self.v5)]);
            }
            3 => {
                let at = 4 + usize::from(b);
                let id = [self.packet[at], self.packet[at + 1]];
                self.answer(&[0x40, 2, id[0], id[1]]);
                self.published += 1;
                if self.published == COMMAND {
                    self.answer(if self.v5 { b"\x32\x14" } else { b"\x32\x13" });
                    self.answer(b"\0\x0dprobe/command\0\x07");
                    self.answer(if self.v5 { b"\0on" } else { b"on" });
                }
                self.hangs_up = cfg!(feature = "reconnects") && self.published == HANG_UP;
            }
            4 => self.obeyed = true,
            8 => {
                self.answer(&[0x90, 3 + u8::from(self.v5), a, b]);
                self.answer(if self.v5 { &[0, 1] } else { &[1] });
            }
            12 => self.answer(&[0xd0, 0]),
            14 => (self.read, self.written) = (0, 0),
            _ => {}
        }
    }
}

const PAINT: u32 = 0xcccc_cccc;

unsafe extern "C" {
    static _stack_start: u32;
    static _stack_end: u32;
}

/// Says what was measured, and ends, when everything has happened.
#[inline(never)]
pub fn end_when_done(state: usize) {
    let server = server();
    if server.now > 100_000 {
        hprintln!("stuck after {} messages", server.published);
        debug::exit(debug::EXIT_FAILURE);
    }
    if server.published < ENOUGH || !server.obeyed {
        return;
    }
    let (top, mut at) = (&raw const _stack_start, &raw const _stack_end);
    // SAFETY: all between the two symbols of the linker is the stack, which is memory.
    while at < top && unsafe { read_volatile(at) } == PAINT {
        at = at.wrapping_add(1);
    }
    hprintln!("state {} stack {}", state, top as usize - at as usize);
    debug::exit(debug::EXIT_SUCCESS);
}
