//! Why there is no connection: each told apart.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_client::{ConnectError, Connecting, Connector, Event, LostReason, Options, ReasonCode, Reconnect, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::peer::{connack, user, with_reason};
use crate::{options, soon};

const V5: Version = Version::V5;

/// What comes of connecting to a server that does this with each connection.
async fn outcome<F, R>(serve: F) -> ConnectError
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    outcome_with(serve, |options| options).await
}

async fn outcome_with<F, R>(serve: F, change: impl FnOnce(Options) -> Options) -> ConnectError
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    });
    let error = soon(change(options(port, V5).reconnect(Reconnect::never())).connect()).await.unwrap_err();
    task.abort();
    error
}

async fn read_some(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = soon(options(port, V5).connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = soon(Options::new("unix:///nowhere/at/all").unwrap().connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = soon(Options::new("mqtt://name.invalid").unwrap().connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_second_address_is_tried() {
    let server = crate::server::Server::start(V5).await;
    let both = options(1, V5).also(&format!("mqtt://127.0.0.1:{}", server.port)).unwrap();
    soon(both.connect()).await.unwrap().disconnect().await;
}

#[tokio::test]
async fn the_server_refuses() {
    let error = outcome(|mut stream| async move {
        read_some(&mut stream).await;
        stream.write_all(&connack(V5, false, 0x86, &[])).await.unwrap();
    });
    let error = error.await;
    let ConnectError::Refused { reason: ReasonCode::BadUserNameOrPassword, .. } = error else { panic!("{error:?}") };
}

#[tokio::test]
async fn the_server_speaks_http() {
    let error = outcome(|mut stream| async move {
        read_some(&mut stream).await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // It waits for more.
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let error = error.await;
    assert!(matches!(error, ConnectError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn the_server_is_silent() {
    let error = outcome_with(
        |stream| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        },
        |options| options.connect_timeout(Duration::from_millis(200)),
    );
    let error = error.await;
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn the_server_closes() {
    let error = outcome(|mut stream| async move { read_some(&mut stream).await }).await;
    assert!(matches!(error, ConnectError::Closed), "{error:?}");
    // With a reset: what the client sent was not read.
    let error = outcome(|stream| async move { drop(stream) }).await;
    assert!(matches!(error, ConnectError::Closed), "{error:?}");
}

/// A stream to a server that takes CONNECT and nothing more.
struct TakesOne {
    stream: DuplexStream,
    heard: bool,
    /// Told when a write fails.
    refuses: Arc<Notify>,
}

impl AsyncRead for TakesOne {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TakesOne {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::replace(&mut self.heard, true) {
            self.refuses.notify_one();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the server still says when the client can write no more.
struct Leaves(Vec<u8>);

impl Connector for Leaves {
    fn connect<'a>(&'a self, _: &'a str, _: u16) -> Connecting<'a> {
        let (stream, mut server) = tokio::io::duplex(4096);
        let (refuses, words) = (Arc::new(Notify::new()), self.0.clone());
        let refused = refuses.clone();
        tokio::spawn(async move {
            assert!(server.read(&mut [0; 1024]).await.unwrap() > 0);
            server.write_all(&connack(V5, false, 0, &[])).await.unwrap();
            refused.notified().await;
            // The network takes its time.
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.write_all(&words).await.unwrap();
        });
        Box::pin(async move { Ok(Box::new(TakesOne { stream, heard: false, refuses }) as _) })
    }
}

/// The reason for which a connection was lost, and the wait after it.
async fn lost_with(words: Vec<u8>) -> (LostReason, Duration) {
    let options = options(1, V5).connector(Arc::new(Leaves(words)));
    let client = soon(options.connect()).await.unwrap();
    let mut events = client.events();
    drop(client.try_publish(crate::message("x", crate::Q1)).unwrap());
    let mut lost = None;
    loop {
        match soon(events.next()).await.unwrap() {
            Event::Lost(reason) => lost = Some(reason),
            Event::Waiting(wait) => return (lost.unwrap(), wait),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_write_that_fails_first_does_not_hide_why_the_server_left() {
    let busy = with_reason(0xe0, 0x89, &user("retry-after-ms", "60000"));
    let (reason, wait) = lost_with(busy).await;
    assert!(matches!(reason, LostReason::Server { reason: ReasonCode::ServerBusy, .. }), "{reason:?}");
    assert!(wait >= Duration::from_secs(60), "{wait:?}");
    // And one that says nothing is not waited for without end.
    let (reason, _) = lost_with(Vec::new()).await;
    assert!(matches!(reason, LostReason::Io(_)), "{reason:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_server_does_not_speak_tls() {
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0x20, 2, 0, 1], &[]] {
        let error = outcome_tls(answer).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{answer:?}: {error:?}");
    }
}

#[cfg(feature = "tls")]
async fn outcome_tls(answer: &'static [u8]) -> ConnectError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_some(&mut stream).await;
        stream.write_all(answer).await.unwrap();
    });
    let tls = forebay_client::Tls::new().without_verification();
    let error = soon(Options::new(&format!("mqtts://127.0.0.1:{port}")).unwrap().tls(tls).connect()).await.unwrap_err();
    task.await.unwrap();
    error
}

#[cfg(feature = "websocket")]
#[tokio::test]
async fn the_server_does_not_speak_websocket() {
    for answer in [&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], &[0x20, 2, 0, 1], &[]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_some(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        });
        let error = soon(Options::new(&format!("ws://127.0.0.1:{port}")).unwrap().connect()).await.unwrap_err();
        assert!(matches!(error, ConnectError::WebSocket { .. }), "{answer:?}: {error:?}");
        task.await.unwrap();
    }
}

#[tokio::test]
async fn times_without_end_are_no_end_of_the_program() {
    let server = crate::server::Server::start(V5).await;
    let options = options(server.port, V5).connect_timeout(Duration::MAX);
    let client = soon(options.connect()).await.unwrap();
    let message = crate::message("x", crate::Q1).expires_after(Duration::from_secs(i64::MAX as u64 - 10_000_000));
    soon(client.publish(message)).await.unwrap().await.unwrap();
    let forever = Reconnect { max: Duration::MAX, ..Reconnect::default() };
    for reconnect in [
        forever,
        Reconnect { min: Duration::ZERO, ..Reconnect::default() },
        Reconnect { min: Duration::from_secs(61), ..Reconnect::default() },
    ] {
        let error = crate::options(1, V5).reconnect(reconnect).start().unwrap_err();
        assert!(matches!(error, ConnectError::Options(_)), "{error:?}");
    }
}
