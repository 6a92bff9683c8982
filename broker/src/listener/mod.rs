//! Opening the configured addresses.

use std::net::TcpListener;
use std::sync::Arc;

use crate::config::Listener;

/// An open address, ready to accept.
#[derive(Debug)]
pub struct BoundListener {
    /// The socket, non-blocking.
    pub listener: TcpListener,
    /// How to do TLS on it; `None` for plain MQTT.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// As configured; `addr` is the address that was bound (with the port that the system chose for port 0).
    pub config: Listener,
}
