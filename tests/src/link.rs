//! A byte stream to the broker: TCP, or TLS over it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Where the broker is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// Plain TCP to a port of 127.0.0.1.
    pub fn tcp(port: u16) -> Self {
        Self { port, tls: None }
    }

    /// TLS to a port of 127.0.0.1; the server's certificate has to come from the CA in the file `ca`.
    pub fn tls(port: u16, ca: &Path) -> Self {
        Self { port, tls: Some(tls_config(ca)) }
    }

    /// Connects; a read on it gives up after `read_limit` with `WouldBlock`.
    pub fn connect(&self, read_limit: Duration) -> io::Result<Link> {
        let address = ([127, 0, 0, 1], self.port).into();
        let tcp = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        tcp.set_write_timeout(Some(Duration::from_secs(10)))?;
        let Some(config) = &self.tls else {
            tcp.set_read_timeout(Some(read_limit))?;
            return Ok(Link::Tcp(tcp));
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        stream.sock.set_read_timeout(Some(read_limit))?;
        Ok(Link::Tls(Box::new(stream)))
    }
}

/// TLS for a client that trusts the CA in this file and no other.
pub fn tls_config(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA's file can be read") {
        roots.add(certificate.expect("the CA's file is PEM")).unwrap();
    }
    assert!(!roots.is_empty(), "{}: no certificate in it", ca.display());
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// An open connection.
#[derive(Debug)]
pub enum Link {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    /// Changes how long a read waits.
    pub fn set_read_limit(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_read_timeout(Some(limit)),
            Self::Tls(tls) => tls.sock.set_read_timeout(Some(limit)),
        }
    }
}

/// Reads once. A read of a socket that has a time limit is broken off when the process is stopped and goes on (signal(7)):
/// that says nothing of the other side.
pub fn read(from: &mut (impl Read + ?Sized), into: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl Read for Link {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => read(tcp, into),
            Self::Tls(tls) => read(tls, into),
        }
    }
}

impl Write for Link {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(from),
            Self::Tls(tls) => tls.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
