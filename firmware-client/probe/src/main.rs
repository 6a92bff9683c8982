//! The smallest firmware that does what most do: connect, subscribe, publish with QoS 1 from an outbox, receive.
//! Its transport is three registers, so that what is left is the client.
#![no_std]
#![no_main]

#[cfg(feature = "run")]
#[path = "emulated.rs"]
mod port;
#[cfg(not(feature = "run"))]
#[cfg_attr(feature = "empty", allow(dead_code))]
mod port;

use port::{clock, report};
#[cfg(not(feature = "empty"))]
use port::{put, take, waiting};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(feature = "empty")]
#[cortex_m_rt::entry]
fn main() -> ! {
    loop {
        report(clock().wrapping_add(u32::from(port::up())));
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
        let now = u64::from(clock());
        let up = port::up();
        if up && client.connect_at().is_some_and(|at| at <= now) {
            input.clear();
            client.connected(now);
        }
        if !up || client.should_close() {
            client.disconnected(now);
        }
        let _ = client.publish(now, &TEMPERATURE, &clock().to_le_bytes());
        while waiting() {
            input.fill(&[take()]);
        }
        while let Some(event) = client.poll_event(now, &mut input) {
            match event {
                Event::Message(message) => report(message.payload.len() as u32),
                Event::Acknowledged { ticket, .. } => report(ticket.number()),
                _ => {}
            }
        }
        let len = client.poll_transmit(now, OUT);
        for byte in OUT.iter().take(len) {
            put(*byte);
        }
        report(client.next_timeout().unwrap_or_default() as u32);
        #[cfg(feature = "run")]
        port::end_when_done(size_of::<Client<'_>>());
    }
}
