//! MQTT over WebSocket [MQTT-6.0.0-1]: binary frames, subprotocol `mqtt`; frames and packets need not coincide.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_core::Stream as _;
use futures_util::Sink;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Stream;
use crate::url::{Address, Scheme};

/// A header of the opening handshake.
pub(crate) type Header = (HeaderName, HeaderValue);

/// A byte stream over binary frames.
pub(crate) struct WebSocket {
    pub(super) stream: WebSocketStream<Box<Stream>>,
    /// What of a frame was not read yet.
    rest: Bytes,
}

/// The opening handshake.
pub(super) async fn connect(address: &Address, headers: &[Header], stream: Stream) -> Result<WebSocket, String> {
    let scheme = if address.scheme == Scheme::Wss { "wss" } else { "ws" };
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let url = format!("{scheme}://{host}:{}{}", address.port, address.path);
    let mut request = url.into_client_request().map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers.iter().cloned());
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let connecting = tokio_tungstenite::client_async(request, Box::new(stream));
    let (stream, response) = connecting.await.map_err(|error| error.to_string())?;
    // [MQTT-6.0.0-4]
    let agreed = response.headers().get("Sec-WebSocket-Protocol").is_some_and(|protocol| protocol == "mqtt");
    if !agreed {
        return Err("the server does not speak the subprotocol mqtt".to_owned());
    }
    Ok(WebSocket { stream, rest: Bytes::new() })
}

fn io_error(error: Error) -> io::Error {
    if let Error::Io(error) = error { error } else { io::Error::new(io::ErrorKind::InvalidData, error.to_string()) }
}

impl AsyncRead for WebSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed))) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => self.rest = bytes,
                // [MQTT-6.0.0-1]
                Poll::Ready(Some(Ok(Message::Text(_)))) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "a text frame of WebSocket");
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..len).unwrap_or_default());
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(io_error(error))),
            Poll::Ready(Ok(())) => {}
        }
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        let sent = Pin::new(&mut self.stream).start_send(message);
        Poll::Ready(sent.map(|()| bytes.len()).map_err(io_error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx).map_err(io_error)
    }
}

/// A header as a program gives it.
pub(crate) fn header(name: &str, value: &str) -> Result<Header, String> {
    let of_protocol =
        ["host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"];
    if of_protocol.iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
        return Err(format!("the header {name} is WebSocket's own"));
    }
    let known = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
    // Not shown: it may be a secret.
    let value = HeaderValue::try_from(value).map_err(|_| format!("the value of the header {name} is not valid"))?;
    Ok((known, value))
}
