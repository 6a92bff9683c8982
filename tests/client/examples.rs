//! The examples of the client library, run as a newcomer would.

use std::process::Command;
use std::time::Duration;

use forebay_client::{QoS, Subscribe, Version};
use forebay_tests::broker::Broker;
use forebay_tests::scratch::Scratch;

use crate::options;

/// `cargo run --example` with the target folder of this test.
fn example(name: &str, features: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "-q", "-p", "forebay-client", "--features", features, "--example", name, "--"]);
    command.args(arguments);
    command
}

async fn succeeds(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_do_what_they_say() {
    let broker = Broker::start();
    let scratch = Scratch::new("examples");
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let watcher = options(&broker, Version::V5).connect().await.unwrap();
    let mut all = watcher.subscribe(Subscribe::to("example/#").qos(QoS::ExactlyOnce)).await.unwrap();
    let mut next = async || {
        let received = tokio::time::timeout(Duration::from_secs(60), all.recv()).await.unwrap().unwrap();
        (received.topic().to_owned(), String::from_utf8(received.payload().to_vec()).unwrap())
    };

    let printed = succeeds(example("publish", "", &[&url])).await;
    assert_eq!(printed.lines().count(), 10, "{printed}");
    for n in 0..10 {
        assert_eq!(next().await, ("example/temperature".to_owned(), (20 + n % 5).to_string()));
    }

    let printed = succeeds(example("request_response", "", &[&url])).await;
    assert_eq!(printed, "twice 1 is 2\ntwice 2 is 4\ntwice 3 is 6\n");
    for n in 1..=3 {
        assert_eq!(next().await, ("example/double".to_owned(), n.to_string()));
    }

    let ca = broker.ca().display().to_string();
    let tls = format!("mqtts://localhost:{}", broker.tls_port());
    succeeds(example("tls", "tls", &[&tls, &ca])).await;
    assert_eq!(next().await, ("example/tls".to_owned(), "hello".to_owned()));

    let file = scratch.path().join("outbox.redb").display().to_string();
    succeeds(example("durable_outbox", "durable", &[&url, &file])).await;
    for n in 0..100 {
        assert_eq!(next().await, ("example/durable".to_owned(), n.to_string()));
    }

    let mut command = example("subscribe", "", &[&url]);
    let mut subscriber = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(subscriber.stdout.take().unwrap()));
    let first = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
    while !first.is_finished() {
        let message = forebay_client::Message::new("example/hello", "there").qos(QoS::AtLeastOnce);
        watcher.publish(message).await.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(first.await.unwrap(), "example/hello: there");
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}
