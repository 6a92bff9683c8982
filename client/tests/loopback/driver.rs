//! Who is woken when, what is bounded, and what ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_client::{Event, Inbox, Outbox, PublishError, QoS, Reconnect, Subscribe, Version, WhenFull};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::{PUBACK, PUBREL, ack, connack, packets, publish, publishes, suback, text, user};
use crate::server::{Server, whole_packets};
use crate::{Q0, Q1, message, options, polled, soon};

const V5: Version = Version::V5;
/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(300);

fn seldom() -> Reconnect {
    let hour = Duration::from_secs(3600);
    Reconnect { min: hour, max: hour, ..Reconnect::default() }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The next connection, after CONNECT and CONNACK.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let mut buffer = [0; 1024];
    assert!(soon(stream.read(&mut buffer)).await.unwrap() > 0);
    stream.write_all(&connack(V5, false, 0, &[])).await.unwrap();
    stream
}

#[tokio::test]
async fn a_message_that_must_wait_for_much_room_does_not_spin() {
    let outbox = Outbox { max_bytes: 1_000, ..Outbox::default() };
    let client = options(1, V5).reconnect(seldom()).outbox(outbox).start().unwrap();
    let _ticket = client.publish(message("x".repeat(600), Q1)).await.unwrap();
    // A quarter is free, and it needs half.
    assert!(polled(client.publish(message("x".repeat(500), Q1)), 1).await.is_none());
    let waits = tokio::time::timeout(A_WHILE, client.publish(message("x".repeat(500), Q1)));
    assert!(waits.await.is_err());
    let other = soon(client.publish(message("x".repeat(100), Q1))).await;
    assert!(other.is_ok(), "{other:?}");
}

#[tokio::test]
async fn all_who_wait_for_room_get_it() {
    let server = Server::start(V5).await;
    server.state().withhold = true;
    let outbox = Outbox { max_messages: 4, max_bytes: 2_000, when_full: WhenFull::Wait, ..Outbox::default() };
    let client = options(server.port, V5).outbox(outbox).start().unwrap();
    let mut tasks = Vec::new();
    for n in 0..100 {
        let client = client.clone();
        let payload = format!("{n}{}", " ".repeat(if n % 7 == 0 { 1_500 } else { 10 }));
        tasks.push(tokio::spawn(async move { client.publish(message(payload, Q1)).await.unwrap().await }));
    }
    server.until(|state| !state.arrived.is_empty()).await;
    server.state().withhold = false;
    // What was withheld is acknowledged when it comes again.
    server.drop_connection();
    for task in tasks {
        soon(task).await.unwrap().unwrap();
    }
    soon(client.drained()).await;
    assert_eq!(client.stats().acked, 100);
}

#[tokio::test]
async fn an_inbox_that_is_read_after_the_connection_was_lost_is_no_reason_to_hurry() {
    let (listener, port) = listen().await;
    let client = options(port, V5).reconnect(seldom()).inbox(Inbox { max_bytes: 100, ..Inbox::default() });
    let client = client.start().unwrap();
    let asked = client.clone();
    let subscribing = tokio::spawn(async move { asked.subscribe("t").await.unwrap() });
    let mut stream = accept(&listener).await;
    let mut buffer = [0; 100];
    let read = soon(stream.read(&mut buffer)).await.unwrap();
    assert!(read > 4);
    stream.write_all(&suback(V5, u16::from_be_bytes([buffer[2], buffer[3]]), &[0])).await.unwrap();
    let mut messages = soon(subscribing).await.unwrap();
    stream.write_all(&publish(V5, "t", &"x".repeat(100), Q0, 0, false)).await.unwrap();
    while client.stats().received == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The driver does not read now: it learns of the end when it writes.
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    drop(stream);
    let counting = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    while client.is_connected() {
        let _ = client.try_publish(message("x", Q0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(messages.recv().await.is_some());
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(connections.load(Ordering::Relaxed), 0, "it is to wait for an hour");
    counting.abort();
}

#[tokio::test]
async fn servers_that_refer_to_each_other_are_not_asked_without_end() {
    let (first, first_port) = listen().await;
    let (second, second_port) = listen().await;
    let connections = Arc::new(AtomicUsize::new(0));
    for (listener, other) in [(first, second_port), (second, first_port)] {
        let counter = connections.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let reference = [vec![0x1c], text(&format!("127.0.0.1:{other}"))].concat();
                let _ = stream.write_all(&connack(V5, false, 0x9c, &reference)).await;
            }
        });
    }
    let client = options(first_port, V5).reconnect(seldom()).start().unwrap();
    let mut events = client.events();
    let waiting = async { while !matches!(events.next().await, Some(Event::Waiting(_))) {} };
    soon(waiting).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

/// A server that refuses each connection, and how many there were.
async fn refuses(reason: u8, properties: Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let (listener, port) = listen().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&connack(V5, false, reason, &properties)).await;
        }
    });
    (port, connections)
}

#[tokio::test]
async fn a_server_that_asked_for_patience_is_left_alone_while_another_is_tried() {
    let (busy, of_busy) = refuses(0x89, user("retry-after-ms", "60000")).await;
    let (other, of_other) = refuses(0x88, Vec::new()).await;
    let both = options(busy, V5).also(&format!("mqtt://127.0.0.1:{other}")).unwrap();
    let _client = both.start().unwrap();
    soon(async {
        while of_other.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(of_busy.load(Ordering::Relaxed), 1);
}

/// All clients of a server that has gone would be at the other together.
#[tokio::test]
async fn another_server_is_not_tried_at_once_when_a_connection_is_lost() {
    let (listener, port) = listen().await;
    let (other, of_other) = refuses(0x88, Vec::new()).await;
    let both = options(port, V5).reconnect(seldom()).also(&format!("mqtt://127.0.0.1:{other}")).unwrap();
    let client = both.start().unwrap();
    let mut events = client.events();
    drop(accept(&listener).await);
    let waiting = async { while !matches!(events.next().await, Some(Event::Waiting(_))) {} };
    soon(waiting).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(of_other.load(Ordering::Relaxed), 0);
}

/// A server that hears nothing any more; the client's socket is full.
async fn stuck(inbox: Inbox) -> (forebay_client::Client, forebay_client::Subscription, TcpStream) {
    let (listener, port) = listen().await;
    let outbox = Outbox { max_bytes: 256 << 20, ..Outbox::default() };
    let client = options(port, V5).keep_alive(Duration::ZERO).inbox(inbox).outbox(outbox).start().unwrap();
    let asked = client.clone();
    let subscribing = tokio::spawn(async move { asked.subscribe(Subscribe::to("in/#")).await.unwrap() });
    let mut stream = accept(&listener).await;
    let mut buffer = [0; 100];
    assert!(soon(stream.read(&mut buffer)).await.unwrap() > 4);
    stream.write_all(&suback(V5, u16::from_be_bytes([buffer[2], buffer[3]]), &[0])).await.unwrap();
    let messages = soon(subscribing).await.unwrap();
    let payload = "x".repeat(1 << 20);
    let mut before = usize::MAX;
    // Until the kernel takes no more.
    loop {
        for _ in 0..16 {
            drop(client.try_publish(message(&payload, Q0)).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let waits = client.stats().outbox_messages;
        if waits > 16 && waits >= before {
            return (client, messages, stream);
        }
        before = waits;
    }
}

#[tokio::test]
async fn a_program_that_reads_again_is_served_though_the_socket_takes_nothing() {
    let (client, mut messages, stream) = stuck(Inbox { max_bytes: 1 << 20, ..Inbox::default() }).await;
    let (_reading, mut writing) = stream.into_split();
    let sender = tokio::spawn(async move {
        let payload = "x".repeat(100_000);
        for _ in 0..300 {
            writing.write_all(&publish(V5, "in/x", &payload, Q0, 0, false)).await.unwrap();
        }
        writing
    });
    tokio::time::sleep(A_WHILE).await;
    assert!(!sender.is_finished() && client.stats().received < 100, "it reads on though much is unread");
    for _ in 0..300 {
        assert!(soon(messages.recv()).await.is_some());
    }
    soon(sender).await.unwrap();
}

#[tokio::test]
async fn disconnect_ends_though_the_socket_takes_nothing() {
    let (client, _messages, _stream) = stuck(Inbox::default()).await;
    soon(client.disconnect()).await;
    let stats = client.stats();
    assert_eq!(stats.accepted, stats.written + stats.dropped(), "{stats:?}");
    assert!(matches!(client.publish(message("x", Q0)).await, Err(PublishError::Ended(_))));
}

#[tokio::test]
async fn a_server_that_asks_and_does_not_listen_is_not_answered_into_memory() {
    let (_client, _messages, mut stream) = stuck(Inbox::default()).await;
    let flood: Vec<u8> = (1..=10_000).flat_map(|id| ack(PUBREL, id)).collect();
    let mut sent = 0;
    while tokio::time::timeout(A_WHILE, stream.write_all(&flood)).await.is_ok() {
        sent += flood.len();
        assert!(sent < 100 << 20, "each of these has its answer in memory");
    }
}

#[tokio::test]
async fn what_is_written_is_written_before_disconnect() {
    for _ in 0..20 {
        let server = Server::start(V5).await;
        let client = options(server.port, V5).connect().await.unwrap();
        for n in 0..50 {
            drop(client.publish(message(n, Q0)).await.unwrap());
        }
        soon(client.drained()).await;
        soon(client.disconnect()).await;
        server.until(|state| state.disconnects == 1).await;
        assert_eq!(server.state().arrived.len(), 50);
    }
}

#[tokio::test]
async fn disconnect_sends_what_was_accepted_and_close_does_not_wait() {
    for qos in [Q0, Q1, QoS::ExactlyOnce] {
        let server = Server::start(V5).await;
        let client = options(server.port, V5).connect().await.unwrap();
        for n in 0..50 {
            drop(client.publish(message(n, qos)).await.unwrap());
        }
        soon(client.disconnect()).await;
        server.until(|state| state.disconnects == 1).await;
        assert_eq!(server.state().arrived.len(), 50, "{qos:?}");
        assert_eq!(client.stats().ended, 0);
    }
    // Nobody is there to take it: close tells its ticket at once, disconnect after its time.
    let client = options(1, V5).reconnect(seldom()).start().unwrap();
    let mut ticket = client.publish(message("x", Q0)).await.unwrap();
    soon(client.close()).await;
    assert!(ticket.try_outcome().is_some_and(|outcome| outcome.is_err()));
    assert_eq!(client.stats().ended, 1);
}

#[tokio::test]
async fn disconnect_and_drained_end_offline_and_ended() {
    let client = options(1, V5).reconnect(seldom()).start().unwrap();
    let ticket = client.publish(message("x", Q1)).await.unwrap();
    let waiting = client.clone();
    let drained = tokio::spawn(async move { waiting.drained().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!drained.is_finished());
    soon(client.disconnect()).await;
    soon(drained).await.unwrap();
    assert!(ticket.await.is_err());
    soon(client.drained()).await;
    soon(client.disconnect()).await;
    // While the connection is being made, too.
    let (listener, port) = listen().await;
    let client = options(port, V5).start().unwrap();
    let (_stream, _) = soon(listener.accept()).await.unwrap();
    soon(client.disconnect()).await;
}

#[tokio::test]
async fn a_client_that_is_dropped_says_so_and_ends() {
    let server = Server::start(V5).await;
    let client = options(server.port, V5).connect().await.unwrap();
    let messages = soon(client.subscribe("in/#")).await.unwrap();
    drop(client);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(server.state().disconnects, 0, "a subscription is a handle");
    drop(messages);
    server.until(|state| state.disconnects == 1).await;
}

/// A server that leaves Nagle's algorithm on, and writes each ack by itself; how long so many messages take.
async fn time_with_nagle(window: u16, messages: usize) -> Duration {
    let (listener, port) = listen().await;
    let client = options(port, V5).window(window).start().unwrap();
    let mut stream = accept(&listener).await;
    let server = tokio::spawn(async move {
        let (mut buffer, mut tail) = ([0; 4096], Vec::new());
        let mut acked = 0;
        while acked < messages {
            let read = stream.read(&mut buffer).await.unwrap();
            tail.extend_from_slice(&buffer[..read]);
            let whole: Vec<u8> = tail.drain(..whole_packets(&tail)).collect();
            for (_, id, _) in publishes(&packets(V5, &whole)) {
                stream.write_all(&ack(PUBACK, id)).await.unwrap();
                acked += 1;
            }
        }
        stream
    });
    let start = std::time::Instant::now();
    for _ in 0..messages {
        let _ticket = client.publish(message("x", Q1)).await.unwrap();
    }
    soon(client.drained()).await;
    let took = start.elapsed();
    assert_eq!(client.stats().acked, messages as u64);
    drop(server.await.unwrap());
    took
}

/// With more than one message in flight such a server waits for TCP's acknowledgement of its first ack: 40 ms for every
/// window, if the client has nothing to write and leaves it at that.
#[tokio::test]
async fn a_window_that_is_held_back_does_not_wait_for_nagle() {
    let (one, twenty) = (time_with_nagle(1, 400).await, time_with_nagle(20, 400).await);
    assert!(twenty < one * 3, "one at a time took {one:?}, twenty at a time {twenty:?}");
}

/// Opening an outbox on a disk that fails takes more than half a second.
#[cfg(all(feature = "durable", target_os = "linux"))]
#[tokio::test(flavor = "current_thread")]
async fn an_outbox_that_takes_long_to_open_holds_up_nobody_else() {
    let folder = std::env::temp_dir().join(format!("forebay-client-slow-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("outbox.redb");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let opening = tokio::spawn(options(1, V5).reconnect(Reconnect::never()).durable(&file).connect());
    let (start, mut last, mut gap) = (std::time::Instant::now(), std::time::Instant::now(), Duration::ZERO);
    while !opening.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        gap = gap.max(last.elapsed());
        last = std::time::Instant::now();
    }
    let took = start.elapsed();
    let outcome = opening.await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(took >= Duration::from_millis(500), "it was opened in {took:?}: this proves nothing; {outcome:?}");
    assert!(gap < Duration::from_millis(400), "others waited for {gap:?}");
}
