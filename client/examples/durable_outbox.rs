//! Publishes numbered messages that survive the end of this program, at any moment: end it with Ctrl-C or `kill -9`, start it
//! again, and see at a subscriber that none is missing and none comes twice.
//! `cargo run -p forebay-client --features durable --example durable_outbox [URL] [FILE]`
#![allow(clippy::print_stdout)]

use std::time::Duration;

use forebay_client::{Message, Options, QoS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let file = arguments.next().unwrap_or_else(|| "outbox.redb".to_owned());
    // It may start without a server: what is published waits in the file.
    let client = Options::new(&url)?.client_id("example-durable").durable(file).start()?;
    for n in 0..100 {
        // When this resolves, the message is on disk.
        let _ticket = client.publish(Message::new("example/durable", n.to_string()).qos(QoS::ExactlyOnce)).await?;
        let stats = client.stats();
        println!("{n} is safe; {} wait for the server", stats.outbox_messages);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.drained().await;
    client.disconnect().await;
    Ok(())
}
