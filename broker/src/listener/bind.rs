//! Opening addresses.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::{BoundListener, TlsError, tls};
use crate::config::Listener;

/// Connections that the system may hold for us: a site's devices all come back at once after a power cut.
const BACKLOG: i32 = 4096;

/// An address that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has it.
    #[error("{addr} is in use (listener {url}): stop what uses it, or choose another address with --listen")]
    InUse {
        /// The address.
        addr: std::net::SocketAddr,
        /// The listener.
        url: String,
    },
    /// Not allowed, or not an address of this machine.
    #[error("{addr} cannot be opened (listener {url}): {source}; choose another address with --listen")]
    Io {
        /// The address.
        addr: std::net::SocketAddr,
        /// The listener.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// Its certificate or key.
    #[error("{source} (listener {url})")]
    Tls {
        /// The listener.
        url: String,
        /// The cause.
        source: Box<TlsError>,
    },
}

/// Opens all listeners; certificates first, so that nothing is open when one of them is wrong.
///
/// # Errors
/// The first address or certificate that cannot be used.
pub fn bind(listeners: &[Listener], data_dir: &Path) -> Result<Vec<BoundListener>, BindError> {
    let mut configs = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let tls = listener.tls.as_ref().map(|from| tls::server_config(from, data_dir)).transpose();
        let tls = tls.map_err(|source| BindError::Tls { url: listener.url.clone(), source: source.into() })?;
        configs.push((listener, tls));
    }
    configs.into_iter().map(|(listener, tls)| bind_one(listener, tls)).collect()
}

fn bind_one(
    listener: &Listener,
    tls: Option<std::sync::Arc<rustls::ServerConfig>>,
) -> Result<BoundListener, BindError> {
    let (addr, url) = (listener.addr, listener.url.clone());
    let socket = open(listener).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            BindError::InUse { addr, url: url.clone() }
        } else {
            BindError::Io { addr, url: url.clone(), source }
        }
    })?;
    let bound = socket.local_addr().map_err(|source| BindError::Io { addr, url, source })?;
    let mut config = listener.clone();
    config.addr = bound;
    if addr.port() != bound.port() {
        let scheme = if config.tls.is_some() { "mqtts" } else { "mqtt" };
        config.url = format!("{scheme}://{bound}");
    }
    Ok(BoundListener { listener: socket, tls, config })
}

fn open(listener: &Listener) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listener.addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections' TIME_WAIT. On Windows the option would share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&listener.addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
