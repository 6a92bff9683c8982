//! An address becomes a stream: opening addresses, TCP, TLS, WebSocket, Unix sockets.

mod bind;
mod entry;
mod handshakes;
mod inherited;
pub mod proxy;
mod seats;
mod socket;
mod tls;
#[cfg(unix)]
pub mod unix;
pub mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

pub use bind::{BindError, bind, check, problems};
pub(crate) use entry::Turnstile;
pub use handshakes::{Handshakes, Permit};
pub(crate) use seats::{Claimed, Seat, Seats};
pub use socket::Opened;
pub(crate) use socket::{Acceptor, Peer, Portable, Socket};
pub(crate) use tls::explain;
pub use tls::{LiveTls, TlsError, ca_of, cipher_suites};

use crate::config::Listener;

/// What carries MQTT: a byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// An open listener, ready to accept.
#[derive(Debug)]
pub struct BoundListener {
    /// Its sockets, non-blocking: a host name may have several addresses.
    pub sockets: Vec<Opened>,
    /// How to do TLS on it; `None` for plain MQTT.
    pub tls: Option<Arc<LiveTls>>,
    /// As configured; the URL has the port that the system chose for port 0.
    pub config: Listener,
}

impl BoundListener {
    /// The same open address for another broker, after this one.
    ///
    /// # Errors
    /// The system has no descriptor for it.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let sockets = self.sockets.iter().map(Opened::try_clone).collect::<Result<_, _>>()?;
        Ok(Self { sockets, tls: self.tls.clone(), config: self.config.clone() })
    }

    /// The first of its addresses; a Unix socket has none.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.sockets.iter().find_map(Opened::addr)
    }

    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let reaches = |socket: &Opened| socket.addr().is_none_or(|addr| addr.ip().is_loopback());
        self.config.place.is_local() || self.sockets.iter().all(reaches)
    }
}
