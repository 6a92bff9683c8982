//! TLS towards devices with small buffers, and with names that are none.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use forebay_tests::broker::Broker;
use forebay_tests::link::tls_config;
use forebay_tests::packet::Version;
use forebay_tests::peer::{self, Connect, Peer};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::tcp;

/// A socket, and what came from it.
struct Tap {
    socket: TcpStream,
    came: Vec<u8>,
}

impl Read for Tap {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(into)?;
        self.came.extend(&into[..count]);
        Ok(count)
    }
}

impl Write for Tap {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A TLS connection under this name, after its CONNACK.
fn connected(broker: &Broker, name: &str) -> StreamOwned<ClientConnection, Tap> {
    let socket = TcpStream::connect(("127.0.0.1", broker.tls_port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = ClientConnection::new(tls_config(&broker.ca()), name).unwrap();
    let mut stream = StreamOwned::new(tls, Tap { socket, came: Vec::new() });
    stream.write_all(&Connect::clean(Version::V4, "tls").packet()).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

/// The lengths of TLS records, headers included.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while bytes.len() >= 5 {
        let length = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        lengths.push(length);
        bytes = &bytes[length.min(bytes.len())..];
    }
    lengths
}

#[test]
fn records_are_no_larger_than_a_listener_says() {
    let broker = Broker::with_config(
        "[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n\
         [[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\nmax_fragment_size = \"512B\"\n",
    );
    let mut stream = connected(&broker, "localhost");
    stream.write_all(&peer::subscribe(Version::V4, 1, &[("big", 0)])).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let (mut publisher, _) = Peer::open(&tcp(&broker), &Connect::clean(Version::V5, "publisher"));
    assert_eq!(publisher.publish(1, "big", &[b'x'; 100_000]).0, 0);
    // Fixed header with three bytes of length, and the topic.
    stream.read_exact(&mut vec![0; 4 + 5 + 100_000]).unwrap();
    let lengths = records(&stream.sock.came);
    assert!(lengths.len() > 190, "{}", lengths.len());
    // What encryption adds to a record: its kind, and a tag of sixteen bytes.
    assert!(lengths.iter().all(|length| *length <= 512 + 17), "{lengths:?}");
}

#[test]
fn a_client_that_connects_by_address_is_served() {
    let broker = Broker::start();
    connected(&broker, "127.0.0.1");
}
