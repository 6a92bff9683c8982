//! A line that carries little: megabytes wait in the kernel's buffers, and the answer to PINGREQ comes when they are
//! through. A program that reads little: what it asks for is answered all the same.

use std::time::Duration;

use forebay_client::{Inbox, Outbox, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peer::{PUBACK, Packet, ack, connack, packets, publish, suback, unsuback};
use crate::server::whole_packets;
use crate::{Q0, Q1, VERSIONS, message, options, soon};

/// A server behind such a line: what it read, when the client has said DISCONNECT or is gone.
async fn behind(listener: TcpListener, version: Version, bytes_a_second: usize) -> Vec<Packet> {
    const TICK: Duration = Duration::from_millis(20);
    let (mut stream, _) = listener.accept().await.unwrap();
    // No second connection: a client that gives this one up is not served.
    drop(listener);
    let (mut tail, mut all) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; bytes_a_second / 50];
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return all };
        tail.extend_from_slice(&buffer[..read]);
        let whole = whole_packets(&tail);
        for packet in packets(version, &tail.drain(..whole).collect::<Vec<_>>()) {
            let answer = match &packet {
                Packet::Connect { .. } => connack(version, false, 0, &[]),
                Packet::Ping => vec![0xd0, 0],
                Packet::Disconnect(_) => return all,
                _ => Vec::new(),
            };
            all.push(packet);
            if stream.write_all(&answer).await.is_err() {
                return all;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Six megabytes at one a second, with a keep alive of a second: more waits in the kernel than an answer to PINGREQ may take
/// by the keep alive alone.
#[tokio::test]
async fn is_not_taken_for_a_dead_one() {
    for (version, size) in [(VERSIONS[0], 1_000), (VERSIONS[1], 1_000_000)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(behind(listener, version, 1 << 20));
        let second = Duration::from_secs(1);
        let options =
            options(port, version).keep_alive(second).outbox(Outbox { max_bytes: 16 << 20, ..Default::default() });
        let client = soon(options.connect()).await.unwrap();
        let payload = "x".repeat(size);
        let count = 6_000_000 / size;
        for _ in 0..count {
            drop(soon(client.publish(message(&payload, Q0))).await.unwrap());
        }
        soon(client.drained()).await;
        // The kernel has it all now; the server has not.
        tokio::time::sleep(second * 3).await;
        assert!(client.is_connected(), "{size}: it gave up a line that carries what it is given");
        soon(client.disconnect()).await;
        let heard = soon(server).await.unwrap();
        let published = heard.iter().filter(|packet| matches!(packet, Packet::Publish { .. })).count();
        assert_eq!((published, client.stats().connections), (count, 1), "{size}");
        assert!(heard.contains(&Packet::Ping), "{size}");
    }
}

/// The program has as much unread as it may, more is on the way, and the answer is behind that.
#[tokio::test]
async fn a_program_that_does_not_read_is_answered() {
    for version in VERSIONS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(flooding(listener, version));
        let inbox = Inbox { max_bytes: 1_000, ..Inbox::default() };
        let client = soon(options(port, version).inbox(inbox).connect()).await.unwrap();
        let mut flooded = soon(client.subscribe("flood")).await.unwrap();
        while client.stats().received < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let other = soon(client.subscribe("other")).await.unwrap();
        soon(other.unsubscribe()).await;
        soon(soon(client.publish(message("x", Q1))).await.unwrap()).await.unwrap();
        for _ in 0..7 {
            assert_eq!(soon(flooded.recv()).await.unwrap().payload().len(), 250);
        }
        server.abort();
    }
}

/// A server that sends four messages with the first answer, and one ahead of each other.
async fn flooding(listener: TcpListener, version: Version) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut tail, mut buffer, mut next) = (Vec::new(), [0; 4096], 4);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..read]);
        let whole = whole_packets(&tail);
        for packet in packets(version, &tail.drain(..whole).collect::<Vec<_>>()) {
            let is_connack = matches!(packet, Packet::Connect { .. });
            let answer = match packet {
                Packet::Connect { .. } => connack(version, false, 0, &[]),
                Packet::Subscribe { id, .. } => suback(version, id, &[0]),
                Packet::Unsubscribe { id, .. } => unsuback(version, id),
                Packet::Publish { id, .. } => ack(PUBACK, id),
                _ => continue,
            };
            let one = publish(version, "flood", &"x".repeat(250), Q0, 0, false);
            let flood = if is_connack { Vec::new() } else { one.repeat(std::mem::replace(&mut next, 1)) };
            stream.write_all(&[flood, answer].concat()).await.unwrap();
        }
    }
}
