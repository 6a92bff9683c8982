//! Opening addresses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::inherited::Inherited;
use super::{BoundListener, LiveTls, Opened, TlsError, tls};
use crate::config::{Listener, Place};

/// Connections that the system may hold for us: a site's devices all come back at once after a power cut.
const BACKLOG: i32 = 4096;
/// Addresses of one host name that are opened.
const ADDRESSES_MAX: usize = 16;

/// An address that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has it.
    #[error("{addr} is in use (listener {url}): stop what uses it, or choose another address with --listen")]
    InUse {
        /// The address.
        addr: SocketAddr,
        /// The listener.
        url: String,
    },
    /// Not allowed, or not an address of this machine.
    #[error("{addr} cannot be opened (listener {url}): {source}; choose another address with --listen")]
    Io {
        /// The address.
        addr: SocketAddr,
        /// The listener.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// Neither an interface nor a host name.
    #[error(
        "{name} is no interface of this machine, and no address is known for it as a host name ({source}; listener {url}): \
         write an address, 0.0.0.0 or [::] for every network"
    )]
    NoSuchName {
        /// The name.
        name: String,
        /// The listener.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// A Unix socket.
    #[cfg(unix)]
    #[error("{source} (listener {url})")]
    Unix {
        /// The listener.
        url: String,
        /// The cause.
        source: super::unix::UnixError,
    },
    /// A Unix socket, where there are none.
    #[error("there are no Unix sockets on this system (listener {url})")]
    NoUnix {
        /// The listener.
        url: String,
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
        let tls = listener.tls.as_ref().map(|_| LiveTls::load(listener, data_dir)).transpose();
        let tls = tls.map_err(|source| BindError::Tls { url: listener.url.clone(), source: source.into() })?;
        configs.push((listener, tls));
    }
    let mut inherited = Inherited::take();
    let bound = configs.into_iter().map(|(listener, tls)| bind_one(listener, tls, &mut inherited)).collect();
    inherited.warn_of_rest();
    bound
}

/// Whether the certificates and keys of all listeners can be used. Nothing is opened and nothing is made.
///
/// # Errors
/// The first that cannot.
pub fn check(listeners: &[Listener]) -> Result<(), BindError> {
    problems(listeners).next().map_or(Ok(()), Err)
}

/// The same of each listener: why the certificates and keys of those that are wrong cannot be used.
pub fn problems(listeners: &[Listener]) -> impl Iterator<Item = BindError> {
    listeners.iter().filter(|listener| listener.tls.is_some()).filter_map(|listener| {
        let source = tls::check(listener).err()?;
        Some(BindError::Tls { url: listener.url.clone(), source: source.into() })
    })
}

fn bind_one(
    listener: &Listener,
    tls: Option<Arc<LiveTls>>,
    inherited: &mut Inherited,
) -> Result<BoundListener, BindError> {
    let url = &listener.url;
    let found = inherited.find(&listener.place);
    let sockets = match &listener.place {
        _ if found.is_some() => found.into_iter().collect(),
        Place::Addr(addr) => vec![tcp(*addr, None, url)?],
        Place::Name(name, port) if is_interface(name) => vec![of_interface(name, *port, url)?],
        Place::Name(name, port) => {
            let addrs = (name.as_str(), *port).to_socket_addrs();
            let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
            let addrs = addrs.and_then(|addrs| {
                let mut addrs: Vec<_> = addrs.take(ADDRESSES_MAX).collect();
                addrs.dedup();
                if addrs.is_empty() { Err(none()) } else { Ok(addrs) }
            });
            let wrong = |source| BindError::NoSuchName { name: name.clone(), url: url.clone(), source };
            addrs.map_err(wrong)?.into_iter().map(|addr| tcp(addr, None, url)).collect::<Result<_, _>>()?
        }
        Place::Unix(path) => vec![unix(path, listener)?],
    };
    let mut bound = BoundListener { sockets, tls, config: listener.clone() };
    if let (Place::Addr(wanted), Some(addr)) = (&listener.place, bound.addr())
        && wanted.port() != addr.port()
    {
        bound.config.place = Place::Addr(addr);
        bound.config.url = with_port(url, addr);
    }
    Ok(bound)
}

/// The URL with the port that the system chose.
fn with_port(url: &str, addr: SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", ""));
    let path = rest.find('/').and_then(|at| rest.get(at..)).filter(|path| *path != "/").unwrap_or_default();
    format!("{scheme}://{addr}{path}")
}

#[cfg(unix)]
fn unix(path: &Path, listener: &Listener) -> Result<Opened, BindError> {
    let opened = super::unix::open(path, &listener.socket);
    let (socket, file) = opened.map_err(|source| BindError::Unix { url: listener.url.clone(), source })?;
    Ok(Opened::Unix(socket, Some(Arc::new(file))))
}

#[cfg(not(unix))]
fn unix(_: &Path, listener: &Listener) -> Result<Opened, BindError> {
    Err(BindError::NoUnix { url: listener.url.clone() })
}

fn is_interface(name: &str) -> bool {
    cfg!(target_os = "linux") && Path::new("/sys/class/net").join(name).exists()
}

/// Every address that the interface has, now and later.
fn of_interface(name: &str, port: u16, url: &str) -> Result<Opened, BindError> {
    // A system without IPv6 has no [::].
    tcp((Ipv6Addr::UNSPECIFIED, port).into(), Some(name), url)
        .or_else(|_| tcp((Ipv4Addr::UNSPECIFIED, port).into(), Some(name), url))
}

fn tcp(addr: SocketAddr, interface: Option<&str>, url: &str) -> Result<Opened, BindError> {
    open(addr, interface).map(Opened::Tcp).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            BindError::InUse { addr, url: url.to_owned() }
        } else {
            BindError::Io { addr, url: url.to_owned(), source }
        }
    })
}

fn open(addr: SocketAddr, interface: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections' TIME_WAIT. On Windows the option would share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(target_os = "linux")]
    socket.bind_device(interface.map(str::as_bytes))?;
    #[cfg(not(target_os = "linux"))]
    let _ = interface;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
