//! minimq: publishing needs a connection, and what is published is kept until it is acknowledged.

use crate::{Serial, block_on, port};
use core::pin::pin;
use minimq::{Buffers, ConfigBuilder, ConnectEvent, Publication, QoS, Session, SubscriptionOptions, TopicFilter};

pub fn run() -> ! {
    block_on(pin!(work()))
}

async fn work() {
    static mut RECEIVE: [u8; 512] = [0; 512];
    static mut TRANSMIT: [u8; 4096] = [0; 4096];
    // SAFETY: this runs once.
    #[allow(static_mut_refs)]
    let buffers = unsafe { Buffers::new(&mut RECEIVE, &mut TRANSMIT) };
    let Ok(config) = ConfigBuilder::new(buffers).client_id("probe") else { return };
    let mut session = Session::new(config.session_expiry_interval(86_400).keepalive_interval(60));
    loop {
        let Ok(mut connection) = session.connect(Serial).await else { continue };
        if connection.connect_event() == ConnectEvent::Connected {
            let options = SubscriptionOptions::default().maximum_qos(QoS::AtLeastOnce);
            let _ = connection.subscribe(&[TopicFilter::new("probe/command").options(options)], &[]).await;
        }
        let mut sent = None;
        loop {
            if sent.as_ref().is_none_or(|sent| connection.session().is_complete(sent)) {
                let reading = port::clock().to_le_bytes();
                let message = Publication::bytes("probe/temperature", &reading).qos(QoS::AtLeastOnce);
                sent = connection.publish(message).await.unwrap_or_default();
            }
            match connection.poll().await {
                Ok(Some(message)) => port::report(message.payload().len() as u32),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
}
