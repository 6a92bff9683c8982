//! mqttrust: a stack and a client, which share a state and run beside each other.

use crate::{Serial, block_on, port};
use core::convert::Infallible;
use core::net::{Ipv4Addr, SocketAddr};
use core::pin::pin;
use embassy_futures::join::join;
use embassy_futures::select::select;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_time::Duration;
use embedded_nal_async::TcpConnect;
use mqttrust::transport::embedded_nal::NalTransport;
use mqttrust::{Config, IpBroker, Publish, State, Subscribe};

pub fn run() -> ! {
    block_on(pin!(work()))
}

/// Its transport cannot be written outside the crate (a type in it has no public name), so this is a network.
struct Network;

impl TcpConnect for Network {
    type Error = Infallible;
    type Connection<'a> = Serial;

    async fn connect(&self, _: SocketAddr) -> Result<Serial, Infallible> {
        Ok(Serial)
    }
}

async fn work() {
    static mut STATE: State<NoopRawMutex, 4096, 512> = State::new();
    let Ok(id) = "probe".try_into() else { return };
    let config = Config::builder().client_id(id).keepalive_interval(Duration::from_secs(60)).build();
    // SAFETY: this runs once.
    #[allow(static_mut_refs)]
    let (mut stack, client) = mqttrust::new(unsafe { &mut STATE }, config);
    let mut transport = NalTransport::new(&Network, IpBroker::new(Ipv4Addr::LOCALHOST, 1883));
    let application = async {
        let topics = ["probe/command".into()];
        let Ok(mut commands) = client.subscribe::<1>(Subscribe::builder().topics(&topics).build()).await else {
            return;
        };
        let receive = async {
            while let Some(message) = commands.next_message().await {
                port::report(message.payload().len() as u32);
            }
        };
        let publish = async {
            loop {
                let reading = port::clock().to_le_bytes();
                let message = Publish::builder().topic_name("probe/temperature").payload(&reading[..]).build();
                let _ = client.publish(message).await;
            }
        };
        select(receive, publish).await;
    };
    join(stack.run(&mut transport), application).await;
}
