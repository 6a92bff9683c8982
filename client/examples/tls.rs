//! TLS with an own CA and a client certificate:
//! `cargo run -p forebay-client --example tls mqtts://HOST:8883 CA.pem [CERT.pem KEY.pem]`.
#![allow(clippy::print_stdout)]

use forebay_client::{Message, Options, QoS, Tls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, ca, identity @ ..] = arguments.as_slice() else {
        return Err("usage: tls URL CA.pem [CERT.pem KEY.pem]".into());
    };
    let mut tls = Tls::new().ca_file(ca)?;
    if let [cert, key] = identity {
        tls = tls.identity(cert, key)?;
    }
    let client = Options::new(url)?.tls(tls).connect().await?;
    client.publish(Message::new("example/tls", "hello").qos(QoS::AtLeastOnce)).await?.await?;
    println!("the server has it");
    client.disconnect().await;
    Ok(())
}
