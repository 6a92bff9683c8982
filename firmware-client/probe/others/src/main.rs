//! The probe beside this, with other clients, and with this one as a task.
#![no_std]
#![no_main]

#[cfg(feature = "run")]
#[path = "../../src/emulated.rs"]
mod port;
#[cfg(not(feature = "run"))]
#[path = "../../src/port.rs"]
mod port;

#[cfg(feature = "forebay")]
#[path = "forebay.rs"]
mod client;
#[cfg(feature = "minimq")]
#[path = "minimq.rs"]
mod client;
#[cfg(feature = "mqttrust")]
#[path = "mqttrust.rs"]
mod client;
#[cfg(feature = "rust-mqtt")]
#[path = "rust_mqtt.rs"]
mod client;

use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::Pin;
#[cfg(feature = "empty")]
use core::pin::pin;
use core::task::{Context, Poll, Waker};
// It has the critical section.
use cortex_m as _;
use embedded_io_async::{ErrorType, Read, Write};

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(feature = "run")]
    cortex_m_semihosting::hprintln!("{}", _info);
    loop {}
}

/// Runs a future for ever. Nothing has to wake it: it is asked again and again.
fn block_on(mut future: Pin<&mut impl Future>) -> ! {
    #[cfg(feature = "run")]
    let size = size_of_val(&*future);
    loop {
        let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        #[cfg(feature = "run")]
        port::end_when_done(size);
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    #[cfg(feature = "empty")]
    block_on(pin!(async {
        let mut byte = [0];
        let _ = Serial.read(&mut byte).await;
        let _ = Serial.write(&byte).await;
        embassy_time::Timer::after_millis(u64::from(byte[0])).await;
    }));
    #[cfg(not(feature = "empty"))]
    client::run()
}

/// The transport.
pub struct Serial;

impl ErrorType for Serial {
    type Error = Infallible;
}

impl Read for Serial {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        // Not at the first time of asking: others want to run too.
        let mut asked = false;
        let ready = |_: &mut Context<'_>| {
            if core::mem::replace(&mut asked, true) && port::waiting() { Poll::Ready(()) } else { Poll::Pending }
        };
        poll_fn(ready).await;
        let mut len = 0;
        for to in buffer.iter_mut() {
            if !port::waiting() {
                break;
            }
            *to = port::take();
            len += 1;
        }
        Ok(len)
    }
}

impl Write for Serial {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        bytes.iter().for_each(|byte| port::put(*byte));
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The clock; who waits for it is asked again anyway.
struct Clock;

impl embassy_time_driver::Driver for Clock {
    fn now(&self) -> u64 {
        u64::from(port::clock())
    }

    fn schedule_wake(&self, _: u64, waker: &Waker) {
        waker.wake_by_ref();
    }
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);
