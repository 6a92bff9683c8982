//! Streams that the program opens itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_client::{Connecting, Connector, Event, Options};

use crate::server::Server;
use crate::{Q1, Q2, VERSIONS, message, soon};

/// Every other attempt fails; the others reach a server that is not on the network.
struct Mock {
    server: Arc<Server>,
    version: forebay_client::Version,
    attempts: AtomicUsize,
}

impl Connector for Mock {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        assert_eq!((host, port), ("nowhere.invalid", 7));
        let fails = self.attempts.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        Box::pin(async move {
            if fails {
                return Err(io::Error::other("the proxy has no way there"));
            }
            let (ours, theirs) = tokio::io::duplex(64);
            let (server, version) = (self.server.clone(), self.version);
            tokio::spawn(async move { server.attach(theirs, version).await });
            Ok(Box::new(ours) as _)
        })
    }
}

#[tokio::test]
async fn a_connector_replaces_the_network() {
    for version in VERSIONS {
        let server = Arc::new(Server::start(version).await);
        // The second connection is lost in the middle of CONNECT.
        server.state().cuts.extend([crate::server::Cut::Heard(200), crate::server::Cut::Heard(5)]);
        let mock = Arc::new(Mock { server: server.clone(), version, attempts: AtomicUsize::new(0) });
        let options = Options::new("mqtt://nowhere.invalid:7").unwrap().version(version).client_id("c");
        let options = options.session_expiry(Duration::from_secs(60)).reconnect(quick()).connector(mock.clone());
        let client = soon(options.connect()).await.unwrap();
        let mut events = client.events();
        for n in 0..20 {
            let _ticket = client.publish(message(n, if n % 2 == 0 { Q1 } else { Q2 })).await.unwrap();
        }
        soon(client.drained()).await;
        for n in 0..20 {
            let times = server.times(&n.to_string());
            assert!(times == 1 || times == 2 && n % 2 == 0, "{n} came {times} times");
        }
        // Connected, lost, failed, lost before CONNACK, failed, connected.
        assert_eq!(mock.attempts.load(Ordering::Relaxed), 5);
        let mut failed = Vec::new();
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(50), events.next()).await {
            if let Some(Event::Failed(error)) = event {
                failed.push(error.to_string());
            }
        }
        assert!(failed[0].contains("nowhere.invalid:7") && failed[0].contains("no way there"), "{failed:?}");
    }
}

fn quick() -> forebay_client::Reconnect {
    let (min, max) = (Duration::from_millis(1), Duration::from_millis(20));
    forebay_client::Reconnect { min, max, ..forebay_client::Reconnect::default() }
}

#[cfg(feature = "websocket")]
#[tokio::test]
async fn a_websocket_is_opened_with_the_programs_headers() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    use tokio_tungstenite::tungstenite::http::HeaderValue;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        #[allow(clippy::result_large_err, reason = "the type is given")]
        let look = |request: &Request, mut response: Response| {
            for name in ["authorization", "cookie", "sec-websocket-protocol"] {
                let values = request.headers().get_all(name).iter();
                seen.extend(values.map(|value| format!("{name}: {}", value.to_str().unwrap())));
            }
            response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_data()[0], 0x10);
        let connack = crate::peer::connack(forebay_client::Version::V5, false, 0, &[]);
        socket.send(tokio_tungstenite::tungstenite::Message::binary(connack)).await.unwrap();
        (seen, socket)
    });
    let options = Options::new(&format!("ws://127.0.0.1:{port}")).unwrap();
    let options =
        options.websocket_header("Authorization", "Bearer x").unwrap().websocket_header("Cookie", "a=b").unwrap();
    let _client = soon(options.connect()).await.unwrap();
    let (seen, _socket) = soon(server).await.unwrap();
    assert_eq!(seen, ["authorization: Bearer x", "cookie: a=b", "sec-websocket-protocol: mqtt"]);
}

#[cfg(feature = "websocket")]
#[test]
fn a_header_that_is_none_is_refused() {
    let refused = |name: &str, value: &str| {
        let options = Options::new("ws://127.0.0.1:1").unwrap();
        options.websocket_header(name, value).unwrap_err().to_string()
    };
    assert!(refused("a name", "x").contains("\"a name\""));
    assert!(refused("Token", "secret\r\nHost: y").contains("Token"));
    assert!(!refused("Token", "secret\r\nHost: y").contains("secret"));
    assert!(refused("upgrade", "x").contains("own"));
}
