//! Publishes readings, a few a second, connected or not: `cargo run -p forebay-client --example publish [URL]`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use forebay_client::{Message, Options, QoS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let client = Options::new(&url)?.client_id("example-publish").connect().await?;
    for n in 0..10 {
        let reading = Message::new("example/temperature", format!("{}", 20 + n % 5)).qos(QoS::AtLeastOnce);
        let ticket = client.publish(reading.expires_after(Duration::from_secs(3600))).await?;
        let acked = ticket.await?;
        println!("reading {n}: {}", acked.reason.name());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    client.disconnect().await;
    Ok(())
}
