//! Why there is no connection: each told apart.

use std::time::Duration;

use forebay_client::{ConnectError, Options, ReasonCode, Reconnect, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::peer::connack;
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
