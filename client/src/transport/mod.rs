//! What carries MQTT: TCP, TLS, WebSocket, Unix sockets.

mod connector;
#[cfg(feature = "websocket")]
mod websocket;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use connector::{Connecting, Connector, Io};
#[cfg(feature = "websocket")]
pub(crate) use websocket::{Header, header};

use crate::error::ConnectError;
use crate::options::Options;
use crate::url::{Address, Scheme};

/// A connection to a server. What is large is boxed: most are not.
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<Stream>>),
    #[cfg(feature = "websocket")]
    WebSocket(Box<websocket::WebSocket>),
    /// A [`Connector`]'s.
    Other(Box<dyn Io>),
}

/// Connects as the address says.
pub(crate) async fn connect(address: &Address, options: &Options) -> Result<Stream, ConnectError> {
    match address.scheme {
        Scheme::Unix => unix(address).await,
        Scheme::Mqtt => plain(address, options).await,
        Scheme::Mqtts => tls(address, options, &[b"mqtt"]).await,
        Scheme::Ws => websocket(address, options, plain(address, options).await?).await,
        Scheme::Wss => websocket(address, options, tls(address, options, &[b"http/1.1"]).await?).await,
    }
}

fn unreachable(address: &Address, error: io::Error) -> ConnectError {
    ConnectError::Unreachable { address: address.to_string(), error: Arc::new(error) }
}

async fn plain(address: &Address, options: &Options) -> Result<Stream, ConnectError> {
    let to = (address.host.as_str(), address.port);
    if let Some(connector) = &options.connector {
        return connector.connect(to.0, to.1).await.map(Stream::Other).map_err(|error| unreachable(address, error));
    }
    let stream = TcpStream::connect(to).await.map_err(|error| unreachable(address, error))?;
    // The client groups its writes itself.
    stream.set_nodelay(true).map_err(|error| unreachable(address, error))?;
    Ok(Stream::Tcp(stream))
}

#[cfg(unix)]
async fn unix(address: &Address) -> Result<Stream, ConnectError> {
    let stream = tokio::net::UnixStream::connect(&address.host).await;
    stream.map(Stream::Unix).map_err(|error| unreachable(address, error))
}

#[cfg(not(unix))]
async fn unix(address: &Address) -> Result<Stream, ConnectError> {
    Err(unreachable(address, io::Error::new(io::ErrorKind::Unsupported, "there are no Unix sockets here")))
}

#[cfg(feature = "tls")]
async fn tls(address: &Address, options: &Options, alpn: &[&[u8]]) -> Result<Stream, ConnectError> {
    let stream = plain(address, options).await?;
    let failed = |detail: String| ConnectError::Tls { address: address.to_string(), detail };
    let connector = options.tls.connector(alpn).map_err(failed)?;
    let name = options.tls.server_name_of(&address.host).map_err(failed)?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(failed(crate::tls::explain(&error))),
    }
}

#[cfg(not(feature = "tls"))]
async fn tls(address: &Address, _: &Options, _: &[&[u8]]) -> Result<Stream, ConnectError> {
    let detail = "this build has no TLS (cargo feature `tls`)".to_owned();
    Err(ConnectError::Tls { address: address.to_string(), detail })
}

#[cfg(feature = "websocket")]
async fn websocket(address: &Address, options: &Options, stream: Stream) -> Result<Stream, ConnectError> {
    let failed = |detail: String| ConnectError::WebSocket { address: address.to_string(), detail };
    websocket::connect(address, &options.websocket_headers, stream)
        .await
        .map(|socket| Stream::WebSocket(Box::new(socket)))
        .map_err(failed)
}

#[cfg(not(feature = "websocket"))]
async fn websocket(address: &Address, _: &Options, _: Stream) -> Result<Stream, ConnectError> {
    let detail = "this build has no WebSocket (cargo feature `websocket`)".to_owned();
    Err(ConnectError::WebSocket { address: address.to_string(), detail })
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            #[cfg(unix)]
            Stream::Unix($inner) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($inner) => $call,
            #[cfg(feature = "websocket")]
            Stream::WebSocket($inner) => $call,
            Stream::Other($inner) => $call,
        }
    };
}

impl Stream {
    /// Acknowledges at once, in TCP's sense, what has come and what comes until the next write. A server that leaves Nagle's
    /// algorithm on sends nothing more while the last of what it sent is not acknowledged, and TCP delays that by 40 ms in the
    /// hope of a write that can carry it. A socket that cannot loses only time.
    pub(crate) fn acknowledge_at_once(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(stream) = self.tcp() {
            let _ = stream.set_quickack(true);
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) | Self::Other(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.tcp(),
            #[cfg(feature = "websocket")]
            Self::WebSocket(socket) => socket.stream.get_ref().tcp(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    /// TLS writes its last records at once and does not come back: without this its alert stayed behind.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
