//! The Ethernet controller of the LM3S6965: two FIFOs behind one register, no DMA.

use core::ptr::{read_volatile, write_volatile};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// Its registers (Stellaris LM3S6965 data sheet, 16.5).
#[derive(Clone, Copy)]
#[repr(usize)]
enum Register {
    ReceiveControl = 0x4004_8008,
    TransmitControl = 0x4004_800c,
    Data = 0x4004_8010,
    Address0 = 0x4004_8014,
    Address1 = 0x4004_8018,
    Packets = 0x4004_8034,
    TransmitRequest = 0x4004_8038,
}

/// Bits of `ReceiveControl` and `TransmitControl`.
const RECEIVE: u32 = 1;
const RESET_FIFO: u32 = 1 << 4;
const TRANSMIT: u32 = 1;
const PAD: u32 = 1 << 1;
const CHECKSUM: u32 = 1 << 2;
const FULL_DUPLEX: u32 = 1 << 4;

/// Destination, source and type; the length in the FIFO does not count them.
const HEADER: usize = 14;
/// The largest frame without its checksum.
pub const FRAME_MAX: usize = 1514;

impl Register {
    fn read(self) -> u32 {
        // SAFETY: one of the controller's registers; reading has no effect on memory.
        unsafe { read_volatile(self as usize as *const u32) }
    }

    fn write(self, value: u32) {
        // SAFETY: one of the controller's registers; writing has no effect on memory.
        unsafe { write_volatile(self as usize as *mut u32, value) }
    }
}

/// A frame.
pub type Frame = [u8; FRAME_MAX];

/// The controller, with a frame each way.
pub struct Mac {
    received: &'static mut Frame,
    sending: &'static mut Frame,
}

impl Mac {
    /// Starts it with this address.
    pub fn start(address: [u8; 6], [received, sending]: &'static mut [Frame; 2]) -> Self {
        let [a, b, c, d, e, f] = address;
        Register::Address0.write(u32::from_le_bytes([a, b, c, d]));
        Register::Address1.write(u32::from_le_bytes([e, f, 0, 0]));
        Register::ReceiveControl.write(RESET_FIFO);
        Register::TransmitControl.write(TRANSMIT | PAD | CHECKSUM | FULL_DUPLEX);
        Register::ReceiveControl.write(RECEIVE);
        Self { received, sending }
    }
}

/// Takes a frame out of the FIFO, which holds its length (that counts itself and the checksum), the frame, the
/// checksum.
fn take(frame: &mut Frame) -> &[u8] {
    let first = Register::Data.read();
    let total = (first & 0xffff) as usize;
    let len = total.saturating_sub(6).min(FRAME_MAX);
    let rest = (1..total.div_ceil(4)).flat_map(|_| Register::Data.read().to_le_bytes());
    let mut bytes = [(first >> 16) as u8, (first >> 24) as u8].into_iter().chain(rest);
    for to in frame.iter_mut().take(len) {
        *to = bytes.next().unwrap_or_default();
    }
    // It is gone from the FIFO only when all of it was read.
    bytes.for_each(drop);
    frame.get(..len).unwrap_or_default()
}

/// Puts a frame into the FIFO and sends it.
fn put(frame: &[u8]) {
    while Register::TransmitRequest.read() & 1 != 0 {}
    let length = (frame.len().saturating_sub(HEADER) as u16).to_le_bytes();
    let mut bytes = length.into_iter().chain(frame.iter().copied());
    while let Some(first) = bytes.next() {
        let mut rest = || bytes.next().unwrap_or_default();
        Register::Data.write(u32::from_le_bytes([first, rest(), rest(), rest()]));
    }
    Register::TransmitRequest.write(1);
}

impl phy::Device for Mac {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = ToSend<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, ToSend<'_>)> {
        (Register::Packets.read() > 0).then(|| (Received(take(self.received)), ToSend(self.sending)))
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_>> {
        Some(ToSend(self.sending))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}

/// A frame that has come.
pub struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        handle(self.0)
    }
}

/// Room for one to send.
pub struct ToSend<'a>(&'a mut Frame);

impl phy::TxToken for ToSend<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let frame = self.0.get_mut(..len).unwrap_or_default();
        let result = fill(frame);
        put(frame);
        result
    }
}
