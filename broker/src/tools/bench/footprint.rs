//! What connections cost beside messages: memory of idle ones, processor time of each connect and TLS handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::process::{Kind, Process};
use super::wire;

/// Idle TCP connections.
const IDLE: usize = 10_000;
/// Idle TLS connections: each costs this program some 20 KB as well.
const IDLE_TLS: usize = 2_000;
const CONNECTS: usize = 5_000;
const HANDSHAKES: usize = 500;
/// Until what a burst of connects has needed for a moment is given back.
const SETTLE: Duration = Duration::from_secs(3);

/// What one broker's connections cost.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Resident kilobytes of the broker without any connection.
    pub idle_kb: u64,
    /// Bytes for each idle TCP connection.
    pub tcp_bytes: f64,
    /// Bytes for each idle TLS connection.
    pub tls_bytes: f64,
    /// Microseconds of processor time for a connection: accept, CONNECT, DISCONNECT, close.
    pub connect_us: f64,
    /// The same over TLS 1.3 with a P-256 key, nothing resumed.
    pub handshake_us: f64,
}

/// Measures a broker, freshly started for each figure.
pub fn measure(kind: &Kind) -> Footprint {
    let broker = Process::start(kind);
    let idle_kb = broker.resident_kb();
    let connect_us = cpu_of(&broker, CONNECTS, |n| leave(connected(plain(&broker), n)));
    drop(broker);

    let broker = Process::start(kind);
    let tcp_bytes = memory_of(&broker, IDLE, |n| connected(plain(&broker), n));
    drop(broker);

    let broker = Process::start(kind);
    let config = client_config(&broker);
    let tls_bytes = memory_of(&broker, IDLE_TLS, |n| connected(tls(&broker, &config), n));
    drop(broker);

    let broker = Process::start(kind);
    let config = client_config(&broker);
    let handshake_us = cpu_of(&broker, HANDSHAKES, |n| leave(connected(tls(&broker, &config), n)));
    Footprint { idle_kb, tcp_bytes, tls_bytes, connect_us, handshake_us }
}

fn cpu_of(broker: &Process, count: usize, act: impl Fn(usize)) -> f64 {
    (0..count / 10).for_each(&act);
    let before = broker.cpu_ns();
    (0..count).for_each(&act);
    (broker.cpu_ns() - before) as f64 / 1000.0 / count as f64
}

fn memory_of<S>(broker: &Process, count: usize, open: impl Fn(usize) -> S) -> f64 {
    let before = broker.resident_kb();
    let connections: Vec<S> = (0..count).map(open).collect();
    std::thread::sleep(SETTLE);
    let after = broker.resident_kb();
    drop(connections);
    after.saturating_sub(before) as f64 * 1024.0 / count as f64
}

fn plain(broker: &Process) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", broker.port)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

fn client_config(broker: &Process) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(broker.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn tls(broker: &Process, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", broker.tls_port)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
}

fn connected<S: Read + Write>(mut stream: S, number: usize) -> S {
    let mut packet = Vec::new();
    wire::connect(&mut packet, &format!("footprint-{number}"), true);
    stream.write_all(&packet).unwrap();
    stream.flush().unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

fn leave<S: Write>(mut stream: S) {
    stream.write_all(&[0xe0, 0]).unwrap();
    stream.flush().unwrap();
}
