//! The connection ends at every byte of a conversation, in both directions, and what arrives is counted.

use forebay_client::{Subscribe, Version};

use crate::server::{Cut, Server};
use crate::{Q0, Q1, Q2, VERSIONS, message, options, soon};

/// Connect, subscribe, publish at each QoS, receive at each; how many bytes the last connection took, and how many there were.
async fn conversation(version: Version, cuts: &[Cut]) -> (usize, usize, usize) {
    let server = Server::start(version).await;
    server.state().cuts.extend(cuts);
    let client = options(server.port, version).start().unwrap();
    let mut events = client.events();
    server.send("one", Q1);
    server.send("two", Q2);
    let subscribe = Subscribe::to("in/#").qos(Q2);
    let mut messages = soon(client.subscribe(subscribe)).await.unwrap();
    let mut tickets = Vec::new();
    for (n, qos) in [Q0, Q1, Q2, Q1, Q2].into_iter().enumerate() {
        tickets.push(soon(client.publish(message(n, qos))).await.unwrap());
    }
    let mut got = Vec::new();
    while got.len() < 2 {
        let received = soon(messages.recv()).await.unwrap();
        got.push(String::from_utf8(received.payload().to_vec()).unwrap());
        got.dedup();
    }
    assert_eq!(got, ["one", "two"], "{cuts:?}");
    for (n, ticket) in tickets.into_iter().enumerate() {
        let outcome = soon(ticket).await;
        assert!(outcome.is_ok() || n == 0, "{n}: {outcome:?} {cuts:?}");
    }
    soon(client.drained()).await;
    // Also the acks of what was received: the server has nothing left to repeat.
    server.send("last", Q1);
    loop {
        let last = soon(messages.recv()).await.unwrap();
        if last.payload() == b"last" {
            break;
        }
        assert!(last.payload() == b"one" && last.dup(), "{cuts:?}");
    }
    let bytes = {
        let state = server.state();
        (state.heard, state.said)
    };
    soon(client.disconnect()).await;
    assert!(messages.try_recv().is_none(), "{cuts:?}");
    let times: Vec<_> = (0..5).map(|n| server.times(&n.to_string())).collect();
    assert!(times[0] <= 1 && times[1] >= 1 && times[3] >= 1, "{times:?} {cuts:?}");
    assert!(times[2] == 1 && times[4] == 1, "{times:?} {cuts:?}");
    let stats = client.stats();
    assert_eq!(stats.accepted, stats.acked + stats.written + stats.dropped(), "{stats:?}");
    let mut story = Vec::new();
    while let Some(event) = soon(events.next()).await {
        story.push(event);
    }
    // Everything may have been said before the cut.
    let connections = server.state().connections;
    assert!(connections <= 1 + cuts.len(), "{cuts:?} {story:#?}");
    (bytes.0, bytes.1, connections)
}

async fn all(version: Version, each: impl Fn(usize) -> Cut, bytes: usize) {
    let mut connections = 0;
    for n in 0..bytes {
        // The second connection ends at another byte than the first.
        let cuts = [each(n + 1), each(bytes - n)];
        connections += conversation(version, &cuts[..1 + n % 2]).await.2;
    }
    assert!(connections > bytes * 2, "{connections} connections, {bytes} bytes");
}

#[tokio::test]
async fn the_connection_ends_at_every_byte_of_the_client() {
    for version in VERSIONS {
        let (heard, ..) = conversation(version, &[]).await;
        all(version, Cut::Heard, heard).await;
    }
}

#[tokio::test]
async fn the_connection_ends_at_every_byte_of_the_server() {
    for version in VERSIONS {
        let (_, said, _) = conversation(version, &[]).await;
        all(version, Cut::Said, said).await;
    }
}
