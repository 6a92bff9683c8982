//! What the futures of the task and of its handle take, over a clock, a transport and flash whose own futures hold
//! nothing. Each is a symbol as long as its future, so `nm` tells; none of it ever runs.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::future::Future;
use core::hint::black_box;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embedded_io_async::{ErrorType, Read, Write};
use embedded_storage_async::nor_flash::{self, NorFlash, ReadNorFlash};
use forebay_firmware::adapter::task::{self, Connector, Time};
use forebay_firmware::flash::Tier;
use forebay_firmware::{Message, Pressure, Ticket};

type Handle = task::Handle<'static, 'static, NoopRawMutex, Nothing>;
type Runner<S = ()> = &'static mut task::Runner<'static, 'static, NoopRawMutex, Nothing, S>;
type Network = &'static mut Nothing;

macro_rules! futures {
    ($($name:ident: |$($argument:ident: $type:ty),*| $future:expr;)*) => {
        $(
            static $name: [u8; size({
                fn future(($($argument,)*): ($($type,)*)) -> impl Future {
                    $future
                }
                future
            })] = [0; _];
        )*

        #[cortex_m_rt::entry]
        fn main() -> ! {
            loop {
                $(black_box(&$name);)*
            }
        }
    };
}

/// Bytes of the future that a function answers.
const fn size<A, F: Future>(_: fn(A) -> F) -> usize {
    size_of::<F>()
}

futures! {
    RUN: |runner: Runner, network: Network| runner.run(network);
    RUN_FLASH: |runner: Runner<Tier<'static, Nothing>>, network: Network| runner.run(network);
    DRAIN_UNTIL: |runner: Runner, network: Network| runner.drain_until(network, 0);
    PUBLISH_WAIT: |handle: &'static Handle, message: &'static Message<'static>| handle.publish_wait(message, &[]);
    ENDED: |handle: &'static Handle, ticket: Ticket| handle.ended(ticket);
    RECEIVE: |handle: &'static Handle| handle.receive(&mut []);
    DRAINED: |handle: &'static Handle| handle.drained();
    CONNECTED: |handle: &'static Handle| handle.connected(true);
    PRESSURE_CHANGED: |handle: &'static Handle| handle.pressure_changed(Pressure::Normal);
}

struct Nothing;

impl Time for Nothing {
    fn now(&self) -> u64 {
        0
    }

    async fn wait_until(&self, _: u64) {}
}

impl Connector for Nothing {
    type Error = Infallible;
    type Transport<'c> = Nothing;

    async fn connect(&mut self) -> Result<Nothing, Infallible> {
        Ok(Nothing)
    }
}

impl ErrorType for Nothing {
    type Error = Infallible;
}

impl Read for Nothing {
    async fn read(&mut self, _: &mut [u8]) -> Result<usize, Infallible> {
        Ok(0)
    }
}

impl Write for Nothing {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl nor_flash::ErrorType for Nothing {
    type Error = Infallible;
}

impl ReadNorFlash for Nothing {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, _: u32, _: &mut [u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn capacity(&self) -> usize {
        0
    }
}

impl NorFlash for Nothing {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    async fn erase(&mut self, _: u32, _: u32) -> Result<(), Infallible> {
        Ok(())
    }

    async fn write(&mut self, _: u32, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
