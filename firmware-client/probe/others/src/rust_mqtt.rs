//! rust-mqtt: the application keeps what it publishes until it is acknowledged, and repeats it.

use crate::{Serial, block_on, port};
use core::num::NonZero;
use core::pin::pin;
use rust_mqtt::Bytes;
use rust_mqtt::buffer::BumpBuffer;
use rust_mqtt::client::Client;
use rust_mqtt::client::event::Event;
use rust_mqtt::client::options::{ConnectOptions, PublicationOptions, SubscriptionOptions, TopicReference};
use rust_mqtt::config::KeepAlive;
use rust_mqtt::types::{MqttString, TopicFilter, TopicName};

pub fn run() -> ! {
    block_on(pin!(work()))
}

async fn work() -> Option<()> {
    static mut RECEIVE: [u8; 512] = [0; 512];
    // What is published lies here until it is acknowledged; this client leaves that to the application.
    static mut OUTBOX: [u8; 4096] = [0; 4096];
    // SAFETY: this runs once.
    #[allow(static_mut_refs)]
    let (receive, outbox) = unsafe { (&mut RECEIVE, &mut OUTBOX) };
    let mut buffer = BumpBuffer::new(receive);
    let mut client = Client::<'_, '_, _, _, 1, 8, 8, 1, 0, 0, 0>::new(&mut buffer);
    let options = ConnectOptions::new().clean_start().keep_alive(KeepAlive::Seconds(NonZero::new(60)?));
    client.connect(Serial, &options, MqttString::from_str("probe").ok()).await.ok()?;
    let filter = TopicFilter::new(MqttString::from_str("probe/command").ok()?)?;
    client.subscribe(filter, &SubscriptionOptions::new().at_least_once()).await.ok()?;
    let mut free = true;
    loop {
        if free {
            let (reading, _) = outbox.split_first_chunk_mut::<4>()?;
            *reading = port::clock().to_le_bytes();
            let topic = TopicName::new(MqttString::from_str("probe/temperature").ok()?)?;
            let options = PublicationOptions::new(TopicReference::Name(topic)).at_least_once();
            client.publish(&options, Bytes::from(&reading[..])).await.ok()?;
            free = false;
        }
        match client.poll().await.ok()? {
            Event::Publish(message) => port::report(message.message.len() as u32),
            Event::PublishAcknowledged(_) => free = true,
            _ => {}
        }
        // SAFETY: nothing that was received is in use any more.
        unsafe { client.buffer_mut().reset() };
    }
}
