//! This client as the others are: a task, and a handle for those that publish and receive.

use crate::{Serial, block_on, port};
use core::convert::Infallible;
use core::pin::pin;
use embassy_futures::join::join3;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use forebay_firmware::adapter::task::{Connector, Device, Memory};
use forebay_firmware::adapter::time::EmbassyTime;
use forebay_firmware::{Message, Options, QoS};

static OPTIONS: Options<'static> = Options::new("probe");
static TEMPERATURE: Message<'static> = Message::new("probe/temperature").ttl_ms(600_000);

pub fn run() -> ! {
    block_on(pin!(work()))
}

struct Network;

impl Connector for Network {
    type Error = Infallible;
    type Transport<'c> = Serial;

    async fn connect(&mut self) -> Result<Serial, Infallible> {
        Ok(Serial)
    }
}

async fn work() {
    static mut OUTBOX: [u8; 4096] = [0; 4096];
    static mut RECEIVE: [u8; 512] = [0; 512];
    static mut SCRATCH: [u8; 256] = [0; 256];
    // SAFETY: this runs once.
    #[allow(static_mut_refs)]
    let memory = unsafe { Memory { outbox: &mut OUTBOX, receive: &mut RECEIVE, scratch: &mut SCRATCH } };
    let mut device = Device::<NoopRawMutex, _>::new(&OPTIONS, memory, EmbassyTime);
    let (mut runner, handle) = device.split();
    let _ = handle.subscribe("probe/command", QoS::AtLeastOnce);
    let publish = async {
        loop {
            let ticket = handle.publish_wait(&TEMPERATURE, &port::clock().to_le_bytes()).await;
            if let Ok(ticket) = ticket {
                handle.ended(ticket).await;
            }
        }
    };
    let receive = async {
        let mut buffer = [0; 64];
        loop {
            if let Ok(message) = handle.receive(&mut buffer).await {
                port::report(message.payload.len() as u32);
            }
        }
    };
    join3(runner.run(&mut Network), publish, receive).await;
}
