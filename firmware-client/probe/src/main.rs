//! The smallest firmware that does what most do: connect, subscribe, publish with QoS 1 from an outbox, receive.
//! Its transport is three registers, so that what is left is the client.
#![no_std]
#![no_main]

use core::ptr::{read_volatile, write_volatile};

/// What a chip would have: a clock, and a serial port to a modem. The probe is measured, not run.
const CLOCK: *const u32 = 0x4000_0000 as *const u32;
const DATA: *mut u32 = 0x4000_0004 as *mut u32;
const STATE: *const u32 = 0x4000_0008 as *const u32;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

fn register(at: *const u32) -> u32 {
    // SAFETY: registers of the chip.
    unsafe { read_volatile(at) }
}

fn put(value: u32) {
    // SAFETY: as above.
    unsafe { write_volatile(DATA, value) }
}

#[cfg(feature = "empty")]
#[cortex_m_rt::entry]
fn main() -> ! {
    loop {
        put(register(CLOCK).wrapping_add(register(STATE)));
    }
}

#[cfg(not(feature = "empty"))]
use forebay_firmware::{Client, Event, Input, Message, Options, QoS};
#[cfg(not(feature = "empty"))]
static OPTIONS: Options<'static> = Options::new("probe");
#[cfg(not(feature = "empty"))]
static TEMPERATURE: Message<'static> = Message::new("probe/temperature").ttl_ms(600_000);

#[cfg(not(feature = "empty"))]
#[cortex_m_rt::entry]
fn main() -> ! {
    static mut OUTBOX: [u8; 4096] = [0; 4096];
    static mut RECEIVE: [u8; 512] = [0; 512];
    static mut OUT: [u8; 128] = [0; 128];
    let mut client = Client::new(&OPTIONS, OUTBOX);
    let mut input = Input::new(RECEIVE);
    let _ = client.subscribe("probe/command", QoS::AtLeastOnce);
    loop {
        let now = u64::from(register(CLOCK));
        let up = register(STATE) & 1 != 0;
        if up && client.connect_at().is_some_and(|at| at <= now) {
            input.clear();
            client.connected(now);
        }
        if !up || client.should_close() {
            client.disconnected(now);
        }
        let _ = client.publish(now, &TEMPERATURE, &register(CLOCK).to_le_bytes());
        while register(STATE) & 2 != 0 {
            input.fill(&[register(DATA) as u8]);
        }
        while let Some(event) = client.poll_event(now, &mut input) {
            match event {
                Event::Message(message) => put(message.payload.len() as u32),
                Event::Acknowledged { ticket, .. } => put(ticket.number()),
                _ => {}
            }
        }
        let len = client.poll_transmit(now, OUT);
        for byte in OUT.iter().take(len) {
            put(u32::from(*byte));
        }
        put(client.next_timeout().unwrap_or_default() as u32);
    }
}
