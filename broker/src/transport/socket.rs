//! Sockets that listen, and those that come of them: TCP and Unix.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(unix)]
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use super::proxy::{self, NoHeader, Spoken};
#[cfg(unix)]
use super::unix::OpenFile;

/// A socket that listens.
#[derive(Debug)]
pub enum Opened {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket, and its file; no file for one that somebody else has made.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener, Option<Arc<OpenFile>>),
}

impl Opened {
    /// The same socket once more.
    ///
    /// # Errors
    /// The system has no descriptor for it.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            #[cfg(unix)]
            Self::Unix(socket, file) => Self::Unix(socket.try_clone()?, file.clone()),
        })
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(..) => None,
        }
    }
}

/// A socket that listens, on a runtime.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Acceptor {
    pub(crate) fn new(opened: Opened) -> io::Result<Self> {
        Ok(match opened {
            Opened::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            #[cfg(unix)]
            // Whoever opened it keeps the file for as long as the program runs.
            Opened::Unix(socket, _) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, from) = listener.accept().await?;
                Ok((Socket::Tcp(socket), Peer::Addr(from)))
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                let credentials = socket.peer_cred()?;
                Ok((Socket::Unix(socket), Peer::Process { uid: credentials.uid(), pid: credentials.pid() }))
            }
        }
    }
}

/// An accepted socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Waits until there is something to read, or an end.
    pub(crate) async fn first_byte(&self) {
        match self {
            Self::Tcp(socket) => drop(socket.peek(&mut [0]).await),
            #[cfg(unix)]
            Self::Unix(socket) => drop(socket.readable().await),
        }
    }

    /// Whether something has come already. The runtime knows of it only after it has looked at its sockets.
    pub(crate) fn says_something(&self) -> bool {
        match self {
            Self::Tcp(socket) => {
                let peeked = socket2::SockRef::from(socket).peek(&mut [std::mem::MaybeUninit::uninit()]);
                !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            // Who is on this machine may take its time.
            #[cfg(unix)]
            Self::Unix(_) => true,
        }
    }

    /// Reads the header of the PROXY protocol.
    pub(crate) async fn proxied(&mut self) -> Result<Spoken, NoHeader> {
        match self {
            Self::Tcp(socket) => proxy::read(socket).await,
            #[cfg(unix)]
            Self::Unix(socket) => proxy::read(socket).await,
        }
    }

    /// For another thread's runtime.
    pub(crate) fn carry(self) -> io::Result<Portable> {
        Ok(match self {
            Self::Tcp(socket) => Portable::Tcp(socket.into_std()?),
            #[cfg(unix)]
            Self::Unix(socket) => Portable::Unix(socket.into_std()?),
        })
    }
}

/// A socket between two runtimes.
pub(crate) enum Portable {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Portable {
    /// On this thread's runtime.
    pub(crate) fn put_down(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
            #[cfg(unix)]
            Self::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
        })
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nobody knows.
    Unknown,
    /// An address.
    Addr(SocketAddr),
    /// A process of this machine, by a Unix socket.
    Process {
        /// The number of its user.
        uid: u32,
        /// Its own, if the system tells.
        pid: Option<i32>,
    },
}

impl Peer {
    /// Its address.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Addr(addr) => Some(addr.ip()),
            Self::Unknown | Self::Process { .. } => None,
        }
    }

    /// What handshakes are counted by: all processes of this machine count as one.
    pub(crate) fn counted_as(&self) -> IpAddr {
        self.ip().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("an unknown address"),
            Self::Addr(addr) => addr.fmt(f),
            Self::Process { uid, pid: Some(pid) } => write!(f, "process {pid} of user {uid}"),
            Self::Process { uid, pid: None } => write!(f, "a process of user {uid}"),
        }
    }
}
