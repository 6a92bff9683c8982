//! Prints what comes, and acknowledges each message when it is done with it:
//! `cargo run -p forebay-client --example subscribe [URL]`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use forebay_client::{Options, QoS, Subscribe};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    // The server keeps what comes while this program is away for an hour.
    let options = Options::new(&url)?.client_id("example-subscribe").session_expiry(Duration::from_secs(3600));
    let client = options.connect().await?;
    let mut messages = client.subscribe(Subscribe::to("example/#").qos(QoS::ExactlyOnce).manual_ack()).await?;
    while let Some(message) = messages.recv().await {
        println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()));
        // Only now may the server forget it.
        client.ack(&message);
    }
    Ok(())
}
