//! A service that doubles numbers, and a client that asks it: `cargo run -p forebay-client --example request_response [URL]`.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use forebay_client::{Client, Message, Options, QoS, Subscribe};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mqtt://127.0.0.1:1883".to_owned());
    let service = Options::new(&url)?.connect().await?;
    let requests = service.subscribe(Subscribe::to("example/double").qos(QoS::AtLeastOnce)).await?;
    tokio::spawn(serve(service, requests));

    let client = Options::new(&url)?.connect().await?;
    let requester = client.requester().await?;
    for n in 1..=3 {
        let request = Message::new("example/double", n.to_string()).qos(QoS::AtLeastOnce);
        let response = requester.request(request, Duration::from_secs(5)).await?;
        println!("twice {n} is {}", String::from_utf8_lossy(response.payload()));
    }
    Ok(())
}

async fn serve(client: Client, mut requests: forebay_client::Subscription) {
    while let Some(request) = requests.recv().await {
        let number: i64 = String::from_utf8_lossy(request.payload()).parse().unwrap_or(0);
        if let Some(response) = request.response((2 * number).to_string()) {
            // It is on its way; who asks waits as long as it likes.
            let _ticket = client.publish(response).await;
        }
    }
}
